//! Every manifest of a repository, tagged or not: for commands, not for requests of clients.

use jreg_oci::Digest;

use crate::keys::{self, ParsedKey};
use crate::{Repository, Result};

impl Repository {
    /// The digests of all manifests, in the order of their keys.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn manifest_digests(&self) -> Result<Vec<Digest>> {
        let keys = self.core.list_all(keys::manifests(&self.name)).await?;
        let digest = |key| match ParsedKey::parse(key) {
            Some(ParsedKey::Manifest(_, digest)) => Some(digest),
            _ => None,
        };
        Ok(keys.iter().filter_map(digest).collect())
    }
}
