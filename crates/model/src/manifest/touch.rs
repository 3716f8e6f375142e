//! [`ManifestTouch`]: W1 for one object.

use super::{ManifestWorld, Object};
use crate::Rule;
use crate::checked::{Note, note};
use crate::context::Context;

/// W1: reads an object, and writes it again if it is old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ManifestTouch {
    object: Object,
    /// The version that is old.
    old: Option<u8>,
}

/// How far W1 has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ManifestTouched {
    /// There is more to do.
    NotYet,
    /// It is there, and young.
    Young,
    /// It is not there.
    Unknown,
    /// Somebody else was faster: start over.
    Lost,
    /// The window has closed.
    Late,
}

impl ManifestTouch {
    pub(crate) fn of(object: Object) -> Self {
        Self { object, old: None }
    }

    /// The next step. The first one opens the window, if it is not open.
    pub(crate) fn step(
        &mut self,
        world: &mut ManifestWorld,
        context: &Context,
        opened: &mut Option<u8>,
    ) -> (ManifestTouched, Note) {
        let opened = *opened.get_or_insert(world.now);
        let there = world.object(self.object);
        match self.old {
            None if !there.value => {
                (ManifestTouched::Unknown, note("does not find what it refers to"))
            }
            None if self.is_fine(there.modified, world.now, context) => {
                (ManifestTouched::Young, note("relies on what it refers to"))
            }
            None => {
                self.old = Some(there.version);
                (ManifestTouched::NotYet, note("finds that what it refers to is old"))
            }
            Some(_) if context.is_late(opened, world.now) => {
                (ManifestTouched::Late, note("is too late"))
            }
            Some(version) if version != there.version => {
                (ManifestTouched::Lost, note("fails to touch what it refers to"))
            }
            Some(_) => {
                world.write(self.object);
                (ManifestTouched::Young, note("touches what it refers to"))
            }
        }
    }

    fn is_fine(&self, modified: u8, now: u8, context: &Context) -> bool {
        let rule = match self.object {
            Object::Layer => Rule::Touch,
            Object::Index | Object::Child | Object::Referrer => Rule::TouchChildren,
        };
        now - modified < context.limits.touch_age || !context.keeps(rule)
    }
}
