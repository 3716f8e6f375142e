//! Pushing manifests. `manifest_read.rs` reads them.
//!
//! A push writes in the order in which things depend on each other: what the manifest refers to
//! is touched (W1), with the hints of tags beside the reads in a store that others share, then the
//! manifest is written, then its tags and its referrer entry. So a tag that can be seen has its manifest, and a manifest that was
//! acknowledged has its blobs. A delete (`delete.rs`) goes the other way round.
//!
//! A manifest keeps the media type that it was first pushed with, until it is deleted: a client that
//! pulls by digest or by tag would else be given the same bytes as something else, by a client that may
//! push and not delete.

use std::collections::HashSet;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::FutureExt;
use futures::future::{BoxFuture, join, try_join, try_join_all, try_join4, try_join5};
use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_lifecycle::{ImmutableRefusal, QuotaUsage};
use jreg_oci::{
    Algorithm, Digest, Manifest, ManifestReference, MediaType, Reference, ReferenceKind, Tag,
};
use jreg_storage::{ETag, Key, PutPurpose};
use tokio::sync::Semaphore;

use crate::attempts::SwapAttempts;
use crate::damaged::{DamagedRecord, FoundRecord, absent_if_damaged};
use crate::keys;
use crate::manifest_header::{manifest_header, referrer_entry};
use crate::record::{
    ManifestHeader, ManifestOrigin, ManifestRecord, PresenceMark, VersionedRecord, header_line,
};
use crate::rules::Rule;
use crate::tag::{
    KnownTag, ManifestRenewal, TagChange, TagPush, TagTransition, TagVersion, TaggedManifest,
};
use crate::tag_record::TagRecord;
use crate::window::{TOUCH_AGE, WriteWindow};
use crate::{ChangeId, Error, ReferencePolicy, ReferencePrecondition, Repository, Result};

pub(crate) const MANIFEST_CONTENDED: &str = "the manifest is being changed by too many others";

/// A manifest to push.
#[derive(Clone, Debug)]
pub struct ManifestPush {
    /// The tag or digest in the path.
    pub reference: Reference,
    /// Further tags, with a digest in the path (end-7b).
    pub tags: Vec<Tag>,
    /// The Content-Type, if one was given.
    pub media_type: Option<MediaType>,
    pub bytes: Bytes,
    /// What must hold of `reference` for the push to happen.
    pub condition: Option<ReferencePrecondition>,
}

/// What a push made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PushedManifest {
    pub digest: Digest,
    /// Its subject, if it has one (`OCI-Subject`).
    pub subject: Option<Digest>,
    /// The tags of [`ManifestPush::tags`] that were written (`OCI-Tag`).
    pub tags: Vec<Tag>,
    /// What became of each tag.
    pub transitions: Vec<TagTransition>,
    /// Why further tags were not written: they are immutable, and point elsewhere.
    pub refused: Vec<ImmutableRefusal>,
    /// The quotas that are nearly used now.
    pub nearly_used: Vec<QuotaUsage>,
}

impl PushedManifest {
    /// The same without what refused tags point to.
    #[must_use]
    pub fn without_targets(mut self) -> Self {
        let refused = self.refused.into_iter().map(ImmutableRefusal::without_targets);
        self.refused = refused.collect();
        self
    }
}

/// The tags of a push, judged by the rules of the file.
struct JudgedTags {
    allowed: Vec<(Tag, TagVersion)>,
    refused: Vec<ImmutableRefusal>,
}

/// What became of the tags of a push.
#[derive(Default)]
struct TagsSet {
    transitions: Vec<TagTransition>,
    refused: Vec<ImmutableRefusal>,
}

/// The copy of a deleted manifest that a restore pushes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RestoredCopy {
    /// The delete that made it.
    pub(crate) change: ChangeId,
    /// Opened before it was looked for, and whether it was purged.
    pub(crate) window: WriteWindow,
}

/// A push that has been understood, before anything was read or written.
struct PushPlan {
    /// The copy of a delete that is pushed.
    restored: Option<RestoredCopy>,
    digest: Digest,
    manifest: Manifest,
    record: ManifestRecord,
    /// The tags to set: that of the path, and the further ones.
    tags: Vec<Tag>,
    reference: Reference,
    condition: Option<ReferencePrecondition>,
    /// Whether it sets a tag to what it pointed to before.
    is_restore: bool,
}

