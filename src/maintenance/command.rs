//! Runs maintenance commands: on the store, or in the process that serves it.

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use jreg_access::{AccessTokenStore, SessionStore};
use jreg_config::{Settings, StorageLocation};
use jreg_registry::Registry;
use jreg_storage::{Clock, FsOpenError, FsOptions, FsStore, SystemClock};
use jreg_telemetry::audit::command::Operator;
use jreg_telemetry::audit::{AuditError, AuditLog};
use jreg_telemetry::metrics::Metrics;
use tokio::net::UnixStream;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::print::{Shown, ShownEnd, show};
use super::{
    EVENTS_MAX, EventsRequest, MaintenanceCommand, MaintenanceContext, MaintenanceReport, socket,
};
use crate::bucket;
use crate::error::StartError;
use crate::folder::{self, FolderContent, ForeignFolder};
use crate::lifecycle::LifecycleFile;
use crate::store::surrounded;
use crate::{mirrors, options};

/// Maximum wait for a process that is about to release a folder, or about to listen on its socket.
const LOCK_WAIT: Duration = Duration::from_secs(2);

/// Interval of the attempts.
const ATTEMPTS_MAX: u32 = 3;

/// Why a command failed.
#[derive(Debug, thiserror::Error)]
pub enum MaintenanceError {
    /// There is no registry.
    #[error(
        "storage in memory exists only within its process: set --storage to a folder or a bucket"
    )]
    Memory,
    /// The folder does not exist; commands do not create it.
    #[error("folder {folder} does not exist: set --storage to the folder that jreg serves")]
    NoFolder { folder: String },
    /// The folder contains another program's files.
    #[error(transparent)]
    Foreign(#[from] ForeignFolder),
    /// The folder is empty; commands do not create a registry.
    #[error("folder {folder} holds no registry: set --storage to the folder that jreg serves")]
    NoRegistry { folder: String },
    /// The process that serves the folder has no control socket.
    #[error(
        "folder {folder} is in use by process {holder}, which does not respond on its control socket"
    )]
    InUse {
        folder: String,
        /// The process id.
        holder: String,
    },
    #[error(transparent)]
    Start(#[from] StartError),
    /// The audit log cannot be opened, so nothing is done.
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A system call failed.
    #[error("cannot {what}")]
    System { what: &'static str, source: io::Error },
    /// The work was interrupted.
    #[error("{0}")]
    Failed(String),
}

/// Where the command runs.
enum WorkPlace {
    Here(Box<MaintenanceContext>),
    There(UnixStream),
}

/// Outcome of a command, for its exit code.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CommandVerdict {
    Well,
    /// The store has damage, or the requested object does not exist.
    Wrong,
    /// Interrupted by a signal.
    Stopped,
}

/// Runs a command until it ends, or until SIGINT or SIGTERM.
///
/// # Errors
///
/// [`MaintenanceError`].
pub fn run(
    settings: Settings,
    command: MaintenanceCommand,
    shown: Shown,
) -> Result<(CommandVerdict, Option<Box<MaintenanceReport>>), MaintenanceError> {
    let system = |what| move |source| MaintenanceError::System { what, source };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(system("start"))?;
    let metrics = Arc::new(Metrics::new());
    let audit = match command.audited() {
        Some(_) => AuditLog::open_for_command(&options::audit(&settings), &metrics)?,
        None => AuditLog::off(),
    };
    let verdict = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(system("wait for signals"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("wait for signals"))?;
        let verdict = tokio::select! {
            verdict = run_to_end(settings, command, shown, metrics, audit.clone()) => verdict,
            _ = terminate.recv() => Ok((CommandVerdict::Stopped, None)),
            _ = interrupt.recv() => Ok((CommandVerdict::Stopped, None)),
        };
        audit.flush().await;
        verdict
    });
    runtime.shutdown_timeout(LOCK_WAIT);
    verdict
}

