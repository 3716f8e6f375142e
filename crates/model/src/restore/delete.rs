//! [`ManifestDelete`]: a DELETE of the manifest, which keeps a copy.

use super::tagging::Untagging;
use super::{RestoreProcess, RestoreStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

/// Writes a copy, removes the tag, then the version of the manifest that was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct ManifestDelete {
    /// The number of its copy.
    copy: u8,
    opened: u8,
    /// The version of the manifest that was read.
    version: u8,
    at: DeleteStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum DeleteStep {
    Reading,
    Copying,
    Untagging(Untagging),
    Removing,
    /// A broken rule: the copy is written last.
    CopyingLast,
}

impl ManifestDelete {
    pub(super) fn with_copy(copy: u8) -> RestoreProcess {
        let at = DeleteStep::Reading;
        RestoreProcess::ManifestDelete(Self { copy, opened: 0, version: 0, at })
    }

    pub(super) fn step(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
    ) -> (Option<RestoreProcess>, Note) {
        let is_kept = context.keeps(ProtocolRule::DeleteInWindow);
        let is_late = is_kept && context.is_late(self.opened, store.now);
        match &mut self.at {
            DeleteStep::Reading => self.read(store, context),
            _ if is_late => {
                self.at = DeleteStep::Reading;
                (None, note("is too late, and begins again"))
            }
            DeleteStep::Copying => {
                self.write_copy(store);
                self.at = DeleteStep::Untagging(Untagging::Reading);
                (None, note("writes a copy"))
            }
            DeleteStep::Untagging(untagging) => {
                let (is_done, note) = untagging.step(store);
                if is_done {
                    self.at = DeleteStep::Removing;
                }
                (None, note)
            }
            DeleteStep::Removing => self.remove(store, context),
            DeleteStep::CopyingLast => {
                self.write_copy(store);
                (Some(RestoreProcess::Done), note("writes a copy"))
            }
        }
    }

    fn read(
        &mut self,
        store: &RestoreStore,
        context: &ProtocolContext,
    ) -> (Option<RestoreProcess>, Note) {
        if !store.is_live() {
            return (Some(RestoreProcess::Done), note("finds no manifest"));
        }
        (self.opened, self.version) = (store.now, store.manifest.version);
        self.at = match context.keeps(ProtocolRule::CopyFirst) {
            true => DeleteStep::Copying,
            false => DeleteStep::Untagging(Untagging::Reading),
        };
        (None, note("reads the manifest"))
    }

    fn write_copy(&self, store: &mut RestoreStore) {
        store.copies[usize::from(self.copy)].write(true, store.now);
    }

    fn remove(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
    ) -> (Option<RestoreProcess>, Note) {
        if store.manifest.version != self.version {
            self.at = DeleteStep::Reading;
            return (None, note("finds another version of the manifest"));
        }
        store.manifest.delete(super::KeptManifest::Absent);
        store.is_deleted = true;
        if !context.keeps(ProtocolRule::CopyFirst) {
            self.at = DeleteStep::CopyingLast;
            return (None, note("removes the manifest"));
        }
        store.acknowledged = Some(store.now);
        (Some(RestoreProcess::Done), note("removes the manifest"))
    }
}
