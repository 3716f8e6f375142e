//! A tag that is created and deleted, and requests that arrive late.
//!
//! A client of the store sends a write again when no answer comes, so the first sending may land
//! after all. One that was to swap a version finds it gone. One that was to create the record
//! finds it there; unless it has been deleted meanwhile, and nothing is left in its place.

use std::fmt;

use stateright::Property;

use crate::checked::{Checked, Note, PROCESSES_MAX, Protocol, State, note};
use crate::context::Context;
use crate::record::Record;
use crate::{Limits, Rule, Rules};

/// What is at the tag's key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Tag {
    Absent,
    /// As good as absent, but nothing is created over it.
    Tombstone,
    Set,
}

/// The store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TagWorld {
    now: u8,
    tag: Record<Tag>,
    /// It was deleted, and nobody has set it since. Only the invariant looks at it, as at what
    /// follows.
    is_deleted: bool,
    /// A tombstone was removed.
    is_cleaned: bool,
}

/// Somebody who works on the tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Process {
    Setter {
        opened: Option<u8>,
        over: Option<u8>,
    },
    /// What is left of a setter that has been told of its success: a first sending of the Create,
    /// which may land until its signature is no longer valid.
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
    Nobody,
}

type TagState = State<TagWorld, Process>;

/// A scenario with a tag.
#[derive(Clone)]
pub(crate) struct TagKey {
    name: &'static str,
    context: Context,
    processes: Vec<Process>,
}

impl Process {
    const SETTER: Self = Self::Setter { opened: None, over: None };
    const DELETER: Self = Self::Deleter { seen: None };
    const CLEANER: Self = Self::Cleaner { seen: None };
}

/// Those that every run checks.
pub(crate) fn scenarios() -> Vec<TagKey> {
    let processes = vec![
        Process::SETTER,
        Process::SETTER,
        Process::DELETER,
        Process::DELETER,
        Process::CLEANER,
    ];
    vec![TagKey { name: "2 tag PUTs, 2 DELETEs, cleaner", context: Context::new(1), processes }]
}

impl TagKey {
    /// Reads the tag, then writes it over what was there; the answer may be lost.
    fn set(
        &self,
        world: &mut TagWorld,
        opened: Option<u8>,
        over: Option<u8>,
        sends_again: bool,
    ) -> (Process, Note) {
        let Some(opened) = opened else {
            let seen = (world.tag.value != Tag::Absent).then_some(world.tag.version);
            let next = Process::Setter { opened: Some(world.now), over: seen };
            return (next, note("reads the tag"));
        };
        if self.context.is_late(opened, world.now) {
            return (Process::Failed, note("is too late"));
        }
        let is_expected = match over {
            Some(version) => world.tag.version == version,
            None => world.tag.value == Tag::Absent,
        };
        if !is_expected {
            return (Process::SETTER, note("fails to set the tag"));
        }
        world.tag.write(Tag::Set, world.now);
        world.is_deleted = false;
        match sends_again && over.is_none() {
            true => (Process::Echo { opened }, note("creates the tag by its second sending")),
            false => (Process::Done, note("sets the tag")),
        }
    }

    fn delete(&self, world: &mut TagWorld, seen: Option<u8>) -> (Process, Note) {
        match seen {
            None if world.tag.value == Tag::Set => {
                (Process::Deleter { seen: Some(world.tag.version) }, note("reads the tag"))
            }
            None => (Process::Failed, note("finds no tag")),
            Some(version) if world.tag.version != version => {
                (Process::DELETER, note("finds another version of the tag"))
            }
            Some(_) => {
                match self.context.keeps(Rule::Tombstone) {
                    true => world.tag.write(Tag::Tombstone, world.now),
                    false => world.tag.delete(Tag::Absent),
                }
                world.is_deleted = true;
                (Process::Done, note("deletes the tag"))
            }
        }
    }

    fn clean(&self, world: &mut TagWorld, seen: Option<u8>) -> (Process, Note) {
        let age = world.now - world.tag.modified;
        let is_old = age > self.context.limits.window || !self.context.keeps(Rule::TombstoneAge);
        match seen {
            None if world.tag.value == Tag::Tombstone && is_old => {
                (Process::Cleaner { seen: Some(world.tag.version) }, note("reads an old tombstone"))
            }
            None => (Process::Failed, note("finds no old tombstone")),
            Some(version) if world.tag.version != version => {
                (Process::Failed, note("finds another version of the tag"))
            }
            Some(_) => {
                world.tag.delete(Tag::Absent);
                world.is_cleaned = true;
                (Process::Done, note("removes the tombstone"))
            }
        }
    }
}

fn land(world: &mut TagWorld) -> (Process, Note) {
    if world.tag.value != Tag::Absent {
        return (Process::Done, note("finds something at the key"));
    }
    world.tag.write(Tag::Set, world.now);
    (Process::Done, note("lands late, and creates the tag"))
}

impl Protocol for TagKey {
    type World = TagWorld;
    type Process = Process;

    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self) -> TagState {
        let mut processes = [Process::Nobody; PROCESSES_MAX];
        processes[..self.processes.len()].copy_from_slice(&self.processes);
        let tag = Record::old(Tag::Absent);
        State { world: TagWorld { now: 0, tag, is_deleted: false, is_cleaned: false }, processes }
    }

    fn with_rules(&self, rules: Rules) -> Self {
        Self { context: Context { rules, ..self.context }, ..self.clone() }
    }

    fn limits(&self) -> &Limits {
        &self.context.limits
    }

    fn now(world: &TagWorld) -> u8 {
        world.now
    }

    fn tick(&self, state: &mut TagState) {
        state.world.now += 1;
        for process in &mut state.processes {
            // The store refuses what was signed too long ago, whatever the writer does.
            if let Process::Echo { opened } = process
                && state.world.now > *opened + self.context.limits.window
            {
                *process = Process::Done;
            }
        }
    }

    fn choices(&self, _: &TagWorld, process: &Process) -> u8 {
        match process {
            // Sent once, or twice.
            Process::Setter { opened: Some(_), over: None } => 2,
            Process::Done | Process::Failed | Process::Nobody => 0,
            _ => 1,
        }
    }

    fn step(&self, world: &mut TagWorld, process: &mut Process, choice: u8) -> Note {
        let (next, note) = match *process {
            Process::Setter { opened, over } => self.set(world, opened, over, choice == 1),
            Process::Echo { .. } => land(world),
            Process::Deleter { seen } => self.delete(world, seen),
            Process::Cleaner { seen } => self.clean(world, seen),
            ended => (ended, note("has ended")),
        };
        *process = next;
        note
    }

    fn properties(&self) -> Vec<Property<Checked<Self>>> {
        vec![
            Property::always("a deleted tag stays so until it is set", |_, state: &TagState| {
                state.world.tag.value != Tag::Set || !state.world.is_deleted
            }),
            Property::sometimes("a tombstone is removed", |_, state: &TagState| {
                state.world.is_cleaned
            }),
            Property::sometimes("every process ends", |_, state: &TagState| {
                state.processes.iter().all(|it| matches!(it, Process::Done))
            }),
        ]
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Setter { .. } => "tag PUT",
            Self::Echo { .. } => "first sending",
            Self::Deleter { .. } => "DELETE",
            Self::Cleaner { .. } => "cleaner",
            Self::Done | Self::Failed | Self::Nobody => "nobody",
        })
    }
}
