//! [`Shares`]: memory of which one address has no more than a quarter.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::network::Network;

/// The part of all bytes that one address may have: one in so many.
const ADDRESS_SHARE: u64 = 4;

/// Bytes that all clients share. Only addresses that have some take memory here.
#[derive(Debug)]
pub(crate) struct Shares {
    bytes_max: u64,
    address_bytes_max: u64,
    taken: Mutex<Taken>,
}

#[derive(Debug, Default)]
struct Taken {
    all: u64,
    each: HashMap<Network, u64>,
}

/// Bytes of [`Shares`], until this is dropped.
#[derive(Debug)]
pub(crate) struct Share {
    shares: Arc<Shares>,
    network: Option<Network>,
    bytes: u64,
}

impl Shares {
    /// So many bytes. One address can always have as many as are taken together at most.
    pub(crate) fn new(bytes_max: u64, together_max: u64) -> Arc<Self> {
        let address_bytes_max = (bytes_max / ADDRESS_SHARE).max(together_max);
        Arc::new(Self { bytes_max, address_bytes_max, taken: Mutex::default() })
    }

    pub(crate) fn free_bytes(&self) -> u64 {
        self.bytes_max - self.taken().all
    }

    /// So many bytes, if they are free; without a network (that of a trusted proxy, which is many
    /// clients) as many as there are.
    pub(crate) fn take(self: &Arc<Self>, network: Option<Network>, bytes: u64) -> Option<Share> {
        let mut taken = self.taken();
        let all = taken.all.checked_add(bytes).filter(|all| *all <= self.bytes_max)?;
        if let Some(network) = network {
            let before = taken.each.get(&network).copied().unwrap_or_default();
            let own = before.saturating_add(bytes);
            if own > self.address_bytes_max {
                return None;
            }
            taken.each.insert(network, own);
        }
        taken.all = all;
        Some(Share { shares: Arc::clone(self), network, bytes })
    }

    fn taken(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        let mut taken = self.shares.taken();
        taken.all -= self.bytes;
        if let Some(network) = self.network
            && let Entry::Occupied(mut own) = taken.each.entry(network)
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
        let shares = Shares::new(100, 1);
        let first = shares.take(at(1), 20).unwrap();
        let second = shares.take(at(1), 5).unwrap();
        assert!(shares.take(at(1), 1).is_none());
        assert!(shares.take(at(2), 26).is_none());
        let proxied = shares.take(None, 75).unwrap();
        assert!(shares.take(at(2), 1).is_none(), "all are taken");
        drop((first, proxied));
        assert!(shares.take(at(1), 20).is_some());
        drop(second);
        let taken = shares.taken();
        assert!(taken.all == 0 && taken.each.is_empty());
        assert!(Shares::new(100, 50).take(at(1), 50).is_some());
        assert!(Shares::new(40, 50).take(at(1), 50).is_none());
    }
}
