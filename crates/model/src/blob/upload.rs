//! [`Stream`], [`Closer`] and [`Cancel`]: an upload in several requests, with a session.

use super::mount::link_over;
use super::touch::{LinkTouch, LinkTouched};
use super::{BlobWorld, Context, Link, Process, Session};
use crate::Rule;
use crate::checked::{Note, note};

/// The repository that is uploaded to.
pub(crate) const HOME: u8 = 0;

/// The request that brings the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stream {
    /// Where it has stored them, and when.
    stored: Option<(u8, u8)>,
}

impl Stream {
    pub(crate) fn request() -> Process {
        Process::Stream(Self { stored: None })
    }

    pub(crate) fn step(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
    ) -> (Option<Process>, Note) {
        let Some((location, opened)) = self.stored else {
            let location = world.put_bytes();
            self.stored = Some((location, world.now));
            return (None, note("stores bytes at location").about(location));
        };
        if context.keeps(Rule::RecordInWindow) && context.is_late(opened, world.now) {
            return (Some(Process::Failed), note("is too late"));
        }
        if world.session.value != Session::Absent {
            return (Some(Process::Failed), note("finds the session taken"));
        }
        world.session.write(Session::Open(location), world.now);
        (Some(Process::Done), note("records them in the session"))
    }
}

/// The request that makes a blob of the bytes, or the same again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Closer {
    opened: Option<u8>,
    at: CloserStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum CloserStep {
    Reading,
    /// About to close this version of the session.
    Sealing {
        version: u8,
        location: u8,
    },
    /// Closed at that time: the parts are about to be put together.
    Completing {
        offer: Offer,
        closed_at: u8,
    },
    /// About to write the link, over that version or, without one, anew.
    Linking {
        offer: Offer,
        over: Option<u8>,
    },
    /// There is a link already: W1 on it.
    Conflict {
        offer: Offer,
        hold: LinkTouch,
    },
    /// Too late to write a link: W1 on one that may be there.
    Asking(LinkTouch),
}

/// What a closed session would link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Offer {
    location: u8,
    /// Whether somebody else had closed it.
    is_replay: bool,
}

impl Closer {
    pub(crate) fn request() -> Process {
        Process::Closer(Self { opened: None, at: CloserStep::Reading })
    }

    pub(crate) fn step(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
    ) -> (Option<Process>, Note) {
        match &mut self.at {
            CloserStep::Reading => self.read(world, context),
            CloserStep::Sealing { version, location } => {
                let (version, location) = (*version, *location);
                self.seal(world, context, version, location)
            }
            CloserStep::Completing { offer, closed_at } => {
                let (offer, closed_at) = (*offer, *closed_at);
                self.complete(world, context, offer, closed_at)
            }
            CloserStep::Linking { offer, over } => {
                let (offer, over) = (*offer, *over);
                self.link(world, context, offer, over)
            }
            CloserStep::Conflict { offer, hold } => {
                let (offer, mut hold) = (*offer, *hold);
                let (held, note) = hold.step(world, context, &mut self.opened);
                (self.look(world, context, offer, hold, held), note)
            }
            CloserStep::Asking(hold) => {
                let (held, note) = hold.step(world, context, &mut self.opened);
                let end = match held {
                    LinkTouched::NotYet => None,
                    LinkTouched::At(_) => Some(context.acknowledge(HOME, world.now)),
                    LinkTouched::Lost => {
                        *hold = LinkTouch::of(HOME);
                        None
                    }
                    LinkTouched::Unknown(_) | LinkTouched::Late => Some(Process::Failed),
                };
                (end, note)
            }
        }
    }

    fn read(&mut self, world: &BlobWorld, context: &Context) -> (Option<Process>, Note) {
        let session = world.session;
        let age = world.now - session.modified;
        let opened = context.keeps(Rule::WindowFirst).then_some(world.now);
        match session.value {
            Session::Open(location) if context.keeps(Rule::Seal) => {
                self.at = CloserStep::Sealing { version: session.version, location };
                (None, note("finds the session open"))
            }
            Session::Open(location) => {
                self.opened = opened;
                self.at =
                    CloserStep::Linking { offer: Offer { location, is_replay: false }, over: None };
                (None, note("finds the session open, and leaves it so"))
            }
            Session::Closed(location)
                if age < context.limits.replay || !context.keeps(Rule::ReplayWindow) =>
            {
                self.opened = opened;
                let offer = Offer { location, is_replay: true };
                self.at = CloserStep::Completing { offer, closed_at: session.modified };
                (None, note("finds the session closed"))
            }
            Session::Closed(_) => {
                self.at = CloserStep::Asking(LinkTouch::of(HOME));
                (None, note("finds the session closed long ago"))
            }
            Session::Absent | Session::Cancelled(_) => {
                (Some(Process::Failed), note("finds no session to close"))
            }
        }
    }

    fn seal(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
        version: u8,
        location: u8,
    ) -> (Option<Process>, Note) {
        if world.session.version != version {
            self.at = CloserStep::Reading;
            return (None, note("fails to close the session"));
        }
        world.session.write(Session::Closed(location), world.now);
        self.opened = context.keeps(Rule::WindowFirst).then_some(world.now);
        let offer = Offer { location, is_replay: false };
        self.at = CloserStep::Completing { offer, closed_at: world.now };
        (None, note("closes the session"))
    }

