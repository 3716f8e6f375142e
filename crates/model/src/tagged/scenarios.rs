//! The scenarios with a manifest and a tag.

use super::delete::TaggedDelete;
use super::gc::HintGc;
use super::push::{DigestPush, TagMove, TagPush};
use super::{TagPointer, TaggedGoal, TaggedProcess, TaggedScenario, TaggedStore};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;

use TaggedGoal::{Fenced, Gone, Stays};

impl TaggedScenario {
    /// A scenario in which the manifest exists without a tag.
    fn new(name: &'static str) -> Self {
        let store = TaggedStore {
            now: 0,
            tag: ModelRecord::old(TagPointer::Absent),
            manifest: ModelRecord::old(true),
            hint: ModelRecord::old(false),
            pushes: 0,
            deletes: 0,
            stays: false,
            is_gone: false,
            is_pushed: false,
            is_deleted: false,
            is_fenced: false,
        };
        let (context, processes) = (ProtocolContext::new(1), Vec::new());
        Self { name, context, store, processes, goals: &[] }
    }

    /// A scenario in which the tag points there, with its hint.
    fn tagged(mut self, tag: TagPointer) -> Self {
        self.store.tag = ModelRecord::old(tag);
        self.store.hint = ModelRecord::old(true);
        self
    }

    fn without_manifest(mut self) -> Self {
        self.store.manifest.delete(false);
        self
    }

    fn with(mut self, process: TaggedProcess) -> Self {
        self.processes.push(process);
        self
    }

    fn from(mut self, now: u8) -> Self {
        self.store.now = now;
        self
    }

    fn until(mut self, end: u8) -> Self {
        self.context.limits.end = end;
        self
    }

    fn reaching(mut self, goals: &'static [TaggedGoal]) -> Self {
        self.goals = goals;
        self
    }
}

/// The scenarios that every run checks.
pub(crate) fn scenarios() -> Vec<TaggedScenario> {
    vec![
        TaggedScenario::new("push to a tag, DELETE by digest")
            .with(TagPush::begin())
            .with(TaggedDelete::begin())
            .reaching(&[Fenced, Stays, Gone])
            .until(4),
        TaggedScenario::new("2 pushes to a tag, DELETE by digest")
            .with(TagPush::begin())
            .with(TagPush::begin())
            .with(TaggedDelete::begin())
            .reaching(&[Fenced, Stays, Gone])
            .until(3),
        TaggedScenario::new("push to a tag, push by digest, DELETE by digest")
            .with(TagPush::begin())
            .with(DigestPush::begin())
            .with(TaggedDelete::begin())
            .reaching(&[Fenced, Stays])
            .until(2),
        TaggedScenario::new("push again to its tag, 2 DELETEs by digest")
            .tagged(TagPointer::Here)
            .with(TagPush::begin())
            .with(TaggedDelete::begin())
            .with(TaggedDelete::begin())
            .reaching(&[Stays, Gone])
            .until(2),
        TaggedScenario::new("push to a moved tag, DELETE by digest, move of it")
            .tagged(TagPointer::Elsewhere)
            .with(TagPush::begin())
            .with(TaggedDelete::begin())
            .with(TagMove::begin())
            .reaching(&[Fenced, Stays, Gone])
            .from(4)
            .until(6),
        TaggedScenario::new("push to a deleted tag, DELETE by digest, GC of hints")
            .tagged(TagPointer::Deleted)
            .with(TagPush::begin())
            .with(TaggedDelete::begin())
            .with(HintGc::run())
            .reaching(&[Fenced, Stays, Gone])
            .from(5)
            .until(7),
        TaggedScenario::new("push of a new manifest to a tag, DELETE by digest, GC of hints")
            .without_manifest()
            .with(TagPush::begin())
            .with(TaggedDelete::begin())
            .with(HintGc::run())
            .reaching(&[Stays, Gone])
            .until(6),
    ]
}

/// Larger scenarios.
pub(crate) fn large() -> Vec<TaggedScenario> {
    vec![
        TaggedScenario::new("2 pushes to a tag, 2 DELETEs by digest")
            .with(TagPush::begin())
            .with(TagPush::begin())
            .with(TaggedDelete::begin())
            .with(TaggedDelete::begin())
            .reaching(&[Fenced, Stays, Gone])
            .until(2),
        TaggedScenario::new("2 pushes to a moved tag, move of it, DELETE by digest, GC of hints")
            .tagged(TagPointer::Elsewhere)
            .with(TagPush::begin())
            .with(TagPush::begin())
            .with(TagMove::begin())
            .with(TaggedDelete::begin())
            .with(HintGc::run())
            .reaching(&[Fenced, Stays, Gone])
            .from(4)
            .until(6),
    ]
}
