//! A folder whose machine's clock is set while it is served: nothing is deleted before its time.

use std::sync::Arc;
use std::time::Duration;

use jreg_registry::{GcOptions, NoObserver, Registry, RegistryOptions, TouchPolicy, UploadChunk};
use jreg_storage::testing::ManualClock;
use jreg_storage::{CLOCK_DIFFERENCE_MAX, FsOptions, FsStore};

use crate::bench::{digest, push_of};
use crate::history::{all, digest_of, image, tag};

const DAY: Duration = Duration::from_secs(24 * 3600);

struct FolderRegistry {
    clock: Arc<ManualClock>,
    registry: Registry,
    _folder: tempfile::TempDir,
}

impl FolderRegistry {
    async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let options = FsOptions { clock: clock.clone(), ..FsOptions::default() };
        let store = Arc::new(FsStore::open(folder.path(), options).unwrap());
        let registry = Registry::open(store, clock.clone(), RegistryOptions::default());
        Self { clock, registry: registry.await.unwrap(), _folder: folder }
    }

    fn repository(&self) -> jreg_registry::Repository {
        self.registry.repository("a".parse().unwrap())
    }

    async fn push(&self, content: &'static str) -> jreg_oci::Digest {
        let of = digest(content.as_bytes());
        self.repository().blob_push(&of, UploadChunk::of(content)).await.unwrap();
        of
    }

    async fn has(&self, blob: &jreg_oci::Digest) -> bool {
        self.repository().blob_open(blob).await.is_ok()
    }

    async fn collect(&self) {
        let options = GcOptions { sweep_now: true, ..GcOptions::default() };
        self.registry.collect_garbage(&options, &NoObserver).await.unwrap();
    }
}

/// A clock that was set forward by three days let a run delete what had just been acknowledged.
#[tokio::test]
async fn a_clock_that_is_set_forward_deletes_nothing_that_was_just_pushed() {
    let it = FolderRegistry::open().await;
    let pushed = it.push("{}").await;
    it.clock.set_forward(3 * DAY);
    it.collect().await;
    assert!(it.has(&pushed).await);
    it.repository().manifest_put(push_of("v1", &image(1))).await.unwrap();
    let unused = it.push("unused").await;
    it.clock.advance(DAY / 3);
    it.collect().await;
    assert!(it.has(&unused).await);
    it.clock.advance(DAY);
    it.collect().await;
    // What is due is deleted all the same.
    assert!(!it.has(&unused).await && it.has(&pushed).await);
}

/// Whether a record is young is asked of the same clock as whether it is old.
#[tokio::test]
async fn what_a_client_is_told_to_exist_stays_while_the_folders_clock_catches_up() {
    let it = FolderRegistry::open().await;
    let pushed = it.push("{}").await;
    let stat = async || it.repository().blob_stat(&pushed, TouchPolicy::IfOld).await.unwrap();
    it.clock.set_forward(3 * DAY);
    stat().await;
    let minute = Duration::from_secs(60);
    it.clock.advance(55 * minute);
    stat().await;
    it.clock.advance(6 * minute);
    let options = GcOptions { grace: 120 * minute, ..GcOptions::default() };
    it.registry.collect_garbage(&options, &NoObserver).await.unwrap();
    assert!(it.has(&pushed).await);
}

#[tokio::test]
async fn a_clock_that_is_set_forward_leaves_deleted_manifests_and_their_history() {
    let it = FolderRegistry::open().await;
    it.push("{}").await;
    it.repository().manifest_put(push_of("v1", &image(1))).await.unwrap();
    it.repository().manifest_put(push_of("v1", &image(2))).await.unwrap();
    let first = jreg_oci::Reference::Digest(digest_of(1));
    it.repository().manifest_delete(&first, None).await.unwrap();
    it.clock.set_forward(400 * DAY);
    it.collect().await;
    let deleted = it.repository().deleted_manifests(&all()).await.unwrap().items;
    assert_eq!(deleted.iter().map(|it| it.digest.clone()).collect::<Vec<_>>(), [digest_of(1)]);
    let history = it.repository().tag_history(&tag("v1"), &all()).await.unwrap().items;
    assert_eq!(history.len(), 2);
    it.repository().manifest_restore(&digest_of(1), true).await.unwrap();
}

/// What an upload session has received belongs to a client that may come back.
#[tokio::test]
async fn a_clock_that_is_set_forward_ends_no_upload() {
    let it = FolderRegistry::open().await;
    let (repository, content) = (it.repository(), "0123456789");
    let id = repository.upload_start(None);
    repository.upload_append(&id, UploadChunk::of("01234")).await.unwrap();
    it.clock.set_forward(60 * DAY);
    it.registry.reap_uploads().await.unwrap();
    it.collect().await;
    let of = digest(content.as_bytes());
    repository.upload_finish(&id, &of, UploadChunk::of("56789")).await.unwrap();
    assert!(it.has(&of).await);
}

#[tokio::test]
async fn a_clock_that_is_set_stops_no_write_and_shows() {
    let it = FolderRegistry::open().await;
    assert_eq!(it.registry.usage().clock_difference, Duration::ZERO);
    it.clock.set_forward(DAY);
    assert_eq!(it.registry.usage().clock_difference, DAY);
    assert!(DAY > CLOCK_DIFFERENCE_MAX);
    it.registry.ready().await.unwrap();
    it.push("{}").await;
    it.repository().manifest_put(push_of("v1", &image(1))).await.unwrap();
}
