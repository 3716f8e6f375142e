//! Tags: listing them, and the one way in which they change.

use std::fmt;

use bytes::Bytes;
use futures::future::BoxFuture;
use jreg_oci::{Digest, MediaType, Reference, Tag};
use jreg_storage::{Key, Put, PutPurpose};

use crate::attempts::SwapAttempts;
use crate::core::swap_mode;
use crate::damaged::FoundRecord;
use crate::keys;
use crate::page::list_requests_max;
use crate::record::{PresenceMark, StoredRecord};
use crate::rules::Rule;
use crate::tag_record::{DeletedTag, TagChangeFields, TagRecord, TagTarget, is_deleted_tag};
use crate::window::{CLOCK_ERROR, WriteWindow};
use crate::{
    ChangeId, ChangeOrigin, Error, PageRequest, ReferencePrecondition, Repository, Result,
    ResultPage,
};

#[derive(Clone, Copy, Debug)]
pub(crate) enum TagChange<'a> {
    /// It points there.
    Set(TagPush<'a>),
    /// Delete it.
    Remove,
    /// Delete it if it still points there.
    RemoveFrom(&'a Digest),
    /// Delete the version that is known, or nothing.
    RemoveKnown,
}

impl TagChange<'_> {
    fn is_restore(self) -> bool {
        matches!(self, Self::Set(push) if push.target.is_restore)
    }

    fn purpose(self) -> PutPurpose {
        match self {
            Self::Set(_) => PutPurpose::Content,
            Self::Remove | Self::RemoveFrom(_) | Self::RemoveKnown => PutPurpose::Delete,
        }
    }
}

/// A push of a tag, after that of its manifest.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TagPush<'a> {
    /// To be sent within it.
    pub(crate) window: WriteWindow,
    pub(crate) target: &'a TaggedManifest,
    /// Where other processes may delete the manifest.
    pub(crate) renewal: Option<&'a dyn ManifestRenewal>,
}

/// The manifest of a push, which is written again.
pub(crate) trait ManifestRenewal: fmt::Debug + Send + Sync {
    /// Writes a version that is later than what is read now. `false`: it is gone, or something else by now.
    fn renew(&self) -> BoxFuture<'_, Result<bool>>;
}

/// What a tag is set to.
#[derive(Clone, Debug)]
pub(crate) struct TaggedManifest {
    pub(crate) digest: Digest,
    pub(crate) media_type: MediaType,
    pub(crate) size: u64,
    /// Whether it pointed there before, and is restored: only the event of it says so.
    pub(crate) is_restore: bool,
}

/// A tag as it was read.
pub(crate) type TagVersion = FoundRecord<TagRecord>;

/// A version of a tag to try first.
#[derive(Debug)]
pub(crate) struct KnownTag {
    pub(crate) seen: TagVersion,
    /// Whether it was archived after it was read.
    pub(crate) is_archived: bool,
    /// The change of which an event was queued after it was read.
    pub(crate) queued: Option<ChangeId>,
    /// Opened before it was read.
    pub(crate) window: WriteWindow,
}

/// What a request did to a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagTransition {
    pub tag: Tag,
    /// The change by which it is what it is now.
    pub change: ChangeId,
    /// What it pointed to before; `None`: it did not exist, or could not be read.
    pub before: Option<Digest>,
    /// What it points to now; `None`: it was deleted.
    pub after: Option<Digest>,
}

impl TagTransition {
    /// Whether the tag points elsewhere now; not if the same digest was pushed again.
    pub fn is_change(&self) -> bool {
        self.before != self.after
    }
}

impl TagVersion {
    /// What the tag points to; `None` if it is deleted, absent or damaged.
    pub(crate) fn target(&self) -> Option<&TagTarget> {
        self.valid().and_then(|record| record.value.live())
    }
}

impl ReferencePrecondition {
    /// The condition for a tag. One that cannot be decoded exists, and points to no digest in particular.
    pub(crate) fn check_tag(&self, reference: &Reference, seen: &TagVersion) -> Result<()> {
        match (self, seen) {
            (Self::Exists, FoundRecord::Damaged(_)) => Ok(()),
            (_, FoundRecord::Damaged(_)) => self.fail(reference, None),
            _ => self.check(reference, seen.target().map(|target| &target.digest)),
        }
    }
}

