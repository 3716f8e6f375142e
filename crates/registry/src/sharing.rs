//! Which of a repository's content other manifests need, and which other repositories hold.
//!
//! It is found by reading, as far as limits allow: the references of all manifests of the repository, the sizes of
//! the blobs in question, and for the largest of these which repositories link them. It grants nothing: a caller
//! leaves out the repositories that its client may not see.

use std::collections::{BTreeMap, BTreeSet};

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Manifest, RepositoryName};

use crate::fingerprint;
use crate::keys::{self, ParsedKey};
use crate::link::is_deleted;
use crate::{Error, Repository, Result, TouchPolicy};

/// How much is read to find out what is shared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharingLimits {
    /// Manifests of the repository, and their bytes; above it nothing is known.
    pub manifests_max: usize,
    pub manifest_bytes_max: u64,
    /// References of all of them.
    pub references_max: usize,
    /// Blobs whose size is read; above it nothing is known.
    pub blobs_max: usize,
    /// The largest of them, whose links are listed.
    pub listed_blobs_max: usize,
}

impl SharingLimits {
    /// What is found without being asked for.
    pub const SMALL: Self = Self {
        manifests_max: 100,
        manifest_bytes_max: 1 << 20,
        references_max: 5000,
        blobs_max: 100,
        listed_blobs_max: 50,
    };
    pub const LARGE: Self = Self {
        manifests_max: 1000,
        manifest_bytes_max: 32 << 20,
        references_max: 100_000,
        blobs_max: 2000,
        listed_blobs_max: 200,
    };
}

/// Some content of a repository, and who else needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ContentSharing {
    /// The bytes of each manifest and blob once.
    pub bytes: u64,
    /// The same of what other manifests of the repository need, too.
    pub needed_here_bytes: u64,
    pub blobs: usize,
    /// The largest blobs, the largest first, with their links.
    pub listed: Vec<SharedBlob>,
    /// Bytes of manifests, and of blobs whose links were not listed.
    pub unlisted_bytes: u64,
}

/// A blob, and who else needs it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SharedBlob {
    pub digest: Digest,
    pub size_bytes: u64,
    /// Whether other manifests of the repository need it.
    pub is_needed_here: bool,
    /// Other repositories that link it; not all of many.
    pub repositories: Vec<RepositoryName>,
}

/// Repositories of a blob that are listed: one store request.
const LINKS_MAX: usize = 100;

/// The manifests of a repository: the size of each, and what it references.
type ReferenceGraph = BTreeMap<Digest, (u64, Vec<Digest>)>;

