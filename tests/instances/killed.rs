//! Real processes on one bucket, one of which is killed during uploads: clients continue at
//! another, and orphans of the killed process are deleted when they are old enough.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use jreg_registry::{GcOptions, NoObserver, Registry, RegistryOptions};
use jreg_storage::SystemClock;
use jreg_testkit::s3::{FaultRule, S3Fault, S3Gate, S3Operation, S3Server, S3Spec};
use jreg_testkit::{Client, Process, Request, Response, Rng, sha256};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
const PART_BYTES: usize = 5 * 1024 * 1024;
/// Three whole parts and a piece.
const BLOB_BYTES: usize = 3 * PART_BYTES + 1_234_567;
/// One PATCH of a client that sends chunks: a part and a tail.
const CHUNK_BYTES: usize = PART_BYTES + 2_000_000;
/// Longer than the maximum age of an upload and of a delayed write.
const EXPIRY: Duration = Duration::from_secs(8 * 24 * 3600);
/// Key prefixes of uploads in the bucket.
const SESSIONS: &str = "uploads/";

/// The ways of uploading a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// `POST ?digest=` with all bytes.
    AtOnce,
    /// `POST`, then `PUT ?digest=` with all bytes.
    Closing,
    /// `POST`, one PATCH of unknown length, an empty PUT.
    Stream,
    /// `POST`, several PATCHes, an empty PUT.
    Chunks,
}

/// Number of the killed instance's uploads that use PATCH.
const APPENDING: usize = 2;
const WAYS: [Way; 4] = [Way::AtOnce, Way::Closing, Way::Stream, Way::Chunks];

/// A client that pushes a blob of its own.
struct Pusher {
    way: Way,
    /// The target: the first instance until it fails, then the second.
    clients: [Client; 2],
    bytes: Bytes,
    /// The offset at which the upload was resumed at the second.
    resumed_at: Option<usize>,
}

impl Pusher {
    fn target(&self, rest: &str) -> String {
        format!("/v2/killed/blobs/uploads/{rest}")
    }

    fn digest(&self) -> String {
        sha256(&self.bytes)
    }

    /// Sends a request to the first instance, or to the second after the first was killed. Returns
    /// the response, and whether it is from the second.
    async fn send(&self, request: Request) -> (Response, bool) {
        if let Ok(response) = self.clients[0].try_send(request.clone()).await {
            return (response, false);
        }
        (self.clients[1].send(request).await, true)
    }

    async fn begin(&self) -> String {
        let begun = self.send(Request::new("POST", self.target("")).body("")).await.0;
        assert_eq!(begun.status, 202, "{begun}");
        begun.header("Location").unwrap().to_owned()
    }

    async fn push(mut self) -> Self {
        match self.way {
            Way::AtOnce => {
                let target = self.target(&format!("?digest={}", self.digest()));
                let push = Request::new("POST", target).body(self.bytes.clone());
                let response = self.send(push).await.0;
                assert_eq!(response.status, 201, "{response}");
            }
            Way::Closing => {
                let upload = self.begin().await;
                self.close(&upload, self.bytes.clone()).await;
            }
            Way::Stream => self.patch_all(BLOB_BYTES).await,
            Way::Chunks => self.patch_all(CHUNK_BYTES).await,
        }
        self
    }

    /// Sends everything in chunks of at most this size, and resumes at the current offset after a
    /// failure.
    async fn patch_all(&mut self, chunk_bytes: usize) {
        let upload = self.begin().await;
        let (mut sent, mut client) = (0, self.clients[0].clone());
        while sent < self.bytes.len() {
            let end = self.bytes.len().min(sent + chunk_bytes);
            let pieces: Vec<_> = (sent..end)
                .step_by(100_000)
                .map(|start| self.bytes.slice(start..end.min(start + 100_000)))
                .collect();
            let patch = Request::new("PATCH", &*upload).chunked(pieces);
            match client.try_send(patch).await {
                Ok(response) => {
                    assert_eq!(response.status, 202, "{response}");
                    sent = end;
                }
                Err(_) => {
                    assert_eq!(self.resumed_at, None, "the second instance broke off, too");
                    client = self.clients[1].clone();
                    let stands = stands(&client.get(&upload).await);
                    assert!((sent..end).contains(&stands), "{stands} is not {sent} to {end}");
                    (sent, self.resumed_at) = (stands, Some(stands));
                }
            }
        }
        self.close(&upload, Bytes::new()).await;
    }

    async fn close(&self, upload: &str, last: Bytes) {
        let target = format!("{upload}?digest={}", self.digest());
        let response = self.send(Request::new("PUT", target).body(last)).await.0;
        assert_eq!(response.status, 201, "{response}");
    }
}

