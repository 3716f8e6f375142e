//! [`MarkGc`]: removes what a restore has left beside a mark, the copy beside it, and then the mark.

use super::{MarkedManifest, PurgedProcess, PurgedStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

type Stepped = (Option<PurgedProcess>, Note);

/// One run, without a deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MarkGc(MarkGcStep);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum MarkGcStep {
    Beginning,
    Listing {
        cut: u8,
    },
    Reading {
        mark: u8,
        old_mark: Option<u8>,
    },
    /// About to write the mark again.
    Touching {
        version: u8,
        mark: u8,
    },
    /// Within a window from that on.
    Removing {
        version: u8,
        since: u8,
    },
    RemovingCopy {
        old_mark: Option<u8>,
    },
    RemovingMark {
        version: u8,
    },
}

impl MarkGc {
    pub(super) fn run() -> PurgedProcess {
        PurgedProcess::Gc(Self(MarkGcStep::Beginning))
    }

    /// A run that is about to remove a mark which another run has removed since.
    pub(super) fn behind() -> PurgedProcess {
        PurgedProcess::Gc(Self(MarkGcStep::RemovingMark { version: 0 }))
    }

    pub(super) fn step(&mut self, store: &mut PurgedStore, context: &ProtocolContext) -> Stepped {
        match self.0 {
            MarkGcStep::Beginning => {
                self.0 = MarkGcStep::Listing { cut: store.now };
                (None, note("begins"))
            }
            MarkGcStep::Listing { .. } if !store.mark.value => {
                (Some(PurgedProcess::Done), note("lists no mark"))
            }
            MarkGcStep::Listing { cut } => {
                let is_old = context.is_old(cut, store.mark.modified)
                    || !context.keeps(ProtocolRule::MarkAge);
                let mark = store.mark.version;
                self.0 = MarkGcStep::Reading { mark, old_mark: is_old.then_some(mark) };
                (None, note("lists the mark"))
            }
            MarkGcStep::Reading { mark, old_mark } => {
                let is_restored = store.manifest.value == MarkedManifest::Restored
                    && context.keeps(ProtocolRule::GcUndoesRestored);
                self.0 = match is_restored {
                    true => MarkGcStep::Touching { version: store.manifest.version, mark },
                    false => MarkGcStep::RemovingCopy { old_mark },
                };
                (None, note("reads the manifest"))
            }
            MarkGcStep::Touching { mark, .. } if store.mark.version != mark => {
                (Some(PurgedProcess::Done), note("finds another version of the mark"))
            }
            MarkGcStep::Touching { version, .. } => {
                if context.keeps(ProtocolRule::UndoTouchesMark) {
                    store.mark.write(true, store.now);
                }
                self.0 = MarkGcStep::Removing { version, since: store.now };
                (None, note("writes the mark again"))
            }
            MarkGcStep::Removing { version, since }
                if version != store.manifest.version
                    || store.now > since + context.limits.window =>
            {
                (Some(PurgedProcess::Done), note("is too late, or finds another version"))
            }
            MarkGcStep::Removing { .. } => {
                store.remove_manifest();
                store.is_undone = true;
                // The mark is not as old as it was listed.
                let old_mark = match context.keeps(ProtocolRule::UndoTouchesMark) {
                    true => None,
                    false => Some(store.mark.version),
                };
                self.0 = MarkGcStep::RemovingCopy { old_mark };
                (None, note("removes what a restore has written"))
            }
            MarkGcStep::RemovingCopy { old_mark } => {
                if store.copy.value && context.keeps(ProtocolRule::MarkedHasNoCopies) {
                    store.copy.delete(false);
                }
                match old_mark {
                    Some(version) => self.0 = MarkGcStep::RemovingMark { version },
                    None => return (Some(PurgedProcess::Done), note("removes the copy")),
                }
                (None, note("removes the copy"))
            }
            MarkGcStep::RemovingMark { version } => {
                let is_same = store.mark.version == version;
                if store.mark.value && (is_same || !context.keeps(ProtocolRule::MarkOnVersion)) {
                    store.mark.delete(false);
                }
                (Some(PurgedProcess::Done), note("removes the mark, if it is the same"))
            }
        }
    }
}
