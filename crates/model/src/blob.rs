//! One blob: its links in several repositories, its bytes at several locations, one upload, and the
//! processes that read, write and delete them.

mod deduplicate;
mod deleter;
mod gc;
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

use self::deduplicate::Deduplication;
use self::deleter::BlobDeleter;
use self::gc::BlobGc;
use self::monolithic::MonolithicUpload;
use self::mount::{Mount, Mover};
use self::push::{BlobHead, BlobPush};
use self::reader::Reader;
pub(crate) use self::scenarios::{large, scenarios};
use self::sweep::{Sweep, SweepFindings};
use self::upload::{Cancel, Closer, HOME, Stream};
use crate::checked::{CheckedProtocol, Note, PROCESSES_MAX, Protocol, ProtocolState, note};
use crate::context::ProtocolContext;
use crate::record::ModelRecord;
use crate::set::NumberSet;
use crate::{ProtocolLimits, ProtocolRules};

pub(crate) const REPOSITORIES: usize = 4;

/// A repository's link to the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ModelLink {
    /// It never existed, or GC has deleted it.
    Absent,
    /// The bytes are at this location.
    Live(u8),
    /// The API deleted it; this is where the bytes were.
    Deleted(u8),
}

impl ModelLink {
    fn live(self) -> Option<u8> {
        if let Self::Live(location) = self { Some(location) } else { None }
    }
}

/// The record of an upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum ModelSession {
    Absent,
    /// These bytes have arrived.
    Open(u8),
    /// These bytes are the blob.
    Closed(u8),
    /// These bytes are removed, or about to be.
    Cancelled(u8),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BlobStore {
    pub(crate) now: u8,
    pub(crate) links: [ModelRecord<ModelLink>; REPOSITORIES],
    pub(crate) session: ModelRecord<ModelSession>,
    /// The locations that have bytes.
    pub(crate) bytes: NumberSet,
    /// The locations that lost their bytes to damage.
    pub(crate) lost: NumberSet,
    /// The locations whose bytes are wrong, in full length.
    pub(crate) wrong: NumberSet,
    /// The next location; none is ever used again.
    pub(crate) fresh: u8,
    /// The repositories with a manifest that refers to the blob.
    pub(crate) manifests: NumberSet,
    /// What the last sweep recorded.
    pub(crate) findings: SweepFindings,
    /// The repositories from which the API deleted the blob, without a push since. Only the
    /// invariants read this and the following fields.
    pub(crate) deleted: NumberSet,
    /// The API has deleted the blob in the repository that is uploaded to since the upload was closed.
    pub(crate) deleted_since_close: bool,
    /// A deleted link was restored without a push or mount.
    pub(crate) restored: bool,
    /// A retry of a closing PUT was refused for a delete that was earlier than the close.
    pub(crate) refused: bool,
    /// A push was acknowledged though the bytes of its link are lost.
    pub(crate) acknowledged_lost: bool,
    /// A link was moved to wrong bytes.
    pub(crate) spread_wrong: bool,
    /// GC deleted a link.
    pub(crate) collected: bool,
    /// Bytes were removed.
    pub(crate) bytes_deleted: bool,
}

impl BlobStore {
    pub(crate) fn link(&self, repository: u8) -> ModelRecord<ModelLink> {
        self.links[usize::from(repository)]
    }

    /// Writes a live link, also over a deleted one.
    pub(crate) fn write_link(&mut self, repository: u8, location: u8) {
        self.links[usize::from(repository)].write(ModelLink::Live(location), self.now);
        self.deleted = self.deleted.without(repository);
        self.deleted_since_close &= repository != HOME;
    }

    /// Writes a live link, where restoring a deleted one is a violation.
    pub(crate) fn rewrite_link(&mut self, repository: u8, location: u8) {
        self.restored |= self.deleted.has(repository);
        self.write_link(repository, location);
    }

    pub(crate) fn delete_link(&mut self, repository: u8) {
        self.links[usize::from(repository)].delete(ModelLink::Absent);
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
        self.bytes_deleted = true;
    }
}

