//! Runs `jreg import` and `jreg export` to their end, or until a signal.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jreg_config::Settings;
use jreg_telemetry::audit::command::{AuditedCommand, CommandOutcome, Operator};
use jreg_telemetry::audit::{AuditError, AuditLog};
use jreg_telemetry::metrics::Metrics;
use serde_json::json;
use tokio::signal::unix::{SignalKind, signal};

use super::access::TransferError;
use super::export::{ExportOptions, ExportTarget, Exporter};
use super::import::{ImportOptions, Importer};
use super::landing::BlobLanding;
use super::place::{Place, PlaceError, PlaceUse, check_outside};
use super::progress::{LineOutput, MoveProgress, MoveSummary};
use super::source::{OpenSource, SourceError, SourceSpec};
use crate::options;

/// How long detached work may take after the command has ended.
const RUNTIME_END_MAX: Duration = Duration::from_secs(2);

/// Why a command failed as a whole.
#[derive(Debug, thiserror::Error)]
pub enum TransferCommandError {
    #[error(transparent)]
    Place(#[from] PlaceError),
    #[error(transparent)]
    Source(#[from] SourceError),
    #[error(transparent)]
    Transfer(#[from] TransferError),
    #[error(transparent)]
    Audit(#[from] AuditError),
    /// A store of backups cannot be used.
    #[error("{0}")]
    Backups(String),
    #[error("cannot {what}")]
    System { what: &'static str, source: io::Error },
}

/// How a command ended; `None`: a signal interrupted it.
pub type TransferOutcome = Result<Option<MoveSummary>, TransferCommandError>;

/// Runs work in a runtime of its own, until SIGINT or SIGTERM.
pub(super) fn until_signal<T>(
    work: impl Future<Output = Result<T, TransferCommandError>>,
) -> Result<Option<T>, TransferCommandError> {
    let system = |what| move |source| TransferCommandError::System { what, source };
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let runtime = runtime.map_err(system("start"))?;
    let outcome = runtime.block_on(async {
        let mut terminate = signal(SignalKind::terminate()).map_err(system("wait for signals"))?;
        let mut interrupt = signal(SignalKind::interrupt()).map_err(system("wait for signals"))?;
        tokio::select! {
            done = work => done.map(Some),
            _ = terminate.recv() => Ok(None),
            _ = interrupt.recv() => Ok(None),
        }
    });
    runtime.shutdown_timeout(RUNTIME_END_MAX);
    outcome
}

/// `jreg export`.
///
/// # Errors
///
/// [`TransferCommandError`].
pub fn export(settings: Settings, options: ExportOptions) -> TransferOutcome {
    until_signal(async move {
        if let ExportTarget::Folder(path) | ExportTarget::Tar(path) = &options.target {
            check_outside(&settings, path)?;
        }
        let place = Place::open(&settings, PlaceUse::Read, "export").await?;
        Ok(Box::pin(Exporter::new(place.access(), options).run()).await?)
    })
}

/// `jreg import`.
///
/// # Errors
///
/// [`TransferCommandError`].
pub fn import(settings: Settings, source: SourceSpec, options: ImportOptions) -> TransferOutcome {
    let audit = match options.dry_run {
        true => AuditLog::off(),
        false => AuditLog::open_for_command(&options::audit(&settings), &Arc::new(Metrics::new()))?,
    };
    until_signal(async move {
        let asked = json!({
            "source": source.place,
            "into": options.into.as_ref().map(ToString::to_string),
        });
        let audited =
            audit.is_on().then(|| AuditedCommand::new(&audit, Operator::here(), "import", asked));
        let done = run_import(&settings, source, options).await;
        if let Some(audited) = audited {
            let is_whole = done.as_ref().is_ok_and(|summary| summary.failed == 0);
            let outcome = if is_whole { CommandOutcome::Done } else { CommandOutcome::Failed };
            audited.end(outcome, None, Vec::new()).await;
        }
        audit.flush().await;
        done
    })
}

async fn run_import(
    settings: &Settings,
    source: SourceSpec,
    options: ImportOptions,
) -> Result<MoveSummary, TransferCommandError> {
    let source = source.open(settings).await?;
    // A dry run only reads, if there is anything to read.
    let purpose = if options.dry_run { PlaceUse::Read } else { PlaceUse::Add };
    let place = Place::open(settings, purpose, "import").await?;
    let (target, dry_run) = (place.access(), options.dry_run);
    let progress = Arc::new(MoveProgress::new(options.json, dry_run, LineOutput::Stdout));
    let importer = match source {
        OpenSource::Images(images) => Importer::new(images, target, options, progress),
        OpenSource::Stream { stream, place, options: formats } => {
            let (into, landed) = (options.into.clone(), Arc::clone(&target));
            let landing = BlobLanding::new(landed, Arc::clone(&progress), into, dry_run);
            let landing = Arc::new(landing);
            let tree = stream.receive(Arc::clone(&landing) as _).await;
            let tree = tree.map_err(TransferError::from)?;
            progress.set_spooled(tree.spooled_bytes());
            let images = jreg_archive::open(Box::new(tree), &place, formats).await;
            let images = images.map_err(TransferError::from)?;
            Importer::new(images, target, options, progress).with_landing(landing)
        }
    };
    Ok(Box::pin(importer.run()).await?)
}
