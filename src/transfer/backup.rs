//! `jreg backup`, `jreg restore` and `jreg purge --backup`: stores of backups.

use std::io::{self, IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use jreg_config::{Settings, StorageLocation, Value};
use jreg_oci::{Digest, RepositoryName};
use jreg_registry::{
    BackupError, BackupInfo, BackupObserver, BackupOptions, BackupReport, FsckReport, NoObserver,
    PruneReport, PurgedBackup, Registry, RestoreReport, back_up, finish_restore, list_backups,
    prune_backups, purge_from_backups, restore_backup,
};
use jreg_storage::{FsOptions, FsStore, S3Url, Store, SystemClock, error_chain};
use serde::Serialize;
use ulid::Ulid;

use super::command::{TransferCommandError, until_signal};
use super::place::{PlaceError, PlaceUse, check_outside, open_store};
use crate::bucket::{self, BucketAccess};
use crate::error::StartError;
use crate::folder::{self, FolderContent};
use crate::maintenance::print::{number, size};
use crate::options;

/// Maximum wait for another process that uses a folder of backups.
const LOCK_WAIT: Duration = Duration::from_secs(2);
/// Refresh interval of the progress line.
const TICK: Duration = Duration::from_millis(100);
/// The file that a folder of backups has.
const MARK: &str = "backup.json";

/// What to do with a store of backups.
#[derive(Clone, Debug)]
pub enum BackupCommand {
    Create { with_secrets: bool },
    List,
    Prune { keep: Duration },
    Restore { snapshot: Option<Ulid> },
    Purge { repository: RepositoryName, digest: Digest },
}

/// A command on a store of backups.
#[derive(Clone, Debug)]
pub struct BackupRequest {
    /// A folder, or s3://.
    pub store: String,
    pub command: BackupCommand,
    pub json: bool,
}

/// What a command did.
#[derive(Debug, Serialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
enum BackupOutcome {
    Backup(BackupReport),
    List { snapshots: Vec<BackupInfo> },
    Prune(PruneReport),
    Restore { restored: RestoreReport, fsck: FsckReport },
    Purge(PurgedBackup),
}

/// How the command ended: whether all is well. `None`: a signal interrupted it.
pub type BackupEnd = Result<Option<bool>, TransferCommandError>;

/// Runs a command.
///
/// # Errors
///
/// [`TransferCommandError`].
pub fn run(settings: Settings, request: BackupRequest) -> BackupEnd {
    let json = request.json;
    until_signal(async move {
        let progress = BackupProgress::new();
        let outcome = Box::pin(execute(&settings, request, &progress)).await;
        progress.bar.finish_and_clear();
        let outcome = outcome?;
        let text = match json {
            true => serde_json::to_string(&outcome).unwrap_or_default() + "\n",
            false => outcome.plain(),
        };
        // Standard output may be closed.
        let _ = io::stdout().write_all(text.as_bytes());
        Ok(outcome.is_well())
    })
}

async fn execute(
    settings: &Settings,
    request: BackupRequest,
    progress: &BackupProgress,
) -> Result<BackupOutcome, TransferCommandError> {
    let store = &request.store;
    Ok(match request.command {
        BackupCommand::Create { with_secrets } => {
            let registry = open_source(settings).await?;
            let target = open_backups(settings, store, BackupUse::Write).await?;
            let options = BackupOptions { with_secrets, ..BackupOptions::default() };
            BackupOutcome::Backup(back_up(&registry, &target, options, progress).await?)
        }
        BackupCommand::List => {
            let store = open_backups(settings, store, BackupUse::Read).await?;
            BackupOutcome::List { snapshots: list_backups(&*store).await? }
        }
        BackupCommand::Prune { keep } => {
            let store = open_backups(settings, store, BackupUse::Change).await?;
            BackupOutcome::Prune(prune_backups(&store, keep, SystemTime::now()).await?)
        }
        BackupCommand::Restore { snapshot } => {
            let backups = open_backups(settings, store, BackupUse::Read).await?;
            let target = open_target(settings).await?;
            let restored = restore_backup(&backups, snapshot, &target, progress).await?;
            progress.phase("fsck");
            let fsck = check(settings, Arc::clone(&target)).await?;
            finish_restore(&*target).await?;
            BackupOutcome::Restore { restored, fsck }
        }
        BackupCommand::Purge { repository, digest } => {
            let store = open_backups(settings, store, BackupUse::Change).await?;
            BackupOutcome::Purge(purge_from_backups(&store, &repository, &digest).await?)
        }
    })
}

/// The registry that is backed up, which is only read.
async fn open_source(settings: &Settings) -> Result<Registry, TransferCommandError> {
    let store = open_store(settings, PlaceUse::Read).await?;
    let (clock, options) = (Arc::new(SystemClock::new()), options::registry(settings));
    let opened = Registry::open_existing(store, clock, options).await;
    Ok(opened.map_err(StartError::from).map_err(PlaceError::from)?)
}

/// The store that a backup is restored to.
async fn open_target(settings: &Settings) -> Result<Arc<dyn Store>, TransferCommandError> {
    Ok(open_store(settings, PlaceUse::Restore).await.map_err(|error| match error {
        PlaceError::InUse { folder, holder } => PlaceError::Served { folder, holder },
        other => other,
    })?)
}

/// Checks what was restored, before anything else may open it.
async fn check(
    settings: &Settings,
    store: Arc<dyn Store>,
) -> Result<FsckReport, TransferCommandError> {
    let (clock, options) = (Arc::new(SystemClock::new()), options::registry(settings));
    let registry = Registry::open_restored(store, clock, options).await;
    let registry = registry.map_err(StartError::from).map_err(PlaceError::from)?;
    let options = jreg_registry::FsckOptions { deep: false, ..options::fsck(settings) };
    Ok(registry.fsck(&options, &NoObserver).await.map_err(BackupError::from)?)
}

/// What a store of backups is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BackupUse {
    Read,
    Change,
    /// It may be new.
    Write,
}

