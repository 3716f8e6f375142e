//! [`Deduplication`]: lets two links name one location, so that the other can go.

use super::touch::{LinkTouch, LinkTouched};
use super::{BlobWorld, Context, Process};
use crate::Rule;
use crate::checked::{Note, note};

/// A collector that folds one link into another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Deduplication {
    pub(crate) repository: u8,
    other: u8,
    opened: Option<u8>,
    at: DeduplicationStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum DeduplicationStep {
    Reading,
    /// W1 on the other link; this version names another location.
    Holding {
        version: u8,
        location: u8,
        hold: LinkTouch,
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

impl Deduplication {
    pub(crate) fn into_other(repository: u8, other: u8) -> Process {
        Process::Deduplication(Self {
            repository,
            other,
            opened: None,
            at: DeduplicationStep::Reading,
        })
    }

    pub(crate) fn step(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
    ) -> (Option<Process>, Note) {
        match &mut self.at {
            DeduplicationStep::Reading => self.read(world, context),
            DeduplicationStep::Holding { version, location, hold } => {
                let (version, own) = (*version, *location);
                let (held, note) = match context.keeps(Rule::FoldHoldsTheOther) {
                    true => hold.step(world, context, &mut self.opened),
                    false => self.look(world),
                };
                match held {
                    LinkTouched::NotYet => {}
                    LinkTouched::At(location) if location != own => {
                        self.at = DeduplicationStep::Hashing { version, location };
                    }
                    _ => return (Some(Process::Failed), note),
                }
                (None, note)
            }
            DeduplicationStep::Hashing { version, location } => {
                let (version, location) = (*version, *location);
                let is_wrong = world.wrong.has(location) || world.lost.has(location);
                if is_wrong && context.keeps(Rule::FoldHashes) {
                    return (Some(Process::Failed), note("finds bad bytes at").about(location));
                }
                self.at = DeduplicationStep::Swapping { version, location };
                (None, note("hashes the bytes at").about(location))
            }
            DeduplicationStep::Swapping { version, location } => {
                let (version, location) = (*version, *location);
                self.swap(world, context, version, location)
            }
        }
    }

    fn read(&mut self, world: &BlobWorld, context: &Context) -> (Option<Process>, Note) {
        let link = world.link(self.repository);
        let is_old = world.now - link.modified > context.limits.grace;
        match link.value.live() {
            Some(location) if is_old || !context.keeps(Rule::FoldOnlyOld) => {
                let hold = LinkTouch::of(self.other);
                self.at = DeduplicationStep::Holding { version: link.version, location, hold };
                (None, note("reads the link in").about(self.repository))
            }
            _ => (Some(Process::Failed), note("finds no old link in").about(self.repository)),
        }
    }

    fn look(&self, world: &BlobWorld) -> (LinkTouched, Note) {
        let link = world.link(self.other);
        let held = link.value.live().map_or(LinkTouched::Unknown(link.version), LinkTouched::At);
        (held, note("looks at the link in").about(self.other))
    }

    fn swap(
        &self,
        world: &mut BlobWorld,
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
