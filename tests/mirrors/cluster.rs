//! Several instances in front of one registry.

use std::time::Duration;

use futures::future::join_all;
use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::upstream::{
    RequestKind, RulePick, ScriptedUpstream, UpstreamFault, UpstreamRule,
};
use jreg_testkit::{Image, Process, Request, Rng, ServerSpec, StoreKind, TestServer};

use super::{get, settings};

const INSTANCES: usize = 3;
const CLIENTS: usize = 64;

/// An image whose layers take a while.
fn image(upstream: &ScriptedUpstream) -> Image {
    let image = Image::plain(7);
    upstream.add_image("library/app", Some("v1"), &image);
    image
}

async fn instances(bucket: &S3Server, upstream: &ScriptedUpstream) -> Vec<TestServer> {
    let mut servers = Vec::new();
    for _ in 0..INSTANCES {
        let spec = ServerSpec { settings: settings(upstream, "", ""), ..ServerSpec::default() };
        let store: std::sync::Arc<dyn jreg_storage::Store> = bucket.store();
        servers.push(TestServer::start(spec.store(StoreKind::Given(store))).await);
    }
    servers
}

/// The must of the design: 64 clients at each of three instances pull one image that is not stored, while the
/// registry refuses every second request and breaks one body off.
#[tokio::test(flavor = "multi_thread")]
async fn a_crowd_of_clients_gets_right_bytes_for_a_bounded_number_of_requests() {
    let upstream = ScriptedUpstream::start().await;
    let image = image(&upstream);
    let limited = UpstreamFault::Status {
        status: 429,
        headers: vec![("retry-after".to_owned(), "0".to_owned())],
        body: String::new(),
    };
    upstream.add_rule(UpstreamRule::new(limited).pick(RulePick::Every(2)));
    let largest = image.blobs.iter().max_by_key(|blob| blob.bytes.len()).unwrap();
    let reset = UpstreamFault::ResetAfter(largest.bytes.len() / 2);
    upstream.add_rule(
        UpstreamRule::new(reset)
            .on(RequestKind::BlobGet)
            .at(&largest.digest())
            .pick(RulePick::First(1)),
    );
    let bucket = S3Server::start(S3Spec::default()).await;
    let servers = instances(&bucket, &upstream).await;
    let clients: Vec<_> = servers.iter().map(TestServer::client).collect();
    let pulls = (0..CLIENTS * INSTANCES).map(|number| {
        let (client, image) = (clients[number % INSTANCES].clone(), &image);
        async move {
            let tag = "/v2/docker.io/library/app/manifests/v1";
            let manifest = get(&client, tag).await;
            assert_eq!((manifest.status, &manifest.body), (200, &image.manifest.bytes));
            for blob in &image.blobs {
                let target = format!("/v2/docker.io/library/app/blobs/{}", blob.digest());
                let got = get(&client, &target).await;
                assert_eq!((got.status, &got.body), (200, &blob.bytes));
            }
        }
    });
    join_all(pulls).await;
    let served = |kind, part: &str| {
        let requests = upstream.requests();
        let served = requests.iter().filter(|request| {
            request.kind == kind
                && request.path.contains(part)
                && [200, 206].contains(&request.status)
        });
        served.count()
    };
    for blob in &image.blobs {
        let extra = usize::from(blob.digest() == largest.digest());
        let count = served(RequestKind::BlobGet, &blob.digest());
        assert!(count <= INSTANCES + extra, "{count} requests for a blob");
    }
    assert!(served(RequestKind::ManifestGet, "") <= INSTANCES);
    for server in servers {
        server.stop().await;
    }
    bucket.stop().await;
}

