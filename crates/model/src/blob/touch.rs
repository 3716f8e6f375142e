//! [`LinkTouch`]: W1 for one link.

use super::{BlobWorld, Context};
use crate::checked::{Note, note};
use crate::record::Record;
use crate::{Rule, blob::Link};

/// W1: reads a link, and writes it again if it is old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LinkTouch {
    pub(crate) repository: u8,
    /// The version that is old, and the location it names.
    old: Option<(u8, u8)>,
}

/// How far W1 has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LinkTouched {
    /// There is more to do.
    NotYet,
    /// The link is young, and names this location.
    At(u8),
    /// There is no live link; this is the version of what is there.
    Unknown(u8),
    /// Somebody else was faster: start over.
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
        world: &mut BlobWorld,
        context: &Context,
        opened: &mut Option<u8>,
    ) -> (LinkTouched, Note) {
        let opened = *opened.get_or_insert(world.now);
        match self.old {
            None => self.read(world, context),
            Some(_) if context.is_late(opened, world.now) => {
                (LinkTouched::Late, note("is too late"))
            }
            Some((version, location)) => self.touch(world, context, version, location),
        }
    }

    fn read(&mut self, world: &BlobWorld, context: &Context) -> (LinkTouched, Note) {
        let Record { value, version, modified } = world.link(self.repository);
        let Link::Live(location) = value else {
            return (
                LinkTouched::Unknown(version),
                note("finds no live link in").about(self.repository),
            );
        };
        let is_old = world.now - modified >= context.limits.touch_age;
        if is_old && context.keeps(Rule::Touch) {
            self.old = Some((version, location));
            return (LinkTouched::NotYet, note("finds an old link in").about(self.repository));
        }
        (LinkTouched::At(location), note("relies on the link in").about(self.repository))
    }

    fn touch(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
        version: u8,
        location: u8,
    ) -> (LinkTouched, Note) {
        let is_same = world.link(self.repository).version == version;
        if is_same || !context.keeps(Rule::TouchOnVersion) {
            world.rewrite_link(self.repository, location);
            return (LinkTouched::At(location), note("touches the link in").about(self.repository));
        }
        (LinkTouched::Lost, note("fails to touch the link in").about(self.repository))
    }
}
