//! Tombstones over S3: what a late Create cannot do.

use jreg_storage::{ErrorKind, ListRequest, PutMode, Store, TombstoneStore};

use jreg_testkit::s3::{S3Server, S3Spec, SwapOfNothing};

use super::support::{hold_put, impatient, key, kind, server, store};

#[tokio::test]
async fn a_create_that_arrives_late_does_not_revive_a_deleted_record() {
    let server = server().await;
    let store = TombstoneStore::new(impatient(&server), |_| true);
    let (gate, applied) = hold_put(&server, 1);
    let created = store.put(&key("a"), "1".into(), PutMode::Create).await.unwrap();
    store.delete(&key("a"), Some(&created.etag)).await.unwrap();
    let before = server.object("data/a").unwrap();
    gate.open();
    applied.arrived(1).await;
    assert_eq!(server.object("data/a").unwrap().bytes, before.bytes);
    assert_eq!(kind(store.get(&key("a")).await), ErrorKind::NotFound);
}

/// Every record that was ever there keeps its key, so that no swap finds it missing.
#[tokio::test]
async fn a_server_that_swaps_what_is_missing_does_not_revive_a_deleted_record() {
    let spec = S3Spec::with(|spec| spec.swap_of_nothing = SwapOfNothing::Written);
    let server = S3Server::start(spec).await;
    let store = TombstoneStore::new(store(&server), |_| true);
    let created = store.put(&key("a"), "1".into(), PutMode::Create).await.unwrap();
    store.delete(&key("a"), Some(&created.etag)).await.unwrap();
    let swap = store.put(&key("a"), "2".into(), PutMode::Match(created.etag)).await;
    assert_eq!(kind(swap), ErrorKind::Precondition);
    assert_eq!(kind(store.get(&key("a")).await), ErrorKind::NotFound);
}

#[tokio::test]
async fn an_old_tombstone_is_listed_and_removed_on_request() {
    let server = server().await;
    let store = TombstoneStore::new(store(&server), |_| true);
    let created = store.put(&key("a"), "1".into(), PutMode::Create).await.unwrap();
    store.delete(&key("a"), Some(&created.etag)).await.unwrap();
    let page = store.list_tombstones(&ListRequest::below("")).await.unwrap();
    store.remove_tombstone(page.entries.first().unwrap()).await.unwrap();
    assert!(server.keys().is_empty());
}
