//! [`CircuitBreaker`]: when no request is sent, because the last ones failed or the upstream asked for a pause.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::UpstreamErrorKind;

/// After how many failures in a row no request is sent.
const FAILURES_MAX: u32 = 5;
/// How long none is sent after that; doubled with each failure of the one request that is tried then.
const PAUSE_FIRST: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long the one request may take that is tried, before another one is.
const PROBE_MAX: Duration = Duration::from_secs(30);
/// The pause after a 429 without `Retry-After`; doubled while there is one after the other.
const LIMITED_PAUSE_FIRST: Duration = Duration::from_millis(500);
/// The shortest pause after a 429: `Retry-After: 0` is one, too.
const LIMITED_PAUSE_MIN: Duration = Duration::from_millis(100);

/// The breakers that have counted a failure of one operation: its retries fail for the same reason, and
/// count as no further failure.
#[derive(Clone, Debug, Default)]
pub(crate) struct CountedFailures(Arc<Mutex<Vec<usize>>>);

impl CountedFailures {
    /// Whether this breaker has counted none yet; from now on it has.
    fn is_first_of(&self, breaker: &CircuitBreaker) -> bool {
        let mut counted = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let address = std::ptr::from_ref(breaker).addr();
        let is_first = !counted.contains(&address);
        if is_first {
            counted.push(address);
        }
        is_first
    }
}

/// The breaker of one URL with one credential. What several tasks learn at once counts once.
#[derive(Debug, Default)]
pub(crate) struct CircuitBreaker(Mutex<BreakerState>);

#[derive(Debug, Default)]
struct BreakerState {
    failures: u32,
    why: String,
    open_until: Option<Instant>,
    probe: Option<Instant>,
    limited: u32,
    limited_until: Option<Instant>,
}

/// Whether requests are sent to one URL of an upstream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BreakerStatus {
    /// They are: nothing failed since the last response.
    Closed,
    /// The last ones failed.
    Failing {
        /// How many, one after the other.
        failures: u32,
        /// Why the last one did.
        last: String,
        /// How long none is sent; `None`: they are sent.
        left: Option<Duration>,
    },
    /// The upstream asked for a pause.
    Limited {
        /// How long it still is.
        left: Duration,
    },
}

impl CircuitBreaker {
    fn state(&self) -> MutexGuard<'_, BreakerState> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a request may be sent now; otherwise why not.
    pub(crate) fn admit(&self) -> Result<(), UpstreamErrorKind> {
        let (mut state, now) = (self.state(), Instant::now());
        if let Some(until) = state.limited_until.filter(|until| now < *until) {
            return Err(UpstreamErrorKind::TooManyRequests { retry_after: Some(until - now) });
        }
        let Some(until) = state.open_until else { return Ok(()) };
        let is_probed = state.probe.is_some_and(|since| now < since + PROBE_MAX);
        if now < until || is_probed {
            let why = format!(
                "no request is sent after {} failures, the last: {}",
                state.failures, state.why
            );
            return Err(UpstreamErrorKind::unavailable(why));
        }
        state.probe = Some(now);
        Ok(())
    }

    /// How long the pause after a 429 still is.
    pub(crate) fn limited_for(&self) -> Option<Duration> {
        let until = self.state().limited_until?;
        until.checked_duration_since(Instant::now()).filter(|left| !left.is_zero())
    }

    /// What it allows now.
    pub(crate) fn status(&self) -> BreakerStatus {
        let (state, now) = (self.state(), Instant::now());
        let left =
            |until: Option<Instant>| until.and_then(|until| until.checked_duration_since(now));
        match (left(state.limited_until), state.failures) {
            (Some(left), _) => BreakerStatus::Limited { left },
            (None, 0) => BreakerStatus::Closed,
            (None, failures) => BreakerStatus::Failing {
                failures,
                last: state.why.clone(),
                left: left(state.open_until),
            },
        }
    }

    /// The upstream responded, whatever it said. A pause that it asked for goes on.
    pub(crate) fn note_response(&self) {
        let (mut state, now) = (self.state(), Instant::now());
        let limited_until = state.limited_until.filter(|until| now < *until);
        let limited = if limited_until.is_some() { state.limited } else { 0 };
        *state = BreakerState { limited, limited_until, ..BreakerState::default() };
    }

    /// No response, or a 5xx. Of the failures of one operation the first counts, and that of the one request
    /// that is tried while the breaker is open.
    pub(crate) fn note_failure(&self, why: String, operation: &CountedFailures) {
        let is_first = operation.is_first_of(self);
        let (mut state, now) = (self.state(), Instant::now());
        let is_news = state.probe.take().is_some() || (is_first && state.open_until.is_none());
        state.why = why;
        if !is_news {
            return;
        }
        state.failures = state.failures.saturating_add(1);
        if state.failures >= FAILURES_MAX {
            let doubled = PAUSE_FIRST.saturating_mul(1 << (state.failures - FAILURES_MAX).min(16));
            state.open_until = Some(now + doubled.min(PAUSE_MAX));
        }
    }

