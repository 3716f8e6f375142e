//! [`Sweep`]: removes bytes that no link ever named, or none names any more.

use super::{BlobWorld, Context, Process, Session};
use crate::Rule;
use crate::checked::{Note, note};
use crate::set::Set;

/// The most locations of a scenario.
const LOCATIONS: usize = 4;

/// What sweeps write down: since when each location has been found without a name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Findings([Option<u8>; LOCATIONS]);

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sweep {
    began: u8,
    /// How many of its steps it has made.
    made: u8,
    /// How many runs come after this one.
    more: u8,
    /// The locations with bytes, and those that something names.
    listed: Set,
    named: Set,
    /// What is left to remove, once it has decided.
    doomed: Set,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SweepStep {
    Bytes,
    Session,
    Link(u8),
}

/// The steps of a listing.
fn steps(context: &Context) -> impl DoubleEndedIterator<Item = SweepStep> + ExactSizeIterator {
    (0..context.repositories + 2).map(|step| match step {
        0 => SweepStep::Bytes,
        1 => SweepStep::Session,
        repository => SweepStep::Link(repository - 2),
    })
}

impl Sweep {
    /// A process that sweeps so many times.
    pub(crate) fn times(runs: u8) -> Process {
        Process::Sweep(Self::begin(runs - 1))
    }

    fn begin(more: u8) -> Self {
        let none = Set::EMPTY;
        Self { began: 0, made: 0, more, listed: none, named: none, doomed: none }
    }

    /// What comes after this run.
    fn end(&mut self) -> Option<Process> {
        if !self.doomed.is_empty() {
            return None;
        }
        if self.more == 0 {
            return Some(Process::Done);
        }
        *self = Self::begin(self.more - 1);
        None
    }

    pub(crate) fn step(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
    ) -> (Option<Process>, Note) {
        let made = usize::from(self.made);
        if made == 0 {
            self.began = world.now;
        }
        let step = match context.keeps(Rule::SweepOrder) {
            true => steps(context).nth(made),
            false => steps(context).rev().nth(made),
        };
        let Some(step) = step else { return self.finish(world, context) };
        self.made += 1;
        (None, self.list(world, context, step))
    }

    fn list(&mut self, world: &BlobWorld, context: &Context, step: SweepStep) -> Note {
        match step {
            SweepStep::Bytes => {
                self.listed = world.bytes;
                note("lists the bytes")
            }
            SweepStep::Session => {
                if let Session::Open(location) | Session::Closed(location) = world.session.value
                    && context.keeps(Rule::SweepSessions)
                {
                    self.named = self.named.with(location);
                }
                note("lists the sessions")
            }
            SweepStep::Link(repository) => {
                if let Some(location) = world.link(repository).value.names(context) {
                    self.named = self.named.with(location);
                }
                note("lists the link of").about(repository)
            }
        }
    }

    /// Decides and writes down what it found, then removes.
    fn finish(&mut self, world: &mut BlobWorld, context: &Context) -> (Option<Process>, Note) {
        if usize::from(self.made) == steps(context).len() {
            self.made += 1;
            let unnamed = self.listed.minus(self.named);
            let since = if context.keeps(Rule::SweepApart) { world.now } else { self.began };
            let long = world
                .findings
                .replace(unnamed, since, |since| self.began >= since + context.limits.grace);
            self.doomed = if context.keeps(Rule::SweepTwice) { long } else { unnamed };
            (self.began, self.listed, self.named) = (0, Set::EMPTY, Set::EMPTY);
            return (self.end(), note("writes down what it found"));
        }
        let Some(location) = self.doomed.first() else {
            return (Some(Process::Done), note("has nothing to remove"));
        };
        world.remove_bytes(location);
        self.doomed = self.doomed.without(location);
        (self.end(), note("removes the bytes at location").about(location))
    }
}

impl Findings {
    /// Writes down what has no name now, and returns what has had none for long.
    fn replace(&mut self, unnamed: Set, now: u8, is_long: impl Fn(u8) -> bool) -> Set {
        let mut long = Set::EMPTY;
        for (location, since) in (0..).zip(&mut self.0) {
            let first = since.filter(|_| unnamed.has(location));
            if first.is_some_and(&is_long) {
                long = long.with(location);
            }
            *since = unnamed.has(location).then(|| first.unwrap_or(now));
        }
        long
    }
}
