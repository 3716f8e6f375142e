//! `jreg tag`, `jreg manifest` and `jreg purge` with the real binary: alone on a folder, with the
//! serving process, and on a bucket; their output and exit codes.

use std::path::Path;
use std::process::{Command, Output};

use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::{Client, Image, Process, Scenario, delete, index_of, push_image, push_manifest};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
const APP: &str = "contract/app";

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn jreg(storage: &Path, args: &[&str]) -> Output {
    Command::new(BINARY).args(args).arg("--storage").arg(storage).output().unwrap()
}

fn text(output: &Output) -> String {
    assert!(output.status.success(), "{}", complaint(output));
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn complaint(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

/// The object that `--json` prints.
#[track_caller]
fn line(output: &Output) -> Value {
    let text = text(output);
    assert_eq!(text.lines().count(), 1, "{text}");
    serde_json::from_str(&text).unwrap()
}

fn digest(seed: u64) -> String {
    Image::plain(seed).manifest.digest()
}

/// Pushes these images under `v1`, one after the other.
async fn push(client: &Client, seeds: &[u64]) {
    let mut scenario = Scenario::new("app", client.clone());
    for seed in seeds {
        scenario.run(push_image("v1", &Image::plain(*seed))).await;
    }
}

async fn status(client: &Client, path: &str) -> u16 {
    client.get(&format!("/v2/{APP}/{path}")).await.status
}

/// What the history of `v1` says: digests, or `deleted`, the latest first.
fn history(output: &Output) -> Vec<String> {
    text(output).lines().map(|line| line.split_whitespace().nth(1).unwrap().to_owned()).collect()
}

const HISTORY: &[&str] = &["tag", "history", "contract/app:v1"];

#[test]
fn a_tag_goes_back_beside_its_server_and_alone() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    block_on(push(&process.client(), &[1, 2]));
    let (one, two) = (digest(1), digest(2));
    let printed = jreg(folder.path(), HISTORY);
    assert_eq!(history(&printed), [&*two, &*one]);
    let lines = text(&printed);
    assert!(lines.lines().next().unwrap().ends_with("  anonymous  (current)"), "{lines}");
    let restore = ["tag", "restore", "contract/app:v1", &one];
    assert_eq!(text(&jreg(folder.path(), &restore)), format!("v1: {two} -> {one}\n"));
    assert_eq!(text(&jreg(folder.path(), &restore)), format!("v1: points to {one} already\n"));
    block_on(async {
        let client = process.client();
        let pulled = client.get(&format!("/v2/{APP}/manifests/v1")).await;
        assert_eq!(pulled.header("Docker-Content-Digest"), Some(&*one), "{pulled}");
    });
    process.terminate();
    let back = ["tag", "restore", "contract/app:v1", &two];
    let refused = jreg(folder.path(), &[&back[..], &["--from", &two]].concat());
    assert_eq!(refused.status.code(), Some(1));
    assert!(complaint(&refused).contains("v1"), "{}", complaint(&refused));
    text(&jreg(folder.path(), &[&back[..], &["--from", &one]].concat()));
    assert_eq!(history(&jreg(folder.path(), HISTORY)), [&*two, &*one, &*two, &*one]);
    let listed = line(&jreg(folder.path(), &[HISTORY, &["--json"]].concat()));
    assert_eq!((&listed["event"], &listed["report"]), (&"done".into(), &"history".into()));
    assert_eq!(listed["did"], "tag-history");
    assert_eq!(listed["history"][0]["actor"], "jreg:tag restore");
    assert_eq!(listed["history"][0]["until"], Value::Null);
    assert_eq!(listed["history"][1]["until"], listed["history"][0]["time"]);
}

#[test]
fn what_is_not_there_is_not_restored() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    block_on(push(&process.client(), &[1]));
    process.terminate();
    let absent = digest(9);
    for args in [
        &["tag", "history", "contract/app:v2"][..],
        &["tag", "restore", "contract/app:v1", &absent],
        &["manifest", "restore", &format!("{APP}@{absent}")],
        &["purge", &format!("{APP}@{absent}")],
    ] {
        let failed = jreg(folder.path(), args);
        assert_eq!(failed.status.code(), Some(1), "{args:?}");
        assert!(!complaint(&failed).is_empty() && failed.stdout.is_empty(), "{args:?}");
    }
    assert_eq!(text(&jreg(folder.path(), &["manifest", "list-deleted", APP])), "");
    assert_eq!(history(&jreg(folder.path(), HISTORY)), [digest(1)]);
}

#[test]
fn a_deleted_manifest_comes_back_with_its_tags() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    let (one, two) = (digest(1), digest(2));
    block_on(async {
        let client = process.client();
        push(&client, &[1]).await;
        let mut scenario = Scenario::new("app", client);
        scenario.step(push_manifest("v2", &Image::plain(1).manifest)).await;
        scenario.step(delete(&format!("/v2/{{repo}}/manifests/{one}")).is(202)).await;
        scenario.run(push_image("v2", &Image::plain(2))).await;
    });
    let list = ["manifest", "list-deleted", APP];
    let listed = text(&jreg(folder.path(), &list));
    assert!(listed.ends_with(&format!("  {one}  v1,v2  anonymous\n")), "{listed}");
    let listed = line(&jreg(folder.path(), &[&list[..], &["--json"]].concat()));
    assert_eq!(listed["manifests"][0]["tags"], serde_json::json!(["v1", "v2"]));
    let content = format!("{APP}@{one}");
    let restored = text(&jreg(folder.path(), &["manifest", "restore", &content, "--tags"]));
    let expected = format!(
        "{content} is restored\nv1: absent -> {one}\nv2: exists again, and stays what it is\n"
    );
    assert_eq!(restored, expected);
    block_on(async {
        let client = process.client();
        assert_eq!(status(&client, "manifests/v1").await, 200);
        let v2 = client.get(&format!("/v2/{APP}/manifests/v2")).await;
        assert_eq!(v2.header("Docker-Content-Digest"), Some(&*two));
    });
    assert_eq!(text(&jreg(folder.path(), &list)), "");
    process.terminate();
}

