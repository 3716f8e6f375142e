//! The scenarios with one blob.

use super::deduplicate::Deduplication;
use super::deleter::BlobDeleter;
use super::gc::BlobGc;
use super::monolithic::MonolithicUpload;
use super::mount::{Mount, Mover};
use super::push::{BlobHead, BlobPush};
use super::reader::Reader;
use super::sweep::{Sweep, SweepFindings};
use super::upload::{Cancel, Closer, Stream};
use super::{
    BlobProcess, BlobScenario, BlobStore, Goal, ModelLink, ModelSession, ProtocolContext,
    REPOSITORIES,
};
use crate::record::ModelRecord;
use crate::set::NumberSet;

use Goal::{AllEnd, Collects, Frees};
use ModelLink::{Absent, Deleted, Live};

impl BlobScenario {
    /// A scenario with as many repositories, whose links are all old.
    fn new(name: &'static str, links: &[ModelLink]) -> Self {
        let bytes =
            links.iter().filter_map(|link| link.live()).fold(NumberSet::EMPTY, NumberSet::with);
        let mut all = [ModelRecord::old(Absent); REPOSITORIES];
        for (record, link) in all.iter_mut().zip(links) {
            record.value = *link;
        }
        let store = BlobStore {
            now: 0,
            links: all,
            session: ModelRecord::old(ModelSession::Absent),
            bytes,
            lost: NumberSet::EMPTY,
            wrong: NumberSet::EMPTY,
            fresh: bytes.members().last().map_or(0, |last| last + 1),
            manifests: NumberSet::EMPTY,
            findings: SweepFindings::default(),
            deleted: NumberSet::EMPTY,
            deleted_since_close: false,
            restored: false,
            refused: false,
            acknowledged_lost: false,
            spread_wrong: false,
            collected: false,
            bytes_deleted: false,
        };
        let repositories = u8::try_from(links.len()).unwrap_or(u8::MAX);
        let context = ProtocolContext::new(repositories);
        Self { name, context, store, processes: Vec::new(), goals: &[] }
    }

    fn with(mut self, process: BlobProcess) -> Self {
        self.processes.push(process);
        self
    }

    fn reaching(self, goals: &'static [Goal]) -> Self {
        Self { goals, ..self }
    }

    /// With an upload whose bytes have arrived.
    fn uploading(mut self) -> Self {
        let location = self.store.put_bytes();
        self.store.session = ModelRecord::old(ModelSession::Open(location));
        self
    }

    /// From which the API has deleted the blob.
    fn deleted_in(mut self, repository: u8) -> Self {
        let link = &mut self.store.links[usize::from(repository)].value;
        if let Live(location) = *link {
            *link = Deleted(location);
        }
        self.store.deleted = self.store.deleted.with(repository);
        self
    }

    /// With lost bytes.
    fn losing(mut self, location: u8) -> Self {
        self.store.bytes = self.store.bytes.without(location);
        self.store.lost = self.store.lost.with(location);
        self
    }

    /// With corrupt bytes.
    fn spoiling(mut self, location: u8) -> Self {
        self.store.wrong = self.store.wrong.with(location);
        self
    }

    /// With a manifest that refers to the blob.
    fn referred_to(mut self, repository: u8) -> Self {
        self.store.manifests = self.store.manifests.with(repository);
        self
    }

    fn until(mut self, end: u8) -> Self {
        self.context.limits.end = end;
        self
    }
}

/// The scenarios that every run checks.
pub(crate) fn scenarios() -> Vec<BlobScenario> {
    [gc_and_pushes(), gc_and_mounts(), gc_and_reads(), gc_and_moves(), uploading(), sweeping()]
        .concat()
}

/// GC and pushes that rely on links.
fn gc_and_pushes() -> Vec<BlobScenario> {
    vec![
        BlobScenario::new("push, 2 GC runs", &[Live(0)])
            .with(BlobPush::to(0))
            .with(BlobGc::run())
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new("2 pushes, GC", &[Live(0)])
            .with(BlobPush::to(0))
            .with(BlobPush::to(0))
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new("manifest deleted, 2 pushes, GC", &[Live(0)])
            .referred_to(0)
            .with(BlobDeleter::of_manifest(0))
            .with(BlobPush::to(0))
            .with(BlobPush::to(0))
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
    ]
}

