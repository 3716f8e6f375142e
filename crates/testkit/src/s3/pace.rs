//! [`Pace`]: sends the bytes of a response no faster than a connection to a real bucket would.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::time::{Instant, Sleep};

/// How much is sent at once.
pub(crate) const PIECE_BYTES: u64 = 64 * 1024;

/// So many bytes a second, from the first one on.
pub(crate) struct Pace {
    bytes_per_second: u64,
    began: Option<Instant>,
    sleep: Option<Pin<Box<Sleep>>>,
}

impl Pace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second: bytes_per_second.max(1), began: None, sleep: None }
    }

    /// Waits until more may be sent after so many bytes.
    pub(crate) fn poll(&mut self, sent_bytes: u64, context: &mut Context<'_>) -> Poll<()> {
        let began = *self.began.get_or_insert_with(Instant::now);
        let due = began + Duration::from_secs_f64(sent_bytes as f64 / self.bytes_per_second as f64);
        if self.sleep.is_none() && due > Instant::now() {
            self.sleep = Some(Box::pin(tokio::time::sleep_until(due)));
        }
        if let Some(sleep) = &mut self.sleep {
            ready!(sleep.as_mut().poll(context));
            self.sleep = None;
        }
        Poll::Ready(())
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_are_sent_when_they_are_due() {
        let (mut pace, began) = (Pace::new(1000), Instant::now());
        for (sent, due_ms) in [(0, 0), (500, 500), (500, 500), (4000, 4000)] {
            poll_fn(|context| pace.poll(sent, context)).await;
            assert_eq!(began.elapsed().as_millis(), due_ms, "after {sent} bytes");
        }
    }
}
