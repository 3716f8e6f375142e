//! Blobs on their way through a mirror.

use std::time::Duration;

use futures::future::join_all;
use http_body_util::BodyExt;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jreg_storage::testing::{Call, Fault, FaultyStore, GateStore};
use jreg_storage::{ErrorKind, MemoryStore};
use jreg_testkit::upstream::{
    RequestKind, RulePick, ScriptedUpstream, UpstreamFault, UpstreamRule,
};
use jreg_testkit::{Request, Rng, StoreKind, TestServer, sha256};
use tokio::time::{Instant, sleep, timeout};

use super::{get, mirror, partial, plain, stores};

/// What is withheld at the end of a blob.
const TAIL_BYTES: usize = 64 * 1024;
const BLOB_BYTES: usize = 3 * 1024 * 1024;

fn target(digest: &str) -> String {
    format!("/v2/docker.io/library/app/blobs/{digest}")
}

fn add_blob(upstream: &ScriptedUpstream, seed: u64, bytes: usize) -> (String, bytes::Bytes) {
    let bytes = Rng::new(seed).bytes(bytes);
    (upstream.add_blob("library/app", bytes.clone()), bytes)
}

/// Waits until a blob is served without the registry.
async fn stored(server: &TestServer, upstream: &ScriptedUpstream, digest: &str) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !server.entries().await.iter().any(|entry| {
        entry.contains("links/") && entry.contains(digest.trim_start_matches("sha256:"))
    }) {
        assert!(Instant::now() < deadline, "the blob is not stored");
        sleep(Duration::from_millis(20)).await;
    }
    upstream.clear_requests();
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_clients_share_one_request() {
    for store in stores() {
        let upstream = ScriptedUpstream::start().await;
        let (digest, bytes) = add_blob(&upstream, 1, BLOB_BYTES);
        upstream.add_rule(
            UpstreamRule::new(UpstreamFault::Slow {
                chunk: 256 << 10,
                pause: Duration::from_millis(30),
            })
            .on(RequestKind::BlobGet),
        );
        let server = mirror(&upstream, store.clone(), "").await;
        let client = server.client();
        let pulls = (0..64).map(|_| async {
            let got = get(&client, &target(&digest)).await;
            assert_eq!((got.status, sha256(&got.body)), (200, digest.clone()));
        });
        join_all(pulls).await;
        assert_eq!(upstream.count(RequestKind::BlobGet), 1, "{store:?}");
        stored(&server, &upstream, &digest).await;
        assert_eq!(get(&client, &target(&digest)).await.body, bytes);
        assert!(upstream.requests().is_empty());
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_never_reach_their_end_and_are_not_stored() {
    for store in stores() {
        for fault in [
            UpstreamFault::WrongBytes,
            UpstreamFault::ShortBody(1000),
            UpstreamFault::LongBody(1000),
        ] {
            let upstream = ScriptedUpstream::start().await;
            let (digest, bytes) = add_blob(&upstream, 1, BLOB_BYTES);
            upstream.add_rule(UpstreamRule::new(fault.clone()).on(RequestKind::BlobGet));
            let server = mirror(&upstream, store.clone(), "negative = \"0s\"").await;
            let client = server.client();
            let (status, length, came) = partial(&client, &target(&digest)).await;
            if status == 200 {
                assert!(came.len() <= length - TAIL_BYTES, "{fault:?}: {} of {length}", came.len());
            }
            let entries = server.entries().await;
            assert!(!entries.iter().any(|entry| entry.contains("links/sha256")), "{entries:?}");
            upstream.clear_rules();
            // One that joins the fetch that fails is cut off, too.
            let deadline = Instant::now() + Duration::from_secs(20);
            while partial(&client, &target(&digest)).await.2 != bytes {
                assert!(Instant::now() < deadline, "{store:?} {fault:?}");
                sleep(Duration::from_millis(20)).await;
            }
            server.stop().await;
        }
    }
}

/// Regression: an empty body was passed on as the whole of any blob.
#[tokio::test]
async fn fixed_an_empty_body_is_not_any_blob() {
    for store in stores() {
        let upstream = ScriptedUpstream::start().await;
        let (digest, bytes) = add_blob(&upstream, 1, BLOB_BYTES);
        let empty = upstream.add_blob("library/app", bytes::Bytes::new());
        upstream.add_rule(UpstreamRule::new(UpstreamFault::ShortBody(BLOB_BYTES)));
        let server = mirror(&upstream, store, "negative = \"0s\"").await;
        let client = server.client();
        for method in ["HEAD", "GET"] {
            assert_eq!(plain(&client, method, &target(&digest)).await.status, 502, "{method}");
            let right = plain(&client, method, &target(&empty)).await;
            assert_eq!((right.status, right.body.len()), (200, 0), "{method}");
        }
        upstream.clear_rules();
        let deadline = Instant::now() + Duration::from_secs(20);
        while get(&client, &target(&digest)).await.body != bytes {
            assert!(Instant::now() < deadline, "it is not asked for again");
            sleep(Duration::from_millis(20)).await;
        }
        server.stop().await;
    }
}

/// Regression: with `negative = "0s"`, one wrong size began an endless storm of requests, which outlived its client.
#[tokio::test(flavor = "multi_thread")]
async fn fixed_wrong_content_costs_one_request_though_nothing_is_remembered() {
    let encoded = UpstreamFault::Header("content-encoding".to_owned(), "gzip".to_owned());
    for fault in [UpstreamFault::LongBody(7), UpstreamFault::WrongDigestHeader, encoded] {
        let upstream = ScriptedUpstream::start().await;
        let image = super::add_image(&upstream, 1);
        let server = mirror(&upstream, StoreKind::Memory, "negative = \"0s\"").await;
        let client = server.client();
        let manifest = get(&client, "/v2/docker.io/library/app/manifests/v1").await;
        assert_eq!(manifest.status, 200);
        upstream.add_rule(UpstreamRule::new(fault.clone()).on(RequestKind::BlobGet));
        let blob = target(&image.blobs[1].digest());
        let got = timeout(Duration::from_secs(20), get(&client, &blob)).await.expect("it ends");
        assert_eq!(got.status, 502, "{fault:?}: {got}");
        assert_eq!(upstream.count(RequestKind::BlobGet), 1, "{fault:?}");
        server.stop().await;
    }
}

/// Over HTTP/2 the stream is reset, and the connection goes on.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_bytes_reset_their_stream_over_http2() {
    let upstream = ScriptedUpstream::start().await;
    let (digest, _) = add_blob(&upstream, 1, BLOB_BYTES);
    upstream.add_rule(UpstreamRule::new(UpstreamFault::WrongBytes).on(RequestKind::BlobGet));
    // So that the head is sent before the last byte has come.
    let slow = UpstreamFault::Slow { chunk: 256 << 10, pause: Duration::from_millis(20) };
    upstream.add_rule(UpstreamRule::new(slow).on(RequestKind::BlobGet));
    let server = mirror(&upstream, StoreKind::Memory, "negative = \"0s\"").await;
    let stream = tokio::net::TcpStream::connect(server.client().address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let driver = tokio::spawn(connection);
    let get = |target: &str| {
        let uri = format!("http://localhost{target}");
        hyper::Request::get(uri).body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap()
    };
    let response = sender.send_request(get(&target(&digest))).await.unwrap();
    assert_eq!(response.status(), 200);
    let (mut body, mut came) = (response.into_body(), 0);
    let end = loop {
        match body.frame().await {
            Some(Ok(frame)) => came += frame.data_ref().map_or(0, bytes::Bytes::len),
            end => break end,
        }
    };
    assert!(end.is_some_and(|end| end.is_err()), "the body has an end");
    assert!(came <= BLOB_BYTES - TAIL_BYTES, "{came}");
    sender.ready().await.unwrap();
    assert_eq!(sender.send_request(get("/v2/")).await.unwrap().status(), 200);
    drop(sender);
    driver.await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_breaks_off_is_resumed() {
    let upstream = ScriptedUpstream::start().await;
    let (digest, bytes) = add_blob(&upstream, 1, BLOB_BYTES);
    let reset = UpstreamFault::ResetAfter(1_000_000);
    upstream.add_rule(UpstreamRule::new(reset).on(RequestKind::BlobGet).pick(RulePick::First(2)));
    let server = mirror(&upstream, StoreKind::Folder, "").await;
    assert_eq!(get(&server.client(), &target(&digest)).await.body, bytes);
    assert_eq!(upstream.count(RequestKind::BlobGet), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_fetch_goes_on_when_its_client_leaves() {
    for store in stores() {
        let upstream = ScriptedUpstream::start().await;
        let (digest, _) = add_blob(&upstream, 1, BLOB_BYTES);
        upstream.add_rule(
            UpstreamRule::new(UpstreamFault::Slow {
                chunk: 256 << 10,
                pause: Duration::from_millis(20),
            })
            .on(RequestKind::BlobGet),
        );
        let server = mirror(&upstream, store, "").await;
        let mut wire = server.client().wire().await;
        let request = jreg_testkit::Request::new("GET", target(&digest));
        wire.write(&request.head("localhost")).await.unwrap();
        wire.response_head().await.unwrap();
        wire.reset().unwrap();
        stored(&server, &upstream, &digest).await;
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn ranges_of_a_blob_that_is_not_stored_begin_one_fetch() {
    for store in stores() {
        let upstream = ScriptedUpstream::start().await;
        let (digest, bytes) = add_blob(&upstream, 1, BLOB_BYTES);
        let server = mirror(&upstream, store.clone(), "").await;
        let client = server.client();
        let ranges = (0..16_usize).map(|number| {
            let (client, target, bytes) = (client.clone(), target(&digest), bytes.clone());
            async move {
                let start = number * 190_000;
                let request = jreg_testkit::Request::new("GET", target)
                    .header("Range", format!("bytes={start}-{}", start + 99_999))
                    .header("Connection", "close");
                let part = client.send_unchecked(&request).await.unwrap();
                assert_eq!(part.status, 206, "{part}");
                assert_eq!(part.body, bytes[start..start + 100_000]);
            }
        });
        join_all(ranges).await;
        stored(&server, &upstream, &digest).await;
        let whole = upstream.requests().iter().filter(|request| request.range.is_none()).count();
        assert!(whole <= 1, "{store:?}");
        server.stop().await;
    }
}

/// A reader that stops for a while neither stops the others nor loses its place.
#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_stops_nobody_and_reads_on() {
    for store in stores() {
        let upstream = ScriptedUpstream::start().await;
        let (digest, bytes) = add_blob(&upstream, 1, 12 << 20);
        let settings = super::settings(
            &upstream,
            "",
            "mirror-window-bytes = \"2MiB\"\nmirror-wait = \"500ms\"",
        );
        let spec = jreg_testkit::ServerSpec { settings, ..Default::default() };
        let server = TestServer::start(spec.store(store.clone())).await;
        let client = server.client();
        let mut slow = client.wire().await;
        let request =
            jreg_testkit::Request::new("GET", target(&digest)).header("Connection", "close");
        slow.write(&request.head("localhost")).await.unwrap();
        slow.response_head().await.unwrap();
        let first = slow.bytes(100_000).await.unwrap();
        let whole = target(&digest);
        let others = join_all((0..8).map(|_| get(&client, &whole)));
        let others =
            timeout(Duration::from_secs(60), others).await.expect("the others are not stopped");
        for other in others {
            assert_eq!((other.status, sha256(&other.body)), (200, digest.clone()), "{store:?}");
        }
        let rest = slow.closed().await.unwrap();
        assert_eq!([first, rest].concat(), bytes, "{store:?}");
        server.stop().await;
    }
}

/// Many slow readers of one large blob stay within the window.
#[tokio::test(flavor = "multi_thread")]
async fn slow_readers_take_no_memory_beyond_the_window() {
    for store in [StoreKind::Folder, StoreKind::Bucket] {
        let upstream = ScriptedUpstream::start().await;
        let (digest, _) = add_blob(&upstream, 1, 40 << 20);
        upstream.add_rule(
            UpstreamRule::new(UpstreamFault::Slow {
                chunk: 1 << 20,
                pause: Duration::from_millis(10),
            })
            .on(RequestKind::BlobGet),
        );
        let settings = super::settings(
            &upstream,
            "",
            "mirror-window-bytes = \"4MiB\"\nmirror-wait = \"200ms\"\nmirror-memory = \"32MiB\"",
        );
        let spec = jreg_testkit::ServerSpec { settings, ..Default::default() };
        let server = TestServer::start(spec.store(store.clone())).await;
        let client = server.client();
        let readers = (0..64).map(|_| {
            let (client, digest) = (client.clone(), digest.clone());
            async move {
                let mut wire = client.wire().await;
                let request = jreg_testkit::Request::new("GET", target(&digest))
                    .header("Connection", "close");
                wire.write(&request.head("localhost")).await.unwrap();
                wire.response_head().await.unwrap();
                wire
            }
        });
        let mut readers = join_all(readers).await;
        let mut peak = 0.0_f64;
        for _ in 0..40 {
            let metrics = get(&client, "/metrics").await;
            let text = String::from_utf8(metrics.body.to_vec()).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix("jreg_mirror_memory_bytes "));
            peak = peak.max(line.unwrap().parse().unwrap());
            sleep(Duration::from_millis(25)).await;
        }
        assert!(peak > 0.0 && peak <= f64::from(4 << 20), "{store:?}: {peak}");
        // They read on where they are.
        let last = readers.pop().unwrap();
        drop(readers);
        let mut last = last;
        let came = last.closed().await.unwrap();
        assert_eq!(sha256(&came), digest, "{store:?}");
        server.stop().await;
    }
}

/// The first byte comes as late as that of the registry, and one round trip to the store.
#[tokio::test(flavor = "multi_thread")]
async fn the_registry_is_asked_while_the_store_looks_for_a_purge() {
    let upstream = ScriptedUpstream::start().await;
    let (digest, bytes) = add_blob(&upstream, 1, BLOB_BYTES);
    let store = std::sync::Arc::new(GateStore::new(std::sync::Arc::new(MemoryStore::new())));
    let server = mirror(&upstream, StoreKind::Given(store.clone()), "").await;
    let client = server.client();
    let mut looking = store.hold(|call| call.is_read() && call.key.contains("/blocked/"));
    let path = target(&digest);
    let pull = tokio::spawn(async move { get(&client, &path).await });
    looking.reached(1).await;
    timeout(Duration::from_secs(20), async {
        while upstream.count(RequestKind::BlobGet) == 0 {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .expect("the request to the registry waits for the store");
    looking.release();
    assert_eq!(pull.await.unwrap().body, bytes);
    server.stop().await;
}

/// Regression: a copy that another repository has took the place of wrong bytes in the middle of a response, which
/// then ended as if it were whole.
#[tokio::test(flavor = "multi_thread")]
async fn fixed_wrong_bytes_are_not_completed_with_the_bytes_of_a_copy() {
    for (fault, is_right) in [(Some(UpstreamFault::WrongStart), false), (None, true)] {
        let upstream = ScriptedUpstream::start().await;
        let (digest, bytes) = add_blob(&upstream, 1, BLOB_BYTES);
        upstream.add_blob("library/other", bytes.clone());
        let store = std::sync::Arc::new(GateStore::new(std::sync::Arc::new(MemoryStore::new())));
        let server = mirror(&upstream, StoreKind::Given(store.clone()), "").await;
        let client = server.client();
        assert_eq!(get(&client, &target(&digest)).await.body, bytes);
        stored(&server, &upstream, &digest).await;
        let slow = UpstreamFault::Slow { chunk: 64 << 10, pause: Duration::from_millis(20) };
        for fault in fault.into_iter().chain([slow]) {
            upstream.add_rule(UpstreamRule::new(fault).on(RequestKind::BlobGet));
        }
        let mut looking =
            store.hold(|call| call.operation == "list" && call.key.contains("links/"));
        let mut wire = client.wire().await;
        let path = target(&digest).replace("library/app", "library/other");
        let request = Request::new("GET", path).header("Connection", "close");
        wire.write(&request.head("localhost")).await.unwrap();
        assert_eq!(wire.response_head().await.unwrap().status, 200);
        let first = wire.bytes(1024).await.unwrap();
        looking.reached(1).await;
        looking.release();
        let came = [first, wire.closed().await.unwrap()].concat();
        assert_eq!(came == bytes, is_right);
        assert_eq!(came.len() == BLOB_BYTES, is_right, "{} of {BLOB_BYTES}", came.len());
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_fails_costs_no_client_its_bytes() {
    let upstream = ScriptedUpstream::start().await;
    let (digest, bytes) = add_blob(&upstream, 1, BLOB_BYTES);
    let memory = std::sync::Arc::new(MemoryStore::new());
    let store = std::sync::Arc::new(FaultyStore::new(memory));
    let server = mirror(&upstream, StoreKind::Given(store.clone()), "").await;
    assert_eq!(plain(&server.client(), "GET", "/v2/").await.status, 200);
    let is_write =
        |call: &Call| call.operation.starts_with("put") || call.operation.contains("multi");
    store.inject(Fault::fail(ErrorKind::Unavailable).on(is_write).from_then_on());
    assert_eq!(get(&server.client(), &target(&digest)).await.body, bytes);
    store.heal();
    assert_eq!(get(&server.client(), &target(&digest)).await.body, bytes);
    stored(&server, &upstream, &digest).await;
}