/// The bytes of a tag's record. The same change keeps what another version of this program has added.
fn encode(seen: &TagVersion, next: &TagRecord) -> Bytes {
    match seen.valid() {
        Some(record) if record.value.change().id == next.change().id => {
            next.encode_over(&record.bytes)
        }
        _ => next.encode(),
    }
}

/// What a push whose swap of a tag was lost does next.
enum PushAgain {
    /// Swaps the version that was read.
    Swap,
    /// Nothing: another push has set the tag to the same.
    Done(TagTransition),
    /// Begins again: the manifest is gone.
    StartOver,
}

/// The tag that a key names, with its name.
pub(crate) fn tag_item(key: &Key) -> Option<(String, Tag)> {
    keys::tag_of(key).map(|tag| (tag.to_string(), tag))
}

impl Repository {
    /// The tags of the repository (end-8), in byte order.
    ///
    /// # Errors
    ///
    /// [`Error::NameUnknown`] if no manifest was ever pushed here; [`Error::Store`].
    pub async fn tags(&self, page: &PageRequest) -> Result<ResultPage<Tag>> {
        let prefix = self.tag_keys();
        let start_after = page.last.as_ref().map(|last| format!("{prefix}{last}"));
        let limit = page.limit.min(self.core.options.limits.page_items_max);
        let requests = list_requests_max(limit);
        let page = self
            .core
            .list_items(prefix, start_after, limit, requests, tag_item, |tag| !is_deleted_tag(tag))
            .await?;
        // Where the store has more, there is or was a tag.
        let is_empty = page.items.is_empty() && page.next.is_none();
        if is_empty && !self.core.exists(&keys::catalog(&self.name)).await? {
            return Err(Error::NameUnknown { name: self.name.clone() });
        }
        Ok(page)
    }

    /// Changes a tag on the version just read, again until it succeeds: the last to be acknowledged
    /// wins, and a delayed retry of an old write can never revert a newer one. What it replaces is archived
    /// first, and both are sent within a window from the read on: later, what was archived may have expired. A swap
    /// whose response was lost may have been made, and then been replaced: it is looked for before another is
    /// tried, or the change would be made twice. `known` is the version to try first, if it was read already. `None`: there was no tag
    /// to delete, or the manifest to point to is gone.
    ///
    /// Nothing else writes or removes the record of a tag, but for a GC run that has archived a deleted one, and
    /// [`Repository::fence_tag`].
    pub(crate) async fn change_tag(
        &self,
        tag: &Tag,
        condition: Option<&ReferencePrecondition>,
        mut known: Option<KnownTag>,
        change: TagChange<'_>,
    ) -> Result<Option<TagTransition>> {
        let (core, key) = (&self.core, keys::tag(&self.name, tag));
        let _turn = core.tag_lock(&key).lock().await;
        let mut attempts = SwapAttempts::new("the tag is being changed by too many others");
        let mut sent = Vec::new();
        loop {
            attempts.next().await?;
            if attempts.is_retry() && matches!(change, TagChange::RemoveKnown) {
                return Ok(None);
            }
            let KnownTag { seen, is_archived, queued, window } = match known.take() {
                Some(known) => known,
                None => {
                    let window = match change {
                        TagChange::Set(push) => push.window,
                        _ => core.open_window(),
                    };
                    let seen = core.find_record(&key).await?;
                    KnownTag { seen, is_archived: false, queued: None, window }
                }
            };
            if let Some(made) = self.find_made(&seen, &mut sent).await? {
                return Ok(Some(made));
            }
            if let Some(condition) = condition {
                condition.check_tag(&Reference::Tag(tag.clone()), &seen)?;
            }
            if !attempts.is_retry() || core.rules.keep(Rule::ImmutableAtSwap) {
                self.judge_change(tag, change, &seen)?;
            }
            if let (TagChange::Set(push), true) = (change, attempts.is_retry()) {
                match self.push_again(tag, push, &seen).await? {
                    PushAgain::Swap => {}
                    PushAgain::Done(transition) => return Ok(Some(transition)),
                    PushAgain::StartOver => return Ok(None),
                }
            }
            let Some(next) = self.next_record(tag, change, &seen, queued)? else { return Ok(None) };
            core.check_window(window)?;
            let purpose = change.purpose();
            let archived = self.archived(tag, &seen, &next).filter(|_| !is_archived);
            let archived = archived.map(|put| put.with_purpose(purpose));
            let swap = Put::new(key.clone(), encode(&seen, &next), swap_mode(seen.etag()));
            let swap = swap.with_purpose(purpose);
            let event =
                self.tag_event(tag, &seen, &next, change.is_restore()).filter(|_| queued.is_none());
            let transition = TagTransition {
                tag: tag.clone(),
                change: next.change().id,
                before: seen.target().map(|target| target.digest.clone()),
                after: next.into_live().map(|target| target.digest),
            };
            if core.archive_then(window, archived, event.as_ref(), swap).await? {
                self.note_changed(&key, change, seen);
                return Ok(Some(transition));
            }
            // A push of the same digest has no change of its own by which it could be found.
            sent.extend(Some(transition).filter(TagTransition::is_change));
        }
    }

