//! [`HintGc`]: removes a hint whose tag is not there, and the records of deleted tags.

use super::{TagPointer, TaggedProcess, TaggedStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

type Stepped = (Option<TaggedProcess>, Note);

/// One run, without a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HintGc(HintGcStep);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum HintGcStep {
    Beginning,
    Listing {
        cut: u8,
    },
    /// What is to be removed, each on the version that was read.
    Removing {
        hint: Option<u8>,
        record: Option<u8>,
    },
}

impl HintGc {
    pub(super) fn run() -> TaggedProcess {
        TaggedProcess::HintGc(Self(HintGcStep::Beginning))
    }

    pub(super) fn choices(&self) -> u8 {
        match self.0 {
            HintGcStep::Removing { hint: Some(_), record: Some(_) } => 2,
            _ => 1,
        }
    }

    pub(super) fn step(
        &mut self,
        store: &mut TaggedStore,
        context: &ProtocolContext,
        choice: u8,
    ) -> Stepped {
        match self.0 {
            HintGcStep::Beginning => {
                self.0 = HintGcStep::Listing { cut: store.now };
                (None, note("begins"))
            }
            HintGcStep::Listing { cut } => {
                let tag = store.tag;
                let is_deleted = matches!(tag.value, TagPointer::Deleted | TagPointer::Placeholder);
                let is_tagged = !is_deleted && tag.value != TagPointer::Absent;
                let is_hint_old = store.hint.value && context.is_old(cut, store.hint.modified);
                let is_record_old = context.is_old(cut, tag.modified)
                    || !context.keeps(ProtocolRule::DeletedRecordAge);
                let hint = (is_hint_old && !is_tagged).then_some(store.hint.version);
                let record = (is_deleted && is_record_old).then_some(tag.version);
                self.0 = HintGcStep::Removing { hint, record };
                (None, note("lists the hint and the tag"))
            }
            HintGcStep::Removing { hint: None, record: None } => {
                (Some(TaggedProcess::Done), note("ends"))
            }
            HintGcStep::Removing { hint: Some(version), record } if choice == 0 => {
                if store.hint.version == version {
                    store.hint.delete(false);
                }
                self.0 = HintGcStep::Removing { hint: None, record };
                (None, note("removes the hint, if it is the same"))
            }
            HintGcStep::Removing { hint, record } => {
                if record.is_some_and(|version| store.tag.version == version) {
                    store.tag.delete(TagPointer::Absent);
                }
                self.0 = HintGcStep::Removing { hint, record: None };
                (None, note("removes the deleted tag, if it is the same"))
            }
        }
    }
}
