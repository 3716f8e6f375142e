//! Arguments of `jreg lifecycle`.

use std::path::PathBuf;

use clap::Subcommand;

/// Subcommands of `jreg lifecycle`.
#[derive(Debug, Subcommand)]
pub enum LifecycleAction {
    /// Verify a lifecycle file, and print each rule as a sentence
    ///
    /// Reads nothing but the file. Exit codes: 0 valid, 2 wrong command line, 3 the file cannot be
    /// used.
    Check {
        /// Lifecycle file
        file: PathBuf,
    },
}
