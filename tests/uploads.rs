//! `jreg upload list` and `cancel`, and `jreg usage`, with the real binary, alone on a folder, beside its server, and on a
//! bucket; and what `gc` and `fsck` say of unfinished uploads.

use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use jreg_testkit::s3::{FaultRule, S3Fault, S3Operation, S3Refusal, S3Server, S3Spec};
use jreg_testkit::{Client, Image, Process, Request, Scenario, push_image};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");

/// More than a part of a folder.
const UPLOAD_BYTES: usize = 300 * 1024;

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test)
}

fn jreg(storage: &Path, args: &[&str]) -> Output {
    Command::new(BINARY).args(args).arg("--storage").arg(storage).output().unwrap()
}

fn text(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

/// The report that `--json` prints last.
#[track_caller]
fn report(output: &Output) -> Value {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    serde_json::from_str(text(output).lines().last().unwrap()).unwrap()
}

/// Begins an upload, sends bytes, and leaves it.
async fn begin(client: &Client, repository: &str) -> String {
    let started = client.send(Request::new("POST", format!("/v2/{repository}/blobs/uploads/")));
    let location = started.await.header("location").unwrap().to_owned();
    let path = format!("/v2/{}", location.split_once("/v2/").unwrap().1);
    let patch = Request::new("PATCH", &path).body(vec![7; UPLOAD_BYTES]);
    assert_eq!(client.send(patch).await.status, 202);
    path.rsplit('/').next().unwrap().to_owned()
}

fn bytes_in(folder: &Path) -> u64 {
    let script =
        "find blobs uploads -type f -printf '%s\\n' 2>/dev/null | awk '{s+=$1} END {print s+0}'";
    let counted = Command::new("sh").args(["-c", script]).current_dir(folder).output().unwrap();
    text(&counted).trim().parse().unwrap()
}

#[test]
fn unfinished_uploads_of_a_folder_are_listed_and_cancelled() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("audit.log");
    let data = folder.path().join("data");
    let flags = ["--audit-log", log.to_str().unwrap()];
    let process = Process::start_with(BINARY, &data, &flags);
    let (first, second) = block_on(async {
        let client = process.client();
        (begin(&client, "team/app").await, begin(&client, "other").await)
    });
    let check = |place: &str| {
        let listed = report(&jreg(&data, &["upload", "list", "--json"]));
        let uploads = listed["uploads"].as_array().unwrap();
        assert_eq!(uploads.len(), 2, "{place}: {listed}");
        assert_eq!(
            (&uploads[0]["id"], &uploads[1]["id"]),
            (&first.as_str().into(), &second.as_str().into())
        );
        let app = &uploads[0];
        assert_eq!((&app["repository"], &app["state"]), (&"team/app".into(), &"open".into()));
        assert_eq!(app["bytes"], UPLOAD_BYTES, "{place}");
        assert!(app["last_byte"].as_u64().unwrap() >= app["started"].as_u64().unwrap(), "{app}");
        assert_eq!(listed["held"]["bytes"], 2 * UPLOAD_BYTES);
        let collected = report(&jreg(&data, &["gc", "--json"]));
        assert_eq!(collected["held"]["uploads"], 2, "{place}: {collected}");
        let checked = report(&jreg(&data, &["fsck", "--json"]));
        assert_eq!(checked["held"]["bytes"], 2 * UPLOAD_BYTES, "{place}: {checked}");
        let shown = text(&jreg(&data, &["gc"]));
        assert!(shown.contains("2 unfinished, which hold 600.0 KiB (jreg upload list)"), "{shown}");
    };
    check("beside its server");
    let none = report(&jreg(&data, &["upload", "cancel", "--older-than", "2h", "--json"]));
    assert_eq!((&none["held"]["uploads"], &none["cancelled"]), (&0.into(), &true.into()));
    process.terminate();
    check("alone");
    let process = Process::start_with(BINARY, &data, &flags);
    let cancelled = report(&jreg(&data, &["upload", "cancel", &first, "--json"]));
    assert_eq!(cancelled["held"]["bytes"], UPLOAD_BYTES);
    let rest = bytes_in(&data);
    assert!(
        (UPLOAD_BYTES as u64..2 * UPLOAD_BYTES as u64).contains(&rest),
        "{rest} bytes are left"
    );
    block_on(async {
        let path = format!("/v2/team/app/blobs/uploads/{first}");
        let patch = Request::new("PATCH", &path).body(vec![7; 10]);
        assert_eq!(process.client().send(patch).await.status, 404, "it cannot be continued");
    });
    let again = jreg(&data, &["upload", "cancel", &first]);
    assert_eq!(again.status.code(), Some(1));
    process.terminate();
    let all = jreg(&data, &["upload", "cancel", "--older-than", "1ms"]);
    assert_eq!(text(&all).lines().last().unwrap(), "1 upload cancelled, 300.0 KiB freed");
    assert_eq!(text(&jreg(&data, &["upload", "list"])), "0 unfinished uploads hold 0 B\n");
    assert!(bytes_in(&data) < 10_000, "{} bytes are left", bytes_in(&data));
    let log = std::fs::read_to_string(&log).unwrap();
    let lines: Vec<Value> = log.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let commands = lines.iter().filter(|line| line["operation"] == "upload_cancel");
    let asked: Vec<_> = commands.map(|line| (&line["asked"]["id"], &line["outcome"])).collect();
    assert!(asked.contains(&(&first.as_str().into(), &"done".into())), "{log}");
    assert!(asked.contains(&(&first.as_str().into(), &"failed".into())), "{log}");
}

