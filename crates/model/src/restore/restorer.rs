//! [`ManifestRestore`] and [`TagRestore`]: bring back what was deleted or moved. [`OtherPush`].

use super::{KeptManifest, LayerLink, RestoreProcess, RestoreStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

/// W1 on the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum LayerTouch {
    Reading,
    Touching { version: u8 },
}

/// How far W1 has come.
enum LayerTouched {
    NotYet,
    Young,
    Unknown,
}

impl LayerTouch {
    fn step(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
    ) -> (LayerTouched, Note) {
        let is_young = store.now - store.layer.modified < context.limits.touch_age;
        match *self {
            Self::Reading if !store.has_layer() => {
                (LayerTouched::Unknown, note("does not find the layer"))
            }
            Self::Reading if is_young => (LayerTouched::Young, note("relies on the layer")),
            Self::Reading => {
                *self = Self::Touching { version: store.layer.version };
                (LayerTouched::NotYet, note("finds an old layer"))
            }
            Self::Touching { version } if version != store.layer.version => {
                *self = Self::Reading;
                (LayerTouched::NotYet, note("fails to touch the layer"))
            }
            Self::Touching { .. } => {
                store.layer.write(LayerLink::Live, store.now);
                (LayerTouched::Young, note("touches the layer"))
            }
        }
    }
}

/// Restores the manifest from a copy: it reads the manifest's key and the copy, does W1, then a Create.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ManifestRestore {
    opened: Option<u8>,
    at: RestoreStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum RestoreStep {
    Beginning,
    ReadingManifest,
    ReadingCopy,
    /// A broken rule: it reads the manifest's key after the copy.
    ReadingManifestLast,
    Touching(LayerTouch),
    Writing,
    /// Broken rules: it looks for the marker only now, and undoes itself.
    Looking,
    Undoing,
}

impl ManifestRestore {
    pub(super) fn begin() -> RestoreProcess {
        let at = RestoreStep::Beginning;
        RestoreProcess::ManifestRestore(Self { opened: None, at })
    }

    pub(super) fn may_undo(&self) -> bool {
        matches!(self.at, RestoreStep::Looking | RestoreStep::Undoing)
    }

    /// Where it would have something to undo, it may crash.
    pub(super) fn choices(&self) -> u8 {
        if self.may_undo() { 2 } else { 1 }
    }

    pub(super) fn step(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
        choice: u8,
    ) -> (Option<RestoreProcess>, Note) {
        let is_late = context.is_late(*self.opened.get_or_insert(store.now), store.now);
        let failed = Some(RestoreProcess::Failed);
        match &mut self.at {
            _ if choice == 1 => (failed, note("crashes")),
            RestoreStep::Looking if store.marker.value => {
                self.at = RestoreStep::Undoing;
                (None, note("finds that it was purged"))
            }
            RestoreStep::Looking => (Some(RestoreProcess::Done), note("finds no purge")),
            RestoreStep::Undoing => {
                store.manifest.delete(KeptManifest::Absent);
                (failed, note("removes the manifest again"))
            }
            _ if is_late => (failed, note("is too late")),
            RestoreStep::Beginning if context.keeps(ProtocolRule::ManifestBeforeCopy) => {
                self.read(store, RestoreStep::ReadingCopy)
            }
            RestoreStep::ReadingManifest => self.read(store, RestoreStep::ReadingCopy),
            RestoreStep::ReadingManifestLast => self.read(store, after_reads(context)),
            RestoreStep::Beginning | RestoreStep::ReadingCopy if !store.has_copy() => {
                (failed, note("finds no copy"))
            }
            RestoreStep::Beginning => {
                self.at = RestoreStep::ReadingManifestLast;
                (None, note("reads a copy"))
            }
            RestoreStep::ReadingCopy => {
                self.at = after_reads(context);
                (None, note("reads a copy"))
            }
            RestoreStep::Touching(touch) => {
                let (touched, note) = touch.step(store, context);
                match touched {
                    LayerTouched::NotYet => {}
                    LayerTouched::Young => self.at = RestoreStep::Writing,
                    LayerTouched::Unknown => return (failed, note),
                }
                (None, note)
            }
            RestoreStep::Writing => self.write(store, context),
        }
    }

    fn read(&mut self, store: &RestoreStore, next: RestoreStep) -> (Option<RestoreProcess>, Note) {
        match store.manifest.value {
            KeptManifest::Live => (Some(RestoreProcess::Done), note("finds the manifest")),
            KeptManifest::Purged => {
                (Some(RestoreProcess::Failed), note("finds that it was purged"))
            }
            KeptManifest::Absent => {
                self.at = next;
                (None, note("finds no manifest"))
            }
        }
    }

