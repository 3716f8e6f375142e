//! `jreg mirror`: images of other registries.

use std::process::ExitCode;

use super::maintain;
use crate::cli::MirrorCommand;

/// Runs on the store, or in the process that serves the folder.
pub fn run(command: MirrorCommand) -> ExitCode {
    maintain(command.resolve(std::env::vars_os()), 1)
}
