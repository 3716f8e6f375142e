//! [`Stream`], [`Closer`] and [`Cancel`]: an upload in several requests, with a session.

use super::mount::link_over;
use super::touch::{LinkTouch, LinkTouched};
use super::{BlobProcess, BlobStore, ModelLink, ModelSession, ProtocolContext};
use crate::ProtocolRule;
use crate::checked::{Note, note};
use crate::record::ModelRecord;

/// The repository that is uploaded to.
pub(crate) const HOME: u8 = 0;

/// The PATCH that sends the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Stream {
    /// Where it has stored them, and when.
    stored: Option<(u8, u8)>,
}

impl Stream {
    pub(crate) fn request() -> BlobProcess {
        BlobProcess::Stream(Self { stored: None })
    }

    pub(crate) fn step(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let Some((location, opened)) = self.stored else {
            let location = store.put_bytes();
            self.stored = Some((location, store.now));
            return (None, note("stores bytes at location").about(location));
        };
        if context.keeps(ProtocolRule::RecordInWindow) && context.is_late(opened, store.now) {
            return (Some(BlobProcess::Failed), note("is too late"));
        }
        if store.session.value != ModelSession::Absent {
            return (Some(BlobProcess::Failed), note("finds the session taken"));
        }
        store.session.write(ModelSession::Open(location), store.now);
        (Some(BlobProcess::Done), note("records them in the session"))
    }
}

/// The closing PUT, or a repeated one.
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
    /// Closed at that time: the multipart upload is about to be completed.
    Completing {
        offer: Offer,
        closed_at: u8,
    },
    /// About to write the link, over that version or, without one, a Create.
    Linking {
        offer: Offer,
        over: Option<u8>,
    },
    /// There is a link already: W1 on it.
    Conflict {
        offer: Offer,
        touch: LinkTouch,
    },
    /// Too late to write a link: W1 on one that may be there.
    Asking(LinkTouch),
}

/// What a closed session would link.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
struct Offer {
    location: u8,
    /// When another request closed it, if one did.
    replay_of: Option<u8>,
}

impl Offer {
    /// Whether a link may not be written onto what there is.
    fn stays_deleted(self, there: ModelRecord<ModelLink>, context: &ProtocolContext) -> bool {
        let Some(closed_at) = self.replay_of else { return false };
        let is_same_reading = there.modified == closed_at;
        let is_older = self.is_of_older(there)
            || is_same_reading && !context.keeps(ProtocolRule::ReplayOntoStrictlyOlder);
        let may_be_written = is_older && context.keeps(ProtocolRule::ReplayOntoOlder)
            || !context.keeps(ProtocolRule::ReplayNotOntoDeleted);
        matches!(there.value, ModelLink::Deleted(_)) && !may_be_written
    }

    /// Whether what there is was written before another request closed the session.
    fn is_of_older(self, there: ModelRecord<ModelLink>) -> bool {
        self.replay_of.is_some_and(|closed_at| there.modified < closed_at)
    }
}

impl Closer {
    pub(crate) fn request() -> BlobProcess {
        BlobProcess::Closer(Self { opened: None, at: CloserStep::Reading })
    }

    pub(crate) fn step(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        match &mut self.at {
            CloserStep::Reading => self.read(store, context),
            CloserStep::Sealing { version, location } => {
                let (version, location) = (*version, *location);
                self.seal(store, context, version, location)
            }
            CloserStep::Completing { offer, closed_at } => {
                let (offer, closed_at) = (*offer, *closed_at);
                self.complete(store, context, offer, closed_at)
            }
            CloserStep::Linking { offer, over } => {
                let (offer, over) = (*offer, *over);
                self.link(store, context, offer, over)
            }
            CloserStep::Conflict { offer, touch } => {
                let (offer, mut touch) = (*offer, *touch);
                let (touched, note) = touch.step(store, context, &mut self.opened);
                (self.check_link(store, context, offer, touch, touched), note)
            }
            CloserStep::Asking(touch) => {
                let (touched, note) = touch.step(store, context, &mut self.opened);
                let end = match touched {
                    LinkTouched::NotYet => None,
                    LinkTouched::At(_) => Some(context.acknowledge(HOME, store.now)),
                    LinkTouched::Lost => {
                        *touch = LinkTouch::of(HOME);
                        None
                    }
                    LinkTouched::Unknown(_) | LinkTouched::Late => Some(BlobProcess::Failed),
                };
                (end, note)
            }
        }
    }

    fn read(
        &mut self,
        store: &BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let session = store.session;
        let age = store.now - session.modified;
        let opened = context.keeps(ProtocolRule::WindowFirst).then_some(store.now);
        match session.value {
            ModelSession::Open(location) if context.keeps(ProtocolRule::CloseFirst) => {
                self.at = CloserStep::Sealing { version: session.version, location };
                (None, note("finds the session open"))
            }
            ModelSession::Open(location) => {
                self.opened = opened;
                self.at =
                    CloserStep::Linking { offer: Offer { location, replay_of: None }, over: None };
                (None, note("finds the session open, and leaves it so"))
            }
            ModelSession::Closed(location)
                if age < context.limits.replay || !context.keeps(ProtocolRule::ReplayWindow) =>
            {
                self.opened = opened;
                let offer = Offer { location, replay_of: Some(session.modified) };
                self.at = CloserStep::Completing { offer, closed_at: session.modified };
                (None, note("finds the session closed"))
            }
            ModelSession::Closed(_) => {
                self.at = CloserStep::Asking(LinkTouch::of(HOME));
                (None, note("finds the session closed long ago"))
            }
            ModelSession::Absent | ModelSession::Cancelled(_) => {
                (Some(BlobProcess::Failed), note("finds no session to close"))
            }
        }
    }