/// A version of the manifest that is pushed.
struct SeenManifest {
    etag: ETag,
    /// Its header, unless that cannot be decoded.
    header: Option<SeenHeader>,
    /// What is wrong with it.
    damaged: Option<DamagedRecord>,
}

/// The header of a stored manifest.
struct SeenHeader {
    value: ManifestHeader,
    /// As it is stored.
    line: Bytes,
}

/// What the reads of reads found, to be written over.
struct PushReads {
    manifest: Option<SeenManifest>,
    /// The tags to set, that of the path first.
    tags: Vec<(Tag, TagVersion)>,
    /// Why further tags are not set.
    refused: Vec<ImmutableRefusal>,
    /// Whether the catalog lists the repository, by an entry that is young.
    is_listed: bool,
    /// The change of which an event was queued, by which the manifest comes into being if it is absent.
    queued: Option<ChangeId>,
}

impl PushPlan {
    /// Holds the condition against what the reads saw. A tag's is checked again on the version
    /// that is written over; a manifest's version is the one that is written over.
    fn check_condition(&self, reads: &PushReads) -> Result<()> {
        let Some(condition) = &self.condition else { return Ok(()) };
        match (&self.reference, reads.tags.first()) {
            (Reference::Tag(_), Some((_, seen))) => condition.check_tag(&self.reference, seen),
            (reference, _) => {
                condition.check(reference, reads.manifest.as_ref().and(reference.digest()))
            }
        }
    }

    /// What its tags are set to.
    fn target(&self) -> TaggedManifest {
        TaggedManifest {
            digest: self.digest.clone(),
            media_type: self.manifest.media_type.clone(),
            size: self.record.header.size,
            is_restore: self.is_restore,
        }
    }

    /// Whether the path of the request names this tag.
    fn is_of_path(&self, tag: &Tag) -> bool {
        self.reference.tag() == Some(tag)
    }

    /// Whether the condition is about the manifest itself.
    fn is_conditional(&self) -> bool {
        self.condition.is_some() && self.reference.digest().is_some()
    }

    /// Whether a version is what this push would write. What a restore has written it may remove again.
    fn is_served_by(&self, seen: &SeenManifest) -> bool {
        let is_same = seen.header.as_ref().is_some_and(|SeenHeader { value: stored, .. }| {
            stored.media_type.is(self.manifest.media_type.as_str())
                && (stored.restored.is_none() || self.restored.is_some())
        });
        is_same && seen.damaged.is_none()
    }

    /// What the header says of a restore: only a version of which no client has pushed the manifest since.
    fn restored_over(&self, seen: Option<&SeenHeader>) -> Option<ChangeId> {
        let copy = self.restored?;
        match seen {
            Some(seen) => seen.value.restored,
            None => Some(copy.change),
        }
    }

    /// The stored type wins over the one of a later push.
    fn check_type(&self, reads: &PushReads) -> Result<()> {
        match &reads.manifest {
            Some(SeenManifest { header: Some(stored), .. })
                if !stored.value.media_type.is(self.manifest.media_type.as_str()) =>
            {
                let (digest, stored) = (self.digest.clone(), stored.value.media_type.clone());
                Err(Error::ManifestTypeConflict { digest, stored })
            }
            _ => Ok(()),
        }
    }
}

impl Repository {
    /// Stores a manifest, and points tags to it (end-7).
    ///
    /// # Errors
    ///
    /// [`Error::ManifestTooLarge`], [`Error::ManifestInvalid`],
    /// [`Error::ManifestDigestMismatch`], [`Error::ManifestTypeConflict`],
    /// [`Error::ReferencesUnknown`] by the reference policy,
    /// [`Error::PreconditionFailed`]: what it is about is as it was. [`Error::Busy`],
    /// [`Error::Interrupted`], [`Error::Store`]: the manifest may be there; pushing again helps.
    pub async fn manifest_put(&self, push: ManifestPush) -> Result<PushedManifest> {
        let further = push.tags.clone();
        let plan = self.plan_push(push).await?;
        self.carry_out(plan, further).await
    }

    /// Pushes the copy that a delete has made.
    pub(crate) async fn put_restored(
        &self,
        push: ManifestPush,
        copy: RestoredCopy,
    ) -> Result<PushedManifest> {
        let plan = self.plan_push(push).await?;
        let plan = PushPlan { restored: Some(copy), ..plan };
        self.carry_out(plan, Vec::new()).await
    }

