//! Tombstones and the single writer, over the memory store.

use std::sync::Arc;
use std::time::Duration;

use jreg_storage::testing::{GateStore, ManualClock};
use jreg_storage::{
    ErrorKind, Key, ListRequest, MemoryStore, PutMode, Result, SingleWriterStore, Store,
    TOMBSTONE_BYTES, TombstoneStore,
};

fn key(key: &str) -> Key {
    key.parse().unwrap()
}

fn kind<T: std::fmt::Debug>(result: Result<T>) -> ErrorKind {
    result.unwrap_err().kind()
}

fn is_record(key: &Key) -> bool {
    !key.as_str().starts_with("blobs/")
}

fn store() -> TombstoneStore<MemoryStore> {
    TombstoneStore::new(MemoryStore::builder().remote().build(), is_record)
}

mod contract_of_tombstones {
    jreg_storage::contract_tests!(jreg_storage::TombstoneStore::new(
        jreg_storage::MemoryStore::new(),
        |_| true
    ));
}

mod contract_of_a_single_writer {
    jreg_storage::contract_tests!(jreg_storage::SingleWriterStore::new(
        jreg_storage::MemoryStore::new()
    ));
}

/// Writes a record and deletes it; gives the etag it had.
async fn bury(store: &dyn Store, name: &str) -> jreg_storage::ETag {
    let etag = store.put(&key(name), "live".into(), PutMode::Create).await.unwrap().etag;
    store.delete(&key(name), Some(&etag)).await.unwrap();
    etag
}

#[tokio::test]
async fn a_tombstone_is_absent_to_everyone() {
    let store = store();
    let etag = bury(&store, "a/1").await;
    store.put(&key("a/2"), "live".into(), PutMode::Create).await.unwrap();
    assert_eq!(kind(store.get(&key("a/1")).await), ErrorKind::NotFound);
    assert_eq!(kind(store.head(&key("a/1")).await), ErrorKind::NotFound);
    let range = jreg_storage::ByteRange { start: 0, end: 1 };
    let read = store.read(&key("a/1"), range).await;
    assert_eq!(read.err().unwrap().kind(), ErrorKind::NotFound);
    let page = store.list(&ListRequest::below("a/")).await.unwrap();
    assert_eq!(page.entries.len(), 1);
    let swap = store.put(&key("a/1"), "late".into(), PutMode::Match(etag.clone())).await;
    assert_eq!(kind(swap), ErrorKind::Precondition);
    assert_eq!(kind(store.delete(&key("a/1"), Some(&etag)).await), ErrorKind::Precondition);
}

#[tokio::test]
async fn a_plain_create_below_does_not_revive_a_tombstone_and_ours_does() {
    let store = store();
    bury(&store, "a").await;
    let late = store.inner().put(&key("a"), "late".into(), PutMode::Create).await;
    assert_eq!(kind(late), ErrorKind::AlreadyExists);
    store.put(&key("a"), "new".into(), PutMode::Create).await.unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap().bytes, "new");
    let again = store.put(&key("a"), "newer".into(), PutMode::Create).await;
    assert_eq!(kind(again), ErrorKind::AlreadyExists);
}

