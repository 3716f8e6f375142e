//! [`Failures`]: who guesses passwords waits longer with each one.
//!
//! - Failures count for a name at an address, and for the address over all names. After the free
//!   ones each attempt must wait twice as long as the one before, up to a maximum.
//! - Nobody can keep a user out from elsewhere: what fails at one address counts at no other.
//! - While a name has to wait at an address, the right password does not help there: otherwise the
//!   answer would tell which one is right.
//! - Attempts for one name at one address are verified one after the other, so that many at the
//!   same time get no further than one by one.
//! - The same name and password again is no guess: a client sends a stale password several times for
//!   one push. It counts once, and is refused without being verified again until the files change.
//! - Tokens cannot be guessed, and a job that goes on with one that has expired does not lock out the
//!   others that share its name and address. Access tokens that were invented count by themselves,
//!   because each costs a read of the store.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jreg_auth::Network;
use jreg_storage::Clock;
use quick_cache::sync::Cache;
use tokio::sync::OwnedMutexGuard;

/// How many times as many failures an address has free as a name at it: offices share one.
const ADDRESS_FREE_FACTOR: u32 = 10;
/// The shortest wait. Each further failure doubles it.
const DELAY_MIN: Duration = Duration::from_secs(1);
/// How often an address is forgiven a failure. A name is forgiven one after twice the longest wait:
/// who goes on at the end of each wait is never forgiven.
const ADDRESS_FORGIVEN_EVERY: Duration = Duration::from_secs(60);
/// The most pairs of a name and a password that are remembered to have failed for a name at an
/// address, each as a keyed hash.
const WRONG_REMEMBERED_MAX: usize = 8;
/// The most names at addresses, and the most addresses, that are remembered. Those that did not
/// come again are forgotten first.
const REMEMBERED_MAX: usize = 16_384;

/// Counts failed logins.
#[derive(Debug)]
pub(super) struct Failures {
    free: u32,
    delay_max: Duration,
    clock: Arc<dyn Clock>,
    names: Cache<(Network, Box<str>), Arc<FailureCount>>,
    addresses: Cache<Network, Arc<FailureCount>>,
}

/// What failed for one name at an address, or at one address.
#[derive(Debug, Default)]
struct FailureCount {
    turn: Arc<tokio::sync::Mutex<()>>,
    count: Mutex<Count>,
}

#[derive(Debug, Default)]
struct Count {
    failures: u32,
    /// From when on failures are forgiven.
    since: Duration,
    /// When the next attempt may be made.
    until: Duration,
    /// What failed, the last at the end: the same again is no guess.
    wrong: VecDeque<Guess>,
}

/// A name and a password, or a token, that may be wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Guess {
    /// A keyed hash of it.
    pub(super) fingerprint: [u8; 32],
    /// The state of the files that it is held against.
    pub(super) generation: u64,
}

/// How many failures are free, and how fast they are forgiven.
#[derive(Clone, Copy, Debug)]
struct Terms {
    free: u32,
    forgiven_every: Duration,
    delay_max: Duration,
}

/// It is too early for another attempt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Early {
    /// How long to wait.
    pub(super) wait: Duration,
}

/// An attempt that goes on. It has failed unless it is said to have succeeded: who gives up while
/// a password is compared has made a guess, too.
#[derive(Debug)]
pub(super) struct Attempt<'a> {
    failures: &'a Failures,
    name: Arc<FailureCount>,
    address: Arc<FailureCount>,
    guess: Guess,
    is_over: bool,
    _turn: OwnedMutexGuard<()>,
}

impl Failures {
    /// `free` failures cost nothing; 0 counts none at all.
    pub(super) fn new(free: u32, delay_max: Duration, clock: Arc<dyn Clock>) -> Self {
        let (names, addresses) = (Cache::new(REMEMBERED_MAX), Cache::new(REMEMBERED_MAX));
        Self { free, delay_max, clock, names, addresses }
    }

    /// Whether a name has to wait at an address, before anything else is looked at.
    pub(super) fn check(&self, address: Option<Network>, name: &str) -> Result<(), Early> {
        let Some(address) = address.filter(|_| self.free > 0) else { return Ok(()) };
        let account = self.names.get(&(address, name.into()));
        account.map_or(Ok(()), |account| account.check(self.clock.monotonic()))
    }

