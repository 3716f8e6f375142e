//! Streams of bulk objects: a chunk at a time, each by a thread that then goes back to the pool.

use std::fmt;
use std::fs::{self, File};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};

use super::disk_waits::DiskWaits;
use super::record_cache::RecordStamp;
use super::threads::BlockingThreads;
use super::{FsInner, blocking, failure};
use crate::{ByteRange, ByteStream, Error, ErrorKind, Key, OpenFile, Result};

/// How many bytes a stream reads at a time. One chunk is in memory for each open stream.
const CHUNK_BYTES: u64 = 256 * 1024;

/// How many files stay open. One that is removed is closed at once.
const FILES_OPEN_MAX: usize = 128;

/// Files that are open: opening one again takes longer than reading a small one. Like a cached
/// record, one is used only while the file at its path is the same and unchanged: it may have been
/// restored after a loss.
pub(super) struct OpenFiles(Mutex<Open>);

type Open = quick_cache::unsync::Cache<Key, (RecordStamp, Arc<OpenFile>)>;

impl Default for OpenFiles {
    fn default() -> Self {
        Self(Mutex::new(quick_cache::unsync::Cache::new(FILES_OPEN_MAX)))
    }
}

impl fmt::Debug for OpenFiles {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenFiles").finish_non_exhaustive()
    }
}

impl OpenFiles {
    fn lock(&self) -> MutexGuard<'_, Open> {
        // It is whole between any two of its calls.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The open file of a key whose file is at `path`.
    pub(super) fn get(&self, key: &Key, path: &Path) -> Option<Arc<OpenFile>> {
        let (stamp, open) = self.lock().get(key).cloned()?;
        let is_same = fs::metadata(path).is_ok_and(|metadata| stamp == RecordStamp::of(&metadata));
        is_same.then_some(open)
    }

    /// The file of a key was replaced or removed; the key is held exclusively.
    pub(super) fn forget(&self, key: &Key) {
        self.lock().remove(key);
    }
}

impl FsInner {
    /// Opens an object's file, and keeps it open.
    pub(super) fn open_file(&self, key: &Key) -> Result<Arc<OpenFile>> {
        let _held = self.keys.shared(key.as_str());
        let opened = self.open_held(key);
        if opened.is_err() {
            self.files.forget(key);
        }
        let (file, metadata) = opened?;
        let open = Arc::new(OpenFile { file, size_bytes: metadata.len() });
        self.files.lock().insert(key.clone(), (RecordStamp::of(&metadata), Arc::clone(&open)));
        Ok(open)
    }

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
pub(super) fn stream(
    key: Key,
    file: File,
    range: ByteRange,
    (threads, watch): (&BlockingThreads, &DiskWaits),
) -> ByteStream {
    let (file, on) = (Arc::new(file), (threads.clone(), watch.clone()));
    let open = move || (key.clone(), file.clone(), on.clone());
    futures::stream::try_unfold(range, move |rest| next(open(), rest)).into_stream().boxed()
}

async fn next(
    (key, file, (threads, watch)): (Key, Arc<File>, (BlockingThreads, DiskWaits)),
    rest: ByteRange,
) -> Result<Option<(Bytes, ByteRange)>> {
    if rest.is_empty() {
        return Ok(None);
    }
    let end = rest.end.min(rest.start.saturating_add(CHUNK_BYTES));
    let chunk = ByteRange { start: rest.start, end };
    let name = key.clone();
    let read = move || {
        let _wait = watch.begin();
        read_chunk(&key, &file, chunk)
    };
    let bytes = blocking(&threads, name, read).await?;
    Ok(Some((bytes, ByteRange { start: end, ..rest })))
}

fn read_chunk(key: &Key, file: &File, range: ByteRange) -> Result<Bytes> {
    let size = usize::try_from(range.len()).expect("a chunk fits in memory");
    let mut bytes = vec![0; size];
    file.read_exact_at(&mut bytes, range.start).map_err(|error| failure::ambiguous(key, error))?;
    Ok(bytes.into())
}
