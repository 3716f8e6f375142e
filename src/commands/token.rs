//! `jreg token`: access tokens.

use std::process::ExitCode;

use super::maintain;
use crate::cli::TokenAction;

/// Runs on the store, or in the process that serves the folder.
pub fn run(action: TokenAction) -> ExitCode {
    maintain(action.resolve(std::env::vars_os()), 1)
}
