//! `jreg tag`: the history of tags.

use std::process::ExitCode;

use super::maintain;
use crate::cli::TagAction;

/// Runs on the store, or in the process that serves the folder.
pub fn run(action: TagAction) -> ExitCode {
    maintain(action.resolve(std::env::vars_os()), 1)
}
