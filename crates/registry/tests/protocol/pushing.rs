//! Pushes beside other copies of the same blob: copies that vanish, are missing, or are wrong; and
//! pushes that the store is too slow or too full for.

use std::sync::Arc;

use bytes::Bytes;
use futures::SinkExt;
use jreg_registry::{
    Blob, Error, FindingKind, FsckOptions, NoObserver, ReferencePolicy, Registry, RegistryOptions,
    Repository, Result, TouchPolicy, UploadId, UploadProgress,
};
use jreg_registry::{RegistryLimits, UploadChunk};
use jreg_storage::testing::{Call, Fault, FaultyStore};
use jreg_storage::{ErrorKind, FsOptions, FsStore, PutMode, Store, SystemClock};

use crate::bench::{Bench, BenchStoreKind, HOUR, MINUTE, PART, bytes, digest, open_body};
use crate::gc::image;

const BOTH: [BenchStoreKind; 2] = [BenchStoreKind::Local, BenchStoreKind::Remote];

async fn bench(store: BenchStoreKind) -> Bench {
    let options =
        RegistryOptions { references: ReferencePolicy::Strict, ..RegistryOptions::default() };
    Bench::at(store, options).await
}

/// Each way in which a client pushes a blob.
#[derive(Clone, Copy, Debug)]
enum PushMethod {
    /// POST with the digest.
    Single,
    /// POST, then PUT with all bytes.
    Put,
    /// POST, PATCH, then PUT without bytes.
    Streamed,
}

const WAYS: [PushMethod; 3] = [PushMethod::Single, PushMethod::Put, PushMethod::Streamed];

async fn push(repository: &Repository, way: PushMethod, content: &Bytes) -> Result<Blob> {
    let (of, chunk) = (digest(content), UploadChunk::of(content.clone()));
    let id = repository.upload_start(None);
    match way {
        PushMethod::Single => repository.blob_push(&of, chunk).await,
        PushMethod::Put => repository.upload_finish(&id, &of, chunk).await,
        PushMethod::Streamed => {
            repository.upload_append(&id, UploadChunk { length: None, ..chunk }).await?;
            repository.upload_finish(&id, &of, UploadChunk::empty()).await
        }
    }
}

fn is_link_write(call: &Call) -> bool {
    call.operation == "put" && call.key.starts_with("links/")
}

/// The other copy is deleted at every store request of a push, in turn.
#[tokio::test]
async fn push_does_not_fail_when_another_copy_is_deleted_meanwhile() {
    for (store, way) in BOTH.into_iter().flat_map(|at| WAYS.map(|way| (at, way))) {
        for len in [5, PART * 3 + 1] {
            for stop in 1.. {
                let bench = bench(store).await;
                let content = bytes(len);
                bench.push("b", &content).await;
                let seen = Arc::new(std::sync::atomic::AtomicU64::new(0));
                let counted = seen.clone();
                let mut held = bench.gate.hold(move |_| {
                    counted.fetch_add(1, std::sync::atomic::Ordering::SeqCst) + 1 == stop
                });
                let (repository, pushed) = (bench.repository("a"), content.clone());
                let mut pushing =
                    tokio::spawn(async move { push(&repository, way, &pushed).await });
                let is_stopped = tokio::select! {
                    () = held.reached(1) => true,
                    pushed = &mut pushing => {
                        pushed.unwrap().unwrap();
                        false
                    }
                };
                if !is_stopped {
                    assert!(stop > 2, "{store:?} {way:?} {len}: it made {stop} requests");
                    break;
                }
                // Another instance, which is not held back.
                let clock = bench.clock.clone();
                let other =
                    Registry::open(bench.calls.clone(), clock, RegistryOptions::default()).await;
                let other = other.unwrap().repository("b".parse().unwrap());
                other.blob_delete(&digest(&content)).await.unwrap();
                held.release();
                let pushed = pushing.await.unwrap();
                let named = format!("{store:?} {way:?} {len} bytes, stop {stop}");
                assert!(pushed.is_ok(), "{named}: {pushed:?}");
                assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content, "{named}");
            }
        }
    }
}

