//! `jreg mirror sync` with the real binary, alone on a folder and beside its server.

use std::path::Path;
use std::process::{Command, Output};

use jreg_testkit::upstream::{RequestKind, ScriptedUpstream, UpstreamFault, UpstreamRule};
use jreg_testkit::{Image, ImageSpec, Manifest, Process, index_of, media};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::get;

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
const NAME: &str = "library/app";
const LOCAL: &str = "docker.io/library/app";

/// A registry, and a folder with settings that mirror it.
pub(crate) struct Scene {
    pub(crate) upstream: ScriptedUpstream,
    folder: TempDir,
}

impl Scene {
    pub(crate) async fn new() -> Self {
        let (upstream, folder) = (ScriptedUpstream::start().await, tempfile::tempdir().unwrap());
        let mirror = format!(
            "insecure-open = true\n[[mirror]]\nnamespace = \"docker.io\"\nupstream = \"{}\"\nfresh = \"0s\"\n",
            upstream.url()
        );
        std::fs::write(folder.path().join("jreg.toml"), mirror).unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        Self { upstream, folder }
    }

    fn data(&self) -> std::path::PathBuf {
        self.folder.path().join("data")
    }

    fn config(&self) -> String {
        self.folder.path().join("jreg.toml").display().to_string()
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the scripted registry runs on this runtime, on other threads"
    )]
    pub(crate) fn serve(&self) -> Process {
        let config = self.config();
        tokio::task::block_in_place(|| {
            Process::start_with(BINARY, &self.data(), &["--config", &config])
        })
    }

    #[expect(
        clippy::disallowed_methods,
        reason = "the scripted registry runs on this runtime, on other threads"
    )]
    fn run(&self, args: &[&str]) -> Output {
        let sync = |storage: &Path| {
            let mut command = Command::new(BINARY);
            command
                .args(["mirror", "sync", "--json", "--config", &self.config(), "--storage"])
                .arg(storage);
            command.args(args).output().unwrap()
        };
        tokio::task::block_in_place(|| sync(&self.data()))
    }

    /// What `jreg ls` prints of a repository.
    #[expect(
        clippy::disallowed_methods,
        reason = "the scripted registry runs on this runtime, on other threads"
    )]
    fn listed(&self, name: &str) -> String {
        let mut command = Command::new(BINARY);
        command.args(["ls", name, "--config", &self.config(), "--storage"]).arg(self.data());
        let output = tokio::task::block_in_place(|| command.output().unwrap());
        String::from_utf8(output.stdout).unwrap()
    }

    /// The tags with their outcomes, and the report.
    #[track_caller]
    pub(crate) fn sync(&self, args: &[&str]) -> (Vec<(String, String)>, Value) {
        let output = self.run(args);
        let text = String::from_utf8(output.stdout).unwrap();
        let mut lines: Vec<Value> =
            text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        let report =
            lines.pop().unwrap_or_else(|| panic!("{}", String::from_utf8_lossy(&output.stderr)));
        let item = |line: &Value| {
            let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
            (text(&line["tag"]), text(&line["outcome"]["outcome"]))
        };
        let mut items: Vec<_> = lines.iter().map(item).collect();
        items.sort();
        (items, report)
    }
}

