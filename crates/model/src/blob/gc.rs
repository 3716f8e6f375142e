//! [`BlobGc`]: deletes unreferenced links, and the bytes that only they referenced.

use super::{BlobProcess, BlobStore, ModelLink, ProtocolContext, REPOSITORIES};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::set::NumberSet;

/// One run. It has no deadline: each of its steps may be arbitrarily late.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlobGc {
    at: BlobGcStep,
    /// T0.
    cut: u8,
    /// R: the repositories whose manifests reference the blob.
    references: NumberSet,
    /// The location that each listed link references.
    locations: [Option<u8>; REPOSITORIES],
    /// The links to delete, and those that were deleted.
    candidates: NumberSet,
    lost: NumberSet,
    /// The queued locations, and since when they wait.
    queued: NumberSet,
    since: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum BlobGcStep {
    Beginning,
    References,
    /// C3: about to read the link of that repository.
    ModelLink(u8),
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

impl BlobGc {
    pub(crate) fn run() -> BlobProcess {
        BlobProcess::BlobGc(Self {
            at: BlobGcStep::Beginning,
            cut: 0,
            references: NumberSet::EMPTY,
            locations: [None; REPOSITORIES],
            candidates: NumberSet::EMPTY,
            lost: NumberSet::EMPTY,
            queued: NumberSet::EMPTY,
            since: 0,
        })
    }

    pub(crate) fn choices(&self, store: &BlobStore, context: &ProtocolContext) -> u8 {
        let is_waiting =
            self.at == BlobGcStep::Queue(0) && store.now - self.since < context.limits.wait;
        u8::from(!(is_waiting && context.keeps(ProtocolRule::BytesWait)))
    }

    pub(crate) fn step(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        match self.at {
            BlobGcStep::Beginning => {
                self.cut = store.now;
                self.at = BlobGcStep::References;
                (None, note("begins"))
            }
            BlobGcStep::References => {
                self.references = store.manifests;
                self.at = BlobGcStep::ModelLink(0);
                (None, note("lists the manifests"))
            }
            BlobGcStep::ModelLink(repository) => (self.list(store, context, repository), {
                note("lists the link of").about(repository)
            }),
            BlobGcStep::Again => self.read_again(store, context),
            BlobGcStep::Delete { repository, version } => {
                self.delete(store, context, repository, version)
            }
            BlobGcStep::Queue(repository) => self.list_again(store, context, repository),
            BlobGcStep::Remove => self.remove(store),
        }
    }

    fn list(
        &mut self,
        store: &BlobStore,
        context: &ProtocolContext,
        repository: u8,
    ) -> Option<BlobProcess> {
        if repository == 0 && !context.keeps(ProtocolRule::AgeAtStart) {
            self.cut = store.now;
        }
        let link = store.link(repository);
        self.locations[usize::from(repository)] = link.value.names(context);
        let is_referenced = link.value == ModelLink::Absent || self.references.has(repository);
        if !is_referenced && context.is_old(self.cut, link.modified) {
            self.candidates = self.candidates.with(repository);
        }
        if !context.is_last(repository) {
            self.at = BlobGcStep::ModelLink(repository + 1);
            return None;
        }
        (self.cut, self.references) = (self.cut_if(context, self.candidates), NumberSet::EMPTY);
        self.next_candidate(store, context)
    }

    /// T0 after its last use is zero, so that equal states stay equal.
    fn cut_if(&self, context: &ProtocolContext, left: NumberSet) -> u8 {
        if left.is_empty() || !context.keeps(ProtocolRule::RecheckAge) { 0 } else { self.cut }
    }

    fn next_candidate(
        &mut self,
        store: &BlobStore,
        context: &ProtocolContext,
    ) -> Option<BlobProcess> {
        self.cut = self.cut_if(context, self.candidates);
        self.at = BlobGcStep::Again;
        if !self.candidates.is_empty() {
            return None;
        }
        self.queued = self.unnamed(context);
        self.lost = NumberSet::EMPTY;
        self.locations = [None; REPOSITORIES];
        self.queue(store)
    }

    /// C5: the locations that lost every link of the listing.
    fn unnamed(&self, context: &ProtocolContext) -> NumberSet {
        let names = |location| {
            let locations = (0..)
                .zip(self.locations)
                .filter(move |(_, locations)| *locations == Some(location));
            locations.map(|(repository, _)| repository)
        };
        let locations =
            (0..).zip(self.locations).filter(|(repository, _)| self.lost.has(*repository));
        let locations = locations.filter_map(|(_, location)| location);
        let gone = locations.filter(|location| {
            let mut holders = names(*location);
            !context.keeps(ProtocolRule::EveryLink) || holders.all(|holder| self.lost.has(holder))
        });
        gone.fold(NumberSet::EMPTY, NumberSet::with)
    }

    fn queue(&mut self, store: &BlobStore) -> Option<BlobProcess> {
        if self.queued.is_empty() {
            return Some(BlobProcess::Done);
        }
        (self.at, self.since) = (BlobGcStep::Queue(0), store.now);
        None
    }

    fn read_again(
        &mut self,
        store: &BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let Some(repository) = self.candidates.first() else {
            return (self.next_candidate(store, context), note("has no candidate"));
        };
        let link = store.link(repository);
        let is_old =
            context.is_old(self.cut, link.modified) || !context.keeps(ProtocolRule::RecheckAge);
        if link.value == ModelLink::Absent || !is_old {
            self.candidates = self.candidates.without(repository);
            let end = self.next_candidate(store, context);
            return (end, note("keeps the link of").about(repository));
        }
        self.at = BlobGcStep::Delete { repository, version: link.version };
        (None, note("reads again the link of").about(repository))
    }

    fn delete(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        repository: u8,
        version: u8,
    ) -> (Option<BlobProcess>, Note) {
        self.candidates = self.candidates.without(repository);
        let link = store.link(repository);
        let is_same = link.version == version || !context.keeps(ProtocolRule::OnVersion);
        if link.value == ModelLink::Absent || !is_same {
            let end = self.next_candidate(store, context);
            return (end, note("fails to delete the link of").about(repository));
        }
        store.delete_link(repository);
        self.lost = self.lost.with(repository);
        (self.next_candidate(store, context), note("deletes the link of").about(repository))
    }

    fn list_again(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        repository: u8,
    ) -> (Option<BlobProcess>, Note) {
        self.since = 0;
        if !context.keeps(ProtocolRule::RelistLinks) {
            return self.remove(store);
        }
        if let Some(location) = store.link(repository).value.names(context) {
            self.queued = self.queued.without(location);
        }
        self.at = if context.is_last(repository) {
            BlobGcStep::Remove
        } else {
            BlobGcStep::Queue(repository + 1)
        };
        let end = self.queued.is_empty().then_some(BlobProcess::Done);
        (end, note("lists again the link of").about(repository))
    }

    fn remove(&mut self, store: &mut BlobStore) -> (Option<BlobProcess>, Note) {
        self.at = BlobGcStep::Remove;
        let Some(location) = self.queued.first() else {
            return (Some(BlobProcess::Done), note("has nothing to remove"));
        };
        store.remove_bytes(location);
        self.queued = self.queued.without(location);
        let end = self.queued.is_empty().then_some(BlobProcess::Done);
        (end, note("removes the bytes at location").about(location))
    }
}

impl ModelLink {
    /// The location that a link references, as GC sees it.
    pub(crate) fn names(self, context: &ProtocolContext) -> Option<u8> {
        match self {
            Self::Live(location) => Some(location),
            Self::Deleted(location) if context.keeps(ProtocolRule::DeletedKeepsLocation) => {
                Some(location)
            }
            Self::Deleted(_) | Self::Absent => None,
        }
    }
}
