//! [`HttpOptions`]: what an operator can set about HTTP.

use std::time::Duration;

use http::HeaderValue;
use jreg_oci::MirrorNames;
use jreg_registry::MemoryBudget;

use crate::proxies::Proxies;
use crate::pulls::PullExceptions;
use crate::redirect::Redirects;

/// The chunk size that clients are asked for (`OCI-Chunk-Min-Length`), in bytes. Smaller chunks
/// are taken too; each costs a few store requests.
pub const CHUNK_BYTES_MIN: u64 = 1024 * 1024;

/// What an operator can set about HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HttpOptions {
    /// Whether content may be deleted.
    pub deletes: bool,
    /// Whether the web UI is served.
    pub ui: bool,
    /// What goes before the paths of Location and Link; empty, or an address without a slash at
    /// its end.
    pub public_url: String,
    /// Values of the `Warning` header of every API response.
    pub warnings: Vec<HeaderValue>,
    /// The largest manifest, in bytes.
    pub manifest_bytes_max: u64,
    /// The most bytes of manifests in memory while they are received.
    pub manifest_buffer_bytes: u64,
    /// The most items of a page.
    pub page_items_max: usize,
    /// How long a client may send nothing in the middle of a body.
    pub body_idle_timeout: Duration,
    /// The fewest bytes a second of a body; 0 is no limit.
    pub body_rate_min: u64,
    /// Over which time that is averaged.
    pub body_rate_grace: Duration,
    /// How long a body waits for memory.
    pub buffer_wait_max: Duration,
    /// How much of a body that was refused is read nevertheless.
    pub drain_bytes_max: u64,
    /// When to try again.
    pub retry_after: Duration,
    /// Which blobs are redirected to the store, and for which clients.
    pub redirects: Redirects,
    /// Whether the listener is on a loopback address: pages have cookies without TLS then.
    pub listens_on_loopback: bool,
    /// The reverse proxies whose headers are trusted.
    pub proxies: Proxies,
    /// The names of mirrored registries.
    pub mirrors: MirrorNames,
    /// Whose pulls do not count.
    pub pulls: PullExceptions,
    /// Whether metrics are served beside the API.
    pub serves_metrics: bool,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            deletes: true,
            ui: true,
            public_url: String::new(),
            warnings: Vec::new(),
            manifest_bytes_max: 4 << 20,
            manifest_buffer_bytes: 128 << 20,
            page_items_max: 1000,
            body_idle_timeout: Duration::from_secs(60),
            body_rate_min: 1024,
            body_rate_grace: Duration::from_secs(60),
            buffer_wait_max: Duration::from_secs(30),
            drain_bytes_max: 8 << 20,
            retry_after: Duration::from_secs(5),
            redirects: Redirects::default(),
            listens_on_loopback: true,
            proxies: Proxies::default(),
            mirrors: MirrorNames::default(),
            pulls: PullExceptions::default(),
            serves_metrics: true,
        }
    }
}

impl HttpOptions {
    /// Room for the manifests that are in memory at the same time.
    pub fn manifest_room(&self) -> MemoryBudget {
        MemoryBudget::new(self.manifest_buffer_bytes, self.manifest_bytes_max, self.buffer_wait_max)
    }
}
