//! [`CatalogCursors`]: encrypted catalog cursors, which a client can send back but not read.
//!
//! A catalog page examines a bounded number of names. If the client may see none of them, the next
//! page begins after a name that the client must not learn. The cursor therefore contains that name
//! encrypted and padded, so that not even its length shows. The key is derived from the signing
//! keys in the store, so every instance can decrypt it. A cursor grants nothing: each page checks
//! the rights of its client again.

use std::sync::Arc;

use jreg_auth::{cursor_key_id, decrypt_cursor, encrypt_cursor};
use jreg_oci::RepositoryName;

use super::AuthError;
use super::signing_keys::SharedSigningKeys;

/// Encrypts and decrypts cursors.
#[derive(Debug)]
pub(super) struct CatalogCursors(pub(super) Arc<SharedSigningKeys>);

impl CatalogCursors {
    /// A cursor to the position after a repository.
    pub(super) async fn encrypt(&self, name: &RepositoryName) -> Result<String, AuthError> {
        let cursor = encrypt_cursor(&*self.0.keyring(None).await?, name);
        let reason = || "the cursor of the catalog cannot be encrypted".to_owned();
        cursor.ok_or_else(|| AuthError::Unavailable { reason: reason() })
    }

    /// The repository that a cursor encodes; `None` if the cursor is invalid or its key has
    /// expired.
    pub(super) async fn decrypt(&self, cursor: &str) -> Result<Option<RepositoryName>, AuthError> {
        let Some(kid) = cursor_key_id(cursor) else { return Ok(None) };
        Ok(decrypt_cursor(&*self.0.keyring(Some(kid)).await?, cursor))
    }
}
