//! [`SinkCursor`]: how far a sink has been sent the log.

use std::str::FromStr;

use jreg_storage::ETag;
use serde::{Deserialize, Serialize};

use super::log::LogSegment;
use crate::attempts::SwapAttempts;
use crate::record::{JsonRecord, StoredRecord};
use crate::{Error, Registry, Result, keys};

/// Maximum length of a sink's name.
const SINK_NAME_BYTES_MAX: usize = 64;

/// The name of a sink: 1 to 64 lowercase letters, digits and `-`, which begins and ends with a letter or
/// a digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SinkName(String);

impl SinkName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for SinkName {
    type Err = &'static str;

    fn from_str(name: &str) -> Result<Self, &'static str> {
        let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
        let is_name = (1..=SINK_NAME_BYTES_MAX).contains(&name.len())
            && name.bytes().all(is_inner)
            && !name.starts_with('-')
            && !name.ends_with('-');
        match is_name {
            true => Ok(Self(name.to_owned())),
            false => Err("a sink's name must be 1 to 64 lowercase letters, digits and -"),
        }
    }
}

impl TryFrom<String> for SinkName {
    type Error = &'static str;

    fn try_from(name: String) -> Result<Self, &'static str> {
        name.parse()
    }
}

impl From<SinkName> for String {
    fn from(name: SinkName) -> Self {
        name.0
    }
}

impl std::fmt::Display for SinkName {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// A place between two events of the log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LogPosition {
    /// The number of the segment.
    pub segment: u64,
    /// How many of its events come before.
    pub index: usize,
}

/// How far a sink has been sent the log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkCursor {
    /// The next event to send.
    #[serde(flatten)]
    pub position: LogPosition,
    /// The number of the next event, as far as known.
    pub sequence: u64,
    /// Failed attempts to send the next event.
    #[serde(default)]
    pub attempts: u32,
    /// Since when sending fails, in seconds of the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub failing_since: Option<u64>,
    /// Why the last attempt failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// Number of dead letters so far.
    #[serde(default)]
    pub dead: u64,
    /// Number of events that were deleted from the log before they were sent, as far as known.
    #[serde(default)]
    pub lost: u64,
}

impl JsonRecord for SinkCursor {
    const VERSION: Option<(&'static str, u32)> = Some(("event cursor", 1));
}

/// A cursor with its version in the store.
#[derive(Clone, Debug)]
pub struct StoredCursor {
    pub cursor: SinkCursor,
    version: ETag,
}

impl Registry {
    /// Reads a sink's cursor. A new sink gets one at the end of the log. So does one whose cursor cannot
    /// be decoded: at the beginning.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Store`].
    pub async fn sink_cursor(&self, sink: &SinkName) -> Result<StoredCursor> {
        let (core, key) = (self.core(), keys::event_cursor(sink.as_str()));
        let mut attempts = SwapAttempts::new("the sink's cursor is being changed by others");
        loop {
            attempts.next().await?;
            let (cursor, seen) = match core.read::<SinkCursor>(&key).await {
                Ok(Some(read)) => {
                    return Ok(StoredCursor { cursor: read.value, version: read.etag });
                }
                Ok(None) => (self.end_of_log().await?, None),
                Err(Error::Damaged { reason, .. }) => {
                    tracing::error!(%key, reason, "damaged cursor: sending the whole event log again");
                    let first = self.next_event_segment(0).await?.unwrap_or(1);
                    let position = LogPosition { segment: first, index: 0 };
                    let cursor = SinkCursor { position, ..SinkCursor::default() };
                    (cursor, core.read_etag(&key).await?)
                }
                Err(error) => return Err(error),
            };
            if let Some(written) = core.swap(&key, seen.as_ref(), cursor.encode()).await? {
                return Ok(StoredCursor { cursor, version: written.etag });
            }
        }
    }

    /// Reads a sink's cursor without creating it.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`], [`Error::Store`].
    pub async fn find_sink_cursor(&self, sink: &SinkName) -> Result<Option<SinkCursor>> {
        let read = self.core().read::<SinkCursor>(&keys::event_cursor(sink.as_str())).await?;
        Ok(read.map(|read| read.value))
    }

    /// Writes a cursor over the version that was read. `None`: another process has changed it.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn save_sink_cursor(
        &self,
        sink: &SinkName,
        seen: &StoredCursor,
        cursor: SinkCursor,
    ) -> Result<Option<StoredCursor>> {
        let key = keys::event_cursor(sink.as_str());
        let written = self.core().swap(&key, Some(&seen.version), cursor.encode()).await?;
        Ok(written.map(|written| StoredCursor { cursor, version: written.etag }))
    }

    /// Sets a sink's cursor back to a segment, so that it is sent that and all later ones again. Returns
    /// the cursor.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`], [`Error::Store`].
    pub async fn replay_events(&self, sink: &SinkName, segment: u64) -> Result<SinkCursor> {
        let mut attempts = SwapAttempts::new("the sink's cursor is being changed by others");
        let sequence = self.event_segment(segment).await?.map(|segment| segment.first);
        loop {
            attempts.next().await?;
            let seen = self.sink_cursor(sink).await?;
            let position = LogPosition { segment, index: 0 };
            if seen.cursor.position <= position {
                return Ok(seen.cursor);
            }
            let cursor = SinkCursor {
                position,
                sequence: sequence.unwrap_or(seen.cursor.sequence),
                attempts: 0,
                ..seen.cursor.clone()
            };
            if let Some(saved) = self.save_sink_cursor(sink, &seen, cursor).await? {
                return Ok(saved.cursor);
            }
        }
    }

    /// The sinks that have a cursor.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn sinks_with_cursor(&self) -> Result<Vec<SinkName>> {
        let mut pages = self.core().list_pages(keys::EVENT_CURSORS);
        let mut names = Vec::new();
        while let Some(page) = pages.next().await? {
            let found = page.entries.iter().filter_map(|entry| keys::event_cursor_sink(&entry.key));
            names.extend(found.filter_map(|name| name.parse().ok()));
        }
        Ok(names)
    }

    /// The number that the next event of the log will have.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn event_log_end(&self) -> Result<u64> {
        Ok(self.end_of_log().await?.sequence)
    }

    async fn end_of_log(&self) -> Result<SinkCursor> {
        let last = self.core().segments_after(0).await?.last().copied();
        let Some(last) = last else {
            let position = LogPosition { segment: 1, index: 0 };
            return Ok(SinkCursor { position, sequence: 1, ..SinkCursor::default() });
        };
        let segment = self.core().read_segment(last).await?;
        let sequence = segment.as_ref().map_or(1, LogSegment::next_sequence);
        let position = LogPosition { segment: last + 1, index: 0 };
        Ok(SinkCursor { position, sequence, ..SinkCursor::default() })
    }
}
