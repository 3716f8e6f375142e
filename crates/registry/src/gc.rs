//! Garbage collection (GC): deletes unreferenced content while pushes and pulls continue.
//!
//! There is no lock, no mark bit that a push must check, and no pause. Any number of runs may be
//! concurrent, arbitrarily slow, and stop anywhere. Writers keep W1 to W3 (`core.rs`); GC keeps
//! these (docs/garbage-collection.md says why each is needed):
//!
//! - C1 It takes the time T0 of the store's first response, before it lists anything else.
//! - C2 It lists every manifest. R is everything that any of them references, those included that
//!   are about to be deleted themselves. If one cannot be read, or the listing fails, nothing is
//!   deleted.
//! - C3 It lists the links. A link to unreferenced content, last written before T0 less the grace,
//!   is a candidate.
//! - C4 It re-reads a candidate, checks its age again, and deletes that very version.
//! - C5 Bytes whose links were all deleted are queued, and deleted an hour later or more, after
//!   their links were listed once more. Their key is never used again.
//!
//! The grace is at least T + B, the age from which a writer touches a record that it relies on, and
//! the time that it has to write. So a record that is old enough to be a candidate is too old for a
//! writer to rely on without a touch, and everything written since is in the listing.
//!
//! Less often, a *sweep* finds orphan bytes, records that pushes and deletes have left behind, and
//! blobs that are stored several times.
//!
//! All decisions are [`GcAction`]s, which a sink applies, or only reports.

mod action;
mod deduplicate;
mod history;
mod kept_deleted;
mod links;
mod manifests;
mod memo;
mod observer;
mod queue;
mod summary;
mod sweep;
mod tidy;

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_lifecycle::{LifecycleRules, RetentionEntry, UntaggedRule};
use jreg_oci::RepositoryName;
use jreg_storage::{ErrorKind, Key, ListRequest, Listed};
use serde::{Deserialize, Serialize};

pub use action::{GcAction, GcActionKind, GcOutcome};
pub use history::HISTORY_ENTRIES_MAX;
pub use observer::{GcObserver, GcPhase};
pub use summary::{CompletedGcRun, FailedGcRun, GcSummary, StoredBlobs};

use self::action::GcSink;
use self::manifests::damaged;
use self::sweep::BlobLocations;
use crate::core::Core;
use crate::fingerprint::FingerprintSet;
use crate::fsck::QuarantinedLocations;
use crate::pace::paced;
use crate::record::{JsonRecord, StoredRecord};
use crate::rules::Rule;
use crate::window::{CLOCK_ERROR, TOUCH_AGE, WRITE_MAX};
use crate::{Error, HeldUploads, ReaperReport, Registry, keys};

/// The shortest grace: T + B, and forty minutes for listings that are late.
pub const GRACE_MIN: Duration = Duration::from_secs(2 * 3600);

/// The shortest wait between the removal of the last link and that of the bytes.
pub const BYTES_WAIT_MIN: Duration = Duration::from_secs(3600);

/// Number of links that a run may remove, whatever their share.
pub const REMOVALS_FREE: u64 = 100;

const _: () = assert!(TOUCH_AGE.as_secs() + WRITE_MAX.as_secs() <= GRACE_MIN.as_secs());

/// What GC may remove, and how fast.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcOptions {
    /// Minimum age of unreferenced content before it is removed; at least [`GRACE_MIN`].
    pub grace: Duration,
    /// How long a manifest must have been untagged before it is deleted, where the lifecycle rules say nothing of
    /// it; `None`: never. One that an
    /// index references, or whose subject exists, is always kept.
    pub untagged: Option<Duration>,
    /// Prefixes of the repositories of mirrors, whose manifests never have tags.
    #[serde(default)]
    pub mirrors: Vec<RepositoryName>,
    /// How long replaced changes of tags and copies of deleted manifests are kept, from their end on, with
    /// all that they reference: 0, or at least the grace.
    #[serde(default)]
    pub history_keep: Duration,
    /// Maximum share of the links that one run removes, in percent; but [`REMOVALS_FREE`] in any case.
    pub share_max_percent: u8,
    /// How long bytes stay after their last link was deleted; at least [`BYTES_WAIT_MIN`], and as
    /// long as a presigned URL that was issued works.
    pub bytes_wait: Duration,
    /// Maximum number of store requests a second; 0 is no limit.
    pub requests_per_second: u32,
    /// Maximum number of concurrent store requests.
    pub requests_at_once: usize,
    /// Whether actions are only reported.
    pub dry_run: bool,
    /// Whether to sweep, deduplicate and tidy although that was done less than a grace ago.
    pub sweep_now: bool,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(24 * 3600),
            untagged: None,
            mirrors: Vec::new(),
            history_keep: Duration::from_secs(30 * 24 * 3600),
            share_max_percent: 33,
            bytes_wait: BYTES_WAIT_MIN,
            requests_per_second: 0,
            requests_at_once: 16,
            dry_run: false,
            sweep_now: false,
        }
    }
}

