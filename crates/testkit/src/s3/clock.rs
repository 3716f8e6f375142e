//! The clock of the emulator: what it says in `Date` and `Last-Modified`. It runs with the
//! machine's unless a test moves it or stops it, and every server has its own.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant, SystemTime};

use jreg_storage::Clock;
use s3s::dto::{Timestamp, TimestampFormat};

/// A handle on the clock of one server; clones are of the same clock.
///
/// Signatures are checked against the machine's clock all the same, since that is what a client
/// signs by; presigned addresses expire by whichever of the two is ahead.
#[derive(Clone, Debug)]
pub struct S3Clock {
    reading: Arc<Mutex<ClockReading>>,
    start: Instant,
}

#[derive(Clone, Copy, Debug)]
enum ClockReading {
    Ahead(Duration),
    Behind(Duration),
    Stopped(SystemTime),
}

impl S3Clock {
    /// A clock that runs with the machine's.
    pub(crate) fn new() -> Self {
        let reading = Arc::new(Mutex::new(ClockReading::Ahead(Duration::ZERO)));
        Self { reading, start: Instant::now() }
    }

    /// What the clock says.
    pub fn now(&self) -> SystemTime {
        match *self.reading() {
            ClockReading::Ahead(by) => SystemTime::now() + by,
            ClockReading::Behind(by) => SystemTime::now() - by,
            ClockReading::Stopped(at) => at,
        }
    }

    /// Moves the clock forward; a stopped one stays stopped.
    pub fn advance(&self, by: Duration) {
        let mut reading = self.reading();
        *reading = match *reading {
            ClockReading::Ahead(ahead) => ClockReading::Ahead(ahead + by),
            ClockReading::Behind(behind) if behind >= by => ClockReading::Behind(behind - by),
            ClockReading::Behind(behind) => ClockReading::Ahead(by - behind),
            ClockReading::Stopped(at) => ClockReading::Stopped(at + by),
        };
    }

    /// Sets the clock, and lets it run on from there.
    pub fn set(&self, to: SystemTime) {
        *self.reading() = match to.duration_since(SystemTime::now()) {
            Ok(ahead) => ClockReading::Ahead(ahead),
            Err(error) => ClockReading::Behind(error.duration()),
        };
    }

    /// Sets the clock, and stops it: it moves only when it is told to.
    pub fn stop_at(&self, at: SystemTime) {
        *self.reading() = ClockReading::Stopped(at);
    }

    fn reading(&self) -> std::sync::MutexGuard<'_, ClockReading> {
        self.reading.lock().expect("no holder of the clock panics")
    }
}

/// For an instance whose clock agrees with the server's whatever a test does to that.
impl Clock for S3Clock {
    fn now(&self) -> SystemTime {
        Self::now(self)
    }

    fn monotonic(&self) -> Duration {
        self.start.elapsed()
    }
}

/// Cuts a moment to whole seconds, as S3 does wherever it shows one.
pub(crate) fn whole_seconds(at: SystemTime) -> SystemTime {
    let since = at.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    SystemTime::UNIX_EPOCH + Duration::from_secs(since.as_secs())
}

/// A moment as in the headers of HTTP.
pub(crate) fn http_date(at: SystemTime) -> String {
    let mut text = Vec::new();
    Timestamp::from(at)
        .format(TimestampFormat::HttpDate, &mut text)
        .expect("a moment after 1970 has a date");
    String::from_utf8(text).expect("a date is ASCII")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_stopped_clock_moves_only_when_advanced() {
        let clock = S3Clock::new();
        let at = SystemTime::UNIX_EPOCH + 1_000_000 * SECOND;
        clock.stop_at(at);
        assert_eq!(clock.now(), at);
        clock.clone().advance(3 * SECOND);
        assert_eq!(clock.now(), at + 3 * SECOND);
    }

    #[test]
    fn a_clock_set_back_can_be_advanced_past_the_machines() {
        let clock = S3Clock::new();
        let before = SystemTime::now();
        clock.set(before - 100 * SECOND);
        assert!(clock.now() < before - 99 * SECOND + Duration::from_secs(60));
        clock.advance(10_000 * SECOND);
        assert!(clock.now() >= before + 9_000 * SECOND);
    }

    #[test]
    fn dates_are_as_in_http() {
        let at = SystemTime::UNIX_EPOCH + Duration::from_millis(784_111_777_999);
        assert_eq!(http_date(at), "Sun, 06 Nov 1994 08:49:37 GMT");
        assert_eq!(whole_seconds(at), SystemTime::UNIX_EPOCH + 784_111_777 * SECOND);
    }
}
