//! [`SessionStore`]: the times before which logins of an identity are not valid any more, in the store,
//! which all instances share. There is a record only for identities that have logged out, or whose
//! sessions were revoked.

use std::sync::Arc;
use std::time::Duration;

use jreg_auth::{milliseconds, random_hex};
use jreg_registry::{add_record_checksum, session_key, verify_record_checksum};
use jreg_storage::{Clock, Key, PutMode, Record, Store, SwapRetries};
use quick_cache::sync::Cache;
use serde::{Deserialize, Serialize};

use super::credential_cache::TRUST_MAX;

/// Maximum number of cached times.
const CACHED_MAX: usize = 8192;

#[derive(Debug)]
pub struct SessionStore {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    cache: Cache<String, SessionsEnd>,
}

/// When the sessions of an identity ended, as of the last read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct SessionsEnd {
    /// Sessions of this time and earlier ones are not valid, in milliseconds of the Unix epoch.
    pub(super) not_before_ms: u64,
    /// How long that may be relied on, in monotonic time.
    pub(super) until: Duration,
}

/// Why the sessions of an identity cannot be read or ended.
#[derive(Debug, thiserror::Error)]
pub enum SessionStoreError {
    #[error(transparent)]
    Store(#[from] jreg_storage::Error),
    /// The record is corrupt: no session of the identity is valid.
    #[error("{0}; delete the object, and revoke the sessions of the identity again")]
    Damaged(jreg_registry::Error),
    /// The record changes concurrently.
    #[error("the sessions of {0} are being changed concurrently; try again")]
    Contended(String),
    #[error("the operating system provides no random numbers")]
    Random,
}

#[derive(Serialize, Deserialize)]
struct SessionsRecord {
    nonce: String,
    v: u32,
    identity: String,
    not_before: u64,
}

impl SessionStore {
    /// The sessions in `store`.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        Self { store, clock, cache: Cache::new(CACHED_MAX) }
    }

    /// When the sessions of an identity ended, at most [`TRUST_MAX`] ago.
    pub(super) async fn end_of(&self, identity: &str) -> Result<SessionsEnd, SessionStoreError> {
        let cached = self.cache.get(identity);
        match cached.filter(|end| self.clock.monotonic() < end.until) {
            Some(end) => Ok(end),
            None => self.current_end_of(identity).await,
        }
    }

    /// The same as of now.
    pub(super) async fn current_end_of(
        &self,
        identity: &str,
    ) -> Result<SessionsEnd, SessionStoreError> {
        // The time before the read, so that no revocation takes longer than is documented.
        let until = self.clock.monotonic() + TRUST_MAX;
        let found = self.read(identity).await?;
        let not_before_ms = found.map_or(0, |(record, _)| record.not_before);
        let end = SessionsEnd { not_before_ms, until };
        self.cache.insert(identity.to_owned(), end);
        Ok(end)
    }

    async fn read(
        &self,
        identity: &str,
    ) -> Result<Option<(SessionsRecord, Record)>, SessionStoreError> {
        let key = session_key(identity);
        match self.store.get(&key).await {
            Ok(record) => Ok(Some((decode(&key, identity, &record.bytes)?, record))),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Ends all sessions of an identity that began until now, and until `last_ms`, in all instances within
    /// [`TRUST_MAX`]. Returns the time, in milliseconds of the Unix epoch.
    pub async fn end(&self, identity: &str, last_ms: u64) -> Result<u64, SessionStoreError> {
        let not_before = milliseconds(self.clock.now()).max(last_ms);
        let mut retries = SwapRetries::default();
        while retries.next().await {
            let mode = match self.read(identity).await? {
                Some((record, _)) if record.not_before >= not_before => {
                    return Ok(record.not_before);
                }
                Some((_, record)) => PutMode::Match(record.etag),
                None => PutMode::Create,
            };
            let nonce = random_hex::<8>().ok_or(SessionStoreError::Random)?;
            let identity = identity.to_owned();
            let record = SessionsRecord { nonce, v: 1, identity, not_before };
            let bytes = add_record_checksum(serde_json::to_vec(&record).unwrap_or_default());
            match self.store.put(&session_key(&record.identity), bytes, mode).await {
                Ok(_) => {
                    self.cache.remove(&record.identity);
                    return Ok(not_before);
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(SessionStoreError::Contended(identity.to_owned()))
    }
}

fn decode(key: &Key, identity: &str, bytes: &[u8]) -> Result<SessionsRecord, SessionStoreError> {
    verify_record_checksum(key, bytes).map_err(SessionStoreError::Damaged)?;
    let record = serde_json::from_slice::<SessionsRecord>(bytes).ok();
    record.filter(|record| record.v == 1 && record.identity == identity).ok_or_else(|| {
        let reason = "it is no record of sessions of this identity".to_owned();
        let damaged = jreg_registry::Error::Damaged { key: key.to_string(), reason };
        SessionStoreError::Damaged(damaged)
    })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jreg_storage::testing::{ManualClock, RecordingStore};
    use jreg_storage::{ListRequest, MemoryStore};

    use super::*;

    fn instance(store: &Arc<RecordingStore>, clock: &Arc<ManualClock>) -> SessionStore {
        let store = Arc::clone(store) as Arc<dyn Store>;
        SessionStore::new(store, Arc::clone(clock) as Arc<dyn Clock>)
    }

    #[tokio::test]
    async fn sessions_end_in_all_instances_within_a_minute() {
        let store = Arc::new(RecordingStore::new(Arc::new(MemoryStore::new())));
        let clock = Arc::new(ManualClock::default());
        let (one, two) = (instance(&store, &clock), instance(&store, &clock));
        for instance in [&one, &two] {
            assert_eq!(instance.end_of("alice").await.unwrap().not_before_ms, 0);
        }
        let now = milliseconds(clock.now());
        assert_eq!(one.end("alice", now + 5).await.unwrap(), now + 5, "a clock that is behind");
        assert_eq!(one.end("alice", 0).await.unwrap(), now + 5, "it never goes back");
        assert_eq!(one.end_of("alice").await.unwrap().not_before_ms, now + 5);
        assert_eq!(two.end_of("alice").await.unwrap().not_before_ms, 0);
        clock.advance(TRUST_MAX);
        store.take();
        for _ in 0..3 {
            assert_eq!(two.end_of("alice").await.unwrap().not_before_ms, now + 5);
        }
        assert_eq!(store.take().len(), 1, "read once a minute");
        assert_eq!(two.end_of("bob").await.unwrap().not_before_ms, 0);
    }

    /// An identity is a text of an issuer: the key does not contain it.
    #[tokio::test]
    async fn any_identity_has_a_key_of_its_own() {
        let store = Arc::new(RecordingStore::new(Arc::new(MemoryStore::new())));
        let clock = Arc::new(ManualClock::default());
        let sessions = instance(&store, &clock);
        let names = ["alice", "Alice", "idp:../../keys", "idp:a/b", "idp:\u{e9}", "idp: x"];
        for (number, name) in (1..).zip(names) {
            let time = milliseconds(clock.now()) + number;
            assert_eq!(sessions.end(name, time).await.unwrap(), time);
        }
        let listed = store.list(&ListRequest::below("auth/sessions/")).await.unwrap();
        assert_eq!(listed.entries.len(), names.len());
        let damaged = session_key("alice");
        store.put(&damaged, "{}".into(), PutMode::Overwrite).await.unwrap();
        assert!(
            sessions.current_end_of("alice").await.is_err(),
            "a damaged record ends nothing silently"
        );
    }
}
