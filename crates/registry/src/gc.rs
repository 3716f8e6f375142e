//! The collector: removes what nothing keeps, while pushes and pulls go on.
//!
//! There is no lock, no mark that a push must look at and no pause. Any number of collectors may
//! run at the same time, as slowly as they like, and stop anywhere. Writers keep W1 to W3
//! (`core.rs`); a collector keeps these (docs/garbage-collection.md says why each is needed):
//!
//! - C1 It takes the time T0 of the store's first answer, before it lists anything else.
//! - C2 It lists every manifest. What any of them names is kept, those included that are about to
//!   be removed themselves. If one cannot be read, or the listing fails, nothing is removed.
//! - C3 It lists the links. A link to nothing that is kept, last written before T0 less the grace,
//!   is a candidate.
//! - C4 It reads a candidate again, looks at its age again, and removes that very version.
//! - C5 Bytes all of whose links are gone are queued, and removed an hour later or more, after
//!   their links were listed once more. Their key is never used again.
//!
//! The grace is at least T + B, the age from which a writer touches what it relies on and the time
//! that it has to write: so what is old enough to be a candidate is too old for a writer to rely
//! on without making a new version of it, and what a writer has written since is in the listing.
//!
//! Less often, a *sweep* finds bytes that no link has ever named, the leftovers of pushes and
//! deletes, and blobs that lie there several times.
//!
//! All decisions are [`Action`]s, which a sink applies, or only shows.

mod action;
mod deduplicate;
mod lease;
mod links;
mod manifests;
mod memo;
mod queue;
mod sweep;
mod tidy;
mod watch;

use std::time::{Duration, SystemTime};

use jreg_storage::{Key, ListRequest, Listed, Paced};
use serde::{Deserialize, Serialize};

pub use action::{Action, ActionKind, Outcome};
pub use lease::{Held, Lease};
pub use watch::{Phase, Unwatched, Watch};

use self::action::Sink;
use self::sweep::Places;
use crate::core::Core;
use crate::fingerprint::Fingerprints;
use crate::fsck::QuarantinedPlaces;
use crate::record::{JsonRecord, Stored};
use crate::rules::Rule;
use crate::window::{TOUCH_AGE, WRITE_MAX};
use crate::{Error, ReaperReport, Registry, keys};

/// The shortest grace: T + B, and forty minutes for listings that are late.
pub const GRACE_MIN: Duration = Duration::from_secs(2 * 3600);

/// How far the clocks of a store's own machines may be apart.
pub(crate) const CLOCK_ERROR: Duration = Duration::from_secs(60);

/// The shortest wait between the removal of the last link and that of the bytes.
pub const BYTES_WAIT_MIN: Duration = Duration::from_secs(3600);

/// So many links a run may always remove, whatever their share.
pub const REMOVALS_FREE: u64 = 100;

const _: () = assert!(TOUCH_AGE.as_secs() + WRITE_MAX.as_secs() <= GRACE_MIN.as_secs());

/// How to collect.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct CollectOptions {
    /// How old what nothing keeps must be; at least [`GRACE_MIN`].
    pub grace: Duration,
    /// How long a manifest without a tag must have been seen so before it is removed; `None`
    /// keeps it for ever. One that an index names, or whose subject is there, is always kept.
    pub untagged: Option<Duration>,
    /// The most links that one run removes, in percent of all; but [`REMOVALS_FREE`] in any case.
    pub share_max_percent: u8,
    /// How long bytes stay after their last link is gone; at least [`BYTES_WAIT_MIN`], and as long
    /// as anybody may still read them by an address that was given out.
    pub bytes_wait: Duration,
    /// The most store requests a second; 0 is as many as the store answers.
    pub requests_per_second: u32,
    /// The most store requests at the same time.
    pub requests_at_once: usize,
    /// Whether everything is only shown.
    pub dry_run: bool,
    /// Whether to sweep, fold and tidy although that was done less than a grace ago.
    pub sweep_now: bool,
}

