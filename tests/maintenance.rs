//! `jreg gc`, `jreg fsck` and `jreg explain` with the real binary: alone on a folder, with the
//! serving process, and on a bucket; their output and exit codes.

use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;
use std::process::{Command, Output};

use jreg_storage::ListRequest;
use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::{Client, Image, Process, Scenario, push_blob_to, push_image, sha256};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn jreg(storage: &Path, args: &[&str]) -> Output {
    Command::new(BINARY).args(args).arg("--storage").arg(storage).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The objects that `--json` prints, one per line.
#[track_caller]
fn lines(output: &Output) -> Vec<Value> {
    assert!(output.status.success(), "{}", complaint(output));
    text(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Sets the modification time of every file of a folder into the past.
fn age(folder: &Path, ago: &str) {
    let script =
        format!("find . -mindepth 1 -name '.*' -prune -o -type f -exec touch -d '{ago}' {{}} +");
    let aged = Command::new("sh").args(["-c", &script]).current_dir(folder.join(".")).status();
    assert!(aged.unwrap().success());
}

/// Pushes an image to `contract/app`, and an unreferenced blob to `loose`.
async fn fill(client: &Client) -> (Image, String) {
    let (image, loose) = (Image::plain(1), "no manifest names this");
    let mut scenario = Scenario::new("app", client.clone());
    scenario.run(push_image("v1", &image)).await;
    scenario.step(push_blob_to("loose", loose)).await;
    (image, sha256(loose.as_bytes()))
}

#[test]
fn gc_of_a_folder_runs_alone_and_beside_its_server() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    let (image, loose) = block_on(fill(&process.client()));
    let none = lines(&jreg(folder.path(), &["gc", "--json"]));
    assert_eq!(none.len(), 1, "{none:?}");
    assert_eq!(none[0]["links"]["removed"], 0);
    assert_eq!(none[0]["links"]["young"], 1);
    age(folder.path(), "2 days ago");
    let dry = lines(&jreg(folder.path(), &["gc", "--dry-run", "--json"]));
    let [action, done] = &dry[..] else { panic!("{dry:?}") };
    assert_eq!((&action["do"], &action["digest"]), (&"remove-link".into(), &Value::from(&*loose)));
    assert_eq!((&done["event"], &done["links"]["removed"]), (&"done".into(), &1.into()));
    assert!(text(&jreg(folder.path(), &["gc", "--dry-run"])).starts_with("remove link"));
    process.terminate();
    // Not served now. The bytes are deleted an hour after their last link.
    let done = lines(&jreg(folder.path(), &["gc", "--json"]));
    let done = done.last().unwrap();
    assert_eq!((&done["links"]["removed"], &done["queued"]), (&1.into(), &1.into()));
    age(&folder.path().join("gc"), "2 hours ago");
    let process = Process::start(BINARY, folder.path());
    let done = lines(&jreg(folder.path(), &["gc", "--json"]));
    assert_eq!(done.last().unwrap()["blobs"]["removed"], 1);
    block_on(async {
        let client = process.client();
        assert_eq!(client.get(&format!("/v2/loose/blobs/{loose}")).await.status, 404);
        for blob in &image.blobs {
            let pulled = client.get(&format!("/v2/contract/app/blobs/{}", blob.digest())).await;
            assert!((pulled.status, &pulled.body) == (200, &blob.bytes), "{pulled}");
        }
    });
}

#[test]
fn the_socket_is_the_owners_and_goes_with_its_process() {
    let folder = tempfile::tempdir().unwrap();
    let socket = folder.path().join(".control");
    let process = Process::start(BINARY, folder.path());
    let metadata = socket.symlink_metadata().unwrap();
    assert!(metadata.file_type().is_socket());
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    process.terminate();
    assert!(!socket.exists());
    Process::start(BINARY, folder.path()).kill();
    assert!(socket.symlink_metadata().is_ok(), "it could not remove it");
    assert!(jreg(folder.path(), &["gc"]).status.success(), "and it succeeds");
    let process = Process::start(BINARY, folder.path());
    assert!(jreg(folder.path(), &["gc"]).status.success());
    process.terminate();
}

#[test]
fn gc_runs_in_a_folder_whose_path_is_too_long_for_a_socket() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("x".repeat(120));
    let process = Process::start(BINARY, &deep);
    let done = lines(&jreg(&deep, &["gc", "--json"]));
    assert_eq!(done[0]["report"], "gc");
    process.terminate();
    assert!(!deep.join(".control").exists());
}

#[test]
fn what_keeps_something_is_explained() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    let (image, loose) = block_on(fill(&process.client()));
    let manifest = sha256(&image.manifest.bytes);
    let config = image.blobs[0].digest();
    let explain = |what: &str| jreg(folder.path(), &["explain", what]);
    let response = text(&explain(&format!("contract/app@{manifest}")));
    assert!(response.starts_with("contract/app: a manifest of "), "{response}");
    assert!(response.contains("\n  kept by tag v1\n"), "{response}");
    let response = text(&explain(&config));
    assert!(response.contains(&format!("\n  kept by manifest {manifest}\n")), "{response}");
    let response = text(&explain(&loose));
    assert!(response.contains("unreferenced: the first GC run in 25 h or later"), "{response}");
    let absent = explain(&format!("loose@{manifest}"));
    assert_eq!(absent.status.code(), Some(1));
    assert_eq!(text(&absent), format!("loose does not have {manifest}\n"));
    let wrong = explain("app@v1");
    assert_eq!(wrong.status.code(), Some(2));
    assert!(complaint(&wrong).contains("NAME@DIGEST"), "{}", complaint(&wrong));
}

