//! [`WriteWindow`]: the time in which a referencing write must be sent (W2), and the times that the
//! format fixes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_storage::{Clock, SendWindow};

/// Age from which on a record is touched before a write depends on it: the format's constant T. GC
/// ignores records younger than its grace, which is at least twice this.
pub(crate) const TOUCH_AGE: Duration = Duration::from_secs(3600);

/// How long after its first read a referencing write may still be handed to the store, which
/// retries it for a minute at most. With the 15 minutes that a signed request may travel, this is
/// the format's bound B of 20 minutes.
pub(crate) const WINDOW: Duration = Duration::from_secs(4 * 60);

/// For how long the store retries a conditional write.
const STORE_RETRY_MAX: Duration = Duration::from_secs(60);

/// For how long a referencing write may be in flight to the store, from its first read on: the
/// format's bound B.
pub(crate) const WRITE_MAX: Duration = Duration::from_secs(20 * 60);

/// From this age on a hint is of no push in flight: a push relies on one that is younger than the touch age, or writes
/// it, and sends the tag within the bound.
pub(crate) const HINT_IN_FLIGHT_MAX: Duration = Duration::from_secs(3600 + 20 * 60);

/// Maximum difference between the clocks of a store's own machines.
pub(crate) const CLOCK_ERROR: Duration = Duration::from_secs(60);

/// The time in which the writes that rely on some reads must be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct WriteWindow {
    opened: Duration,
    /// The same by the time of day: when a paused virtual machine continues, only that is set.
    opened_at: SystemTime,
}

impl WriteWindow {
    pub(crate) fn open(clock: &dyn Clock) -> Self {
        Self { opened: clock.monotonic(), opened_at: clock.now() }
    }

    /// How long it has been open, by the clock that shows more.
    pub(crate) fn elapsed(self, clock: &dyn Clock) -> Duration {
        let running = clock.monotonic().saturating_sub(self.opened);
        let of_day = clock.now().duration_since(self.opened_at).unwrap_or_default();
        running.max(of_day)
    }

    /// Runs writes that the store must neither send nor retry after the window and the minute of
    /// its retries.
    pub(crate) async fn scope<T>(
        self,
        clock: Arc<dyn Clock>,
        writes: impl Future<Output = T>,
    ) -> T {
        let length = WINDOW + STORE_RETRY_MAX;
        SendWindow::new(clock, self.opened, self.opened_at, length).scope(writes).await
    }
}