impl Default for CollectOptions {
    fn default() -> Self {
        Self {
            grace: Duration::from_secs(24 * 3600),
            untagged: None,
            share_max_percent: 33,
            bytes_wait: BYTES_WAIT_MIN,
            requests_per_second: 0,
            requests_at_once: 16,
            dry_run: false,
            sweep_now: false,
        }
    }
}

/// What became of one kind of object.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// How many were looked at.
    pub scanned: u64,
    /// Their bytes.
    pub scanned_bytes: u64,
    /// How many stay because something keeps them.
    pub kept: u64,
    /// How many stay because they are younger than the grace.
    pub young: u64,
    /// How many are gone; in a dry run: would be.
    pub removed: u64,
    /// Their bytes.
    pub removed_bytes: u64,
    /// How many stay because somebody changed them meanwhile.
    pub changed: u64,
    /// How many stay because a run removes only a share.
    pub withheld: u64,
    /// How many stay because the store failed, or because they cannot be read.
    pub failed: u64,
}

impl Tally {
    fn scan(&mut self, bytes: u64) {
        self.scanned += 1;
        self.scanned_bytes += bytes;
    }

    fn count(&mut self, outcome: Outcome, bytes: u64) {
        match outcome {
            Outcome::Done => {
                self.removed += 1;
                self.removed_bytes += bytes;
            }
            Outcome::Changed => self.changed += 1,
            Outcome::Withheld => self.withheld += 1,
            Outcome::Failed => self.failed += 1,
        }
    }
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Collected {
    /// The manifests; their bytes are those of their records.
    pub manifests: Tally,
    /// How many manifests were read; the others were remembered.
    pub manifests_read: u64,
    /// The links; the bytes removed are those of the blobs that they held.
    pub links: Tally,
    /// How many links were read; the others were remembered, or did not matter.
    pub links_read: u64,
    /// The bytes of blobs that were removed; what is scanned is counted by a sweep only.
    pub blobs: Tally,
    /// Bytes that lost their last link and wait for their removal: how many places.
    pub queued: u64,
    /// How many bytes these are.
    pub queued_bytes: u64,
    /// Links that were moved to the same bytes at another place: the bytes left are a sweep's.
    pub folded: Tally,
    /// Locations of duplicates whose bytes turned out to be wrong or missing.
    #[serde(default)]
    pub findings: u64,
    /// Hints and referrer entries, and entries of the catalog.
    pub leftovers: Tally,
    /// The uploads that were removed.
    pub uploads: ReaperReport,
    /// Tombstones that are gone for good.
    pub tombstones: u64,
    /// Whether this run also swept, folded and tidied.
    pub swept: bool,
}

/// Why a run was given up. What it had removed by then was right to go.
#[derive(Debug, thiserror::Error)]
pub enum CollectError {
    /// The grace is too short to be safe.
    #[error("a grace of {} s is too short: it must be {} s or more", grace.as_secs(), GRACE_MIN.as_secs())]
    Grace {
        /// What was asked for.
        grace: Duration,
    },
    /// Bytes would go while somebody may still read them.
    #[error("a wait of {} s for bytes is too short: it must be {} s or more", wait.as_secs(), BYTES_WAIT_MIN.as_secs())]
    BytesWait {
        /// What was asked for.
        wait: Duration,
    },
    /// Without knowing what every manifest names nothing may be removed.
    #[error("nothing is collected while {key} cannot be understood ({reason}): see jreg fsck")]
    Damaged {
        /// Its key.
        key: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The store failed.
    #[error(transparent)]
    Registry(#[from] Error),
}

impl From<jreg_storage::Error> for CollectError {
    fn from(error: jreg_storage::Error) -> Self {
        Self::Registry(error.into())
    }
}

type Result<T, E = CollectError> = std::result::Result<T, E>;

/// A run of the collector.
struct Run<'a> {
    /// The registry's, but for a store that is asked no faster than the options say.
    core: Core,
    options: &'a CollectOptions,
    watch: &'a dyn Watch,
    sink: Sink,
    /// T0.
    began: SystemTime,
    /// Whether this run sweeps, folds and tidies.
    sweeps: bool,
    seen: Seen,
    done: Collected,
}

/// What the listings have shown, as fingerprints.
#[derive(Debug, Default)]
struct Seen {
    /// What manifests name, with what keeps manifests: tags, and subjects that are there.
    kept: Fingerprints,
    /// The manifests.
    manifests: Fingerprints,
    /// The tags.
    tags: Fingerprints,
    /// The repositories that have a manifest.
    repositories: Fingerprints,
    /// Places that links name that a repair has quarantined.
    quarantined: Option<QuarantinedPlaces>,
}

impl Registry {
    /// Collects: removes what nothing keeps and what is old enough. Dropping the future stops the
    /// run wherever it is; the next one goes on.
    ///
    /// # Errors
    ///
    /// [`CollectError`].
    pub async fn collect(&self, options: &CollectOptions, watch: &dyn Watch) -> Result<Collected> {
        check(options)?;
        let core = paced(self.core(), options.requests_per_second);
        watch.phase(Phase::Uploads);
        let uploads = match options.dry_run {
            true => ReaperReport::default(),
            false => core.reap_uploads().await?,
        };
        let mut run = Run::begin(core, options, watch).await?;
        run.done.uploads = uploads;
        run.collect().await?;
        Ok(run.done)
    }
}

fn check(options: &CollectOptions) -> Result<()> {
    if options.grace < GRACE_MIN {
        return Err(CollectError::Grace { grace: options.grace });
    }
    if options.bytes_wait < BYTES_WAIT_MIN {
        return Err(CollectError::BytesWait { wait: options.bytes_wait });
    }
    Ok(())
}

/// The same registry, whose store is asked only so often a second.
pub(crate) fn paced(core: &Core, requests_per_second: u32) -> Core {
    let mut core = core.clone();
    if requests_per_second > 0 {
        core.store = std::sync::Arc::new(Paced::new(core.store, requests_per_second));
    }
    core
}

/// When the last sweep began.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Swept {
    at: u64,
}

impl JsonRecord for Swept {}

impl<'a> Run<'a> {
    /// C1.
    async fn begin(core: Core, options: &'a CollectOptions, watch: &'a dyn Watch) -> Result<Self> {
        let first = ListRequest { limit: 1, ..ListRequest::below(keys::REPOSITORIES) };
        let began = core.store.list(&first).await?.date;
        let swept = core.read::<Swept>(&keys::note("swept")).await.ok().flatten();
        let is_due = swept.is_none_or(|swept| {
            let since = Duration::from_secs(seconds(began).saturating_sub(swept.value.at));
            since >= options.grace
        });
        let sink = if options.dry_run { Sink::Printing } else { Sink::Applying };
        Ok(Self {
            core,
            options,
            watch,
            sink,
            began,
            sweeps: is_due || options.sweep_now,
            seen: Seen::default(),
            done: Collected::default(),
        })
    }

