//! [`BlobDeleter`]: deletes the blob, or the manifest that refers to it, by the API.

use super::upload::HOME;
use super::{BlobProcess, BlobStore, ModelLink, ModelSession};
use crate::checked::{Note, note};

/// A DELETE.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlobDeleter {
    pub(crate) repository: u8,
    what: DeleteStage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum DeleteStage {
    Manifest,
    BlobScenario,
    /// The version of the link, and its location.
    BlobVersion {
        version: u8,
        location: u8,
    },
}

impl BlobDeleter {
    pub(crate) fn of_blob(repository: u8) -> BlobProcess {
        BlobProcess::BlobDeleter(Self::begin(repository))
    }

    pub(crate) fn of_manifest(repository: u8) -> BlobProcess {
        BlobProcess::BlobDeleter(Self { repository, what: DeleteStage::Manifest })
    }

    pub(crate) fn begin(repository: u8) -> Self {
        Self { repository, what: DeleteStage::BlobScenario }
    }

    pub(crate) fn step(&mut self, store: &mut BlobStore) -> (Option<BlobProcess>, Note) {
        let repository = self.repository;
        match self.what {
            DeleteStage::Manifest => {
                store.manifests = store.manifests.without(repository);
                (Some(BlobProcess::Done), note("removes the manifest"))
            }
            DeleteStage::BlobScenario => {
                let link = store.link(repository);
                let ModelLink::Live(location) = link.value else {
                    return (
                        Some(BlobProcess::Failed),
                        note("finds no live link in").about(repository),
                    );
                };
                self.what = DeleteStage::BlobVersion { version: link.version, location };
                (None, note("reads the link in").about(repository))
            }
            DeleteStage::BlobVersion { version, location } => {
                if store.link(repository).version != version {
                    self.what = DeleteStage::BlobScenario;
                    return (None, note("finds another version of the link in").about(repository));
                }
                store.links[usize::from(repository)].write(ModelLink::Deleted(location), store.now);
                store.deleted = store.deleted.with(repository);
                let is_closed = matches!(store.session.value, ModelSession::Closed(_));
                store.deleted_since_close |= is_closed && repository == HOME;
                (Some(BlobProcess::Done), note("swaps to deleted the link in").about(repository))
            }
        }
    }
}
