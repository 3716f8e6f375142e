//! `jreg export` and `jreg import` with the real binary: alone on a folder, beside the serving process and on a
//! bucket; each format, and what is wrong with a source.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::{
    Client, Image, ImageSpec, Manifest, Process, Scenario, index_of, media, push_blob, push_image,
    push_manifest, sha256,
};
use serde_json::{Value, json};

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
pub(crate) const APP: &str = "contract/app";

pub(crate) fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test)
}

pub(crate) fn jreg(storage: &Path, args: &[&str]) -> Output {
    Command::new(BINARY).args(args).arg("--storage").arg(storage).output().unwrap()
}

pub(crate) fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
pub(crate) fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{out}{}", complaint(output));
    out
}

/// The last of the objects that `--json` prints.
#[track_caller]
pub(crate) fn summary(output: &Output) -> Value {
    serde_json::from_str(text(output).lines().last().unwrap()).unwrap()
}

#[track_caller]
pub(crate) fn counts(output: &Output) -> (u64, u64, u64, u64) {
    let done: Value = serde_json::from_slice(
        output.stdout.split(|b| *b == b'\n').rfind(|l| !l.is_empty()).unwrap(),
    )
    .unwrap();
    let of = |name: &str| done[name].as_u64().unwrap();
    (of("copied"), of("present"), of("skipped"), of("failed"))
}

/// The content of a registry under test.
pub(crate) struct Content {
    pub(crate) image: Image,
    pub(crate) other: Image,
    index: Manifest,
    signature: Image,
    attestation: Image,
    tagged_signature: Image,
}

impl Content {
    pub(crate) fn new() -> Self {
        let (image, other) = (Image::plain(1), Image::plain(2));
        let platform = |image: &Image, architecture: &str| {
            let mut entry = image.manifest.descriptor();
            entry["platform"] = json!({"os": "linux", "architecture": architecture});
            entry
        };
        let index = index_of(&[platform(&image, "amd64"), platform(&other, "arm64")]);
        let signature = Image::referrer(3, &index, "application/vnd.test.signature");
        let attestation =
            Image::referrer(4, &signature.manifest, "application/vnd.test.attestation");
        let tagged_signature = Image::plain(5);
        Self { image, other, index, signature, attestation, tagged_signature }
    }

    pub(crate) fn signature_tag(&self) -> String {
        format!("{}.sig", self.image.manifest.digest().replace(':', "-"))
    }

    async fn push(&self, client: Client) {
        let mut scenario = Scenario::new("app", client);
        scenario.run(push_image("v1", &self.image)).await;
        scenario.run(push_image(&self.other.manifest.digest(), &self.other)).await;
        scenario.step(push_manifest("multi", &self.index)).await;
        scenario.run(push_image(&self.signature.manifest.digest(), &self.signature)).await;
        scenario.run(push_image(&self.attestation.manifest.digest(), &self.attestation)).await;
        scenario.run(push_image(&self.signature_tag(), &self.tagged_signature)).await;
    }

    pub(crate) fn manifests(&self) -> [&Manifest; 6] {
        [
            &self.image.manifest,
            &self.other.manifest,
            &self.index,
            &self.signature.manifest,
            &self.attestation.manifest,
            &self.tagged_signature.manifest,
        ]
    }

    pub(crate) fn blobs(&self) -> Vec<(String, bytes::Bytes)> {
        [&self.image, &self.other, &self.signature, &self.attestation, &self.tagged_signature]
            .iter()
            .flat_map(|image| &image.blobs)
            .map(|blob| (blob.digest(), blob.bytes.clone()))
            .collect()
    }

