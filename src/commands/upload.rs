//! `jreg upload`: unfinished uploads.

use std::process::ExitCode;

use super::maintain;
use crate::cli::UploadAction;

/// Runs on the store, or in the process that serves the folder.
pub fn run(action: UploadAction) -> ExitCode {
    maintain(action.resolve(std::env::vars_os()), 1)
}