fn items(expected: &[(&str, &str)]) -> Vec<(String, String)> {
    expected.iter().map(|(tag, outcome)| ((*tag).to_owned(), (*outcome).to_owned())).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn selected_images_are_fetched_once_and_then_pulled_without_the_registry() {
    let scene = Scene::new().await;
    let images: Vec<_> = (1..=4).map(Image::plain).collect();
    for (image, tag) in images.iter().zip(["1.0", "1.1", "1.1-alpine", "2.0"]) {
        scene.upstream.add_image(NAME, Some(tag), image);
    }
    // A referrer of one, and a signature of another by its tag.
    let referrer = Image::referrer(9, &images[0].manifest, "application/vnd.test.sbom");
    scene.upstream.add_image(NAME, None, &referrer);
    let signature = Image::plain(10);
    let signed = images[1].manifest.digest().replace(':', "-");
    scene.upstream.add_image(NAME, Some(&format!("{signed}.sig")), &signature);
    let process = scene.serve();
    let selection = format!("{LOCAL}@>=1, <2");
    let (selected, report) = scene.sync(&[&selection, "--dry-run"]);
    assert_eq!(selected, items(&[("1.0", "selected"), ("1.1", "selected")]), "{report}");
    assert_eq!(scene.upstream.count(RequestKind::ManifestGet), 0);
    let (fetched, report) = scene.sync(&[&selection]);
    assert_eq!(fetched, items(&[("1.0", "fetched"), ("1.1", "fetched")]), "{report}");
    assert_eq!(report["failed"], 0, "{report}");
    assert_eq!(report["manifests_fetched"], 4, "{report}");
    let blobs: usize =
        [&images[0], &images[1], &referrer, &signature].iter().map(|it| it.blobs.len()).sum();
    assert_eq!(scene.upstream.count(RequestKind::BlobGet), blobs);
    scene.upstream.clear_requests();
    let (present, report) = scene.sync(&[&selection]);
    assert_eq!(present, items(&[("1.0", "present"), ("1.1", "present")]), "{report}");
    let counts = scene.upstream.counts();
    let gets =
        [RequestKind::ManifestGet, RequestKind::BlobGet].map(|kind| counts.get(&kind).copied());
    assert_eq!(gets, [None, None], "{counts:?}");
    // All of it is here now.
    let listed = scene.listed(LOCAL);
    for (image, tag) in images.iter().zip(["1.0", "1.1"]) {
        let line = format!("{tag}  {}", image.manifest.digest());
        assert!(listed.lines().any(|found| found.starts_with(&line)), "no {line} in {listed}");
    }
    scene.upstream.add_rule(UpstreamRule::new(UpstreamFault::status(503)));
    let path = format!("/v2/{LOCAL}");
    for (image, tag) in images.iter().zip(["1.0", "1.1"]) {
        super::pull(&process.client(), &path, "", tag, image).await;
    }
    let of_referrer = format!("{path}/manifests/{}", referrer.manifest.digest());
    assert_eq!(get(&process.client(), &of_referrer).await.status, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn only_the_chosen_platforms_of_an_index_are_fetched() {
    let scene = Scene::new().await;
    let image = |seed| ImageSpec { seed, ..ImageSpec::default() }.build();
    let (amd64, arm64) = (image(1), image(2));
    let attestation = Image::referrer(3, &arm64.manifest, "application/vnd.test.attestation");
    let entry = |image: &Image, os: &str, architecture: &str| {
        let mut entry = image.manifest.descriptor();
        entry["platform"] = json!({"os": os, "architecture": architecture});
        entry
    };
    let mut of_arm64 = entry(&attestation, "unknown", "unknown");
    of_arm64["annotations"] = json!({"vnd.docker.reference.digest": arm64.manifest.digest()});
    let entries = [entry(&amd64, "linux", "amd64"), entry(&arm64, "linux", "arm64"), of_arm64];
    for image in [&amd64, &arm64, &attestation] {
        scene.upstream.add_image(NAME, None, image);
    }
    let index: Manifest = index_of(&entries);
    assert_eq!(index.media_type, media::INDEX);
    scene.upstream.add_manifest(NAME, Some("latest"), &index);
    drop(scene.serve());
    // Without a server, the command works on the folder itself.
    let (fetched, report) = scene.sync(&[LOCAL, "--platform", "linux/amd64", "--no-referrers"]);
    assert_eq!(fetched, items(&[("latest", "fetched")]), "{report}");
    let gets =
        |image: &Image| scene.upstream.count_of(RequestKind::ManifestGet, &image.manifest.digest());
    assert_eq!([gets(&amd64), gets(&arm64), gets(&attestation)], [1, 0, 0]);
    assert_eq!(scene.upstream.count(RequestKind::BlobGet), amd64.blobs.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn a_run_stops_at_the_rest_of_the_rate_limit_and_tells_what_failed() {
    let scene = Scene::new().await;
    for (seed, tag) in (1..).zip(["a", "b", "c"]) {
        scene.upstream.add_image(NAME, Some(tag), &Image::plain(seed));
    }
    drop(scene.serve());
    scene.upstream.set_header("ratelimit-remaining", "10;w=21600");
    let all = format!("{LOCAL}:*");
    let (_, report) = scene.sync(&[&all]);
    assert_eq!(
        (&report["is_limited"], &report["manifests_fetched"]),
        (&json!(true), &json!(0)),
        "{report}"
    );
    let (fetched, _) = scene.sync(&[&all, "--rate-limit-rest", "9"]);
    assert_eq!(fetched, items(&[("a", "fetched"), ("b", "fetched"), ("c", "fetched")]));
    scene.upstream.remove_tag(NAME, "b");
    let output = scene.run(&[
        &format!("{LOCAL}:b"),
        &format!("{LOCAL}:c"),
        "local/name",
        "--rate-limit-rest",
        "0",
    ]);
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("\"failed\",\"error\"").count(), 2, "{text}");
    assert!(text.contains("not below the prefix of a mirror"), "{text}");
    for wrong in ["docker.io/library/app@latest", "Docker.io/a", "docker.io/a:[x]"] {
        assert_eq!(scene.run(&[wrong]).status.code(), Some(2), "{wrong}");
    }
    assert_eq!(scene.run(&[LOCAL, "--platform", "linux"]).status.code(), Some(2));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 3)]
async fn what_a_schedule_names_is_fetched_without_a_command() {
    let scene = Scene::new().await;
    let (image, other) = (Image::plain(1), Image::plain(2));
    scene.upstream.add_image(NAME, Some("v1"), &image);
    scene.upstream.add_image(NAME, Some("v2"), &other);
    let mut settings = std::fs::read_to_string(scene.config()).unwrap();
    settings.push_str("sync = ['app:v1', 'gone']\nsync-interval = '1m'\n");
    std::fs::write(scene.config(), settings).unwrap();
    let process = scene.serve();
    let metrics = || async { get(&process.client(), "/metrics").await.body };
    // The first run is after a sixtieth of the interval, more or less.
    let fetched = async {
        loop {
            let text = String::from_utf8(metrics().await.to_vec()).unwrap();
            let has = |result: &str| {
                let line = format!(
                    "jreg_mirror_synced_total{{mirror=\"docker.io\",result=\"{result}\"}} 1"
                );
                text.contains(&line)
            };
            if has("fetched") && has("failed") {
                break;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), fetched).await.unwrap();
    assert_eq!(scene.upstream.count_of(RequestKind::ManifestGet, &other.manifest.digest()), 0);
    scene.upstream.add_rule(UpstreamRule::new(UpstreamFault::status(503)));
    super::pull(&process.client(), &format!("/v2/{LOCAL}"), "", "v1", &image).await;
}
