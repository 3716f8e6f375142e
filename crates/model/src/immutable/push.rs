//! [`ImmutablePush`]: a push to the tag. [`DigestPush`]: a push by digest.

use super::{INDEX, ImmutableProcess, ImmutableStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

/// A push to the tag: the hints, the reads, the manifest, then the tag on the version that was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ImmutablePush {
    pub(super) digest: u8,
    opened: Option<u8>,
    at: ImmutablePushStep,
    /// What is left of the read wave.
    wave: ReadWave,
    /// The versions that were read, and whether the manifest was there.
    tag: u8,
    manifest: u8,
    is_there: bool,
}

/// Requests that are sent at once, and take effect in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct ReadWave {
    tag: bool,
    manifest: bool,
    /// W1 on the child, if there is one.
    child: bool,
    hint: bool,
    /// The hint at the child that the tag needs it.
    child_hint: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ImmutablePushStep {
    Hinting,
    Reading,
    TouchingChild { version: u8 },
    Writing,
    Tagging,
    ReadingTagAgain,
}

type Stepped = (Option<ImmutableProcess>, Note);

impl ImmutablePush {
    pub(super) fn of(digest: u8) -> ImmutableProcess {
        ImmutableProcess::ImmutablePush(Self::begin(digest))
    }

    fn begin(digest: u8) -> Self {
        let child = digest == INDEX;
        let wave = ReadWave { tag: true, manifest: true, child, hint: true, child_hint: child };
        let at = ImmutablePushStep::Hinting;
        Self { digest, opened: None, at, wave, tag: 0, manifest: 0, is_there: false }
    }

    /// The requests that are sent at once with others, by their numbers.
    fn requests(&self, context: &ProtocolContext) -> impl Iterator<Item = u8> {
        let wave = self.wave;
        let is_hinting = self.at == ImmutablePushStep::Hinting;
        let hints_late = !context.keeps(ProtocolRule::HintBeforeReads);
        let has_hints = is_hinting || hints_late;
        let child_hint = wave.child_hint && context.keeps(ProtocolRule::ChildHints);
        let reads = [wave.tag, wave.manifest, wave.child].map(|read| read && !is_hinting);
        let hints = [wave.hint, child_hint].map(|hint| hint && has_hints);
        let open = reads.into_iter().chain(hints);
        (0..).zip(open).filter(|(_, is_open)| *is_open).map(|(number, _)| number)
    }

    pub(super) fn choices(&self, context: &ProtocolContext) -> u8 {
        match self.at {
            ImmutablePushStep::Hinting | ImmutablePushStep::Reading => {
                u8::try_from(self.requests(context).count().max(1)).unwrap_or(u8::MAX)
            }
            _ => 1,
        }
    }

    pub(super) fn step(
        &mut self,
        store: &mut ImmutableStore,
        context: &ProtocolContext,
        choice: u8,
    ) -> Stepped {
        let is_late = context.is_late(*self.opened.get_or_insert(store.now), store.now);
        match self.at {
            _ if is_late => (Some(ImmutableProcess::Failed), note("is too late")),
            // A broken rule: the hints are written beside the reads.
            ImmutablePushStep::Hinting if !context.keeps(ProtocolRule::HintBeforeReads) => {
                self.at = ImmutablePushStep::Reading;
                (None, note("begins"))
            }
            ImmutablePushStep::Hinting => {
                let request = self.requests(context).nth(usize::from(choice));
                let stepped = (None, self.write_hint(store, context, request));
                if self.requests(context).next().is_none() {
                    self.at = ImmutablePushStep::Reading;
                }
                stepped
            }
            ImmutablePushStep::Reading => {
                let request = self.requests(context).nth(usize::from(choice));
                let stepped = self.read(store, context, request);
                if self.requests(context).next().is_none() && self.at == ImmutablePushStep::Reading
                {
                    self.at = ImmutablePushStep::Writing;
                }
                stepped
            }
            ImmutablePushStep::TouchingChild { version } => self.touch(store, context, version),
            ImmutablePushStep::Writing => self.write(store),
            ImmutablePushStep::Tagging => self.set_tag(store),
            ImmutablePushStep::ReadingTagAgain => {
                self.at = ImmutablePushStep::Tagging;
                let judges = context.keeps(ProtocolRule::ImmutableAtSwap);
                self.read_tag(store, judges)
            }
        }
    }

