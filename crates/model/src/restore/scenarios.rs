//! The scenarios with a manifest that is deleted and restored.

use super::delete::ManifestDelete;
use super::gc::RestoreGc;
use super::purge::Purge;
use super::restorer::{ManifestRestore, OtherPush, TagRestore};
use super::tagging::TagMove;
use super::{
    COPIES, KeptManifest, LayerLink, RestoreCollected, RestoreGoal, RestoreProcess,
    RestoreScenario, RestoreStore,
};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;

use RestoreGoal::{Copy, Entry, Layer, Manifest, Purged};

impl RestoreScenario {
    /// A scenario in which the tag points to the manifest, and all is old.
    fn tagged(name: &'static str) -> Self {
        let store = RestoreStore {
            now: 0,
            tag: ModelRecord::old(true),
            entry: ModelRecord::old(false),
            ended: None,
            manifest: ModelRecord::old(KeptManifest::Live),
            copies: [ModelRecord::old(false); COPIES],
            marker: ModelRecord::old(false),
            other: ModelRecord::old(false),
            layer: ModelRecord::old(LayerLink::Live),
            is_deleted: false,
            acknowledged: None,
            is_purge_begun: false,
            is_purged: false,
            collected: RestoreCollected::default(),
        };
        let (context, processes) = (ProtocolContext::new(1), Vec::new());
        Self { name, context, store, processes, goals: &[] }
    }

    /// A scenario in which the tag has moved, and its entry is old.
    fn moved(name: &'static str) -> Self {
        let mut scenario = Self::tagged(name);
        scenario.store.tag = ModelRecord::old(false);
        scenario.store.entry = ModelRecord::old(true);
        scenario.store.ended = Some(0);
        scenario
    }

    /// A scenario in which the manifest is deleted, and has a copy.
    fn deleted(name: &'static str) -> Self {
        let mut scenario = Self::tagged(name);
        scenario.store.tag = ModelRecord::old(false);
        scenario.store.manifest = ModelRecord::old(KeptManifest::Absent);
        scenario.store.copies[0] = ModelRecord::old(true);
        scenario.store.is_deleted = true;
        scenario
    }

    /// A scenario in which the manifest has no tag.
    fn untagged(name: &'static str) -> Self {
        let mut scenario = Self::tagged(name);
        scenario.store.tag = ModelRecord::old(false);
        scenario
    }

    fn with(mut self, process: RestoreProcess) -> Self {
        self.processes.push(process);
        self
    }

    /// A scenario that begins at that time.
    fn from(mut self, now: u8) -> Self {
        self.store.now = now;
        self
    }

    fn until(mut self, end: u8) -> Self {
        self.context.limits.end = end;
        self
    }

    fn reaching(mut self, goals: &'static [RestoreGoal]) -> Self {
        self.goals = goals;
        self
    }
}

/// The scenarios that every run checks.
pub(crate) fn scenarios() -> Vec<RestoreScenario> {
    [kept(), purged()].concat()
}

fn kept() -> Vec<RestoreScenario> {
    vec![
        RestoreScenario::tagged("move of the tag, 2 GC runs")
            .with(TagMove::begin())
            .with(RestoreGc::run())
            .with(RestoreGc::run())
            .reaching(&[Entry, Manifest])
            .until(6),
        RestoreScenario::moved("restore of the tag, 2 GC runs")
            .with(TagRestore::begin())
            .with(RestoreGc::run())
            .with(RestoreGc::run())
            .reaching(&[Entry, Manifest])
            .from(4)
            .until(6),
        RestoreScenario::tagged("DELETE of the manifest, GC")
            .with(ManifestDelete::with_copy(0))
            .with(RestoreGc::run())
            .reaching(&[Entry, Copy])
            .until(6),
        RestoreScenario::tagged("DELETE of the manifest, move of the tag, GC")
            .with(ManifestDelete::with_copy(0))
            .with(TagMove::begin())
            .with(RestoreGc::run())
            .from(4)
            .until(6),
        RestoreScenario::deleted("restore of the manifest, 2 GC runs")
            .with(ManifestRestore::begin())
            .with(RestoreGc::run())
            .with(RestoreGc::run())
            .reaching(&[Copy, Layer])
            .from(4)
            .until(6),
        RestoreScenario::tagged("DELETE of the manifest, 2 GC runs")
            .with(ManifestDelete::with_copy(0))
            .with(RestoreGc::run())
            .with(RestoreGc::run())
            .from(4)
            .until(6),
        RestoreScenario::deleted("restore of the manifest, DELETE of it, 2 GC runs")
            .with(ManifestRestore::begin())
            .with(ManifestDelete::with_copy(1))
            .with(RestoreGc::run())
            .with(RestoreGc::run())
            .reaching(&[Copy])
            .from(4)
            .until(6),
    ]
}

fn purged() -> Vec<RestoreScenario> {
    vec![
        RestoreScenario::deleted("purge, restore of the manifest, GC")
            .with(Purge::of_manifest())
            .with(ManifestRestore::begin())
            .with(RestoreGc::run())
            .reaching(&[Purged])
            .until(6),
        RestoreScenario::untagged("purge, DELETE of the manifest, GC")
            .with(Purge::of_manifest())
            .with(ManifestDelete::with_copy(0))
            .with(RestoreGc::run())
            .reaching(&[Purged])
            .until(6),
        RestoreScenario::untagged("purge, push of another manifest")
            .with(Purge::of_manifest())
            .with(OtherPush::begin()),
    ]
}

/// Larger scenarios.
pub(crate) fn large() -> Vec<RestoreScenario> {
    vec![
        RestoreScenario::tagged("2 DELETEs of the manifest, move of the tag, GC")
            .with(ManifestDelete::with_copy(0))
            .with(ManifestDelete::with_copy(1))
            .with(TagMove::begin())
            .with(RestoreGc::run())
            .from(4)
            .until(6),
        RestoreScenario::tagged("move of the tag, restore of it, 2 GC runs")
            .with(TagMove::begin())
            .with(TagRestore::begin())
            .with(RestoreGc::run())
            .with(RestoreGc::run())
            .reaching(&[Entry, Manifest])
            .until(5),
        RestoreScenario::untagged("purge, DELETE of the manifest, restore of it, GC")
            .with(Purge::of_manifest())
            .with(ManifestDelete::with_copy(0))
            .with(ManifestRestore::begin())
            .with(RestoreGc::run())
            .reaching(&[Purged])
            .until(6),
        RestoreScenario::untagged("purge, push of another manifest, DELETE, restore, GC")
            .with(Purge::of_manifest())
            .with(OtherPush::begin())
            .with(ManifestDelete::with_copy(0))
            .with(ManifestRestore::begin())
            .with(RestoreGc::run())
            .from(4)
            .until(6),
    ]
}
