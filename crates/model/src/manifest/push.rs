//! [`Push`] and [`Head`]: those who rely on what is there.

use super::hold::{Held, Hold};
use super::{Object, Process, Tag, World};
use crate::Rule;
use crate::checked::{Note, note};
use crate::context::Context;

/// A push of a manifest: of the index by its tag, of the others by digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Push {
    what: What,
    opened: Option<u8>,
    at: At,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum What {
    Index,
    UntaggedIndex,
    Child,
    Referrer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum At {
    /// W1 on what the manifest refers to.
    Holding(Hold),
    Writing,
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

    pub(crate) fn referrer() -> Process {
        Process::Push(Self::begin(What::Referrer))
    }

    fn begin(what: What) -> Self {
        let at = match what {
            What::Index | What::UntaggedIndex => At::Holding(Hold::of(Object::Child)),
            What::Child => At::Holding(Hold::of(Object::Layer)),
            // A subject is never required, so nothing is made sure of.
            What::Referrer => At::Writing,
        };
        Self { what, opened: None, at }
    }

    pub(crate) fn object(&self) -> Object {
        match self.what {
            What::Index | What::UntaggedIndex => Object::Index,
            What::Child => Object::Child,
            What::Referrer => Object::Referrer,
        }
    }

    pub(crate) fn step(&mut self, world: &mut World, context: &Context) -> (Option<Process>, Note) {
        let is_late = self.opened.is_some_and(|opened| context.is_late(opened, world.now));
        match &mut self.at {
            At::Holding(hold) => {
                let (held, note) = hold.step(world, context, &mut self.opened);
                match held {
                    Held::NotYet => {}
                    Held::Young => self.at = At::Writing,
                    Held::Lost => *self = Self::begin(self.what),
                    Held::Unknown | Held::Late => return (Some(Process::Failed), note),
                }
                (None, note)
            }
            At::Writing | At::Tagging if is_late => (Some(Process::Failed), note("is too late")),
            At::Writing => self.write(world, context),
            At::Tagging => {
                world.tag.write(Tag::Index, world.now);
                (Some(Process::Done), note("points the tag to the index"))
            }
        }
    }

    /// W2. The real writer swaps the version it read, and starts over if there is another by now;
    /// to write over whatever is there allows more.
    fn write(&mut self, world: &mut World, context: &Context) -> (Option<Process>, Note) {
        let object = self.object();
        let note = if !world.is_there(object) || context.keeps(Rule::RewriteOnRepush) {
            world.write(object);
            note("writes the manifest")
        } else {
            note("finds the manifest, and leaves it as it is")
        };
        if self.what == What::Referrer {
            world.is_referrer_promised = world.is_there(Object::Index);
        }
        if self.what == What::Index {
            self.at = At::Tagging;
            return (None, note);
        }
        let until = world.now + context.limits.promise();
        (Some(Process::Acknowledged { object, until }), note)
    }
}

/// Somebody who may push asks whether the child is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Head {
    hold: Hold,
}

impl Head {
    pub(crate) fn of_child() -> Process {
        Process::Head(Self { hold: Hold::of(Object::Child) })
    }

    pub(crate) fn step(&mut self, world: &mut World, context: &Context) -> (Option<Process>, Note) {
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
            Held::NotYet => {}
            Held::Young => return (acknowledged, note),
            Held::Lost => self.hold = Hold::of(object),
            Held::Unknown | Held::Late => return (Some(Process::Failed), note),
        }
        (None, note)
    }
}
