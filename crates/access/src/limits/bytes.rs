//! [`ByteAccount`]: limit of the body bytes that a client has in flight.
//!
//! A body is in flight from its first byte until it is complete or dropped. It counts with its
//! `Content-Length` for that time; without one, with the bytes transferred so far. A client with
//! nothing in flight may always begin one body of any length: otherwise content larger than the
//! limit could not be transferred. A body that has begun is never interrupted.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jreg_auth::{Identity, Network};
use jreg_telemetry::metrics::Metrics;

use super::{LimitExceeded, LimitedClient};

/// The configured limits.
#[derive(Debug)]
pub(super) struct ByteLimits {
    addresses: Option<Arc<BytesByClient<Network>>>,
    clients: Option<Arc<BytesByClient<LimitedClient>>>,
}

impl ByteLimits {
    /// 0: no limit. `None` if there is neither.
    pub(super) fn new(per_address: u64, per_client: u64) -> Option<Self> {
        let (addresses, clients) =
            (BytesByClient::new(per_address), BytesByClient::new(per_client));
        (addresses.is_some() || clients.is_some()).then_some(Self { addresses, clients })
    }

    pub(super) fn account(
        &self,
        identity: &Identity,
        address: Option<Network>,
        metrics: &Arc<Metrics>,
    ) -> ByteAccount {
        let client = LimitedClient::of(identity, address);
        ByteAccount {
            address: self.addresses.clone().zip(address),
            client: self.clients.clone().zip(client),
            metrics: Arc::clone(metrics),
        }
    }
}

/// The counters that the bodies of one request are added to.
#[derive(Debug)]
pub struct ByteAccount {
    address: Option<(Arc<BytesByClient<Network>>, Network)>,
    client: Option<(Arc<BytesByClient<LimitedClient>>, LimitedClient)>,
    metrics: Arc<Metrics>,
}

impl ByteAccount {
    /// Counts a body until the returned value is dropped. `announced` is its `Content-Length`. An
    /// empty body is not counted.
    ///
    /// # Errors
    ///
    /// [`LimitExceeded::Bytes`].
    pub fn begin(&self, announced: Option<u64>) -> Result<Option<BytesInFlight>, LimitExceeded> {
        if announced == Some(0) {
            return Ok(None);
        }
        let address = super::counted(
            &self.metrics,
            "address_bytes",
            begun(self.address.as_ref(), announced),
        )?;
        let client = super::counted(
            &self.metrics,
            "identity_bytes",
            begun(self.client.as_ref(), announced),
        )?;
        Ok(Some(BytesInFlight { address, client, is_announced: announced.is_some() }))
    }
}

/// Counts a body until it is dropped.
#[derive(Debug)]
pub struct BytesInFlight {
    address: Option<BodyShare<Network>>,
    client: Option<BodyShare<LimitedClient>>,
    is_announced: bool,
}

impl BytesInFlight {
    /// Adds transferred bytes. They count if the body had no `Content-Length`.
    pub fn came(&mut self, bytes: usize) {
        if self.is_announced {
            return;
        }
        if let Some(share) = &mut self.address {
            share.grow(bytes as u64);
        }
        if let Some(share) = &mut self.client {
            share.grow(bytes as u64);
        }
    }
}

/// Bytes in flight by client.
#[derive(Debug)]
struct BytesByClient<K> {
    max: u64,
    running: Mutex<HashMap<K, ClientBytes>>,
}

#[derive(Debug, Default)]
struct ClientBytes {
    bodies: usize,
    bytes: u64,
}

impl<K: Clone + Eq + Hash> BytesByClient<K> {
    fn new(max: u64) -> Option<Arc<Self>> {
        (max > 0).then(|| Arc::new(Self { max, running: Mutex::default() }))
    }

    fn running(&self) -> MutexGuard<'_, HashMap<K, ClientBytes>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn begun<K: Clone + Eq + Hash>(
    of: Option<&(Arc<BytesByClient<K>>, K)>,
    announced: Option<u64>,
) -> Result<Option<BodyShare<K>>, LimitExceeded> {
    let Some((of, key)) = of else { return Ok(None) };
    let mut all = of.running();
    let found = all.entry(key.clone()).or_default();
    // A body of unknown length has at least one byte.
    let sum = found.bytes.saturating_add(announced.unwrap_or(1));
    if found.bodies > 0 && sum > of.max {
        return Err(LimitExceeded::Bytes { max: of.max });
    }
    let bytes = announced.unwrap_or_default();
    found.bodies += 1;
    found.bytes = found.bytes.saturating_add(bytes);
    drop(all);
    Ok(Some(BodyShare { of: Arc::clone(of), key: key.clone(), bytes }))
}