/// The copy is there when the first bytes come, and gone when the last do.
#[tokio::test]
async fn push_does_not_fail_when_another_copy_is_deleted_while_its_bytes_come() {
    for store in BOTH {
        let bench = bench(store).await;
        let content = bytes(PART * 3 + 1);
        bench.push("b", &content).await;
        let (mut sender, chunk) = open_body();
        let (repository, of) = (bench.repository("a"), digest(&content));
        let pushing = tokio::spawn(async move { repository.blob_push(&of, chunk).await });
        sender.send(Ok(content.slice(..PART + 1))).await.unwrap();
        bench.repository("b").blob_delete(&digest(&content)).await.unwrap();
        sender.send(Ok(content.slice(PART + 1..))).await.unwrap();
        drop(sender);
        pushing.await.unwrap().unwrap();
        assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
    }
}

/// Each store request that only deduplication makes fails once.
#[tokio::test]
async fn push_does_not_fail_when_the_search_for_other_copies_does() {
    let is_search = |call: &Call| {
        call.operation == "list" && call.key.starts_with("links/")
            || call.operation == "get" && call.key.ends_with("/b")
    };
    for n in 1..=2 {
        let bench = bench(BenchStoreKind::Local).await;
        let content = bytes(PART * 3 + 1);
        bench.push("b", &content).await;
        bench.faults.inject(Fault::fail(ErrorKind::Unavailable).on(is_search).nth(n));
        push(&bench.repository("a"), PushMethod::Streamed, &content).await.unwrap();
        assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
        assert_eq!(bench.keys("blobs/").await.len(), 2, "both kept their bytes");
    }
}

#[tokio::test]
async fn duplicate_keeps_no_bytes_of_its_own() {
    for (store, way) in BOTH.into_iter().flat_map(|at| WAYS.map(|way| (at, way))) {
        let bench = bench(store).await;
        let content = bytes(PART * 3 + 1);
        bench.push("b", &content).await;
        push(&bench.repository("a"), way, &content).await.unwrap();
        assert_eq!(bench.keys("blobs/").await.len(), 1, "{store:?} {way:?}");
        assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
    }
}

#[tokio::test]
async fn mount_of_a_source_that_vanishes_is_no_error() {
    for store in BOTH {
        let bench = bench(store).await;
        let content = bytes(5);
        bench.push("b", &content).await;
        bench.clock.advance(2 * HOUR);
        // The source is old, and deleted between the read and the write that touches it.
        let mut held = bench.gate.hold(is_link_write);
        let (repository, of) = (bench.repository("a"), digest(&content));
        let mounting =
            tokio::spawn(async move { repository.blob_mount(&of, &"b".parse().unwrap()).await });
        held.reached(1).await;
        let clock = bench.clock.clone();
        let other =
            Registry::open(bench.calls.clone(), clock, RegistryOptions::default()).await.unwrap();
        let other = other.repository("b".parse().unwrap());
        other.blob_delete(&digest(&content)).await.unwrap();
        held.release();
        assert_eq!(mounting.await.unwrap().unwrap(), None);
    }
}

/// What happens to bytes.
#[derive(Clone, Copy, Debug)]
enum LinkDamage {
    Removed,
    Cut,
}

/// Damages the only bytes that are stored.
async fn damage(bench: &Bench, damage: LinkDamage) {
    let keys = bench.keys("blobs/").await;
    assert_eq!(keys.len(), 1, "{keys:?}");
    match damage {
        LinkDamage::Removed => bench.faults.delete(&keys[0], None).await.unwrap(),
        LinkDamage::Cut => {
            bench.faults.put(&keys[0], "cut".into(), PutMode::Overwrite).await.unwrap();
        }
    }
}

