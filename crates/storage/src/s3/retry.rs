//! How long and how often a request is repeated.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::full_jitter;

const PAUSE_FIRST: Duration = Duration::from_millis(50);
const PAUSE_MAX: Duration = Duration::from_secs(5);
const TRIES_MAX: u32 = 12;

/// The means for one operation: how long one attempt may take, and all of them together.
#[derive(Debug)]
pub(super) struct RetryBudget {
    /// How long one attempt may take.
    pub(super) attempt: Duration,
    end: Instant,
    tries: u32,
}

impl RetryBudget {
    pub(super) fn new(attempt: Duration, budget: Duration) -> Self {
        Self { attempt, end: Instant::now() + budget, tries: 0 }
    }

    /// With no attempt that begins later than so long from now.
    pub(super) fn within(self, most: Duration) -> Self {
        Self { end: self.end.min(Instant::now() + most), ..self }
    }

    /// Waits before the next attempt; `false` says that there is none. The pause doubles each
    /// time and is drawn from its whole width, so that clients which failed together do not come
    /// back together. `at_least` is what the store asked for.
    pub(super) async fn again(&mut self, at_least: Option<Duration>) -> bool {
        self.tries += 1;
        let pause = self.pause().max(at_least.unwrap_or_default());
        if self.tries >= TRIES_MAX || Instant::now() + pause >= self.end {
            return false;
        }
        sleep(pause).await;
        true
    }

    fn pause(&self) -> Duration {
        let widest = PAUSE_FIRST.saturating_mul(1 << self.tries.min(16)).min(PAUSE_MAX);
        full_jitter(widest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn an_effort_ends_by_number() {
        let mut effort = RetryBudget::new(Duration::ZERO, Duration::from_secs(3600));
        let mut tries = 1;
        while effort.again(None).await {
            tries += 1;
        }
        assert_eq!(tries, TRIES_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn an_effort_ends_by_time() {
        let start = Instant::now();
        let mut effort = RetryBudget::new(Duration::ZERO, Duration::from_secs(3));
        while effort.again(Some(Duration::from_secs(1))).await {}
        assert!(start.elapsed() < Duration::from_secs(3));
        assert!(
            !RetryBudget::new(Duration::ZERO, Duration::from_secs(3))
                .again(Some(Duration::from_secs(4)))
                .await
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_effort_can_be_cut_and_not_made_longer() {
        let seconds = Duration::from_secs;
        for (budget, most, ends) in [(3600, 3, 3), (3, 3600, 3)] {
            let start = Instant::now();
            let mut effort =
                RetryBudget::new(Duration::ZERO, seconds(budget)).within(seconds(most));
            while effort.again(Some(seconds(1))).await {}
            assert!((seconds(ends - 1)..seconds(ends)).contains(&start.elapsed()));
        }
    }

    #[test]
    fn pauses_grow_to_a_limit_and_differ() {
        let effort =
            |tries| RetryBudget { tries, ..RetryBudget::new(Duration::ZERO, Duration::ZERO) };
        assert!((0..100).all(|_| effort(1).pause() <= 2 * PAUSE_FIRST));
        assert!((0..100).all(|_| effort(u32::MAX).pause() <= PAUSE_MAX));
        let drawn: std::collections::HashSet<_> = (0..20).map(|_| effort(5).pause()).collect();
        assert!(drawn.len() > 1);
    }
}
