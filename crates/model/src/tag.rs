//! A tag that is created and deleted, and requests that arrive late.
//!
//! A client of the store retries a write when no response arrives, so the first attempt may still
//! be applied later. A swap then finds its version replaced. A Create finds the record; unless that
//! has been deleted meanwhile without a tombstone.

use std::fmt;

use stateright::Property;

use crate::checked::{CheckedProtocol, Note, PROCESSES_MAX, Protocol, ProtocolState, note};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;
use crate::{ProtocolLimits, ProtocolRule, ProtocolRules};

/// What is at the tag's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ModelTag {
    Absent,
    /// Deleted: a Create fails on it.
    Tombstone,
    NumberSet,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TagStore {
    now: u8,
    tag: ModelRecord<ModelTag>,
    /// It was deleted, and not set since. Only the invariants read this and the next field.
    is_deleted: bool,
    /// A tombstone was removed.
    is_cleaned: bool,
}

/// A process that works on the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum TagProcess {
    Setter {
        opened: Option<u8>,
        over: Option<u8>,
    },
    /// The first attempt of an acknowledged Create, which may be applied until its signature
    /// expires.
    Echo {
        opened: u8,
    },
    /// Deletes that version.
    Deleter {
        seen: Option<u8>,
    },
    /// Removes that tombstone.
    Cleaner {
        seen: Option<u8>,
    },
    Done,
    Failed,
    Unused,
}

type TagState = ProtocolState<TagStore, TagProcess>;

/// A scenario with a tag.
#[derive(Clone)]
pub(crate) struct TagScenario {
    name: &'static str,
    context: ProtocolContext,
    processes: Vec<TagProcess>,
}

impl TagProcess {
    const SETTER: Self = Self::Setter { opened: None, over: None };
    const DELETER: Self = Self::Deleter { seen: None };
    const CLEANER: Self = Self::Cleaner { seen: None };
}

/// Those that every run checks.
pub(crate) fn scenarios() -> Vec<TagScenario> {
    let processes = vec![
        TagProcess::SETTER,
        TagProcess::SETTER,
        TagProcess::DELETER,
        TagProcess::DELETER,
        TagProcess::CLEANER,
    ];
    vec![TagScenario {
        name: "2 tag PUTs, 2 DELETEs, cleaner",
        context: ProtocolContext::new(1),
        processes,
    }]
}

impl TagScenario {
    /// Reads the tag, then swaps the version it read; the response may be lost.
    fn set(
        &self,
        store: &mut TagStore,
        opened: Option<u8>,
        over: Option<u8>,
        sends_again: bool,
    ) -> (TagProcess, Note) {
        let Some(opened) = opened else {
            let seen = (store.tag.value != ModelTag::Absent).then_some(store.tag.version);
            let next = TagProcess::Setter { opened: Some(store.now), over: seen };
            return (next, note("reads the tag"));
        };
        if self.context.is_late(opened, store.now) {
            return (TagProcess::Failed, note("is too late"));
        }
        let is_expected = match over {
            Some(version) => store.tag.version == version,
            None => store.tag.value == ModelTag::Absent,
        };
        if !is_expected {
            return (TagProcess::SETTER, note("fails to set the tag"));
        }
        store.tag.write(ModelTag::NumberSet, store.now);
        store.is_deleted = false;
        match sends_again && over.is_none() {
            true => (TagProcess::Echo { opened }, note("creates the tag by a retry")),
            false => (TagProcess::Done, note("sets the tag")),
        }
    }

    fn delete(&self, store: &mut TagStore, seen: Option<u8>) -> (TagProcess, Note) {
        match seen {
            None if store.tag.value == ModelTag::NumberSet => {
                (TagProcess::Deleter { seen: Some(store.tag.version) }, note("reads the tag"))
            }
            None => (TagProcess::Failed, note("finds no tag")),
            Some(version) if store.tag.version != version => {
                (TagProcess::DELETER, note("finds another version of the tag"))
            }
            Some(_) => {
                match self.context.keeps(ProtocolRule::Tombstone) {
                    true => store.tag.write(ModelTag::Tombstone, store.now),
                    false => store.tag.delete(ModelTag::Absent),
                }
                store.is_deleted = true;
                (TagProcess::Done, note("deletes the tag"))
            }
        }
    }

