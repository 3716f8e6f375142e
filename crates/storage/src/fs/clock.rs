//! [`FolderClock`]: the clock of a folder, which a jump of the machine's clock does not carry along.
//!
//! Content is deleted by its age. A bucket has a clock of its own to compare the machine's with; a
//! folder has none. So its clock is the machine's, but it runs at most at double speed: where the
//! machine's clock is set forward by three days, it takes three days to agree, and until then no
//! age is more than twice as long as it was. A clock that is set back is followed at once: what
//! appears younger stays longer.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use crate::{CLOCK_DIFFERENCE_MAX, Clock};

#[derive(Debug)]
pub(super) struct FolderClock {
    machine: Arc<dyn Clock>,
    limit: Mutex<TimeLimit>,
}

/// The latest time that it may be.
#[derive(Clone, Copy, Debug)]
struct TimeLimit {
    latest: SystemTime,
    /// When that was, by the clock that cannot be set.
    at: Duration,
    /// Whether the log says that the machine's clock is ahead.
    is_reported: bool,
}

impl FolderClock {
    pub(super) fn new(machine: Arc<dyn Clock>) -> Self {
        let (at, latest) = (machine.monotonic(), machine.now());
        let limit = Mutex::new(TimeLimit { latest, at, is_reported: false });
        Self { machine, limit }
    }

    /// The store's time.
    pub(super) fn now(&self) -> SystemTime {
        let mut limit = self.limit();
        let (at, machine) = (self.machine.monotonic(), self.machine.now());
        limit.advance(at, machine);
        machine.min(limit.latest)
    }

    fn limit(&self) -> MutexGuard<'_, TimeLimit> {
        self.limit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far the machine's clock is ahead.
    pub(super) fn difference(&self) -> Duration {
        let now = self.now();
        self.machine.now().duration_since(now).unwrap_or_default()
    }
}

impl Clock for FolderClock {
    fn now(&self) -> SystemTime {
        self.now()
    }

    fn monotonic(&self) -> Duration {
        self.machine.monotonic()
    }
}

impl TimeLimit {
    /// Lets time pass up to `at`: as much as passed, and as much once more while the machine's clock is ahead.
    fn advance(&mut self, at: Duration, machine: SystemTime) {
        let passed = at.saturating_sub(self.at);
        self.at = self.at.max(at);
        self.latest += passed;
        let ahead = machine.duration_since(self.latest).unwrap_or_default();
        self.latest += ahead.min(passed);
        self.report(ahead.saturating_sub(passed));
    }

    fn report(&mut self, ahead: Duration) {
        let is_off = ahead > CLOCK_DIFFERENCE_MAX;
        if is_off == self.is_reported {
            return;
        }
        self.is_reported = is_off;
        if is_off {
            tracing::warn!(
                ahead_s = ahead.as_secs(),
                "this machine's clock was set forward: the folder's clock follows it at double \
                 speed, so that nothing is deleted too early. If the new time is right, a restart \
                 adopts it at once"
            );
        } else {
            tracing::info!("the folder's clock and this machine's agree again");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::ManualClock;

    const HOUR: Duration = Duration::from_secs(3600);
    const DAY: Duration = Duration::from_secs(24 * 3600);

    fn clocks() -> (Arc<ManualClock>, FolderClock, SystemTime) {
        let machine = Arc::new(ManualClock::default());
        let folder = FolderClock::new(machine.clone());
        let began = machine.now();
        (machine, folder, began)
    }

    #[test]
    fn it_is_the_machines_while_nothing_sets_that() {
        let (machine, folder, _) = clocks();
        for _ in 0..3 {
            machine.advance(HOUR);
            assert_eq!((folder.now(), folder.difference()), (machine.now(), Duration::ZERO));
        }
    }

    #[test]
    fn it_follows_a_clock_that_is_set_forward_at_double_speed() {
        let (machine, folder, began) = clocks();
        machine.set_forward(3 * DAY);
        assert_eq!((folder.now(), folder.difference()), (began, 3 * DAY));
        machine.advance(HOUR);
        assert_eq!((folder.now(), folder.difference()), (began + 2 * HOUR, 3 * DAY - HOUR));
        machine.advance(2 * DAY);
        assert_eq!(folder.now(), began + 2 * HOUR + 4 * DAY);
        machine.advance(2 * DAY);
        assert_eq!((folder.now(), folder.difference()), (machine.now(), Duration::ZERO));
        // From then on it is a clock like any other, and may be set again.
        machine.set_forward(DAY);
        assert_eq!(folder.difference(), DAY);
    }

    #[test]
    fn it_follows_a_clock_that_is_set_back_at_once() {
        let (machine, folder, began) = clocks();
        machine.advance(DAY);
        machine.set_back(10 * DAY);
        assert_eq!(folder.now(), began + DAY - 10 * DAY);
        machine.advance(HOUR);
        // Set right, it is right.
        machine.set_forward(10 * DAY);
        assert_eq!((folder.now(), folder.difference()), (began + DAY + HOUR, Duration::ZERO));
        machine.set_forward(HOUR);
        assert_eq!(folder.difference(), HOUR);
    }

    #[test]
    fn a_jump_after_a_long_time_without_a_look_counts_for_no_more_than_that_time() {
        let (machine, folder, began) = clocks();
        machine.advance(HOUR);
        machine.set_forward(3 * DAY);
        assert_eq!(folder.now(), began + 2 * HOUR);
    }

    #[test]
    fn only_a_difference_that_matters_is_reported_and_once() {
        let (machine, folder, _) = clocks();
        let is_reported = || {
            folder.now();
            folder.limit().is_reported
        };
        machine.set_forward(CLOCK_DIFFERENCE_MAX);
        assert!(!is_reported());
        machine.set_forward(Duration::from_secs(1));
        assert!(is_reported() && is_reported());
        machine.advance(Duration::from_secs(2));
        assert!(!is_reported());
    }
}
