//! [`LoginThrottle`]: exponential back-off on failed logins.
//!
//! - Failures are counted per name at an address, and per address over all names. After a number of
//!   free failures, each further failure doubles the delay, up to a maximum.
//! - A user cannot be locked out from elsewhere: failures at one address affect no other.
//! - During the delay even correct credentials are refused, so the response reveals nothing.
//! - Logins with one name at one address are verified one at a time, so concurrent requests gain
//!   nothing.
//! - A repeated name and password counts once: a client sends a stale password several times during
//!   one push. It is refused without verification until the files change.
//! - Invalid signed tokens are not counted: they cannot be guessed, and a job with an expired token
//!   must not lock out others with the same name and address. Unknown access tokens have a counter
//!   of their own, because each costs a store read.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jreg_auth::Network;
use jreg_storage::Clock;
use quick_cache::sync::Cache;
use tokio::sync::OwnedMutexGuard;

/// Free failures of an address, as a multiple of those of a name: an office shares one address.
const ADDRESS_FREE_FACTOR: u32 = 10;
/// Minimum delay. Each further failure doubles it.
const DELAY_MIN: Duration = Duration::from_secs(1);
/// Interval after which an address loses one failure. A name loses one after twice the maximum
/// delay, so a client that retries at the end of each delay never loses any.
const ADDRESS_FORGIVEN_EVERY: Duration = Duration::from_secs(60);
/// Maximum number of failed passwords kept per name and address, each as a keyed hash.
const FAILED_LOGINS_MAX: usize = 8;
/// Maximum number of tracked names at addresses, and of tracked addresses. Least recently used ones
/// are evicted first.
const CACHED_MAX: usize = 16_384;

/// Counts failed logins.
#[derive(Debug)]
pub(super) struct LoginThrottle {
    free: u32,
    delay_max: Duration,
    clock: Arc<dyn Clock>,
    names: Cache<(Network, Box<str>), Arc<FailureEntry>>,
    addresses: Cache<Network, Arc<FailureEntry>>,
    failed_logins: AtomicU64,
}

/// Failures of one name at an address, or of one address.
#[derive(Debug, Default)]
struct FailureEntry {
    turn: Arc<tokio::sync::Mutex<()>>,
    count: Mutex<FailureState>,
}

#[derive(Debug, Default)]
struct FailureState {
    failed_logins: u32,
    /// When failures last began to expire.
    since: Duration,
    /// When the next attempt is allowed.
    until: Duration,
    /// Failed credentials, the latest last; repeating one is not counted.
    wrong: VecDeque<FailedLogin>,
}

/// Credentials that may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct FailedLogin {
    /// Keyed hash of the credentials.
    pub(super) fingerprint: [u8; 32],
    /// Generation of the files that they are verified against.
    pub(super) generation: u64,
}

/// Number of free failures, and how fast failures expire.
#[derive(Clone, Copy, Debug)]
struct ThrottlePolicy {
    free: u32,
    forgiven_every: Duration,
    delay_max: Duration,
}

/// The next attempt is not allowed yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoginThrottled {
    /// Time until it is allowed.
    pub(super) wait: Duration,
}

/// A login in progress. Dropping it counts as a failure unless success was recorded: a client that
/// disconnects during verification has made an attempt, too.
#[derive(Debug)]
pub(super) struct LoginAttempt<'a> {
    login_throttle: &'a LoginThrottle,
    name: Arc<FailureEntry>,
    address: Arc<FailureEntry>,
    login: FailedLogin,
    is_over: bool,
    _turn: OwnedMutexGuard<()>,
}

impl LoginThrottle {
    /// `free` failures have no delay; 0 disables throttling.
    pub(super) fn new(free: u32, delay_max: Duration, clock: Arc<dyn Clock>) -> Self {
        let (names, addresses) = (Cache::new(CACHED_MAX), Cache::new(CACHED_MAX));
        Self { free, delay_max, clock, names, addresses, failed_logins: AtomicU64::new(0) }
    }

    /// Number of failed logins of all clients. While it is unchanged, no login that was allowed
    /// is refused.
    pub(super) fn failed_logins(&self) -> u64 {
        self.failed_logins.load(Ordering::Acquire)
    }

