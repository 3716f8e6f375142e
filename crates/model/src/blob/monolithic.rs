//! [`MonolithicUpload`]: an upload in one request, which needs no session.

use super::mount::link_over;
use super::touch::{LinkTouch, LinkTouched};
use super::{BlobProcess, BlobStore, ProtocolContext};
use crate::ProtocolRule;
use crate::checked::{Note, note};

/// An upload that stores its bytes and links them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MonolithicUpload {
    pub(crate) repository: u8,
    /// The repository whose copy it prefers to link.
    other: Option<u8>,
    /// The response to its write of the link may be lost.
    may_lose: bool,
    opened: Option<u8>,
    /// Whether every write of the link has definitely failed.
    is_definite: bool,
    at: MonolithicStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum MonolithicStep {
    Storing,
    /// Without [`ProtocolRule::KeepOwnBytes`]: about to remove its own bytes.
    Freeing {
        own: u8,
    },
    /// W1 on the other repository's link, whose bytes are checked.
    Other {
        own: u8,
        touch: LinkTouch,
    },
    /// About to link the other repository's bytes.
    LinkingOther {
        own: u8,
        location: u8,
    },
    /// There was a link then, of this version, to that location: about to check its bytes.
    Looking {
        own: u8,
        there: u8,
        version: u8,
        since: u8,
    },
    /// About to write the link, over that version or, without one, a Create.
    Linking {
        own: u8,
        over: Option<u8>,
    },
    /// The response was lost; this is the version that was written, if it was.
    ReadingBack {
        own: u8,
        written: u8,
    },
    /// There is a link already: W1 on it.
    Conflict {
        own: u8,
        touch: LinkTouch,
    },
    /// The repository has the blob at another location.
    TakingBack {
        own: u8,
        since: u8,
    },
}

impl MonolithicUpload {
    pub(crate) fn to(repository: u8) -> BlobProcess {
        BlobProcess::MonolithicUpload(Self::begin(repository, false))
    }

    /// One that links another repository's copy, if that exists.
    pub(crate) fn deduplicating(repository: u8, other: u8) -> BlobProcess {
        BlobProcess::MonolithicUpload(Self { other: Some(other), ..Self::begin(repository, false) })
    }

    /// One that may lose a response.
    pub(crate) fn losing(repository: u8) -> BlobProcess {
        BlobProcess::MonolithicUpload(Self::begin(repository, true))
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
        store: &mut BlobStore,
        context: &ProtocolContext,
        choice: u8,
    ) -> (Option<BlobProcess>, Note) {
        match self.at {
            MonolithicStep::Storing => self.store(store, context),
            MonolithicStep::Freeing { own } => self.free(store, own),
            MonolithicStep::Other { own, touch } => self.touch_other(store, context, own, touch),
            MonolithicStep::LinkingOther { own, location } => {
                self.link_other(store, context, own, location)
            }
            MonolithicStep::Looking { own, there, version, since } => {
                self.check_link(store, context, own, there, version, since)
            }
            MonolithicStep::Linking { own, over } => {
                self.link(store, context, own, over, choice == 1)
            }
            MonolithicStep::ReadingBack { own, written } => {
                self.read_back(store, context, own, written)
            }
            MonolithicStep::Conflict { own, touch } => {
                self.resolve_conflict(store, context, own, touch)
            }
            MonolithicStep::TakingBack { own, since } => {
                let end = context.acknowledge_since(self.repository, since, store.now);
                store.remove_bytes(own);
                (Some(end), note("removes its own bytes at location").about(own))
            }
        }
    }

    fn store(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        self.opened = context.keeps(ProtocolRule::WindowFirst).then_some(store.now);
        let own = store.put_bytes();
        self.at = match self.other {
            Some(_) if !context.keeps(ProtocolRule::KeepOwnBytes) => {
                MonolithicStep::Freeing { own }
            }
            Some(other) => MonolithicStep::Other { own, touch: LinkTouch::of(other) },
            None => MonolithicStep::Linking { own, over: None },
        };
        (None, note("stores its bytes at location").about(own))
    }

    fn free(&mut self, store: &mut BlobStore, own: u8) -> (Option<BlobProcess>, Note) {
        store.remove_bytes(own);
        let other = self.other.unwrap_or(self.repository);
        self.at = MonolithicStep::Other { own, touch: LinkTouch::of(other) };
        (None, note("removes its own bytes at location").about(own))
    }

