//! Pages of listings.

/// Which page of a listing is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// At most this many items. Zero is an empty page without a next one (distribution-spec,
    /// "Listing Tags").
    pub limit: usize,
    /// Only items after this one in byte order. It need not exist.
    pub last: Option<String>,
}

/// A page of a listing, in byte order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// What the next page's [`PageRequest::last`] must be, if there is a next page.
    pub next: Option<String>,
}
