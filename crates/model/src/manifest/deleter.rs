//! [`Deleter`]: deletes a manifest by the API.

use super::{ManifestWorld, Object, Process, Tag};
use crate::checked::{Note, note};

/// A DELETE: first the tag, then that version of the manifest that was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Deleter {
    pub(crate) object: Object,
    at: ManifestDeleterStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ManifestDeleterStep {
    Reading,
    Untagging { version: u8 },
    Deleting { version: u8 },
}

impl Deleter {
    pub(crate) fn of(object: Object) -> Process {
        Process::Deleter(Self { object, at: ManifestDeleterStep::Reading })
    }

    pub(crate) fn step(&mut self, world: &mut ManifestWorld) -> (Option<Process>, Note) {
        let there = world.object(self.object);
        match self.at {
            ManifestDeleterStep::Reading if !there.value => {
                (Some(Process::Failed), note("finds no manifest"))
            }
            ManifestDeleterStep::Reading => {
                let version = there.version;
                self.at = match self.object {
                    Object::Index => ManifestDeleterStep::Untagging { version },
                    Object::Child | Object::Referrer | Object::Layer => {
                        ManifestDeleterStep::Deleting { version }
                    }
                };
                (None, note("reads the manifest"))
            }
            ManifestDeleterStep::Untagging { version } => {
                if world.tag.value == Tag::Index {
                    world.tag.delete(Tag::Absent);
                }
                self.at = ManifestDeleterStep::Deleting { version };
                (None, note("removes the tag if it points there"))
            }
            ManifestDeleterStep::Deleting { version } if there.version != version => {
                self.at = ManifestDeleterStep::Reading;
                (None, note("finds another version of the manifest"))
            }
            ManifestDeleterStep::Deleting { .. } => {
                world.delete(self.object);
                world.deleted = world.deleted.with(self.object as u8);
                (Some(Process::Done), note("deletes the manifest"))
            }
        }
    }
}
