//! `jreg import` where no byte passes through it: files that share their blocks or are one file, objects that the bucket
//! copies; sources that are trusted, and what that means until a deep fsck.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

use jreg_testkit::s3::{
    FaultRule, RecordedRequest, S3Fault, S3Operation, S3Refusal, S3Server, S3Spec,
};
use jreg_testkit::{Image, ImageSpec, Process};

use super::transfer::{
    APP, Content, block_on, complaint, counts, distribution, files, jreg, served, summary, text,
};

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");

/// A storage of distribution that no other user can write.
fn source(content: &Content) -> tempfile::TempDir {
    let source = tempfile::tempdir().unwrap();
    distribution(source.path(), content, true);
    for path in files(source.path()).keys() {
        let path = source.path().join(path);
        fs::set_permissions(path, fs::Permissions::from_mode(0o644)).unwrap();
    }
    source
}

/// Writes an image into a storage of distribution, as `NAME:v1`.
fn add_image(root: &Path, name: &str, image: &Image) {
    let repository = root.join("docker/registry/v2/repositories").join(name);
    let put = |path: PathBuf, bytes: &[u8]| {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    for blob in &image.blobs {
        put(data_of(root, &blob.digest()), &blob.bytes);
    }
    let digest = image.manifest.digest();
    put(data_of(root, &digest), &image.manifest.bytes);
    let hex = digest.trim_start_matches("sha256:");
    let revision = format!("_manifests/revisions/sha256/{hex}/link");
    for link in [&*revision, "_manifests/tags/v1/current/link"] {
        put(repository.join(link), digest.as_bytes());
    }
}

/// The bytes of all blobs, each once.
fn blob_bytes(content: &Content) -> u64 {
    let blobs: BTreeMap<_, _> = content.blobs().into_iter().collect();
    blobs.values().map(|bytes| bytes.len() as u64).sum()
}

fn manifest_bytes(content: &Content) -> u64 {
    content.manifests().iter().map(|manifest| manifest.bytes.len() as u64).sum()
}

fn data_of(source: &Path, digest: &str) -> PathBuf {
    let hex = digest.trim_start_matches("sha256:");
    let below = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", hex.get(..2).unwrap());
    source.join(below)
}

/// Whether the records of a storage say that bytes were not hashed.
fn has_unverified(storage: &Path) -> bool {
    let needle = b"\"unverified\":true";
    let has = |bytes: &Vec<u8>| bytes.windows(needle.len()).any(|window| window == needle);
    files(&storage.join("links")).values().any(has)
}

/// The keys of blobs of the content that were read, wherever they lie.
fn read_blobs(content: &Content, requests: &[RecordedRequest]) -> Vec<String> {
    let hexes: Vec<String> = content.blobs().into_iter().map(|(digest, _)| digest).collect();
    let is_blob = |key: &str| {
        let has = |digest: &String| key.contains(digest.trim_start_matches("sha256:"));
        key.contains("blobs/") && hexes.iter().any(has)
    };
    let reads = requests.iter().filter(|request| request.method == "GET" && is_blob(&request.key));
    reads.map(|request| request.key.clone()).collect()
}

#[test]
fn files_on_one_file_system_are_not_copied() {
    let content = Content::new();
    let source = source(&content);
    let before = files(source.path());
    let (place, target) = (source.path().display().to_string(), tempfile::tempdir().unwrap());
    let one = ["import", &place, "--hard-link", "--json", "--jobs", "1"];
    let imported = jreg(target.path(), &one);
    let done = summary(&imported);
    assert_eq!(done["failed"], 0, "{}", complaint(&imported));
    assert_eq!(done["shared_bytes"], blob_bytes(&content), "{}", text(&imported));
    assert_eq!(done["bytes"], manifest_bytes(&content), "only manifests are written");
    assert!(complaint(&imported).contains("retire the source"), "{}", complaint(&imported));
    // Where the file system has no reflinks, both are one file.
    let names = |digest: &str| fs::metadata(data_of(source.path(), digest)).unwrap().nlink();
    let linked = content.blobs().iter().filter(|(digest, _)| names(digest) == 2).count();
    assert!(linked == 0 || linked == content.blobs().len(), "{linked}");
    let process = Process::start(BINARY, target.path());
    block_on(content.check(&process.client(), APP));
    assert!(files(source.path()) == before, "the source has changed");
    // Beside a server, the bytes come over its socket.
    let copied =
        jreg(target.path(), &["import", &place, "--into", "copy", "--hard-link", "--json"]);
    assert_eq!(counts(&copied).3, 0, "{}", complaint(&copied));
    assert_eq!(summary(&copied)["shared_bytes"], 0);
    block_on(content.check(&process.client(), &format!("copy/{APP}")));
    process.terminate();
    assert!(!has_unverified(target.path()));
    assert!(files(source.path()) == before, "the source has changed");
}

#[test]
fn files_that_others_can_write_are_copied() {
    let content = Content::new();
    let source = source(&content);
    let of_image = content.image.blobs[0].digest();
    let path = data_of(source.path(), &of_image);
    fs::set_permissions(&path, fs::Permissions::from_mode(0o664)).unwrap();
    let (place, target) = (source.path().display().to_string(), tempfile::tempdir().unwrap());
    let imported = jreg(target.path(), &["import", &place, "--hard-link", "--json"]);
    assert_eq!(counts(&imported).3, 0, "{}", complaint(&imported));
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 1);
    let process = Process::start(BINARY, target.path());
    block_on(content.check(&process.client(), APP));
}

