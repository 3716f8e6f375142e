//! [`CredentialCache`]: cache of verified credentials, which saves password hashing and signature
//! verification.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_auth::{Credentials, Fingerprints};
use quick_cache::sync::Cache;

use super::Principal;

/// Maximum time that a verified credential is trusted. A revoked access token, or an old password,
/// may still be accepted by another instance for this long.
pub const TRUST_MAX: Duration = Duration::from_secs(60);
/// Maximum number of cached credentials.
const CACHED_MAX: usize = 8192;

/// Verified credentials, keyed by a keyed hash of the credentials.
#[derive(Debug)]
pub(super) struct CredentialCache {
    fingerprints: Fingerprints,
    cache: Cache<[u8; 32], CachedPrincipal>,
}

/// The result of a verification, with its expiry.
#[derive(Clone, Debug)]
pub(super) struct CachedPrincipal {
    pub(super) principal: Arc<Principal>,
    /// Generation of the htpasswd and policy files that the result is based on.
    pub(super) generation: u64,
    /// When the entry expires, in monotonic time.
    pub(super) until: Duration,
    /// When the credentials themselves expire.
    pub(super) expires: Option<SystemTime>,
}

impl CredentialCache {
    pub(super) fn new(fingerprints: Fingerprints) -> Self {
        Self { fingerprints, cache: Cache::new(CACHED_MAX) }
    }

    /// Keyed hash of the credentials, independent of how they were sent.
    pub(super) fn fingerprint(&self, credentials: &Credentials) -> [u8; 32] {
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
        generation: u64,
        monotonic: Duration,
        now: SystemTime,
    ) -> Option<CachedPrincipal> {
        let found = self.cache.get(fingerprint)?;
        let is_good = found.generation == generation
            && monotonic < found.until
            && found.expires.is_none_or(|expires| now < expires);
        is_good.then_some(found)
    }

    pub(super) fn insert(&self, fingerprint: [u8; 32], cached: CachedPrincipal) {
        self.cache.insert(fingerprint, cached);
    }
}
