//! [`TaggedDelete`]: a DELETE of the manifest by its digest.

use super::{TagPointer, TaggedProcess, TaggedStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

type Stepped = (Option<TaggedProcess>, Note);

/// How often a DELETE begins: a push that looks again makes it begin again, and the other way round.
const ATTEMPTS: u8 = 2;

/// Reads the manifest, lists the hint, reads the tag, which it removes if it points to the manifest, and writes
/// again if the hint is young; then it removes the version that it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TaggedDelete {
    has_begun: bool,
    attempts: u8,
    at: TaggedDeleteStep,
    /// The version of the manifest that was read; none yet where a broken rule reads it late.
    manifest: Option<u8>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum TaggedDeleteStep {
    Reading,
    Listing,
    /// Of the hint, which is young or not.
    ReadingTag {
        is_young: bool,
    },
    /// The tag points to the manifest.
    Untagging {
        version: u8,
    },
    /// The tag does not.
    Fencing {
        version: u8,
        is_absent: bool,
    },
    ReadingTagAgain,
    Removing,
    /// A broken rule: the tag is removed after the manifest.
    ListingLast,
}

impl TaggedDelete {
    pub(super) fn begin() -> TaggedProcess {
        let at = TaggedDeleteStep::Reading;
        TaggedProcess::Delete(Self { has_begun: false, attempts: 1, at, manifest: None })
    }

    pub(super) fn step(&mut self, store: &mut TaggedStore, context: &ProtocolContext) -> Stepped {
        if !self.has_begun {
            self.has_begun = true;
            store.begin_delete();
        }
        match self.at {
            TaggedDeleteStep::Reading => self.read(store, context),
            TaggedDeleteStep::Listing | TaggedDeleteStep::ListingLast if !store.hint.value => {
                self.go_on(store, context, note("lists no hint"))
            }
            TaggedDeleteStep::Listing | TaggedDeleteStep::ListingLast => {
                let fences = context.keeps(ProtocolRule::FenceTags);
                let is_young = fences && store.is_hint_young(context);
                self.at = TaggedDeleteStep::ReadingTag { is_young };
                (None, note("lists the hint"))
            }
            TaggedDeleteStep::ReadingTag { is_young } => self.read_tag(store, context, is_young),
            TaggedDeleteStep::ReadingTagAgain => self.read_tag(store, context, false),
            TaggedDeleteStep::Untagging { version } if version != store.tag.version => {
                self.at = TaggedDeleteStep::ReadingTagAgain;
                (None, note("finds another version of the tag"))
            }
            TaggedDeleteStep::Untagging { .. } => {
                store.tag.write(TagPointer::Deleted, store.now);
                self.go_on(store, context, note("deletes the tag"))
            }
            TaggedDeleteStep::Fencing { version, is_absent } => {
                self.fence(store, context, (version, is_absent))
            }
            TaggedDeleteStep::Removing => self.remove(store, context),
        }
    }

    fn read(&mut self, store: &mut TaggedStore, context: &ProtocolContext) -> Stepped {
        // A broken rule: the hint is listed first.
        if !context.keeps(ProtocolRule::HintsAfterManifest) && self.manifest.is_none() {
            self.at = TaggedDeleteStep::Listing;
            return (None, note("begins"));
        }
        if !store.manifest.value {
            return self.end(store, note("finds no manifest"));
        }
        self.manifest = Some(store.manifest.version);
        self.at = match context.keeps(ProtocolRule::UntagFirst) {
            true => TaggedDeleteStep::Listing,
            false => TaggedDeleteStep::Removing,
        };
        (None, note("reads the manifest"))
    }

    fn read_tag(
        &mut self,
        store: &mut TaggedStore,
        context: &ProtocolContext,
        is_young: bool,
    ) -> Stepped {
        let tag = store.tag;
        match tag.value {
            TagPointer::Here => {
                self.at = TaggedDeleteStep::Untagging { version: tag.version };
                (None, note("finds the tag"))
            }
            _ if is_young => {
                let is_absent = tag.value == TagPointer::Absent;
                self.at = TaggedDeleteStep::Fencing { version: tag.version, is_absent };
                (None, note("finds a tag that a push may set"))
            }
            _ => self.go_on(store, context, note("finds that the tag does not point to it")),
        }
    }

    fn fence(
        &mut self,
        store: &mut TaggedStore,
        context: &ProtocolContext,
        (version, is_absent): (u8, bool),
    ) -> Stepped {
        let tag = store.tag;
        let is_as_read = match is_absent {
            true => tag.value == TagPointer::Absent,
            false => tag.version == version,
        };
        if !is_as_read {
            self.at = TaggedDeleteStep::ReadingTagAgain;
            return (None, note("finds another version of the tag"));
        }
        let value = if is_absent { TagPointer::Placeholder } else { tag.value };
        store.tag.write(value, store.now);
        store.is_fenced = true;
        self.go_on(store, context, note("writes the tag again"))
    }

    /// No push sets the tag from here on.
    fn go_on(&mut self, store: &mut TaggedStore, context: &ProtocolContext, note: Note) -> Stepped {
        if !context.keeps(ProtocolRule::UntagFirst) {
            return self.end(store, note);
        }
        self.at = TaggedDeleteStep::Removing;
        (None, note)
    }

    fn remove(&mut self, store: &mut TaggedStore, context: &ProtocolContext) -> Stepped {
        let Some(version) = self.manifest else {
            // A broken rule: the manifest is read last.
            if !store.manifest.value {
                return self.end(store, note("finds no manifest"));
            }
            self.manifest = Some(store.manifest.version);
            return (None, note("reads the manifest"));
        };
        if !store.manifest.value || store.manifest.version != version {
            if self.attempts == ATTEMPTS {
                store.deletes -= 1;
                return (Some(TaggedProcess::Failed), note("gives up"));
            }
            self.attempts += 1;
            self.manifest = None;
            self.at = TaggedDeleteStep::Reading;
            return (None, note("finds another version of the manifest"));
        }
        store.manifest.delete(false);
        store.is_deleted = true;
        if !context.keeps(ProtocolRule::UntagFirst) {
            self.at = TaggedDeleteStep::ListingLast;
            return (None, note("removes the manifest"));
        }
        self.end(store, note("removes the manifest"))
    }

    fn end(&mut self, store: &mut TaggedStore, note: Note) -> Stepped {
        store.end_delete();
        (Some(TaggedProcess::Done), note)
    }
}