/// Without the flag, files are never one.
#[test]
fn files_become_one_only_on_request() {
    let content = Content::new();
    let source = source(&content);
    let (place, target) = (source.path().display().to_string(), tempfile::tempdir().unwrap());
    text(&jreg(target.path(), &["import", &place]));
    for (digest, _) in content.blobs() {
        assert_eq!(fs::metadata(data_of(source.path(), &digest)).unwrap().nlink(), 1);
    }
}

#[test]
fn wrong_bytes_are_found_where_they_are_hashed_and_else_by_a_deep_fsck() {
    let content = Content::new();
    let source = source(&content);
    let bad = content.other.blobs.last().unwrap();
    let path = data_of(source.path(), &bad.digest());
    let wrong = vec![7; bad.bytes.len()];
    fs::write(&path, &wrong).unwrap();
    let (place, target) = (source.path().display().to_string(), tempfile::tempdir().unwrap());
    let refused = jreg(target.path(), &["import", &place, "--hard-link", "--json"]);
    assert!(counts(&refused).3 >= 1 && complaint(&refused).is_empty() || !refused.status.success());
    assert_eq!(fs::read(&path).unwrap(), wrong, "the source is left as it was");
    assert_eq!(fs::metadata(&path).unwrap().nlink(), 1, "the registry has no name for it");
    // Trusted, they come over, and are in no other repository until they were hashed.
    let target = tempfile::tempdir().unwrap();
    let trusted =
        jreg(target.path(), &["import", &place, "--hard-link", "--trust-digests", "--json"]);
    assert_eq!(counts(&trusted).3, 0, "{}", complaint(&trusted));
    assert_eq!(summary(&trusted)["shared_bytes"], blob_bytes(&content));
    assert!(has_unverified(target.path()));
    let process = Process::start(BINARY, target.path());
    block_on(async {
        let client = process.client();
        let mount = format!("/v2/else/blobs/uploads/?mount={}&from={APP}", bad.digest());
        let mounted = client.send(jreg_testkit::Request::new("POST", mount)).await;
        assert_eq!(mounted.status, 202, "{mounted}");
        // Who pushes right bytes gets right bytes.
        let push = format!("/v2/else/blobs/uploads/?digest={}", bad.digest());
        let request = jreg_testkit::Request::new("POST", push).body(bad.bytes.clone());
        assert_eq!(client.send(request).await.status, 201);
        let pulled = client.get(&format!("/v2/else/blobs/{}", bad.digest())).await;
        assert_eq!(pulled.body, bad.bytes);
    });
    process.terminate();
    let fsck = |args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.arg("fsck").args(args).arg("--storage").arg(target.path()).output().unwrap()
    };
    let found = fsck(&["--deep"]);
    assert_eq!(found.status.code(), Some(1), "{}", complaint(&found));
    let found = String::from_utf8_lossy(&found.stdout).into_owned();
    assert!(found.contains(bad.digest().trim_start_matches("sha256:")), "{found}");
    // The wrong bytes are gone, and the image that needs them is incomplete.
    assert_eq!(fsck(&["--deep", "--restart", "--repair"]).status.code(), Some(1));
    assert!(!has_unverified(target.path()), "what is right is like any other now");
}

#[test]
fn what_a_tag_of_distribution_pointed_to_before_becomes_its_history() {
    let content = Content::new();
    let source = source(&content);
    let old = &content.other.manifest;
    let link = format!(
        "docker/registry/v2/repositories/{APP}/_manifests/tags/v1/index/sha256/{}/link",
        old.digest().trim_start_matches("sha256:")
    );
    let link = source.path().join(link);
    fs::create_dir_all(link.parent().unwrap()).unwrap();
    fs::write(&link, old.digest()).unwrap();
    let place = source.path().display().to_string();
    let history = |storage: &Path| {
        let mut command = Command::new(BINARY);
        command.args(["tag", "history", &format!("{APP}:v1"), "--storage"]).arg(storage);
        text(&command.output().unwrap())
    };
    let target = tempfile::tempdir().unwrap();
    text(&jreg(target.path(), &["import", &place]));
    assert!(!history(target.path()).contains(&old.digest()));
    let target = tempfile::tempdir().unwrap();
    for _ in 0..2 {
        text(&jreg(target.path(), &["import", &place, "--old-tags"]));
        let history = history(target.path());
        assert_eq!(history.matches(&old.digest()).count(), 1, "{history}");
        assert!(history.contains("jreg:import"), "{history}");
    }
    let process = Process::start(BINARY, target.path());
    block_on(content.check(&process.client(), APP));
}

