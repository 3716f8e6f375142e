//! Arguments of `jreg backup` and `jreg restore`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand};
use jreg_config::ConfigError;
use jreg_oci::{Digest, RepositoryName};
use ulid::Ulid;

use super::{ResolvedSettings, StoreArgs};
use crate::transfer::backup::{BackupCommand, BackupRequest};

/// Arguments of `jreg backup`.
#[derive(Debug, Args)]
#[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub struct BackupArgs {
    #[command(subcommand)]
    action: Option<BackupAction>,
    /// Folder or s3://BUCKET[/PREFIX] that holds the backups
    #[arg(long, value_name = "STORE", required = true)]
    to: Option<String>,
    /// Also copy private keys: those that sign tokens, and of TLS certificates obtained by ACME
    #[arg(long)]
    with_secrets: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Subcommands of `jreg backup`.
#[derive(Debug, Subcommand)]
pub(super) enum BackupAction {
    /// List the snapshots of a store of backups, the oldest first
    List {
        /// Folder or s3://BUCKET[/PREFIX] that holds the backups
        #[arg(value_name = "STORE")]
        backups: String,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Remove old snapshots, and the bytes that no other needs
    ///
    /// The last snapshot in which nothing is missing is never removed.
    Prune {
        /// Folder or s3://BUCKET[/PREFIX] that holds the backups
        #[arg(value_name = "STORE")]
        backups: String,
        /// Maximum age of a snapshot that is kept, for example 7d
        #[arg(long, value_name = "DURATION", value_parser = super::duration)]
        keep: Duration,
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Arguments of `jreg restore`.
#[derive(Debug, Args)]
pub struct RestoreArgs {
    /// Folder or s3://BUCKET[/PREFIX] that holds the backups
    #[arg(long, value_name = "STORE")]
    from: String,
    /// Id of a snapshot [default: the latest]
    #[arg(value_name = "SNAPSHOT", value_parser = snapshot)]
    snapshot: Option<Ulid>,
    #[command(flatten)]
    store: StoreArgs,
}

fn snapshot(text: &str) -> Result<Ulid, String> {
    let expected = "it must be an id that jreg backup list shows";
    Ulid::from_string(text).map_err(|_| expected.to_owned())
}

type Resolved = Result<(BackupRequest, ResolvedSettings), ConfigError>;

fn resolve(
    backups: String,
    command: BackupCommand,
    store: StoreArgs,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Resolved {
    let (json, resolved) = store.resolve_settings(environment)?;
    Ok((BackupRequest { store: backups, command, json }, resolved))
}

impl BackupArgs {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Resolved {
        match self.action {
            Some(BackupAction::List { backups, store }) => {
                resolve(backups, BackupCommand::List, store, environment)
            }
            Some(BackupAction::Prune { backups, keep, store }) => {
                resolve(backups, BackupCommand::Prune { keep }, store, environment)
            }
            None => {
                let command = BackupCommand::Create { with_secrets: self.with_secrets };
                resolve(self.to.unwrap_or_default(), command, self.store, environment)
            }
        }
    }
}

impl RestoreArgs {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(self, environment: impl IntoIterator<Item = (OsString, OsString)>) -> Resolved {
        let command = BackupCommand::Restore { snapshot: self.snapshot };
        resolve(self.from, command, self.store, environment)
    }
}

/// `jreg purge --backup`: removal from a store of backups.
pub(super) fn purge(
    backups: String,
    repository: RepositoryName,
    digest: Digest,
    store: StoreArgs,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Resolved {
    resolve(backups, BackupCommand::Purge { repository, digest }, store, environment)
}
