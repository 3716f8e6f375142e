//! Manifests that refer to each other: an index and its child, the child's layer, a referrer of the
//! index, a tag; and GC runs that delete untagged manifests.

mod deleter;
mod gc;
mod push;
mod scenarios;
mod touch;

use std::fmt;

use stateright::Property;

use self::deleter::ManifestDeleter;
use self::gc::ManifestGc;
use self::push::{ManifestHead, ManifestPusher};
pub(crate) use self::scenarios::{large, scenarios};
use crate::checked::{CheckedProtocol, Note, PROCESSES_MAX, Protocol, ProtocolState, note};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;
use crate::set::NumberSet;
use crate::{ProtocolLimits, ProtocolRules};

/// An object in the store, by its number among the objects.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub(crate) enum ManifestObject {
    /// It refers to the child.
    Index,
    /// It refers to the layer.
    Child,
    /// Its subject is the index.
    Referrer,
    /// The link of a blob.
    Layer,
}

const OBJECTS: [ManifestObject; 4] =
    [ManifestObject::Index, ManifestObject::Child, ManifestObject::Referrer, ManifestObject::Layer];

impl ManifestObject {
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
pub(crate) enum TagPointer {
    Absent,
    Index,
    /// A manifest outside the model.
    Elsewhere,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ManifestStore {
    now: u8,
    /// Whether each object is there.
    objects: [ModelRecord<bool>; OBJECTS.len()],
    tag: ModelRecord<TagPointer>,
    /// The objects that the API deleted, without a push since. Only the invariants read this and
    /// the following fields.
    deleted: NumberSet,
    /// The child was stored with a type by which it refers to nothing.
    is_child_other: bool,
    /// The referrer was acknowledged while its subject existed, which has existed since.
    is_referrer_promised: bool,
    collected: NumberSet,
}

impl ManifestStore {
    fn object(&self, object: ManifestObject) -> ModelRecord<bool> {
        self.objects[usize::from(object as u8)]
    }

    fn is_there(&self, object: ManifestObject) -> bool {
        self.object(object).value
    }

    /// Whether an object is there, unless the API deleted it.
    fn is_kept(&self, object: ManifestObject) -> bool {
        self.is_there(object) || self.deleted.has(object as u8)
    }

    fn write(&mut self, object: ManifestObject) {
        self.objects[usize::from(object as u8)].write(true, self.now);
        self.deleted = self.deleted.without(object as u8);
    }

    fn delete(&mut self, object: ManifestObject) {
        self.objects[usize::from(object as u8)].delete(false);
        self.is_referrer_promised &= object != ManifestObject::Index;
    }
}

/// A process that works on the manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ManifestProcess {
    ManifestPusher(ManifestPusher),
    ManifestHead(ManifestHead),
    ManifestDeleter(ManifestDeleter),
    /// Points the tag elsewhere.
    Retag,
    ManifestGc(ManifestGc),
    /// It has acknowledged that the object exists, which must hold until then.
    Acknowledged {
        object: ManifestObject,
        until: u8,
    },
    /// It has ended, having done all its work.
    Done,
    /// It has ended without that.
    Failed,
    /// There is no such process.
    Unused,
}

/// A state of a scenario with manifests.
type ManifestState = ProtocolState<ManifestStore, ManifestProcess>;

/// A scenario with manifests.
#[derive(Clone)]
pub(crate) struct ManifestScenario {
    name: &'static str,
    context: ProtocolContext,
    store: ManifestStore,
    processes: Vec<ManifestProcess>,
    /// What can be collected.
    collectable: Vec<ManifestObject>,
}

impl Protocol for ManifestScenario {
    type Store = ManifestStore;
    type Process = ManifestProcess;

    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self) -> ManifestState {
        let mut processes = [ManifestProcess::Unused; PROCESSES_MAX];
        processes[..self.processes.len()].copy_from_slice(&self.processes);
        ProtocolState { store: self.store, processes }
    }

    fn with_rules(&self, rules: ProtocolRules) -> Self {
        Self { context: ProtocolContext { rules, ..self.context }, ..self.clone() }
    }

    fn limits(&self) -> &ProtocolLimits {
        &self.context.limits
    }

    fn now(store: &ManifestStore) -> u8 {
        store.now
    }

    fn tick(&self, state: &mut ManifestState) {
        state.store.now += 1;
        for process in &mut state.processes {
            if let ManifestProcess::Acknowledged { until, .. } = process
                && state.store.now > *until
            {
                *process = ManifestProcess::Done;
            }
        }
    }

