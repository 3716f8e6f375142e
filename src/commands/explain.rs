//! `jreg explain`: what keeps a manifest or a blob.

use std::process::ExitCode;

use super::maintain;
use crate::cli::ExplainArgs;

/// Runs it on the store, or has the process that serves the folder run it.
pub fn run(explain: ExplainArgs) -> ExitCode {
    maintain(explain.resolve(std::env::vars_os()), 3)
}