/// Of several instances one stores a large blob; if it is killed, another does once its claim has expired, and
/// nothing of the first is left.
#[tokio::test(flavor = "multi_thread")]
async fn an_expired_claim_is_taken_over_and_leaves_nothing() {
    use jreg_registry::{Registry, RegistryOptions, UploadChunk};
    use jreg_storage::SystemClock;
    let bucket = S3Server::start(S3Spec::default()).await;
    let open = || async {
        let clock = std::sync::Arc::new(SystemClock::new());
        let registry = Registry::open(bucket.store(), clock, RegistryOptions::default());
        let room = jreg_registry::MirrorRoom {
            fills_max: 4,
            buffer_bytes: 64 << 20,
            wait_max: Duration::from_secs(5),
        };
        registry.await.unwrap().for_mirrors(room)
    };
    let bytes = jreg_testkit::Rng::new(1).bytes(20 << 20);
    let digest: jreg_oci::Digest = jreg_testkit::sha256(&bytes).parse().unwrap();
    let name: jreg_oci::RepositoryName = "docker.io/library/app".parse().unwrap();
    let (first, second) = (open().await, open().await);
    assert!(first.is_stored_in_parts(bytes.len() as u64));
    let dying = first.repository(name.clone());
    let id = dying.upload_start(Some(digest.algorithm()));
    assert!(dying.claim_fill(&digest, &id, Duration::ZERO).await.unwrap().is_some());
    // Half of it comes, and then nothing: the process is killed.
    let half = bytes.slice(..bytes.len() / 2);
    let body = futures::stream::iter([Ok(half)]);
    let body =
        futures::StreamExt::boxed(futures::StreamExt::chain(body, futures::stream::pending()));
    let chunk = UploadChunk::new(None, Some(bytes.len() as u64), body);
    let progress = std::sync::Arc::default();
    tokio::select! {
        filled = dying.fill_blob(&id, &digest, chunk, &progress) => panic!("{filled:?}"),
        () = until("the upload begins", || bucket.uploads().len() == 1) => {}
    }
    bucket.clock().advance(Duration::from_secs(2));
    let other = second.repository(name.clone());
    let id = other.upload_start(Some(digest.algorithm()));
    let claim = other.claim_fill(&digest, &id, Duration::from_secs(60)).await.unwrap().unwrap();
    assert_eq!(bucket.uploads().len(), 0, "the upload of the first is aborted");
    let third = first.repository(name.clone());
    let late = third.upload_start(Some(digest.algorithm()));
    assert!(third.claim_fill(&digest, &late, Duration::from_secs(60)).await.unwrap().is_none());
    let claim = other.renew_fill(claim).await.unwrap().unwrap();
    let filled = other.fill_blob(&id, &digest, UploadChunk::of(bytes.clone()), &progress);
    assert_eq!(filled.await.unwrap().size_bytes, bytes.len() as u64);
    other.end_fill(&claim).await.unwrap();
    assert!(!bucket.keys().iter().any(|key| key.starts_with("fills/")));
    assert_eq!(other.blob_open(&digest).await.unwrap().blob().size_bytes, bytes.len() as u64);
}

/// The real binary: the instance that stores a blob is killed in the middle of it. Its clients begin anew, another
/// instance serves them at once, and stores the blob when the claim has expired.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(
    clippy::disallowed_methods,
    reason = "the scripted registry and the emulator run on this runtime, on other threads"
)]
async fn when_the_instance_that_stores_a_blob_is_killed_another_one_stores_it() {
    let (upstream, bucket) =
        (ScriptedUpstream::start().await, S3Server::start(S3Spec::default()).await);
    let bytes = Rng::new(1).bytes(40 << 20);
    let digest = upstream.add_blob("library/app", bytes.clone());
    let slow = UpstreamFault::Slow { chunk: 1 << 20, pause: Duration::from_millis(100) };
    upstream.add_rule(UpstreamRule::new(slow).on(RequestKind::BlobGet).pick(RulePick::First(1)));
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("jreg.toml");
    let mirror =
        format!("[[mirror]]\nnamespace = \"docker.io\"\nupstream = \"{}\"\n", upstream.url());
    std::fs::write(&config, mirror).unwrap();
    let config = config.display().to_string();
    let start = || {
        let flags = ["--config", &*config];
        let start = || Process::start_in_bucket(env!("CARGO_BIN_EXE_jreg"), &bucket, &flags);
        tokio::task::block_in_place(start)
    };
    let (dying, other) = (start(), start());
    let target = format!("/v2/docker.io/library/app/blobs/{digest}");
    let mut cut = dying.client().wire().await;
    cut.write(&Request::new("GET", &*target).head("localhost")).await.unwrap();
    assert_eq!(cut.response_head().await.unwrap().status, 200);
    let has = |prefix: &str| bucket.keys().iter().any(|key| key.starts_with(prefix));
    until("the first stores the blob", || has("uploads/") && bucket.uploads().len() == 1).await;
    assert!(has("fills/"));
    tokio::task::block_in_place(|| dying.kill());
    let served = get(&other.client(), &target).await;
    assert_eq!((served.status, &served.body), (200, &bytes));
    assert!(!has("links/"), "the claim of the first holds");
    // The claim expires after a minute.
    bucket.clock().advance(Duration::from_secs(55));
    let stored = async {
        while !has("links/") {
            tokio::time::sleep(Duration::from_millis(500)).await;
            assert_eq!(get(&other.client(), &target).await.body, bytes);
        }
    };
    tokio::time::timeout(Duration::from_secs(60), stored).await.expect("another one stores it");
    until("nothing is left", || bucket.uploads().is_empty() && !has("fills/")).await;
    upstream.clear_requests();
    assert_eq!(get(&other.client(), &target).await.body, bytes);
    assert!(upstream.requests().is_empty());
    tokio::task::block_in_place(|| drop(other));
}

async fn until(what: &str, is_so: impl Fn() -> bool) {
    let waiting = async {
        while !is_so() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), waiting)
        .await
        .unwrap_or_else(|_| panic!("{what}: it does not happen"));
}
