//! `jreg version`.

use std::process::ExitCode;

use super::print;
use crate::cli;

/// Prints the version.
pub fn run() -> ExitCode {
    print(&format!("{}\n", cli::version()), ExitCode::SUCCESS)
}
