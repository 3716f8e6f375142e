//! Mirrors of other registries: what the store keeps of them beside their content.
//!
//! A mirrored repository has manifests and links as any other, and no tags: a tag of the mirrored
//! registry is a [`MirrorTag`], which says what that registry last said, and is as old as that. So it has
//! no history, and no tag is an obstacle when its manifest goes. Its manifests say that what they
//! reference and is absent was not fetched ([`ManifestOrigin::Mirror`](crate::record::ManifestOrigin)).
//!
//! These records are a cache: a lost or reverted one costs a request to the mirrored registry. So they are
//! the only ones that are deleted unconditionally although other processes may write them.

use std::sync::Arc;
use std::time::Duration;

use jreg_lifecycle::CurrentRules;
use jreg_oci::{Digest, MediaType, Reference, Tag};
use jreg_storage::{ETag, Key, ListRequest, OpenFile, PutPurpose};
use serde::{Deserialize, Serialize};
use tokio::sync::Semaphore;

use crate::budget::MemoryBudget;
use crate::core::Core;
use crate::damaged::FoundRecord;
use crate::event::EventOutbox;
use crate::format::StoreFeature;
use crate::keys;
use crate::link::{LinkOrigin, LinkOutcome};
use crate::page::list_requests_max;
use crate::part_buffer::MappingPool;
use crate::record::{JsonRecord, PresenceMark, StoredRecord};
use crate::{
    Blob, Error, FillProgress, ManifestPush, PageRequest, PushedManifest, ReferencePolicy,
    Registry, Repository, Result, ResultPage, StoredFill, UploadChunk, UploadId,
};

/// The room of mirrors in a registry, apart from that of its clients' uploads.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorRoom {
    /// Maximum number of blobs that are stored at the same time.
    pub fills_max: usize,
    /// Maximum bytes of them in memory on their way to the store.
    pub buffer_bytes: u64,
    /// How long one waits for some of these.
    pub wait_max: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct MirrorTagRecord {
    pub(crate) digest: Digest,
}

impl JsonRecord for MirrorTagRecord {
    const VERSION: Option<(&'static str, u32)> = Some(("mirror tag", 1));
}

/// What the mirrored registry last said of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorTag {
    pub digest: Digest,
    /// Time since it said so, by the store's clock.
    pub age: Duration,
}

/// A tag of a mirrored registry, as it was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MirrorTagVersion {
    /// `None`: there is none, or it cannot be decoded.
    pub tag: Option<MirrorTag>,
    version: Option<ETag>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct FillRecord {
    /// The upload session by which the blob is stored.
    upload: String,
    /// For how long the claim holds after it was written.
    ttl_s: u64,
}

impl JsonRecord for FillRecord {
    const VERSION: Option<(&'static str, u32)> = Some(("fill", 1));
}

/// The claim of this instance to store a blob of a mirror. Safety does not depend on it: two instances
/// only store the same bytes twice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FillClaim {
    key: Key,
    version: ETag,
    record: FillRecord,
}

impl Registry {
    /// The same registry for content of other registries: with room of its own, and without the rules of
    /// the lifecycle file, without events, and without requirements on what manifests reference.
    #[must_use]
    pub fn for_mirrors(&self, room: MirrorRoom) -> Self {
        let mut core = Core::clone(self.core());
        let part_bytes = core.options.limits.part_bytes.unwrap_or_default();
        let part_bytes = part_bytes.max(core.store.capabilities().parts.part_bytes);
        let buffer_bytes = room.buffer_bytes.max(part_bytes);
        core.lifecycle = CurrentRules::default();
        core.events = EventOutbox::default();
        core.options.references = ReferencePolicy::Off;
        core.upload_slots = Arc::new(Semaphore::new(room.fills_max));
        core.upload_bytes = MemoryBudget::new(buffer_bytes, part_bytes, room.wait_max);
        core.mappings = MappingPool::new(buffer_bytes);
        core.is_mirror = true;
        Self::of_core(core)
    }

    /// Whether a manifest may have a media type.
    ///
    /// # Errors
    ///
    /// [`Error::MediaTypeNotAllowed`].
    pub fn check_manifest_type(&self, media_type: &MediaType) -> Result<()> {
        self.core().options.check_media_type(media_type)
    }

