//! A registry in a bucket: which buckets are accepted, and that content round-trips.

use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use jreg::bucket::{self, BucketError};
use jreg_config::{Assignment, Origin, Settings, StorageLocation};
use jreg_storage::{S3OpenError, Store, error_chain};
use jreg_testkit::s3::{Conditions, FaultRule, S3Fault, S3Operation, S3Refusal, S3Server, S3Spec};
use jreg_testkit::{
    Image, Request, Response, Rng, Scenario, ServerSpec, StoreKind, TestCa, TestServer, TlsProxy,
    push_image, sha256,
};
use tempfile::TempDir;

/// Which downloads are redirected.
const LARGE: usize = 1024 * 1024;

fn assignment(name: &str, value: &str) -> Assignment {
    let values = vec![value.to_owned()];
    Assignment { name: name.to_owned(), values, origin: Origin::Flag }
}

/// Settings with the bucket of a server, and some more.
fn settings(server: &S3Server, more: &[(&str, &str)]) -> Settings {
    let own = [
        ("storage", &*server.storage_url()),
        ("s3-access-key-id", server.access_key()),
        ("s3-secret-access-key", server.secret_key()),
    ];
    let all = own.iter().chain(more).map(|(name, value)| assignment(name, value));
    Settings::resolve(all).unwrap()
}

async fn open(settings: &Settings) -> Result<Arc<dyn Store>, BucketError> {
    let StorageLocation::Bucket(url) = &settings.storage else { panic!("not a bucket") };
    bucket::open(settings, url, bucket::BucketAccess::Serve).await
}

async fn serve(settings: &Settings) -> TestServer {
    let store = StoreKind::Given(open(settings).await.unwrap());
    TestServer::start(ServerSpec::with(|its| its.clone_from(settings)).store(store)).await
}

/// Content of every storage class of size is read back unchanged.
async fn assert_keeps_content(server: &TestServer) {
    let client = server.client();
    for bytes in [0, 5, 24, 100_000, 17 * 1024 * 1024].map(|size| Rng::new(7).bytes(size)) {
        let digest = sha256(&bytes);
        let begun = client.send(Request::new("POST", "/v2/a/blobs/uploads/").body("")).await;
        let upload = begun.header("Location").unwrap().to_owned();
        let half = bytes.len() / 2;
        for chunk in [bytes.slice(..half), bytes.slice(half..)] {
            let patched = client.send(Request::new("PATCH", &upload).chunked([chunk])).await;
            assert_eq!(patched.status, 202, "{patched:?}");
        }
        let close = Request::new("PUT", format!("{upload}?digest={digest}")).body("");
        assert_eq!(client.send(close).await.status, 201, "{} bytes", bytes.len());
        let pulled = client.get(&format!("/v2/a/blobs/{digest}")).await;
        assert!(pulled.body == bytes, "{} bytes came back as others", bytes.len());
    }
}

#[tokio::test]
async fn content_goes_into_a_bucket_and_comes_out() {
    let server = S3Server::start(S3Spec::default()).await;
    let registry = serve(&settings(&server, &[])).await;
    assert_keeps_content(&registry).await;
    assert!(server.uploads().is_empty());
    assert!(server.take_requests().iter().all(|request| !request.operation.copies()));
    registry.stop().await;
}

#[tokio::test]
async fn a_deleted_tag_can_be_pushed_again_at_another_instance() {
    let server = S3Server::start(S3Spec::default()).await;
    let settings = settings(&server, &[]);
    let (one, other) = (serve(&settings).await, serve(&settings).await);
    let image = Image::plain(1);
    for _ in 0..3 {
        Scenario::new("again", one.client()).run(push_image("v1", &image)).await;
        let target = "/v2/contract/again/manifests/v1";
        assert_eq!(other.client().get(target).await.status, 200);
        let delete = Request::new("DELETE", target);
        assert_eq!(other.client().send(delete).await.status, 202);
        assert_eq!(one.client().get(target).await.status, 404);
        let tags = one.client().get("/v2/contract/again/tags/list").await;
        assert!(!String::from_utf8_lossy(&tags.body).contains("v1"), "{tags:?}");
    }
}

