//! `jreg serve`: the registry, until a signal ends it.

use std::io::Write;
use std::process::ExitCode;

use jreg_config::{LogFormat, Settings};
use jreg_net::server::ServerEnding;
use jreg_telemetry::logging;

use super::fail;
use crate::app;
use crate::cli::{ResolvedSettings, ServeArgs};

/// Serves until SIGTERM or SIGINT.
pub fn run(args: ServeArgs) -> ExitCode {
    let ResolvedSettings { settings, remarks } = match args.resolve(std::env::vars_os()) {
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
    let announce = |settings: &Settings, address| {
        app::log_start(settings, address);
        if settings.log_format != LogFormat::Json {
            // Serve even if standard error is closed.
            let _ = writeln!(std::io::stdout(), "{}", app::greeting(settings, address));
        }
    };
    match app::run(settings, announce) {
        Ok(ServerEnding::Whole) => ExitCode::SUCCESS,
        Ok(ServerEnding::CutOff) => ExitCode::from(1),
        Err(error) => fail(1, &error),
    }
}
