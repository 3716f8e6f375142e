//! [`SinkDelivery`]: sends the log to one sink, in its order.
//!
//! The cursor is written after what it says was sent: what is sent between two writes of it may be sent
//! again after a crash. Another process that sends to the same sink, and a replay, change the cursor
//! too; the compare-and-swap that fails then makes this one continue from there.

use std::fmt::Debug;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_registry::{
    DeadLetter, Error, Event, LogPosition, LogSegment, Registry, Result, SequencedEvent,
    SinkCursor, SinkName, StoredCursor,
};
use jreg_storage::{Clock, full_jitter};

use crate::client::{DeliveryError, SinkClient};

/// How often an event that is refused is sent before it is a dead letter.
pub const ATTEMPTS_MAX: u32 = 10;
/// After so many events the cursor is written.
const SAVED_EVERY: usize = 100;
/// After so much time the cursor is written.
const SAVED_AFTER: Duration = Duration::from_secs(5);
/// The wait after the first failure, which doubles with each.
const BACKOFF_MIN: Duration = Duration::from_secs(1);
/// Its maximum, if the sink does not work.
const BACKOFF_MAX: Duration = Duration::from_secs(300);
/// Its maximum, if the sink refuses an event.
const REFUSED_BACKOFF_MAX: Duration = Duration::from_secs(10);

/// How far behind a sink is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeliveryStatus {
    /// Events of the log that were not sent yet, those included that the sink does not want.
    pub lag_events: u64,
    /// How long ago the first of them happened.
    pub lag: Duration,
}

/// What watches deliveries.
pub trait DeliveryObserver: Debug + Send + Sync + 'static {
    fn sent(&self, sink: &SinkName);
    fn failed(&self, sink: &SinkName, error: &DeliveryError);
    fn dead_letter(&self, sink: &SinkName, letter: &DeadLetter);
    /// Events were deleted from the log before they were sent.
    fn lost(&self, sink: &SinkName, events: u64);
    fn status(&self, sink: &SinkName, status: DeliveryStatus);
}

/// How a pass ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeliveryProgress {
    /// Everything was sent.
    Idle,
    /// The sink does not work, or refused an event: to be continued after this time.
    Retry(Duration),
}

/// Sends to one sink.
#[derive(Debug)]
pub struct SinkDelivery {
    registry: Registry,
    client: SinkClient,
    clock: Arc<dyn Clock>,
    observer: Arc<dyn DeliveryObserver>,
    /// Failures in a row.
    failures: u32,
}

/// A cursor on its way, with its last version in the store.
struct MovingCursor {
    cursor: SinkCursor,
    stored: StoredCursor,
    /// Events sent since it was written.
    unsaved: usize,
    saved_at: Duration,
}

/// What became of one event.
enum EventOutcome {
    Passed,
    /// Another process has changed the cursor; the next round reads it again.
    Moved,
    Retry(Duration),
}

impl SinkDelivery {
    pub fn new(
        registry: Registry,
        client: SinkClient,
        clock: Arc<dyn Clock>,
        observer: Arc<dyn DeliveryObserver>,
    ) -> Self {
        Self { registry, client, clock, observer, failures: 0 }
    }

    /// The sink's name.
    pub fn sink(&self) -> &SinkName {
        &self.client.options().name
    }

    /// Sends what the sink was not sent yet, up to the end of the log or to a failure. `end` is the
    /// number that the next event of the log will have, as far as known.
    ///
    /// # Errors
    ///
    /// [`Error::Store`], [`Error::Busy`]: some may have been sent.
    pub async fn run_pass(&mut self, end: u64) -> Result<DeliveryProgress> {
        let mut moving = self.load().await?;
        let progress = self.send_all(&mut moving, end).await?;
        if moving.cursor != moving.stored.cursor {
            self.save(&mut moving).await?;
        }
        Ok(progress)
    }

    async fn load(&self) -> Result<MovingCursor> {
        let stored = self.registry.sink_cursor(self.sink()).await?;
        let (cursor, saved_at) = (stored.cursor.clone(), self.clock.monotonic());
        Ok(MovingCursor { cursor, stored, unsaved: 0, saved_at })
    }

    /// Writes the cursor. If another process has changed it, that one is taken.
    async fn save(&self, moving: &mut MovingCursor) -> Result<bool> {
        let cursor = moving.cursor.clone();
        match self.registry.save_sink_cursor(self.sink(), &moving.stored, cursor).await? {
            Some(stored) => {
                moving.stored = stored;
                (moving.unsaved, moving.saved_at) = (0, self.clock.monotonic());
                Ok(true)
            }
            None => {
                *moving = self.load().await?;
                Ok(false)
            }
        }
    }

    async fn send_all(&mut self, moving: &mut MovingCursor, end: u64) -> Result<DeliveryProgress> {
        while let Some(segment) = self.next_segment(moving, end).await? {
            let end = end.max(segment.next_sequence());
            let number = moving.cursor.position.segment;
            // A cursor whose segment had been deleted, or a replay, does not know the number.
            moving.cursor.sequence = segment.first + moving.cursor.position.index as u64;
            while let Some(event) = segment.get(moving.cursor.position.index) {
                self.report(Some(event), end);
                match self.pass_event(moving, event).await? {
                    EventOutcome::Passed => {}
                    EventOutcome::Moved => break,
                    EventOutcome::Retry(wait) => return Ok(DeliveryProgress::Retry(wait)),
                }
            }
            let position = &mut moving.cursor.position;
            if position.segment == number && position.index >= segment.events.len() {
                *position = LogPosition { segment: number + 1, index: 0 };
            }
        }
        self.report(None, end);
        Ok(DeliveryProgress::Idle)
    }

