//! [`Addresses`]: how many connections each address has open. A trusted proxy has its clients'.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use ipnet::IpNet;
use jreg_auth::Network;

/// Minimum time between two log lines about refused connections: the log must not cost more than they.
const NOTICE_INTERVAL: Duration = Duration::from_secs(60);

/// How many connections each address has open. Only those that have any take memory.
#[derive(Debug)]
pub(super) struct Addresses {
    /// 0: as many as there may be over all.
    max: usize,
    trusted: Vec<IpNet>,
    open: Mutex<HashMap<Network, usize>>,
    /// When a refusal was last logged.
    noticed: Mutex<Option<Instant>>,
}

/// The place of one connection, until this is dropped.
#[derive(Debug)]
pub(super) struct AddressPermit {
    addresses: Arc<Addresses>,
    network: Network,
}

impl Addresses {
    pub(super) fn new(max: usize, trusted: Vec<IpNet>) -> Arc<Self> {
        Arc::new(Self { max, trusted, open: Mutex::default(), noticed: Mutex::default() })
    }

    /// Logs that a connection of an address was refused, unless one was within the last minute. Says
    /// whether it did.
    pub(super) fn notice_refusal(&self, address: IpAddr, now: Instant) -> bool {
        let mut noticed = self.noticed.lock().unwrap_or_else(PoisonError::into_inner);
        if noticed.is_some_and(|last| now.saturating_duration_since(last) < NOTICE_INTERVAL) {
            return false;
        }
        *noticed = Some(now);
        tracing::warn!(
            client = %address,
            connections_per_address_max = self.max,
            "connections are refused: the address has too many open; if it is a reverse proxy, add it \
             to trusted-proxies"
        );
        true
    }

    /// The network of an address; `None`: a trusted proxy, which is many clients.
    pub(super) fn network(&self, address: IpAddr) -> Option<Network> {
        let is_trusted = |proxies: &IpNet| proxies.contains(&address.to_canonical());
        (!self.trusted.iter().any(is_trusted)).then(|| Network::of(address))
    }

    /// A place for a connection from an address, if it may have one more.
    pub(super) fn take(self: &Arc<Self>, address: IpAddr) -> Option<Option<AddressPermit>> {
        let Some(network) = self.network(address).filter(|_| self.max > 0) else {
            return Some(None);
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let count = open.get(&network).copied().unwrap_or_default();
        if count >= self.max {
            return None;
        }
        open.insert(network, count + 1);
        Some(Some(AddressPermit { addresses: Arc::clone(self), network }))
    }
}

impl Drop for AddressPermit {
    fn drop(&mut self) {
        let mut open = self.addresses.open.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = open.entry(self.network) {
            *count.get_mut() -= 1;
            if *count.get() == 0 {
                count.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn refusals_of_addresses_are_logged_once_a_minute() {
        let addresses = Addresses::new(1, Vec::new());
        let (start, address) = (Instant::now(), "10.0.0.1".parse().unwrap());
        let logged = [0, 1, 59, 60, 61, 120]
            .map(|seconds| addresses.notice_refusal(address, start + Duration::from_secs(seconds)));
        assert_eq!(logged, [true, false, false, true, false, true]);
    }

    #[test]
    fn each_address_has_its_places_and_gets_them_back() {
        let addresses = Addresses::new(2, Vec::new());
        let take = |address: &str| addresses.take(address.parse().unwrap());
        let first = take("10.0.0.1").unwrap();
        let second = take("::ffff:10.0.0.1").unwrap();
        assert!(take("10.0.0.1").is_none());
        let other = take("10.0.0.2").unwrap();
        drop(first);
        let third = take("10.0.0.1").unwrap();
        drop((second, third, other));
        assert!(addresses.open.lock().unwrap().is_empty());
        let wide = [take("2001:db8::1"), take("2001:db8::2")];
        assert!(wide.iter().all(Option::is_some));
        assert!(take("2001:db8::3").is_none(), "a /64 is one");
    }

    #[test]
    fn a_trusted_proxy_has_no_limit() {
        let addresses = Addresses::new(1, vec!["10.0.0.0/24".parse().unwrap()]);
        let take = |address: &str| addresses.take(address.parse().unwrap());
        let places = [take("10.0.0.1"), take("::ffff:10.0.0.1"), take("10.0.1.1")];
        assert!(places.iter().all(Option::is_some));
        assert!(take("10.0.1.1").is_none());
    }

    #[test]
    fn zero_is_no_limit() {
        let addresses = Addresses::new(0, Vec::new());
        let places: Vec<_> = (0..100).map(|_| addresses.take([10, 0, 0, 1].into())).collect();
        assert!(places.iter().all(Option::is_some));
    }
}
