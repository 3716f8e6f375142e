//! What repositories hold: the unique bytes of manifests, and of the blobs that they reference.
//!
//! It is counted by reading (`content_sizes.rs`), and apart from it what copies of deleted manifests hold.

use std::sync::Arc;

use jreg_oci::RepositoryName;
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use crate::content_sizes::{ContentSizes, FoundSizes};
use crate::core::Core;
use crate::fingerprint::FingerprintSet;
use crate::keys::{self, ParsedKey};
use crate::manifest_copy::ManifestCopy;
use crate::{Error, OpenUploads, Registry, Repository, Result};

/// What a repository holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct RepositoryUsage {
    pub repository: RepositoryName,
    /// Manifests, tagged or not.
    pub manifests: u64,
    pub manifest_bytes: u64,
    /// Blobs that a manifest references.
    pub blobs: u64,
    pub blob_bytes: u64,
    /// Bytes of each manifest with its blobs, as if no two had one in common.
    #[serde(default)]
    pub logical_bytes: u64,
    /// Copies of deleted manifests that are kept for restoring.
    pub deleted_manifests: u64,
    /// The bytes of these, and of blobs that only they reference.
    pub deleted_bytes: u64,
    /// Open uploads.
    pub uploads: u64,
    pub upload_bytes: u64,
    /// Manifests and copies that cannot be read: what they reference is not counted.
    pub unreadable: u64,
}

impl Registry {
    /// One of the few requests that count usage at the same time.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`].
    pub fn usage_slot(&self) -> Result<OwnedSemaphorePermit> {
        let slot = Arc::clone(&self.core().usage_counts).try_acquire_owned();
        slot.map_err(|_| Error::Busy { what: "usage is being counted for other requests" })
    }
}

impl Repository {
    /// Counts what the repository holds.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn storage_usage(&self, uploads: &OpenUploads) -> Result<RepositoryUsage> {
        let live = self.core.manifest_sizes(&self.name).await?;
        let kept = self.core.copy_sizes(&self.name, &live).await?;
        let held = uploads.of(&self.name);
        Ok(RepositoryUsage {
            repository: self.name.clone(),
            manifests: live.manifests.len() as u64,
            manifest_bytes: live.manifests.values().sum(),
            blobs: live.blobs.len() as u64,
            blob_bytes: live.blobs.values().sum(),
            logical_bytes: live.logical,
            deleted_manifests: kept.manifests.len() as u64,
            deleted_bytes: kept.manifests.values().chain(kept.blobs.values()).sum(),
            uploads: held.uploads,
            upload_bytes: held.bytes,
            unreadable: live.unreadable + kept.unreadable,
        })
    }
}

impl Core {
    /// What copies of deleted manifests hold beside the manifests that are there.
    async fn copy_sizes(&self, name: &RepositoryName, live: &ContentSizes) -> Result<ContentSizes> {
        let (mut kept, known) = (ContentSizes::default(), FingerprintSet::default());
        let mut pages = self.list_pages(keys::deleted_manifests(name));
        while let Some(page) = pages.next().await? {
            for entry in page.entries {
                let Some(ParsedKey::ManifestCopy(_, digest, _)) = ParsedKey::parse(&entry.key)
                else {
                    continue;
                };
                let found = match self.read::<ManifestCopy>(&entry.key).await {
                    Ok(Some(read)) => {
                        let record = &read.value.manifest;
                        let sizes = self.sizes_in(name, &digest, record, &known).await?;
                        sizes.map_or(FoundSizes::Unreadable, |(sizes, _)| FoundSizes::Read(sizes))
                    }
                    Ok(None) => FoundSizes::Absent,
                    Err(Error::Damaged { .. }) => FoundSizes::Unreadable,
                    Err(error) => return Err(error),
                };
                kept.add(found);
            }
        }
        kept.blobs.retain(|digest, _| !live.blobs.contains_key(digest));
        Ok(kept)
    }
}
