//! Time as a value that is passed in, so that tests can turn it.

use std::fmt::Debug;
use std::time::{Duration, SystemTime};

use rustix::time::{ClockId, clock_gettime};

/// A wall clock and a monotonic clock.
pub trait Clock: Debug + Send + Sync + 'static {
    /// The time of day.
    fn now(&self) -> SystemTime;

    /// Time passed since some fixed moment of this process; never decreases.
    fn monotonic(&self) -> Duration;
}

/// A clock that cannot be set and continues while the machine sleeps. `CLOCK_MONOTONIC` stands still meanwhile on
/// Linux alone.
#[cfg(target_os = "linux")]
const SINCE_BOOT: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const SINCE_BOOT: ClockId = ClockId::Monotonic;

/// The clocks of the operating system.
#[derive(Clone, Copy, Debug)]
pub struct SystemClock {
    start: Duration,
}

impl SystemClock {
    /// Starts the monotonic clock at zero.
    pub fn new() -> Self {
        Self { start: since_boot() }
    }
}

impl Default for SystemClock {
    fn default() -> Self {
        Self::new()
    }
}

impl Clock for SystemClock {
    fn now(&self) -> SystemTime {
        SystemTime::now()
    }

    fn monotonic(&self) -> Duration {
        since_boot().saturating_sub(self.start)
    }
}

fn since_boot() -> Duration {
    // It is never negative.
    Duration::try_from(clock_gettime(SINCE_BOOT)).unwrap_or_default()
}
