//! `jreg events`: how far the sinks are, and replays.

use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use jreg_registry::{Error, Registry, SinkName};
use serde::{Deserialize, Serialize};

use super::token::day;

/// Maximum number of dead letters that a status counts.
const DEAD_LETTERS_MAX: usize = 1000;

/// An operation on the events.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum EventsRequest {
    /// How far the sinks are.
    Status,
    /// Send events again.
    Replay {
        /// Only to this sink.
        sink: Option<SinkName>,
        /// Events since then, in seconds of the Unix epoch.
        since: u64,
    },
}

/// Result of an operation: the sinks, as they are after it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventsReport {
    pub sinks: Vec<SinkStatus>,
}

/// How far a sink is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SinkStatus {
    pub name: SinkName,
    /// The number of the next event that it is sent.
    pub next: u64,
    /// How many events of the log it was not sent yet.
    pub lag: u64,
    /// Since when sending fails, in seconds of the Unix epoch.
    pub failing_since: Option<u64>,
    /// Why.
    pub error: Option<String>,
    /// Number of dead letters that are kept, up to a thousand.
    pub dead_letters: usize,
    /// Number of events that were deleted before they were sent.
    pub lost: u64,
}

/// Why an operation failed.
#[derive(Debug, thiserror::Error)]
pub(super) enum EventsError {
    #[error("there is no sink {name}: there are {}", names(known))]
    UnknownSink { name: SinkName, known: Vec<SinkName> },
    #[error(transparent)]
    Registry(#[from] Error),
}

fn names(sinks: &[SinkName]) -> String {
    match sinks {
        [] => "none".to_owned(),
        sinks => sinks.iter().map(SinkName::as_str).collect::<Vec<_>>().join(", "),
    }
}

/// Performs the operation.
pub(super) async fn run(
    registry: &Registry,
    request: EventsRequest,
) -> Result<EventsReport, EventsError> {
    let mut sinks = registry.sinks_with_cursor().await?;
    if let EventsRequest::Replay { sink, since } = request {
        if let Some(name) = sink {
            if !sinks.contains(&name) {
                return Err(EventsError::UnknownSink { name, known: sinks });
            }
            sinks = vec![name];
        }
        let since = UNIX_EPOCH + Duration::from_secs(since);
        let segment = registry.event_segment_since(since).await?;
        for sink in &sinks {
            registry.replay_events(sink, segment).await?;
        }
    }
    let end = registry.event_log_end().await?;
    let mut found = Vec::new();
    for name in sinks {
        let Some(cursor) = registry.find_sink_cursor(&name).await? else { continue };
        let dead_letters = registry.dead_letters(&name, DEAD_LETTERS_MAX).await?.len();
        found.push(SinkStatus {
            next: cursor.sequence,
            lag: end.saturating_sub(cursor.sequence),
            failing_since: cursor.failing_since,
            error: cursor.error,
            dead_letters,
            lost: cursor.lost,
            name,
        });
    }
    Ok(EventsReport { sinks: found })
}

/// The result as text.
pub(super) fn plain(report: &EventsReport) -> String {
    let mut text = String::new();
    if report.sinks.is_empty() {
        text.push_str("no sink was ever sent events\n");
    }
    for sink in &report.sinks {
        let SinkStatus { name, next, lag, dead_letters, lost, .. } = sink;
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "{name}  next event {next}, {lag} to send, {dead_letters} dead letters, {lost} lost"
        );
        if let (Some(since), Some(error)) = (sink.failing_since, &sink.error) {
            let _ = write!(text, "; failing since {}: {error}", day(since));
        }
        text.push('\n');
    }
    text
}
