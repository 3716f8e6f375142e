//! Blobs of bytes that lie elsewhere already: the store copies or shares them by itself ([`Store::copy_in`]).
//!
//! The object comes first, at a key that nothing names, and is read and hashed there: so what is linked is what was
//! hashed, whatever its source is meanwhile. What a crash leaves is an orphan, which the sweep of GC removes.
//!
//! [`Store::copy_in`]: jreg_storage::Store::copy_in

use futures::TryStreamExt;
use futures::stream::{self, StreamExt};
use jreg_oci::{Digest, Hasher};
use jreg_storage::{ByteRange, CopyMethod, CopySource, Key};

use crate::commit::CommitRole;
use crate::core::Core;
use crate::record::Location;
use crate::session::{AbandonedBytes, ClosedUpload};
use crate::{Blob, Error, Repository, Result, UploadChunk, keys};

/// Whether the bytes of a source are hashed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceTrust {
    /// They are hashed before anything is linked to them.
    Hashed,
    /// They are not: they are taken for what their source says. No other repository gets them until a deep fsck has hashed them.
    Trusted,
}

impl Repository {
    /// Stores a blob whose bytes lie elsewhere, where the store can make an object of them by itself. `None`:
    /// it cannot, and nothing was stored.
    ///
    /// # Errors
    ///
    /// As [`Repository::blob_push`].
    pub async fn blob_copy_in(
        &self,
        digest: &Digest,
        size_bytes: u64,
        source: &CopySource,
        trust: SourceTrust,
    ) -> Result<Option<(Blob, CopyMethod)>> {
        let announced = UploadChunk::new(None, Some(size_bytes), stream::empty().boxed());
        let (_, quota) = Box::pin(self.check_upload_quota(Some(digest), announced)).await?;
        quota.judge(Box::pin(self.copy_in(digest, size_bytes, source, trust)).await).0
    }

    async fn copy_in(
        &self,
        digest: &Digest,
        size_bytes: u64,
        source: &CopySource,
        trust: SourceTrust,
    ) -> Result<Option<(Blob, CopyMethod)>> {
        let core = &self.core;
        let key = keys::new_blob(digest);
        let Some(copied) = core.store.copy_in(&key, source).await? else { return Ok(None) };
        let checked = match trust {
            SourceTrust::Hashed => core.check_bytes(&key, copied.size_bytes, digest).await,
            SourceTrust::Trusted if copied.size_bytes == size_bytes => Ok(()),
            SourceTrust::Trusted => {
                let (expected, actual) = (size_bytes, copied.size_bytes);
                Err(Error::SizeMismatch { expected, actual })
            }
        };
        if let Err(error) = checked {
            // If this fails, the bytes are left to the sweep.
            AbandonedBytes::new(None, vec![key]).discard(core).await.ok();
            return Err(error);
        }
        let is_unverified = trust == SourceTrust::Trusted;
        let location = Location { is_unverified, ..Location::new(key, copied.size_bytes) };
        let closed = ClosedUpload::new(digest.clone(), location, None);
        let (id, window) = (self.upload_start(Some(digest.algorithm())), core.open_window());
        let blob = self.commit_closed(&id, &closed, window, CommitRole::Sessionless).await?;
        Ok(Some((blob, copied.method)))
    }
}

impl Core {
    /// Reads and hashes the bytes of an object.
    async fn check_bytes(&self, key: &Key, size_bytes: u64, expected: &Digest) -> Result<()> {
        let range = ByteRange { start: 0, end: size_bytes };
        let mut bytes = self.store.read(key, range).await?;
        let mut hasher = Hasher::new(expected.algorithm());
        while let Some(chunk) = bytes.try_next().await? {
            let length = chunk.len();
            hasher = self.compute.run(length, move || hashed(hasher, &chunk)).await?;
        }
        let actual = hasher.finish();
        if actual == *expected {
            return Ok(());
        }
        Err(Error::DigestMismatch { expected: expected.clone(), actual })
    }
}

fn hashed(mut hasher: Hasher, bytes: &[u8]) -> Hasher {
    hasher.update(bytes);
    hasher
}