    /// Waits for the turn of a name at an address. `None`: nothing is counted.
    pub(super) async fn begin(
        &self,
        address: Option<Network>,
        name: &str,
        guess: Guess,
    ) -> Result<Option<Attempt<'_>>, Early> {
        let Some(address) = address.filter(|_| self.free > 0) else { return Ok(None) };
        let key = (address, name.into());
        let name = self.names.get_or_insert_with(&key, || Ok::<_, Early>(Arc::default()))?;
        let address =
            self.addresses.get_or_insert_with(&address, || Ok::<_, Early>(Arc::default()))?;
        let turn = Arc::clone(&name.turn).lock_owned().await;
        let now = self.clock.monotonic();
        name.check(now)?;
        address.check(now)?;
        Ok(Some(Attempt { failures: self, name, address, guess, is_over: false, _turn: turn }))
    }

    /// Counts a failure that was found out without waiting for a turn.
    pub(super) fn count(&self, address: Option<Network>, name: &str, guess: Guess) {
        let Some(address) = address.filter(|_| self.free > 0) else { return };
        let account = self.names.get_or_insert_with(&(address, name.into()), || {
            Ok::<_, std::convert::Infallible>(Arc::default())
        });
        let Ok(account) = account;
        let mut count = account.count();
        if !count.has_failed_before(guess) {
            count.failed(self.clock.monotonic(), self.name_terms());
        }
    }

    fn name_terms(&self) -> Terms {
        let delay_max = self.delay_max;
        Terms { free: self.free, forgiven_every: delay_max * 2, delay_max }
    }

    fn address_terms(&self) -> Terms {
        let free = self.free.saturating_mul(ADDRESS_FREE_FACTOR);
        Terms { free, forgiven_every: ADDRESS_FORGIVEN_EVERY, delay_max: self.delay_max }
    }
}

impl Attempt<'_> {
    /// Whether the same failed before, and would again.
    pub(super) fn is_known_to_fail(&self) -> bool {
        self.name.count().wrong.contains(&self.guess)
    }

    /// The password was right: the name is forgiven everything. The address is not, or whoever has
    /// one password could guess all others.
    pub(super) fn succeeded(mut self) {
        self.is_over = true;
        *self.name.count() = Count::default();
    }

    /// Nothing was found out.
    pub(super) fn given_up(mut self) {
        self.is_over = true;
    }
}

impl Drop for Attempt<'_> {
    fn drop(&mut self) {
        if self.is_over {
            return;
        }
        let now = self.failures.clock.monotonic();
        if self.name.count().has_failed_before(self.guess) {
            return;
        }
        self.name.count().failed(now, self.failures.name_terms());
        self.address.count().failed(now, self.failures.address_terms());
    }
}

impl FailureCount {
    fn count(&self) -> std::sync::MutexGuard<'_, Count> {
        self.count.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn check(&self, now: Duration) -> Result<(), Early> {
        match self.count().until.checked_sub(now) {
            Some(wait) if !wait.is_zero() => Err(Early { wait }),
            _ => Ok(()),
        }
    }
}

impl Count {
    /// Whether the same failed before; remembers that it failed now.
    fn has_failed_before(&mut self, guess: Guess) -> bool {
        let before = self.wrong.iter().position(|wrong| wrong.fingerprint == guess.fingerprint);
        if let Some(before) = before {
            self.wrong.remove(before);
        } else if self.wrong.len() >= WRONG_REMEMBERED_MAX {
            self.wrong.pop_front();
        }
        self.wrong.push_back(guess);
        before.is_some()
    }

