//! [`ManifestDeleter`]: deletes a manifest by the API.

use super::{ManifestObject, ManifestProcess, ManifestStore, TagPointer};
use crate::checked::{Note, note};

/// A DELETE: first the tag, then that version of the manifest that was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ManifestDeleter {
    pub(crate) object: ManifestObject,
    at: ManifestDeleterStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ManifestDeleterStep {
    Reading,
    Untagging { version: u8 },
    Deleting { version: u8 },
}

impl ManifestDeleter {
    pub(crate) fn of(object: ManifestObject) -> ManifestProcess {
        ManifestProcess::ManifestDeleter(Self { object, at: ManifestDeleterStep::Reading })
    }

    pub(crate) fn step(&mut self, store: &mut ManifestStore) -> (Option<ManifestProcess>, Note) {
        let there = store.object(self.object);
        match self.at {
            ManifestDeleterStep::Reading if !there.value => {
                (Some(ManifestProcess::Failed), note("finds no manifest"))
            }
            ManifestDeleterStep::Reading => {
                let version = there.version;
                self.at = match self.object {
                    ManifestObject::Index => ManifestDeleterStep::Untagging { version },
                    ManifestObject::Child | ManifestObject::Referrer | ManifestObject::Layer => {
                        ManifestDeleterStep::Deleting { version }
                    }
                };
                (None, note("reads the manifest"))
            }
            ManifestDeleterStep::Untagging { version } => {
                if store.tag.value == TagPointer::Index {
                    store.tag.delete(TagPointer::Absent);
                }
                self.at = ManifestDeleterStep::Deleting { version };
                (None, note("removes the tag if it points there"))
            }
            ManifestDeleterStep::Deleting { version } if there.version != version => {
                self.at = ManifestDeleterStep::Reading;
                (None, note("finds another version of the manifest"))
            }
            ManifestDeleterStep::Deleting { .. } => {
                store.delete(self.object);
                store.deleted = store.deleted.with(self.object as u8);
                (Some(ManifestProcess::Done), note("deletes the manifest"))
            }
        }
    }
}
