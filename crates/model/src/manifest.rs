//! Manifests that refer to each other: an index and its child, the child's layer, a referrer of
//! the index, a tag; and collectors that remove what is untagged.

mod collector;
mod deleter;
mod push;
mod scenarios;
mod touch;

use std::fmt;

use stateright::Property;

use self::collector::Collector;
use self::deleter::Deleter;
use self::push::{Head, Push};
pub(crate) use self::scenarios::{large, scenarios};
use crate::checked::{Checked, Note, PROCESSES_MAX, Protocol, State, note};
use crate::context::Context;
use crate::record::Record;
use crate::set::Set;
use crate::{Limits, Rules};

/// An object in the store, by its number among the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum Object {
    /// It refers to the child.
    Index,
    /// It refers to the layer.
    Child,
    /// Its subject is the index.
    Referrer,
    /// The link of a blob.
    Layer,
}

const OBJECTS: [Object; 4] = [Object::Index, Object::Child, Object::Referrer, Object::Layer];

impl Object {
    fn name(self) -> &'static str {
        match self {
            Self::Index => "the index",
            Self::Child => "the child",
            Self::Referrer => "the referrer",
            Self::Layer => "the layer",
        }
    }
}

/// What the tag points to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Tag {
    Absent,
    Index,
    /// A manifest that plays no part here.
    Elsewhere,
}

/// The store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ManifestWorld {
    now: u8,
    /// Whether each object is there.
    objects: [Record<bool>; OBJECTS.len()],
    tag: Record<Tag>,
    /// The objects that the API deleted, and nobody has pushed since. Only the invariants look at
    /// it, as at what follows.
    deleted: Set,
    /// The child was stored with a type by which it refers to nothing.
    is_child_other: bool,
    /// The referrer was acknowledged while its subject was there, which it has been since.
    is_referrer_promised: bool,
    collected: Set,
}

impl ManifestWorld {
    fn object(&self, object: Object) -> Record<bool> {
        self.objects[usize::from(object as u8)]
    }

    fn is_there(&self, object: Object) -> bool {
        self.object(object).value
    }

    /// Whether an object is there, unless the API deleted it.
    fn is_kept(&self, object: Object) -> bool {
        self.is_there(object) || self.deleted.has(object as u8)
    }

    fn write(&mut self, object: Object) {
        self.objects[usize::from(object as u8)].write(true, self.now);
        self.deleted = self.deleted.without(object as u8);
    }

    fn delete(&mut self, object: Object) {
        self.objects[usize::from(object as u8)].delete(false);
        self.is_referrer_promised &= object != Object::Index;
    }
}

/// Somebody who works on the manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Process {
    Push(Push),
    Head(Head),
    Deleter(Deleter),
    /// Points the tag elsewhere.
    Retag,
    Collector(Collector),
    /// It told its client that the object is there, which is good until then.
    Acknowledged {
        object: Object,
        until: u8,
    },
    /// It has ended, having done all its work.
    Done,
    /// It has ended without that.
    Failed,
    /// There is no such process.
    Nobody,
}

/// A state of a scenario with manifests.
type ManifestState = State<ManifestWorld, Process>;

/// A scenario with manifests.
#[derive(Clone)]
pub(crate) struct Manifests {
    name: &'static str,
    context: Context,
    world: ManifestWorld,
    processes: Vec<Process>,
    /// What can be collected.
    collectable: Vec<Object>,
}

