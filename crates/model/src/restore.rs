//! A manifest and its layer, whose tag is moved, which is deleted, restored and purged, and GC, for
//! which entries of the history and copies of deleted manifests are roots.
//!
//! How a tag's history comes about is in `history.rs`. Here an entry only says that the tag pointed
//! to the manifest, and until when.

mod delete;
mod gc;
mod purge;
mod restorer;
mod scenarios;
mod tagging;

use std::fmt;

use stateright::Property;

use self::delete::ManifestDelete;
use self::gc::RestoreGc;
use self::purge::Purge;
use self::restorer::{ManifestRestore, OtherPush, TagRestore};
pub(crate) use self::scenarios::{large, scenarios};
use self::tagging::TagMove;
use crate::checked::{CheckedProtocol, Note, PROCESSES_MAX, Protocol, ProtocolState, note};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;
use crate::{ProtocolLimits, ProtocolRules};

/// The copies of the manifest: one for each DELETE.
const COPIES: usize = 2;

/// What is at the manifest's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum KeptManifest {
    Absent,
    Live,
    /// A purge was here: every reader treats it as absent.
    Purged,
}

/// What is at the key of the layer's link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum LayerLink {
    Absent,
    Live,
    Deleted,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct RestoreStore {
    now: u8,
    /// Whether the tag points to the manifest.
    tag: ModelRecord<bool>,
    /// Whether the history has that the tag pointed to the manifest.
    entry: ModelRecord<bool>,
    /// When that ended. There is one entry for each such change; here it is the last one.
    ended: Option<u8>,
    manifest: ModelRecord<KeptManifest>,
    copies: [ModelRecord<bool>; COPIES],
    /// The key `purged` beside the copies, for a broken rule.
    marker: ModelRecord<bool>,
    /// Another manifest that references the layer.
    other: ModelRecord<bool>,
    layer: ModelRecord<LayerLink>,
    /// The API has deleted the manifest. Only the invariants read this and the following fields.
    is_deleted: bool,
    /// When a DELETE was acknowledged, and no restore since.
    acknowledged: Option<u8>,
    is_purge_begun: bool,
    is_purged: bool,
    /// What GC has deleted.
    collected: RestoreCollected,
}

/// What GC has deleted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
struct RestoreCollected {
    entry: bool,
    manifest: bool,
    copy: bool,
    layer: bool,
    purged: bool,
}

impl RestoreStore {
    fn is_live(&self) -> bool {
        self.manifest.value == KeptManifest::Live
    }

    fn has_layer(&self) -> bool {
        self.layer.value == LayerLink::Live
    }

    fn has_copy(&self) -> bool {
        self.copies.iter().any(|copy| copy.value)
    }

    fn write_manifest(&mut self) {
        self.manifest.write(KeptManifest::Live, self.now);
        (self.is_deleted, self.acknowledged) = (false, None);
    }

    /// Points the tag elsewhere, or deletes it: the entry ends.
    fn untag(&mut self) {
        self.tag.write(false, self.now);
        self.ended = Some(self.now);
    }

    /// Whether what leads to the manifest leads to something, unless a client has deleted it.
    fn is_reachable(&self) -> bool {
        let is_named = self.tag.value || self.entry.value;
        !is_named || self.is_live() || self.is_deleted || self.is_purge_begun
    }
}

/// A process that works on the manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RestoreProcess {
    TagMove(TagMove),
    TagRestore(TagRestore),
    ManifestDelete(ManifestDelete),
    ManifestRestore(ManifestRestore),
    OtherPush(OtherPush),
    Purge(Purge),
    RestoreGc(RestoreGc),
    Done,
    Failed,
    Unused,
}

type RestoreState = ProtocolState<RestoreStore, RestoreProcess>;

/// A scenario with a manifest that is deleted and restored.
#[derive(Clone)]
pub(crate) struct RestoreScenario {
    name: &'static str,
    context: ProtocolContext,
    store: RestoreStore,
    processes: Vec<RestoreProcess>,
    goals: &'static [RestoreGoal],
}

/// What GC must be able to delete in a scenario, so that it proves something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RestoreGoal {
    Entry,
    Manifest,
    Copy,
    Layer,
    Purged,
}

