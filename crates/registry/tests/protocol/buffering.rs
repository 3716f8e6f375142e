//! How many bytes of uploads are in memory: what has been taken off the bodies and is not stored
//! yet, counted at both ends of the registry.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::join_all;
use futures::{FutureExt, StreamExt, TryStreamExt};
use jreg_registry::{
    BodyError, Error, Registry, RegistryLimits, RegistryOptions, Repository, UploadChunk,
};
use jreg_storage::testing::{Call, GateStore, InterceptedStore, Interceptor, ManualClock};
use jreg_storage::{ByteStream, MemoryStore, PartRules, Result};
use tokio::task::JoinHandle;

use crate::bench::{PART, bytes, digest};

/// Room for five parts.
const BUDGET_BYTES: u64 = 5 * PART as u64;
const UPLOADS: usize = 12;
/// Frames of one byte: an upload that waits for room has one in its hand.
const IN_HAND_BYTES: u64 = UPLOADS as u64;
/// A first part that follows a tail of one byte is read back whole: one byte more than a part.
const READ_BACK_BYTES: u64 = UPLOADS as u64 / 3;
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

    fn stored(&self) -> u64 {
        self.0.stored.load(Ordering::SeqCst)
    }

    fn taken(&self) -> u64 {
        self.0.taken.load(Ordering::SeqCst)
    }

    /// A body of these bytes, counted as they are taken, with others' turns between them; it then
    /// ends, breaks off, or stands still.
    fn body(&self, bytes: &Bytes, length: Option<u64>, ending: Ending) -> UploadChunk {
        let meter = self.clone();
        let frames: Vec<_> = (0..bytes.len()).map(|at| bytes.slice(at..=at)).collect();
        let frames = futures::stream::iter(frames).then(move |frame| {
            meter.take(frame.len() as u64);
            tokio::task::yield_now().map(|()| Ok(frame))
        });
        let body = match ending {
            Ending::Whole => frames.boxed(),
            Ending::Broken => frames.chain(futures::stream::iter([Err(BodyError::Broken)])).boxed(),
            Ending::Stalled => frames.chain(futures::stream::pending()).boxed(),
        };
        UploadChunk::new(None, length, body)
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

struct BufferingBench {
    meter: Meter,
    gate: Arc<GateStore>,
    registry: Registry,
}

impl BufferingBench {
    async fn new() -> Self {
        Self::with(RegistryLimits {
            upload_buffer_bytes: BUDGET_BYTES,
            ..RegistryLimits::default()
        })
        .await
    }

    async fn with(limits: RegistryLimits) -> Self {
        let clock = Arc::new(ManualClock::default());
        let rules = PartRules { part_bytes: PART as u64, uniform: true, parts_max: 10_000 };
        let memory = MemoryStore::builder().remote().part_rules(rules);
        let gate = Arc::new(GateStore::new(Arc::new(memory.clock(clock.clone()).build())));
        let meter = Meter::default();
        let store = Arc::new(InterceptedStore::with(gate.clone(), meter.clone()));
        let options = RegistryOptions { limits, ..RegistryOptions::default() };
        let registry = Registry::open(store, clock, options).await.unwrap();
        Self { meter, gate, registry }
    }

    fn repository(&self, number: usize) -> Repository {
        self.registry.repository(format!("r{number}").parse().unwrap())
    }

    fn free(&self) -> u64 {
        self.registry.usage().upload_buffer.bytes_free as u64
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
        let bench = BufferingBench::new().await;
        let held = bench.gate.hold(is_bulk);
        let pushes: Vec<_> = (0..UPLOADS).map(|n| bench.push(n, len, Ending::Whole)).collect();
        settle().await;
        let taken = bench.meter.taken();
        assert!(taken <= BUDGET_BYTES + IN_HAND_BYTES, "{taken} bytes while nothing is stored");
        assert!(taken > BUDGET_BYTES / 2, "{taken} bytes: the budget is not used");
        held.release();
        all(pushes).await;
        let most = bench.meter.most();
        let most_max = BUDGET_BYTES + IN_HAND_BYTES + READ_BACK_BYTES;
        assert!(most <= most_max, "{most} bytes at the same time");
        assert_eq!(bench.free(), BUDGET_BYTES, "some is never given back");
    }
}

/// Uploads of known length held a part each before their first byte.
#[tokio::test]
async fn fixed_uploads_that_have_sent_nothing_hold_nothing() {
    let bench = BufferingBench::new().await;
    let idle: Vec<_> = (0..UPLOADS)
        .map(|number| {
            let repository = bench.repository(number);
            let length = (number % 2 == 0).then_some(PART as u64 * 2);
            let body = bench.meter.body(&Bytes::new(), length, Ending::Stalled);
            let whole = digest(&bytes(number));
            tokio::spawn(async move { repository.blob_push(&whole, body).await.map(|_| ()) })
        })
        .collect();
    settle().await;
    assert_eq!(bench.free(), BUDGET_BYTES);
    all((0..UPLOADS).map(|number| bench.push(number, PART * 2, Ending::Whole))).await;
    idle.iter().for_each(JoinHandle::abort);
}

/// Who waits for room is told so after a while, and what it took is given back.
#[tokio::test]
async fn fixed_uploads_that_find_no_room_are_refused() {
    let wait_max = Duration::from_millis(50);
    let limits = RegistryLimits { buffer_wait_max: wait_max, ..RegistryLimits::default() };
    let bench =
        BufferingBench::with(RegistryLimits { upload_buffer_bytes: PART as u64, ..limits }).await;
    let stalled = bench.push(0, PART, Ending::Stalled);
    settle().await;
    let content = bytes(PART);
    let (second, whole) = (bench.repository(1), digest(&content));
    let refused = second.blob_push(&whole, UploadChunk::of(content.clone()));
    let refused = tokio::time::timeout(WAIT_MAX, refused).await.expect("it waits for ever");
    assert!(matches!(refused, Err(Error::Busy { .. })), "{refused:?}");
    let usage = bench.registry.usage().upload_buffer;
    assert_eq!((usage.waiting, usage.waits, usage.refused), (0, 1, 1));
    stalled.abort();
    stalled.await.unwrap_err();
    assert_eq!(bench.free(), PART as u64, "some is never given back");
    second.blob_push(&whole, UploadChunk::of(content)).await.unwrap();
}

/// Most streams are short. That they may become long must not keep the others waiting.
#[tokio::test]
async fn streams_of_unknown_length_take_room_as_they_grow() {
    let bench = BufferingBench::new().await;
    let streamed = (0..UPLOADS).map(|n| 3 * n + 1);
    let stalled: Vec<_> = streamed.map(|n| bench.push(n, 1, Ending::Stalled)).collect();
    settle().await;
    assert_eq!(bench.meter.taken(), UPLOADS as u64, "each has a byte");
    stalled.iter().for_each(JoinHandle::abort);
    join_all(stalled).await;
    assert_eq!(bench.free(), BUDGET_BYTES, "some is never given back");
}

/// If all room went to parts that are half full, none of them could ever be sent.
#[tokio::test]
async fn streams_that_grow_at_the_same_time_do_not_starve_each_other() {
    for len in [PART - 1, PART + 1, PART * 4 + 3] {
        let bench = BufferingBench::new().await;
        let streamed = (0..UPLOADS).map(|n| 3 * n + 1);
        all(streamed.map(|n| bench.push(n, len, Ending::Whole))).await;
        let most = bench.meter.most();
        assert!(most <= BUDGET_BYTES + IN_HAND_BYTES, "{most} bytes at the same time");
        assert_eq!(bench.free(), BUDGET_BYTES, "some is never given back");
    }
}

/// The first byte after a part took the room of another: 15 such uploads held all there is.
#[tokio::test]
async fn fixed_uploads_that_have_sent_a_part_hold_no_other_for_a_byte() {
    const STALLED: usize = 16;
    const PARTS: u64 = STALLED as u64;
    let limits =
        RegistryLimits { upload_buffer_bytes: PARTS * PART as u64, ..RegistryLimits::default() };
    let bench = BufferingBench::with(limits).await;
    let mut stalled = Vec::new();
    for number in 0..STALLED {
        stalled.push(bench.push(3 * number + 1, PART + 1, Ending::Stalled));
        settle().await;
    }
    let all_bytes = (STALLED * (PART + 1)) as u64;
    assert_eq!(bench.meter.taken(), all_bytes, "each has sent a byte more than a part");
    let free = bench.free();
    assert!(free >= PARTS * PART as u64 / 4, "{free} bytes are left by {STALLED} uploads");
    stalled.iter().for_each(JoinHandle::abort);
    join_all(stalled).await;
}

/// One that stands still keeps what it took and no more, and gives it back when it is cut off.
#[tokio::test]
async fn uploads_that_stall_or_break_off_give_back_what_they_took() {
    let bench = BufferingBench::new().await;
    let stalled: Vec<_> = (0..2).map(|n| bench.push(n, PART * 2, Ending::Stalled)).collect();
    settle().await;
    assert_eq!(bench.free(), BUDGET_BYTES - 2 * PART as u64, "a part for each");
    let endings = [Ending::Whole, Ending::Broken];
    all((2..UPLOADS).map(|n| bench.push(n, PART * 3 + 1, endings[n % 2]))).await;
    stalled.iter().for_each(JoinHandle::abort);
    join_all(stalled).await;
    assert_eq!(bench.free(), BUDGET_BYTES, "some is never given back");
}

/// A chunk of one byte takes up the tail that is stored before it, nearly a part: that has to have
/// its place too.
#[tokio::test]
async fn fixed_short_chunks_after_long_tails_fit_the_budget() {
    let bench = BufferingBench::new().await;
    let content = bytes(PART);
    let mut ids = Vec::new();
    for number in 0..UPLOADS {
        let repository = bench.repository(number);
        let id = repository.upload_start(None);
        let first = bench.meter.body(&content.slice(..PART - 1), None, Ending::Whole);
        repository.upload_append(&id, first).await.unwrap();
        ids.push((repository, id));
    }
    let held = bench.gate.hold(|call| is_bulk(call) && call.bytes > 1);
    let appends: Vec<_> = ids
        .iter()
        .map(|(repository, id)| {
            let last = bench.meter.body(&content.slice(PART - 1..), Some(1), Ending::Whole);
            let (repository, id) = (repository.clone(), id.clone());
            tokio::spawn(
                async move { repository.upload_append(&id, last).await.map(|_| ()).unwrap() },
            )
        })
        .collect();
    settle().await;
    let held_bytes = bench.meter.taken() - bench.meter.stored();
    assert!(held_bytes <= BUDGET_BYTES + IN_HAND_BYTES, "{held_bytes} bytes in memory");
    assert!(held_bytes > BUDGET_BYTES / 2, "{held_bytes} bytes: the budget is not used");
    held.release();
    all(appends).await;
    assert_eq!(bench.free(), BUDGET_BYTES, "some is never given back");
    for (repository, id) in ids {
        repository.upload_finish(&id, &digest(&content), UploadChunk::empty()).await.unwrap();
    }
}

/// A request for more room than there is would wait for ever, and all others behind it.
#[tokio::test(start_paused = true)]
async fn fixed_upload_with_parts_above_the_budget_does_not_stop_the_others() {
    const MIB: u64 = 1024 * 1024;
    /// No whole number of MiB, to which the parts of long uploads are rounded.
    const ODD_BYTES: u64 = 3 * MIB + MIB / 2;
    let limits = RegistryLimits { upload_buffer_bytes: ODD_BYTES, ..RegistryLimits::default() };
    let bench = BufferingBench::with(limits).await;
    let long = UploadChunk { length: Some(ODD_BYTES * 9_000), ..UploadChunk::of("some of it") };
    let repository = bench.repository(0);
    let id = repository.upload_start(None);
    let refused = tokio::time::timeout(WAIT_MAX, repository.upload_append(&id, long)).await;
    let refused = refused.expect("it waits for what will never be").unwrap_err();
    assert!(matches!(refused, Error::SizeMismatch { .. }), "{refused}");

    // The session has parts of that size, and continues where there is less room.
    let less = RegistryLimits { upload_buffer_bytes: MIB, ..RegistryLimits::default() };
    let options = RegistryOptions { limits: less, ..RegistryOptions::default() };
    let clock = Arc::new(ManualClock::default());
    let other = Registry::open(bench.gate.clone(), clock, options).await.unwrap();
    let other = other.repository("r0".parse().unwrap());
    let refused = other.upload_append(&id, UploadChunk { length: None, ..UploadChunk::of("more") });
    let refused = tokio::time::timeout(WAIT_MAX, refused).await;
    let refused = refused.expect("it waits for what will never be").unwrap_err();
    assert!(matches!(refused, Error::Busy { .. }), "{refused}");
    let small = digest(b"x");
    let pushed = other.blob_push(&small, UploadChunk::of("x"));
    tokio::time::timeout(WAIT_MAX, pushed).await.expect("others wait behind it").unwrap();
}
