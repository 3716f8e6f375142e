//! `jreg session`: logins in browsers.

use std::process::ExitCode;

use super::maintain;
use crate::cli::SessionAction;

/// Runs on the store, or in the process that serves the folder.
pub fn run(action: SessionAction) -> ExitCode {
    maintain(action.resolve(std::env::vars_os()), 1)
}
