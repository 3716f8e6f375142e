//! Maintenance commands: GC, fsck, explain, access tokens, events, uploads and usage.
//!
//! `jreg gc`, `jreg fsck` and `jreg explain` work on the store themselves. For a folder that is
//! being served, they run in the serving process through a socket in the folder (`socket.rs`): one
//! process owns a folder, and it need not be stopped. In both cases the work is a
//! [`MaintenanceCommand`] that emits [`MaintenanceEvent`]s, printed by the same code (`print.rs`).

pub mod command;
mod events;
mod history;
mod list;
mod mirror;
pub mod print;
mod retention;
mod session;
pub mod socket;
mod token;
mod upload;
mod usage;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jreg_mirror::{Mirrors, SyncItem, SyncReport, SyncRequest};
use jreg_registry::{
    ExplainReport, ExplainRequest, FsckFinding, FsckObserver, FsckOptions, FsckPhase, FsckReport,
    GcAction, GcError, GcObserver, GcOptions, GcOutcome, GcPhase, GcReport, HeldUploads,
    LeftRepository, Registry, RepositoryUsage, RetentionOptions, RetentionReport, RetentionVerdict,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use events::{EventsReport, EventsRequest, SinkStatus};
pub(crate) use history::rfc3339;
pub use history::{HistoryReport, HistoryRequest};
pub use list::{ListContentReport, ListContentRequest, ListedContent, ListedManifest};
pub use retention::{ExplainTagReport, ExplainTagRequest, RetentionRequest};
pub use session::{SessionReport, SessionRequest};
pub use token::{AccessTokenInfo, AccessTokenReport, AccessTokenRequest};
pub use upload::{UploadReport, UploadRequest};
pub use usage::{UsageReport, UsageRequest};

use jreg_access::{AccessTokenStore, SessionStore};
use jreg_config::Settings;
use jreg_storage::error_chain;
use jreg_telemetry::audit::command::{AuditedCommand, CommandOutcome, Operator};
use jreg_telemetry::audit::{AuditLog, TagChangeAudit};
use jreg_telemetry::metrics::Metrics;

use crate::jobs::{record, record_report, report};
use crate::support::{self, SupportContext};

/// Maximum number of queued events. Further ones are dropped and counted.
pub const EVENTS_MAX: usize = 65_536;

/// A command. Omitted options have the values of the working process's settings.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum MaintenanceCommand {
    /// Run GC.
    Gc(GcRequest),
    /// Verify the store.
    Fsck(FsckRequest),
    /// Explain why content is kept.
    Explain(ExplainRequest),
    /// Explain what retention does with a tag.
    ExplainTag(ExplainTagRequest),
    /// Remove tags that the lifecycle rules do not keep, or show them.
    Retention(RetentionRequest),
    /// Create, list or revoke access tokens.
    Token(AccessTokenRequest),
    /// End the logins of an identity.
    Session(SessionRequest),
    /// List or cancel unfinished uploads.
    Upload(UploadRequest),
    /// Count what repositories hold.
    Usage(UsageRequest),
    /// List repositories or tags.
    List(ListContentRequest),
    /// Make a support bundle.
    Support,
    /// Show how far the sinks of events are, or send events again.
    Events(EventsRequest),
    /// Fetch images of mirrored registries.
    Mirror(SyncRequest),
    /// Show or restore what tags and manifests were, or remove one for good.
    History(HistoryRequest),
}

/// Options of GC.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRequest {
    /// Instead of `gc-grace`.
    pub grace: Option<Duration>,
    /// Instead of `gc-untagged`.
    pub untagged: Option<Duration>,
    /// Only print what would be deleted.
    pub dry_run: bool,
    /// Ignore `gc-share-max`.
    pub force: bool,
    /// Sweep, deduplicate and tidy even if not due.
    pub sweep: bool,
    /// Instead of `gc-requests-per-second`; 0: no limit.
    pub requests_per_second: Option<u32>,
}

/// Options of fsck.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckRequest {
    /// Read and hash all bytes.
    pub deep: bool,
    /// Repair what can be repaired without loss.
    pub repair: bool,
    /// Restart a deep fsck from the beginning.
    pub restart: bool,
    /// Instead of `gc-requests-per-second`; 0: no limit.
    pub requests_per_second: Option<u32>,
    /// Maximum bytes per second that a deep fsck reads; `None`: no limit.
    pub bytes_per_second: Option<u64>,
}

