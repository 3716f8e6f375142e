//! The scenarios with one blob.

use super::collector::Collector;
use super::deduplicate::Deduplication;
use super::deleter::Deleter;
use super::monolithic::MonolithicUpload;
use super::mount::{Mount, Mover};
use super::push::{Head, Push};
use super::reader::Reader;
use super::sweep::{Findings, Sweep};
use super::upload::{Cancel, Closer, Stream};
use super::{Blob, BlobWorld, Context, Goal, Link, Process, REPOSITORIES, Session};
use crate::record::Record;
use crate::set::Set;

use Goal::{AllEnd, Collects, Frees};
use Link::{Absent, Live};

impl Blob {
    /// A scenario with as many repositories, whose links are all old.
    fn new(name: &'static str, links: &[Link]) -> Self {
        let bytes = links.iter().filter_map(|link| link.live()).fold(Set::EMPTY, Set::with);
        let mut all = [Record::old(Absent); REPOSITORIES];
        for (record, link) in all.iter_mut().zip(links) {
            record.value = *link;
        }
        let world = BlobWorld {
            now: 0,
            links: all,
            session: Record::old(Session::Absent),
            bytes,
            lost: Set::EMPTY,
            wrong: Set::EMPTY,
            fresh: bytes.members().last().map_or(0, |last| last + 1),
            manifests: Set::EMPTY,
            findings: Findings::default(),
            deleted: Set::EMPTY,
            undone: false,
            vouched: false,
            spread: false,
            collected: false,
            freed: false,
        };
        let repositories = u8::try_from(links.len()).unwrap_or(u8::MAX);
        let context = Context::new(repositories);
        Self { name, context, world, processes: Vec::new(), goals: &[] }
    }

    fn with(mut self, process: Process) -> Self {
        self.processes.push(process);
        self
    }

    fn reaching(self, goals: &'static [Goal]) -> Self {
        Self { goals, ..self }
    }

    /// With an upload whose bytes have come.
    fn uploading(mut self) -> Self {
        let location = self.world.put_bytes();
        self.world.session = Record::old(Session::Open(location));
        self
    }

    /// With bytes that damage has taken.
    fn losing(mut self, location: u8) -> Self {
        self.world.bytes = self.world.bytes.without(location);
        self.world.lost = self.world.lost.with(location);
        self
    }

    /// With bytes that damage has changed.
    fn spoiling(mut self, location: u8) -> Self {
        self.world.wrong = self.world.wrong.with(location);
        self
    }

    /// With a manifest that refers to the blob.
    fn referred_to(mut self, repository: u8) -> Self {
        self.world.manifests = self.world.manifests.with(repository);
        self
    }

    fn until(mut self, end: u8) -> Self {
        self.context.limits.end = end;
        self
    }
}

/// Those that every run checks.
pub(crate) fn scenarios() -> Vec<Blob> {
    [collecting(), uploading(), sweeping()].concat()
}

/// What a collector does to those who rely on links.
fn collecting() -> Vec<Blob> {
    vec![
        Blob::new("push, 2 collectors", &[Live(0)])
            .with(Push::to(0))
            .with(Collector::run())
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("2 pushes, collector", &[Live(0)])
            .with(Push::to(0))
            .with(Push::to(0))
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("manifest deleted, 2 pushes, collector", &[Live(0)])
            .referred_to(0)
            .with(Deleter::of_manifest(0))
            .with(Push::to(0))
            .with(Push::to(0))
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("mount 1→2, push to 2, collector", &[Live(0), Absent])
            .with(Mount::from_to(0, 1))
            .with(Push::to(1))
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("mount 1→2, push to 1, collector", &[Live(0), Absent])
            .with(Mount::from_to(0, 1))
            .with(Push::to(0))
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("mount 1→2→3, collector", &[Live(0), Absent, Absent])
            .with(Mount::from_to(0, 1))
            .with(Mount::from_to(1, 2))
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("mount 1→2 onto an old link, 2 collectors", &[Live(0), Live(0)])
            .with(Mount::from_to(0, 1))
            .with(Collector::run())
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("2 HEADs, 2 collectors", &[Live(0)])
            .with(Head::of(0))
            .with(Head::from_memory(0))
            .with(Collector::run())
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("DELETE, mount 1→2, push to 2, collector", &[Live(0), Absent])
            .with(Deleter::of_blob(0))
            .with(Mount::from_to(0, 1))
            .with(Push::to(1))
            .with(Collector::run())
            .reaching(&[Collects, AllEnd]),
        Blob::new("2 readers, 2 collectors", &[Live(0)])
            .with(Reader::of(0))
            .with(Reader::of(0))
            .with(Collector::run())
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("fold, push to 2, collector", &[Live(0), Live(1)])
            .with(Deduplication::into_other(0, 1))
            .with(Push::to(1))
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("fold, DELETE, push to 2, collector", &[Live(0), Live(1)])
            .with(Deduplication::into_other(0, 1))
            .with(Deleter::of_blob(0))
            .with(Push::to(1))
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("fold of 2, mount 2→1, collector", &[Absent, Live(0), Live(0), Live(1)])
            .with(Deduplication::into_other(1, 3))
            .with(Mount::from_to(1, 0))
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new(
            "fold onto wrong bytes, fold onto right ones, push to 1, collector",
            &[Live(0), Live(1)],
        )
        .spoiling(1)
        .with(Deduplication::into_other(0, 1))
        .with(Deduplication::into_other(1, 0))
        .with(Push::to(0))
        .with(Collector::run())
        .reaching(&[Collects]),
        Blob::new("mover, collector", &[Live(0), Absent, Live(0)])
            .with(Mover::between(2, 1, 3))
            .with(Collector::run())
            .reaching(&[Collects, AllEnd]),
    ]
}

