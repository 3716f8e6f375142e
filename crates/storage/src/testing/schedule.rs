//! [`Schedule`]: stops actors at every call that they make of a store, and lets a test say whose
//! call continues next, and when.
//!
//! Each actor has a [`ScheduledStore`] of its own around one that all share. A call stops before it
//! is applied (the request is in flight) and, where the test asks for it, once more after that (the
//! response is). One clock, which the test turns, is the store's and the actors': a request that
//! travels for longer than its actor's limit fails and is not applied, as a signature that has
//! expired; a response may take for ever.
//!
//! On a current-thread runtime with paused time the same choices give the same run.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::oneshot;

use super::{Call, InterceptedStore, Interceptor, ManualClock};
use crate::{ByteStream, Clock, Error, ErrorKind, Result, Store};

/// A store whose every call waits for its turn.
pub type ScheduledStore = InterceptedStore<Stops>;

/// Longer than any pause before a retry.
const SETTLED: Duration = Duration::from_secs(2);

/// Where in a call an actor has stopped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopPlace {
    /// It has not made a call yet.
    Start,
    /// Before the call is applied.
    Request,
    /// After it was applied, before the response.
    Response,
}

/// A call that has stopped.
#[derive(Clone, Debug)]
pub struct Stopped {
    /// Its number, for [`Schedule::release`].
    pub id: u64,
    /// The actor that made it.
    pub actor: usize,
    /// What it is.
    pub call: Call,
    /// Where it has stopped.
    pub place: StopPlace,
}

impl fmt::Display for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Call { operation, key, .. } = &self.call;
        match self.place {
            StopPlace::Start => write!(f, "start"),
            StopPlace::Request => write!(f, "{operation} {key}"),
            StopPlace::Response => write!(f, "response to {operation} {key}"),
        }
    }
}

/// How the calls of one actor stop.
#[derive(Clone, Copy, Debug)]
pub struct StopRules {
    /// How long a request that `must_arrive_in_time` may travel, by the schedule's clock.
    pub travel_max: Duration,
    /// Which requests must arrive in time.
    pub must_arrive_in_time: fn(&Call) -> bool,
    /// Whether responses stop, too.
    pub stops_responses: bool,
    /// Calls that never stop: those that concern no other actor.
    pub passes: fn(&Call) -> bool,
}

struct WaitingCall {
    stopped: Stopped,
    go: oneshot::Sender<()>,
}

/// Which actors have stopped where.
pub struct Schedule {
    clock: Arc<ManualClock>,
    waiting: Mutex<Vec<WaitingCall>>,
    stops: Mutex<u64>,
}

impl fmt::Debug for Schedule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.stopped()).finish()
    }
}

/// Stops the calls of one actor.
#[derive(Debug)]
pub struct Stops {
    schedule: Arc<Schedule>,
    actor: usize,
    stop_rules: StopRules,
}

impl Schedule {
    /// A schedule without stopped actors.
    pub fn new(clock: Arc<ManualClock>) -> Arc<Self> {
        Arc::new(Self { clock, waiting: Mutex::default(), stops: Mutex::default() })
    }

    /// The store as one actor sees it.
    pub fn store(
        self: &Arc<Self>,
        actor: usize,
        inner: Arc<dyn Store>,
        stop_rules: StopRules,
    ) -> ScheduledStore {
        ScheduledStore::with(inner, Stops { schedule: Arc::clone(self), actor, stop_rules })
    }

    /// Stops an actor before it does anything.
    pub async fn start(&self, actor: usize) {
        let call = Call { operation: "start", key: String::new(), bytes: 0 };
        self.stop(actor, &call, StopPlace::Start).await;
    }

    /// Waits until every actor has stopped, has ended, or waits for one that has stopped. Time must be
    /// paused: then it moves only when no actor does.
    pub async fn settle(&self) {
        tokio::time::sleep(SETTLED).await;
    }

    /// The calls that have stopped, in the order in which they did. Those of actors that were
    /// dropped no longer exist.
    pub fn stopped(&self) -> Vec<Stopped> {
        let mut waiting = self.waiting();
        waiting.retain(|waiting| !waiting.go.is_closed());
        waiting.iter().map(|waiting| waiting.stopped.clone()).collect()
    }