    /// A 429: no request is sent until the pause is over. Returns the pause.
    pub(crate) fn note_limited(&self, retry_after: Option<Duration>) -> Duration {
        let (mut state, now) = (self.state(), Instant::now());
        state.probe = None;
        if state.limited_until.is_none_or(|until| now >= until) {
            state.limited = state.limited.saturating_add(1);
        }
        let doubled = LIMITED_PAUSE_FIRST.saturating_mul(1 << (state.limited - 1).min(16));
        let pause = retry_after.unwrap_or(doubled.min(PAUSE_MAX)).max(LIMITED_PAUSE_MIN);
        let until = state.limited_until.map_or(now + pause, |until| until.max(now + pause));
        state.limited_until = Some(until);
        until - now
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// A failure of an operation of its own.
    fn fail(breaker: &CircuitBreaker, why: &str) {
        breaker.note_failure(why.to_owned(), &CountedFailures::default());
    }

    #[tokio::test(start_paused = true)]
    async fn failures_in_a_row_stop_requests_until_one_succeeds() {
        let breaker = CircuitBreaker::default();
        for _ in 1..FAILURES_MAX {
            fail(&breaker, "down");
            assert!(breaker.admit().is_ok());
        }
        assert!(matches!(breaker.status(), BreakerStatus::Failing { left: None, .. }));
        fail(&breaker, "down");
        let (failures, last, left) = (FAILURES_MAX, "down".to_owned(), Some(PAUSE_FIRST));
        assert_eq!(breaker.status(), BreakerStatus::Failing { failures, last, left });
        let refused = breaker.admit().unwrap_err();
        assert!(
            refused.is_temporary() && refused.to_string().contains("5 failures, the last: down"),
            "{refused}"
        );
        tokio::time::advance(PAUSE_FIRST).await;
        assert!(breaker.admit().is_ok(), "one request is tried");
        assert!(breaker.admit().is_err(), "and no other");
        fail(&breaker, "still down");
        tokio::time::advance(PAUSE_FIRST).await;
        assert!(breaker.admit().is_err(), "the pause has doubled");
        tokio::time::advance(PAUSE_FIRST).await;
        assert!(breaker.admit().is_ok());
        breaker.note_response();
        assert!(breaker.admit().is_ok() && breaker.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn retries_of_one_operation_count_as_one_failure() {
        let (breaker, operation) = (CircuitBreaker::default(), CountedFailures::default());
        for _ in 0..20 {
            breaker.note_failure("down".to_owned(), &operation);
        }
        (2..FAILURES_MAX).for_each(|_| fail(&breaker, "down"));
        assert!(breaker.admit().is_ok());
        fail(&breaker, "down");
        assert!(breaker.admit().is_err());
        tokio::time::advance(PAUSE_FIRST).await;
        assert!(breaker.admit().is_ok(), "one request is tried");
        breaker.note_failure("down".to_owned(), &operation);
        tokio::time::advance(PAUSE_FIRST).await;
        assert!(breaker.admit().is_err(), "it may be a retry");
        let other = CircuitBreaker::default();
        (1..FAILURES_MAX).for_each(|_| fail(&other, "down"));
        other.note_failure("down".to_owned(), &operation);
        assert!(other.admit().is_err(), "each breaker counts it");
    }

    #[tokio::test(start_paused = true)]
    async fn requests_in_flight_when_it_opens_do_not_make_the_pause_longer() {
        let breaker = CircuitBreaker::default();
        for _ in 0..64 {
            fail(&breaker, "down");
        }
        tokio::time::advance(PAUSE_FIRST).await;
        assert!(breaker.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_probe_that_is_dropped_does_not_stop_all_others() {
        let breaker = CircuitBreaker::default();
        (0..FAILURES_MAX).for_each(|_| fail(&breaker, "down"));
        tokio::time::advance(PAUSE_FIRST).await;
        assert!(breaker.admit().is_ok());
        tokio::time::advance(PROBE_MAX).await;
        assert!(breaker.admit().is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_429_is_respected_for_as_long_as_it_says() {
        let breaker = CircuitBreaker::default();
        let seconds = Duration::from_secs;
        assert_eq!(breaker.note_limited(Some(seconds(7))), seconds(7));
        assert_eq!(
            breaker.note_limited(Some(seconds(2))),
            seconds(7),
            "a shorter one does not shorten it"
        );
        let refused = breaker.admit().unwrap_err();
        assert_eq!(refused, UpstreamErrorKind::TooManyRequests { retry_after: Some(seconds(7)) });
        breaker.note_response();
        assert!(breaker.admit().is_err(), "the response to an earlier request does not end it");
        tokio::time::advance(seconds(7)).await;
        assert!(breaker.admit().is_ok());
        assert_eq!(breaker.note_limited(Some(Duration::ZERO)), LIMITED_PAUSE_MIN);
        tokio::time::advance(LIMITED_PAUSE_MIN).await;
        breaker.note_response();
        assert_eq!(breaker.note_limited(None), LIMITED_PAUSE_FIRST);
        assert_eq!(breaker.note_limited(None), LIMITED_PAUSE_FIRST, "those in flight count once");
        tokio::time::advance(LIMITED_PAUSE_FIRST).await;
        assert_eq!(breaker.note_limited(None), 2 * LIMITED_PAUSE_FIRST);
    }
}
