//! Checks that the bytes at a location exist, before a request relies on them.

use crate::Result;
use crate::core::Core;
use crate::record::Location;
use crate::rules::Rule;
use crate::suspects::Suspicion;

impl Core {
    /// Whether the object at a location exists with the size that was stored, and is not known to
    /// be wrong. Costs a HEAD. To be called before a request acknowledges bytes that it did not
    /// store.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error) if the store cannot tell.
    pub(crate) async fn has_bytes(&self, location: &Location) -> Result<bool> {
        if !self.rules.keep(Rule::CheckBytes) {
            return Ok(true);
        }
        if self.suspects.get(&location.key) == Some(Suspicion::Wrong) {
            return Ok(false);
        }
        let is_complete = match self.store.head(&location.key).await {
            Ok(stat) => stat.size_bytes == location.size_bytes,
            Err(error) if error.is_not_found() => false,
            Err(error) => return Err(error.into()),
        };
        match is_complete {
            true => self.suspects.clear_incomplete(&location.key),
            false => self.suspects.add(&location.key, Suspicion::Incomplete),
        }
        Ok(is_complete)
    }

    /// The same for a request that only says that a blob is there: a store that is a round trip away
    /// gets a HEAD only for a suspect location.
    ///
    /// # Errors
    ///
    /// As [`Core::has_bytes`].
    pub(crate) async fn can_rely_on(&self, location: &Location) -> Result<bool> {
        let capabilities = self.store.capabilities();
        // What is replicated may come after the link that names it.
        let is_checked = !capabilities.is_remote || capabilities.is_read_only;
        match is_checked || self.suspects.get(&location.key).is_some() {
            true => self.has_bytes(location).await,
            false => Ok(true),
        }
    }
}
