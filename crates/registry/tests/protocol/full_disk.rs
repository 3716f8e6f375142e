//! What works in a folder on a disk without space: everything that deletes.

use std::sync::Arc;

use jreg_registry::{Error, GcOptions, NoObserver, Registry, RegistryOptions, UploadChunk};
use jreg_storage::testing::{FullDisk, ManualClock};
use jreg_storage::{ErrorKind, FsOptions, FsStore, SystemClock};

use crate::bench::{HOUR, digest, push_of};
use crate::history::{all, digest_of, image, tag};

fn is_full<T: std::fmt::Debug>(done: Result<T, Error>) -> bool {
    matches!(done, Err(Error::Store(error)) if error.kind() == ErrorKind::Full)
}

/// Regression: deletes of tags and manifests got 507 until something else had freed space.
#[tokio::test]
async fn fixed_deletes_of_every_kind_work_on_a_full_disk() {
    let folder = tempfile::tempdir().unwrap();
    let disk = Arc::new(FullDisk::default());
    let options = FsOptions {
        reserved_for: vec![jreg_registry::FREES_SPACE.to_owned()],
        ..FsOptions::default()
    };
    let store = FsStore::open_with(folder.path(), options, disk.clone()).unwrap();
    let clock = Arc::new(SystemClock::new());
    let registry = Registry::open(Arc::new(store), clock, RegistryOptions::default());
    let registry = registry.await.unwrap();
    let repository = registry.repository("a".parse().unwrap());
    let blob = async |content: &'static str| {
        let (of, id) = (digest(content.as_bytes()), repository.upload_start(None));
        repository.upload_finish(&id, &of, UploadChunk::of(content)).await
    };
    blob("{}").await.unwrap();
    blob("other").await.unwrap();
    for (name, number) in [("v1", 1), ("v2", 2), ("latest", 2), ("v3", 3)] {
        repository.manifest_put(push_of(name, &image(number))).await.unwrap();
    }
    let full = || disk.set_room(0);
    full();
    assert!(is_full(repository.manifest_put(push_of("v4", &image(4))).await));
    assert!(is_full(blob("another").await));
    repository.manifest_delete(&"v1".parse().unwrap(), None).await.unwrap();
    full();
    let by_digest = jreg_oci::Reference::Digest(digest_of(2));
    repository.manifest_delete(&by_digest, None).await.unwrap();
    full();
    repository.manifest_purge(&digest_of(3), true).await.unwrap();
    full();
    repository.blob_delete(&digest(b"other")).await.unwrap();
    full();
    let options = GcOptions { sweep_now: true, ..GcOptions::default() };
    registry.collect_garbage(&options, &NoObserver).await.unwrap();
    full();
    assert!(is_full(repository.manifest_put(push_of("v4", &image(4))).await));
    assert!(is_full(repository.manifest_restore(&digest_of(2), true).await));
    // What a delete promises is there.
    assert_eq!(repository.tags(&all()).await.unwrap().items, []);
    for (name, changes) in [("v1", 2), ("latest", 2), ("v3", 2)] {
        let history = repository.tag_history(&tag(name), &all()).await.unwrap().items;
        assert_eq!(history.len(), changes, "{name}");
    }
    let deleted = repository.deleted_manifests(&all()).await.unwrap().items;
    assert_eq!(deleted.iter().map(|it| it.digest.clone()).collect::<Vec<_>>(), [digest_of(2)]);
    disk.set_room(1 << 20);
    repository.manifest_restore(&digest_of(2), true).await.unwrap();
    assert_eq!(repository.tags(&all()).await.unwrap().items, [tag("latest"), tag("v2")]);
}

/// Regression: after two deletes had used up the reserved files, no run of GC freed anything: it failed for want of
/// a file for its own notes.
#[tokio::test]
async fn fixed_gc_runs_without_a_free_inode() {
    let folder = tempfile::tempdir().unwrap();
    let (disk, clock) = (Arc::new(FullDisk::default()), Arc::new(ManualClock::default()));
    let options = FsOptions {
        reserved_for: vec![jreg_registry::FREES_SPACE.to_owned()],
        clock: clock.clone(),
        ..FsOptions::default()
    };
    let store = Arc::new(FsStore::open_with(folder.path(), options, disk.clone()).unwrap());
    let registry = Registry::open(store.clone(), clock.clone(), RegistryOptions::default());
    let registry = registry.await.unwrap();
    let repository = registry.repository("a".parse().unwrap());
    let blob = async |content: &'static str| {
        let (of, id) = (digest(content.as_bytes()), repository.upload_start(None));
        repository.upload_finish(&id, &of, UploadChunk::of(content)).await
    };
    for content in ["{}", "old", "older"] {
        blob(content).await.unwrap();
    }
    let tags: Vec<String> = (0..9).map(|number| format!("v{number}")).collect();
    for name in &tags {
        repository.manifest_put(push_of(name, &image(1))).await.unwrap();
    }
    clock.advance(48 * HOUR);
    disk.set_inodes(0);
    // Each keeps the history of a tag, in a folder and a file.
    let mut refused = 0;
    for name in &tags {
        let deleted = repository.manifest_delete(&name.parse().unwrap(), None).await;
        refused += usize::from(is_full(deleted));
    }
    assert_ne!(refused, 0, "the reserve lasts for all");
    let options = GcOptions { sweep_now: true, ..GcOptions::default() };
    let report = registry.collect_garbage(&options, &NoObserver).await.unwrap();
    assert_eq!(report.links.removed, 2);
}