#[tokio::test]
async fn push_heals_a_link_whose_bytes_are_missing() {
    for (store, way) in BOTH.into_iter().flat_map(|at| WAYS.map(|way| (at, way))) {
        for (kind, len) in [(LinkDamage::Removed, 6), (LinkDamage::Cut, PART * 3 + 1)] {
            let bench = bench(store).await;
            let (content, of) = (bytes(len), digest(&bytes(len)));
            let named = format!("{store:?} {way:?} {kind:?}");
            bench.push("a", &content).await;
            bench.pull("a", &of).await.unwrap();
            damage(&bench, kind).await;
            assert!(bench.pull("a", &of).await.is_err(), "{named}");
            push(&bench.repository("a"), way, &content).await.unwrap();
            assert_eq!(bench.pull("a", &of).await.unwrap(), content, "{named}");
            push(&bench.repository("b"), way, &content).await.unwrap();
            assert_eq!(bench.pull("b", &of).await.unwrap(), content, "{named}");
        }
    }
}

#[tokio::test]
async fn push_links_no_copy_whose_bytes_are_missing() {
    for (store, way) in BOTH.into_iter().flat_map(|at| WAYS.map(|way| (at, way))) {
        let bench = bench(store).await;
        let content = bytes(PART * 3 + 1);
        bench.push("b", &content).await;
        damage(&bench, LinkDamage::Cut).await;
        push(&bench.repository("a"), way, &content).await.unwrap();
        let pulled = bench.pull("a", &digest(&content)).await.unwrap();
        assert_eq!(pulled, content, "{store:?} {way:?}");
    }
}

/// A client that may push is told to push again what is known to be missing.
#[tokio::test]
async fn missing_bytes_are_not_acknowledged() {
    for store in BOTH {
        let bench = bench(store).await;
        let (content, of) = (bytes(5), digest(&bytes(5)));
        let (repository, manifest) = (bench.repository("a"), image(&content));
        bench.push("a", &content).await;
        damage(&bench, LinkDamage::Removed).await;
        // In a bucket this is how the instance learns of it.
        assert!(bench.pull("a", &of).await.is_err());
        let stat = repository.blob_stat(&of, TouchPolicy::IfOld).await;
        assert!(matches!(stat, Err(Error::BlobUnknown { .. })), "{store:?} {stat:?}");
        let stat = repository.blob_stat(&of, TouchPolicy::Never).await;
        assert!(matches!(stat, Err(Error::Damaged { .. })), "{store:?} {stat:?}");
        let put = bench.put_manifest("a", "v1", &manifest).await;
        assert!(matches!(put, Err(Error::ReferencesUnknown { .. })), "{store:?} {put:?}");
        let from = "a".parse().unwrap();
        assert_eq!(bench.repository("b").blob_mount(&of, &from).await.unwrap(), None);

        bench.push("a", &content).await;
        repository.blob_stat(&of, TouchPolicy::IfOld).await.unwrap();
        bench.put_manifest("a", "v1", &manifest).await.unwrap();
        bench.repository("b").blob_mount(&of, &from).await.unwrap().unwrap();
        assert_eq!(bench.pull("b", &of).await.unwrap(), content);
    }
}

/// An instance that knows nothing of it asks the store before it mounts.
#[tokio::test]
async fn mount_asks_the_store_for_the_bytes() {
    let bench = bench(BenchStoreKind::Remote).await;
    let content = bytes(5);
    bench.push("b", &content).await;
    damage(&bench, LinkDamage::Cut).await;
    let (repository, from) = (bench.another("a").await, "b".parse().unwrap());
    assert_eq!(repository.blob_mount(&digest(&content), &from).await.unwrap(), None);
}

/// Bytes that come back, from a backup or a replica, are served and relied on again.
#[tokio::test]
async fn restored_bytes_are_relied_on_again() {
    let bench = bench(BenchStoreKind::Remote).await;
    let (content, of) = (bytes(5), digest(&bytes(5)));
    bench.push("a", &content).await;
    let key = bench.keys("blobs/").await.remove(0);
    bench.faults.delete(&key, None).await.unwrap();
    assert!(bench.pull("a", &of).await.is_err());
    bench.repository("a").blob_stat(&of, TouchPolicy::IfOld).await.unwrap_err();
    bench.faults.put(&key, content.clone(), PutMode::Overwrite).await.unwrap();
    bench.repository("a").blob_stat(&of, TouchPolicy::IfOld).await.unwrap();
    assert_eq!(bench.pull("a", &of).await.unwrap(), content);
    bench.calls.take();
    bench.repository("a").blob_stat(&of, TouchPolicy::IfOld).await.unwrap();
    assert_eq!(bench.calls.take().len(), 0, "it is no suspect any more");
}

