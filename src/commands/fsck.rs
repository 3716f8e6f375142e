//! `jreg fsck`: verification of the store.

use std::process::ExitCode;

use super::maintain;
use crate::cli::FsckArgs;

/// Runs on the store, or in the process that serves the folder.
pub fn run(fsck: FsckArgs) -> ExitCode {
    maintain(fsck.resolve(std::env::vars_os()), 3)
}
