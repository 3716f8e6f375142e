//! Pages of listings, and the number of store requests that one makes.

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
