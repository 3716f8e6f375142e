//! `jreg serve --read-only`: what is served, what is refused, and that nothing in the storage changes.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use jreg_config::Settings;
use jreg_storage::testing::RecordingStore;
use jreg_storage::{Key, MemoryStore, Store};
use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::{
    Client, Image, Process, Request, Scenario, ServerSpec, StoreKind, TestServer, delete, get,
    head, patch, post, push_image, push_manifest, put, sha256,
};

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
const APP: &str = "contract/app";

fn block_on<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(test)
}

async fn push(client: Client, tag: &str, image: &Image) {
    Scenario::new("app", client).run(push_image(tag, image)).await;
}

/// Everything that can be read is, and everything else is refused.
async fn read_all_and_write_nothing(client: Client) {
    let (image, other) = (Image::plain(1), Image::plain(2));
    let digest = image.manifest.digest();
    let blob = image.blobs[1].digest();
    let mut scenario = Scenario::new("app", client);
    scenario
        .run(vec![
            get("/v2/{repo}/manifests/v1").is(200).gives(image.manifest.bytes.clone()),
            head(&format!("/v2/{{repo}}/manifests/{digest}")).is(200),
            get(&format!("/v2/{{repo}}/blobs/{blob}")).is(200).gives(image.blobs[1].bytes.clone()),
            head(&format!("/v2/{{repo}}/blobs/{blob}")).is(200),
            get("/v2/{repo}/tags/list").is(200),
            get("/v2/_catalog").is(200),
            get(&format!("/v2/{{repo}}/referrers/{digest}")).is(200),
            get("/readyz").is(200),
            get("/v2/{repo}/manifests/v2").is(404),
        ])
        .await;
    let unsent = sha256(b"x");
    let refused = vec![
        post("/v2/{repo}/blobs/uploads/"),
        post(&format!("/v2/{{repo}}/blobs/uploads/?digest={unsent}")).body("x"),
        post(&format!("/v2/{{repo}}/blobs/uploads/?mount={blob}&from={APP}")),
        patch("/v2/{repo}/blobs/uploads/01890a5d-ac96-774b-bcce-b302099a8057").body("x"),
        put(&format!(
            "/v2/{{repo}}/blobs/uploads/01890a5d-ac96-774b-bcce-b302099a8057?digest={unsent}"
        ))
        .body("x"),
        delete("/v2/{repo}/blobs/uploads/01890a5d-ac96-774b-bcce-b302099a8057"),
        push_manifest("v1", &image.manifest),
        push_manifest("v2", &other.manifest),
        delete("/v2/{repo}/manifests/v1"),
        delete(&format!("/v2/{{repo}}/manifests/{digest}")),
        delete(&format!("/v2/{{repo}}/blobs/{blob}")),
    ];
    for step in refused {
        let refused = scenario.step(step.is(405).code("UNSUPPORTED").has("Allow", "GET, HEAD"));
        let refused = refused.await;
        assert!(refused.to_string().contains("read-only"), "{refused}");
    }
}

#[test]
fn a_store_sees_no_write() {
    block_on(async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let writer = ServerSpec::default().store(StoreKind::Given(Arc::clone(&store)));
        let writer = TestServer::start(writer).await;
        push(writer.client(), "v1", &Image::plain(1)).await;
        writer.stop().await;
        let recording = Arc::new(RecordingStore::new(store));
        let reader = ServerSpec::with(|settings| settings.read_only = true)
            .store(StoreKind::Given(recording.clone()));
        let reader = TestServer::start(reader).await;
        read_all_and_write_nothing(reader.client()).await;
        reader.stop().await;
        let calls = recording.take();
        let is_read =
            |call: &jreg_storage::testing::Call| call.is_read() || call.operation == "file";
        assert!(!calls.is_empty() && calls.iter().all(is_read), "{calls:?}");
    });
}

/// Every file below a folder, with its bytes.
fn files(folder: &Path) -> Vec<(PathBuf, Option<Vec<u8>>)> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => found.extend(files(&path)),
            false => found.push((path.clone(), std::fs::read(&path).ok())),
        }
    }
    found.sort();
    found
}

#[test]
fn a_folder_stays_as_it_is_and_two_may_serve_it() {
    let folder = tempfile::tempdir().unwrap();
    let writer = Process::start(BINARY, folder.path());
    block_on(push(writer.client(), "v1", &Image::plain(1)));
    writer.terminate();
    let before = files(folder.path());
    let one = Process::start_with(BINARY, folder.path(), &["--read-only"]);
    let two = Process::start_with(BINARY, folder.path(), &["--read-only", "on"]);
    for reader in [&one, &two] {
        block_on(read_all_and_write_nothing(reader.client()));
    }
    one.terminate();
    two.terminate();
    assert!(files(folder.path()) == before, "something in the folder has changed");
    // Nothing is created where nothing is.
    let empty = tempfile::tempdir().unwrap();
    let flags = ["serve", "--listen", "127.0.0.1:0", "--read-only", "--storage"];
    let failed = std::process::Command::new(BINARY).args(flags).arg(empty.path()).output().unwrap();
    assert_eq!(failed.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&failed.stderr).contains("holds no registry"));
    assert_eq!(files(empty.path()), []);
}

