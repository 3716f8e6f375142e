//! Tests of the whole API.
#![allow(clippy::unwrap_used)]

use std::io::Write;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use jreg_config::Settings;
use jreg_net::server::{Body, Response, RunningServer, listen};
use jreg_oci::{Algorithm, Digest};
use jreg_storage::testing::{Fault, FaultyStore, GateStore, SyscallFaults};
use jreg_storage::{ErrorKind, FsOptions, FsStore, MemoryStore, PutMode, Store, Syscall};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tracing_subscriber::layer::SubscriberExt;

use crate::app::App;

const API_VERSION: &str = "docker-distribution-api-version";
const SANDBOX: &str = "sandbox; default-src 'none'";

async fn app(settings: Settings) -> App {
    App::build(settings, Arc::new(MemoryStore::new())).await.unwrap()
}

fn request(method: &str, target: &str) -> http::request::Builder {
    Request::builder().method(method).uri(target).header("Host", "test")
}

async fn respond(app: &App, request: Request<Body>) -> Response {
    app.api().respond(request).await
}

async fn send(app: &App, method: &str, target: &str) -> Response {
    respond(app, request(method, target).body(Body::empty()).unwrap()).await
}

/// A HEAD has the headers of its GET, without a body; also for errors.
#[tokio::test]
async fn head_has_the_headers_of_its_get_and_no_body() {
    let app = app(Settings::default()).await;
    let absent = format!("sha256:{}", "0".repeat(64));
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    let put = request("PUT", "/v2/app/manifests/v1")
        .header("Content-Type", "application/vnd.oci.image.index.v1+json")
        .body(Body::from(manifest))
        .unwrap();
    assert_eq!(respond(&app, put).await.status(), 201);
    for target in [
        "/",
        "/livez",
        "/readyz",
        "/openapi.yaml",
        "/token",
        "/nothing",
        "/v2",
        "/v2/",
        "/v2/app/manifests/v1",
        &format!("/v2/app/blobs/{absent}"),
        "/v2/nothing",
    ] {
        let asked = |method| {
            let request = request(method, target).header("X-Request-ID", "1");
            request.body(Body::empty()).unwrap()
        };
        let (get, head) = (respond(&app, asked("GET")).await, respond(&app, asked("HEAD")).await);
        assert_eq!(head.status(), get.status(), "{target}");
        assert_eq!(head.headers(), get.headers(), "{target}");
        let length = get.headers()["content-length"].to_str().unwrap().to_owned();
        assert_eq!(body(get).await.len().to_string(), length, "{target}");
        assert!(body(head).await.is_empty(), "{target}");
    }
}

/// Each path rejects other methods in the same way, with an `Allow` header.
#[tokio::test]
async fn other_methods_are_refused_with_those_that_are_allowed() {
    let app = app(Settings::default()).await;
    for (method, target, allowed) in [
        ("POST", "/", "GET, HEAD"),
        ("OPTIONS", "/metrics", "GET, HEAD"),
        ("DELETE", "/token", "GET, HEAD, POST"),
        ("POST", "/v2/", "GET, HEAD"),
        ("OPTIONS", "/v2/app/tags/list", "GET, HEAD"),
    ] {
        let response = send(&app, method, target).await;
        assert_eq!(response.status(), 405, "{method} {target}");
        assert_eq!(response.headers()["allow"], allowed, "{method} {target}");
        assert_eq!(code(response).await, "UNSUPPORTED", "{method} {target}");
    }
}

async fn body(response: Response) -> Bytes {
    response.into_body().collect().await.unwrap().to_bytes()
}

