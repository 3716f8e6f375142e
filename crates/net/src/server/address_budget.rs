//! [`AddressBudget`]: memory of which one address has no more than a quarter.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jreg_auth::Network;

/// One address may reserve one part in this many.
const ADDRESS_SHARE: u64 = 4;

/// A budget of bytes that all clients share. Only addresses with a reservation take memory here.
#[derive(Debug)]
pub struct AddressBudget {
    bytes_max: u64,
    address_bytes_max: u64,
    reserved: Mutex<ReservedBytes>,
}

#[derive(Debug, Default)]
struct ReservedBytes {
    all: u64,
    each: HashMap<Network, u64>,
}

/// Bytes of an [`AddressBudget`], reserved until this is dropped.
#[derive(Debug)]
pub struct AddressReservation {
    budget: Arc<AddressBudget>,
    network: Option<Network>,
    bytes: u64,
}

impl AddressBudget {
    /// A budget of `bytes_max`. One address may always reserve `reservation_bytes_max`, the largest
    /// single reservation.
    pub fn new(bytes_max: u64, reservation_bytes_max: u64) -> Arc<Self> {
        let address_bytes_max = (bytes_max / ADDRESS_SHARE).max(reservation_bytes_max);
        Arc::new(Self { bytes_max, address_bytes_max, reserved: Mutex::default() })
    }

    /// Bytes that are not reserved.
    pub fn free_bytes(&self) -> u64 {
        self.bytes_max - self.lock().all
    }

    /// Reserves bytes, if they are free. Without a network (a trusted proxy, which is many clients) the
    /// limit of one address does not apply.
    pub fn reserve(
        self: &Arc<Self>,
        network: Option<Network>,
        bytes: u64,
    ) -> Option<AddressReservation> {
        let mut reserved = self.lock();
        let all = reserved.all.checked_add(bytes).filter(|all| *all <= self.bytes_max)?;
        if let Some(network) = network {
            let before = reserved.each.get(&network).copied().unwrap_or_default();
            let own = before.saturating_add(bytes);
            if own > self.address_bytes_max {
                return None;
            }
            reserved.each.insert(network, own);
        }
        reserved.all = all;
        Some(AddressReservation { budget: Arc::clone(self), network, bytes })
    }

    fn lock(&self) -> MutexGuard<'_, ReservedBytes> {
        self.reserved.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for AddressReservation {
    fn drop(&mut self) {
        let mut reserved = self.budget.lock();
        reserved.all -= self.bytes;
        if let Some(network) = self.network
            && let Entry::Occupied(mut own) = reserved.each.entry(network)
        {
            *own.get_mut() -= self.bytes;
            if *own.get() == 0 {
                own.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::IpAddr;

    use super::*;

    fn at(last: u8) -> Option<Network> {
        Some(Network::of(IpAddr::from([10, 0, 0, last])))
    }

    #[test]
    fn one_address_has_a_quarter_and_gives_it_back() {
        let budget = AddressBudget::new(100, 1);
        let first = budget.reserve(at(1), 20).unwrap();
        let second = budget.reserve(at(1), 5).unwrap();
        assert!(budget.reserve(at(1), 1).is_none());
        assert!(budget.reserve(at(2), 26).is_none());
        let proxied = budget.reserve(None, 75).unwrap();
        assert!(budget.reserve(at(2), 1).is_none(), "all are reserved");
        drop((first, proxied));
        assert!(budget.reserve(at(1), 20).is_some());
        drop(second);
        let reserved = budget.lock();
        assert!(reserved.all == 0 && reserved.each.is_empty());
        assert!(AddressBudget::new(100, 50).reserve(at(1), 50).is_some());
        assert!(AddressBudget::new(40, 50).reserve(at(1), 50).is_none());
    }
}
