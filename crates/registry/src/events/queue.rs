//! The queue: events of which it is not known yet whether they happened.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use jreg_storage::{Key, Listed, Put, PutMode, PutPurpose};
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::record::{JsonRecord, StoredRecord, decode_versioned, later_version};
use crate::window::WriteWindow;
use crate::{ChangeId, Error, Event, EventAction, EventInterest, Registry, Result, keys};

/// Maximum events of facts that are queued together.
const EVENTS_TOGETHER_MAX: usize = 500;

/// An event in the queue, or several of facts.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) struct QueuedEvent {
    event: Event,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    more: Vec<Event>,
}

impl JsonRecord for QueuedEvent {
    const VERSION: Option<(&'static str, u32)> = Some(("queued event", 1));
}

/// Part of the queue, in the order of its keys.
#[derive(Debug)]
pub(super) struct QueueListing {
    pub(super) entries: Vec<Listed>,
    /// When the last page was listed, by the store's clock.
    pub(super) date: SystemTime,
    /// Whether there are more.
    pub(super) more: bool,
}

/// The events at a key of the queue: `None` if they are gone, `Err` in it if they cannot be decoded.
pub(super) type ReadQueued = Option<Result<Vec<Event>, Bytes>>;

impl Registry {
    /// The same registry, which writes the events that `interest` wants.
    #[must_use]
    pub fn with_events(&self, interest: Arc<dyn EventInterest>) -> Self {
        let mut core = Core::clone(self.core());
        core.events.interest = Some(interest);
        Self::of_core(core)
    }

    /// Whether a sink wants such an event.
    pub fn wants_event(&self, action: EventAction) -> bool {
        self.core().events.wants(action, None)
    }

    /// Queues an event, if a sink wants it. One of a fact is sent in any case, one of a change once that
    /// is confirmed.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn record_event(&self, event: &Event) -> Result<()> {
        self.core().queue_event(None, event).await
    }

    /// Waits until this process has queued an event.
    pub async fn event_queued(&self) {
        self.core().events.arrivals.notified().await;
    }
}

impl Core {
    /// Queues an event, if a sink wants it: one write. That of a change must be queued before the change
    /// is sent.
    pub(crate) async fn queue_event(
        &self,
        window: Option<WriteWindow>,
        event: &Event,
    ) -> Result<()> {
        if !self.events.wants(event.action, event.repository.as_ref()) {
            return Ok(());
        }
        // The order of a tag's changes is that of the keys, so that a part of the queue has all of a
        // tag's events up to some change. A manifest's delete has the change of its push, and comes after it
        // whatever the clocks of the two say: without the delete, the push could not be confirmed any more.
        let queued_as = match event.action {
            EventAction::ManifestDelete => ChangeId::after(Some(event.change), self.clock.now()),
            _ => event.change,
        };
        let (key, record) =
            (keys::queued_event(queued_as), QueuedEvent { event: event.clone(), more: Vec::new() });
        let purpose = match event.action {
            EventAction::ManifestDelete | EventAction::TagDelete => PutPurpose::Delete,
            _ => PutPurpose::Content,
        };
        let put = Put::new(key, record.encode(), PutMode::Create).with_purpose(purpose);
        match self.send_put(window, put).await {
            Ok(_) => {}
            // An earlier try of the same write.
            Err(error) if error.is_conflict() => {}
            Err(error) => return Err(error.into()),
        }
        self.events.arrivals.notify_one();
        Ok(())
    }

    /// Queues events of facts that sinks want, many in one write. If the store fails, the rest is lost.
    pub(crate) async fn queue_facts(&self, events: Vec<Event>) -> Result<()> {
        let mut events = events.into_iter();
        while let Some(event) = events.next() {
            let key = keys::queued_event(event.change);
            let more = events.by_ref().take(EVENTS_TOGETHER_MAX - 1).collect();
            self.store.put(&key, QueuedEvent { event, more }.encode(), PutMode::Create).await?;
            self.events.arrivals.notify_one();
        }
        Ok(())
    }

    /// The first `limit` events of the queue, up to `last` if that is given.
    pub(super) async fn list_queue(
        &self,
        limit: usize,
        last: Option<&Key>,
    ) -> Result<QueueListing> {
        let mut pages = self.list_pages(keys::EVENT_QUEUE);
        let mut listing =
            QueueListing { entries: Vec::new(), date: SystemTime::UNIX_EPOCH, more: false };
        while let Some(page) = pages.next().await? {
            listing.date = page.date;
            listing.entries.extend(page.entries);
            let is_past = |entry: &Listed| last.is_some_and(|last| entry.key > *last);
            listing.more = page.next.is_some() || listing.entries.len() > limit;
            if listing.entries.len() >= limit || listing.entries.last().is_some_and(is_past) {
                break;
            }
        }
        listing.entries.truncate(limit);
        if let Some(last) = last {
            listing.entries.retain(|entry| entry.key <= *last);
        }
        Ok(listing)
    }

    /// Reads the events at a key of the queue.
    pub(super) async fn read_queued(&self, key: &Key) -> Result<ReadQueued> {
        let record = match self.store.get(key).await {
            Ok(record) => record,
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let bytes = record.bytes.clone();
        match decode_versioned::<QueuedEvent>(key, record) {
            Ok(read) => {
                let QueuedEvent { event, mut more } = read.value;
                more.insert(0, event);
                Ok(Some(Ok(more)))
            }
            // A later version of this program sequences it.
            Err(Error::Damaged { .. }) if later_version(&bytes).is_some() => Ok(None),
            Err(Error::Damaged { reason, .. }) => {
                tracing::error!(%key, reason, "damaged event in the queue: quarantined");
                Ok(Some(Err(bytes)))
            }
            Err(error) => Err(error),
        }
    }

    /// Keeps the bytes of an event that cannot be decoded, which leaves the queue.
    pub(super) async fn quarantine_event(&self, key: &Key, bytes: Bytes) -> Result<()> {
        self.store.put(&keys::quarantined(key), bytes, PutMode::Create).await?;
        Ok(())
    }
}