#[test]
fn a_bucket_gets_no_request_that_writes() {
    block_on(async {
        let bucket = S3Server::start(S3Spec::default()).await;
        let writer = Process::start_in_bucket(BINARY, &bucket, &[]);
        push(writer.client(), "v1", &Image::plain(1)).await;
        writer.terminate();
        bucket.take_requests();
        let reader = Process::start_in_bucket(BINARY, &bucket, &["--read-only"]);
        read_all_and_write_nothing(reader.client()).await;
        reader.terminate();
        let requests = bucket.take_requests();
        let writes: Vec<_> = requests
            .iter()
            .filter(|request| !["GET", "HEAD"].contains(&request.method.as_str()))
            .map(|request| format!("{} {}", request.method, request.key))
            .collect();
        assert!(!requests.is_empty());
        assert_eq!(writes, [""; 0]);
    });
}

/// A replica gets records in any order: what has not come yet is not absent.
#[test]
fn what_has_not_arrived_is_unavailable() {
    block_on(async {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let writer = ServerSpec::default().store(StoreKind::Given(Arc::clone(&store)));
        let writer = TestServer::start(writer).await;
        let image = Image::plain(1);
        push(writer.client(), "v1", &image).await;
        writer.stop().await;
        let digest = image.manifest.digest();
        let manifest = key(&format!("repositories/{APP}/_manifests/{}", digest.replace(':', "/")));
        let late = store.get(&manifest).await.unwrap();
        store.delete(&manifest, None).await.unwrap();
        let blob = image.blobs[1].digest();
        let bytes = location(&*store, &blob).await;
        let bytes_late = store.get(&bytes).await.unwrap();
        store.delete(&bytes, None).await.unwrap();
        let settings = Settings {
            retry_after: Duration::from_secs(7),
            read_only: true,
            ..Settings::default()
        };
        let spec = ServerSpec { settings, ..ServerSpec::default() };
        let reader = TestServer::start(spec.store(StoreKind::Given(Arc::clone(&store)))).await;
        let mut scenario = Scenario::new("app", reader.client());
        for late in ["/v2/{repo}/manifests/v1".to_owned(), format!("/v2/{{repo}}/blobs/{blob}")] {
            scenario.run(vec![get(&late).is(503).has("Retry-After", "7")]).await;
            scenario.run(vec![head(&late).is(503).has("Retry-After", "7")]).await;
        }
        // What no record names is absent.
        scenario.run(vec![get(&format!("/v2/{{repo}}/manifests/{digest}")).is(404)]).await;
        let mode = || jreg_storage::PutMode::Create;
        store.put(&bytes, bytes_late.bytes, mode()).await.unwrap();
        store.put(&manifest, late.bytes, mode()).await.unwrap();
        scenario
            .run(vec![
                get("/v2/{repo}/manifests/v1").is(200).gives(image.manifest.bytes.clone()),
                get(&format!("/v2/{{repo}}/blobs/{blob}")).is(200),
            ])
            .await;
    });
}

fn key(text: &str) -> Key {
    text.parse().unwrap()
}

/// Where the bytes of a blob lie.
async fn location(store: &dyn Store, digest: &str) -> Key {
    let (algorithm, hex) = digest.split_once(':').unwrap();
    let link = format!("links/{algorithm}/{}/{hex}/contract.app", hex.get(..2).unwrap());
    let record = store.get(&key(&link)).await.unwrap();
    let record: serde_json::Value = serde_json::from_slice(&record.bytes).unwrap();
    key(record["location"].as_str().unwrap())
}

/// A replica accepts the tokens of the registry that it copies, and issues such.
#[test]
fn tokens_need_the_keys_of_the_original() {
    let folder = tempfile::tempdir().unwrap();
    let flags = ["--authentication", "on", "--anonymous-pull", "on"];
    let writer = Process::start_with(BINARY, folder.path(), &["--deletes", "off"]);
    block_on(push(writer.client(), "v1", &Image::plain(1)));
    writer.terminate();
    let start = |more: &[&str]| {
        let flags = [&["serve", "--listen", "127.0.0.1:0", "--read-only"][..], &flags, more];
        let mut command = std::process::Command::new(BINARY);
        command.args(flags.concat()).arg("--storage").arg(folder.path()).output().unwrap()
    };
    let failed = start(&[]);
    let why = String::from_utf8_lossy(&failed.stderr).into_owned();
    assert!(why.contains("auth/keys") && why.contains("read-only"), "{why}");
    Process::start_with(BINARY, folder.path(), &flags).terminate();
    let reader = [&["--read-only"][..], &flags].concat();
    let reader = Process::start_with(BINARY, folder.path(), &reader);
    block_on(async {
        let client = reader.client();
        let pulled = client.send(Request::new("GET", format!("/v2/{APP}/manifests/v1"))).await;
        assert_eq!(pulled.status, 200);
    });
}
