//! [`ManifestLocks`]: how pushes and deletes of one manifest take turns in this process.
//!
//! In a store that others share none of it is needed for safety: hints and compare-and-swap keep a delete from removing
//! a manifest to which a push is about to set a tag (docs/garbage-collection.md). The turns spare both most
//! of their retries, and a crowd that pushes one manifest writes it twice. In a store that
//! is this process's alone, hints are written beside the manifest, and the turns are what keeps them apart.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};

use jreg_storage::{ETag, Key};
use tokio::sync::{Mutex, RwLock, RwLockReadGuard, RwLockWriteGuard};

/// So many that two manifests that are pushed at the same time hardly ever share one.
const LOCKS: usize = 1024;

#[derive(Debug, Default)]
struct ManifestLock {
    /// Pushes share it, a delete has it alone.
    turn: RwLock<()>,
    /// A push that writes the manifest itself.
    writing: Mutex<()>,
    /// How many such writes have begun.
    writes: AtomicU64,
    /// The last that has succeeded.
    written: std::sync::Mutex<Option<WrittenVersion>>,
    /// How many pushes have ended.
    pushes: AtomicU64,
}

/// A version of a manifest, and the number of the write that made it.
#[derive(Debug)]
struct WrittenVersion {
    key: Key,
    write: u64,
    etag: ETag,
}

/// The locks of all manifests: each shares one with some others.
#[derive(Clone, Debug)]
pub(crate) struct ManifestLocks(Arc<[ManifestLock]>);

/// The turn of a push. Other pushes may have theirs at the same time, a delete may not.
#[derive(Debug)]
pub(crate) struct PushGuard<'a> {
    lock: &'a ManifestLock,
    _turn: RwLockReadGuard<'a, ()>,
}

impl Drop for PushGuard<'_> {
    /// Counted while the turn still lasts: the request that has the lock alone next sees it.
    fn drop(&mut self) {
        self.lock.pushes.fetch_add(1, Ordering::SeqCst);
    }
}

impl ManifestLocks {
    pub(crate) fn new() -> Self {
        Self((0..LOCKS).map(|_| ManifestLock::default()).collect())
    }

    fn lock_of(&self, manifest: &Key) -> &ManifestLock {
        let mut hasher = DefaultHasher::new();
        manifest.hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % LOCKS as u64).unwrap_or_default();
        &self.0[index]
    }

    /// Waits for the turn of a push.
    pub(crate) async fn lock_for_push(&self, manifest: &Key) -> PushGuard<'_> {
        let lock = self.lock_of(manifest);
        PushGuard { lock, _turn: lock.turn.read().await }
    }

    /// Waits until no push holds the lock, and excludes them.
    pub(crate) async fn lock_alone(&self, manifest: &Key) -> RwLockWriteGuard<'_, ()> {
        self.lock_of(manifest).turn.write().await
    }

    /// How many pushes have ended: if it is the same later, while no other request has a turn, no push has
    /// set a tag meanwhile.
    pub(crate) fn ended_pushes(&self, manifest: &Key) -> u64 {
        self.lock_of(manifest).pushes.load(Ordering::SeqCst)
    }

    /// How many writes of manifests have begun.
    pub(crate) fn begun_writes(&self, manifest: &Key) -> u64 {
        self.lock_of(manifest).writes.load(Ordering::SeqCst)
    }

    /// Counts a write that begins.
    pub(crate) fn begin_write(&self, manifest: &Key) -> u64 {
        self.lock_of(manifest).writes.fetch_add(1, Ordering::SeqCst) + 1
    }

    pub(crate) fn note_written(&self, manifest: &Key, write: u64, etag: ETag) {
        let written = &self.lock_of(manifest).written;
        *written.lock().unwrap_or_else(PoisonError::into_inner) =
            Some(WrittenVersion { key: manifest.clone(), write, etag });
    }

    /// The version that a push of this process has written last, if its write began after there were `begun`.
    pub(crate) fn written_since(&self, manifest: &Key, begun: u64) -> Option<ETag> {
        let written = self.lock_of(manifest).written.lock();
        let written = written.unwrap_or_else(PoisonError::into_inner);
        let last = written.as_ref()?;
        (last.key == *manifest && last.write > begun).then(|| last.etag.clone())
    }

    /// One push writes a manifest at a time; the waiting ones need not write it any more.
    pub(crate) fn write_lock(&self, manifest: &Key) -> &Mutex<()> {
        &self.lock_of(manifest).writing
    }
}
