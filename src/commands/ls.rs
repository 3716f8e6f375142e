//! `jreg ls`: the repositories, or the tags of one.

use std::process::ExitCode;

use super::maintain;
use crate::cli::ListContentArgs;

/// Runs on the store, or in the process that serves the folder.
pub fn run(args: ListContentArgs) -> ExitCode {
    maintain(args.resolve(std::env::vars_os()), 1)
}
