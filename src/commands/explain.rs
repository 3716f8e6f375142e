//! `jreg explain`: why GC keeps a manifest or a blob.

use std::process::ExitCode;

use super::maintain;
use crate::cli::ExplainArgs;

/// Runs on the store, or in the process that serves the folder.
pub fn run(explain: ExplainArgs) -> ExitCode {
    maintain(explain.resolve(std::env::vars_os()), 3)
}