    fn clean(&self, store: &mut TagStore, seen: Option<u8>) -> (TagProcess, Note) {
        let age = store.now - store.tag.modified;
        let is_old =
            age > self.context.limits.window || !self.context.keeps(ProtocolRule::TombstoneAge);
        match seen {
            None if store.tag.value == ModelTag::Tombstone && is_old => (
                TagProcess::Cleaner { seen: Some(store.tag.version) },
                note("reads an old tombstone"),
            ),
            None => (TagProcess::Failed, note("finds no old tombstone")),
            Some(version) if store.tag.version != version => {
                (TagProcess::Failed, note("finds another version of the tag"))
            }
            Some(_) => {
                store.tag.delete(ModelTag::Absent);
                store.is_cleaned = true;
                (TagProcess::Done, note("removes the tombstone"))
            }
        }
    }
}

fn land(store: &mut TagStore) -> (TagProcess, Note) {
    if store.tag.value != ModelTag::Absent {
        return (TagProcess::Done, note("finds something at the key"));
    }
    store.tag.write(ModelTag::NumberSet, store.now);
    (TagProcess::Done, note("is applied late, and creates the tag"))
}

impl Protocol for TagScenario {
    type Store = TagStore;
    type Process = TagProcess;

    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self) -> TagState {
        let mut processes = [TagProcess::Unused; PROCESSES_MAX];
        processes[..self.processes.len()].copy_from_slice(&self.processes);
        let tag = ModelRecord::old(ModelTag::Absent);
        ProtocolState {
            store: TagStore { now: 0, tag, is_deleted: false, is_cleaned: false },
            processes,
        }
    }

    fn with_rules(&self, rules: ProtocolRules) -> Self {
        Self { context: ProtocolContext { rules, ..self.context }, ..self.clone() }
    }

    fn limits(&self) -> &ProtocolLimits {
        &self.context.limits
    }

    fn now(store: &TagStore) -> u8 {
        store.now
    }

    fn tick(&self, state: &mut TagState) {
        state.store.now += 1;
        for process in &mut state.processes {
            // The store refuses what was signed too long ago, whatever the writer does.
            if let TagProcess::Echo { opened } = process
                && state.store.now > *opened + self.context.limits.window
            {
                *process = TagProcess::Done;
            }
        }
    }

    fn choices(&self, _: &TagStore, process: &TagProcess) -> u8 {
        match process {
            // Sent once, or twice.
            TagProcess::Setter { opened: Some(_), over: None } => 2,
            TagProcess::Done | TagProcess::Failed | TagProcess::Unused => 0,
            _ => 1,
        }
    }

    fn step(&self, store: &mut TagStore, process: &mut TagProcess, choice: u8) -> Note {
        let (next, note) = match *process {
            TagProcess::Setter { opened, over } => self.set(store, opened, over, choice == 1),
            TagProcess::Echo { .. } => land(store),
            TagProcess::Deleter { seen } => self.delete(store, seen),
            TagProcess::Cleaner { seen } => self.clean(store, seen),
            ended => (ended, note("has ended")),
        };
        *process = next;
        note
    }

    fn properties(&self) -> Vec<Property<CheckedProtocol<Self>>> {
        vec![
            Property::always("a deleted tag stays so until it is set", |_, state: &TagState| {
                state.store.tag.value != ModelTag::NumberSet || !state.store.is_deleted
            }),
            Property::sometimes("a tombstone is removed", |_, state: &TagState| {
                state.store.is_cleaned
            }),
            Property::sometimes("every process ends", |_, state: &TagState| {
                state.processes.iter().all(|it| matches!(it, TagProcess::Done))
            }),
        ]
    }
}

impl fmt::Display for TagProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setter { .. } => "tag PUT",
            Self::Echo { .. } => "first attempt",
            Self::Deleter { .. } => "DELETE",
            Self::Cleaner { .. } => "cleaner",
            Self::Done | Self::Failed | Self::Unused => "unused",
        })
    }
}
