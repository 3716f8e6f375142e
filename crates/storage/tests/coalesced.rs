//! Reads that share requests: how few there are, and that none shows what is no longer true.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join_all};
use jreg_storage::testing::{Fault, FaultyStore, GateStore, HeldCalls, RecordingStore};
use jreg_storage::{CoalescedStore, ErrorKind, GATHER_MAX, Key, MemoryStore, PutMode, Store};

/// Longer than a test takes: a gathering reader waits for the request before.
const LONG: Duration = Duration::from_secs(3600);

mod contract {
    jreg_storage::contract_tests!(jreg_storage::CoalescedStore::new(
        std::sync::Arc::new(jreg_storage::MemoryStore::new()),
        jreg_storage::GATHER_MAX
    ));
}

/// A store that shares, on one that fails, on one that counts, on one that waits.
struct CoalescedBench {
    store: Arc<CoalescedStore>,
    faulty: Arc<FaultyStore>,
    calls: Arc<RecordingStore>,
    gate: Arc<GateStore>,
}

type Read = Result<Bytes, ErrorKind>;

impl CoalescedBench {
    /// The key `k` holds `old`.
    async fn new(gather_max: Duration) -> Self {
        let gate = Arc::new(GateStore::new(Arc::new(MemoryStore::new())));
        let calls = Arc::new(RecordingStore::new(gate.clone()));
        let faulty = Arc::new(FaultyStore::new(calls.clone()));
        let store = Arc::new(CoalescedStore::new(faulty.clone(), gather_max));
        store.put(&key("k"), "old".into(), PutMode::Create).await.unwrap();
        calls.take();
        Self { store, faulty, calls, gate }
    }

    /// Readers that have come, and are not awaited yet.
    fn readers(&self, count: usize) -> Vec<BoxFuture<'static, Read>> {
        (0..count).map(|_| self.reader("k")).collect()
    }

    fn reader(&self, name: &'static str) -> BoxFuture<'static, Read> {
        let store = self.store.clone();
        let read = async move { store.get(&key(name)).await };
        let mut reader = read
            .map(|outcome| outcome.map(|record| record.bytes).map_err(|error| error.kind()))
            .boxed();
        assert!((&mut reader).now_or_never().is_none(), "it should wait");
        reader
    }

    /// Holds every read back from now on: before it is applied, or after that.
    async fn held(&self, applied: bool) -> (HeldCalls, BoxFuture<'static, Read>) {
        let is_read = |call: &jreg_storage::testing::Call| call.operation == "get";
        let mut held = match applied {
            true => self.gate.hold_response(is_read),
            false => self.gate.hold(is_read),
        };
        let first = self.reader("k");
        held.reached(1).await;
        (held, first)
    }

    async fn write(&self, bytes: &'static str) {
        self.store.put(&key("k"), bytes.into(), PutMode::Overwrite).await.unwrap();
    }

    fn gets(&self) -> usize {
        self.calls.take().iter().filter(|call| call.operation == "get").count()
    }

    fn is_at_rest(&self) -> bool {
        format!("{:?}", self.store).contains("keys: 0")
    }
}

fn key(key: &str) -> Key {
    key.parse().unwrap()
}

#[tokio::test]
async fn readers_one_after_the_other_ask_each() {
    let bench = CoalescedBench::new(LONG).await;
    for _ in 0..3 {
        assert_eq!(bench.store.get(&key("k")).await.unwrap().bytes, "old");
        assert!(bench.is_at_rest());
    }
    assert_eq!(bench.gets(), 3);
}

#[tokio::test]
async fn concurrent_readers_share_one_request() {
    let bench = CoalescedBench::new(LONG).await;
    let (held, first) = bench.held(false).await;
    let others = bench.readers(64);
    held.release();
    assert_eq!(first.await, Ok("old".into()));
    assert_eq!(join_all(others).await, vec![Ok(Bytes::from("old")); 64]);
    assert_eq!(bench.gets(), 2);
    assert!(bench.is_at_rest());
}

#[tokio::test]
async fn a_reader_after_a_write_sees_it() {
    let bench = CoalescedBench::new(LONG).await;
    let (held, first) = bench.held(true).await;
    bench.write("new").await;
    let second = bench.reader("k");
    held.release();
    assert_eq!(first.await, Ok("old".into()));
    assert_eq!(second.await, Ok("new".into()));
}