    /// Pushes a manifest under a tag, by its digest of any algorithm, if a condition on the tag holds.
    pub(crate) async fn put_tag(
        &self,
        push: ManifestPush,
        tag: &Tag,
        condition: Option<ReferencePrecondition>,
        restored: Option<RestoredCopy>,
    ) -> Result<TagTransition> {
        let push = ManifestPush { tags: vec![tag.clone()], ..push };
        let plan = self.plan_push(push).await?;
        let reference = Reference::Tag(tag.clone());
        let plan = PushPlan { reference, condition, restored, is_restore: true, ..plan };
        let pushed = self.carry_out(plan, Vec::new()).await?;
        pushed.transitions.into_iter().next().ok_or(Error::Stopped)
    }

    async fn carry_out(&self, plan: PushPlan, further: Vec<Tag>) -> Result<PushedManifest> {
        let (size, references) = (plan.record.bytes.len() as u64, &plan.manifest.references);
        let charge = Box::pin(self.check_manifest_quota(&plan.digest, size, references)).await?;
        let mut attempts = SwapAttempts::new(MANIFEST_CONTENDED);
        let mut made = Vec::new();
        loop {
            attempts.next().await?;
            let window = match plan.restored {
                Some(copy) => copy.window,
                None => self.core.open_window(),
            };
            // Boxed: together they would make the future of every push large.
            let reads = Box::pin(self.read_for_push(window, &plan)).await?;
            // A delete got between the reads and this write: what the reads found is void.
            let writing = Box::pin(self.write_manifest(window, &plan, reads, &mut made));
            if let Some(set) = writing.await? {
                let nearly_used = charge.commit(&self.core, &self.rules);
                let subject = plan.manifest.subject.map(|subject| subject.digest);
                let TagsSet { transitions, refused } = set;
                let transitions = with_earlier(transitions, &made);
                let is_set = |tag: &Tag| transitions.iter().any(|set| set.tag == *tag);
                let tags = further.into_iter().filter(is_set).collect();
                return Ok(PushedManifest {
                    digest: plan.digest,
                    subject,
                    tags,
                    transitions,
                    refused,
                    nearly_used,
                });
            }
        }
    }

    async fn plan_push(&self, push: ManifestPush) -> Result<PushPlan> {
        let ManifestPush { reference, tags, media_type, bytes, condition } = push;
        let max_bytes = self.core.options.limits.manifest_bytes_max;
        let size = bytes.len() as u64;
        if size > max_bytes {
            return Err(Error::ManifestTooLarge { max_bytes });
        }
        let (of, read) = (reference.clone(), bytes.clone());
        let understand = move || {
            let digest = content_digest(&of, &read)?;
            Ok::<_, Error>((digest, Manifest::parse(media_type.as_ref(), &read)?))
        };
        let (digest, manifest) = self.core.compute.run(bytes.len(), understand).await??;
        self.core.options.check_media_type(&manifest.media_type)?;
        let origin = self.core.is_mirror.then_some(ManifestOrigin::Mirror);
        let header = ManifestHeader { origin, ..manifest_header(&manifest, size) };
        let mut all_tags: Vec<_> = reference.tag().cloned().into_iter().collect();
        all_tags.extend(tags.into_iter().filter(|tag| reference.tag() != Some(tag)));
        let record = ManifestRecord { header, bytes };
        Ok(PushPlan {
            restored: None,
            is_restore: false,
            digest,
            manifest,
            record,
            tags: all_tags,
            reference,
            condition,
        })
    }

    /// All reads of a push, at the same time: W1 for what the manifest refers to and for the
    /// catalog's entry, and the versions of what will be written over. Hints and entries are
    /// mostly new, so they are not read.
    async fn read_for_push(&self, window: WriteWindow, plan: &PushPlan) -> Result<PushReads> {
        let queued = self.new_push_event();
        let reads = self.read_beside_event(window, plan, queued).await;
        if let (Err(_), Some(change)) = (&reads, queued) {
            self.withdraw_event(change).await;
        }
        reads
    }

