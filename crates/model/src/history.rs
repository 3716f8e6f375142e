//! One tag and its history: changes that replace each other, the entries that archive them, a page
//! of them, and GC, which archives what was deleted and removes what has expired.
//!
//! A change is a swap of the tag's record. The writer that makes it has archived the change that it
//! replaces, so at every moment the record and the entries before it are the changes that took
//! effect. A request to the store may be applied late, after its sender has stopped to wait for the
//! response, and the sender's clock may differ from the store's.

mod changer;
mod entries;
mod expiry;
mod page;
mod scenarios;

use std::fmt;

use stateright::Property;

use self::changer::{LateSwap, TagChanger};
use self::entries::TagChanges;
use self::expiry::{DeletedTagGc, HistoryGc};
use self::page::HistoryReader;
pub(crate) use self::scenarios::{large, scenarios};
use crate::checked::{CheckedProtocol, Note, PROCESSES_MAX, Protocol, ProtocolState, note};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;
use crate::{ProtocolLimits, ProtocolRules};

/// The time of a change at the store's first tick: there are older ones.
const MILLIS_AT_START: u8 = 3;

/// The ULID of a change: a clock's time, and the request that makes it unique.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct ModelChangeId {
    millis: u8,
    request: u8,
}

/// What a change makes of the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TagValue {
    Digest(u8),
    /// A deleted record: every reader treats it as absent.
    Deleted,
}

/// A change, as its record and its entry have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct RecordedChange {
    id: ModelChangeId,
    value: TagValue,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct HistoryStore {
    now: u8,
    tag: ModelRecord<Option<RecordedChange>>,
    /// The entries, by their change.
    history: TagChanges,
    /// Every change that took effect, in that order. Only the invariants read this and the
    /// following fields.
    effective: TagChanges,
    /// How many entries have been removed, the oldest ones first.
    removed: u8,
    /// One was removed before `history-keep` after its end.
    is_early: bool,
    is_page_wrong: bool,
    /// A page with more than one change was read to its end.
    is_page_read: bool,
    /// A deleted record was removed.
    is_cleaned: bool,
}

impl HistoryStore {
    /// A swap that takes effect.
    fn change(&mut self, change: RecordedChange) {
        self.tag.write(Some(change), self.now);
        self.effective.append(change);
    }

    /// The time of a change now, by a clock that differs from the store's.
    fn millis(&self, ahead: i8) -> u8 {
        (self.now + MILLIS_AT_START).saturating_add_signed(ahead)
    }

    /// Removes an entry, which must have ended long ago. A deletion keeps nothing, and so ended when it
    /// began.
    fn expire(&mut self, id: ModelChangeId, keep: u8) {
        let next = self.effective.iter().find(|change| change.id > id);
        let own = self.effective.iter().find(|change| change.id == id);
        let next = next.filter(|_| own.is_some_and(|own| own.value != TagValue::Deleted));
        let end = next.or(own).map_or(0, |change| change.id.millis);
        self.is_early |= self.millis(0) <= end + keep;
        self.history.remove(id);
        let at = self.effective.position(id);
        self.removed += u8::from(at.is_some_and(|at| at >= self.removed));
    }

    /// Whether the record and the entries before it are the changes that took effect.
    ///
    /// A deletion may have expired when it is archived, and be archived again by a PUT that has read it.
    /// No manifest depends on that entry, which the next run removes.
    fn is_complete(&self) -> bool {
        let current = self.tag.value;
        let before = |entry: &RecordedChange| current.is_none_or(|now| entry.id < now.id);
        let recorded = || self.history.iter().filter(before).chain(current);
        let effective = |first: u8| self.effective.iter().skip(usize::from(first));
        let oldest = recorded().next();
        let is_again = self.removed > 0
            && oldest.is_some_and(|oldest| oldest.value == TagValue::Deleted)
            && oldest == effective(self.removed - 1).next();
        recorded().eq(effective(self.removed - u8::from(is_again)))
    }

    /// Whether a request has made two changes.
    fn has_repeated(&self) -> bool {
        let all = || self.effective.iter().enumerate();
        all().any(|(at, one)| all().any(|(of, two)| at < of && one.id.request == two.id.request))
    }
}

/// A process that works on the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum HistoryProcess {
    TagChanger(TagChanger),
    /// A swap of a request that has ended, which may still be applied.
    LateSwap(LateSwap),
    HistoryReader(HistoryReader),
    DeletedTagGc(DeletedTagGc),
    HistoryGc(HistoryGc),
    Done,
    Unused,
}

type HistoryState = ProtocolState<HistoryStore, HistoryProcess>;