    fn write(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
    ) -> (Option<RestoreProcess>, Note) {
        if store.manifest.value != KeptManifest::Absent {
            self.at = RestoreStep::ReadingManifest;
            return (None, note("finds something at the key"));
        }
        store.write_manifest();
        let keeps_key = context.keeps(ProtocolRule::PurgedRecord);
        if keeps_key || !context.keeps(ProtocolRule::LookForPurge) {
            return (Some(RestoreProcess::Done), note("writes the manifest"));
        }
        self.at = RestoreStep::Looking;
        (None, note("writes the manifest"))
    }
}

fn after_reads(context: &ProtocolContext) -> RestoreStep {
    match context.keeps(ProtocolRule::RestoreTouches) {
        true => RestoreStep::Touching(LayerTouch::Reading),
        false => RestoreStep::Writing,
    }
}

/// Points the tag to the manifest again: a PUT of what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TagRestore {
    opened: Option<u8>,
    /// The version of the manifest that was read.
    version: u8,
    at: TagRestoreStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum TagRestoreStep {
    Reading,
    Touching(LayerTouch),
    Writing,
    ReadingTag,
    Tagging { version: u8 },
}

impl TagRestore {
    pub(super) fn begin() -> RestoreProcess {
        let at = TagRestoreStep::Reading;
        RestoreProcess::TagRestore(Self { opened: None, version: 0, at })
    }

    pub(super) fn step(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
    ) -> (Option<RestoreProcess>, Note) {
        let is_late = context.is_late(*self.opened.get_or_insert(store.now), store.now);
        let failed = Some(RestoreProcess::Failed);
        match &mut self.at {
            _ if is_late => (failed, note("is too late")),
            TagRestoreStep::Reading if !store.is_live() => (failed, note("finds no manifest")),
            TagRestoreStep::Reading => {
                self.version = store.manifest.version;
                self.at = match context.keeps(ProtocolRule::RestoreTouches) {
                    true => TagRestoreStep::Touching(LayerTouch::Reading),
                    false => TagRestoreStep::Writing,
                };
                (None, note("reads the manifest"))
            }
            TagRestoreStep::Touching(touch) => {
                let (touched, note) = touch.step(store, context);
                match touched {
                    LayerTouched::NotYet => {}
                    LayerTouched::Young => self.at = TagRestoreStep::Writing,
                    LayerTouched::Unknown => return (failed, note),
                }
                (None, note)
            }
            TagRestoreStep::Writing => self.write(store),
            TagRestoreStep::ReadingTag => {
                self.at = TagRestoreStep::Tagging { version: store.tag.version };
                (None, note("reads the tag"))
            }
            TagRestoreStep::Tagging { version } if *version != store.tag.version => {
                self.at = TagRestoreStep::ReadingTag;
                (None, note("finds another version of the tag"))
            }
            TagRestoreStep::Tagging { .. } => {
                store.tag.write(true, store.now);
                (Some(RestoreProcess::Done), note("points the tag to the manifest"))
            }
        }
    }

    fn write(&mut self, store: &mut RestoreStore) -> (Option<RestoreProcess>, Note) {
        if store.manifest.version != self.version {
            self.at = TagRestoreStep::Reading;
            return (None, note("finds another version of the manifest"));
        }
        store.write_manifest();
        self.at = TagRestoreStep::ReadingTag;
        (None, note("writes the manifest"))
    }
}

/// A push of another manifest that references the layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct OtherPush {
    opened: Option<u8>,
    /// W1, until it is done.
    touch: Option<LayerTouch>,
}

impl OtherPush {
    pub(super) fn begin() -> RestoreProcess {
        RestoreProcess::OtherPush(Self { opened: None, touch: Some(LayerTouch::Reading) })
    }

    pub(super) fn step(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
    ) -> (Option<RestoreProcess>, Note) {
        let is_late = context.is_late(*self.opened.get_or_insert(store.now), store.now);
        let failed = Some(RestoreProcess::Failed);
        match &mut self.touch {
            _ if is_late => (failed, note("is too late")),
            Some(touch) => {
                let (touched, note) = touch.step(store, context);
                match touched {
                    LayerTouched::NotYet => {}
                    LayerTouched::Young => self.touch = None,
                    LayerTouched::Unknown => return (failed, note),
                }
                (None, note)
            }
            None => {
                store.other.write(true, store.now);
                (Some(RestoreProcess::Done), note("writes the manifest"))
            }
        }
    }
}