#[tokio::test]
async fn a_bucket_that_asks_to_slow_down_is_busy_and_not_empty() {
    let server = S3Server::start(S3Spec::default()).await;
    let brief = [("s3-request-budget", "300ms"), ("s3-transfer-budget", "300ms")];
    let registry = serve(&settings(&server, &brief)).await;
    let slow = FaultRule::new(S3Fault::Refuse(S3Refusal::SlowDown)).on(S3Operation::GetObject);
    server.inject(slow);
    let digest = sha256(b"");
    for target in ["/v2/a/manifests/v1", &format!("/v2/a/blobs/{digest}")] {
        let response = registry.client().get(target).await;
        assert_eq!(response.status, 503, "{target}");
        assert!(response.header("Retry-After").is_some(), "{target}");
    }
}

#[tokio::test]
async fn a_bucket_without_conditions_is_refused_but_for_a_single_instance() {
    for conditions in [Conditions::Ignored, Conditions::Refused] {
        let server = S3Server::start(S3Spec::with(|spec| spec.conditions = conditions)).await;
        let refused = open(&settings(&server, &[])).await.unwrap_err();
        assert!(matches!(refused, BucketError::NotShareable { .. }), "{refused}");
        assert!(refused.to_string().contains("--single-instance"), "{refused}");
        let registry = serve(&settings(&server, &[("single-instance", "on")])).await;
        assert_keeps_content(&registry).await;
    }
}

#[tokio::test]
async fn only_the_server_of_a_bucket_without_conditions_may_run_gc() {
    let server = S3Server::start(S3Spec::with(|spec| spec.conditions = Conditions::Ignored)).await;
    let settings = settings(&server, &[("single-instance", "on")]);
    let StorageLocation::Bucket(url) = &settings.storage else { panic!("not a bucket") };
    let refused = bucket::open(&settings, url, bucket::BucketAccess::Collect).await.unwrap_err();
    assert!(matches!(refused, BucketError::OnlyInServe { .. }), "{refused}");
    assert!(refused.to_string().contains("gc-interval"), "{refused}");
    bucket::open(&settings, url, bucket::BucketAccess::Look).await.unwrap();
}

#[tokio::test]
async fn a_clock_that_is_far_off_is_refused() {
    let server = S3Server::start(S3Spec::default()).await;
    server.clock().advance(Duration::from_secs(100));
    let refused = open(&settings(&server, &[])).await.unwrap_err();
    assert!(matches!(refused, BucketError::Clock { .. }), "{refused}");
}

#[tokio::test]
async fn a_clock_that_runs_away_stops_pushes_and_not_pulls() {
    let server = S3Server::start(S3Spec::default()).await;
    let registry = serve(&settings(&server, &[("cache-age-max", "0s")])).await;
    let client = registry.client();
    let bytes = Rng::new(7).bytes(100);
    let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(&bytes));
    let push = || Request::new("POST", &target).body(bytes.clone());
    assert_eq!(client.send(push()).await.status, 201);
    assert_eq!(client.get("/readyz").await.status, 200);
    server.clock().advance(Duration::from_secs(100));
    assert_eq!(client.get(&format!("/v2/a/blobs/{}", sha256(&bytes))).await.status, 200);
    let refused = client.send(push()).await;
    assert_eq!(refused.status, 503, "{refused:?}");
    assert!(refused.header("Retry-After").is_some(), "{refused:?}");
    let metrics = client.get("/metrics").await.body;
    let line = String::from_utf8_lossy(&metrics).into_owned();
    let line = line.lines().find(|line| line.starts_with("jreg_store_clock_difference_seconds "));
    let seconds: f64 = line.unwrap().rsplit(' ').next().unwrap().parse().unwrap();
    assert!((98.0..=102.0).contains(&seconds), "{seconds}");
    server.clock().set(std::time::SystemTime::now());
    client.get(&format!("/v2/a/blobs/{}", sha256(&bytes))).await;
    assert_eq!(client.send(push()).await.status, 201);
}