/// Counts of one kind of object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GcTally {
    /// Examined.
    pub scanned: u64,
    /// Size of the examined ones, in bytes.
    pub scanned_bytes: u64,
    /// Kept because they are referenced.
    pub kept: u64,
    /// Kept because they are younger than the grace.
    pub young: u64,
    /// Removed; in a dry run: would be.
    pub removed: u64,
    /// Size of the removed ones, in bytes.
    pub removed_bytes: u64,
    /// Kept because they were changed concurrently.
    pub changed: u64,
    /// Kept because a run removes only a share.
    pub withheld: u64,
    /// Kept because the store failed, or because they cannot be read.
    pub failed: u64,
}

impl GcTally {
    fn scan(&mut self, bytes: u64) {
        self.scanned += 1;
        self.scanned_bytes += bytes;
    }

    fn count(&mut self, outcome: GcOutcome, bytes: u64) {
        match outcome {
            GcOutcome::Done => {
                self.removed += 1;
                self.removed_bytes += bytes;
            }
            GcOutcome::Changed => self.changed += 1,
            GcOutcome::Withheld => self.withheld += 1,
            GcOutcome::Failed => self.failed += 1,
        }
    }
}

/// The result of a GC run.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GcReport {
    /// The manifests; their bytes are those of their records.
    pub manifests: GcTally,
    /// Number of manifests that were read; the others were in the memo.
    pub manifests_read: u64,
    /// The links; bytes are those of the deleted links' blobs.
    pub links: GcTally,
    /// Number of links that were read; the others were in the memo, or did not matter.
    pub links_read: u64,
    /// The deleted bytes of blobs; only a sweep counts what it scanned.
    pub blobs: GcTally,
    /// Number of locations that lost their last link and wait for their removal.
    pub queued: u64,
    /// Their size in bytes.
    pub queued_bytes: u64,
    /// Links that were moved to the same bytes at another location; a sweep removes the bytes left.
    pub deduplicated: GcTally,
    /// Locations of duplicates with wrong or missing bytes.
    pub findings: u64,
    /// Hints and referrer entries, entries of the catalog, and records of deleted tags.
    pub orphans: GcTally,
    /// Replaced changes of tags.
    pub history: GcTally,
    /// Copies of deleted manifests.
    pub copies: GcTally,
    /// Tags and digests with a last pull.
    pub pull_times: GcTally,
    /// The uploads that were removed.
    pub uploads: ReaperReport,
    /// What unfinished uploads hold after the run, if that was counted.
    pub held: HeldUploads,
    /// Tombstones that were purged.
    pub tombstones: u64,
    /// Whether this run also swept, deduplicated and tidied.
    pub swept: bool,
}

/// Why a run was aborted. Everything it had deleted by then was unreferenced.
#[derive(Debug, thiserror::Error)]
pub enum GcError {
    /// The grace is too short to be safe.
    #[error("a grace of {} s is too short: it must be {} s or more", grace.as_secs(), GRACE_MIN.as_secs())]
    Grace {
        /// The requested grace.
        grace: Duration,
    },
    /// Bytes would be removed while a client may still read them.
    #[error("a wait of {} s for bytes is too short: it must be {} s or more", wait.as_secs(), BYTES_WAIT_MIN.as_secs())]
    BytesWait {
        /// The requested wait.
        wait: Duration,
    },
    /// History would be kept for a shorter time than the grace.
    #[error(
        "history cannot be kept for {} s: it must be 0 (nothing is kept) or the grace of {} s or more",
        keep.as_secs(), grace.as_secs()
    )]
    HistoryKeep {
        /// The requested time.
        keep: Duration,
        grace: Duration,
    },
    /// A manifest cannot be decoded: without its references nothing may be deleted.
    #[error(
        "garbage collection is suspended while {key} cannot be decoded ({reason}): see jreg fsck"
    )]
    Damaged {
        key: String,
        /// Description of the damage.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Registry(#[from] Error),
}

