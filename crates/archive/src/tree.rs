//! [`SourceTree`]: the files of a source, whatever holds them.

use std::fmt::Debug;
use std::io;
use std::path::PathBuf;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, TryStreamExt};
use jreg_oci::Digest;

use crate::{ArchiveError, Result, SourceBlob};

/// Where bytes of a source lie, for a store that can copy or share them by itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SourcePlace {
    /// A file of this machine.
    File(PathBuf),
    /// An object of a bucket of a service.
    Object { service: String, bucket: String, key: String },
}

/// An open file of a source.
pub struct SourceContent {
    pub size_bytes: u64,
    /// Where it lies as a whole, if it does.
    pub place: Option<SourcePlace>,
    /// Its bytes; exactly as many as its size, or an error.
    pub stream: BoxStream<'static, io::Result<Bytes>>,
}

impl Debug for SourceContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceContent")
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
}

/// A file whose bytes went to the registry while the source was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReceivedFile {
    pub digest: Digest,
    pub size_bytes: u64,
    /// Its first bytes.
    pub start: Bytes,
}

/// Files under paths that are separated by `/`. Nothing is written.
#[async_trait]
pub trait SourceTree: Debug + Send + Sync + 'static {
    /// The names in a folder (`""` or with a `/` at its end), in order; those of folders end with `/`.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`]. An absent folder has no names.
    async fn names(&self, folder: &str) -> Result<Vec<String>>;

    /// Opens a file; `None` if it is absent.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`].
    async fn open(&self, path: &str) -> Result<Option<SourceContent>>;

    /// The length of a file; `None` if it is absent.
    ///
    /// # Errors
    ///
    /// [`ArchiveError`].
    async fn size(&self, path: &str) -> Result<Option<u64>>;

    /// What is known of a file whose bytes went to the registry already.
    fn received(&self, _path: &str) -> Option<&ReceivedFile> {
        None
    }
}

/// Reads a small file whole.
///
/// # Errors
///
/// [`ArchiveError::Document`] if it has more than `bytes_max`.
pub(crate) async fn read_whole(
    tree: &dyn SourceTree,
    path: &str,
    bytes_max: u64,
) -> Result<Option<Bytes>> {
    let Some(content) = tree.open(path).await? else { return Ok(None) };
    if content.size_bytes > bytes_max {
        let reason = format!("it has {} bytes, more than {bytes_max}", content.size_bytes);
        return Err(ArchiveError::document(path, reason));
    }
    collect(content, path).await.map(Some)
}

/// Reads all of an open file. The caller has looked at its size.
pub(crate) async fn collect(content: SourceContent, path: &str) -> Result<Bytes> {
    let append = |mut all: BytesMut, chunk: Bytes| async move {
        all.extend_from_slice(&chunk);
        Ok(all)
    };
    let bytes = content.stream.try_fold(BytesMut::new(), append).await;
    Ok(bytes.map_err(ArchiveError::io(path))?.freeze())
}

impl SourceContent {
    pub(crate) fn into_blob(self) -> SourceBlob {
        let Self { size_bytes, place, stream } = self;
        SourceBlob { size_bytes, place, stream }
    }
}
