//! The scenarios with manifests.

use super::deleter::ManifestDeleter;
use super::gc::ManifestGc;
use super::push::{ManifestHead, ManifestPusher};
use super::{
    ManifestObject, ManifestProcess, ManifestScenario, ManifestStore, OBJECTS, TagPointer,
};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;
use crate::set::NumberSet;

impl ManifestScenario {
    /// A scenario in which every object exists, and is old.
    fn new(name: &'static str, tag: TagPointer) -> Self {
        let store = ManifestStore {
            now: 0,
            objects: [ModelRecord::old(true); OBJECTS.len()],
            tag: ModelRecord::old(tag),
            deleted: NumberSet::EMPTY,
            is_child_other: false,
            is_referrer_promised: true,
            collected: NumberSet::EMPTY,
        };
        let (context, processes) = (ProtocolContext::new(1), Vec::new());
        Self { name, context, store, processes, collectable: Vec::new() }
    }

    /// A scenario without the referrer.
    fn without_referrer(name: &'static str, tag: TagPointer) -> Self {
        let mut scenario = Self::new(name, tag);
        scenario.store.delete(ManifestObject::Referrer);
        scenario.store.is_referrer_promised = false;
        scenario
    }

    fn without(mut self, object: ManifestObject) -> Self {
        self.store.delete(object);
        self
    }

    fn with(mut self, process: ManifestProcess) -> Self {
        self.processes.push(process);
        self
    }

    fn until(mut self, end: u8) -> Self {
        self.context.limits.end = end;
        self
    }

    fn collecting(mut self, objects: &[ManifestObject]) -> Self {
        self.collectable.extend_from_slice(objects);
        self
    }
}

use ManifestObject::{Child, Index, Layer, Referrer};

/// The scenarios that every run checks.
pub(crate) fn scenarios() -> Vec<ManifestScenario> {
    [children(), indexes(), referrers()].concat()
}

/// Pushes of the child.
fn children() -> Vec<ManifestScenario> {
    vec![
        ManifestScenario::without_referrer("index push, child push, GC", TagPointer::Absent)
            .without(Index)
            .with(ManifestPusher::index())
            .with(ManifestPusher::child())
            .with(ManifestGc::run())
            .collecting(&[Child]),
        ManifestScenario::without_referrer("child push, 2 GC runs", TagPointer::Absent)
            .without(Index)
            .with(ManifestPusher::child())
            .with(ManifestGc::run())
            .with(ManifestGc::run())
            .collecting(&[Child, Layer]),
        ManifestScenario::without_referrer("child push as another type, GC", TagPointer::Index)
            .with(ManifestPusher::child_as_other())
            .with(ManifestGc::run())
            .with(ManifestProcess::Retag)
            .collecting(&[Index]),
        ManifestScenario::without_referrer(
            "child pushes as two types, DELETE, GC",
            TagPointer::Absent,
        )
        .without(Index)
        .with(ManifestPusher::child_as_other())
        .with(ManifestPusher::child())
        .with(ManifestDeleter::of(Child))
        .with(ManifestGc::run())
        .collecting(&[Child, Layer]),
        ManifestScenario::without_referrer("2 child pushes, GC", TagPointer::Absent)
            .without(Index)
            .with(ManifestPusher::child())
            .with(ManifestPusher::child())
            .with(ManifestGc::run())
            .collecting(&[Child]),
    ]
}

