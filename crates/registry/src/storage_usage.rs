//! What repositories hold: the unique bytes of manifests, and of the blobs that they reference.
//!
//! It is counted by reading: a repository's manifests are listed and read, and the link of each blob says its
//! size. A client's word is not taken for a size. What a manifest references does not change, so it is read
//! once and remembered ([`SizeCache`]); counting again costs the listing. Of each digest 16 bytes are kept
//! while its repository is counted.

use std::collections::HashMap;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Manifest, ReferenceKind, RepositoryName};
use serde::{Deserialize, Serialize};
use tokio::sync::OwnedSemaphorePermit;

use crate::core::Core;
use crate::fingerprint::{self, Fingerprint, FingerprintSet};
use crate::keys::{self, ParsedKey};
use crate::manifest_copy::ManifestCopy;
use crate::record::{Link, ManifestRecord};
use crate::size_cache::SizeList;
use crate::{Error, HeldUploads, ListedUpload, Registry, Repository, Result};

/// How many manifests are read at the same time.
const READS_AT_ONCE: usize = 16;

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

/// Digests as fingerprints, with sizes.
type Sizes = HashMap<Fingerprint, u64>;

/// What manifests hold.
#[derive(Debug, Default)]
struct ContentSizes {
    manifests: Sizes,
    blobs: Sizes,
    unreadable: u64,
}

impl Registry {
    /// The open uploads of every repository, for [`Repository::storage_usage`]: what the sessions say.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn open_uploads(&self) -> Result<OpenUploads> {
        let mut uploads = OpenUploads::default();
        self.core()
            .visit_sessions(HashMap::new(), &mut |upload: ListedUpload| {
                let Some(repository) = upload.repository else { return };
                let held = uploads.0.entry(repository).or_default();
                held.uploads += 1;
                held.bytes += upload.bytes;
            })
            .await?;
        Ok(uploads)
    }

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

/// What open uploads hold, by repository.
#[derive(Clone, Debug, Default)]
pub struct OpenUploads(HashMap<RepositoryName, HeldUploads>);

impl Repository {
    /// Counts what the repository holds.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn storage_usage(&self, uploads: &OpenUploads) -> Result<RepositoryUsage> {
        let live = self.core.manifest_sizes(&self.name).await?;
        let kept = self.core.copy_sizes(&self.name, &live).await?;
        let held = uploads.0.get(&self.name).copied().unwrap_or_default();
        Ok(RepositoryUsage {
            repository: self.name.clone(),
            manifests: live.manifests.len() as u64,
            manifest_bytes: live.manifests.values().sum(),
            blobs: live.blobs.len() as u64,
            blob_bytes: live.blobs.values().sum(),
            deleted_manifests: kept.manifests.len() as u64,
            deleted_bytes: kept.manifests.values().chain(kept.blobs.values()).sum(),
            uploads: held.uploads,
            upload_bytes: held.bytes,
            unreadable: live.unreadable + kept.unreadable,
        })
    }
}

impl Core {
    /// What the manifests of a repository hold. Lists them twice: a manifest that an index references
    /// has no link.
    async fn manifest_sizes(&self, name: &RepositoryName) -> Result<ContentSizes> {
        let mut known = FingerprintSet::default();
        let mut pages = self.list_pages(keys::manifests(name));
        while let Some(page) = pages.next().await? {
            for entry in page.entries {
                if let Some(ParsedKey::Manifest(_, digest)) = ParsedKey::parse(&entry.key) {
                    known.insert(fingerprint::content(name, &digest));
                }
            }
        }
        known.seal();
        let mut sizes = ContentSizes::default();
        let mut pages = self.list_pages(keys::manifests(name));
        while let Some(page) = pages.next().await? {
            let digests =
                page.entries.into_iter().filter_map(|entry| match ParsedKey::parse(&entry.key) {
                    Some(ParsedKey::Manifest(_, digest)) => Some(digest),
                    _ => None,
                });
            let reads: Vec<_> =
                digests.map(|digest| self.sizes_of_manifest(name, digest, &known)).collect();
            let mut reads = stream::iter(reads).buffered(READS_AT_ONCE);
            while let Some(read) = reads.try_next().await? {
                sizes.add(read);
            }
        }
        Ok(sizes)
    }

    /// What one manifest holds: itself first.
    async fn sizes_of_manifest(
        &self,
        name: &RepositoryName,
        digest: Digest,
        known: &FingerprintSet,
    ) -> Result<FoundSizes> {
        let version = fingerprint::content(name, &digest);
        if let Some(sizes) = self.sizes.get(version) {
            return Ok(FoundSizes::Read(sizes));
        }
        let key = keys::manifest(name, &digest);
        let read = match self.read::<ManifestRecord>(&key).await {
            Ok(Some(read)) => read.value,
            Ok(None) => return Ok(FoundSizes::Absent),
            Err(Error::Damaged { .. }) => return Ok(FoundSizes::Unreadable),
            Err(error) => return Err(error),
        };
        let Some((sizes, is_complete)) = self.sizes_in(name, &digest, &read, known).await? else {
            return Ok(FoundSizes::Unreadable);
        };
        if is_complete {
            self.sizes.insert(version, &sizes);
        }
        Ok(FoundSizes::Read(sizes))
    }

    /// The sizes of a manifest and the blobs that it references, and whether none is missing.
    async fn sizes_in(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        record: &ManifestRecord,
        known: &FingerprintSet,
    ) -> Result<Option<(SizeList, bool)>> {
        let (media_type, bytes) = (record.header.media_type.clone(), record.bytes.clone());
        let length = bytes.len();
        let parsed = self.compute.run(length, move || Manifest::parse_stored(&media_type, &bytes));
        let Ok(manifest) = parsed.await? else { return Ok(None) };
        let mut sizes = vec![(fingerprint::digest(digest), length as u64)];
        let mut is_complete = true;
        for reference in &manifest.references {
            if known.contains(fingerprint::content(name, &reference.digest)) {
                continue;
            }
            match self.blob_size(name, &reference.digest).await? {
                Some(size) => sizes.push((fingerprint::digest(&reference.digest), size)),
                None => is_complete &= reference.kind == ReferenceKind::Any,
            }
        }
        Ok(Some((sizes.into(), is_complete)))
    }

    /// The size of a repository's blob, by its link; one that cannot be read counts as absent.
    async fn blob_size(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<u64>> {
        if let Some(link) = self.cached_link(name, digest) {
            return Ok(Some(link.value.size_bytes));
        }
        match self.read::<Link>(&keys::link(digest, name)).await {
            Ok(read) => Ok(read.and_then(|read| Some(read.value.live()?.size_bytes))),
            Err(Error::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

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

/// What was found of a manifest.
enum FoundSizes {
    /// Its own size first.
    Read(SizeList),
    Unreadable,
    /// It was removed meanwhile.
    Absent,
}

impl ContentSizes {
    fn add(&mut self, found: FoundSizes) {
        match found {
            FoundSizes::Read(sizes) => {
                if let Some((own, blobs)) = sizes.split_first() {
                    self.manifests.insert(own.0, own.1);
                    self.blobs.extend(blobs.iter().copied());
                }
            }
            FoundSizes::Unreadable => self.unreadable += 1,
            FoundSizes::Absent => {}
        }
    }
}
