//! Protected content: what a client that may delete from a repository, but not every tag of it,
//! must not delete by digest.
//!
//! A tag that may not be removed protects the manifest that it points to and everything that this
//! manifest refers to, through indexes too. What refers to it as a subject is not protected.

use std::collections::HashSet;
use std::sync::Arc;

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Manifest, Tag};
use jreg_storage::Key;
use tokio::sync::SemaphorePermit;

use crate::keys;
use crate::page::list_requests_max;
use crate::tag::tag_item;
use crate::tag_record::{TagRecord, TagTarget, is_deleted_tag};
use crate::{Error, Repository, Result, StoredManifest, TouchPolicy};

/// Maximum number of tags of a repository for a delete by digest: their names are listed, in at most
/// `list_requests_max(10,000)` = 17 store requests.
pub const PROTECTING_TAGS_MAX: usize = 10_000;
/// Maximum number of records that are read for a delete by digest: tags that may not be removed, and
/// manifests below them. A delete must not cost more than the most expensive push: as many lookups as
/// one manifest may cause ([`jreg_oci::LOOKUPS_MAX`]), and a second request for each manifest whose size
/// is not known from its tag.
pub const PROTECTING_RECORDS_MAX: usize = jreg_oci::LOOKUPS_MAX;
/// Maximum number of manifests of one delete that are read concurrently.
const MANIFEST_READS_MAX: usize = 8;

/// What protects some content from a delete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DeleteProtection {
    /// Nothing.
    None,
    /// This tag, which the requester may not remove, points to it or to what refers to it.
    Tag(Tag),
    /// Unknown: there are too many tags or manifests to find out ([`PROTECTING_RECORDS_MAX`]).
    TooMany,
}

/// The search for what protects a digest.
struct ProtectionSearch<'a> {
    digest: &'a Digest,
    /// The manifests that were read or are to be read.
    seen: HashSet<Digest>,
    /// How many further manifests may be read.
    left: usize,
}

/// A manifest to read.
struct ProtectingManifest {
    /// The tag that leads to it.
    tag: Tag,
    digest: Digest,
    /// Size in bytes, if a tag says it.
    size_bytes: Option<u64>,
}

/// The references of a manifest.
enum FollowedReferences {
    /// The digest of the search.
    Target,
    /// Only what may be these manifests, and blobs.
    Manifests(Vec<Digest>),
}

impl ProtectionSearch<'_> {
    /// Adds a manifest to those to read. `false` if it is one too many.
    fn add(&mut self, level: &mut Vec<ProtectingManifest>, next: ProtectingManifest) -> bool {
        if !self.seen.insert(next.digest.clone()) {
            return true;
        }
        let is_within = self.left > 0;
        self.left = self.left.saturating_sub(1);
        level.push(next);
        is_within
    }
}

impl Repository {
    /// All tags of the repository; `None` if it has more than [`PROTECTING_TAGS_MAX`].
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn list_all_tags(&self) -> Result<Option<Vec<Tag>>> {
        let prefix = keys::tags(&self.name);
        let requests = list_requests_max(PROTECTING_TAGS_MAX);
        let page = self
            .core
            .list_items(prefix, None, PROTECTING_TAGS_MAX, requests, tag_item, |tag| {
                !is_deleted_tag(tag)
            })
            .await?;
        Ok(page.next.is_none().then_some(page.items))
    }