/// What the Create relies on may be gone by the time that the machine wakes.
#[tokio::test]
async fn a_tombstone_is_not_revived_after_the_machine_slept() {
    let memory = MemoryStore::builder().remote().build();
    let (gate, clock) = (GateStore::new(Arc::new(memory)), Arc::new(ManualClock::default()));
    let store = TombstoneStore::new(gate, is_record).with_clock(clock.clone());
    bury(&store, "a").await;
    let mut read = store.inner().hold_response(|call| call.operation == "get");
    let sleeping = async {
        read.reached(1).await;
        clock.advance(Duration::from_secs(3600));
        read.release();
    };
    let a = key("a");
    let create = store.put(&a, "late".into(), PutMode::Create);
    let (created, ()) = tokio::join!(create, sleeping);
    assert_eq!(kind(created), ErrorKind::Throttled);
    assert_eq!(kind(store.get(&key("a")).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn of_many_that_revive_a_tombstone_one_wins() {
    let store = Arc::new(store());
    bury(&*store, "a").await;
    let tasks: Vec<_> = (0..16u8)
        .map(|n| {
            let store = Arc::clone(&store);
            tokio::spawn(async move { store.put(&key("a"), vec![n].into(), PutMode::Create).await })
        })
        .collect();
    let mut winners = 0;
    for task in tasks {
        match task.await.unwrap() {
            Ok(_) => winners += 1,
            Err(error) => assert_eq!(error.kind(), ErrorKind::AlreadyExists),
        }
    }
    assert_eq!(winners, 1);
}

#[tokio::test]
async fn a_page_of_tombstones_alone_is_not_the_last() {
    let store = store();
    for name in ["a/1", "a/2", "a/3"] {
        bury(&store, name).await;
    }
    store.put(&key("a/4"), "live".into(), PutMode::Create).await.unwrap();
    let request = ListRequest { limit: 2, ..ListRequest::below("a/") };
    let page = store.list(&request).await.unwrap();
    assert!(page.entries.is_empty());
    assert_eq!(page.next.as_deref(), Some("a/2"));
    let rest = ListRequest { start_after: page.next, ..request };
    let page = store.list(&rest).await.unwrap();
    assert_eq!(page.entries.len(), 1);
    assert_eq!(page.next, None);
}

#[tokio::test]
async fn bytes_of_the_size_of_a_tombstone_are_none() {
    let store = store();
    let bytes = vec![7; usize::try_from(TOMBSTONE_BYTES).unwrap()];
    let blob = key("blobs/a");
    let etag = store.put(&blob, bytes.clone().into(), PutMode::Create).await.unwrap().etag;
    assert_eq!(store.get(&blob).await.unwrap().bytes, bytes);
    assert_eq!(store.head(&blob).await.unwrap().size_bytes, TOMBSTONE_BYTES);
    assert_eq!(store.list(&ListRequest::below("")).await.unwrap().entries.len(), 1);
    store.delete(&blob, Some(&etag)).await.unwrap();
    assert_eq!(kind(store.inner().get(&blob).await), ErrorKind::NotFound);
    // A record of that size would not be listed.
    let record = store.put(&key("a"), bytes.into(), PutMode::Create).await;
    assert_eq!(kind(record), ErrorKind::Refused);
}

#[tokio::test]
async fn tombstones_are_listed_and_removed_when_asked_for() {
    let store = store();
    for name in ["a/1", "a/2"] {
        bury(&store, name).await;
    }
    store.put(&key("a/3"), "live".into(), PutMode::Create).await.unwrap();
    let page = store.list_tombstones(&ListRequest::below("a/")).await.unwrap();
    let [first, second] = page.entries.as_slice() else { panic!("{page:?}") };
    store.remove_tombstone(first).await.unwrap();
    assert_eq!(kind(store.remove_tombstone(first).await), ErrorKind::Precondition);
    // Revived since it was listed: it stays.
    store.put(&second.key, "new".into(), PutMode::Create).await.unwrap();
    assert_eq!(kind(store.remove_tombstone(second).await), ErrorKind::Precondition);
    assert_eq!(store.get(&second.key).await.unwrap().bytes, "new");
    assert!(store.list_tombstones(&ListRequest::below("")).await.unwrap().entries.is_empty());
}

#[tokio::test]
async fn a_single_writer_sends_no_condition() {
    let store = SingleWriterStore::new(MemoryStore::new());
    let first = store.put(&key("a"), "1".into(), PutMode::Create).await.unwrap();
    assert_eq!(
        kind(store.put(&key("a"), "2".into(), PutMode::Create).await),
        ErrorKind::AlreadyExists
    );
    let second =
        store.put(&key("a"), "2".into(), PutMode::Match(first.etag.clone())).await.unwrap();
    assert_eq!(kind(store.delete(&key("a"), Some(&first.etag)).await), ErrorKind::Precondition);
    store.delete(&key("a"), Some(&second.etag)).await.unwrap();
    assert_eq!(kind(store.get(&key("a")).await), ErrorKind::NotFound);
}
