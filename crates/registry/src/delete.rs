//! Deleting a tag, or a manifest with its tags. `protect.rs` has what a client may not delete by digest.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use futures::future::join_all;
use jreg_oci::{Digest, Reference, Tag};
use jreg_storage::{ETag, Key};

use crate::attempts::SwapAttempts;
use crate::damaged::FoundRecord;
use crate::keys;
use crate::manifest::{HeadlessManifest, MANIFEST_CONTENDED};
use crate::record::{ManifestRecord, TagTarget};
use crate::tag::TagChange;
use crate::{Error, ReferencePrecondition, Repository, Result};

/// How many hints are read at a time when the tags of a manifest are removed.
const HINTS_PER_PAGE: usize = 1000;

/// Says whether the requester may remove a tag.
pub type MayRemoveTag<'a> = &'a (dyn Fn(&Tag) -> bool + Send + Sync);

/// The removal of a manifest's tags: which may be removed, and which were.
struct TagRemoval<'a> {
    may_remove: MayRemoveTag<'a>,
    removed: Mutex<Vec<Tag>>,
}

impl<'a> TagRemoval<'a> {
    fn new(may_remove: MayRemoveTag<'a>) -> Self {
        Self { may_remove, removed: Mutex::default() }
    }

    fn into_removed(self) -> Vec<Tag> {
        self.removed.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl fmt::Debug for TagRemoval<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TagRemoval").field("removed", &self.removed).finish_non_exhaustive()
    }
}

impl Repository {
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
    /// were removed with the manifest to `removed`, also if the delete fails after that.
    ///
    /// # Errors
    ///
    /// As [`Repository::manifest_delete`], and [`Error::TagProtected`].
    pub async fn manifest_delete_if(
        &self,
        reference: &Reference,
        condition: Option<ReferencePrecondition>,
        may_remove: MayRemoveTag<'_>,
        removed: &mut Vec<Tag>,
    ) -> Result<()> {
        let removal = TagRemoval::new(may_remove);
        let deleted = self.delete_reference(reference, condition, &removal).await;
        removed.extend(removal.into_removed());
        deleted
    }

    /// Removes a tag if it points to a manifest that is being removed.
    async fn remove_tag_of(
        &self,
        digest: &Digest,
        tag: &Tag,
        removal: &TagRemoval<'_>,
    ) -> Result<()> {
        if !(removal.may_remove)(tag) {
            let key = keys::tag(&self.name, tag);
            // The hint may be of a tag that was moved.
            return match self.core.find_record::<TagTarget>(&key).await? {
                FoundRecord::Valid(target) if target.value.digest == *digest => {
                    Err(Error::TagProtected { name: self.name.clone(), tag: tag.clone() })
                }
                FoundRecord::Damaged(_) => Err(self.tag_damaged(tag)),
                FoundRecord::Valid(_) | FoundRecord::Absent => Ok(()),
            };
        }
        if self.change_tag(tag, None, None, TagChange::RemoveFrom(digest)).await? {
            let mut removed = removal.removed.lock().unwrap_or_else(PoisonError::into_inner);
            removed.push(tag.clone());
        }
        Ok(())
    }

    /// Removes every tag that points to a manifest, found by its hints, several at a time.
    async fn remove_tags_of(&self, digest: &Digest, removal: &TagRemoval<'_>) -> Result<()> {
        let prefix = keys::tagged(&self.name, digest);
        let mut after = None;
        loop {
            let hints = self.core.list(prefix.clone(), after, HINTS_PER_PAGE).await?;
            let tags = hints.entries.iter().filter_map(|hint| keys::tag_of(&hint.key));
            let removals =
                tags.map(|tag| async move { self.remove_tag_of(digest, &tag, removal).await });
            // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
            let mut removals: Vec<_> = removals.collect();
            while !removals.is_empty() {
                let rest = removals.split_off(removals.len().min(self.core.reads_in_flight_max()));
                // Each to its end, also beside one that fails: then it is known which tags went.
                join_all(removals).await.into_iter().collect::<Result<()>>()?;
                removals = rest;
            }
            match hints.entries.last() {
                Some(last) if hints.more => after = Some(last.key.to_string()),
                _ => return Ok(()),
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
                if removed { Ok(()) } else { Err(self.unknown(reference)) }
            }
            Reference::Digest(digest) => {
                self.delete_manifest(digest, condition.as_ref(), removal).await
            }
        }
    }

    async fn delete_manifest(
        &self,
        digest: &Digest,
        condition: Option<&ReferencePrecondition>,
        removal: &TagRemoval<'_>,
    ) -> Result<()> {
        let reference = Reference::Digest(digest.clone());
        let key = keys::manifest(&self.name, digest);
        let mut attempts = SwapAttempts::new(MANIFEST_CONTENDED);
        loop {
            attempts.next().await?;
            let found = self.core.find_record::<ManifestRecord>(&key).await?;
            let Some(etag) = found.etag() else { return Err(self.unknown(&reference)) };
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
            if self.delete_version(&key, digest, (etag, subject.as_ref()), removal).await? {
                found.damaged().inspect(|damaged| self.core.damage.note_removed(&key, damaged));
                return Ok(());
            }
        }
    }

    /// Removes what leads to a manifest, then that version of it, with this subject. `false`: it was
    /// pushed again.
    async fn delete_version(
        &self,
        key: &Key,
        digest: &Digest,
        (seen, subject): (&ETag, Option<&Digest>),
        removal: &TagRemoval<'_>,
    ) -> Result<bool> {
        let locks = &self.core.manifest_locks;
        let pushes = locks.ended_pushes(key);
        self.remove_tags_of(digest, removal).await?;
        // Pushes wait for no more than a last look, and even that only if there was one meanwhile.
        let _turn = locks.lock_alone(key).await;
        if locks.ended_pushes(key) != pushes {
            self.remove_tags_of(digest, removal).await?;
        }
        if let Some(subject) = subject {
            let entry = keys::referrer(&self.name, subject, digest);
            if let Some(etag) = self.core.read_etag(&entry).await? {
                self.core.remove(&entry, &etag).await?;
            }
        }
        self.core.cache.forget(&self.name, digest);
        let removed = self.core.remove(key, seen).await;
        self.core.cache.forget(&self.name, digest);
        removed
    }
}