    /// The tag or manifest that protects content of the repository from a client that may not
    /// delete these tags: references are followed level by level.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::Damaged`]: what cannot be read may protect it.
    pub async fn find_protection(
        &self,
        digest: &Digest,
        tags: Vec<Tag>,
    ) -> Result<DeleteProtection> {
        let Some(left) = PROTECTING_RECORDS_MAX.checked_sub(tags.len()) else {
            return Ok(DeleteProtection::TooMany);
        };
        let records = tags.iter().map(|tag| keys::tag(&self.name, tag)).collect();
        let targets = self.core.read_all::<TagRecord>(records).await?;
        let mut search = ProtectionSearch { digest, seen: HashSet::new(), left };
        let mut level = Vec::new();
        for (tag, target) in tags.into_iter().zip(targets) {
            let Some(TagTarget { digest, size, .. }) =
                target.and_then(|target| target.value.into_live())
            else {
                continue;
            };
            if digest == *search.digest {
                return Ok(DeleteProtection::Tag(tag));
            }
            if !search.add(&mut level, ProtectingManifest { tag, digest, size_bytes: Some(size) }) {
                return Ok(DeleteProtection::TooMany);
            }
        }
        while !level.is_empty() {
            match self.next_level(level, &mut search).await? {
                Ok(next) => level = next,
                Err(protection) => return Ok(protection),
            }
        }
        Ok(DeleteProtection::None)
    }

    /// Reads some manifests, and returns those below them, or why the search ends.
    async fn next_level(
        &self,
        level: Vec<ProtectingManifest>,
        search: &mut ProtectionSearch<'_>,
    ) -> Result<Result<Vec<ProtectingManifest>, DeleteProtection>> {
        let target = search.digest;
        let reads = level.into_iter().map(|protecting| async move {
            let followed = self.follow_references(&protecting, target).await?;
            Ok::<_, Error>((protecting.tag, followed))
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let reads: Vec<_> = reads.collect();
        let mut reads = stream::iter(reads).buffered(MANIFEST_READS_MAX);
        let mut next = Vec::new();
        while let Some((tag, followed)) = reads.try_next().await? {
            let FollowedReferences::Manifests(manifests) = followed else {
                return Ok(Err(DeleteProtection::Tag(tag)));
            };
            for digest in manifests {
                let below = ProtectingManifest { tag: tag.clone(), digest, size_bytes: None };
                if !search.add(&mut next, below) {
                    return Ok(Err(DeleteProtection::TooMany));
                }
            }
        }
        Ok(Ok(next))
    }

    /// The references of a manifest; none if it is absent.
    async fn follow_references(
        &self,
        of: &ProtectingManifest,
        target: &Digest,
    ) -> Result<FollowedReferences> {
        let core = &self.core;
        let (key, now) = (keys::manifest(&self.name, &of.digest), core.clock.monotonic());
        let (stored, _room) = match core.cache.manifest(now, &self.name, &of.digest) {
            Some(seen) => (Some(seen.value), None),
            None => self.read_in_room(&key, of).await?,
        };
        let Some(stored) = stored else { return Ok(FollowedReferences::Manifests(Vec::new())) };
        let (target, bytes) = (target.clone(), stored.bytes.len());
        core.compute.run(bytes, move || followed(&key, &stored, &target)).await?
    }

    /// Reads a manifest once the memory has room for it.
    async fn read_in_room(
        &self,
        key: &Key,
        of: &ProtectingManifest,
    ) -> Result<(Option<Arc<StoredManifest>>, Option<SemaphorePermit<'_>>)> {
        let size_bytes = match of.size_bytes {
            Some(size_bytes) => Some(size_bytes),
            None => self.core.stat(key).await?.map(|stat| stat.size_bytes),
        };
        let Some(size_bytes) = size_bytes else { return Ok((None, None)) };
        let room = self.core.reserve_touch_memory(size_bytes).await?;
        Ok((self.find_manifest(&of.digest, TouchPolicy::Never).await?, Some(room)))
    }
}

/// The references of a stored manifest.
fn followed(key: &Key, stored: &StoredManifest, target: &Digest) -> Result<FollowedReferences> {
    let manifest = Manifest::parse_stored(&stored.media_type, &stored.bytes).map_err(|error| {
        let (key, reason) = (key.to_string(), error.to_string());
        Error::Damaged { key, reason }
    })?;
    if manifest.references.iter().any(|reference| reference.digest == *target) {
        return Ok(FollowedReferences::Target);
    }
    let may_refer = manifest.references.into_iter().filter(|of| of.kind.may_be_manifest());
    Ok(FollowedReferences::Manifests(may_refer.map(|reference| reference.digest).collect()))
}