/// Progress of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum MaintenanceEvent {
    /// A phase began.
    Phase {
        label: String,
    },
    /// More objects were examined.
    Progress {
        objects: u64,
        /// Bytes read.
        bytes: u64,
    },
    /// An action was done, or would be (dry run).
    Action {
        #[serde(flatten)]
        action: GcAction,
        outcome: GcOutcome,
    },
    /// A repair will quarantine an object, or mark it as deleted.
    Repairing {
        #[serde(flatten)]
        finding: FsckFinding,
        /// The affected images: `NAME:TAG`, or `NAME@DIGEST` without a tag.
        images: Vec<String>,
    },
    Finding(FsckFinding),
    /// Retention judged a tag, or removed it.
    Tag(RetentionVerdict),
    /// Retention removes nothing in a repository although rules would.
    Left(LeftRepository),
    /// What one repository holds.
    Repository(RepositoryUsage),
    /// A repository or a tag.
    Listed(ListedContent),
    /// An image of a mirrored registry was fetched, or not.
    Synced(SyncItem),
    /// Events were dropped because the queue was full.
    Omitted {
        events: u64,
    },
    /// The command completed.
    Done(Box<MaintenanceReport>),
    /// The command failed.
    Failed {
        message: String,
    },
}

/// Result of a command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum MaintenanceReport {
    Gc(GcReport),
    Fsck(FsckReport),
    Explain(ExplainReport),
    ExplainTag(ExplainTagReport),
    Retention(RetentionReport),
    Token(AccessTokenReport),
    Session(SessionReport),
    Upload(UploadReport),
    Usage(UsageReport),
    Mirror(SyncReport),
    List(ListContentReport),
    Support(SupportReport),
    Events(EventsReport),
    History(HistoryReport),
}

/// A support bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SupportReport {
    pub bundle: serde_json::Value,
}

/// The registry that commands work on, with its context.
#[derive(Clone, Debug)]
pub struct MaintenanceContext {
    pub registry: Registry,
    /// The mirrors of other registries, if there are any.
    pub mirrors: Option<Mirrors>,
    pub metrics: Arc<Metrics>,
    /// Defaults of GC.
    pub gc: GcOptions,
    /// Defaults of fsck.
    pub fsck: FsckOptions,
    /// Defaults of retention.
    pub retention: RetentionOptions,
    pub(crate) access_tokens: Arc<AccessTokenStore>,
    pub(crate) sessions: Arc<SessionStore>,
    /// Where commands are recorded.
    pub audit: AuditLog,
    /// The settings of this process.
    pub settings: Arc<Settings>,
}

/// Sends events.
#[derive(Clone, Debug)]
struct EventSender {
    events: mpsc::Sender<MaintenanceEvent>,
    omitted: Arc<AtomicU64>,
}

impl EventSender {
    /// Queues an event, or counts it as dropped.
    fn send(&self, event: MaintenanceEvent) {
        if self.events.try_send(event).is_err() {
            self.omitted.fetch_add(1, Ordering::Relaxed);
        }
    }
}

impl GcObserver for EventSender {
    fn phase(&self, phase: GcPhase) {
        self.send(MaintenanceEvent::Phase { label: phase.label().to_owned() });
    }

    fn progress(&self, objects: u64) {
        self.send(MaintenanceEvent::Progress { objects, bytes: 0 });
    }

    fn action(&self, action: &GcAction, outcome: GcOutcome) {
        self.send(MaintenanceEvent::Action { action: action.clone(), outcome });
    }

    fn finding(&self, finding: &FsckFinding) {
        self.send(MaintenanceEvent::Finding(finding.clone()));
    }
}

impl FsckObserver for EventSender {
    fn phase(&self, phase: FsckPhase) {
        self.send(MaintenanceEvent::Phase { label: phase.label().to_owned() });
    }

    fn progress(&self, objects: u64, bytes: u64) {
        self.send(MaintenanceEvent::Progress { objects, bytes });
    }

    fn repairing(&self, finding: &FsckFinding, images: &[String]) {
        self.send(MaintenanceEvent::Repairing {
            finding: finding.clone(),
            images: images.to_vec(),
        });
    }

    fn finding(&self, finding: &FsckFinding) {
        self.send(MaintenanceEvent::Finding(finding.clone()));
    }
}

impl MaintenanceContext {
    /// Runs a command, and writes an audit record if it changes something. The last event is
    /// [`MaintenanceEvent::Done`] or [`MaintenanceEvent::Failed`]. Dropping the future stops the
    /// work at any point.
    pub async fn run(
        &self,
        command: MaintenanceCommand,
        by: Operator,
        events: mpsc::Sender<MaintenanceEvent>,
    ) {
        let underway = command.audited().filter(|_| self.audit.is_on()).map(|operation| {
            let asked = serde_json::to_value(command.summary()).unwrap_or_default();
            AuditedCommand::new(&self.audit, by, operation, asked)
        });
        let sender = EventSender { events, omitted: Arc::default() };
        let result = Box::pin(self.work(command, &sender)).await;
        if let Some(underway) = underway {
            let report = result.as_ref().ok();
            let outcome = match report.is_some_and(|report| !report.has_failed()) {
                true => CommandOutcome::Done,
                false => CommandOutcome::Failed,
            };
            let credential = report.and_then(MaintenanceReport::credential);
            let changes = report.map(MaintenanceReport::changes).unwrap_or_default();
            underway.end(outcome, credential, changes).await;
        }
        if let Ok(MaintenanceReport::History(report)) = &result {
            report.log();
        }
        let last = match result {
            Ok(report) => MaintenanceEvent::Done(Box::new(report)),
            Err(message) => MaintenanceEvent::Failed { message },
        };
        let omitted = sender.omitted.load(Ordering::Relaxed);
        if omitted > 0 {
            sender.events.send(MaintenanceEvent::Omitted { events: omitted }).await.ok();
        }
        // The receiver may have been dropped.
        sender.events.send(last).await.ok();
    }

