//! [`Mount`]: makes a repository hold what another holds.

use super::deleter::Deleter;
use super::hold::{Held, Hold};
use super::{Context, Link, Process, World};
use crate::Rule;
use crate::checked::{Note, note};

/// A mount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mount {
    pub(crate) source: u8,
    pub(crate) destination: u8,
    opened: Option<u8>,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    /// W1 on a link of the destination.
    Destination(Hold),
    /// W1 on the source's link.
    Source(Hold),
    /// About to write the link, over that version or, without one, anew.
    Linking { location: u8, over: Option<u8> },
    /// The destination has a link already: W1 on it.
    Conflict { location: u8, hold: Hold },
}

impl Mount {
    pub(crate) fn from_to(source: u8, destination: u8) -> Process {
        Process::Mount(Self::begin(source, destination))
    }

    pub(crate) fn begin(source: u8, destination: u8) -> Self {
        let at = At::Destination(Hold::of(destination));
        Self { source, destination, opened: None, at }
    }

    pub(crate) fn step(&mut self, world: &mut World, context: &Context) -> (Option<Process>, Note) {
        let acknowledged = Some(context.acknowledge(self.destination, world.now));
        match &mut self.at {
            At::Destination(_) if !context.keeps(Rule::HoldDestination) => {
                self.at = At::Source(Hold::of(self.source));
                (None, note("does not look at the destination"))
            }
            At::Destination(hold) => {
                let (held, note) = hold.step(world, context, &mut self.opened);
                match held {
                    Held::NotYet => {}
                    Held::At(_) => return (acknowledged, note),
                    Held::Unknown(_) => self.at = At::Source(Hold::of(self.source)),
                    Held::Lost => *self = Self::begin(self.source, self.destination),
                    Held::Late => return (Some(Process::Failed), note),
                }
                (None, note)
            }
            At::Source(hold) => {
                let (held, note) = hold.step(world, context, &mut self.opened);
                match held {
                    Held::NotYet => {}
                    Held::At(location) => self.at = At::Linking { location, over: None },
                    Held::Lost => *self = Self::begin(self.source, self.destination),
                    Held::Unknown(_) | Held::Late => return (Some(Process::Failed), note),
                }
                (None, note)
            }
            At::Linking { location, over } => {
                let (location, over) = (*location, *over);
                if self.opened.is_some_and(|opened| context.is_late(opened, world.now)) {
                    return (Some(Process::Failed), note("is too late"));
                }
                if link_over(world, self.destination, location, over) {
                    return (acknowledged, note("writes the link in").about(self.destination));
                }
                self.at = At::Conflict { location, hold: Hold::of(self.destination) };
                (None, note("finds another link in").about(self.destination))
            }
            At::Conflict { .. } if !context.keeps(Rule::HoldDestination) => {
                (acknowledged, note("leaves the link as it is in").about(self.destination))
            }
            At::Conflict { location, hold } => {
                let location = *location;
                let (held, note) = hold.step(world, context, &mut self.opened);
                match held {
                    Held::NotYet => {}
                    Held::At(_) => return (acknowledged, note),
                    Held::Unknown(version) => {
                        self.at = At::Linking { location, over: Some(version) };
                    }
                    Held::Lost => *hold = Hold::of(self.destination),
                    Held::Late => return (Some(Process::Failed), note),
                }
                (None, note)
            }
        }
    }
}

/// Writes a link over the version that was seen, or where there is none.
pub(crate) fn link_over(world: &mut World, repository: u8, location: u8, over: Option<u8>) -> bool {
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
    at: MoverAt,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum MoverAt {
    Mounting(Mount),
    Deleting(Deleter),
}

impl Mover {
    pub(crate) fn between(source: u8, destination: u8, moves: u8) -> Process {
        let at = MoverAt::Mounting(Mount::begin(source, destination));
        Process::Mover(Self { moves, source, destination, at })
    }

    pub(crate) fn step(&mut self, world: &mut World, context: &Context) -> (Option<Process>, Note) {
        let (end, note) = match &mut self.at {
            MoverAt::Mounting(mount) => mount.step(world, context),
            MoverAt::Deleting(deleter) => deleter.step(world),
        };
        match (end, self.at) {
            (None, _) => return (None, note),
            (Some(Process::Failed), _) => return (end, note),
            (Some(_), MoverAt::Mounting(_)) => {
                self.at = MoverAt::Deleting(Deleter::begin(self.source));
            }
            (Some(_), MoverAt::Deleting(_)) => {
                self.moves -= 1;
                if self.moves == 0 {
                    return (Some(Process::Done), note);
                }
                (self.source, self.destination) = (self.destination, self.source);
                self.at = MoverAt::Mounting(Mount::begin(self.source, self.destination));
            }
        }
        (None, note)
    }
}
