//! [`Fold`]: lets two links name one location, so that the other can go.

use super::hold::{Held, Hold};
use super::{Context, Process, World};
use crate::Rule;
use crate::checked::{Note, note};

/// A collector that folds one link into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Fold {
    pub(crate) repository: u8,
    other: u8,
    opened: Option<u8>,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    Reading,
    /// W1 on the other link; this version names another location.
    Holding {
        version: u8,
        location: u8,
        hold: Hold,
    },
    /// About to hash the bytes at that location.
    Hashing {
        version: u8,
        location: u8,
    },
    /// About to swap this version to that location.
    Swapping {
        version: u8,
        location: u8,
    },
}

impl Fold {
    pub(crate) fn into_other(repository: u8, other: u8) -> Process {
        Process::Fold(Self { repository, other, opened: None, at: At::Reading })
    }

    pub(crate) fn step(&mut self, world: &mut World, context: &Context) -> (Option<Process>, Note) {
        match &mut self.at {
            At::Reading => self.read(world, context),
            At::Holding { version, location, hold } => {
                let (version, own) = (*version, *location);
                let (held, note) = match context.keeps(Rule::FoldHoldsTheOther) {
                    true => hold.step(world, context, &mut self.opened),
                    false => self.look(world),
                };
                match held {
                    Held::NotYet => {}
                    Held::At(location) if location != own => {
                        self.at = At::Hashing { version, location };
                    }
                    _ => return (Some(Process::Failed), note),
                }
                (None, note)
            }
            At::Hashing { version, location } => {
                let (version, location) = (*version, *location);
                let is_wrong = world.wrong.has(location) || world.lost.has(location);
                if is_wrong && context.keeps(Rule::FoldHashes) {
                    return (Some(Process::Failed), note("finds bad bytes at").about(location));
                }
                self.at = At::Swapping { version, location };
                (None, note("hashes the bytes at").about(location))
            }
            At::Swapping { version, location } => {
                let (version, location) = (*version, *location);
                self.swap(world, context, version, location)
            }
        }
    }

    fn read(&mut self, world: &World, context: &Context) -> (Option<Process>, Note) {
        let link = world.link(self.repository);
        let is_old = world.now - link.modified > context.limits.grace;
        match link.value.live() {
            Some(location) if is_old || !context.keeps(Rule::FoldOnlyOld) => {
                let hold = Hold::of(self.other);
                self.at = At::Holding { version: link.version, location, hold };
                (None, note("reads the link in").about(self.repository))
            }
            _ => (Some(Process::Failed), note("finds no old link in").about(self.repository)),
        }
    }

    fn look(&self, world: &World) -> (Held, Note) {
        let link = world.link(self.other);
        let held = link.value.live().map_or(Held::Unknown(link.version), Held::At);
        (held, note("looks at the link in").about(self.other))
    }

    fn swap(
        &self,
        world: &mut World,
        context: &Context,
        version: u8,
        location: u8,
    ) -> (Option<Process>, Note) {
        if self.opened.is_some_and(|opened| context.is_late(opened, world.now)) {
            return (Some(Process::Failed), note("is too late"));
        }
        let is_same = world.link(self.repository).version == version;
        if !is_same && context.keeps(Rule::FoldOnVersion) {
            return (Some(Process::Failed), note("finds another version of the link"));
        }
        world.spread |= world.wrong.has(location) || world.lost.has(location);
        world.rewrite_link(self.repository, location);
        (Some(Process::Done), note("swaps the link to location").about(location))
    }
}
