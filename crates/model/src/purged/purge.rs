//! [`MarkingPurge`]: writes the mark, removes the copy, then the manifest.

use super::{PurgedProcess, PurgedStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

type Stepped = (Option<PurgedProcess>, Note);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct MarkingPurge {
    opened: Option<u8>,
    at: PurgeStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum PurgeStep {
    Marking,
    RemovingCopy,
    Reading,
    Removing {
        version: u8,
    },
    /// A broken rule: the mark is written last.
    MarkingLast,
    Ending,
}

impl MarkingPurge {
    pub(super) fn begin() -> PurgedProcess {
        PurgedProcess::Purge(Self { opened: None, at: PurgeStep::Marking })
    }

    pub(super) fn step(&mut self, store: &mut PurgedStore, context: &ProtocolContext) -> Stepped {
        match self.at {
            PurgeStep::Marking => {
                if self.opened.is_none() {
                    store.purges += 1;
                    (store.stays, store.is_pushed) = (false, false);
                }
                self.opened = Some(store.now);
                self.at = PurgeStep::RemovingCopy;
                if !context.keeps(ProtocolRule::MarkFirst) {
                    return (None, note("begins"));
                }
                store.mark.write(true, store.now);
                (None, note("writes the mark"))
            }
            PurgeStep::RemovingCopy => {
                if store.copy.value {
                    store.copy.delete(false);
                }
                self.at = PurgeStep::Reading;
                (None, note("removes the copy"))
            }
            PurgeStep::Reading if !store.is_there() => {
                self.end_removal(context);
                (None, note("finds no manifest"))
            }
            PurgeStep::Reading => {
                self.at = PurgeStep::Removing { version: store.manifest.version };
                (None, note("reads the manifest"))
            }
            PurgeStep::Removing { version } if version != store.manifest.version => {
                self.at = PurgeStep::Reading;
                (None, note("finds another version of the manifest"))
            }
            PurgeStep::Removing { .. } => {
                store.remove_manifest();
                self.end_removal(context);
                (None, note("removes the manifest"))
            }
            PurgeStep::MarkingLast => {
                store.mark.write(true, store.now);
                self.at = PurgeStep::Ending;
                (None, note("writes the mark"))
            }
            PurgeStep::Ending => {
                let opened = self.opened.unwrap_or(store.now);
                let is_late = store.now > opened + context.limits.window;
                if is_late && context.keeps(ProtocolRule::PurgeInWindow) {
                    self.at = PurgeStep::Marking;
                    return (None, note("is too late, and begins again"));
                }
                store.purges -= 1;
                store.is_purged = true;
                (Some(PurgedProcess::Done), note("ends"))
            }
        }
    }

    fn end_removal(&mut self, context: &ProtocolContext) {
        self.at = match context.keeps(ProtocolRule::MarkFirst) {
            true => PurgeStep::Ending,
            false => PurgeStep::MarkingLast,
        };
    }
}
