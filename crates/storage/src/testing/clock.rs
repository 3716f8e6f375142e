//! [`ManualClock`]: a clock that stands until a test turns it.

use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use crate::Clock;

/// A clock that moves only by [`ManualClock::advance`].
#[derive(Debug)]
pub struct ManualClock {
    start: SystemTime,
    passed: Mutex<Duration>,
}

impl ManualClock {
    /// A clock that stands at `start`.
    pub fn new(start: SystemTime) -> Self {
        Self { start, passed: Mutex::default() }
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, by: Duration) {
        *self.passed.lock().expect("no code panics while it holds this lock") += by;
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
        self.start + self.monotonic()
    }

    fn monotonic(&self) -> Duration {
        *self.passed.lock().expect("no code panics while it holds this lock")
    }
}
