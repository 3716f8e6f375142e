//! [`TagMove`]: a push to the tag of another manifest. [`Untagging`]: how it leaves this one.

use super::{RestoreProcess, RestoreStore};
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

/// Archives the tag's record if it points to the manifest, and swaps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Untagging {
    Reading,
    Archiving { version: u8 },
    Swapping { version: u8 },
}

impl Untagging {
    /// The next step: `true` if the tag does not point to the manifest any more.
    pub(super) fn step(&mut self, store: &mut RestoreStore) -> (bool, Note) {
        match *self {
            Self::Reading if !store.tag.value => (true, note("finds the tag elsewhere")),
            Self::Reading => {
                *self = Self::Archiving { version: store.tag.version };
                (false, note("reads the tag"))
            }
            Self::Archiving { version } => {
                if !store.entry.value || store.ended.is_some() {
                    store.entry.write(true, store.now);
                    store.ended = None;
                }
                *self = Self::Swapping { version };
                (false, note("archives the tag"))
            }
            Self::Swapping { version } if version != store.tag.version => {
                *self = Self::Reading;
                (false, note("finds another version of the tag"))
            }
            Self::Swapping { .. } => {
                store.untag();
                (true, note("swaps the tag"))
            }
        }
    }
}

/// Points the tag elsewhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TagMove {
    opened: Option<u8>,
    untagging: Untagging,
}

impl TagMove {
    pub(super) fn begin() -> RestoreProcess {
        RestoreProcess::TagMove(Self { opened: None, untagging: Untagging::Reading })
    }

    pub(super) fn step(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
    ) -> (Option<RestoreProcess>, Note) {
        if context.is_late(*self.opened.get_or_insert(store.now), store.now) {
            return (Some(RestoreProcess::Failed), note("is too late"));
        }
        let (is_done, note) = self.untagging.step(store);
        (is_done.then_some(RestoreProcess::Done), note)
    }
}
