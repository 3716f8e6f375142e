//! Arguments of `jreg tag`, `jreg manifest` and `jreg purge`.

use std::ffi::OsString;

use clap::{Args, Subcommand};
use jreg_config::ConfigError;
use jreg_oci::{Digest, InvalidDigest, RepositoryName, Tag};

use super::{Maintenance, ResolvedSettings, StoreArgs};
use crate::maintenance::{HistoryRequest, MaintenanceCommand};
use crate::transfer::backup::BackupRequest;

/// Subcommands of `jreg tag`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the text of a flattened field would be shown as the command's")]
pub enum TagAction {
    /// List what a tag pointed to, the latest first, also of a deleted tag
    ///
    /// Replaced changes are kept for history-keep after the next one replaced them.
    History {
        /// Repository and tag, for example team/app:v1
        #[arg(value_name = "NAME:TAG", value_parser = tagged)]
        tag: TaggedName,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Point a tag to an earlier manifest again, as a push of that manifest does
    ///
    /// The manifest must exist: see manifest restore.
    Restore {
        /// Repository and tag, for example team/app:v1
        #[arg(value_name = "NAME:TAG", value_parser = tagged)]
        tag: TaggedName,
        /// Manifest that the tag shall point to
        #[arg(value_name = "DIGEST", value_parser = digest)]
        digest: Digest,
        /// Fail unless the tag points to this manifest now
        #[arg(long, value_name = "DIGEST", value_parser = digest)]
        from: Option<Digest>,
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Subcommands of `jreg manifest`.
#[derive(Debug, Subcommand)]
#[expect(missing_docs, reason = "the text of a flattened field would be shown as the command's")]
pub enum ManifestAction {
    /// List the deleted manifests that can be restored
    ///
    /// A deleted manifest and what it references are kept for history-keep.
    ListDeleted {
        /// Repository
        #[arg(value_name = "NAME")]
        repository: RepositoryName,
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Restore a deleted manifest, as a push of it does
    ///
    /// What an index lists is restored before the index.
    Restore {
        /// Repository and manifest, for example team/app@sha256:2c26b4...
        #[arg(value_name = "NAME@DIGEST", value_parser = content)]
        manifest: ContentName,
        /// Also set those of its tags that do not exist now
        #[arg(long)]
        tags: bool,
        #[command(flatten)]
        store: StoreArgs,
    },
}

/// Arguments of `jreg purge`.
#[derive(Debug, Args)]
pub struct PurgeArgs {
    /// Repository and manifest, for example team/app@sha256:2c26b4...
    #[arg(value_name = "NAME@DIGEST", value_parser = content)]
    manifest: ContentName,
    /// Also if a tag points to it or an index references it
    #[arg(long)]
    force: bool,
    /// Remove it from all snapshots of this store of backups instead
    #[arg(long, value_name = "STORE", conflicts_with = "force")]
    backup: Option<String>,
    #[command(flatten)]
    store: StoreArgs,
}

/// A tag of a repository.
#[derive(Clone, Debug)]
pub struct TaggedName {
    repository: RepositoryName,
    tag: Tag,
}

/// A manifest of a repository.
#[derive(Clone, Debug)]
pub struct ContentName {
    repository: RepositoryName,
    digest: Digest,
}

fn tagged(text: &str) -> Result<TaggedName, String> {
    let expected = "it must be NAME:TAG, for example team/app:v1";
    let (name, tag) = text.split_once(':').ok_or(expected)?;
    let repository = name.parse().map_err(|error| format!("{error}; {expected}"))?;
    Ok(TaggedName { repository, tag: tag.parse().map_err(|error| format!("{error}; {expected}"))? })
}

fn content(text: &str) -> Result<ContentName, String> {
    let expected = "it must be NAME@DIGEST, for example team/app@sha256:2c26b4...";
    let (name, of) = text.split_once('@').ok_or(expected)?;
    let repository = name.parse().map_err(|error| format!("{error}; {expected}"))?;
    Ok(ContentName { repository, digest: digest(of)? })
}

fn digest(text: &str) -> Result<Digest, String> {
    text.parse().map_err(|error: InvalidDigest| error.to_string())
}

impl TagAction {
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
            Self::History { tag: TaggedName { repository, tag }, store } => {
                (HistoryRequest::TagHistory { repository, tag }, store)
            }
            Self::Restore { tag: TaggedName { repository, tag }, digest, from, store } => {
                (HistoryRequest::TagRestore { repository, tag, digest, from }, store)
            }
        };
        store.resolve(MaintenanceCommand::History(request), true, environment)
    }
}

impl ManifestAction {
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
            Self::ListDeleted { repository, store } => {
                (HistoryRequest::ListDeleted { repository }, store)
            }
            Self::Restore { manifest: ContentName { repository, digest }, tags, store } => {
                (HistoryRequest::ManifestRestore { repository, digest, tags }, store)
            }
        };
        store.resolve(MaintenanceCommand::History(request), true, environment)
    }
}

/// A command on backups with its settings.
type ResolvedBackup = Result<(BackupRequest, ResolvedSettings), ConfigError>;

impl PurgeArgs {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        let Self { manifest: ContentName { repository, digest }, force, store, .. } = self;
        let request = HistoryRequest::Purge { repository, digest, force };
        store.resolve(MaintenanceCommand::History(request), true, environment)
    }

    /// The removal from a store of backups, if one is named; else what it was.
    ///
    /// # Errors
    ///
    /// What [`PurgeArgs::resolve`] takes.
    pub fn of_backups(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<ResolvedBackup, Box<Self>> {
        let Some(backups) = self.backup.clone() else { return Err(Box::new(self)) };
        let ContentName { repository, digest } = self.manifest;
        Ok(super::backup::purge(backups, repository, digest, self.store, environment))
    }
}
