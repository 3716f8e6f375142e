//! Hedged reads: when, how often at most, and which response counts.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jreg_storage::testing::{Call, Fault, FaultyStore, GateStore, HeldCalls, RecordingStore};
use jreg_storage::{
    ByteRange, ErrorKind, Hedge, HedgedStore, Key, ListRequest, MemoryStore, PutMode, Store,
    StoreObserver,
};
use tokio::time::{Instant, timeout};

mod contract {
    jreg_storage::contract_tests!(jreg_storage::HedgedStore::new(
        std::sync::Arc::new(jreg_storage::MemoryStore::new()),
        std::sync::Arc::new(super::HedgeObservations::default())
    ));
}

/// The longest that a read is waited for, by the paused clock.
const HOUR: Duration = Duration::from_secs(3600);

#[derive(Debug, Default)]
struct HedgeObservations(Mutex<Vec<Hedge>>);

impl StoreObserver for HedgeObservations {
    fn observe(&self, _: &'static str, _: Duration, _: Result<(), ErrorKind>) {}

    fn hedge(&self, hedge: Hedge) {
        self.0.lock().unwrap().push(hedge);
    }
}

struct HedgeBench {
    store: Arc<HedgedStore>,
    faulty: Arc<FaultyStore>,
    calls: Arc<RecordingStore>,
    gate: Arc<GateStore>,
    notes: Arc<HedgeObservations>,
}

impl HedgeBench {
    /// The key `k` holds a value that was read so often, and at once each time.
    async fn after(reads: usize) -> Self {
        let gate = Arc::new(GateStore::new(Arc::new(MemoryStore::new())));
        let calls = Arc::new(RecordingStore::new(gate.clone()));
        let faulty = Arc::new(FaultyStore::new(calls.clone()));
        let notes = Arc::new(HedgeObservations::default());
        let store = Arc::new(HedgedStore::new(faulty.clone(), notes.clone()));
        store.put(&key("k"), "value".into(), PutMode::Create).await.unwrap();
        let bench = Self { store, faulty, calls, gate, notes };
        for _ in 0..reads {
            bench.read().await.unwrap();
        }
        bench.calls.take();
        bench
    }

    async fn read(&self) -> Result<Bytes, ErrorKind> {
        let outcome = timeout(HOUR, self.store.get(&key("k"))).await.expect("a response");
        outcome.map(|record| record.bytes).map_err(|error| error.kind())
    }

    /// Holds the next read of a record back, and no other.
    fn hold_next(&self) -> HeldCalls {
        let first = Mutex::new(true);
        let is_first = move |call: &Call| {
            matches!(call.operation, "get" | "head") && std::mem::take(&mut *first.lock().unwrap())
        };
        self.gate.hold(is_first)
    }

    /// Holds all reads of records back.
    fn hold_all(&self) -> HeldCalls {
        self.gate.hold(|call| matches!(call.operation, "get" | "head"))
    }

    fn notes(&self) -> Vec<Hedge> {
        std::mem::take(&mut self.notes.0.lock().unwrap())
    }
}

fn key(key: &str) -> Key {
    key.parse().unwrap()
}

#[tokio::test(start_paused = true)]
async fn the_hedged_request_may_respond_first() {
    let bench = HedgeBench::after(200).await;
    let _held = bench.hold_next();
    let started = Instant::now();
    assert_eq!(bench.read().await, Ok("value".into()));
    assert_eq!(started.elapsed(), Duration::from_millis(20), "the shortest delay");
    assert_eq!(bench.calls.count(), 2);
    assert_eq!(bench.notes(), [Hedge::Won]);
}

#[tokio::test(start_paused = true)]
async fn metadata_is_hedged_too() {
    let bench = HedgeBench::after(200).await;
    let _held = bench.hold_next();
    assert_eq!(bench.store.head(&key("k")).await.unwrap().size_bytes, 5);
    assert_eq!(bench.notes(), [Hedge::Won]);
}

#[tokio::test(start_paused = true)]
async fn the_first_request_may_still_respond_first() {
    let bench = HedgeBench::after(200).await;
    let held = bench.hold_all();
    let (outcome, ()) = tokio::join!(bench.read(), async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        held.release();
    });
    assert_eq!(outcome, Ok("value".into()));
    assert_eq!(bench.calls.count(), 2);
    assert_eq!(bench.notes(), [Hedge::Lost]);
}

