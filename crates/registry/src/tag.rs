//! Tags: listing them, and the one way in which they change.

use jreg_oci::{Digest, Reference, Tag};
use jreg_storage::Key;

use crate::attempts::SwapAttempts;
use crate::keys;
use crate::page::list_requests_max;
use crate::record::{PresenceMark, StoredRecord, TagTarget, VersionedRecord};
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

/// A tag as it was read; `None`: there was none.
pub(crate) type TagVersion = Option<VersionedRecord<TagTarget>>;

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
                None => core.read::<TagTarget>(&key).await?,
            };
            let current = seen.as_ref().map(|seen| &seen.value.digest);
            if let Some(condition) = condition {
                condition.check(&Reference::Tag(tag.clone()), current)?;
            }
            let changed = match (change, &seen) {
                (TagChange::Set(window, target), seen) => {
                    core.check_window(window)?;
                    if attempts.is_retry() {
                        // The tag has changed since its hint was skipped.
                        let hint = keys::tag_hint(&self.name, &target.digest, tag);
                        core.ensure_record(window, &hint, &PresenceMark {}).await?;
                    }
                    let seen = seen.as_ref().map(|seen| &seen.etag);
                    core.swap_within(window, &key, seen, target.encode()).await?.is_some()
                }
                (TagChange::RemoveFrom(digest), Some(seen)) if seen.value.digest != *digest => {
                    return Ok(false);
                }
                (TagChange::Remove | TagChange::RemoveFrom(_), Some(seen)) => {
                    core.remove(&key, &seen.etag).await?
                }
                (TagChange::Remove | TagChange::RemoveFrom(_), None) => return Ok(false),
            };
            if changed {
                return Ok(true);
            }
        }
    }

    /// Now, in seconds of the Unix epoch.
    pub(crate) fn unix_time(&self) -> u64 {
        let since = self.core.clock.now().duration_since(std::time::SystemTime::UNIX_EPOCH);
        since.unwrap_or_default().as_secs()
    }
}