/// A scenario with the history of a tag.
#[derive(Clone)]
pub(crate) struct HistoryScenario {
    name: &'static str,
    context: ProtocolContext,
    store: HistoryStore,
    processes: Vec<HistoryProcess>,
    goals: &'static [HistoryGoal],
}

/// What must be reachable in a scenario, so that it proves something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HistoryGoal {
    /// A page is read to its end.
    Reads,
    /// A deleted record is removed.
    Cleans,
    /// Entries expire.
    Expires,
    /// Two changes take effect.
    Moves,
}

impl Protocol for HistoryScenario {
    type Store = HistoryStore;
    type Process = HistoryProcess;

    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self) -> HistoryState {
        let mut processes = [HistoryProcess::Unused; PROCESSES_MAX];
        processes[..self.processes.len()].copy_from_slice(&self.processes);
        ProtocolState { store: self.store, processes }
    }

    fn with_rules(&self, rules: ProtocolRules) -> Self {
        Self { context: ProtocolContext { rules, ..self.context }, ..self.clone() }
    }

    fn limits(&self) -> &ProtocolLimits {
        &self.context.limits
    }

    fn now(store: &HistoryStore) -> u8 {
        store.now
    }

    fn tick(&self, state: &mut HistoryState) {
        state.store.now += 1;
        for process in &mut state.processes {
            match process {
                HistoryProcess::TagChanger(changer) => changer.forget(state.store.now),
                // The store refuses what was signed too long ago.
                HistoryProcess::LateSwap(late) if late.is_over(state.store.now) => {
                    *process = HistoryProcess::Done;
                }
                _ => {}
            }
        }
    }

    fn choices(&self, _: &HistoryStore, process: &HistoryProcess) -> u8 {
        match process {
            HistoryProcess::TagChanger(changer) => changer.choices(),
            HistoryProcess::Done | HistoryProcess::Unused => 0,
            _ => 1,
        }
    }

    fn step(&self, store: &mut HistoryStore, process: &mut HistoryProcess, choice: u8) -> Note {
        let context = &self.context;
        let mut next = *process;
        let (end, note) = match &mut next {
            HistoryProcess::TagChanger(it) => it.step(store, context, choice),
            HistoryProcess::LateSwap(it) => (Some(HistoryProcess::Done), it.apply(store)),
            HistoryProcess::HistoryReader(it) => it.step(store, context),
            HistoryProcess::DeletedTagGc(it) => it.step(store, context),
            HistoryProcess::HistoryGc(it) => it.step(store, context),
            HistoryProcess::Done | HistoryProcess::Unused => (None, note("has ended")),
        };
        *process = end.unwrap_or(next);
        note
    }

    fn properties(&self) -> Vec<Property<CheckedProtocol<Self>>> {
        let mut properties = vec![
            Property::always(
                "the record and its history are the changes that took effect",
                |_, state: &HistoryState| state.store.is_complete(),
            ),
            Property::always(
                "a page has the changes that took effect, each once",
                |_, state: &HistoryState| !state.store.is_page_wrong,
            ),
            Property::always(
                "an entry stays for `history-keep` after its end",
                |_, state: &HistoryState| !state.store.is_early,
            ),
            Property::always("a request takes effect once", |_, state: &HistoryState| {
                !state.store.has_repeated()
            }),
            Property::sometimes("every process ends", |_, state: &HistoryState| {
                let ended = |it: &_| matches!(it, HistoryProcess::Done | HistoryProcess::Unused);
                state.processes.iter().all(ended)
            }),
        ];
        properties.extend(self.goals.iter().map(|goal| goal.property()));
        properties
    }
}

impl HistoryGoal {
    fn property(self) -> Property<CheckedProtocol<HistoryScenario>> {
        match self {
            Self::Reads => Property::sometimes("a page is read", |_, state: &HistoryState| {
                state.store.is_page_read
            }),
            Self::Cleans => {
                Property::sometimes("a deleted record is removed", |_, state: &HistoryState| {
                    state.store.is_cleaned
                })
            }
            Self::Expires => Property::sometimes("2 entries expire", |_, state: &HistoryState| {
                state.store.removed > 1
            }),
            Self::Moves => {
                Property::sometimes("2 changes take effect", |_, state: &HistoryState| {
                    state.store.effective.len() > 3
                })
            }
        }
    }
}

impl fmt::Display for HistoryProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TagChanger(it) => write!(f, "{it}"),
            Self::LateSwap(_) => f.write_str("late swap"),
            Self::HistoryReader(_) => f.write_str("page"),
            Self::DeletedTagGc(_) => f.write_str("GC of deleted records"),
            Self::HistoryGc(_) => f.write_str("GC of history"),
            Self::Done | Self::Unused => f.write_str("unused"),
        }
    }
}
