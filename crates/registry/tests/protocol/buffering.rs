//! How many bytes of uploads are in memory: what has been taken off the bodies and is not stored
//! yet, counted at both ends of the registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use futures::{StreamExt, TryStreamExt};
use jreg_registry::{BodyError, Chunk, Limits, Options, Registry, Repository};
use jreg_storage::testing::{Call, Gate, Intercepted, Interceptor, ManualClock};
use jreg_storage::{ByteStream, Locality, MemoryStore, PartRules, Result};
use tokio::task::JoinHandle;

use crate::bench::{PART, bytes, digest};

/// Room for five parts.
const BUDGET_BYTES: u64 = 5 * PART as u64;
const UPLOADS: usize = 12;
/// Frames of one byte: an upload that waits for room has one in its hand.
const IN_HAND_BYTES: u64 = UPLOADS as u64;
/// More turns than all tasks need until every one of them waits.
const TURNS: usize = 2000;

/// The longest that uploads are waited for. Reached only by a test that fails.
const WAIT_MAX: Duration = Duration::from_secs(60);

/// Bytes that were taken and not stored yet.
#[derive(Clone, Debug, Default)]
struct Meter(Arc<Counts>);

#[derive(Debug, Default)]
struct Counts {
    taken: AtomicU64,
    stored: AtomicU64,
    most: AtomicU64,
}

impl Meter {
    fn take(&self, bytes: u64) {
        let taken = self.0.taken.fetch_add(bytes, Ordering::SeqCst) + bytes;
        let held = taken - self.0.stored.load(Ordering::SeqCst);
        self.0.most.fetch_max(held, Ordering::SeqCst);
    }

    fn most(&self) -> u64 {
        self.0.most.load(Ordering::SeqCst)
    }

    fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::SeqCst)
    }

    /// A body of these bytes, counted as they are taken; it then ends, breaks off, or stands
    /// still.
    fn body(&self, bytes: &Bytes, length: Option<u64>, ending: Ending) -> Chunk {
        let meter = self.clone();
        let frames: Vec<_> = (0..bytes.len()).map(|at| bytes.slice(at..=at)).collect();
        let frames = futures::stream::iter(frames).map(move |frame| {
            meter.take(frame.len() as u64);
            Ok(frame)
        });
        let body = match ending {
            Ending::Whole => frames.boxed(),
            Ending::Broken => frames.chain(futures::stream::iter([Err(BodyError::Broken)])).boxed(),
            Ending::Stalled => frames.chain(futures::stream::pending()).boxed(),
        };
        Chunk { range: None, length, body }
    }
}

#[derive(Clone, Copy, Debug)]
enum Ending {
    Whole,
    Broken,
    Stalled,
}

/// The length of the last piece of a tail's name.
const ULID_CHARS: usize = 26;

/// Whether a call moves bytes of blobs, and not a record.
fn is_bulk(call: &Call) -> bool {
    let is_tail = call.key.starts_with("uploads/")
        && call.key.rsplit('.').next().is_some_and(|last| last.len() == ULID_CHARS);
    matches!(call.operation, "put" | "put_part") && (call.key.starts_with("blobs/") || is_tail)
}

#[async_trait]
impl Interceptor for Meter {
    type Plan = ();

    async fn before(&self, _call: &Call) -> Result<()> {
        Ok(())
    }

    async fn after(&self, call: &Call, _plan: &()) -> Result<()> {
        if is_bulk(call) {
            self.0.stored.fetch_add(call.bytes, Ordering::SeqCst);
        }
        Ok(())
    }

    /// A tail that is taken up again is in memory again.
    fn stream(&self, _call: &Call, _plan: &(), stream: ByteStream) -> ByteStream {
        let meter = self.clone();
        stream.inspect_ok(move |frame| meter.take(frame.len() as u64)).boxed()
    }
}

struct Bench {
    meter: Meter,
    gate: Arc<Gate>,
    registry: Registry,
}