    fn seal(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        version: u8,
        location: u8,
    ) -> (Option<BlobProcess>, Note) {
        if store.session.version != version {
            self.at = CloserStep::Reading;
            return (None, note("fails to close the session"));
        }
        store.session.write(ModelSession::Closed(location), store.now);
        self.opened = context.keeps(ProtocolRule::WindowFirst).then_some(store.now);
        let offer = Offer { location, replay_of: None };
        self.at = CloserStep::Completing { offer, closed_at: store.now };
        (None, note("closes the session"))
    }

    /// Completes the multipart upload, however long that takes.
    fn complete(
        &mut self,
        store: &BlobStore,
        context: &ProtocolContext,
        offer: Offer,
        closed_at: u8,
    ) -> (Option<BlobProcess>, Note) {
        let is_in_time = store.now - closed_at < context.limits.replay;
        if context.keeps(ProtocolRule::CompleteInTime) && !is_in_time {
            return (Some(BlobProcess::Failed), note("completes the multipart upload too late"));
        }
        self.opened = context.keeps(ProtocolRule::WindowFirst).then_some(store.now);
        self.at = CloserStep::Linking { offer, over: None };
        (None, note("completes the multipart upload"))
    }

    fn link(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        offer: Offer,
        over: Option<u8>,
    ) -> (Option<BlobProcess>, Note) {
        let opened = *self.opened.get_or_insert(store.now);
        if context.is_late(opened, store.now) {
            return (Some(BlobProcess::Failed), note("is too late"));
        }
        let was_deleted = store.deleted_since_close;
        let on_version = offer.replay_of.is_none() || context.keeps(ProtocolRule::ReplayOnVersion);
        let over = over.map(|read| if on_version { read } else { store.link(HOME).version });
        if link_over(store, HOME, offer.location, over) {
            store.restored |= was_deleted && offer.replay_of.is_some();
            return (Some(context.acknowledge(HOME, store.now)), note("writes the link"));
        }
        self.at = CloserStep::Conflict { offer, touch: LinkTouch::of(HOME) };
        (None, note("finds a link already"))
    }

    fn check_link(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
        offer: Offer,
        touch: LinkTouch,
        touched: LinkTouched,
    ) -> Option<BlobProcess> {
        match touched {
            LinkTouched::NotYet => self.at = CloserStep::Conflict { offer, touch },
            LinkTouched::Lost => {
                self.at = CloserStep::Conflict { offer, touch: LinkTouch::of(HOME) }
            }
            LinkTouched::At(_) => return Some(context.acknowledge(HOME, store.now)),
            LinkTouched::Late => return Some(BlobProcess::Failed),
            LinkTouched::Unknown(version) => {
                if offer.stays_deleted(store.link(HOME), context) {
                    store.refused |= offer.is_of_older(store.link(HOME));
                    return Some(BlobProcess::Failed);
                }
                self.at = CloserStep::Linking { offer, over: Some(version) };
            }
        }
        None
    }
}

/// A cancel: a DELETE, or the reaper, which deletes the record as well. Here the reaper does not
/// wait until the upload has expired.
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
    pub(crate) fn by_api() -> BlobProcess {
        BlobProcess::Cancel(Self { is_reaper: false, at: CancelStep::Reading })
    }

    pub(crate) fn by_reaper() -> BlobProcess {
        BlobProcess::Cancel(Self { is_reaper: true, at: CancelStep::Reading })
    }

    pub(crate) fn step(
        &mut self,
        store: &mut BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        match self.at {
            CancelStep::Reading => self.read(store, context),
            CancelStep::Swapping { version, .. } if store.session.version != version => {
                (Some(BlobProcess::Failed), note("fails to cancel the session"))
            }
            CancelStep::Swapping { location, .. } => {
                store.session.write(ModelSession::Cancelled(location), store.now);
                self.at = CancelStep::Removing { location };
                (None, note("swaps the session to cancelled"))
            }
            CancelStep::Removing { location } => {
                store.remove_bytes(location);
                self.at = CancelStep::RemovingRecord;
                let end = (!self.is_reaper).then_some(BlobProcess::Done);
                (end, note("removes the bytes at location").about(location))
            }
            CancelStep::RemovingRecord => {
                store.session.delete(ModelSession::Absent);
                (Some(BlobProcess::Done), note("removes the session's record"))
            }
        }
    }

    /// Whether no write of a closed session's link can be in flight any more.
    fn is_settled(store: &BlobStore, context: &ProtocolContext) -> bool {
        let age = store.now - store.session.modified;
        age > context.limits.replay + context.limits.window
            || !context.keeps(ProtocolRule::ReapClosedLate)
    }

    fn read(
        &mut self,
        store: &BlobStore,
        context: &ProtocolContext,
    ) -> (Option<BlobProcess>, Note) {
        let version = store.session.version;
        match store.session.value {
            ModelSession::Open(location) if context.keeps(ProtocolRule::CancelFirst) => {
                self.at = CancelStep::Swapping { version, location };
                (None, note("finds the session open"))
            }
            ModelSession::Open(location) | ModelSession::Cancelled(location) => {
                self.at = CancelStep::Removing { location };
                (None, note("finds the cancelled session"))
            }
            ModelSession::Closed(_) if self.is_reaper && Self::is_settled(store, context) => {
                self.at = CancelStep::RemovingRecord;
                (None, note("finds the session closed"))
            }
            ModelSession::Closed(_) | ModelSession::Absent => {
                (Some(BlobProcess::Failed), note("finds nothing to cancel"))
            }
        }
    }
}
