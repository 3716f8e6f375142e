//! [`Suspects`]: locations whose bytes this process has seen to be missing, short or wrong.
//!
//! Nothing is written about them: a read never changes the store. The memory is bounded and only
//! decides what is re-read before a request relies on a location. A missing object may come back (a
//! restored or replicated bucket), so a location is re-read before it is refused; bytes with a
//! wrong digest stay refused, as no cheap request tells whether they changed.

use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use jreg_storage::{ErrorKind, Key};
use quick_cache::unsync::Cache as Lru;

/// How many locations are remembered: some 200 bytes each.
const SUSPECTS_MAX: usize = 4096;

/// Observed damage of the bytes at a location.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Suspicion {
    /// The object was absent, or had another size than its link says.
    Incomplete,
    /// The bytes have another digest.
    Wrong,
}

/// Locations that must be checked before a request relies on them.
pub(crate) struct Suspects {
    known: Mutex<Lru<Key, Suspicion>>,
    /// How many are known: nearly always none, which then costs no lock.
    count: AtomicUsize,
}

impl Suspects {
    pub(crate) fn new() -> Self {
        Self { known: Mutex::new(Lru::new(SUSPECTS_MAX)), count: AtomicUsize::new(0) }
    }

    pub(crate) fn add(&self, key: &Key, suspicion: Suspicion) {
        let mut known = self.known();
        // A HEAD cannot detect that wrong bytes were repaired.
        if known.get(key) != Some(&Suspicion::Wrong) {
            known.insert(key.clone(), suspicion);
        }
        self.count.store(known.len(), Ordering::Release);
    }

    pub(crate) fn get(&self, key: &Key) -> Option<Suspicion> {
        if self.count.load(Ordering::Acquire) == 0 {
            return None;
        }
        self.known().get(key).copied()
    }

    /// The object is there and has the right size.
    pub(crate) fn clear_incomplete(&self, key: &Key) {
        if self.get(key) == Some(Suspicion::Incomplete) {
            let mut known = self.known();
            known.remove(key);
            self.count.store(known.len(), Ordering::Release);
        }
    }

    fn known(&self) -> MutexGuard<'_, Lru<Key, Suspicion>> {
        // A poisoned lock is fine: every change leaves it consistent.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for Suspects {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.count.load(Ordering::Relaxed);
        f.debug_struct("Suspects").field("count", &count).finish_non_exhaustive()
    }
}

/// Whether a read failed because the bytes are not all there.
pub(crate) fn is_incomplete(error: &jreg_storage::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::OutOfRange)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(number: usize) -> Key {
        format!("blobs/_/AA/{number}").parse().expect("a key")
    }

    #[test]
    fn suspects_are_bounded() {
        let suspects = Suspects::new();
        for number in 0..3 * SUSPECTS_MAX {
            suspects.add(&key(number), Suspicion::Incomplete);
        }
        assert!(suspects.known().len() <= SUSPECTS_MAX);
    }

    #[test]
    fn complete_object_is_no_suspect_but_wrong_bytes_stay_one() {
        let suspects = Suspects::new();
        assert_eq!(suspects.get(&key(1)), None);
        suspects.add(&key(1), Suspicion::Incomplete);
        suspects.add(&key(2), Suspicion::Wrong);
        suspects.add(&key(2), Suspicion::Incomplete);
        suspects.clear_incomplete(&key(1));
        suspects.clear_incomplete(&key(2));
        assert_eq!((suspects.get(&key(1)), suspects.get(&key(2))), (None, Some(Suspicion::Wrong)));
    }
}
