//! Reads the lists of names that are kept in memory (`name_lists.rs`).

use std::sync::Arc;

use crate::name_lists::{
    CATALOG_LIST_MAX, CatalogList, ListedTag, ReadList, TAG_LIST_MAX, TagList, fresh_list,
};
use crate::page::LIST_KEYS_MAX;
use crate::tag_record::is_deleted_tag;
use crate::{Error, Registry, Repository, Result, keys};

impl Registry {
    /// The names of the repositories, which may be [`crate::LIST_AGE_MAX`] old.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn catalog_list(&self) -> Result<Arc<CatalogList>> {
        let core = self.core();
        let mut slot = core.name_lists.catalog.lock().await;
        let now = core.clock.monotonic();
        if let Some(list) = fresh_list(&slot, now) {
            return Ok(list);
        }
        let mut names = Vec::new();
        let mut pages = core.list_pages(keys::CATALOG);
        let mut is_whole = true;
        while let Some(page) = pages.next().await? {
            names.extend(page.entries.iter().filter_map(|entry| keys::catalog_name(&entry.key)));
            if names.len() >= CATALOG_LIST_MAX {
                is_whole = page.next.is_none() && names.len() == CATALOG_LIST_MAX;
                names.truncate(CATALOG_LIST_MAX);
                break;
            }
        }
        names.shrink_to_fit();
        let list = Arc::new(CatalogList { names, is_whole });
        *slot = Some(ReadList { list: Arc::clone(&list), read_at: now });
        Ok(list)
    }
}

impl Repository {
    /// The tags of the repository, which may be [`crate::LIST_AGE_MAX`] old.
    ///
    /// # Errors
    ///
    /// [`Error::NameUnknown`], [`Error::Store`].
    pub async fn tag_list(&self) -> Result<Arc<TagList>> {
        let core = &self.core;
        let slot = core.name_lists.slot(&self.name, core.clock.monotonic());
        let mut slot = slot.lock().await;
        let now = core.clock.monotonic();
        if let Some(list) = fresh_list(&slot, now) {
            return Ok(list);
        }
        let list = Arc::new(self.read_tag_list().await?);
        core.name_lists.note(&self.name, list.tags.len(), now);
        *slot = Some(ReadList { list: Arc::clone(&list), read_at: now });
        Ok(list)
    }

    async fn read_tag_list(&self) -> Result<TagList> {
        let mut tags = Vec::new();
        let mut after = None;
        for _ in 0..TAG_LIST_MAX.div_ceil(LIST_KEYS_MAX) {
            let listing = self.core.list(self.tag_keys(), after, LIST_KEYS_MAX).await?;
            let last = listing.entries.last().map(|entry| entry.key.to_string());
            for entry in listing.entries.iter().filter(|entry| !is_deleted_tag(entry)) {
                if let Some(tag) = keys::tag_of(&entry.key) {
                    tags.push(ListedTag { tag, written: entry.last_modified });
                }
            }
            after = last.filter(|_| listing.more);
            if after.is_none() {
                break;
            }
        }
        if tags.is_empty() && !self.core.exists(&keys::catalog(&self.name)).await? {
            return Err(Error::NameUnknown { name: self.name.clone() });
        }
        tags.shrink_to_fit();
        Ok(TagList { tags, is_whole: after.is_none() })
    }
}