    async fn collect(&mut self) -> Result<()> {
        if self.options.untagged.is_some() {
            self.read_tags().await?;
        }
        self.read_manifests().await?;
        self.seen.kept.seal();
        self.seen.manifests.seal();
        self.seen.tags.seal();
        self.seen.repositories.seal();
        let mut places = match self.sweeps {
            true => Some(self.list_bytes().await?),
            false => None,
        };
        let census = self.list_links(places.as_mut()).await?;
        self.remove_links(&census).await?;
        self.deduplicate(&census).await?;
        // Something that cannot be read may name any bytes.
        if places.as_ref().is_none_or(Places::is_certain) {
            self.remove_queued().await?;
        }
        if let Some(places) = places.filter(Places::is_certain) {
            self.sweep(places).await?;
        }
        if self.sweeps || self.options.untagged.is_some() {
            self.tidy().await?;
        }
        if self.sweeps {
            self.done.swept = true;
            self.note_sweep().await?;
        }
        Ok(())
    }

    async fn note_sweep(&self) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        let (key, swept) = (keys::note("swept"), Swept { at: seconds(self.began) });
        let seen = self.core.etag(&key).await?;
        // If another collector was faster, its time is as good.
        self.core.swap(&key, seen.as_ref(), swept.encode()).await?;
        Ok(())
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