#[tokio::test]
async fn an_instance_whose_clock_ran_away_is_not_ready() {
    let server = S3Server::start(S3Spec::default()).await;
    let registry = serve(&settings(&server, &[])).await;
    server.clock().advance(Duration::from_secs(100));
    let response = registry.client().get("/readyz").await;
    assert_eq!(response.status, 503, "{response:?}");
}

#[tokio::test]
async fn settings_that_do_not_fit_are_refused() {
    let server = S3Server::start(S3Spec::default()).await;
    let named =
        format!("{}&path_style=false", server.storage_url().replace("&path_style=true", ""));
    let named = open(&settings(&server, &[("storage", &named)])).await.unwrap_err();
    assert!(matches!(named, BucketError::Open(S3OpenError::Address { .. })), "{named}");
    assert!(named.to_string().contains("path_style=true"), "{named}");
    let small = open(&settings(&server, &[("part-bytes", "1MiB")])).await.unwrap_err();
    assert!(matches!(small, BucketError::Open(S3OpenError::PartBytes { .. })), "{small}");
    let half = open(&settings(&server, &[("s3-secret-access-key", "none")])).await.unwrap_err();
    assert!(matches!(half, BucketError::HalfAKey), "{half}");
    let wrong = open(&settings(&server, &[("s3-secret-access-key", "wrong")])).await.unwrap_err();
    assert!(matches!(wrong, BucketError::Unusable { .. }), "{wrong}");
}

