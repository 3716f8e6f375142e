//! `jreg gc`: garbage collection.

use std::process::ExitCode;

use super::maintain;
use crate::cli::GcArgs;

/// Runs it on the store, or has the process that serves the folder run it.
pub fn run(gc: GcArgs) -> ExitCode {
    maintain(gc.resolve(std::env::vars_os()), 1)
}
