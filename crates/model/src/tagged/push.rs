//! [`TagPush`]: a push of the manifest to the tag. [`DigestPush`]: by its digest. [`TagMove`]: a push of another
//! manifest to the tag.

use super::{TagPointer, TaggedProcess, TaggedStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

type Stepped = (Option<TaggedProcess>, Note);

/// The hint beside the reads, the manifest on the version that was read, then the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TagPush {
    opened: Option<u8>,
    at: TagPushStep,
    /// Requests of the wave that are left, which take effect in any order.
    wave: PushWave,
    tag: SeenTag,
    manifest: SeenManifest,
    /// Whether the manifest was read after the hint was written: then any later version serves.
    may_serve: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct PushWave {
    tag: bool,
    manifest: bool,
    hint: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SeenTag {
    version: u8,
    is_absent: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SeenManifest {
    version: u8,
    is_there: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum TagPushStep {
    Reading,
    /// The manifest, and the hint where that comes with it.
    Writing,
    LookingUp,
    Tagging,
    ReadingTagAgain,
    ReadingManifestAgain,
}

impl TagPush {
    pub(super) fn begin() -> TaggedProcess {
        TaggedProcess::TagPush(Self::new(None))
    }

    fn new(opened: Option<u8>) -> Self {
        Self {
            opened,
            at: TagPushStep::Reading,
            wave: PushWave { tag: true, manifest: true, hint: true },
            tag: SeenTag { version: 0, is_absent: true },
            manifest: SeenManifest { version: 0, is_there: false },
            may_serve: false,
        }
    }

    /// The requests that are sent at once with others, by their numbers.
    fn requests(&self) -> impl Iterator<Item = u8> + use<> {
        let PushWave { tag, manifest, hint } = self.wave;
        (0..).zip([tag, manifest, hint]).filter(|(_, is_open)| *is_open).map(|(number, _)| number)
    }

    pub(super) fn choices(&self) -> u8 {
        match self.at {
            TagPushStep::Reading | TagPushStep::Writing => {
                u8::try_from(self.requests().count().max(1)).unwrap_or(u8::MAX)
            }
            _ => 1,
        }
    }

    pub(super) fn step(
        &mut self,
        store: &mut TaggedStore,
        context: &ProtocolContext,
        choice: u8,
    ) -> Stepped {
        if self.opened.is_none() {
            store.begin_push();
        }
        if context.is_late(*self.opened.get_or_insert(store.now), store.now) {
            store.fail_push();
            return (Some(TaggedProcess::Failed), note("is too late"));
        }
        match self.at {
            TagPushStep::Reading => (None, self.read(store, context, choice)),
            TagPushStep::Writing => (None, self.write(store, choice)),
            TagPushStep::LookingUp => (None, self.look_up(store, context)),
            TagPushStep::Tagging => self.set_tag(store),
            TagPushStep::ReadingTagAgain if store.tag.value == TagPointer::Here => {
                store.end_push();
                (Some(TaggedProcess::Done), note("finds that another push has set the tag"))
            }
            TagPushStep::ReadingTagAgain => {
                self.see_tag(store);
                self.at = match context.keeps(ProtocolRule::RenewAfterLostTag) {
                    true => TagPushStep::ReadingManifestAgain,
                    false => TagPushStep::Tagging,
                };
                (None, note("reads the tag again"))
            }
            TagPushStep::ReadingManifestAgain if !store.manifest.value => {
                self.start_over(store);
                (None, note("finds that the manifest is gone"))
            }
            TagPushStep::ReadingManifestAgain => {
                self.see_manifest(store);
                self.may_serve = true;
                self.write_next();
                (None, note("reads the manifest again"))
            }
        }
    }

    fn see_tag(&mut self, store: &TaggedStore) {
        let is_absent = store.tag.value == TagPointer::Absent;
        self.tag = SeenTag { version: store.tag.version, is_absent };
    }

    fn see_manifest(&mut self, store: &TaggedStore) {
        let there = store.manifest;
        self.manifest = SeenManifest { version: there.version, is_there: there.value };
    }

    fn read(&mut self, store: &mut TaggedStore, context: &ProtocolContext, choice: u8) -> Note {
        let note = match self.requests().nth(usize::from(choice)) {
            Some(0) => {
                self.wave.tag = false;
                self.see_tag(store);
                note("reads the tag")
            }
            Some(1) => {
                self.wave.manifest = false;
                self.see_manifest(store);
                note("reads the manifest")
            }
            _ => self.write_hint(store),
        };
        // A broken rule: the hint is written beside the manifest.
        let hints_late = !context.keeps(ProtocolRule::HintWithReads);
        if !self.wave.tag && !self.wave.manifest && (hints_late || !self.wave.hint) {
            self.write_next();
        }
        note
    }

    fn write_hint(&mut self, store: &mut TaggedStore) -> Note {
        self.wave.hint = false;
        store.hint.write(true, store.now);
        note("writes the hint")
    }

    /// The manifest is a request of the next wave.
    fn write_next(&mut self) {
        self.wave.manifest = true;
        self.at = TagPushStep::Writing;
    }

    fn write(&mut self, store: &mut TaggedStore, choice: u8) -> Note {
        let note = match self.requests().nth(usize::from(choice)) {
            Some(1) if self.is_as_read(store) => {
                self.wave.manifest = false;
                store.manifest.write(true, store.now);
                note("writes the manifest")
            }
            Some(1) => {
                self.at = TagPushStep::LookingUp;
                return note("finds another version of the manifest");
            }
            _ => self.write_hint(store),
        };
        self.end_wave();
        note
    }

    fn end_wave(&mut self) {
        self.at = match self.requests().next() {
            None => TagPushStep::Tagging,
            Some(_) => TagPushStep::Writing,
        };
    }

    /// Whether a swap on what was read succeeds.
    fn is_as_read(&self, store: &TaggedStore) -> bool {
        match self.manifest.is_there {
            true => store.manifest.version == self.manifest.version,
            false => !store.manifest.value,
        }
    }

    fn look_up(&mut self, store: &mut TaggedStore, context: &ProtocolContext) -> Note {
        if !store.manifest.value {
            self.start_over(store);
            return note("finds that the manifest is gone");
        }
        if self.may_serve || !context.keeps(ProtocolRule::ServeAfterHint) {
            self.wave.manifest = false;
            self.end_wave();
            return note("is served by another push");
        }
        self.see_manifest(store);
        self.may_serve = true;
        self.write_next();
        note("looks at the manifest")
    }

    fn set_tag(&mut self, store: &mut TaggedStore) -> Stepped {
        let is_as_read = match self.tag.is_absent {
            true => store.tag.value == TagPointer::Absent,
            false => store.tag.version == self.tag.version,
        };
        if !is_as_read {
            self.at = TagPushStep::ReadingTagAgain;
            return (None, note("finds another version of the tag"));
        }
        store.tag.write(TagPointer::Here, store.now);
        store.end_push();
        (Some(TaggedProcess::Done), note("points the tag to it"))
    }

    fn start_over(&mut self, store: &TaggedStore) {
        *self = Self::new(Some(store.now));
    }
}

/// A push of the manifest by its digest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DigestPush {
    /// What it has read.
    seen: Option<SeenManifest>,
}

impl DigestPush {
    pub(super) fn begin() -> TaggedProcess {
        TaggedProcess::DigestPush(Self { seen: None })
    }

    pub(super) fn step(&mut self, store: &mut TaggedStore) -> Stepped {
        let there = store.manifest;
        let Some(seen) = self.seen else {
            // What it has pushed may stay alone.
            store.begin_push();
            self.seen = Some(SeenManifest { version: there.version, is_there: there.value });
            return (None, note("reads the manifest"));
        };
        let is_as_read = if seen.is_there { seen.version == there.version } else { !there.value };
        if is_as_read {
            store.manifest.write(true, store.now);
        } else if !there.value {
            self.seen = Some(SeenManifest { version: there.version, is_there: false });
            return (None, note("finds that the manifest is gone"));
        }
        store.fail_push();
        (Some(TaggedProcess::Done), note("writes the manifest, or finds it written"))
    }
}

/// A push of another manifest to the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TagMove {
    seen: Option<SeenTag>,
}

impl TagMove {
    pub(super) fn begin() -> TaggedProcess {
        TaggedProcess::TagMove(Self { seen: None })
    }

    pub(super) fn step(&mut self, store: &mut TaggedStore) -> Stepped {
        let is_absent = store.tag.value == TagPointer::Absent;
        match self.seen.take() {
            None => {
                self.seen = Some(SeenTag { version: store.tag.version, is_absent });
                (None, note("reads the tag"))
            }
            Some(seen) if seen.is_absent && is_absent || seen.version == store.tag.version => {
                store.tag.write(TagPointer::Elsewhere, store.now);
                store.stays = false;
                (Some(TaggedProcess::Done), note("points the tag elsewhere"))
            }
            Some(_) => (None, note("finds another version of the tag")),
        }
    }
}
