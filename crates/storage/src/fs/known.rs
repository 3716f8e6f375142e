//! [`Known`]: records that were read, or found missing, until the next write to their key.
//!
//! Reading a record of a few hundred bytes takes a thread and tens of microseconds, and tags and
//! links are read again and again. Nobody else writes to the folder, so what was found stays true.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
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
pub(super) struct KnownRecord {
    pub(super) bytes: Bytes,
    pub(super) etag: ETag,
    pub(super) last_modified: SystemTime,
}

/// What is at a key; `None` is nothing.
pub(super) type Found = Option<KnownRecord>;

/// Records in memory.
///
/// - They are added while their key is held, and changed while it is held exclusively, so what is
///   here is what is there.
pub(super) struct Known {
    hasher: RandomState,
    shards: Vec<Mutex<Cache<Key, Found, Weigh>>>,
}

#[derive(Clone, Copy, Debug)]
struct Weigh;

impl Weighter<Key, Found> for Weigh {
    fn weight(&self, key: &Key, found: &Found) -> u64 {
        let bytes = found.as_ref().map_or(0, |record| record.bytes.len());
        ENTRY_BYTES + (key.as_str().len() + bytes) as u64
    }
}

impl Known {
    /// Keeps records in about so many bytes.
    pub(super) fn new(bytes: u64) -> Self {
        let share = bytes / SHARDS as u64;
        let items = usize::try_from(share / ENTRY_BYTES).unwrap_or(usize::MAX).max(1);
        let shard = || Mutex::new(Cache::with_weighter(items, share, Weigh));
        Self { hasher: RandomState::new(), shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    fn shard(&self, key: &Key) -> MutexGuard<'_, Cache<Key, Found, Weigh>> {
        let index = usize::try_from(self.hasher.hash_one(key) % SHARDS as u64).unwrap_or_default();
        // A shard is whole between any two of its calls, so a panic elsewhere spoils nothing.
        self.shards[index].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn get(&self, key: &Key) -> Option<Found> {
        self.shard(key).get(key).cloned()
    }

    pub(super) fn set(&self, key: &Key, found: Found) {
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

impl fmt::Debug for Known {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Known").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        format!("a/{number}").parse().expect("a key")
    }

    fn record(length: usize) -> Found {
        let etag = ETag::new("1".to_owned());
        let last_modified = SystemTime::UNIX_EPOCH;
        Some(KnownRecord { bytes: vec![0; length].into(), etag, last_modified })
    }

    #[test]
    fn what_is_large_is_not_kept_and_forgets_what_was() {
        let known = Known::new(1024 * 1024);
        known.set(&key(1), record(RECORD_BYTES_MAX));
        assert!(known.get(&key(1)).is_some());
        known.set(&key(1), record(RECORD_BYTES_MAX + 1));
        assert!(known.get(&key(1)).is_none());
        known.set(&key(1), None);
        assert!(known.get(&key(1)).is_some_and(|found| found.is_none()));
        known.forget(&key(1));
        assert!(known.get(&key(1)).is_none());
    }

    #[test]
    fn its_bytes_are_bounded() {
        let known = Known::new(1024 * 1024);
        for number in 0..10_000 {
            known.set(&key(number), record(1000));
        }
        let kept = (0..10_000).filter(|number| known.get(&key(*number)).is_some()).count();
        assert!((1..=1024).contains(&kept), "{kept}");
    }
}
