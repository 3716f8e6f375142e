//! [`Activity`]: progress of a connection, for its timeouts.
//!
//! A connection may be idle for a while, and a response may wait for a slow client for a while;
//! neither may last forever. Requests report here when they begin, when their response begins, when
//! bytes of it are taken, and when they end.
//!
//! Only bytes of a response are its progress. Over HTTP/1.1, everything written belongs to the one
//! response; over HTTP/2 it may be a PING acknowledgement, so only a response that is polled for
//! more bytes has made progress.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Version;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<ActivityState>,
    /// Cancelled when the client has sent too much of something.
    overrun: CancellationToken,
}

/// What a client has sent too much of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Overrun {
    /// Requests that it reset before their response.
    Resets,
    /// HTTP/2 SETTINGS frames.
    Settings,
}

#[derive(Debug)]
struct ActivityState {
    /// Requests whose response has not ended.
    requests: Vec<ActivityTurn>,
    in_flight: usize,
    /// The connection is HTTP/2.
    is_multiplexed: bool,
    /// The socket is not writable, and bytes are buffered for it.
    is_blocked: bool,
    /// Requests reset before they had a response, less those that had one.
    abandoned: usize,
    overrun: Overrun,
    /// When the client last accepted bytes.
    wrote: Instant,
    /// When the last request ended, or the last buffered bytes were accepted.
    idle_since: Instant,
}

/// Which side a request waits for.
#[derive(Clone, Copy, Debug)]
enum ActivityTurn {
    /// The request does not exist any more.
    Free,
    /// The server, or the client's request body.
    Ours,
    /// The client, which has to read the response.
    Client(Instant),
}

/// How long clients have not read their responses, relative to a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    /// Every response makes progress or waits for the server.
    None,
    /// Some are stalled, others are not.
    Some,
    /// Nothing makes progress, or something has been stalled for twice as long.
    All,
}

/// Number of requests that a client may reset on one connection, beyond those it waits for. Each
/// can cost as much as a response without counting as in flight: HTTP/2 clients can start and reset
/// streams as fast as they can write ("rapid reset", CVE-2023-44487).
pub(super) const ABANDONED_MAX: usize = 1000;

impl Default for Activity {
    fn default() -> Self {
        let now = Instant::now();
        let state = ActivityState {
            requests: Vec::new(),
            in_flight: 0,
            is_multiplexed: false,
            is_blocked: false,
            abandoned: 0,
            overrun: Overrun::Resets,
            wrote: now,
            idle_since: now,
        };
        Self { state: Mutex::new(state), overrun: CancellationToken::new() }
    }
}

impl ActivityState {
    /// Since when the response waits for the client.
    fn given(&self, turn: &ActivityTurn) -> Option<Instant> {
        match turn {
            ActivityTurn::Client(since) if self.is_multiplexed => Some(*since),
            ActivityTurn::Client(since) => Some((*since).max(self.wrote)),
            ActivityTurn::Free | ActivityTurn::Ours => None,
        }
    }

    fn set(&mut self, place: usize, turn: ActivityTurn) {
        if let Some(request) = self.requests.get_mut(place) {
            *request = turn;
        }
    }
}