/// What a deep fsck found wrong is healed by the next push, though the size is right.
#[tokio::test]
async fn push_heals_what_fsck_found_wrong() {
    let bench = bench(BenchStoreKind::Remote).await;
    let (content, of) = (bytes(5), digest(&bytes(5)));
    bench.push("a", &content).await;
    let key = bench.keys("blobs/").await.remove(0);
    bench.faults.put(&key, "wrong".into(), PutMode::Overwrite).await.unwrap();
    let deep = FsckOptions { deep: true, ..FsckOptions::default() };
    let done = bench.registry.fsck(&deep, &NoObserver).await.unwrap();
    assert_eq!(done.damage, 1);
    bench.repository("a").blob_stat(&of, TouchPolicy::IfOld).await.unwrap_err();
    bench.push("a", &content).await;
    assert_eq!(bench.pull("a", &of).await.unwrap(), content);
}

fn is_complete(call: &Call) -> bool {
    call.operation == "complete_multipart"
}

/// An upload of several parts whose bytes have all come.
async fn filled(bench: &Bench, content: &Bytes) -> UploadId {
    let id = bench.repository("a").upload_start(None);
    let chunk = UploadChunk::of(content.clone());
    bench.repository("a").upload_append(&id, chunk).await.unwrap();
    id
}

/// A store may take minutes to put many parts together.
#[tokio::test]
async fn completion_may_take_longer_than_a_window() {
    let content = bytes(PART * 3);
    for is_replay in [false, true] {
        let bench = bench(BenchStoreKind::Remote).await;
        let id = filled(&bench, &content).await;
        if is_replay {
            bench.faults.inject(Fault::fail(ErrorKind::Unavailable).on(is_complete));
            let (repository, of) = (bench.repository("a"), digest(&content));
            repository.upload_finish(&id, &of, UploadChunk::empty()).await.unwrap_err();
        }
        let mut completed = bench.gate.hold_response(is_complete);
        let (repository, of) = (bench.repository("a"), digest(&content));
        let closing =
            tokio::spawn(
                async move { repository.upload_finish(&id, &of, UploadChunk::empty()).await },
            );
        completed.reached(1).await;
        bench.clock.advance(30 * MINUTE);
        completed.release();
        closing.await.unwrap().unwrap();
        assert_eq!(bench.pull("a", &digest(&content)).await.unwrap(), content);
    }
}

/// The session protects its bytes for an hour and a half: a link written later might name nothing.
#[tokio::test]
async fn completion_that_takes_longer_than_an_hour_links_nothing() {
    let bench = bench(BenchStoreKind::Remote).await;
    let content = bytes(PART * 3);
    let id = filled(&bench, &content).await;
    let mut completed = bench.gate.hold_response(is_complete);
    let (repository, of) = (bench.repository("a"), digest(&content));
    let closing =
        tokio::spawn(async move { repository.upload_finish(&id, &of, UploadChunk::empty()).await });
    completed.reached(1).await;
    bench.clock.advance(HOUR + MINUTE);
    completed.release();
    let closed = closing.await.unwrap();
    assert!(matches!(closed, Err(Error::Interrupted { .. })), "{closed:?}");
    assert_eq!(bench.keys("links/").await, []);
}

/// A folder behind a store that is full from the `n`-th part on.
async fn full_at(folder: &std::path::Path, n: u64) -> (Arc<FaultyStore>, Registry) {
    let store = Arc::new(FsStore::open(folder, FsOptions::default()).unwrap());
    let store = Arc::new(FaultyStore::new(store));
    let limits = RegistryLimits { part_bytes: Some(64 * 1024), ..RegistryLimits::default() };
    let options = RegistryOptions { limits, ..RegistryOptions::default() };
    let registry = Registry::open(store.clone(), Arc::new(SystemClock::new()), options).await;
    let is_part = |call: &Call| call.operation == "put_part";
    store.inject(Fault::fail(ErrorKind::Full).on(is_part).nth(n).from_then_on());
    (store, registry.unwrap())
}

