//! Tags: listing them, and the one way in which they change.

use jreg_oci::{Digest, Reference, Tag};
use jreg_storage::Key;

use crate::attempts::SwapAttempts;
use crate::damaged::FoundRecord;
use crate::keys;
use crate::page::list_requests_max;
use crate::record::{PresenceMark, StoredRecord, TagTarget};
use crate::window::WriteWindow;
use crate::{Error, PageRequest, ReferencePrecondition, Repository, Result, ResultPage};

#[derive(Clone, Copy, Debug)]
pub(crate) enum TagChange<'a> {
    /// It points there; to be sent within the window.
    Set(WriteWindow, &'a TagTarget),
    /// Delete it.
    Remove,
    /// Delete it if it still points there.
    RemoveFrom(&'a Digest),
}

/// A tag as it was read.
pub(crate) type TagVersion = FoundRecord<TagTarget>;

impl ReferencePrecondition {
    /// The condition for a tag. One that cannot be decoded exists, and points to no digest in particular.
    pub(crate) fn check_tag(&self, reference: &Reference, seen: &TagVersion) -> Result<()> {
        match (self, seen) {
            (Self::Exists, FoundRecord::Damaged(_)) => Ok(()),
            (_, FoundRecord::Damaged(_)) => self.fail(reference, None),
            _ => self.check(reference, seen.valid().map(|seen| &seen.value.digest)),
        }
    }
}

impl Repository {
    /// The tags of the repository (end-8), in byte order.
    ///
    /// # Errors
    ///
    /// [`Error::NameUnknown`] if no manifest was ever pushed here; [`Error::Store`].
    pub async fn tags(&self, page: &PageRequest) -> Result<ResultPage<Tag>> {
        let prefix = keys::tags(&self.name);
        let start_after = page.last.as_ref().map(|last| format!("{prefix}{last}"));
        let limit = page.limit.min(self.core.options.limits.page_items_max);
        let item = |key: &Key| keys::tag_of(key).map(|tag| (tag.to_string(), tag));
        let requests = list_requests_max(limit);
        let page = self.core.list_items(prefix, start_after, limit, requests, item).await?;
        // Where the store has more, there is or was a tag.
        let is_empty = page.items.is_empty() && page.next.is_none();
        if is_empty && !self.core.exists(&keys::catalog(&self.name)).await? {
            return Err(Error::NameUnknown { name: self.name.clone() });
        }
        Ok(page)
    }

    /// Changes a tag on the version just read, again until it succeeds: the last to be acknowledged
    /// wins, and a delayed retry of an old write can never revert a newer one. `known` is the
    /// version to try first, if it was read already. `false`: there was no tag to delete.
    pub(crate) async fn change_tag(
        &self,
        tag: &Tag,
        condition: Option<&ReferencePrecondition>,
        mut known: Option<TagVersion>,
        change: TagChange<'_>,
    ) -> Result<bool> {
        let (core, key) = (&self.core, keys::tag(&self.name, tag));
        let _turn = core.tag_lock(&key).lock().await;
        let mut attempts = SwapAttempts::new("the tag is being changed by too many others");
        loop {
            attempts.next().await?;
            let seen = match known.take() {
                Some(known) => known,
                None => core.find_record::<TagTarget>(&key).await?,
            };
            if let Some(condition) = condition {
                condition.check_tag(&Reference::Tag(tag.clone()), &seen)?;
            }
            let changed = match (change, &seen) {
                (TagChange::Set(window, target), seen) => {
                    core.check_window(window)?;
                    if attempts.is_retry() {
                        // The tag has changed since its hint was skipped.
                        let hint = keys::tag_hint(&self.name, &target.digest, tag);
                        core.ensure_record(window, &hint, &PresenceMark {}).await?;
                    }
                    core.swap_within(window, &key, seen.etag(), target.encode()).await?.is_some()
                }
                (TagChange::RemoveFrom(digest), FoundRecord::Valid(seen))
                    if seen.value.digest != *digest =>
                {
                    return Ok(false);
                }
                // It may point to another manifest.
                (TagChange::RemoveFrom(_), FoundRecord::Damaged(_)) => {
                    return Err(self.tag_damaged(tag));
                }
                (TagChange::Remove | TagChange::RemoveFrom(_), seen) => match seen.etag() {
                    Some(etag) => core.remove(&key, etag).await?,
                    None => return Ok(false),
                },
            };
            if changed {
                self.note_changed(&key, change, seen);
                return Ok(true);
            }
        }
    }

    /// Logs a change if what was there was damaged.
    fn note_changed(&self, key: &Key, change: TagChange<'_>, seen: TagVersion) {
        match (seen.damaged(), change) {
            (None, _) => {}
            (Some(damaged), TagChange::Set(..)) => self.core.damage.note_replaced(key, &damaged),
            (Some(damaged), TagChange::Remove | TagChange::RemoveFrom(_)) => {
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
