//! `jreg events`: how far the sinks of events are, and replays.

use std::process::ExitCode;

use super::maintain;
use crate::cli::EventsAction;

/// Runs on the store, or in the process that serves the folder.
pub fn run(action: EventsAction) -> ExitCode {
    maintain(action.resolve(std::env::vars_os()), 1)
}
