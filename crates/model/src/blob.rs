//! One blob: its links in several repositories, its bytes at several locations, one upload, and
//! everybody who reads, writes and collects them.

mod collector;
mod deduplicate;
mod deleter;
mod monolithic;
mod mount;
mod push;
mod reader;
mod scenarios;
mod sweep;
mod touch;
mod upload;

use std::fmt;

use stateright::Property;

use self::collector::Collector;
use self::deduplicate::Deduplication;
use self::deleter::Deleter;
use self::monolithic::MonolithicUpload;
use self::mount::{Mount, Mover};
use self::push::{Head, Push};
use self::reader::Reader;
pub(crate) use self::scenarios::{large, scenarios};
use self::sweep::{Findings, Sweep};
use self::upload::{Cancel, Closer, Stream};
use crate::checked::{Checked, Note, PROCESSES_MAX, Protocol, State, note};
use crate::context::Context;
use crate::record::Record;
use crate::set::Set;
use crate::{Limits, Rules};

pub(crate) const REPOSITORIES: usize = 4;

/// A repository's hold on the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Link {
    /// It was never there, or was collected.
    Absent,
    /// The bytes are at this location.
    Live(u8),
    /// The API deleted it; this is where the bytes were.
    Deleted(u8),
}

impl Link {
    fn live(self) -> Option<u8> {
        if let Self::Live(location) = self { Some(location) } else { None }
    }
}

/// The record of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Session {
    Absent,
    /// These bytes have come.
    Open(u8),
    /// These bytes are the blob.
    Closed(u8),
    /// These bytes are removed, or about to be.
    Cancelled(u8),
}

/// The store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlobWorld {
    pub(crate) now: u8,
    pub(crate) links: [Record<Link>; REPOSITORIES],
    pub(crate) session: Record<Session>,
    /// The locations that have bytes.
    pub(crate) bytes: Set,
    /// The locations that lost their bytes to damage.
    pub(crate) lost: Set,
    /// The locations whose bytes are wrong, in full length.
    pub(crate) wrong: Set,
    /// The next location; none is ever used again.
    pub(crate) fresh: u8,
    /// The repositories with a manifest that refers to the blob.
    pub(crate) manifests: Set,
    /// What the last sweep wrote down.
    pub(crate) findings: Findings,
    /// The repositories from which the API deleted the blob, which nobody has pushed since. Only
    /// the invariants look at it, as at what follows.
    pub(crate) deleted: Set,
    /// What had been deleted came back, though nobody pushed or mounted it.
    pub(crate) undone: bool,
    /// A push was acknowledged though the link names bytes that damage had taken.
    pub(crate) vouched: bool,
    /// A link that named other bytes was moved to wrong ones.
    pub(crate) spread: bool,
    /// A link was removed for its age.
    pub(crate) collected: bool,
    /// Bytes were removed.
    pub(crate) freed: bool,
}

impl BlobWorld {
    pub(crate) fn link(&self, repository: u8) -> Record<Link> {
        self.links[usize::from(repository)]
    }

    /// A write of a live link that takes effect, by somebody who may revive one that was deleted.
    pub(crate) fn write_link(&mut self, repository: u8, location: u8) {
        self.links[usize::from(repository)].write(Link::Live(location), self.now);
        self.deleted = self.deleted.without(repository);
    }

    /// The same by somebody who may not.
    pub(crate) fn rewrite_link(&mut self, repository: u8, location: u8) {
        self.undone |= self.deleted.has(repository);
        self.write_link(repository, location);
    }

    pub(crate) fn delete_link(&mut self, repository: u8) {
        self.links[usize::from(repository)].delete(Link::Absent);
        self.collected = true;
    }

    /// Bytes at a location that was never used before.
    pub(crate) fn put_bytes(&mut self) -> u8 {
        let location = self.fresh;
        self.bytes = self.bytes.with(location);
        self.fresh += 1;
        location
    }

    pub(crate) fn remove_bytes(&mut self, location: u8) {
        self.bytes = self.bytes.without(location);
        self.freed = true;
    }
}

/// Somebody who works on the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Process {
    Push(Push),
    Head(Head),
    Mount(Mount),
    Mover(Mover),
    Deleter(Deleter),
    MonolithicUpload(MonolithicUpload),
    Stream(Stream),
    Closer(Closer),
    Cancel(Cancel),
    Reader(Reader),
    Deduplication(Deduplication),
    Collector(Collector),
    Sweep(Sweep),
    /// It told its client that the repository holds the blob, which is good until then.
    Acknowledged {
        repository: u8,
        until: u8,
    },
    /// It has ended, having acknowledged something or done all its work.
    Done,
    /// It has ended without that.
    Failed,
    /// There is no such process.
    Nobody,
}

impl Context {
    /// What becomes of somebody who acknowledges now.
    fn acknowledge(&self, repository: u8, now: u8) -> Process {
        self.acknowledge_since(repository, now, now)
    }

    /// What becomes of somebody who acknowledges what he was sure of some time ago.
    fn acknowledge_since(&self, repository: u8, since: u8, now: u8) -> Process {
        let until = since + self.limits.promise();
        if until < now { Process::Done } else { Process::Acknowledged { repository, until } }
    }
}

/// A state of a scenario with one blob.
type BlobState = State<BlobWorld, Process>;

/// A scenario with one blob.
#[derive(Clone)]
pub(crate) struct Blob {
    name: &'static str,
    context: Context,
    world: BlobWorld,
    processes: Vec<Process>,
    goals: &'static [Goal],
}

/// What should be possible in a scenario, or it would show nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// A link is removed for its age.
    Collects,
    /// Bytes are removed.
    Frees,
    /// Everybody gets to the end.
    AllEnd,
}

