//! The scenarios with manifests.

use super::collector::Collector;
use super::deleter::Deleter;
use super::push::{Head, Push};
use super::{ManifestWorld, Manifests, OBJECTS, Object, Process, Tag};
use crate::context::Context;
use crate::record::Record;
use crate::set::Set;

impl Manifests {
    /// A scenario in which all is there, and old.
    fn new(name: &'static str, tag: Tag) -> Self {
        let world = ManifestWorld {
            now: 0,
            objects: [Record::old(true); OBJECTS.len()],
            tag: Record::old(tag),
            deleted: Set::EMPTY,
            is_child_other: false,
            is_referrer_promised: true,
            collected: Set::EMPTY,
        };
        let (context, processes) = (Context::new(1), Vec::new());
        Self { name, context, world, processes, collectable: Vec::new() }
    }

    /// A scenario without the referrer.
    fn without_referrer(name: &'static str, tag: Tag) -> Self {
        let mut scenario = Self::new(name, tag);
        scenario.world.delete(Object::Referrer);
        scenario.world.is_referrer_promised = false;
        scenario
    }

    fn without(mut self, object: Object) -> Self {
        self.world.delete(object);
        self
    }

    fn with(mut self, process: Process) -> Self {
        self.processes.push(process);
        self
    }

    fn until(mut self, end: u8) -> Self {
        self.context.limits.end = end;
        self
    }

    fn collecting(mut self, objects: &[Object]) -> Self {
        self.collectable.extend_from_slice(objects);
        self
    }
}

use Object::{Child, Index, Layer, Referrer};

/// Those that every run checks.
pub(crate) fn scenarios() -> Vec<Manifests> {
    vec![
        Manifests::without_referrer("index push, 2 collectors", Tag::Absent)
            .with(Push::index())
            .with(Collector::run())
            .with(Collector::run())
            .collecting(&[Index, Child])
            .until(11),
        Manifests::without_referrer("index push, child push, collector", Tag::Absent)
            .without(Index)
            .with(Push::index())
            .with(Push::child())
            .with(Collector::run())
            .collecting(&[Child]),
        Manifests::without_referrer("child push, 2 collectors", Tag::Absent)
            .without(Index)
            .with(Push::child())
            .with(Collector::run())
            .with(Collector::run())
            .collecting(&[Child, Layer]),
        Manifests::without_referrer("untagged index push, HEAD, collector", Tag::Absent)
            .without(Index)
            .with(Push::untagged_index())
            .with(Head::of_child())
            .with(Collector::run())
            .collecting(&[Child]),
        Manifests::without_referrer("child push as another type, collector", Tag::Index)
            .with(Push::child_as_other())
            .with(Collector::run())
            .with(Process::Retag)
            .collecting(&[Index]),
        Manifests::without_referrer("child pushes as two types, DELETE, collector", Tag::Absent)
            .without(Index)
            .with(Push::child_as_other())
            .with(Push::child())
            .with(Deleter::of(Child))
            .with(Collector::run())
            .collecting(&[Child, Layer]),
        Manifests::without_referrer("2 index pushes, DELETE of the index", Tag::Index)
            .with(Push::index())
            .with(Push::untagged_index())
            .with(Deleter::of(Index))
            .until(5),
        Manifests::without_referrer("2 child pushes, collector", Tag::Absent)
            .without(Index)
            .with(Push::child())
            .with(Push::child())
            .with(Collector::run())
            .collecting(&[Child]),
        Manifests::without_referrer("index push, retag, collector", Tag::Index)
            .with(Push::index())
            .with(Process::Retag)
            .with(Collector::run())
            .collecting(&[Index]),
        Manifests::without_referrer("index push, DELETE of the index, collector", Tag::Index)
            .with(Push::index())
            .with(Deleter::of(Index))
            .with(Collector::run())
            .collecting(&[Child]),
        Manifests::without_referrer("index push, DELETE of the child, collector", Tag::Absent)
            .without(Index)
            .with(Push::index())
            .with(Deleter::of(Child))
            .with(Collector::run())
            .collecting(&[Child, Layer]),
        Manifests::new("referrer push, retag, 2 collectors", Tag::Index)
            .with(Push::referrer())
            .with(Process::Retag)
            .with(Collector::run())
            .with(Collector::run())
            .collecting(&[Index, Child, Referrer]),
        Manifests::new("referrer push, DELETE of the index, collector", Tag::Index)
            .with(Push::referrer())
            .with(Deleter::of(Index))
            .with(Collector::run())
            .collecting(&[Child, Referrer]),
    ]
}

/// Larger ones.
pub(crate) fn large() -> Vec<Manifests> {
    vec![
        Manifests::without_referrer("2 index pushes, DELETE of the index, collector", Tag::Index)
            .with(Push::index())
            .with(Push::untagged_index())
            .with(Deleter::of(Index))
            .with(Collector::run())
            .collecting(&[Child]),
        Manifests::without_referrer("index push, DELETE of the index, 2 collectors", Tag::Index)
            .with(Push::index())
            .with(Deleter::of(Index))
            .with(Collector::run())
            .with(Collector::run())
            .collecting(&[Child, Layer]),
        Manifests::without_referrer(
            "index push, child push, DELETE of the child, collector",
            Tag::Absent,
        )
        .without(Index)
        .with(Push::index())
        .with(Push::child())
        .with(Deleter::of(Child))
        .with(Collector::run())
        .collecting(&[Child, Layer]),
        Manifests::new("referrer push, retag, index push, collector", Tag::Index)
            .with(Push::referrer())
            .with(Push::index())
            .with(Process::Retag)
            .with(Collector::run())
            .collecting(&[Index]),
        Manifests::without_referrer("index push, child push, 2 collectors", Tag::Absent)
            .without(Index)
            .with(Push::index())
            .with(Push::child())
            .with(Collector::run())
            .with(Collector::run())
            .collecting(&[Child, Layer])
            .until(7),
        Manifests::without_referrer("index push, retag, 2 collectors", Tag::Index)
            .with(Push::index())
            .with(Process::Retag)
            .with(Collector::run())
            .with(Collector::run())
            .collecting(&[Index, Child]),
        Manifests::without_referrer("index push, 3 collectors", Tag::Absent)
            .with(Push::index())
            .with(Collector::run())
            .with(Collector::run())
            .with(Collector::run())
            .collecting(&[Index, Child, Layer])
            .until(9),
    ]
}
