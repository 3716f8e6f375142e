//! [`ContentCache`]: manifests and links kept in memory for serving.
//!
//! Both are immutable as long as they are there, so all that can be wrong with a cached one is
//! that it has been deleted since. In a single process every delete passes through [`forget`],
//! and an entry is never stale. Where others share the store an entry is trusted for a limited
//! time. Absence is never cached, and no write relies on the cache.
//!
//! [`forget`]: ContentCache::forget

use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use jreg_oci::{Digest, RepositoryName};
use quick_cache::Weighter;
use quick_cache::unsync::Cache as Lru;

use crate::record::Location;
use crate::window::TOUCH_AGE;
use crate::{RegistryOptions, StoredManifest};

const SHARDS: usize = 16;
/// What an entry is reckoned to take beside its payload.
const ENTRY_BYTES: u64 = 256;
const ENTRIES_ESTIMATE: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct CacheKey {
    repository: RepositoryName,
    digest: Digest,
    kind: CachedKind,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum CachedKind {
    Link,
    Manifest,
}

/// A record as it was read.
#[derive(Clone, Debug)]
pub(crate) struct CachedRecord<T> {
    pub(crate) value: T,
    /// Until when it need not be touched, by this process's clock.
    young_until: SystemTime,
}

impl<T> CachedRecord<T> {
    /// A value read at `now`, whose age was this by the store's clock.
    pub(crate) fn new(value: T, age: Duration, now: SystemTime) -> Self {
        Self { value, young_until: now + TOUCH_AGE.saturating_sub(age) }
    }

    /// Whether a push may rely on it without touching it.
    pub(crate) fn is_young(&self, now: SystemTime) -> bool {
        now < self.young_until
    }
}

#[derive(Clone)]
enum CachedValue {
    Link(CachedRecord<Location>),
    Manifest(CachedRecord<Arc<StoredManifest>>),
}

#[derive(Clone)]
struct CacheEntry {
    value: CachedValue,
    added: Duration,
}

#[derive(Clone)]
struct CacheWeighter;

impl Weighter<CacheKey, CacheEntry> for CacheWeighter {
    fn weight(&self, _: &CacheKey, entry: &CacheEntry) -> u64 {
        ENTRY_BYTES
            + match &entry.value {
                CachedValue::Link(_) => 0,
                CachedValue::Manifest(manifest) => manifest.value.bytes.len() as u64,
            }
    }
}

struct CacheShard {
    entries: Lru<CacheKey, CacheEntry, CacheWeighter>,
    /// Counts the deletes, so that a value read before one is not inserted after it.
    deletes: u64,
}

/// Permission to insert a value read from now on, unless it is deleted meanwhile.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InsertTicket {
    deletes: u64,
}

/// Manifests and links, bounded in bytes.
pub(crate) struct ContentCache {
    shards: Vec<Mutex<CacheShard>>,
    /// How long an entry is trusted; `None` is for ever.
    trust: Option<Duration>,
    enabled: bool,
    hits: AtomicU64,
    misses: AtomicU64,
}

impl ContentCache {
    pub(crate) fn new(is_exclusive: bool, options: &RegistryOptions) -> Self {
        let bytes = options.cache_bytes / SHARDS as u64;
        let shard = || {
            let entries = Lru::with_weighter(ENTRIES_ESTIMATE, bytes, CacheWeighter);
            Mutex::new(CacheShard { entries, deletes: 0 })
        };
        let trust = (!is_exclusive).then_some(options.cache_trust);
        let enabled = options.cache_bytes > 0 && trust != Some(Duration::ZERO);
        let shards = (0..SHARDS).map(|_| shard()).collect();
        Self { shards, trust, enabled, hits: AtomicU64::new(0), misses: AtomicU64::new(0) }
    }

    /// How often something was found, and how often not.
    pub(crate) fn hit_counts(&self) -> (u64, u64) {
        (self.hits.load(Ordering::Relaxed), self.misses.load(Ordering::Relaxed))
    }

    /// To be taken before the store is read.
    pub(crate) fn take_ticket(&self, repository: &RepositoryName, digest: &Digest) -> InsertTicket {
        InsertTicket { deletes: self.with_shard(repository, digest, |shard| shard.deletes) }
    }

