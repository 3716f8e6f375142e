//! `jreg backup` and `jreg restore`.

use std::process::ExitCode;

use jreg_config::ConfigError;
use jreg_telemetry::logging;

use super::fail;
use crate::cli::{BackupArgs, ResolvedSettings, RestoreArgs};
use crate::transfer::backup::{self, BackupRequest};

/// Copies the registry to a store of backups, or lists or removes what is there.
pub fn back_up(args: BackupArgs) -> ExitCode {
    run(args.resolve(std::env::vars_os()))
}

/// Makes a storage of a backup.
pub fn restore(args: RestoreArgs) -> ExitCode {
    run(args.resolve(std::env::vars_os()))
}

pub(super) fn run(resolved: Result<(BackupRequest, ResolvedSettings), ConfigError>) -> ExitCode {
    let (request, ResolvedSettings { settings, remarks }) = match resolved {
        Ok(resolved) => resolved,
        Err(error) => return fail(2, &error),
    };
    let _log = match logging::start(&settings.log, settings.log_format) {
        Ok(log) => log,
        Err(error) => return fail(1, &error),
    };
    for remark in remarks {
        tracing::warn!("{remark}");
    }
    match backup::run(settings, request) {
        Ok(Some(true)) => ExitCode::SUCCESS,
        Ok(Some(false)) => ExitCode::from(1),
        Ok(None) => ExitCode::from(130),
        Err(error) => fail(1, &error),
    }
}
