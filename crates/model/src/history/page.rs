//! [`HistoryReader`]: a page of the tag's history.

use super::{HistoryProcess, HistoryStore, ModelChangeId};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

/// Reads the current record, then lists the entries, each with a request of its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HistoryReader {
    at: PageStep,
    /// How many changes had taken effect when it began.
    least: u8,
    /// The position of the change that was shown last.
    shown: Option<u8>,
    /// How many were shown.
    count: u8,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum PageStep {
    Beginning,
    Listing {
        before: Option<ModelChangeId>,
    },
    /// A broken rule: the record is read after the listing, whose newest change this was.
    ReadingLast {
        listed: Option<u8>,
    },
}

impl HistoryReader {
    pub(super) fn of_tag() -> HistoryProcess {
        let at = PageStep::Beginning;
        HistoryProcess::HistoryReader(Self { at, least: 0, shown: None, count: 0 })
    }

    pub(super) fn step(
        &mut self,
        store: &mut HistoryStore,
        context: &ProtocolContext,
    ) -> (Option<HistoryProcess>, Note) {
        match self.at {
            PageStep::Beginning if !context.keeps(ProtocolRule::CurrentFirst) => {
                let newest = store.history.newest_before(None);
                let listed = newest.and_then(|entry| store.effective.position(entry.id));
                self.at = PageStep::ReadingLast { listed };
                (None, note("lists the history"))
            }
            PageStep::Beginning => self.begin(store, context),
            PageStep::Listing { before } => self.list(store, before),
            PageStep::ReadingLast { listed } => {
                let current = store.tag.value.and_then(|now| store.effective.position(now.id));
                let next = listed.map_or(0, |at| at + 1);
                store.is_page_wrong |= current.is_some_and(|current| current > next);
                (Some(HistoryProcess::Done), note("reads the tag"))
            }
        }
    }

    fn begin(
        &mut self,
        store: &mut HistoryStore,
        context: &ProtocolContext,
    ) -> (Option<HistoryProcess>, Note) {
        self.least = store.effective.len();
        if let Some(current) = store.tag.value {
            self.show(store, current.id);
        }
        // What is not older than the current change was archived to be replaced, or has replaced it.
        let drops = context.keeps(ProtocolRule::DropFromCurrent);
        let before = store.tag.value.map(|current| current.id).filter(|_| drops);
        self.at = PageStep::Listing { before };
        (None, note("reads the tag"))
    }

    fn list(
        &mut self,
        store: &mut HistoryStore,
        before: Option<ModelChangeId>,
    ) -> (Option<HistoryProcess>, Note) {
        let Some(entry) = store.history.newest_before(before) else {
            let oldest = self.shown.unwrap_or(self.least);
            store.is_page_wrong |= oldest > store.removed;
            store.is_page_read |= self.count > 1;
            return (Some(HistoryProcess::Done), note("lists no more entries"));
        };
        self.show(store, entry.id);
        self.at = PageStep::Listing { before: Some(entry.id) };
        (None, note("lists an entry"))
    }

    /// Each is the change before the one shown last; the first is as new as the page.
    fn show(&mut self, store: &mut HistoryStore, id: ModelChangeId) {
        let at = store.effective.position(id);
        store.is_page_wrong |= match (at, self.shown) {
            (None, _) => true,
            (Some(at), Some(shown)) => at + 1 != shown,
            (Some(at), None) => at + 1 < self.least,
        };
        (self.shown, self.count) = (at, self.count + 1);
    }
}