    /// Everything is in a repository of a server, byte for byte.
    pub(crate) async fn check(&self, client: &Client, name: &str) {
        for (tag, manifest) in [
            ("v1", &self.image.manifest),
            ("multi", &self.index),
            (&*self.signature_tag(), &self.tagged_signature.manifest),
        ] {
            let pulled = client.get(&format!("/v2/{name}/manifests/{tag}")).await;
            assert!(pulled.status == 200 && pulled.body == manifest.bytes, "{tag}: {pulled}");
            assert_eq!(pulled.header("Content-Type"), Some(&*manifest.media_type));
        }
        for manifest in self.manifests() {
            let pulled = client.get(&format!("/v2/{name}/manifests/{}", manifest.digest())).await;
            assert!(pulled.status == 200 && pulled.body == manifest.bytes, "{pulled}");
        }
        for (digest, bytes) in self.blobs() {
            let pulled = client.get(&format!("/v2/{name}/blobs/{digest}")).await;
            assert!(pulled.status == 200 && pulled.body == bytes, "{pulled}");
        }
        for (subject, referrer) in [
            (&self.index, &self.signature.manifest),
            (&self.signature.manifest, &self.attestation.manifest),
        ] {
            let listed = client.get(&format!("/v2/{name}/referrers/{}", subject.digest())).await;
            assert_eq!(listed.json()["manifests"][0]["digest"], referrer.digest());
        }
    }
}

/// A folder that is served, with the content in `contract/app`.
pub(crate) fn served(content: &Content) -> (tempfile::TempDir, Process) {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    block_on(content.push(process.client()));
    (folder, process)
}

/// Every file of a folder.
pub(crate) fn files(folder: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(below) = folders.pop() {
        for entry in fs::read_dir(&below).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => folders.push(path),
                false => {
                    let bytes = fs::read(&path).unwrap();
                    found.insert(path.strip_prefix(folder).unwrap().to_owned(), bytes);
                }
            }
        }
    }
    found
}

#[test]
fn what_is_exported_comes_back_by_every_way() {
    let content = Content::new();
    let (folder, process) = served(&content);
    let work = tempfile::tempdir().unwrap();
    let at = |name: &str| work.path().join(name).display().to_string();
    let (tar, again, layout, alone) = (at("a.tar"), at("b.tar"), at("layout"), at("c.tar"));
    text(&jreg(folder.path(), &["export", APP, "--to", &tar]));
    text(&jreg(folder.path(), &["export", APP, "--to", &again]));
    text(&jreg(folder.path(), &["export", APP, "--to", &layout]));
    let piped = jreg(folder.path(), &["export", APP, "--to", "-"]);
    assert!(piped.status.success(), "{}", complaint(&piped));
    process.terminate();
    text(&jreg(folder.path(), &["export", APP, "--to", &alone]));
    let bytes = fs::read(&tar).unwrap();
    for other in [&again, &alone] {
        assert!(fs::read(other).unwrap() == bytes, "the same images are the same bytes");
    }
    assert!(piped.stdout == bytes);
    for (path, bytes) in files(Path::new(&layout)) {
        let Ok(hex) = path.strip_prefix("blobs/sha256") else { continue };
        assert_eq!(sha256(&bytes), format!("sha256:{}", hex.display()));
    }
    // A folder with something in it is left alone.
    assert_eq!(jreg(folder.path(), &["export", APP, "--to", &layout]).status.code(), Some(1));
    // Alone, and beside a server; a tar and a folder; and again, when all is there.
    let mut gz = Command::new("gzip").arg("-kf").arg(&tar).spawn().unwrap();
    assert!(gz.wait().unwrap().success());
    for source in [&tar, &layout, &format!("{tar}.gz")] {
        let target = tempfile::tempdir().unwrap();
        let imported = jreg(target.path(), &["import", source, "--json"]);
        assert_eq!(counts(&imported), (5, 0, 0, 0), "{}", complaint(&imported));
        let process = Process::start(BINARY, target.path());
        block_on(content.check(&process.client(), APP));
        let again = jreg(target.path(), &["import", source, "--json"]);
        assert_eq!(counts(&again).0, 0, "{}", text(&again));
        assert_eq!(summary(&again)["bytes"], 0);
        let copied = jreg(target.path(), &["import", source, "--json", "--into", "copy"]);
        assert_eq!(counts(&copied), (5, 0, 0, 0), "{}", text(&copied));
        block_on(content.check(&process.client(), &format!("copy/{APP}")));
    }
}