    fn touch_other(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        own: u8,
        mut touch: LinkTouch,
    ) -> (Option<BlobProcess>, Note) {
        let (touched, note) = touch.step(store, context, &mut self.opened);
        self.at = match touched {
            LinkTouched::NotYet => MonolithicStep::Other { own, touch },
            LinkTouched::At(location)
                if !store.lost.has(location) || !context.keeps(ProtocolRule::CheckBytes) =>
            {
                MonolithicStep::LinkingOther { own, location }
            }
            _ => MonolithicStep::Linking { own, over: None },
        };
        (None, note)
    }

    fn link_other(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        own: u8,
        location: u8,
    ) -> (Option<BlobProcess>, Note) {
        let is_late = self.opened.is_some_and(|opened| context.is_late(opened, store.now));
        if is_late || !link_over(store, self.repository, location, None) {
            self.at = MonolithicStep::Linking { own, over: None };
            return (None, note("does not link the other bytes"));
        }
        store.acknowledged_lost |= store.lost.has(location);
        self.at = MonolithicStep::TakingBack { own, since: store.now };
        (None, note("writes the link to location").about(location))
    }

    fn check_link(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        own: u8,
        there: u8,
        version: u8,
        since: u8,
    ) -> (Option<BlobProcess>, Note) {
        if store.lost.has(there) && context.keeps(ProtocolRule::CheckBytes) {
            self.at = MonolithicStep::Linking { own, over: Some(version) };
            return (None, note("finds no bytes at location").about(there));
        }
        store.acknowledged_lost |= store.lost.has(there);
        if self.is_definite || !context.keeps(ProtocolRule::OwnBytesOnly) {
            self.at = MonolithicStep::TakingBack { own, since };
            return (None, note("finds the bytes at location").about(there));
        }
        let end = context.acknowledge_since(self.repository, since, store.now);
        (Some(end), note("finds the bytes at location").about(there))
    }

    fn read_back(
        &mut self,
        store: &BlobStore,
        context: &ProtocolContext,
        own: u8,
        written: u8,
    ) -> (Option<BlobProcess>, Note) {
        if store.link(self.repository).version == written {
            let end = context.acknowledge(self.repository, store.now);
            return (Some(end), note("reads its own link back"));
        }
        self.is_definite = false;
        self.at = MonolithicStep::Conflict { own, touch: LinkTouch::of(self.repository) };
        (None, note("reads back another link"))
    }

    fn resolve_conflict(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        own: u8,
        mut touch: LinkTouch,
    ) -> (Option<BlobProcess>, Note) {
        let acknowledged = context.acknowledge(self.repository, store.now);
        let (touched, note) = touch.step(store, context, &mut self.opened);
        self.at = match touched {
            LinkTouched::NotYet => MonolithicStep::Conflict { own, touch },
            LinkTouched::At(there) if there == own => return (Some(acknowledged), note),
            LinkTouched::At(there) => {
                let version = store.link(self.repository).version;
                MonolithicStep::Looking { own, there, version, since: store.now }
            }
            LinkTouched::Unknown(version) => MonolithicStep::Linking { own, over: Some(version) },
            LinkTouched::Lost => {
                MonolithicStep::Conflict { own, touch: LinkTouch::of(self.repository) }
            }
            LinkTouched::Late => return (Some(BlobProcess::Failed), note),
        };
        (None, note)
    }

    fn link(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        own: u8,
        over: Option<u8>,
        is_lost: bool,
    ) -> (Option<BlobProcess>, Note) {
        let opened = *self.opened.get_or_insert(store.now);
        if context.is_late(opened, store.now) {
            return (Some(BlobProcess::Failed), note("is too late"));
        }
        if !link_over(store, self.repository, own, over) {
            self.at = MonolithicStep::Conflict { own, touch: LinkTouch::of(self.repository) };
            return (None, note("finds another link in").about(self.repository));
        }
        if is_lost {
            self.may_lose = false;
            self.at =
                MonolithicStep::ReadingBack { own, written: store.link(self.repository).version };
            return (None, note("writes the link, and the response is lost"));
        }
        let end = context.acknowledge(self.repository, store.now);
        (Some(end), note("writes the link to location").about(own))
    }
}
