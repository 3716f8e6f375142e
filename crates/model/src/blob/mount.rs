//! [`Mount`]: links a blob of another repository.

use super::deleter::BlobDeleter;
use super::touch::{LinkTouch, LinkTouched};
use super::{BlobProcess, BlobStore, ModelLink, ProtocolContext};
use crate::ProtocolRule;
use crate::checked::{Note, note};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mount {
    pub(crate) source: u8,
    pub(crate) destination: u8,
    opened: Option<u8>,
    at: MountStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum MountStep {
    /// W1 on a link of the destination.
    Destination(LinkTouch),
    /// W1 on the source's link.
    Source(LinkTouch),
    /// About to write the link, over that version or, without one, a Create.
    Linking { location: u8, over: Option<u8> },
    /// The destination has a link already: W1 on it.
    Conflict { location: u8, touch: LinkTouch },
}

impl Mount {
    pub(crate) fn from_to(source: u8, destination: u8) -> BlobProcess {
        BlobProcess::Mount(Self::begin(source, destination))
    }

    pub(crate) fn begin(source: u8, destination: u8) -> Self {
        let at = MountStep::Destination(LinkTouch::of(destination));
        Self { source, destination, opened: None, at }
    }

    pub(crate) fn step(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let reads_destination = context.keeps(ProtocolRule::TouchDestination);
        match self.at {
            MountStep::Destination(_) if !reads_destination => {
                self.at = MountStep::Source(LinkTouch::of(self.source));
                (None, note("does not read the destination"))
            }
            MountStep::Destination(touch) => self.touch_destination(touch, store, context),
            MountStep::Source(touch) => self.touch_source(touch, store, context),
            MountStep::Linking { location, over } => self.link(location, over, store, context),
            MountStep::Conflict { .. } if !reads_destination => {
                let acknowledged = Some(context.acknowledge(self.destination, store.now));
                (acknowledged, note("leaves the link as it is in").about(self.destination))
            }
            MountStep::Conflict { location, touch } => {
                self.touch_conflict(location, touch, store, context)
            }
        }
    }

    fn touch_destination(
        &mut self,
        mut touch: LinkTouch,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let acknowledged = Some(context.acknowledge(self.destination, store.now));
        let (touched, note) = touch.step(store, context, &mut self.opened);
        match touched {
            LinkTouched::NotYet => self.at = MountStep::Destination(touch),
            LinkTouched::At(_) => return (acknowledged, note),
            LinkTouched::Unknown(_) => self.at = MountStep::Source(LinkTouch::of(self.source)),
            LinkTouched::Lost => *self = Self::begin(self.source, self.destination),
            LinkTouched::Late => return (Some(BlobProcess::Failed), note),
        }
        (None, note)
    }

    fn touch_source(
        &mut self,
        mut touch: LinkTouch,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let (touched, note) = touch.step(store, context, &mut self.opened);
        match touched {
            LinkTouched::NotYet => self.at = MountStep::Source(touch),
            LinkTouched::At(location) => self.at = MountStep::Linking { location, over: None },
            LinkTouched::Lost => *self = Self::begin(self.source, self.destination),
            LinkTouched::Unknown(_) | LinkTouched::Late => {
                return (Some(BlobProcess::Failed), note);
            }
        }
        (None, note)
    }

    fn link(
        &mut self,
        location: u8,
        over: Option<u8>,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let acknowledged = Some(context.acknowledge(self.destination, store.now));
        if self.opened.is_some_and(|opened| context.is_late(opened, store.now)) {
            return (Some(BlobProcess::Failed), note("is too late"));
        }
        if link_over(store, self.destination, location, over) {
            return (acknowledged, note("writes the link in").about(self.destination));
        }
        self.at = MountStep::Conflict { location, touch: LinkTouch::of(self.destination) };
        (None, note("finds another link in").about(self.destination))
    }

    fn touch_conflict(
        &mut self,
        location: u8,
        mut touch: LinkTouch,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let acknowledged = Some(context.acknowledge(self.destination, store.now));
        let (touched, note) = touch.step(store, context, &mut self.opened);
        match touched {
            LinkTouched::NotYet => self.at = MountStep::Conflict { location, touch },
            LinkTouched::At(_) => return (acknowledged, note),
            LinkTouched::Unknown(version) => {
                self.at = MountStep::Linking { location, over: Some(version) };
            }
            LinkTouched::Lost => {
                self.at = MountStep::Conflict { location, touch: LinkTouch::of(self.destination) };
            }
            LinkTouched::Late => return (Some(BlobProcess::Failed), note),
        }
        (None, note)
    }
}

/// Writes a link over the version that was read, or creates it.
pub(crate) fn link_over(
    store: &mut BlobStore,
    repository: u8,
    location: u8,
    over: Option<u8>,
) -> bool {
    let there = store.link(repository);
    let is_expected = match over {
        Some(version) => there.version == version,
        None => there.value == ModelLink::Absent,
    };
    if is_expected {
        store.write_link(repository, location);
    }
    is_expected
}

/// Mounts a blob to another repository and deletes it in the first, then back, and so on: it is
/// always in one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Mover {
    moves: u8,
    source: u8,
    destination: u8,
    at: MoverStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum MoverStep {
    Mounting(Mount),
    Deleting(BlobDeleter),
}

impl Mover {
    pub(crate) fn between(source: u8, destination: u8, moves: u8) -> BlobProcess {
        let at = MoverStep::Mounting(Mount::begin(source, destination));
        BlobProcess::Mover(Self { moves, source, destination, at })
    }

    pub(crate) fn step(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let (end, note) = match &mut self.at {
            MoverStep::Mounting(mount) => mount.step(store, context),
            MoverStep::Deleting(deleter) => deleter.step(store),
        };
        match (end, self.at) {
            (None, _) => return (None, note),
            (Some(BlobProcess::Failed), _) => return (end, note),
            (Some(_), MoverStep::Mounting(_)) => {
                self.at = MoverStep::Deleting(BlobDeleter::begin(self.source));
            }
            (Some(_), MoverStep::Deleting(_)) => {
                self.moves -= 1;
                if self.moves == 0 {
                    return (Some(BlobProcess::Done), note);
                }
                (self.source, self.destination) = (self.destination, self.source);
                self.at = MoverStep::Mounting(Mount::begin(self.source, self.destination));
            }
        }
        (None, note)
    }
}
