//! [`SourceTree`]: the files of a source, whatever holds them.

use std::fmt::Debug;
use std::io;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::stream::{BoxStream, StreamExt, TryStreamExt};
use jreg_storage::{ByteRange, Key, ListRequest, OpenFile, Store};

use crate::{ArchiveError, Result, SourceBlob};

/// How many names a page of a listing has.
const NAMES_PER_PAGE: usize = 1000;

/// An open file of a source.
pub struct SourceContent {
    pub size_bytes: u64,
    /// Its bytes; exactly as many as its size, or an error.
    pub stream: BoxStream<'static, io::Result<Bytes>>,
    /// The file, if it is one of its own.
    pub file: Option<Arc<OpenFile>>,
}

impl Debug for SourceContent {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SourceContent")
            .field("size_bytes", &self.size_bytes)
            .finish_non_exhaustive()
    }
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
        let Self { size_bytes, stream, file } = self;
        SourceBlob { size_bytes, stream, file }
    }
}

/// The objects of a store as files: a folder or a bucket.
#[derive(Clone, Debug)]
pub struct StoreTree {
    store: Arc<dyn Store>,
}

impl StoreTree {
    pub fn new(store: Arc<dyn Store>) -> Self {
        Self { store }
    }
}

fn failed(what: &str) -> impl FnOnce(jreg_storage::Error) -> ArchiveError + '_ {
    move |source| ArchiveError::Store { what: what.to_owned(), source }
}

#[async_trait]
impl SourceTree for StoreTree {
    async fn names(&self, folder: &str) -> Result<Vec<String>> {
        let mut request = ListRequest {
            delimiter: true,
            limit: NAMES_PER_PAGE,
            ..ListRequest::below(folder.to_owned())
        };
        let mut names = Vec::new();
        loop {
            let page = self.store.list(&request).await.map_err(failed(folder))?;
            let below = |name: &str| name.strip_prefix(folder).map(str::to_owned);
            names.extend(page.entries.iter().filter_map(|entry| below(entry.key.as_str())));
            names.extend(page.prefixes.iter().filter_map(|prefix| below(prefix)));
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => break,
            }
        }
        names.sort();
        Ok(names)
    }

    async fn open(&self, path: &str) -> Result<Option<SourceContent>> {
        let Ok(key) = path.parse::<Key>() else { return Ok(None) };
        let Some(size_bytes) = self.size(path).await? else { return Ok(None) };
        let file = self.store.file(&key).await.map_err(failed(path))?;
        let range = ByteRange { start: 0, end: size_bytes };
        let stream = self.store.read(&key, range).await.map_err(failed(path))?;
        let stream = stream.map_err(io::Error::other).boxed();
        Ok(Some(SourceContent { size_bytes, stream, file }))
    }

    async fn size(&self, path: &str) -> Result<Option<u64>> {
        let Ok(key) = path.parse::<Key>() else { return Ok(None) };
        match self.store.head(&key).await {
            Ok(stat) => Ok(Some(stat.size_bytes)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(failed(path)(error)),
        }
    }
}