impl Protocol for RestoreScenario {
    type Store = RestoreStore;
    type Process = RestoreProcess;

    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self) -> RestoreState {
        let mut processes = [RestoreProcess::Unused; PROCESSES_MAX];
        processes[..self.processes.len()].copy_from_slice(&self.processes);
        ProtocolState { store: self.store, processes }
    }

    fn with_rules(&self, rules: ProtocolRules) -> Self {
        Self { context: ProtocolContext { rules, ..self.context }, ..self.clone() }
    }

    fn limits(&self) -> &ProtocolLimits {
        &self.context.limits
    }

    fn now(store: &RestoreStore) -> u8 {
        store.now
    }

    fn tick(&self, state: &mut RestoreState) {
        state.store.now += 1;
        let promised = self.context.limits.keep - self.context.limits.window;
        let is_over = |at: &u8| state.store.now > at + promised;
        if state.store.acknowledged.as_ref().is_some_and(is_over) {
            state.store.acknowledged = None;
        }
    }

    fn choices(&self, store: &RestoreStore, process: &RestoreProcess) -> u8 {
        match process {
            RestoreProcess::RestoreGc(gc) => gc.choices(),
            RestoreProcess::ManifestRestore(restore) => restore.choices(),
            RestoreProcess::Purge(purge) => purge.choices(store, &self.context),
            RestoreProcess::Done | RestoreProcess::Failed | RestoreProcess::Unused => 0,
            _ => 1,
        }
    }

    fn step(&self, store: &mut RestoreStore, process: &mut RestoreProcess, choice: u8) -> Note {
        let context = &self.context;
        let mut next = *process;
        let (end, note) = match &mut next {
            RestoreProcess::TagMove(it) => it.step(store, context),
            RestoreProcess::TagRestore(it) => it.step(store, context),
            RestoreProcess::ManifestDelete(it) => it.step(store, context),
            RestoreProcess::ManifestRestore(it) => it.step(store, context, choice),
            RestoreProcess::OtherPush(it) => it.step(store, context),
            RestoreProcess::Purge(it) => it.step(store, context),
            RestoreProcess::RestoreGc(it) => it.step(store, context, choice),
            RestoreProcess::Done | RestoreProcess::Failed | RestoreProcess::Unused => {
                (None, note("has ended"))
            }
        };
        *process = end.unwrap_or(next);
        note
    }

    fn properties(&self) -> Vec<Property<CheckedProtocol<Self>>> {
        let mut properties = kept();
        properties.extend(purged());
        properties.push(Property::sometimes("every process ends", |_, state: &RestoreState| {
            let ended = |it: &_| matches!(it, RestoreProcess::Done | RestoreProcess::Unused);
            state.processes.iter().all(ended)
        }));
        properties.extend(self.goals.iter().map(|goal| goal.property()));
        properties
    }
}

/// What can be pulled or restored stays so.
fn kept() -> Vec<Property<CheckedProtocol<RestoreScenario>>> {
    vec![
        Property::always("a manifest has its layer", |_, state: &RestoreState| {
            let restoring = state.processes.iter().any(RestoreProcess::is_restoring);
            !state.store.is_live() || state.store.has_layer() || restoring
        }),
        Property::always("a copy has its layer", |_, state: &RestoreState| {
            !state.store.has_copy() || state.store.has_layer() || state.store.is_purge_begun
        }),
        Property::always(
            "a tag and its history lead to the manifest",
            |_, state: &RestoreState| state.store.is_reachable(),
        ),
        Property::always(
            "what a DELETE has removed has a copy for `history-keep` - B",
            |_, state: &RestoreState| {
                let store = &state.store;
                store.acknowledged.is_none() || store.has_copy() || store.is_purge_begun
            },
        ),
        Property::always("a manifest that shares the layer has it", |_, state: &RestoreState| {
            let waits = state.processes.iter().any(RestoreProcess::is_purging);
            !state.store.other.value || state.store.has_layer() || waits
        }),
    ]
}

/// What was purged stays so.
fn purged() -> Vec<Property<CheckedProtocol<RestoreScenario>>> {
    vec![
        Property::always("what was purged is not restored", |_, state: &RestoreState| {
            let restoring = state.processes.iter().any(RestoreProcess::is_restoring);
            !state.store.is_purged || !state.store.is_live() || restoring
        }),
        Property::always("what was purged cannot be restored later", |_, state: &RestoreState| {
            let store = &state.store;
            let is_told = store.manifest.value == KeptManifest::Purged || store.marker.value;
            !store.is_purged || !store.has_copy() || is_told
        }),
    ]
}

impl RestoreProcess {
    /// A purge may have to give a link back.
    fn is_purging(&self) -> bool {
        matches!(self, Self::Purge(purge) if purge.waits())
    }

    /// A restore may have to undo itself.
    fn is_restoring(&self) -> bool {
        matches!(self, Self::ManifestRestore(restore) if restore.may_undo())
    }
}

impl RestoreGoal {
    fn property(self) -> Property<CheckedProtocol<RestoreScenario>> {
        match self {
            Self::Entry => Property::sometimes("an entry expires", |_, state: &RestoreState| {
                state.store.collected.entry
            }),
            Self::Manifest => {
                Property::sometimes("the manifest is collected", |_, state: &RestoreState| {
                    state.store.collected.manifest
                })
            }
            Self::Copy => Property::sometimes("a copy expires", |_, state: &RestoreState| {
                state.store.collected.copy
            }),
            Self::Layer => {
                Property::sometimes("the layer is collected", |_, state: &RestoreState| {
                    state.store.collected.layer
                })
            }
            Self::Purged => {
                Property::sometimes("the purged record is removed", |_, state: &RestoreState| {
                    state.store.collected.purged
                })
            }
        }
    }
}

impl fmt::Display for RestoreProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TagMove(_) => "move of the tag",
            Self::TagRestore(_) => "restore of the tag",
            Self::ManifestDelete(_) => "DELETE of the manifest",
            Self::ManifestRestore(_) => "restore of the manifest",
            Self::OtherPush(_) => "push of another manifest",
            Self::Purge(_) => "purge",
            Self::RestoreGc(_) => "GC",
            Self::Done | Self::Failed | Self::Unused => "unused",
        })
    }
}
