//! [`MarkedRestore`]: pushes the copy, then looks for the mark of a purge.

use super::{MarkedManifest, PurgedProcess, PurgedStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

type Stepped = (Option<PurgedProcess>, Note);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MarkedRestore {
    opened: Option<u8>,
    at: RestoreStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum RestoreStep {
    /// The copy and the mark are in one listing.
    Listing,
    Reading,
    Writing {
        version: u8,
        seen: MarkedManifest,
    },
    Looking,
    ReadingToUndo,
    TouchingMark {
        version: u8,
    },
    Undoing {
        version: u8,
        since: u8,
    },
}

impl MarkedRestore {
    pub(super) fn begin() -> PurgedProcess {
        PurgedProcess::Restore(Self { opened: None, at: RestoreStep::Listing })
    }

    pub(super) fn may_undo(&self) -> bool {
        use RestoreStep::{Looking, ReadingToUndo, TouchingMark, Undoing};
        matches!(self.at, Looking | ReadingToUndo | TouchingMark { .. } | Undoing { .. })
    }

    /// Where it would have something to undo, it may crash.
    pub(super) fn choices(&self) -> u8 {
        if self.may_undo() { 2 } else { 1 }
    }

    pub(super) fn step(
        &mut self,
        store: &mut PurgedStore,
        context: &ProtocolContext,
        choice: u8,
    ) -> Stepped {
        let is_late = context.is_late(*self.opened.get_or_insert(store.now), store.now);
        let failed = Some(PurgedProcess::Failed);
        match self.at {
            _ if choice == 1 => (failed, note("crashes")),
            RestoreStep::Listing if store.mark.value || !store.copy.value => {
                (failed, note("finds no copy, or a mark"))
            }
            RestoreStep::Listing => {
                self.at = RestoreStep::Reading;
                (None, note("reads the copy"))
            }
            RestoreStep::Reading => {
                let there = store.manifest;
                self.at = RestoreStep::Writing { version: there.version, seen: there.value };
                (None, note("reads the manifest"))
            }
            RestoreStep::Writing { .. } if is_late => (failed, note("is too late")),
            RestoreStep::Writing { version, seen } => {
                (None, self.write(store, context, version, seen))
            }
            RestoreStep::Looking => self.look(store, context),
            RestoreStep::ReadingToUndo => self.read_to_undo(store, context),
            RestoreStep::TouchingMark { .. } if !store.mark.value => {
                (failed, note("finds that the mark is gone"))
            }
            RestoreStep::TouchingMark { version } => {
                if context.keeps(ProtocolRule::UndoTouchesMark) {
                    store.mark.write(true, store.now);
                }
                self.at = RestoreStep::Undoing { version, since: store.now };
                (None, note("writes the mark again"))
            }
            RestoreStep::Undoing { version, since }
                if version != store.manifest.version
                    || store.now > since + context.limits.window =>
            {
                self.at = RestoreStep::ReadingToUndo;
                (None, note("is too late, or finds another version of the manifest"))
            }
            RestoreStep::Undoing { .. } => {
                store.remove_manifest();
                store.is_undone = true;
                (failed, note("removes the manifest again"))
            }
        }
    }

    fn write(
        &mut self,
        store: &mut PurgedStore,
        context: &ProtocolContext,
        version: u8,
        seen: MarkedManifest,
    ) -> Note {
        let is_as_read = match seen {
            MarkedManifest::Absent => !store.is_there(),
            _ => store.manifest.version == version,
        };
        if !is_as_read && !store.is_there() {
            self.at = RestoreStep::Reading;
            return note("finds that the manifest is gone");
        }
        self.at = RestoreStep::Looking;
        if !is_as_read {
            return note("is served by another push");
        }
        let marks = context.keeps(ProtocolRule::RestoredIsMarked);
        let next = match seen {
            MarkedManifest::Absent if marks => MarkedManifest::Restored,
            MarkedManifest::Absent => MarkedManifest::Pushed,
            seen => seen,
        };
        store.manifest.write(next, store.now);
        note("writes the manifest")
    }

    fn look(&mut self, store: &mut PurgedStore, context: &ProtocolContext) -> Stepped {
        if store.mark.value && context.keeps(ProtocolRule::LookForMark) {
            self.at = RestoreStep::ReadingToUndo;
            return (None, note("finds the mark"));
        }
        store.is_restored = true;
        (Some(PurgedProcess::Done), note("finds no mark"))
    }

    fn read_to_undo(&mut self, store: &PurgedStore, context: &ProtocolContext) -> Stepped {
        let there = store.manifest;
        let is_own = match context.keeps(ProtocolRule::UndoOnlyRestored) {
            true => there.value == MarkedManifest::Restored,
            false => store.is_there(),
        };
        if !is_own {
            return (Some(PurgedProcess::Failed), note("finds nothing to remove"));
        }
        self.at = RestoreStep::TouchingMark { version: there.version };
        (None, note("reads the manifest that it has written"))
    }
}