fn stands(status: &Response) -> usize {
    assert_eq!(status.status, 204, "{status}");
    match status.header("Range").unwrap() {
        "0-0" => 0,
        range => range.strip_prefix("0-").unwrap().parse::<usize>().unwrap() + 1,
    }
}

async fn process(bucket: &Arc<S3Server>) -> Process {
    let bucket = Arc::clone(bucket);
    // One part of each upload in flight, so that the number of requests at the gate is known.
    let flags = ["--part-bytes", "5MiB", "--parts-in-flight", "1"];
    let start = move || Process::start_in_bucket(BINARY, &bucket, &flags);
    tokio::task::spawn_blocking(start).await.unwrap()
}

/// Kills an instance when a number of parts is stored and one of each upload is in flight.
async fn kill_after(parts: usize) {
    let bucket = Arc::new(S3Server::start(S3Spec::default()).await);
    let (victim, survivor) = (process(&bucket).await, process(&bucket).await);
    let gate = S3Gate::closed();
    (0..parts).for_each(|_| gate.pass_one());
    bucket.inject(FaultRule::new(S3Fault::Hold(gate.clone())).on(S3Operation::UploadPart));

    let mut rng = Rng::new(parts as u64);
    let mut pusher = |way, first: &Process| Pusher {
        way,
        clients: [first.client(), survivor.client()],
        bytes: rng.bytes(BLOB_BYTES),
        resumed_at: None,
    };
    let mut pushers: Vec<_> = WAYS.iter().map(|way| pusher(*way, &victim)).collect();
    pushers.push(pusher(Way::Closing, &survivor));
    pushers.push(pusher(Way::Chunks, &survivor));
    let running: Vec<_> = pushers.into_iter().map(|p| tokio::spawn(p.push())).collect();

    gate.arrived(parts + running.len()).await;
    victim.kill();
    gate.open();
    let done: Vec<_> = join_all(running).await.into_iter().map(Result::unwrap).collect();
    bucket.idle().await;

    let resumed = done.iter().filter(|pusher| pusher.resumed_at.is_some()).count();
    assert_eq!(resumed, 2, "both uploads that are sent in PATCHes went on at the other instance");
    for pusher in &done {
        let pulled = survivor.client().get(&format!("/v2/killed/blobs/{}", pusher.digest())).await;
        assert!(pulled.body == pusher.bytes, "{:?} came back as other bytes", pusher.way);
    }
    assert!(!bucket.uploads().is_empty(), "the dead instance left nothing behind");
    assert_no_orphan_survives(&bucket).await;
    assert!(survivor.terminate().success());
}

/// After expired uploads are deleted, the remaining objects are linked, or orphans that a PATCH
/// stored before it had read its session when it was killed: the sweep deletes those.
async fn assert_no_orphan_survives(bucket: &S3Server) {
    let clock = Arc::new(SystemClock::new());
    let registry = Registry::open(bucket.store(), clock, RegistryOptions::default()).await.unwrap();
    assert_eq!(registry.reap_uploads().await.unwrap().unfinished, 0, "nothing is old yet");
    bucket.clock().advance(EXPIRY);
    let reaped = registry.reap_uploads().await.unwrap();
    assert_eq!((reaped.unfinished, reaped.failed), (1, 0), "the upload without a response");
    assert_eq!(bucket.uploads(), []);
    let keys = bucket.keys();
    let left: Vec<_> = keys.iter().filter(|key| key.starts_with(SESSIONS)).collect();
    assert!(left.is_empty(), "{left:?}");
    let named: Vec<_> = keys
        .iter()
        .filter(|key| key.starts_with("links/"))
        .map(|key| {
            let link: Value = serde_json::from_slice(&bucket.object(key).unwrap().bytes).unwrap();
            link["location"].as_str().unwrap().to_owned()
        })
        .collect();
    let stored = keys.iter().filter(|key| key.starts_with("blobs/"));
    let (stored, loose): (Vec<_>, Vec<_>) = stored.partition(|key| named.contains(key));
    assert_eq!(stored.len(), WAYS.len() + 2);
    assert!(loose.len() <= APPENDING, "no link names {loose:?}");
    for key in &loose {
        assert_eq!(bucket.object(key).unwrap().bytes.len(), PART_BYTES, "{key}");
    }
    let sweep = GcOptions {
        history_keep: Duration::ZERO,
        sweep_now: true,
        share_max_percent: 100,
        ..GcOptions::default()
    };
    // The first run queues them; one a grace period later deletes them.
    registry.collect_garbage(&sweep, &NoObserver).await.unwrap();
    bucket.clock().advance(EXPIRY);
    registry.collect_garbage(&sweep, &NoObserver).await.unwrap();
    for key in loose {
        assert!(bucket.object(key).is_none(), "{key} was not swept");
    }
}

#[test]
fn uploads_of_a_killed_instance_go_on_at_another() {
    for parts in [0, 2] {
        crate::instances::block_on(kill_after(parts));
    }
}
