//! `jreg usage`: how many bytes repositories hold.

use std::process::ExitCode;

use super::maintain;
use crate::cli::UsageArgs;

/// Runs on the store, or in the process that serves the folder.
pub fn run(usage: UsageArgs) -> ExitCode {
    maintain(usage.resolve(std::env::vars_os()), 1)
}