    /// The segment of the cursor; `None`: it is at the end of the log.
    async fn next_segment(
        &self,
        moving: &mut MovingCursor,
        end: u64,
    ) -> Result<Option<Arc<LogSegment>>> {
        loop {
            let number = moving.cursor.position.segment;
            match self.registry.event_segment(number).await {
                Ok(Some(segment)) => return Ok(Some(segment)),
                Ok(None) if moving.cursor.sequence >= end => return Ok(None),
                Ok(None) => {}
                Err(Error::Damaged { .. }) => {
                    moving.cursor.position = LogPosition { segment: number + 1, index: 0 };
                    self.note_lost(moving, 0);
                    continue;
                }
                Err(error) => return Err(error),
            }
            let Some(next) = self.registry.next_event_segment(number).await? else {
                return Ok(None);
            };
            // It may have been appended, with the next one, since it was looked for.
            if let Some(segment) = self.registry.event_segment(number).await? {
                return Ok(Some(segment));
            }
            moving.cursor.position = LogPosition { segment: next, index: 0 };
            let first = match self.registry.event_segment(next).await {
                Ok(segment) => segment.map(|segment| segment.first),
                Err(Error::Damaged { .. }) => None,
                Err(error) => return Err(error),
            };
            let lost = first.unwrap_or_default().saturating_sub(moving.cursor.sequence);
            self.note_lost(moving, lost);
        }
    }

    fn note_lost(&self, moving: &mut MovingCursor, events: u64) {
        moving.cursor.lost += events;
        self.observer.lost(self.sink(), events);
    }

    fn report(&self, next: Option<SequencedEvent<'_>>, end: u64) {
        let lag_events = match next {
            Some(next) => end.saturating_sub(next.sequence),
            None => 0,
        };
        let since = next.map(|next| self.clock.now().duration_since(next.event.time()));
        let lag = since.and_then(std::result::Result::ok).unwrap_or_default();
        self.observer.status(self.sink(), DeliveryStatus { lag_events, lag });
    }

    /// Sends an event if the sink wants it, and moves the cursor past it unless that fails.
    async fn pass_event(
        &mut self,
        moving: &mut MovingCursor,
        event: SequencedEvent<'_>,
    ) -> Result<EventOutcome> {
        let Event { action, repository, .. } = event.event;
        if !self.client.options().filter.wants(*action, repository.as_ref()) {
            moving.advance();
            return Ok(EventOutcome::Passed);
        }
        match self.client.send(event, seconds(self.clock.now())).await {
            Ok(()) => {
                self.failures = 0;
                self.observer.sent(self.sink());
                moving.advance();
                moving.unsaved += 1;
                let unsaved_for = self.clock.monotonic().saturating_sub(moving.saved_at);
                if moving.unsaved < SAVED_EVERY && unsaved_for < SAVED_AFTER {
                    return Ok(EventOutcome::Passed);
                }
                let is_saved = self.save(moving).await?;
                Ok(if is_saved { EventOutcome::Passed } else { EventOutcome::Moved })
            }
            Err(error) => self.fail(moving, event, error).await,
        }
    }

    async fn fail(
        &mut self,
        moving: &mut MovingCursor,
        event: SequencedEvent<'_>,
        error: DeliveryError,
    ) -> Result<EventOutcome> {
        self.observer.failed(self.sink(), &error);
        let now = seconds(self.clock.now());
        moving.cursor.failing_since.get_or_insert(now);
        moving.cursor.error = Some(error.to_string());
        let wait = match &error {
            DeliveryError::Refused(_) => {
                moving.cursor.attempts += 1;
                if moving.cursor.attempts >= ATTEMPTS_MAX {
                    self.bury(moving, event, &error).await?;
                    let is_saved = self.save(moving).await?;
                    return Ok(if is_saved { EventOutcome::Passed } else { EventOutcome::Moved });
                }
                backoff(moving.cursor.attempts, REFUSED_BACKOFF_MAX)
            }
            DeliveryError::Status { retry_after, .. } => {
                self.failures += 1;
                let asked = retry_after.unwrap_or_default().min(BACKOFF_MAX);
                backoff(self.failures, BACKOFF_MAX).max(asked)
            }
            DeliveryError::Unreachable(_) => {
                self.failures += 1;
                backoff(self.failures, BACKOFF_MAX)
            }
        };
        self.save(moving).await?;
        Ok(EventOutcome::Retry(wait))
    }

    async fn bury(
        &self,
        moving: &mut MovingCursor,
        event: SequencedEvent<'_>,
        error: &DeliveryError,
    ) -> Result<()> {
        let letter = DeadLetter {
            event: event.event.clone(),
            sequence: event.sequence,
            attempts: moving.cursor.attempts,
            error: error.to_string(),
        };
        self.registry.keep_dead_letter(self.sink(), &letter).await?;
        self.observer.dead_letter(self.sink(), &letter);
        moving.advance();
        moving.cursor.dead += 1;
        Ok(())
    }
}

impl MovingCursor {
    /// Moves past an event.
    fn advance(&mut self) {
        let cursor = &mut self.cursor;
        cursor.position.index += 1;
        cursor.sequence += 1;
        (cursor.attempts, cursor.failing_since, cursor.error) = (0, None, None);
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs()
}

/// Between half and all of a time that doubles with each failure.
fn backoff(failures: u32, max: Duration) -> Duration {
    let doubled = 2_u32.saturating_pow(failures.saturating_sub(1).min(20));
    let wait = BACKOFF_MIN.saturating_mul(doubled).min(max);
    wait / 2 + full_jitter(wait / 2)
}
