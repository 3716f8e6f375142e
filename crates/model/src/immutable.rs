//! An immutable tag: pushes of two digests to it, and DELETEs by digest of what it points to.
//!
//! The first digest is an index with a child, which may be an index itself, with a grandchild. A hint says of a manifest
//! that the tag may point to it or need it, and is there before the tag is, so that a DELETE by digest finds the tag.

mod delete;
mod push;
mod scenarios;

use std::fmt;

use stateright::Property;

use self::delete::{ChildDelete, DigestDelete};
use self::push::{DigestPush, ImmutablePush};
pub(crate) use self::scenarios::scenarios;
use crate::checked::{CheckedProtocol, Note, PROCESSES_MAX, Protocol, ProtocolState, note};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;
use crate::set::NumberSet;
use crate::{ProtocolLimits, ProtocolRules};

/// The digests that are pushed.
const DIGESTS: usize = 2;

/// The one that is an index.
const INDEX: u8 = 0;

/// How many levels of manifests are below the index.
const LEVELS: usize = 2;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ImmutableStore {
    now: u8,
    /// The digest that the tag points to.
    tag: ModelRecord<Option<u8>>,
    manifests: [ModelRecord<bool>; DIGESTS],
    hints: [ModelRecord<bool>; DIGESTS],
    /// The child of the index and the child of that, and the hints that the tag needs them.
    needed: [ModelRecord<bool>; LEVELS],
    needed_hints: [ModelRecord<bool>; LEVELS],
    /// The digests whose push to the tag was acknowledged. Only the invariants read this and the
    /// following fields.
    acknowledged: NumberSet,
    is_refused: bool,
    is_deleted: bool,
}

impl ImmutableStore {
    fn manifest(&self, digest: u8) -> ModelRecord<bool> {
        self.manifests[usize::from(digest)]
    }

    fn hint(&self, digest: u8) -> ModelRecord<bool> {
        self.hints[usize::from(digest)]
    }

    fn write_manifest(&mut self, digest: u8) {
        self.manifests[usize::from(digest)].write(true, self.now);
    }

    /// Whether all that an acknowledged push to the tag needs is there.
    fn has_all_of(&self, digest: u8) -> bool {
        let is_there = self.tag.value == Some(digest) && self.manifest(digest).value;
        is_there && (digest != INDEX || self.needed.iter().all(|needed| needed.value))
    }
}

/// A process that works on the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ImmutableProcess {
    ImmutablePush(ImmutablePush),
    DigestPush(DigestPush),
    DigestDelete(DigestDelete),
    ChildDelete(ChildDelete),
    Done,
    Failed,
    Unused,
}

type ImmutableState = ProtocolState<ImmutableStore, ImmutableProcess>;

/// A scenario with an immutable tag.
#[derive(Clone)]
pub(crate) struct ImmutableScenario {
    name: &'static str,
    context: ProtocolContext,
    store: ImmutableStore,
    processes: Vec<ImmutableProcess>,
    goals: &'static [ImmutableGoal],
}

/// What must be reachable in a scenario, so that it proves something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ImmutableGoal {
    /// The push of the second digest is acknowledged.
    Second,
    /// A request is refused.
    Refuses,
    /// A manifest is deleted.
    Deletes,
}

impl Protocol for ImmutableScenario {
    type Store = ImmutableStore;
    type Process = ImmutableProcess;

    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self) -> ImmutableState {
        let mut processes = [ImmutableProcess::Unused; PROCESSES_MAX];
        processes[..self.processes.len()].copy_from_slice(&self.processes);
        ProtocolState { store: self.store, processes }
    }

    fn with_rules(&self, rules: ProtocolRules) -> Self {
        Self { context: ProtocolContext { rules, ..self.context }, ..self.clone() }
    }

    fn limits(&self) -> &ProtocolLimits {
        &self.context.limits
    }

    fn now(store: &ImmutableStore) -> u8 {
        store.now
    }

    fn tick(&self, state: &mut ImmutableState) {
        state.store.now += 1;
    }

    fn choices(&self, _: &ImmutableStore, process: &ImmutableProcess) -> u8 {
        match process {
            ImmutableProcess::ImmutablePush(push) => push.choices(&self.context),
            ImmutableProcess::Done | ImmutableProcess::Failed | ImmutableProcess::Unused => 0,
            _ => 1,
        }
    }

    fn step(&self, store: &mut ImmutableStore, process: &mut ImmutableProcess, choice: u8) -> Note {
        let context = &self.context;
        let mut next = *process;
        let (end, note) = match &mut next {
            ImmutableProcess::ImmutablePush(it) => it.step(store, context, choice),
            ImmutableProcess::DigestPush(it) => it.step(store, context),
            ImmutableProcess::DigestDelete(it) => it.step(store, context),
            ImmutableProcess::ChildDelete(it) => it.step(store, context),
            ImmutableProcess::Done | ImmutableProcess::Failed | ImmutableProcess::Unused => {
                (None, note("has ended"))
            }
        };
        *process = end.unwrap_or(next);
        note
    }

    fn properties(&self) -> Vec<Property<CheckedProtocol<Self>>> {
        let mut properties = vec![
            Property::always(
                "one digest is acknowledged for an immutable tag",
                |_, state: &ImmutableState| state.store.acknowledged.len() <= 1,
            ),
            Property::always("an immutable tag keeps its image", |_, state: &ImmutableState| {
                let store = &state.store;
                store.acknowledged.members().all(|digest| store.has_all_of(digest))
            }),
            Property::sometimes("a push is acknowledged", |_, state: &ImmutableState| {
                !state.store.acknowledged.is_empty()
            }),
        ];
        properties.extend(self.goals.iter().map(|goal| goal.property()));
        properties
    }
}

impl ImmutableGoal {
    fn property(self) -> Property<CheckedProtocol<ImmutableScenario>> {
        match self {
            Self::Second => {
                Property::sometimes("the second digest wins", |_, state: &ImmutableState| {
                    state.store.acknowledged.has(1)
                })
            }
            Self::Refuses => {
                Property::sometimes("a request is refused", |_, state: &ImmutableState| {
                    state.store.is_refused
                })
            }
            Self::Deletes => {
                Property::sometimes("a manifest is deleted", |_, state: &ImmutableState| {
                    state.store.is_deleted
                })
            }
        }
    }
}

impl fmt::Display for ImmutableProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ImmutablePush(it) => write!(f, "push of digest {} to the tag", it.digest + 1),
            Self::DigestPush(it) => write!(f, "push of digest {}", it.digest + 1),
            Self::DigestDelete(it) => write!(f, "DELETE of digest {}", it.digest + 1),
            Self::ChildDelete(it) => f.write_str(it.name()),
            Self::Done | Self::Failed | Self::Unused => f.write_str("unused"),
        }
    }
}