    fn failed(&mut self, now: Duration, terms: Terms) {
        let passed = now.saturating_sub(self.since).as_secs();
        let forgiven = passed / terms.forgiven_every.as_secs().max(1);
        let forgiven = u32::try_from(forgiven).unwrap_or(u32::MAX);
        self.failures = self.failures.saturating_sub(forgiven).saturating_add(1);
        if forgiven > 0 || self.failures == 1 {
            self.since = now;
        }
        if let Some(doublings) = self.failures.checked_sub(terms.free) {
            let delay = DELAY_MIN.saturating_mul(1_u32.checked_shl(doublings).unwrap_or(u32::MAX));
            self.until = now + delay.min(terms.delay_max);
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

    fn hashed(guess: u8) -> Guess {
        Guess { fingerprint: [guess; 32], generation: 0 }
    }

    struct Scene {
        failures: Failures,
        clock: Arc<ManualClock>,
        guesses: std::cell::Cell<u8>,
    }

    impl Scene {
        fn new() -> Self {
            let clock = Arc::new(ManualClock::default());
            let failures = Failures::new(FREE, DELAY_MAX, clock.clone());
            Self { failures, clock, guesses: std::cell::Cell::default() }
        }

        /// A guess that none was before.
        async fn guess(&self, address: u8, name: &str) -> Result<(), u64> {
            self.guesses.set(self.guesses.get() + 1);
            self.fail(address, name, self.guesses.get()).await
        }

        async fn fail(&self, address: u8, name: &str, guess: u8) -> Result<(), u64> {
            let begun = self.failures.begin(at(address), name, hashed(guess)).await;
            begun.map(drop).map_err(|early| early.wait.as_secs())
        }

        async fn succeed(&self, address: u8, name: &str) -> Result<(), u64> {
            let begun = self.failures.begin(at(address), name, hashed(0)).await;
            begun.map(|it| it.unwrap().succeeded()).map_err(|early| early.wait.as_secs())
        }
    }

    #[tokio::test]
    async fn after_the_free_ones_each_failure_doubles_the_wait() {
        let scene = Scene::new();
        for _ in 0..FREE {
            assert_eq!(scene.guess(1, "alice").await, Ok(()));
        }
        for wait in [1, 2, 4, 8, 16, 32, 60, 60] {
            assert_eq!(scene.guess(1, "alice").await, Err(wait));
            assert_eq!(scene.failures.check(at(1), "alice").unwrap_err().wait.as_secs(), wait);
            assert_eq!(scene.succeed(1, "alice").await, Err(wait), "nor does the right one help");
            scene.clock.advance(Duration::from_secs(wait));
            assert_eq!(scene.guess(1, "alice").await, Ok(()));
        }
    }

    #[tokio::test]
    async fn nobody_is_kept_out_from_elsewhere_and_no_other_name() {
        let scene = Scene::new();
        for _ in 0..FREE {
            scene.guess(1, "alice").await.unwrap();
        }
        assert!(scene.succeed(1, "alice").await.is_err());
        assert_eq!(scene.succeed(2, "alice").await, Ok(()));
        assert_eq!(scene.succeed(1, "bob").await, Ok(()));
        assert!(scene.succeed(1, "alice").await.is_err(), "and that forgives nothing here");
    }

    #[tokio::test]
    async fn the_right_password_forgives_the_name_but_not_the_address() {
        let scene = Scene::new();
        let free = FREE * ADDRESS_FREE_FACTOR;
        for number in 0..free {
            if number % (FREE - 1) == 0 {
                scene.succeed(1, "mallory").await.unwrap();
            }
            assert_eq!(scene.guess(1, "mallory").await, Ok(()), "{number}");
        }
        assert_eq!(scene.guess(1, "bob").await, Err(1), "one name after the other");
        assert_eq!(scene.guess(2, "bob").await, Ok(()));
    }

    /// A push with a stale password sends it several times.
    #[tokio::test]
    async fn c27_the_same_again_is_no_guess() {
        let scene = Scene::new();
        for _ in 0..FREE * ADDRESS_FREE_FACTOR * 2 {
            assert_eq!(scene.fail(1, "job", 7).await, Ok(()));
        }
        for guess in [8, 7, 9, 8, 7] {
            assert_eq!(scene.fail(1, "job", guess).await, Ok(()), "{guess}");
            if guess == 9 {
                scene.clock.advance(DELAY_MIN);
            }
        }
        assert_eq!(scene.succeed(1, "bob").await, Ok(()));
        assert_eq!(scene.fail(1, "job", 10).await, Ok(()));
        assert_eq!(scene.fail(1, "job", 11).await, Err(2), "others are");
    }

    #[tokio::test]
    async fn c27_what_failed_is_known_until_the_files_change() {
        let scene = Scene::new();
        let known = async |guess: Guess| {
            let attempt = scene.failures.begin(at(1), "job", guess).await.unwrap().unwrap();
            attempt.is_known_to_fail()
        };
        assert!(!known(hashed(7)).await);
        assert!(known(hashed(7)).await);
        let changed = Guess { generation: 1, ..hashed(7) };
        assert!(!known(changed).await && known(changed).await);
        for guess in 0..u8::try_from(WRONG_REMEMBERED_MAX).unwrap() {
            scene.clock.advance(DELAY_MAX);
            assert!(!known(hashed(100 + guess)).await);
        }
        scene.clock.advance(DELAY_MAX);
        assert!(!known(changed).await, "so many are remembered");
    }

    #[tokio::test]
    async fn failures_are_forgiven_with_time() {
        let scene = Scene::new();
        for _ in 0..FREE {
            scene.guess(1, "alice").await.unwrap();
        }
        scene.clock.advance(DELAY_MAX * 2 * FREE);
        for _ in 0..FREE {
            assert_eq!(scene.guess(1, "alice").await, Ok(()));
        }
        assert_eq!(scene.guess(1, "alice").await, Err(1));
    }

    #[tokio::test]
    async fn many_at_once_get_no_further_than_one_by_one() {
        let scene = Scene::new();
        let attempts = (0..20).map(|guess| {
            let failures = &scene.failures;
            async move {
                let attempt = failures.begin(at(1), "alice", hashed(guess)).await?;
                tokio::task::yield_now().await;
                drop(attempt);
                Ok::<_, Early>(())
            }
        });
        let done = futures::future::join_all(attempts).await;
        assert_eq!(done.iter().filter(|done| done.is_ok()).count(), FREE as usize);
    }

    #[tokio::test]
    async fn what_was_not_found_out_does_not_count_and_zero_counts_nothing() {
        let scene = Scene::new();
        for _ in 0..FREE * 2 {
            let attempt = scene.failures.begin(at(1), "alice", hashed(1)).await.unwrap();
            attempt.unwrap().given_up();
        }
        let off = Failures::new(0, DELAY_MAX, scene.clock.clone());
        assert!(off.begin(at(1), "alice", hashed(1)).await.unwrap().is_none());
        assert!(scene.failures.begin(None, "alice", hashed(1)).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn memory_is_bounded() {
        let scene = Scene::new();
        for name in 0..REMEMBERED_MAX + 5000 {
            let attempt = scene.failures.begin(at(1), &name.to_string(), hashed(1)).await;
            if let Ok(Some(attempt)) = attempt {
                attempt.given_up();
            }
        }
        assert!(scene.failures.names.len() <= REMEMBERED_MAX);
    }
}
