//! The command line, and how it becomes settings.

mod access;
mod backup;
mod events;
mod history;
mod lifecycle;
mod mirror;
mod operate;
mod transfer;
mod upload;

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Args, Command, FromArgMatches, Parser, Subcommand};
use jreg_config::{
    Assignment, ConfigError, KEYS, Origin, SettingKey, Settings, VARIABLE_PREFIX, nearest,
    read_file,
};
use jreg_oci::{Digest, InvalidDigest, InvalidName};
use jreg_registry::ExplainRequest;
use jreg_reload::read_bounded;

use crate::maintenance::print::Shown;
use crate::maintenance::{ExplainTagRequest, FsckRequest, GcRequest, MaintenanceCommand};

pub use access::{PolicyAction, PolicyQuestion, SessionAction, TokenAction, UserAction};
pub use backup::{BackupArgs, RestoreArgs};
pub use events::EventsAction;
pub use history::{ManifestAction, PurgeArgs, TagAction};
pub use lifecycle::{LifecycleAction, PreviewArgs, RunArgs};
pub use mirror::{MirrorCommand, SyncArgs};
pub use operate::{
    ConfigAction, ConfigCheckArgs, HealthArgs, ListContentArgs, ManArgs, Shell, SupportArgs,
};
pub use transfer::{ExportArgs, ImportArgs};
pub use upload::{CancelArgs, UploadAction, UsageArgs};

const EXAMPLES: &str = "\
Try it:
  jreg serve                           on 127.0.0.1:5000, stores in ./jreg-data
  docker pull alpine                   and in another terminal push an image
  docker tag alpine 127.0.0.1:5000/alpine
  docker push 127.0.0.1:5000/alpine
  jreg ls                              list what is stored

With users, on all addresses:
  jreg user add alice --file users
  jreg serve --listen :5000 --htpasswd users

In a bucket, with the credentials of the AWS tools:
  jreg serve --storage 's3://bucket/jreg?region=eu-central-1'

Operate it:
  jreg config check                    verify the configuration
  jreg gc --dry-run                    show what garbage collection would delete
  jreg tag history team/app:v1         list what the tag pointed to
  jreg fsck --deep                     verify everything that is stored";

/// The settings that the short help shows, each with a text that fits its line.
const BRIEF: &[(&str, &str)] = &[
    ("listen", "Where to listen [127.0.0.1:5000]"),
    ("admin-listen", "Listener for metrics and health"),
    ("storage", "Folder, s3://BUCKET or memory: [./jreg-data]"),
    ("public-url", "External base URL"),
    ("trusted-proxies", "Reverse proxies whose headers are trusted"),
    ("deletes", "Allow deleting through the API [on]"),
    ("htpasswd", "Users; enables authentication"),
    ("policy", "Rules; enables authentication"),
    ("anonymous-pull", "Allow pulling without login [off]"),
    ("insecure-open", "Allow :PORT without authentication [off]"),
    ("tls-cert", "Certificate (PEM); enables TLS"),
    ("tls-key", "Its private key (PEM)"),
    ("acme-domains", "Obtain the certificate by ACME"),
    ("log", "Log level [info]"),
    ("log-format", "auto is pretty on a terminal [auto]"),
    ("audit-log", "Audit log, or stdout, stderr [off]"),
    ("lifecycle", "Retention, immutable tags, quotas"),
    ("gc-interval", "Interval of garbage collection [6h]"),
    ("gc-grace", "Minimum age of what it deletes [1d]"),
    ("history-keep", "How long tags can be restored [30d]"),
    ("redirect", "Redirect downloads to the bucket [off]"),
    ("shutdown-delay", "Not ready, but serving, at stop [0s]"),
    ("shutdown-deadline", "Time for requests to finish [30s]"),
];

const SERVE_EXAMPLES: &str = "\
All settings: jreg serve --help. Verify a configuration: jreg config check.

