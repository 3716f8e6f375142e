//! The scenarios with an immutable tag.

use super::delete::{ChildDelete, DigestDelete};
use super::push::{DigestPush, ImmutablePush};
use super::{DIGESTS, ImmutableGoal, ImmutableProcess, ImmutableScenario, ImmutableStore, LEVELS};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;
use crate::set::NumberSet;

use ImmutableGoal::{Deletes, Refuses, Second};

impl ImmutableScenario {
    /// A scenario in which the manifests exist, and the tag does not.
    fn new(name: &'static str) -> Self {
        let store = ImmutableStore {
            now: 0,
            tag: ModelRecord::old(None),
            manifests: [ModelRecord::old(true); DIGESTS],
            hints: [ModelRecord::old(false); DIGESTS],
            needed: [ModelRecord::old(true); LEVELS],
            needed_hints: [ModelRecord::old(false); LEVELS],
            acknowledged: NumberSet::EMPTY,
            is_refused: false,
            is_deleted: false,
        };
        let (context, processes) = (ProtocolContext::new(1), Vec::new());
        Self { name, context, store, processes, goals: &[] }
    }

    /// A scenario in which the tag was deleted or moved before it was immutable: hints remain.
    fn hinted(name: &'static str) -> Self {
        let mut scenario = Self::new(name);
        scenario.store.hints = [ModelRecord::old(true); DIGESTS];
        scenario.store.needed_hints = [ModelRecord::old(true); LEVELS];
        scenario
    }

    fn without_manifests(mut self) -> Self {
        for manifest in &mut self.store.manifests {
            manifest.delete(false);
        }
        self
    }

    fn with(mut self, process: ImmutableProcess) -> Self {
        self.processes.push(process);
        self
    }

    fn until(mut self, end: u8) -> Self {
        self.context.limits.end = end;
        self
    }

    fn reaching(mut self, goals: &'static [ImmutableGoal]) -> Self {
        self.goals = goals;
        self
    }
}

/// The scenarios that every run checks.
pub(crate) fn scenarios() -> Vec<ImmutableScenario> {
    vec![
        ImmutableScenario::new("2 pushes to an immutable tag")
            .without_manifests()
            .with(ImmutablePush::of(0))
            .with(ImmutablePush::of(1))
            .reaching(&[Second, Refuses])
            .until(2),
        ImmutableScenario::new("push to an immutable tag, push and DELETE by digest")
            .with(ImmutablePush::of(1))
            .with(DigestPush::of(1))
            .with(DigestDelete::of(1))
            .reaching(&[Refuses, Deletes])
            .until(5),
        ImmutableScenario::hinted("push to an immutable tag with a hint, DELETE by digest")
            .with(ImmutablePush::of(1))
            .with(DigestDelete::of(1))
            .reaching(&[Refuses, Deletes])
            .until(6),
        ImmutableScenario::new("push to an immutable tag, DELETE of the child")
            .without_manifests()
            .with(ImmutablePush::of(0))
            .with(ChildDelete::at_level(0))
            .reaching(&[Refuses, Deletes])
            .until(6),
        ImmutableScenario::new("push to an immutable tag, DELETE of the grandchild")
            .without_manifests()
            .with(ImmutablePush::of_nested())
            .with(ChildDelete::at_level(1))
            .reaching(&[Refuses, Deletes])
            .until(6),
        ImmutableScenario::hinted(
            "push to an immutable tag with hints, DELETEs of child and grandchild",
        )
        .with(ImmutablePush::of_nested())
        .with(ChildDelete::at_level(0))
        .with(ChildDelete::at_level(1))
        .reaching(&[Refuses, Deletes])
        .until(4),
        ImmutableScenario::hinted("2 pushes to an immutable tag, 2 DELETEs by digest")
            .with(ImmutablePush::of(0))
            .with(ImmutablePush::of(1))
            .with(DigestDelete::of(1))
            .with(ChildDelete::at_level(0))
            .reaching(&[Second, Refuses, Deletes])
            .until(3),
    ]
}