/// The bytes of files below a folder's blobs.
fn blob_bytes(folder: &std::path::Path) -> u64 {
    let mut bytes = 0;
    let mut folders = vec![folder.join("blobs")];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten() {
            let entry = entry.unwrap();
            match entry.file_type().unwrap().is_dir() {
                true => folders.push(entry.path()),
                false => bytes += entry.metadata().unwrap().len(),
            }
        }
    }
    bytes
}

/// A client mostly begins anew after a 507, and would never touch these bytes again.
#[tokio::test]
async fn push_to_a_full_disk_frees_its_bytes_at_once() {
    let content = bytes(10 * 64 * 1024);
    for way in WAYS {
        let folder = tempfile::tempdir().unwrap();
        let (_store, registry) = full_at(folder.path(), 6).await;
        let repository = registry.repository("a".parse().unwrap());
        let pushed = push(&repository, way, &content).await.unwrap_err();
        assert!(matches!(&pushed, Error::Store(error) if error.kind() == ErrorKind::Full));
        assert_eq!(blob_bytes(folder.path()), 0, "{way:?}");
    }
}

/// Small bytes fit, and their link does not: a retry stores them again, under another key.
#[tokio::test]
async fn push_whose_link_has_no_room_frees_its_bytes_at_once() {
    let content = bytes(PART / 2);
    let of = digest(&content);
    for (store, way) in
        BOTH.into_iter().flat_map(|at| [PushMethod::Single, PushMethod::Put].map(|way| (at, way)))
    {
        // In a bucket the first write of the link finds one that was deleted, and the second replaces
        // that; elsewhere the first does.
        let writes = if store == BenchStoreKind::Remote { 2 } else { 1 };
        for nth in 1..=writes {
            let bench = bench(store).await;
            let repository = bench.repository("a");
            bench.push("a", &content).await;
            repository.blob_delete(&of).await.unwrap();
            let before = bench.keys("blobs/").await;
            bench.faults.inject(Fault::fail(ErrorKind::Full).on(is_link_write).nth(nth));
            let failed = push(&repository, way, &content).await.unwrap_err();
            assert!(matches!(&failed, Error::Store(error) if error.kind() == ErrorKind::Full));
            assert_eq!(bench.keys("blobs/").await, before, "{store:?} {way:?} {nth}");
            push(&repository, way, &content).await.unwrap();
            assert_eq!(bench.pull("a", &of).await.unwrap(), content);
        }
    }
}

#[tokio::test]
async fn upload_on_a_full_disk_resumes_from_its_record() {
    let folder = tempfile::tempdir().unwrap();
    let content = bytes(10 * 64 * 1024);
    let (store, registry) = full_at(folder.path(), 6).await;
    let repository = registry.repository("a".parse().unwrap());
    let id = repository.upload_start(None);
    let first = content.slice(..200_000);
    repository.upload_append(&id, UploadChunk::of(first.clone())).await.unwrap();
    let rest = || UploadChunk::of(content.slice(200_000..));
    for is_last in [false, true] {
        let failed = match is_last {
            false => repository.upload_append(&id, rest()).await.map(|_| ()),
            true => repository.upload_finish(&id, &digest(&content), rest()).await.map(|_| ()),
        };
        assert!(matches!(&failed, Err(Error::Store(error)) if error.kind() == ErrorKind::Full));
        let progress = repository.upload_status(&id).await.unwrap();
        assert_eq!(progress, UploadProgress { offset: 200_000 });
        assert_eq!(blob_bytes(folder.path()), 200_000);
    }
    store.heal();
    repository.upload_finish(&id, &digest(&content), rest()).await.unwrap();
    assert_eq!(
        repository.blob_stat(&digest(&content), TouchPolicy::Never).await.unwrap().size_bytes,
        content.len() as u64
    );
}

