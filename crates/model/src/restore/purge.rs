//! [`Purge`]: removes the manifest and its layer for good.

use super::{KeptManifest, LayerLink, RestoreProcess, RestoreStore};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

/// Leaves a purged record at the manifest's key, removes the copies, then the layer's link if no
/// other manifest references it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Purge(PurgeStep);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum PurgeStep {
    Beginning,
    /// A broken rule: the manifest is only removed, after its copies.
    Removing,
    RemovingCopies,
    Listing,
    Unlinking {
        version: u8,
    },
    /// About to list again, once no push can rely on the link any more.
    Waiting {
        since: u8,
        version: u8,
    },
    Reviving {
        version: u8,
    },
}

impl Purge {
    pub(super) fn of_manifest() -> RestoreProcess {
        RestoreProcess::Purge(Self(PurgeStep::Beginning))
    }

    /// Whether it has swapped the link, and not yet listed again.
    pub(super) fn waits(&self) -> bool {
        matches!(self.0, PurgeStep::Waiting { .. } | PurgeStep::Reviving { .. })
    }

    pub(super) fn choices(&self, store: &RestoreStore, context: &ProtocolContext) -> u8 {
        match self.0 {
            PurgeStep::Waiting { since, .. } => u8::from(store.now > since + context.limits.window),
            _ => 1,
        }
    }

    pub(super) fn step(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
    ) -> (Option<RestoreProcess>, Note) {
        match self.0 {
            PurgeStep::Beginning => self.begin(store, context),
            PurgeStep::RemovingCopies => self.remove_copies(store, context),
            PurgeStep::Removing => {
                store.manifest.delete(KeptManifest::Absent);
                self.0 = PurgeStep::Listing;
                (None, note("removes the manifest"))
            }
            PurgeStep::Listing if store.other.value || !store.has_layer() => {
                store.is_purged = true;
                (Some(RestoreProcess::Done), note("keeps the layer"))
            }
            PurgeStep::Listing => {
                self.0 = PurgeStep::Unlinking { version: store.layer.version };
                (None, note("finds no other manifest"))
            }
            PurgeStep::Unlinking { version } => self.unlink(store, context, version),
            PurgeStep::Waiting { version, .. } if store.other.value => {
                self.0 = PurgeStep::Reviving { version };
                (None, note("finds another manifest"))
            }
            PurgeStep::Waiting { .. } => {
                (Some(RestoreProcess::Done), note("finds no other manifest again"))
            }
            PurgeStep::Reviving { version } => {
                if store.layer.version == version {
                    store.layer.write(LayerLink::Live, store.now);
                }
                (Some(RestoreProcess::Done), note("swaps the link back"))
            }
        }
    }

    fn begin(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
    ) -> (Option<RestoreProcess>, Note) {
        store.is_purge_begun = true;
        self.0 = PurgeStep::RemovingCopies;
        if context.keeps(ProtocolRule::PurgedRecord) {
            store.manifest.write(KeptManifest::Purged, store.now);
            return (None, note("leaves a purged record"));
        }
        store.marker.write(true, store.now);
        (None, note("writes the marker"))
    }

    fn remove_copies(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
    ) -> (Option<RestoreProcess>, Note) {
        for copy in store.copies.iter_mut().filter(|copy| copy.value) {
            copy.delete(false);
        }
        self.0 = match context.keeps(ProtocolRule::PurgedRecord) {
            true => PurgeStep::Listing,
            false => PurgeStep::Removing,
        };
        (None, note("removes the copies"))
    }

    fn unlink(
        &mut self,
        store: &mut RestoreStore,
        context: &ProtocolContext,
        version: u8,
    ) -> (Option<RestoreProcess>, Note) {
        if store.layer.version != version {
            self.0 = PurgeStep::Listing;
            return (None, note("finds another version of the link"));
        }
        store.layer.write(LayerLink::Deleted, store.now);
        store.is_purged = true;
        if !context.keeps(ProtocolRule::PurgeListsAgain) {
            return (Some(RestoreProcess::Done), note("deletes the link"));
        }
        self.0 = PurgeStep::Waiting { since: store.now, version: store.layer.version };
        (None, note("deletes the link"))
    }
}
