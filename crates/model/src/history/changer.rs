//! [`TagChanger`]: a PUT or DELETE of the tag. [`LateSwap`]: a swap that is applied late.

use std::fmt;

use super::{HistoryProcess, HistoryStore, ModelChangeId, RecordedChange, TagValue};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::context::ProtocolContext;

/// Changes the tag: it reads the record, archives it, and swaps the version that it has read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct TagChanger {
    request: u8,
    to: TagValue,
    /// By how much its clock differs from the store's.
    ahead: i8,
    at: ChangerStep,
    /// When it first read the tag: its window.
    opened: Option<u8>,
    /// A swap was lost.
    is_again: bool,
    /// The swap whose outcome is unknown.
    unknown: Option<Swap>,
    /// It may still be applied.
    late: Option<LateSwap>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ChangerStep {
    Reading,
    /// Another change has replaced the record. Has the swap of unknown outcome come before it?
    Looking(SeenTag),
    Archiving(SeenTag),
    Swapping(SeenTag),
    /// The tag has that digest already: its record gets a new nonce.
    Renewing(SeenTag),
    /// A broken rule: the change is archived that was replaced.
    ArchivingReplaced(RecordedChange),
}

/// The record as it was read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct SeenTag {
    change: Option<RecordedChange>,
    version: u8,
}

/// A conditional write of the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Swap {
    seen: SeenTag,
    change: RecordedChange,
}

/// A swap that may be applied until its signature expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct LateSwap {
    swap: Swap,
    until: u8,
}

impl SeenTag {
    /// Whether the record is still this version; a Create needs only that there is none.
    fn is_still(self, store: &HistoryStore) -> bool {
        match self.change {
            Some(_) => store.tag.version == self.version,
            None => store.tag.value.is_none(),
        }
    }
}

impl Swap {
    fn apply(self, store: &mut HistoryStore) -> bool {
        let is_applied = self.seen.is_still(store);
        if is_applied {
            store.change(self.change);
        }
        is_applied
    }
}

impl LateSwap {
    pub(super) fn is_over(self, now: u8) -> bool {
        now > self.until
    }

    pub(super) fn apply(self, store: &mut HistoryStore) -> Note {
        match self.swap.apply(store) {
            true => note("is applied late, and changes the tag"),
            false => note("is applied late, and finds another version of the tag"),
        }
    }
}

impl TagChanger {
    /// A request of that number, which no other one has.
    pub(super) fn request(request: u8, to: TagValue, ahead: i8) -> HistoryProcess {
        let (at, unknown, late) = (ChangerStep::Reading, None, None);
        HistoryProcess::TagChanger(Self {
            request,
            to,
            ahead,
            at,
            opened: None,
            is_again: false,
            unknown,
            late,
        })
    }

    /// What was sent too long ago is refused.
    pub(super) fn forget(&mut self, now: u8) {
        self.late = self.late.filter(|late| !late.is_over(now));
    }

    /// The swap may get its response, or not; a Create may be sent twice. What is in flight may
    /// be applied.
    pub(super) fn choices(&self) -> u8 {
        self.own_choices() + u8::from(self.late.is_some())
    }

    fn own_choices(&self) -> u8 {
        match self.at {
            ChangerStep::Swapping(_) if self.unknown.is_some() => 1,
            ChangerStep::Swapping(SeenTag { change: None, .. }) => 3,
            ChangerStep::Swapping(_) => 2,
            _ => 1,
        }
    }

    pub(super) fn step(
        &mut self,
        store: &mut HistoryStore,
        context: &ProtocolContext,
        choice: u8,
    ) -> (Option<HistoryProcess>, Note) {
        if let Some(late) = self.late.filter(|_| choice == self.own_choices()) {
            self.late = None;
            return (None, late.apply(store));
        }
        if self.is_late(store, context) {
            return (self.end(), note("is too late"));
        }
        match self.at {
            ChangerStep::Reading => self.read(store, context),
            ChangerStep::Looking(seen) => self.look(store, context, seen),
            ChangerStep::Archiving(seen) => {
                if let Some(change) = seen.change {
                    store.history.create(change);
                }
                self.at = ChangerStep::Swapping(seen);
                (None, note("archives the record"))
            }
            ChangerStep::Swapping(seen) => self.swap(store, context, seen, choice),
            ChangerStep::Renewing(seen) => {
                if !seen.is_still(store) {
                    self.at = ChangerStep::Reading;
                    return (None, note("finds another version of the tag"));
                }
                store.tag.write(seen.change, store.now);
                (self.end(), note("renews the record"))
            }
            ChangerStep::ArchivingReplaced(change) => {
                store.history.create(change);
                (self.end(), note("archives what it has replaced"))
            }
        }
    }