/// A process that works on the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum BlobProcess {
    BlobPush(BlobPush),
    BlobHead(BlobHead),
    Mount(Mount),
    Mover(Mover),
    BlobDeleter(BlobDeleter),
    MonolithicUpload(MonolithicUpload),
    Stream(Stream),
    Closer(Closer),
    Cancel(Cancel),
    Reader(Reader),
    Deduplication(Deduplication),
    BlobGc(BlobGc),
    Sweep(Sweep),
    /// It has acknowledged that the repository has the blob, which must hold until then.
    Acknowledged {
        repository: u8,
        until: u8,
    },
    /// It has ended, having acknowledged something or done all its work.
    Done,
    /// It has ended without that.
    Failed,
    /// There is no such process.
    Unused,
}

impl ProtocolContext {
    /// The state of a process that acknowledges now.
    fn acknowledge(&self, repository: u8, now: u8) -> BlobProcess {
        self.acknowledge_since(repository, now, now)
    }

    /// The state of a process that acknowledges what it verified at `since`.
    fn acknowledge_since(&self, repository: u8, since: u8, now: u8) -> BlobProcess {
        let until = since + self.limits.promise();
        if until < now {
            BlobProcess::Done
        } else {
            BlobProcess::Acknowledged { repository, until }
        }
    }
}

/// A state of a scenario with one blob.
type BlobState = ProtocolState<BlobStore, BlobProcess>;

/// A scenario with one blob.
#[derive(Clone)]
pub(crate) struct BlobScenario {
    name: &'static str,
    context: ProtocolContext,
    store: BlobStore,
    processes: Vec<BlobProcess>,
    goals: &'static [Goal],
}

/// What must be reachable in a scenario, so that it proves something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    /// GC deletes a link.
    Collects,
    /// Bytes are removed.
    Frees,
    /// Every process ends.
    AllEnd,
}

impl Protocol for BlobScenario {
    type Store = BlobStore;
    type Process = BlobProcess;

    fn name(&self) -> &'static str {
        self.name
    }

    fn start(&self) -> ProtocolState<BlobStore, BlobProcess> {
        let mut processes = [BlobProcess::Unused; PROCESSES_MAX];
        processes[..self.processes.len()].copy_from_slice(&self.processes);
        ProtocolState { store: self.store, processes }
    }

    fn with_rules(&self, rules: ProtocolRules) -> Self {
        Self { context: ProtocolContext { rules, ..self.context }, ..self.clone() }
    }

    fn limits(&self) -> &ProtocolLimits {
        &self.context.limits
    }

    fn now(store: &BlobStore) -> u8 {
        store.now
    }

    fn tick(&self, state: &mut ProtocolState<BlobStore, BlobProcess>) {
        state.store.now += 1;
        for process in &mut state.processes {
            process.forget(state.store.now);
        }
    }

    fn choices(&self, store: &BlobStore, process: &BlobProcess) -> u8 {
        match process {
            BlobProcess::BlobGc(gc) => gc.choices(store, &self.context),
            BlobProcess::MonolithicUpload(whole) => whole.choices(),
            BlobProcess::Reader(reader) => reader.choices(),
            BlobProcess::Acknowledged { .. }
            | BlobProcess::Done
            | BlobProcess::Failed
            | BlobProcess::Unused => 0,
            _ => 1,
        }
    }

    fn step(&self, store: &mut BlobStore, process: &mut BlobProcess, choice: u8) -> Note {
        let context = &self.context;
        let mut next = *process;
        let (end, note) = match &mut next {
            BlobProcess::BlobPush(it) => it.step(store, context),
            BlobProcess::BlobHead(it) => it.step(store, context),
            BlobProcess::Mount(it) => it.step(store, context),
            BlobProcess::Mover(it) => it.step(store, context),
            BlobProcess::BlobDeleter(it) => it.step(store),
            BlobProcess::MonolithicUpload(it) => it.step(store, context, choice),
            BlobProcess::Stream(it) => it.step(store, context),
            BlobProcess::Closer(it) => it.step(store, context),
            BlobProcess::Cancel(it) => it.step(store, context),
            BlobProcess::Reader(it) => it.step(store, context),
            BlobProcess::Deduplication(it) => it.step(store, context),
            BlobProcess::BlobGc(it) => it.step(store, context),
            BlobProcess::Sweep(it) => it.step(store, context),
            BlobProcess::Acknowledged { .. }
            | BlobProcess::Done
            | BlobProcess::Failed
            | BlobProcess::Unused => (None, note("has ended")),
        };
        *process = end.unwrap_or(next);
        note
    }

    fn properties(&self) -> Vec<Property<CheckedProtocol<Self>>> {
        let mut properties = vec![
            Property::always("a live link names bytes that are there", |_, state: &BlobState| {
                state.store.links.iter().all(|link| state.store.has_bytes_of(link.value))
            }),
            Property::always("a manifest has its links", |_, state: &BlobState| {
                let kept = state.store.manifests.minus(state.store.deleted);
                kept.members().all(|repository| state.store.link(repository).value.live().is_some())
            }),
            Property::always("what was acknowledged stays for G - T", |_, state: &BlobState| {
                state.processes.iter().all(|process| process.is_kept_word(&state.store))
            }),
            Property::always(
                "what a reader was told is true while he trusts it",
                |_, state: &BlobState| {
                    state.processes.iter().all(|process| process.can_read(&state.store))
                },
            ),
            Property::always(
                "what was deleted stays so until it is pushed",
                |_, state: &BlobState| !state.store.restored,
            ),
            Property::always(
                "a retry of a closing PUT is refused only for a delete since the close",
                |_, state: &BlobState| !state.store.refused,
            ),
            Property::always(
                "a push is not acknowledged onto lost bytes",
                |_, state: &BlobState| !state.store.acknowledged_lost,
            ),
            Property::always("deduplication spreads no wrong bytes", |_, state: &BlobState| {
                !state.store.spread_wrong
            }),
        ];
        properties.extend(self.goals.iter().map(|goal| goal.property()));
        properties
    }
}