impl Activity {
    fn state(&self) -> MutexGuard<'_, ActivityState> {
        self.state.lock().expect("no code panics while it holds this lock")
    }

    /// Whether there was a request.
    pub(super) fn has_begun(&self) -> bool {
        !self.state().requests.is_empty()
    }

    /// Records a request.
    pub(super) fn begin(self: &Arc<Self>, version: Version) -> RequestNote {
        let mut state = self.state();
        state.is_multiplexed = version > Version::HTTP_11;
        state.in_flight += 1;
        let free = state.requests.iter().position(|turn| matches!(turn, ActivityTurn::Free));
        let place = free.unwrap_or_else(|| {
            state.requests.push(ActivityTurn::Free);
            state.requests.len() - 1
        });
        state.set(place, ActivityTurn::Ours);
        drop(state);
        RequestNote { activity: Arc::clone(self), place, has_response: false }
    }

    /// Records that bytes were written, or that the socket is not writable.
    fn wrote(&self, is_blocked: bool) {
        let (now, mut state) = (Instant::now(), self.state());
        if !is_blocked {
            state.wrote = now;
        }
        state.blocks(is_blocked, now);
    }

    /// Records a flush. Unlike a write, a flush without data is no progress.
    fn flushed(&self, is_blocked: bool) {
        let mut state = self.state();
        if state.is_blocked && !is_blocked {
            state.wrote = Instant::now();
        }
        let now = state.wrote;
        state.blocks(is_blocked, now);
    }

    /// Has the connection cut.
    pub(super) fn cut(&self, overrun: Overrun) {
        self.state().overrun = overrun;
        self.overrun.cancel();
    }

    /// Waits until the client has sent too much of something.
    pub(super) async fn overrun(&self) -> Overrun {
        self.overrun.cancelled().await;
        self.state().overrun
    }

    /// How long there has been no request and no buffered byte; `None` while there is one.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = self.state();
        (state.in_flight == 0 && !state.is_blocked).then(|| state.idle_since.elapsed())
    }

    /// Whether the client has not read its responses for longer than `limit`.
    pub(super) fn stall(&self, limit: Duration) -> Stall {
        let (now, state) = (Instant::now(), self.state());
        let stalled = |times: u32| {
            let is_late = |since: Instant| now.duration_since(since) >= limit * times;
            state
                .requests
                .iter()
                .filter_map(|turn| state.given(turn))
                .filter(|at| is_late(*at))
                .count()
        };
        let count = stalled(1);
        let is_stuck = state.is_blocked && now.duration_since(state.wrote) >= limit;
        if is_stuck || (count > 0 && count == state.in_flight) || stalled(2) > 0 {
            return Stall::All;
        }
        if count > 0 { Stall::Some } else { Stall::None }
    }
}

impl ActivityState {
    fn blocks(&mut self, is_blocked: bool, now: Instant) {
        if self.is_blocked && !is_blocked {
            self.idle_since = now;
        }
        self.is_blocked = is_blocked;
    }
}

/// A request; dropped when its response has ended.
#[derive(Debug)]
pub(super) struct RequestNote {
    activity: Arc<Activity>,
    place: usize,
    has_response: bool,
}

impl RequestNote {
    /// The response headers are ready.
    pub(super) fn begin_response(&mut self) {
        self.has_response = true;
        let mut state = self.activity.state();
        state.abandoned = state.abandoned.saturating_sub(1);
        state.set(self.place, ActivityTurn::Client(Instant::now()));
    }

    /// The client has taken the bytes; the server prepares the next.
    pub(super) fn works(&self) {
        self.activity.state().set(self.place, ActivityTurn::Ours);
    }

    /// The next bytes were handed to the connection.
    pub(super) fn gave(&self) {
        self.activity.state().set(self.place, ActivityTurn::Client(Instant::now()));
    }
}

impl Drop for RequestNote {
    fn drop(&mut self) {
        let mut state = self.activity.state();
        state.set(self.place, ActivityTurn::Free);
        state.in_flight -= 1;
        state.idle_since = Instant::now();
        state.abandoned += usize::from(!self.has_response);
        let is_overrun = state.abandoned > ABANDONED_MAX;
        drop(state);
        if is_overrun {
            self.activity.cut(Overrun::Resets);
        }
    }
}

/// The connection's I/O, observed on the write side.
#[derive(Debug)]
pub(super) struct WatchedIo<T> {
    pub(super) io: T,
    pub(super) activity: Arc<Activity>,
}

impl<T: Read + Unpin> Read for WatchedIo<T> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        buffer: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(task, buffer)
    }
}