    async fn work(
        &self,
        command: MaintenanceCommand,
        sender: &EventSender,
    ) -> Result<MaintenanceReport, String> {
        match command {
            MaintenanceCommand::Gc(request) => {
                let (options, began) = (request.options(self.gc.clone()), Instant::now());
                let result = Box::pin(self.registry.collect_garbage(&options, sender)).await;
                let is_refused = result.as_ref().is_err_and(GcError::is_of_options);
                if !options.dry_run && !is_refused {
                    report(&self.metrics, &result, began.elapsed());
                    record_report(&self.registry, &result, began.elapsed()).await;
                }
                let mut done = result.map_err(|error| error_chain(&error))?;
                done.held = self.held_uploads().await?;
                Ok(MaintenanceReport::Gc(done))
            }
            MaintenanceCommand::Fsck(request) => {
                let options = request.options(&self.fsck);
                let checked = Box::pin(self.registry.fsck(&options, sender)).await;
                let mut checked = checked.map_err(|error| error_chain(&error))?;
                checked.held = self.held_uploads().await?;
                Ok(MaintenanceReport::Fsck(checked))
            }
            MaintenanceCommand::Explain(request) => {
                let report = Box::pin(self.registry.explain(request, &self.gc)).await;
                report.map(MaintenanceReport::Explain).map_err(|error| error_chain(&error))
            }
            MaintenanceCommand::ExplainTag(request) => {
                Box::pin(self.explain_tag(request)).await.map(MaintenanceReport::ExplainTag)
            }
            MaintenanceCommand::Retention(request) => {
                let done = Box::pin(self.run_retention(request, sender)).await;
                done.map(MaintenanceReport::Retention)
            }
            MaintenanceCommand::Token(request) => {
                let action = request.event_action();
                let done = token::run(&self.access_tokens, request).await;
                if let (Some(action), Ok(report)) = (action, &done) {
                    record(&self.registry, report.event(action)).await;
                }
                done.map(MaintenanceReport::Token).map_err(|error| error_chain(&error))
            }
            MaintenanceCommand::Session(request) => {
                let done = session::run(&self.sessions, request).await;
                done.map(MaintenanceReport::Session).map_err(|error| error_chain(&error))
            }
            MaintenanceCommand::Upload(request) => {
                let done = Box::pin(upload::run(&self.registry, request)).await;
                done.map(MaintenanceReport::Upload)
            }
            MaintenanceCommand::Usage(request) => {
                let done = Box::pin(usage::run(&self.registry, &request, &sender.events)).await;
                done.map(MaintenanceReport::Usage).map_err(|error| error_chain(&error))
            }
            MaintenanceCommand::List(request) => {
                let done = Box::pin(list::run(&self.registry, request, &sender.events)).await;
                done.map(MaintenanceReport::List).map_err(|error| error_chain(&error))
            }
            MaintenanceCommand::Support => {
                let bundle = Box::pin(support::bundle(&self.support_context())).await;
                Ok(MaintenanceReport::Support(SupportReport { bundle }))
            }
            MaintenanceCommand::Mirror(request) => {
                let done = Box::pin(mirror::run(self.mirrors.as_ref(), &request, sender)).await;
                done.map(MaintenanceReport::Mirror)
            }
            MaintenanceCommand::Events(request) => {
                let done = events::run(&self.registry, request).await;
                done.map(MaintenanceReport::Events).map_err(|error| error_chain(&error))
            }
            MaintenanceCommand::History(request) => {
                let done = Box::pin(history::run(&self.registry, request, self.gc.grace)).await;
                done.map(MaintenanceReport::History).map_err(|error| error_chain(&error))
            }
        }
    }

    fn support_context(&self) -> SupportContext {
        SupportContext {
            registry: self.registry.clone(),
            metrics: Arc::clone(&self.metrics),
            settings: Arc::clone(&self.settings),
        }
    }

