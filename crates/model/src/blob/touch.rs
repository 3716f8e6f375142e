//! [`LinkTouch`]: W1 for one link.

use super::{BlobStore, ProtocolContext};
use crate::checked::{Note, note};
use crate::record::ModelRecord;
use crate::{ProtocolRule, blob::ModelLink};

/// W1: reads a link, and touches it if it is old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkTouch {
    pub(crate) repository: u8,
    /// The version that is old, and its location.
    old: Option<(u8, u8)>,
}

/// How far W1 has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkTouched {
    /// There is more to do.
    NotYet,
    /// The link is young, and references this location.
    At(u8),
    /// There is no live link; this is the version of what is there.
    Unknown(u8),
    /// Another writer was faster: start over.
    Lost,
    /// The window has closed.
    Late,
}

impl LinkTouch {
    pub(crate) fn of(repository: u8) -> Self {
        Self { repository, old: None }
    }

    /// The next step. The first one opens the window, if it is not open.
    pub(crate) fn step(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        opened: &mut Option<u8>,
    ) -> (LinkTouched, Note) {
        let opened = *opened.get_or_insert(store.now);
        match self.old {
            None => self.read(store, context),
            Some(_) if context.is_late(opened, store.now) => {
                (LinkTouched::Late, note("is too late"))
            }
            Some((version, location)) => self.touch(store, context, version, location),
        }
    }

    fn read(&mut self, store: &BlobStore, context: &ProtocolContext) -> (LinkTouched, Note) {
        let ModelRecord { value, version, modified } = store.link(self.repository);
        let ModelLink::Live(location) = value else {
            return (
                LinkTouched::Unknown(version),
                note("finds no live link in").about(self.repository),
            );
        };
        let is_old = store.now - modified >= context.limits.touch_age;
        if is_old && context.keeps(ProtocolRule::Touch) {
            self.old = Some((version, location));
            return (LinkTouched::NotYet, note("finds an old link in").about(self.repository));
        }
        (LinkTouched::At(location), note("relies on the link in").about(self.repository))
    }

    fn touch(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        version: u8,
        location: u8,
    ) -> (LinkTouched, Note) {
        let is_same = store.link(self.repository).version == version;
        if is_same || !context.keeps(ProtocolRule::TouchOnVersion) {
            store.rewrite_link(self.repository, location);
            return (LinkTouched::At(location), note("touches the link in").about(self.repository));
        }
        (LinkTouched::Lost, note("fails to touch the link in").about(self.repository))
    }
}
