//! What works in a folder on a disk without space: everything that deletes.

use std::sync::Arc;

use jreg_registry::{Error, GcOptions, NoObserver, Registry, RegistryOptions, UploadChunk};
use jreg_storage::testing::FullDisk;
use jreg_storage::{ErrorKind, FsOptions, FsStore, SystemClock};

use crate::bench::{digest, push_of};
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
