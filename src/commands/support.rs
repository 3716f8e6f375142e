//! `jreg support`: a bundle for bug reports.

use std::process::ExitCode;
use std::time::Duration;

use jreg_net::probe::{ProbeTarget, probe};

use super::{block_on, fail, maintain, print};
use crate::cli::SupportArgs;

/// Timeout of the process that serves.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Asks the process that serves: at `admin-listen`, or through the folder's control socket. If there is none,
/// looks at the store itself.
pub fn run(args: SupportArgs) -> ExitCode {
    let resolved = match args.resolve(std::env::vars_os()) {
        Ok(resolved) => resolved,
        Err(error) => return fail(2, &error),
    };
    if let Some(address) = resolved.resolved.settings.admin_listen {
        let target = ProbeTarget { address, has_tls: false, path: "/support", timeout: TIMEOUT };
        if let Ok(Ok((200, bundle))) = block_on(probe(target)) {
            return match serde_json::from_slice::<serde_json::Value>(&bundle) {
                Ok(bundle) => print(&format!("{bundle:#}\n"), ExitCode::SUCCESS),
                Err(error) => fail(1, &error),
            };
        }
    }
    maintain(Ok(resolved), 1)
}