#[test]
fn a_bucket_copies_by_itself() {
    block_on(async {
        let content = Content::new();
        let bucket = S3Server::start(S3Spec::default()).await;
        let folder = source(&content);
        for (path, bytes) in files(folder.path()) {
            bucket.insert(&format!("old-registry/{}", path.display()), bytes);
        }
        let place = |prefix: &str| {
            let url = bucket.storage_url();
            url.replacen(bucket.bucket(), &format!("{}/{prefix}", bucket.bucket()), 1)
        };
        let (from, to) = (place("old-registry"), place("new"));
        let import = |options: &'static [&'static str], into: &'static str| {
            let (from, to) = (from.clone(), to.clone());
            let (key, secret) = (bucket.access_key().to_owned(), bucket.secret_key().to_owned());
            tokio::task::spawn_blocking(move || {
                let mut command = Command::new(BINARY);
                command.args(["import", &from, "--into", into, "--json", "--storage", &to]);
                command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret);
                command.args(options).output().unwrap()
            })
        };
        let imported = import(&["--trust-digests"], "trusted").await.unwrap();
        assert!(imported.status.success(), "{}", complaint(&imported));
        assert_eq!(counts(&imported).3, 0, "{}", complaint(&imported));
        assert_eq!(summary(&imported)["shared_bytes"], blob_bytes(&content));
        let requests = bucket.take_requests();
        let copied = requests.iter().filter(|request| request.operation.copies()).count();
        let distinct: BTreeMap<_, _> = content.blobs().into_iter().collect();
        assert_eq!(copied, distinct.len());
        let read = read_blobs(&content, &requests);
        assert!(read.is_empty(), "not a byte of a layer is read: {read:?}");
        // Hashed, unless it trusts: those that were not are no source for others.
        let imported = import(&[], "hashed").await.unwrap();
        assert_eq!(counts(&imported).3, 0, "{}", complaint(&imported));
        assert_eq!(summary(&imported)["shared_bytes"], blob_bytes(&content));
        // The service refuses to copy: the bytes pass through.
        bucket.take_requests();
        let refused = FaultRule::new(S3Fault::Refuse(S3Refusal::AccessDenied));
        bucket.inject(refused.on(S3Operation::CopyObject));
        let imported = import(&["--trust-digests"], "passed").await.unwrap();
        assert_eq!(counts(&imported).3, 0, "{}", complaint(&imported));
    });
}

/// From one storage of jreg to another in the same service, whatever the prefix of each.
#[test]
fn a_bucket_of_jreg_is_copied_by_the_service() {
    block_on(async {
        let content = Content::new();
        let bucket = S3Server::start(S3Spec::default()).await;
        let place = |prefix: &str| {
            let url = bucket.storage_url();
            url.replacen(bucket.bucket(), &format!("{}/{prefix}", bucket.bucket()), 1)
        };
        let folder = source(&content);
        for (path, bytes) in files(folder.path()) {
            bucket.insert(&format!("old-registry/{}", path.display()), bytes);
        }
        let (first, second) = (place("first"), place("second"));
        let import = |from: &str, to: &str, options: &'static [&'static str]| {
            let (from, to) = (from.to_owned(), to.to_owned());
            let (key, secret) = (bucket.access_key().to_owned(), bucket.secret_key().to_owned());
            tokio::task::spawn_blocking(move || {
                let mut command = Command::new(BINARY);
                command.args(["import", &from, "--json", "--storage", &to]).args(options);
                command.env("AWS_ACCESS_KEY_ID", key).env("AWS_SECRET_ACCESS_KEY", secret);
                command.output().unwrap()
            })
        };
        let imported = import(&place("old-registry"), &first, &["--trust-digests"]).await.unwrap();
        assert_eq!(counts(&imported).3, 0, "{}", complaint(&imported));
        bucket.take_requests();
        let imported = import(&first, &second, &["--trust-digests"]).await.unwrap();
        assert_eq!(counts(&imported).3, 0, "{}", complaint(&imported));
        assert_eq!(summary(&imported)["shared_bytes"], blob_bytes(&content));
        assert_eq!(summary(&imported)["bytes"], manifest_bytes(&content));
        let requests = bucket.take_requests();
        let read = read_blobs(&content, &requests);
        assert!(read.is_empty(), "{read:?}");
        let copied = requests.iter().filter(|request| request.operation.copies()).count();
        let distinct: BTreeMap<_, _> = content.blobs().into_iter().collect();
        assert_eq!(copied, distinct.len());
    });
}

