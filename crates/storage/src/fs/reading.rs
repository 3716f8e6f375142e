//! Streams of bulk objects: a chunk at a time, each by a thread that then goes back to the pool.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::{Inner, blocking, failure};
use crate::{ByteRange, ByteStream, Error, ErrorKind, Key, Result};

/// How many bytes a stream reads at a time. One chunk is in memory for each open stream.
const CHUNK_BYTES: u64 = 256 * 1024;

impl Inner {
    /// Opens an object to read a range of it.
    pub(super) fn open_range(&self, key: &Key, range: ByteRange) -> Result<File> {
        let (file, metadata) = self.open(key)?;
        if range.start > range.end || range.end > metadata.len() {
            return Err(Error::new(ErrorKind::OutOfRange, key));
        }
        Ok(file)
    }
}

/// Streams a range of an open file. A file that ends early is an error, never a short stream.
pub(super) fn stream(key: Key, file: File, range: ByteRange) -> ByteStream {
    let file = Arc::new(file);
    futures::stream::try_unfold(range, move |rest| next(key.clone(), file.clone(), rest))
        .into_stream()
        .boxed()
}

async fn next(key: Key, file: Arc<File>, rest: ByteRange) -> Result<Option<(Bytes, ByteRange)>> {
    if rest.is_empty() {
        return Ok(None);
    }
    let end = rest.end.min(rest.start.saturating_add(CHUNK_BYTES));
    let chunk = ByteRange { start: rest.start, end };
    let bytes = blocking(key.clone(), move || read_chunk(&key, &file, chunk)).await?;
    Ok(Some((bytes, ByteRange { start: end, ..rest })))
}

fn read_chunk(key: &Key, file: &File, range: ByteRange) -> Result<Bytes> {
    let size = usize::try_from(range.len()).expect("a chunk fits in memory");
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, range.start).map_err(|error| failure::ambiguous(key, error))?;
    Ok(bytes.into())
}