#[test]
fn a_check_finds_nothing_wrong_and_ends_with_zero() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    block_on(fill(&process.client()));
    let beside = jreg(folder.path(), &["fsck", "--deep"]);
    assert_eq!(beside.status.code(), Some(0), "{}", text(&beside));
    process.terminate();
    let alone = jreg(folder.path(), &["fsck"]);
    assert_eq!(alone.status.code(), Some(0), "{}", text(&alone));
    assert!(text(&alone).contains("0 damaged, 0 untidy"), "{}", text(&alone));
}

#[test]
fn damage_ends_a_check_with_one() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    block_on(fill(&process.client()));
    let blobs = folder.path().join("blobs");
    let emptied = "find blobs -type f -exec truncate -s 1 {} +";
    assert!(
        Command::new("sh")
            .args(["-c", emptied])
            .current_dir(folder.path())
            .status()
            .unwrap()
            .success()
    );
    assert!(blobs.exists());
    let checked = jreg(folder.path(), &["fsck"]);
    assert_eq!(checked.status.code(), Some(1), "{}", text(&checked));
    assert!(text(&checked).contains("DAMAGE"), "{}", text(&checked));
}

#[test]
fn wrong_command_lines_end_with_two_and_say_what_is_allowed() {
    let folder = tempfile::tempdir().unwrap();
    Process::start(BINARY, folder.path()).terminate();
    let short = jreg(folder.path(), &["gc", "--grace", "soon"]);
    assert_eq!(short.status.code(), Some(2));
    assert!(complaint(&short).contains("a duration such as 90m"), "{}", complaint(&short));
    let short = jreg(folder.path(), &["gc", "--grace", "1h"]);
    assert_eq!(short.status.code(), Some(1));
    assert!(complaint(&short).contains("too short: it must be 7200 s"), "{}", complaint(&short));
    assert!(!complaint(&short).contains("retrying"), "{}", complaint(&short));
    let token = ["token", "create", "--name", "a", "--allow", "pull:a", "--expires", "0s"];
    let short = jreg(folder.path(), &token);
    assert_eq!(short.status.code(), Some(1));
    assert!(complaint(&short).contains("at least 1 s"), "{}", complaint(&short));
    let absent = jreg(&folder.path().join("absent"), &["gc"]);
    assert!(complaint(&absent).contains("does not exist: set --storage"), "{}", complaint(&absent));
    assert_eq!(absent.status.code(), Some(1));
    assert_eq!(jreg(&folder.path().join("absent"), &["fsck"]).status.code(), Some(3));
}

