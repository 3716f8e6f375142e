//! [`SigningKeys`]: the keys of this registry's tokens, in the store. The first instance creates
//! them; they are replaced by compare-and-swap.

use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use jreg_auth::{Keyring, KeyringError};
use jreg_registry::{add_record_checksum, signing_keys, verify_record_checksum};
use jreg_storage::{Clock, Key, PutMode, Store, SwapRetries};
use tokio::sync::{Mutex, OnceCell};

use super::AuthError;

/// Minimum time between reads that an unknown key id causes: tokens with invented key ids must not
/// cause a read each. A new key signs only minutes after it was stored, so a key that other
/// instances use is found in time.
const REREAD_MIN: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct SigningKeys {
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    rotation: Duration,
    /// Maximum lifetime of a token.
    lifetime: Duration,
    current: RwLock<Arc<Keyring>>,
    /// When the keys were last read, in monotonic time.
    read: Mutex<Duration>,
}

/// Why the keys are not available.
#[derive(Debug, thiserror::Error)]
pub enum SigningError {
    #[error(transparent)]
    Store(#[from] jreg_storage::Error),
    /// The record is corrupt.
    #[error("{0}; restore the object, or delete it: then all tokens that it signed are invalid")]
    Damaged(jreg_registry::Error),
    /// The keys cannot be created.
    #[error(transparent)]
    Keyring(#[from] KeyringError),
    /// A registry that is only read cannot create them.
    #[error(
        "the storage has no signing keys (auth/keys) and is read-only: start a jreg that writes on it \
         once, copy them from the original, or turn token-service off"
    )]
    ReadOnly,
    /// Writes of other instances conflict repeatedly.
    #[error("the signing keys are being changed concurrently; try again")]
    Contended,
}

impl SigningKeys {
    /// Reads the keys, or creates the first.
    pub(super) async fn open(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        rotation: Duration,
        lifetime: Duration,
    ) -> Result<Self, SigningError> {
        let first = Self::fetch(&*store, &*clock, rotation, lifetime).await?;
        let read = Mutex::new(clock.monotonic());
        let current = RwLock::new(Arc::new(first));
        Ok(Self { store, clock, rotation, lifetime, current, read })
    }

    /// The keys as last read.
    pub(super) fn current(&self) -> Arc<Keyring> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Reads the keys and rotates the signing key when due.
    pub(super) async fn refresh(&self) -> Result<(), SigningError> {
        let mut read = self.read.lock().await;
        self.read_again(&mut read).await
    }

    /// The keys, reloaded if none has this id and the last read is not recent.
    pub(super) async fn with(&self, kid: Option<&str>) -> Result<Arc<Keyring>, SigningError> {
        let current = self.current();
        let is_known = |ring: &Keyring| kid.is_none_or(|kid| ring.has(kid));
        if is_known(&current) {
            return Ok(current);
        }
        // Concurrent requests wait for the same read.
        let mut read = self.read.lock().await;
        if !is_known(&self.current()) && self.clock.monotonic() >= *read + REREAD_MIN {
            self.read_again(&mut read).await?;
        }
        Ok(self.current())
    }

    async fn read_again(&self, read: &mut Duration) -> Result<(), SigningError> {
        *read = self.clock.monotonic();
        let ring = Self::fetch(&*self.store, &*self.clock, self.rotation, self.lifetime).await?;
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(ring);
        Ok(())
    }

    async fn fetch(
        store: &dyn Store,
        clock: &dyn Clock,
        rotation: Duration,
        lifetime: Duration,
    ) -> Result<Keyring, SigningError> {
        let key = signing_keys();
        if store.capabilities().is_read_only {
            // An instance that writes rotates them.
            return match store.get(&key).await {
                Ok(record) => decode(&key, &record.bytes),
                Err(error) if error.is_not_found() => Err(SigningError::ReadOnly),
                Err(error) => Err(error.into()),
            };
        }
        let mut retries = SwapRetries::default();
        while retries.next().await {
            let (next, mode) = match store.get(&key).await {
                Ok(record) => {
                    let ring = decode(&key, &record.bytes)?;
                    match ring.rotated(clock.now(), rotation, lifetime)? {
                        None => return Ok(ring),
                        Some(next) => (next, PutMode::Match(record.etag)),
                    }
                }
                Err(error) if error.is_not_found() => (Keyring::new(clock.now())?, PutMode::Create),
                Err(error) => return Err(error.into()),
            };
            match store.put(&key, add_record_checksum(next.to_bytes()), mode).await {
                Ok(_) => {
                    tracing::info!(keys = ?next, "created a token signing key");
                    return Ok(next);
                }
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(SigningError::Contended)
    }
}

/// The keys for everything that is signed or encrypted. Unless the token service has them from the start,
/// they are read, or created, on first use.
#[derive(Debug)]
pub(super) struct SharedSigningKeys {
    keys: OnceCell<Arc<SigningKeys>>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    rotation: Duration,
    lifetime: Duration,
}

impl SharedSigningKeys {
    /// Uses the keys of the token service, or those in `store` if there is none. They are rotated alike.
    pub(super) fn new(
        signing_keys: Option<Arc<SigningKeys>>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        rotation: Duration,
        lifetime: Duration,
    ) -> Self {
        Self { keys: OnceCell::new_with(signing_keys), store, clock, rotation, lifetime }
    }

    /// Reloads the keys, if they are loaded, and rotates them when due.
    pub(super) async fn refresh(&self) -> Result<(), SigningError> {
        match self.keys.get() {
            Some(keys) => keys.refresh().await,
            None => Ok(()),
        }
    }

    /// The keys, reloaded if none has this id.
    pub(super) async fn keyring(&self, kid: Option<&str>) -> Result<Arc<Keyring>, AuthError> {
        let unavailable = |error| AuthError::unavailable(&error);
        let open = || {
            let (store, clock) = (Arc::clone(&self.store), Arc::clone(&self.clock));
            async {
                SigningKeys::open(store, clock, self.rotation, self.lifetime).await.map(Arc::new)
            }
        };
        let keys = self.keys.get_or_try_init(open).await.map_err(unavailable)?;
        keys.with(kid).await.map_err(unavailable)
    }
}

fn decode(key: &Key, record: &[u8]) -> Result<Keyring, SigningError> {
    verify_record_checksum(key, record).map_err(SigningError::Damaged)?;
    Keyring::of_bytes(record).map_err(|error| {
        let (key, reason) = (key.to_string(), error.to_string());
        SigningError::Damaged(jreg_registry::Error::Damaged { key, reason })
    })
}
