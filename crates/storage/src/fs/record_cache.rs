//! [`RecordCache`]: records that were read, or found missing, until the next write to their key.
//!
//! Reading a record of a few hundred bytes takes a thread and tens of microseconds, and tags and
//! links are read again and again. No other process should write to the folder, but a disk may fail
//! and people do: a cached record is valid only while its file is the one that was read and has not
//! changed, which takes a microsecond to check.

use std::fmt;
use std::fs::{self, Metadata};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use quick_cache::Weighter;
use quick_cache::unsync::Cache;

use crate::{ETag, Key};

/// The largest record that is kept, in bytes.
const RECORD_BYTES_MAX: usize = 8 * 1024;
/// About what a record takes besides its key and bytes.
const ENTRY_BYTES: u64 = 256;
const SHARDS: usize = 16;

/// A record as it was found.
#[derive(Clone, Debug)]
pub(super) struct CachedFile {
    pub(super) bytes: Bytes,
    pub(super) etag: ETag,
    pub(super) last_modified: SystemTime,
    /// Which file it was read from.
    pub(super) stamp: RecordStamp,
}

/// What changes with every change of a file. Its modification time can be set, its status change
/// time cannot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct RecordStamp {
    inode: u64,
    size_bytes: u64,
    changed: (i64, i64),
}

impl RecordStamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        let changed = (metadata.ctime(), metadata.ctime_nsec());
        Self { inode: metadata.ino(), size_bytes: metadata.len(), changed }
    }
}

/// The cached record of a key; `None`: absent.
pub(super) type CachedLookup = Option<CachedFile>;

/// Records in memory.
///
/// - They are added while their key is held, and changed while it is held exclusively, so the cache
///   equals the disk.
pub(super) struct RecordCache {
    hasher: RandomState,
    shards: Vec<Mutex<Cache<Key, CachedLookup, RecordWeight>>>,
}

#[derive(Clone, Copy, Debug)]
struct RecordWeight;

impl Weighter<Key, CachedLookup> for RecordWeight {
    fn weight(&self, key: &Key, found: &CachedLookup) -> u64 {
        let bytes = found.as_ref().map_or(0, |record| record.bytes.len());
        ENTRY_BYTES + (key.as_str().len() + bytes) as u64
    }
}

impl RecordCache {
    /// Keeps records in about so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let share = bytes / SHARDS as u64;
        let items = usize::try_from(share / ENTRY_BYTES).unwrap_or(usize::MAX).max(1);
        let shard = || Mutex::new(Cache::with_weighter(items, share, RecordWeight));
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Cache<Key, CachedLookup, RecordWeight>> {
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default();
        // A poisoned lock is fine: every call leaves the shard consistent.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was found at a key whose file is at `path`.
    pub(super) fn get(&self, key: &Key, path: &Path) -> Option<CachedLookup> {
        let found = self.shard(key).get(key).cloned()?;
        let is_so = match (&found, fs::metadata(path)) {
            (Some(record), Ok(metadata)) => record.stamp == RecordStamp::of(&metadata),
            (None, Err(error)) => error.kind() == io::ErrorKind::NotFound,
            (Some(_), Err(_)) | (None, Ok(_)) => false,
        };
        is_so.then_some(found)
    }

    pub(super) fn set(&self, key: &Key, found: CachedLookup) {
        let mut shard = self.shard(key);
        if found.as_ref().is_some_and(|record| record.bytes.len() > RECORD_BYTES_MAX) {
            shard.remove(key);
        } else {
            shard.insert(key.clone(), found);
        }
    }

    pub(super) fn forget(&self, key: &Key) {
        self.shard(key).remove(key);
    }
}

impl fmt::Debug for RecordCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RecordCache").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn key(number: usize) -> Key {
        format!("a/{number}").parse().unwrap()
    }

    /// A file of some length, and a record that was read from it.
    fn read(length: usize) -> (tempfile::NamedTempFile, CachedLookup) {
        let file = tempfile::NamedTempFile::new().unwrap();
        fs::write(file.path(), vec![0; length]).unwrap();
        let metadata = fs::metadata(file.path()).unwrap();
        let record = CachedFile {
            bytes: vec![0; length].into(),
            etag: ETag::new("1".to_owned()),
            last_modified: metadata.modified().unwrap(),
            stamp: RecordStamp::of(&metadata),
        };
        (file, Some(record))
    }

    #[test]
    fn what_is_large_is_not_kept_and_forgets_what_was() {
        let known = RecordCache::new(1024 * 1024);
        let (small, record) = read(RECORD_BYTES_MAX);
        known.set(&key(1), record);
        assert!(known.get(&key(1), small.path()).is_some());
        let (large, record) = read(RECORD_BYTES_MAX + 1);
        known.set(&key(1), record);
        assert!(known.get(&key(1), large.path()).is_none());
        assert!(known.get(&key(1), small.path()).is_none());
    }

    #[test]
    fn a_record_is_cached_while_its_file_is_the_same() {
        let known = RecordCache::new(1024 * 1024);
        let (file, record) = read(10);
        known.set(&key(1), record.clone());
        assert!(known.get(&key(1), file.path()).is_some());
        let (another, _) = read(10);
        assert!(known.get(&key(1), another.path()).is_none(), "another file");
        let modified = fs::metadata(file.path()).unwrap().modified().unwrap();
        fs::write(file.path(), [1; 10]).unwrap();
        fs::File::options().write(true).open(file.path()).unwrap().set_modified(modified).unwrap();
        assert!(known.get(&key(1), file.path()).is_none(), "other bytes");
        fs::remove_file(file.path()).unwrap();
        assert!(known.get(&key(1), file.path()).is_none(), "it is gone");
        known.set(&key(1), None);
        assert!(known.get(&key(1), file.path()).is_some_and(|found| found.is_none()));
        assert!(known.get(&key(1), another.path()).is_none(), "it has come");
        known.forget(&key(1));
        assert!(known.get(&key(1), file.path()).is_none());
    }

    #[test]
    fn its_bytes_are_bounded() {
        let known = RecordCache::new(1024 * 1024);
        let (file, record) = read(1000);
        (0..10_000).for_each(|number| known.set(&key(number), record.clone()));
        let is_kept = |number: &usize| known.get(&key(*number), file.path()).is_some();
        let kept = (0..10_000).filter(is_kept).count();
        assert!((1..=1024).contains(&kept), "{kept}");
    }
}
