//! [`Activity`]: what a connection is doing, as its watch needs to know it.
//!
//! A connection may be without a request for a while, and an answer may wait for a slow client
//! for a while; neither may last for ever. The requests of a connection report here when they
//! begin, when their answer begins, when bytes move and when they end.

use std::sync::Mutex;
use std::time::Duration;

use tokio::time::Instant;

/// What a connection is doing.
#[derive(Debug)]
pub struct Activity(Mutex<State>);

#[derive(Clone, Copy, Debug)]
struct State {
    /// Requests that have begun and whose answer has not ended.
    in_flight: usize,
    /// Those of them whose answer has begun.
    answering: usize,
    /// When something last moved.
    last: Instant,
}

impl Default for Activity {
    fn default() -> Self {
        Self(Mutex::new(State { in_flight: 0, answering: 0, last: Instant::now() }))
    }
}

impl Activity {
    fn update(&self, change: impl FnOnce(&mut State)) {
        let mut state = self.0.lock().expect("no code panics while it holds this lock");
        change(&mut state);
        state.last = Instant::now();
    }

    fn state(&self) -> State {
        *self.0.lock().expect("no code panics while it holds this lock")
    }

    /// A request has come.
    pub fn request_began(&self) {
        self.update(|state| state.in_flight += 1);
    }

    /// The head of its answer is ready.
    pub fn answer_began(&self) {
        self.update(|state| state.answering += 1);
    }

    /// Bytes of a body moved.
    pub fn moved(&self) {
        self.update(|_| ());
    }

    /// A request is over; `answering` says whether its answer had begun.
    pub fn request_ended(&self, answering: bool) {
        self.update(|state| {
            state.in_flight -= 1;
            state.answering -= usize::from(answering);
        });
    }

    /// How long there has been no request; `None` while there is one.
    pub fn idle(&self) -> Option<Duration> {
        let state = self.state();
        (state.in_flight == 0).then(|| state.last.elapsed())
    }

    /// How long the client has taken nothing of the answers that it was given; `None` while we
    /// are still at work on one of its requests.
    pub fn stalled(&self) -> Option<Duration> {
        let state = self.state();
        (state.in_flight > 0 && state.in_flight == state.answering).then(|| state.last.elapsed())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[tokio::test(start_paused = true)]
    async fn idle_is_the_time_without_a_request() {
        let activity = Activity::default();
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.idle(), Some(SECOND));
        activity.request_began();
        assert_eq!(activity.idle(), None);
        activity.request_ended(false);
        assert_eq!(activity.idle(), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn stalled_is_the_time_in_which_no_answer_moved() {
        let activity = Activity::default();
        activity.request_began();
        activity.answer_began();
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.stalled(), Some(SECOND));
        activity.moved();
        assert_eq!(activity.stalled(), Some(Duration::ZERO));
        activity.request_began();
        tokio::time::advance(SECOND).await;
        assert_eq!(activity.stalled(), None, "one request is still being worked on");
        activity.request_ended(false);
        activity.request_ended(true);
        assert_eq!(activity.stalled(), None);
    }
}