impl Bench {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let rules = PartRules { part_bytes: PART as u64, uniform: true, parts_max: 100 };
        let memory = MemoryStore::builder().locality(Locality::Shared).part_rules(rules);
        let gate = Arc::new(Gate::new(Arc::new(memory.clock(clock.clone()).build())));
        let meter = Meter::default();
        let store = Arc::new(Intercepted::with(gate.clone(), meter.clone()));
        let limits = Limits { upload_buffer_bytes: BUDGET_BYTES, ..Limits::default() };
        let options = Options { limits, ..Options::default() };
        let registry = Registry::open(store, clock, options).await.unwrap();
        Self { meter, gate, registry }
    }

    fn repository(&self, number: usize) -> Repository {
        self.registry.repository(format!("r{number}").parse().unwrap())
    }

    fn free(&self) -> u64 {
        self.registry.usage().upload_buffer_bytes_free as u64
    }

    /// Begins to push a blob, of this many bytes, in one of the ways that there are.
    fn push(&self, number: usize, len: usize, ending: Ending) -> JoinHandle<()> {
        let (repository, meter) = (self.repository(number), self.meter.clone());
        let content: Bytes = bytes(len + number).slice(number..);
        tokio::spawn(async move {
            let whole = digest(&content);
            let pushed = match number % 3 {
                0 => {
                    let chunk = meter.body(&content, Some(content.len() as u64), ending);
                    repository.blob_push(&whole, chunk).await
                }
                1 => repository.blob_push(&whole, meter.body(&content, None, ending)).await,
                _ => {
                    let id = repository.upload_start(None);
                    let (first, second) = (content.slice(..len / 2), content.slice(len / 2..));
                    let first = meter.body(&first, None, Ending::Whole);
                    repository.upload_append(&id, first).await.unwrap();
                    repository.upload_finish(&id, &whole, meter.body(&second, None, ending)).await
                }
            };
            assert_eq!(pushed.is_ok(), matches!(ending, Ending::Whole), "{number}: {pushed:?}");
        })
    }
}

/// Lets every task run until it waits.
async fn settle() {
    for _ in 0..TURNS {
        tokio::task::yield_now().await;
    }
}

async fn all(pushes: impl IntoIterator<Item = JoinHandle<()>>) {
    let done = tokio::time::timeout(WAIT_MAX, join_all(pushes)).await;
    done.expect("room that was taken is never given back").into_iter().for_each(Result::unwrap);
}

#[tokio::test]
async fn uploads_together_never_buffer_more_than_the_budget() {
    for len in [PART - 1, PART * 4 + 3] {
        let bench = Bench::new().await;
        let held = bench.gate.hold(is_bulk);
        let pushes: Vec<_> = (0..UPLOADS).map(|n| bench.push(n, len, Ending::Whole)).collect();
        settle().await;
        let taken = bench.meter.taken();
        assert!(taken <= BUDGET_BYTES + IN_HAND_BYTES, "{taken} bytes while nothing is stored");
        assert!(taken > BUDGET_BYTES / 2, "{taken} bytes: the budget is not used");
        held.release();
        all(pushes).await;
        let most = bench.meter.most();
        assert!(most <= BUDGET_BYTES + IN_HAND_BYTES, "{most} bytes at the same time");
        assert_eq!(bench.free(), BUDGET_BYTES, "some is never given back");
    }
}

/// One that stands still keeps what it took and no more, and gives it back when it is cut off.
#[tokio::test]
async fn uploads_that_stall_or_break_off_give_back_what_they_took() {
    let bench = Bench::new().await;
    let stalled: Vec<_> = (0..2).map(|n| bench.push(n, PART * 2, Ending::Stalled)).collect();
    settle().await;
    assert_eq!(bench.free(), BUDGET_BYTES - 2 * PART as u64, "a part for each");
    let endings = [Ending::Whole, Ending::Broken];
    all((2..UPLOADS).map(|n| bench.push(n, PART * 3 + 1, endings[n % 2]))).await;
    stalled.iter().for_each(JoinHandle::abort);
    join_all(stalled).await;
    assert_eq!(bench.free(), BUDGET_BYTES, "some is never given back");
}
