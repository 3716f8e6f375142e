//! The scenarios with the history of a tag.

use super::changer::TagChanger;
use super::entries::TagChanges;
use super::expiry::{DeletedTagGc, HistoryGc};
use super::page::HistoryReader;
use super::{
    HistoryGoal, HistoryProcess, HistoryScenario, HistoryStore, ModelChangeId, RecordedChange,
    TagValue,
};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;

use HistoryGoal::{Cleans, Expires, Moves, Reads};
use TagValue::{Deleted, Digest};

impl HistoryScenario {
    /// A scenario in which the tag has changed before: all but the last are archived.
    fn new(name: &'static str, values: &[TagValue]) -> Self {
        let mut effective = TagChanges::default();
        for (at, value) in (1..).zip(values) {
            let id = ModelChangeId { millis: at, request: 10 + at };
            effective.append(RecordedChange { id, value: *value });
        }
        let current = effective.iter().last();
        let mut history = effective;
        if let Some(current) = current {
            history.remove(current.id);
        }
        let store = HistoryStore {
            now: 0,
            tag: ModelRecord::old(current),
            history,
            effective,
            removed: 0,
            is_early: false,
            is_page_wrong: false,
            is_page_read: false,
            is_cleaned: false,
        };
        let (context, processes) = (ProtocolContext::new(1), Vec::new());
        Self { name, context, store, processes, goals: &[] }
    }

    fn with(mut self, process: HistoryProcess) -> Self {
        self.processes.push(process);
        self
    }

    /// Entries are kept for longer than deleted records.
    fn keeping(mut self, keep: u8) -> Self {
        self.context.limits.keep = keep;
        self
    }

    fn until(mut self, end: u8) -> Self {
        self.context.limits.end = end;
        self
    }

    fn reaching(mut self, goals: &'static [HistoryGoal]) -> Self {
        self.goals = goals;
        self
    }
}

/// The scenarios that every run checks.
pub(crate) fn scenarios() -> Vec<HistoryScenario> {
    vec![
        HistoryScenario::new("2 moves of a tag, page", &[Digest(1), Digest(2)])
            .with(TagChanger::request(1, Digest(3), 1))
            .with(TagChanger::request(2, Digest(4), -1))
            .with(HistoryReader::of_tag())
            .reaching(&[Reads, Moves])
            .until(3),
        HistoryScenario::new("move of a tag, same digest, DELETE, page", &[Digest(1), Digest(2)])
            .with(TagChanger::request(1, Digest(3), -1))
            .with(TagChanger::request(2, Digest(2), 0))
            .with(TagChanger::request(3, Deleted, 1))
            .with(HistoryReader::of_tag())
            .reaching(&[Reads, Moves])
            .until(0),
        HistoryScenario::new("deleted tag, PUT, GC, page", &[Digest(1), Deleted])
            .with(TagChanger::request(1, Digest(3), -1))
            .with(TagChanger::request(2, Deleted, 1))
            .with(DeletedTagGc::run())
            .with(HistoryReader::of_tag())
            .reaching(&[Reads, Cleans, Moves])
            .until(6),
        HistoryScenario::new("new tag, DELETE, GC, page", &[])
            .with(TagChanger::request(1, Digest(3), 0))
            .with(TagChanger::request(2, Deleted, 0))
            .with(DeletedTagGc::run())
            .with(HistoryReader::of_tag())
            .reaching(&[Reads, Cleans])
            .until(6),
        HistoryScenario::new("DELETE of a tag, 2 GC runs, page", &[Digest(1), Digest(2)])
            .with(TagChanger::request(1, Deleted, 0))
            .with(DeletedTagGc::run())
            .with(HistoryGc::run())
            .with(HistoryReader::of_tag())
            .reaching(&[Reads, Cleans])
            .keeping(6)
            .until(6),
        HistoryScenario::new(
            "move of a tag, GC of history, page",
            &[Digest(1), Digest(2), Digest(3)],
        )
        .with(TagChanger::request(1, Digest(4), 1))
        .with(HistoryGc::run())
        .with(HistoryReader::of_tag())
        .reaching(&[Reads, Expires])
        .until(7),
        HistoryScenario::new("new tag, 2 PUTs, DELETE", &[])
            .with(TagChanger::request(1, Digest(3), 0))
            .with(TagChanger::request(2, Deleted, -1))
            .with(TagChanger::request(3, Digest(4), 1))
            .until(1),
    ]
}

/// Larger scenarios.
pub(crate) fn large() -> Vec<HistoryScenario> {
    vec![
        HistoryScenario::new("3 moves of a tag, page", &[Digest(1)])
            .with(TagChanger::request(1, Digest(3), 1))
            .with(TagChanger::request(2, Digest(4), -1))
            .with(TagChanger::request(3, Digest(5), 0))
            .with(HistoryReader::of_tag())
            .reaching(&[Reads, Moves])
            .until(0),
        HistoryScenario::new("deleted tag, PUT, 2 GC runs, page", &[Digest(1), Deleted])
            .with(TagChanger::request(1, Digest(3), -1))
            .with(TagChanger::request(2, Deleted, 1))
            .with(DeletedTagGc::run())
            .with(HistoryGc::run())
            .with(HistoryReader::of_tag())
            .reaching(&[Reads, Cleans, Expires])
            .until(6),
        HistoryScenario::new("move of a tag, DELETE, GC of history", &[Digest(1), Digest(2)])
            .with(TagChanger::request(1, Digest(3), 0))
            .with(TagChanger::request(2, Deleted, 0))
            .with(HistoryGc::run())
            .reaching(&[Expires])
            .until(6),
    ]
}
