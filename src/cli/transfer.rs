//! Arguments of `jreg import` and `jreg export`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;
use jreg_archive::Spool;
use jreg_client::CredentialSource;
use jreg_config::{ConfigError, Settings};
use jreg_oci::RepositoryName;
use jreg_registry::SourceTrust;

use super::{ResolvedSettings, StoreArgs};
use crate::transfer::export::{ExportOptions, ExportPlatform, ExportTarget, ExportedName};
use crate::transfer::import::ImportOptions;
use crate::transfer::source::SourceSpec;

/// Arguments of `jreg import`.
#[derive(Debug, Args)]
pub struct ImportArgs {
    /// Folder or tar archive (plain, gzip or zstd) of an OCI image layout or of docker save; storage of
    /// distribution, Harbor, zot or another jreg: a folder or s3://BUCKET[/PREFIX]; another registry:
    /// https://HOST[/NAME[:TAG|@DIGEST]]; - reads an archive from standard input
    #[arg(value_name = "SOURCE")]
    source: String,
    /// Put this before the names of the source's repositories; of a source that does not name its images,
    /// the repository
    #[arg(long, value_name = "PREFIX")]
    into: Option<RepositoryName>,
    /// File with a line NAME:TAG DIGEST for each tag, of Harbor, which keeps tags in its database
    #[arg(long, value_name = "FILE")]
    tags: Option<PathBuf>,
    /// Credentials for another registry: anonymous, docker-config:FILE, helper:NAME, ecr, gcp or acr [default:
    /// docker's configuration, if there is one]
    #[arg(long, value_name = "SOURCE")]
    credentials: Option<CredentialSource>,
    /// Import what tags of distribution pointed to before, too: it becomes their history
    #[arg(long)]
    old_tags: bool,
    /// Into a folder, alone: where files cannot share their blocks (reflink), give those of the source a second
    /// name (hard link) instead of copying them. Only files that belong to this user and that no other user can
    /// write; the source must be retired then
    #[arg(long)]
    hard_link: bool,
    /// Do not read and hash blobs that the storage shares with the source or copies by itself. Other repositories
    /// do not get such bytes until jreg fsck --deep has hashed them
    #[arg(long)]
    trust_digests: bool,
    /// Show what would be copied, and write nothing
    #[arg(long)]
    dry_run: bool,
    /// Number of images that are copied at the same time
    #[arg(long, value_name = "NUMBER", default_value_t = 4)]
    jobs: usize,
    /// Folder for what cannot be imported while a compressed archive, or one from standard input, is read: blobs that
    /// come before the names of their images, without --into [default: the system's]
    #[arg(long, value_name = "FOLDER")]
    spool: Option<PathBuf>,
    /// Maximum size of such an archive without its compression
    #[arg(long, value_name = "SIZE", value_parser = super::size, default_value = "256GiB")]
    spool_max: u64,
    #[command(flatten)]
    store: StoreArgs,
}

/// Arguments of `jreg export`.
#[derive(Debug, Args)]
pub struct ExportArgs {
    /// Images: NAME:TAG, NAME@DIGEST, or NAME for all tags of a repository
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<ExportedName>,
    /// Folder, FILE.tar, or - for a tar archive on standard output
    #[arg(long, value_name = "TARGET")]
    to: String,
    /// Leave out signatures, SBOMs and other manifests that refer to the images
    #[arg(long)]
    no_referrers: bool,
    /// Of a multi-platform image, export the image of this platform (OS/ARCHITECTURE[/VARIANT])
    #[arg(long, value_name = "PLATFORM")]
    platform: Vec<ExportPlatform>,
    /// With --platform: keep the index, with the digest that it has, without its other images
    #[arg(long)]
    sparse: bool,
    #[command(flatten)]
    store: StoreArgs,
}

impl ImportArgs {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(SourceSpec, ImportOptions, ResolvedSettings), ConfigError> {
        let Self { source, into, tags, credentials, dry_run, jobs, spool, spool_max, .. } = self;
        let (old_tags, hard_link, store) = (self.old_tags, self.hard_link, self.store);
        let trust = if self.trust_digests { SourceTrust::Trusted } else { SourceTrust::Hashed };
        let environment: Vec<_> = environment.into_iter().collect();
        let credentials = credentials.unwrap_or_else(|| docker_credentials(&environment));
        let (json, resolved) = store.resolve_settings(environment)?;
        let folder = spool.unwrap_or_else(|| Spool::default().folder);
        let spool = Spool { folder, bytes_max: spool_max };
        let spec = SourceSpec { place: source, credentials, tags, has_old_tags: old_tags, spool };
        Ok((spec, ImportOptions { into, dry_run, jobs, hard_link, trust, json }, resolved))
    }
}

impl ExportArgs {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(ExportOptions, ResolvedSettings), ConfigError> {
        let Self { images, to, no_referrers, platform, sparse, store } = self;
        let (json, resolved) = store.resolve_settings(environment)?;
        let options = ExportOptions {
            names: images,
            target: ExportTarget::of(&to),
            platforms: platform,
            sparse,
            referrers: !no_referrers,
            json,
            host: host(&resolved.settings),
        };
        Ok((options, resolved))
    }
}

/// docker's own configuration, if there is one.
fn docker_credentials(environment: &[(OsString, OsString)]) -> CredentialSource {
    let get = |name: &str| environment.iter().find(|(of, _)| of == name).map(|(_, value)| value);
    let folder = match (get("DOCKER_CONFIG"), get("HOME")) {
        (Some(folder), _) => PathBuf::from(folder),
        (None, Some(home)) => PathBuf::from(home).join(".docker"),
        (None, None) => return CredentialSource::Anonymous,
    };
    let file = folder.join("config.json");
    match file.is_file() {
        true => CredentialSource::DockerConfig(file),
        false => CredentialSource::Anonymous,
    }
}

/// The host by which clients reach the registry.
fn host(settings: &Settings) -> String {
    if let Some(url) = &settings.public_url {
        let host = url.as_str().split_once("://").map_or(url.as_str(), |(_, rest)| rest);
        return host.split('/').next().unwrap_or_default().to_owned();
    }
    let address = settings.listen;
    match settings.acme_domains.first() {
        Some(name) if address.port() == 443 => name.clone(),
        Some(name) => format!("{name}:{}", address.port()),
        None if address.ip().is_unspecified() => format!("127.0.0.1:{}", address.port()),
        None => address.to_string(),
    }
}
