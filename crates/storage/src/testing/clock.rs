//! [`ManualClock`]: a clock that stands until a test turns it.

use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use crate::Clock;

/// A clock that moves only by [`ManualClock::advance`], and is set by the other methods.
#[derive(Debug)]
pub struct ManualClock {
    times: Mutex<ManualTimes>,
}

#[derive(Clone, Copy, Debug)]
struct ManualTimes {
    now: SystemTime,
    monotonic: Duration,
}

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: SystemTime) -> Self {
        Self { times: Mutex::new(ManualTimes { now: start, monotonic: Duration::ZERO }) }
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, by: Duration) {
        let mut times = self.times();
        times.now += by;
        times.monotonic += by;
    }

    /// Sets the time of day forward: no time passes.
    pub fn set_forward(&self, by: Duration) {
        self.times().now += by;
    }

    /// Sets the time of day back: no time passes.
    pub fn set_back(&self, by: Duration) {
        self.times().now -= by;
    }

    fn times(&self) -> MutexGuard<'_, ManualTimes> {
        self.times.lock().expect("no code panics while it holds this lock")
    }
}

impl Default for ManualClock {
    /// A clock that stands at a moment in 2024 and on a full second.
    fn default() -> Self {
        Self::new(SystemTime::UNIX_EPOCH + Duration::from_secs(1_720_000_000))
    }
}

impl Clock for ManualClock {
    fn now(&self) -> SystemTime {
        self.times().now
    }

    fn monotonic(&self) -> Duration {
        self.times().monotonic
    }
}
