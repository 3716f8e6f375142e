//! [`GcSummary`]: what the last GC runs did, for pages. A note: nothing relies on it.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{GcReport, seconds};
use crate::record::{JsonRecord, StoredRecord};
use crate::{Error, Registry, Result, keys};

/// Maximum characters of the reason of a failure.
const REASON_CHARS_MAX: usize = 500;

/// What the last runs did, of any instance or command.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GcSummary {
    /// The last run that completed.
    pub completed: Option<CompletedGcRun>,
    /// The last run, if it failed.
    pub failed: Option<FailedGcRun>,
    /// What the last sweep counted.
    pub stored: Option<StoredBlobs>,
}

/// A run that completed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct CompletedGcRun {
    /// When it ended, in seconds of the Unix epoch.
    pub at: u64,
    pub took_s: u64,
    pub report: GcReport,
}

/// A run that failed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct FailedGcRun {
    pub at: u64,
    pub reason: String,
}

/// The bytes of all blobs in the store, each location once, orphans included.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct StoredBlobs {
    pub at: u64,
    pub locations: u64,
    pub bytes: u64,
}

impl JsonRecord for GcSummary {}

impl Registry {
    /// Notes what a run did: one read and one write.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn note_gc_run(
        &self,
        result: Result<&GcReport, String>,
        took: Duration,
    ) -> Result<()> {
        let (core, key) = (self.core(), keys::note("summary"));
        let (mut summary, seen) = match core.read::<GcSummary>(&key).await {
            Ok(Some(read)) => (read.value, Some(read.etag)),
            Ok(None) => (GcSummary::default(), None),
            Err(Error::Damaged { .. }) => (GcSummary::default(), core.read_etag(&key).await?),
            Err(error) => return Err(error),
        };
        summary.add(seconds(core.clock.now()), result, took);
        // If another run was faster, its note is as good.
        core.swap(&key, seen.as_ref(), summary.encode()).await?;
        Ok(())
    }

    /// What the last runs did; `None`: nothing is known.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn gc_summary(&self) -> Result<Option<GcSummary>> {
        match self.core().read::<GcSummary>(&keys::note("summary")).await {
            Ok(read) => Ok(read.map(|read| read.value)),
            Err(Error::Damaged { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl GcSummary {
    fn add(&mut self, at: u64, result: Result<&GcReport, String>, took: Duration) {
        match result {
            Ok(report) => {
                if report.swept {
                    let (locations, bytes) = (report.blobs.scanned, report.blobs.scanned_bytes);
                    self.stored = Some(StoredBlobs { at, locations, bytes });
                }
                let (took_s, report) = (took.as_secs(), *report);
                self.completed = Some(CompletedGcRun { at, took_s, report });
                self.failed = None;
            }
            Err(reason) => {
                let reason = reason.chars().take(REASON_CHARS_MAX).collect();
                self.failed = Some(FailedGcRun { at, reason });
            }
        }
    }
}