    fn read(
        &mut self,
        store: &mut ImmutableStore,
        context: &ProtocolContext,
        request: Option<u8>,
    ) -> Stepped {
        match request {
            Some(0) => {
                self.wave.tag = false;
                self.read_tag(store, true)
            }
            Some(1) => {
                self.wave.manifest = false;
                let there = store.manifest(self.digest);
                (self.manifest, self.is_there) = (there.version, there.value);
                (None, note("reads the manifest"))
            }
            Some(2) => {
                self.wave.child = false;
                self.read_child(store, context)
            }
            hint => (None, self.write_hint(store, context, hint)),
        }
    }

    fn write_hint(
        &mut self,
        store: &mut ImmutableStore,
        context: &ProtocolContext,
        request: Option<u8>,
    ) -> Note {
        let hint = match request {
            Some(3) => {
                self.wave.hint = false;
                &mut store.hints[usize::from(self.digest)]
            }
            _ => {
                self.wave.child_hint = false;
                &mut store.child_hint
            }
        };
        // W1, or a Create.
        if hint.value && store.now - hint.modified < context.limits.touch_age {
            return note("relies on a hint");
        }
        hint.write(true, store.now);
        note("writes a hint")
    }

    /// Judges whether the tag may be set.
    fn read_tag(&mut self, store: &mut ImmutableStore, judges: bool) -> Stepped {
        self.tag = store.tag.version;
        if judges && store.tag.value.is_some_and(|digest| digest != self.digest) {
            store.is_refused = true;
            return (Some(ImmutableProcess::Done), note("is refused"));
        }
        (None, note("reads the tag"))
    }

    fn read_child(&mut self, store: &ImmutableStore, context: &ProtocolContext) -> Stepped {
        let child = store.child;
        if !child.value {
            return (Some(ImmutableProcess::Failed), note("does not find the child"));
        }
        let is_young = store.now - child.modified < context.limits.touch_age;
        if is_young && !context.keeps(ProtocolRule::TouchYoungChild) {
            return (None, note("relies on the child"));
        }
        self.at = ImmutablePushStep::TouchingChild { version: child.version };
        (None, note("reads the child"))
    }

    fn touch(
        &mut self,
        store: &mut ImmutableStore,
        context: &ProtocolContext,
        version: u8,
    ) -> Stepped {
        if store.child.version != version {
            *self = Self { opened: self.opened, ..Self::begin(self.digest) };
            return (None, note("fails to touch the child"));
        }
        store.child.write(true, store.now);
        let is_read = self.requests(context).next().is_none();
        self.at = if is_read { ImmutablePushStep::Writing } else { ImmutablePushStep::Reading };
        (None, note("touches the child"))
    }

    fn write(&mut self, store: &mut ImmutableStore) -> Stepped {
        let there = store.manifest(self.digest);
        if there.version == self.manifest || (!there.value && !self.is_there) {
            store.write_manifest(self.digest);
            self.at = ImmutablePushStep::Tagging;
            return (None, note("writes the manifest"));
        }
        if !there.value {
            *self = Self { opened: self.opened, ..Self::begin(self.digest) };
            return (None, note("finds that the manifest is gone"));
        }
        // It was written after the hint: a DELETE that removes it sees that.
        self.at = ImmutablePushStep::Tagging;
        (None, note("finds that another push has written the manifest"))
    }

    fn set_tag(&mut self, store: &mut ImmutableStore) -> Stepped {
        if store.tag.version != self.tag {
            self.at = ImmutablePushStep::ReadingTagAgain;
            return (None, note("finds another version of the tag"));
        }
        store.tag.write(Some(self.digest), store.now);
        store.acknowledged = store.acknowledged.with(self.digest);
        (Some(ImmutableProcess::Done), note("points the tag to it"))
    }
}

/// A push of the same manifest by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DigestPush {
    pub(super) digest: u8,
    /// When it read the manifest, and the version.
    seen: Option<(u8, u8)>,
}

impl DigestPush {
    pub(super) fn of(digest: u8) -> ImmutableProcess {
        ImmutableProcess::DigestPush(Self { digest, seen: None })
    }

    pub(super) fn step(
        &mut self,
        store: &mut ImmutableStore,
        context: &ProtocolContext,
    ) -> Stepped {
        let there = store.manifest(self.digest);
        match self.seen {
            None => {
                self.seen = Some((store.now, there.version));
                (None, note("reads the manifest"))
            }
            Some((opened, _)) if context.is_late(opened, store.now) => {
                (Some(ImmutableProcess::Failed), note("is too late"))
            }
            Some((_, version)) if version == there.version => {
                store.write_manifest(self.digest);
                (Some(ImmutableProcess::Done), note("writes the manifest"))
            }
            Some(_) => {
                self.seen = None;
                (None, note("finds another version of the manifest"))
            }
        }
    }
}
