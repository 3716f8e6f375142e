//! [`AccessTokenStore`]: the access tokens in the store, which all instances share.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jreg_auth::{AccessToken, AccessTokenError, AccessTokenId, AccessTokenPermission};
use jreg_registry::{
    ACCESS_TOKENS, LEGACY_ACCESS_TOKENS, access_token_key, add_record_checksum,
    legacy_access_token_key, verify_record_checksum,
};
use jreg_storage::{Clock, ErrorKind, Key, ListRequest, PutMode, Record, Store, SwapRetries};
use quick_cache::sync::Cache;

use super::credential_cache::TRUST_MAX;

/// Maximum number of cached records.
const CACHED_MAX: usize = 8192;
/// Maximum number of cached absent ids. They have a cache of their own: a client that invents ids must
/// not evict the records.
const ABSENT_CACHED_MAX: usize = 1024;
/// Maximum number of access tokens of a registry.
const ACCESS_TOKENS_MAX: usize = 100_000;

#[derive(Debug)]
pub struct AccessTokenStore {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    cache: Cache<AccessTokenId, CachedAccessToken>,
    absent: Cache<AccessTokenId, CachedAccessToken>,
}

/// A record as of its last read.
#[derive(Clone, Debug)]
pub(super) struct CachedAccessToken {
    /// `None`: there is no such token.
    pub(super) access_token: Option<Arc<AccessToken>>,
    /// When the entry expires, in monotonic time.
    pub(super) until: Duration,
}

