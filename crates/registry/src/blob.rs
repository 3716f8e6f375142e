//! Blobs.
use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{ByteRange, ByteStream};
use crate::*;

/// A blob that a repository holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Blob {
    /// Its digest.
    pub digest: Digest,
    /// Its length.
    pub size_bytes: u64,
}

/// Whether an existence check also keeps what it found from being collected for a while: for
/// askers who may push, and will skip an upload on the answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Touch {
    /// Refresh it if it is old.
    IfOld,
    /// Only look.
    Never,
}

/// An open blob.
#[derive(Debug)]
pub struct BlobReader;
impl BlobReader {
    /// The blob.
    pub fn blob(&self) -> &Blob { todo!() }
    /// Streams a range of it; the range must lie within the blob.
    pub async fn read(&self, _range: ByteRange) -> Result<ByteStream> { todo!() }
}

impl Repository {
    /// Says whether the repository holds a blob.
    pub async fn blob_stat(&self, _digest: &Digest, _touch: Touch) -> Result<Blob> { todo!() }
    /// Opens a blob for reading.
    pub async fn blob_open(&self, _digest: &Digest) -> Result<BlobReader> { todo!() }
    /// Removes a blob from the repository. Its manifests are not looked at.
    pub async fn blob_delete(&self, _digest: &Digest) -> Result<()> { todo!() }
    /// Stores a blob whose digest is known before its bytes (single POST, end-4b).
    pub async fn blob_push(&self, _digest: &Digest, _chunk: Chunk) -> Result<Blob> { todo!() }
    /// Repositories that hold a blob, for a mount without `from`; whether the asker may read them is for the caller to check.
    pub async fn mount_candidates(&self, _digest: &Digest) -> Result<Vec<RepositoryName>> { todo!() }
    /// Makes the repository hold a blob that `source` holds. `None`: the source does not hold it.
    pub async fn blob_mount(&self, _digest: &Digest, _source: &RepositoryName) -> Result<Option<Blob>> { todo!() }
}
