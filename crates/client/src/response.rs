//! What the operations of an [`UpstreamClient`](crate::UpstreamClient) take and return.

use std::time::Duration;

use bytes::Bytes;
use form_urlencoded::Serializer;
use jreg_oci::{Descriptor, Digest, MediaType};

/// The head of a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamManifestHead {
    /// Its digest, from `Docker-Content-Digest`. If the response has none, the client gets the manifest instead.
    pub digest: Digest,
    /// Its `Content-Type`, if the response has a valid one.
    pub media_type: Option<MediaType>,
    /// Its size in bytes, if the response has one.
    pub size: Option<u64>,
    /// Its `ETag`.
    pub etag: Option<String>,
}

/// A manifest. Its bytes have this digest: it was verified.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamManifest {
    /// The bytes.
    pub bytes: Bytes,
    /// The `Content-Type`; if it is not specific, the `mediaType` of the document.
    pub media_type: MediaType,
    /// The digest that was requested; of a tag the one in the response's header, else by SHA-256.
    pub digest: Digest,
    /// Its `ETag`.
    pub etag: Option<String>,
}

/// Which bytes of a blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// The byte after the last; `None` for the end of the blob.
    pub end: Option<u64>,
}

/// A blob, or a part of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlobRequest {
    /// The blob.
    pub digest: Digest,
    /// Its size, if it is known: a response of another size is an error before its first byte is read.
    pub size: Option<u64>,
    /// Which part of it; `None` for the whole.
    pub range: Option<ByteRange>,
}

impl BlobRequest {
    /// The whole blob, of any size.
    pub fn new(digest: Digest) -> Self {
        Self { digest, size: None, range: None }
    }

    /// Expects this size, in bytes.
    #[must_use]
    pub fn with_size(mut self, size: u64) -> Self {
        self.size = Some(size);
        self
    }

    /// Only a part.
    #[must_use]
    pub fn with_range(mut self, range: ByteRange) -> Self {
        self.range = Some(range);
        self
    }
}

/// The complete list of the referrers of a subject.
#[derive(Clone, Debug, PartialEq)]
pub struct UpstreamReferrers {
    /// The referrers, each once, in the upstream's order.
    pub descriptors: Vec<Descriptor>,
    /// Whether they come from the fallback tag, because the upstream has no referrers API.
    pub is_fallback: bool,
}

/// A page of a list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UpstreamPage<T> {
    /// Its entries. Those that are no valid names are left out.
    pub items: Vec<T>,
    /// How to get the next page, if there is one.
    pub next: Option<PageQuery>,
}

/// The longest query of a page, in bytes.
pub(crate) const PAGE_QUERY_BYTES_MAX: usize = 4096;

/// The query by which a page of a list is requested, also as the upstream's `Link` says it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageQuery(String);

impl PageQuery {
    /// At most `n` entries after `last`.
    pub fn new(n: Option<u32>, last: Option<&str>) -> Self {
        let mut query = Serializer::new(String::new());
        if let Some(n) = n {
            query.append_pair("n", &n.to_string());
        }
        if let Some(last) = last {
            query.append_pair("last", last);
        }
        Self(query.finish())
    }

    /// A query as the upstream's `Link` has it; `None` if it is empty or longer than any is.
    pub(crate) fn from_link(query: &str) -> Option<Self> {
        let is_fit = (1..=PAGE_QUERY_BYTES_MAX).contains(&query.len());
        is_fit.then(|| Self(query.to_owned()))
    }

    /// The query, without `?`.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Docker Hub's `ratelimit-limit` and `ratelimit-remaining`, as the last response had them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RateLimit {
    /// How many pulls are allowed in a window.
    pub limit: Option<u64>,
    /// How many are left.
    pub remaining: Option<u64>,
    /// The window.
    pub window: Option<Duration>,
}

/// What a request was for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpstreamRequestKind {
    /// `/v2/`.
    Ping,
    /// A HEAD of a manifest.
    ManifestHead,
    /// A GET of a manifest: what Docker Hub counts as a pull.
    ManifestGet,
    /// A HEAD of a blob.
    BlobHead,
    /// A GET of a blob, or of a part.
    BlobGet,
    /// A page of referrers.
    Referrers,
    /// A page of tags.
    Tags,
    /// A page of the catalog.
    Catalog,
    /// A token.
    Token,
}

impl UpstreamRequestKind {
    /// The name, for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ping => "ping",
            Self::ManifestHead => "manifest_head",
            Self::ManifestGet => "manifest_get",
            Self::BlobHead => "blob_head",
            Self::BlobGet => "blob_get",
            Self::Referrers => "referrers",
            Self::Tags => "tags",
            Self::Catalog => "catalog",
            Self::Token => "token",
        }
    }
}

/// What came of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum UpstreamOutcome {
    /// 2xx.
    Ok,
    /// 404.
    NotFound,
    /// 401 or 403.
    Refused,
    /// 429.
    TooManyRequests,
    /// 5xx, no connection, or no response.
    Failed,
    /// No response in time.
    Timeout,
    /// Any other status, or a response that the protocol does not allow.
    Other,
}

impl UpstreamOutcome {
    /// The name, for metrics.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::NotFound => "not_found",
            Self::Refused => "refused",
            Self::TooManyRequests => "too_many_requests",
            Self::Failed => "failed",
            Self::Timeout => "timeout",
            Self::Other => "other",
        }
    }
}

/// What a client has sent and received since it was made.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UpstreamStatistics {
    /// Requests by kind and outcome; those of redirects are not counted apart.
    pub requests: Vec<(UpstreamRequestKind, UpstreamOutcome, u64)>,
    /// Bytes of bodies that were received.
    pub bytes: u64,
    /// How often a blob that broke off was resumed.
    pub resumes: u64,
}
