//! `jreg version`.

use std::process::ExitCode;

use serde_json::json;

use super::print;
use crate::cli;

/// Prints the version.
pub fn run(is_json: bool) -> ExitCode {
    let text = match is_json {
        true => json!({ "version": env!("CARGO_PKG_VERSION") }).to_string(),
        false => cli::version(),
    };
    print(&format!("{text}\n"), ExitCode::SUCCESS)
}
