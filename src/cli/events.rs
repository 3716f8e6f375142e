//! Arguments of `jreg events`.

use std::ffi::OsString;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use chrono::DateTime;
use clap::Subcommand;
use jreg_config::{ConfigError, Value};
use jreg_registry::SinkName;

use super::{Maintenance, StoreArgs};
use crate::maintenance::{EventsRequest, MaintenanceCommand};

/// Subcommands of `jreg events`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the text of a flattened field would be shown as the command's")]
pub enum EventsAction {
    /// Show how far each sink is, why it fails, and its dead letters
    Status {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Send events again, with the same ids
    ///
    /// A running registry sends them within seconds. A sink that is not that far yet is left as it is.
    Replay {
        #[command(flatten)]
        store: StoreArgs,
        /// Time of the first event: 2026-11-30T12:00:00Z, or a duration before now such as 2h
        #[arg(long, value_name = "TIME", value_parser = time)]
        since: u64,
        /// Only to this sink
        #[arg(long, value_name = "NAME", value_parser = sink)]
        sink: Option<SinkName>,
    },
}

impl EventsAction {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        let (store, request) = match self {
            Self::Status { store } => (store, EventsRequest::Status),
            Self::Replay { store, since, sink } => (store, EventsRequest::Replay { sink, since }),
        };
        store.resolve(MaintenanceCommand::Events(request), true, environment)
    }
}

fn sink(name: &str) -> Result<SinkName, String> {
    name.parse().map_err(str::to_owned)
}

/// In seconds of the Unix epoch.
fn time(text: &str) -> Result<u64, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    if let Some(before) = <Duration as Value>::parse(text) {
        return Ok(now.saturating_sub(before).as_secs());
    }
    let time = DateTime::parse_from_rfc3339(text).ok();
    let seconds = time.and_then(|time| u64::try_from(time.timestamp()).ok());
    seconds.ok_or_else(|| {
        "it must be a time such as 2026-11-30T12:00:00Z, or a duration such as 2h or 7d".to_owned()
    })
}
