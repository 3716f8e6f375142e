//! Reading manifests, and touching those that a push relies on.
//!
//! Reading changes nothing: a tag whose manifest is absent counts as absent and stays, since a backup may be restored in
//! two steps and a bucket replicated in any order; a collector removes it once it was so for a grace.

use std::sync::Arc;
use std::time::Duration;

use jreg_oci::{Digest, Reference, Tag};
use jreg_storage::{ETag, Key};

use crate::attempts::SwapAttempts;
use crate::cache::CachedRecord;
use crate::core::Core;
use crate::damaged::{DamagedRecord, FoundRecord, absent_if_damaged};
use crate::keys;
use crate::manifest::MANIFEST_CONTENDED;
use crate::record::{ManifestRecord, VersionedRecord};
use crate::rules::Rule;
use crate::tag_record::TagRecord;
use crate::window::{TOUCH_AGE, WriteWindow};
use crate::{Error, Repository, Result, StoredManifest, TouchPolicy};

/// How often a tag that leads nowhere is followed again before it counts as dangling.
const FOLLOWS_MAX: u32 = 8;

impl Repository {
    /// Reads a manifest (end-3). A tag is looked up each time; what it leads to may be cached.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`] only if it is definitely not there; [`Error::Damaged`] if its
    /// bytes are not those of its digest; [`Error::Store`]. To a client that may push
    /// ([`TouchPolicy::IfOld`]) a damaged tag or manifest is absent, so that it pushes it again, and by its digest also
    /// one that the list of its subject's referrers does not have.
    pub async fn manifest_get(
        &self,
        reference: &Reference,
        touch: TouchPolicy,
    ) -> Result<Arc<StoredManifest>> {
        let touch = self.core.touch_policy(touch);
        let found = match reference {
            Reference::Digest(digest) => self.find_manifest(digest, touch).await,
            Reference::Tag(tag) if self.shows_mirrored => match self.mirror_tag(tag).await?.tag {
                Some(of) => self.find_manifest(&of.digest, touch).await,
                None => Ok(None),
            },
            Reference::Tag(tag) => self.follow_tag(tag, touch).await,
        };
        let found = match touch {
            TouchPolicy::IfOld => absent_if_damaged(found)?,
            TouchPolicy::Never => found?,
        };
        let found = found.ok_or_else(|| self.unknown(reference))?;
        match self.is_pushed_in_part(reference, &found, touch).await? {
            true => Err(self.unknown(reference)),
            false => Ok(found),
        }
    }

    /// Whether a push ended after it wrote this manifest, and before the list of its subject's referrers had it. A client that
    /// asks whether it must push it would leave it out of that list for ever.
    async fn is_pushed_in_part(
        &self,
        reference: &Reference,
        found: &StoredManifest,
        touch: TouchPolicy,
    ) -> Result<bool> {
        let is_asked = touch == TouchPolicy::IfOld && matches!(reference, Reference::Digest(_));
        match &found.subject {
            Some(subject) if is_asked && !self.shows_mirrored => {
                let entry = keys::referrer(&self.name, subject, &found.digest);
                Ok(!self.core.exists(&entry).await?)
            }
            _ => Ok(false),
        }
    }

    /// What a tag leads to. A tag without its manifest, seen twice at the same version, counts as
    /// absent: a delete broke off, or the manifest is lost, or has yet to be restored. Nothing is
    /// removed here.
    async fn follow_tag(
        &self,
        tag: &Tag,
        touch: TouchPolicy,
    ) -> Result<Option<Arc<StoredManifest>>> {
        let key = keys::tag(&self.name, tag);
        let mut dangling: Option<ETag> = None;
        for _ in 0..FOLLOWS_MAX {
            let Some(read) = self.core.read::<TagRecord>(&key).await? else { return Ok(None) };
            let Some(target) = read.value.live() else { return Ok(None) };
            if dangling.as_ref() == Some(&read.etag) {
                return self.dangling(tag, &target.digest);
            }
            let found = self.find_manifest(&target.digest, touch).await?;
            if found.is_some() {
                return Ok(found);
            }
            dangling = Some(read.etag);
        }
        Err(Error::Busy { what: "the tag is being changed by too many others" })
    }

    /// What a tag without its manifest is: absent, unless others may still fill the store.
    fn dangling(&self, tag: &Tag, digest: &Digest) -> Result<Option<Arc<StoredManifest>>> {
        let name = &self.name;
        match self.core.is_read_only() {
            false => Ok(None),
            true => Err(Error::NotArrived { what: format!("manifest {digest} of {name}:{tag}") }),
        }
    }