impl GcError {
    /// Whether nothing ran, because the options are not safe.
    pub fn is_of_options(&self) -> bool {
        matches!(self, Self::Grace { .. } | Self::BytesWait { .. } | Self::HistoryKeep { .. })
    }
}

impl From<jreg_storage::Error> for GcError {
    fn from(error: jreg_storage::Error) -> Self {
        Self::Registry(error.into())
    }
}

type Result<T, E = GcError> = std::result::Result<T, E>;

struct GcRun<'a> {
    /// The registry's, with a store that is limited to the request rate of the options.
    core: Core,
    options: &'a GcOptions,
    watch: &'a dyn GcObserver,
    sink: GcSink,
    /// T0.
    began: SystemTime,
    /// Whether this run sweeps, deduplicates and tidies.
    sweeps: bool,
    /// The rules file, whose entries may say what happens to untagged manifests.
    rules: Arc<LifecycleRules>,
    /// Whether untagged manifests may go anywhere.
    judges_untagged: bool,
    seen: GcInventory,
    done: GcReport,
}

/// The contents of the listings, as fingerprints.
#[derive(Debug, Default)]
struct GcInventory {
    /// Referenced content: what manifests reference, what tags point to, referrers of subjects that exist.
    kept: FingerprintSet,
    manifests: FingerprintSet,
    tags: FingerprintSet,
    /// Repositories that have a manifest.
    repositories: FingerprintSet,
    /// Locations that quarantined links name.
    quarantined: Option<QuarantinedLocations>,
}

impl Registry {
    /// Deletes unreferenced content that is old enough. Dropping the future stops the run anywhere;
    /// the next run continues.
    ///
    /// # Errors
    ///
    /// [`GcError`].
    pub async fn collect_garbage(
        &self,
        options: &GcOptions,
        watch: &dyn GcObserver,
    ) -> Result<GcReport> {
        check(options)?;
        let core = paced(self.core(), options.requests_per_second);
        core.check_required().await.map_err(damaged)?;
        watch.phase(GcPhase::Uploads);
        let uploads = match options.dry_run {
            true => ReaperReport::default(),
            false => core.reap_uploads().await?,
        };
        let mut run = GcRun::begin(core, options, watch).await?;
        run.done.uploads = uploads;
        run.collect().await?;
        Ok(run.done)
    }
}

impl GcOptions {
    /// How long a manifest of a repository must have been untagged before it is deleted; `None`: never.
    pub(crate) fn untagged_in(
        &self,
        name: &RepositoryName,
        rules: &LifecycleRules,
    ) -> Option<Duration> {
        let below = |prefix: &RepositoryName| {
            name.as_str().strip_prefix(prefix.as_str()).is_some_and(|rest| rest.starts_with('/'))
        };
        if self.mirrors.iter().any(below) {
            return None;
        }
        match rules.retention_of(name).and_then(|(_, entry)| entry.untagged) {
            Some(UntaggedRule::Keep) => None,
            Some(UntaggedRule::RemoveAfter(after)) => Some(after),
            None => self.untagged,
        }
    }
}

fn check(options: &GcOptions) -> Result<()> {
    if options.grace < GRACE_MIN {
        return Err(GcError::Grace { grace: options.grace });
    }
    let (keep, grace) = (options.history_keep, options.grace);
    if keep > Duration::ZERO && keep < grace {
        return Err(GcError::HistoryKeep { keep, grace });
    }
    if options.bytes_wait < BYTES_WAIT_MIN {
        return Err(GcError::BytesWait { wait: options.bytes_wait });
    }
    Ok(())
}

