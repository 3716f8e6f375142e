//! [`TagChanges`]: a few changes, in a fixed place of a state.

use super::{ModelChangeId, RecordedChange};

/// The most changes of one scenario.
const CHANGES_MAX: usize = 7;

/// Changes in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TagChanges([Option<RecordedChange>; CHANGES_MAX]);

impl TagChanges {
    pub(super) fn len(&self) -> u8 {
        self.iter().map(|_| 1).sum()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = RecordedChange> {
        self.0.into_iter().flatten()
    }

    pub(super) fn has(&self, id: ModelChangeId) -> bool {
        self.iter().any(|entry| entry.id == id)
    }

    /// Adds a change at the end.
    pub(super) fn append(&mut self, change: RecordedChange) {
        self.0[usize::from(self.len())] = Some(change);
    }

    /// A Create at the key of a change: one that exists is the same.
    pub(super) fn create(&mut self, change: RecordedChange) {
        if !self.has(change.id) {
            self.append(change);
            self.0[..].sort_unstable_by_key(|entry| (entry.is_none(), *entry));
        }
    }

    pub(super) fn remove(&mut self, id: ModelChangeId) {
        let kept = self.0.map(|entry| entry.filter(|entry| entry.id != id));
        self.0 = kept;
        self.0[..].sort_unstable_by_key(|entry| (entry.is_none(), *entry));
    }

    /// The next entry of a listing, which goes from the newest to the oldest one.
    pub(super) fn newest_before(&self, id: Option<ModelChangeId>) -> Option<RecordedChange> {
        self.iter().filter(|entry| id.is_none_or(|id| entry.id < id)).last()
    }

    /// At which position a change is.
    pub(super) fn position(&self, id: ModelChangeId) -> Option<u8> {
        (0..).zip(self.iter()).find(|(_, entry)| entry.id == id).map(|(at, _)| at)
    }
}