#[test]
fn an_export_says_what_it_has() {
    let content = Content::new();
    let (folder, _process) = served(&content);
    let work = tempfile::tempdir().unwrap();
    let export = |args: &[&str]| {
        let to = tempfile::tempdir_in(work.path()).unwrap().keep();
        let to_text = to.display().to_string();
        let exported = jreg(folder.path(), &[&["export"], args, &["--to", &to_text]].concat());
        (exported, to)
    };
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    // One image: with its signature by tag, loadable by docker.
    let (exported, to) = export(&["contract/app:v1"]);
    text(&exported);
    let index = read(to.join("index.json"));
    let entries = index["manifests"].as_array().unwrap();
    assert_eq!(entries.len(), 2, "{index}");
    assert_eq!(entries[0]["digest"], content.image.manifest.digest());
    let annotations = &entries[0]["annotations"];
    assert_eq!(annotations["org.opencontainers.image.ref.name"], "v1");
    assert_eq!(annotations["io.containerd.image.name"], "127.0.0.1:5000/contract/app:v1");
    let docker = read(to.join("manifest.json"));
    assert_eq!(docker.as_array().unwrap().len(), 1, "{docker}");
    assert_eq!(docker[0]["RepoTags"], json!(["127.0.0.1:5000/contract/app:v1"]));
    // Without what refers to it.
    let (exported, to) = export(&["contract/app:v1", "--no-referrers"]);
    text(&exported);
    assert_eq!(read(to.join("index.json"))["manifests"].as_array().unwrap().len(), 1);
    // An index is not one image.
    let (exported, to) = export(&["contract/app:multi"]);
    text(&exported);
    assert!(!to.join("manifest.json").exists());
    let digests: Vec<_> = read(to.join("index.json"))["manifests"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["digest"].as_str().unwrap().to_owned())
        .collect();
    for manifest in [&content.index, &content.signature.manifest, &content.attestation.manifest] {
        assert!(digests.contains(&manifest.digest()), "{digests:?}");
    }
    // One platform of it: the image itself, or the index with holes.
    let arm = ["contract/app:multi", "--platform", "linux/arm64", "--no-referrers"];
    let (exported, to) = export(&arm);
    text(&exported);
    let index = read(to.join("index.json"));
    assert_eq!(index["manifests"][0]["digest"], content.other.manifest.digest());
    assert!(to.join("manifest.json").exists());
    let (exported, to) = export(&[&arm[..], &["--sparse"]].concat());
    text(&exported);
    assert_eq!(read(to.join("index.json"))["manifests"][0]["digest"], content.index.digest());
    let has = |image: &Image| {
        let digest = image.manifest.digest();
        to.join("blobs/sha256").join(digest.trim_start_matches("sha256:")).exists()
    };
    assert!(has(&content.other) && !has(&content.image));
    // What is not there is an error, and leaves nothing.
    for wrong in [
        &["contract/app:v9"][..],
        &["contract/none"],
        &["contract/app:multi", "--platform", "windows/amd64"],
    ] {
        let (exported, _) = export(wrong);
        assert_eq!(exported.status.code(), Some(1), "{wrong:?}");
    }
    let tar = work.path().join("x.tar");
    let to = tar.display().to_string();
    assert!(!jreg(folder.path(), &["export", "contract/app:v9", "--to", &to]).status.success());
    assert!(!tar.exists() && !work.path().join("x.tar.partial").exists());
}

