//! A manifest that was deleted, is purged and restored, and the mark by which a restore learns of the purge.
//!
//! This is the protocol as it is built. `restore.rs` has it without the mark, as it would be with a record of the purge
//! at the manifest's own key. Here a restore may write the manifest after a purge: so it says in the header that it
//! has created it, and looks for the mark; if it ends before that, GC finds both.

mod client;
mod gc;
mod purge;
mod restore;
mod scenarios;

use std::fmt;

use stateright::Property;

use self::client::{ClientDelete, ClientPush};
use self::gc::MarkGc;
use self::purge::MarkingPurge;
use self::restore::MarkedRestore;
pub(crate) use self::scenarios::{large, scenarios};
use crate::checked::{CheckedProtocol, Note, PROCESSES_MAX, Protocol, ProtocolState, note};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;
use crate::{ProtocolLimits, ProtocolRules};

/// What is at the manifest's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum MarkedManifest {
    Absent,
    /// A client has pushed it.
    Pushed,
    /// A restore has created it, and no client has pushed it since.
    Restored,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PurgedStore {
    now: u8,
    manifest: ModelRecord<MarkedManifest>,
    copy: ModelRecord<bool>,
    mark: ModelRecord<bool>,
    /// How many purges are in flight. Only the invariants read this and the following fields.
    purges: u8,
    /// A client has pushed the manifest, or may have, since the last purge began.
    is_pushed: bool,
    /// A purge was acknowledged.
    is_purged: bool,
    /// A push was acknowledged while no purge or DELETE was in flight, and none has begun since.
    stays: bool,
    deletes: u8,
    /// A restore was acknowledged, and the manifest has not been removed since.
    is_restored: bool,
    is_undone: bool,
}

impl PurgedStore {
    fn remove_manifest(&mut self) {
        self.manifest.delete(MarkedManifest::Absent);
        self.is_restored = false;
    }

    fn is_there(&self) -> bool {
        self.manifest.value != MarkedManifest::Absent
    }
}

/// A process that works on the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum PurgedProcess {
    Purge(MarkingPurge),
    Restore(MarkedRestore),
    Push(ClientPush),
    Delete(ClientDelete),
    Gc(MarkGc),
    Done,
    Failed,
    Unused,
}

type PurgedState = ProtocolState<PurgedStore, PurgedProcess>;

/// A scenario with a manifest that is purged.
#[derive(Clone)]
pub(crate) struct PurgedScenario {
    name: &'static str,
    context: ProtocolContext,
    store: PurgedStore,
    processes: Vec<PurgedProcess>,
    goals: &'static [PurgedGoal],
}

/// What must be reachable in a scenario, so that it proves something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum PurgedGoal {
    /// A restore is acknowledged.
    Restored,
    /// What a restore has written after a purge is removed.
    Undone,
    /// A push stays.
    Stays,
    /// The mark is removed after the purge.
    Forgotten,
}

impl Protocol for PurgedScenario {
    type Store = PurgedStore;
    type Process = PurgedProcess;

    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self) -> PurgedState {
        let mut processes = [PurgedProcess::Unused; PROCESSES_MAX];
        processes[..self.processes.len()].copy_from_slice(&self.processes);
        ProtocolState { store: self.store, processes }
    }

    fn with_rules(&self, rules: ProtocolRules) -> Self {
        Self { context: ProtocolContext { rules, ..self.context }, ..self.clone() }
    }

    fn limits(&self) -> &ProtocolLimits {
        &self.context.limits
    }

    fn now(store: &PurgedStore) -> u8 {
        store.now
    }

    fn tick(&self, state: &mut PurgedState) {
        state.store.now += 1;
    }

    fn choices(&self, _: &PurgedStore, process: &PurgedProcess) -> u8 {
        match process {
            PurgedProcess::Restore(restore) => restore.choices(),
            PurgedProcess::Done | PurgedProcess::Failed | PurgedProcess::Unused => 0,
            _ => 1,
        }
    }

    fn step(&self, store: &mut PurgedStore, process: &mut PurgedProcess, choice: u8) -> Note {
        let context = &self.context;
        let mut next = *process;
        let (end, note) = match &mut next {
            PurgedProcess::Purge(it) => it.step(store, context),
            PurgedProcess::Restore(it) => it.step(store, context, choice),
            PurgedProcess::Push(it) => it.step(store, context),
            PurgedProcess::Delete(it) => it.step(store, context),
            PurgedProcess::Gc(it) => it.step(store, context),
            PurgedProcess::Done | PurgedProcess::Failed | PurgedProcess::Unused => {
                (None, note("has ended"))
            }
        };
        *process = end.unwrap_or(next);
        note
    }

    fn properties(&self) -> Vec<Property<CheckedProtocol<Self>>> {
        let mut properties = vec![
            Property::always("what was purged is not restored", |_, state: &PurgedState| {
                let store = &state.store;
                // GC finds it, as no client was told that it was restored.
                let is_told = store.manifest.value == MarkedManifest::Restored
                    && store.mark.value
                    && !store.is_restored;
                let is_undoing = state.processes.iter().any(PurgedProcess::may_undo);
                let is_back = store.is_purged && store.is_there() && !store.is_pushed;
                !is_back || is_told || is_undoing
            }),
            Property::always("what was purged cannot be restored", |_, state: &PurgedState| {
                let store = &state.store;
                !store.is_purged || store.is_pushed || !store.copy.value || store.mark.value
            }),
            Property::always("an acknowledged push stays", |_, state: &PurgedState| {
                !state.store.stays || state.store.manifest.value == MarkedManifest::Pushed
            }),
            Property::sometimes("a purge is acknowledged", |_, state: &PurgedState| {
                state.store.is_purged
            }),
        ];
        properties.extend(self.goals.iter().map(|goal| goal.property()));
        properties
    }
}

impl PurgedProcess {
    /// Whether it looks for a mark yet, and removes what it has written.
    fn may_undo(&self) -> bool {
        matches!(self, Self::Restore(restore) if restore.may_undo())
    }
}

impl PurgedGoal {
    fn property(self) -> Property<CheckedProtocol<PurgedScenario>> {
        match self {
            Self::Restored => {
                Property::sometimes("a restore is acknowledged", |_, state: &PurgedState| {
                    state.store.is_restored
                })
            }
            Self::Undone => Property::sometimes("a restore is undone", |_, state: &PurgedState| {
                state.store.is_undone && state.store.is_purged
            }),
            Self::Stays => {
                Property::sometimes("a push stays", |_, state: &PurgedState| state.store.stays)
            }
            Self::Forgotten => {
                Property::sometimes("the mark is removed", |_, state: &PurgedState| {
                    state.store.is_purged && !state.store.mark.value
                })
            }
        }
    }
}

impl fmt::Display for PurgedProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Purge(_) => "purge",
            Self::Restore(_) => "restore",
            Self::Push(_) => "push",
            Self::Delete(_) => "DELETE",
            Self::Gc(_) => "GC",
            Self::Done | Self::Failed | Self::Unused => "unused",
        })
    }
}