    pub(crate) fn link(
        &self,
        now: Duration,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Option<CachedRecord<Location>> {
        match self.get(now, CachedKind::Link, repository, digest)? {
            CachedValue::Link(link) => Some(link),
            CachedValue::Manifest(_) => None,
        }
    }

    pub(crate) fn manifest(
        &self,
        now: Duration,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Option<CachedRecord<Arc<StoredManifest>>> {
        match self.get(now, CachedKind::Manifest, repository, digest)? {
            CachedValue::Manifest(manifest) => Some(manifest),
            CachedValue::Link(_) => None,
        }
    }

    pub(crate) fn add_link(
        &self,
        ticket: InsertTicket,
        now: Duration,
        repository: &RepositoryName,
        digest: &Digest,
        link: CachedRecord<Location>,
    ) {
        self.add(ticket, now, CachedKind::Link, repository, digest, CachedValue::Link(link));
    }

    pub(crate) fn add_manifest(
        &self,
        ticket: InsertTicket,
        now: Duration,
        repository: &RepositoryName,
        digest: &Digest,
        manifest: CachedRecord<Arc<StoredManifest>>,
    ) {
        self.add(
            ticket,
            now,
            CachedKind::Manifest,
            repository,
            digest,
            CachedValue::Manifest(manifest),
        );
    }

    /// Call it before and after a delete is sent: before, so that no value read earlier is inserted
    /// later; after, so that no value read meanwhile stays.
    pub(crate) fn forget(&self, repository: &RepositoryName, digest: &Digest) {
        self.with_shard(repository, digest, |shard| {
            shard.deletes += 1;
            for kind in [CachedKind::Link, CachedKind::Manifest] {
                shard.entries.remove(&name(kind, repository, digest));
            }
        });
    }

    fn get(
        &self,
        now: Duration,
        kind: CachedKind,
        repository: &RepositoryName,
        digest: &Digest,
    ) -> Option<CachedValue> {
        if !self.enabled {
            return None;
        }
        let name = name(kind, repository, digest);
        let found = self.with_shard(repository, digest, |shard| {
            let entry = shard.entries.get(&name)?;
            match self.trust {
                Some(trust) if now.saturating_sub(entry.added) >= trust => None,
                _ => Some(entry.value.clone()),
            }
        });
        let count = if found.is_some() { &self.hits } else { &self.misses };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    fn add(
        &self,
        ticket: InsertTicket,
        now: Duration,
        kind: CachedKind,
        repository: &RepositoryName,
        digest: &Digest,
        value: CachedValue,
    ) {
        if !self.enabled {
            return;
        }
        let name = name(kind, repository, digest);
        self.with_shard(repository, digest, |shard| {
            if shard.deletes == ticket.deletes {
                shard.entries.insert(name, CacheEntry { value, added: now });
            }
        });
    }

    fn with_shard<T>(
        &self,
        repository: &RepositoryName,
        digest: &Digest,
        use_it: impl FnOnce(&mut CacheShard) -> T,
    ) -> T {
        let mut hasher = DefaultHasher::new();
        (repository, digest).hash(&mut hasher);
        let index = usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or_default();
        // A poisoned lock is fine: every call leaves the shard consistent.
        let mut shard = self.shards[index].lock().unwrap_or_else(PoisonError::into_inner);
        use_it(&mut shard)
    }
}

fn name(kind: CachedKind, repository: &RepositoryName, digest: &Digest) -> CacheKey {
    CacheKey { repository: repository.clone(), digest: digest.clone(), kind }
}

impl fmt::Debug for ContentCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache").field("trust", &self.trust).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use jreg_oci::Algorithm;

    use super::*;

    const NOW: Duration = Duration::from_secs(1000);

    fn cache(is_exclusive: bool) -> ContentCache {
        ContentCache::new(is_exclusive, &RegistryOptions::default())
    }

    fn name() -> RepositoryName {
        "app".parse().expect("a name")
    }

    fn digest() -> Digest {
        Digest::of(Algorithm::Sha256, b"x")
    }

    fn add(cache: &ContentCache, ticket: InsertTicket) {
        let key = "blobs/_/AA/01".parse().expect("a key");
        let value = Location::new(key, 1);
        let link = CachedRecord::new(value, Duration::ZERO, SystemTime::UNIX_EPOCH);
        cache.add_link(ticket, NOW, &name(), &digest(), link);
    }

    #[test]
    fn what_was_read_before_a_delete_is_not_added_after_it() {
        let cache = cache(true);
        let ticket = cache.take_ticket(&name(), &digest());
        cache.forget(&name(), &digest());
        add(&cache, ticket);
        assert!(cache.link(NOW, &name(), &digest()).is_none());
        assert_eq!(cache.hit_counts(), (0, 1));
        add(&cache, cache.take_ticket(&name(), &digest()));
        assert!(cache.link(NOW, &name(), &digest()).is_some());
        assert_eq!(cache.hit_counts(), (1, 1));
        cache.forget(&name(), &digest());
        assert!(cache.link(NOW, &name(), &digest()).is_none());
    }

    #[test]
    fn an_entry_is_trusted_for_a_limited_time_where_others_share_the_store() {
        let shared = cache(false);
        add(&shared, shared.take_ticket(&name(), &digest()));
        let trust = RegistryOptions::default().cache_trust;
        assert!(shared.link(NOW + trust - Duration::from_secs(1), &name(), &digest()).is_some());
        assert!(shared.link(NOW + trust, &name(), &digest()).is_none());
        let own = cache(true);
        add(&own, own.take_ticket(&name(), &digest()));
        assert!(own.link(NOW + 1000 * trust, &name(), &digest()).is_some());
    }

    #[test]
    fn its_bytes_are_bounded() {
        let options = RegistryOptions { cache_bytes: 64 * 1024, ..RegistryOptions::default() };
        let cache = ContentCache::new(true, &options);
        for n in 0..10_000_u32 {
            let digest = Digest::of(Algorithm::Sha256, &n.to_be_bytes());
            let key = "blobs/_/AA/01".parse().expect("a key");
            let value = Location::new(key, 1);
            let link = CachedRecord::new(value, Duration::ZERO, SystemTime::UNIX_EPOCH);
            cache.add_link(cache.take_ticket(&name(), &digest), NOW, &name(), &digest, link);
        }
        let kept: usize =
            cache.shards.iter().map(|shard| shard.lock().expect("whole").entries.len()).sum();
        assert!((1..=256).contains(&kept), "{kept}");
    }
}