    /// Whether a blob of so many bytes is stored in several steps, which another instance can take over.
    pub fn is_stored_in_parts(&self, size_bytes: u64) -> bool {
        let core = self.core();
        let parts = core.store.capabilities().parts;
        core.store.capabilities().is_remote
            && size_bytes > core.options.limits.part_bytes.unwrap_or(parts.part_bytes)
    }

    /// Whether readers can follow a blob while it is stored, and how many bytes of it are in memory until
    /// they can.
    pub fn fill_bytes_unreadable(&self) -> Option<u64> {
        let core = self.core();
        let capabilities = core.store.capabilities();
        let part_bytes = core.options.limits.part_bytes.unwrap_or(capabilities.parts.part_bytes);
        let parts = core.options.limits.parts_in_flight.max(1) as u64 + 2;
        capabilities.drops_unrecorded_uploads.then(|| part_bytes.saturating_mul(parts))
    }

    /// The open file of a blob that is being stored; `None`: the store keeps it elsewhere, or not yet.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn staged_file(&self, fill: &StoredFill) -> Result<Option<Arc<OpenFile>>> {
        match fill.upload() {
            Some(upload) => Ok(self.core().store.staged_file(upload).await?),
            None => Ok(None),
        }
    }

    /// Removes claims that are not renewed any more.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn tidy_fills(&self) -> Result<u64> {
        let core = self.core();
        let age_max = core.options.limits.upload_age_max;
        let mut removed = 0;
        let mut request = ListRequest::below(keys::FILLS);
        loop {
            let page = core.store.list(&request).await?;
            let is_old = |written| page.date.duration_since(written).is_ok_and(|age| age > age_max);
            for entry in page.entries.iter().filter(|entry| is_old(entry.last_modified)) {
                core.store.delete(&entry.key, None).await?;
                removed += 1;
            }
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => return Ok(removed),
            }
        }
    }
}

