//! [`DeletedTagGc`]: archives and removes a deleted record. [`HistoryGc`]: removes expired entries.

use super::entries::TagChanges;
use super::{HistoryProcess, HistoryStore, MILLIS_AT_START, RecordedChange, TagValue};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

/// Reads a deleted record older than G, archives it, and removes that version.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct DeletedTagGc(DeletedTagStep);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum DeletedTagStep {
    Reading,
    Archiving { change: RecordedChange, version: u8, since: u8 },
    Removing { version: u8 },
}

impl DeletedTagGc {
    pub(super) fn run() -> HistoryProcess {
        HistoryProcess::DeletedTagGc(Self(DeletedTagStep::Reading))
    }

    pub(super) fn step(
        &mut self,
        store: &mut HistoryStore,
        context: &ProtocolContext,
    ) -> (Option<HistoryProcess>, Note) {
        match self.0 {
            DeletedTagStep::Reading => self.read(store, context),
            DeletedTagStep::Archiving { since, .. } if context.is_late(since, store.now) => {
                (Some(HistoryProcess::Done), note("is too late"))
            }
            DeletedTagStep::Archiving { change, version, .. } => {
                store.history.create(change);
                self.0 = DeletedTagStep::Removing { version };
                (None, note("archives the deleted record"))
            }
            DeletedTagStep::Removing { version } if store.tag.version != version => {
                (Some(HistoryProcess::Done), note("finds another version of the tag"))
            }
            DeletedTagStep::Removing { .. } => {
                store.tag.delete(None);
                store.is_cleaned = true;
                (Some(HistoryProcess::Done), note("removes the deleted record"))
            }
        }
    }

    fn read(
        &mut self,
        store: &HistoryStore,
        context: &ProtocolContext,
    ) -> (Option<HistoryProcess>, Note) {
        let age = store.now - store.tag.modified;
        let is_old = age > context.limits.grace || !context.keeps(ProtocolRule::DeletedRecordAge);
        let deleted = store.tag.value.filter(|it| it.value == TagValue::Deleted && is_old);
        let Some(change) = deleted else {
            return (Some(HistoryProcess::Done), note("finds no old deleted record"));
        };
        let version = store.tag.version;
        self.0 = match context.keeps(ProtocolRule::ArchiveDeleted) {
            true => DeletedTagStep::Archiving { change, version, since: store.now },
            false => DeletedTagStep::Removing { version },
        };
        (None, note("reads an old deleted record"))
    }
}

/// One run: it reads the record, lists the entries, and removes those that have expired.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HistoryGc {
    at: HistoryGcStep,
    /// T0.
    cut: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum HistoryGcStep {
    Beginning,
    Reading,
    Listing {
        current: Option<RecordedChange>,
    },
    /// A broken rule: the record is read after the listing.
    ReadingLast {
        listed: TagChanges,
    },
    /// About to remove what has expired.
    Removing {
        expired: TagChanges,
    },
}

impl HistoryGc {
    pub(super) fn run() -> HistoryProcess {
        HistoryProcess::HistoryGc(Self { at: HistoryGcStep::Beginning, cut: 0 })
    }

    pub(super) fn step(
        &mut self,
        store: &mut HistoryStore,
        context: &ProtocolContext,
    ) -> (Option<HistoryProcess>, Note) {
        match self.at {
            HistoryGcStep::Beginning => {
                self.cut = store.now + MILLIS_AT_START;
                self.at = HistoryGcStep::Reading;
                (None, note("begins"))
            }
            HistoryGcStep::Reading if !context.keeps(ProtocolRule::GcCurrentFirst) => {
                self.at = HistoryGcStep::ReadingLast { listed: store.history };
                (None, note("lists the history"))
            }
            HistoryGcStep::ReadingLast { listed } => {
                let (end, _) = self.judge(&listed, context, store.tag.value);
                (end, note("reads the tag"))
            }
            HistoryGcStep::Reading => {
                self.at = HistoryGcStep::Listing { current: store.tag.value };
                (None, note("reads the tag"))
            }
            HistoryGcStep::Listing { current } => self.judge(&store.history, context, current),
            HistoryGcStep::Removing { expired } => remove(self, store, context, expired),
        }
    }

    fn judge(
        &mut self,
        listed: &TagChanges,
        context: &ProtocolContext,
        current: Option<RecordedChange>,
    ) -> (Option<HistoryProcess>, Note) {
        let expired = self.expired(listed, context, current);
        self.at = HistoryGcStep::Removing { expired };
        let end = (expired.len() == 0).then_some(HistoryProcess::Done);
        (end, note("lists the history"))
    }

    /// An entry ends when the change after it began, a deleted one that is the last when it began.
    fn expired(
        &self,
        listed: &TagChanges,
        context: &ProtocolContext,
        current: Option<RecordedChange>,
    ) -> TagChanges {
        let mut expired = TagChanges::default();
        let before = |entry: &RecordedChange| current.is_none_or(|now| entry.id < now.id);
        let entries = || listed.iter().filter(before);
        for (at, entry) in entries().enumerate() {
            let next = entries().nth(at + 1).or(current);
            let is_last =
                entry.value == TagValue::Deleted || !context.keeps(ProtocolRule::GcCurrentFirst);
            let last = is_last.then_some(entry);
            let end = next.or(last).map(|change| change.id.millis);
            if end.is_some_and(|end| self.cut > end + context.limits.keep) {
                expired.append(entry);
            }
        }
        expired
    }
}

fn remove(
    gc: &mut HistoryGc,
    store: &mut HistoryStore,
    context: &ProtocolContext,
    mut expired: TagChanges,
) -> (Option<HistoryProcess>, Note) {
    let entry = match context.keeps(ProtocolRule::OldestFirst) {
        true => expired.iter().next(),
        false => expired.iter().last(),
    };
    let Some(entry) = entry else {
        return (Some(HistoryProcess::Done), note("has nothing to remove"));
    };
    if store.history.has(entry.id) {
        store.expire(entry.id, context.limits.keep);
    }
    expired.remove(entry.id);
    gc.at = HistoryGcStep::Removing { expired };
    let end = (expired.len() == 0).then_some(HistoryProcess::Done);
    (end, note("removes an expired entry"))
}