    /// What a push does before it swaps a tag that has changed since it was read. In a store that others
    /// share a delete may have read the manifest meanwhile, and changed the tag so that this push does not set it:
    /// so the manifest is written again, after the tag was read. Another push that has just set the tag to the same has
    /// done so; a record that was only written again has not, and still says when the tag was pushed before.
    async fn push_again(
        &self,
        tag: &Tag,
        push: TagPush<'_>,
        seen: &TagVersion,
    ) -> Result<PushAgain> {
        let TagPush { window, target, renewal } = push;
        let core = &self.core;
        let Some(renewal) = renewal.filter(|_| core.rules.keep(Rule::RenewAfterLostTag)) else {
            // The tag has changed since its hint was skipped.
            let hint = keys::tag_hint(&self.name, &target.digest, tag);
            core.ensure_record(window, &hint, &PresenceMark {}).await?;
            return Ok(PushAgain::Swap);
        };
        let pushed_since = self.unix_time().saturating_sub(CLOCK_ERROR.as_secs());
        let is_pushed =
            |there: &&TagTarget| there.digest == target.digest && there.pushed >= pushed_since;
        if let Some(there) = seen.target().filter(is_pushed) {
            let digest = Some(there.digest.clone());
            return Ok(PushAgain::Done(TagTransition {
                tag: tag.clone(),
                change: there.change.id,
                before: digest.clone(),
                after: digest,
            }));
        }
        core.check_window(window)?;
        match renewal.renew().await? {
            true => Ok(PushAgain::Swap),
            false => Ok(PushAgain::StartOver),
        }
    }

    /// Makes the swaps of a tag fail that are based on this version, which does not point to a manifest that is
    /// about to be deleted: the same record is written again or, where there is none, a placeholder. `false`: the
    /// tag has changed since, so they fail in any case.
    pub(crate) async fn fence_tag(
        &self,
        window: WriteWindow,
        tag: &Tag,
        seen: &TagVersion,
    ) -> Result<bool> {
        let (core, key) = (&self.core, keys::tag(&self.name, tag));
        let bytes = match seen {
            FoundRecord::Valid(record) => record.renewed(),
            FoundRecord::Absent => TagRecord::placeholder().encode(),
            FoundRecord::Damaged(_) => return Err(self.tag_damaged(tag)),
        };
        let _turn = core.tag_lock(&key).lock().await;
        Ok(core.swap_within(window, &key, seen.etag(), bytes).await?.is_some())
    }

