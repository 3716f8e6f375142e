//! `jreg backup`, `jreg restore` and `jreg purge --backup` with the real binary: beside a server, alone, and between
//! a folder and a bucket.

use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::{Client, Image, Process, Request, Scenario, push_image};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
const APP: &str = "contract/app";

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test)
}

fn jreg(args: &[&str]) -> Output {
    Command::new(BINARY).args(args).output().unwrap()
}

fn complaint(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[track_caller]
fn text(output: &Output) -> String {
    let out = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{out}{}", complaint(output));
    out
}

#[track_caller]
fn report(output: &Output) -> Value {
    serde_json::from_str(&text(output)).unwrap()
}

async fn push(client: Client, tag: &str, seed: u64) {
    Scenario::new("app", client).run(push_image(tag, &Image::plain(seed))).await;
}

async fn pull(client: &Client, tag: &str, seed: u64) {
    let image = Image::plain(seed);
    let pulled = client.get(&format!("/v2/{APP}/manifests/{tag}")).await;
    assert!(pulled.status == 200 && pulled.body == image.manifest.bytes, "{tag}: {pulled}");
    for blob in &image.blobs {
        let pulled = client.get(&format!("/v2/{APP}/blobs/{}", blob.digest())).await;
        assert!(pulled.status == 200 && pulled.body == blob.bytes, "{pulled}");
    }
}

fn path(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// The check at the end belongs to the restore: killed in it, it is run again, and nothing else opens the storage.
#[test]
fn fixed_a_restore_that_is_killed_in_its_check_is_run_again() {
    let work = tempfile::tempdir().unwrap();
    let (storage, backups) = (path(work.path(), "storage"), path(work.path(), "backups"));
    let process = Process::start(BINARY, Path::new(&storage));
    block_on(push(process.client(), "v1", 1));
    process.terminate();
    text(&jreg(&["backup", "--to", &backups, "--storage", &storage]));
    let target = path(work.path(), "target");
    let restore = ["restore", "--from", &backups, "--storage", &target];
    let mut slow = Command::new(BINARY);
    // The check takes a second for each of its requests.
    slow.args(restore).env("JREG_GC_REQUESTS_PER_SECOND", "1");
    let mut running = slow.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let tag = Path::new(&target).join("repositories").join(APP).join("_tags/v1");
    block_on(async {
        for _ in 0..3000 {
            if tag.exists() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(tag.exists());
        tokio::time::sleep(Duration::from_millis(500)).await;
    });
    assert!(running.try_wait().unwrap().is_none(), "it is being checked");
    running.kill().unwrap();
    running.wait().unwrap();
    for command in [&["ls", "--storage", &target][..], &["fsck", "--storage", &target]] {
        let refused = jreg(command);
        assert!(!refused.status.success(), "{command:?}");
        let complaint = complaint(&refused);
        assert!(complaint.contains("a backup is being restored"), "{command:?}: {complaint}");
    }
    text(&jreg(&restore));
    let process = Process::start(BINARY, Path::new(&target));
    block_on(pull(&process.client(), "v1", 1));
    process.terminate();
}

/// Regression: a restore made access tokens and signing keys unreadable.
#[test]
fn fixed_access_tokens_are_good_after_a_restore() {
    let work = tempfile::tempdir().unwrap();
    let (storage, backups) = (path(work.path(), "storage"), path(work.path(), "backups"));
    let serve =
        |folder: &str| Process::start_with(BINARY, Path::new(folder), &["--authentication"]);
    let process = serve(&storage);
    let create = ["token", "create", "--name", "ci", "--allow", "pull:**", "--storage", &storage];
    let token = text(&jreg(&create));
    let header = format!("Bearer {}", token.trim());
    let exchange = async |client: &Client| {
        let request = Request::new("GET", "/token?scope=repository:a:pull");
        client.send(request.header("authorization", &*header)).await.status
    };
    assert_eq!(block_on(exchange(&process.client())), 200);
    process.terminate();
    text(&jreg(&["backup", "--to", &backups, "--storage", &storage, "--with-secrets"]));
    let target = path(work.path(), "target");
    // It ends with fsck.
    text(&jreg(&["restore", "--from", &backups, "--storage", &target]));
    let process = serve(&target);
    assert_eq!(block_on(exchange(&process.client())), 200);
    process.terminate();
}

#[test]
fn a_served_folder_is_backed_up_and_comes_back() {
    let work = tempfile::tempdir().unwrap();
    let (storage, backups) = (path(work.path(), "storage"), path(work.path(), "backups"));
    let process = Process::start(BINARY, Path::new(&storage));
    block_on(push(process.client(), "v1", 1));
    let back_up = ["backup", "--to", &backups, "--storage", &storage, "--json"];
    let first = report(&jreg(&back_up));
    assert_eq!(
        (&first["report"], &first["tags"], &first["copied"]),
        (&"backup".into(), &1.into(), &3.into())
    );
    block_on(push(process.client(), "v2", 2));
    let second = report(&jreg(&back_up));
    assert_eq!((&second["tags"], &second["copied"]), (&2.into(), &3.into()));
    // Not while it is served.
    let busy = jreg(&["restore", "--from", &backups, "--storage", &storage]);
    assert_eq!(busy.status.code(), Some(1));
    assert!(complaint(&busy).contains("that no process uses"), "{}", complaint(&busy));
    process.terminate();
    // And alone.
    let third = report(&jreg(&back_up));
    assert_eq!((&third["tags"], &third["copied"]), (&2.into(), &0.into()));
    let listed = report(&jreg(&["backup", "list", &backups, "--json"]));
    assert_eq!(listed["snapshots"].as_array().unwrap().len(), 3);
    let printed = text(&jreg(&["backup", "list", &backups]));
    assert_eq!(printed.lines().count(), 3);
    // The latest, and the first.
    let (latest, old) = (path(work.path(), "latest"), path(work.path(), "old"));
    let restored = report(&jreg(&["restore", "--from", &backups, "--storage", &latest, "--json"]));
    assert_eq!(restored["restored"]["snapshot"], third["snapshot"]);
    assert_eq!(restored["fsck"]["damage"], 0);
    let snapshot = first["snapshot"].as_str().unwrap();
    text(&jreg(&["restore", "--from", &backups, snapshot, "--storage", &old]));
    for (storage, tags) in [(&latest, &[("v1", 1), ("v2", 2)][..]), (&old, &[("v1", 1)])] {
        let process = Process::start(BINARY, Path::new(storage));
        block_on(async {
            for (tag, seed) in tags {
                pull(&process.client(), tag, *seed).await;
            }
            let gone = process.client().get(&format!("/v2/{APP}/manifests/v9")).await;
            assert_eq!(gone.status, 404);
            // It is a registry like any other.
            push(process.client(), "v3", 3).await;
        });
    }
    let full = jreg(&["restore", "--from", &backups, "--storage", &latest]);
    assert!(complaint(&full).contains("not empty"), "{}", complaint(&full));
    // What is purged is purged from backups.
    let of = format!("{APP}@{}", Image::plain(1).manifest.digest());
    let purged = text(&jreg(&["purge", &of, "--backup", &backups]));
    assert!(purged.contains("removed from"), "{purged}");
    let again = jreg(&["purge", &of, "--backup", &backups]);
    assert_eq!(again.status.code(), Some(1));
    let pruned = report(&jreg(&["backup", "prune", &backups, "--keep", "0s", "--json"]));
    assert_eq!(pruned["removed"].as_array().unwrap().len(), 2);
    let last = path(work.path(), "last");
    text(&jreg(&["restore", "--from", &backups, "--storage", &last]));
    let process = Process::start(BINARY, Path::new(&last));
    block_on(async {
        pull(&process.client(), "v2", 2).await;
        let gone = process.client().get(&format!("/v2/{APP}/manifests/v1")).await;
        assert_eq!(gone.status, 404);
    });
}

#[test]
fn a_bucket_becomes_a_folder_and_a_folder_a_bucket() {
    block_on(async {
        let (bucket, other) =
            (S3Server::start(S3Spec::default()).await, S3Server::start(S3Spec::default()).await);
        let process = Process::start_in_bucket(BINARY, &bucket, &[]);
        push(process.client(), "v1", 1).await;
        let work = tempfile::tempdir().unwrap();
        let (key, secret) = (bucket.access_key().to_owned(), bucket.secret_key().to_owned());
        let run = |args: Vec<String>| {
            let (key, secret) = (key.clone(), secret.clone());
            tokio::task::spawn_blocking(move || {
                let mut command = Command::new(BINARY);
                command
                    .args(args)
                    .env("AWS_ACCESS_KEY_ID", key)
                    .env("AWS_SECRET_ACCESS_KEY", secret);
                command.output().unwrap()
            })
        };
        let words = |args: &[&str]| args.iter().map(|arg| (*arg).to_owned()).collect::<Vec<_>>();
        let (backups, folder) = (path(work.path(), "backups"), path(work.path(), "folder"));
        bucket.take_requests();
        let url = bucket.storage_url();
        let done = run(words(&["backup", "--to", &backups, "--storage", &url])).await.unwrap();
        text(&done);
        // The bucket is only read.
        let requests = bucket.take_requests();
        assert!(requests.iter().all(|request| ["GET", "HEAD"].contains(&&*request.method)));
        let done =
            run(words(&["restore", "--from", &backups, "--storage", &folder])).await.unwrap();
        text(&done);
        let there = Process::start(BINARY, Path::new(&folder));
        pull(&there.client(), "v1", 1).await;
        // Backups in a bucket, and a restore to it: below prefixes of their own.
        let in_bucket = other.storage_url().replace("/?", "/backups?");
        let target = other.storage_url().replace("/?", "/storage?");
        let done = run(words(&["backup", "--to", &in_bucket, "--storage", &folder])).await.unwrap();
        text(&done);
        let done =
            run(words(&["restore", "--from", &in_bucket, "--storage", &target])).await.unwrap();
        text(&done);
        let restored = other.keys().into_iter().filter(|key| key.starts_with("storage/")).count();
        assert!(restored > 5);
    });
}

#[test]
fn places_that_hold_no_backups_are_left_alone() {
    let work = tempfile::tempdir().unwrap();
    let storage = path(work.path(), "storage");
    let process = Process::start(BINARY, Path::new(&storage));
    block_on(push(process.client(), "v1", 1));
    process.terminate();
    let mine = path(work.path(), "mine");
    std::fs::create_dir(&mine).unwrap();
    std::fs::write(path(Path::new(&mine), "file"), "x").unwrap();
    let same = ["backup", "--to", &storage, "--storage", &storage];
    let inside = ["backup", "--to", &format!("{storage}/new/backups"), "--storage", &storage];
    let archive = format!("{storage}/all.tar");
    let export = ["export", "contract/app:v1", "--to", &archive, "--storage", &storage];
    let foreign = ["backup", "--to", &mine, "--storage", &storage];
    let memory = ["backup", "--to", "memory:", "--storage", &storage];
    let absent = path(work.path(), "absent");
    let none = ["restore", "--from", &absent, "--storage", &path(work.path(), "new")];
    let empty = ["backup", "--to", &path(work.path(), "b"), "--storage", &absent];
    for args in
        [&same[..], &inside, &export, &foreign, &memory, &none, &empty, &["backup", "list", &mine]]
    {
        let failed = jreg(args);
        assert_eq!(failed.status.code(), Some(1), "{args:?}");
        assert!(!complaint(&failed).is_empty(), "{args:?}");
    }
    assert!(complaint(&jreg(&inside)).contains("is in the storage of the registry"));
    assert!(!Path::new(&archive).exists() && !Path::new(&format!("{storage}/new")).exists());
    assert_eq!(std::fs::read_dir(&mine).unwrap().count(), 1);
    assert!(!Path::new(&absent).exists() && !Path::new(&path(work.path(), "new")).exists());
    for wrong in [&["backup"][..], &["backup", "prune", "x"], &["restore", "--from", "x", "no-id"]]
    {
        assert_eq!(jreg(wrong).status.code(), Some(2), "{wrong:?}");
    }
    // A store of backups is no registry.
    let backups = path(work.path(), "backups");
    text(&jreg(&["backup", "--to", &backups, "--storage", &storage]));
    let refused = jreg(&["serve", "--listen", "127.0.0.1:0", "--storage", &backups]);
    assert_eq!(refused.status.code(), Some(1));
}