impl<T: Write + Unpin> Write for WatchedIo<T> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.io).poll_write(task, bytes);
        self.activity.wrote(written.is_pending());
        written
    }

    /// A TLS connection buffers writes until it is flushed.
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

    fn begin(activity: &Arc<Activity>) -> RequestNote {
        activity.begin(Version::HTTP_11)
    }

    #[tokio::test(start_paused = true)]
    async fn idle_is_the_time_without_a_request() {
        let activity = Arc::new(Activity::default());
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.idle(), Some(SECOND));
        let request = begin(&activity);
        assert_eq!(activity.idle(), None);
        drop(request);
        assert_eq!(activity.idle(), Some(Duration::ZERO));
    }

    /// The server sends a PING to idle HTTP/2 clients every 30 seconds.
    #[tokio::test(start_paused = true)]
    async fn fixed_writes_without_a_request_do_not_keep_a_connection() {
        let activity = Arc::new(Activity::default());
        drop(activity.begin(Version::HTTP_2));
        for _ in 0..3 {
            tokio::time::advance(SECOND).await;
            activity.wrote(false);
            activity.flushed(false);
        }
        assert_eq!(activity.idle(), Some(3 * SECOND));
    }

    #[tokio::test(start_paused = true)]
    async fn a_response_is_stalled_while_it_is_the_turn_of_its_client() {
        let activity = Arc::new(Activity::default());
        let mut first = activity.begin(Version::HTTP_2);
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.stall(SECOND), Stall::None, "we are at work");
        first.begin_response();
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.stall(SECOND), Stall::All);
        first.works();
        assert_eq!(activity.stall(SECOND), Stall::None);
        first.gave();
        assert_eq!(activity.stall(SECOND), Stall::None);
        let second = activity.begin(Version::HTTP_2);
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.stall(SECOND), Stall::Some, "we are at work on the other");
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.stall(SECOND), Stall::All, "not for ever");
        drop((first, second));
        assert_eq!(activity.stall(SECOND), Stall::None);
        assert_eq!(activity.idle(), Some(Duration::ZERO));
    }

    /// Regression: a client that acknowledged PINGs, or read one stream, kept the others open
    /// forever.
    #[tokio::test(start_paused = true)]
    async fn fixed_other_bytes_of_the_connection_are_no_progress_of_a_response() {
        let activity = Arc::new(Activity::default());
        let [mut stalled, mut moving] = [(); 2].map(|()| activity.begin(Version::HTTP_2));
        stalled.begin_response();
        moving.begin_response();
        tokio::time::advance(SECOND).await;
        activity.wrote(false);
        moving.works();
        moving.gave();
        assert_eq!(activity.stall(SECOND), Stall::Some);
        drop(moving);
        assert_eq!(activity.stall(SECOND), Stall::All);
    }

    /// `sendfile` sends up to a MiB at once.
    #[tokio::test(start_paused = true)]
    async fn what_is_written_over_http_1_is_progress_of_the_response() {
        let activity = Arc::new(Activity::default());
        let mut request = begin(&activity);
        request.begin_response();
        tokio::time::advance(SECOND).await;
        activity.wrote(false);
        assert_eq!(activity.stall(SECOND), Stall::None);
        activity.wrote(true);
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.stall(SECOND), Stall::All);
    }

    #[test]
    fn requests_that_are_given_up_are_weighed_against_those_that_are_not() {
        let activity = Arc::new(Activity::default());
        for _ in 0..ABANDONED_MAX {
            drop(begin(&activity));
        }
        let mut waited_for = begin(&activity);
        waited_for.begin_response();
        drop(waited_for);
        drop(begin(&activity));
        assert!(!activity.overrun.is_cancelled());
        drop(begin(&activity));
        assert!(activity.overrun.is_cancelled());
        assert_eq!(activity.state().requests.len(), 1, "places are used again");
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_wait_for_the_client_are_not_idle_but_stalled() {
        let activity = Activity::default();
        let seen = || (activity.idle(), activity.stall(SECOND));
        activity.wrote(true);
        tokio::time::advance(SECOND).await;
        assert_eq!(seen(), (None, Stall::All));
        activity.wrote(true);
        assert_eq!(seen(), (None, Stall::All), "trying again moves nothing");
        activity.wrote(false);
        assert_eq!(seen(), (Some(Duration::ZERO), Stall::None));
    }

    #[tokio::test(start_paused = true)]
    async fn bytes_that_wait_to_be_flushed_are_stalled_and_an_idle_flush_moves_nothing() {
        let activity = Activity::default();
        let seen = || (activity.idle(), activity.stall(SECOND));
        activity.flushed(true);
        tokio::time::advance(SECOND).await;
        assert_eq!(seen(), (None, Stall::All));
        activity.flushed(false);
        assert_eq!(seen(), (Some(Duration::ZERO), Stall::None));
        tokio::time::advance(SECOND).await;
        activity.flushed(false);
        assert_eq!(activity.idle(), Some(SECOND));
    }
}
