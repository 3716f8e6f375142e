//! [`Mount`]: makes a repository hold what another holds.

use super::deleter::Deleter;
use super::touch::{LinkTouch, LinkTouched};
use super::{BlobWorld, Context, Link, Process};
use crate::Rule;
use crate::checked::{Note, note};

/// A mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mount {
    pub(crate) source: u8,
    pub(crate) destination: u8,
    opened: Option<u8>,
    at: MountStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum MountStep {
    /// W1 on a link of the destination.
    Destination(LinkTouch),
    /// W1 on the source's link.
    Source(LinkTouch),
    /// About to write the link, over that version or, without one, anew.
    Linking { location: u8, over: Option<u8> },
    /// The destination has a link already: W1 on it.
    Conflict { location: u8, hold: LinkTouch },
}

impl Mount {
    pub(crate) fn from_to(source: u8, destination: u8) -> Process {
        Process::Mount(Self::begin(source, destination))
    }

    pub(crate) fn begin(source: u8, destination: u8) -> Self {
        let at = MountStep::Destination(LinkTouch::of(destination));
        Self { source, destination, opened: None, at }
    }

    pub(crate) fn step(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
    ) -> (Option<Process>, Note) {
        let acknowledged = Some(context.acknowledge(self.destination, world.now));
        match &mut self.at {
            MountStep::Destination(_) if !context.keeps(Rule::HoldDestination) => {
                self.at = MountStep::Source(LinkTouch::of(self.source));
                (None, note("does not look at the destination"))
            }
            MountStep::Destination(hold) => {
                let (held, note) = hold.step(world, context, &mut self.opened);
                match held {
                    LinkTouched::NotYet => {}
                    LinkTouched::At(_) => return (acknowledged, note),
                    LinkTouched::Unknown(_) => {
                        self.at = MountStep::Source(LinkTouch::of(self.source))
                    }
                    LinkTouched::Lost => *self = Self::begin(self.source, self.destination),
                    LinkTouched::Late => return (Some(Process::Failed), note),
                }
                (None, note)
            }
            MountStep::Source(hold) => {
                let (held, note) = hold.step(world, context, &mut self.opened);
                match held {
                    LinkTouched::NotYet => {}
                    LinkTouched::At(location) => {
                        self.at = MountStep::Linking { location, over: None }
                    }
                    LinkTouched::Lost => *self = Self::begin(self.source, self.destination),
                    LinkTouched::Unknown(_) | LinkTouched::Late => {
                        return (Some(Process::Failed), note);
                    }
                }
                (None, note)
            }
            MountStep::Linking { location, over } => {
                let (location, over) = (*location, *over);
                if self.opened.is_some_and(|opened| context.is_late(opened, world.now)) {
                    return (Some(Process::Failed), note("is too late"));
                }
                if link_over(world, self.destination, location, over) {
                    return (acknowledged, note("writes the link in").about(self.destination));
                }
                self.at = MountStep::Conflict { location, hold: LinkTouch::of(self.destination) };
                (None, note("finds another link in").about(self.destination))
            }
            MountStep::Conflict { .. } if !context.keeps(Rule::HoldDestination) => {
                (acknowledged, note("leaves the link as it is in").about(self.destination))
            }
            MountStep::Conflict { location, hold } => {
                let location = *location;
                let (held, note) = hold.step(world, context, &mut self.opened);
                match held {
                    LinkTouched::NotYet => {}
                    LinkTouched::At(_) => return (acknowledged, note),
                    LinkTouched::Unknown(version) => {
                        self.at = MountStep::Linking { location, over: Some(version) };
                    }
                    LinkTouched::Lost => *hold = LinkTouch::of(self.destination),
                    LinkTouched::Late => return (Some(Process::Failed), note),
                }
                (None, note)
            }
        }
    }
}

/// Writes a link over the version that was seen, or where there is none.
pub(crate) fn link_over(
    world: &mut BlobWorld,
    repository: u8,
    location: u8,
    over: Option<u8>,
) -> bool {
    let there = world.link(repository);
    let is_expected = match over {
        Some(version) => there.version == version,
        None => there.value == Link::Absent,
    };
    if is_expected {
        world.write_link(repository, location);
    }
    is_expected
}

/// Somebody who mounts a blob to another repository and deletes it in the first, and then back,
/// and so on: it is always in one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mover {
    moves: u8,
    source: u8,
    destination: u8,
    at: MoverStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum MoverStep {
    Mounting(Mount),
    Deleting(Deleter),
}

impl Mover {
    pub(crate) fn between(source: u8, destination: u8, moves: u8) -> Process {
        let at = MoverStep::Mounting(Mount::begin(source, destination));
        Process::Mover(Self { moves, source, destination, at })
    }

    pub(crate) fn step(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
    ) -> (Option<Process>, Note) {
        let (end, note) = match &mut self.at {
            MoverStep::Mounting(mount) => mount.step(world, context),
            MoverStep::Deleting(deleter) => deleter.step(world),
        };
        match (end, self.at) {
            (None, _) => return (None, note),
            (Some(Process::Failed), _) => return (end, note),
            (Some(_), MoverStep::Mounting(_)) => {
                self.at = MoverStep::Deleting(Deleter::begin(self.source));
            }
            (Some(_), MoverStep::Deleting(_)) => {
                self.moves -= 1;
                if self.moves == 0 {
                    return (Some(Process::Done), note);
                }
                (self.source, self.destination) = (self.destination, self.source);
                self.at = MoverStep::Mounting(Mount::begin(self.source, self.destination));
            }
        }
        (None, note)
    }
}