impl Protocol for Manifests {
    type World = ManifestWorld;
    type Process = Process;

    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self) -> ManifestState {
        let mut processes = [Process::Nobody; PROCESSES_MAX];
        processes[..self.processes.len()].copy_from_slice(&self.processes);
        State { world: self.world, processes }
    }

    fn with_rules(&self, rules: Rules) -> Self {
        Self { context: Context { rules, ..self.context }, ..self.clone() }
    }

    fn limits(&self) -> &Limits {
        &self.context.limits
    }

    fn now(world: &ManifestWorld) -> u8 {
        world.now
    }

    fn tick(&self, state: &mut ManifestState) {
        state.world.now += 1;
        for process in &mut state.processes {
            if let Process::Acknowledged { until, .. } = process
                && state.world.now > *until
            {
                *process = Process::Done;
            }
        }
    }

    fn choices(&self, _: &ManifestWorld, process: &Process) -> u8 {
        match process {
            Process::Collector(collector) => collector.choices(),
            Process::Push(push) => push.choices(),
            Process::Acknowledged { .. } | Process::Done | Process::Failed | Process::Nobody => 0,
            _ => 1,
        }
    }

    fn step(&self, world: &mut ManifestWorld, process: &mut Process, choice: u8) -> Note {
        let context = &self.context;
        let mut next = *process;
        let (end, note) = match &mut next {
            Process::Push(it) => it.step(world, context, choice),
            Process::Head(it) => it.step(world, context),
            Process::Deleter(it) => it.step(world),
            Process::Retag => {
                world.tag.write(Tag::Elsewhere, world.now);
                (Some(Process::Done), note("points the tag elsewhere"))
            }
            Process::Collector(it) => it.step(world, context, choice),
            Process::Acknowledged { .. } | Process::Done | Process::Failed | Process::Nobody => {
                (None, note("has ended"))
            }
        };
        *process = end.unwrap_or(next);
        note
    }

    fn properties(&self) -> Vec<Property<Checked<Self>>> {
        let mut properties = vec![
            Property::always("a manifest has all that it refers to", |_, state: &ManifestState| {
                let world = &state.world;
                (!world.is_there(Object::Index) || world.is_kept(Object::Child))
                    && (!world.is_there(Object::Child) || world.is_kept(Object::Layer))
            }),
            Property::always("a tag leads to a manifest", |_, state: &ManifestState| {
                state.world.tag.value != Tag::Index || state.world.is_kept(Object::Index)
            }),
            Property::always("a subject keeps its referrers", |_, state: &ManifestState| {
                !state.world.is_referrer_promised || state.world.is_kept(Object::Referrer)
            }),
            Property::always(
                "what was acknowledged stays for G - T",
                |_, state: &ManifestState| {
                    state.processes.iter().all(|process| match process {
                        Process::Acknowledged { object, .. } => state.world.is_kept(*object),
                        _ => true,
                    })
                },
            ),
            Property::sometimes("every process ends", |_, state: &ManifestState| {
                state.processes.iter().all(Process::has_ended)
            }),
        ];
        properties.extend(self.collectable.iter().map(|object| is_collected(*object)));
        properties
    }
}

/// That an object can be collected, or the scenario would show nothing about it.
fn is_collected(object: Object) -> Property<Checked<Manifests>> {
    match object {
        Object::Index => {
            Property::sometimes("the index is collected", |_, state: &ManifestState| {
                state.world.collected.has(Object::Index as u8)
            })
        }
        Object::Child => {
            Property::sometimes("the child is collected", |_, state: &ManifestState| {
                state.world.collected.has(Object::Child as u8)
            })
        }
        Object::Referrer => {
            Property::sometimes("the referrer is collected", |_, state: &ManifestState| {
                state.world.collected.has(Object::Referrer as u8)
            })
        }
        Object::Layer => {
            Property::sometimes("the layer is collected", |_, state: &ManifestState| {
                state.world.collected.has(Object::Layer as u8)
            })
        }
    }
}

impl Process {
    fn has_ended(&self) -> bool {
        matches!(self, Self::Acknowledged { .. } | Self::Done | Self::Nobody)
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push(it) => write!(f, "push of {}", it.object().name()),
            Self::Head(_) => f.write_str("HEAD of the child"),
            Self::Deleter(it) => write!(f, "DELETE of {}", it.object.name()),
            Self::Retag => f.write_str("retag"),
            Self::Collector(_) => f.write_str("collector"),
            other => write!(f, "{other:?}"),
        }
    }
}
