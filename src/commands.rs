//! The subcommands of `jreg`, one file each: from the parsed command line to an exit code.

pub mod backup;
pub mod config;
pub mod documents;
pub mod events;
pub mod explain;
pub mod fsck;
pub mod gc;
pub mod health;
pub mod lifecycle;
pub mod ls;
pub mod manifest;
pub mod mirror;
pub mod policy;
pub mod purge;
mod reference;
pub mod serve;
pub mod session;
pub mod support;
pub mod tag;
pub mod token;
pub mod transfer;
pub mod upload;
pub mod usage;
pub mod user;
pub mod version;

use std::io::Write;
use std::process::ExitCode;

use jreg_config::ConfigError;
use jreg_storage::error_chain;
use jreg_telemetry::logging;

use crate::cli::{self, Maintenance};
use crate::maintenance::MaintenanceReport;
use crate::maintenance::command::{self, CommandVerdict};

/// Prints help, or the error of the command line.
pub fn print_usage(error: &clap::Error) -> ExitCode {
    let failed = !cli::is_help(error);
    // The terminal may be closed.
    let _ = error.print();
    if failed { ExitCode::from(2) } else { ExitCode::SUCCESS }
}

/// Runs a command on a store; `failed` is the exit code of a failure.
fn maintain(resolved: Result<Maintenance, ConfigError>, failed: u8) -> ExitCode {
    maintain_and(resolved, failed, |_| Ok(()))
}

fn exit_code(verdict: CommandVerdict) -> ExitCode {
    match verdict {
        CommandVerdict::Well => ExitCode::SUCCESS,
        CommandVerdict::Wrong => ExitCode::from(1),
        CommandVerdict::Stopped => ExitCode::from(130),
    }
}

/// The same, which does something with the report.
fn maintain_and(
    resolved: Result<Maintenance, ConfigError>,
    failed: u8,
    finish: impl FnOnce(&MaintenanceReport) -> std::io::Result<()>,
) -> ExitCode {
    let Maintenance { command, shown, resolved } = match resolved {
        Ok(maintenance) => maintenance,
        Err(error) => return fail(2, &error),
    };
    let _log = match logging::start(&resolved.settings.log, resolved.settings.log_format) {
        Ok(log) => log,
        Err(error) => return fail(failed, &error),
    };
    for remark in resolved.remarks {
        tracing::warn!("{remark}");
    }
    match command::run(resolved.settings, command, shown) {
        Ok((verdict, report)) => match report.map_or(Ok(()), |report| finish(&report)) {
            Ok(()) => exit_code(verdict),
            Err(error) => fail(failed, &error),
        },
        Err(error) => fail(failed, &error),
    }
}

/// Runs a short future on this thread.
fn block_on<T>(work: impl Future<Output = T>) -> std::io::Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(work))
}

fn print(text: &str, code: ExitCode) -> ExitCode {
    match std::io::stdout().write_all(text.as_bytes()) {
        Ok(()) => code,
        Err(error) => fail(1, &error),
    }
}

/// Prints on standard error why a command failed.
pub fn fail(code: u8, error: &dyn std::error::Error) -> ExitCode {
    // Standard error may be closed.
    let _ = writeln!(std::io::stderr(), "jreg: {}", error_chain(error));
    ExitCode::from(code)
}
