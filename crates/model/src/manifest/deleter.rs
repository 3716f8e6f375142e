//! [`Deleter`]: deletes a manifest by the API.

use super::{Object, Process, Tag, World};
use crate::checked::{Note, note};

/// A DELETE: first the tag, then that version of the manifest that was read before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Deleter {
    pub(crate) object: Object,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    Reading,
    Untagging { version: u8 },
    Deleting { version: u8 },
}

impl Deleter {
    pub(crate) fn of(object: Object) -> Process {
        Process::Deleter(Self { object, at: At::Reading })
    }

    pub(crate) fn step(&mut self, world: &mut World) -> (Option<Process>, Note) {
        let there = world.object(self.object);
        match self.at {
            At::Reading if !there.value => (Some(Process::Failed), note("finds no manifest")),
            At::Reading => {
                let version = there.version;
                self.at = match self.object {
                    Object::Index => At::Untagging { version },
                    Object::Child | Object::Referrer | Object::Layer => At::Deleting { version },
                };
                (None, note("reads the manifest"))
            }
            At::Untagging { version } => {
                if world.tag.value == Tag::Index {
                    world.tag.delete(Tag::Absent);
                }
                self.at = At::Deleting { version };
                (None, note("removes the tag if it points there"))
            }
            At::Deleting { version } if there.version != version => {
                self.at = At::Reading;
                (None, note("finds another version of the manifest"))
            }
            At::Deleting { .. } => {
                world.delete(self.object);
                world.deleted = world.deleted.with(self.object as u8);
                (Some(Process::Done), note("deletes the manifest"))
            }
        }
    }
}
