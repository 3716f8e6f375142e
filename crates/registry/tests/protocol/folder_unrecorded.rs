//! Uploads to a folder whose bytes came in one stream: they wait in memory for the request that closes them,
//! or for one that needs their record.

use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use jreg_oci::ContentRange;
use jreg_registry::{Error, Registry, RegistryOptions, Repository, UploadChunk, UploadId};
use jreg_storage::testing::{ManualClock, SyscallFaults};
use jreg_storage::{Durability, FsOptions, FsStore};
use tempfile::TempDir;

use crate::bench::{bytes, digest};

/// One that stays in memory, and one with parts.
const LENGTHS: [usize; 2] = [1000, 600 * 1024];

struct Folder {
    root: TempDir,
    faults: Arc<SyscallFaults>,
    registry: Registry,
}

impl Folder {
    async fn open() -> Self {
        let root = tempfile::tempdir().unwrap();
        let (registry, faults) = open(root.path()).await;
        Self { root, faults, registry }
    }

    fn repository(&self) -> Repository {
        self.registry.repository("app".parse().unwrap())
    }

    fn sessions(&self) -> usize {
        files(&self.root.path().join("uploads"))
    }

    /// An upload whose bytes have come in one stream.
    async fn stream(&self, content: &Bytes) -> UploadId {
        let id = self.repository().upload_start(None);
        let chunk = UploadChunk { length: None, ..UploadChunk::of(content.clone()) };
        let progress = self.repository().upload_append(&id, chunk).await.unwrap();
        assert_eq!(progress.offset, content.len() as u64);
        id
    }
}

async fn open(root: &Path) -> (Registry, Arc<SyscallFaults>) {
    let faults = Arc::new(SyscallFaults::default());
    let options = FsOptions { durability: Durability::Relaxed, ..FsOptions::default() };
    let store = FsStore::open_with(root, options, faults.clone()).unwrap();
    let (clock, options) = (Arc::new(ManualClock::default()), RegistryOptions::default());
    (Registry::open(Arc::new(store), clock, options).await.unwrap(), faults)
}

fn files(folder: &Path) -> usize {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.map(|path| if path.is_dir() { files(&path) } else { 1 }).sum()
}

async fn finish(repository: &Repository, id: &UploadId, content: &Bytes) -> Result<u64, Error> {
    let nothing = UploadChunk::empty();
    let finished = repository.upload_finish(id, &digest(content), nothing).await;
    finished.map(|blob| blob.size_bytes)
}

#[tokio::test]
async fn stream_that_is_closed_at_once_has_no_record() {
    let folder = Folder::open().await;
    for length in LENGTHS {
        let content = bytes(length);
        let id = folder.stream(&content).await;
        assert_eq!(folder.sessions(), 0);
        assert_eq!(finish(&folder.repository(), &id, &content).await.unwrap(), length as u64);
        assert_eq!(folder.sessions(), 0);
        assert!(folder.repository().blob_open(&digest(&content)).await.is_ok());
    }
}

#[tokio::test]
async fn upload_that_is_closed_without_a_record_is_known_to_be() {
    let folder = Folder::open().await;
    let (repository, content) = (folder.repository(), bytes(1000));
    let id = folder.stream(&content).await;
    finish(&repository, &id, &content).await.unwrap();
    assert_eq!(finish(&repository, &id, &content).await.unwrap(), 1000, "a retry");
    let unknown = |outcome: Result<(), Error>| {
        assert!(matches!(outcome, Err(Error::UploadUnknown { .. })), "{outcome:?}");
    };
    unknown(finish(&repository, &id, &bytes(999)).await.map(drop));
    unknown(repository.upload_status(&id).await.map(drop));
    unknown(repository.upload_append(&id, UploadChunk::of("more")).await.map(drop));
    unknown(repository.upload_cancel(&id).await);
    repository.blob_delete(&digest(&content)).await.unwrap();
    unknown(finish(&repository, &id, &content).await.map(drop));
}

/// Every other request finds the record that it would have found without this.
#[tokio::test]
async fn any_other_request_records_the_upload_first() {
    for length in LENGTHS {
        let folder = Folder::open().await;
        let (repository, content) = (folder.repository(), bytes(length));
        let size = length as u64;

        let id = folder.stream(&content).await;
        assert_eq!(repository.upload_status(&id).await.unwrap().offset, size);
        assert_eq!(folder.sessions(), 1, "{length}");
        assert_eq!(finish(&repository, &id, &content).await.unwrap(), size);

        let id = folder.stream(&content).await;
        let more = repository.upload_append(&id, UploadChunk::of("more")).await.unwrap();
        assert_eq!(more.offset, size + 4);
        let whole = Bytes::from([&content[..], b"more"].concat());
        assert_eq!(finish(&repository, &id, &whole).await.unwrap(), size + 4);

        let id = folder.stream(&content).await;
        let last = repository.upload_finish(&id, &digest(&whole), UploadChunk::of("more")).await;
        assert_eq!(last.unwrap().size_bytes, size + 4);

        let id = folder.stream(&content).await;
        repository.upload_cancel(&id).await.unwrap();
        let finished = finish(&repository, &id, &content).await;
        assert!(matches!(finished, Err(Error::UploadUnknown { .. })), "{finished:?}");

        let id = folder.stream(&content).await;
        let other = folder.registry.repository("other".parse().unwrap());
        let stolen = finish(&other, &id, &content).await;
        assert!(matches!(stolen, Err(Error::UploadUnknown { .. })), "{stolen:?}");
        assert_eq!(finish(&repository, &id, &content).await.unwrap(), size);
    }
}

