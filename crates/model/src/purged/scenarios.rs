//! The scenarios with a manifest that is purged.

use super::client::{ClientDelete, ClientPush};
use super::gc::MarkGc;
use super::purge::MarkingPurge;
use super::restore::MarkedRestore;
use super::{MarkedManifest, PurgedGoal, PurgedProcess, PurgedScenario, PurgedStore};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;

use PurgedGoal::{Forgotten, Restored, Stays, Undone};

impl PurgedScenario {
    /// A scenario in which the manifest is deleted, and has a copy.
    fn new(name: &'static str) -> Self {
        let store = PurgedStore {
            now: 0,
            manifest: ModelRecord::old(MarkedManifest::Absent),
            copy: ModelRecord::old(true),
            mark: ModelRecord::old(false),
            purges: 0,
            is_pushed: false,
            is_purged: false,
            stays: false,
            deletes: 0,
            is_restored: false,
            is_undone: false,
        };
        let (context, processes) = (ProtocolContext::new(1), Vec::new());
        Self { name, context, store, processes, goals: &[] }
    }

    /// A scenario in which the manifest is there, and has no copy.
    fn pushed(name: &'static str) -> Self {
        let mut scenario = Self::new(name);
        scenario.store.manifest = ModelRecord::old(MarkedManifest::Pushed);
        scenario.store.copy = ModelRecord::old(false);
        scenario
    }

    /// A mark was there, and was removed by GC.
    fn purged_before(mut self) -> Self {
        self.store.mark.delete(false);
        self
    }

    fn with(mut self, process: PurgedProcess) -> Self {
        self.processes.push(process);
        self
    }

    fn until(mut self, end: u8) -> Self {
        self.context.limits.end = end;
        self
    }

    fn reaching(mut self, goals: &'static [PurgedGoal]) -> Self {
        self.goals = goals;
        self
    }
}

/// The scenarios that every run checks.
pub(crate) fn scenarios() -> Vec<PurgedScenario> {
    vec![
        PurgedScenario::new("marking purge, restore, GC of marks")
            .with(MarkingPurge::begin())
            .with(MarkedRestore::begin())
            .with(MarkGc::run())
            .reaching(&[Restored, Undone, Forgotten])
            .until(7),
        PurgedScenario::new("marking purge, restore, push, GC of marks")
            .with(MarkingPurge::begin())
            .with(MarkedRestore::begin())
            .with(ClientPush::begin())
            .with(MarkGc::run())
            .reaching(&[Restored, Undone, Stays])
            .until(6),
        PurgedScenario::new("marking purge, 2 restores, push")
            .with(MarkingPurge::begin())
            .with(MarkedRestore::begin())
            .with(MarkedRestore::begin())
            .with(ClientPush::begin())
            .reaching(&[Restored, Undone, Stays])
            .until(1),
        PurgedScenario::pushed("marking purge, DELETE, restore, GC of marks")
            .with(MarkingPurge::begin())
            .with(ClientDelete::begin())
            .with(MarkedRestore::begin())
            .with(MarkGc::run())
            .reaching(&[Restored, Undone, Forgotten])
            .until(6),
        PurgedScenario::new("marking purge, restore, GC run that is behind")
            .purged_before()
            .with(MarkingPurge::begin())
            .with(MarkedRestore::begin())
            .with(MarkGc::behind())
            .reaching(&[Restored, Undone])
            .until(2),
    ]
}

/// Larger scenarios.
pub(crate) fn large() -> Vec<PurgedScenario> {
    vec![
        PurgedScenario::new("marking purge, restore, 2 GC runs")
            .with(MarkingPurge::begin())
            .with(MarkedRestore::begin())
            .with(MarkGc::run())
            .with(MarkGc::run())
            .reaching(&[Restored, Undone, Forgotten])
            .until(7),
        PurgedScenario::pushed("marking purge, DELETE, restore, push, GC of marks")
            .with(MarkingPurge::begin())
            .with(ClientDelete::begin())
            .with(MarkedRestore::begin())
            .with(ClientPush::begin())
            .with(MarkGc::run())
            .reaching(&[Restored, Undone, Stays])
            .until(5),
    ]
}
