//! [`ManifestPusher`] and [`ManifestHead`]: requests that rely on existing objects.

use super::touch::{ManifestTouch, ManifestTouched};
use super::{ManifestObject, ManifestProcess, ManifestStore, TagPointer};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

/// A push of a manifest: of the index by its tag, of the others by digest.
///
/// It reads the manifest and does W1 on its references in any order, then swaps the version that it
/// has read. If there is another by then, of the same type, another push has written the same
/// manifest since, and this push need not write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ManifestPusher {
    what: PushedObject,
    opened: Option<u8>,
    /// The version of the manifest that was read.
    seen: Option<u8>,
    at: ManifestPushStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum PushedObject {
    Index,
    UntaggedIndex,
    Child,
    /// The bytes of the child, as a type without references.
    ChildAsOther,
    Referrer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ManifestPushStep {
    /// W1 on the references.
    Touching(ManifestTouch),
    /// All references are young, or there are none.
    ManifestTouched,
    Tagging,
}

impl ManifestPusher {
    /// A push of the index, which sets its tag.
    pub(crate) fn index() -> ManifestProcess {
        ManifestProcess::ManifestPusher(Self::begin(PushedObject::Index))
    }

    /// A push of the index by its digest.
    pub(crate) fn untagged_index() -> ManifestProcess {
        ManifestProcess::ManifestPusher(Self::begin(PushedObject::UntaggedIndex))
    }

    pub(crate) fn child() -> ManifestProcess {
        ManifestProcess::ManifestPusher(Self::begin(PushedObject::Child))
    }

    pub(crate) fn child_as_other() -> ManifestProcess {
        ManifestProcess::ManifestPusher(Self::begin(PushedObject::ChildAsOther))
    }

    pub(crate) fn referrer() -> ManifestProcess {
        ManifestProcess::ManifestPusher(Self::begin(PushedObject::Referrer))
    }

    fn begin(what: PushedObject) -> Self {
        let at = match what {
            PushedObject::Index | PushedObject::UntaggedIndex => {
                ManifestPushStep::Touching(ManifestTouch::of(ManifestObject::Child))
            }
            PushedObject::Child | PushedObject::ChildAsOther => {
                ManifestPushStep::Touching(ManifestTouch::of(ManifestObject::Layer))
            }
            // A subject is never required, so it is not touched.
            PushedObject::Referrer => ManifestPushStep::ManifestTouched,
        };
        Self { what, opened: None, seen: None, at }
    }

    pub(crate) fn object(&self) -> ManifestObject {
        match self.what {
            PushedObject::Index | PushedObject::UntaggedIndex => ManifestObject::Index,
            PushedObject::Child | PushedObject::ChildAsOther => ManifestObject::Child,
            PushedObject::Referrer => ManifestObject::Referrer,
        }
    }

    /// The read and W1 may come in any order.
    pub(crate) fn choices(&self) -> u8 {
        match self.at {
            ManifestPushStep::Touching(_) if self.seen.is_none() => 2,
            _ => 1,
        }
    }

    pub(crate) fn step(
        &mut self,
        store: &mut ManifestStore,
        context: &ProtocolContext,
        choice: u8,
    ) -> (Option<ManifestProcess>, Note) {
        let is_late = self.opened.is_some_and(|opened| context.is_late(opened, store.now));
        if self.refers_to_nothing(context) && matches!(self.at, ManifestPushStep::Touching(_)) {
            self.at = ManifestPushStep::ManifestTouched;
        }
        match &mut self.at {
            ManifestPushStep::Touching(touch) if choice == 0 => {
                let (touched, note) = touch.step(store, context, &mut self.opened);
                match touched {
                    ManifestTouched::NotYet => {}
                    ManifestTouched::Young => self.at = ManifestPushStep::ManifestTouched,
                    ManifestTouched::Lost => *self = Self::begin(self.what),
                    ManifestTouched::Unknown | ManifestTouched::Late => {
                        return (Some(ManifestProcess::Failed), note);
                    }
                }
                (None, note)
            }
            ManifestPushStep::Touching(_) | ManifestPushStep::ManifestTouched
                if self.seen.is_none() =>
            {
                self.check_link(store, context)
            }
            ManifestPushStep::Touching(_) => (None, note("waits")),
            ManifestPushStep::ManifestTouched | ManifestPushStep::Tagging if is_late => {
                (Some(ManifestProcess::Failed), note("is too late"))
            }
            ManifestPushStep::ManifestTouched => self.write(store, context),
            ManifestPushStep::Tagging => {
                store.tag.write(TagPointer::Index, store.now);
                (Some(ManifestProcess::Done), note("points the tag to the index"))
            }
        }
    }

    fn refers_to_nothing(&self, context: &ProtocolContext) -> bool {
        self.what == PushedObject::ChildAsOther && !context.keeps(ProtocolRule::EveryReading)
    }

    fn check_link(
        &mut self,
        store: &ManifestStore,
        context: &ProtocolContext,
    ) -> (Option<ManifestProcess>, Note) {
        self.opened.get_or_insert(store.now);
        if self.is_of_other_type(store) && context.keeps(ProtocolRule::KeepType) {
            // A rejection is the correct outcome.
            return (Some(ManifestProcess::Done), note("finds the manifest with another type"));
        }
        self.seen = Some(store.object(self.object()).version);
        (None, note("reads the manifest"))
    }

    fn is_of_other_type(&self, store: &ManifestStore) -> bool {
        let is_other = self.what == PushedObject::ChildAsOther;
        self.object() == ManifestObject::Child
            && store.is_there(ManifestObject::Child)
            && store.is_child_other != is_other
    }

    /// W2: over the version that was read, or not at all.
    fn write(
        &mut self,
        store: &mut ManifestStore,
        context: &ProtocolContext,
    ) -> (Option<ManifestProcess>, Note) {
        let object = self.object();
        let is_seen = self.seen == Some(store.object(object).version);
        if !is_seen && (!store.is_there(object) || self.is_of_other_type(store)) {
            *self = Self::begin(self.what);
            return (None, note("finds another version of the manifest"));
        }
        let note = if !is_seen {
            note("finds that another push has written the manifest")
        } else if !store.is_there(object) || context.keeps(ProtocolRule::Rewrite) {
            store.write(object);
            store.is_child_other &= object != ManifestObject::Child;
            store.is_child_other |= self.what == PushedObject::ChildAsOther;
            note("writes the manifest")
        } else {
            note("finds the manifest, and leaves it as it is")
        };
        if self.what == PushedObject::Referrer {
            store.is_referrer_promised = store.is_there(ManifestObject::Index);
        }
        if self.what == PushedObject::Index {
            self.at = ManifestPushStep::Tagging;
            return (None, note);
        }
        let until = store.now + context.limits.promise();
        (Some(ManifestProcess::Acknowledged { object, until }), note)
    }
}

/// A HEAD of the child by a client that may push.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ManifestHead {
    touch: ManifestTouch,
}

impl ManifestHead {
    pub(crate) fn of_child() -> ManifestProcess {
        ManifestProcess::ManifestHead(Self { touch: ManifestTouch::of(ManifestObject::Child) })
    }

    pub(crate) fn step(
        &mut self,
        store: &mut ManifestStore,
        context: &ProtocolContext,
    ) -> (Option<ManifestProcess>, Note) {
        let object = ManifestObject::Child;
        let until = store.now + context.limits.promise();
        let acknowledged = Some(ManifestProcess::Acknowledged { object, until });
        if !context.keeps(ProtocolRule::HeadTouches) {
            let found =
                if store.is_there(object) { acknowledged } else { Some(ManifestProcess::Failed) };
            return (found, note("reads the child"));
        }
        // No write depends on this, so it has no window.
        let (touched, note) = self.touch.step(store, context, &mut Some(store.now));
        match touched {
            ManifestTouched::NotYet => {}
            ManifestTouched::Young => return (acknowledged, note),
            ManifestTouched::Lost => self.touch = ManifestTouch::of(object),
            ManifestTouched::Unknown | ManifestTouched::Late => {
                return (Some(ManifestProcess::Failed), note);
            }
        }
        (None, note)
    }
}
