//! `jreg health`: whether the registry of these settings runs, for health checks of containers.

use std::io;
use std::net::{SocketAddr, ToSocketAddrs};
use std::process::ExitCode;
use std::time::Duration;

use jreg_net::probe::{ProbeTarget, probe};
use serde_json::json;

use super::{block_on, fail, print};
use crate::cli::HealthArgs;

/// Below the usual timeouts of health checks.
const TIMEOUT: Duration = Duration::from_secs(4);

fn resolve(address: &str) -> io::Result<SocketAddr> {
    let unknown = || io::Error::other(format!("{address} has no address"));
    address.to_socket_addrs()?.next().ok_or_else(unknown)
}

/// Asks at `listen`, over TLS if the settings have it. Where clients need a certificate, at `admin-listen`.
pub fn run(args: HealthArgs) -> ExitCode {
    let settings = match args.settings(std::env::vars_os()) {
        Ok(settings) => settings,
        Err(error) => return fail(2, &error),
    };
    let given = match args.address.as_deref().map(resolve).transpose() {
        Ok(given) => given,
        Err(error) => return fail(1, &error),
    };
    let path = if args.ready { "/readyz" } else { "/livez" };
    let admin = settings.admin_listen.filter(|_| settings.tls_client_cert_required);
    let plain = given.or(admin);
    let target = ProbeTarget {
        address: plain.unwrap_or(settings.listen),
        has_tls: plain.is_none() && settings.has_tls(),
        path,
        timeout: TIMEOUT,
    };
    let asked = match block_on(probe(target)) {
        Ok(asked) => asked,
        Err(error) => return fail(1, &error),
    };
    let (status, error) = match asked {
        Ok((status, _)) => (Some(status), None),
        Err(error) => (None, Some(jreg_storage::error_chain(&error))),
    };
    let is_ok = status == Some(200);
    let code = if is_ok { ExitCode::SUCCESS } else { ExitCode::from(1) };
    if args.json {
        let result = json!({ "ok": is_ok, "path": path, "status": status, "error": error });
        return print(&format!("{result}\n"), code);
    }
    match (status, error) {
        (Some(status), _) => print(&format!("{path}: {status}\n"), code),
        (None, error) => print(&format!("{path}: {}\n", error.unwrap_or_default()), code),
    }
}