    /// The change of an earlier attempt that was made although its response says otherwise: the tag, or
    /// its history, has it.
    async fn find_made(
        &self,
        seen: &TagVersion,
        sent: &mut Vec<TagTransition>,
    ) -> Result<Option<TagTransition>> {
        if !self.core.rules.keep(Rule::LookForOwn) {
            return Ok(None);
        }
        let current = seen.valid().map(|record| record.value.change().id);
        if let Some(made) = sent.iter().find(|sent| Some(sent.change) == current) {
            return Ok(Some(made.clone()));
        }
        // Each once: the writer that replaced it has archived it before.
        for sent in sent.drain(..) {
            let TagTransition { tag, change, after, .. } = &sent;
            let entry = keys::history_entry(&self.name, tag, *change, after.as_ref());
            if self.core.exists(&entry).await? {
                return Ok(Some(sent));
            }
        }
        Ok(None)
    }

    /// Refuses a change that the rules of the file forbid.
    fn judge_change(&self, tag: &Tag, change: TagChange<'_>, seen: &TagVersion) -> Result<()> {
        let is_there = |digest: &Digest| seen.target().is_some_and(|to| to.digest == *digest);
        match change {
            TagChange::Set(push) => self.check_move(tag, seen, &push.target.digest)?,
            TagChange::RemoveFrom(digest) if !is_there(digest) => {}
            TagChange::Remove | TagChange::RemoveFrom(_) | TagChange::RemoveKnown => {
                self.check_tag_delete(tag, seen)?;
            }
        }
        Ok(())
    }

    /// The record of a tag after a change; `None`: there is nothing to delete.
    fn next_record(
        &self,
        tag: &Tag,
        change: TagChange<'_>,
        seen: &TagVersion,
        queued: Option<ChangeId>,
    ) -> Result<Option<TagRecord>> {
        let target = match (change, seen.target()) {
            // It may point to another manifest.
            (TagChange::RemoveFrom(_), None) if matches!(seen, FoundRecord::Damaged(_)) => {
                return Err(self.tag_damaged(tag));
            }
            (TagChange::RemoveFrom(digest), Some(target)) if target.digest != *digest => None,
            (TagChange::Set(push), _) => Some(Some(push.target)),
            (TagChange::Remove, None) if matches!(seen, FoundRecord::Damaged(_)) => Some(None),
            (TagChange::Remove | TagChange::RemoveFrom(_) | TagChange::RemoveKnown, target) => {
                target.map(|_| None)
            }
        };
        let Some(target) = target else { return Ok(None) };
        let now = self.core.clock.now();
        let seen_change = seen.valid().filter(|record| !record.value.is_placeholder());
        let previous = seen_change.map(|record| record.value.change().id);
        let new_change = || TagChangeFields {
            id: queued.unwrap_or_else(|| ChangeId::after(previous, now)),
            previous,
            origin: ChangeOrigin::clone(&self.origin),
        };
        let Some(TaggedManifest { digest, media_type, size, .. }) = target.cloned() else {
            return Ok(Some(TagRecord::Deleted(DeletedTag { change: new_change() })));
        };
        let pushed = self.unix_time();
        let (change, created) = match seen.target() {
            Some(seen) if seen.digest == digest => (seen.change.clone(), seen.created),
            Some(seen) => (new_change(), seen.created),
            None => (new_change(), Some(pushed)),
        };
        Ok(Some(TagRecord::Live(TagTarget { digest, media_type, size, pushed, created, change })))
    }

    /// Logs a change if what was there was damaged.
    fn note_changed(&self, key: &Key, change: TagChange<'_>, seen: TagVersion) {
        match (seen.damaged(), change) {
            (None, _) => {}
            (Some(damaged), TagChange::Set(..)) => self.core.damage.note_replaced(key, &damaged),
            (
                Some(damaged),
                TagChange::Remove | TagChange::RemoveFrom(_) | TagChange::RemoveKnown,
            ) => {
                self.core.damage.note_removed(key, &damaged);
            }
        }
    }

    pub(crate) fn tag_damaged(&self, tag: &Tag) -> Error {
        Error::TagDamaged { name: self.name.clone(), tag: tag.clone() }
    }

    /// Now, in seconds of the Unix epoch.
    pub(crate) fn unix_time(&self) -> u64 {
        let since = self.core.clock.now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        since.unwrap_or_default().as_secs()
    }
}
