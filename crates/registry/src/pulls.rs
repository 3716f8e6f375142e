//! Pull times: when each tag was pulled last, for retention rules with `pulled_within`.
//!
//! A pull costs no store request. Each instance notes it in memory (`pull_collector.rs`), and writes what it has noted
//! to one object every few minutes ([`Registry::flush_pulls`]). Usually one instance merges the objects into 256
//! shards (`merge.rs`), and a reader of the times reads memory, objects and shards, in this order, in which they
//! move (`times.rs`).
//!
//! - A merge takes the maximum, so repeating it changes nothing. An object is removed only once every shard has it.
//! - `pulls/since` says since when no pull was missed. Whatever is lost, or cannot be read, sets it to the present *before*
//!   it is replaced: a time that is missing must not look like a tag that is not pulled.
//! - Of an instance that is killed the pulls of the last minutes are lost, which nothing notices.

mod merge;
mod record;
mod since;
mod times;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_oci::Reference;
use jreg_storage::{PutMode, error_chain};
use tracing::warn;
use ulid::Ulid;

pub use merge::MergedPulls;
pub(crate) use merge::PrunedPulls;
pub(crate) use record::{PullsObject, PullsShard, PullsSince};
pub(crate) use times::PullTimes;

use crate::core::Core;
use crate::pull_collector::PullMap;
use crate::record::StoredRecord;
use crate::window::CLOCK_ERROR;
use crate::{Event, EventAction, EventDetail, Registry, Repository, Result, StoredManifest, keys};

/// How often an instance writes down what was pulled.
pub const PULLS_FLUSH_INTERVAL: Duration = Duration::from_secs(300);
/// How often the objects are merged.
pub const PULLS_MERGE_INTERVAL: Duration = Duration::from_secs(3600);
/// How long after a pull every run knows it: the interval with a retry, the minute to which times are rounded, and
/// clocks that differ.
pub(crate) const PULLS_SLACK: Duration = Duration::from_secs(15 * 60);

/// What one flush wrote.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct FlushedPulls {
    /// Tags and digests whose times were written.
    pub times: usize,
    /// Events that were queued.
    pub events: usize,
}

impl Registry {
    /// The same registry, which also tracks pulls if no rule needs it.
    #[must_use]
    pub fn with_pull_tracking(&self, tracks: bool) -> Self {
        let mut core = Core::clone(self.core());
        core.always_tracks_pulls = tracks;
        Self::of_core(core)
    }

    /// Whether pull times are tracked: a rule needs them, or the options ask for it.
    pub fn tracks_pulls(&self) -> bool {
        self.core().tracks_pulls()
    }

    /// Waits until what this instance has noted should be written before its time.
    pub async fn pulls_full(&self) {
        self.core().pulls.full.notified().await;
    }

    /// Writes what was pulled since the last time: one object, and none if nothing was. What cannot be written is
    /// kept for the next time.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn flush_pulls(&self) -> Result<FlushedPulls> {
        self.core().flush_pulls().await
    }

    /// Keeps `pulls/since` true: sets it when tracking begins, or when a pull was missed; and says that pulls are not
    /// tracked when that ends. Costs no request while nothing changes.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn update_pulls_since(&self) -> Result<()> {
        self.core().update_pulls_since().await
    }

    /// Merges the objects of all instances into the shards, and removes them.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn merge_pulls(&self) -> Result<MergedPulls> {
        self.core().merge_pulls().await
    }
}

impl Repository {
    /// Notes a pull. Costs no request.
    pub fn record_pull(&self, reference: &Reference, manifest: &StoredManifest) {
        let core = &self.core;
        let is_tracked = core.always_tracks_pulls || self.rules.need_pull_times();
        if !is_tracked {
            core.pulls.note_missed();
        }
        let is_event = core.events.wants(EventAction::PullSummary, Some(&self.name));
        if is_tracked || is_event {
            let digest = is_event.then_some(&manifest.digest);
            core.pulls.record(&self.name, reference, digest, minute(core.clock.now()));
        }
    }
}

impl Core {
    pub(crate) fn tracks_pulls(&self) -> bool {
        self.always_tracks_pulls || self.lifecycle.get().need_pull_times()
    }

    async fn flush_pulls(&self) -> Result<FlushedPulls> {
        let _turn = self.pulls.flushing.lock().await;
        let Some(pulled) = self.pulls.begin_flush() else { return Ok(FlushedPulls::default()) };
        let mut flushed = FlushedPulls::default();
        if self.tracks_pulls()
            && let Err(error) = self.write_pulls(&pulled, &mut flushed).await
        {
            self.pulls.end_flush(Some(&pulled));
            return Err(error);
        }
        self.pulls.end_flush(None);
        if let Err(error) = self.queue_pull_events(&pulled, &mut flushed).await {
            warn!(error = error_chain(&error), "events of pulls were lost");
        }
        Ok(flushed)
    }

    async fn write_pulls(&self, pulled: &PullMap, flushed: &mut FlushedPulls) -> Result<()> {
        let hour = seconds(self.clock.now()) / 3600;
        let key = keys::pulls_object(hour, &self.pulls.instance, Ulid::generate());
        self.store.put(&key, PullsObject::of(pulled).encode(), PutMode::Create).await?;
        flushed.times = pulled.len();
        Ok(())
    }

    /// One event of each tag or digest that was pulled and that a sink wants to know of.
    async fn queue_pull_events(
        &self,
        pulled: &Arc<PullMap>,
        flushed: &mut FlushedPulls,
    ) -> Result<()> {
        let mut events = Vec::new();
        for (name, reference, entry) in pulled.entries() {
            if !self.events.wants(EventAction::PullSummary, Some(name)) {
                continue;
            }
            let detail = EventDetail::from_iter([("pulls".to_owned(), entry.pulls.into())]);
            let fact = Event::of_fact(EventAction::PullSummary, self.clock.now(), detail);
            let time_ms = u64::from(entry.minute) * 60_000;
            let (tag, digest) = match reference {
                Reference::Tag(tag) => (Some(tag.clone()), entry.digest.clone()),
                Reference::Digest(digest) => (None, Some(digest.clone())),
            };
            events.push(Event { time_ms, repository: Some(name.clone()), tag, digest, ..fact });
        }
        flushed.events = events.len();
        self.queue_facts(events).await
    }
}

/// A time in minutes of the Unix epoch.
fn minute(time: SystemTime) -> u32 {
    u32::try_from(seconds(time) / 60).unwrap_or(u32::MAX)
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

/// From when on pulls are tracked if that begins now, by whichever clock: the next full minute.
fn from_now(core: &Core) -> u64 {
    (seconds(core.clock.now() + CLOCK_ERROR) / 60 + 1) * 60
}