fn gc_and_mounts() -> Vec<BlobScenario> {
    vec![
        BlobScenario::new("mount 1→2, push to 2, GC", &[Live(0), Absent])
            .with(Mount::from_to(0, 1))
            .with(BlobPush::to(1))
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new("mount 1→2, push to 1, GC", &[Live(0), Absent])
            .with(Mount::from_to(0, 1))
            .with(BlobPush::to(0))
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new("mount 1→2→3, GC", &[Live(0), Absent, Absent])
            .with(Mount::from_to(0, 1))
            .with(Mount::from_to(1, 2))
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new("mount 1→2 onto an old link, 2 GC runs", &[Live(0), Live(0)])
            .with(Mount::from_to(0, 1))
            .with(BlobGc::run())
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new("DELETE, mount 1→2, push to 2, GC", &[Live(0), Absent])
            .with(BlobDeleter::of_blob(0))
            .with(Mount::from_to(0, 1))
            .with(BlobPush::to(1))
            .with(BlobGc::run())
            .reaching(&[Collects, AllEnd]),
    ]
}

/// GC and HEAD requests and readers.
fn gc_and_reads() -> Vec<BlobScenario> {
    vec![
        BlobScenario::new("2 HEADs, 2 GC runs", &[Live(0)])
            .with(BlobHead::of(0))
            .with(BlobHead::from_memory(0))
            .with(BlobGc::run())
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new("2 readers, 2 GC runs", &[Live(0)])
            .with(Reader::of(0))
            .with(Reader::of(0))
            .with(BlobGc::run())
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
    ]
}

/// GC and what swaps links to other bytes.
fn gc_and_moves() -> Vec<BlobScenario> {
    vec![
        BlobScenario::new("deduplication, push to 2, GC", &[Live(0), Live(1)])
            .with(Deduplication::into_other(0, 1))
            .with(BlobPush::to(1))
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new("deduplication, DELETE, push to 2, GC", &[Live(0), Live(1)])
            .with(Deduplication::into_other(0, 1))
            .with(BlobDeleter::of_blob(0))
            .with(BlobPush::to(1))
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new(
            "deduplication of 2, mount 2→1, GC",
            &[Absent, Live(0), Live(0), Live(1)],
        )
        .with(Deduplication::into_other(1, 3))
        .with(Mount::from_to(1, 0))
        .with(BlobGc::run())
        .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new(
            "deduplication onto wrong bytes, deduplication onto right ones, push to 1, GC",
            &[Live(0), Live(1)],
        )
        .spoiling(1)
        .with(Deduplication::into_other(0, 1))
        .with(Deduplication::into_other(1, 0))
        .with(BlobPush::to(0))
        .with(BlobGc::run())
        .reaching(&[Collects]),
        BlobScenario::new("mover, GC", &[Live(0), Absent, Live(0)])
            .with(Mover::between(2, 1, 3))
            .with(BlobGc::run())
            .reaching(&[Collects, AllEnd]),
    ]
}

/// Concurrent uploads, with GC.
fn uploading() -> Vec<BlobScenario> {
    vec![
        BlobScenario::new("2 uploads, DELETE, GC", &[Absent])
            .with(MonolithicUpload::to(0))
            .with(MonolithicUpload::to(0))
            .with(BlobDeleter::of_blob(0))
            .with(BlobGc::run())
            .reaching(&[Collects, AllEnd]),
        BlobScenario::new(
            "upload that loses a response, mount 1→2, DELETE, upload",
            &[Absent, Absent],
        )
        .with(MonolithicUpload::losing(0))
        .with(Mount::from_to(0, 1))
        .with(BlobDeleter::of_blob(0))
        .with(MonolithicUpload::to(0))
        .reaching(&[AllEnd])
        .until(3),
        BlobScenario::new("upload that deduplicates, DELETE in 2, GC", &[Absent, Live(0)])
            .with(MonolithicUpload::deduplicating(0, 1))
            .with(BlobDeleter::of_blob(1))
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new("uploads onto lost bytes, DELETE, GC", &[Live(0), Absent])
            .losing(0)
            .with(MonolithicUpload::to(0))
            .with(MonolithicUpload::deduplicating(1, 0))
            .with(BlobDeleter::of_blob(0))
            .with(BlobGc::run())
            .reaching(&[Collects, AllEnd])
            .until(7),
        BlobScenario::new("2 closing PUTs, cancel, GC", &[Absent])
            .uploading()
            .with(Closer::request())
            .with(Closer::request())
            .with(Cancel::by_api())
            .with(BlobGc::run())
            .reaching(&[Collects, Frees])
            .until(11),
        BlobScenario::new("3 closing PUTs, GC", &[Absent])
            .uploading()
            .with(Closer::request())
            .with(Closer::request())
            .with(Closer::request())
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd])
            .until(11),
        BlobScenario::new("2 closing PUTs, DELETE, GC", &[Absent])
            .uploading()
            .with(Closer::request())
            .with(Closer::request())
            .with(BlobDeleter::of_blob(0))
            .with(BlobGc::run())
            .reaching(&[Collects, AllEnd]),
        BlobScenario::new("2 closing PUTs onto a deleted link, DELETE, GC", &[Live(0)])
            .deleted_in(0)
            .uploading()
            .with(Closer::request())
            .with(Closer::request())
            .with(BlobDeleter::of_blob(0))
            .with(BlobGc::run())
            .reaching(&[Collects, AllEnd]),
    ]
}