    /// Lets a call continue; it moves with the next [`settle`](Self::settle).
    pub fn release(&self, id: u64) {
        let mut waiting = self.waiting();
        if let Some(index) = waiting.iter().position(|waiting| waiting.stopped.id == id) {
            // The actor may have been dropped.
            waiting.remove(index).go.send(()).ok();
        }
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<WaitingCall>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn next_id(&self) -> u64 {
        let mut stops = self.stops.lock().unwrap_or_else(PoisonError::into_inner);
        *stops += 1;
        *stops
    }

    async fn stop(&self, actor: usize, call: &Call, place: StopPlace) {
        let (go, gone) = oneshot::channel();
        let stopped = Stopped { id: self.next_id(), actor, call: call.clone(), place };
        self.waiting().push(WaitingCall { stopped, go });
        // If the schedule was dropped, the test has ended: nothing is held back any more.
        gone.await.ok();
    }
}

#[async_trait]
impl Interceptor for Stops {
    type Plan = ();

    async fn before(&self, call: &Call) -> Result<()> {
        if (self.stop_rules.passes)(call) {
            return Ok(());
        }
        let sent = self.schedule.clock.monotonic();
        self.schedule.stop(self.actor, call, StopPlace::Request).await;
        let travelled = self.schedule.clock.monotonic().saturating_sub(sent);
        if travelled <= self.stop_rules.travel_max || !(self.stop_rules.must_arrive_in_time)(call) {
            return Ok(());
        }
        let why = "the request has been on its way for too long";
        Err(Error::with_source(ErrorKind::Unavailable, &call.key, why))
    }

    async fn after(&self, call: &Call, _plan: &()) -> Result<()> {
        if self.stop_rules.stops_responses && !(self.stop_rules.passes)(call) {
            self.schedule.stop(self.actor, call, StopPlace::Response).await;
        }
        Ok(())
    }

    fn stream(&self, _call: &Call, _plan: &(), stream: ByteStream) -> ByteStream {
        stream
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Key, MemoryStore, PutMode};

    const MINUTE: Duration = Duration::from_secs(60);
    const STOP_RULES: StopRules = StopRules {
        travel_max: MINUTE,
        must_arrive_in_time: |_| true,
        stops_responses: true,
        passes: |call| call.is_read(),
    };

    struct ScheduleBench {
        clock: Arc<ManualClock>,
        memory: Arc<MemoryStore>,
        schedule: Arc<Schedule>,
        key: Key,
    }

    impl ScheduleBench {
        fn new() -> Self {
            let clock = Arc::new(ManualClock::default());
            let memory = Arc::new(MemoryStore::with_clock(clock.clone()));
            let (schedule, key) = (Schedule::new(clock.clone()), "k".parse().unwrap());
            Self { clock, memory, schedule, key }
        }

        fn writer(
            &self,
            actor: usize,
            word: &'static str,
        ) -> tokio::task::JoinHandle<Result<crate::Written>> {
            let store = self.schedule.store(actor, self.memory.clone(), STOP_RULES);
            let key = self.key.clone();
            tokio::spawn(async move { store.put(&key, word.into(), PutMode::Create).await })
        }

        async fn go(&self, actor: usize) {
            let stopped = self.schedule.stopped();
            let next = stopped.iter().find(|stopped| stopped.actor == actor).unwrap();
            self.schedule.release(next.id);
            self.schedule.settle().await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_actor_released_first_is_first() {
        let stage = ScheduleBench::new();
        let (one, two) = (stage.writer(1, "one"), stage.writer(2, "two"));
        stage.schedule.settle().await;
        assert_eq!(stage.schedule.stopped().len(), 2);
        for actor in [2, 1, 1, 2] {
            assert!(!one.is_finished() || !two.is_finished());
            stage.go(actor).await;
        }
        assert!(one.await.unwrap().is_err() && two.await.unwrap().is_ok());
        assert_eq!(stage.memory.get(&stage.key).await.unwrap().bytes, "two");
    }

    #[tokio::test(start_paused = true)]
    async fn request_that_travels_for_too_long_is_not_applied_but_a_response_may() {
        let stage = ScheduleBench::new();
        let late = stage.writer(1, "late");
        stage.schedule.settle().await;
        stage.clock.advance(2 * MINUTE);
        stage.go(1).await;
        assert_eq!(late.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
        let slow = stage.writer(2, "slow");
        stage.schedule.settle().await;
        stage.go(2).await;
        assert_eq!(stage.schedule.stopped()[0].place, StopPlace::Response);
        stage.clock.advance(2 * MINUTE);
        stage.go(2).await;
        slow.await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn actor_that_is_dropped_waits_no_more() {
        let stage = ScheduleBench::new();
        let dropped = stage.writer(1, "dropped");
        stage.schedule.settle().await;
        dropped.abort();
        stage.schedule.settle().await;
        assert!(stage.schedule.stopped().is_empty());
        assert!(stage.memory.get(&stage.key).await.unwrap_err().is_not_found());
    }
}
