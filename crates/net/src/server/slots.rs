//! [`ResponseSlots`]: limit of concurrent responses that read from the store.
//!
//! Such a response holds memory and an open file or a request to a bucket for as long as its client
//! takes: HTTP/2 clients can start hundreds of responses on one connection and read none. So a
//! response that is streamed needs a slot before its first byte is read, and keeps it until its
//! end. Each connection has one slot of its own, so that no connection is starved; further ones
//! come from a number shared by all connections, a few for each.

use std::pin::pin;
use std::sync::Arc;

use futures::future::{Either, select};
use jreg_telemetry::metrics::WaitCounts;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Maximum number of shared slots per connection.
pub const EXTRA_MAX: usize = 31;

#[derive(Clone, Debug)]
pub struct ResponseSlots {
    own: Arc<Semaphore>,
    extra: Arc<Semaphore>,
    shared: Arc<Semaphore>,
    waits: WaitCounts,
}

/// A slot; released when dropped.
#[derive(Debug)]
pub struct ResponseSlot {
    _first: OwnedSemaphorePermit,
    _shared: Option<OwnedSemaphorePermit>,
}

impl ResponseSlots {
    /// The slots of a connection; `shared` are those of all connections.
    pub fn new(shared: &Arc<Semaphore>, waits: WaitCounts) -> Self {
        Self {
            own: Arc::new(Semaphore::new(1)),
            extra: Arc::new(Semaphore::new(EXTRA_MAX)),
            shared: Arc::clone(shared),
            waits,
        }
    }

    /// A slot, if one is free.
    pub fn try_take(&self) -> Option<ResponseSlot> {
        let free = |of: &Arc<Semaphore>| Arc::clone(of).try_acquire_owned().ok();
        if let Some(own) = free(&self.own) {
            return Some(ResponseSlot { _first: own, _shared: None });
        }
        let (extra, shared) = (free(&self.extra)?, free(&self.shared)?);
        Some(ResponseSlot { _first: extra, _shared: Some(shared) })
    }

    /// Waits for a slot. `None` only if the slots are closed.
    pub async fn take(self) -> Option<ResponseSlot> {
        if let Some(slot) = self.try_take() {
            return Some(slot);
        }
        let _waiting = self.waits.wait();
        let own = pin!(self.own.acquire_owned());
        let further = pin!(async {
            let extra = self.extra.acquire_owned().await.ok()?;
            let shared = self.shared.acquire_owned().await.ok()?;
            Some(ResponseSlot { _first: extra, _shared: Some(shared) })
        });
        match select(own, further).await {
            Either::Left((own, _)) => Some(ResponseSlot { _first: own.ok()?, _shared: None }),
            Either::Right((slot, _)) => slot,
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::FutureExt;

    use super::*;

    #[test]
    fn a_connection_has_one_slot_whatever_the_others_have() {
        let shared = Arc::new(Semaphore::new(2));
        let (greedy, other) = (
            ResponseSlots::new(&shared, WaitCounts::default()),
            ResponseSlots::new(&shared, WaitCounts::default()),
        );
        let taken: Vec<_> = std::iter::from_fn(|| greedy.try_take()).collect();
        assert_eq!(taken.len(), 3);
        assert!(greedy.clone().take().now_or_never().is_none());
        let own = other.try_take().unwrap();
        assert!(other.try_take().is_none());
        drop((taken, own));
        assert_eq!(shared.available_permits(), 2);
    }

    #[test]
    fn a_connection_has_no_more_than_its_share() {
        let shared = Arc::new(Semaphore::new(1000));
        let greedy = ResponseSlots::new(&shared, WaitCounts::default());
        let taken: Vec<_> = std::iter::from_fn(|| greedy.try_take()).collect();
        assert_eq!(taken.len(), EXTRA_MAX + 1);
    }

    #[test]
    fn who_waits_takes_the_first_slot_that_is_free() {
        let shared = Arc::new(Semaphore::new(1));
        let slots = ResponseSlots::new(&shared, WaitCounts::default());
        let (own, further) = (slots.try_take().unwrap(), slots.try_take().unwrap());
        let mut waiting = Box::pin(slots.clone().take());
        assert!((&mut waiting).now_or_never().is_none());
        drop(further);
        let third = waiting.now_or_never().unwrap().unwrap();
        let mut waiting = Box::pin(slots.take());
        assert!((&mut waiting).now_or_never().is_none());
        drop(own);
        assert!(waiting.now_or_never().unwrap().is_some());
        drop(third);
    }
}
