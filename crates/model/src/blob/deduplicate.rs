//! [`Deduplication`]: moves a link to the location of another, so that its own can be deleted.

use super::touch::{LinkTouch, LinkTouched};
use super::{BlobProcess, BlobStore, ProtocolContext};
use crate::ProtocolRule;
use crate::checked::{Note, note};

/// Deduplication of one link.
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
    /// W1 on the other link; this version references another location.
    Touching {
        version: u8,
        location: u8,
        touch: LinkTouch,
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
    pub(crate) fn into_other(repository: u8, other: u8) -> BlobProcess {
        BlobProcess::Deduplication(Self {
            repository,
            other,
            opened: None,
            at: DeduplicationStep::Reading,
        })
    }

    pub(crate) fn step(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        match &mut self.at {
            DeduplicationStep::Reading => self.read(store, context),
            DeduplicationStep::Touching { version, location, touch } => {
                let (version, own) = (*version, *location);
                let (touched, note) = match context.keeps(ProtocolRule::DeduplicateTouches) {
                    true => touch.step(store, context, &mut self.opened),
                    false => self.check_link(store),
                };
                match touched {
                    LinkTouched::NotYet => {}
                    LinkTouched::At(location) if location != own => {
                        self.at = DeduplicationStep::Hashing { version, location };
                    }
                    _ => return (Some(BlobProcess::Failed), note),
                }
                (None, note)
            }
            DeduplicationStep::Hashing { version, location } => {
                let (version, location) = (*version, *location);
                let is_wrong = store.wrong.has(location) || store.lost.has(location);
                if is_wrong && context.keeps(ProtocolRule::DeduplicateHashes) {
                    return (Some(BlobProcess::Failed), note("finds bad bytes at").about(location));
                }
                self.at = DeduplicationStep::Swapping { version, location };
                (None, note("hashes the bytes at").about(location))
            }
            DeduplicationStep::Swapping { version, location } => {
                let (version, location) = (*version, *location);
                self.swap(store, context, version, location)
            }
        }
    }

    fn read(
        &mut self,
        store: &BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let link = store.link(self.repository);
        let is_old = store.now - link.modified > context.limits.grace;
        match link.value.live() {
            Some(location) if is_old || !context.keeps(ProtocolRule::DeduplicateOnlyOld) => {
                let touch = LinkTouch::of(self.other);
                self.at = DeduplicationStep::Touching { version: link.version, location, touch };
                (None, note("reads the link in").about(self.repository))
            }
            _ => (Some(BlobProcess::Failed), note("finds no old link in").about(self.repository)),
        }
    }

    fn check_link(&self, store: &BlobStore) -> (LinkTouched, Note) {
        let link = store.link(self.other);
        let touched = link.value.live().map_or(LinkTouched::Unknown(link.version), LinkTouched::At);
        (touched, note("reads the link in").about(self.other))
    }

    fn swap(
        &self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        version: u8,
        location: u8,
    ) -> (Option<BlobProcess>, Note) {
        if self.opened.is_some_and(|opened| context.is_late(opened, store.now)) {
            return (Some(BlobProcess::Failed), note("is too late"));
        }
        let is_same = store.link(self.repository).version == version;
        if !is_same && context.keeps(ProtocolRule::DeduplicateOnVersion) {
            return (Some(BlobProcess::Failed), note("finds another version of the link"));
        }
        store.spread_wrong |= store.wrong.has(location) || store.lost.has(location);
        store.rewrite_link(self.repository, location);
        (Some(BlobProcess::Done), note("swaps the link to location").about(location))
    }
}
