//! [`MonolithicUpload`]: an upload in one request, which needs no session.

use super::mount::link_over;
use super::touch::{LinkTouch, LinkTouched};
use super::{BlobWorld, Context, Process};
use crate::Rule;
use crate::checked::{Note, note};

/// An upload that stores its bytes and links them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MonolithicUpload {
    pub(crate) repository: u8,
    /// Whose copy it would rather link.
    other: Option<u8>,
    /// The answer to its write of the link may be lost.
    may_lose: bool,
    opened: Option<u8>,
    /// Whether every write of the link has definitely failed.
    is_definite: bool,
    at: MonolithicStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum MonolithicStep {
    Storing,
    /// Without [`Rule::KeepOwnBytes`]: about to remove its own bytes.
    Freeing {
        own: u8,
    },
    /// W1 on the other repository's link, of which the bytes are looked at.
    Other {
        own: u8,
        hold: LinkTouch,
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
        hold: LinkTouch,
    },
    /// The repository holds the blob elsewhere.
    TakingBack {
        own: u8,
        since: u8,
    },
}

impl MonolithicUpload {
    pub(crate) fn to(repository: u8) -> Process {
        Process::MonolithicUpload(Self::begin(repository, false))
    }

    /// One that links another repository's copy, if that is there.
    pub(crate) fn deduplicating(repository: u8, other: u8) -> Process {
        Process::MonolithicUpload(Self { other: Some(other), ..Self::begin(repository, false) })
    }

    /// One that may lose an answer.
    pub(crate) fn losing(repository: u8) -> Process {
        Process::MonolithicUpload(Self::begin(repository, true))
    }

    fn begin(repository: u8, may_lose: bool) -> Self {
        Self {
            repository,
            other: None,
            may_lose,
            opened: None,
            is_definite: true,
            at: MonolithicStep::Storing,
        }
    }

    pub(crate) fn choices(&self) -> u8 {
        1 + u8::from(self.may_lose && matches!(self.at, MonolithicStep::Linking { .. }))
    }

    pub(crate) fn step(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
        choice: u8,
    ) -> (Option<Process>, Note) {
        match self.at {
            MonolithicStep::Storing => self.store(world, context),
            MonolithicStep::Freeing { own } => self.free(world, own),
            MonolithicStep::Other { own, hold } => self.hold_other(world, context, own, hold),
            MonolithicStep::LinkingOther { own, location } => {
                self.link_other(world, context, own, location)
            }
            MonolithicStep::Looking { own, there, version, since } => {
                self.look(world, context, own, there, version, since)
            }
            MonolithicStep::Linking { own, over } => {
                self.link(world, context, own, over, choice == 1)
            }
            MonolithicStep::ReadingBack { own, written } => {
                self.read_back(world, context, own, written)
            }
            MonolithicStep::Conflict { own, hold } => {
                self.resolve_conflict(world, context, own, hold)
            }
            MonolithicStep::TakingBack { own, since } => {
                let end = context.acknowledge_since(self.repository, since, world.now);
                world.remove_bytes(own);
                (Some(end), note("removes its own bytes at location").about(own))
            }
        }
    }

    fn store(&mut self, world: &mut BlobWorld, context: &Context) -> (Option<Process>, Note) {
        self.opened = context.keeps(Rule::WindowFirst).then_some(world.now);
        let own = world.put_bytes();
        self.at = match self.other {
            Some(_) if !context.keeps(Rule::KeepOwnBytes) => MonolithicStep::Freeing { own },
            Some(other) => MonolithicStep::Other { own, hold: LinkTouch::of(other) },
            None => MonolithicStep::Linking { own, over: None },
        };
        (None, note("stores its bytes at location").about(own))
    }

    fn free(&mut self, world: &mut BlobWorld, own: u8) -> (Option<Process>, Note) {
        world.remove_bytes(own);
        let other = self.other.unwrap_or(self.repository);
        self.at = MonolithicStep::Other { own, hold: LinkTouch::of(other) };
        (None, note("removes its own bytes at location").about(own))
    }

