//! [`ClientLimits`]: how much one client may ask for: requests and bytes in flight of an address; requests,
//! bytes in flight and uploads of an identity.
//!
//! Rates are the generic cell rate algorithm (ITU-T I.371), which keeps one number for each client. How
//! many clients are remembered is bounded; an evicted client starts with a full bucket. Each instance counts for
//! itself.

mod bytes;

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jreg_auth::{Identity, Network};
use jreg_storage::Clock;
use jreg_telemetry::metrics::Metrics;
use quick_cache::sync::Cache;

use bytes::ByteLimits;
pub use bytes::{ByteAccount, BytesInFlight};

/// The most clients whose rate is remembered, of each kind.
const CACHED_MAX: usize = 16_384;
const SECOND: Duration = Duration::from_secs(1);

/// What an operator can set about rates; 0 is no limit.
#[derive(Clone, Debug, Default)]
pub struct LimitOptions {
    /// Maximum requests a second of one address.
    pub address_requests: u32,
    /// Maximum requests a second of one identity.
    pub identity_requests: u32,
    /// How much of a rate may be saved up.
    pub burst: Duration,
    /// Maximum uploads of one identity at the same time.
    pub uploads: usize,
    /// Maximum bytes of bodies in flight of one address.
    pub address_bytes: u64,
    /// Maximum bytes of bodies in flight of one identity.
    pub identity_bytes: u64,
}

/// How much clients may ask for.
#[derive(Debug)]
pub struct ClientLimits {
    addresses: Option<RateLimiter<Network>>,
    clients: Option<RateLimiter<LimitedClient>>,
    uploads: Option<Arc<UploadCounts>>,
    bytes: Option<ByteLimits>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
}

/// Who is counted: an identity by its name, an anonymous client by its network.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
enum LimitedClient {
    Named(Box<str>),
    At(Network),
}

/// Too much was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LimitExceeded {
    /// Too many requests.
    #[error("too many requests, try again later")]
    Requests {
        /// When there may be another.
        wait: Duration,
    },
    /// Too many uploads at the same time.
    #[error("too many concurrent uploads, at most {max} are allowed; try again later")]
    Uploads {
        /// How many are allowed.
        max: usize,
    },
    /// Too many bytes of bodies under way.
    #[error("too many bytes in flight, at most {max} are allowed; try again later")]
    Bytes {
        /// How many are allowed.
        max: u64,
    },
}

impl ClientLimits {
    /// The limits of the options.
    pub fn new(options: &LimitOptions, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self {
            addresses: RateLimiter::new(options.address_requests, options.burst),
            clients: RateLimiter::new(options.identity_requests, options.burst),
            uploads: UploadCounts::new(options.uploads),
            bytes: ByteLimits::new(options.address_bytes, options.identity_bytes),
            clock,
            metrics,
        }
    }

    /// Counts a request of an address.
    ///
    /// # Errors
    ///
    /// [`LimitExceeded::Requests`].
    pub fn count_address(&self, address: Option<Network>) -> Result<(), LimitExceeded> {
        let (Some(rates), Some(address)) = (&self.addresses, address) else { return Ok(()) };
        counted(&self.metrics, "address", rates.count(address, self.clock.monotonic()))
    }

    /// Counts a request of an identity.
    ///
    /// # Errors
    ///
    /// [`LimitExceeded::Requests`].
    pub fn count_identity(
        &self,
        identity: &Identity,
        address: Option<Network>,
    ) -> Result<(), LimitExceeded> {
        let Some(rates) = &self.clients else { return Ok(()) };
        let Some(client) = LimitedClient::of(identity, address) else { return Ok(()) };
        counted(&self.metrics, "identity", rates.count(client, self.clock.monotonic()))
    }

    /// Counts an upload of an identity for as long as the returned value lives.
    ///
    /// # Errors
    ///
    /// [`LimitExceeded::Uploads`].
    pub fn begin_upload(
        &self,
        identity: &Identity,
        address: Option<Network>,
    ) -> Result<Option<CountedUpload>, LimitExceeded> {
        let Some(uploads) = &self.uploads else { return Ok(None) };
        let Some(client) = LimitedClient::of(identity, address) else { return Ok(None) };
        counted(&self.metrics, "uploads", uploads.begin(client)).map(Some)
    }

    /// The account that the bodies of a request are counted to; `None`: they are not counted.
    pub fn account(&self, identity: &Identity, address: Option<Network>) -> Option<ByteAccount> {
        self.bytes.as_ref().map(|bytes| bytes.account(identity, address, &self.metrics))
    }
}

/// Counts a limit that was exceeded.
fn counted<T>(
    metrics: &Metrics,
    kind: &'static str,
    result: Result<T, LimitExceeded>,
) -> Result<T, LimitExceeded> {
    if result.is_err() {
        metrics.count_limited(kind);
    }
    result
}

impl LimitedClient {
    /// `None`: an anonymous client without an address.
    fn of(identity: &Identity, address: Option<Network>) -> Option<Self> {
        match identity.name() {
            Some(name) => Some(Self::Named(name.into())),
            None => address.map(Self::At),
        }
    }
}

/// How fast requests of each client may come.
#[derive(Debug)]
struct RateLimiter<K> {
    /// The time that one request takes up.
    interval: Duration,
    /// How much may be taken up in advance.
    burst: Duration,
    /// Until when each client's time is taken up, in nanoseconds.
    taken: Cache<K, Arc<AtomicU64>>,
}