/// A push that failed for want of a session, as a crash leaves it.
#[test]
fn a_file_that_no_session_names_is_listed() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    block_on(begin(&process.client(), "app"));
    process.terminate();
    std::fs::remove_dir_all(folder.path().join("uploads")).unwrap();
    let listed = report(&jreg(folder.path(), &["upload", "list", "--json"]));
    let [orphan] = &listed["uploads"].as_array().unwrap()[..] else { panic!("{listed}") };
    assert_eq!((&orphan["state"], &orphan["bytes"]), (&"orphan".into(), &UPLOAD_BYTES.into()));
    assert_eq!((&orphan["repository"], &orphan["started"]), (&Value::Null, &Value::Null));
    let id = orphan["id"].as_str().unwrap();
    let early = jreg(folder.path(), &["upload", "cancel", id]);
    assert_eq!(early.status.code(), Some(1), "a session may be on its way");
    let aged = "find blobs -name '.upload-*' -exec touch -d '1 hour ago' {} +";
    Command::new("sh").args(["-c", aged]).current_dir(folder.path()).status().unwrap();
    assert!(jreg(folder.path(), &["upload", "cancel", id]).status.success());
    assert_eq!(bytes_in(folder.path()), 0);
}

#[test]
fn usage_is_shown_alone_and_beside_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, folder.path());
    let image = Image::plain(1);
    block_on(async {
        let mut scenario = Scenario::new("app", process.client());
        scenario.run(push_image("v1", &image)).await;
        begin(&process.client(), "contract/app").await;
    });
    let bytes: usize = image.blobs.iter().map(|blob| blob.bytes.len()).sum();
    let check = || {
        let output = jreg(folder.path(), &["usage", "contract", "--json"]);
        let total = report(&output);
        assert_eq!((&total["report"], &total["repositories"]), (&"usage".into(), &1.into()));
        assert_eq!(
            (&total["blob_bytes"], &total["upload_bytes"]),
            (&bytes.into(), &UPLOAD_BYTES.into())
        );
        let first: Value = serde_json::from_str(text(&output).lines().next().unwrap()).unwrap();
        assert_eq!(first["event"], "repository");
        assert_eq!(
            (&first["repository"], &first["manifests"]),
            (&"contract/app".into(), &1.into())
        );
        let none = report(&jreg(folder.path(), &["usage", "contract/a", "--json"]));
        assert_eq!(none["repositories"], 0, "a part of a component is no prefix");
    };
    check();
    process.terminate();
    check();
    let shown = text(&jreg(folder.path(), &["usage"]));
    assert!(shown.contains("1 manifest  3 blobs  300.0 KiB in 1 open upload\n"), "{shown}");
}

