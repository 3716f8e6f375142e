//! `jreg serve`: the registry, until a signal ends it.

use std::io::{IsTerminal, Write};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};

use jreg_config::Settings;
use jreg_net::server::ServerEnding;
use jreg_telemetry::logging::{self, CurrentFilter};

use super::fail;
use crate::app::{self, ServeHooks};
use crate::cli::{ResolvedSettings, ServeArgs};

/// Serves until SIGTERM or SIGINT.
pub fn run(args: ServeArgs) -> ExitCode {
    let again = args.clone();
    let ResolvedSettings { settings, remarks } = match args.resolve(std::env::vars_os()) {
        Ok(resolved) => resolved,
        Err(error) => return fail(2, &error),
    };
    let log = match logging::start(&settings.log, settings.log_format) {
        Ok(log) => log,
        Err(error) => return fail(1, &error),
    };
    for remark in remarks.into_iter().chain(settings.remarks()) {
        tracing::warn!("{remark}");
    }
    let (debug, level) = (AtomicBool::new(false), settings.log.clone());
    let (reloaded, toggled) = (log.filter.clone(), log.filter.clone());
    let hooks = ServeHooks {
        announce: Box::new(announce),
        hang_up: Box::new(move || reload_level(&again, &reloaded)),
        toggle_debug: Box::new(move || {
            let is_debug = !debug.fetch_xor(true, Ordering::Relaxed);
            toggled.set(if is_debug { "debug" } else { &level });
            tracing::info!(log = toggled.show(), "log level changed");
        }),
    };
    match app::run(settings, hooks) {
        Ok(ServerEnding::Whole) => ExitCode::SUCCESS,
        Ok(ServerEnding::CutOff) => ExitCode::from(1),
        Err(error) => fail(1, &error),
    }
}

fn announce(settings: &Settings, address: SocketAddr) {
    app::log_start(settings, address);
    // For people: never between the lines of a log that a program reads.
    if std::io::stdout().is_terminal() && logging::is_pretty(settings.log_format) {
        // Serve even if the terminal is closed.
        let _ = writeln!(std::io::stdout(), "{}", app::greeting(settings, address));
    }
}

/// Takes the log level from the configuration, as it is now.
fn reload_level(args: &ServeArgs, filter: &CurrentFilter) {
    match args.resolve_again() {
        Ok(ResolvedSettings { settings, .. }) => {
            filter.set(&settings.log);
            tracing::info!(log = settings.log, "log level reloaded");
        }
        Err(error) => tracing::error!(
            error = jreg_storage::error_chain(&error),
            "cannot use the changed configuration; keeping the log level"
        ),
    }
}
