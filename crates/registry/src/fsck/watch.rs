//! [`CheckWatch`]: who is told what a check finds while it goes on.

use std::fmt::Debug;

use serde::{Deserialize, Serialize};

use super::finding::Finding;
use crate::Unwatched;

/// What a check is at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckPhase {
    /// The mark of the format, and keys that nobody knows.
    Keys,
    /// Bytes of blobs are listed.
    Bytes,
    /// Sessions of uploads are read.
    Uploads,
    /// Links are read, and held against the bytes.
    Links,
    /// Bytes that nothing names are looked for.
    Orphans,
    /// What repositories hold is listed.
    Repositories,
    /// The catalog is read.
    Catalog,
    /// Manifests are read, and what they name is looked for.
    Manifests,
    /// Tags, hints and lists of referrers are read.
    Records,
    /// The bytes of blobs are read and hashed.
    Hashing,
}

impl CheckPhase {
    /// A word or two for people.
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
            Self::Hashing => "hashing",
        }
    }
}

/// Is told what a check does. Nothing that it does may block.
pub trait CheckWatch: Debug + Send + Sync {
    /// A phase has begun.
    fn phase(&self, phase: CheckPhase);

    /// So many objects more have been looked at in this phase, and of these so many bytes read or,
    /// where only the listing is looked at, listed.
    fn progress(&self, objects: u64, bytes: u64);

    /// Something that was found is about to be quarantined or marked as deleted; these images need it.
    fn repairing(&self, _finding: &Finding, _images: &[String]) {}

    /// Something was found; if it was to be mended, that has been tried.
    fn finding(&self, finding: &Finding);
}

impl CheckWatch for Unwatched {
    fn phase(&self, _phase: CheckPhase) {}

    fn progress(&self, _objects: u64, _bytes: u64) {}

    fn finding(&self, _finding: &Finding) {}
}
