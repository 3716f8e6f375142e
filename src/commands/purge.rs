//! `jreg purge`: removal for good.

use std::process::ExitCode;

use super::maintain;
use crate::cli::PurgeArgs;

/// Runs on the store, or in the process that serves the folder.
pub fn run(args: PurgeArgs) -> ExitCode {
    maintain(args.resolve(std::env::vars_os()), 1)
}
