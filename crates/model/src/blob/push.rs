//! [`BlobPush`] and [`BlobHead`]: requests that rely on an existing link.

use super::touch::{LinkTouch, LinkTouched};
use super::{BlobProcess, BlobStore, ProtocolContext};
use crate::ProtocolRule;
use crate::checked::{Note, note};

/// A push of a manifest that refers to the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlobPush {
    pub(crate) repository: u8,
    opened: Option<u8>,
    /// W1, until it is done.
    touch: Option<LinkTouch>,
}

impl BlobPush {
    pub(crate) fn to(repository: u8) -> BlobProcess {
        BlobProcess::BlobPush(Self::begin(repository))
    }

    fn begin(repository: u8) -> Self {
        Self { repository, opened: None, touch: Some(LinkTouch::of(repository)) }
    }

    pub(crate) fn step(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let Some(touch) = &mut self.touch else { return self.write(store, context) };
        let (touched, note) = touch.step(store, context, &mut self.opened);
        match touched {
            LinkTouched::NotYet => {}
            LinkTouched::At(_) => self.touch = None,
            LinkTouched::Lost => *self = Self::begin(self.repository),
            LinkTouched::Unknown(_) | LinkTouched::Late => {
                return (Some(BlobProcess::Failed), note);
            }
        }
        (None, note)
    }

    /// W2. From now on the manifest references the link, so nothing is acknowledged separately.
    fn write(
        &self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        if self.opened.is_some_and(|opened| context.is_late(opened, store.now)) {
            return (Some(BlobProcess::Failed), note("is too late"));
        }
        store.manifests = store.manifests.with(self.repository);
        (Some(BlobProcess::Done), note("writes the manifest"))
    }
}

/// A HEAD by a client that may push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct BlobHead {
    pub(crate) repository: u8,
    at: BlobHeadStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum BlobHeadStep {
    Asking(LinkTouch),
    /// About to read the link for another request, such as a GET, and cache it.
    Reading,
    /// The link is cached: when it was written, and read.
    Remembering {
        modified: u8,
        read: u8,
    },
}

impl BlobHead {
    /// One that reads the store.
    pub(crate) fn of(repository: u8) -> BlobProcess {
        BlobProcess::BlobHead(Self {
            repository,
            at: BlobHeadStep::Asking(LinkTouch::of(repository)),
        })
    }

    /// One that may be served from the cache.
    pub(crate) fn from_memory(repository: u8) -> BlobProcess {
        BlobProcess::BlobHead(Self { repository, at: BlobHeadStep::Reading })
    }

    pub(crate) fn step(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        match &mut self.at {
            BlobHeadStep::Reading => self.read(store),
            BlobHeadStep::Remembering { modified, read } => {
                let (modified, read) = (*modified, *read);
                self.remember(store, context, modified, read)
            }
            BlobHeadStep::Asking(_) if !context.keeps(ProtocolRule::HeadTouches) => {
                self.check_link(store, context)
            }
            BlobHeadStep::Asking(touch) => {
                // No write depends on this, so it has no window.
                let (touched, note) = touch.step(store, context, &mut Some(store.now));
                match touched {
                    LinkTouched::NotYet => (None, note),
                    LinkTouched::Lost => {
                        *touch = LinkTouch::of(self.repository);
                        (None, note)
                    }
                    LinkTouched::At(_) => {
                        (Some(context.acknowledge(self.repository, store.now)), note)
                    }
                    LinkTouched::Unknown(_) | LinkTouched::Late => {
                        (Some(BlobProcess::Failed), note)
                    }
                }
            }
        }
    }

    fn check_link(
        &self,
        store: &BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let link = store.link(self.repository).value;
        let note = note("reads the link in").about(self.repository);
        match link.live() {
            Some(_) => (Some(context.acknowledge(self.repository, store.now)), note),
            None => (Some(BlobProcess::Failed), note),
        }
    }

    fn read(&mut self, store: &BlobStore) -> (Option<BlobProcess>, Note) {
        let link = store.link(self.repository);
        if link.value.live().is_none() {
            return (
                Some(BlobProcess::Failed),
                note("finds no live link in").about(self.repository),
            );
        }
        self.at = BlobHeadStep::Remembering { modified: link.modified, read: store.now };
        (None, note("caches the link in").about(self.repository))
    }

    fn remember(
        &mut self,
        store: &BlobStore,
        context: &ProtocolContext,
        modified: u8,
        read: u8,
    ) -> (Option<BlobProcess>, Note) {
        let is_young = store.now - modified < context.limits.touch_age;
        let is_trusted = store.now - read < context.limits.trust;
        if is_trusted && (is_young || !context.keeps(ProtocolRule::HeadFromYoungMemory)) {
            let end = context.acknowledge(self.repository, store.now);
            return (Some(end), note("responds from its cache"));
        }
        self.at = BlobHeadStep::Asking(LinkTouch::of(self.repository));
        (None, note("finds nothing young in its cache"))
    }
}