    /// Whether a login with this name from this address is allowed now.
    pub(super) fn check(&self, address: Option<Network>, name: &str) -> Result<(), LoginThrottled> {
        let Some(address) = address.filter(|_| self.free > 0) else { return Ok(()) };
        let account = self.names.get(&(address, name.into()));
        account.map_or(Ok(()), |account| account.check(self.clock.monotonic()))
    }

    /// Waits for earlier logins with this name from this address. `None`: throttling is disabled.
    pub(super) async fn begin(
        &self,
        address: Option<Network>,
        name: &str,
        login: FailedLogin,
    ) -> Result<Option<LoginAttempt<'_>>, LoginThrottled> {
        let Some(address) = address.filter(|_| self.free > 0) else { return Ok(None) };
        let key = (address, name.into());
        let name =
            self.names.get_or_insert_with(&key, || Ok::<_, LoginThrottled>(Arc::default()))?;
        let address = self
            .addresses
            .get_or_insert_with(&address, || Ok::<_, LoginThrottled>(Arc::default()))?;
        let turn = Arc::clone(&name.turn).lock_owned().await;
        let now = self.clock.monotonic();
        name.check(now)?;
        address.check(now)?;
        Ok(Some(LoginAttempt {
            login_throttle: self,
            name,
            address,
            login,
            is_over: false,
            _turn: turn,
        }))
    }

    /// Counts a failure without waiting for earlier logins.
    pub(super) fn count(&self, address: Option<Network>, name: &str, login: FailedLogin) {
        let Some(address) = address.filter(|_| self.free > 0) else { return };
        let account = self.names.get_or_insert_with(&(address, name.into()), || {
            Ok::<_, std::convert::Infallible>(Arc::default())
        });
        let Ok(account) = account;
        let mut count = account.count();
        if !count.has_failed_before(login) {
            count.failed(self.clock.monotonic(), self.name_policy());
            self.failed_logins.fetch_add(1, Ordering::Release);
        }
    }

    fn name_policy(&self) -> ThrottlePolicy {
        let delay_max = self.delay_max;
        ThrottlePolicy { free: self.free, forgiven_every: delay_max * 2, delay_max }
    }

    fn address_policy(&self) -> ThrottlePolicy {
        let free = self.free.saturating_mul(ADDRESS_FREE_FACTOR);
        ThrottlePolicy { free, forgiven_every: ADDRESS_FORGIVEN_EVERY, delay_max: self.delay_max }
    }
}

impl LoginAttempt<'_> {
    /// Whether the same credentials failed before and the files have not changed.
    pub(super) fn is_known_to_fail(&self) -> bool {
        self.name.count().wrong.contains(&self.login)
    }

    /// Records a success. It resets the count of the name but not of the address: otherwise one
    /// valid password would allow unlimited attempts at other names.
    pub(super) fn record_success(mut self) {
        self.is_over = true;
        *self.name.count() = FailureState::default();
    }

    /// Ends the attempt without a result.
    pub(super) fn cancel(mut self) {
        self.is_over = true;
    }
}

impl Drop for LoginAttempt<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let now = self.login_throttle.clock.monotonic();
        if self.name.count().has_failed_before(self.login) {
            return;
        }
        self.name.count().failed(now, self.login_throttle.name_policy());
        self.address.count().failed(now, self.login_throttle.address_policy());
        self.login_throttle.failed_logins.fetch_add(1, Ordering::Release);
    }
}

impl FailureEntry {
    fn count(&self) -> std::sync::MutexGuard<'_, FailureState> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, now: Duration) -> Result<(), LoginThrottled> {
        match self.count().until.checked_sub(now) {
            Some(wait) if !wait.is_zero() => Err(LoginThrottled { wait }),
            _ => Ok(()),
        }
    }
}

impl FailureState {
    /// Records a failure; returns whether the same credentials failed before.
    fn has_failed_before(&mut self, login: FailedLogin) -> bool {
        let before = self.wrong.iter().position(|wrong| wrong.fingerprint == login.fingerprint);
        if let Some(before) = before {
            self.wrong.remove(before);
        } else if self.wrong.len() >= FAILED_LOGINS_MAX {
            self.wrong.pop_front();
        }
        self.wrong.push_back(login);
        before.is_some()
    }

