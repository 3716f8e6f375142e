//! `jreg import` and `jreg export`: images in and out.

use std::process::ExitCode;

use jreg_telemetry::logging;

use super::fail;
use crate::cli::{ExportArgs, ImportArgs, ResolvedSettings};
use crate::transfer::command::{self, TransferOutcome};

/// Runs on the store, beside the process that serves the folder.
pub fn import(args: ImportArgs) -> ExitCode {
    match args.resolve(std::env::vars_os()) {
        Ok((source, options, resolved)) => {
            logged(resolved, |settings| command::import(settings, source, options))
        }
        Err(error) => fail(2, &error),
    }
}

/// Reads the store, beside the process that serves the folder.
pub fn export(args: ExportArgs) -> ExitCode {
    match args.resolve(std::env::vars_os()) {
        Ok((options, resolved)) => logged(resolved, |settings| command::export(settings, options)),
        Err(error) => fail(2, &error),
    }
}

fn logged(
    resolved: ResolvedSettings,
    run: impl FnOnce(jreg_config::Settings) -> TransferOutcome,
) -> ExitCode {
    let ResolvedSettings { settings, remarks } = resolved;
    let _log = match logging::start(&settings.log, settings.log_format) {
        Ok(log) => log,
        Err(error) => return fail(1, &error),
    };
    for remark in remarks {
        tracing::warn!("{remark}");
    }
    match run(settings) {
        Ok(Some(summary)) if summary.failed == 0 => ExitCode::SUCCESS,
        Ok(Some(_)) => ExitCode::from(1),
        Ok(None) => ExitCode::from(130),
        Err(error) => fail(1, &error),
    }
}