    fn hold_other(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
        own: u8,
        mut hold: LinkTouch,
    ) -> (Option<Process>, Note) {
        let (held, note) = hold.step(world, context, &mut self.opened);
        self.at = match held {
            LinkTouched::NotYet => MonolithicStep::Other { own, hold },
            LinkTouched::At(location)
                if !world.lost.has(location) || !context.keeps(Rule::CheckBytes) =>
            {
                MonolithicStep::LinkingOther { own, location }
            }
            _ => MonolithicStep::Linking { own, over: None },
        };
        (None, note)
    }

    fn link_other(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
        own: u8,
        location: u8,
    ) -> (Option<Process>, Note) {
        let is_late = self.opened.is_some_and(|opened| context.is_late(opened, world.now));
        if is_late || !link_over(world, self.repository, location, None) {
            self.at = MonolithicStep::Linking { own, over: None };
            return (None, note("does not link the other bytes"));
        }
        world.vouched |= world.lost.has(location);
        self.at = MonolithicStep::TakingBack { own, since: world.now };
        (None, note("writes the link to location").about(location))
    }

    fn look(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
        own: u8,
        there: u8,
        version: u8,
        since: u8,
    ) -> (Option<Process>, Note) {
        if world.lost.has(there) && context.keeps(Rule::CheckBytes) {
            self.at = MonolithicStep::Linking { own, over: Some(version) };
            return (None, note("finds no bytes at location").about(there));
        }
        world.vouched |= world.lost.has(there);
        if self.is_definite || !context.keeps(Rule::OwnBytesOnly) {
            self.at = MonolithicStep::TakingBack { own, since };
            return (None, note("finds the bytes at location").about(there));
        }
        let end = context.acknowledge_since(self.repository, since, world.now);
        (Some(end), note("finds the bytes at location").about(there))
    }

    fn read_back(
        &mut self,
        world: &BlobWorld,
        context: &Context,
        own: u8,
        written: u8,
    ) -> (Option<Process>, Note) {
        if world.link(self.repository).version == written {
            let end = context.acknowledge(self.repository, world.now);
            return (Some(end), note("reads its own link back"));
        }
        self.is_definite = false;
        self.at = MonolithicStep::Conflict { own, hold: LinkTouch::of(self.repository) };
        (None, note("reads back another link"))
    }

    fn resolve_conflict(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
        own: u8,
        mut hold: LinkTouch,
    ) -> (Option<Process>, Note) {
        let acknowledged = context.acknowledge(self.repository, world.now);
        let (held, note) = hold.step(world, context, &mut self.opened);
        self.at = match held {
            LinkTouched::NotYet => MonolithicStep::Conflict { own, hold },
            LinkTouched::At(there) if there == own => return (Some(acknowledged), note),
            LinkTouched::At(there) => {
                let version = world.link(self.repository).version;
                MonolithicStep::Looking { own, there, version, since: world.now }
            }
            LinkTouched::Unknown(version) => MonolithicStep::Linking { own, over: Some(version) },
            LinkTouched::Lost => {
                MonolithicStep::Conflict { own, hold: LinkTouch::of(self.repository) }
            }
            LinkTouched::Late => return (Some(Process::Failed), note),
        };
        (None, note)
    }

    fn link(
        &mut self,
        world: &mut BlobWorld,
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
            self.at = MonolithicStep::Conflict { own, hold: LinkTouch::of(self.repository) };
            return (None, note("finds another link in").about(self.repository));
        }
        if is_lost {
            self.may_lose = false;
            self.at =
                MonolithicStep::ReadingBack { own, written: world.link(self.repository).version };
            return (None, note("writes the link, and does not hear of it"));
        }
        let end = context.acknowledge(self.repository, world.now);
        (Some(end), note("writes the link to location").about(own))
    }
}
