//! [`ClockWatch`]: how far the store's clock is from ours, by the `Date` of every response.
//!
//! Ages are differences of the store's own times, so our clock decides nothing but one: for how
//! long a signed request may still take effect. A store takes it until fifteen minutes after the
//! time we wrote into it. Ahead of the store by an hour, a write of ours that was held up could
//! land an hour after it is taken for dead. So with a clock that is far off nothing is
//! written.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use http::HeaderMap;

use super::bucket::date;
use super::failure::{FailureClass, S3Failure};
use crate::Clock;

/// The most that the clocks of an instance and of its store may differ for it to write.
pub const CLOCK_DIFFERENCE_MAX: Duration = Duration::from_secs(60);

/// What the responses say of the store's clock.
#[derive(Debug)]
pub(super) struct ClockWatch {
    ours: Arc<dyn Clock>,
    /// The difference at the last response, in milliseconds and one more; 0 before the first.
    difference: AtomicU64,
}

impl ClockWatch {
    pub(super) fn new(ours: Arc<dyn Clock>) -> Self {
        Self { ours, difference: AtomicU64::default() }
    }

    /// What our clock says.
    pub(super) fn now(&self) -> SystemTime {
        self.ours.now()
    }

    /// Takes the difference off a response to a request that was sent at `before`.
    pub(super) fn note(&self, headers: &HeaderMap, before: SystemTime) {
        if let Ok(told) = date(headers) {
            self.set(distance(told, before, self.now()));
        }
    }

    fn set(&self, difference: Duration) {
        let millis = u64::try_from(difference.as_millis()).unwrap_or(u64::MAX);
        let last = self.difference.swap(millis.saturating_add(1), Ordering::Relaxed);
        let was_off = known(last).is_some_and(is_off);
        let (difference_s, max_s) = (difference.as_secs(), CLOCK_DIFFERENCE_MAX.as_secs());
        match (was_off, is_off(difference)) {
            (false, true) => tracing::warn!(
                difference_s,
                max_s,
                "the bucket's clock is too far from this machine's: nothing is written until the \
                 clock is set"
            ),
            (true, false) => {
                tracing::info!(difference_s, "the clocks agree again: writes resume");
            }
            _ => {}
        }
    }

    /// The difference at the last response, if there was one.
    pub(super) fn difference(&self) -> Option<Duration> {
        known(self.difference.load(Ordering::Relaxed))
    }

    /// Fails if nothing may be written.
    pub(super) fn check(&self) -> Result<(), S3Failure> {
        match self.difference().filter(|difference| is_off(*difference)) {
            None => Ok(()),
            Some(difference) => Err(S3Failure::new(FailureClass::Skewed, too_far(difference))),
        }
    }
}

fn known(stored: u64) -> Option<Duration> {
    stored.checked_sub(1).map(Duration::from_millis)
}

fn is_off(difference: Duration) -> bool {
    difference > CLOCK_DIFFERENCE_MAX
}

fn too_far(difference: Duration) -> String {
    format!(
        "the store's clock is {} s from this machine's, more than {} s: set the clock",
        difference.as_secs(),
        CLOCK_DIFFERENCE_MAX.as_secs()
    )
}

/// How far a time in whole seconds lies outside of the span in which it was told.
fn distance(told: SystemTime, before: SystemTime, after: SystemTime) -> Duration {
    let latest = told + Duration::from_secs(1);
    let ahead = told.duration_since(after).unwrap_or_default();
    let behind = before.duration_since(latest).unwrap_or_default();
    ahead.max(behind)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn clocks_differ_by_what_rounding_and_the_way_do_not_explain() {
        let at = |millis| SystemTime::UNIX_EPOCH + Duration::from_millis(millis);
        let seconds = |told, before, after| distance(at(told), at(before), at(after)).as_secs_f32();
        assert_eq!(seconds(10_000, 10_100, 10_900), 0.0);
        assert_eq!(seconds(10_000, 9_000, 10_000), 0.0);
        assert_eq!(seconds(15_000, 9_000, 10_000), 5.0);
        assert_eq!(seconds(10_000, 13_500, 14_000), 2.5);
    }

    #[test]
    fn only_a_difference_above_the_limit_keeps_from_writing() {
        let watch = ClockWatch::new(Arc::new(crate::SystemClock::new()));
        assert!(watch.difference().is_none() && watch.check().is_ok());
        for (difference, may_write) in [
            (Duration::ZERO, true),
            (CLOCK_DIFFERENCE_MAX, true),
            (CLOCK_DIFFERENCE_MAX + Duration::from_millis(1), false),
            (Duration::ZERO, true),
        ] {
            watch.set(difference);
            assert_eq!(watch.difference(), Some(difference));
            assert_eq!(watch.check().is_ok(), may_write, "{difference:?}");
        }
    }
}