    fn failed(&mut self, now: Duration, policy: ThrottlePolicy) {
        let passed = now.saturating_sub(self.since).as_secs();
        let forgiven = passed / policy.forgiven_every.as_secs().max(1);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        self.failed_logins = self.failed_logins.saturating_sub(forgiven).saturating_add(1);
        if forgiven > 0 || self.failed_logins == 1 {
            self.since = now;
        }
        if let Some(doublings) = self.failed_logins.checked_sub(policy.free) {
            let delay = DELAY_MIN.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
            self.until = now + delay.min(policy.delay_max);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::net::IpAddr;

    use jreg_storage::testing::ManualClock;

    use super::*;

    const FREE: u32 = 3;
    const DELAY_MAX: Duration = Duration::from_secs(60);

    fn at(last: u8) -> Option<Network> {
        Some(Network::of(IpAddr::from([10, 0, 0, last])))
    }

    fn hashed(password: u8) -> FailedLogin {
        FailedLogin { fingerprint: [password; 32], generation: 0 }
    }

    struct ThrottleScenario {
        login_throttle: LoginThrottle,
        clock: Arc<ManualClock>,
        passwords_tried: std::cell::Cell<u8>,
    }

    impl ThrottleScenario {
        fn new() -> Self {
            let clock = Arc::new(ManualClock::default());
            let login_throttle = LoginThrottle::new(FREE, DELAY_MAX, clock.clone());
            Self { login_throttle, clock, passwords_tried: std::cell::Cell::default() }
        }

        /// Fails with a password that was not used before.
        async fn fail_with_new_password(&self, address: u8, name: &str) -> Result<(), u64> {
            self.passwords_tried.set(self.passwords_tried.get() + 1);
            self.fail(address, name, self.passwords_tried.get()).await
        }

        async fn fail(&self, address: u8, name: &str, password: u8) -> Result<(), u64> {
            let begun = self.login_throttle.begin(at(address), name, hashed(password)).await;
            begun.map(drop).map_err(|early| early.wait.as_secs())
        }

        async fn succeed(&self, address: u8, name: &str) -> Result<(), u64> {
            let begun = self.login_throttle.begin(at(address), name, hashed(0)).await;
            begun.map(|it| it.unwrap().record_success()).map_err(|early| early.wait.as_secs())
        }
    }

    #[tokio::test]
    async fn each_failure_after_the_free_ones_doubles_the_wait() {
        let throttle = ThrottleScenario::new();
        for _ in 0..FREE {
            assert_eq!(throttle.fail_with_new_password(1, "alice").await, Ok(()));
        }
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(throttle.fail_with_new_password(1, "alice").await, Err(wait));
            assert_eq!(
                throttle.login_throttle.check(at(1), "alice").unwrap_err().wait.as_secs(),
                wait
            );
            assert_eq!(
                throttle.succeed(1, "alice").await,
                Err(wait),
                "nor does the right one help"
            );
            throttle.clock.advance(Duration::from_secs(wait));
            assert_eq!(throttle.fail_with_new_password(1, "alice").await, Ok(()));
        }
    }

    #[tokio::test]
    async fn failures_throttle_neither_other_addresses_nor_other_names() {
        let throttle = ThrottleScenario::new();
        for _ in 0..FREE {
            throttle.fail_with_new_password(1, "alice").await.unwrap();
        }
        assert!(throttle.succeed(1, "alice").await.is_err());
        assert_eq!(throttle.succeed(2, "alice").await, Ok(()));
        assert_eq!(throttle.succeed(1, "bob").await, Ok(()));
        assert!(throttle.succeed(1, "alice").await.is_err(), "and that forgives nothing here");
    }

    #[tokio::test]
    async fn a_successful_login_resets_the_name_but_not_the_address() {
        let throttle = ThrottleScenario::new();
        let free = FREE * ADDRESS_FREE_FACTOR;
        for number in 0..free {
            if number % (FREE - 1) == 0 {
                throttle.succeed(1, "mallory").await.unwrap();
            }
            assert_eq!(throttle.fail_with_new_password(1, "mallory").await, Ok(()), "{number}");
        }
        assert_eq!(
            throttle.fail_with_new_password(1, "bob").await,
            Err(1),
            "one name after the other"
        );
        assert_eq!(throttle.fail_with_new_password(2, "bob").await, Ok(()));
    }

    /// A push with a stale password sends it several times.
    #[tokio::test]
    async fn c27_a_repeated_password_counts_once() {
        let throttle = ThrottleScenario::new();
        for _ in 0..FREE * ADDRESS_FREE_FACTOR * 2 {
            assert_eq!(throttle.fail(1, "job", 7).await, Ok(()));
        }
        for password in [8, 7, 9, 8, 7] {
            assert_eq!(throttle.fail(1, "job", password).await, Ok(()), "{password}");
            if password == 9 {
                throttle.clock.advance(DELAY_MIN);
            }
        }
        assert_eq!(throttle.succeed(1, "bob").await, Ok(()));
        assert_eq!(throttle.fail(1, "job", 10).await, Ok(()));
        assert_eq!(throttle.fail(1, "job", 11).await, Err(2), "others are");
    }

    #[tokio::test]
    async fn c27_a_failed_login_is_cached_until_the_files_change() {
        let throttle = ThrottleScenario::new();
        let known = async |login: FailedLogin| {
            let attempt =
                throttle.login_throttle.begin(at(1), "job", login).await.unwrap().unwrap();
            attempt.is_known_to_fail()
        };
        assert!(!known(hashed(7)).await);
        assert!(known(hashed(7)).await);
        let changed = FailedLogin { generation: 1, ..hashed(7) };
        assert!(!known(changed).await && known(changed).await);
        for password in 0..u8::try_from(FAILED_LOGINS_MAX).unwrap() {
            throttle.clock.advance(DELAY_MAX);
            assert!(!known(hashed(100 + password)).await);
        }
        throttle.clock.advance(DELAY_MAX);
        assert!(!known(changed).await, "the oldest is evicted");
    }

    #[tokio::test]
    async fn failures_expire_with_time() {
        let throttle = ThrottleScenario::new();
        for _ in 0..FREE {
            throttle.fail_with_new_password(1, "alice").await.unwrap();
        }
        throttle.clock.advance(DELAY_MAX * 2 * FREE);
        for _ in 0..FREE {
            assert_eq!(throttle.fail_with_new_password(1, "alice").await, Ok(()));
        }
        assert_eq!(throttle.fail_with_new_password(1, "alice").await, Err(1));
    }

    #[tokio::test]
    async fn concurrent_attempts_are_verified_one_by_one() {
        let throttle = ThrottleScenario::new();
        let attempts = (0..20).map(|password| {
            let login_throttle = &throttle.login_throttle;
            async move {
                let attempt = login_throttle.begin(at(1), "alice", hashed(password)).await?;
                tokio::task::yield_now().await;
                drop(attempt);
                Ok::<_, LoginThrottled>(())
            }
        });
        let done = futures::future::join_all(attempts).await;
        assert_eq!(done.iter().filter(|done| done.is_ok()).count(), FREE as usize);
    }

    #[tokio::test]
    async fn cancelled_attempts_do_not_count_and_zero_disables_throttling() {
        let throttle = ThrottleScenario::new();
        for _ in 0..FREE * 2 {
            let attempt = throttle.login_throttle.begin(at(1), "alice", hashed(1)).await.unwrap();
            attempt.unwrap().cancel();
        }
        let off = LoginThrottle::new(0, DELAY_MAX, throttle.clock.clone());
        assert!(off.begin(at(1), "alice", hashed(1)).await.unwrap().is_none());
        assert!(throttle.login_throttle.begin(None, "alice", hashed(1)).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let throttle = ThrottleScenario::new();
        for name in 0..CACHED_MAX + 5000 {
            let attempt = throttle.login_throttle.begin(at(1), &name.to_string(), hashed(1)).await;
            if let Ok(Some(attempt)) = attempt {
                attempt.cancel();
            }
        }
        assert!(throttle.login_throttle.names.len() <= CACHED_MAX);
    }
}