Examples:
  jreg serve
  jreg serve --listen :5000 --htpasswd users
  jreg serve --storage 's3://bucket/jreg?region=eu-central-1'
  jreg serve --storage memory:                  data is lost when it stops
  jreg serve --config /etc/jreg/jreg.toml";

const SERVE_ABOUT: &str = "\
Serve the registry until SIGTERM or SIGINT

SIGHUP reloads the log level and reopens the audit log; SIGUSR1 turns debug logging on or off.

Every option can also be given as an environment variable (--log-format is JREG_LOG_FORMAT) and as a key of
the configuration file (log-format). Flags override variables, variables override the file. Sizes are written
4MiB, durations 30s, 5m, 6d.";

const GC_ABOUT: &str = "\
Delete unreferenced content (garbage collection): blobs, data of expired uploads, orphaned objects

Safe to run at any time, concurrently with any number of jreg serve. If a folder is being served,
the serving process does the work. Content written or used within the grace period is never deleted.
Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted.";

const FSCK_ABOUT: &str = "\
Verify the store: every record and reference, with --deep also the digest of every blob

Safe to run at any time, concurrently with any number of jreg serve. Read-only without --repair.
Exit codes: 0 no problems (or all repaired), 1 problems found, 2 wrong command line, 3 fsck failed,
130 interrupted.";

const EXPLAIN_ABOUT: &str = "\
Show why GC keeps a manifest or blob (tags, indexes, subjects, age), or when it deletes it; or what
retention does with a tag, and when

Exit codes: 0 stored, 1 not stored, 2 wrong command line, 3 failed, 130 interrupted.";

const PURGE_ABOUT: &str = "\
Remove a manifest for good: it, its tags, what deletes keep of it, and blobs that nothing else references

Other than a DELETE by a client, this cannot be undone. Prints what stays and why, and when bytes go.
Reads every manifest of the repository.
Exit codes: 0 done, 1 refused or failed, 2 wrong command line, 130 interrupted.";

const IMPORT_ABOUT: &str = "\
Copy images from an OCI image layout, an archive of docker save, or the storage of distribution, Harbor, zot or
another jreg

Can be interrupted and run again: what the registry has is not copied. Works beside any number of jreg serve.
Prints a line for each image: copied, present, skipped or error.
Exit codes: 0 done, 1 failed, or some images failed, 2 wrong command line, 130 interrupted.";

const EXPORT_ABOUT: &str = "\
Write images as an OCI image layout, with the signatures and SBOMs that refer to them

The same images are the same bytes. docker load, podman, skopeo, crane and jreg import read the result.
Works beside any number of jreg serve.
Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted.";

const BACKUP_ABOUT: &str = "\
Copy the registry to a folder or bucket of backups, while it is served

Every tag that exists when it starts and does not change meanwhile is in the backup as it was; others are as at
some moment of the run. Bytes that an earlier backup has are not copied again.
Exit codes: 0 done, 1 failed, or content is missing in the registry, 2 wrong command line, 130 interrupted.";

const RESTORE_ABOUT: &str = "\
Make a storage of a backup: in an empty folder or bucket, whatever kind of storage the backup is of

Can be interrupted and run again; until it is done, no jreg opens the storage. Ends with jreg fsck.
Exit codes: 0 done, 1 failed, or fsck found damage, 2 wrong command line, 130 interrupted.";