    async fn read_beside_event(
        &self,
        window: WriteWindow,
        plan: &PushPlan,
        queued: Option<ChangeId>,
    ) -> Result<PushReads> {
        let core = &self.core;
        let below = (&plan.digest, &*plan.manifest.references);
        let held = self.hold_for_tags(window, &plan.tags, below).await?;
        let catalog_key = keys::catalog(&self.name);
        let manifest_key = keys::manifest(&self.name, &plan.digest);
        let width = &Semaphore::new(core.reads_in_flight_max());
        let tags = plan.tags.iter().map(|tag| self.read_and_hint(window, plan, tag, width));
        let ((), catalog, manifest, tags, ()) = try_join5(
            self.check_references(window, plan, &held, width),
            with_permit(width, core.touch_record::<PresenceMark>(window, &catalog_key, |_| true))
                .map(absent_if_damaged),
            with_permit(width, self.look_up(plan, &manifest_key)),
            try_join_all(tags),
            self.queue_manifest_push(window, &plan.digest, &plan.record.header, queued),
        )
        .await?;
        let JudgedTags { allowed, refused } = self.judge_tags(plan, tags)?;
        let reads =
            PushReads { manifest, tags: allowed, refused, is_listed: catalog.is_some(), queued };
        plan.check_condition(&reads)?;
        if core.rules.keep(Rule::KeepType) {
            plan.check_type(&reads)?;
        }
        Ok(reads)
    }

    /// The tags that may be set, and why others may not. If the tag of the path may not, nothing is done.
    fn judge_tags(&self, plan: &PushPlan, tags: Vec<(Tag, TagVersion)>) -> Result<JudgedTags> {
        let (mut allowed, mut refused) = (Vec::new(), Vec::new());
        for (tag, seen) in tags {
            match self.check_move(&tag, &seen, &plan.digest) {
                Ok(()) => allowed.push((tag, seen)),
                Err(refusal) if plan.is_of_path(&tag) => return Err(refusal.into()),
                Err(refusal) => refused.push(*refusal),
            }
        }
        Ok(JudgedTags { allowed, refused })
    }

    /// Whether the hint of a tag is written before the manifest: that of an immutable tag before anything is
    /// read, in a store that others share that of any tag with the reads.
    fn is_hinted_early(&self, tag: &Tag) -> bool {
        let is_shared = self.core.is_shared() && self.core.rules.keep(Rule::HintWithReads);
        is_shared || self.immutable_rule(tag).is_some()
    }

    /// Reads a tag that is to be set. A delete that reads the manifest that this push writes sees the hint.
    async fn read_and_hint(
        &self,
        window: WriteWindow,
        plan: &PushPlan,
        tag: &Tag,
        width: &Semaphore,
    ) -> Result<(Tag, TagVersion)> {
        let core = &self.core;
        let (key, hint) =
            (keys::tag(&self.name, tag), keys::tag_hint(&self.name, &plan.digest, tag));
        let writes = self.is_hinted_early(tag) && self.immutable_rule(tag).is_none();
        let hinting = async {
            match writes {
                true => {
                    let write = core.overwrite_record(window, &hint, &PresenceMark {});
                    with_permit(width, write).await
                }
                false => Ok(()),
            }
        };
        let reading = with_permit(width, core.find_record::<TagRecord>(&key));
        let (seen, ()) = try_join(reading, hinting).await?;
        Ok((tag.clone(), seen))
    }

    /// The version of a manifest that is there, and its type as far as that can be read: a push
    /// repairs what is damaged.
    async fn look_up(&self, plan: &PushPlan, key: &Key) -> Result<Option<SeenManifest>> {
        Ok(match self.core.find_record::<ManifestRecord>(key).await? {
            FoundRecord::Absent => None,
            FoundRecord::Damaged(damaged) => {
                let etag = damaged.etag.clone();
                Some(SeenManifest { etag, header: None, damaged: Some(damaged) })
            }
            FoundRecord::Valid(VersionedRecord { value, bytes, etag, .. }) => {
                // A copy: a part of the record would keep all of it in memory.
                let line = Bytes::copy_from_slice(header_line(&bytes).unwrap_or_default());
                let damaged = (value.bytes != plan.record.bytes).then(|| {
                    let reason = "its bytes have another digest".to_owned();
                    DamagedRecord::new(etag.clone(), bytes, reason)
                });
                let header = Some(SeenHeader { value: value.header, line });
                Some(SeenManifest { etag, header, damaged })
            }
        })
    }