/// Why an access token cannot be created, listed or revoked.
#[derive(Debug, thiserror::Error)]
pub enum AccessTokenStoreError {
    /// The store failed.
    #[error(transparent)]
    Store(#[from] jreg_storage::Error),
    /// A record is corrupt: it grants nothing.
    #[error("{0}; delete the object, and create another access token")]
    Damaged(jreg_registry::Error),
    /// The name or the id is not valid.
    #[error(transparent)]
    Invalid(#[from] AccessTokenError),
    /// There is none with this id.
    #[error("there is no access token {0}")]
    Unknown(AccessTokenId),
    /// Its record changes concurrently.
    #[error("access token {0} is being changed concurrently; try again")]
    Contended(AccessTokenId),
    /// The registry has the maximum.
    #[error("there are more than {ACCESS_TOKENS_MAX} access tokens")]
    TooMany,
}

impl AccessTokenStore {
    /// The access tokens in `store`.
    pub fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>) -> Self {
        let (cache, absent) = (Cache::new(CACHED_MAX), Cache::new(ABSENT_CACHED_MAX));
        Self { store, clock, cache, absent }
    }

    /// A cached record, at most [`TRUST_MAX`] old.
    pub(super) fn cached(&self, id: &AccessTokenId) -> Option<CachedAccessToken> {
        let cached = self.cache.get(id).or_else(|| self.absent.get(id))?;
        (self.clock.monotonic() < cached.until).then_some(cached)
    }

    /// A record, at most [`TRUST_MAX`] old.
    pub(super) async fn get(
        &self,
        id: &AccessTokenId,
    ) -> Result<CachedAccessToken, AccessTokenStoreError> {
        if let Some(cached) = self.cached(id) {
            return Ok(cached);
        }
        // The time before the read, so that no revocation takes longer than is documented.
        let until = self.clock.monotonic() + TRUST_MAX;
        let access_token = self.read(id).await?.map(|stored| Arc::new(stored.access_token));
        let read = CachedAccessToken { access_token, until };
        match read.access_token {
            Some(_) => self.cache.insert(id.clone(), read.clone()),
            None => {
                self.cache.remove(id);
                self.absent.insert(id.clone(), read.clone());
            }
        }
        Ok(read)
    }

    /// Reads a record, also at the key of earlier versions.
    async fn read(
        &self,
        id: &AccessTokenId,
    ) -> Result<Option<StoredAccessToken>, AccessTokenStoreError> {
        let id = id.to_string();
        for key in [access_token_key(&id), legacy_access_token_key(&id)] {
            let key = key.ok_or(AccessTokenError::Id)?;
            match self.store.get(&key).await {
                Ok(record) => {
                    let access_token = decode(&key, &record.bytes)?;
                    return Ok(Some(StoredAccessToken { access_token, key, record }));
                }
                Err(error) if error.is_not_found() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(None)
    }

    /// Creates a token. Its text is returned once and stored nowhere.
    pub async fn create(
        &self,
        name: &str,
        permissions: Vec<AccessTokenPermission>,
        lifetime: Option<Duration>,
    ) -> Result<(String, AccessTokenId, AccessToken), AccessTokenStoreError> {
        let (text, access_token) = AccessToken::create(name, permissions, self.now(), lifetime)?;
        let key = access_token_key(&text.id.to_string()).ok_or(AccessTokenError::Id)?;
        self.store.put(&key, encode(&access_token), PutMode::Create).await?;
        self.absent.remove(&text.id);
        Ok((text.reveal(), text.id, access_token))
    }

    /// Lists all tokens; those of earlier versions come last.
    pub async fn list(&self) -> Result<Vec<(AccessTokenId, AccessToken)>, AccessTokenStoreError> {
        let mut listed = Vec::new();
        for prefix in [ACCESS_TOKENS, LEGACY_ACCESS_TOKENS] {
            self.list_below(prefix, &mut listed).await?;
        }
        Ok(listed)
    }

    /// Tokens after an id, at most `limit`, and whether there are more. Those of earlier versions are not
    /// among them.
    pub(super) async fn list_page(
        &self,
        after: Option<&AccessTokenId>,
        limit: usize,
    ) -> Result<(Vec<(AccessTokenId, AccessToken)>, bool), AccessTokenStoreError> {
        let mut request = ListRequest::below(ACCESS_TOKENS);
        request.start_after = after.map(|id| format!("{ACCESS_TOKENS}{id}"));
        request.limit = limit.saturating_add(1);
        let page = self.store.list(&request).await?;
        let id =
            |key: &Key| key.as_str().strip_prefix(ACCESS_TOKENS)?.parse::<AccessTokenId>().ok();
        let mut ids: Vec<_> = page.entries.iter().filter_map(|entry| id(&entry.key)).collect();
        let more = page.next.is_some() || ids.len() > limit;
        ids.truncate(limit);
        let reads = ids.into_iter().map(async |id| {
            let found = self.read(&id).await?;
            Ok::<_, AccessTokenStoreError>(found.map(|stored| (id, stored.access_token)))
        });
        let read = futures::future::join_all(reads).await;
        let tokens = read.into_iter().filter_map(Result::transpose);
        Ok((tokens.collect::<Result<_, _>>()?, more))
    }

    async fn list_below(
        &self,
        prefix: &str,
        listed: &mut Vec<(AccessTokenId, AccessToken)>,
    ) -> Result<(), AccessTokenStoreError> {
        let mut request = ListRequest::below(prefix);
        loop {
            let page = self.store.list(&request).await?;
            for entry in page.entries {
                let id = entry.key.as_str().strip_prefix(prefix).unwrap_or_default();
                let Ok(id) = id.parse::<AccessTokenId>() else { continue };
                if let Some(stored) = self.read(&id).await? {
                    listed.push((id, stored.access_token));
                }
                if listed.len() > ACCESS_TOKENS_MAX {
                    return Err(AccessTokenStoreError::TooMany);
                }
            }
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => return Ok(()),
            }
        }
    }

    /// Revokes a token, in all instances within [`TRUST_MAX`].
    pub async fn revoke(&self, id: &AccessTokenId) -> Result<AccessToken, AccessTokenStoreError> {
        let mut retries = SwapRetries::default();
        while retries.next().await {
            let Some(stored) = self.read(id).await? else {
                return Err(AccessTokenStoreError::Unknown(id.clone()));
            };
            if stored.access_token.revoked.is_some() {
                return Ok(stored.access_token);
            }
            let revoked = stored.access_token.revoked(self.now())?;
            let mode = PutMode::Match(stored.record.etag);
            match self.store.put(&stored.key, encode(&revoked), mode).await {
                Ok(_) => {
                    self.cache.remove(id);
                    return Ok(revoked);
                }
                Err(error) if error.kind() == ErrorKind::Precondition => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(AccessTokenStoreError::Contended(id.clone()))
    }

    fn now(&self) -> SystemTime {
        self.clock.now()
    }
}

fn encode(access_token: &AccessToken) -> Bytes {
    add_record_checksum(access_token.to_bytes())
}

fn decode(key: &Key, record: &[u8]) -> Result<AccessToken, AccessTokenStoreError> {
    verify_record_checksum(key, record).map_err(AccessTokenStoreError::Damaged)?;
    AccessToken::of_bytes(record).map_err(|error| {
        let reason = error.to_string();
        let damaged = jreg_registry::Error::Damaged { key: key.to_string(), reason };
        AccessTokenStoreError::Damaged(damaged)
    })
}

/// A record with the key and the version that it was read at.
#[derive(Debug)]
struct StoredAccessToken {
    access_token: AccessToken,
    key: Key,
    record: Record,
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jreg_auth::parse_permissions;
    use jreg_storage::{MemoryStore, SystemClock};

    use super::*;

    /// A store of an earlier version, with one access token below `auth/robots/`.
    async fn legacy_store() -> (Arc<dyn Store>, AccessTokenId) {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let permissions = parse_permissions("pull:a").unwrap();
        let (text, access_token) =
            AccessToken::create("old", permissions, SystemTime::now(), None).unwrap();
        let key = legacy_access_token_key(&text.id.to_string()).unwrap();
        store.put(&key, access_token.to_bytes().into(), PutMode::Create).await.unwrap();
        (store, text.id)
    }

    #[tokio::test]
    async fn access_tokens_of_earlier_versions_are_read_listed_and_revoked() {
        let (store, id) = legacy_store().await;
        let clock = Arc::new(SystemClock::new());
        let access_tokens = AccessTokenStore::new(Arc::clone(&store), clock);
        let read = access_tokens.get(&id).await.unwrap().access_token.unwrap();
        assert_eq!((read.name.as_str(), read.revoked), ("old", None));
        let (_, new, _) =
            access_tokens.create("new", parse_permissions("pull:a").unwrap(), None).await.unwrap();
        let listed = access_tokens.list().await.unwrap();
        let names: Vec<_> = listed.iter().map(|(id, found)| (id, found.name.as_str())).collect();
        assert_eq!(names, [(&new, "new"), (&id, "old")]);
        access_tokens.revoke(&id).await.unwrap();
        let revoked = access_tokens.get(&id).await.unwrap().access_token.unwrap();
        assert!(revoked.revoked.is_some());
        assert_eq!(access_tokens.list().await.unwrap().len(), 2, "revoked where it was found");
    }

    #[tokio::test]
    async fn access_tokens_are_created_at_the_new_key() {
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new());
        let access_tokens = AccessTokenStore::new(Arc::clone(&store), Arc::new(SystemClock::new()));
        let permissions = parse_permissions("pull:a").unwrap();
        let (_, id, _) = access_tokens.create("ci", permissions, None).await.unwrap();
        let key = format!("auth/access-tokens/{id}");
        let listed = store.list(&ListRequest::below("auth/")).await.unwrap();
        let keys: Vec<_> = listed.entries.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, [key.as_str()]);
    }
}
