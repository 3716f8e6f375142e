//! [`UiState`]: what pages need beside the registry.

use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use jreg_oci::Digest;
use jreg_registry::{GcOptions, RetentionOptions};
use jreg_ui::ServiceActivity;
use quick_cache::unsync::Cache;
use tokio::sync::Semaphore;

/// Number of manifests whose summaries are in memory, of some hundred bytes each.
const SUMMARIES_MAX: usize = 20_000;
/// Number of large documents that are parsed at the same time.
const DOCUMENTS_AT_ONCE: usize = 2;

/// What pages need beside the registry.
#[derive(Debug)]
pub struct UiState {
    pub gc: GcOptions,
    pub retention: RetentionOptions,
    pub activity: Arc<dyn ActivitySource>,
    summaries: Mutex<Cache<Digest, Arc<ManifestSummary>>>,
    /// A permit for each large document that is parsed.
    pub(crate) documents: Semaphore,
}

/// Tells what concerns the registry as a whole: runs, sinks, quotas.
pub trait ActivitySource: Debug + Send + Sync + 'static {
    fn activity(&self) -> BoxFuture<'_, ServiceActivity>;
}

/// Knows nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoActivity;

impl ActivitySource for NoActivity {
    fn activity(&self) -> BoxFuture<'_, ServiceActivity> {
        Box::pin(async { ServiceActivity::default() })
    }
}

/// What a list says of a manifest. It follows from the bytes of the manifest, so it is the same in each repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ManifestSummary {
    pub(crate) platforms: Vec<String>,
    /// Bytes of the manifest and its blobs; `None`: an index, which does not say it.
    pub(crate) bytes: Option<u64>,
    /// What it is, if that is no image.
    pub(crate) kind: Option<&'static str>,
}

impl UiState {
    pub fn new(
        gc: GcOptions,
        retention: RetentionOptions,
        activity: Arc<dyn ActivitySource>,
    ) -> Self {
        let summaries = Mutex::new(Cache::new(SUMMARIES_MAX));
        let documents = Semaphore::new(DOCUMENTS_AT_ONCE);
        Self { gc, retention, activity, summaries, documents }
    }

    /// How long what is deleted can be restored, in words; `None`: it cannot.
    pub(crate) fn history_kept(&self) -> Option<String> {
        let days = self.gc.history_keep.as_secs() / 86_400;
        match days {
            0 if self.gc.history_keep.is_zero() => None,
            0 => Some("less than a day".to_owned()),
            1 => Some("a day".to_owned()),
            days => Some(format!("{days} days")),
        }
    }

    pub(crate) fn summary(&self, digest: &Digest) -> Option<Arc<ManifestSummary>> {
        self.summaries.lock().unwrap_or_else(PoisonError::into_inner).get(digest).cloned()
    }

    pub(crate) fn add_summary(&self, digest: Digest, summary: Arc<ManifestSummary>) {
        self.summaries.lock().unwrap_or_else(PoisonError::into_inner).insert(digest, summary);
    }
}