    /// W1 for all that a manifest refers to; `held` are manifests for which it is done.
    async fn check_references(
        &self,
        window: WriteWindow,
        plan: &PushPlan,
        held: &HashSet<Digest>,
        width: &Semaphore,
    ) -> Result<()> {
        let policy = self.core.options.references;
        let references = plan.manifest.references.iter();
        let left = references.filter(|reference| !held.contains(&reference.digest));
        let checks = left.map(|reference| async move {
            let touched = self.touch_reference(window, reference, TOUCH_AGE);
            let is_there = with_permit(width, touched).await?;
            let is_missing = !is_there && is_required(policy, reference);
            Ok::<_, Error>(is_missing.then(|| reference.digest.clone()))
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let checks: Vec<_> = checks.collect();
        let missing: Vec<_> = stream::iter(checks)
            .buffered(self.core.reads_in_flight_max())
            .try_filter_map(|missing| async { Ok(missing) })
            .try_collect()
            .await?;
        if missing.is_empty() {
            return Ok(());
        }
        Err(Error::ReferencesUnknown { name: self.name.clone(), missing })
    }

    async fn touch_reference(
        &self,
        window: WriteWindow,
        reference: &ManifestReference,
        touch_age: Duration,
    ) -> Result<bool> {
        let (core, digest) = (&self.core, &reference.digest);
        // An index may list layers (build caches do); whichever exists counts.
        if reference.kind.may_be_manifest() {
            let key = keys::manifest(&self.name, digest);
            let held = match core.rules.keep(Rule::TouchChildren) {
                true => core.touch_child(window, &key, digest, touch_age).await?,
                false => core.exists(&key).await?,
            };
            if held {
                return Ok(true);
            }
        }
        Ok(core.touch_link(window, &self.name, digest).await?.is_some())
    }

    /// W2: the manifest with its hints and the archive of the changes that this one replaces, then what
    /// makes it found. `None`: start over; `made` has what became of tags until then.
    async fn write_manifest(
        &self,
        window: WriteWindow,
        plan: &PushPlan,
        reads: PushReads,
        made: &mut Vec<TagTransition>,
    ) -> Result<Option<TagsSet>> {
        let core = &self.core;
        let key = keys::manifest(&self.name, &plan.digest);
        let _turn = core.manifest_locks.lock_for_push(&key).await;
        core.check_window(window)?;
        let is_there = reads.manifest.is_some();
        let hints = reads.tags.iter().map(|(tag, seen)| async move {
            // A tag that points here already has its hint, as long as both are there.
            match seen {
                seen if is_there && points_to(seen, &plan.digest) => Ok(()),
                _ if self.is_hinted_early(tag) => Ok(()),
                _ => {
                    let key = keys::tag_hint(&self.name, &plan.digest, tag);
                    core.ensure_record(window, &key, &PresenceMark {}).await
                }
            }
        });
        let listing = async {
            match reads.is_listed {
                true => Ok(()),
                false => {
                    core.ensure_record(window, &keys::catalog(&self.name), &PresenceMark {}).await
                }
            }
        };
        let listing = async {
            match reads.queued.filter(|_| is_there) {
                None => listing.await,
                Some(change) => join(listing, self.withdraw_event(change)).await.0,
            }
        };
        let target = &plan.target();
        let archives = reads.tags.iter().map(|(tag, seen)| async move {
            match points_to(seen, &plan.digest) {
                true => Ok((false, None)),
                false => {
                    let queueing = self.queue_tag_set(window, tag, seen, target, reads.queued);
                    try_join(self.archive_early(window, tag, seen), queueing).await
                }
            }
        });
        // A tag that points here keeps its hint, and a hint that was written before everything was read is early enough.
        let is_hinted = |(tag, seen): &(Tag, TagVersion)| {
            points_to(seen, &plan.digest) || self.immutable_rule(tag).is_some()
        };
        let serves_at_once = !core.is_shared()
            || reads.tags.iter().all(is_hinted)
            || !core.rules.keep(Rule::ServeAfterHint);
        let seen = (reads.manifest.as_ref(), reads.queued);
        let manifest = self.store_manifest(window, plan, seen, serves_at_once);
        let (written, _, archived, ()) =
            try_join4(manifest, try_join_all(hints), try_join_all(archives), listing).await?;
        if !written {
            return Ok(None);
        }
        let known = reads.tags.into_iter().zip(archived);
        let known = known.map(|((tag, seen), (is_archived, queued))| {
            (tag, KnownTag { seen, is_archived, queued, window })
        });
        let setting = self.set_tags(window, plan, known.collect(), made);
        let (set, ()) = try_join(setting, self.write_referrer(window, plan)).await?;
        Ok(set.map(|mut set| {
            set.refused.extend(reads.refused);
            set
        }))
    }

    /// Writes the manifest over the version that was seen. A version that another push has written
    /// since serves this push, too: what it refers to was touched by the other push, and it is as
    /// young as ours would be. `serves_at_once`: every hint was written before that version was seen. Otherwise a delete may
    /// have read the other push's version and missed a hint, so only one serves that comes after it.
    /// `false`: it is gone, or something else by now; start over.
    ///
    /// In this process one writes at a time, and those who waited for that look first.
    async fn store_manifest(
        &self,
        window: WriteWindow,
        plan: &PushPlan,
        (seen, queued): (Option<&SeenManifest>, Option<ChangeId>),
        serves_at_once: bool,
    ) -> Result<bool> {
        let (core, key) = (&self.core, &keys::manifest(&self.name, &plan.digest));
        if seen.is_some() && !core.rules.keep(Rule::Rewrite) {
            return Ok(true);
        }
        let (locks, writing) = (&core.manifest_locks, core.manifest_locks.write_lock(key));
        // What begins to be written from here on is later than the hints of this push.
        let begun = locks.begun_writes(key);
        let mut attempts = SwapAttempts::new(MANIFEST_CONTENDED);
        let (mut seen_since, mut may_serve) = (None, serves_at_once);
        while attempts.try_next().await {
            let seen = seen_since.as_ref().or(seen);
            if attempts.is_retry() && locks.written_since(key, begun).is_some() {
                // Only to be looked at.
            } else if let Ok(_alone) = writing.try_lock() {
                let write = locks.begin_write(key);
                if let Some(etag) = self.swap_manifest(window, plan, key, (seen, queued)).await? {
                    locks.note_written(key, write, etag);
                    return Ok(true);
                }
            } else {
                drop(writing.lock().await);
            }
            match self.look_up(plan, key).await? {
                Some(now) if seen.is_some_and(|seen| seen.etag == now.etag) => {}
                Some(now) if !plan.is_served_by(&now) || plan.is_conditional() => return Ok(false),
                Some(now)
                    if may_serve || locks.written_since(key, begun).as_ref() == Some(&now.etag) =>
                {
                    return Ok(true);
                }
                Some(now) => (seen_since, may_serve) = (Some(now), true),
                None if seen.is_some() => return Ok(false),
                None => {}
            }
        }
        Ok(false)
    }

    /// Returns the version that was written; `None` if another push was first. Others may remember what was there
    /// before, and must not be told of it any more.
    async fn swap_manifest(
        &self,
        window: WriteWindow,
        plan: &PushPlan,
        key: &Key,
        (seen, queued): (Option<&SeenManifest>, Option<ChangeId>),
    ) -> Result<Option<ETag>> {
        let (core, bytes) = (&self.core, self.record_over(plan, seen, queued));
        core.cache.forget(&self.name, &plan.digest);
        let swapped = core.swap_within(window, key, seen.map(|seen| &seen.etag), bytes).await;
        core.cache.forget(&self.name, &plan.digest);
        let Some(written) = swapped? else { return Ok(None) };
        if let Some(damaged) = seen.and_then(|seen| seen.damaged.as_ref()) {
            core.damage.note_replaced(key, damaged);
        }
        Ok(Some(written.etag))
    }

    /// The bytes to write over the version that was seen: what that says of when the manifest came into
    /// being stays.
    fn record_over(
        &self,
        plan: &PushPlan,
        seen: Option<&SeenManifest>,
        queued: Option<ChangeId>,
    ) -> Bytes {
        let seen = seen.and_then(|seen| seen.header.as_ref());
        let change = match seen {
            Some(seen) => seen.value.change,
            None => queued.or_else(|| Some(ChangeId::after(None, self.core.clock.now()))),
        };
        let restored = plan.restored_over(seen);
        let header = ManifestHeader { change, restored, ..plan.record.header.clone() };
        plan.record.encode_as(&header, seen.map(|seen| &*seen.line))
    }

    /// Sets the tags of a push. `None`: the manifest is gone, start over; what became of tags is in `made`.
    async fn set_tags(
        &self,
        window: WriteWindow,
        plan: &PushPlan,
        seen: Vec<(Tag, KnownTag)>,
        made: &mut Vec<TagTransition>,
    ) -> Result<Option<TagsSet>> {
        let target = &plan.target();
        let again = PushedAgain { repository: self, plan, window };
        let renewal: Option<&dyn ManifestRenewal> = match self.core.is_shared() {
            true => Some(&again),
            false => None,
        };
        let sets = seen.into_iter().map(|(tag, seen)| async move {
            let is_of_path = plan.is_of_path(&tag);
            let condition = plan.condition.as_ref().filter(|_| is_of_path);
            let change = TagChange::Set(TagPush { window, target, renewal });
            match self.change_tag(&tag, condition, Some(seen), change).await {
                // It was set elsewhere since it was read.
                Err(Error::Immutable(refusal)) if !is_of_path => Ok(Err(refusal)),
                changed => changed.map(Ok),
            }
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let sets: Vec<_> = sets.collect();
        let (mut set, mut is_gone) = (TagsSet::default(), false);
        for changed in try_join_all(sets).await? {
            match changed {
                Ok(Some(transition)) => set.transitions.push(transition),
                Ok(None) => is_gone = true,
                Err(refusal) => set.refused.push(*refusal),
            }
        }
        if is_gone {
            made.append(&mut set.transitions);
            return Ok(None);
        }
        Ok(Some(set))
    }

    async fn write_referrer(&self, window: WriteWindow, plan: &PushPlan) -> Result<()> {
        let Some(subject) = &plan.manifest.subject else { return Ok(()) };
        let key = keys::referrer(&self.name, &subject.digest, &plan.digest);
        let entry = referrer_entry(&plan.manifest, &plan.digest, plan.record.header.size);
        // Anew even if it is there: a delete that was given up may still be about to remove it.
        self.core.write_new_version(window, &key, &entry, PutPurpose::Content).await
    }

    pub(crate) fn unknown(&self, reference: &Reference) -> Error {
        Error::ManifestUnknown { name: self.name.clone(), reference: reference.clone() }
    }
}

/// What became of tags, of which some may have been set before the push started over.
fn with_earlier(transitions: Vec<TagTransition>, made: &[TagTransition]) -> Vec<TagTransition> {
    let earlier = |set: &TagTransition| made.iter().find(|made| made.change == set.change);
    transitions.into_iter().map(|set| earlier(&set).cloned().unwrap_or(set)).collect()
}

/// A push that writes its manifest again.
struct PushedAgain<'a> {
    repository: &'a Repository,
    plan: &'a PushPlan,
    window: WriteWindow,
}

impl fmt::Debug for PushedAgain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PushedAgain").field("digest", &self.plan.digest).finish_non_exhaustive()
    }
}

impl ManifestRenewal for PushedAgain<'_> {
    fn renew(&self) -> BoxFuture<'_, Result<bool>> {
        let Self { repository, plan, window } = *self;
        Box::pin(async move {
            let key = keys::manifest(&repository.name, &plan.digest);
            match repository.look_up(plan, &key).await? {
                Some(seen) if plan.is_served_by(&seen) => {
                    repository.store_manifest(window, plan, (Some(&seen), None), true).await
                }
                // Damaged, or another type: that is for a push from the beginning.
                Some(_) | None => Ok(false),
            }
        })
    }
}

