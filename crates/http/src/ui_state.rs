//! [`UiState`]: what pages need beside the registry.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use futures::future::BoxFuture;
use jreg_oci::{Digest, Reference, RepositoryName, Tag};
use jreg_registry::{Error, GcOptions, RetentionOptions};
use jreg_ui::{MirrorFacts, ServiceActivity, ServiceUsage};
use quick_cache::unsync::Cache;
use tokio::sync::{Semaphore, SemaphorePermit};
use tokio::time::timeout;

/// Number of manifests whose summaries are in memory, of some hundred bytes each.
const SUMMARIES_MAX: usize = 20_000;
/// Number of repositories whose counted sizes are in memory.
const SIZES_MAX: usize = 10_000;
/// Number of pushes that are in memory.
const PUSHES_MAX: usize = 100;
/// Pages that are made at the same time.
const PAGES_AT_ONCE: usize = 64;
/// Pages that read many or large documents at the same time.
const DOCUMENTS_AT_ONCE: usize = 2;
/// How long a page waits for its turn.
const TURN_WAIT_MAX: Duration = Duration::from_secs(10);

/// What pages need beside the registry.
#[derive(Debug)]
pub struct UiState {
    pub gc: GcOptions,
    pub retention: RetentionOptions,
    pub activity: Arc<dyn ActivitySource>,
    summaries: Mutex<Cache<Digest, Arc<ManifestSummary>>>,
    sizes: Mutex<Cache<RepositoryName, (u64, SystemTime)>>,
    /// The latest first.
    pushes: Mutex<VecDeque<RecentPush>>,
    /// A permit for each page that is made.
    pages: Semaphore,
    /// A permit for each page that reads many or large documents.
    documents: Semaphore,
}

/// A push of a tag to this instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RecentPush {
    pub(crate) name: RepositoryName,
    pub(crate) tag: Tag,
    pub(crate) at: SystemTime,
    /// `None`: anonymous.
    pub(crate) by: Option<String>,
}

/// Tells what concerns the registry as a whole: runs, sinks, quotas.
pub trait ActivitySource: Debug + Send + Sync + 'static {
    fn activity(&self) -> BoxFuture<'_, ServiceActivity>;
    /// `counts`: quotas are counted first.
    fn usage(&self, counts: bool) -> BoxFuture<'_, ServiceUsage>;
    /// `counts`: what each mirror holds is counted.
    fn mirrors(&self, counts: bool) -> BoxFuture<'_, Vec<MirrorFacts>>;
}

/// Knows nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoActivity;

impl ActivitySource for NoActivity {
    fn activity(&self) -> BoxFuture<'_, ServiceActivity> {
        Box::pin(async { ServiceActivity::default() })
    }

    fn usage(&self, _: bool) -> BoxFuture<'_, ServiceUsage> {
        Box::pin(async { ServiceUsage::default() })
    }

    fn mirrors(&self, _: bool) -> BoxFuture<'_, Vec<MirrorFacts>> {
        Box::pin(async { Vec::new() })
    }
}

/// What a list says of a manifest. It follows from the bytes of the manifest, so it is the same in each repository.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ManifestSummary {
    pub(crate) platforms: Vec<String>,
    /// Bytes of the manifest and its blobs; `None`: an index, which does not say it.
    pub(crate) bytes: Option<u64>,
    /// The entry of an index that pages show first.
    pub(crate) entry: Option<Digest>,
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
        let (sizes, pushes) = (Mutex::new(Cache::new(SIZES_MAX)), Mutex::default());
        let (pages, documents) = (Semaphore::new(PAGES_AT_ONCE), Semaphore::new(DOCUMENTS_AT_ONCE));
        Self { gc, retention, activity, summaries, sizes, pushes, pages, documents }
    }

    /// The turn of a page, which holds until it is made: what pages read is in memory meanwhile.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`].
    pub(crate) async fn page_turn(&self) -> Result<SemaphorePermit<'_>, Error> {
        turn(&self.pages).await
    }

    /// The turn of a page that reads many or large documents.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`].
    pub(crate) async fn document_turn(&self) -> Result<SemaphorePermit<'_>, Error> {
        turn(&self.documents).await
    }

    /// Keeps that tags were pushed.
    pub(crate) fn note_push(
        &self,
        name: &RepositoryName,
        (reference, tags): (&Reference, &[Tag]),
        by: Option<String>,
    ) {
        let mut pushes = lock(&self.pushes);
        for tag in reference.tag().into_iter().chain(tags) {
            pushes.retain(|push| (&push.name, &push.tag) != (name, tag));
            pushes.truncate(PUSHES_MAX - 1);
            let (name, at) = (name.clone(), SystemTime::now());
            pushes.push_front(RecentPush { name, tag: tag.clone(), at, by: by.clone() });
        }
    }

    /// What was pushed lately, the latest first.
    pub(crate) fn pushes(&self) -> Vec<RecentPush> {
        lock(&self.pushes).iter().cloned().collect()
    }

    /// The bytes that a repository held when they were counted last.
    pub(crate) fn size_of(&self, name: &RepositoryName) -> Option<(u64, SystemTime)> {
        lock(&self.sizes).get(name).copied()
    }

    pub(crate) fn note_size(&self, name: RepositoryName, bytes: u64) {
        lock(&self.sizes).insert(name, (bytes, SystemTime::now()));
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
        lock(&self.summaries).get(digest).cloned()
    }

    pub(crate) fn add_summary(&self, digest: Digest, summary: Arc<ManifestSummary>) {
        lock(&self.summaries).insert(digest, summary);
    }
}

async fn turn(slots: &Semaphore) -> Result<SemaphorePermit<'_>, Error> {
    match timeout(TURN_WAIT_MAX, slots.acquire()).await {
        Ok(Ok(permit)) => Ok(permit),
        _ => Err(Error::Busy { what: "pages are being made for other requests" }),
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // A poisoned lock is fine: each change leaves it consistent.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn state() -> UiState {
        UiState::new(GcOptions::default(), RetentionOptions::default(), Arc::new(NoActivity))
    }

    #[test]
    fn the_latest_pushes_are_kept_each_tag_once() {
        let state = state();
        let push = |name: &str, tag: &str, more: &[Tag]| {
            let reference = Reference::Tag(tag.parse().unwrap());
            state.note_push(&name.parse().unwrap(), (&reference, more), Some("alice".to_owned()));
        };
        push("a", "v1", &[]);
        push("b", "v1", &["v2".parse().unwrap()]);
        push("a", "v1", &[]);
        let shown = |push: &RecentPush| format!("{}:{}", push.name, push.tag);
        assert_eq!(state.pushes().iter().map(shown).collect::<Vec<_>>(), ["a:v1", "b:v2", "b:v1"]);
        for number in 0..500 {
            push("a", &format!("t{number}"), &[]);
        }
        assert_eq!(state.pushes().len(), PUSHES_MAX);
        assert_eq!(shown(&state.pushes()[0]), "a:t499");
    }

    #[tokio::test(start_paused = true)]
    async fn a_page_waits_for_its_turn_and_not_for_ever() {
        let state = state();
        let mut turns = Vec::new();
        for _ in 0..PAGES_AT_ONCE {
            turns.push(state.page_turn().await.unwrap());
        }
        assert!(matches!(state.page_turn().await, Err(Error::Busy { .. })));
        turns.pop();
        assert!(state.page_turn().await.is_ok());
    }
}