/// An OCI registry server in one binary, without a database or other services.
#[derive(Debug, Parser)]
#[command(name = "jreg", version, after_help = EXAMPLES, arg_required_else_help = true)]
#[command(max_term_width = 80)]
pub struct Cli {
    /// The command.
    #[command(subcommand)]
    pub command: CliCommand,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum CliCommand {
    #[command(about = "Serve the registry until SIGTERM or SIGINT", long_about = SERVE_ABOUT)]
    #[command(after_help = SERVE_EXAMPLES)]
    /// Serve the registry.
    Serve(ServeArgs),
    /// Delete unreferenced content (garbage collection).
    #[command(long_about = GC_ABOUT)]
    Gc(GcArgs),
    /// Verify the store, and repair it.
    #[command(long_about = FSCK_ABOUT)]
    Fsck(FsckArgs),
    /// Show why GC keeps a manifest or blob, or when it deletes it.
    #[command(long_about = EXPLAIN_ABOUT)]
    Explain(ExplainArgs),
    /// Show the history of a tag, and go back to an earlier manifest.
    #[command(subcommand)]
    Tag(TagAction),
    /// List and restore deleted manifests.
    #[command(subcommand)]
    Manifest(ManifestAction),
    /// Remove a manifest for good, with what a delete keeps.
    #[command(long_about = PURGE_ABOUT)]
    Purge(PurgeArgs),
    /// Manage users and passwords in an htpasswd file.
    #[command(subcommand)]
    User(UserAction),
    /// Manage access tokens for automation, which are kept in the storage.
    #[command(subcommand)]
    Token(TokenAction),
    /// End the logins of an identity in browsers.
    #[command(subcommand)]
    Session(SessionAction),
    /// Show how many bytes repositories hold.
    ///
    /// Unique bytes of the manifests of each repository, tagged or not, and of the blobs that they reference;
    /// separately those of deleted content that is kept, and of open uploads. Exit codes: 0 done, 1 failed, 2 wrong
    /// command line, 130 interrupted.
    Usage(UsageArgs),
    /// List and cancel unfinished uploads, and show what they hold.
    #[command(subcommand)]
    Upload(UploadAction),
    /// Fetch images of mirrored registries.
    #[command(subcommand)]
    Mirror(MirrorCommand),
    /// Show how far the sinks of events are, and send events again.
    #[command(subcommand)]
    Events(EventsAction),
    /// Evaluate the policy file: what is allowed, and by which rule.
    #[command(subcommand)]
    Policy(PolicyAction),
    /// Verify a lifecycle file, preview and run its retention rules.
    #[command(subcommand)]
    Lifecycle(LifecycleAction),
    /// Copy images from archives and from the storage of other registries.
    #[command(long_about = IMPORT_ABOUT)]
    Import(ImportArgs),
    /// Write images as an OCI image layout, to a folder or a tar archive.
    #[command(long_about = EXPORT_ABOUT)]
    Export(ExportArgs),
    /// Copy the registry to a folder or bucket of backups.
    #[command(long_about = BACKUP_ABOUT)]
    Backup(BackupArgs),
    /// Make a storage of a backup.
    #[command(long_about = RESTORE_ABOUT)]
    Restore(RestoreArgs),
    /// Verify the configuration.
    #[command(subcommand)]
    Config(ConfigAction),
    /// List repositories, or the tags of one.
    ///
    /// Exit codes: 0 done, 1 failed, or there is no such repository, 2 wrong command line, 130 interrupted.
    Ls(ListContentArgs),
    /// Ask the running registry for its health, for health checks of containers.
    ///
    /// Asks at the address, port and TLS of the settings. Exit codes: 0 healthy, 1 not, 2 wrong command line.
    Health(HealthArgs),
    /// Print a support bundle: version, settings, store, metrics, recent warnings; no secrets.
    ///
    /// Asks the process that serves, at admin-listen or through the folder; without one, looks at the store.
    /// Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted.
    Support(SupportArgs),
    /// Print the completions of a shell.
    Completions {
        /// Shell
        shell: Shell,
    },
    /// Write the man pages into a folder.
    #[command(hide = true)]
    Man(ManArgs),
    /// Print the version.
    Version {
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// The store of a command, and its output format.
#[derive(Debug, Args)]
pub struct StoreArgs {
    /// TOML file with settings, as for serve
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder or bucket, as for serve [default: ./jreg-data]
    #[arg(long, value_name = "LOCATION")]
    storage: Option<String>,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// Arguments of `jreg gc`.
#[derive(Debug, Args)]
pub struct GcArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Print what would be deleted, and delete nothing
    #[arg(long)]
    dry_run: bool,
    /// Minimum age of unreferenced content, instead of gc-grace: 2h or more
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    grace: Option<Duration>,
    /// Minimum time without a tag before a manifest is deleted, instead of gc-untagged
    #[arg(long, value_name = "DURATION", value_parser = duration)]
    untagged: Option<Duration>,
    /// Ignore the limit on deleted links (gc-share-max)
    #[arg(long)]
    force: bool,
    /// Also look for orphaned objects and duplicate blobs, although a run did so less than a grace
    /// period ago
    #[arg(long)]
    sweep: bool,
    /// Maximum store requests per second, instead of gc-requests-per-second; 0: no limit
    #[arg(long, value_name = "NUMBER")]
    requests_per_second: Option<u32>,
    /// Print what is deleted
    #[arg(long, short)]
    verbose: bool,
}

/// Arguments of `jreg fsck`.
#[derive(Debug, Args)]
pub struct FsckArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Read all blob bytes and verify their digests
    #[arg(long)]
    deep: bool,
    /// Repair what can be repaired without loss
    #[arg(long)]
    repair: bool,
    /// Start a deep fsck from the beginning instead of resuming an interrupted one
    #[arg(long)]
    restart: bool,
    /// Maximum store requests per second, instead of gc-requests-per-second; 0: no limit
    #[arg(long, value_name = "NUMBER")]
    requests_per_second: Option<u32>,
    /// Maximum bytes per second that a deep fsck reads, for example 50MiB
    #[arg(long, value_name = "SIZE", value_parser = size)]
    bytes_per_second: Option<u64>,
}

/// Arguments of `jreg explain`.
#[derive(Debug, Args)]
pub struct ExplainArgs {
    #[command(flatten)]
    store: StoreArgs,
    /// Manifest or blob: NAME@DIGEST in one repository, DIGEST in all; or a tag: NAME:TAG
    #[arg(value_name = "CONTENT", value_parser = explained)]
    what: MaintenanceCommand,
}

fn duration(text: &str) -> Result<Duration, String> {
    let read = <Duration as jreg_config::Value>::parse(text);
    read.ok_or_else(|| "it must be a duration such as 90m, 36h or 7d".to_owned())
}

fn size(text: &str) -> Result<u64, String> {
    let read = <u64 as jreg_config::Value>::parse(text);
    read.ok_or_else(|| "it must be a size such as 512KiB or 50MiB".to_owned())
}

fn explained(text: &str) -> Result<MaintenanceCommand, String> {
    if let Some((name, tag)) = text.rsplit_once(':')
        && !text.contains('@')
        && let (Ok(repository), Ok(tag)) = (name.parse(), tag.parse())
        && text.parse::<Digest>().is_err()
    {
        return Ok(MaintenanceCommand::ExplainTag(ExplainTagRequest { repository, tag }));
    }
    content(text).map(MaintenanceCommand::Explain)
}

fn content(text: &str) -> Result<ExplainRequest, String> {
    let (repository, digest) = match text.split_once('@') {
        Some((name, digest)) => {
            let name = name.parse().map_err(|error: InvalidName| error.to_string())?;
            (Some(name), digest)
        }
        None => (None, text),
    };
    let digest = digest.parse().map_err(|error: InvalidDigest| {
        format!(
            "{error}; it must be NAME@DIGEST, DIGEST or NAME:TAG, for example app@sha256:2c26b4..."
        )
    })?;
    Ok(ExplainRequest { digest, repository })
}

/// A command on a store, ready to run.
#[derive(Debug)]
pub struct Maintenance {
    /// The command.
    pub command: MaintenanceCommand,
    /// Its output format.
    pub shown: Shown,
    /// The settings, with the location of the store.
    pub resolved: ResolvedSettings,
}

impl GcArgs {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        let Self { store, dry_run, grace, untagged, force, sweep, .. } = self;
        let (requests_per_second, verbose) = (self.requests_per_second, self.verbose);
        let request = GcRequest { grace, untagged, dry_run, force, sweep, requests_per_second };
        let command = MaintenanceCommand::Gc(request);
        store.resolve(command, dry_run || verbose, environment)
    }
}

impl FsckArgs {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        let Self { store, deep, repair, restart, requests_per_second, bytes_per_second } = self;
        let request = FsckRequest { deep, repair, restart, requests_per_second, bytes_per_second };
        store.resolve(MaintenanceCommand::Fsck(request), true, environment)
    }
}

