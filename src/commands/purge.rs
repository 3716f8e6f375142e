//! `jreg purge`: removal for good.

use std::process::ExitCode;

use super::{backup, maintain};
use crate::cli::PurgeArgs;

/// Runs on the store, or in the process that serves the folder.
pub fn run(args: PurgeArgs) -> ExitCode {
    match args.of_backups(std::env::vars_os()) {
        Ok(of_backups) => backup::run(of_backups),
        Err(args) => maintain(args.resolve(std::env::vars_os()), 1),
    }
}
