//! [`CredentialCache`]: what was verified a moment ago, so that hashes and signatures are paid for rarely.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_auth::{Credentials, Fingerprints};
use quick_cache::sync::Cache;

use super::Bearer;

/// How long what was verified is believed: so long after a access_token's token was revoked, or a user's
/// password was changed on another machine, the old one may still be good.
pub const TRUST_MAX: Duration = Duration::from_secs(60);
/// The most credentials that are remembered.
const REMEMBERED_MAX: usize = 8192;

/// What was verified, by a keyed hash of the credentials.
#[derive(Debug)]
pub(super) struct CredentialCache {
    fingerprints: Fingerprints,
    cache: Cache<[u8; 32], CachedCredentials>,
}

/// What was found out, and how long it is good.
#[derive(Clone, Debug)]
pub(super) struct CachedCredentials {
    pub(super) bearer: Arc<Bearer>,
    /// The state of the files that it was found by.
    pub(super) generation: u64,
    /// Until when it is believed, on the clock that never goes back.
    pub(super) until: Duration,
    /// When the credentials themselves are over.
    pub(super) expires: Option<SystemTime>,
}

impl CredentialCache {
    pub(super) fn new(fingerprints: Fingerprints) -> Self {
        Self { fingerprints, cache: Cache::new(REMEMBERED_MAX) }
    }

    /// The same for the same credentials, however they came.
    pub(super) fn fingerprint(&self, credentials: &Credentials) -> [u8; 32] {
        match credentials {
            // Neither names nor passwords have control characters.
            Credentials::Basic { user, password } => {
                self.fingerprints.of(format!("{user}\0{}", password.reveal()).as_bytes())
            }
            Credentials::Bearer(token) => self.fingerprints.of(token.reveal().as_bytes()),
        }
    }

    /// What is remembered, if it is still good.
    pub(super) fn get(
        &self,
        fingerprint: &[u8; 32],
        generation: u64,
        monotonic: Duration,
        now: SystemTime,
    ) -> Option<CachedCredentials> {
        let found = self.cache.get(fingerprint)?;
        let is_good = found.generation == generation
            && monotonic < found.until
            && found.expires.is_none_or(|expires| now < expires);
        is_good.then_some(found)
    }

    pub(super) fn remember(&self, fingerprint: [u8; 32], remembered: CachedCredentials) {
        self.cache.insert(fingerprint, remembered);
    }
}
