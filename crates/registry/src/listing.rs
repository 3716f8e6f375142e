//! Listings: a page of items for a client, in a bounded number of store requests; and [`KeyPages`],
//! everything below a prefix, page by page, for work that goes through it all.
//!
//! A store lists tombstones too, and shows a page without them: so a page of a store may be empty
//! and still have a next one. A page for a client looks through a bounded number of those. If that
//! does not fill it, it is short, or empty, and has a next one all the same: a client that follows
//! `next` gets every item exactly once.

use jreg_storage::{Key, ListPage, ListRequest, Listed};

use crate::core::Core;
use crate::page::LIST_KEYS_MAX;
use crate::{Result, ResultPage};

/// A listing, page by page.
pub(crate) struct KeyPages {
    core: Core,
    request: Option<ListRequest>,
}

impl Core {
    /// One page of the items that the keys below a prefix name, in at most `requests_max` store
    /// requests. `item` gives the name of a key and its item; other keys are skipped, and so are entries
    /// that are not `shown`.
    pub(crate) async fn list_items<T>(
        &self,
        prefix: String,
        start_after: Option<String>,
        limit: usize,
        requests_max: usize,
        item: impl Fn(&Key) -> Option<(String, T)>,
        shown: impl Fn(&Listed) -> bool,
    ) -> Result<ResultPage<T>> {
        let mut page = ResultPage { items: Vec::new(), next: None };
        if limit == 0 {
            return Ok(page);
        }
        let mut request = ListRequest { start_after, limit, ..ListRequest::below(prefix) };
        let mut requests = 0;
        loop {
            let listing = self.store.list(&request).await?;
            requests += 1;
            for (index, entry) in listing.entries.iter().enumerate() {
                let Some((name, found)) = item(&entry.key).filter(|_| shown(entry)) else {
                    continue;
                };
                page.items.push(found);
                page.next = Some(name);
                if page.items.len() == limit {
                    let more = index + 1 < listing.entries.len() || listing.next.is_some();
                    page.next = page.next.filter(|_| more);
                    return Ok(page);
                }
            }
            let Some(next) = listing.next else { return Ok(ResultPage { next: None, ..page }) };
            // Where the store stopped, also if a tombstone is there. A client cannot continue from
            // a key without an item; only foreign keys have none.
            let name = next.parse().ok().and_then(|key| item(&key)).map(|(name, _)| name);
            page.next = name.or(page.next);
            if requests >= requests_max && page.next.is_some() {
                return Ok(page);
            }
            request = ListRequest { start_after: Some(next), limit: LIST_KEYS_MAX, ..request };
        }
    }

    /// Everything below a prefix, in pages as large as suits the store.
    pub(crate) fn list_pages(&self, prefix: impl Into<String>) -> KeyPages {
        let limit = self.store.capabilities().list_page_keys;
        let request = ListRequest { limit, ..ListRequest::below(prefix) };
        KeyPages { core: self.clone(), request: Some(request) }
    }
}

impl KeyPages {
    /// Continues after a key.
    pub(crate) fn after(mut self, key: String) -> Self {
        if let Some(request) = &mut self.request {
            request.start_after = Some(key);
        }
        self
    }

    /// The next page; `None` after the last.
    pub(crate) async fn next(&mut self) -> Result<Option<ListPage>> {
        let Some(request) = &mut self.request else { return Ok(None) };
        let page = self.core.store.list(request).await?;
        match &page.next {
            Some(next) => request.start_after = Some(next.clone()),
            None => self.request = None,
        }
        Ok(Some(page))
    }
}
