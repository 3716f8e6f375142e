//! What a server has in memory for its clients at the most, seen from the bucket.

#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use bytes::Bytes;
use futures::future::join_all;
use jreg_storage::PART_BYTES_MIN;
use jreg_testkit::s3::{Fault, Gate, Operation, Rule, S3Server, S3Spec};
use jreg_testkit::{Client, Process, Request, Rng, ServerSpec, StoreKind, TestServer, sha256};

/// Room for three parts of the smallest size.
const BUDGET_BYTES: u64 = 16 * 1024 * 1024;
const PARTS_MAX: usize = 3;
const UPLOADS: usize = 6;
/// A part, and a piece.
const BLOB_BYTES: usize = 7 * 1024 * 1024;

/// What a metric says.
async fn metric(client: &Client, name: &str) -> f64 {
    let metrics = client.get("/metrics").await.body;
    let text = String::from_utf8(metrics.to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
}

/// Pushes a blob; a client with an odd number does not know its digest yet.
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

/// Every part that is on its way to the bucket, or waits for its answer, is in memory.
#[tokio::test]
async fn parts_on_their_way_to_a_slow_bucket_fit_the_budget() {
    let bucket = Arc::new(S3Server::start(S3Spec::default()).await);
    let spec = ServerSpec::with(|settings| settings.upload_buffer_bytes = BUDGET_BYTES);
    let server = TestServer::start(spec.store(StoreKind::Given(bucket.store()))).await;
    let client = server.client();
    let free = metric(&client, "jreg_upload_buffer_free_bytes").await;
    assert_eq!(free, BUDGET_BYTES as f64);

    let gate = Gate::closed();
    bucket.inject(Rule::new(Fault::HoldAnswer(gate.clone())).on(Operation::UploadPart));
    let pushes = join_all((0..UPLOADS).map(|number| push(client.clone(), number)));
    let stalled = async {
        gate.arrived(PARTS_MAX).await;
        stall(&client).await
    };
    let answers = async {
        gate.arrived(PARTS_MAX).await;
        assert!(metric(&client, "jreg_upload_buffer_free_bytes").await < PART_BYTES_MIN as f64);
        // One answer for each part that comes: all wait in turn.
        for part in 1..=UPLOADS * BLOB_BYTES.div_ceil(usize::try_from(PART_BYTES_MIN).unwrap()) {
            gate.arrived(part).await;
            gate.pass_one();
        }
    };
    let (_, stalled, ()) = tokio::join!(pushes, stalled, answers);
    assert_eq!(gate.most_waiting(), PARTS_MAX, "{BUDGET_BYTES} bytes hold {PARTS_MAX} parts");
    bucket.remove_all();
    stalled.reset().unwrap();
    server.stop().await;
}

/// Uploads that wait for room in the budget hold next to nothing, also once they have sent: the
/// process never takes much more than the budget. (It took a part for each upload once.)
#[tokio::test(flavor = "multi_thread")]
async fn fixed_memory_of_many_uploads_stays_at_the_budget() {
    const UPLOADS: usize = 40;
    /// Program, threads and what 40 connections read ahead.
    const BESIDE_BYTES: u64 = 64 * 1024 * 1024;
    let bucket = Arc::new(S3Server::start(S3Spec::default()).await);
    let start = {
        let bucket = Arc::clone(&bucket);
        let flags = ["--upload-buffer-bytes", "16MiB", "--part-bytes", "5MiB"];
        move || Process::start_in_bucket(env!("CARGO_BIN_EXE_jreg"), &bucket, &flags)
    };
    let process = tokio::task::spawn_blocking(start).await.unwrap();
    join_all((0..UPLOADS).map(|number| push(process.client(), number))).await;
    let (peak, max) = (process.peak_memory_bytes(), BUDGET_BYTES + BESIDE_BYTES);
    assert!(peak <= max, "{peak} bytes for a budget of {BUDGET_BYTES}");
    assert!(process.terminate().success());
}
