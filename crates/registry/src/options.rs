//! What an operator can set about the registry, as data.

use std::time::Duration;

use futures::future::BoxFuture;
use jreg_oci::{MediaType, MediaTypePattern};
use jreg_storage::Part;

use crate::{Error, Result};

/// The registry's settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryOptions {
    /// Which content a manifest may reference that the repository does not have.
    pub references: ReferencePolicy,
    /// The media types that a pushed manifest may have.
    pub manifest_media_types: Vec<MediaTypePattern>,
    pub limits: RegistryLimits,
    /// Maximum bytes of manifests and links kept in memory for serving, and an eighth of it more of
    /// entries of lists of referrers; 0 keeps none.
    pub cache_bytes: u64,
    /// How long a cached manifest or link is trusted where other instances share the store.
    pub cache_trust: Duration,
    /// What is done with the work of storing a part, which is a task of its own.
    pub part_task: PartTask,
}

/// The work of storing a part of an upload.
pub type PartFuture = BoxFuture<'static, jreg_storage::Result<Part>>;

/// Wraps the work of storing a part in the task that starts it, for what belongs to tasks (traces).
#[derive(Clone, Copy, Debug)]
pub struct PartTask(pub fn(PartFuture) -> PartFuture);

impl Default for PartTask {
    fn default() -> Self {
        Self(|work| work)
    }
}

/// Which function it is has no influence on what is stored.
impl PartialEq for PartTask {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for PartTask {}

impl RegistryOptions {
    /// Whether a pushed manifest may have a media type.
    pub(crate) fn check_media_type(&self, media_type: &MediaType) -> Result<()> {
        let allowed = &self.manifest_media_types;
        if allowed.iter().any(|pattern| pattern.matches(media_type)) {
            return Ok(());
        }
        let allowed: Vec<_> = allowed.iter().map(ToString::to_string).collect();
        Err(Error::MediaTypeNotAllowed {
            media_type: media_type.clone(),
            allowed: allowed.join(", "),
        })
    }
}

/// Which content a manifest may reference that the repository does not have (distribution-spec,
/// "Pushing Manifests": a registry may refuse).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ReferencePolicy {
    /// None: an image's config and layers and an index's manifests must be there.
    Strict,
    /// An index may name manifests that are not there; an image's config and layers must be.
    #[default]
    SparseIndex,
    /// Anything may be absent.
    Off,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RegistryLimits {
    /// The largest manifest, in bytes.
    pub manifest_bytes_max: u64,
    /// The most items in one page of a listing; more is clamped to this.
    pub page_items_max: usize,
    /// How long an upload may continue from its creation.
    pub upload_age_max: Duration,
    /// The most uploads that send at the same time.
    pub uploads_max: usize,
    /// Maximum bytes of uploads in memory at the same time, over all uploads.
    pub upload_buffer_bytes: u64,
    /// How long an upload waits for some of them before it is refused.
    pub buffer_wait_max: Duration,
    /// The size of a part of a multipart upload of unknown length; `None` takes the store's.
    pub part_bytes: Option<u64>,
    /// The most parts of one upload that are sent to the store at the same time.
    pub parts_in_flight: usize,
    /// The most store reads that one manifest push makes at the same time.
    pub manifest_reads_in_flight: usize,
    /// Maximum number of holders of a digest that a mount without `from` looks at.
    pub mount_candidates_max: usize,
}

impl Default for RegistryLimits {
    fn default() -> Self {
        Self {
            manifest_bytes_max: 4 * 1024 * 1024,
            page_items_max: 1000,
            upload_age_max: Duration::from_secs(6 * 24 * 3600),
            uploads_max: 512,
            upload_buffer_bytes: 256 * 1024 * 1024,
            buffer_wait_max: Duration::from_secs(30),
            part_bytes: None,
            parts_in_flight: 4,
            manifest_reads_in_flight: 64,
            mount_candidates_max: 16,
        }
    }
}

impl Default for RegistryOptions {
    fn default() -> Self {
        Self {
            references: ReferencePolicy::default(),
            manifest_media_types: vec![MediaTypePattern::application()],
            limits: RegistryLimits::default(),
            cache_bytes: 64 * 1024 * 1024,
            cache_trust: Duration::from_secs(60),
            part_task: PartTask::default(),
        }
    }
}