#[test]
fn unfinished_uploads_of_a_bucket_are_listed_and_cancelled() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let bucket = runtime.block_on(S3Server::start(S3Spec::default()));
    let process = Process::start_in_bucket(BINARY, &bucket, &[]);
    let id = block_on(begin(&process.client(), "app"));
    let jreg = |args: &[&str]| {
        Command::new(BINARY)
            .args(args)
            .args(["--storage", &bucket.storage_url()])
            .env("AWS_ACCESS_KEY_ID", bucket.access_key())
            .env("AWS_SECRET_ACCESS_KEY", bucket.secret_key())
            .output()
            .unwrap()
    };
    let listed = report(&jreg(&["upload", "list", "--json"]));
    assert_eq!(
        (&listed["uploads"][0]["id"], &listed["held"]["bytes"]),
        (&id.as_str().into(), &UPLOAD_BYTES.into())
    );
    report(&jreg(&["upload", "cancel", "--older-than", "1ms", "--json"]));
    let listed = report(&jreg(&["upload", "list", "--json"]));
    assert_eq!(listed["held"]["uploads"], 0, "{listed}");

    // What a crash left before its session was written, and what a slow request may be sending.
    let (upload, part) = runtime.block_on(async {
        let (store, key) = (bucket.store(), "blobs/_/00/orphan".parse().unwrap());
        let upload = store.create_multipart(&key, 1, 5 << 20).await.unwrap();
        let bytes = vec![7; UPLOAD_BYTES].into();
        (upload.clone(), store.put_part(&upload, 0, bytes).await.unwrap())
    });
    let listed = report(&jreg(&["upload", "list", "--json"]));
    let [orphan] = &listed["uploads"].as_array().unwrap()[..] else { panic!("{listed}") };
    assert_eq!((&orphan["state"], &orphan["bytes"]), (&"orphan".into(), &part.size_bytes.into()));
    assert_eq!((&orphan["id"], &orphan["started"]), (&upload.id.as_str().into(), &Value::Null));
    for command in ["gc", "fsck"] {
        let held = &report(&jreg(&[command, "--json"]))["held"];
        assert_eq!((&held["uploads"], &held["bytes"]), (&1.into(), &UPLOAD_BYTES.into()));
    }
    let early = jreg(&["upload", "cancel", &upload.id]);
    assert_eq!(early.status.code(), Some(1), "a session may be on its way");
    assert_eq!(bucket.uploads().len(), 1);
    bucket.age_uploads(Duration::from_secs(3600));
    report(&jreg(&["upload", "cancel", &upload.id, "--json"]));
    assert_eq!(bucket.uploads().len(), 0);

    // Without the permission, what has no session is not listed, and everything else is.
    let refused = FaultRule::new(S3Fault::Refuse(S3Refusal::AccessDenied));
    bucket.inject(refused.on(S3Operation::ListMultipartUploads));
    block_on(begin(&process.client(), "app"));
    let listed = jreg(&["upload", "list", "--json"]);
    assert_eq!(report(&listed)["held"]["uploads"], 1);
    let warning = String::from_utf8_lossy(&listed.stderr).into_owned();
    assert!(warning.contains("cannot list multipart uploads"), "{warning}");

    let wrong = jreg(&["upload", "cancel"]);
    assert_eq!(wrong.status.code(), Some(2), "an id or an age must be given");
    process.terminate();
}
