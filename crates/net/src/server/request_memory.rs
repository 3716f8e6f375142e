//! [`RequestMemory`]: memory that the requests of a connection hold before they are authorized.
//!
//! HTTP/2 lets a client send the heads of hundreds of requests, and forms that do not end, on one
//! connection, before it has logged in. Each connection has [`OWN_BYTES`] for them; what they need beyond
//! that is reserved from a budget that all connections share. What does not fit is refused.

use std::sync::Arc;

use jreg_auth::Network;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::address_budget::{AddressBudget, AddressReservation};

/// What each connection has for its requests: a form, and a dozen ordinary heads.
pub const OWN_BYTES: u32 = 128 * 1024;
/// What the requests of all connections have beside that.
const REQUESTS_BYTES_MAX: u64 = 128 * 1024 * 1024;
/// Maximum concurrent responses of one connection that are made in memory: those of all connections
/// read the store a few at a time, in the order in which they came.
pub const READS_MAX: usize = 8;

/// The budget that the requests of all connections share.
pub(super) fn requests_budget() -> Arc<AddressBudget> {
    AddressBudget::new(REQUESTS_BYTES_MAX, OWN_BYTES.into())
}

/// What the requests of one connection may hold. The server puts it among the extensions of its requests.
#[derive(Clone, Debug)]
pub struct RequestMemory {
    own: Arc<Semaphore>,
    reads: Arc<Semaphore>,
    shared: Arc<AddressBudget>,
    network: Option<Network>,
}

/// Memory that is held until this is dropped.
#[derive(Debug)]
pub enum HeldMemory {
    /// Of the connection's own.
    Own(OwnedSemaphorePermit),
    /// Of the shared budget.
    Shared(AddressReservation),
}

impl RequestMemory {
    /// That of a connection; `shared` is the budget of all connections.
    pub fn new(shared: &Arc<AddressBudget>, network: Option<Network>) -> Self {
        let own = Arc::new(Semaphore::new(OWN_BYTES as usize));
        let reads = Arc::new(Semaphore::new(READS_MAX));
        Self { own, reads, shared: Arc::clone(shared), network }
    }

    /// Waits until the connection may have one more response made in memory.
    pub async fn turn(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.reads).acquire_owned().await.ok()
    }

    /// Holds bytes of the connection's own or of the shared budget; `None` if neither has them.
    pub fn hold(&self, bytes: u32) -> Option<HeldMemory> {
        if let Ok(permit) = Arc::clone(&self.own).try_acquire_many_owned(bytes) {
            return Some(HeldMemory::Own(permit));
        }
        self.shared.reserve(self.network, bytes.into()).map(HeldMemory::Shared)
    }

    /// Bytes of the connection's own that are not held.
    pub fn own_free_bytes(&self) -> usize {
        self.own.available_permits()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::FutureExt;

    use super::*;

    /// The requests of one connection were read before those that others sent later.
    #[tokio::test]
    async fn a_connection_has_a_few_responses_made_at_the_same_time() {
        let memory = RequestMemory::new(&AddressBudget::new(0, 0), None);
        let mut turns = Vec::new();
        for _ in 0..READS_MAX {
            turns.push(memory.turn().await.unwrap());
        }
        assert!(memory.turn().now_or_never().is_none());
        turns.pop();
        assert!(memory.turn().now_or_never().is_some());
    }
}
