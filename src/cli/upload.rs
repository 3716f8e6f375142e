//! Arguments of `jreg upload` and `jreg usage`.

use std::ffi::OsString;
use std::time::Duration;

use clap::{Args, Subcommand};
use jreg_config::ConfigError;

use super::{Maintenance, StoreArgs, duration};
use crate::maintenance::{MaintenanceCommand, UploadRequest, UsageRequest};

/// Subcommands of `jreg upload`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the text of a flattened field would be shown as the command's")]
pub enum UploadAction {
    /// List unfinished uploads: repository, state, start, last byte, and the bytes that they hold
    List {
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Cancel unfinished uploads, and free their bytes
    ///
    /// The client of a cancelled upload gets 404 and starts over. Exit codes: 0 done, 1 failed, or some
    /// could not be cancelled, 2 wrong command line, 130 interrupted.
    Cancel {
        #[command(flatten)]
        which: CancelArgs,
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Which uploads are cancelled.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct CancelArgs {
    /// Id of the upload, as printed by list
    id: Option<String>,
    /// All that began so long ago or longer, for example 2h
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    older_than: Option<Duration>,
}

impl UploadAction {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        let (request, store) = match self {
            Self::List { store } => (UploadRequest::List, store),
            Self::Cancel { which: CancelArgs { id, older_than }, store } => {
                let than = older_than.unwrap_or_default();
                let older = UploadRequest::CancelOlder { than };
                (id.map_or(older, |id| UploadRequest::Cancel { id }), store)
            }
        };
        store.resolve(MaintenanceCommand::Upload(request), true, environment)
    }
}

/// Arguments of `jreg usage`.
#[derive(Debug, Args)]
pub struct UsageArgs {
    /// Repository; those below it are counted, too [default: all]
    prefix: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

impl UsageArgs {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        let command = MaintenanceCommand::Usage(UsageRequest { prefix: self.prefix });
        self.store.resolve(command, true, environment)
    }
}