/// A request that was sent for several admits no more readers, either.
#[tokio::test]
async fn a_reader_after_a_write_does_not_join_a_sent_request() {
    let bench = CoalescedBench::new(LONG).await;
    let (held, first) = bench.held(true).await;
    let others = bench.readers(2);
    let mut applied = bench.gate.hold_response(|call| call.operation == "get");
    drop(first);
    held.release();
    let others = tokio::spawn(join_all(others));
    applied.reached(1).await;
    bench.write("new").await;
    let late = bench.reader("k");
    applied.release();
    assert_eq!(others.await.unwrap(), vec![Ok(Bytes::from("old")); 2]);
    assert_eq!(late.await, Ok("new".into()));
}

#[tokio::test(start_paused = true)]
async fn a_hanging_request_delays_no_other_reader() {
    let bench = CoalescedBench::new(GATHER_MAX).await;
    let (mut held, hanging) = bench.held(false).await;
    let outcomes = tokio::spawn(join_all(bench.readers(8)));
    held.reached(2).await;
    assert_eq!(bench.gets(), 2);
    held.release();
    assert_eq!(outcomes.await.unwrap(), vec![Ok(Bytes::from("old")); 8]);
    assert_eq!(hanging.await, Ok("old".into()));
    assert!(bench.is_at_rest());
}

#[tokio::test]
async fn when_the_first_is_dropped_the_others_send_a_request() {
    let bench = CoalescedBench::new(LONG).await;
    let (held, first) = bench.held(false).await;
    let others = bench.readers(3);
    drop(first);
    held.release();
    assert_eq!(join_all(others).await, vec![Ok(Bytes::from("old")); 3]);
    assert!(bench.is_at_rest());
}

/// The reader that is polled first drives the request; it continues without that reader.
#[tokio::test]
async fn when_one_sharing_reader_is_dropped_the_request_continues() {
    let bench = CoalescedBench::new(LONG).await;
    let (mut held, first) = bench.held(false).await;
    let mut others = bench.readers(3);
    drop(first);
    let mut driver = others.remove(0);
    assert!((&mut driver).now_or_never().is_none());
    held.reached(2).await;
    drop(driver);
    held.release();
    assert_eq!(join_all(others).await, vec![Ok(Bytes::from("old")); 2]);
    assert_eq!(bench.gets(), 2);
}

#[tokio::test]
async fn dropped_readers_leave_no_state() {
    let bench = CoalescedBench::new(LONG).await;
    let (held, first) = bench.held(false).await;
    drop(bench.readers(3));
    drop(first);
    assert!(bench.is_at_rest());
    let (_, waiting) = (bench.reader("k"), bench.readers(2));
    drop(waiting);
    held.release();
    assert_eq!(bench.store.get(&key("k")).await.unwrap().bytes, "old");
    assert!(bench.is_at_rest());
}

#[tokio::test]
async fn a_failure_reaches_only_readers_that_shared_the_request() {
    let bench = CoalescedBench::new(LONG).await;
    let (held, first) = bench.held(false).await;
    let others = bench.readers(3);
    bench.faulty.inject(Fault::fail(ErrorKind::Throttled).nth(1));
    held.release();
    assert_eq!(first.await, Ok("old".into()));
    assert_eq!(join_all(others).await, vec![Err(ErrorKind::Throttled); 3]);
    assert_eq!(bench.store.get(&key("k")).await.unwrap().bytes, "old");
}

#[tokio::test]
async fn readers_of_other_keys_do_not_wait() {
    let bench = CoalescedBench::new(LONG).await;
    let (_held, _first) = bench.held(false).await;
    let other = bench.store.put(&key("other"), "1".into(), PutMode::Create).await;
    assert!(other.is_ok());
    let _waits = bench.reader("other");
    assert_eq!(bench.gets(), 2);
}

#[tokio::test]
async fn absence_reaches_all_sharing_readers() {
    let bench = CoalescedBench::new(LONG).await;
    let gate = bench.gate.hold(|call| call.operation == "get");
    let readers = [bench.reader("absent"), bench.reader("absent"), bench.reader("absent")];
    gate.release();
    assert_eq!(join_all(readers).await, vec![Err(ErrorKind::NotFound); 3]);
    assert_eq!(bench.gets(), 2);
}