/// Whether a tag points to a digest.
fn points_to(seen: &TagVersion, digest: &Digest) -> bool {
    seen.target().is_some_and(|target| target.digest == *digest)
}

/// Reads when the reads, which has a limited width, has room for it.
async fn with_permit<T>(width: &Semaphore, read: impl Future<Output = Result<T>>) -> Result<T> {
    let _permit = width.acquire().await.map_err(|_| Error::Stopped)?;
    read.await
}

/// Whether a manifest may not be pushed without this.
pub(crate) fn is_required(policy: ReferencePolicy, reference: &ManifestReference) -> bool {
    match policy {
        ReferencePolicy::Strict => reference.required,
        ReferencePolicy::SparseIndex => {
            reference.required && reference.kind != ReferenceKind::Child
        }
        ReferencePolicy::Off => false,
    }
}

/// The digest of a pushed manifest: by the algorithm of the reference, if it is a digest.
fn content_digest(reference: &Reference, bytes: &Bytes) -> Result<Digest> {
    let expected = reference.digest();
    let algorithm = expected.map_or(Algorithm::Sha256, Digest::algorithm);
    let actual = Digest::of(algorithm, bytes);
    match expected {
        Some(expected) if *expected != actual => {
            Err(Error::ManifestDigestMismatch { expected: expected.clone(), actual })
        }
        _ => Ok(actual),
    }
}
