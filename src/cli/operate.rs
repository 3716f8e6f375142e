//! Arguments of `jreg config`, `health`, `ls`, `support`, `completions` and `man`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};
use jreg_config::{CheckedSettings, ConfigError, Settings};
use jreg_oci::RepositoryName;
use jreg_reload::read_bounded;

use super::{
    Environment, Flags, Maintenance, ResolvedSettings, SETTINGS_BYTES_MAX, ServeArgs, StoreArgs,
};
use crate::maintenance::{ListContentRequest, MaintenanceCommand};

/// Subcommands of `jreg config`.
#[derive(Debug, Subcommand)]
pub enum ConfigAction {
    /// Verify the configuration and the files that it names; print all errors, and the value of every setting
    /// with its source
    ///
    /// Reads the configuration file, the environment, and the files of users, rules and certificates; opens no
    /// storage. Secrets are redacted. Exit codes: 0 valid, 1 invalid, 2 wrong command line.
    Check(ConfigCheckArgs),
}

/// Arguments of `jreg config check`.
#[derive(Debug, Args)]
pub struct ConfigCheckArgs {
    /// TOML file with settings [default: that of JREG_CONFIG]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print also the settings that have their default
    #[arg(long)]
    pub all: bool,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl ConfigCheckArgs {
    /// The settings of the file and the environment with all errors, and warnings.
    pub fn check(
        &self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> (CheckedSettings, Vec<String>) {
        let environment = Environment::read(environment);
        let path = self.config.clone().or(environment.config);
        let (assignments, remarks) = (environment.assignments, environment.remarks);
        let Some(path) = path else {
            return (jreg_config::check(None, assignments), remarks);
        };
        match read_bounded(&path, SETTINGS_BYTES_MAX) {
            Ok(text) => (jreg_config::check(Some((&path, &text)), assignments), remarks),
            Err(source) => {
                let mut checked = jreg_config::check(None, assignments);
                checked.errors.insert(0, ConfigError::Unreadable { path, source });
                (checked, remarks)
            }
        }
    }
}

/// Arguments of `jreg health`.
#[derive(Debug, Args)]
pub struct HealthArgs {
    /// Ask whether it can serve requests (/readyz) instead of whether it runs (/livez)
    #[arg(long)]
    pub ready: bool,
    /// Ask there, over plain HTTP, instead of at the address of the settings
    #[arg(long, value_name = "HOST:PORT")]
    pub address: Option<String>,
    /// TOML file with settings, as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long)]
    pub json: bool,
}

impl HealthArgs {
    /// The settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn settings(
        &self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Settings, ConfigError> {
        super::access::settings(self.config.clone(), environment)
    }
}

/// Arguments of `jreg ls`.
#[derive(Debug, Args)]
pub struct ListContentArgs {
    /// Repository whose tags are listed [default: list the repositories]
    repository: Option<RepositoryName>,
    #[command(flatten)]
    store: StoreArgs,
}

impl ListContentArgs {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        let request = ListContentRequest { repository: self.repository };
        self.store.resolve(MaintenanceCommand::List(request), true, environment)
    }
}

/// Arguments of `jreg support`.
#[derive(Debug, Args)]
pub struct SupportArgs {
    #[command(flatten)]
    store: StoreArgs,
}

impl SupportArgs {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        self.store.resolve(MaintenanceCommand::Support, true, environment)
    }
}

/// A shell.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
#[expect(missing_docs, reason = "they are names")]
pub enum Shell {
    Bash,
    Elvish,
    Fish,
    Zsh,
}

/// Arguments of `jreg man`.
#[derive(Debug, Args)]
pub struct ManArgs {
    /// Folder that the pages are written to
    #[arg(required_unless_present = "markdown")]
    pub folder: Option<PathBuf>,
    /// Print all commands as one page in Markdown (docs/cli.md)
    #[arg(long)]
    pub markdown: bool,
}

impl ServeArgs {
    /// The settings of the same sources as at the start, as they are now.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve_again(&self) -> Result<ResolvedSettings, ConfigError> {
        let flags = Flags(self.flags.0.clone());
        Self { config: self.config.clone(), flags }.resolve(std::env::vars_os())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A device has no length that could be looked at before.
    #[test]
    fn a_check_reads_a_file_up_to_the_limit_of_settings() {
        let args = ConfigCheckArgs { config: Some("/dev/zero".into()), all: false, json: false };
        let (checked, _) = args.check([]);
        let [ConfigError::Unreadable { source, .. }] = &checked.errors[..] else {
            panic!("{:?}", checked.errors)
        };
        assert_eq!(source.kind(), std::io::ErrorKind::FileTooLarge);
    }
}
