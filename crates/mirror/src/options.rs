//! [`MirrorOptions`]: what an operator can set about a mirror, as data.

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use jreg_client::{CredentialSource, UpstreamUrl};
use jreg_oci::{MirrorName, RepositoryName, RepositoryPattern, Tag, TagPattern};

use crate::{OnGone, SyncRequest};

/// A mirrored registry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MirrorOptions {
    pub name: MirrorName,
    /// Where it is, tried in this order.
    pub upstream: Vec<UpstreamUrl>,
    /// For the first of them.
    pub credentials: CredentialSource,
    /// PEM bundle of the CAs that are trusted instead of the system's.
    pub ca_file: Option<PathBuf>,
    /// Hosts of token services other than its own.
    pub token_hosts: Vec<String>,
    pub private_addresses: bool,
    pub requests_per_second: Option<NonZeroU32>,
    /// How long a tag is served without asking again.
    pub fresh: Duration,
    /// The same of a manifest that is requested by digest, if there are credentials.
    pub fresh_digest: Duration,
    /// Tags that are never asked for again.
    pub immutable: Vec<TagPattern>,
    /// How long after the last check content is served while the registry fails.
    pub stale_if_error: Duration,
    pub on_gone: OnGone,
    /// How long a 404 is remembered.
    pub negative: Duration,
    /// The repositories that are mirrored, by their names there; empty: all.
    pub allow: Vec<RepositoryPattern>,
    /// Those that are not.
    pub deny: Vec<RepositoryPattern>,
    /// How long content stays since it was last pulled.
    pub keep: Option<Duration>,
    /// How many bytes of manifests and what they reference stay.
    pub bytes_max: Option<u64>,
    /// What is fetched regularly, and how often.
    pub sync: Option<(SyncRequest, Duration)>,
    /// Anonymous clients may pull what the credentials can read.
    pub is_public: bool,
}

impl MirrorOptions {
    /// Whether what is mirrored may differ from what everyone can read there.
    pub fn has_credentials(&self) -> bool {
        self.credentials != CredentialSource::Anonymous
    }

    /// Whether a repository is mirrored, by its name there.
    pub fn allows(&self, upstream: &RepositoryName) -> bool {
        let matches = |patterns: &[RepositoryPattern]| {
            patterns.iter().any(|pattern| pattern.matches(upstream))
        };
        (self.allow.is_empty() || matches(&self.allow)) && !matches(&self.deny)
    }

    /// Whether content goes that is not pulled any more.
    pub fn evicts(&self) -> bool {
        self.keep.is_some() || self.bytes_max.is_some()
    }

    /// Whether a tag never changes.
    pub fn is_immutable(&self, tag: &Tag) -> bool {
        self.immutable.iter().any(|pattern| pattern.matches(tag))
    }
}

/// What all mirrors share.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MirrorLimits {
    /// Maximum number of blobs that are stored at the same time.
    pub fills_max: usize,
    /// Maximum memory for blobs on their way to the store and to readers.
    pub memory_bytes: u64,
    /// In a bucket: blobs up to this size stay in memory as a whole while they are stored.
    pub window_bytes: u64,
    /// How long a reader of a larger one waits for it to be stored, before it reads from the registry itself.
    pub wait: Duration,
    /// The largest manifest, in bytes.
    pub manifest_bytes_max: u64,
}

impl Default for MirrorLimits {
    fn default() -> Self {
        Self {
            fills_max: 64,
            memory_bytes: 512 << 20,
            window_bytes: 64 << 20,
            wait: Duration::from_secs(5),
            manifest_bytes_max: 4 << 20,
        }
    }
}