impl Repository {
    /// Finds out which content of one image, or of the whole repository, is needed elsewhere. `None`: there is too
    /// much to read, or no such manifest.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn content_sharing(
        &self,
        image: Option<&Digest>,
        limits: SharingLimits,
    ) -> Result<Option<ContentSharing>> {
        let Some(graph) = self.reference_graph(limits).await? else { return Ok(None) };
        let within = match image {
            Some(image) if !graph.contains_key(image) => return Ok(None),
            Some(image) => reached_from(&graph, [image]),
            None => reached_from(&graph, graph.keys()),
        };
        let others = graph.keys().filter(|manifest| !within.contains(*manifest));
        let needed_here = reached_from(&graph, others);
        let mut found = ContentSharing::default();
        let mut blobs = Vec::new();
        for digest in within {
            match graph.get(digest) {
                Some((bytes, _)) => {
                    found.add(*bytes, needed_here.contains(digest));
                    found.unlisted_bytes += bytes;
                }
                None => blobs.push(digest),
            }
        }
        if blobs.len() > limits.blobs_max {
            return Ok(None);
        }
        let mut blobs = self.sizes_of_blobs(&graph, blobs).await?;
        found.blobs = blobs.len();
        blobs.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        for (digest, size) in &blobs {
            found.add(*size, needed_here.contains(digest));
        }
        let unlisted = blobs.split_off(limits.listed_blobs_max.min(blobs.len()));
        found.unlisted_bytes += unlisted.iter().map(|(_, size)| size).sum::<u64>();
        let lists = blobs.into_iter().map(|(digest, size_bytes)| async move {
            let repositories = self.other_repositories_with(digest).await?;
            let digest = digest.clone();
            Ok::<_, Error>(SharedBlob { digest, size_bytes, is_needed_here: false, repositories })
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let lists: Vec<_> = lists.collect();
        let lists = stream::iter(lists).buffered(self.core.reads_in_flight_max());
        found.listed = lists.try_collect().await?;
        for blob in &mut found.listed {
            blob.is_needed_here = needed_here.contains(&blob.digest);
        }
        Ok(Some(found))
    }

    /// What each manifest references; `None`: there are too many, or they are too large.
    async fn reference_graph(&self, limits: SharingLimits) -> Result<Option<ReferenceGraph>> {
        let prefix = keys::manifests(&self.name);
        let listing = self.core.list(prefix, None, limits.manifests_max).await?;
        let bytes: u64 = listing.entries.iter().map(|entry| entry.size_bytes).sum();
        if listing.more || bytes > limits.manifest_bytes_max {
            return Ok(None);
        }
        let digests =
            listing.entries.iter().filter_map(|entry| match ParsedKey::parse(&entry.key) {
                Some(ParsedKey::Manifest(_, digest)) => Some(digest),
                _ => None,
            });
        let reads: Vec<_> = digests.map(|digest| self.references_of(digest)).collect();
        let mut reads = stream::iter(reads).buffered(self.core.reads_in_flight_max());
        let (mut graph, mut references) = (ReferenceGraph::new(), 0);
        while let Some(read) = reads.try_next().await? {
            let Some((digest, bytes, names)) = read else { continue };
            references += names.len();
            if references > limits.references_max {
                return Ok(None);
            }
            graph.insert(digest, (bytes, names));
        }
        Ok(Some(graph))
    }

    /// `None`: the manifest is not there any more, or cannot be read.
    async fn references_of(&self, digest: Digest) -> Result<Option<(Digest, u64, Vec<Digest>)>> {
        let manifest = match self.find_manifest(&digest, TouchPolicy::Never).await {
            Ok(Some(manifest)) => manifest,
            Ok(None) | Err(Error::Damaged { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let length = manifest.bytes.len();
        let work = move || Manifest::parse_stored(&manifest.media_type, &manifest.bytes);
        let Ok(parsed) = self.core.compute.run(length, work).await? else { return Ok(None) };
        let names = parsed.references.into_iter().map(|reference| reference.digest).collect();
        Ok(Some((digest, length as u64, names)))
    }

    /// Blobs with their sizes; those that the repository does not have are left out.
    async fn sizes_of_blobs<'a>(
        &self,
        graph: &ReferenceGraph,
        blobs: Vec<&'a Digest>,
    ) -> Result<Vec<(&'a Digest, u64)>> {
        let mut known = BTreeMap::new();
        for manifest in graph.keys() {
            let sizes = self.core.sizes.get(fingerprint::content(&self.name, manifest));
            known.extend(sizes.iter().flat_map(|sizes| sizes.iter().copied()));
        }
        let known = &known;
        let reads = blobs.into_iter().map(|digest| async move {
            if let Some(size) = known.get(&fingerprint::digest(digest)) {
                return Ok::<_, Error>(Some((digest, *size)));
            }
            let size = self.core.blob_size(&self.name, digest).await?;
            Ok(size.map(|size| (digest, size)))
        });
        let reads: Vec<_> = reads.collect();
        let reads = stream::iter(reads).buffered(self.core.reads_in_flight_max());
        reads.try_filter_map(|read| async move { Ok(read) }).try_collect().await
    }

    async fn other_repositories_with(&self, digest: &Digest) -> Result<Vec<RepositoryName>> {
        let listing = self.core.list(keys::links(digest), None, LINKS_MAX).await?;
        let live = listing.entries.iter().filter(|link| !is_deleted(link));
        let names = live.filter_map(|link| keys::linking_repository(&link.key));
        Ok(names.filter(|name| *name != self.name).collect())
    }
}

impl ContentSharing {
    fn add(&mut self, bytes: u64, is_needed_here: bool) {
        self.bytes += bytes;
        if is_needed_here {
            self.needed_here_bytes += bytes;
        }
    }
}

/// Manifests, and all that they reference directly or by other manifests.
fn reached_from<'a>(
    graph: &'a ReferenceGraph,
    from: impl IntoIterator<Item = &'a Digest>,
) -> BTreeSet<&'a Digest> {
    let mut reached = BTreeSet::new();
    let mut left: Vec<&Digest> = from.into_iter().filter_map(|name| stored(graph, name)).collect();
    while let Some(digest) = left.pop() {
        if reached.insert(digest)
            && let Some((_, references)) = graph.get(digest)
        {
            left.extend(references);
        }
    }
    reached
}

/// The digest as the graph has it.
fn stored<'a>(graph: &'a ReferenceGraph, digest: &Digest) -> Option<&'a Digest> {
    graph.get_key_value(digest).map(|(digest, _)| digest)
}