async fn open_backups(
    settings: &Settings,
    place: &str,
    purpose: BackupUse,
) -> Result<Arc<dyn Store>, TransferCommandError> {
    let location = <StorageLocation as Value>::parse(place);
    let unusable = |reason: &str| {
        let message = format!("{place} cannot hold backups: {reason}");
        TransferCommandError::Backups(message)
    };
    let location =
        location.ok_or_else(|| unusable("it must be a folder or s3://BUCKET[/PREFIX]"))?;
    if location == settings.storage {
        return Err(unusable("it is the storage of the registry"));
    }
    if let (StorageLocation::Bucket(backups), StorageLocation::Bucket(registry)) =
        (&location, &settings.storage)
        && is_within_or_around(backups, registry)
    {
        return Err(unusable("it is in the storage of the registry, or around it"));
    }
    match location {
        StorageLocation::Memory => Err(unusable("memory is gone when the command ends")),
        StorageLocation::Bucket(url) => {
            let access = match purpose {
                BackupUse::Read => BucketAccess::ReadOnly,
                BackupUse::Change | BackupUse::Write => BucketAccess::Collect,
            };
            let opened = bucket::open(settings, &url, access).await;
            Ok(opened.map_err(StartError::from).map_err(PlaceError::from)?)
        }
        StorageLocation::Folder(path) => {
            check_outside(settings, &path)?;
            if !holds_backups(&path) {
                if purpose != BackupUse::Write {
                    let message = format!("{place} holds no backups: it has no backup.json");
                    return Err(TransferCommandError::Backups(message));
                }
                let found = folder::look(&path).unwrap_or(FolderContent::Absent);
                let is_empty = matches!(found, FolderContent::Empty | FolderContent::Absent)
                    || is_interrupted_start(&path);
                if !is_empty {
                    return Err(unusable("it has no backup.json, and is not an empty folder"));
                }
            }
            open_folder(path, purpose).await
        }
    }
}