impl ExplainArgs {
    /// Adds the settings of the file and the environment.
    ///
    /// # Errors
    ///
    /// [`ConfigError`].
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        self.store.resolve(self.what, true, environment)
    }
}

impl StoreArgs {
    /// The settings, and whether output is JSON.
    fn resolve_settings(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<(bool, ResolvedSettings), ConfigError> {
        let storage = self.storage.map(|place| Assignment {
            name: "storage".to_owned(),
            values: vec![place],
            origin: Origin::Flag,
        });
        let flags = Flags(storage.into_iter().collect());
        Ok((self.json, ServeArgs { config: self.config, flags }.resolve(environment)?))
    }

    fn resolve(
        self,
        command: MaintenanceCommand,
        actions: bool,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<Maintenance, ConfigError> {
        let (json, resolved) = self.resolve_settings(environment)?;
        Ok(Maintenance { command, shown: Shown { json, actions }, resolved })
    }
}

/// Arguments of `jreg serve`.
#[derive(Clone, Debug, Args)]
pub struct ServeArgs {
    /// TOML file with settings
    #[arg(long, value_name = "FILE", help_heading = "Service")]
    config: Option<PathBuf>,
    #[command(flatten)]
    flags: Flags,
}

/// The settings given as flags; one flag for each of [`KEYS`].
#[derive(Clone, Debug)]
struct Flags(Vec<Assignment>);

impl Args for Flags {
    fn augment_args(command: Command) -> Command {
        KEYS.iter().fold(command, |command, key| command.arg(flag(key)))
    }

    fn augment_args_for_update(command: Command) -> Command {
        Self::augment_args(command)
    }
}

impl FromArgMatches for Flags {
    fn from_arg_matches(matches: &ArgMatches) -> Result<Self, clap::Error> {
        Ok(Self(KEYS.iter().filter_map(|key| given(key, matches)).collect()))
    }

    fn update_from_arg_matches(&mut self, matches: &ArgMatches) -> Result<(), clap::Error> {
        *self = Self::from_arg_matches(matches)?;
        Ok(())
    }
}

fn flag(key: &SettingKey) -> Arg {
    let default = match key.show(&Settings::default()).join(", ") {
        default if default.is_empty() => "none".to_owned(),
        default => default,
    };
    let doc = key.doc.trim().trim_end_matches('.');
    let brief = BRIEF.iter().find(|(name, _)| *name == key.name()).map(|(_, brief)| *brief);
    let arg = Arg::new(key.name()).long(key.name()).value_name(key.kind());
    let arg = match key.allowed {
        "on or off" => arg.num_args(0..=1).default_missing_value("on"),
        _ => arg,
    };
    let arg = arg.hide_short_help(brief.is_none());
    arg.action(ArgAction::Append)
        .allow_negative_numbers(true)
        .help_heading(key.section)
        .help(brief.unwrap_or(doc))
        .long_help(format!(
            "{doc}\n\nAllowed: {}\nDefault: {default}\nVariable: {}",
            key.allowed,
            key.variable()
        ))
}

fn given(key: &SettingKey, matches: &ArgMatches) -> Option<Assignment> {
    let name = key.name();
    if matches.value_source(&name) != Some(ValueSource::CommandLine) {
        return None;
    }
    let values = matches.get_many::<String>(&name)?.cloned().collect();
    Some(Assignment { name, values, origin: Origin::Flag })
}

/// The settings, with warnings about how they were given.
#[derive(Debug)]
pub struct ResolvedSettings {
    /// The settings.
    pub settings: Settings,
    /// Warnings for the operator.
    pub remarks: Vec<String>,
}

impl ServeArgs {
    /// The settings of the file, the environment and the flags; later ones win.
    ///
    /// An empty variable counts as absent.
    pub fn resolve(
        self,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Result<ResolvedSettings, ConfigError> {
        let environment = Environment::read(environment);
        let file = match self.config.or(environment.config) {
            Some(path) => read(path)?,
            None => Vec::new(),
        };
        let exposed = self.flags.0.iter().filter_map(exposed_secret);
        let remarks = environment.remarks.into_iter().chain(exposed).collect();
        let assignments = file.into_iter().chain(environment.assignments).chain(self.flags.0);
        let settings = Settings::resolve(assignments)?;
        Ok(ResolvedSettings { settings, remarks })
    }
}

/// The warning about a secret in a flag, which the process list shows.
fn exposed_secret(flag: &Assignment) -> Option<String> {
    let key = KEYS.iter().find(|key| key.is_secret() && key.name() == flag.name)?;
    let (name, variable) = (key.name(), key.variable());
    (flag.values != ["none"]).then(|| {
        format!(
            "--{name} exposes the secret to all local users (in /proc): use --{name}-file, \
             {variable}_FILE, {variable} or the configuration file"
        )
    })
}

/// Maximum bytes of a file with settings.
const SETTINGS_BYTES_MAX: usize = 8 * 1024 * 1024;

fn read(path: PathBuf) -> Result<Vec<Assignment>, ConfigError> {
    match read_bounded(&path, SETTINGS_BYTES_MAX) {
        Ok(text) => read_file(&path, &text),
        Err(source) => Err(ConfigError::Unreadable { path, source }),
    }
}

/// The environment variables of jreg.
#[derive(Debug, Default)]
struct Environment {
    config: Option<PathBuf>,
    assignments: Vec<Assignment>,
    remarks: Vec<String>,
}

impl Environment {
    fn read(variables: impl IntoIterator<Item = (OsString, OsString)>) -> Self {
        let mut environment = Self::default();
        for (variable, value) in variables {
            let variable = variable.to_string_lossy();
            if variable.starts_with(VARIABLE_PREFIX) && !value.is_empty() {
                environment.take(&variable, value);
            }
        }
        environment
    }

    fn take(&mut self, variable: &str, value: OsString) {
        if variable == CONFIG_VARIABLE {
            self.config = Some(PathBuf::from(value));
        } else if let Some(key) = KEYS.iter().find(|key| key.variable() == variable) {
            let values = vec![value.to_string_lossy().into_owned()];
            let origin = Origin::Variable;
            self.assignments.push(Assignment { name: key.name(), values, origin });
        } else if let Some(known) = nearest_variable(variable) {
            // No error: Kubernetes makes variables such as JREG_SERVICE_HOST and JREG_PORT for a
            // service that is called jreg.
            self.remarks.push(format!("{variable} is not a setting; the nearest is {known}"));
        }
    }
}

const CONFIG_VARIABLE: &str = "JREG_CONFIG";

fn nearest_variable(variable: &str) -> Option<String> {
    // Without the prefix, which all share: it would make any two of them alike.
    let name = variable.strip_prefix(VARIABLE_PREFIX)?.to_lowercase().replace('_', "-");
    let known = nearest(&name, KEYS.iter().map(SettingKey::name))?;
    KEYS.iter().find(|key| key.name() == known).map(SettingKey::variable)
}

/// Reads the command line.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(args)
}

/// Whether this "error" is the output of `--help` or `--version`.
pub fn is_help(error: &clap::Error) -> bool {
    matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion)
}

/// What `jreg version` prints.
pub fn version() -> String {
    format!("jreg {}", env!("CARGO_PKG_VERSION"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use clap::CommandFactory;

    use super::*;

    fn resolve(args: &[&str], variables: &[(&str, &str)]) -> Result<ResolvedSettings, ConfigError> {
        let args = ["jreg", "serve"].iter().chain(args).map(OsString::from);
        let CliCommand::Serve(serve) = parse(args).unwrap().command else { panic!("not serve") };
        serve.resolve(variables.iter().map(|(name, value)| (name.into(), value.into())))
    }

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn without_arguments_the_settings_are_the_defaults() {
        assert_eq!(resolve(&[], &[]).unwrap().settings, Settings::default());
    }

    #[test]
    fn a_flag_that_is_on_or_off_needs_no_value_to_be_on() {
        for args in [&["--single-instance"][..], &["--single-instance", "on"]] {
            assert!(resolve(args, &[]).unwrap().settings.single_instance, "{args:?}");
        }
        let more = resolve(&["--single-instance", "--uploads-max", "3"], &[]).unwrap().settings;
        assert_eq!((more.single_instance, more.uploads_max), (true, 3));
        let off = resolve(&["--single-instance", "off"], &[]).unwrap().settings;
        assert!(!off.single_instance);
    }

    #[test]
    fn a_flag_goes_before_a_variable_before_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("jreg.toml");
        std::fs::write(&path, "uploads-max = 1\nparts-in-flight = 1\nmanifest-reads-in-flight = 1")
            .unwrap();
        let path = path.to_str().unwrap();
        let variables =
            [("JREG_CONFIG", path), ("JREG_UPLOADS_MAX", "2"), ("JREG_PARTS_IN_FLIGHT", "2")];
        let settings = resolve(&["--uploads-max", "3"], &variables).unwrap().settings;
        assert_eq!(settings.uploads_max, 3);
        assert_eq!(settings.parts_in_flight, 2);
        assert_eq!(settings.manifest_reads_in_flight, 1);
        let flag = ["--config", path];
        let variables = [("JREG_CONFIG", "/nonexistent")];
        assert_eq!(resolve(&flag, &variables).unwrap().settings.uploads_max, 1);
    }

    #[test]
    fn a_flag_may_be_repeated_where_that_means_something() {
        let settings = resolve(&["--warning", "a", "--warning", "b"], &[]).unwrap().settings;
        assert_eq!(settings.warning, ["a", "b"]);
        let error = resolve(&["--deletes", "on", "--deletes", "off"], &[]).unwrap_err();
        assert_eq!(error.to_string(), "--deletes is given 2 times, it can be given once");
    }

    #[test]
    fn a_negative_number_is_rejected_with_the_allowed_range() {
        let error = resolve(&["--uploads-max", "-1"], &[]).unwrap_err();
        assert_eq!(
            error.to_string(),
            r#"--uploads-max cannot be "-1": it must be a number from 1 to 100000"#
        );
    }

    #[test]
    fn help_is_also_a_command() {
        assert!(is_help(&parse(["jreg", "help"].map(OsString::from)).unwrap_err()));
    }

    #[test]
    fn an_empty_variable_counts_as_absent() {
        assert_eq!(resolve(&[], &[("JREG_LISTEN", "")]).unwrap().settings, Settings::default());
    }

    #[test]
    fn a_misspelt_variable_is_warned_about_and_a_foreign_one_is_not() {
        let variables = [("JREG_LISTENN", "x"), ("JREG_PORT_5000_TCP_ADDR", "10.0.0.1")];
        let remarks = resolve(&[], &variables).unwrap().remarks;
        assert_eq!(remarks, ["JREG_LISTENN is not a setting; the nearest is JREG_LISTEN"]);
    }

    #[test]
    fn a_secret_in_a_flag_is_warned_about_without_its_value_and_can_come_from_a_file() {
        let remarks = |arguments: &[&str], variables: &[(&str, &str)]| {
            resolve(arguments, variables).unwrap().remarks
        };
        for key in KEYS.iter().filter(|key| key.is_secret()) {
            let (flag, file) = (format!("--{}", key.name()), format!("--{}-file", key.name()));
            let [remark] = &remarks(&[&flag, "HUSH"], &[])[..] else { panic!("{flag}") };
            assert!(remark.starts_with(&format!("{flag} exposes the secret")), "{remark}");
            assert!(remark.contains(&format!("{file}, {}_FILE", key.variable())), "{remark}");
            assert!(!remark.contains("HUSH"), "{remark}");
            assert_eq!(remarks(&[&file, "/run/secrets/key"], &[]), [""; 0]);
            assert_eq!(remarks(&[], &[(&key.variable(), "HUSH")]), [""; 0]);
            let both = [&*flag, "HUSH", &file, "/run/secrets/key"];
            let error = resolve(&both, &[]).unwrap_err().to_string();
            assert!(error.contains("set the secret itself or its file"), "{error}");
        }
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = resolve(&["--config", "/nonexistent/jreg.toml"], &[]).unwrap_err();
        assert_eq!(error.to_string(), "cannot read the configuration file /nonexistent/jreg.toml");
    }

    #[test]
    fn the_short_help_fits_two_screens_of_80_columns() {
        for command in ["serve", "gc", "fsck", "config", "user", "health", "ls"] {
            let help = parse(["jreg", command, "-h"].map(OsString::from)).unwrap_err().to_string();
            assert!(help.lines().all(|line| line.chars().count() <= 80), "{command}: {help}");
            assert!(help.lines().count() <= 80, "{command}: {}", help.lines().count());
        }
        // Examples are not wrapped.
        let examples = [EXAMPLES, SERVE_EXAMPLES].map(str::lines).into_iter().flatten();
        assert_eq!(examples.filter(|line| line.chars().count() > 80).collect::<Vec<_>>(), [""; 0]);
        let help = parse(["jreg", "serve", "-h"].map(OsString::from)).unwrap_err().to_string();
        for flag in ["--listen <IP:PORT>", "--storage <LOCATION>", "--htpasswd <FILE>"] {
            assert!(help.contains(flag), "{flag}: {help}");
        }
        for (name, _) in BRIEF {
            assert!(KEYS.iter().any(|key| key.name() == *name), "{name}");
        }
        let long = parse(["jreg", "serve", "--help"].map(OsString::from)).unwrap_err().to_string();
        assert!(long.contains("--uploads-max <NUMBER>") && long.contains("--part-bytes <SIZE>"));
    }

    #[test]
    fn addresses_have_short_forms() {
        let listen =
            |text| resolve(&["--listen", text], &[]).map(|r| r.settings.listen.to_string());
        assert_eq!(listen("localhost:5000").unwrap(), "127.0.0.1:5000");
        assert_eq!(listen(":5000").unwrap(), "0.0.0.0:5000");
        assert_eq!(listen("[::]:80").unwrap(), "[::]:80");
        for wrong in ["5000", "localhost", "example.com:80", ":70000", "localhost:+80", ":"] {
            assert!(listen(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_help_names_every_setting() {
        let mut command = Cli::command();
        let serve = command.find_subcommand_mut("serve").unwrap();
        let help = serve.render_long_help().to_string();
        for key in KEYS {
            let shown = [" <", " [<"].map(|value| format!("--{}{value}", key.name()));
            assert!(shown.iter().any(|flag| help.contains(flag)), "{}", key.name());
            assert!(help.contains(&key.variable()), "{}", key.variable());
        }
    }
}
