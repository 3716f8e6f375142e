//! [`Sweep`]: deletes orphaned bytes.

use super::{BlobProcess, BlobStore, ModelSession, ProtocolContext};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::set::NumberSet;

/// The most locations of a scenario.
const LOCATIONS: usize = 4;

/// What sweeps record: since when each location has been found orphaned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SweepFindings([Option<u8>; LOCATIONS]);

/// One run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Sweep {
    began: u8,
    /// How many of its steps it has made.
    made: u8,
    /// How many runs come after this one.
    more: u8,
    /// The locations with bytes, and those that are referenced.
    listed: NumberSet,
    locations: NumberSet,
    /// What is still to be deleted, once it has decided.
    doomed: NumberSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum SweepStep {
    Bytes,
    ModelSession,
    ModelLink(u8),
}

/// The steps of a listing.
fn steps(
    context: &ProtocolContext,
) -> impl DoubleEndedIterator<Item = SweepStep> + ExactSizeIterator {
    (0..context.repositories + 2).map(|step| match step {
        0 => SweepStep::Bytes,
        1 => SweepStep::ModelSession,
        repository => SweepStep::ModelLink(repository - 2),
    })
}

impl Sweep {
    /// A process that sweeps so many times.
    pub(crate) fn times(runs: u8) -> BlobProcess {
        BlobProcess::Sweep(Self::begin(runs - 1))
    }

    fn begin(more: u8) -> Self {
        let none = NumberSet::EMPTY;
        Self { began: 0, made: 0, more, listed: none, locations: none, doomed: none }
    }

    /// What comes after this run.
    fn end(&mut self) -> Option<BlobProcess> {
        if !self.doomed.is_empty() {
            return None;
        }
        if self.more == 0 {
            return Some(BlobProcess::Done);
        }
        *self = Self::begin(self.more - 1);
        None
    }

    pub(crate) fn step(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let made = usize::from(self.made);
        if made == 0 {
            self.began = store.now;
        }
        let step = match context.keeps(ProtocolRule::SweepOrder) {
            true => steps(context).nth(made),
            false => steps(context).rev().nth(made),
        };
        let Some(step) = step else { return self.finish(store, context) };
        self.made += 1;
        (None, self.list(store, context, step))
    }

    fn list(&mut self, store: &BlobStore, context: &ProtocolContext, step: SweepStep) -> Note {
        match step {
            SweepStep::Bytes => {
                self.listed = store.bytes;
                note("lists the bytes")
            }
            SweepStep::ModelSession => {
                if let ModelSession::Open(location) | ModelSession::Closed(location) =
                    store.session.value
                    && context.keeps(ProtocolRule::SweepSessions)
                {
                    self.locations = self.locations.with(location);
                }
                note("lists the sessions")
            }
            SweepStep::ModelLink(repository) => {
                if let Some(location) = store.link(repository).value.names(context) {
                    self.locations = self.locations.with(location);
                }
                note("lists the link of").about(repository)
            }
        }
    }

    /// Decides, records its findings, then deletes.
    fn finish(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        if usize::from(self.made) == steps(context).len() {
            self.made += 1;
            let unnamed = self.listed.minus(self.locations);
            let since =
                if context.keeps(ProtocolRule::SweepApart) { store.now } else { self.began };
            let long = store
                .findings
                .replace(unnamed, since, |since| self.began >= since + context.limits.grace);
            self.doomed = if context.keeps(ProtocolRule::SweepTwice) { long } else { unnamed };
            (self.began, self.listed, self.locations) = (0, NumberSet::EMPTY, NumberSet::EMPTY);
            return (self.end(), note("records its findings"));
        }
        let Some(location) = self.doomed.first() else {
            return (Some(BlobProcess::Done), note("has nothing to remove"));
        };
        store.remove_bytes(location);
        self.doomed = self.doomed.without(location);
        (self.end(), note("removes the bytes at location").about(location))
    }
}

impl SweepFindings {
    /// Records what is orphaned now, and returns what has been for long enough.
    fn replace(&mut self, unnamed: NumberSet, now: u8, is_long: impl Fn(u8) -> bool) -> NumberSet {
        let mut long = NumberSet::EMPTY;
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
