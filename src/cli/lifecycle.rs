//! Arguments of `jreg lifecycle`.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use jreg_config::ConfigError;
use jreg_lifecycle::LIFECYCLE_BYTES_MAX;
use jreg_oci::RepositoryPattern;
use jreg_reload::read_bounded;

use super::{Maintenance, StoreArgs};
use crate::maintenance::{MaintenanceCommand, RetentionRequest};

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
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Show what retention does with each tag, and write nothing
    ///
    /// Exit codes: 0 done, 2 wrong command line, 3 failed, 130 interrupted.
    Preview(PreviewArgs),
    /// Remove the tags that no retention rule keeps
    ///
    /// Safe to run at any time. Removed tags can be restored while history keeps them. Exit codes: 0 done,
    /// 1 some tags could not be removed, 2 wrong command line, 3 failed, 130 interrupted.
    Run(RunArgs),
}

/// Arguments of `jreg lifecycle preview`.
#[derive(Debug, Args)]
pub struct PreviewArgs {
    /// Patterns over repository names, one of which must match [default: all]
    #[arg(value_name = "REPOSITORY", value_parser = pattern)]
    repositories: Vec<RepositoryPattern>,
    #[command(flatten)]
    store: StoreArgs,
    /// Lifecycle file to judge by, instead of the rules in use
    #[arg(long, value_name = "FILE")]
    lifecycle: Option<PathBuf>,
    /// Write the removals to this file, for jreg lifecycle run --plan
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Ignore the limit on the share of removed tags
    #[arg(long)]
    force: bool,
}

/// Arguments of `jreg lifecycle run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// Patterns over repository names, one of which must match [default: all]
    #[arg(value_name = "REPOSITORY", value_parser = pattern, conflicts_with = "plan")]
    repositories: Vec<RepositoryPattern>,
    #[command(flatten)]
    store: StoreArgs,
    /// Lifecycle file to judge by, instead of the rules in use
    #[arg(long, value_name = "FILE")]
    lifecycle: Option<PathBuf>,
    /// Remove exactly what this plan names, where nothing was pushed since
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// Ignore the limit on the share of removed tags
    #[arg(long)]
    force: bool,
}

fn pattern(text: &str) -> Result<RepositoryPattern, String> {
    text.parse().map_err(|error: jreg_oci::InvalidRepositoryPattern| error.to_string())
}

/// The content of a file.
fn text(path: &Path) -> Result<String, ConfigError> {
    read_bounded(path, LIFECYCLE_BYTES_MAX)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })
}

impl PreviewArgs {
    /// Adds the settings of the file and the environment; and where the plan is to be written.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> (Option<PathBuf>, Result<Maintenance, ConfigError>) {
        let Self { repositories, store, lifecycle, plan, force } = self;
        let plans = plan.is_some();
        let resolved = lifecycle.as_deref().map(text).transpose().and_then(|rules| {
            let request =
                RetentionRequest { repositories, preview: true, plans, plan: None, force, rules };
            store.resolve(MaintenanceCommand::Retention(request), true, environment)
        });
        (plan, resolved)
    }
}

impl RunArgs {
    /// Adds the settings of the file and the environment, and the plan.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        let Self { repositories, store, lifecycle, plan, force } = self;
        let rules = lifecycle.as_deref().map(text).transpose()?;
        let plan = match plan {
            Some(path) => {
                let invalid = |source: serde_json::Error| {
                    let source = std::io::Error::new(std::io::ErrorKind::InvalidData, source);
                    ConfigError::Unreadable { path: path.clone(), source }
                };
                Some(serde_json::from_str(&text(&path)?).map_err(invalid)?)
            }
            None => None,
        };
        let request =
            RetentionRequest { repositories, preview: false, plans: false, plan, force, rules };
        store.resolve(MaintenanceCommand::Retention(request), true, environment)
    }
}