/// One location of three is wrong: neither the pushes before nor deduplication may spread it.
async fn three_copies(content: &Bytes, wrong: usize) -> (Bench, jreg_storage::Key) {
    let bench = bench(BenchStoreKind::Remote).await;
    for name in ["a", "b", "c"] {
        bench.push(name, content).await;
        bench.put_manifest(name, "v1", &image(content)).await.unwrap();
    }
    let key = bench.keys("blobs/").await.remove(wrong);
    (bench, key)
}

#[tokio::test]
async fn deduplication_does_not_spread_wrong_bytes_and_heals_them() {
    let (content, wrong) = (bytes(5), "wrong");
    for (which, damage) in (0..3).flat_map(|n| [(n, Some(wrong)), (n, Some("cut")), (n, None)]) {
        let (bench, key) = three_copies(&content, which).await;
        match damage {
            Some(bytes) => {
                bench.faults.put(&key, bytes.into(), PutMode::Overwrite).await.unwrap();
            }
            None => bench.faults.delete(&key, None).await.unwrap(),
        }
        bench.clock.advance(48 * HOUR);
        let seen = crate::bench::Actions::default();
        let done = bench.registry.collect_garbage(&crate::gc::options(), &seen).await.unwrap();
        assert_eq!((done.deduplicated.removed, done.findings), (2, 1), "{which} {damage:?}");
        let found = seen.findings();
        let kind = match damage {
            Some("wrong") => FindingKind::BytesDigest,
            _ => FindingKind::BytesMissing,
        };
        assert_eq!((found[0].kind, &found[0].key), (kind, &key.to_string()));
        for name in ["a", "b", "c"] {
            let pulled = bench.pull(name, &digest(&content)).await;
            assert_eq!(pulled.unwrap(), content, "{which} {damage:?} {name}");
        }
    }
}

/// Where no copy is right nothing is moved.
#[tokio::test]
async fn deduplication_without_a_right_copy_only_reports() {
    let (bench, _) = three_copies(&bytes(5), 0).await;
    for key in bench.keys("blobs/").await {
        bench.faults.put(&key, "wrong".into(), PutMode::Overwrite).await.unwrap();
    }
    bench.clock.advance(48 * HOUR);
    let seen = crate::bench::Actions::default();
    let done = bench.registry.collect_garbage(&crate::gc::options(), &seen).await.unwrap();
    assert_eq!((done.deduplicated.scanned, done.findings), (0, 3));
}

/// Another instance heals a blob while this one still trusts where its bytes were.
/// HEAD said 200 from memory, and the manifest was refused, until a restart.
#[tokio::test]
async fn damaged_link_in_memory_is_forgotten_by_the_push_that_finds_it() {
    let bench = bench(BenchStoreKind::Local).await;
    let (content, of) = (bytes(6), digest(&bytes(6)));
    bench.push("a", &content).await;
    bench.pull("a", &of).await.unwrap();
    let link = bench.keys("links/").await.remove(0);
    bench.faults.put(&link, "{".into(), PutMode::Overwrite).await.unwrap();
    bench.put_manifest("a", "v1", &image(&content)).await.unwrap_err();
    let repository = bench.repository("a");
    let stat = repository.blob_stat(&of, TouchPolicy::IfOld).await;
    assert!(matches!(stat, Err(Error::BlobUnknown { .. })), "{stat:?}");
    push(&repository, PushMethod::Single, &content).await.unwrap();
    bench.put_manifest("a", "v1", &image(&content)).await.unwrap();
}

#[tokio::test]
async fn link_in_memory_to_damaged_bytes_is_read_again() {
    for kind in [LinkDamage::Removed, LinkDamage::Cut] {
        let bench = bench(BenchStoreKind::Remote).await;
        let (content, of) = (bytes(6), digest(&bytes(6)));
        bench.push("a", &content).await;
        bench.pull("a", &of).await.unwrap();
        damage(&bench, kind).await;
        push(&bench.another("a").await, PushMethod::Single, &content).await.unwrap();
        assert_eq!(bench.pull("a", &of).await.unwrap(), content, "{kind:?}");
    }
}
