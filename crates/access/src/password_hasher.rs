//! [`PasswordHasher`]: verifies passwords with bounded concurrency, off the threads that serve
//! requests. Verification is slow by design.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use jreg_auth::{HashMemory, PasswordComparison, Secret};
use jreg_profile::WorkName;
use jreg_registry::BudgetUsage;
use tokio::sync::Semaphore;

/// What profiles call it.
const WORK: WorkName = WorkName("password hashing", "");

/// Maximum number of logins that wait for verification. Further ones get 429: this bounds memory
/// and waiting time.
const WAITING_MAX: usize = 128;

#[derive(Debug)]
pub(super) struct PasswordHasher {
    slots: Arc<Semaphore>,
    /// Hash memory of the idle slots.
    memory: Arc<Mutex<Vec<HashMemory>>>,
    waiting: AtomicUsize,
    waits: AtomicU64,
    refused: AtomicU64,
    compared: Arc<AtomicU64>,
}

/// Too many logins are waiting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct HasherBusy;

/// Counts a waiting login until it is dropped.
struct WaitingLogins<'a>(&'a AtomicUsize);

impl Drop for WaitingLogins<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl PasswordHasher {
    /// Uses at most half of the CPUs.
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = Arc::new(Semaphore::new(cores.div_ceil(2)));
        let (waiting, waits) = (AtomicUsize::new(0), AtomicU64::new(0));
        let refused = AtomicU64::new(0);
        Self { slots, memory: Arc::default(), waiting, waits, refused, compared: Arc::default() }
    }

    /// Number of passwords compared with a hash.
    pub(super) fn compared(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    /// Logins waiting or running; logins that had to wait; logins refused.
    pub(super) fn usage(&self) -> BudgetUsage {
        BudgetUsage {
            bytes_free: 0,
            waiting: self.waiting.load(Ordering::Relaxed),
            waits: self.waits.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Whether the password is correct. `known` is checked again when a slot is free: many
    /// concurrent requests with the same password are verified once.
    pub(super) async fn verify(
        &self,
        comparison: PasswordComparison,
        password: Secret,
        known: impl Fn() -> bool,
    ) -> Result<bool, HasherBusy> {
        let _waiting = WaitingLogins(&self.waiting);
        self.waits.fetch_add(1, Ordering::Relaxed);
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= WAITING_MAX {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(HasherBusy);
        }
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| HasherBusy)?;
        if known() {
            return Ok(true);
        }
        let (compared, free) = (Arc::clone(&self.compared), Arc::clone(&self.memory));
        let verifying = jreg_profile::carry(WORK, move || {
            let lock = || free.lock().unwrap_or_else(PoisonError::into_inner);
            let mut memory = lock().pop().unwrap_or_default();
            let (is_right, hashes) = comparison.verify(&password, &mut memory);
            lock().push(memory);
            compared.fetch_add(hashes, Ordering::Relaxed);
            drop(slot);
            is_right
        });
        tokio::task::spawn_blocking(verifying).await.map_err(|_| HasherBusy)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jreg_auth::{Htpasswd, hash_password};

    use super::*;

    /// Each hash takes 19 MiB: as many buffers as slots are kept and reused.
    #[tokio::test]
    async fn fixed_passwords_are_hashed_in_the_memory_of_their_slots() {
        let password_hasher = Arc::new(PasswordHasher {
            slots: Arc::new(Semaphore::new(2)),
            ..PasswordHasher::new()
        });
        let hash = hash_password(&Secret::new("secret")).unwrap();
        let users = Htpasswd::parse(&format!("alice:{hash}\n")).unwrap();
        let verify = |password: &'static str| {
            let (password_hasher, comparison) =
                (Arc::clone(&password_hasher), users.to_compare("alice"));
            async move {
                password_hasher.verify(comparison, Secret::new(password), || false).await.unwrap()
            }
        };
        for _ in 0..2 {
            let found =
                tokio::join!(verify("secret"), verify("wrong"), verify("secret"), verify(""));
            assert_eq!(found, (true, false, true, false));
            assert!((1..=2).contains(&password_hasher.memory.lock().unwrap().len()));
        }
    }
}
