//! [`ReferrerCache`]: entries of lists of referrers that were read before.
//!
//! Which entries a list has is always read from the store. A cached entry is used only if its
//! listing shows the version that was read. So it is not stale, whichever instance wrote, unless a
//! file is changed by hand to other bytes of the same length with the same time.

use std::fmt;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use jreg_storage::{ETag, Key, Listed};
use quick_cache::Weighter;
use quick_cache::unsync::Cache as Lru;

use crate::Referrer;

/// They take at most `cache-bytes` divided by this, beside the manifests and links.
const SHARE: u64 = 8;
/// What an entry is reckoned to take beside its key and its record.
const ENTRY_BYTES: u64 = 256;
const ENTRIES_ESTIMATE: usize = 256;

/// The version of an object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct EntryVersion {
    size_bytes: u64,
    last_modified: SystemTime,
    etag: Option<ETag>,
}

impl EntryVersion {
    fn of(listed: &Listed) -> Self {
        let Listed { key: _, size_bytes, last_modified, etag } = listed;
        Self { size_bytes: *size_bytes, last_modified: *last_modified, etag: etag.clone() }
    }
}

#[derive(Clone)]
struct ReferrerWeighter;

impl Weighter<Key, (EntryVersion, Referrer)> for ReferrerWeighter {
    /// A referrer owns the whole record, of which its text is a part.
    fn weight(&self, key: &Key, (version, _): &(EntryVersion, Referrer)) -> u64 {
        ENTRY_BYTES + key.as_str().len() as u64 + version.size_bytes
    }
}

type CachedReferrers = Lru<Key, (EntryVersion, Referrer), ReferrerWeighter>;

/// The descriptors of referrers, bounded in bytes.
pub(crate) struct ReferrerCache {
    /// None is kept if there is no room at all.
    entries: Option<Mutex<CachedReferrers>>,
}

impl ReferrerCache {
    /// One with the share that it has of so many bytes.
    pub(crate) fn new(cache_bytes: u64) -> Self {
        let bytes = cache_bytes / SHARE;
        let entries = || Mutex::new(Lru::with_weighter(ENTRIES_ESTIMATE, bytes, ReferrerWeighter));
        Self { entries: (bytes > 0).then(entries) }
    }

    /// The cached entries of a listing, in its order.
    pub(crate) fn find(&self, listed: &[Listed]) -> Vec<Option<Referrer>> {
        let find = |entries: &mut CachedReferrers, listed: &Listed| {
            let (version, referrer) = entries.get(&listed.key)?;
            (*version == EntryVersion::of(listed)).then(|| referrer.clone())
        };
        self.with(|entries| listed.iter().map(|listed| find(entries, listed)).collect())
            .unwrap_or_else(|| vec![None; listed.len()])
    }

    /// Caches an entry that was read, in its listed version.
    pub(crate) fn keep(&self, listed: &Listed, etag: &ETag, referrer: &Referrer) {
        if listed.etag.as_ref().is_some_and(|listed| listed != etag) {
            return;
        }
        self.with(|entries| {
            entries.insert(listed.key.clone(), (EntryVersion::of(listed), referrer.clone()));
        });
    }

    fn with<T>(&self, use_them: impl FnOnce(&mut CachedReferrers) -> T) -> Option<T> {
        // A poisoned lock is fine: every call leaves them consistent.
        let entries = self.entries.as_ref()?;
        Some(use_them(&mut entries.lock().unwrap_or_else(PoisonError::into_inner)))
    }
}

impl fmt::Debug for ReferrerCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReferrerCache").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use jreg_oci::{Algorithm, Digest};

    use super::*;

    const ROOM: u64 = 64 * 1024;

    fn listed(name: u32) -> Listed {
        let last_modified = SystemTime::UNIX_EPOCH;
        Listed {
            key: format!("a/{name}").parse().expect("a key"),
            size_bytes: 200,
            last_modified,
            etag: None,
        }
    }

    fn referrer(name: u32) -> Referrer {
        let digest = Digest::of(Algorithm::Sha256, &name.to_be_bytes());
        Referrer { digest, artifact_type: None, json: Bytes::from(name.to_string()) }
    }

    #[test]
    fn only_what_is_listed_as_it_was_is_found() {
        let cache = ReferrerCache::new(SHARE * ROOM);
        let (one, read) = (listed(1), ETag::new("a"));
        cache.keep(&one, &read, &referrer(1));
        let later = one.last_modified + Duration::from_nanos(1);
        let other = |etag: &str| Listed { etag: Some(ETag::new(etag)), ..one.clone() };
        let asked = [
            listed(2),
            Listed { size_bytes: 201, ..one.clone() },
            one.clone(),
            Listed { last_modified: later, ..one.clone() },
            other("a"),
        ];
        assert_eq!(cache.find(&asked), [None, None, Some(referrer(1)), None, None]);
        cache.keep(&other("b"), &read, &referrer(2));
        assert_eq!(cache.find(&[other("b")]), [None], "another version was read than listed");
        cache.keep(&other("a"), &read, &referrer(2));
        assert_eq!(cache.find(&[other("a"), other("b")]), [Some(referrer(2)), None]);
    }

    #[test]
    fn its_bytes_are_bounded() {
        let cache = ReferrerCache::new(SHARE * ROOM);
        let all: Vec<_> = (0..10_000).map(listed).collect();
        for (listed, name) in all.iter().zip(0..) {
            cache.keep(listed, &ETag::new("a"), &referrer(name));
        }
        let kept = cache.find(&all).into_iter().flatten().count() as u64;
        assert!((1..=ROOM / (ENTRY_BYTES + 200)).contains(&kept), "{kept}");
    }

    #[test]
    fn without_room_nothing_is_kept() {
        let cache = ReferrerCache::new(0);
        cache.keep(&listed(1), &ETag::new("a"), &referrer(1));
        assert_eq!(cache.find(&[listed(1), listed(2)]), [None, None]);
    }
}
