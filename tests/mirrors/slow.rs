//! Slow readers of a large blob that is being fetched, with the real binary: they take no memory, stop no other client, and
//! lose nothing.
//!
//! `JREG_MIRROR_BLOB_MIB` is the size of the blob (1024 in `.ci/run full`), `JREG_MIRROR_STOP_S` how long a reader
//! stops (60 there).

use std::time::Duration;

use futures::future::join_all;
use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::upstream::{RequestKind, ScriptedUpstream, UpstreamFault, UpstreamRule};
use jreg_testkit::{Client, Process, Request, Rng, Wire, sha256};
use tokio::time::{Instant, sleep};

use super::get;

const READERS: usize = 64;
/// What each of them has read when it stops.
const READ_BYTES: usize = 100_000;
const WINDOW_MIB: u64 = 8;
/// Of the process: the window, what 65 connections keep, and the program itself.
const MEMORY_MAX: u64 = 256 << 20;

fn variable(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap())
}

/// A reader that has read the beginning.
async fn begun(client: &Client, target: &str) -> (Wire, bytes::Bytes) {
    let mut wire = client.wire().await;
    let request = Request::new("GET", target).header("Connection", "close");
    wire.write(&request.head("localhost")).await.unwrap();
    assert_eq!(wire.response_head().await.unwrap().status, 200);
    let first = wire.bytes(READ_BYTES).await.unwrap();
    (wire, first)
}

async fn window_bytes(client: &Client) -> u64 {
    let metrics = get(client, "/metrics").await;
    let text = String::from_utf8(metrics.body.to_vec()).unwrap();
    let line = text.lines().find_map(|line| line.strip_prefix("jreg_mirror_memory_bytes "));
    line.unwrap().parse().unwrap()
}

async fn check(process: &Process, upstream: &ScriptedUpstream, digest: &str, bytes: bytes::Bytes) {
    let stop = Duration::from_secs(variable("JREG_MIRROR_STOP_S").unwrap_or(1));
    let (client, target) = (process.client(), format!("/v2/docker.io/library/app/blobs/{digest}"));
    let slow = UpstreamFault::Slow { chunk: 4 << 20, pause: Duration::from_millis(20) };
    upstream.add_rule(UpstreamRule::new(slow).on(RequestKind::BlobGet));
    let mut readers = join_all((0..READERS).map(|_| begun(&client, &target))).await;
    let brisk = tokio::spawn({
        let (client, target) = (process.client(), target.clone());
        async move { sha256(&get(&client, &target).await.body) }
    });
    let (stopped, mut peak) = (Instant::now(), 0);
    while !brisk.is_finished() || stopped.elapsed() < stop {
        peak = peak.max(window_bytes(&client).await);
        sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(brisk.await.unwrap(), digest, "the others are not stopped");
    assert!(peak > 0 && peak <= WINDOW_MIB << 20, "{peak}");
    // One reads on where it was, the others leave.
    let (mut wire, first) = readers.pop().unwrap();
    drop(readers);
    let rest = wire.closed().await.unwrap();
    assert!([first, rest].concat() == bytes, "its place is lost");
    let memory = process.peak_memory_bytes();
    assert!(memory <= MEMORY_MAX, "{memory} bytes");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
#[expect(
    clippy::disallowed_methods,
    reason = "the scripted registry and the emulator run on this runtime, on other threads"
)]
async fn many_slow_readers_of_a_blob_that_is_fetched_stay_within_the_window() {
    let blob_bytes = variable("JREG_MIRROR_BLOB_MIB").unwrap_or(48) << 20;
    let bytes = Rng::new(1).bytes(usize::try_from(blob_bytes).unwrap());
    for in_bucket in [false, true] {
        let upstream = ScriptedUpstream::start().await;
        let digest = upstream.add_blob("library/app", bytes.clone());
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("jreg.toml");
        let text = format!(
            "mirror-window-bytes = \"{WINDOW_MIB}MiB\"\nmirror-wait = \"500ms\"\nmirror-memory = \"64MiB\"\n\
             [[mirror]]\nnamespace = \"docker.io\"\nupstream = \"{}\"\n",
            upstream.url()
        );
        std::fs::write(&config, text).unwrap();
        let (flags, data) =
            (["--config", &*config.display().to_string()], folder.path().join("data"));
        let bucket = S3Server::start(S3Spec::default()).await;
        let process = tokio::task::block_in_place(|| match in_bucket {
            true => Process::start_in_bucket(env!("CARGO_BIN_EXE_jreg"), &bucket, &flags),
            false => Process::start_with(env!("CARGO_BIN_EXE_jreg"), &data, &flags),
        });
        check(&process, &upstream, &digest, bytes.clone()).await;
        tokio::task::block_in_place(|| drop(process));
        bucket.stop().await;
    }
}
