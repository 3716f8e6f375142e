//! Maintenance: collecting, checking and explaining, asked for by a person.
//!
//! `jreg gc`, `jreg fsck` and `jreg explain` work on the store themselves, or, where a folder is
//! being served, ask the process that serves it, through a socket in the folder (`socket.rs`): one
//! process owns a folder, and nobody has to stop it. Both ways the work is a [`MaintenanceCommand`], which
//! gives [`MaintenanceEvent`]s while it runs, and the same code shows them (`print.rs`).

pub mod command;
pub mod print;
pub mod socket;
mod token;

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jreg_registry::{
    ExplainReport, ExplainRequest, FsckFinding, FsckObserver, FsckOptions, FsckPhase, FsckReport,
    GcAction, GcObserver, GcOptions, GcOutcome, GcPhase, GcReport, Registry,
};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

pub use token::{AccessTokenInfo, AccessTokenReport, AccessTokenRequest};

use jreg_access::AccessTokenStore;
use jreg_storage::error_chain;
use jreg_telemetry::audit::AuditLog;
use jreg_telemetry::audit::command::{AuditedCommand, CommandOutcome, Operator};
use jreg_telemetry::metrics::Metrics;

use crate::jobs::report;

/// How many events may wait to be shown. What is beyond is counted, and that is said.
pub const EVENTS_MAX: usize = 65_536;

/// What a person asks for. What is not said is as the settings of the process that works say.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "command", rename_all = "kebab-case")]
pub enum MaintenanceCommand {
    /// Collect what nothing keeps.
    Gc(GcRequest),
    /// Check what is stored.
    Fsck(FsckRequest),
    /// Say what keeps something.
    Explain(ExplainRequest),
    /// Make, show or revoke access tokens.
    Token(AccessTokenRequest),
}

/// How to collect.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GcRequest {
    /// Instead of `gc-grace`.
    pub grace: Option<Duration>,
    /// Instead of `gc-untagged`.
    pub untagged: Option<Duration>,
    /// Only show what would be done.
    pub dry_run: bool,
    /// Remove whatever share of the links it is.
    pub force: bool,
    /// Sweep, fold and tidy, also if that is not due.
    pub sweep: bool,
    /// Instead of `gc-requests-per-second`; 0 is as many as the store answers.
    pub requests_per_second: Option<u32>,
}

/// How to check.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FsckRequest {
    /// Read and hash all bytes.
    pub deep: bool,
    /// Repair what can be repaired without losing data.
    pub repair: bool,
    /// Begin a deep check anew.
    pub restart: bool,
    /// Instead of `gc-requests-per-second`; 0 is as many as the store answers.
    pub requests_per_second: Option<u32>,
    /// The most bytes a second that a deep check reads; `None`: as many as come.
    pub bytes_per_second: Option<u64>,
}

/// What a command tells while it runs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "event", rename_all = "kebab-case")]
pub enum MaintenanceEvent {
    /// It is at this.
    Phase {
        /// At what.
        label: String,
    },
    /// It has looked at so many more.
    Progress {
        /// Objects.
        objects: u64,
        /// Bytes that were read.
        bytes: u64,
    },
    /// It did something, or would have.
    Action {
        /// What.
        #[serde(flatten)]
        action: GcAction,
        /// What became of it.
        outcome: GcOutcome,
    },
    /// It is about to put something aside, or to mark it as deleted.
    Repairing {
        /// What was found.
        #[serde(flatten)]
        finding: FsckFinding,
        /// The images that need it: `NAME:TAG`, or `NAME@DIGEST` without a tag.
        images: Vec<String>,
    },
    /// It found something.
    Finding(FsckFinding),
    /// So many events are not shown, because nobody took them.
    Omitted {
        /// How many.
        events: u64,
    },
    /// It has come to its end.
    Done(Box<MaintenanceReport>),
    /// It could not come to its end.
    Failed {
        /// Why.
        message: String,
    },
}

/// What a command found and did.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "report", rename_all = "kebab-case")]
#[expect(clippy::large_enum_variant, reason = "a process has one")]
pub enum MaintenanceReport {
    /// Of a collection.
    Gc(GcReport),
    /// Of a check.
    Fsck(FsckReport),
    /// What keeps something.
    Explain(ExplainReport),
    /// Of access tokens.
    Token(AccessTokenReport),
}