    /// However long that takes.
    fn complete(
        &mut self,
        world: &BlobWorld,
        context: &Context,
        offer: Offer,
        closed_at: u8,
    ) -> (Option<Process>, Note) {
        let is_in_time = world.now - closed_at < context.limits.replay;
        if context.keeps(Rule::CompleteInTime) && !is_in_time {
            return (Some(Process::Failed), note("puts the parts together too late"));
        }
        self.opened = context.keeps(Rule::WindowFirst).then_some(world.now);
        self.at = CloserStep::Linking { offer, over: None };
        (None, note("puts the parts together"))
    }

    fn link(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
        offer: Offer,
        over: Option<u8>,
    ) -> (Option<Process>, Note) {
        let opened = *self.opened.get_or_insert(world.now);
        if context.is_late(opened, world.now) {
            return (Some(Process::Failed), note("is too late"));
        }
        let was_deleted = world.deleted.has(HOME);
        if link_over(world, HOME, offer.location, over) {
            world.undone |= was_deleted && offer.is_replay;
            return (Some(context.acknowledge(HOME, world.now)), note("writes the link"));
        }
        self.at = CloserStep::Conflict { offer, hold: LinkTouch::of(HOME) };
        (None, note("finds a link already"))
    }

    fn look(
        &mut self,
        world: &BlobWorld,
        context: &Context,
        offer: Offer,
        hold: LinkTouch,
        held: LinkTouched,
    ) -> Option<Process> {
        match held {
            LinkTouched::NotYet => self.at = CloserStep::Conflict { offer, hold },
            LinkTouched::Lost => {
                self.at = CloserStep::Conflict { offer, hold: LinkTouch::of(HOME) }
            }
            LinkTouched::At(_) => return Some(context.acknowledge(HOME, world.now)),
            LinkTouched::Late => return Some(Process::Failed),
            LinkTouched::Unknown(version) => {
                let is_deleted = matches!(world.link(HOME).value, Link::Deleted(_));
                let stays = offer.is_replay && context.keeps(Rule::ReplayNotOntoDeleted);
                if is_deleted && stays {
                    return Some(Process::Failed);
                }
                self.at = CloserStep::Linking { offer, over: Some(version) };
            }
        }
        None
    }
}

/// Whoever gives an upload up: a DELETE, or the reaper, which removes the record as well. Here
/// the reaper does not wait until the upload is past its limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Cancel {
    is_reaper: bool,
    at: CancelStep,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum CancelStep {
    Reading,
    /// About to swap this version to cancelled.
    Swapping {
        version: u8,
        location: u8,
    },
    Removing {
        location: u8,
    },
    RemovingRecord,
}

impl Cancel {
    pub(crate) fn by_api() -> Process {
        Process::Cancel(Self { is_reaper: false, at: CancelStep::Reading })
    }

    pub(crate) fn by_reaper() -> Process {
        Process::Cancel(Self { is_reaper: true, at: CancelStep::Reading })
    }

    pub(crate) fn step(
        &mut self,
        world: &mut BlobWorld,
        context: &Context,
    ) -> (Option<Process>, Note) {
        match self.at {
            CancelStep::Reading => self.read(world, context),
            CancelStep::Swapping { version, .. } if world.session.version != version => {
                (Some(Process::Failed), note("fails to cancel the session"))
            }
            CancelStep::Swapping { location, .. } => {
                world.session.write(Session::Cancelled(location), world.now);
                self.at = CancelStep::Removing { location };
                (None, note("swaps the session to cancelled"))
            }
            CancelStep::Removing { location } => {
                world.remove_bytes(location);
                self.at = CancelStep::RemovingRecord;
                let end = (!self.is_reaper).then_some(Process::Done);
                (end, note("removes the bytes at location").about(location))
            }
            CancelStep::RemovingRecord => {
                world.session.delete(Session::Absent);
                (Some(Process::Done), note("removes the session's record"))
            }
        }
    }

    /// Whether no write of a closed session's link can be on its way any more.
    fn is_settled(world: &BlobWorld, context: &Context) -> bool {
        let age = world.now - world.session.modified;
        age > context.limits.replay + context.limits.window || !context.keeps(Rule::ReapClosedLate)
    }

    fn read(&mut self, world: &BlobWorld, context: &Context) -> (Option<Process>, Note) {
        let version = world.session.version;
        match world.session.value {
            Session::Open(location) if context.keeps(Rule::CancelFirst) => {
                self.at = CancelStep::Swapping { version, location };
                (None, note("finds the session open"))
            }
            Session::Open(location) | Session::Cancelled(location) => {
                self.at = CancelStep::Removing { location };
                (None, note("finds the session to be given up"))
            }
            Session::Closed(_) if self.is_reaper && Self::is_settled(world, context) => {
                self.at = CancelStep::RemovingRecord;
                (None, note("finds the session closed"))
            }
            Session::Closed(_) | Session::Absent => {
                (Some(Process::Failed), note("finds nothing to cancel"))
            }
        }
    }
}
