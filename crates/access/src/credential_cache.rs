//! [`CredentialCache`]: cache of verified credentials, which saves password hashing and signature
//! verification.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use jreg_auth::{Credentials, Fingerprints, Network};
use jreg_storage::Clock;
use jreg_telemetry::metrics::CounterHandle;
use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::Principal;

/// Maximum time that a verified credential is trusted. A revoked access token, or an old password,
/// may still be accepted by another instance for this long.
pub const TRUST_MAX: Duration = Duration::from_secs(60);
/// Maximum bytes of cached credentials, with the claims of their identities.
const CACHED_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// What an entry counts at least: its keys, and how it was verified.
const ENTRY_BYTES_MIN: u64 = 1024;
/// How many there are usually, at the most.
const ENTRIES_ESTIMATE: usize = 8192;
/// Maximum bytes of a principal that a connection keeps.
const CONNECTION_PRINCIPAL_BYTES_MAX: u64 = 16 * 1024;
/// Maximum length of the header that a connection keeps, in bytes: there may be thousands of
/// connections. Longer ones are looked up in the cache.
const CONNECTION_HEADER_BYTES_MAX: usize = 4096;

/// Verified credentials, keyed by a keyed hash of the credentials.
#[derive(Debug)]
pub(super) struct CredentialCache {
    fingerprints: Fingerprints,
    cache: Cache<[u8; 32], CachedPrincipal, PrincipalWeighter>,
    lookups: AtomicU64,
}

#[derive(Clone, Debug)]
struct PrincipalWeighter;

impl Weighter<[u8; 32], CachedPrincipal> for PrincipalWeighter {
    fn weight(&self, _: &[u8; 32], cached: &CachedPrincipal) -> u64 {
        cached.weight()
    }
}

/// What a verification is based on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct CacheGeneration {
    /// Of the htpasswd and policy files.
    pub(super) files: u64,
    /// Number of logouts and revocations of this instance: they count at once here.
    pub(super) revocations: u64,
}

/// The result of a verification, with its expiry.
#[derive(Clone, Debug)]
pub(super) struct CachedPrincipal {
    pub(super) principal: Arc<Principal>,
    pub(super) generation: CacheGeneration,
    /// When the entry expires, in monotonic time.
    pub(super) until: Duration,
    /// When the credentials themselves expire.
    pub(super) expires: Option<SystemTime>,
}

impl CredentialCache {
    pub(super) fn new(fingerprints: Fingerprints) -> Self {
        let cache = Cache::with_weighter(ENTRIES_ESTIMATE, CACHED_BYTES_MAX, PrincipalWeighter);
        Self { fingerprints, cache, lookups: AtomicU64::new(0) }
    }

    /// Keyed hash of the credentials, independent of how they were sent.
    pub(super) fn fingerprint(&self, credentials: &Credentials) -> [u8; 32] {
        self.lookups.fetch_add(1, Ordering::Relaxed);
        match credentials {
            // The separator is unambiguous: neither names nor passwords contain control characters.
            Credentials::Basic { user, password } => {
                self.fingerprints.of(format!("{user}\0{}", password.reveal()).as_bytes())
            }
            Credentials::Bearer(token) => self.fingerprints.of(token.reveal().as_bytes()),
        }
    }

    /// The cached result, if it has not expired.
    pub(super) fn get(
        &self,
        fingerprint: &[u8; 32],
        generation: CacheGeneration,
        clock: &dyn Clock,
    ) -> Option<CachedPrincipal> {
        self.cache.get(fingerprint).filter(|found| found.is_valid(generation, clock))
    }

    pub(super) fn insert(&self, fingerprint: [u8; 32], cached: CachedPrincipal) {
        self.cache.insert(fingerprint, cached);
    }

    /// Number of credentials that were parsed and hashed.
    pub(super) fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::Relaxed)
    }
}

impl CachedPrincipal {
    fn weight(&self) -> u64 {
        ENTRY_BYTES_MIN.max(self.principal.memory_bytes() as u64)
    }

    fn is_valid(&self, generation: CacheGeneration, clock: &dyn Clock) -> bool {
        let is_of_now = self.generation.revocations == generation.revocations;
        self.generation.files == generation.files
            && (is_of_now || !self.principal.is_revocable())
            && clock.monotonic() < self.until
            && self.expires.is_none_or(|expires| clock.now() < expires)
    }
}

