//! [`Push`] and [`Head`]: those who rely on a link that is there.

use super::touch::{LinkTouch, LinkTouched};
use super::{BlobWorld, Context, Process};
use crate::Rule;
use crate::checked::{Note, note};

/// A push of a manifest that refers to the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Push {
    pub(crate) repository: u8,
    opened: Option<u8>,
    /// W1, until it is done.
    hold: Option<LinkTouch>,
}

impl Push {
    pub(crate) fn to(repository: u8) -> Process {
        Process::Push(Self::begin(repository))
    }

    fn begin(repository: u8) -> Self {
        Self { repository, opened: None, hold: Some(LinkTouch::of(repository)) }
    }

    pub(crate) fn step(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
    ) -> (Option<Process>, Note) {
        let Some(hold) = &mut self.hold else { return self.write(world, context) };
        let (held, note) = hold.step(world, context, &mut self.opened);
        match held {
            LinkTouched::NotYet => {}
            LinkTouched::At(_) => self.hold = None,
            LinkTouched::Lost => *self = Self::begin(self.repository),
            LinkTouched::Unknown(_) | LinkTouched::Late => return (Some(Process::Failed), note),
        }
        (None, note)
    }

    /// W2. The link is there for the manifest's sake from now on, so W3 has nothing to add.
    fn write(&self, world: &mut BlobWorld, context: &Context) -> (Option<Process>, Note) {
        if self.opened.is_some_and(|opened| context.is_late(opened, world.now)) {
            return (Some(Process::Failed), note("is too late"));
        }
        world.manifests = world.manifests.with(self.repository);
        (Some(Process::Done), note("writes the manifest"))
    }
}

/// Somebody who may push asks whether the blob is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Head {
    pub(crate) repository: u8,
    at: HeadStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum HeadStep {
    Asking(LinkTouch),
    /// A read for somebody else, as if it were a GET, is to be remembered.
    Reading,
    /// What was read is in memory: when it was written, and read.
    Remembering {
        modified: u8,
        read: u8,
    },
}

impl Head {
    /// One that asks the store.
    pub(crate) fn of(repository: u8) -> Process {
        Process::Head(Self { repository, at: HeadStep::Asking(LinkTouch::of(repository)) })
    }

    /// One that may be answered from memory.
    pub(crate) fn from_memory(repository: u8) -> Process {
        Process::Head(Self { repository, at: HeadStep::Reading })
    }

    pub(crate) fn step(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
    ) -> (Option<Process>, Note) {
        match &mut self.at {
            HeadStep::Reading => self.read(world),
            HeadStep::Remembering { modified, read } => {
                let (modified, read) = (*modified, *read);
                self.remember(world, context, modified, read)
            }
            HeadStep::Asking(_) if !context.keeps(Rule::HeadTouches) => self.look(world, context),
            HeadStep::Asking(hold) => {
                // It makes nothing depend on the link, so no window is too long for it.
                let (held, note) = hold.step(world, context, &mut Some(world.now));
                match held {
                    LinkTouched::NotYet => (None, note),
                    LinkTouched::Lost => {
                        *hold = LinkTouch::of(self.repository);
                        (None, note)
                    }
                    LinkTouched::At(_) => {
                        (Some(context.acknowledge(self.repository, world.now)), note)
                    }
                    LinkTouched::Unknown(_) | LinkTouched::Late => (Some(Process::Failed), note),
                }
            }
        }
    }

    fn look(&self, world: &BlobWorld, context: &Context) -> (Option<Process>, Note) {
        let link = world.link(self.repository).value;
        let note = note("looks at the link in").about(self.repository);
        match link.live() {
            Some(_) => (Some(context.acknowledge(self.repository, world.now)), note),
            None => (Some(Process::Failed), note),
        }
    }

    fn read(&mut self, world: &BlobWorld) -> (Option<Process>, Note) {
        let link = world.link(self.repository);
        if link.value.live().is_none() {
            return (Some(Process::Failed), note("finds no live link in").about(self.repository));
        }
        self.at = HeadStep::Remembering { modified: link.modified, read: world.now };
        (None, note("remembers the link in").about(self.repository))
    }

    fn remember(
        &mut self,
        world: &BlobWorld,
        context: &Context,
        modified: u8,
        read: u8,
    ) -> (Option<Process>, Note) {
        let is_young = world.now - modified < context.limits.touch_age;
        let is_trusted = world.now - read < context.limits.trust;
        if is_trusted && (is_young || !context.keeps(Rule::HeadFromYoungMemory)) {
            let end = context.acknowledge(self.repository, world.now);
            return (Some(end), note("answers from memory"));
        }
        self.at = HeadStep::Asking(LinkTouch::of(self.repository));
        (None, note("remembers nothing that is young"))
    }
}
