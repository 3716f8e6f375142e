//! [`Push`] and [`Head`]: those who rely on what is there.

use super::touch::{ManifestTouch, ManifestTouched};
use super::{ManifestWorld, Object, Process, Tag};
use crate::Rule;
use crate::checked::{Note, note};
use crate::context::Context;

/// A push of a manifest: of the index by its tag, of the others by digest.
///
/// It looks at the manifest and does W1 on what that refers to in any order, then swaps the version
/// that it has seen. If there is another by then, of the same type, another push has written the same
/// manifest since, and this push need not write it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Push {
    what: What,
    opened: Option<u8>,
    /// The version of the manifest that was seen.
    seen: Option<u8>,
    at: ManifestPushStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum What {
    Index,
    UntaggedIndex,
    Child,
    /// The bytes of the child, as a type by which they refer to nothing.
    ChildAsOther,
    Referrer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ManifestPushStep {
    /// W1 on what the manifest refers to.
    Holding(ManifestTouch),
    /// All that it refers to is young, or it refers to nothing.
    ManifestTouched,
    Tagging,
}

impl Push {
    /// A push of the index, which sets its tag.
    pub(crate) fn index() -> Process {
        Process::Push(Self::begin(What::Index))
    }

    /// A push of the index by its digest.
    pub(crate) fn untagged_index() -> Process {
        Process::Push(Self::begin(What::UntaggedIndex))
    }

    pub(crate) fn child() -> Process {
        Process::Push(Self::begin(What::Child))
    }

    pub(crate) fn child_as_other() -> Process {
        Process::Push(Self::begin(What::ChildAsOther))
    }

    pub(crate) fn referrer() -> Process {
        Process::Push(Self::begin(What::Referrer))
    }

    fn begin(what: What) -> Self {
        let at = match what {
            What::Index | What::UntaggedIndex => {
                ManifestPushStep::Holding(ManifestTouch::of(Object::Child))
            }
            What::Child | What::ChildAsOther => {
                ManifestPushStep::Holding(ManifestTouch::of(Object::Layer))
            }
            // A subject is never required, so nothing is made sure of.
            What::Referrer => ManifestPushStep::ManifestTouched,
        };
        Self { what, opened: None, seen: None, at }
    }

    pub(crate) fn object(&self) -> Object {
        match self.what {
            What::Index | What::UntaggedIndex => Object::Index,
            What::Child | What::ChildAsOther => Object::Child,
            What::Referrer => Object::Referrer,
        }
    }

    /// Its look and W1 may come in any order.
    pub(crate) fn choices(&self) -> u8 {
        match self.at {
            ManifestPushStep::Holding(_) if self.seen.is_none() => 2,
            _ => 1,
        }
    }

    pub(crate) fn step(
        &mut self,
        world: &mut ManifestWorld,
        context: &Context,
        choice: u8,
    ) -> (Option<Process>, Note) {
        let is_late = self.opened.is_some_and(|opened| context.is_late(opened, world.now));
        if self.refers_to_nothing(context) && matches!(self.at, ManifestPushStep::Holding(_)) {
            self.at = ManifestPushStep::ManifestTouched;
        }
        match &mut self.at {
            ManifestPushStep::Holding(hold) if choice == 0 => {
                let (held, note) = hold.step(world, context, &mut self.opened);
                match held {
                    ManifestTouched::NotYet => {}
                    ManifestTouched::Young => self.at = ManifestPushStep::ManifestTouched,
                    ManifestTouched::Lost => *self = Self::begin(self.what),
                    ManifestTouched::Unknown | ManifestTouched::Late => {
                        return (Some(Process::Failed), note);
                    }
                }
                (None, note)
            }
            ManifestPushStep::Holding(_) | ManifestPushStep::ManifestTouched
                if self.seen.is_none() =>
            {
                self.look(world, context)
            }
            ManifestPushStep::Holding(_) => (None, note("waits")),
            ManifestPushStep::ManifestTouched | ManifestPushStep::Tagging if is_late => {
                (Some(Process::Failed), note("is too late"))
            }
            ManifestPushStep::ManifestTouched => self.write(world, context),
            ManifestPushStep::Tagging => {
                world.tag.write(Tag::Index, world.now);
                (Some(Process::Done), note("points the tag to the index"))
            }
        }
    }

    fn refers_to_nothing(&self, context: &Context) -> bool {
        self.what == What::ChildAsOther && !context.keeps(Rule::EveryReading)
    }

    fn look(&mut self, world: &ManifestWorld, context: &Context) -> (Option<Process>, Note) {
        self.opened.get_or_insert(world.now);
        if self.is_of_other_type(world) && context.keeps(Rule::KeepType) {
            // To be refused is the right end of it.
            return (Some(Process::Done), note("finds the manifest with another type"));
        }
        self.seen = Some(world.object(self.object()).version);
        (None, note("looks at the manifest"))
    }

    fn is_of_other_type(&self, world: &ManifestWorld) -> bool {
        let is_other = self.what == What::ChildAsOther;
        self.object() == Object::Child
            && world.is_there(Object::Child)
            && world.is_child_other != is_other
    }

    /// W2: over the version that was seen, or not at all.
    fn write(&mut self, world: &mut ManifestWorld, context: &Context) -> (Option<Process>, Note) {
        let object = self.object();
        let is_seen = self.seen == Some(world.object(object).version);
        if !is_seen && (!world.is_there(object) || self.is_of_other_type(world)) {
            *self = Self::begin(self.what);
            return (None, note("finds that the manifest is not what it was"));
        }
        let note = if !is_seen {
            note("finds that somebody else has written the manifest")
        } else if !world.is_there(object) || context.keeps(Rule::RewriteOnRepush) {
            world.write(object);
            world.is_child_other &= object != Object::Child;
            world.is_child_other |= self.what == What::ChildAsOther;
            note("writes the manifest")
        } else {
            note("finds the manifest, and leaves it as it is")
        };
        if self.what == What::Referrer {
            world.is_referrer_promised = world.is_there(Object::Index);
        }
        if self.what == What::Index {
            self.at = ManifestPushStep::Tagging;
            return (None, note);
        }
        let until = world.now + context.limits.promise();
        (Some(Process::Acknowledged { object, until }), note)
    }
}

/// Somebody who may push asks whether the child is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Head {
    hold: ManifestTouch,
}

impl Head {
    pub(crate) fn of_child() -> Process {
        Process::Head(Self { hold: ManifestTouch::of(Object::Child) })
    }

    pub(crate) fn step(
        &mut self,
        world: &mut ManifestWorld,
        context: &Context,
    ) -> (Option<Process>, Note) {
        let object = Object::Child;
        let until = world.now + context.limits.promise();
        let acknowledged = Some(Process::Acknowledged { object, until });
        if !context.keeps(Rule::HeadTouches) {
            let found = if world.is_there(object) { acknowledged } else { Some(Process::Failed) };
            return (found, note("looks at the child"));
        }
        // It makes nothing depend on the child, so no window is too long for it.
        let (held, note) = self.hold.step(world, context, &mut Some(world.now));
        match held {
            ManifestTouched::NotYet => {}
            ManifestTouched::Young => return (acknowledged, note),
            ManifestTouched::Lost => self.hold = ManifestTouch::of(object),
            ManifestTouched::Unknown | ManifestTouched::Late => {
                return (Some(Process::Failed), note);
            }
        }
        (None, note)
    }
}
