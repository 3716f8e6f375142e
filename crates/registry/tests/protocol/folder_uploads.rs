//! Uploads to a folder, which needs no record of parts that the next run drops.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::SinkExt;
use jreg_oci::ContentRange;
use jreg_registry::{BodyError, Error, Registry, RegistryOptions, Repository, UploadChunk};
use jreg_storage::testing::{ManualClock, SyscallFaults};
use jreg_storage::{Durability, FsOptions, FsStore, ListRequest, Store};
use tempfile::TempDir;

use crate::bench::{bytes, digest, open_body};

/// More than a part.
const PIECE_BYTES: usize = 300 * 1024;

struct Folder {
    root: TempDir,
    clock: Arc<ManualClock>,
    repository: Repository,
}

impl Folder {
    async fn open() -> Self {
        let root = tempfile::tempdir().unwrap();
        let clock = Arc::new(ManualClock::default());
        let repository = repository(root.path(), &clock).await;
        Self { root, clock, repository }
    }

    /// The files below a folder, those of open uploads among them.
    fn files(&self, below: &str) -> Vec<PathBuf> {
        files(&self.root.path().join(below))
    }
}

async fn repository(root: &Path, clock: &Arc<ManualClock>) -> Repository {
    let of_folder = FsOptions { clock: clock.clone(), ..FsOptions::default() };
    let store = FsStore::open(root, of_folder).unwrap();
    let options = RegistryOptions::default();
    let registry = Registry::open(Arc::new(store), clock.clone(), options).await.unwrap();
    registry.repository("app".parse().unwrap())
}

fn files(folder: &Path) -> Vec<PathBuf> {
    let Ok(entries) = std::fs::read_dir(folder) else { return Vec::new() };
    let paths = entries.map(|entry| entry.unwrap().path());
    paths.flat_map(|path| if path.is_dir() { files(&path) } else { vec![path] }).collect()
}

