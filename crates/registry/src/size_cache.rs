//! [`SizeCache`]: the sizes of what manifests reference, which never change.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::unsync::Cache as Lru;

use crate::fingerprint::Fingerprint;

/// How many manifests are remembered, and the most references of one that is.
const MANIFESTS_MAX: usize = 50_000;
const REFERENCES_MAX: usize = 64;

/// A manifest and the blobs that it references, with their sizes.
pub(crate) type SizeList = Arc<[(Fingerprint, u64)]>;

/// By the fingerprint of each manifest in its repository.
pub(crate) struct SizeCache(Mutex<Lru<Fingerprint, SizeList>>);

impl SizeCache {
    pub(crate) fn new() -> Self {
        Self(Mutex::new(Lru::new(MANIFESTS_MAX)))
    }

    pub(crate) fn get(&self, manifest: Fingerprint) -> Option<SizeList> {
        self.with(|sizes| sizes.get(&manifest).cloned())
    }

    pub(crate) fn insert(&self, manifest: Fingerprint, sizes: &SizeList) {
        if sizes.len() <= REFERENCES_MAX {
            self.with(|cache| cache.insert(manifest, Arc::clone(sizes)));
        }
    }

    fn with<T>(&self, use_it: impl FnOnce(&mut Lru<Fingerprint, SizeList>) -> T) -> T {
        // A poisoned lock is fine: every change leaves it consistent.
        use_it(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl fmt::Debug for SizeCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SizeCache").finish_non_exhaustive()
    }
}