#[test]
fn a_bucket_gives_and_takes() {
    block_on(async {
        let content = Content::new();
        let bucket = S3Server::start(S3Spec::default()).await;
        let process = Process::start_in_bucket(BINARY, &bucket, &[]);
        content.push(process.client()).await;
        let work = tempfile::tempdir().unwrap();
        let tar = work.path().join("a.tar").display().to_string();
        let run = |args: Vec<String>, storage: String| {
            let (key, secret) = (bucket.access_key().to_owned(), bucket.secret_key().to_owned());
            tokio::task::spawn_blocking(move || {
                Command::new(BINARY)
                    .args(args)
                    .args(["--storage", &storage])
                    .env("AWS_ACCESS_KEY_ID", key)
                    .env("AWS_SECRET_ACCESS_KEY", secret)
                    .output()
                    .unwrap()
            })
        };
        let words = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        bucket.take_requests();
        let url = bucket.storage_url();
        let exported = run(words(&["export", APP, "--to", &tar]), url.clone()).await.unwrap();
        text(&exported);
        let requests = bucket.take_requests();
        assert!(requests.iter().all(|request| ["GET", "HEAD"].contains(&&*request.method)));
        // From the bucket to a folder, and back to another repository of the bucket.
        let folder = tempfile::tempdir().unwrap();
        let storage = folder.path().display().to_string();
        let imported = run(words(&["import", &url, "--json"]), storage).await.unwrap();
        assert_eq!(counts(&imported).3, 0, "{}", complaint(&imported));
        let there = Process::start(BINARY, folder.path());
        content.check(&there.client(), APP).await;
        let imported = run(words(&["import", &tar, "--into", "back"]), url).await.unwrap();
        text(&imported);
        content.check(&process.client(), &format!("back/{APP}")).await;
    });
}

#[test]
fn another_jreg_is_a_source_also_while_it_is_served() {
    let content = Content::new();
    let (folder, process) = served(&content);
    let source = folder.path().display().to_string();
    let target = tempfile::tempdir().unwrap();
    let dry = jreg(target.path(), &["import", &source, "--dry-run", "--json"]);
    assert_eq!(dry.status.code(), Some(1), "there is nothing to compare with");
    let imported = jreg(target.path(), &["import", &source, "--json"]);
    assert_eq!(counts(&imported).3, 0, "{}", complaint(&imported));
    let there = Process::start(BINARY, target.path());
    block_on(content.check(&there.client(), APP));
    let dry = jreg(target.path(), &["import", &source, "--dry-run", "--json"]);
    let (copied, _, _, failed) = counts(&dry);
    assert_eq!((copied, failed), (0, 0), "{}", text(&dry));
    process.terminate();
    let second = tempfile::tempdir().unwrap();
    text(&jreg(second.path(), &["import", &source]));
    let there = Process::start(BINARY, second.path());
    block_on(content.check(&there.client(), APP));
    // Who moved the tag is in its history.
    let history = Command::new(BINARY)
        .args(["tag", "history", "contract/app:v1", "--storage"])
        .arg(second.path())
        .output()
        .unwrap();
    assert!(text(&history).contains("jreg:import"));
}

#[test]
fn another_registry_is_a_source_over_its_api() {
    let content = Content::new();
    let (_folder, process) = served(&content);
    let address = process.client().address();
    let target = tempfile::tempdir().unwrap();
    let url = format!("http://{address}");
    let anonymous = ["--credentials", "anonymous", "--json"];
    let one =
        jreg(target.path(), &[&["import", &format!("{url}/{APP}:v1")][..], &anonymous].concat());
    // With the signature that is attached to it by a tag.
    assert_eq!(counts(&one), (2, 0, 0, 0), "{}", complaint(&one));
    assert!(text(&one).contains(&content.signature_tag()), "{}", text(&one));
    let all = jreg(target.path(), &[&["import", &url][..], &anonymous].concat());
    assert_eq!(counts(&all).3, 0, "{}", complaint(&all));
    let there = Process::start(BINARY, target.path());
    block_on(content.check(&there.client(), APP));
    let again = jreg(target.path(), &[&["import", &url][..], &anonymous].concat());
    assert_eq!(summary(&again)["bytes"], 0);
    let none =
        jreg(target.path(), &[&["import", &format!("{url}/{APP}:v9")][..], &anonymous].concat());
    assert_eq!(counts(&none), (0, 0, 1, 0), "{}", complaint(&none));
    let wrong =
        jreg(target.path(), &["import", "http://127.0.0.1:1/app", "--credentials", "anonymous"]);
    assert_eq!(wrong.status.code(), Some(1));
}

