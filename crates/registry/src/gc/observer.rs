//! [`GcObserver`]: receives progress, actions and findings of a GC run.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use super::action::{GcAction, GcOutcome};
use crate::{FsckFinding, NoObserver};

/// The phases of a GC run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum GcPhase {
    /// Old uploads are removed.
    Uploads,
    /// Tags are listed and read.
    Tags,
    /// Manifests are listed, and those that are new are read.
    Manifests,
    /// Replaced changes of tags are listed.
    History,
    /// Copies of deleted manifests are listed and read.
    Copies,
    /// Bytes and sessions are listed.
    Bytes,
    /// Links are listed.
    Links,
    /// Unreferenced links are removed.
    Removing,
    /// Links to the same bytes at several locations are moved to one.
    Deduplicating,
    /// Bytes whose links were deleted are deleted.
    Queue,
    /// Orphan bytes are removed.
    Sweep,
    /// Unused records and unreferenced manifests are removed.
    Tidying,
}

impl GcPhase {
    /// Its name in progress output.
    pub fn label(self) -> &'static str {
        match self {
            Self::Uploads => "old uploads",
            Self::Tags => "tags",
            Self::Manifests => "manifests",
            Self::History => "history",
            Self::Copies => "deleted manifests",
            Self::Bytes => "bytes",
            Self::Links => "links",
            Self::Removing => "removing links",
            Self::Deduplicating => "deduplicating",
            Self::Queue => "removing bytes",
            Self::Sweep => "sweeping",
            Self::Tidying => "tidying",
        }
    }
}

/// Observes a run. No method may block.
pub trait GcObserver: Debug + Send + Sync {
    /// A phase has begun.
    fn phase(&self, phase: GcPhase);

    /// More objects were examined in this phase.
    fn progress(&self, objects: u64);

    /// An action was applied, or would have been.
    fn action(&self, action: &GcAction, outcome: GcOutcome);

    /// Damaged bytes were found.
    fn finding(&self, _finding: &FsckFinding) {}
}

impl GcObserver for NoObserver {
    fn phase(&self, _phase: GcPhase) {}

    fn progress(&self, _objects: u64) {}

    fn action(&self, _action: &GcAction, _outcome: GcOutcome) {}
}