async fn code(response: Response) -> String {
    let body: serde_json::Value = serde_json::from_slice(&body(response).await).unwrap();
    body["errors"][0]["code"].as_str().unwrap().to_owned()
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

async fn push(app: &App, bytes: &'static [u8]) {
    let target = format!("/v2/a/blobs/uploads/?digest={}", digest(bytes));
    let response = respond(app, request("POST", &target).body(Body::from(bytes)).unwrap()).await;
    assert_eq!(response.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn every_response_has_a_request_id_and_the_apis_its_version() {
    let app = app(Settings::default()).await;
    for (path, api) in [
        ("/", false),
        ("/livez", false),
        ("/nothing", false),
        ("/v2", true),
        ("/v2/", true),
        ("/v2/nothing", true),
        ("/v2/a/blobs/bad", true),
    ] {
        let ask = request("GET", path).header("X-Request-ID", "one.2-three_4");
        let response = respond(&app, ask.body(Body::empty()).unwrap()).await;
        assert_eq!(response.headers()["x-request-id"], "one.2-three_4", "{path}");
        assert_eq!(response.headers().contains_key(API_VERSION), api, "{path}");
        assert_eq!(response.headers()["x-content-type-options"], "nosniff", "{path}");
        let sandbox = response.headers().get("content-security-policy");
        assert_eq!(sandbox.is_some_and(|it| *it == SANDBOX), api, "{path}");
    }
}

/// A pushed page may contain a script, which must not run in the registry's origin.
#[tokio::test]
async fn c21_what_was_pushed_is_no_page_of_the_registry() {
    let app = app(Settings::default()).await;
    let page = "<script>alert(1)</script>";
    let digest = Digest::of(Algorithm::Sha256, page.as_bytes());
    let push = request("POST", &format!("/v2/a/blobs/uploads/?digest={digest}"));
    let pushed = respond(&app, push.body(Body::from(page)).unwrap()).await;
    assert_eq!(pushed.status(), StatusCode::CREATED);
    let index = r#"{"schemaVersion":2,"manifests":[]}"#;
    let [other, html, typed] = ["application/vnd.example+json", "text/html", "image/svg+xml"]
        .map(|kind| index.replace('}', &format!(r#","mediaType":"{kind}"}}"#)));
    for (content_type, body, status) in [
        (Some("application/vnd.oci.image.index.v1+json"), index, 201),
        (Some("application/vnd.example+json"), other.as_str(), 201),
        (Some("text/html"), html.as_str(), 400),
        (Some("TEXT/HTML; charset=utf-8"), html.as_str(), 400),
        (Some("image/svg+xml"), typed.as_str(), 400),
        (None, typed.as_str(), 400),
    ] {
        let mut push = request("PUT", "/v2/a/manifests/v1");
        if let Some(content_type) = content_type {
            push = push.header("Content-Type", content_type);
        }
        let pushed = respond(&app, push.body(Body::from(body.to_owned())).unwrap()).await;
        assert_eq!(pushed.status().as_u16(), status, "{content_type:?}");
    }
    for (target, range) in [
        (format!("/v2/a/blobs/{digest}"), None),
        (format!("/v2/a/blobs/{digest}"), Some("bytes=0-1")),
        (format!("/v2/a/blobs/{digest}"), Some("bytes=0-1,3-4")),
        ("/v2/a/manifests/v1".to_owned(), None),
    ] {
        let mut get = request("GET", &target);
        if let Some(range) = range {
            get = get.header("Range", range);
        }
        let got = respond(&app, get.body(Body::empty()).unwrap()).await;
        assert!(got.status().is_success(), "{target}");
        assert_eq!(got.headers()["content-disposition"], "attachment", "{target}");
        assert_eq!(got.headers()["content-security-policy"], SANDBOX, "{target}");
        assert_eq!(got.headers()["x-content-type-options"], "nosniff", "{target}");
    }
}

#[tokio::test]
async fn c21_other_media_types_of_manifests_are_allowed_by_a_setting() {
    let manifest_media_types = vec!["*/*".parse().unwrap()];
    let app = app(Settings { manifest_media_types, ..Settings::default() }).await;
    let push = request("PUT", "/v2/a/manifests/v1").header("Content-Type", "text/plain");
    let pushed = respond(&app, push.body(Body::from(r#"{"x":1}"#)).unwrap()).await;
    assert_eq!(pushed.status(), StatusCode::CREATED);
}

#[tokio::test]
async fn paths_that_are_nothing_are_404_with_a_body() {
    let app = app(Settings::default()).await;
    for path in ["/nothing", "/v1/", "/livez/", "//", "/v2/a/nothing", "/v2x/"] {
        let response = send(&app, "GET", path).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert_eq!(code(response).await, "UNSUPPORTED", "{path}");
    }
    for (method, path) in [("POST", "/livez"), ("DELETE", "/"), ("BREW", "/v2/")] {
        let response = send(&app, method, path).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED, "{path}");
        let allow: Vec<_> = response.headers().get_all("allow").iter().collect();
        assert_eq!(allow.len(), 1, "{path}: {allow:?}");
        assert_eq!(code(response).await, "UNSUPPORTED", "{path}");
    }
}

#[tokio::test]
async fn warnings_are_in_every_response_of_the_api() {
    let warning = vec!["moving soon".to_owned(), "read only on Friday".to_owned()];
    let app = app(Settings { warning, ..Settings::default() }).await;
    for path in ["/v2/", "/v2/nothing"] {
        let response = send(&app, "GET", path).await;
        let warnings: Vec<_> = response.headers().get_all("warning").iter().collect();
        assert_eq!(warnings, [r#"299 - "moving soon""#, r#"299 - "read only on Friday""#]);
    }
    assert!(!send(&app, "GET", "/livez").await.headers().contains_key("warning"));
}

#[tokio::test]
async fn deletes_can_be_switched_off() {
    let app = app(Settings { deletes: false, ..Settings::default() }).await;
    push(&app, b"x").await;
    for target in [format!("/v2/a/blobs/{}", digest(b"x")), "/v2/a/manifests/latest".to_owned()] {
        let response = send(&app, "DELETE", &target).await;
        assert_eq!(response.status(), StatusCode::METHOD_NOT_ALLOWED);
        assert!(response.headers().contains_key("allow"));
        assert_eq!(code(response).await, "UNSUPPORTED");
    }
    let head = send(&app, "HEAD", &format!("/v2/a/blobs/{}", digest(b"x"))).await;
    assert_eq!(head.status(), StatusCode::OK);
}

#[tokio::test]
async fn locations_stand_below_the_public_address_if_there_is_one() {
    for (public_url, prefix) in
        [("none", ""), ("https://r.example/base/", "https://r.example/base")]
    {
        let origin = jreg_config::Origin::Flag;
        let name = "public-url".to_owned();
        let values = vec![public_url.to_owned()];
        let settings = Settings::resolve([jreg_config::Assignment { name, values, origin }]);
        let app = app(settings.unwrap()).await;
        let mut ask = request("POST", "/v2/a/blobs/uploads/");
        ask.headers_mut().unwrap().insert("Host", "evil.example".parse().unwrap());
        let response = respond(&app, ask.body(Body::empty()).unwrap()).await;
        let location = response.headers()["location"].to_str().unwrap().to_owned();
        assert!(location.starts_with(&format!("{prefix}/v2/a/blobs/uploads/")), "{location}");
    }
}

#[tokio::test]
async fn responses_without_a_body_have_no_length() {
    let app = app(Settings::default()).await;
    push(&app, b"x").await;
    let target = format!("/v2/a/blobs/{}", digest(b"x"));
    for method in ["GET", "HEAD"] {
        let ask = request(method, &target).header("If-None-Match", "*");
        let response = respond(&app, ask.body(Body::empty()).unwrap()).await;
        assert_eq!(response.status(), StatusCode::NOT_MODIFIED);
        assert!(!response.headers().contains_key("content-length"), "{method}");
    }
    let begun = send(&app, "POST", "/v2/a/blobs/uploads/").await;
    let location = begun.headers()["location"].to_str().unwrap();
    for method in ["GET", "HEAD", "DELETE"] {
        let response = send(&app, method, location).await;
        assert_eq!(response.status(), StatusCode::NO_CONTENT);
        assert!(!response.headers().contains_key("content-length"), "{method}");
    }
}

/// Words that must not occur in the response to a store failure.
const INSIDE: [&str; 4] = ["links", "fault", "blobs/", "unavailable:"];

#[tokio::test]
async fn fixed_a_failure_of_the_store_is_5xx_and_says_nothing_of_it() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
    let settings = Settings { cache_bytes: 0, ..Settings::default() };
    let app = App::build(settings, store.clone()).await.unwrap();
    push(&app, b"x").await;
    let target = format!("/v2/a/blobs/{}", digest(b"x"));
    for (kind, status, message) in [
        (ErrorKind::Unavailable, 503, "the registry is unavailable"),
        (ErrorKind::Throttled, 503, "the registry is unavailable"),
        (ErrorKind::Full, 507, "the storage is full"),
        (ErrorKind::Refused, 500, "the registry failed"),
    ] {
        store.inject(Fault::fail(kind).from_then_on());
        for method in ["HEAD", "GET"] {
            let response = send(&app, method, &target).await;
            assert_eq!(response.status().as_u16(), status, "{method} {kind:?}");
            assert_eq!(response.headers()["retry-after"], "5");
            let id = response.headers()["x-request-id"].to_str().unwrap().to_owned();
            let text = String::from_utf8(body(response).await.to_vec()).unwrap();
            assert!(INSIDE.iter().all(|word| !text.contains(word)), "{text}");
            assert!(method == "HEAD" || text.contains(&id), "{text}");
            assert!(method == "HEAD" || text.contains(message), "{text}");
        }
        store.heal();
    }
    assert_eq!(send(&app, "HEAD", &target).await.status(), StatusCode::OK);
}

/// Requests `/readyz` once a second until the verdict has settled.
async fn settled_readiness(app: &App) -> Response {
    for _ in 0..4 {
        tokio::time::advance(Duration::from_secs(1)).await;
        send(app, "GET", "/readyz").await;
    }
    send(app, "GET", "/readyz").await
}

#[tokio::test(start_paused = true)]
async fn readiness_follows_the_store_and_asks_it_once_a_second() {
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
    let app = App::build(Settings::default(), store.clone()).await.unwrap();
    let calls = store.calls();
    for _ in 0..10 {
        assert_eq!(send(&app, "GET", "/readyz").await.status(), StatusCode::OK);
    }
    assert_eq!(store.calls() - calls, 1);
    store.inject(Fault::fail(ErrorKind::Unavailable).from_then_on());
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(send(&app, "GET", "/readyz").await.status(), StatusCode::OK, "one failure");
    settled_readiness(&app).await;
    for path in ["/readyz", "/ready"] {
        let response = send(&app, "GET", path).await;
        assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
        assert_eq!(code(response).await, "UNAVAILABLE");
    }
    assert_eq!(send(&app, "GET", "/livez").await.status(), StatusCode::OK);
    store.heal();
    tokio::time::advance(Duration::from_secs(1)).await;
    let once = send(&app, "GET", "/readyz").await;
    assert_eq!(once.status(), StatusCode::SERVICE_UNAVAILABLE, "one success");
    assert_eq!(settled_readiness(&app).await.status(), StatusCode::OK);
}

/// A folder store whose system calls a test can block, and the application on it.
async fn app_over_held_disk(folder: &std::path::Path) -> (App, Arc<dyn Store>, Arc<SyscallFaults>) {
    let faults = Arc::new(SyscallFaults::default());
    let store = FsStore::open_with(folder, FsOptions::default(), faults.clone()).unwrap();
    let store: Arc<dyn Store> = Arc::new(store);
    (App::build(Settings::default(), store.clone()).await.unwrap(), store, faults)
}

#[tokio::test(start_paused = true)]
async fn readiness_sees_a_write_that_waits_for_the_disk() {
    let folder = tempfile::tempdir().unwrap();
    let (app, store, faults) = app_over_held_disk(folder.path()).await;
    faults.hold(Syscall::Sync);
    let writing =
        tokio::spawn(
            async move { store.put(&"a".parse().unwrap(), "1".into(), PutMode::Create).await },
        );
    let held = faults.clone();
    assert!(tokio::task::spawn_blocking(move || held.waits_for_held(1)).await.unwrap());
    assert_eq!(send(&app, "GET", "/readyz").await.status(), StatusCode::OK);
    tokio::time::advance(Duration::from_secs(31)).await;
    assert_eq!(settled_readiness(&app).await.status(), StatusCode::SERVICE_UNAVAILABLE);
    faults.heal();
    writing.await.unwrap().unwrap();
    assert_eq!(settled_readiness(&app).await.status(), StatusCode::OK);
}

/// No pull works without the content, and a missing linked folder is no proof of absence.
#[tokio::test(start_paused = true)]
async fn registry_whose_linked_folder_is_away_is_not_ready() {
    for linked in ["blobs", "links", "repositories", "catalog", "repositories/team"] {
        let folder = tempfile::tempdir().unwrap();
        let (elsewhere, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (disk, unmounted) = (elsewhere.path().join("disk"), away.path().join("disk"));
        std::fs::create_dir(&disk).unwrap();
        let link = folder.path().join(linked);
        std::fs::create_dir_all(link.parent().unwrap()).unwrap();
        std::os::unix::fs::symlink(&disk, &link).unwrap();
        let (app, _store, _faults) = app_over_held_disk(folder.path()).await;
        assert_eq!(send(&app, "GET", "/readyz").await.status(), StatusCode::OK, "{linked}");
        std::fs::rename(&disk, &unmounted).unwrap();
        for is_empty in [false, true] {
            if is_empty {
                std::fs::create_dir(&disk).unwrap();
            }
            let response = settled_readiness(&app).await;
            assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE, "{linked} {is_empty}");
            assert_eq!(code(response).await, "UNAVAILABLE");
        }
        std::fs::remove_dir(&disk).unwrap();
        std::fs::rename(&unmounted, &disk).unwrap();
        assert_eq!(settled_readiness(&app).await.status(), StatusCode::OK, "{linked}");
    }
}

#[tokio::test(start_paused = true)]
async fn registry_on_a_full_disk_is_ready() {
    let folder = tempfile::tempdir().unwrap();
    let (app, store, faults) = app_over_held_disk(folder.path()).await;
    faults.fill_disk();
    for _ in 0..3 {
        let put = store.put(&"a/b".parse().unwrap(), "1".into(), PutMode::Create).await;
        assert_eq!(put.unwrap_err().kind(), ErrorKind::Full);
        tokio::time::advance(Duration::from_secs(31)).await;
        assert_eq!(send(&app, "GET", "/readyz").await.status(), StatusCode::OK);
    }
}

#[tokio::test]
async fn a_registry_that_waits_for_its_first_certificate_is_not_ready() {
    let folder = tempfile::tempdir().unwrap();
    let ca_file = folder.path().join("ca.pem");
    std::fs::write(&ca_file, jreg_testkit::TestCa::new().pem()).unwrap();
    let settings = Settings {
        acme_domains: vec!["registry.test".to_owned()],
        acme_ca_file: Some(ca_file.display().to_string()),
        ..Settings::default()
    };
    let app = App::build(settings, Arc::new(MemoryStore::new())).await.unwrap();
    let response = send(&app, "GET", "/readyz").await;
    assert_eq!(response.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(code(response).await, "UNAVAILABLE");
    assert_eq!(send(&app, "GET", "/livez").await.status(), StatusCode::OK);
}

#[tokio::test]
async fn metrics_count_what_was_asked() {
    let app = app(Settings::default()).await;
    push(&app, b"hello").await;
    body(send(&app, "GET", &format!("/v2/a/blobs/{}", digest(b"hello"))).await).await;
    send(&app, "GET", "/v2/a/b/c").await;
    let response = send(&app, "GET", "/metrics").await;
    assert_eq!(response.headers()["content-type"], "text/plain; version=0.0.4; charset=utf-8");
    let text = String::from_utf8(body(response).await.to_vec()).unwrap();
    for line in [
        r#"jreg_http_requests_total{endpoint="upload_start",status="201"} 1"#,
        r#"jreg_http_requests_total{endpoint="blob_get",status="200"} 1"#,
        r#"jreg_http_requests_total{endpoint="unknown",status="404"} 1"#,
        r#"jreg_http_received_bytes_total{endpoint="upload_start"} 5"#,
        r#"jreg_http_sent_bytes_total{endpoint="blob_get"} 5"#,
        r#"jreg_store_requests_total{operation="read",outcome="ok"} 1"#,
        "jreg_http_requests_in_flight 1",
        "jreg_uploads_in_progress 0",
    ] {
        assert!(text.lines().any(|found| found == line), "no line {line:?} in:\n{text}");
    }
    let ask = request("GET", "/metrics").header("Accept", "application/openmetrics-text;q=0.9");
    let response = respond(&app, ask.body(Body::empty()).unwrap()).await;
    assert!(response.headers()["content-type"].to_str().unwrap().starts_with("application/openm"));
}

/// A log that the test reads.
#[derive(Clone, Debug, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Log {
    /// The lines since the last call.
    fn take(&self) -> Vec<serde_json::Value> {
        let bytes = std::mem::take(&mut *self.0.lock().unwrap());
        let text = String::from_utf8(bytes).unwrap();
        text.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

#[tokio::test]
async fn every_request_is_one_line_and_every_failure_one_more() {
    let log = Log::default();
    let writer = log.clone();
    let layer = jreg_telemetry::logging::json(move || writer.clone());
    let filter =
        tracing_subscriber::filter::Targets::new().with_target("jreg", tracing::Level::INFO);
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    let _guard = tracing::subscriber::set_default(subscriber);
    // While there is just one subscriber, a line that another test comes by first, on a thread
    // without it, counts as unaccepted. With two, all are asked.
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let store = Arc::new(FaultyStore::new(Arc::new(MemoryStore::new())));
    let settings = Settings { cache_bytes: 0, ..Settings::default() };
    let app = App::build(settings, store.clone()).await.unwrap();
    push(&app, b"hello").await;
    // Another test may have registered the callsite first, without a subscriber.
    tracing::callsite::rebuild_interest_cache();
    log.take();

    let target = format!("/v2/a/blobs/{}", digest(b"hello"));
    let ask = request("GET", &target).header("X-Request-ID", "r1").header("User-Agent", "test/1");
    let response = respond(&app, ask.body(Body::empty()).unwrap()).await;
    assert_eq!(log.take(), [] as [serde_json::Value; 0], "the response is not finished");
    body(response).await;
    let lines = log.take();
    let [line] = lines.as_slice() else { panic!("{lines:?}") };
    for (field, value) in [
        ("level", "INFO"),
        ("message", "request"),
        ("request_id", "r1"),
        ("endpoint", "blob_get"),
        ("method", "GET"),
        ("path", target.as_str()),
        ("repository", "a"),
        ("reference", digest(b"hello").to_string().as_str()),
        ("user_agent", "test/1"),
    ] {
        assert_eq!(line[field], value, "{line}");
    }
    assert_eq!((&line["status"], &line["sent_bytes"]), (&200.into(), &5.into()), "{line}");
    assert!(line["duration_ms"].as_f64().unwrap() >= 0.0);
    assert!(line.get("aborted").is_none() && line.get("code").is_none(), "{line}");

    drop(send(&app, "GET", &target).await);
    assert_eq!(log.take()[0]["aborted"], true);
    body(send(&app, "GET", "/v2/a/manifests/none").await).await;
    assert_eq!(log.take()[0]["code"], "MANIFEST_UNKNOWN");
    body(send(&app, "GET", "/livez").await).await;
    assert_eq!(log.take().len(), 0, "probes that succeed are not worth a line");

    store.inject(Fault::fail(ErrorKind::Refused).from_then_on());
    body(send(&app, "GET", &target).await).await;
    let lines = log.take();
    let [failure, line] = lines.as_slice() else { panic!("{lines:?}") };
    assert_eq!(failure["level"], "ERROR");
    assert_eq!(failure["request_id"], line["request_id"]);
    assert!(failure["error"].as_str().unwrap().contains("a fault that the test asked for"));
    assert_eq!(line["code"], "UNKNOWN");
}

/// A push of the same digest changes no tag, and has no such line.
#[tokio::test]
async fn each_change_of_a_tag_is_a_line_with_its_digests() {
    let log = Log::default();
    let writer = log.clone();
    let layer = jreg_telemetry::logging::json(move || writer.clone());
    let filter =
        tracing_subscriber::filter::Targets::new().with_target("jreg::tag", tracing::Level::INFO);
    let subscriber = tracing_subscriber::registry().with(filter).with(layer);
    let _guard = tracing::subscriber::set_default(subscriber);
    let _another = tracing::Dispatch::new(tracing_subscriber::registry());
    let app = app(Settings::default()).await;
    let [one, two] = [1, 2].map(|number| {
        format!(r#"{{"schemaVersion":2,"manifests":[],"annotations":{{"n":"{number}"}}}}"#)
    });
    let put = async |body: &str| {
        let put = request("PUT", "/v2/a/manifests/v1").header("X-Request-ID", "r1");
        let put = put.header("Content-Type", "application/vnd.oci.image.index.v1+json");
        let response = respond(&app, put.body(Body::from(body.to_owned())).unwrap()).await;
        assert_eq!(response.status(), StatusCode::CREATED);
    };
    put(&one).await;
    tracing::callsite::rebuild_interest_cache();
    log.take();
    put(&two).await;
    put(&two).await;
    let deleted = send(&app, "DELETE", "/v2/a/manifests/v1").await;
    assert_eq!(deleted.status(), StatusCode::ACCEPTED);
    let lines = log.take();
    let [moved, deleted] = lines.as_slice() else { panic!("{lines:?}") };
    let [one, two] = [one, two].map(|body| digest(body.as_bytes()).to_string());
    for (field, value) in [
        ("level", "INFO"),
        ("message", "tag changed"),
        ("request_id", "r1"),
        ("repository", "a"),
        ("tag", "v1"),
        ("identity", "anonymous"),
        ("before", one.as_str()),
        ("after", two.as_str()),
    ] {
        assert_eq!(moved[field], value, "{moved}");
    }
    assert_eq!(moved["change"].as_str().unwrap().len(), 26);
    assert_eq!((&deleted["before"], deleted.get("after")), (&two.into(), None), "{deleted}");
}

async fn serve(settings: Settings, store: Arc<dyn Store>) -> RunningServer {
    let app = App::build(settings, store).await.unwrap();
    app.serve(listen("127.0.0.1:0".parse().unwrap()).unwrap()).unwrap()
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    String::from_utf8(response).unwrap()
}

/// A client that writes its whole request before reading must not get a connection error.
#[tokio::test]
async fn an_http_2_request_has_so_many_headers_and_bytes() {
    let running = serve(Settings::default(), Arc::new(MemoryStore::new())).await;
    let io = hyper_util::rt::TokioIo::new(TcpStream::connect(running.local_addr()).await.unwrap());
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut client, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    for (count, bytes, due) in [(90, 10, 200), (101, 10, 431), (60, 900, 200), (90, 900, 431)] {
        let mut request = Request::get("http://test/v2/").body(Body::empty()).unwrap();
        let value = http::HeaderValue::from_str(&"y".repeat(bytes)).unwrap();
        for number in 0..count {
            let name = http::HeaderName::try_from(format!("x-{number}")).unwrap();
            request.headers_mut().insert(name, value.clone());
        }
        let response = client.send_request(request).await.unwrap();
        assert_eq!(response.status().as_u16(), due, "{count} of {bytes}");
    }
}

#[tokio::test]
async fn a_refusal_is_seen_by_a_client_that_sends_everything_first() {
    let server = serve(Settings::default(), Arc::new(MemoryStore::new())).await;
    let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
    let length = 6 * 1024 * 1024;
    let head = format!(
        "PUT /v2/a/manifests/latest HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\
         content-length: {length}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&vec![b' '; length]).await.unwrap();
    let response = read_all(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 413 "), "{response}");
    assert!(response.contains("MANIFEST_INVALID"), "{response}");
}

#[tokio::test]
async fn expect_continue_is_refused_before_the_body() {
    let server = serve(Settings::default(), Arc::new(MemoryStore::new())).await;
    let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
    let ask = |target: &str| {
        format!(
            "PUT {target} HTTP/1.1\r\nhost: test\r\nexpect: 100-continue\r\n\
             connection: close\r\ncontent-length: 5\r\n\r\n"
        )
    };
    let digest = digest(b"hello");
    let refused = ask(&format!("/v2/a/blobs/uploads/none?digest={digest}"));
    stream.write_all(refused.as_bytes()).await.unwrap();
    let response = read_all(&mut stream).await;
    assert!(response.starts_with("HTTP/1.1 404 "), "{response}");

    let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
    let begin = "POST /v2/a/blobs/uploads/ HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n";
    stream.write_all(begin.as_bytes()).await.unwrap();
    let response = read_all(&mut stream).await;
    let location = response.lines().find_map(|line| line.strip_prefix("location: ")).unwrap();
    let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
    let wanted = ask(&format!("{location}?digest={digest}"));
    stream.write_all(wanted.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    stream.read_exact(&mut go_on).await.unwrap();
    assert_eq!(&go_on, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    assert!(read_all(&mut stream).await.starts_with("HTTP/1.1 201 "));
}

/// A push completes even if the client disconnects after its last byte.
#[tokio::test]
async fn a_push_goes_on_without_its_client_and_a_shutdown_waits_for_it() {
    let store = Arc::new(GateStore::new(Arc::new(MemoryStore::new())));
    let server = serve(Settings::default(), store.clone()).await;
    let mut held = store.hold(|call| call.operation == "put" && call.key.starts_with("links/"));
    let mut stream = TcpStream::connect(server.local_addr()).await.unwrap();
    let digest = digest(b"hello");
    let push = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nhost: test\r\n\
         content-length: 5\r\n\r\nhello"
    );
    stream.write_all(push.as_bytes()).await.unwrap();
    tokio::time::timeout(Duration::from_secs(30), held.reached(1)).await.unwrap();
    drop(stream);
    let stopping = tokio::spawn(server.shutdown());
    held.release();
    stopping.await.unwrap();
    let app = App::build(Settings::default(), store).await.unwrap();
    let head = send(&app, "HEAD", &format!("/v2/a/blobs/{digest}")).await;
    assert_eq!(head.status(), StatusCode::OK);
}

#[tokio::test]
async fn manifests_that_do_not_come_take_no_room() {
    use std::sync::atomic::{AtomicUsize, Ordering};
    const PUSHES: usize = 40;
    // Room for two bodies of unknown length.
    let settings = Settings { manifest_buffer_bytes: 8 << 20, ..Settings::default() };
    let app = Arc::new(app(settings).await);
    let (begun, go_on) = (Arc::new(AtomicUsize::new(0)), Arc::new(Semaphore::new(0)));
    let pushes: Vec<_> = (0..PUSHES)
        .map(|_| {
            let (app, begun, go_on) = (app.clone(), begun.clone(), go_on.clone());
            let body = futures::stream::once(async move {
                begun.fetch_add(1, Ordering::Relaxed);
                go_on.acquire().await.unwrap().forget();
                Ok::<_, std::convert::Infallible>(Bytes::from_static(b"{}"))
            });
            let push = request("PUT", "/v2/a/manifests/v1").body(Body::from_stream(body)).unwrap();
            tokio::spawn(async move { respond(&app, push).await.status() })
        })
        .collect();
    for _ in 0..500 {
        tokio::task::yield_now().await;
    }
    assert_eq!(begun.load(Ordering::Relaxed), PUSHES, "each is read");
    go_on.add_permits(PUSHES);
    for push in pushes {
        assert_eq!(push.await.unwrap(), StatusCode::BAD_REQUEST);
    }
}