async fn until(is_so: impl Fn() -> bool) {
    while !is_so() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn push_of_a_known_digest_writes_no_session() {
    let folder = Folder::open().await;
    let content = bytes(4 * PIECE_BYTES);
    folder.repository.blob_push(&digest(&content), UploadChunk::of(content)).await.unwrap();
    assert_eq!(folder.files("blobs").len(), 1);
    assert_eq!(folder.files("uploads"), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn bytes_of_a_push_that_fails_are_freed_at_once() {
    let folder = Folder::open().await;
    let content = bytes(4 * PIECE_BYTES);
    let (mut sender, chunk) = open_body();
    let (repository, wanted) = (folder.repository.clone(), digest(&content));
    let push = tokio::spawn(async move { repository.blob_push(&wanted, chunk).await });
    sender.send(Ok(content.slice(..2 * PIECE_BYTES))).await.unwrap();
    until(|| !folder.files("blobs").is_empty()).await;
    sender.send(Err(BodyError::Broken)).await.unwrap();
    push.await.unwrap().unwrap_err();
    assert_eq!(folder.files("blobs"), [] as [PathBuf; 0]);
    let wrong = folder.repository.blob_push(&digest(b"other"), UploadChunk::of(content)).await;
    assert!(matches!(wrong, Err(Error::DigestMismatch { .. })), "{wrong:?}");
    assert_eq!(folder.files("blobs"), [] as [PathBuf; 0]);
}

#[tokio::test]
async fn bytes_that_no_record_names_are_dropped_with_the_next_run() {
    let Folder { root, repository: first, .. } = Folder::open().await;
    let (mut sender, chunk) = open_body();
    let pushing = first.clone();
    let push = tokio::spawn(async move { pushing.blob_push(&digest(b"never"), chunk).await });
    sender.send(Ok(bytes(2 * PIECE_BYTES))).await.unwrap();
    until(|| files(&root.path().join("blobs")).len() == 1).await;
    push.abort();
    push.await.unwrap_err();
    drop(first);
    let store = FsStore::open(root.path(), FsOptions::default()).unwrap();
    assert!(store.list(&ListRequest::below("blobs/")).await.unwrap().entries.is_empty());
    assert_eq!(files(&root.path().join("blobs")), [] as [PathBuf; 0]);
}

/// Each failed request of a client that retries on a full disk kept its bytes: the file already had the
/// name that the record was to say, or was an object that no record referenced.
#[tokio::test]
async fn bytes_whose_record_finds_no_space_are_freed_at_once() {
    for length in [PIECE_BYTES, 100 * 1024] {
        let root = tempfile::tempdir().unwrap();
        let faults = Arc::new(SyscallFaults::default());
        let options = FsOptions { durability: Durability::Relaxed, ..FsOptions::default() };
        let store = FsStore::open_with(root.path(), options, faults.clone()).unwrap();
        let (clock, options) = (Arc::new(ManualClock::default()), RegistryOptions::default());
        let registry = Registry::open(Arc::new(store), clock, options).await.unwrap();
        let repository = registry.repository("app".parse().unwrap());
        let blobs = root.path().join("blobs");
        let mut failed = 0;
        for call in 0..40 {
            let id = repository.upload_start(None);
            faults.no_space_after(call);
            let range = ContentRange { start: 0, end_inclusive: length as u64 - 1 };
            let chunk = UploadChunk { range: Some(range), ..UploadChunk::of(bytes(length)) };
            let appended = repository.upload_append(&id, chunk).await;
            faults.heal();
            match appended {
                Ok(_) => repository.upload_cancel(&id).await.unwrap(),
                Err(_) => failed += 1,
            }
            assert_eq!(files(&blobs), [] as [PathBuf; 0], "call {call}, {length} bytes");
        }
        assert!(failed > 3, "{failed}");
    }
}

/// Another request found the upload closed, and took the deleted link for its own.
#[tokio::test]
async fn blob_that_was_deleted_before_is_linked_with_the_close_of_its_upload() {
    let folder = Folder::open().await;
    let (repository, content) = (&folder.repository, bytes(2 * PIECE_BYTES));
    let of = digest(&content);
    repository.blob_push(&of, UploadChunk::of(content.clone())).await.unwrap();
    repository.blob_delete(&of).await.unwrap();
    let id = repository.upload_start(None);
    repository.upload_append(&id, UploadChunk::of(content)).await.unwrap();
    let closing = (0..8).map(|_| repository.upload_finish(&id, &of, UploadChunk::empty()));
    for closed in futures::future::join_all(closing).await {
        closed.unwrap();
    }
}

/// The bytes of one of them stay, whole.
#[tokio::test]
async fn of_two_first_streams_of_an_upload_one_is_recorded() {
    let folder = Folder::open().await;
    let id = folder.repository.upload_start(None);
    let content = bytes(2 * PIECE_BYTES);
    let (mut slow, chunk) = open_body();
    let (repository, slow_id) = (folder.repository.clone(), id.clone());
    let second = tokio::spawn(async move { repository.upload_append(&slow_id, chunk).await });
    slow.send(Ok(bytes(PIECE_BYTES + 1))).await.unwrap();
    until(|| !folder.files("blobs").is_empty()).await;
    folder.repository.upload_append(&id, UploadChunk::of(content.clone())).await.unwrap();
    drop(slow);
    let second = second.await.unwrap();
    assert!(matches!(second, Err(Error::UploadSuperseded { .. })), "{second:?}");
    assert_eq!(folder.files("blobs").len(), 1, "the other's are freed");
    let status = folder.repository.upload_status(&id).await.unwrap();
    assert_eq!(status.offset, content.len() as u64);
    let (wanted, nothing) = (digest(&content), UploadChunk::empty());
    let finished = folder.repository.upload_finish(&id, &wanted, nothing).await.unwrap();
    assert_eq!(finished.size_bytes, content.len() as u64);
}

/// Others can see, cancel and take over an upload that takes long.
#[tokio::test]
async fn stream_is_recorded_after_a_second() {
    let folder = Folder::open().await;
    let id = folder.repository.upload_start(None);
    let (mut sender, chunk) = open_body();
    let (repository, own) = (folder.repository.clone(), id.clone());
    let stream = tokio::spawn(async move { repository.upload_append(&own, chunk).await });
    sender.send(Ok(bytes(PIECE_BYTES))).await.unwrap();
    until(|| !folder.files("blobs").is_empty()).await;
    assert_eq!(folder.files("uploads"), [] as [PathBuf; 0]);
    folder.clock.advance(Duration::from_secs(1));
    sender.send(Ok(bytes(PIECE_BYTES))).await.unwrap();
    until(|| folder.files("uploads").len() == 1).await;
    folder.repository.upload_cancel(&id).await.unwrap();
    drop(sender);
    stream.await.unwrap().unwrap_err();
    assert_eq!(folder.files("blobs"), [] as [PathBuf; 0]);
}