impl Protocol for Blob {
    type World = BlobWorld;
    type Process = Process;

    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self) -> State<BlobWorld, Process> {
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

    fn now(world: &BlobWorld) -> u8 {
        world.now
    }

    fn tick(&self, state: &mut State<BlobWorld, Process>) {
        state.world.now += 1;
        for process in &mut state.processes {
            process.forget(state.world.now);
        }
    }

    fn choices(&self, world: &BlobWorld, process: &Process) -> u8 {
        match process {
            Process::Collector(collector) => collector.choices(world, &self.context),
            Process::MonolithicUpload(whole) => whole.choices(),
            Process::Reader(reader) => reader.choices(),
            Process::Acknowledged { .. } | Process::Done | Process::Failed | Process::Nobody => 0,
            _ => 1,
        }
    }

    fn step(&self, world: &mut BlobWorld, process: &mut Process, choice: u8) -> Note {
        let context = &self.context;
        let mut next = *process;
        let (end, note) = match &mut next {
            Process::Push(it) => it.step(world, context),
            Process::Head(it) => it.step(world, context),
            Process::Mount(it) => it.step(world, context),
            Process::Mover(it) => it.step(world, context),
            Process::Deleter(it) => it.step(world),
            Process::MonolithicUpload(it) => it.step(world, context, choice),
            Process::Stream(it) => it.step(world, context),
            Process::Closer(it) => it.step(world, context),
            Process::Cancel(it) => it.step(world, context),
            Process::Reader(it) => it.step(world, context),
            Process::Deduplication(it) => it.step(world, context),
            Process::Collector(it) => it.step(world, context),
            Process::Sweep(it) => it.step(world, context),
            Process::Acknowledged { .. } | Process::Done | Process::Failed | Process::Nobody => {
                (None, note("has ended"))
            }
        };
        *process = end.unwrap_or(next);
        note
    }

    fn properties(&self) -> Vec<Property<Checked<Self>>> {
        let mut properties = vec![
            Property::always("a live link names bytes that are there", |_, state: &BlobState| {
                state.world.links.iter().all(|link| state.world.has_bytes_of(link.value))
            }),
            Property::always("a manifest has its links", |_, state: &BlobState| {
                let kept = state.world.manifests.minus(state.world.deleted);
                kept.members().all(|repository| state.world.link(repository).value.live().is_some())
            }),
            Property::always("what was acknowledged stays for G - T", |_, state: &BlobState| {
                state.processes.iter().all(|process| process.is_kept_word(&state.world))
            }),
            Property::always(
                "what a reader was told is true while he trusts it",
                |_, state: &BlobState| {
                    state.processes.iter().all(|process| process.can_read(&state.world))
                },
            ),
            Property::always(
                "what was deleted stays so until it is pushed",
                |_, state: &BlobState| !state.world.undone,
            ),
            Property::always(
                "a push is not acknowledged onto lost bytes",
                |_, state: &BlobState| !state.world.vouched,
            ),
            Property::always("deduplication spreads no wrong bytes", |_, state: &BlobState| {
                !state.world.spread
            }),
        ];
        properties.extend(self.goals.iter().map(|goal| goal.property()));
        properties
    }
}

impl BlobWorld {
    fn has_bytes_of(&self, link: Link) -> bool {
        let is_there = |location| self.bytes.has(location) || self.lost.has(location);
        link.live().is_none_or(is_there)
    }
}

impl Process {
    /// Once a promise has run out it makes no difference any more.
    fn forget(&mut self, now: u8) {
        let until = match self {
            Self::Acknowledged { until, .. } => *until,
            Self::Reader(reader) => reader.until(),
            _ => return,
        };
        if now > until {
            *self = Self::Done;
        }
    }

    fn is_kept_word(&self, world: &BlobWorld) -> bool {
        let Self::Acknowledged { repository, .. } = *self else { return true };
        world.deleted.has(repository) || world.link(repository).value.live().is_some()
    }

    fn can_read(&self, world: &BlobWorld) -> bool {
        let Self::Reader(reader) = self else { return true };
        reader.told().is_none_or(|location| world.bytes.has(location))
    }

    fn has_ended(&self) -> bool {
        matches!(self, Self::Acknowledged { .. } | Self::Done | Self::Nobody)
    }
}

impl Goal {
    fn property(self) -> Property<Checked<Blob>> {
        match self {
            Self::Collects => Property::sometimes("a link is collected", |_, state: &BlobState| {
                state.world.collected
            }),
            Self::Frees => {
                Property::sometimes("bytes are removed", |_, state: &BlobState| state.world.freed)
            }
            Self::AllEnd => Property::sometimes("every process ends", |_, state: &BlobState| {
                state.processes.iter().all(Process::has_ended)
            }),
        }
    }
}

impl fmt::Display for Process {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Push(it) => write!(f, "push to {}", it.repository + 1),
            Self::Head(it) => write!(f, "HEAD in {}", it.repository + 1),
            Self::Mount(it) => write!(f, "mount {}→{}", it.source + 1, it.destination + 1),
            Self::Mover(_) => f.write_str("mover"),
            Self::Deleter(it) => write!(f, "DELETE in {}", it.repository + 1),
            Self::MonolithicUpload(it) => write!(f, "upload to {}", it.repository + 1),
            Self::Stream(_) => f.write_str("PATCH"),
            Self::Closer(_) => f.write_str("closing PUT"),
            Self::Cancel(_) => f.write_str("cancel"),
            Self::Reader(_) => f.write_str("reader"),
            Self::Deduplication(it) => write!(f, "fold of {}", it.repository + 1),
            Self::Collector(_) => f.write_str("collector"),
            Self::Sweep(_) => f.write_str("sweep"),
            other => write!(f, "{other:?}"),
        }
    }
}