#[test]
fn a_purged_manifest_does_not_come_back() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    let (one, two) = (Image::plain(1), Image::plain(2));
    let index = index_of(&[two.manifest.descriptor()]);
    block_on(async {
        let client = process.client();
        push(&client, &[1, 2, 1]).await;
        let mut scenario = Scenario::new("app", client.clone());
        scenario.step(push_manifest("both", &index)).await;
        Scenario::new("other", client).run(push_image("v1", &one)).await;
    });
    let (first, second) = (format!("{APP}@{}", digest(1)), format!("{APP}@{}", digest(2)));
    let refused = jreg(folder.path(), &["purge", &first]);
    assert_eq!(refused.status.code(), Some(1));
    assert!(complaint(&refused).contains("it is tagged v1"), "{}", complaint(&refused));
    let refused = jreg(folder.path(), &["purge", &second]);
    assert!(complaint(&refused).contains("references it"), "{}", complaint(&refused));
    block_on(async {
        let target = format!("/v2/{{repo}}/manifests/{}", digest(1));
        Scenario::new("app", process.client()).step(delete(&target).is(202)).await;
    });
    let purged = text(&jreg(folder.path(), &["purge", &first]));
    assert!(purged.starts_with(&format!("{first} was deleted before and cannot be")), "{purged}");
    for blob in &one.blobs {
        let stays = format!("removed  {}: its bytes stay for contract/other\n", blob.digest());
        assert!(purged.contains(&stays), "{purged}");
    }
    let restore = ["manifest", "restore", &first];
    assert_eq!(jreg(folder.path(), &restore).status.code(), Some(1));
    assert_eq!(text(&jreg(folder.path(), &["manifest", "list-deleted", APP])), "");
    let purged = text(&jreg(folder.path(), &["purge", &second, "--force"]));
    assert!(purged.starts_with(&format!("{second} is deleted and cannot be restored")), "{purged}");
    assert!(purged.contains("of two sweeps that are 24 h apart"), "{purged}");
    block_on(async {
        let client = process.client();
        for blob in one.blobs.iter().chain(&two.blobs) {
            assert_eq!(status(&client, &format!("blobs/{}", blob.digest())).await, 404);
        }
        for blob in &one.blobs {
            let path = format!("/v2/contract/other/blobs/{}", blob.digest());
            assert_eq!(client.get(&path).await.status, 200);
        }
        assert_eq!(status(&client, &format!("manifests/{}", digest(2))).await, 404);
        assert_eq!(status(&client, "manifests/both").await, 200);
        push(&client, &[1]).await;
        assert_eq!(status(&client, "manifests/v1").await, 200);
    });
    process.terminate();
}

#[test]
fn commands_on_a_bucket_run_beside_its_servers() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bucket = runtime.block_on(S3Server::start(S3Spec::default()));
    let process = Process::start_in_bucket(BINARY, &bucket, &[]);
    block_on(push(&process.client(), &[1, 2]));
    let jreg = |args: &[&str]| {
        let mut command = Command::new(BINARY);
        command.args(args).args(["--storage", &bucket.storage_url()]);
        command.env("AWS_ACCESS_KEY_ID", bucket.access_key());
        command.env("AWS_SECRET_ACCESS_KEY", bucket.secret_key()).output().unwrap()
    };
    let (one, content) = (digest(1), format!("{APP}@{}", digest(2)));
    text(&jreg(&["tag", "restore", "contract/app:v1", &one]));
    text(&jreg(&["purge", &content]));
    block_on(async {
        let client = process.client();
        let pulled = client.get(&format!("/v2/{APP}/manifests/v1")).await;
        assert_eq!(pulled.header("Docker-Content-Digest"), Some(&*one), "{pulled}");
        let target = format!("/v2/{{repo}}/manifests/{one}");
        Scenario::new("app", client).step(delete(&target).is(202)).await;
    });
    text(&jreg(&["manifest", "restore", &format!("{APP}@{one}"), "--tags"]));
    let listed = jreg(HISTORY);
    assert_eq!(history(&listed), [&*one, "deleted", &*one, &digest(2), &*one]);
    process.terminate();
}

#[test]
fn wrong_command_lines_say_what_is_expected() {
    let folder = tempfile::tempdir().unwrap();
    for (args, expected) in [
        (&["tag", "history", "app"][..], "it must be NAME:TAG"),
        (&["tag", "history", "app:-x"], "it must be NAME:TAG"),
        (&["tag", "restore", "app:v1", "sha256:x"], "sha256:x"),
        (&["manifest", "list-deleted", "APP"], "APP"),
        (&["manifest", "restore", "app:v1"], "it must be NAME@DIGEST"),
        (&["purge", "app"], "it must be NAME@DIGEST"),
    ] {
        let wrong = jreg(folder.path(), args);
        assert_eq!(wrong.status.code(), Some(2), "{args:?}");
        assert!(complaint(&wrong).contains(expected), "{args:?}: {}", complaint(&wrong));
    }
}