    fn is_late(&self, store: &HistoryStore, context: &ProtocolContext) -> bool {
        let is_kept = context.keeps(ProtocolRule::ChangeInWindow);
        is_kept && self.opened.is_some_and(|opened| context.is_late(opened, store.now))
    }

    fn end(&self) -> Option<HistoryProcess> {
        Some(self.late.map_or(HistoryProcess::Done, HistoryProcess::LateSwap))
    }

    fn read(
        &mut self,
        store: &HistoryStore,
        context: &ProtocolContext,
    ) -> (Option<HistoryProcess>, Note) {
        let seen = SeenTag { change: store.tag.value, version: store.tag.version };
        self.opened.get_or_insert(store.now);
        if let Some(unknown) = self.unknown {
            if seen.change.is_some_and(|change| change.id == unknown.change.id) {
                return (self.end(), note("finds its own change"));
            }
            if !unknown.seen.is_still(store) && context.keeps(ProtocolRule::FindOwnChange) {
                self.at = ChangerStep::Looking(seen);
                return (None, note("finds another change in place of its own"));
            }
        }
        (self.decide(context, seen), note("reads the tag"))
    }

    fn look(
        &mut self,
        store: &HistoryStore,
        context: &ProtocolContext,
        seen: SeenTag,
    ) -> (Option<HistoryProcess>, Note) {
        if self.unknown.is_some_and(|unknown| store.history.has(unknown.change.id)) {
            return (self.end(), note("finds its own change in the history"));
        }
        (self.decide(context, seen), note("does not find its own change"))
    }

    /// What to do about a record that was read.
    fn decide(&mut self, context: &ProtocolContext, seen: SeenTag) -> Option<HistoryProcess> {
        // Once that version is replaced, the swap of it can never be applied.
        self.unknown = self.unknown.filter(|unknown| unknown.seen == seen);
        let value = seen.change.map(|change| change.value);
        if self.to == TagValue::Deleted && matches!(value, None | Some(TagValue::Deleted)) {
            return self.end();
        }
        let skips = match self.is_again {
            false => !context.keeps(ProtocolRule::Archive),
            true => !context.keeps(ProtocolRule::ArchiveAgain),
        };
        self.at = match value {
            Some(value) if value == self.to => ChangerStep::Renewing(seen),
            Some(_) if !skips => ChangerStep::Archiving(seen),
            _ => ChangerStep::Swapping(seen),
        };
        None
    }

    /// A change that is greater than that which it replaces.
    fn mint(&self, store: &HistoryStore, context: &ProtocolContext, seen: SeenTag) -> Swap {
        let before = seen.change.map_or(0, |change| change.id.millis + 1);
        let clock = store.millis(self.ahead);
        let millis = match context.keeps(ProtocolRule::ChangeGreater) {
            true => clock.max(before),
            false => clock,
        };
        let id = ModelChangeId { millis, request: self.request };
        Swap { seen, change: RecordedChange { id, value: self.to } }
    }

    fn swap(
        &mut self,
        store: &mut HistoryStore,
        context: &ProtocolContext,
        seen: SeenTag,
        choice: u8,
    ) -> (Option<HistoryProcess>, Note) {
        let swap = self.mint(store, context, seen);
        let late = LateSwap { swap, until: store.now + context.limits.window };
        if choice == 1 {
            (self.unknown, self.late) = (Some(swap), Some(late));
            self.at = ChangerStep::Reading;
            return (None, note("sends a swap without a response"));
        }
        if !swap.apply(store) {
            self.is_again = true;
            self.at = ChangerStep::Reading;
            return (None, note("finds another version of the tag"));
        }
        if choice == 2 {
            self.late = Some(late);
            return (self.end(), note("creates the tag by a retry"));
        }
        if let Some(change) = seen.change.filter(|_| !context.keeps(ProtocolRule::Archive)) {
            self.at = ChangerStep::ArchivingReplaced(change);
            return (None, note("changes the tag"));
        }
        (self.end(), note("changes the tag"))
    }
}

impl fmt::Display for TagChanger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.to {
            TagValue::Digest(digest) => write!(f, "PUT of digest {digest}"),
            TagValue::Deleted => f.write_str("DELETE"),
        }
    }
}