#[tokio::test]
async fn secrets_are_read_from_files() {
    let server = S3Server::start(S3Spec::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let with_key = |path: &str| {
        settings(&server, &[("s3-secret-access-key", "none"), ("s3-secret-access-key-file", path)])
    };
    for end in ["", "\n", "\r\n"] {
        let path = file("key", &format!("{}{end}", server.secret_key()));
        open(&with_key(&path)).await.unwrap();
    }
    let wrong = open(&with_key(&file("wrong", "wrong"))).await.unwrap_err();
    assert!(matches!(wrong, BucketError::Unusable { .. }), "{wrong}");
    let key = file("key", server.secret_key());
    let token = |path: &str| {
        let mut settings = with_key(&key);
        settings.s3_session_token_file = Some(path.to_owned());
        settings
    };
    let long = "x".repeat(64 * 1024 + 1);
    for path in [file("empty", ""), file("lines", "a\nb\n"), file("long", &long), "absent".into()] {
        for settings in [with_key(&path), token(&path)] {
            let error = open(&settings).await.unwrap_err();
            assert!(matches!(error, BucketError::SecretFile { .. }), "{error}");
            assert!(error.to_string().contains(&path), "{error}");
        }
    }
}

/// Pushes a blob of this size, and returns its path.
async fn push_blob(server: &TestServer, size: usize) -> (Bytes, String) {
    let bytes = Rng::new(11).bytes(size);
    let digest = sha256(&bytes);
    let target = format!("/v2/a/blobs/uploads/?digest={digest}");
    let pushed = server.client().send(Request::new("POST", target).body(bytes.clone())).await;
    assert_eq!(pushed.status, 201, "{pushed}");
    (bytes, format!("/v2/a/blobs/{digest}"))
}

/// GETs a redirect target as a client does: without its headers for the registry.
async fn follow(server: &S3Server, response: &Response) -> Response {
    let location = response.header("Location").unwrap();
    let target = location.strip_prefix(&server.endpoint()).expect("the bucket's own address");
    server.client().send_unsigned(Request::new("GET", target)).await.unwrap()
}

#[tokio::test]
async fn a_large_blob_is_read_from_the_bucket_itself() {
    let server = S3Server::start(S3Spec::default()).await;
    let registry = serve(&settings(&server, &[("redirect", "on")])).await;
    let (bytes, target) = push_blob(&registry, LARGE).await;
    server.take_requests();
    let get = Request::new("GET", &*target).header("Authorization", "Bearer of-the-registry");
    let response = registry.client().send(get).await;
    assert_eq!(response.status, 307, "{response}");
    assert!(response.body.is_empty());
    assert_eq!(response.header("Cache-Control"), Some("no-store"));
    assert!(target.ends_with(response.header("Docker-Content-Digest").unwrap()));
    let followed = follow(&server, &response).await;
    assert_eq!(followed.status, 200, "{followed}");
    assert!(followed.body == bytes);
    assert_eq!(followed.header("Content-Type"), Some("application/octet-stream"));
    let read = server.take_requests().pop().unwrap();
    assert_eq!((read.operation, read.header("Authorization")), (S3Operation::GetObject, None));
    // The URL is valid only for this blob.
    let other = response.header("Location").unwrap().replacen("blobs/", "links/", 1);
    let other = Response { headers: vec![("Location".to_owned(), other)], ..response };
    assert_eq!(follow(&server, &other).await.status, 403);
}

/// A bucket does not serve several ranges.
#[tokio::test]
async fn several_ranges_are_not_redirected() {
    let server = S3Server::start(S3Spec::default()).await;
    let registry = serve(&settings(&server, &[("redirect", "on")])).await;
    let (bytes, target) = push_blob(&registry, LARGE).await;
    for (range, status) in [
        ("bytes=0-1", 307),
        ("bytes=5-", 307),
        ("bytes=0-1,4-5", 206),
        ("bytes=-1,0-0", 206),
        ("bytes=0-,0-,0-", 200),
    ] {
        let get = Request::new("GET", &*target).header("Range", range);
        let response = registry.client().send(get).await;
        assert_eq!(response.status, status, "{range}");
        let is_multiple =
            response.header("Content-Type").unwrap_or_default().starts_with("multipart/");
        assert_eq!(is_multiple, status == 206, "{range}");
        assert!(status != 200 || response.body == bytes);
    }
}

#[tokio::test]
async fn what_a_client_was_sent_to_expires() {
    let server = S3Server::start(S3Spec::default()).await;
    let more = [("redirect", "on"), ("redirect-expiry", "5m")];
    let registry = serve(&settings(&server, &more)).await;
    let (_, target) = push_blob(&registry, LARGE).await;
    let response = registry.client().get(&target).await;
    server.clock().advance(Duration::from_secs(290));
    assert_eq!(follow(&server, &response).await.status, 200);
    server.clock().advance(Duration::from_secs(20));
    assert_eq!(follow(&server, &response).await.status, 403);
}

#[tokio::test]
async fn nothing_but_large_blobs_is_redirected_and_no_client_that_is_excepted() {
    let server = S3Server::start(S3Spec::default()).await;
    let image = Image::plain(1);
    for (more, agent, status) in [
        (("redirect", "on"), "docker/28", 307),
        (("redirect", "off"), "docker/28", 200),
        (("redirect-networks", "127.0.0.0/8"), "docker/28", 307),
        (("redirect-networks", "10.0.0.0/8"), "docker/28", 200),
        (("redirect-agents-except", "crane/"), "crane/v0.22", 200),
        (("redirect-agents-except", "crane/"), "docker/28", 307),
        (("redirect-bytes-min", "2MiB"), "docker/28", 200),
    ] {
        let registry = serve(&settings(&server, &[("redirect", "on"), more])).await;
        let client = registry.client();
        let (large, small) =
            (push_blob(&registry, LARGE).await, push_blob(&registry, LARGE - 1).await);
        let ask = |method, (_, target): &(Bytes, String)| {
            Request::new(method, &**target).header("User-Agent", agent)
        };
        assert_eq!(client.send(ask("GET", &large)).await.status, status, "{more:?} {agent}");
        assert_eq!(client.send(ask("GET", &small)).await.status, 200, "{more:?} {agent}");
        let head = client.send_unchecked(&ask("HEAD", &large)).await.unwrap();
        assert_eq!((head.status, head.header("Location")), (200, None), "{more:?} {agent}");
        Scenario::new("redirects", client.clone()).run(push_image("v1", &image)).await;
        let manifest = client.get("/v2/contract/redirects/manifests/v1").await;
        assert_eq!(manifest.status, 200, "{more:?} {agent}");
    }
}

/// A bucket behind TLS, with a certificate of a private CA.
struct Guarded {
    server: S3Server,
    proxy: TlsProxy,
    folder: TempDir,
}

impl Guarded {
    /// The CA's certificate is in `ca.pem`.
    async fn start() -> Self {
        let server = S3Server::start(S3Spec::default()).await;
        let authority = TestCa::new();
        let proxy = TlsProxy::start(&authority, server.address()).await;
        let folder = TempDir::new().unwrap();
        fs::write(folder.path().join("ca.pem"), authority.pem()).unwrap();
        Self { server, proxy, folder }
    }

    /// Settings that trust a CA file of the folder, or only the system's.
    fn settings(&self, file: Option<&str>) -> Settings {
        let (bucket, address) = (self.server.bucket(), self.proxy.address());
        let mut url = format!("s3://{bucket}/?endpoint=https://{address}");
        if let Some(file) = file {
            url.push_str(&format!("&ca_file={}", self.folder.path().join(file).display()));
        }
        settings(&self.server, &[("storage", &*url), ("s3-request-budget", "300ms")])
    }

    async fn refused(&self, file: Option<&str>) -> BucketError {
        open(&self.settings(file)).await.unwrap_err()
    }
}

#[tokio::test]
async fn a_bucket_whose_ca_is_in_a_file_stores_content() {
    let bucket = Guarded::start().await;
    let registry = serve(&bucket.settings(Some("ca.pem"))).await;
    assert_keeps_content(&registry).await;
    assert!(!bucket.server.keys().is_empty());
}

#[tokio::test]
async fn a_bucket_with_an_unknown_ca_is_refused() {
    let bucket = Guarded::start().await;
    fs::write(bucket.folder.path().join("other.pem"), TestCa::new().pem()).unwrap();
    for file in [None, Some("other.pem")] {
        let refused = bucket.refused(file).await;
        assert!(matches!(refused, BucketError::Unusable { .. }), "{refused}");
        let text = error_chain(&refused);
        assert!(text.contains("certificate"), "{text}");
        assert!(bucket.server.keys().is_empty());
    }
}

#[tokio::test]
async fn a_file_without_certificates_is_refused_by_name() {
    let bucket = Guarded::start().await;
    let broken = "-----BEGIN CERTIFICATE-----\nbm90IG9uZQ==\n-----END CERTIFICATE-----\n";
    fs::write(bucket.folder.path().join("broken.pem"), broken).unwrap();
    fs::write(bucket.folder.path().join("empty.pem"), "not PEM at all").unwrap();
    for file in ["missing.pem", "empty.pem", "broken.pem"] {
        let refused = bucket.refused(Some(file)).await;
        let open = matches!(refused, BucketError::Open(S3OpenError::Certificates { .. }));
        let text = error_chain(&refused);
        assert!(open && text.contains(file), "{text}");
    }
    assert!(bucket.server.take_requests().is_empty());
}

/// The real binary, with keys where the AWS tools have theirs.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_program_says_why_it_does_not_start() {
    let spec = S3Spec::with(|spec| spec.conditions = Conditions::Ignored);
    let server = S3Server::start(spec).await;
    let mut program = Command::new(env!("CARGO_BIN_EXE_jreg"));
    program
        .args(["serve", "--listen", "127.0.0.1:0", "--storage", &server.storage_url()])
        .env("AWS_ACCESS_KEY_ID", server.access_key())
        .env("AWS_SECRET_ACCESS_KEY", server.secret_key());
    let output = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("does not honour conditional writes"), "{text}");
    assert!(!text.contains(server.secret_key()), "{text}");
}
