//! Deleting a tag, or a manifest with its tags. `protect.rs` has what a client may not delete by digest.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use futures::future::{join_all, join3};
use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, Reference, Tag};
use jreg_storage::{ETag, Key};

use crate::attempts::SwapAttempts;
use crate::damaged::FoundRecord;
use crate::keys;
use crate::manifest::MANIFEST_CONTENDED;
use crate::manifest_copy::COPIED_TAGS_MAX;
use crate::manifest_header::HeadlessManifest;
use crate::record::ManifestRecord;
use crate::rules::Rule;
use crate::tag::{KnownTag, TagChange, TagTransition, TagVersion};
use crate::window::{HINT_IN_FLIGHT_MAX, WriteWindow};
use crate::{Error, ReferencePrecondition, Repository, Result};

/// How many hints are listed at a time when the tags of a manifest are removed: also the most tags that its
/// copy names.
const HINTS_PER_PAGE: usize = COPIED_TAGS_MAX;

/// Says whether the requester may remove a tag.
pub type MayRemoveTag<'a> = &'a (dyn Fn(&Tag) -> bool + Send + Sync);

/// The removal of a manifest's tags: which may be removed, and which were.
struct TagRemoval<'a> {
    may_remove: MayRemoveTag<'a>,
    removed: Mutex<Vec<TagTransition>>,
}

impl<'a> TagRemoval<'a> {
    fn new(may_remove: MayRemoveTag<'a>) -> Self {
        Self { may_remove, removed: Mutex::default() }
    }

    fn note(&self, transition: TagTransition) {
        self.removed.lock().unwrap_or_else(PoisonError::into_inner).push(transition);
    }

    fn into_removed(self) -> Vec<TagTransition> {
        self.removed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TagRemoval<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TagRemoval").field("removed", &self.removed).finish_non_exhaustive()
    }
}

/// A tag that a hint names.
#[derive(Debug)]
struct HintedTag {
    tag: Tag,
    /// As it was read.
    seen: TagVersion,
    /// Whether a push that has written the hint may have yet to set the tag.
    may_be_pushed: bool,
}

/// Tags that hints name, as they were read.
#[derive(Debug)]
struct HintedTags {
    tags: Vec<HintedTag>,
    /// Where the next page of hints begins, if there is one.
    after: Option<String>,
    /// Opened before they were read.
    window: WriteWindow,
}

impl HintedTags {
    /// Those that point to a manifest.
    fn pointing_to(&self, digest: &Digest) -> Vec<Tag> {
        let pointing = self
            .tags
            .iter()
            .filter(|hinted| hinted.seen.target().is_some_and(|to| to.digest == *digest));
        pointing.map(|hinted| hinted.tag.clone()).collect()
    }
}

/// Whether a delete keeps what it removes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum KeepCopy {
    /// A copy, for a restore.
    Yes,
    No,
}

impl Repository {
    /// Deletes a manifest with its tags, which are returned, and makes no copy of it.
    pub(crate) async fn delete_without_copy(&self, digest: &Digest) -> Result<Vec<TagTransition>> {
        let removal = TagRemoval::new(&|_| true);
        self.delete_manifest(digest, None, &removal, KeepCopy::No).await?;
        Ok(removal.into_removed())
    }

    /// Removes a manifest that a restore has created, and the tags that lead to it. `false`: there is none, or
    /// a client has pushed it since.
    pub(crate) async fn delete_restored(&self, digest: &Digest) -> Result<bool> {
        let (core, key) = (&self.core, keys::manifest(&self.name, digest));
        let only_restored = core.rules.keep(Rule::UndoRestored);
        let mut attempts = SwapAttempts::new(MANIFEST_CONTENDED);
        loop {
            attempts.next().await?;
            // Read before the manifest: a client's push sets its tag after it has written that.
            let tags = self.hinted_tags(digest, None).await?;
            let window = core.open_window();
            let Some(seen) = core.read::<ManifestRecord>(&key).await? else { return Ok(false) };
            let header = seen.value.header;
            if header.restored.is_none() && only_restored {
                return Ok(false);
            }
            let entry = header.subject.map(|subject| keys::referrer(&self.name, &subject, digest));
            let listed = match &entry {
                Some(entry) => core.read_etag(entry).await?.map(|etag| (entry, etag)),
                None => None,
            };
            if !self.touch_purge_mark(window, digest).await? {
                continue;
            }
            core.cache.forget(&self.name, digest);
            let removed = core.remove_within(window, &key, &seen.etag).await;
            core.cache.forget(&self.name, digest);
            if !removed? {
                continue;
            }
            if let Some((entry, etag)) = listed {
                core.remove(entry, &etag).await?;
            }
            self.clone().without_rules().remove_known_tags(digest, tags).await?;
            return Ok(true);
        }
    }