/// The credentials of a connection that were verified last: the front of the credential cache.
/// They are an entry of that cache and expire with it; what is saved is parsing and hashing them,
/// and the lookup. Requests in flight at the same time (HTTP/2) do not wait for each other.
#[derive(Default)]
pub struct ConnectionCredentials(Mutex<Option<ConnectionEntry>>);

/// The `Authorization` header that was verified last.
pub(super) struct ConnectionEntry {
    header: Box<[u8]>,
    from: Option<Network>,
    cached: CachedPrincipal,
    /// How many logins had failed when throttling was last checked; `None`: these credentials
    /// are not throttled.
    failed_logins: Option<u64>,
    hits: CounterHandle,
}

impl ConnectionEntry {
    /// `None`: the header is too long to be kept, or the principal too large.
    pub(super) fn new(
        header: &[u8],
        from: Option<Network>,
        cached: CachedPrincipal,
        failed_logins: Option<u64>,
        hits: CounterHandle,
    ) -> Option<Self> {
        let weight = cached.weight();
        let entry = || Self { header: header.into(), from, cached, failed_logins, hits };
        let is_small =
            header.len() <= CONNECTION_HEADER_BYTES_MAX && weight <= CONNECTION_PRINCIPAL_BYTES_MAX;
        is_small.then(entry)
    }
}

impl ConnectionCredentials {
    /// The principal, if the header is the last one and its cache entry has not expired. Any failed
    /// login since then is a reason to check throttling again.
    pub(super) fn get(
        &self,
        header: &[u8],
        from: Option<Network>,
        generation: CacheGeneration,
        failed_logins: u64,
        clock: &dyn Clock,
    ) -> Option<Arc<Principal>> {
        let last = self.0.try_lock().ok()?;
        let last = last.as_ref()?;
        let is_same = is_equal(&last.header, header)
            && last.from == from
            && last.failed_logins.is_none_or(|before| before == failed_logins);
        if !is_same || !last.cached.is_valid(generation, clock) {
            return None;
        }
        last.hits.inc();
        Some(Arc::clone(&last.cached.principal))
    }

    pub(super) fn set(&self, entry: Option<ConnectionEntry>) {
        if let Ok(mut last) = self.0.try_lock() {
            *last = entry;
        }
    }
}

impl fmt::Debug for ConnectionCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectionCredentials").finish_non_exhaustive()
    }
}

/// Compares in a time that depends on the lengths alone.
fn is_equal(left: &[u8], right: &[u8]) -> bool {
    let differences = || left.iter().zip(right).fold(0, |all, (left, right)| all | (left ^ right));
    left.len() == right.len() && std::hint::black_box(differences()) == 0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jreg_auth::{Identity, IdentitySource, NamedIdentity};
    use serde_json::json;

    use super::*;

    fn cached(name: usize, claims: usize) -> CachedPrincipal {
        let identity = NamedIdentity {
            name: format!("ci:{name}"),
            groups: Default::default(),
            claims: (0..claims).map(|claim| (claim.to_string(), json!([]))).collect(),
            source: IdentitySource::Issuer("ci".to_owned()),
        };
        let principal = Principal::from_identity(Identity::Named(Box::new(identity)));
        let generation = CacheGeneration { files: 0, revocations: 0 };
        let until = Duration::MAX;
        CachedPrincipal { principal: Arc::new(principal), generation, until, expires: None }
    }

    /// Regression: tokens with many claims took 650 MB in the cache.
    #[test]
    fn fixed_cached_credentials_are_bounded_in_bytes() {
        let cache = CredentialCache::new(Fingerprints::new().unwrap());
        for claims in [0, 500] {
            for name in 0..2 * ENTRIES_ESTIMATE {
                let credentials = Credentials::basic(&name.to_string(), &claims.to_string());
                let fingerprint = cache.fingerprint(&credentials.unwrap());
                cache.insert(fingerprint, cached(name, claims));
            }
            assert!(cache.cache.len() > 100, "{}", cache.cache.len());
            assert!(cache.cache.weight() <= CACHED_BYTES_MAX, "{}", cache.cache.weight());
        }
        assert!(cached(0, 500).weight() > 500 * 100, "each claim is several allocations");
    }
}
