//! [`SwapRetries`]: the one way in which a lost compare-and-swap is retried.

use std::time::Duration;

use crate::full_jitter;

/// Maximum number of attempts.
const ATTEMPTS_MAX: u32 = 24;

const BACKOFF_MIN_MS: u64 = 2;
const BACKOFF_MAX_MS: u64 = 250;

/// The attempts of one change of a record.
///
/// A change reads the record, decides, and swaps the version that it read. If another writer was
/// first it starts over, after a random back-off that grows with the attempts, so that writers of
/// one record do not keep in step.
///
/// ```text
/// let mut retries = SwapRetries::default();
/// while retries.next().await {
///     // Read, decide, swap; return unless the swap was a conflict.
/// }
/// // Contended.
/// ```
#[derive(Debug, Default)]
pub struct SwapRetries {
    begun: u32,
}

impl SwapRetries {
    /// Begins the next attempt, after a back-off unless it is the first. `false`: there were 24.
    pub async fn next(&mut self) -> bool {
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

    /// Whether an attempt was lost before the current one.
    pub fn is_retry(&self) -> bool {
        self.begun > 1
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn attempts_end_and_back_off_in_between() {
        let mut retries = SwapRetries::default();
        let began = Instant::now();
        assert!(retries.next().await && !retries.is_retry() && began.elapsed().is_zero());
        for _ in 1..ATTEMPTS_MAX {
            assert!(retries.next().await && retries.is_retry());
        }
        let longest = Duration::from_millis(BACKOFF_MAX_MS) * ATTEMPTS_MAX;
        assert!((Duration::from_millis(1)..longest).contains(&began.elapsed()));
        assert!(!retries.next().await);
    }
}