/// Pushes of the index.
fn indexes() -> Vec<ManifestScenario> {
    vec![
        ManifestScenario::without_referrer("index push, 2 GC runs", TagPointer::Absent)
            .with(ManifestPusher::index())
            .with(ManifestGc::run())
            .with(ManifestGc::run())
            .collecting(&[Index, Child])
            .until(11),
        ManifestScenario::without_referrer("untagged index push, HEAD, GC", TagPointer::Absent)
            .without(Index)
            .with(ManifestPusher::untagged_index())
            .with(ManifestHead::of_child())
            .with(ManifestGc::run())
            .collecting(&[Child]),
        ManifestScenario::without_referrer(
            "2 index pushes, DELETE of the index",
            TagPointer::Index,
        )
        .with(ManifestPusher::index())
        .with(ManifestPusher::untagged_index())
        .with(ManifestDeleter::of(Index))
        .until(5),
        ManifestScenario::without_referrer("index push, retag, GC", TagPointer::Index)
            .with(ManifestPusher::index())
            .with(ManifestProcess::Retag)
            .with(ManifestGc::run())
            .collecting(&[Index]),
        ManifestScenario::without_referrer(
            "index push, DELETE of the index, GC",
            TagPointer::Index,
        )
        .with(ManifestPusher::index())
        .with(ManifestDeleter::of(Index))
        .with(ManifestGc::run())
        .collecting(&[Child]),
        ManifestScenario::without_referrer(
            "index push, DELETE of the child, GC",
            TagPointer::Absent,
        )
        .without(Index)
        .with(ManifestPusher::index())
        .with(ManifestDeleter::of(Child))
        .with(ManifestGc::run())
        .collecting(&[Child, Layer]),
    ]
}

/// Pushes of the referrer.
fn referrers() -> Vec<ManifestScenario> {
    vec![
        ManifestScenario::new("referrer push, retag, 2 GC runs", TagPointer::Index)
            .with(ManifestPusher::referrer())
            .with(ManifestProcess::Retag)
            .with(ManifestGc::run())
            .with(ManifestGc::run())
            .collecting(&[Index, Child, Referrer]),
        ManifestScenario::new("referrer push, DELETE of the index, GC", TagPointer::Index)
            .with(ManifestPusher::referrer())
            .with(ManifestDeleter::of(Index))
            .with(ManifestGc::run())
            .collecting(&[Child, Referrer]),
    ]
}

/// Larger scenarios.
pub(crate) fn large() -> Vec<ManifestScenario> {
    [large_with_deletes(), large_without_deletes()].concat()
}

fn large_with_deletes() -> Vec<ManifestScenario> {
    vec![
        ManifestScenario::without_referrer(
            "2 index pushes, DELETE of the index, GC",
            TagPointer::Index,
        )
        .with(ManifestPusher::index())
        .with(ManifestPusher::untagged_index())
        .with(ManifestDeleter::of(Index))
        .with(ManifestGc::run())
        .collecting(&[Child]),
        ManifestScenario::without_referrer(
            "index push, DELETE of the index, 2 GC runs",
            TagPointer::Index,
        )
        .with(ManifestPusher::index())
        .with(ManifestDeleter::of(Index))
        .with(ManifestGc::run())
        .with(ManifestGc::run())
        .collecting(&[Child, Layer]),
        ManifestScenario::without_referrer(
            "index push, child push, DELETE of the child, GC",
            TagPointer::Absent,
        )
        .without(Index)
        .with(ManifestPusher::index())
        .with(ManifestPusher::child())
        .with(ManifestDeleter::of(Child))
        .with(ManifestGc::run())
        .collecting(&[Child, Layer]),
    ]
}

fn large_without_deletes() -> Vec<ManifestScenario> {
    vec![
        ManifestScenario::new("referrer push, retag, index push, GC", TagPointer::Index)
            .with(ManifestPusher::referrer())
            .with(ManifestPusher::index())
            .with(ManifestProcess::Retag)
            .with(ManifestGc::run())
            .collecting(&[Index]),
        ManifestScenario::without_referrer("index push, child push, 2 GC runs", TagPointer::Absent)
            .without(Index)
            .with(ManifestPusher::index())
            .with(ManifestPusher::child())
            .with(ManifestGc::run())
            .with(ManifestGc::run())
            .collecting(&[Child, Layer])
            .until(7),
        ManifestScenario::without_referrer("index push, retag, 2 GC runs", TagPointer::Index)
            .with(ManifestPusher::index())
            .with(ManifestProcess::Retag)
            .with(ManifestGc::run())
            .with(ManifestGc::run())
            .collecting(&[Index, Child]),
        ManifestScenario::without_referrer("index push, 3 GC runs", TagPointer::Absent)
            .with(ManifestPusher::index())
            .with(ManifestGc::run())
            .with(ManifestGc::run())
            .with(ManifestGc::run())
            .collecting(&[Index, Child, Layer])
            .until(9),
    ]
}
