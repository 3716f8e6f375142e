//! The bytes of uploads in the store: completing their parts, and discarding them.

use jreg_storage::{ErrorKind, Multipart};

use crate::Result;
use crate::core::Core;
use crate::record::Location;
use crate::session::AbandonedBytes;

impl AbandonedBytes {
    /// Deletes the bytes; idempotent.
    pub(crate) async fn discard(&self, core: &Core) -> Result<()> {
        if let Some(upload) = &self.multipart {
            core.store.abort_multipart(upload).await?;
        }
        for key in &self.objects {
            core.store.delete(key, None).await?;
        }
        Ok(())
    }
}

impl Core {
    /// Deletes an object that no record has ever referenced. If this fails, the sweep deletes it.
    pub(crate) async fn discard_orphan(&self, orphan: Option<Location>) {
        let objects = orphan.into_iter().map(|orphan| orphan.key).collect();
        AbandonedBytes::new(None, objects).discard(self).await.ok();
    }

    /// Completes the multipart upload of a session. `false`: it was completed before, or the parts
    /// no longer exist.
    pub(crate) async fn complete_parts(&self, parts: &Multipart) -> Result<bool> {
        match self.store.complete_multipart(parts).await {
            Ok(()) => Ok(true),
            Err(error) if is_absent_or_done(error.kind()) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether an object is there with all its bytes.
    pub(crate) async fn is_stored(&self, location: &Location) -> Result<bool> {
        let stat = self.stat(&location.key).await?;
        Ok(stat.is_some_and(|stat| stat.size_bytes == location.size_bytes))
    }
}

pub(crate) fn is_absent_or_done(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::AlreadyExists)
}