/// Whether the keys of two stores in a bucket may be the same.
fn is_within_or_around(one: &S3Url, other: &S3Url) -> bool {
    let is_below = |prefix: &str, of: &str| {
        of.is_empty()
            || prefix.strip_prefix(of).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    let is_same_bucket = one.service() == other.service() && one.bucket == other.bucket;
    is_same_bucket && (is_below(&one.prefix, &other.prefix) || is_below(&other.prefix, &one.prefix))
}

fn holds_backups(path: &Path) -> bool {
    path.join(MARK).is_file()
}

/// Whether a folder has nothing but what opening it leaves.
fn is_interrupted_start(path: &Path) -> bool {
    let entries = std::fs::read_dir(path).into_iter().flatten().flatten();
    entries.into_iter().all(|entry| folder::is_incidental(&entry.file_name().to_string_lossy()))
}

async fn open_folder(
    path: PathBuf,
    purpose: BackupUse,
) -> Result<Arc<dyn Store>, TransferCommandError> {
    let options = FsOptions { lock_wait: LOCK_WAIT, ..FsOptions::default() };
    let opening = tokio::task::spawn_blocking(move || {
        if purpose == BackupUse::Read
            && let Ok(store) = FsStore::open_read_only(&path, options.clone())
        {
            return Ok(Arc::new(store) as Arc<dyn Store>);
        }
        FsStore::open(path, options).map(|store| Arc::new(store) as _)
    });
    let opened = opening.await.map_err(io::Error::other).map_err(StartError::from);
    Ok(opened.map_err(PlaceError::from)?.map_err(StartError::from).map_err(PlaceError::from)?)
}

/// Shows on a terminal how far a command is.
struct BackupProgress {
    bar: ProgressBar,
    objects: AtomicU64,
    bytes: AtomicU64,
}

impl BackupProgress {
    fn new() -> Self {
        let is_terminal = io::stderr().is_terminal();
        let target = match is_terminal {
            true => ProgressDrawTarget::stderr(),
            false => ProgressDrawTarget::hidden(),
        };
        let bar = ProgressBar::with_draw_target(None, target);
        if let Ok(style) = ProgressStyle::with_template("{spinner} {prefix} {msg} ({elapsed})") {
            bar.set_style(style);
        }
        if is_terminal {
            bar.enable_steady_tick(TICK);
        }
        Self { bar, objects: AtomicU64::new(0), bytes: AtomicU64::new(0) }
    }
}

impl BackupObserver for BackupProgress {
    fn phase(&self, label: &'static str) {
        self.objects.store(0, Ordering::Relaxed);
        self.bytes.store(0, Ordering::Relaxed);
        self.bar.set_prefix(label);
        tracing::debug!(step = label, "running");
    }

    fn progress(&self, objects: u64, bytes: u64) {
        let objects = self.objects.fetch_add(objects, Ordering::Relaxed) + objects;
        let bytes = self.bytes.fetch_add(bytes, Ordering::Relaxed) + bytes;
        self.bar.set_message(format!("{}, {}", number(objects), size(bytes)));
    }
}

impl BackupOutcome {
    /// Whether nothing is missing.
    fn is_well(&self) -> bool {
        match self {
            Self::Backup(report) => report.missing.is_empty(),
            Self::Restore { fsck, .. } => fsck.left == 0,
            Self::List { .. } | Self::Prune(_) | Self::Purge(_) => true,
        }
    }

    fn plain(&self) -> String {
        match self {
            Self::Backup(report) => plain_backup(report),
            Self::List { snapshots } => snapshots.iter().map(plain_info).collect(),
            Self::Prune(report) => {
                let removed = report.removed.iter().map(|id| format!("removed  {id}\n"));
                let kept = report.kept.iter().map(|id| format!("kept     {id}\n"));
                let blobs = number(report.blobs);
                removed.chain(kept).collect::<String>() + &format!("{blobs} blobs removed\n")
            }
            Self::Restore { restored, fsck } => {
                let RestoreReport { snapshot, records, blobs, bytes, .. } = restored;
                format!(
                    "restored {snapshot}: {} records, {} blobs ({}); fsck: {} damaged, {} left\n",
                    number(*records),
                    number(*blobs),
                    size(*bytes),
                    number(fsck.damage),
                    number(fsck.left)
                )
            }
            Self::Purge(purged) => {
                let snapshots: Vec<_> = purged.snapshots.iter().map(Ulid::to_string).collect();
                format!(
                    "removed from {}: {} records, {} blobs\n",
                    snapshots.join(", "),
                    number(purged.records),
                    number(purged.blobs)
                )
            }
        }
    }
}

fn plain_backup(report: &BackupReport) -> String {
    let mut text = format!(
        "snapshot {}: {} repositories, {} tags, {} records, {} blobs ({}); {} blobs copied ({})\n",
        report.snapshot,
        number(report.repositories),
        number(report.tags),
        number(report.records),
        number(report.blobs),
        size(report.bytes),
        number(report.copied),
        size(report.copied_bytes)
    );
    for missing in &report.missing {
        text += &format!("MISSING  {}: {}\n", missing.content, missing.reason);
    }
    text
}

fn plain_info(info: &BackupInfo) -> String {
    let secrets = if info.with_secrets { ", with secrets" } else { "" };
    let missing = match info.missing {
        0 => String::new(),
        missing => format!(", {} objects MISSING", number(missing)),
    };
    format!(
        "{}  {}  {} tags, {} blobs ({}){secrets}{missing}\n",
        info.snapshot,
        crate::maintenance::rfc3339(info.time),
        number(info.tags),
        number(info.blobs),
        size(info.bytes)
    )
}

impl From<BackupError> for TransferCommandError {
    fn from(error: BackupError) -> Self {
        Self::Backups(error_chain(&error))
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn backups_are_outside_of_the_registry() {
        let of = |text: &str| text.parse::<S3Url>().unwrap();
        let endpoint = "?endpoint=http://127.0.0.1:9000";
        for (one, other, expected) in [
            ("s3://aaa/jreg", "s3://aaa/jreg", true),
            ("s3://aaa/jreg/backups", "s3://aaa/jreg", true),
            ("s3://aaa", "s3://aaa/jreg", true),
            ("s3://aaa/jreg-backups", "s3://aaa/jreg", false),
            ("s3://aaa/backups", "s3://aaa/jreg", false),
            ("s3://bbb/jreg", "s3://aaa/jreg", false),
        ] {
            assert_eq!(is_within_or_around(&of(one), &of(other)), expected, "{one} {other}");
            assert_eq!(is_within_or_around(&of(other), &of(one)), expected, "{one} {other}");
            let elsewhere = of(&format!("{other}{endpoint}"));
            assert!(!is_within_or_around(&of(one), &elsewhere), "{one}");
        }
    }

    #[test]
    fn a_folder_of_somebody_else_is_no_interrupted_start() {
        let folder = tempfile::tempdir().unwrap();
        for name in [".lock", ".run", ".log-0", ".reserve", ".tmp-run-1", "lost+found"] {
            std::fs::write(folder.path().join(name), "").unwrap();
        }
        assert!(is_interrupted_start(folder.path()));
        std::fs::create_dir(folder.path().join(".git")).unwrap();
        assert!(!is_interrupted_start(folder.path()));
    }
}
