//! The tags that were deleted and have a history.

use std::collections::HashSet;

use jreg_oci::Tag;
use jreg_storage::ListRequest;

use crate::keys;
use crate::{Error, LIST_KEYS_MAX, PageRequest, Repository, Result, ResultPage};

/// Tags of a repository with too many to know that are looked at, each by its record.
const LOOKED_AT_MAX: usize = 100;

impl Repository {
    /// Tags that are absent and have a history, until that has expired: a listing of what has one, and one of the
    /// tags; of a repository with many tags its list in memory, and of one with too many their records.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn deleted_tags(&self, page: &PageRequest) -> Result<ResultPage<Tag>> {
        let prefix = keys::histories(&self.name);
        let request = ListRequest {
            // After everything below the tag.
            start_after: page.last.as_ref().map(|last| format!("{prefix}{last}0")),
            prefix: prefix.clone(),
            delimiter: true,
            limit: LIST_KEYS_MAX,
        };
        let listing = self.core.store.list(&request).await?;
        let names = listing.prefixes.iter().filter_map(|found| found.strip_prefix(&prefix));
        let mut names: Vec<Tag> =
            names.filter_map(|name| name.strip_suffix('/')?.parse().ok()).collect();
        let mut more = listing.next.is_some();
        let live = match self.live_tags(&names).await? {
            Some(live) => live,
            None => {
                more |= names.len() > LOOKED_AT_MAX;
                names.truncate(LOOKED_AT_MAX);
                let details = self.tag_details(names.clone()).await?;
                details.into_iter().map(|details| details.tag).collect()
            }
        };
        let last = names.last().map(ToString::to_string);
        let deleted = names.into_iter().filter(|tag| !live.contains(tag));
        let mut items: Vec<Tag> = deleted.collect();
        let next = match items.len() > page.limit {
            true => {
                items.truncate(page.limit);
                items.last().map(ToString::to_string)
            }
            false => last.filter(|_| more),
        };
        Ok(ResultPage { items, next })
    }

    /// The tags that there are; `None`: there are too many to know them all.
    async fn live_tags(&self, names: &[Tag]) -> Result<Option<HashSet<Tag>>> {
        if names.is_empty() {
            return Ok(Some(HashSet::new()));
        }
        let page = PageRequest { limit: LIST_KEYS_MAX, last: None };
        let found = match self.tags(&page).await {
            Ok(found) => found,
            Err(Error::NameUnknown { .. }) => return Ok(Some(HashSet::new())),
            Err(error) => return Err(error),
        };
        if found.next.is_none() {
            return Ok(Some(found.items.into_iter().collect()));
        }
        let list = self.tag_list().await?;
        let tags = list.tags.iter().map(|listed| listed.tag.clone());
        Ok(list.is_whole.then(|| tags.collect()))
    }
}