/// Writes the storage of distribution.
pub(crate) fn distribution(root: &Path, content: &Content, linked: bool) {
    let base = root.join("docker/registry/v2");
    let put = |path: String, bytes: &[u8]| {
        let path = base.join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    };
    let hex = |digest: &str| digest.trim_start_matches("sha256:").to_owned();
    let data = |digest: &str| {
        format!("blobs/sha256/{}/{}/data", hex(digest).get(..2).unwrap(), hex(digest))
    };
    let repository = "repositories/contract/app";
    for (digest, bytes) in content.blobs() {
        put(data(&digest), &bytes);
        put(format!("{repository}/_layers/sha256/{}/link", hex(&digest)), digest.as_bytes());
    }
    for manifest in content.manifests() {
        let digest = manifest.digest();
        put(data(&digest), &manifest.bytes);
        let link = format!("{repository}/_manifests/revisions/sha256/{}/link", hex(&digest));
        put(link, digest.as_bytes());
    }
    if linked {
        for (tag, manifest) in [
            ("v1", &content.image.manifest),
            ("multi", &content.index),
            (&*content.signature_tag(), &content.tagged_signature.manifest),
        ] {
            let link = format!("{repository}/_manifests/tags/{tag}/current/link");
            put(link, manifest.digest().as_bytes());
        }
    }
}

#[test]
fn the_storage_of_distribution_and_harbor_comes_over() {
    let content = Content::new();
    let source = tempfile::tempdir().unwrap();
    distribution(source.path(), &content, true);
    let base = source.path().join("docker/registry/v2/repositories/contract/app/_manifests");
    // What a delete leaves, an image of schema 1, and a tag that leads nowhere.
    fs::create_dir_all(base.join("revisions/sha256").join("a".repeat(64))).unwrap();
    let gone = format!("sha256:{}", "b".repeat(64));
    for path in
        [format!("revisions/sha256/{}/link", "b".repeat(64)), "tags/gone/current/link".to_owned()]
    {
        fs::create_dir_all(base.join(&path).parent().unwrap()).unwrap();
        fs::write(base.join(path), &gone).unwrap();
    }
    fs::create_dir_all(base.join("tags/deleted")).unwrap();
    let old = br#"{"schemaVersion":1,"name":"contract/app","tag":"old","fsLayers":[]}"#;
    let digest = sha256(old);
    let hex = digest.trim_start_matches("sha256:");
    let data = format!("docker/registry/v2/blobs/sha256/{}/{hex}/data", hex.get(..2).unwrap());
    for (path, bytes) in [
        (source.path().join(data), &old[..]),
        (base.join(format!("revisions/sha256/{hex}/link")), digest.as_bytes()),
        (base.join("tags/old/current/link"), digest.as_bytes()),
    ] {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, bytes).unwrap();
    }
    let before = files(source.path());
    let place = source.path().display().to_string();
    // A server refuses the folder, and says what to do.
    let refused = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--storage", &place])
        .output()
        .unwrap();
    let why = complaint(&refused);
    assert!(why.contains("distribution") && why.contains(&format!("jreg import {place}")), "{why}");
    let target = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, target.path());
    let imported = jreg(target.path(), &["import", &place]);
    let printed = text(&imported);
    assert!(printed.contains("skipped  contract/app:gone"), "{printed}");
    assert!(printed.contains("schema 1"), "{printed}");
    block_on(content.check(&process.client(), APP));
    assert!(files(source.path()) == before, "the source has changed");
    let again = jreg(target.path(), &["import", &place, "--json"]);
    assert_eq!(summary(&again)["bytes"], 0);
    // Harbor has no tags in its storage.
    let harbor = tempfile::tempdir().unwrap();
    distribution(harbor.path(), &content, false);
    let tags = harbor.path().join("tags.csv");
    let lines = [
        format!("contract/app,v1,{}", content.image.manifest.digest()),
        format!("contract/app:multi {}", content.index.digest()),
        format!(
            "\"contract/app\",\"{}\",\"{}\"",
            content.signature_tag(),
            content.tagged_signature.manifest.digest()
        ),
    ];
    fs::write(&tags, format!("# from the database\n\n{}\n", lines.join("\n"))).unwrap();
    let second = tempfile::tempdir().unwrap();
    let (place, tags) = (harbor.path().display().to_string(), tags.display().to_string());
    text(&jreg(second.path(), &["import", &place, "--tags", &tags]));
    let process = Process::start(BINARY, second.path());
    block_on(content.check(&process.client(), APP));
    fs::write(&tags, "contract/app:v1\n").unwrap();
    let failed = jreg(second.path(), &["import", &place, "--tags", &tags]);
    assert!(complaint(&failed).contains("line 1"), "{}", complaint(&failed));
}