    fn choices(&self, _: &ManifestStore, process: &ManifestProcess) -> u8 {
        match process {
            ManifestProcess::ManifestGc(gc) => gc.choices(),
            ManifestProcess::ManifestPusher(push) => push.choices(),
            ManifestProcess::Acknowledged { .. }
            | ManifestProcess::Done
            | ManifestProcess::Failed
            | ManifestProcess::Unused => 0,
            _ => 1,
        }
    }

    fn step(&self, store: &mut ManifestStore, process: &mut ManifestProcess, choice: u8) -> Note {
        let context = &self.context;
        let mut next = *process;
        let (end, note) = match &mut next {
            ManifestProcess::ManifestPusher(it) => it.step(store, context, choice),
            ManifestProcess::ManifestHead(it) => it.step(store, context),
            ManifestProcess::ManifestDeleter(it) => it.step(store),
            ManifestProcess::Retag => {
                store.tag.write(TagPointer::Elsewhere, store.now);
                (Some(ManifestProcess::Done), note("points the tag elsewhere"))
            }
            ManifestProcess::ManifestGc(it) => it.step(store, context, choice),
            ManifestProcess::Acknowledged { .. }
            | ManifestProcess::Done
            | ManifestProcess::Failed
            | ManifestProcess::Unused => (None, note("has ended")),
        };
        *process = end.unwrap_or(next);
        note
    }

    fn properties(&self) -> Vec<Property<CheckedProtocol<Self>>> {
        let mut properties = vec![
            Property::always("a manifest has all that it refers to", |_, state: &ManifestState| {
                let store = &state.store;
                (!store.is_there(ManifestObject::Index) || store.is_kept(ManifestObject::Child))
                    && (!store.is_there(ManifestObject::Child)
                        || store.is_kept(ManifestObject::Layer))
            }),
            Property::always("a tag leads to a manifest", |_, state: &ManifestState| {
                state.store.tag.value != TagPointer::Index
                    || state.store.is_kept(ManifestObject::Index)
            }),
            Property::always("a subject keeps its referrers", |_, state: &ManifestState| {
                !state.store.is_referrer_promised || state.store.is_kept(ManifestObject::Referrer)
            }),
            Property::always(
                "what was acknowledged stays for G - T",
                |_, state: &ManifestState| {
                    state.processes.iter().all(|process| match process {
                        ManifestProcess::Acknowledged { object, .. } => {
                            state.store.is_kept(*object)
                        }
                        _ => true,
                    })
                },
            ),
            Property::sometimes("every process ends", |_, state: &ManifestState| {
                state.processes.iter().all(ManifestProcess::has_ended)
            }),
        ];
        properties.extend(self.collectable.iter().map(|object| is_collected(*object)));
        properties
    }
}

/// That an object can be collected, or the scenario would show nothing about it.
fn is_collected(object: ManifestObject) -> Property<CheckedProtocol<ManifestScenario>> {
    match object {
        ManifestObject::Index => {
            Property::sometimes("the index is collected", |_, state: &ManifestState| {
                state.store.collected.has(ManifestObject::Index as u8)
            })
        }
        ManifestObject::Child => {
            Property::sometimes("the child is collected", |_, state: &ManifestState| {
                state.store.collected.has(ManifestObject::Child as u8)
            })
        }
        ManifestObject::Referrer => {
            Property::sometimes("the referrer is collected", |_, state: &ManifestState| {
                state.store.collected.has(ManifestObject::Referrer as u8)
            })
        }
        ManifestObject::Layer => {
            Property::sometimes("the layer is collected", |_, state: &ManifestState| {
                state.store.collected.has(ManifestObject::Layer as u8)
            })
        }
    }
}

impl ManifestProcess {
    fn has_ended(&self) -> bool {
        matches!(self, Self::Acknowledged { .. } | Self::Done | Self::Unused)
    }
}

impl fmt::Display for ManifestProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ManifestPusher(it) => write!(f, "push of {}", it.object().name()),
            Self::ManifestHead(_) => f.write_str("HEAD of the child"),
            Self::ManifestDeleter(it) => write!(f, "DELETE of {}", it.object.name()),
            Self::Retag => f.write_str("retag"),
            Self::ManifestGc(_) => f.write_str("GC"),
            other => write!(f, "{other:?}"),
        }
    }
}
