//! [`Watch`]: who is told what a run does while it does it.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use super::action::{Action, Outcome};
use crate::Finding;

/// What a run is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Old uploads are removed.
    Uploads,
    /// Tags are listed and read.
    Tags,
    /// Manifests are listed, and those that are new are read.
    Manifests,
    /// Bytes and sessions are listed.
    Bytes,
    /// Links are listed.
    Links,
    /// Links that nothing keeps are removed.
    Removing,
    /// Links to the same bytes at several places are moved to one.
    Folding,
    /// Bytes whose links are gone are removed.
    Queue,
    /// Bytes that nothing names are removed.
    Sweep,
    /// Leftovers, and manifests that nothing keeps, are removed.
    Tidying,
}

impl Phase {
    /// A word or two for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Uploads => "old uploads",
            Self::Tags => "tags",
            Self::Manifests => "manifests",
            Self::Bytes => "bytes",
            Self::Links => "links",
            Self::Removing => "removing links",
            Self::Folding => "folding duplicates",
            Self::Queue => "removing bytes",
            Self::Sweep => "sweeping",
            Self::Tidying => "tidying",
        }
    }
}

/// Is told what a run does. Nothing that it does may block.
pub trait Watch: Debug + Send + Sync {
    /// A phase has begun.
    fn phase(&self, phase: Phase);

    /// So many objects more have been looked at in this phase.
    fn progress(&self, objects: u64);

    /// Something was done, or would have been.
    fn action(&self, action: &Action, outcome: Outcome);

    /// Damaged bytes were found.
    fn finding(&self, _finding: &Finding) {}
}

/// Nobody is told.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unwatched;

impl Watch for Unwatched {
    fn phase(&self, _phase: Phase) {}

    fn progress(&self, _objects: u64) {}

    fn action(&self, _action: &Action, _outcome: Outcome) {}
}
