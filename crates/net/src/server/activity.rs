//! [`Activity`]: what a connection is doing, as its watch needs to know it.
//!
//! A connection may be without a request for a while, and a response may wait for a slow client
//! for a while; neither may last for ever. The requests of a connection report here when they
//! begin, when their response begins, when bytes of it are taken and when they end.
//!
//! Only bytes of a response are progress of that response. Over HTTP/1.1 whatever is written is part
//! of the one response there is; over HTTP/2 it may be an answer to a PING, so that only a response
//! that is asked for its next bytes has made progress.

use std::io::{self, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};
use std::time::Duration;

use http::Version;
use hyper::rt::{Read, ReadBufCursor, Write};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Activity {
    state: Mutex<ActivityState>,
    /// Cancelled when the client has given up too many requests.
    overrun: CancellationToken,
}

#[derive(Debug)]
struct ActivityState {
    /// The requests that have begun and whose response has not ended.
    requests: Vec<ActivityTurn>,
    in_flight: usize,
    /// The connection carries several requests at the same time (HTTP/2).
    is_multiplexed: bool,
    /// The client's end of the connection takes no more for now, and bytes wait here for it.
    is_blocked: bool,
    /// Requests that were given up before they had a response, less those that had one.
    abandoned: usize,
    /// When the client last took bytes off the connection.
    wrote: Instant,
    /// When the last request ended, or the last bytes that waited for the client were taken.
    idle_since: Instant,
}

/// Whose turn it is in one request.
#[derive(Clone, Copy, Debug)]
enum ActivityTurn {
    /// Nobody's: there is no such request any more.
    Free,
    /// Ours, or that of the client to send its body.
    Ours,
    /// The client's, to take what it was given then.
    Client(Instant),
}

/// How long clients have taken nothing of their responses, against a limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stall {
    /// Every response moves, or is not at the client's turn.
    None,
    /// Some do not, and others do.
    Some,
    /// Nothing moves, or something has not for twice as long.
    All,
}

/// How many requests more than it waits for a client may give up on one connection. Each can cost
/// what an answer costs, and none counts as one that is under way: HTTP/2 lets a client begin and
/// reset streams as fast as it can write ("rapid reset", CVE-2023-44487).
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
            wrote: now,
            idle_since: now,
        };
        Self { state: Mutex::new(state), overrun: CancellationToken::new() }
    }
}

impl ActivityState {
    /// Since when this response waits for its client.
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

    /// A request has come.
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
        RequestNote { activity: Arc::clone(self), place, is_answered: false }
    }

    /// Bytes were written, or none could be.
    fn wrote(&self, is_blocked: bool) {
        let (now, mut state) = (Instant::now(), self.state());
        if !is_blocked {
            state.wrote = now;
        }
        state.blocks(is_blocked, now);
    }

    /// What was written is on its way, or waits here for the client. Unlike a write, one that finds
    /// nothing to do is no movement.
    fn flushed(&self, is_blocked: bool) {
        let mut state = self.state();
        if state.is_blocked && !is_blocked {
            state.wrote = Instant::now();
        }
        let now = state.wrote;
        state.blocks(is_blocked, now);
    }

    /// Waits until the client has given up too many requests.
    pub(super) async fn overrun(&self) {
        self.overrun.cancelled().await;
    }

    /// How long there has been no request, and no byte of a response that waits for the client;
    /// `None` while there is one.
    pub(super) fn idle(&self) -> Option<Duration> {
        let state = self.state();
        (state.in_flight == 0 && !state.is_blocked).then(|| state.idle_since.elapsed())
    }

    /// Whether the client takes nothing of what it was given for longer than `limit`.
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

/// A request that has come, until its response has ended and this is dropped.
#[derive(Debug)]
pub(super) struct RequestNote {
    activity: Arc<Activity>,
    place: usize,
    is_answered: bool,
}

impl RequestNote {
    /// The head of its response is ready.
    pub(super) fn answer(&mut self) {
        self.is_answered = true;
        let mut state = self.activity.state();
        state.abandoned = state.abandoned.saturating_sub(1);
        state.set(self.place, ActivityTurn::Client(Instant::now()));
    }

    /// The client has taken what it was given, and we are at work on what comes next.
    pub(super) fn works(&self) {
        self.activity.state().set(self.place, ActivityTurn::Ours);
    }

    /// The client was given what comes next.
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
        state.abandoned += usize::from(!self.is_answered);
        let is_overrun = state.abandoned > ABANDONED_MAX;
        drop(state);
        if is_overrun {
            self.activity.overrun.cancel();
        }
    }
}

/// A connection's bytes, watched on their way to the client.
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

    /// jreg asks idle HTTP/2 clients every 30 seconds whether they are there.
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
        first.answer();
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

    /// A client that answered PINGs, or took one of its streams, kept the others for ever.
    #[tokio::test(start_paused = true)]
    async fn fixed_other_bytes_of_the_connection_are_no_progress_of_a_response() {
        let activity = Arc::new(Activity::default());
        let [mut stalled, mut moving] = [(); 2].map(|()| activity.begin(Version::HTTP_2));
        stalled.answer();
        moving.answer();
        tokio::time::advance(SECOND).await;
        activity.wrote(false);
        moving.works();
        moving.gave();
        assert_eq!(activity.stall(SECOND), Stall::Some);
        drop(moving);
        assert_eq!(activity.stall(SECOND), Stall::All);
    }

    /// `sendfile` gives a MiB at once.
    #[tokio::test(start_paused = true)]
    async fn what_is_written_over_http_1_is_progress_of_the_response() {
        let activity = Arc::new(Activity::default());
        let mut request = begin(&activity);
        request.answer();
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
        waited_for.answer();
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