async fn run_to_end(
    settings: Settings,
    command: MaintenanceCommand,
    shown: Shown,
    metrics: Arc<Metrics>,
    audit: AuditLog,
) -> Result<(CommandVerdict, Option<Box<MaintenanceReport>>), MaintenanceError> {
    let place = find(settings, &command, metrics, audit).await?;
    let (sender, events) = mpsc::channel(EVENTS_MAX);
    let work = async {
        match place {
            WorkPlace::Here(workshop) => {
                workshop.run(command, Operator::here(), sender).await;
                Ok(())
            }
            WorkPlace::There(stream) => socket::ask(stream, &command, sender).await,
        }
    };
    let mut out = io::stdout();
    let showing = show(events, shown, &mut out);
    tokio::pin!(work, showing);
    let (end, asked) = tokio::select! {
        end = &mut showing => (end, Ok(())),
        asked = &mut work => ((&mut showing).await, asked),
    };
    // The cause precedes the printing error.
    asked.map_err(|source| MaintenanceError::System { what: "receive the output", source })?;
    match end {
        Ok(ShownEnd::Done(report)) => Ok((verdict(&report), Some(report))),
        Ok(ShownEnd::Failed(message)) => Err(MaintenanceError::Failed(message)),
        // The reader of the output has closed it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => {
            Ok((CommandVerdict::Stopped, None))
        }
        Err(source) => Err(MaintenanceError::System { what: "write to standard output", source }),
    }
}

fn verdict(report: &MaintenanceReport) -> CommandVerdict {
    let is_well = match report {
        MaintenanceReport::Upload(report) => report.failed == 0,
        MaintenanceReport::Mirror(report) => report.failed == 0,
        MaintenanceReport::Gc(_)
        | MaintenanceReport::Token(_)
        | MaintenanceReport::Session(_)
        | MaintenanceReport::Usage(_)
        | MaintenanceReport::List(_)
        | MaintenanceReport::Support(_)
        | MaintenanceReport::Events(_) => true,
        MaintenanceReport::History(report) => !report.has_failed(),
        MaintenanceReport::Fsck(checked) => checked.left == 0,
        MaintenanceReport::ExplainTag(report) => report.verdict.is_some(),
        MaintenanceReport::Retention(done) => done.failed == 0,
        MaintenanceReport::Explain(explanation) => !explanation.holdings.is_empty(),
    };
    if is_well { CommandVerdict::Well } else { CommandVerdict::Wrong }
}

async fn find(
    settings: Settings,
    command: &MaintenanceCommand,
    metrics: Arc<Metrics>,
    audit: AuditLog,
) -> Result<WorkPlace, MaintenanceError> {
    match settings.storage.clone() {
        StorageLocation::Memory => Err(MaintenanceError::Memory),
        StorageLocation::Bucket(url) => {
            let access = match command {
                MaintenanceCommand::Gc(_)
                | MaintenanceCommand::Token(_)
                | MaintenanceCommand::Mirror(_)
                | MaintenanceCommand::Session(_) => bucket::BucketAccess::Collect,
                MaintenanceCommand::Fsck(request) if request.repair => {
                    bucket::BucketAccess::Collect
                }
                MaintenanceCommand::Upload(request) if request.changes() => {
                    bucket::BucketAccess::Collect
                }
                MaintenanceCommand::Events(EventsRequest::Replay { .. }) => {
                    bucket::BucketAccess::Collect
                }
                MaintenanceCommand::History(request) if request.changes() => {
                    bucket::BucketAccess::Collect
                }
                MaintenanceCommand::Retention(request) if !request.preview => {
                    bucket::BucketAccess::Collect
                }
                MaintenanceCommand::Fsck(_)
                | MaintenanceCommand::Explain(_)
                | MaintenanceCommand::ExplainTag(_)
                | MaintenanceCommand::Retention(_)
                | MaintenanceCommand::Upload(_)
                | MaintenanceCommand::Usage(_)
                | MaintenanceCommand::List(_)
                | MaintenanceCommand::Support
                | MaintenanceCommand::Events(EventsRequest::Status)
                | MaintenanceCommand::History(_) => bucket::BucketAccess::Look,
            };
            let store = bucket::open(&settings, &url, access).await.map_err(StartError::from)?;
            workshop(settings, store, command.may_create(), metrics, audit).await
        }
        StorageLocation::Folder(path) => {
            check_folder(&path, command.may_create())?;
            find_folder(settings, &path, command.may_create(), metrics, audit).await
        }
    }
}

/// Whether a folder contains a registry, or is empty and the command may create one.
fn check_folder(path: &Path, may_create: bool) -> Result<(), MaintenanceError> {
    let folder = || path.display().to_string();
    let found = folder::look(path).map_err(|source| {
        let what = "read the folder";
        MaintenanceError::System { what, source }
    })?;
    match found {
        FolderContent::Registry => Ok(()),
        FolderContent::Empty if may_create => Ok(()),
        FolderContent::Empty => Err(MaintenanceError::NoRegistry { folder: folder() }),
        FolderContent::Absent => Err(MaintenanceError::NoFolder { folder: folder() }),
        FolderContent::Foreign(foreign) => Err(foreign.into()),
    }
}