/// Sweeps, with everything that moves links or writes bytes.
fn sweeping() -> Vec<BlobScenario> {
    vec![
        BlobScenario::new("upload, 2 sweeps at once", &[Absent])
            .with(MonolithicUpload::to(0))
            .with(Sweep::times(1))
            .with(Sweep::times(1))
            .reaching(&[Frees, AllEnd]),
        BlobScenario::new("upload, mount 1→2, sweeps", &[Absent, Absent])
            .with(MonolithicUpload::to(0))
            .with(Mount::from_to(0, 1))
            .with(Sweep::times(2))
            .reaching(&[Frees, AllEnd]),
        BlobScenario::new("PATCH, closing PUT, reaper, sweeps", &[Absent])
            .with(Stream::request())
            .with(Closer::request())
            .with(Cancel::by_reaper())
            .with(Sweep::times(2))
            .reaching(&[Frees, AllEnd]),
        BlobScenario::new("PATCH, 2 closing PUTs, sweeps", &[Absent])
            .with(Stream::request())
            .with(Closer::request())
            .with(Closer::request())
            .with(Sweep::times(2))
            .reaching(&[Frees, AllEnd]),
        BlobScenario::new("deduplication, mount 1→3, sweeps", &[Live(0), Live(1), Absent])
            .with(Deduplication::into_other(0, 1))
            .with(Mount::from_to(0, 2))
            .with(Sweep::times(2))
            .reaching(&[Frees, AllEnd])
            .until(10),
        BlobScenario::new("deduplication, reader, sweeps", &[Live(0), Live(1)])
            .with(Deduplication::into_other(0, 1))
            .with(Reader::of(0))
            .with(Sweep::times(2))
            .reaching(&[Frees, AllEnd])
            .until(11),
        BlobScenario::new("mover, sweeps", &[Absent, Live(0)])
            .with(Mover::between(1, 0, 3))
            .with(Sweep::times(2))
            .reaching(&[AllEnd]),
    ]
}

/// Larger scenarios.
pub(crate) fn large() -> Vec<BlobScenario> {
    vec![
        BlobScenario::new("deduplication, push to 1, push to 2, GC", &[Live(0), Live(1)])
            .with(Deduplication::into_other(0, 1))
            .with(BlobPush::to(0))
            .with(BlobPush::to(1))
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new("upload, mount 1→2, 2 sweeps at once", &[Absent, Absent])
            .with(MonolithicUpload::to(0))
            .with(Mount::from_to(0, 1))
            .with(Sweep::times(1))
            .with(Sweep::times(1))
            .reaching(&[Frees, AllEnd]),
        BlobScenario::new("2 uploads, 2 sweeps at once", &[Absent])
            .with(MonolithicUpload::to(0))
            .with(MonolithicUpload::to(0))
            .with(Sweep::times(1))
            .with(Sweep::times(1))
            .reaching(&[Frees, AllEnd]),
        BlobScenario::new("mount 1→2, push to 1, 2 GC runs", &[Live(0), Absent])
            .with(Mount::from_to(0, 1))
            .with(BlobPush::to(0))
            .with(BlobGc::run())
            .with(BlobGc::run())
            .reaching(&[Collects, Frees, AllEnd]),
        BlobScenario::new(
            "deduplication, mount 1→3, 2 sweeps at once",
            &[Live(0), Live(1), Absent],
        )
        .with(Deduplication::into_other(0, 1))
        .with(Mount::from_to(0, 2))
        .with(Sweep::times(1))
        .with(Sweep::times(1))
        .reaching(&[Frees, AllEnd]),
        BlobScenario::new("mover, 2 sweeps at once", &[Absent, Live(0)])
            .with(Mover::between(1, 0, 3))
            .with(Sweep::times(1))
            .with(Sweep::times(1))
            .reaching(&[AllEnd]),
    ]
}