/// Uploads among themselves, with a collector.
fn uploading() -> Vec<Blob> {
    vec![
        Blob::new("2 uploads, DELETE, collector", &[Absent])
            .with(MonolithicUpload::to(0))
            .with(MonolithicUpload::to(0))
            .with(Deleter::of_blob(0))
            .with(Collector::run())
            .reaching(&[Collects, AllEnd]),
        Blob::new("upload that loses an answer, mount 1→2, DELETE, upload", &[Absent, Absent])
            .with(MonolithicUpload::losing(0))
            .with(Mount::from_to(0, 1))
            .with(Deleter::of_blob(0))
            .with(MonolithicUpload::to(0))
            .reaching(&[AllEnd])
            .until(3),
        Blob::new("upload that deduplicates, DELETE in 2, collector", &[Absent, Live(0)])
            .with(MonolithicUpload::deduplicating(0, 1))
            .with(Deleter::of_blob(1))
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("uploads onto lost bytes, DELETE, collector", &[Live(0), Absent])
            .losing(0)
            .with(MonolithicUpload::to(0))
            .with(MonolithicUpload::deduplicating(1, 0))
            .with(Deleter::of_blob(0))
            .with(Collector::run())
            .reaching(&[Collects, AllEnd])
            .until(7),
        Blob::new("2 closing PUTs, cancel, collector", &[Absent])
            .uploading()
            .with(Closer::request())
            .with(Closer::request())
            .with(Cancel::by_api())
            .with(Collector::run())
            .reaching(&[Collects, Frees])
            .until(11),
        Blob::new("3 closing PUTs, collector", &[Absent])
            .uploading()
            .with(Closer::request())
            .with(Closer::request())
            .with(Closer::request())
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd])
            .until(11),
        Blob::new("2 closing PUTs, DELETE, collector", &[Absent])
            .uploading()
            .with(Closer::request())
            .with(Closer::request())
            .with(Deleter::of_blob(0))
            .with(Collector::run())
            .reaching(&[Collects, AllEnd]),
    ]
}

/// Sweeps, with all that moves bytes and names.
fn sweeping() -> Vec<Blob> {
    vec![
        Blob::new("upload, 2 sweeps at once", &[Absent])
            .with(MonolithicUpload::to(0))
            .with(Sweep::times(1))
            .with(Sweep::times(1))
            .reaching(&[Frees, AllEnd]),
        Blob::new("upload, mount 1→2, sweeps", &[Absent, Absent])
            .with(MonolithicUpload::to(0))
            .with(Mount::from_to(0, 1))
            .with(Sweep::times(2))
            .reaching(&[Frees, AllEnd]),
        Blob::new("PATCH, closing PUT, reaper, sweeps", &[Absent])
            .with(Stream::request())
            .with(Closer::request())
            .with(Cancel::by_reaper())
            .with(Sweep::times(2))
            .reaching(&[Frees, AllEnd]),
        Blob::new("PATCH, 2 closing PUTs, sweeps", &[Absent])
            .with(Stream::request())
            .with(Closer::request())
            .with(Closer::request())
            .with(Sweep::times(2))
            .reaching(&[Frees, AllEnd]),
        Blob::new("fold, mount 1→3, sweeps", &[Live(0), Live(1), Absent])
            .with(Deduplication::into_other(0, 1))
            .with(Mount::from_to(0, 2))
            .with(Sweep::times(2))
            .reaching(&[Frees, AllEnd])
            .until(10),
        Blob::new("fold, reader, sweeps", &[Live(0), Live(1)])
            .with(Deduplication::into_other(0, 1))
            .with(Reader::of(0))
            .with(Sweep::times(2))
            .reaching(&[Frees, AllEnd])
            .until(11),
        Blob::new("mover, sweeps", &[Absent, Live(0)])
            .with(Mover::between(1, 0, 3))
            .with(Sweep::times(2))
            .reaching(&[AllEnd]),
    ]
}

/// Larger ones, for when there is time.
pub(crate) fn large() -> Vec<Blob> {
    vec![
        Blob::new("fold, push to 1, push to 2, collector", &[Live(0), Live(1)])
            .with(Deduplication::into_other(0, 1))
            .with(Push::to(0))
            .with(Push::to(1))
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("upload, mount 1→2, 2 sweeps at once", &[Absent, Absent])
            .with(MonolithicUpload::to(0))
            .with(Mount::from_to(0, 1))
            .with(Sweep::times(1))
            .with(Sweep::times(1))
            .reaching(&[Frees, AllEnd]),
        Blob::new("2 uploads, 2 sweeps at once", &[Absent])
            .with(MonolithicUpload::to(0))
            .with(MonolithicUpload::to(0))
            .with(Sweep::times(1))
            .with(Sweep::times(1))
            .reaching(&[Frees, AllEnd]),
        Blob::new("mount 1→2, push to 1, 2 collectors", &[Live(0), Absent])
            .with(Mount::from_to(0, 1))
            .with(Push::to(0))
            .with(Collector::run())
            .with(Collector::run())
            .reaching(&[Collects, Frees, AllEnd]),
        Blob::new("fold, mount 1→3, 2 sweeps at once", &[Live(0), Live(1), Absent])
            .with(Deduplication::into_other(0, 1))
            .with(Mount::from_to(0, 2))
            .with(Sweep::times(1))
            .with(Sweep::times(1))
            .reaching(&[Frees, AllEnd]),
        Blob::new("mover, 2 sweeps at once", &[Absent, Live(0)])
            .with(Mover::between(1, 0, 3))
            .with(Sweep::times(1))
            .with(Sweep::times(1))
            .reaching(&[AllEnd]),
    ]
}