impl Repository {
    /// Reads a tag of a mirrored registry.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn mirror_tag(&self, tag: &Tag) -> Result<MirrorTagVersion> {
        let key = keys::mirror_tag(&self.name, tag);
        Ok(match self.core.find_record::<MirrorTagRecord>(&key).await? {
            FoundRecord::Absent => MirrorTagVersion::default(),
            FoundRecord::Damaged(damaged) => {
                MirrorTagVersion { tag: None, version: Some(damaged.etag) }
            }
            FoundRecord::Valid(read) => {
                let tag = MirrorTag { age: read.age(), digest: read.value.digest };
                MirrorTagVersion { tag: Some(tag), version: Some(read.etag) }
            }
        })
    }

    /// Writes what the mirrored registry says of a tag now. If another instance was faster, that is as good.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn set_mirror_tag(
        &self,
        tag: &Tag,
        digest: &Digest,
        seen: &MirrorTagVersion,
    ) -> Result<()> {
        self.core.require(StoreFeature::MIRROR).await?;
        let key = keys::mirror_tag(&self.name, tag);
        let record = MirrorTagRecord { digest: digest.clone() }.encode();
        self.core.swap(&key, seen.version.as_ref(), record).await?;
        Ok(())
    }

    /// Forgets a tag of a mirrored registry.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn remove_mirror_tag(&self, tag: &Tag) -> Result<()> {
        Ok(self.core.store.delete(&keys::mirror_tag(&self.name, tag), None).await?)
    }

    /// The tags of a mirrored registry that were asked for, in byte order.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn mirror_tags(&self, page: &PageRequest) -> Result<ResultPage<Tag>> {
        let prefix = keys::mirror_tags(&self.name);
        let start_after = page.last.as_ref().map(|last| format!("{prefix}{last}"));
        let limit = page.limit.min(self.core.options.limits.page_items_max);
        let item = |key: &Key| keys::tag_of(key).map(|tag| (tag.to_string(), tag));
        let requests = list_requests_max(limit);
        self.core.list_items(prefix, start_after, limit, requests, item, |_| true).await
    }

    /// Whether the repository has a tag that a client has pushed.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn has_tags(&self) -> Result<bool> {
        let page = PageRequest { limit: 1, last: None };
        match self.tags(&page).await {
            Ok(page) => Ok(!page.items.is_empty()),
            Err(Error::NameUnknown { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Stores a manifest of a mirrored registry.
    ///
    /// # Errors
    ///
    /// As [`Repository::manifest_put`].
    pub async fn mirror_manifest(
        &self,
        digest: &Digest,
        media_type: Option<MediaType>,
        bytes: bytes::Bytes,
    ) -> Result<PushedManifest> {
        self.core.require(StoreFeature::MIRROR).await?;
        let reference = Reference::Digest(digest.clone());
        let push = ManifestPush { reference, tags: Vec::new(), media_type, bytes, condition: None };
        self.manifest_put(push).await
    }

    /// Removes a manifest of a mirrored registry, without a copy. Its blobs go with GC.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`], [`Error::Store`].
    pub async fn evict_manifest(&self, digest: &Digest) -> Result<()> {
        self.delete_without_copy(digest).await.map(|_| ())
    }

    /// Whether content must not be fetched again.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn is_blocked(&self, digest: &Digest) -> Result<bool> {
        self.core.exists(&keys::mirror_block(&self.name, digest)).await
    }

    /// Marks content that must not be fetched again.
    pub(crate) async fn block(&self, digest: &Digest) -> Result<()> {
        let core = &self.core;
        core.require(StoreFeature::MIRROR).await?;
        let key = keys::mirror_block(&self.name, digest);
        let window = core.open_window();
        core.write_new_version(window, &key, &PresenceMark {}, PutPurpose::Delete).await
    }

    /// Links a blob of this size that one of these repositories links, if its bytes are complete. The
    /// mirrored registry must have sent what is in these, and said that it has a blob of this size here, too.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn link_copy(
        &self,
        digest: &Digest,
        size_bytes: u64,
        repositories: &[jreg_oci::RepositoryName],
    ) -> Result<Option<Blob>> {
        let core = &self.core;
        for repository in repositories {
            let window = core.open_window();
            let held = core.touch_shareable_link(window, repository, digest).await?;
            let Some(location) = held.filter(|held| held.size_bytes == size_bytes) else {
                continue;
            };
            let linked =
                core.create_link(window, &self.name, digest, &location, LinkOrigin::Fresh).await?;
            if let LinkOutcome::Here | LinkOutcome::Elsewhere(_) = linked {
                return Ok(Some(Blob { digest: digest.clone(), size_bytes }));
            }
        }
        Ok(None)
    }

    /// Claims to store a blob, for `ttl`. `None`: another instance does. One whose claim has expired
    /// loses its upload.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn claim_fill(
        &self,
        digest: &Digest,
        id: &UploadId,
        ttl: Duration,
    ) -> Result<Option<FillClaim>> {
        let core = &self.core;
        core.require(StoreFeature::MIRROR).await?;
        let key = keys::fill(&self.name, digest);
        let record = FillRecord { upload: id.to_string(), ttl_s: ttl.as_secs() };
        let claim = |version| FillClaim { key: key.clone(), version, record: record.clone() };
        if let Some(written) = core.swap(&key, None, record.encode()).await? {
            return Ok(Some(claim(written.etag)));
        }
        let found = core.find_record::<FillRecord>(&key).await?;
        let old = found.valid();
        if old.is_some_and(|old| old.age() <= Duration::from_secs(old.value.ttl_s)) {
            return Ok(None);
        }
        let old = old.map(|old| old.value.upload.clone());
        let Some(written) = core.swap(&key, found.etag(), record.encode()).await? else {
            return Ok(None);
        };
        if let Some(old) = old.and_then(|old| old.parse().ok()) {
            // One that was finished meanwhile, or never recorded, has nothing to cancel.
            self.upload_cancel(&old).await.ok();
        }
        Ok(Some(claim(written.etag)))
    }

    /// Renews a claim. `None`: another instance has it.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn renew_fill(&self, claim: FillClaim) -> Result<Option<FillClaim>> {
        let FillClaim { key, version, record } = claim;
        let written = self.core.swap(&key, Some(&version), record.encode()).await?;
        Ok(written.map(|written| FillClaim { key, version: written.etag, record }))
    }

    /// Gives a claim up.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn end_fill(&self, claim: &FillClaim) -> Result<()> {
        Ok(self.core.store.delete(&claim.key, None).await?)
    }

    /// Stores a blob of a mirrored registry. `progress` says how much of it readers can see.
    ///
    /// # Errors
    ///
    /// As [`Repository::blob_push`].
    pub async fn fill_blob(
        &self,
        id: &UploadId,
        digest: &Digest,
        chunk: UploadChunk,
        progress: &Arc<FillProgress>,
    ) -> Result<Blob> {
        let _slot = self.upload_slot()?;
        self.push_whole(id, digest, chunk, Some(progress)).await
    }
}