/// When the last sweep began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct SweepRecord {
    at: u64,
}

impl JsonRecord for SweepRecord {}

impl<'a> GcRun<'a> {
    /// C1.
    async fn begin(core: Core, options: &'a GcOptions, watch: &'a dyn GcObserver) -> Result<Self> {
        let first = ListRequest { limit: 1, ..ListRequest::below(keys::REPOSITORIES) };
        let began = core.store.list(&first).await?.date;
        let swept = core.read::<SweepRecord>(&keys::note("swept")).await.ok().flatten();
        let is_due = swept.is_none_or(|swept| {
            let since = Duration::from_secs(seconds(began).saturating_sub(swept.value.at));
            since >= options.grace
        });
        let rules = core.lifecycle.get();
        let removes =
            |entry: &RetentionEntry| matches!(entry.untagged, Some(UntaggedRule::RemoveAfter(_)));
        let judges_untagged = options.untagged.is_some() || rules.retention().iter().any(removes);
        let sink = if options.dry_run { GcSink::Printing } else { GcSink::Applying };
        Ok(Self {
            core,
            options,
            watch,
            sink,
            began,
            sweeps: is_due || options.sweep_now,
            rules,
            judges_untagged,
            seen: GcInventory::default(),
            done: GcReport::default(),
        })
    }

    async fn collect(&mut self) -> Result<()> {
        if self.judges_untagged {
            self.read_tags().await?;
        }
        self.read_manifests().await?;
        let keeps_history = self.options.history_keep > Duration::ZERO;
        let keeps = |rule| keeps_history && self.core.rules.keep(rule);
        let (history, copies) = (keeps(Rule::HistoryKeeps), keeps(Rule::CopyKeeps));
        if history && self.judges_untagged {
            self.read_history().await?;
        }
        if copies {
            self.read_copies().await?;
        }
        self.seen.kept.seal();
        self.seen.manifests.seal();
        self.seen.tags.seal();
        self.seen.repositories.seal();
        let mut locations = match self.sweeps {
            true => Some(self.list_bytes().await?),
            false => None,
        };
        let census = self.list_links(locations.as_mut()).await?;
        self.remove_links(&census).await?;
        self.deduplicate(&census).await?;
        // A record that cannot be read may name any bytes.
        if locations.as_ref().is_none_or(BlobLocations::is_certain) {
            self.remove_queued().await?;
        }
        if let Some(locations) = locations.filter(BlobLocations::is_certain) {
            self.sweep(locations).await?;
        }
        self.expire_copies().await?;
        if self.sweeps || self.judges_untagged {
            self.tidy().await?;
            self.expire_history().await?;
        }
        if self.sweeps && self.core.required.has_pulls() {
            self.tidy_pulls().await;
        }
        if self.sweeps {
            self.done.swept = true;
            self.note_sweep().await?;
        }
        Ok(())
    }

    async fn note_sweep(&self) -> Result<()> {
        // If a concurrent run was faster, its time is as good.
        self.write_note("swept", SweepRecord { at: seconds(self.began) }).await
    }

    /// Notes something for later runs. If there is no space for it, the run continues, because it frees space.
    pub(super) async fn write_note(&self, name: &str, record: impl JsonRecord) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        let key = keys::note(name);
        let seen = self.core.read_etag(&key).await?;
        match self.core.swap(&key, seen.as_ref(), record.encode()).await {
            Err(Error::Store(error)) if error.kind() == ErrorKind::Full => {
                tracing::debug!(%key, "there is no space for a note of GC");
                Ok(())
            }
            noted => Ok(noted.map(drop)?),
        }
    }

    /// Whether a record that was last written then is old enough to be removed.
    fn is_old(&self, last_modified: SystemTime) -> bool {
        let age = self.began.duration_since(last_modified).unwrap_or_default();
        age > self.options.grace + CLOCK_ERROR || !self.core.rules.keep(Rule::Grace)
    }

    fn width(&self) -> usize {
        self.options.requests_at_once.max(1)
    }
}

fn last_key(page: &[Listed]) -> Option<&Key> {
    page.last().map(|listed| &listed.key)
}

/// A time in seconds of the Unix epoch.
fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}
