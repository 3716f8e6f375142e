//! [`CatalogCursors`]: encrypted catalog cursors, which a client can send back but not read.
//!
//! A catalog page examines a bounded number of names. If the client may see none of them, the next
//! page begins after a name that the client must not learn. The cursor therefore contains that name
//! encrypted and padded, so that not even its length shows. The key is derived from the signing
//! keys in the store, so every instance can decrypt it. A cursor grants nothing: each page checks
//! the rights of its client again.

use std::sync::Arc;
use std::time::Duration;

use jreg_auth::{Keyring, cursor_key_id, decrypt_cursor, encrypt_cursor};
use jreg_oci::RepositoryName;
use jreg_storage::{Clock, Store};
use tokio::sync::OnceCell;

use super::AuthError;
use super::signing_keys::{SigningError, SigningKeys};

/// Encrypts and decrypts cursors. The keys are read, or created, on first use.
#[derive(Debug)]
pub(super) struct CatalogCursors {
    keys: OnceCell<Arc<SigningKeys>>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    rotation: Duration,
    lifetime: Duration,
}

impl CatalogCursors {
    /// Uses the signing keys of the token service, or those in `store` if there is none. They are
    /// rotated like those of tokens.
    pub(super) fn new(
        signing_keys: Option<Arc<SigningKeys>>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        rotation: Duration,
        lifetime: Duration,
    ) -> Self {
        Self { keys: OnceCell::new_with(signing_keys), store, clock, rotation, lifetime }
    }

    /// A cursor to the position after a repository.
    pub(super) async fn encrypt(&self, name: &RepositoryName) -> Result<String, AuthError> {
        let cursor = encrypt_cursor(&*self.keyring(None).await?, name);
        let reason = || "the cursor of the catalog cannot be encrypted".to_owned();
        cursor.ok_or_else(|| AuthError::Unavailable { reason: reason() })
    }

    /// The repository that a cursor encodes; `None` if the cursor is invalid or its key has
    /// expired.
    pub(super) async fn decrypt(&self, cursor: &str) -> Result<Option<RepositoryName>, AuthError> {
        let Some(kid) = cursor_key_id(cursor) else { return Ok(None) };
        Ok(decrypt_cursor(&*self.keyring(Some(kid)).await?, cursor))
    }

    /// Reloads the keys, if they are loaded, and rotates them when due.
    pub(super) async fn refresh_keys(&self) -> Result<(), SigningError> {
        match self.keys.get() {
            Some(keys) => keys.refresh().await,
            None => Ok(()),
        }
    }

    async fn keyring(&self, kid: Option<&str>) -> Result<Arc<Keyring>, AuthError> {
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
