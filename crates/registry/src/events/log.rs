//! The log: confirmed events in their order, in segments that are written once.
//!
//! Segments are numbered from 1 without a gap, and events over all segments. The last segment is never
//! deleted, so that no number is used twice.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_storage::{Key, ListRequest, Listed};
use serde::{Deserialize, Serialize};

use crate::core::Core;
use crate::record::{JsonRecord, StoredRecord};
use crate::window::WriteWindow;
use crate::{Error, Event, Registry, Result, keys};

/// Maximum number of events in a segment.
pub const EVENTS_PER_SEGMENT_MAX: usize = 1000;
/// From how many bytes of events on a segment takes no more.
pub(super) const SEGMENT_BYTES_MAX: usize = 4 * 1024 * 1024;
/// Maximum number of segments that one pass deletes.
const DELETED_AT_ONCE: usize = 1000;

/// A segment of the log.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct LogSegment {
    /// The number of its first event.
    pub first: u64,
    pub events: Vec<Event>,
}

/// An event with its number in the log.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SequencedEvent<'a> {
    pub sequence: u64,
    pub event: &'a Event,
}

impl JsonRecord for LogSegment {
    const VERSION: Option<(&'static str, u32)> = Some(("event log", 1));
}

impl LogSegment {
    /// The number of the event after its last.
    pub fn next_sequence(&self) -> u64 {
        self.first + self.events.len() as u64
    }

    /// The event at an index.
    pub fn get(&self, index: usize) -> Option<SequencedEvent<'_>> {
        let event = self.events.get(index)?;
        Some(SequencedEvent { sequence: self.first + index as u64, event })
    }
}

impl Registry {
    /// Reads a segment of the log; `None` if there is none with this number.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::Store`].
    pub async fn event_segment(&self, number: u64) -> Result<Option<Arc<LogSegment>>> {
        let read = self.core().read::<LogSegment>(&keys::event_segment(number)).await?;
        Ok(read.map(|read| Arc::new(read.value)))
    }

    /// The number of the first segment after `number` that there is.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn next_event_segment(&self, number: u64) -> Result<Option<u64>> {
        let first = self.core().first_segment_after(number).await?;
        Ok(first.and_then(|listed| keys::event_segment_number(&listed.key)))
    }

    /// The number of the first segment that was written at `since` or later. If there is none, that of
    /// the one after the last.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn event_segment_since(&self, since: SystemTime) -> Result<u64> {
        let mut pages = self.core().list_pages(keys::EVENT_LOG);
        let mut after = 1;
        while let Some(page) = pages.next().await? {
            for entry in page.entries {
                let Some(number) = keys::event_segment_number(&entry.key) else { continue };
                if entry.last_modified >= since {
                    return Ok(number);
                }
                after = number + 1;
            }
        }
        Ok(after)
    }

    /// Deletes segments and dead letters that are older than `keep`, but for the last segment. Returns
    /// how many segments it deleted.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn remove_old_events(&self, keep: Duration) -> Result<usize> {
        let core = self.core();
        let mut removed = 0;
        loop {
            let page = core.store.list(&ListRequest::below(keys::EVENT_LOG)).await?;
            let is_old = |entry: &&Listed| is_older(page.date, entry.last_modified, keep);
            let old = page.entries.iter().take_while(is_old).map(|entry| entry.key.clone());
            let mut old: Vec<_> = old.take(DELETED_AT_ONCE).collect();
            let is_all = old.len() < page.entries.len();
            if page.next.is_none() && !is_all {
                old.pop();
            }
            if !old.is_empty() {
                core.store.delete_many(&old).await?;
            }
            removed += old.len();
            if is_all || page.next.is_none() {
                break;
            }
        }
        core.remove_old_dead_letters(keep).await?;
        Ok(removed)
    }
}

pub(super) fn is_older(now: SystemTime, written: SystemTime, keep: Duration) -> bool {
    now.duration_since(written).unwrap_or_default() > keep
}

impl Core {
    async fn first_segment_after(&self, number: u64) -> Result<Option<Listed>> {
        let start_after = Some(keys::event_segment(number).to_string());
        let prefix = keys::EVENT_LOG.to_owned();
        let request = ListRequest { prefix, start_after, delimiter: false, limit: 1 };
        Ok(self.store.list(&request).await?.entries.into_iter().next())
    }

    /// The numbers of the segments after `number`.
    pub(super) async fn segments_after(&self, number: u64) -> Result<Vec<u64>> {
        let start = keys::event_segment(number).to_string();
        let mut pages = self.list_pages(keys::EVENT_LOG).after(start);
        let mut numbers = Vec::new();
        while let Some(page) = pages.next().await? {
            let keys = page.entries.iter();
            numbers.extend(keys.filter_map(|entry| keys::event_segment_number(&entry.key)));
        }
        Ok(numbers)
    }

    /// Appends a segment. `false`: there is one with this number.
    pub(super) async fn append_segment(
        &self,
        window: WriteWindow,
        number: u64,
        segment: &LogSegment,
    ) -> Result<bool> {
        let key: Key = keys::event_segment(number);
        Ok(self.swap_within(window, &key, None, segment.encode()).await?.is_some())
    }

    /// Reads a segment that is listed. One that cannot be decoded is taken as empty.
    pub(super) async fn read_segment(&self, number: u64) -> Result<Option<LogSegment>> {
        let key = keys::event_segment(number);
        match self.read::<LogSegment>(&key).await {
            Ok(read) => Ok(read.map(|read| read.value)),
            Err(Error::Damaged { reason, .. }) => {
                tracing::error!(%key, reason, "damaged segment of the event log");
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }
}
