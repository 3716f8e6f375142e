//! A manifest and a tag: pushes that set the tag, by several processes, and DELETEs by digest of what it points to.
//!
//! A hint says of the manifest that the tag may point to it. A push has only the tag's version left once it has
//! written the manifest, so a DELETE of the manifest that a push may rely on changes the tag, whatever it
//! points to.

mod delete;
mod gc;
mod push;
mod scenarios;

use std::fmt;

use stateright::Property;

use self::delete::TaggedDelete;
use self::gc::HintGc;
use self::push::{DigestPush, TagMove, TagPush};
pub(crate) use self::scenarios::{large, scenarios};
use crate::checked::{CheckedProtocol, Note, PROCESSES_MAX, Protocol, ProtocolState, note};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;
use crate::{ProtocolLimits, ProtocolRule, ProtocolRules};

/// What is at the tag's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TagPointer {
    Absent,
    /// It points to the manifest.
    Here,
    Elsewhere,
    /// It was deleted: every reader treats it as absent.
    Deleted,
    /// It never was, and a DELETE of the manifest has found it so.
    Placeholder,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TaggedStore {
    now: u8,
    tag: ModelRecord<TagPointer>,
    manifest: ModelRecord<bool>,
    hint: ModelRecord<bool>,
    /// How many pushes and DELETEs are in flight. Only the invariants read this and the following fields.
    pushes: u8,
    deletes: u8,
    /// A push was acknowledged while no DELETE was in flight, and nothing has been requested since.
    stays: bool,
    /// A DELETE was acknowledged while no push was in flight, and nothing has been requested since.
    is_gone: bool,
    is_pushed: bool,
    is_deleted: bool,
    /// A DELETE has changed a tag that did not point to the manifest.
    is_fenced: bool,
}

impl TaggedStore {
    fn begin_push(&mut self) {
        self.pushes += 1;
        self.is_gone = false;
    }

    /// A push is acknowledged: its tag points to the manifest.
    fn end_push(&mut self) {
        self.pushes -= 1;
        self.stays = self.deletes == 0;
        self.is_pushed = true;
    }

    fn fail_push(&mut self) {
        self.pushes -= 1;
    }

    fn begin_delete(&mut self) {
        self.deletes += 1;
        self.stays = false;
    }

    fn end_delete(&mut self) {
        self.deletes -= 1;
        self.is_gone = self.pushes == 0;
    }

    fn is_hint_young(&self, context: &ProtocolContext) -> bool {
        let limits = &context.limits;
        let age_max = match context.keeps(ProtocolRule::FenceForWindow) {
            true => limits.touch_age + limits.window,
            false => limits.window,
        };
        self.hint.value && self.now - self.hint.modified < age_max
    }
}

/// A process that works on the manifest and its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TaggedProcess {
    TagPush(TagPush),
    DigestPush(DigestPush),
    TagMove(TagMove),
    Delete(TaggedDelete),
    HintGc(HintGc),
    Done,
    Failed,
    Unused,
}

type TaggedState = ProtocolState<TaggedStore, TaggedProcess>;

/// A scenario with a manifest and a tag.
#[derive(Clone)]
pub(crate) struct TaggedScenario {
    name: &'static str,
    context: ProtocolContext,
    store: TaggedStore,
    processes: Vec<TaggedProcess>,
    goals: &'static [TaggedGoal],
}

/// What must be reachable in a scenario, so that it proves something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TaggedGoal {
    /// A push is acknowledged after a DELETE has changed its tag.
    Fenced,
    /// A push is acknowledged, and stays.
    Stays,
    /// A DELETE is acknowledged, and nothing is left.
    Gone,
}

impl Protocol for TaggedScenario {
    type Store = TaggedStore;
    type Process = TaggedProcess;

    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self) -> TaggedState {
        let mut processes = [TaggedProcess::Unused; PROCESSES_MAX];
        processes[..self.processes.len()].copy_from_slice(&self.processes);
        ProtocolState { store: self.store, processes }
    }

    fn with_rules(&self, rules: ProtocolRules) -> Self {
        Self { context: ProtocolContext { rules, ..self.context }, ..self.clone() }
    }

    fn limits(&self) -> &ProtocolLimits {
        &self.context.limits
    }

    fn now(store: &TaggedStore) -> u8 {
        store.now
    }

    fn tick(&self, state: &mut TaggedState) {
        state.store.now += 1;
    }

    fn choices(&self, _: &TaggedStore, process: &TaggedProcess) -> u8 {
        match process {
            TaggedProcess::TagPush(push) => push.choices(),
            TaggedProcess::HintGc(gc) => gc.choices(),
            TaggedProcess::Done | TaggedProcess::Failed | TaggedProcess::Unused => 0,
            _ => 1,
        }
    }

    fn step(&self, store: &mut TaggedStore, process: &mut TaggedProcess, choice: u8) -> Note {
        let context = &self.context;
        let mut next = *process;
        let (end, note) = match &mut next {
            TaggedProcess::TagPush(it) => it.step(store, context, choice),
            TaggedProcess::DigestPush(it) => it.step(store),
            TaggedProcess::TagMove(it) => it.step(store),
            TaggedProcess::Delete(it) => it.step(store, context),
            TaggedProcess::HintGc(it) => it.step(store, context, choice),
            TaggedProcess::Done | TaggedProcess::Failed | TaggedProcess::Unused => {
                (None, note("has ended"))
            }
        };
        *process = end.unwrap_or(next);
        note
    }

    fn properties(&self) -> Vec<Property<CheckedProtocol<Self>>> {
        let mut properties = vec![
            Property::always("a tag leads to its manifest", |_, state: &TaggedState| {
                state.store.tag.value != TagPointer::Here || state.store.manifest.value
            }),
            Property::always("an acknowledged push stays", |_, state: &TaggedState| {
                let store = &state.store;
                !store.stays || (store.tag.value == TagPointer::Here && store.manifest.value)
            }),
            Property::always("an acknowledged DELETE leaves nothing", |_, state: &TaggedState| {
                let store = &state.store;
                !store.is_gone || (store.tag.value != TagPointer::Here && !store.manifest.value)
            }),
        ];
        properties.extend(self.goals.iter().map(|goal| goal.property()));
        properties
    }
}

impl TaggedGoal {
    fn property(self) -> Property<CheckedProtocol<TaggedScenario>> {
        match self {
            Self::Fenced => {
                Property::sometimes("a push is made to look again", |_, state: &TaggedState| {
                    state.store.is_fenced && state.store.is_pushed
                })
            }
            Self::Stays => Property::sometimes("a push stays", |_, state: &TaggedState| {
                state.store.stays && state.store.is_pushed
            }),
            Self::Gone => {
                Property::sometimes("a DELETE leaves nothing", |_, state: &TaggedState| {
                    state.store.is_gone && state.store.is_deleted
                })
            }
        }
    }
}

impl fmt::Display for TaggedProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TagPush(_) => "push to the tag",
            Self::DigestPush(_) => "push by digest",
            Self::TagMove(_) => "move of the tag",
            Self::Delete(_) => "DELETE by digest",
            Self::HintGc(_) => "GC",
            Self::Done | Self::Failed | Self::Unused => "unused",
        })
    }
}
