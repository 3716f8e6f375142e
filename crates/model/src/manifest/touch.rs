//! [`ManifestTouch`]: W1 for one object.

use super::{ManifestObject, ManifestStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

/// W1: reads an object, and touches it if it is old.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ManifestTouch {
    object: ManifestObject,
    /// The version that is old.
    old: Option<u8>,
}

/// How far W1 has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ManifestTouched {
    /// There is more to do.
    NotYet,
    /// It exists, and is young.
    Young,
    /// It does not exist.
    Unknown,
    /// Another writer was faster: start over.
    Lost,
    /// The window has closed.
    Late,
}

impl ManifestTouch {
    pub(crate) fn of(object: ManifestObject) -> Self {
        Self { object, old: None }
    }

    /// The next step. The first one opens the window, if it is not open.
    pub(crate) fn step(
        &mut self,
        store: &mut ManifestStore,
        context: &ProtocolContext,
        opened: &mut Option<u8>,
    ) -> (ManifestTouched, Note) {
        let opened = *opened.get_or_insert(store.now);
        let there = store.object(self.object);
        match self.old {
            None if !there.value => (ManifestTouched::Unknown, note("does not find a reference")),
            None if self.is_fine(there.modified, store.now, context) => {
                (ManifestTouched::Young, note("relies on a reference"))
            }
            None => {
                self.old = Some(there.version);
                (ManifestTouched::NotYet, note("finds an old reference"))
            }
            Some(_) if context.is_late(opened, store.now) => {
                (ManifestTouched::Late, note("is too late"))
            }
            Some(version) if version != there.version => {
                (ManifestTouched::Lost, note("fails to touch a reference"))
            }
            Some(_) => {
                store.write(self.object);
                (ManifestTouched::Young, note("touches a reference"))
            }
        }
    }

    fn is_fine(&self, modified: u8, now: u8, context: &ProtocolContext) -> bool {
        let rule = match self.object {
            ManifestObject::Layer => ProtocolRule::Touch,
            ManifestObject::Index | ManifestObject::Child | ManifestObject::Referrer => {
                ProtocolRule::TouchChildren
            }
        };
        now - modified < context.limits.touch_age || !context.keeps(rule)
    }
}