    pub(crate) async fn find_manifest(
        &self,
        digest: &Digest,
        touch: TouchPolicy,
    ) -> Result<Option<Arc<StoredManifest>>> {
        let core = &self.core;
        if let Some(manifest) = self.cached_manifest(digest, touch) {
            return Ok(Some(manifest));
        }
        let _reading = core.manifest_reads.acquire().await.map_err(|_| Error::Stopped)?;
        // Another request may have read it while this one waited.
        if let Some(manifest) = self.cached_manifest(digest, touch) {
            return Ok(Some(manifest));
        }
        let (now, at) = (core.clock.monotonic(), core.clock.now());
        let key = keys::manifest(&self.name, digest);
        let ticket = core.cache.take_ticket(&self.name, digest);
        let read = match touch {
            TouchPolicy::Never => core.read_manifest(&key, digest).await?,
            TouchPolicy::IfOld => {
                core.touch_manifest(core.open_window(), &key, digest, TOUCH_AGE).await?
            }
        };
        let Some(VersionedManifest { manifest, record }) = read else { return Ok(None) };
        let (age, manifest) = (record.age(), Arc::new(manifest));
        let seen = CachedRecord::new(Arc::clone(&manifest), age, at);
        core.cache.add_manifest(ticket, now, &self.name, digest, seen);
        Ok(Some(manifest))
    }

    pub(crate) fn cached_manifest(
        &self,
        digest: &Digest,
        touch: TouchPolicy,
    ) -> Option<Arc<StoredManifest>> {
        let core = &self.core;
        let seen = core.cache.manifest(core.clock.monotonic(), &self.name, digest)?;
        let is_good = touch == TouchPolicy::Never || seen.is_young(core.clock.now());
        is_good.then_some(seen.value)
    }
}

/// A version of a manifest whose bytes are those of its digest.
pub(crate) struct VersionedManifest {
    pub(crate) manifest: StoredManifest,
    record: VersionedRecord<ManifestRecord>,
}

impl Core {
    /// Reads a manifest; `None` if it is absent.
    async fn read_manifest(&self, key: &Key, digest: &Digest) -> Result<Option<VersionedManifest>> {
        let Some(record) = self.read::<ManifestRecord>(key).await? else { return Ok(None) };
        let manifest = self.verified(key.clone(), digest, record.value.clone()).await?;
        Ok(Some(VersionedManifest { manifest, record }))
    }

    /// A manifest that was found, as damaged if its bytes are not those of its digest.
    pub(crate) async fn damaged_if_wrong(
        &self,
        key: &Key,
        digest: &Digest,
        found: FoundRecord<ManifestRecord>,
    ) -> Result<FoundRecord<ManifestRecord>> {
        let FoundRecord::Valid(record) = found else { return Ok(found) };
        match self.verified(key.clone(), digest, record.value.clone()).await {
            Ok(_) => Ok(FoundRecord::Valid(record)),
            Err(Error::Damaged { reason, .. }) => {
                Ok(FoundRecord::Damaged(DamagedRecord::new(record.etag, record.bytes, reason)))
            }
            Err(error) => Err(error),
        }
    }

    /// W1 for a manifest of this age, unless its bytes are wrong: a new version of those would be trusted.
    pub(crate) async fn touch_manifest(
        &self,
        window: WriteWindow,
        key: &Key,
        digest: &Digest,
        touch_age: Duration,
    ) -> Result<Option<VersionedManifest>> {
        let mut attempts = SwapAttempts::new(MANIFEST_CONTENDED);
        loop {
            attempts.next().await?;
            let Some(read) = self.read_manifest(key, digest).await? else { return Ok(None) };
            let VersionedManifest { manifest, record } = read;
            if let Some(record) = self.touch_version_of(window, key, record, touch_age).await? {
                return Ok(Some(VersionedManifest { manifest, record }));
            }
        }
    }

    /// W1 for a manifest that an index refers to, which is mostly young: it is read only to be touched.
    /// `false` if it is absent, or damaged.
    pub(crate) async fn touch_child(
        &self,
        window: WriteWindow,
        key: &Key,
        digest: &Digest,
        touch_age: Duration,
    ) -> Result<bool> {
        let Some(stat) = self.stat(key).await? else { return Ok(false) };
        let age = stat.date.duration_since(stat.last_modified).unwrap_or_default();
        if age < touch_age || !self.rules.keep(Rule::Touch) {
            return Ok(true);
        }
        let _room = self.reserve_touch_memory(stat.size_bytes).await?;
        let touched = self.touch_manifest(window, key, digest, touch_age).await;
        Ok(absent_if_damaged(touched)?.is_some())
    }

    /// A manifest that was read, if its bytes are those of its digest.
    pub(crate) async fn verified(
        &self,
        key: Key,
        digest: &Digest,
        record: ManifestRecord,
    ) -> Result<StoredManifest> {
        let (digest, length) = (digest.clone(), record.bytes.len());
        self.compute.run(length, move || verified(&key, &digest, record)).await?
    }
}

pub(crate) fn verified(
    key: &Key,
    digest: &Digest,
    record: ManifestRecord,
) -> Result<StoredManifest> {
    let actual = Digest::of(digest.algorithm(), &record.bytes);
    if actual != *digest {
        let reason = format!("its bytes have digest {actual}");
        return Err(Error::Damaged { key: key.to_string(), reason });
    }
    let ManifestRecord { header, bytes } = record;
    let (media_type, subject) = (header.media_type, header.subject);
    Ok(StoredManifest { digest: actual, media_type, bytes, subject })
}