/// A registry that commands work on, with what is needed beside it.
#[derive(Clone, Debug)]
pub struct MaintenanceContext {
    /// The registry.
    pub registry: Registry,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// How garbage is collected, where a command does not say otherwise.
    pub gc: GcOptions,
    /// How the store is verified, where a command does not say otherwise.
    pub fsck: FsckOptions,
    /// The access tokens.
    pub(crate) access_tokens: Arc<AccessTokenStore>,
    /// Where it is written what was done.
    pub audit: AuditLog,
}

/// Where events go.
#[derive(Clone, Debug)]
struct EventSender {
    events: mpsc::Sender<MaintenanceEvent>,
    omitted: Arc<AtomicU64>,
}

impl EventSender {
    /// Sends, unless nobody has taken the ones before.
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
    /// Does what a person asks for, and writes what changes something to the audit log. The last event is [`MaintenanceEvent::Done`] or [`MaintenanceEvent::Failed`].
    /// Dropping the future stops the work, which may be stopped anywhere.
    pub async fn run(
        &self,
        command: MaintenanceCommand,
        by: Operator,
        events: mpsc::Sender<MaintenanceEvent>,
    ) {
        let underway = command.audited().filter(|_| self.audit.is_on()).map(|operation| {
            let asked = serde_json::to_value(&command).unwrap_or_default();
            AuditedCommand::new(&self.audit, by, operation, asked)
        });
        let sender = EventSender { events, omitted: Arc::default() };
        let result = Box::pin(self.work(command, &sender)).await;
        if let Some(underway) = underway {
            let outcome =
                if result.is_ok() { CommandOutcome::Done } else { CommandOutcome::Failed };
            underway
                .end(outcome, result.as_ref().ok().and_then(MaintenanceReport::credential))
                .await;
        }
        let last = match result {
            Ok(report) => MaintenanceEvent::Done(Box::new(report)),
            Err(message) => MaintenanceEvent::Failed { message },
        };
        let omitted = sender.omitted.load(Ordering::Relaxed);
        if omitted > 0 {
            sender.events.send(MaintenanceEvent::Omitted { events: omitted }).await.ok();
        }
        // Nobody may be there to hear it any more.
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
                if !options.dry_run {
                    report(&self.metrics, &result, began.elapsed());
                }
                result.map(MaintenanceReport::Gc).map_err(|error| error_chain(&error))
            }
            MaintenanceCommand::Fsck(request) => {
                let options = request.options(&self.fsck);
                let checked = Box::pin(self.registry.fsck(&options, sender)).await;
                checked.map(MaintenanceReport::Fsck).map_err(|error| error_chain(&error))
            }
            MaintenanceCommand::Explain(request) => {
                let answer = Box::pin(self.registry.explain(request, &self.gc)).await;
                answer.map(MaintenanceReport::Explain).map_err(|error| error_chain(&error))
            }
            MaintenanceCommand::Token(request) => {
                let done = token::run(&self.access_tokens, request).await;
                done.map(MaintenanceReport::Token).map_err(|error| error_chain(&error))
            }
        }
    }
}

impl MaintenanceCommand {
    /// Whether it may create a registry where nothing is: an access token can be the first thing.
    fn may_create(&self) -> bool {
        matches!(self, Self::Token(AccessTokenRequest::Create { .. }))
    }

    /// Its name in the audit log, if it changes content or access.
    pub fn audited(&self) -> Option<&'static str> {
        match self {
            Self::Gc(request) => (!request.dry_run).then_some("gc"),
            Self::Fsck(request) => request.repair.then_some("fsck_repair"),
            Self::Explain(_) | Self::Token(AccessTokenRequest::List) => None,
            Self::Token(AccessTokenRequest::Create { .. }) => Some("token_create"),
            Self::Token(AccessTokenRequest::Revoke { .. }) => Some("token_revoke"),
        }
    }
}

impl MaintenanceReport {
    /// The id of the access token that it is about.
    fn credential(&self) -> Option<String> {
        match self {
            Self::Token(report) => report.tokens.first().map(|token| token.id.to_string()),
            Self::Gc(_) | Self::Fsck(_) | Self::Explain(_) => None,
        }
    }
}

impl GcRequest {
    fn options(self, defaults: GcOptions) -> GcOptions {
        GcOptions {
            grace: self.grace.unwrap_or(defaults.grace),
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
            Self::Explain(_) => "explain",
            Self::Token(_) => "token",
        })
    }
}
