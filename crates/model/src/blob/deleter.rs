//! [`Deleter`]: deletes the blob, or the manifest that refers to it, by the API.

use super::{BlobWorld, Link, Process};
use crate::checked::{Note, note};

/// A DELETE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Deleter {
    pub(crate) repository: u8,
    what: What,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum What {
    Manifest,
    Blob,
    /// This version of the link names that location.
    BlobVersion {
        version: u8,
        location: u8,
    },
}

impl Deleter {
    pub(crate) fn of_blob(repository: u8) -> Process {
        Process::Deleter(Self::begin(repository))
    }

    pub(crate) fn of_manifest(repository: u8) -> Process {
        Process::Deleter(Self { repository, what: What::Manifest })
    }

    pub(crate) fn begin(repository: u8) -> Self {
        Self { repository, what: What::Blob }
    }

    pub(crate) fn step(&mut self, world: &mut BlobWorld) -> (Option<Process>, Note) {
        let repository = self.repository;
        match self.what {
            What::Manifest => {
                world.manifests = world.manifests.without(repository);
                (Some(Process::Done), note("removes the manifest"))
            }
            What::Blob => {
                let link = world.link(repository);
                let Link::Live(location) = link.value else {
                    return (
                        Some(Process::Failed),
                        note("finds no live link in").about(repository),
                    );
                };
                self.what = What::BlobVersion { version: link.version, location };
                (None, note("reads the link in").about(repository))
            }
            What::BlobVersion { version, location } => {
                if world.link(repository).version != version {
                    self.what = What::Blob;
                    return (None, note("finds another version of the link in").about(repository));
                }
                world.links[usize::from(repository)].write(Link::Deleted(location), world.now);
                world.deleted = world.deleted.with(repository);
                (Some(Process::Done), note("swaps to deleted the link in").about(repository))
            }
        }
    }
}
