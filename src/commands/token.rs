//! `jreg token`: access tokens.

use std::process::ExitCode;

use super::maintain;
use crate::cli::TokenAction;

/// Runs it on the store, or has the process that serves the folder run it.
pub fn run(action: TokenAction) -> ExitCode {
    maintain(action.resolve(std::env::vars_os()), 1)
}