/// The share of one body.
#[derive(Debug)]
struct BodyShare<K: Clone + Eq + Hash> {
    of: Arc<BytesByClient<K>>,
    key: K,
    bytes: u64,
}

impl<K: Clone + Eq + Hash> BodyShare<K> {
    fn grow(&mut self, bytes: u64) {
        self.bytes = self.bytes.saturating_add(bytes);
        if let Some(found) = self.of.running().get_mut(&self.key) {
            found.bytes = found.bytes.saturating_add(bytes);
        }
    }
}

impl<K: Clone + Eq + Hash> Drop for BodyShare<K> {
    fn drop(&mut self) {
        let mut all = self.of.running();
        if let Entry::Occupied(mut found) = all.entry(self.key.clone()) {
            let running = found.get_mut();
            running.bodies = running.bodies.saturating_sub(1);
            running.bytes = running.bytes.saturating_sub(self.bytes);
            if running.bodies == 0 {
                found.remove();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::IpAddr;

    use jreg_auth::IdentitySource;

    use super::*;

    fn bytes(per_address: u64, per_client: u64) -> impl Fn(&str, u8) -> ByteAccount {
        let bytes = ByteLimits::new(per_address, per_client).unwrap();
        let metrics = Arc::new(Metrics::new());
        move |name, last| {
            let identity = match name {
                "" => Identity::Anonymous,
                name => Identity::named(name, IdentitySource::Htpasswd),
            };
            let address = Network::of(IpAddr::from([10, 0, 0, last]));
            bytes.account(&identity, Some(address), &metrics)
        }
    }

    const OVER: LimitExceeded = LimitExceeded::Bytes { max: 10 };

    #[test]
    fn announced_bytes_count_until_the_body_ends() {
        let account = bytes(0, 10);
        let (alice, bob) = (account("alice", 1), account("bob", 1));
        let first = alice.begin(Some(6)).unwrap();
        assert_eq!(alice.begin(Some(5)).unwrap_err(), OVER);
        assert_eq!(account("alice", 2).begin(Some(5)).unwrap_err(), OVER, "wherever from");
        let second = alice.begin(Some(4)).unwrap();
        assert_eq!(alice.begin(None).unwrap_err(), OVER);
        assert!(alice.begin(Some(0)).unwrap().is_none(), "nothing is always possible");
        let other = bob.begin(Some(10)).unwrap();
        drop(first);
        let third = alice.begin(Some(6)).unwrap();
        drop((second, third, other));
        assert!(alice.client.as_ref().unwrap().0.running().is_empty(), "nothing is left behind");
    }

    #[test]
    fn unannounced_bytes_count_as_they_arrive() {
        let account = bytes(0, 10);
        let alice = account("alice", 1);
        let mut stream = alice.begin(None).unwrap().unwrap();
        let mut announced = alice.begin(Some(5)).unwrap().unwrap();
        announced.came(5);
        stream.came(4);
        drop(alice.begin(Some(1)).unwrap());
        stream.came(100);
        assert_eq!(alice.begin(Some(1)).unwrap_err(), OVER, "one body in flight, no second");
        drop((stream, announced));
        assert!(alice.client.as_ref().unwrap().0.running().is_empty());
    }

    #[test]
    fn one_body_of_any_length_is_always_allowed() {
        let account = bytes(10, 10);
        let alice = account("alice", 1);
        let long = alice.begin(Some(u64::MAX)).unwrap();
        assert_eq!(alice.begin(Some(1)).unwrap_err(), OVER);
        drop(long);
        drop(alice.begin(Some(u64::MAX)).unwrap());
    }

    #[test]
    fn an_address_counts_all_identities_and_a_refused_body_is_not_counted() {
        let account = bytes(10, 5);
        let first = account("alice", 1).begin(Some(5)).unwrap();
        for _ in 0..3 {
            assert_eq!(
                account("alice", 1).begin(Some(1)).unwrap_err(),
                LimitExceeded::Bytes { max: 5 }
            );
        }
        let second = account("bob", 1).begin(Some(5)).unwrap();
        assert_eq!(account("carol", 1).begin(Some(1)).unwrap_err(), OVER);
        let third = account("carol", 2).begin(Some(1)).unwrap();
        drop((first, second, third));
        assert!(account("", 1).address.unwrap().0.running().is_empty());
    }

    #[test]
    fn anonymous_clients_count_by_address() {
        let account = bytes(0, 10);
        let first = account("", 1).begin(Some(10)).unwrap();
        assert!(account("", 1).begin(Some(1)).is_err());
        drop(account("", 2).begin(Some(10)).unwrap());
        drop(first);
        assert!(ByteLimits::new(0, 0).is_none());
    }
}
