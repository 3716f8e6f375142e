//! [`Whole`]: an upload in one request, which needs no session.

use super::hold::{Held, Hold};
use super::mount::link_over;
use super::{Context, Process, World};
use crate::Rule;
use crate::checked::{Note, note};

/// An upload that stores its bytes and links them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Whole {
    pub(crate) repository: u8,
    /// Whose copy it would rather link.
    other: Option<u8>,
    /// The answer to its write of the link may be lost.
    may_lose: bool,
    opened: Option<u8>,
    /// Whether every write of the link has definitely failed.
    is_definite: bool,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    Storing,
    /// Without [`Rule::KeepOwnBytes`]: about to remove its own bytes.
    Freeing {
        own: u8,
    },
    /// W1 on the other repository's link, of which the bytes are looked at.
    Other {
        own: u8,
        hold: Hold,
    },
    /// About to link the other repository's bytes.
    LinkingOther {
        own: u8,
        location: u8,
    },
    /// There was a link then, of this version, to that location: about to look for its bytes.
    Looking {
        own: u8,
        there: u8,
        version: u8,
        since: u8,
    },
    /// About to write the link, over that version or, without one, anew.
    Linking {
        own: u8,
        over: Option<u8>,
    },
    /// The answer was lost; this is the version that was written, if it was.
    ReadingBack {
        own: u8,
        written: u8,
    },
    /// There is a link already: W1 on it.
    Conflict {
        own: u8,
        hold: Hold,
    },
    /// The repository holds the blob elsewhere.
    TakingBack {
        own: u8,
        since: u8,
    },
}

impl Whole {
    pub(crate) fn to(repository: u8) -> Process {
        Process::Whole(Self::begin(repository, false))
    }

    /// One that links another repository's copy, if that is there.
    pub(crate) fn deduplicating(repository: u8, other: u8) -> Process {
        Process::Whole(Self { other: Some(other), ..Self::begin(repository, false) })
    }

    /// One that may lose an answer.
    pub(crate) fn losing(repository: u8) -> Process {
        Process::Whole(Self::begin(repository, true))
    }

    fn begin(repository: u8, may_lose: bool) -> Self {
        Self { repository, other: None, may_lose, opened: None, is_definite: true, at: At::Storing }
    }

    pub(crate) fn choices(&self) -> u8 {
        1 + u8::from(self.may_lose && matches!(self.at, At::Linking { .. }))
    }

    pub(crate) fn step(
        &mut self,
        world: &mut World,
        context: &Context,
        choice: u8,
    ) -> (Option<Process>, Note) {
        let acknowledged = Some(context.acknowledge(self.repository, world.now));
        match &mut self.at {
            At::Storing => {
                self.opened = context.keeps(Rule::WindowFirst).then_some(world.now);
                let own = world.put_bytes();
                self.at = match self.other {
                    Some(_) if !context.keeps(Rule::KeepOwnBytes) => At::Freeing { own },
                    Some(other) => At::Other { own, hold: Hold::of(other) },
                    None => At::Linking { own, over: None },
                };
                (None, note("stores its bytes at location").about(own))
            }
            At::Freeing { own } => {
                let own = *own;
                world.remove_bytes(own);
                let other = self.other.unwrap_or(self.repository);
                self.at = At::Other { own, hold: Hold::of(other) };
                (None, note("removes its own bytes at location").about(own))
            }
            At::Other { own, hold } => {
                let own = *own;
                let (held, note) = hold.step(world, context, &mut self.opened);
                match held {
                    Held::NotYet => {}
                    Held::At(location)
                        if !world.lost.has(location) || !context.keeps(Rule::CheckBytes) =>
                    {
                        self.at = At::LinkingOther { own, location };
                    }
                    _ => self.at = At::Linking { own, over: None },
                }
                (None, note)
            }
            At::LinkingOther { own, location } => {
                let (own, location) = (*own, *location);
                let is_late = self.opened.is_some_and(|opened| context.is_late(opened, world.now));
                if is_late || !link_over(world, self.repository, location, None) {
                    self.at = At::Linking { own, over: None };
                    return (None, note("does not link the other bytes"));
                }
                world.vouched |= world.lost.has(location);
                self.at = At::TakingBack { own, since: world.now };
                (None, note("writes the link to location").about(location))
            }
            At::Looking { own, there, version, since } => {
                let (own, there, version, since) = (*own, *there, *version, *since);
                if world.lost.has(there) && context.keeps(Rule::CheckBytes) {
                    self.at = At::Linking { own, over: Some(version) };
                    return (None, note("finds no bytes at location").about(there));
                }
                world.vouched |= world.lost.has(there);
                if self.is_definite || !context.keeps(Rule::OwnBytesOnly) {
                    self.at = At::TakingBack { own, since };
                    return (None, note("finds the bytes at location").about(there));
                }
                let end = context.acknowledge_since(self.repository, since, world.now);
                (Some(end), note("finds the bytes at location").about(there))
            }
            At::Linking { own, over } => {
                let (own, over) = (*own, *over);
                self.link(world, context, own, over, choice == 1)
            }
            At::ReadingBack { own, written } => {
                let (own, written) = (*own, *written);
                if world.link(self.repository).version == written {
                    return (acknowledged, note("reads its own link back"));
                }
                self.is_definite = false;
                self.at = At::Conflict { own, hold: Hold::of(self.repository) };
                (None, note("reads back another link"))
            }
            At::Conflict { own, hold } => {
                let own = *own;
                let (held, note) = hold.step(world, context, &mut self.opened);
                match held {
                    Held::NotYet => {}
                    Held::At(there) if there == own => return (acknowledged, note),
                    Held::At(there) => {
                        let version = world.link(self.repository).version;
                        self.at = At::Looking { own, there, version, since: world.now };
                    }
                    Held::Unknown(version) => {
                        self.at = At::Linking { own, over: Some(version) };
                    }
                    Held::Lost => *hold = Hold::of(self.repository),
                    Held::Late => return (Some(Process::Failed), note),
                }
                (None, note)
            }
            At::TakingBack { own, since } => {
                let end = context.acknowledge_since(self.repository, *since, world.now);
                world.remove_bytes(*own);
                (Some(end), note("removes its own bytes at location").about(*own))
            }
        }
    }

    fn link(
        &mut self,
        world: &mut World,
        context: &Context,
        own: u8,
        over: Option<u8>,
        is_lost: bool,
    ) -> (Option<Process>, Note) {
        let opened = *self.opened.get_or_insert(world.now);
        if context.is_late(opened, world.now) {
            return (Some(Process::Failed), note("is too late"));
        }
        if !link_over(world, self.repository, own, over) {
            self.at = At::Conflict { own, hold: Hold::of(self.repository) };
            return (None, note("finds another link in").about(self.repository));
        }
        if is_lost {
            self.may_lose = false;
            self.at = At::ReadingBack { own, written: world.link(self.repository).version };
            return (None, note("writes the link, and does not hear of it"));
        }
        let end = context.acknowledge(self.repository, world.now);
        (Some(end), note("writes the link to location").about(own))
    }
}
