//! Pages of listings, each made in a bounded number of store requests.
//!
//! A store lists tombstones too, and shows a page without them: so a page of a store may be empty
//! and still have a next one. A page here looks through a bounded number of those. If that does not
//! fill it, it is short, or empty, and has a next one all the same: a client that follows `next`
//! gets every item exactly once.

use jreg_storage::{Key, ListRequest};

use crate::Result;
use crate::core::Core;

/// How many keys a store request of a listing asks for after the first, which asks for as many as
/// the page may have: the most that S3 lists at once.
pub const LIST_KEYS_MAX: usize = 1000;
/// The most store requests that one page makes beyond the fewest that could fill it.
pub const EXTRA_LIST_REQUESTS_MAX: usize = 7;

/// Which page of a listing is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// At most this many items. Zero is an empty page without a next one (distribution-spec,
    /// "Listing Tags").
    pub limit: usize,
    /// Only items after this one in byte order. It need not exist.
    pub last: Option<String>,
}

/// A page of a listing, in byte order. It may have fewer items than its limit, and none, though it
/// has a next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ResultPage<T> {
    pub items: Vec<T>,
    /// The value of the next page's [`PageRequest::last`] must be, if there is a next page.
    pub next: Option<String>,
}

/// The most store requests that one page of up to `limit` items makes.
pub fn list_requests_max(limit: usize) -> usize {
    limit.div_ceil(LIST_KEYS_MAX).max(1) + EXTRA_LIST_REQUESTS_MAX
}

impl Core {
    /// One page of the items that the keys below a prefix name, in at most `requests_max` store
    /// requests. `item` gives the name of a key and its item; other keys are skipped.
    pub(crate) async fn list_items<T>(
        &self,
        prefix: String,
        start_after: Option<String>,
        limit: usize,
        requests_max: usize,
        item: impl Fn(&Key) -> Option<(String, T)>,
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
                let Some((name, found)) = item(&entry.key) else { continue };
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
}
