//! `jreg gc`: garbage collection.

use std::process::ExitCode;

use super::maintain;
use crate::cli::GcArgs;

/// Runs on the store, or in the process that serves the folder.
pub fn run(gc: GcArgs) -> ExitCode {
    maintain(gc.resolve(std::env::vars_os()), 1)
}