/// Runs in the process that serves the folder; if there is none, opens the folder.
async fn find_folder(
    settings: Settings,
    path: &Path,
    may_create: bool,
    metrics: Arc<Metrics>,
    audit: AuditLog,
) -> Result<WorkPlace, MaintenanceError> {
    let folder = path.display().to_string();
    let mut holder = String::new();
    for _ in 0..ATTEMPTS_MAX {
        let connected = socket::connect(path).await;
        let connected = connected.map_err(|source| {
            let what = "connect to the process that serves the folder";
            MaintenanceError::System { what, source }
        })?;
        if let Some(stream) = connected {
            return Ok(WorkPlace::There(stream));
        }
        let options = FsOptions { lock_wait: LOCK_WAIT, ..options::folder(&settings) };
        let path = path.to_owned();
        let opening = tokio::task::spawn_blocking(move || FsStore::open(path, options));
        match opening.await.map_err(io::Error::other).map_err(StartError::from)? {
            Ok(store) => {
                return workshop(settings, Arc::new(store), may_create, metrics, audit).await;
            }
            // The process may be starting or stopping.
            Err(FsOpenError::InUse { holder: process, .. }) => holder = process,
            Err(error) => return Err(StartError::from(error).into()),
        }
    }
    Err(MaintenanceError::InUse { folder, holder })
}

async fn workshop(
    settings: Settings,
    store: Arc<dyn jreg_storage::Store>,
    may_create: bool,
    metrics: Arc<Metrics>,
    audit: AuditLog,
) -> Result<WorkPlace, MaintenanceError> {
    let store = surrounded(store, settings.s3_hedge_reads, &metrics);
    let options = options::registry(&settings);
    let clock: Arc<dyn Clock> = Arc::new(SystemClock::new());
    let access_tokens = Arc::new(AccessTokenStore::new(Arc::clone(&store), Arc::clone(&clock)));
    let sessions = Arc::new(SessionStore::new(Arc::clone(&store), clock.clone()));
    let registry = match may_create {
        true => Registry::open(store, Arc::clone(&clock), options).await,
        false => Registry::open_existing(store, Arc::clone(&clock), options).await,
    };
    let registry = options::with_events(registry.map_err(StartError::from)?, &settings);
    let registry = match settings.lifecycle.clone() {
        Some(path) => {
            let counts = Arc::clone(&metrics);
            let opening = tokio::task::spawn_blocking(move || LifecycleFile::open(path, counts));
            let file = opening.await.map_err(io::Error::other).map_err(StartError::from)?;
            registry.with_rules(file.map_err(StartError::from)?.rules().clone())
        }
        None => registry,
    };
    let (gc, fsck) = (options::gc(&settings), options::fsck(&settings));
    let mirrors = mirrors::open(&settings, &registry, &clock, &metrics).await?;
    Ok(WorkPlace::Here(Box::new(MaintenanceContext {
        mirrors,
        registry,
        metrics,
        gc,
        fsck,
        retention: options::retention(&settings),
        access_tokens,
        sessions,
        audit,
        settings: Arc::new(settings),
    })))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::maintenance::GcRequest;

    async fn fail(storage: StorageLocation) -> String {
        let settings = Settings { storage, ..Settings::default() };
        let shown = Shown { json: false, actions: false };
        let command = MaintenanceCommand::Gc(GcRequest::default());
        let (metrics, audit) = (Arc::new(Metrics::new()), AuditLog::off());
        Box::pin(run_to_end(settings, command, shown, metrics, audit))
            .await
            .unwrap_err()
            .to_string()
    }

    #[tokio::test]
    async fn what_is_not_there_is_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let absent = folder.path().join("absent");
        let message = fail(StorageLocation::Folder(absent.clone())).await;
        assert!(message.contains("does not exist: set --storage"), "{message}");
        assert!(!absent.exists());
        let message = fail(StorageLocation::Memory).await;
        assert!(
            message.starts_with("storage in memory exists only within its process"),
            "{message}"
        );
    }

    #[tokio::test]
    async fn folder_of_a_process_that_cannot_be_asked_is_named_with_it() {
        let folder = tempfile::tempdir().unwrap();
        let options = FsOptions::default();
        let _owner = FsStore::open(folder.path(), options).unwrap();
        let message = fail(StorageLocation::Folder(folder.path().to_owned())).await;
        let process = format!("is in use by process {}", std::process::id());
        assert!(message.contains(&process), "{message}");
    }
}