/// Writes a layout as zot keeps one for a repository.
fn zot_repository(root: &Path, name: &str, images: &[(&str, &Image)], empty: bool) {
    let folder = root.join(name);
    fs::create_dir_all(folder.join("blobs/sha256")).unwrap();
    fs::write(folder.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let mut entries = Vec::new();
    for (tag, image) in images {
        let mut entry = image.manifest.descriptor();
        if !tag.is_empty() {
            entry["annotations"] = json!({"org.opencontainers.image.ref.name": tag});
        }
        entries.push(entry);
        let put = |digest: String, bytes: &[u8]| {
            let path = folder.join("blobs/sha256").join(digest.trim_start_matches("sha256:"));
            fs::write(path, bytes).unwrap();
        };
        put(image.manifest.digest(), &image.manifest.bytes);
        for blob in &image.blobs {
            put(blob.digest(), if empty { b"" } else { &blob.bytes });
        }
    }
    let index = json!({"schemaVersion": 2, "manifests": entries});
    fs::write(folder.join("index.json"), index.to_string()).unwrap();
}

#[test]
fn the_storage_of_zot_comes_over() {
    let source = tempfile::tempdir().unwrap();
    let (one, two) = (Image::plain(1), Image::plain(2));
    let signature = Image::referrer(3, &one.manifest, "application/vnd.test.signature");
    zot_repository(source.path(), "team/app", &[("v1", &one), ("", &two), ("", &signature)], false);
    // Deduplicated in a bucket: objects without bytes.
    zot_repository(source.path(), "team/app/copy", &[("v1", &one)], true);
    fs::create_dir_all(source.path().join("_trivy/db")).unwrap();
    fs::write(source.path().join("cache.db"), "x").unwrap();
    let target = tempfile::tempdir().unwrap();
    let place = source.path().display().to_string();
    let imported = jreg(target.path(), &["import", &place, "--json"]);
    assert_eq!(counts(&imported), (4, 0, 0, 0), "{}", complaint(&imported));
    let process = Process::start(BINARY, target.path());
    block_on(async {
        let client = process.client();
        for name in ["team/app", "team/app/copy"] {
            let pulled = client.get(&format!("/v2/{name}/manifests/v1")).await;
            assert_eq!(pulled.body, one.manifest.bytes);
            for blob in &one.blobs {
                let pulled = client.get(&format!("/v2/{name}/blobs/{}", blob.digest())).await;
                assert_eq!(pulled.body, blob.bytes);
            }
        }
        let pulled = client.get(&format!("/v2/team/app/manifests/{}", two.manifest.digest())).await;
        assert_eq!(pulled.status, 200);
        let listed = client.get(&format!("/v2/team/app/referrers/{}", one.manifest.digest())).await;
        assert_eq!(listed.json()["manifests"][0]["digest"], signature.manifest.digest());
    });
}

/// An archive of docker save as it was before it wrote layouts, with a layer as a link.
fn docker_archive(path: &Path) -> (Vec<u8>, Vec<u8>) {
    let (config, layer) = (br#"{"architecture":"amd64","os":"linux"}"#.to_vec(), vec![7; 3000]);
    let mut tar = Vec::new();
    let mut add = |name: &str, kind: u8, link: &str, bytes: &[u8]| {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{:011o}\0", bytes.len()).as_bytes());
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        tar.extend_from_slice(&header);
        tar.extend_from_slice(bytes);
        tar.resize(tar.len().next_multiple_of(512), 0);
    };
    let list = json!([
        {"Config": "abc.json", "RepoTags": ["alpine:3", "docker.io/team/app:v1"],
         "Layers": ["one/layer.tar", "two/layer.tar"]},
        {"Config": "abc.json", "RepoTags": null, "Layers": []},
    ]);
    add("one/layer.tar", b'0', "", &layer);
    add("two/layer.tar", b'2', "../one/layer.tar", b"");
    add("abc.json", b'0', "", &config);
    add("manifest.json", b'0', "", list.to_string().as_bytes());
    tar.resize(tar.len() + 1024, 0);
    fs::write(path, tar).unwrap();
    (config, layer)
}

#[test]
fn archives_of_docker_save_come_over() {
    let work = tempfile::tempdir().unwrap();
    let path = work.path().join("images.tar");
    let (config, layer) = docker_archive(&path);
    let target = tempfile::tempdir().unwrap();
    let place = path.display().to_string();
    let imported = jreg(target.path(), &["import", &place]);
    // The image without a name needs one.
    assert_eq!(imported.status.code(), Some(1));
    assert!(complaint(&imported).contains("digests are new"), "{}", complaint(&imported));
    assert!(complaint(&imported).contains("--into"), "{}", complaint(&imported));
    let process = Process::start(BINARY, target.path());
    block_on(async {
        for name in ["alpine/manifests/3", "team/app/manifests/v1"] {
            let pulled = process.client().get(&format!("/v2/{name}")).await;
            assert_eq!(pulled.status, 200, "{pulled}");
            let manifest = pulled.json();
            assert_eq!(manifest["config"]["digest"], sha256(&config));
            assert_eq!(manifest["layers"].as_array().unwrap().len(), 2);
            assert_eq!(manifest["layers"][1]["digest"], sha256(&layer));
            assert_eq!(manifest["layers"][1]["size"], 3000);
        }
    });
    let named = jreg(target.path(), &["import", &place, "--into", "saved", "--json"]);
    assert_eq!(counts(&named).3, 0, "{}", complaint(&named));
    block_on(async {
        let tags = process.client().get("/v2/saved/alpine/tags/list").await;
        assert_eq!(tags.json()["tags"], json!(["3"]));
    });
}

#[test]
fn an_image_that_fails_does_not_stop_the_others() {
    let source = tempfile::tempdir().unwrap();
    let (good, bad, cut) = (Image::plain(1), Image::plain(2), Image::plain(3));
    zot_repository(source.path(), "app", &[("good", &good), ("bad", &bad), ("cut", &cut)], false);
    let blob = |image: &Image| {
        let digest = image.blobs[1].digest();
        source.path().join("app/blobs/sha256").join(digest.trim_start_matches("sha256:"))
    };
    fs::write(blob(&bad), [1; 1000]).unwrap();
    fs::remove_file(blob(&cut)).unwrap();
    let target = tempfile::tempdir().unwrap();
    let place = source.path().display().to_string();
    for _ in 0..2 {
        let imported = jreg(target.path(), &["import", &place, "--jobs", "2"]);
        assert_eq!(imported.status.code(), Some(1));
        let (errors, printed) =
            (complaint(&imported), String::from_utf8_lossy(&imported.stdout).into_owned());
        assert!(printed.contains("app:good"), "{printed}");
        for (tag, why) in [("app:bad", "digest"), ("app:cut", "lacks the layer")] {
            let line = errors.lines().find(|line| line.contains(tag)).unwrap_or_default();
            assert!(line.starts_with("error") && line.contains(why), "{errors}");
        }
    }
    let process = Process::start(BINARY, target.path());
    block_on(async {
        let tags = process.client().get("/v2/app/tags/list").await;
        assert_eq!(tags.json()["tags"], json!(["good"]));
    });
    // What is repaired is copied by the next run.
    fs::write(blob(&bad), &bad.blobs[1].bytes).unwrap();
    fs::write(blob(&cut), &cut.blobs[1].bytes).unwrap();
    let imported = jreg(target.path(), &["import", &place, "--json"]);
    assert_eq!(counts(&imported).3, 0, "{}", complaint(&imported));
}

#[test]
fn what_is_no_source_is_refused() {
    let work = tempfile::tempdir().unwrap();
    let target = tempfile::tempdir().unwrap();
    let file = work.path().join("x.tar");
    for bytes in [&b""[..], &[b'x'; 2000], &[0x1f, 0x8b, 8, 0]] {
        fs::write(&file, bytes).unwrap();
        let failed = jreg(target.path(), &["import", &file.display().to_string()]);
        assert_eq!(failed.status.code(), Some(1));
    }
    fs::remove_file(&file).unwrap();
    for source in
        [work.path().display().to_string(), "ftp://x".to_owned(), "/nonexistent".to_owned()]
    {
        let failed = jreg(target.path(), &["import", &source]);
        assert_eq!(failed.status.code(), Some(1), "{source}");
        assert!(failed.stdout.is_empty() && !complaint(&failed).is_empty(), "{source}");
    }
    assert_eq!(files(target.path()).len(), 0, "nothing was created");
    assert_eq!(jreg(target.path(), &["import"]).status.code(), Some(2));
    assert_eq!(jreg(target.path(), &["export", "a:b:c", "--to", "x"]).status.code(), Some(2));
}

/// Blobs that a build cache lists in an index, and digests of another algorithm.
#[test]
fn unusual_content_survives_the_way() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    let image = Image::plain(1);
    let cache = json!({
        "schemaVersion": 2,
        "mediaType": media::INDEX,
        "manifests": image.blobs.iter().map(jreg_testkit::Blob::descriptor).collect::<Vec<_>>(),
    });
    let cache = Manifest::compact(media::INDEX, &cache);
    let artifact = ImageSpec {
        seed: 9,
        layers: 1,
        config_type: media::EMPTY,
        artifact_type: Some("application/vnd.test.thing"),
        ..ImageSpec::default()
    };
    let artifact = artifact.build();
    block_on(async {
        let mut scenario = Scenario::new("app", process.client());
        for blob in image.blobs.iter().chain(&artifact.blobs) {
            scenario.step(push_blob(blob.bytes.clone())).await;
        }
        scenario.step(push_manifest("cache", &cache)).await;
        scenario.step(push_manifest("artifact", &artifact.manifest)).await;
        scenario.step(push_manifest(&image.manifest.digest512(), &image.manifest)).await;
    });
    let work = tempfile::tempdir().unwrap();
    let tar = work.path().join("a.tar").display().to_string();
    let digest = format!("{APP}@{}", image.manifest.digest512());
    text(&jreg(folder.path(), &["export", APP, &digest, "--to", &tar]));
    let target = tempfile::tempdir().unwrap();
    // An image without a tag is of the repository of the others.
    let imported = jreg(target.path(), &["import", &tar, "--into", "x", "--json"]);
    assert_eq!(counts(&imported).3, 0, "{}", complaint(&imported));
    let there = Process::start(BINARY, target.path());
    block_on(async {
        let client = there.client();
        for (tag, manifest) in [("cache", &cache), ("artifact", &artifact.manifest)] {
            let pulled = client.get(&format!("/v2/x/{APP}/manifests/{tag}")).await;
            assert_eq!(pulled.body, manifest.bytes, "{tag}");
        }
        let pulled =
            client.get(&format!("/v2/x/{APP}/manifests/{}", image.manifest.digest512())).await;
        assert_eq!(pulled.body, image.manifest.bytes);
    });
}
