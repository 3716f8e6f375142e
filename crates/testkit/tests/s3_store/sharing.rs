//! Reads that share requests, and slow ones that are hedged, in requests to a bucket.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::join_all;
use jreg_storage::{
    CoalescedStore, ErrorKind, Hedge, HedgedStore, PutMode, Store, StoreObserver, TombstoneStore,
};
use jreg_testkit::s3::{FaultRule, S3Fault, S3Gate, S3Operation, S3Server};
use tokio::task::JoinHandle;

use super::support::{asked, key, server, store};

/// Longer than a test takes: who gathers waits for the request before.
const LONG: Duration = Duration::from_secs(3600);

#[derive(Debug)]
struct IgnoringObserver;

impl StoreObserver for IgnoringObserver {
    fn observe(&self, _: &'static str, _: Duration, _: Result<(), ErrorKind>) {}

    fn hedge(&self, _: Hedge) {}
}

/// A store over a bucket in which the record `tag` holds `old`.
async fn filled(server: &S3Server) -> Arc<dyn Store> {
    let store = TombstoneStore::new(store(server), |_| true);
    store.put(&key("tag"), "old".into(), PutMode::Create).await.unwrap();
    server.take_requests();
    Arc::new(store)
}

fn read(store: &Arc<dyn Store>) -> JoinHandle<Bytes> {
    let store = Arc::clone(store);
    tokio::spawn(async move { store.get(&key("tag")).await.unwrap().bytes })
}

/// Lets everything run that can without the server.
async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_herd_of_readers_of_one_tag_costs_two_requests() {
    let server = server().await;
    let store: Arc<dyn Store> = Arc::new(CoalescedStore::new(filled(&server).await, LONG));
    let gate = S3Gate::closed();
    let hold = FaultRule::new(S3Fault::Hold(gate.clone())).on(S3Operation::GetObject);
    server.inject(hold.nth(1));
    let first = read(&store);
    gate.arrived(1).await;
    let others: Vec<_> = (0..64).map(|_| read(&store)).collect();
    settle().await;
    gate.open();
    assert_eq!(first.await.unwrap(), "old");
    assert!(
        join_all(others).await.into_iter().all(|emulated_body| emulated_body.unwrap() == "old")
    );
    assert_eq!(asked(&server), ["GetObject"; 2]);
}

#[tokio::test]
async fn a_read_after_a_write_sees_it_though_an_older_read_is_in_flight() {
    let server = server().await;
    let store: Arc<dyn Store> = Arc::new(CoalescedStore::new(filled(&server).await, LONG));
    let gate = S3Gate::closed();
    let hold = FaultRule::new(S3Fault::HoldResponse(gate.clone())).on(S3Operation::GetObject);
    server.inject(hold.nth(1));
    let early = read(&store);
    gate.arrived(1).await;
    store.put(&key("tag"), "new".into(), PutMode::Overwrite).await.unwrap();
    let late = read(&store);
    settle().await;
    gate.open();
    assert_eq!((&*early.await.unwrap(), &*late.await.unwrap()), (&b"old"[..], &b"new"[..]));
}

#[tokio::test]
async fn a_slow_read_is_hedged() {
    let server = server().await;
    let hedged = HedgedStore::new(filled(&server).await, Arc::new(IgnoringObserver));
    let store: Arc<dyn Store> = Arc::new(hedged);
    for _ in 0..100 {
        store.get(&key("tag")).await.unwrap();
    }
    server.take_requests();
    let gate = S3Gate::closed();
    server.inject(FaultRule::new(S3Fault::Hold(gate.clone())).on(S3Operation::GetObject).nth(1));
    assert_eq!(read(&store).await.unwrap(), "old");
    assert_eq!(asked(&server), ["GetObject"; 2]);
    gate.open();
}
