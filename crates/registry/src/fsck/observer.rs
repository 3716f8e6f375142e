//! [`FsckObserver`]: receives progress and findings of an fsck that runs.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use super::finding::FsckFinding;
use crate::NoObserver;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum FsckPhase {
    /// The format marker and unknown keys.
    Keys,
    /// Bytes of blobs are listed.
    Bytes,
    /// Upload sessions are read.
    Uploads,
    /// Links are read and compared with the bytes.
    Links,
    /// Orphans are searched.
    Orphans,
    /// The content of repositories is listed.
    Repositories,
    /// The catalog is read.
    Catalog,
    /// Manifests are read, and their references are looked up.
    Manifests,
    /// Tags, hints and lists of referrers are read.
    Records,
    /// Histories of tags and copies of deleted manifests are read.
    History,
    /// The bytes of blobs are read and hashed.
    Hashing,
}

impl FsckPhase {
    /// Its name in progress output.
    pub fn label(self) -> &'static str {
        match self {
            Self::Keys => "keys",
            Self::Bytes => "bytes",
            Self::Uploads => "uploads",
            Self::Links => "links",
            Self::Orphans => "orphans",
            Self::Repositories => "repositories",
            Self::Catalog => "catalog",
            Self::Manifests => "manifests",
            Self::Records => "tags and referrers",
            Self::History => "history and copies",
            Self::Hashing => "hashing",
        }
    }
}

/// Receives progress and findings. No method may block.
pub trait FsckObserver: Debug + Send + Sync {
    /// A phase has begun.
    fn phase(&self, phase: FsckPhase);

    /// More objects were examined in this phase, and so many bytes of them read or, where only the
    /// listing is used, listed.
    fn progress(&self, objects: u64, bytes: u64);

    /// A record is about to be quarantined or marked as deleted; these images reference it.
    fn repairing(&self, _finding: &FsckFinding, _images: &[String]) {}

    /// Reports a finding, after the attempt to repair it, if any.
    fn finding(&self, finding: &FsckFinding);
}

impl FsckObserver for NoObserver {
    fn phase(&self, _phase: FsckPhase) {}

    fn progress(&self, _objects: u64, _bytes: u64) {}

    fn finding(&self, _finding: &FsckFinding) {}
}