impl BlobStore {
    fn has_bytes_of(&self, link: ModelLink) -> bool {
        let is_there = |location| self.bytes.has(location) || self.lost.has(location);
        link.live().is_none_or(is_there)
    }
}

impl BlobProcess {
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

    fn is_kept_word(&self, store: &BlobStore) -> bool {
        let Self::Acknowledged { repository, .. } = *self else { return true };
        store.deleted.has(repository) || store.link(repository).value.live().is_some()
    }

    fn can_read(&self, store: &BlobStore) -> bool {
        let Self::Reader(reader) = self else { return true };
        reader.told().is_none_or(|location| store.bytes.has(location))
    }

    fn has_ended(&self) -> bool {
        matches!(self, Self::Acknowledged { .. } | Self::Done | Self::Unused)
    }
}

impl Goal {
    fn property(self) -> Property<CheckedProtocol<BlobScenario>> {
        match self {
            Self::Collects => Property::sometimes("a link is collected", |_, state: &BlobState| {
                state.store.collected
            }),
            Self::Frees => Property::sometimes("bytes are removed", |_, state: &BlobState| {
                state.store.bytes_deleted
            }),
            Self::AllEnd => Property::sometimes("every process ends", |_, state: &BlobState| {
                state.processes.iter().all(BlobProcess::has_ended)
            }),
        }
    }
}

impl fmt::Display for BlobProcess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BlobPush(it) => write!(f, "push to {}", it.repository + 1),
            Self::BlobHead(it) => write!(f, "HEAD in {}", it.repository + 1),
            Self::Mount(it) => write!(f, "mount {}→{}", it.source + 1, it.destination + 1),
            Self::Mover(_) => f.write_str("mover"),
            Self::BlobDeleter(it) => write!(f, "DELETE in {}", it.repository + 1),
            Self::MonolithicUpload(it) => write!(f, "upload to {}", it.repository + 1),
            Self::Stream(_) => f.write_str("PATCH"),
            Self::Closer(_) => f.write_str("closing PUT"),
            Self::Cancel(_) => f.write_str("cancel"),
            Self::Reader(_) => f.write_str("reader"),
            Self::Deduplication(it) => write!(f, "deduplication of {}", it.repository + 1),
            Self::BlobGc(_) => f.write_str("GC"),
            Self::Sweep(_) => f.write_str("sweep"),
            other => write!(f, "{other:?}"),
        }
    }
}