    async fn held_uploads(&self) -> Result<HeldUploads, String> {
        let list = Box::pin(self.registry.list_uploads()).await;
        list.map(|list| list.held).map_err(|error| error_chain(&error))
    }
}

impl MaintenanceCommand {
    /// Whether it may create a registry in an empty folder: an access token can be the first
    /// content.
    fn may_create(&self) -> bool {
        matches!(self, Self::Token(AccessTokenRequest::Create { .. }))
    }

    /// The same without the content of files, for the audit log.
    fn summary(&self) -> Self {
        match self {
            Self::Retention(request) => Self::Retention(request.summary()),
            other => other.clone(),
        }
    }

    /// The name in the audit log, if it changes content or access.
    pub fn audited(&self) -> Option<&'static str> {
        match self {
            Self::Gc(request) => (!request.dry_run).then_some("gc"),
            Self::Fsck(request) => request.repair.then_some("fsck_repair"),
            Self::Retention(request) => (!request.preview).then_some("retention"),
            Self::Mirror(request) => (!request.is_dry_run).then_some("mirror_sync"),
            Self::Upload(request) => request.changes().then_some("upload_cancel"),
            Self::Explain(_)
            | Self::ExplainTag(_)
            | Self::Token(AccessTokenRequest::List)
            | Self::Usage(_)
            | Self::List(_)
            | Self::Support => None,
            Self::Token(AccessTokenRequest::Create { .. }) => Some("token_create"),
            Self::Token(AccessTokenRequest::Revoke { .. }) => Some("token_revoke"),
            Self::Session(SessionRequest::Revoke { .. }) => Some("session_revoke"),
            Self::Events(EventsRequest::Status) => None,
            Self::Events(EventsRequest::Replay { .. }) => Some("events_replay"),
            Self::History(request) => request.audited(),
        }
    }
}

impl MaintenanceReport {
    /// A copy without the plan, which is a file of its own; `None`: there is none in it.
    fn without_plan(&self) -> Option<Self> {
        match self {
            Self::Retention(RetentionReport { plan: None, .. }) => None,
            Self::Retention(report) => {
                Some(Self::Retention(RetentionReport { plan: None, ..report.clone() }))
            }
            _ => None,
        }
    }

    /// Whether only a part was done.
    fn has_failed(&self) -> bool {
        matches!(self, Self::History(report) if report.has_failed())
    }

    /// The id of the affected access token.
    fn credential(&self) -> Option<String> {
        match self {
            Self::Token(report) => report.tokens.first().map(|token| token.id.to_string()),
            _ => None,
        }
    }

    /// What became of tags.
    fn changes(&self) -> Vec<TagChangeAudit> {
        match self {
            Self::History(report) => report.audited_changes(),
            _ => Vec::new(),
        }
    }
}

impl GcRequest {
    fn options(self, defaults: GcOptions) -> GcOptions {
        let grace = self.grace.unwrap_or(defaults.grace);
        let keep = defaults.history_keep;
        GcOptions {
            grace,
            // No shorter than the grace, if anything is kept.
            history_keep: if keep.is_zero() { keep } else { keep.max(grace) },
            untagged: self.untagged.or(defaults.untagged),
            share_max_percent: if self.force { 100 } else { defaults.share_max_percent },
            dry_run: self.dry_run,
            sweep_now: self.sweep,
            requests_per_second: self.requests_per_second.unwrap_or(defaults.requests_per_second),
            ..defaults
        }
    }
}

impl FsckRequest {
    fn options(self, defaults: &FsckOptions) -> FsckOptions {
        let rate = self.requests_per_second.unwrap_or(defaults.requests_per_second);
        FsckOptions {
            deep: self.deep,
            repair: self.repair,
            restart: self.restart,
            requests_per_second: rate,
            bytes_per_second: self.bytes_per_second.unwrap_or(0),
            requests_at_once: defaults.requests_at_once,
        }
    }
}

impl fmt::Display for MaintenanceCommand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Gc(_) => "gc",
            Self::Fsck(_) => "fsck",
            Self::Explain(_) | Self::ExplainTag(_) => "explain",
            Self::Retention(_) => "retention",
            Self::Token(_) => "token",
            Self::Session(_) => "session",
            Self::Upload(_) => "upload",
            Self::Usage(_) => "usage",
            Self::Mirror(_) => "mirror sync",
            Self::List(_) => "ls",
            Self::Support => "support",
            Self::Events(_) => "events",
            Self::History(HistoryRequest::TagHistory { .. }) => "tag history",
            Self::History(HistoryRequest::TagRestore { .. }) => "tag restore",
            Self::History(HistoryRequest::ListDeleted { .. }) => "manifest list-deleted",
            Self::History(HistoryRequest::ManifestRestore { .. }) => "manifest restore",
            Self::History(HistoryRequest::Purge { .. }) => "purge",
        })
    }
}
