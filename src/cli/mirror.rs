//! Arguments of `jreg mirror`.

use std::ffi::OsString;

use clap::{Args, Subcommand};
use jreg_config::ConfigError;
use jreg_mirror::{SyncPlatform, SyncRequest, SyncSelection};

use super::{Maintenance, StoreArgs};
use crate::maintenance::MaintenanceCommand;

/// Subcommands of `jreg mirror`.
#[derive(Debug, Subcommand)]
pub enum MirrorCommand {
    /// Fetch images of mirrored registries before clients ask for them
    ///
    /// What is stored already costs a HEAD of its tag, so an interrupted run goes on where it was. Exit codes: 0 done,
    /// 1 failed, or something could not be fetched, 2 wrong command line, 130 interrupted.
    Sync(SyncArgs),
}

/// What is fetched.
#[derive(Debug, Args)]
pub struct SyncArgs {
    /// Repositories below the prefix of a mirror, with a pattern of tags and a range of versions, such as
    /// 'docker.io/library/nginx:*-alpine@>=1.25, <2' [default tag: latest]
    #[arg(required = true, value_name = "REPOSITORY[:TAGS][@VERSIONS]")]
    images: Vec<SyncSelection>,
    /// Only these platforms of each image, such as linux/amd64 [default: all]
    #[arg(long = "platform", value_name = "OS/ARCHITECTURE[/VARIANT]")]
    platforms: Vec<SyncPlatform>,
    /// Leave out referrers and signature tags
    #[arg(long)]
    no_referrers: bool,
    /// Stop when the registry allows no more pulls than this, as its ratelimit-remaining says
    #[arg(long, value_name = "NUMBER", default_value_t = 10)]
    rate_limit_rest: u64,
    /// Blobs of an image that are fetched at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 4)]
    jobs: u16,
    /// Show which tags are selected, and fetch nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    store: StoreArgs,
}

impl MirrorCommand {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        let Self::Sync(args) = self;
        let request = SyncRequest {
            selections: args.images,
            platforms: args.platforms,
            has_referrers: !args.no_referrers,
            rate_limit_rest: args.rate_limit_rest,
            jobs: args.jobs.into(),
            is_dry_run: args.dry_run,
        };
        args.store.resolve(MaintenanceCommand::Mirror(request), true, environment)
    }
}