/// What is slow follows from what reads took; while that is not known, it is a second.
#[tokio::test(start_paused = true)]
async fn the_delay_follows_the_latency() {
    let bench = HedgeBench::after(20).await;
    let _held = bench.hold_next();
    let started = Instant::now();
    bench.read().await.unwrap();
    assert_eq!(started.elapsed(), Duration::from_secs(1));

    let bench = HedgeBench::after(0).await;
    for _ in 0..200 {
        let held = bench.hold_next();
        let (outcome, ()) = tokio::join!(bench.read(), async {
            tokio::time::sleep(Duration::from_millis(70)).await;
            held.release();
        });
        outcome.unwrap();
    }
    // What was spent meanwhile is earned again.
    for _ in 0..20 {
        bench.read().await.unwrap();
    }
    bench.notes();
    let _held = bench.hold_next();
    let started = Instant::now();
    bench.read().await.unwrap();
    let took = started.elapsed();
    assert!((105..110).contains(&took.as_millis()), "{took:?}");
    assert_eq!(bench.notes(), [Hedge::Won]);
}

#[tokio::test(start_paused = true)]
async fn of_twenty_reads_one_may_be_hedged() {
    let bench = HedgeBench::after(0).await;
    let reads = 400;
    for _ in 0..reads {
        let held = bench.hold_all();
        let (outcome, ()) = tokio::join!(bench.read(), async {
            tokio::time::sleep(Duration::from_secs(2)).await;
            held.release();
        });
        outcome.unwrap();
    }
    assert_eq!(bench.calls.count() - reads, reads / 20, "more requests than reads");
    let notes = bench.notes();
    assert_eq!(notes.len(), reads);
    assert_eq!(notes.iter().filter(|note| **note == Hedge::Withheld).count(), reads - reads / 20);
}

#[tokio::test(start_paused = true)]
async fn what_is_saved_up_is_little() {
    let bench = HedgeBench::after(10_000).await;
    let held = bench.hold_all();
    let readers: Vec<_> = (0..100)
        .map(|_| {
            let store = bench.store.clone();
            tokio::spawn(async move { store.get(&key("k")).await.unwrap() })
        })
        .collect();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(bench.calls.count(), 110);
    held.release();
    for reader in readers {
        reader.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_waits_for_the_other_response() {
    let bench = HedgeBench::after(200).await;
    let _held = bench.hold_next();
    bench.faulty.inject(Fault::fail(ErrorKind::Unavailable).nth(2));
    let waits = timeout(HOUR / 2, bench.read()).await;
    assert!(waits.is_err(), "the second has failed, the first may still answer: {waits:?}");

    let bench = HedgeBench::after(200).await;
    let held = bench.hold_all();
    bench.faulty.inject(Fault::lose_response(ErrorKind::Unavailable).nth(1));
    let (outcome, ()) = tokio::join!(bench.read(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        held.release();
    });
    assert_eq!(outcome, Ok("value".into()));
}

#[tokio::test(start_paused = true)]
async fn absence_is_a_response() {
    let bench = HedgeBench::after(200).await;
    let _held = bench.hold_next();
    let absent = bench.store.get(&key("absent")).await.unwrap_err();
    assert_eq!(absent.kind(), ErrorKind::NotFound);
    assert_eq!(bench.notes(), [Hedge::Won]);
}

#[tokio::test(start_paused = true)]
async fn writes_listings_and_streams_are_sent_once() {
    let bench = HedgeBench::after(200).await;
    let held = bench.gate.hold(|_| true);
    let store = &bench.store;
    let (a, b, k) = (key("a"), key("b"), key("k"));
    let everything = ListRequest::below("");
    let (put, deleted, listed, read, ()) = tokio::join!(
        store.put(&a, "1".into(), PutMode::Create),
        store.delete(&b, None),
        store.list(&everything),
        store.read(&k, ByteRange { start: 0, end: 5 }),
        async {
            tokio::time::sleep(Duration::from_secs(60)).await;
            held.release();
        }
    );
    assert!(put.is_ok() && deleted.is_ok() && listed.is_ok() && read.is_ok());
    assert_eq!(bench.calls.count(), 4);
    assert_eq!(bench.notes(), []);
}
