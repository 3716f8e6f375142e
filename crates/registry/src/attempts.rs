//! [`SwapAttempts`]: the one way in which a lost compare-and-swap is repeated.
//!
//! A change reads a record, decides, and swaps the version that it read. If another writer was
//! first it starts over, after a random back-off that grows with the attempts, so that writers of
//! one record do not keep in step.

use std::time::Duration;

use jreg_storage::full_jitter;

use crate::{Error, Result};

/// Maximum number of attempts before the client is asked to retry.
pub(crate) const ATTEMPTS_MAX: u32 = 24;

const BACKOFF_MIN_MS: u64 = 2;
const BACKOFF_MAX_MS: u64 = 250;

/// The attempts of one change, each to be begun by [`next`](Self::next).
#[derive(Debug)]
pub(crate) struct SwapAttempts {
    contended: &'static str,
    begun: u32,
}

impl SwapAttempts {
    /// `contended` says in the client's error what too many others are changing.
    pub(crate) fn new(contended: &'static str) -> Self {
        Self { contended, begun: 0 }
    }

    /// Begins the next attempt, after a back-off unless it is the first.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`] after [`ATTEMPTS_MAX`].
    pub(crate) async fn next(&mut self) -> Result<()> {
        match self.try_next().await {
            true => Ok(()),
            false => Err(Error::Busy { what: self.contended }),
        }
    }

    /// The same, for a change that has a fallback after [`ATTEMPTS_MAX`]: `false`.
    pub(crate) async fn try_next(&mut self) -> bool {
        if self.begun >= ATTEMPTS_MAX {
            return false;
        }
        if let Some(lost) = self.begun.checked_sub(1) {
            let limit_ms = BACKOFF_MAX_MS.min(BACKOFF_MIN_MS << lost.min(10));
            tokio::time::sleep(full_jitter(Duration::from_millis(limit_ms))).await;
        }
        self.begun += 1;
        true
    }

    /// Whether an attempt was lost before the one that was begun last.
    pub(crate) fn is_retry(&self) -> bool {
        self.begun > 1
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn attempts_end_and_back_off_in_between() {
        let mut attempts = SwapAttempts::new("it is contended");
        let began = Instant::now();
        attempts.next().await.expect("a first attempt");
        assert!(!attempts.is_retry() && began.elapsed().is_zero());
        for _ in 1..ATTEMPTS_MAX {
            attempts.next().await.expect("a retry");
            assert!(attempts.is_retry());
        }
        let longest = Duration::from_millis(BACKOFF_MAX_MS) * ATTEMPTS_MAX;
        assert!((Duration::from_millis(1)..longest).contains(&began.elapsed()));
        let busy = attempts.next().await;
        assert!(matches!(busy, Err(Error::Busy { what: "it is contended" })), "{busy:?}");
        assert!(!attempts.try_next().await);
    }
}