    /// Removes those versions of tags that point to a manifest.
    async fn remove_known_tags(&self, digest: &Digest, page: HintedTags) -> Result<()> {
        let HintedTags { tags, window, .. } = page;
        for HintedTag { tag, seen, .. } in tags {
            if seen.target().is_some_and(|target| target.digest == *digest) {
                let known = Some(KnownTag { seen, is_archived: false, queued: None, window });
                self.change_tag(&tag, None, known, TagChange::RemoveKnown).await?;
            }
        }
        Ok(())
    }

    /// Removes a tag, or a manifest with its tags and its referrer entry (end-9).
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`], [`Error::PreconditionFailed`], [`Error::Busy`],
    /// [`Error::Store`].
    pub async fn manifest_delete(
        &self,
        reference: &Reference,
        condition: Option<ReferencePrecondition>,
    ) -> Result<()> {
        self.manifest_delete_if(reference, condition, &|_| true, &mut Vec::new()).await
    }

    /// The same for a client that may not delete every tag. A manifest stays if a tag points to it
    /// that `may_remove` refuses, also if that tag was set during the delete. Adds the tags that
    /// were removed to `removed`, also if the delete fails after that.
    ///
    /// # Errors
    ///
    /// As [`Repository::manifest_delete`], and [`Error::TagProtected`].
    pub async fn manifest_delete_if(
        &self,
        reference: &Reference,
        condition: Option<ReferencePrecondition>,
        may_remove: MayRemoveTag<'_>,
        removed: &mut Vec<TagTransition>,
    ) -> Result<()> {
        let removal = TagRemoval::new(may_remove);
        let deleted = self.delete_reference(reference, condition, &removal).await;
        removed.extend(removal.into_removed());
        deleted
    }

    /// Removes a tag if it points to a manifest that is being removed. If a push in flight may be about to make
    /// it point there, the push is made to look at the manifest again.
    async fn remove_tag_of(
        &self,
        digest: &Digest,
        (hinted, window): (HintedTag, WriteWindow),
        removal: &TagRemoval<'_>,
    ) -> Result<()> {
        let HintedTag { tag, mut seen, mut may_be_pushed } = hinted;
        loop {
            match seen.target() {
                None if matches!(seen, FoundRecord::Damaged(_)) => {
                    return Err(self.tag_damaged(&tag));
                }
                Some(target) if target.digest == *digest => break,
                // The hint was of a tag that was moved, or deleted.
                _ if !may_be_pushed => return Ok(()),
                _ if self.fence_tag(window, &tag, &seen).await? => return Ok(()),
                _ => {}
            }
            // It was changed after the manifest was read: a push that has written that has read the tag before.
            seen = self.core.find_record(&keys::tag(&self.name, &tag)).await?;
            may_be_pushed = false;
        }
        if !(removal.may_remove)(&tag) {
            return Err(Error::TagProtected { name: self.name.clone(), tag });
        }
        let known = Some(KnownTag { seen, is_archived: false, queued: None, window });
        let removed = self.change_tag(&tag, None, known, TagChange::RemoveFrom(digest)).await?;
        removed.into_iter().for_each(|transition| removal.note(transition));
        Ok(())
    }

    /// The tags that point to a manifest, of the first [`COPIED_TAGS_MAX`] that hints name.
    pub(crate) async fn tags_of(&self, digest: &Digest) -> Result<Vec<Tag>> {
        Ok(self.hinted_tags(digest, None).await?.pointing_to(digest))
    }

    /// Reads the tags that may point to a manifest, by a page of its hints after this one.
    async fn hinted_tags(&self, digest: &Digest, after: Option<String>) -> Result<HintedTags> {
        let window = self.core.open_window();
        let hints = self.core.list(keys::tagged(&self.name, digest), after, HINTS_PER_PAGE).await?;
        let fences = self.core.is_shared() && self.core.rules.keep(Rule::FenceTags);
        let tags = hints.entries.iter().filter_map(|hint| {
            let age = hints.date.duration_since(hint.last_modified).unwrap_or_default();
            Some((keys::tag_of(&hint.key)?, fences && age <= HINT_IN_FLIGHT_MAX))
        });
        let reads = tags.map(|(tag, may_be_pushed)| async move {
            let seen = self.core.find_record(&keys::tag(&self.name, &tag)).await?;
            Ok::<_, Error>(HintedTag { tag, seen, may_be_pushed })
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let reads: Vec<_> = reads.collect();
        let reads = stream::iter(reads).buffered(self.core.reads_in_flight_max());
        let after = hints.entries.last().filter(|_| hints.more).map(|last| last.key.to_string());
        Ok(HintedTags { tags: reads.try_collect().await?, after, window })
    }

    /// Removes every tag that points to a manifest, several at a time, from a page of them on. No push that relies on
    /// the version of the manifest that was read before sets one afterwards.
    async fn remove_tags_of(
        &self,
        digest: &Digest,
        removal: &TagRemoval<'_>,
        mut page: HintedTags,
    ) -> Result<()> {
        loop {
            let (tags, window) = (std::mem::take(&mut page.tags), page.window);
            let removals = tags.into_iter().map(|hinted| async move {
                self.remove_tag_of(digest, (hinted, window), removal).await
            });
            // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
            let mut removals: Vec<_> = removals.collect();
            while !removals.is_empty() {
                let rest = removals.split_off(removals.len().min(self.core.reads_in_flight_max()));
                // Each to its end, also beside one that fails: then it is known which tags went.
                join_all(removals).await.into_iter().collect::<Result<()>>()?;
                removals = rest;
            }
            match page.after.take() {
                Some(after) => page = self.hinted_tags(digest, Some(after)).await?,
                None => return Ok(()),
            }
        }
    }

    /// Removes a tag, or a manifest with the tags that may be removed.
    async fn delete_reference(
        &self,
        reference: &Reference,
        condition: Option<ReferencePrecondition>,
        removal: &TagRemoval<'_>,
    ) -> Result<()> {
        match reference {
            Reference::Tag(tag) => {
                let removed =
                    self.change_tag(tag, condition.as_ref(), None, TagChange::Remove).await?;
                removal.note(removed.ok_or_else(|| self.unknown(reference))?);
                Ok(())
            }
            Reference::Digest(digest) => {
                self.delete_manifest(digest, condition.as_ref(), removal, KeepCopy::Yes).await
            }
        }
    }

    async fn delete_manifest(
        &self,
        digest: &Digest,
        condition: Option<&ReferencePrecondition>,
        removal: &TagRemoval<'_>,
        keep: KeepCopy,
    ) -> Result<()> {
        let reference = Reference::Digest(digest.clone());
        let key = keys::manifest(&self.name, digest);
        let mut attempts = SwapAttempts::new(MANIFEST_CONTENDED);
        loop {
            attempts.next().await?;
            let window = self.core.open_window();
            let found = self.core.find_record::<ManifestRecord>(&key).await?;
            let Some(etag) = found.etag().cloned() else { return Err(self.unknown(&reference)) };
            let subject = match &found {
                FoundRecord::Valid(seen) => seen.value.header.subject.clone(),
                // If its bytes do not say it, GC removes the referrer entry.
                FoundRecord::Damaged(damaged) => {
                    let headless = HeadlessManifest::read(digest, &damaged.bytes);
                    let manifest = headless.and_then(|headless| headless.parse());
                    manifest.and_then(|manifest| manifest.subject).map(|subject| subject.digest)
                }
                FoundRecord::Absent => None,
            };
            if let Some(condition) = condition {
                condition.check(&reference, Some(digest))?;
            }
            self.check_manifest_delete(digest).await?;
            let pushes = self.core.manifest_locks.ended_pushes(&key);
            let tags = self.hinted_tags(digest, None).await?;
            // A copy of wrong bytes could not be restored.
            let found = self.core.damaged_if_wrong(&key, digest, found).await?;
            let header = found.valid().map(|seen| &seen.value.header);
            let names = tags.pointing_to(digest);
            // At each attempt: the event of an earlier one may have been dropped, as if this delete would not come any more.
            let queueing = self.queue_manifest_delete(window, digest, header);
            let copying = async {
                match (keep, found.valid()) {
                    (KeepCopy::Yes, Some(manifest)) => {
                        self.copy_manifest(window, digest, &manifest.value, names).await
                    }
                    _ => Ok(()),
                }
            };
            // Beside the removal of the tags: the longer it takes from reading them to removing the manifest,
            // the more pushes of other processes get between.
            let removing = self.remove_tags_of(digest, removal, tags);
            // Each to its end: then it is known which tags went.
            let (copied, queued, removed) = join3(copying, queueing, removing).await;
            copied.and(queued).and(removed)?;
            let version = (&etag, subject.as_ref(), window);
            if self.delete_version(&key, digest, version, removal, pushes).await? {
                found.damaged().inspect(|damaged| self.core.damage.note_removed(&key, damaged));
                return Ok(());
            }
        }
    }

    /// Removes a version of a manifest with this subject, after tags that were set since there were `pushes`.
    /// `false`: it was pushed again.
    async fn delete_version(
        &self,
        key: &Key,
        digest: &Digest,
        (seen, subject, window): (&ETag, Option<&Digest>, WriteWindow),
        removal: &TagRemoval<'_>,
        pushes: u64,
    ) -> Result<bool> {
        let locks = &self.core.manifest_locks;
        // Pushes wait for no more than a last look, and even that only if there was one meanwhile.
        let _turn = locks.lock_alone(key).await;
        if locks.ended_pushes(key) != pushes {
            let tags = self.hinted_tags(digest, None).await?;
            self.remove_tags_of(digest, removal, tags).await?;
        }
        if let Some(subject) = subject {
            let entry = keys::referrer(&self.name, subject, digest);
            if let Some(etag) = self.core.read_etag(&entry).await? {
                self.core.remove(&entry, &etag).await?;
            }
        }
        self.core.cache.forget(&self.name, digest);
        // Later its copy may have expired.
        let removed = self.core.remove_within(window, key, seen).await;
        self.core.cache.forget(&self.name, digest);
        removed
    }
}