/// A folder of jreg whose files become those of another one.
#[test]
fn a_folder_of_jreg_is_not_copied_either() {
    let content = Content::new();
    let (folder, process) = served(&content);
    process.terminate();
    let (place, target) = (folder.path().display().to_string(), tempfile::tempdir().unwrap());
    let imported = jreg(target.path(), &["import", &place, "--hard-link", "--json"]);
    assert_eq!(counts(&imported).3, 0, "{}", complaint(&imported));
    assert_eq!(summary(&imported)["shared_bytes"], blob_bytes(&content));
    let process = Process::start(BINARY, target.path());
    block_on(content.check(&process.client(), APP));
}

/// A small file system with reflinks, mounted while it is in use.
struct ReflinkFolder(tempfile::TempDir);

impl ReflinkFolder {
    /// `None`, with the reason on standard error: this machine cannot have one, which fails in CI.
    fn mount() -> Option<Self> {
        let folder = tempfile::tempdir().unwrap();
        let (image, at) = (folder.path().join("image"), folder.path().join("at"));
        fs::create_dir(&at).unwrap();
        // The smallest that mkfs.xfs makes.
        fs::File::create(&image).unwrap().set_len(320 << 20).unwrap();
        let run = |command: &mut Command| match command.output() {
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => Err(format!("{command:?}: {}", complaint(&output))),
            Err(error) => Err(format!("{command:?}: {error}")),
        };
        let made = run(Command::new("mkfs.xfs").args(["-q", "-m", "reflink=1"]).arg(&image));
        match made
            .and_then(|()| run(Command::new("mount").args(["-o", "loop"]).args([&image, &at])))
        {
            Ok(()) => Some(Self(folder)),
            Err(why) => {
                let is_ci = std::env::var_os("CI").is_some();
                assert!(!is_ci, "no file system with reflinks can be mounted: {why}");
                eprintln!("NOT CHECKED: no file system with reflinks can be mounted: {why}");
                None
            }
        }
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("at")
    }

    fn free_bytes(&self) -> u64 {
        let text = Command::new("df").args(["--output=avail", "-B1"]).arg(self.path()).output();
        let text = String::from_utf8(text.unwrap().stdout).unwrap();
        text.lines().last().unwrap().trim().parse().unwrap()
    }
}

impl Drop for ReflinkFolder {
    fn drop(&mut self) {
        let unmounted = Command::new("umount").arg("--lazy").arg(self.path()).status();
        assert!(unmounted.is_ok_and(|status| status.success()) || std::thread::panicking());
    }
}

/// Without a flag, files of a file system that can share blocks do.
#[test]
fn files_share_their_blocks_where_the_file_system_can() {
    let Some(disk) = ReflinkFolder::mount() else { return };
    let content = Content::new();
    let (source, target) = (disk.path().join("source"), disk.path().join("target"));
    fs::create_dir(&source).unwrap();
    distribution(&source, &content, true);
    // One that is larger than what the rest takes.
    let large = ImageSpec { seed: 9, layers: 1, layer_bytes: (64 << 20) + 1, ..Default::default() };
    let large = large.build();
    add_image(&source, "large", &large);
    let before = disk.free_bytes();
    let imported = jreg(&target, &["import", &source.display().to_string(), "--json"]);
    assert_eq!(counts(&imported).3, 0, "{}", complaint(&imported));
    let of_large: u64 = large.blobs.iter().map(|blob| blob.bytes.len() as u64).sum();
    assert_eq!(summary(&imported)["shared_bytes"], blob_bytes(&content) + of_large);
    // The write-ahead log and the records need some.
    let used = before.saturating_sub(disk.free_bytes());
    assert!(used < 48 << 20, "{used} bytes");
    for digest in [content.blobs()[0].0.clone(), large.blobs[1].digest()] {
        assert_eq!(fs::metadata(data_of(&source, &digest)).unwrap().nlink(), 1);
    }
    // What happens to the source later is not seen.
    fs::write(data_of(&source, &large.blobs[1].digest()), b"other bytes").unwrap();
    let process = Process::start(BINARY, &target);
    block_on(async {
        content.check(&process.client(), APP).await;
        let target = format!("/v2/large/blobs/{}", large.blobs[1].digest());
        assert!(process.client().get(&target).await.body == large.blobs[1].bytes);
    });
    process.terminate();
}
