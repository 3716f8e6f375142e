//! [`RequestPace`]: the times at which requests may be sent, so many per second.

use std::num::NonZeroU32;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep_until};

/// How long requests that were not sent count for later ones.
const BURST: Duration = Duration::from_secs(1);

/// So many requests per second, with a burst of one second's.
#[derive(Debug)]
pub(crate) struct RequestPace {
    interval: Option<Duration>,
    next: Mutex<Option<Instant>>,
}

impl RequestPace {
    pub(crate) fn new(requests_per_second: Option<NonZeroU32>) -> Self {
        let interval = requests_per_second.map(|rate| Duration::from_secs(1) / rate.get());
        Self { interval, next: Mutex::default() }
    }

    /// Waits for its turn. If that is later than `deadline`, does not wait, and returns how long it would be.
    pub(crate) async fn wait(&self, deadline: Instant) -> Result<(), Duration> {
        let Some(interval) = self.interval else { return Ok(()) };
        let now = Instant::now();
        let turn = {
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            // `next` is the turn of the next request if there were no burst.
            let turn = next.map_or(now, |next| next.max(now));
            let allowed = turn.checked_sub(BURST).map_or(now, |at| at.max(now));
            if allowed > deadline.max(now) {
                return Err(allowed - now);
            }
            *next = Some(turn + interval);
            allowed
        };
        if turn > now {
            sleep_until(turn).await;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn requests_beyond_the_rate_wait() {
        let pace = RequestPace::new(NonZeroU32::new(10));
        let (start, deadline) = (Instant::now(), Instant::now() + Duration::from_secs(60));
        for _ in 0..40 {
            pace.wait(deadline).await.unwrap();
        }
        let taken = start.elapsed();
        assert!(
            (Duration::from_millis(2800)..Duration::from_secs(3)).contains(&taken),
            "{taken:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_turn_after_the_deadline_is_not_waited_for() {
        let pace = RequestPace::new(NonZeroU32::new(1));
        let now = Instant::now();
        pace.wait(now).await.unwrap();
        pace.wait(now).await.unwrap();
        assert_eq!(pace.wait(now).await, Err(Duration::from_secs(1)));
        assert_eq!(pace.wait(now).await, Err(Duration::from_secs(1)), "and takes none");
        assert_eq!(now.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_rate_nothing_waits() {
        let pace = RequestPace::new(None);
        let now = Instant::now();
        for _ in 0..1000 {
            pace.wait(now).await.unwrap();
        }
        assert_eq!(now.elapsed(), Duration::ZERO);
    }
}
