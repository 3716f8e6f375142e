//! [`SendWindow`]: until when a write may leave for the store.
//!
//! A writer that relies on a record checks the clock before it writes. The machine may sleep
//! between that check and the moment when the request is signed: the signature would carry the time
//! after the sleep, and the store would take a write that is taken for dead. So a remote store
//! checks the clock once more, after the request is signed and before it is sent: a sleep after
//! that check leaves a signature that has expired.
//!
//! The window belongs to the task that writes, not to a call of the trait, so that whatever is put
//! around a store passes it on.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use crate::Clock;

tokio::task_local! {
    static WINDOW: SendWindow;
}

/// The time in which a write must be sent.
#[derive(Clone, Debug)]
pub struct SendWindow {
    clock: Arc<dyn Clock>,
    /// When it opened, by both clocks: when a paused virtual machine continues, only the time of day is set.
    opened: Duration,
    opened_at: SystemTime,
    length: Duration,
}

/// The window of a write has closed: it was not sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the write was not sent: {} s have passed since what it relies on was read, more than {} s",
    passed.as_secs(), length.as_secs())]
pub struct SendWindowClosed {
    passed: Duration,
    length: Duration,
}

impl SendWindow {
    /// A window that opened at a moment, by the two times of `clock`, for so long.
    pub fn new(
        clock: Arc<dyn Clock>,
        opened: Duration,
        opened_at: SystemTime,
        length: Duration,
    ) -> Self {
        Self { clock, opened, opened_at, length }
    }

    /// Runs writes in the window.
    pub async fn scope<T>(self, writes: impl Future<Output = T>) -> T {
        WINDOW.scope(self, writes).await
    }

    /// Checks whether the window of the running task, if it has one, is still open. To be called
    /// between signing a request and sending it.
    ///
    /// # Errors
    ///
    /// [`SendWindowClosed`].
    pub fn check_current() -> Result<(), SendWindowClosed> {
        WINDOW.try_with(Self::check).unwrap_or(Ok(()))
    }

    fn check(&self) -> Result<(), SendWindowClosed> {
        let running = self.clock.monotonic().saturating_sub(self.opened);
        let of_day = self.clock.now().duration_since(self.opened_at).unwrap_or_default();
        let (passed, length) = (running.max(of_day), self.length);
        if passed < length { Ok(()) } else { Err(SendWindowClosed { passed, length }) }
    }
}