/// Every path below a folder.
fn paths(folder: &Path) -> Vec<String> {
    let found = Command::new("find").arg(folder).output().unwrap();
    let mut paths: Vec<_> = text(&found).lines().map(str::to_owned).collect();
    paths.sort();
    paths
}

#[test]
fn folders_without_a_registry_stay_as_they_are() {
    let above = tempfile::tempdir().unwrap();
    let (empty, foreign) = (above.path().join("empty"), above.path().join("foreign"));
    std::fs::create_dir_all(&empty).unwrap();
    std::fs::create_dir_all(foreign.join("docker/registry/v2/blobs")).unwrap();
    let before = paths(above.path());
    let digest = format!("sha256:{}", "0".repeat(64));
    let content = format!("app@{digest}");
    let commands = [
        &["gc", "--sweep"][..],
        &["fsck", "--repair"],
        &["explain", &digest],
        &["token", "list"],
        &["tag", "history", "app:v1"],
        &["manifest", "restore", &content],
        &["purge", &content],
    ];
    for command in commands {
        for (folder, why) in [
            (&empty, "holds no registry: set --storage to the folder that jreg serves"),
            (&foreign, "it looks like the storage of distribution or Harbor"),
            (&above.path().join("absent"), "does not exist: set --storage"),
        ] {
            let refused = jreg(folder, command);
            assert!(!refused.status.success() && complaint(&refused).contains(why), "{command:?}");
            assert_eq!(paths(above.path()), before, "{command:?}");
        }
    }
    let refused = jreg(&foreign, &["serve", "--listen", "127.0.0.1:0"]);
    assert_eq!(refused.status.code(), Some(1));
    let told = complaint(&refused);
    assert!(told.contains("it looks like the storage of distribution or Harbor"), "{told}");
    assert_eq!(paths(above.path()), before);
    std::fs::create_dir(empty.join("lost+found")).unwrap();
    Process::start(BINARY, &empty).terminate();
    assert!(empty.join("jreg.json").exists());
}

#[test]
fn commands_create_no_registry_in_a_bucket() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bucket = runtime.block_on(S3Server::start(S3Spec::default()));
    for command in [&["gc"][..], &["fsck", "--repair"], &["token", "list"]] {
        let refused = Command::new(BINARY)
            .args(command)
            .args(["--storage", &bucket.storage_url()])
            .env("AWS_ACCESS_KEY_ID", bucket.access_key())
            .env("AWS_SECRET_ACCESS_KEY", bucket.secret_key())
            .output()
            .unwrap();
        let told = complaint(&refused);
        assert!(told.contains("the storage holds no registry"), "{command:?}: {told}");
    }
    let page = runtime.block_on(bucket.store().list(&ListRequest::below(""))).unwrap();
    assert!(page.entries.is_empty(), "{:?}", page.entries);
}

#[test]
fn gc_of_a_bucket_runs_beside_its_servers() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bucket = runtime.block_on(S3Server::start(S3Spec::default()));
    let process = Process::start_in_bucket(BINARY, &bucket, &[]);
    block_on(fill(&process.client()));
    let gc = Command::new(BINARY)
        .args(["gc", "--json"])
        .args(["--storage", &bucket.storage_url()])
        .env("AWS_ACCESS_KEY_ID", bucket.access_key())
        .env("AWS_SECRET_ACCESS_KEY", bucket.secret_key())
        .output()
        .unwrap();
    let done = lines(&gc);
    assert_eq!(done[0]["manifests"]["scanned"], 1);
    assert_eq!(done[0]["swept"], true);
    process.terminate();
}
