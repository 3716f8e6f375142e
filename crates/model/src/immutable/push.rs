//! [`ImmutablePush`]: a push to the tag. [`DigestPush`]: a push by digest.

use super::{INDEX, ImmutableProcess, ImmutableStore, LEVELS};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;

/// A push to the tag: the hints, level by level what an index needs, the reads, the manifest, then the tag on
/// the version that was judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ImmutablePush {
    pub(super) digest: u8,
    /// How many levels of manifests it needs.
    levels: usize,
    opened: Option<u8>,
    at: ImmutablePushStep,
    /// What is left of the wave.
    wave: PushWave,
    /// The versions that were read, and whether the manifest was there.
    tag: u8,
    manifest: u8,
    is_there: bool,
}

/// Requests that are sent at once, and take effect in any order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct PushWave {
    tag: bool,
    manifest: bool,
    hint: bool,
    /// The hint at the child that the tag needs it.
    child_hint: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ImmutablePushStep {
    Hinting,
    /// W1 on what is so far below the index.
    ReadingNeeded(usize),
    Touching {
        level: usize,
        version: u8,
    },
    HintingBelow(usize),
    Reading,
    Writing,
    Tagging,
    ReadingTagAgain,
}

type Stepped = (Option<ImmutableProcess>, Note);

impl ImmutablePush {
    /// Of an index of images, or of an image.
    pub(super) fn of(digest: u8) -> ImmutableProcess {
        let levels = usize::from(digest == INDEX);
        ImmutableProcess::ImmutablePush(Self::begin(digest, levels))
    }

    /// Of an index of an index.
    pub(super) fn of_nested() -> ImmutableProcess {
        ImmutableProcess::ImmutablePush(Self::begin(INDEX, LEVELS))
    }

    fn begin(digest: u8, levels: usize) -> Self {
        let wave = PushWave { tag: true, manifest: true, hint: true, child_hint: levels > 0 };
        let at = ImmutablePushStep::Hinting;
        Self { digest, levels, opened: None, at, wave, tag: 0, manifest: 0, is_there: false }
    }

    fn start_over(&mut self) {
        *self = Self { opened: self.opened, ..Self::begin(self.digest, self.levels) };
    }

    /// The requests that are sent at once with others, by their numbers.
    fn requests(&self, context: &ProtocolContext) -> impl Iterator<Item = u8> {
        let wave = self.wave;
        let is_hinting = self.at == ImmutablePushStep::Hinting;
        let hints_late = !context.keeps(ProtocolRule::HintBeforeReads);
        let has_hints = is_hinting || hints_late;
        let child_hint = wave.child_hint && context.keeps(ProtocolRule::ChildHints);
        let reads = [wave.tag, wave.manifest].map(|read| read && !is_hinting);
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
                self.at = self.next_level(0, context);
                (None, note("begins"))
            }
            ImmutablePushStep::Hinting => {
                let request = self.requests(context).nth(usize::from(choice));
                let stepped = (None, self.write_hint(store, context, request));
                if self.requests(context).next().is_none() {
                    self.at = self.next_level(0, context);
                }
                stepped
            }
            ImmutablePushStep::ReadingNeeded(level) => self.read_needed(store, context, level),
            ImmutablePushStep::Touching { level, version } => {
                self.touch(store, context, (level, version))
            }
            ImmutablePushStep::HintingBelow(level) => {
                self.at = ImmutablePushStep::ReadingNeeded(level);
                (None, Self::ensure_hint(store, context, level))
            }
            ImmutablePushStep::Reading => {
                let request = self.requests(context).nth(usize::from(choice));
                let stepped = self.read(store, context, request);
                if self.requests(context).next().is_none() {
                    self.at = ImmutablePushStep::Writing;
                }
                stepped
            }
            ImmutablePushStep::Writing => self.write(store),
            ImmutablePushStep::Tagging => self.set_tag(store),
            ImmutablePushStep::ReadingTagAgain => {
                self.at = ImmutablePushStep::Tagging;
                let judges = context.keeps(ProtocolRule::ImmutableAtSwap);
                self.read_tag(store, judges)
            }
        }
    }

    /// What comes before this level is touched.
    fn next_level(&self, level: usize, context: &ProtocolContext) -> ImmutablePushStep {
        match level {
            _ if level >= self.levels => ImmutablePushStep::Reading,
            0 => ImmutablePushStep::ReadingNeeded(0),
            // A broken rule: only the children of the index are looked at.
            _ if !context.keeps(ProtocolRule::NestedHints) => ImmutablePushStep::Reading,
            _ => ImmutablePushStep::HintingBelow(level),
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
            hint => (None, self.write_hint(store, context, hint)),
        }
    }

    fn write_hint(
        &mut self,
        store: &mut ImmutableStore,
        context: &ProtocolContext,
        request: Option<u8>,
    ) -> Note {
        match request {
            Some(2) => {
                self.wave.hint = false;
                let now = store.now;
                ensure(&mut store.hints[usize::from(self.digest)], now, context)
            }
            _ => {
                self.wave.child_hint = false;
                Self::ensure_hint(store, context, 0)
            }
        }
    }

    /// The hint at what the index needs.
    fn ensure_hint(store: &mut ImmutableStore, context: &ProtocolContext, level: usize) -> Note {
        let now = store.now;
        ensure(&mut store.needed_hints[level], now, context)
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

    /// An image of which something is missing never was whole: that it is pushed is of no interest here.
    fn read_needed(
        &mut self,
        store: &ImmutableStore,
        context: &ProtocolContext,
        level: usize,
    ) -> Stepped {
        let needed = store.needed[level];
        if !needed.value {
            return (Some(ImmutableProcess::Failed), note("does not find what it needs"));
        }
        let is_young = store.now - needed.modified < context.limits.touch_age;
        if is_young && !context.keeps(ProtocolRule::TouchYoungChild) {
            self.at = self.next_level(level + 1, context);
            return (None, note("relies on what it needs"));
        }
        self.at = ImmutablePushStep::Touching { level, version: needed.version };
        (None, note("reads what it needs"))
    }

    fn touch(
        &mut self,
        store: &mut ImmutableStore,
        context: &ProtocolContext,
        (level, version): (usize, u8),
    ) -> Stepped {
        if store.needed[level].version != version {
            self.start_over();
            return (None, note("fails to touch what it needs"));
        }
        let now = store.now;
        store.needed[level].write(true, now);
        self.at = self.next_level(level + 1, context);
        (None, note("touches what it needs"))
    }

    fn write(&mut self, store: &mut ImmutableStore) -> Stepped {
        let there = store.manifest(self.digest);
        if there.version == self.manifest || (!there.value && !self.is_there) {
            store.write_manifest(self.digest);
            self.at = ImmutablePushStep::Tagging;
            return (None, note("writes the manifest"));
        }
        if !there.value {
            self.start_over();
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

/// W1 on a hint, or a Create.
fn ensure(hint: &mut ModelRecord<bool>, now: u8, context: &ProtocolContext) -> Note {
    if hint.value && now - hint.modified < context.limits.touch_age {
        return note("relies on a hint");
    }
    hint.write(true, now);
    note("writes a hint")
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
