//! The unique contents of repositories, with their sizes.
//!
//! They are counted by reading: a repository's manifests are listed and read, and the link of each blob says its
//! size. A client's word is not taken for a size. What a manifest references does not change, so it is read
//! once and remembered ([`SizeCache`](crate::size_cache::SizeCache)); counting again costs the listing. Of each
//! digest 16 bytes are kept while its repository is counted.

use std::collections::HashMap;

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Manifest, ReferenceKind, RepositoryName};

use crate::core::Core;
use crate::fingerprint::{self, Fingerprint, FingerprintSet};
use crate::keys::{self, ParsedKey};
use crate::record::{Link, ManifestRecord};
use crate::size_cache::SizeList;
use crate::{Error, Result};

/// How many manifests are read at the same time.
const READS_AT_ONCE: usize = 16;

/// Digests as fingerprints, with sizes.
pub(crate) type Sizes = HashMap<Fingerprint, u64>;

/// What manifests hold.
#[derive(Debug, Default)]
pub(crate) struct ContentSizes {
    pub(crate) manifests: Sizes,
    pub(crate) blobs: Sizes,
    /// Bytes of each manifest with its blobs, as if no two had one in common.
    pub(crate) logical: u64,
    pub(crate) unreadable: u64,
}

impl Core {
    /// What the manifests of a repository hold. Lists them twice: a manifest that an index references
    /// has no link.
    pub(crate) async fn manifest_sizes(&self, name: &RepositoryName) -> Result<ContentSizes> {
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
    pub(crate) async fn sizes_in(
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
    pub(crate) async fn blob_size(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<Option<u64>> {
        if let Some(link) = self.cached_link(name, digest) {
            return Ok(Some(link.value.size_bytes));
        }
        match self.read::<Link>(&keys::link(digest, name)).await {
            Ok(read) => Ok(read.and_then(|read| Some(read.value.live()?.size_bytes))),
            Err(Error::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Adds the contents of a repository to those of others.
    pub(crate) async fn add_sizes(&self, name: &RepositoryName, to: &mut Sizes) -> Result<()> {
        let sizes = self.manifest_sizes(name).await?;
        to.extend(sizes.manifests.into_iter().chain(sizes.blobs));
        Ok(())
    }
}

/// What was found of a manifest.
pub(crate) enum FoundSizes {
    /// Its own size first.
    Read(SizeList),
    Unreadable,
    /// It was removed meanwhile.
    Absent,
}

impl ContentSizes {
    pub(crate) fn add(&mut self, found: FoundSizes) {
        match found {
            FoundSizes::Read(sizes) => {
                if let Some((own, blobs)) = sizes.split_first() {
                    self.logical += sizes.iter().map(|(_, size)| size).sum::<u64>();
                    self.manifests.insert(own.0, own.1);
                    self.blobs.extend(blobs.iter().copied());
                }
            }
            FoundSizes::Unreadable => self.unreadable += 1,
            FoundSizes::Absent => {}
        }
    }
}
