//! Peak memory of a server for its clients, observed at the bucket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use http_body_util::Empty;
use hyper_util::rt::{TokioExecutor, TokioIo};
use jreg_storage::PART_BYTES_MIN;
use jreg_testkit::s3::{FaultRule, S3Fault, S3Gate, S3Operation, S3Server, S3Spec};
use jreg_testkit::{
    Client, Process, Request, Rng, ServerSpec, StoreKind, TestServer, Wire, index_of, sha256,
};

/// Room for three parts of the minimum size, and a piece.
const BUDGET_BYTES: u64 = 16 * 1024 * 1024;
const PARTS_MAX: usize = 3;
const UPLOADS: usize = 6;
/// A part, and a piece.
const BLOB_BYTES: usize = 7 * 1024 * 1024;

/// Timeout; reached only by a failing test.
const HANG: Duration = Duration::from_secs(60);

/// The value of a metric.
async fn metric(client: &Client, name: &str) -> f64 {
    let metrics = client.get("/metrics").await.body;
    let text = String::from_utf8(metrics.to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// Pushes a blob; clients with odd numbers do not send the digest first.
async fn push(client: Client, number: usize) {
    let bytes = Rng::new(number as u64).bytes(BLOB_BYTES);
    let digest = sha256(&bytes);
    let uploads = "/v2/a/blobs/uploads/";
    let pushed = if number.is_multiple_of(2) {
        let target = format!("{uploads}?digest={digest}");
        client.send(Request::new("POST", target).body(bytes)).await
    } else {
        let begun = client.send(Request::new("POST", uploads).body("")).await;
        let upload = begun.header("Location").unwrap();
        let patched = client.send(Request::new("PATCH", upload).chunked([bytes])).await;
        assert_eq!(patched.status, 202, "{patched}");
        let close = Request::new("PUT", format!("{upload}?digest={digest}"));
        client.send(close.body("")).await
    };
    assert_eq!(pushed.status, 201, "{pushed}");
}

/// A slow client: half of a body, then nothing.
async fn stall(client: &Client) -> jreg_testkit::Wire {
    let mut wire = client.wire().await;
    let bytes: Bytes = Rng::new(99).bytes(BLOB_BYTES);
    let target = format!("/v2/a/blobs/uploads/?digest={}", sha256(&bytes));
    let head = Request::new("POST", target).header("Content-Length", bytes.len().to_string());
    wire.write(&head.head("localhost")).await.unwrap();
    wire.write(&bytes[..BLOB_BYTES / 10]).await.unwrap();
    wire
}

/// Every part in flight to the bucket is in memory.
#[tokio::test]
async fn parts_on_their_way_to_a_slow_bucket_fit_the_budget() {
    /// A quarter of it is for bodies of unknown length.
    const ROOM_BYTES: u64 = 4 * PART_BYTES_MIN;
    let bucket = Arc::new(S3Server::start(S3Spec::default()).await);
    let spec = ServerSpec::with(|settings| settings.upload_buffer_bytes = ROOM_BYTES);
    let server = TestServer::start(spec.store(StoreKind::Given(bucket.store()))).await;
    let client = server.client();
    let free = metric(&client, "jreg_upload_buffer_free_bytes").await;
    assert_eq!(free, ROOM_BYTES as f64);

    let gate = S3Gate::closed();
    bucket.inject(FaultRule::new(S3Fault::HoldResponse(gate.clone())).on(S3Operation::UploadPart));
    let pushes = join_all((0..UPLOADS).map(|number| push(client.clone(), number)));
    let stalled = async {
        gate.arrived(PARTS_MAX).await;
        stall(&client).await
    };
    let responses = async {
        gate.arrived(PARTS_MAX).await;
        assert!(metric(&client, "jreg_upload_buffer_free_bytes").await < PART_BYTES_MIN as f64);
        // One response per arriving part: all make progress in turn.
        for part in 1..=UPLOADS * BLOB_BYTES.div_ceil(usize::try_from(PART_BYTES_MIN).unwrap()) {
            gate.arrived(part).await;
            gate.pass_one();
        }
    };
    let (_, stalled, ()) = tokio::join!(pushes, stalled, responses);
    let most = gate.most_waiting();
    assert!((PARTS_MAX..=PARTS_MAX + 1).contains(&most), "{ROOM_BYTES} bytes hold {most} parts");
    bucket.remove_all();
    stalled.reset().unwrap();
    server.stop().await;
}

/// Begins a request with this Content-Length, and sends part of the body.
async fn begin(client: &Client, method: &str, target: &str, sent: &[u8], length: usize) -> Wire {
    let mut wire = client.wire().await;
    let head = Request::new(method, target)
        .header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        .header("Content-Length", length.to_string());
    wire.write(&head.head("localhost")).await.unwrap();
    wire.write(sent).await.unwrap();
    wire
}

/// Regression: 32 manifests, or 16 uploads, with announced but unsent bodies blocked every push.
#[tokio::test]
async fn fixed_bodies_that_do_not_come_block_no_other() {
    const IDLE: usize = 100;
    let bucket = Arc::new(S3Server::start(S3Spec::default()).await);
    let spec = ServerSpec::default().store(StoreKind::Given(bucket.store()));
    let server = TestServer::start(spec).await;
    let client = server.client();
    let mut idle = Vec::new();
    for number in 0..IDLE {
        let first: &[u8] = if number % 2 == 0 { b"" } else { b"{" };
        let manifest = format!("/v2/evil/manifests/x{number}");
        idle.push(begin(&client, "PUT", &manifest, first, 4 << 20).await);
        let upload = format!("/v2/evil/blobs/uploads/?digest={}", sha256(number.to_string()));
        idle.push(begin(&client, "POST", &upload, first, 17 << 20).await);
    }
    let others = async {
        join_all((0..UPLOADS).map(|number| push(client.clone(), number))).await;
        let index = index_of(&[]);
        let put =
            Request::new("PUT", "/v2/a/manifests/v1").header("Content-Type", index.media_type);
        let put = client.send(put.body(index.bytes)).await;
        assert_eq!(put.status, 201, "{put}");
    };
    tokio::time::timeout(HANG, others).await.expect("pushes wait for bodies that do not come");
    for budget in ["upload_buffer", "manifest_buffer"] {
        assert_eq!(
            metric(&client, &format!("jreg_budget_waiting{{budget=\"{budget}\"}}")).await,
            0.0
        );
    }
    for wire in idle {
        wire.reset().unwrap();
    }
    server.stop().await;
}

/// A request without room gets 429 with Retry-After, and is counted.
#[tokio::test]
async fn fixed_manifest_that_finds_no_room_is_refused() {
    const MANIFEST_BYTES: usize = 4 << 20;
    let spec = ServerSpec::with(|settings| {
        settings.manifest_buffer_bytes = 2 * MANIFEST_BYTES as u64;
        settings.buffer_wait_max = Duration::from_millis(100);
    });
    let server = TestServer::start(spec).await;
    let client = server.client();
    let most = vec![b' '; MANIFEST_BYTES - 1];
    let mut stalled = Vec::new();
    for number in 0..2 {
        let manifest = format!("/v2/evil/manifests/x{number}");
        stalled.push(begin(&client, "PUT", &manifest, &most, MANIFEST_BYTES).await);
    }
    let free = "jreg_manifest_buffer_free_bytes";
    let spent = async { while metric(&client, free).await > 0.0 {} };
    tokio::time::timeout(HANG, spent).await.expect("the bodies are not taken");
    let put = Request::new("PUT", "/v2/a/manifests/v1")
        .header("Content-Type", "application/vnd.oci.image.manifest.v1+json")
        .body(most);
    let refused = client.send(put).await;
    assert_eq!(refused.status, 429, "{refused}");
    assert_eq!(refused.header("Retry-After"), Some("5"));
    let count = "jreg_budget_waits_total{budget=\"manifest_buffer\",outcome=\"refused\"}";
    assert_eq!(metric(&client, count).await, 1.0);
    for wire in stalled {
        wire.reset().unwrap();
    }
    let given_back = async { while metric(&client, free).await < 2.0 * MANIFEST_BYTES as f64 {} };
    tokio::time::timeout(HANG, given_back).await.expect("room is lost");
    server.stop().await;
}

/// Regression: one connection had an open bucket request per unread stream.
#[tokio::test]
async fn fixed_streams_that_take_nothing_share_the_connections_slots_at_a_bucket() {
    const STREAMS: usize = 100;
    /// The connection's own slot, and its maximum of shared ones.
    const SLOTS: usize = 32;
    let bucket = Arc::new(S3Server::start(S3Spec::default()).await);
    let spec = ServerSpec::default().store(StoreKind::Given(bucket.store()));
    let server = TestServer::start(spec).await;
    let client = server.client();
    let blob = Rng::new(1).bytes(1 << 20);
    let digest = sha256(&blob);
    let push = Request::new("POST", format!("/v2/a/blobs/uploads/?digest={digest}"));
    assert_eq!(client.send(push.body(blob)).await.status, 201);
    bucket.take_requests();

    let stream = tokio::net::TcpStream::connect(client.address()).await.unwrap();
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .initial_stream_window_size(0)
        .handshake(TokioIo::new(stream))
        .await
        .unwrap();
    let connection = tokio::spawn(connection);
    let pulls: Vec<_> = (0..STREAMS)
        .map(|_| {
            let uri = format!("http://localhost/v2/a/blobs/{digest}");
            let get = hyper::Request::get(uri).body(Empty::<Bytes>::new()).unwrap();
            tokio::spawn(sender.clone().send_request(get))
        })
        .collect();
    let waiting = "jreg_budget_waiting{budget=\"responses\"}";
    let all_wait = async { while metric(&client, waiting).await < (STREAMS - SLOTS) as f64 {} };
    tokio::time::timeout(HANG, all_wait).await.expect("no response waits for a slot");
    let requests = bucket.requests();
    let reads = requests.iter().filter(|request| {
        request.operation == S3Operation::GetObject && request.key.contains("blobs/")
    });
    let reads = reads.count();
    assert!((1..=SLOTS).contains(&reads), "{reads} reads for {STREAMS} streams");
    connection.abort();
    for pull in pulls {
        pull.abort();
    }
    let given_back = async { while metric(&client, waiting).await > 0.0 {} };
    tokio::time::timeout(HANG, given_back).await.expect("responses that are gone wait");
    server.stop().await;
}

/// Uploads queued for the budget hold almost no memory, even after they have sent: the process
/// stays near the budget. (Regression: each took a part.)
#[tokio::test(flavor = "multi_thread")]
async fn fixed_memory_of_many_uploads_stays_at_the_budget() {
    const UPLOADS: usize = 40;
    /// Threads, code that is run, and read-ahead of 40 connections.
    const BESIDE_BYTES: u64 = 32 * 1024 * 1024;
    let bucket = Arc::new(S3Server::start(S3Spec::default()).await);
    let start = {
        let bucket = Arc::clone(&bucket);
        let flags = ["--upload-buffer-bytes", "16MiB", "--part-bytes", "5MiB"];
        move || Process::start_in_bucket(env!("CARGO_BIN_EXE_jreg"), &bucket, &flags)
    };
    let process = tokio::task::spawn_blocking(start).await.unwrap();
    let idle = process.peak_memory_bytes();
    join_all((0..UPLOADS).map(|number| push(process.client(), number))).await;
    let (peak, max) = (process.peak_memory_bytes(), idle + BUDGET_BYTES + BESIDE_BYTES);
    assert!(peak <= max, "{peak} bytes, {idle} when idle, for a budget of {BUDGET_BYTES}");
    assert!(process.terminate().success());
}
