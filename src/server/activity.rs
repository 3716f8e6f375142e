//! [`Activity`]: what a connection is doing, as its watch needs to know it.
//!
//! A connection may be without a request for a while, and an answer may wait for a slow client
//! for a while; neither may last for ever. The requests of a connection report here when they
//! begin, when their answer begins, when bytes of it are taken and when they end.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<State>,
    /// Cancelled when the client has given up too many requests.
    overrun: CancellationToken,
}

#[derive(Clone, Copy, Debug)]
struct State {
    /// Requests that have begun and whose answer has not ended.
    in_flight: usize,
    /// Those of them whose answer has begun.
    answering: usize,
    /// The client's end of the connection takes no more for now, and bytes wait here for it.
    blocked: bool,
    /// Requests that were given up before they had an answer, less those that had one.
    abandoned: usize,
    /// When something last moved.
    last: Instant,
}

/// How many requests more than it waits for a client may give up on one connection. Each can cost
/// what an answer costs, and none counts as one that is under way: HTTP/2 lets a client begin and
/// reset streams as fast as it can write ("rapid reset", CVE-2023-44487).
pub(super) const ABANDONED_MAX: usize = 1000;

impl Default for Activity {
    fn default() -> Self {
        let last = Instant::now();
        let state = State { in_flight: 0, answering: 0, blocked: false, abandoned: 0, last };
        Self { state: Mutex::new(state), overrun: CancellationToken::new() }
    }
}

impl Activity {
    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.state.lock().expect("no code panics while it holds this lock");
        change(&mut state);
        state.last = Instant::now();
    }

    fn state(&self) -> State {
        *self.state.lock().expect("no code panics while it holds this lock")
    }

    /// A request has come.
    pub(super) fn begin(self: &Arc<Self>) -> Request {
        self.update(|state| state.in_flight += 1);
        Request { activity: Arc::clone(self), answering: false }
    }

    /// Bytes were written, or none could be.
    fn wrote(&self, blocked: bool) {
        let mut state = self.state.lock().expect("no code panics while it holds this lock");
        state.blocked = blocked;
        if !blocked {
            state.last = Instant::now();
        }
    }

    /// What was written is on its way, or waits here for the client. Unlike a write, one that finds
    /// nothing to do is no movement.
    fn flushed(&self, blocked: bool) {
        let mut state = self.state.lock().expect("no code panics while it holds this lock");
        if state.blocked && !blocked {
            state.last = Instant::now();
        }
        state.blocked = blocked;
    }

    /// Waits until the client has given up too many requests.
    pub(super) async fn overrun(&self) {
        self.overrun.cancelled().await;
    }

    /// How long there has been no request, and no byte of an answer that waits for the client;
    /// `None` while there is one.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = self.state();
        (state.in_flight == 0 && !state.blocked).then(|| state.last.elapsed())
    }

    /// How long the client has taken nothing of the answers that it was given; `None` while there
    /// is none, or we are still at work on one of its requests.
    pub(super) fn stalled(&self) -> Option<Duration> {
        let state = self.state();
        let waits = state.in_flight > 0 || state.blocked;
        (waits && state.in_flight == state.answering).then(|| state.last.elapsed())
    }
}

/// A request that has come, until its answer has ended and this is dropped.
#[derive(Debug)]
pub(super) struct Request {
    activity: Arc<Activity>,
    answering: bool,
}

impl Request {
    /// The head of its answer is ready.
    pub(super) fn answer(&mut self) {
        self.answering = true;
        self.activity.update(|state| {
            state.answering += 1;
            state.abandoned = state.abandoned.saturating_sub(1);
        });
    }

    /// Bytes of its answer were taken.
    pub(super) fn moved(&self) {
        self.activity.update(|_| ());
    }
}

impl Drop for Request {
    fn drop(&mut self) {
        let mut is_overrun = false;
        self.activity.update(|state| {
            state.in_flight -= 1;
            state.answering -= usize::from(self.answering);
            state.abandoned += usize::from(!self.answering);
            is_overrun = state.abandoned > ABANDONED_MAX;
        });
        if is_overrun {
            self.activity.overrun.cancel();
        }
    }
}

/// A connection's bytes, watched on their way to the client.
#[derive(Debug)]
pub(super) struct Watched<T> {
    pub(super) io: T,
    pub(super) activity: Arc<Activity>,
}

impl<T: Read + Unpin> Read for Watched<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(task, buffer)
    }
}

impl<T: Write + Unpin> Write for Watched<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(task, bytes);
        self.activity.wrote(written.is_pending());
        written
    }

    /// A connection that is TLS keeps some of what is written to it until it is flushed.
    fn poll_flush(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = Pin::new(&mut self.io).poll_flush(task);
        self.activity.flushed(flushed.is_pending());
        flushed
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, task: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(task)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffers: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write_vectored(task, buffers);
        self.activity.wrote(written.is_pending());
        written
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn idle_is_the_time_without_a_request() {
        let activity = Arc::new(Activity::default());
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.idle(), Some(SECOND));
        let request = activity.begin();
        assert_eq!(activity.idle(), None);
        drop(request);
        assert_eq!(activity.idle(), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_is_the_time_in_which_no_answer_moved() {
        let activity = Arc::new(Activity::default());
        let mut first = activity.begin();
        first.answer();
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.stalled(), Some(SECOND));
        first.moved();
        assert_eq!(activity.stalled(), Some(Duration::ZERO));
        let second = activity.begin();
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.stalled(), None, "one request is still being worked on");
        drop((first, second));
        assert_eq!(activity.stalled(), None);
        assert_eq!(activity.idle(), Some(Duration::ZERO));
    }

    #[test]
    fn requests_that_are_given_up_are_weighed_against_those_that_are_not() {
        let activity = Arc::new(Activity::default());
        for _ in 0..ABANDONED_MAX {
            drop(activity.begin());
        }
        let mut waited_for = activity.begin();
        waited_for.answer();
        drop(waited_for);
        drop(activity.begin());
        assert!(!activity.overrun.is_cancelled());
        drop(activity.begin());
        assert!(activity.overrun.is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_wait_for_the_client_are_not_idle_but_stalled() {
        let activity = Activity::default();
        activity.wrote(true);
        tokio::time::advance(SECOND).await;
        assert_eq!((activity.idle(), activity.stalled()), (None, Some(SECOND)));
        activity.wrote(true);
        assert_eq!(activity.stalled(), Some(SECOND), "trying again moves nothing");
        activity.wrote(false);
        assert_eq!((activity.idle(), activity.stalled()), (Some(Duration::ZERO), None));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_wait_to_be_flushed_are_stalled_and_an_idle_flush_moves_nothing() {
        let activity = Activity::default();
        activity.flushed(true);
        tokio::time::advance(SECOND).await;
        assert_eq!((activity.idle(), activity.stalled()), (None, Some(SECOND)));
        activity.flushed(false);
        assert_eq!((activity.idle(), activity.stalled()), (Some(Duration::ZERO), None));
        tokio::time::advance(SECOND).await;
        activity.flushed(false);
        assert_eq!(activity.idle(), Some(SECOND));
    }
}
