//! `jreg import` of archives that are read once: from standard input, and compressed ones. Blobs go to the registry as they
//! come, although the archive says only at its end which images they are of; what is written twice is counted.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use jreg_testkit::{Image, ImageSpec, Process};
use serde_json::{Value, json};

use super::transfer::{block_on, complaint, counts, files, jreg, summary, text};

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");

/// A tar archive under construction.
#[derive(Default)]
struct Archive(Vec<u8>);

impl Archive {
    fn member(&mut self, name: &str, kind: u8, link: &str, size: usize) {
        let mut header = [0_u8; 512];
        header[..name.len()].copy_from_slice(name.as_bytes());
        header[100..108].copy_from_slice(b"0000644\0");
        header[124..136].copy_from_slice(format!("{size:011o}\0").as_bytes());
        header[156] = kind;
        header[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header[257..265].copy_from_slice(b"ustar\x0000");
        header[148..156].copy_from_slice(b"        ");
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend_from_slice(&header);
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> &mut Self {
        self.member(name, b'0', "", bytes.len());
        self.0.extend_from_slice(bytes);
        self.0.resize(self.0.len().next_multiple_of(512), 0);
        self
    }

    fn link(&mut self, name: &str, to: &str) -> &mut Self {
        self.member(name, b'2', to, 0);
        self
    }

    fn end(&mut self) -> Vec<u8> {
        self.0.resize(self.0.len() + 1024, 0);
        std::mem::take(&mut self.0)
    }
}

fn image(seed: u64) -> Image {
    ImageSpec { seed, layers: 2, layer_bytes: 300_000, ..ImageSpec::default() }.build()
}

fn blob_bytes(image: &Image) -> u64 {
    image.blobs.iter().map(|blob| blob.bytes.len() as u64).sum()
}

fn all_bytes(images: &[&Image]) -> u64 {
    images.iter().map(|image| blob_bytes(image) + image.manifest.bytes.len() as u64).sum()
}

/// Where `index.json` is in an archive.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Index {
    First,
    Last,
}

/// A layout with images by their full names; each name is also an argument of the tests.
fn layout(images: &[(&str, &Image)], index: Index) -> Vec<u8> {
    let entries: Vec<Value> = images
        .iter()
        .map(|(name, image)| {
            let mut entry = image.manifest.descriptor();
            let key = match name.contains('/') {
                true => "io.containerd.image.name",
                false => "org.opencontainers.image.ref.name",
            };
            entry["annotations"] = json!({key: name});
            entry
        })
        .collect();
    let list = json!({"schemaVersion": 2, "manifests": entries}).to_string();
    let mut archive = Archive::default();
    archive.file("oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    if index == Index::First {
        archive.file("index.json", list.as_bytes());
    }
    let path = |digest: String| format!("blobs/{}", digest.replace(':', "/"));
    for (_, image) in images {
        for blob in image.blobs.iter().rev() {
            archive.file(&path(blob.digest()), &blob.bytes);
        }
        archive.file(&path(image.manifest.digest()), &image.manifest.bytes);
    }
    if index == Index::Last {
        archive.file("index.json", list.as_bytes());
    }
    archive.end()
}

/// An import whose standard input is open.
fn start(storage: &Path, args: &[&str]) -> Child {
    let mut command = Command::new(BINARY);
    command.args(["import", "-", "--json"]).args(args).arg("--storage").arg(storage);
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

/// Imports an archive from standard input.
fn import(storage: &Path, args: &[&str], archive: &[u8]) -> Output {
    let mut child = start(storage, args);
    // One that is refused is not read to its end.
    let _ = child.stdin.take().unwrap().write_all(archive);
    child.wait_with_output().unwrap()
}

fn spooled(output: &Output) -> u64 {
    summary(output)["spooled_bytes"].as_u64().unwrap_or_default()
}

async fn check(process: &Process, name: &str, tag: &str, image: &Image) {
    let client = process.client();
    let pulled = client.get(&format!("/v2/{name}/manifests/{tag}")).await;
    assert_eq!((pulled.status, &pulled.body), (200, &image.manifest.bytes), "{name}:{tag}");
    for blob in &image.blobs {
        let pulled = client.get(&format!("/v2/{name}/blobs/{}", blob.digest())).await;
        assert!(pulled.status == 200 && pulled.body == blob.bytes, "{name}: {pulled}");
    }
}

#[test]
fn a_layout_that_lists_its_images_last_is_written_once() {
    let (one, two) = (image(1), image(2));
    let archive = layout(&[("v1", &one), ("v2", &two)], Index::Last);
    let target = tempfile::tempdir().unwrap();
    let imported = import(target.path(), &["--into", "team/app"], &archive);
    assert_eq!(counts(&imported), (2, 0, 0, 0), "{}", complaint(&imported));
    assert_eq!(spooled(&imported), 0);
    assert_eq!(summary(&imported)["bytes"], all_bytes(&[&one, &two]), "{}", text(&imported));
    let process = Process::start(BINARY, target.path());
    block_on(async {
        check(&process, "team/app", "v1", &one).await;
        check(&process, "team/app", "v2", &two).await;
    });
    // Beside the server nothing is written again; elsewhere all of it is linked.
    let again = import(target.path(), &["--into", "team/app"], &archive);
    assert_eq!((counts(&again), spooled(&again)), ((0, 2, 0, 0), 0), "{}", complaint(&again));
    assert_eq!(summary(&again)["bytes"], 0);
    let linked = import(target.path(), &["--into", "other"], &archive);
    let manifests = [&one, &two].map(|image| image.manifest.bytes.len() as u64).iter().sum::<u64>();
    assert_eq!(summary(&linked)["bytes"], manifests, "{}", text(&linked));
    let three = image(3);
    let beside =
        import(target.path(), &["--into", "beside"], &layout(&[("v3", &three)], Index::Last));
    assert_eq!(summary(&beside)["bytes"], all_bytes(&[&three]), "{}", complaint(&beside));
    block_on(check(&process, "beside", "v3", &three));
}

#[test]
fn names_in_an_archive_say_where_its_blobs_go() {
    let (one, two) = (image(1), image(2));
    let images = [("docker.io/team/one:v1", &one), ("docker.io/team/two:v2", &two)];
    // By names that come first, or by --into; else what comes before the names waits.
    for (index, into) in [(Index::First, None), (Index::Last, Some("copy")), (Index::Last, None)] {
        let target = tempfile::tempdir().unwrap();
        let args: Vec<&str> = into.iter().flat_map(|into| ["--into", into]).collect();
        let imported = import(target.path(), &args, &layout(&images, index));
        assert_eq!(counts(&imported), (2, 0, 0, 0), "{}", complaint(&imported));
        assert_eq!(summary(&imported)["bytes"], all_bytes(&[&one, &two]));
        // Documents and small files are in memory.
        assert_eq!(spooled(&imported), 0);
        let process = Process::start(BINARY, target.path());
        let prefix = into.map_or(String::new(), |into| format!("{into}/"));
        block_on(async {
            check(&process, &format!("{prefix}team/one"), "v1", &one).await;
            check(&process, &format!("{prefix}team/two"), "v2", &two).await;
            let listed = process.client().get("/v2/_catalog").await.json();
            let names = [format!("{prefix}team/one"), format!("{prefix}team/two")];
            assert_eq!(listed["repositories"], json!(names));
        });
    }
}

/// Layers that are too large for memory, of images whose names come last.
#[test]
fn what_has_no_name_yet_waits_in_a_file() {
    let large = ImageSpec { seed: 1, layers: 2, layer_bytes: 9 << 20, ..ImageSpec::default() };
    let large = large.build();
    let archive = layout(&[("docker.io/team/one:v1", &large)], Index::Last);
    let target = tempfile::tempdir().unwrap();
    let imported = import(target.path(), &[], &archive);
    assert_eq!(counts(&imported), (1, 0, 0, 0), "{}", complaint(&imported));
    assert_eq!(spooled(&imported), 2 * (9 << 20));
    let process = Process::start(BINARY, target.path());
    block_on(check(&process, "team/one", "v1", &large));
    // It has its limit.
    let limited = import(target.path(), &["--spool-max", "10MiB"], &archive);
    assert!(!limited.status.success());
    assert!(complaint(&limited).contains("more than 10485760 bytes"), "{}", complaint(&limited));
    let packed = tempfile::tempdir().unwrap();
    let path = packed.path().join("image.tar");
    fs::write(&path, &archive).unwrap();
    assert!(Command::new("gzip").arg(&path).status().unwrap().success());
    let path = path.with_extension("tar.gz").display().to_string();
    let other = tempfile::tempdir().unwrap();
    let imported = jreg(other.path(), &["import", &path, "--into", "x", "--json"]);
    assert_eq!((counts(&imported), spooled(&imported)), ((1, 0, 0, 0), 0));
    let process = Process::start(BINARY, other.path());
    block_on(check(&process, "x/team/one", "v1", &large));
}

/// An archive of `docker save` of which only its layers' bytes tell their digests.
#[test]
fn layers_without_a_digest_are_written_once() {
    let (config, layer) =
        (br#"{"architecture":"amd64","os":"linux"}"#, image(7).blobs[1].bytes.clone());
    let list = json!([{"Config": "abc.json", "RepoTags": ["alpine:3"],
        "Layers": ["one/layer.tar", "two/layer.tar"]}])
    .to_string();
    let mut archive = Archive::default();
    archive.file("one/layer.tar", &layer).link("two/layer.tar", "../one/layer.tar");
    archive.file("abc.json", config).file("VERSION", b"1.0");
    let archive = archive.file("manifest.json", list.as_bytes()).end();
    let (streamed, from_file) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let path = from_file.path().join("saved.tar");
    fs::write(&path, &archive).unwrap();
    let storage = from_file.path().join("storage");
    let by_file = jreg(&storage, &["import", &path.display().to_string(), "--into", "a", "--json"]);
    let by_stream = import(streamed.path(), &["--into", "a"], &archive);
    assert_eq!((counts(&by_stream), spooled(&by_stream)), ((1, 0, 0, 0), 0));
    let digest = |output: &Output| {
        let first: Value = serde_json::from_str(text(output).lines().next().unwrap()).unwrap();
        first["digest"].clone()
    };
    assert_eq!(digest(&by_stream), digest(&by_file));
    assert_eq!(summary(&by_stream)["bytes"], summary(&by_file)["bytes"]);
    let process = Process::start(BINARY, streamed.path());
    block_on(async {
        let manifest = process.client().get("/v2/a/alpine/manifests/3").await.json();
        let layer_of = |index: usize| manifest["layers"][index]["digest"].as_str().unwrap();
        assert_eq!(layer_of(0), layer_of(1));
        let pulled = process.client().get(&format!("/v2/a/alpine/blobs/{}", layer_of(0))).await;
        assert!(pulled.body == layer);
    });
    // Beside the server, by its API.
    let mut other = Archive::default();
    other.file("one/layer.tar", &image(8).blobs[1].bytes).file("abc.json", config);
    let list = list.replace("\"two/layer.tar\"", "\"one/layer.tar\"");
    let other = other.file("manifest.json", list.as_bytes()).end();
    let beside = import(streamed.path(), &["--into", "beside"], &other);
    assert_eq!((counts(&beside), spooled(&beside)), ((1, 0, 0, 0), 0), "{}", complaint(&beside));
}

#[test]
fn a_dry_run_writes_nothing_and_says_what_it_would() {
    let one = image(1);
    let archive = layout(&[("v1", &one)], Index::Last);
    let target = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, target.path());
    let dry = import(target.path(), &["--into", "app", "--dry-run"], &archive);
    assert_eq!((counts(&dry), spooled(&dry)), ((1, 0, 0, 0), 0), "{}", complaint(&dry));
    assert_eq!(summary(&dry)["bytes"], all_bytes(&[&one]));
    block_on(async {
        let listed = process.client().get("/v2/_catalog").await.json();
        assert_eq!(listed["repositories"], json!([]));
    });
    process.terminate();
    assert!(!files(target.path()).keys().any(|path| path.starts_with("links")));
}

#[test]
fn damage_in_a_stream_is_that_of_its_image() {
    let (good, bad) = (image(1), image(2));
    let mut archive = layout(&[("good", &good), ("bad", &bad)], Index::Last);
    // Other bytes under the digest of a layer.
    let needle = &bad.blobs[2].bytes[..64];
    let at = archive.windows(64).position(|window| window == needle).unwrap();
    archive[at] ^= 1;
    let target = tempfile::tempdir().unwrap();
    let imported = import(target.path(), &["--into", "app"], &archive);
    assert_eq!((imported.status.code(), counts(&imported)), (Some(1), (1, 0, 0, 1)));
    let said = String::from_utf8_lossy(&imported.stdout).into_owned();
    assert!(said.contains("digest"), "{said}");
    let process = Process::start(BINARY, target.path());
    let tags = || block_on(async { process.client().get("/v2/app/tags/list").await.json() });
    assert_eq!(tags()["tags"], json!(["good"]));
    // One that is cut is refused as a whole, and the next run goes on.
    archive[at] ^= 1;
    for length in [at + 100, archive.len() / 2] {
        let cut = import(target.path(), &["--into", "cut"], &archive[..length]);
        assert_eq!(cut.status.code(), Some(1));
        assert!(complaint(&cut).contains("damaged"), "{}", complaint(&cut));
    }
    let whole = import(target.path(), &["--into", "app"], &archive);
    assert_eq!(counts(&whole), (1, 1, 0, 0), "{}", complaint(&whole));
    assert_eq!(tags()["tags"], json!(["bad", "good"]));
    block_on(check(&process, "app", "bad", &bad));
}

/// However large an archive is, reading it takes no more memory.
#[test]
fn a_large_stream_takes_little_memory() {
    const LAYER_BYTES: usize = 192 << 20;
    let target = tempfile::tempdir().unwrap();
    let mut child = start(target.path(), &["--into", "app"]);
    let mut input = child.stdin.take().unwrap();
    let layer = jreg_testkit::Rng::new(5).bytes(LAYER_BYTES);
    let mut archive = Archive::default();
    archive.file("one/layer.tar", &layer).file("abc.json", b"{}");
    let list = json!([{"Config": "abc.json", "RepoTags": null, "Layers": ["one/layer.tar"]}]);
    let archive = archive.file("manifest.json", list.to_string().as_bytes()).end();
    input.write_all(&archive).unwrap();
    // It has read all but the end of the stream by now, and waits for that.
    let status = fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
    let peak: usize = peak.trim().trim_end_matches(" kB").parse().unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    assert_eq!((counts(&output), spooled(&output)), ((1, 0, 0, 0), 0), "{}", complaint(&output));
    assert!(peak * 1024 < LAYER_BYTES / 2, "{peak} kB");
}