impl<K: Clone + Eq + Hash> RateLimiter<K> {
    /// `None`: no limit.
    fn new(per_second: u32, burst: Duration) -> Option<Self> {
        let interval = SECOND.checked_div(per_second)?;
        let taken = Cache::new(CACHED_MAX);
        Some(Self { interval, burst: burst.max(interval), taken })
    }

    fn count(&self, client: K, now: Duration) -> Result<(), LimitExceeded> {
        let taken =
            self.taken.get_or_insert_with(&client, || Ok::<_, LimitExceeded>(Arc::default()))?;
        let (now, interval) = (nanos(now), nanos(self.interval));
        let latest = now.saturating_add(nanos(self.burst));
        let take = |until: u64| Some(until.max(now).saturating_add(interval));
        let within = |until: u64| take(until).filter(|until| *until <= latest);
        match taken.fetch_update(Ordering::AcqRel, Ordering::Acquire, within) {
            Ok(_) => Ok(()),
            Err(until) => {
                let over = until.max(now).saturating_add(interval).saturating_sub(latest);
                Err(LimitExceeded::Requests { wait: Duration::from_nanos(over) })
            }
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// How many uploads each client has under way.
#[derive(Debug)]
struct UploadCounts {
    max: usize,
    /// Of those who have any.
    running: Mutex<HashMap<LimitedClient, usize>>,
}

/// An upload, counted until this is dropped.
#[derive(Debug)]
pub struct CountedUpload {
    uploads: Arc<UploadCounts>,
    client: LimitedClient,
}

impl UploadCounts {
    fn new(max: usize) -> Option<Arc<Self>> {
        (max > 0).then(|| Arc::new(Self { max, running: Mutex::default() }))
    }

    fn begin(self: &Arc<Self>, client: LimitedClient) -> Result<CountedUpload, LimitExceeded> {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        let count = running.get(&client).copied().unwrap_or_default();
        if count >= self.max {
            return Err(LimitExceeded::Uploads { max: self.max });
        }
        running.insert(client.clone(), count + 1);
        Ok(CountedUpload { uploads: Arc::clone(self), client })
    }
}

impl Drop for CountedUpload {
    fn drop(&mut self) {
        let mut running = self.uploads.running.lock().unwrap_or_else(PoisonError::into_inner);
        if let Entry::Occupied(mut count) = running.entry(self.client.clone()) {
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
    use std::net::IpAddr;

    use super::*;

    fn at(last: u8) -> Option<Network> {
        Some(Network::of(IpAddr::from([10, 0, 0, last])))
    }

    fn wait(result: Result<(), LimitExceeded>) -> Option<u128> {
        result.err().map(|error| match error {
            LimitExceeded::Requests { wait } => wait.as_millis(),
            LimitExceeded::Uploads { .. } | LimitExceeded::Bytes { .. } => {
                panic!("{error}")
            }
        })
    }

    #[test]
    fn a_burst_is_free_and_then_the_rate_holds() {
        let rates = RateLimiter::new(4, 2 * SECOND).unwrap();
        let mut now = Duration::from_secs(100);
        for _ in 0..8 {
            assert_eq!(wait(rates.count("a", now)), None);
        }
        assert_eq!(wait(rates.count("a", now)), Some(250));
        assert_eq!(wait(rates.count("a", now)), Some(250), "a refusal takes nothing up");
        assert_eq!(wait(rates.count("b", now)), None, "each for itself");
        for _ in 0..20 {
            now += Duration::from_millis(250);
            assert_eq!(wait(rates.count("a", now)), None);
            assert_eq!(wait(rates.count("a", now)), Some(250));
        }
        now += 10 * SECOND;
        let passed = (0..100).filter(|_| rates.count("a", now).is_ok()).count();
        assert_eq!(passed, 8, "no more is saved up than the burst");
    }

    #[test]
    fn one_request_is_always_possible_and_zero_is_no_limit() {
        let rates = RateLimiter::new(1, Duration::ZERO).unwrap();
        assert_eq!(wait(rates.count("a", SECOND)), None);
        assert_eq!(wait(rates.count("a", SECOND)), Some(1000));
        assert!(RateLimiter::<&str>::new(0, SECOND).is_none());
        assert!(UploadCounts::new(0).is_none());
    }

    #[test]
    fn memory_is_bounded() {
        let rates = RateLimiter::new(1, SECOND).unwrap();
        for number in 0..CACHED_MAX + 5000 {
            rates.count(number, SECOND).unwrap();
        }
        assert!(rates.taken.len() <= CACHED_MAX);
    }

    #[test]
    fn uploads_count_while_they_go_on_and_leave_nothing_behind() {
        let uploads = UploadCounts::new(2).unwrap();
        let of = |name: &str| LimitedClient::Named(name.into());
        let first = uploads.begin(of("a")).unwrap();
        let second = uploads.begin(of("a")).unwrap();
        assert_eq!(uploads.begin(of("a")).unwrap_err(), LimitExceeded::Uploads { max: 2 });
        let other = uploads.begin(of("b")).unwrap();
        drop(first);
        let third = uploads.begin(of("a")).unwrap();
        drop((second, third, other));
        assert!(uploads.running.lock().unwrap().is_empty());
    }

    #[test]
    fn identities_count_by_name_and_anonymous_clients_by_address() {
        let alice = Identity::named("alice", jreg_auth::IdentitySource::Htpasswd);
        assert_eq!(LimitedClient::of(&alice, at(1)), LimitedClient::of(&alice, at(2)));
        assert_ne!(
            LimitedClient::of(&Identity::Anonymous, at(1)),
            LimitedClient::of(&Identity::Anonymous, at(2))
        );
        assert_eq!(LimitedClient::of(&Identity::Anonymous, None), None);
    }
}