#[tokio::test]
async fn wrong_digest_cancels_the_upload() {
    for length in LENGTHS {
        let folder = Folder::open().await;
        let (repository, content) = (folder.repository(), bytes(length));
        let id = folder.stream(&content).await;
        let wrong = finish(&repository, &id, &bytes(3)).await;
        assert!(matches!(wrong, Err(Error::DigestMismatch { .. })), "{wrong:?}");
        let again = finish(&repository, &id, &content).await;
        assert!(matches!(again, Err(Error::UploadUnknown { .. })), "{again:?}");
        assert_eq!(files(&folder.root.path().join("blobs")), 0, "its bytes are freed");
    }
}

#[tokio::test]
async fn another_algorithm_than_that_of_the_stream_is_as_good() {
    let folder = Folder::open().await;
    let content = bytes(1000);
    let id = folder.stream(&content).await;
    let sha512 = jreg_oci::Digest::of(jreg_oci::Algorithm::Sha512, &content);
    let finished = folder.repository().upload_finish(&id, &sha512, UploadChunk::empty()).await;
    assert_eq!(finished.unwrap().size_bytes, 1000);
}

/// Its client may resume: a crash must not lose what is acknowledged.
#[tokio::test]
async fn chunk_with_a_range_is_recorded_before_it_is_acknowledged() {
    let folder = Folder::open().await;
    let id = folder.repository().upload_start(None);
    let range = Some(ContentRange { start: 0, end_inclusive: 999 });
    let chunk = UploadChunk { range, ..UploadChunk::of(bytes(1000)) };
    folder.repository().upload_append(&id, chunk).await.unwrap();
    assert_eq!(folder.sessions(), 1);
}

#[tokio::test]
async fn upload_that_is_not_closed_is_recorded_after_a_while() {
    let folder = Folder::open().await;
    for length in LENGTHS {
        folder.stream(&bytes(length)).await;
    }
    while folder.sessions() < LENGTHS.len() {
        tokio::task::yield_now().await;
    }
}

/// What waits is bounded: no more than 64 parts are in memory for it.
#[tokio::test]
async fn of_many_uploads_that_wait_the_later_ones_are_recorded_at_once() {
    let folder = Folder::open().await;
    let content = bytes(10);
    let mut ids = Vec::new();
    for _ in 0..70 {
        ids.push(folder.stream(&content).await);
    }
    assert!(folder.sessions() >= 6, "{}", folder.sessions());
    for id in ids {
        finish(&folder.repository(), &id, &content).await.unwrap();
    }
}

#[tokio::test]
async fn uploads_are_recorded_when_the_process_stops() {
    let Folder { root, registry, faults } = Folder::open().await;
    let folder = Folder { root, registry, faults };
    let contents = LENGTHS.map(bytes);
    let ids = [folder.stream(&contents[0]).await, folder.stream(&contents[1]).await];
    folder.registry.stop_uploads().await;
    assert_eq!(folder.sessions(), 2);
    let late = folder.stream(&contents[0]).await;
    assert_eq!(folder.sessions(), 3, "later ones do not wait");
    let Folder { root, registry, .. } = folder;
    drop(registry);
    let (registry, _) = open(root.path()).await;
    let repository = registry.repository("app".parse().unwrap());
    for (id, content) in ids.iter().zip(&contents).chain([(&late, &contents[0])]) {
        assert_eq!(finish(&repository, id, content).await.unwrap(), content.len() as u64);
    }
}

/// Whichever system call of the closing request fails: the blob is whole or absent, a retry finishes or says
/// that the upload is gone, and nothing stays behind that a new upload does not find.
#[tokio::test]
async fn failed_close_leaves_a_blob_or_no_upload() {
    for length in LENGTHS {
        let (mut failed, mut gone) = (0, 0);
        for call in 0..30 {
            let folder = Folder::open().await;
            let (repository, content) = (folder.repository(), bytes(length));
            let id = folder.stream(&content).await;
            folder.faults.no_space_after(call);
            let first = finish(&repository, &id, &content).await;
            folder.faults.heal();
            failed += u32::from(first.is_err());
            match finish(&repository, &id, &content).await {
                Ok(size) => assert_eq!(size, length as u64),
                Err(Error::UploadUnknown { .. }) => gone += 1,
                Err(error) => panic!("call {call} of {length} bytes: {error:?}"),
            }
            let id = folder.stream(&content).await;
            assert_eq!(finish(&repository, &id, &content).await.unwrap(), length as u64);
            assert_eq!(files(&folder.root.path().join("blobs")), 1, "call {call}");
        }
        assert!(failed > 3 && gone > 0, "{failed} failed, {gone} gone");
    }
}
