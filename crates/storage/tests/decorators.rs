//! The decorators against the contract, and what each of them adds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use jreg_storage::testing::{Fault, FaultyStore, GateStore, RecordingStore};
use jreg_storage::{
    ByteRange, ErrorKind, Hedge, Key, ListRequest, MemoryStore, MeteredStore, Multipart, Put,
    PutMode, ReadOnlyStore, Store, StoreObserver,
};

type Observed = (&'static str, Result<(), ErrorKind>);

#[derive(Debug, Default)]
struct DecoratorObservations(Mutex<Vec<Observed>>);

impl StoreObserver for DecoratorObservations {
    fn observe(&self, operation: &'static str, _: Duration, result: Result<(), ErrorKind>) {
        self.0.lock().unwrap().push((operation, result));
    }

    fn hedge(&self, _: Hedge) {}
}

fn memory() -> Arc<dyn Store> {
    Arc::new(MemoryStore::new())
}

fn key(key: &str) -> Key {
    key.parse().unwrap()
}

async fn put(store: &dyn Store, name: &str, bytes: &'static str) -> Result<(), ErrorKind> {
    let written = store.put(&key(name), bytes.into(), PutMode::Create).await;
    written.map(|_| ()).map_err(|error| error.kind())
}

async fn get(store: &dyn Store, name: &str) -> Result<Bytes, ErrorKind> {
    store.get(&key(name)).await.map(|record| record.bytes).map_err(|error| error.kind())
}

mod metered {
    jreg_storage::contract_tests!(jreg_storage::MeteredStore::new(
        super::memory(),
        std::sync::Arc::new(super::DecoratorObservations::default())
    ));
}

mod faulty {
    jreg_storage::contract_tests!(jreg_storage::testing::FaultyStore::new(super::memory()));
}

mod recording {
    jreg_storage::contract_tests!(jreg_storage::testing::RecordingStore::new(super::memory()));
}

mod gate {
    jreg_storage::contract_tests!(jreg_storage::testing::GateStore::new(super::memory()));
}

#[tokio::test]
async fn observer_sees_every_call_and_its_end() {
    let notes = Arc::new(DecoratorObservations::default());
    let store = MeteredStore::new(memory(), notes.clone());
    put(&store, "a", "1").await.unwrap();
    put(&store, "a", "2").await.unwrap_err();
    store.list(&ListRequest::below("")).await.unwrap();
    get(&store, "b").await.unwrap_err();
    let wanted = [
        ("put", Ok(())),
        ("put", Err(ErrorKind::AlreadyExists)),
        ("list", Ok(())),
        ("get", Err(ErrorKind::NotFound)),
    ];
    assert_eq!(*notes.0.lock().unwrap(), wanted);
}

#[tokio::test]
async fn observer_sees_a_stream_that_breaks() {
    let faulty = FaultyStore::new(memory());
    put(&faulty, "a", "12345").await.unwrap();
    faulty.inject(Fault::cut_stream(2, ErrorKind::Unavailable));
    let notes = Arc::new(DecoratorObservations::default());
    let store = MeteredStore::new(Arc::new(faulty), notes.clone());
    let stream = store.read(&key("a"), ByteRange { start: 0, end: 5 }).await.unwrap();
    stream.try_collect::<Vec<_>>().await.unwrap_err();
    let wanted = [("read", Ok(())), ("read_stream", Err(ErrorKind::Unavailable))];
    assert_eq!(*notes.0.lock().unwrap(), wanted);
}

#[tokio::test]
async fn nth_call_fails_and_is_not_applied() {
    let store = FaultyStore::new(memory());
    store.inject(Fault::fail(ErrorKind::Throttled).nth(2));
    assert_eq!(put(&store, "a", "1").await, Ok(()));
    assert_eq!(put(&store, "b", "1").await, Err(ErrorKind::Throttled));
    assert_eq!(get(&store, "b").await, Err(ErrorKind::NotFound));
    assert_eq!(put(&store, "b", "1").await, Ok(()));
    assert_eq!((store.calls(), store.hits()), (4, 1));
}

#[tokio::test]
async fn call_with_a_lost_response_is_applied() {
    let store = FaultyStore::new(memory());
    store.inject(Fault::lose_response(ErrorKind::Unavailable).on(|call| call.key == "b"));
    assert_eq!(put(&store, "a", "1").await, Ok(()));
    assert_eq!(put(&store, "b", "1").await, Err(ErrorKind::Unavailable));
    assert_eq!(get(&store, "b").await, Ok("1".into()));
}

#[tokio::test]
async fn reads_below_a_prefix_fail_until_healed() {
    let store = FaultyStore::new(memory());
    put(&store, "a/1", "1").await.unwrap();
    put(&store, "b/1", "1").await.unwrap();
    store.fail_reads("a/", ErrorKind::Unavailable);
    for _ in 0..2 {
        assert_eq!(get(&store, "a/1").await, Err(ErrorKind::Unavailable));
        store.head(&key("a/1")).await.unwrap_err();
        store.list(&ListRequest::below("a/")).await.unwrap_err();
        assert_eq!(get(&store, "b/1").await, Ok("1".into()));
    }
    assert_eq!(put(&store, "a/2", "1").await, Ok(()));
    store.heal();
    assert_eq!(get(&store, "a/2").await, Ok("1".into()));
}

#[tokio::test]
async fn cut_stream_gives_its_bytes_and_then_the_error() {
    let store = FaultyStore::new(memory());
    put(&store, "a", "12345").await.unwrap();
    store.inject(Fault::cut_stream(3, ErrorKind::Unavailable));
    let stream = store.read(&key("a"), ByteRange { start: 0, end: 5 }).await.unwrap();
    let chunks: Vec<_> = stream.map(|chunk| chunk.map_err(|error| error.kind())).collect().await;
    assert_eq!(chunks, [Ok("123".into()), Err(ErrorKind::Unavailable)]);
}

#[tokio::test]
async fn log_holds_the_calls_in_order() {
    let store = RecordingStore::new(memory());
    put(&store, "a", "123").await.unwrap();
    put(&store, "a", "1").await.unwrap_err();
    store.delete_many(&[key("a"), key("b")]).await.unwrap();
    assert_eq!(store.count(), 3);
    let calls: Vec<_> = store.take().into_iter().map(|c| (c.operation, c.key, c.bytes)).collect();
    let wanted = [("put", "a", 3), ("put", "a", 1), ("delete_many", "a b", 0)];
    assert_eq!(calls, wanted.map(|(operation, key, bytes)| (operation, key.to_owned(), bytes)));
    assert_eq!(store.count(), 0);
}

#[tokio::test]
async fn held_call_is_applied_only_when_released() {
    let store = Arc::new(GateStore::new(memory()));
    let mut held = store.hold(|call| call.operation == "put" && call.key == "a");
    let writer = tokio::spawn({
        let store = store.clone();
        async move { put(&*store, "a", "1").await }
    });
    held.reached(1).await;
    assert_eq!(get(&*store, "a").await, Err(ErrorKind::NotFound));
    put(&*store, "b", "not held").await.unwrap();
    held.release();
    assert_eq!(writer.await.unwrap(), Ok(()));
    assert_eq!(get(&*store, "a").await, Ok("1".into()));
    assert_eq!(put(&*store, "a", "2").await, Err(ErrorKind::AlreadyExists));
}

#[tokio::test]
async fn held_response_is_of_a_call_that_was_applied() {
    let store = Arc::new(GateStore::new(memory()));
    let mut held = store.hold_response(|call| call.operation == "put");
    let writer = tokio::spawn({
        let store = store.clone();
        async move { put(&*store, "a", "1").await }
    });
    held.reached(1).await;
    assert_eq!(get(&*store, "a").await, Ok("1".into()));
    assert!(!writer.is_finished());
    drop(held);
    assert_eq!(writer.await.unwrap(), Ok(()));
}

mod paced {
    use std::time::Duration;

    use jreg_storage::{ListRequest, Store};

    jreg_storage::contract_tests!(jreg_storage::PacedStore::new(super::memory(), u32::MAX));

    /// Twenty milliseconds may be made up for at once; what is beyond waits.
    #[tokio::test(start_paused = true)]
    async fn requests_are_spread_over_time() {
        let store = jreg_storage::PacedStore::new(super::memory(), 100);
        let began = tokio::time::Instant::now();
        for _ in 0..101 {
            super::get(&store, "absent").await.unwrap_err();
        }
        assert_eq!(began.elapsed(), Duration::from_secs(1));
        tokio::time::sleep(Duration::from_secs(60)).await;
        let began = tokio::time::Instant::now();
        for _ in 0..5 {
            super::get(&store, "absent").await.unwrap_err();
        }
        assert_eq!(began.elapsed(), Duration::from_millis(20));
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_page_counts_more_than_once() {
        let memory = super::memory();
        for number in 0..250 {
            super::put(&*memory, &format!("{number:03}"), "1").await.unwrap();
        }
        let store = jreg_storage::PacedStore::new(memory, 100);
        let began = tokio::time::Instant::now();
        let page = store.list(&ListRequest::below("")).await.unwrap();
        assert_eq!((page.entries.len(), began.elapsed()), (250, Duration::ZERO));
        super::get(&store, "000").await.unwrap();
        assert_eq!(began.elapsed(), Duration::from_millis(30));
    }
}

/// Each method that could change something is called: none reaches the store below.
#[tokio::test]
async fn a_read_only_store_passes_no_write_on() {
    let below = Arc::new(RecordingStore::new(memory()));
    put(&*below, "a", "12345").await.unwrap();
    below.take();
    let store = ReadOnlyStore::new(below.clone());
    let (a, b) = (key("a"), key("b"));
    let upload = Multipart {
        key: b.clone(),
        id: "1".to_owned(),
        writer: 1,
        part_bytes: 0,
        parts: Vec::new(),
    };
    let then = Put::new(b.clone(), "1".into(), PutMode::Create);
    let refused = [
        store.put(&b, "1".into(), PutMode::Create).await.map(drop),
        store.put(&a, "1".into(), PutMode::Overwrite).await.map(drop),
        store.put_after(Vec::new(), then).await.map(drop),
        store.delete(&a, None).await,
        store.delete_many(std::slice::from_ref(&a)).await,
        store.create_multipart(&b, 1, 0).await.map(drop),
        store.resume_multipart(&upload, 1).await.map(drop),
        store.put_part(&upload, 0, "1".into()).await.map(drop),
        store.put_last_part(&upload, 0, "1".into()).await.map(drop),
        store.sync_parts(&upload).await,
        store.complete_multipart(&upload).await,
        store.abort_multipart(&upload).await,
    ];
    for refused in refused {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::ReadOnly);
    }
    store.purge(&ListRequest::below(""), Duration::ZERO).await.unwrap();
    assert_eq!(below.take(), []);
    assert_eq!(get(&store, "a").await, Ok("12345".into()));
    store.head(&a).await.unwrap();
    store.list(&ListRequest::below("")).await.unwrap();
    assert!(below.take().iter().all(|call| call.is_read()));
    let capabilities = store.capabilities();
    assert!(capabilities.is_read_only && !capabilities.is_exclusive);
}
