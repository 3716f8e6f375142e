//! `jreg manifest`: deleted manifests.

use std::process::ExitCode;

use super::maintain;
use crate::cli::ManifestAction;

/// Runs on the store, or in the process that serves the folder.
pub fn run(action: ManifestAction) -> ExitCode {
    maintain(action.resolve(std::env::vars_os()), 1)
}
