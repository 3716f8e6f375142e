//! [`Collector`]: removes links that nothing refers to, and the bytes that only they named.

use super::{BlobWorld, Context, Link, Process, REPOSITORIES};
use crate::Rule;
use crate::checked::{Note, note};
use crate::set::Set;

/// One run. It has no deadline anywhere: each of its steps may come as late as it likes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Collector {
    at: CollectorStep,
    /// T0.
    cut: u8,
    /// R: the repositories whose manifests refer to the blob.
    references: Set,
    /// Where each link of the listing said that the bytes are.
    named: [Option<u8>; REPOSITORIES],
    /// The links that are to go, and those that went.
    candidates: Set,
    lost: Set,
    /// The locations that wait to be removed, and since when.
    queued: Set,
    since: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum CollectorStep {
    Beginning,
    References,
    /// C3: about to read the link of that repository.
    Link(u8),
    /// C4: about to read it again.
    Again,
    /// C4: about to delete this version.
    Delete {
        repository: u8,
        version: u8,
    },
    /// C5: waiting, then listing the links again, from that repository on.
    Queue(u8),
    Remove,
}

impl Collector {
    pub(crate) fn run() -> Process {
        Process::Collector(Self {
            at: CollectorStep::Beginning,
            cut: 0,
            references: Set::EMPTY,
            named: [None; REPOSITORIES],
            candidates: Set::EMPTY,
            lost: Set::EMPTY,
            queued: Set::EMPTY,
            since: 0,
        })
    }

    pub(crate) fn choices(&self, world: &BlobWorld, context: &Context) -> u8 {
        let is_waiting =
            self.at == CollectorStep::Queue(0) && world.now - self.since < context.limits.wait;
        u8::from(!(is_waiting && context.keeps(Rule::Wait)))
    }

    pub(crate) fn step(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
    ) -> (Option<Process>, Note) {
        match self.at {
            CollectorStep::Beginning => {
                self.cut = world.now;
                self.at = CollectorStep::References;
                (None, note("begins"))
            }
            CollectorStep::References => {
                self.references = world.manifests;
                self.at = CollectorStep::Link(0);
                (None, note("lists the manifests"))
            }
            CollectorStep::Link(repository) => (self.list(world, context, repository), {
                note("lists the link of").about(repository)
            }),
            CollectorStep::Again => self.read_again(world, context),
            CollectorStep::Delete { repository, version } => {
                self.delete(world, context, repository, version)
            }
            CollectorStep::Queue(repository) => self.list_again(world, context, repository),
            CollectorStep::Remove => self.remove(world),
        }
    }

    fn list(&mut self, world: &BlobWorld, context: &Context, repository: u8) -> Option<Process> {
        if repository == 0 && !context.keeps(Rule::CutFirst) {
            self.cut = world.now;
        }
        let link = world.link(repository);
        self.named[usize::from(repository)] = link.value.names(context);
        let is_held = link.value == Link::Absent || self.references.has(repository);
        if !is_held && context.is_old(self.cut, link.modified) {
            self.candidates = self.candidates.with(repository);
        }
        if !context.is_last(repository) {
            self.at = CollectorStep::Link(repository + 1);
            return None;
        }
        (self.cut, self.references) = (self.cut_if(context, self.candidates), Set::EMPTY);
        self.next_candidate(world, context)
    }

    /// T0 is forgotten with the last use of it, so that it makes no difference any more.
    fn cut_if(&self, context: &Context, left: Set) -> u8 {
        if left.is_empty() || !context.keeps(Rule::AgeAgain) { 0 } else { self.cut }
    }

    fn next_candidate(&mut self, world: &BlobWorld, context: &Context) -> Option<Process> {
        self.cut = self.cut_if(context, self.candidates);
        self.at = CollectorStep::Again;
        if !self.candidates.is_empty() {
            return None;
        }
        self.queued = self.unnamed(context);
        self.lost = Set::EMPTY;
        self.named = [None; REPOSITORIES];
        self.queue(world)
    }

    /// C5: the locations that lost every link of the listing.
    fn unnamed(&self, context: &Context) -> Set {
        let names = |location| {
            let named = (0..).zip(self.named).filter(move |(_, named)| *named == Some(location));
            named.map(|(repository, _)| repository)
        };
        let locations = (0..).zip(self.named).filter(|(repository, _)| self.lost.has(*repository));
        let locations = locations.filter_map(|(_, location)| location);
        let gone = locations.filter(|location| {
            let mut holders = names(*location);
            !context.keeps(Rule::EveryLink) || holders.all(|holder| self.lost.has(holder))
        });
        gone.fold(Set::EMPTY, Set::with)
    }

    fn queue(&mut self, world: &BlobWorld) -> Option<Process> {
        if self.queued.is_empty() {
            return Some(Process::Done);
        }
        (self.at, self.since) = (CollectorStep::Queue(0), world.now);
        None
    }

    fn read_again(&mut self, world: &BlobWorld, context: &Context) -> (Option<Process>, Note) {
        let Some(repository) = self.candidates.first() else {
            return (self.next_candidate(world, context), note("has no candidate"));
        };
        let link = world.link(repository);
        let is_old = context.is_old(self.cut, link.modified) || !context.keeps(Rule::AgeAgain);
        if link.value == Link::Absent || !is_old {
            self.candidates = self.candidates.without(repository);
            let end = self.next_candidate(world, context);
            return (end, note("spares the link of").about(repository));
        }
        self.at = CollectorStep::Delete { repository, version: link.version };
        (None, note("looks again at the link of").about(repository))
    }

    fn delete(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
        repository: u8,
        version: u8,
    ) -> (Option<Process>, Note) {
        self.candidates = self.candidates.without(repository);
        let link = world.link(repository);
        let is_same = link.version == version || !context.keeps(Rule::DeleteOnVersion);
        if link.value == Link::Absent || !is_same {
            let end = self.next_candidate(world, context);
            return (end, note("fails to delete the link of").about(repository));
        }
        world.delete_link(repository);
        self.lost = self.lost.with(repository);
        (self.next_candidate(world, context), note("deletes the link of").about(repository))
    }

    fn list_again(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
        repository: u8,
    ) -> (Option<Process>, Note) {
        self.since = 0;
        if !context.keeps(Rule::ListAgain) {
            return self.remove(world);
        }
        if let Some(location) = world.link(repository).value.names(context) {
            self.queued = self.queued.without(location);
        }
        self.at = if context.is_last(repository) {
            CollectorStep::Remove
        } else {
            CollectorStep::Queue(repository + 1)
        };
        let end = self.queued.is_empty().then_some(Process::Done);
        (end, note("lists again the link of").about(repository))
    }

    fn remove(&mut self, world: &mut BlobWorld) -> (Option<Process>, Note) {
        self.at = CollectorStep::Remove;
        let Some(location) = self.queued.first() else {
            return (Some(Process::Done), note("has nothing to remove"));
        };
        world.remove_bytes(location);
        self.queued = self.queued.without(location);
        let end = self.queued.is_empty().then_some(Process::Done);
        (end, note("removes the bytes at location").about(location))
    }
}

impl Link {
    /// The location that a link names, as a collector sees it.
    pub(crate) fn names(self, context: &Context) -> Option<u8> {
        match self {
            Self::Live(location) => Some(location),
            Self::Deleted(location) if context.keeps(Rule::DeletedKeepsPlace) => Some(location),
            Self::Deleted(_) | Self::Absent => None,
        }
    }
}
