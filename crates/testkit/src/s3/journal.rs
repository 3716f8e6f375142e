//! What was asked of the server, in the order in which it was asked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};

use http::HeaderMap;
use http::request::Parts;

use super::S3Operation;
use super::operation::OperationTarget;

/// Maximum number of requests that are remembered; the oldest are forgotten first.
const RECORDED_MAX: usize = 100_000;

/// A request, and what became of it.
#[derive(Clone, Debug)]
pub struct RecordedRequest {
    /// Its place in the order of arrival, from 0 over the life of the server.
    pub number: u64,
    /// The HTTP method.
    pub method: String,
    /// The operation of S3.
    pub operation: S3Operation,
    /// The key, decoded; empty for an operation on the bucket.
    pub key: String,
    /// The query as it was sent, without the question mark.
    pub query: String,
    /// All headers.
    pub headers: HeaderMap,
    /// How many bytes of body came in.
    pub bytes_in: u64,
    /// How many bytes of body were given to the connection.
    pub bytes_out: u64,
    /// How many bytes it made the server copy.
    pub bytes_copied: u64,
    /// The status of the response; none if there is none yet, or never was.
    pub status: Option<u16>,
    /// Whether a rule matched it.
    pub touched: bool,
}

impl RecordedRequest {
    /// The value of a header.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }

    /// The condition of `If-Match`.
    pub fn if_match(&self) -> Option<&str> {
        self.header("If-Match")
    }

    /// The condition of `If-None-Match`.
    pub fn if_none_match(&self) -> Option<&str> {
        self.header("If-None-Match")
    }
}

/// The requests since the start, or since they were last taken.
#[derive(Debug, Default)]
pub(crate) struct Journal(Mutex<JournalEntries>);

#[derive(Debug, Default)]
struct JournalEntries {
    next: u64,
    kept: BTreeMap<u64, RecordedRequest>,
}

impl Journal {
    /// Records a request that has arrived.
    pub(crate) fn open(self: &Arc<Self>, head: &Parts, target: &OperationTarget) -> JournalEntry {
        let mut entries = self.entries();
        let number = entries.next;
        entries.next += 1;
        let recorded = RecordedRequest {
            number,
            method: head.method.to_string(),
            operation: target.operation,
            key: target.key.clone(),
            query: target.query.clone(),
            headers: head.headers.clone(),
            bytes_in: 0,
            bytes_out: 0,
            bytes_copied: 0,
            status: None,
            touched: false,
        };
        entries.kept.insert(number, recorded);
        if entries.kept.len() > RECORDED_MAX {
            entries.kept.pop_first();
        }
        drop(entries);
        JournalEntry { journal: Arc::clone(self), number }
    }

    pub(crate) fn all(&self) -> Vec<RecordedRequest> {
        self.entries().kept.values().cloned().collect()
    }

    pub(crate) fn take(&self) -> Vec<RecordedRequest> {
        std::mem::take(&mut self.entries().kept).into_values().collect()
    }

    fn entries(&self) -> MutexGuard<'_, JournalEntries> {
        self.0.lock().expect("no holder of the journal panics")
    }
}

/// The record of one request, for those who serve it.
#[derive(Clone, Debug)]
pub(crate) struct JournalEntry {
    journal: Arc<Journal>,
    number: u64,
}

impl JournalEntry {
    /// Adds to the record, if it has not been taken.
    pub(crate) fn note(&self, add: impl FnOnce(&mut RecordedRequest)) {
        if let Some(recorded) = self.journal.entries().kept.get_mut(&self.number) {
            add(recorded);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_are_forgotten_first() {
        let journal = Arc::new(Journal::default());
        let (head, ()) = http::Request::new(()).into_parts();
        let target = OperationTarget::of(&head);
        let first = journal.open(&head, &target);
        for _ in 0..RECORDED_MAX {
            journal.open(&head, &target);
        }
        first.note(|_| panic!("it is forgotten"));
        let kept = journal.all();
        assert_eq!((kept.len(), kept[0].number), (RECORDED_MAX, 1));
    }
}
