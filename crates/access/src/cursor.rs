//! [`CatalogCursors`]: places in the catalog that a client may go on from but not read.
//!
//! A page of the catalog looks through a bounded number of names. If a client may see none of them, the
//! next page begins after a name that it must not learn. So that name is encrypted, with a key that all
//! instances share: it is derived from the signing keys in the store, and any instance can open it. It
//! is padded, so that not even its length shows. What it opens to is only a place: what is listed from
//! there on is decided for the client who asks.

use std::sync::Arc;
use std::time::Duration;

use jreg_auth::{Keyring, cursor_key_id, decrypt_cursor, encrypt_cursor};
use jreg_oci::RepositoryName;
use jreg_storage::{Clock, Store};
use tokio::sync::OnceCell;

use super::AuthError;
use super::signing::{Signing, SigningError};

/// Encrypts and decrypts cursors. The keys are read, or made, when they are needed first.
#[derive(Debug)]
pub(super) struct CatalogCursors {
    keys: OnceCell<Arc<Signing>>,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    rotation: Duration,
    lifetime: Duration,
}

impl CatalogCursors {
    /// Cursors by the signing keys of the token service, or by those in `store` if there is none. They
    /// are rotated and kept as those of tokens are.
    pub(super) fn new(
        signing: Option<Arc<Signing>>,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        rotation: Duration,
        lifetime: Duration,
    ) -> Self {
        Self { keys: OnceCell::new_with(signing), store, clock, rotation, lifetime }
    }

    /// A cursor to the place after a repository.
    pub(super) async fn encrypt(&self, name: &RepositoryName) -> Result<String, AuthError> {
        let cursor = encrypt_cursor(&*self.keyring(None).await?, name);
        let reason = || "the cursor of the catalog cannot be encrypted".to_owned();
        cursor.ok_or_else(|| AuthError::Unavailable { reason: reason() })
    }

    /// The repository that a cursor leads to; `None` if the text is none of ours, or its key is gone.
    pub(super) async fn decrypt(&self, cursor: &str) -> Result<Option<RepositoryName>, AuthError> {
        let Some(kid) = cursor_key_id(cursor) else { return Ok(None) };
        Ok(decrypt_cursor(&*self.keyring(Some(kid)).await?, cursor))
    }

    /// Reads the keys again, if they were read before, and rotates them if it is time.
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
            async { Signing::open(store, clock, self.rotation, self.lifetime).await.map(Arc::new) }
        };
        let keys = self.keys.get_or_try_init(open).await.map_err(unavailable)?;
        keys.with(kid).await.map_err(unavailable)
    }
}
