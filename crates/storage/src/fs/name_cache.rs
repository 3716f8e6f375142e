//! [`NamesCache`]: the names in folders that have many, in order.
//!
//! A folder knows no order, so a page of a listing reads all of its names, and the next page reads
//! them again: a repository with 100,000 tags would take 100,000 steps for each page. Names that
//! were read once are kept, and follow every change.

use std::collections::{BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// How many names a folder must have to be cached: fewer are read as fast.
const FOLDER_NAMES_MIN: usize = 64;
/// How many names are remembered, over all folders, when a folder is read; they may grow to twice
/// as many. A name takes some 100 bytes.
pub(super) const REMEMBERED_MAX: usize = 128 * 1024;

/// The names in some folders, as they stand in keys: in full, folders with a `/` at the end.
///
/// - Names are kept ([`NamesCache::keep`]) while the folder is held exclusively, and change while
///   it is held at all, so the cache equals the folder.
#[derive(Debug, Default)]
pub(super) struct NamesCache(Mutex<CachedNames>);

#[derive(Debug, Default)]
struct CachedNames {
    folders: HashMap<String, BTreeSet<String>>,
    /// How many names there are.
    names: usize,
}

impl NamesCache {
    fn lock(&self) -> MutexGuard<'_, CachedNames> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers all the names in a folder, if they are neither few nor too many.
    pub(super) fn keep(&self, folder: &str, names: Vec<String>) {
        if !(FOLDER_NAMES_MIN..=REMEMBERED_MAX).contains(&names.len()) {
            return;
        }
        let mut kept = self.lock();
        kept.forget(folder);
        if kept.names + names.len() > REMEMBERED_MAX {
            // They are re-read when they are needed.
            *kept = CachedNames::default();
        }
        kept.names += names.len();
        kept.folders.insert(folder.to_owned(), names.into_iter().collect());
    }

    pub(super) fn add(&self, folder: &str, name: &str) {
        let mut kept = self.lock();
        if let Some(names) = kept.folders.get_mut(folder)
            && names.insert(name.to_owned())
        {
            kept.names += 1;
            if kept.names > 2 * REMEMBERED_MAX {
                *kept = CachedNames::default();
            }
        }
    }

    pub(super) fn remove(&self, folder: &str, name: &str) {
        let mut kept = self.lock();
        if let Some(names) = kept.folders.get_mut(folder)
            && names.remove(name)
        {
            kept.names -= 1;
        }
    }

    pub(super) fn forget(&self, folder: &str) {
        self.lock().forget(folder);
    }

    /// What to do with the names in a folder from one on, in order, until it has enough. `None`:
    /// they are not known.
    pub(super) fn each_from(
        &self,
        folder: &str,
        from: Bound<&str>,
        mut see: impl FnMut(&str) -> bool,
    ) -> Option<()> {
        let kept = self.lock();
        let names = kept.folders.get(folder)?;
        for name in names.range::<str, _>((from, Bound::Unbounded)) {
            if !see(name) {
                break;
            }
        }
        Some(())
    }
}

impl CachedNames {
    fn forget(&mut self, folder: &str) {
        if let Some(names) = self.folders.remove(folder) {
            self.names -= names.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(count: usize) -> Vec<String> {
        (0..count).map(|number| format!("a/{number:06}")).collect()
    }

    fn seen(cache: &NamesCache, folder: &str, from: Bound<&str>) -> Option<Vec<String>> {
        let mut seen = Vec::new();
        cache.each_from(folder, from, |name| {
            seen.push(name.to_owned());
            seen.len() < 2
        })?;
        Some(seen)
    }

    #[test]
    fn names_follow_every_change_in_order() {
        let cache = NamesCache::default();
        cache.keep("a", names(FOLDER_NAMES_MIN));
        cache.add("a", "a/0000005");
        cache.remove("a", "a/000001");
        let from = |name| seen(&cache, "a", Bound::Excluded(name));
        assert_eq!(from("a/000000"), Some(vec!["a/0000005".to_owned(), "a/000002".to_owned()]));
        assert_eq!(from("a/9"), Some(Vec::new()));
        cache.forget("a");
        assert_eq!(from("a/000000"), None);
    }

    #[test]
    fn few_and_too_many_names_are_not_remembered() {
        let cache = NamesCache::default();
        for count in [FOLDER_NAMES_MIN - 1, REMEMBERED_MAX + 1] {
            cache.keep("a", names(count));
            assert_eq!(seen(&cache, "a", Bound::Unbounded), None, "{count}");
        }
        cache.keep("a", names(REMEMBERED_MAX));
        cache.keep("b", names(FOLDER_NAMES_MIN));
        assert_eq!(seen(&cache, "a", Bound::Unbounded), None, "it gave way");
        assert!(seen(&cache, "b", Bound::Unbounded).is_some());
    }
}
