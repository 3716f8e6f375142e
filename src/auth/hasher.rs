//! [`Hasher`]: verifies passwords, which is slow on purpose, a few at a time and away from the
//! threads that answer requests.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

use jreg_auth::{Comparison, Secret};
use jreg_registry::BudgetUsage;
use tokio::sync::Semaphore;

/// The most passwords that wait to be verified. More are told to try again: an attacker must not
/// fill the memory, and a user does not wait for long.
const WAITING_MAX: usize = 128;

/// Verifies passwords.
#[derive(Debug)]
pub(super) struct Hasher {
    slots: Arc<Semaphore>,
    waiting: AtomicUsize,
    waits: AtomicU64,
    refused: AtomicU64,
    compared: Arc<AtomicU64>,
}

/// Too many wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Busy;

/// Counts one that waits, for as long as it lives.
struct Waiting<'a>(&'a AtomicUsize);

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Hasher {
    /// One that uses half of the machine at the most.
    pub(super) fn new() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let slots = Arc::new(Semaphore::new(cores.div_ceil(2)));
        let (waiting, waits) = (AtomicUsize::new(0), AtomicU64::new(0));
        Self { slots, waiting, waits, refused: AtomicU64::new(0), compared: Arc::default() }
    }

    /// How many times a password was compared with a hash.
    pub(super) fn compared(&self) -> u64 {
        self.compared.load(Ordering::Relaxed)
    }

    /// How many wait for their turn, or have it; how many had to, and were refused.
    pub(super) fn usage(&self) -> BudgetUsage {
        BudgetUsage {
            bytes_free: 0,
            waiting: self.waiting.load(Ordering::Relaxed),
            waits: self.waits.load(Ordering::Relaxed),
            refused: self.refused.load(Ordering::Relaxed),
        }
    }

    /// Whether this is the password. `known` is asked again once it is this one's
    /// turn: who sends many requests at once is verified once.
    pub(super) async fn verify(
        &self,
        comparison: Comparison,
        password: Secret,
        known: impl Fn() -> bool,
    ) -> Result<bool, Busy> {
        let _waiting = Waiting(&self.waiting);
        self.waits.fetch_add(1, Ordering::Relaxed);
        if self.waiting.fetch_add(1, Ordering::AcqRel) >= WAITING_MAX {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Busy);
        }
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| Busy)?;
        if known() {
            return Ok(true);
        }
        let compared = Arc::clone(&self.compared);
        let verifying = tokio::task::spawn_blocking(move || {
            let (is_right, hashes) = comparison.verify(&password);
            compared.fetch_add(hashes, Ordering::Relaxed);
            drop(slot);
            is_right
        });
        verifying.await.map_err(|_| Busy)
    }
}
