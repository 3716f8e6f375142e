//! `jreg fsck`: verification of the store.

use std::process::ExitCode;

use super::maintain;
use crate::cli::FsckArgs;

/// Runs it on the store, or has the process that serves the folder run it.
pub fn run(fsck: FsckArgs) -> ExitCode {
    maintain(fsck.resolve(std::env::vars_os()), 3)
}
