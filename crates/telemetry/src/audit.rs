//! [`AuditLog`]: one JSON line per authentication or authorization decision, and per operator
//! command (`command.rs`). `docs/audit.md` describes the lines.
//!
//! - A line is written before the response: when [`AuditLog::record`] returns, the operating system
//!   has it.
//! - One thread writes. Its queue has [`LINES_WAITING_MAX`] lines; when it is full, requests wait,
//!   and no line is dropped.
//! - A file is only appended to, and is reopened when it was renamed or removed: each line is
//!   whole, and in exactly one of the files.
//! - Availability takes precedence over auditing: a line that cannot be written is counted and
//!   reported in the log, and the request is served.

pub mod command;
mod output;

use std::fmt;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;

use chrono::{SecondsFormat, Utc};
use serde::Serialize;
use tokio::sync::{mpsc, oneshot};

use crate::metrics::Metrics;

use output::AuditOutput;

/// Maximum number of queued lines. Further requests wait.
pub const LINES_WAITING_MAX: usize = 1024;
/// Maximum number of lines per write.
const BATCH_LINES_MAX: usize = 256;

/// Options of the audit log.
#[derive(Clone, Debug, Default)]
pub struct AuditOptions {
    pub target: AuditTarget,
    /// Whether allowed reads are recorded.
    pub reads: bool,
}

/// Destination of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuditTarget {
    /// Disabled.
    #[default]
    Off,
    Stdout,
    /// Standard error, shared with the log.
    Stderr,
    /// Appended to this file.
    File(PathBuf),
}

impl fmt::Display for AuditTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Off => f.write_str("off"),
            Self::Stdout => f.write_str("stdout"),
            Self::Stderr => f.write_str("stderr"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// A line of the audit log.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditRecord {
    /// Time of the record (RFC 3339, UTC).
    pub time: String,
    pub request_id: String,
    /// `login` or `access`.
    pub event: &'static str,
    /// The identity, if it was authenticated.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// How it was authenticated: `htpasswd`, `access-token`, `issuer`, `certificate` or
    /// `anonymous`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
    /// The id of the access token, or the name of the issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The user name of the credentials, not verified.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
    /// Operation id in the OpenAPI document.
    pub operation: &'static str,
    /// The required right: `pull`, `push`, `delete`, `list` or `login`.
    pub action: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The tag or digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Additional tags set by a push by digest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The upload session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// Requested source repository of a mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_from: Option<String>,
    /// Actual source repository of a mount.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounted_from: Option<String>,
    /// Digest of the pushed manifest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// What became of the first of the tags.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tag_changes: Vec<TagChangeAudit>,
    /// Number of tags that were set or removed.
    #[serde(skip_serializing_if = "is_zero")]
    pub tag_changes_count: usize,
    /// The first of the tags that were removed with a manifest.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags_removed: Vec<String>,
    /// Number of removed tags.
    #[serde(skip_serializing_if = "is_zero")]
    pub tags_removed_count: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The trusted proxy that named the client: the peer address.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Whether it was allowed.
    pub allowed: bool,
    /// The rule that allowed it, or why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The status code of the response.
    pub status: u16,
}

/// What became of a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TagChangeAudit {
    pub tag: String,
    /// The change by which it is what it is now.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// The digest that it pointed to before; `None`: it did not exist.
    pub before: Option<String>,
    /// The digest that it points to now; `None`: it was deleted.
    pub after: Option<String>,
}

impl From<&jreg_registry::TagTransition> for TagChangeAudit {
    fn from(transition: &jreg_registry::TagTransition) -> Self {
        let text = |digest: &Option<_>| digest.as_ref().map(ToString::to_string);
        Self {
            tag: transition.tag.to_string(),
            change: Some(transition.change.to_string()),
            before: text(&transition.before),
            after: text(&transition.after),
        }
    }
}

#[derive(Clone, Debug)]
pub struct AuditLog(Option<Arc<AuditQueue>>);

#[derive(Debug)]
struct AuditQueue {
    queue: mpsc::Sender<WriterOrder>,
    reads: bool,
    is_file: bool,
    metrics: Arc<Metrics>,
}

/// A message to the writer thread.
#[derive(Debug)]
enum WriterOrder {
    /// Write a line, then signal.
    Write(Vec<u8>, oneshot::Sender<()>),
    /// Reopen the file.
    Reopen,
    /// Signal when all earlier lines are written.
    Flush(oneshot::Sender<()>),
}

/// Why the audit log cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    #[error("cannot open the audit log {target}")]
    Open { target: String, source: io::Error },
    /// The writer thread cannot be started.
    #[error("cannot start the audit log writer")]
    Thread(#[source] io::Error),
}

impl AuditLog {
    /// Opens the audit log. Blocks on disk I/O.
    ///
    /// # Errors
    ///
    /// [`AuditError`].
    pub fn open(options: &AuditOptions, metrics: &Arc<Metrics>) -> Result<Self, AuditError> {
        Self::to(&options.target, options, metrics)
    }

    /// Opens the audit log for a command: standard streams are left to the server. Blocks on disk
    /// I/O.
    ///
    /// # Errors
    ///
    /// [`AuditError`].
    pub fn open_for_command(
        options: &AuditOptions,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, AuditError> {
        Self::to(command::of_commands(&options.target), options, metrics)
    }

    /// A disabled audit log.
    pub fn off() -> Self {
        Self(None)
    }

    fn to(
        target: &AuditTarget,
        options: &AuditOptions,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, AuditError> {
        let opened = AuditOutput::open(target);
        let opened =
            opened.map_err(|source| AuditError::Open { target: target.to_string(), source })?;
        let Some(output) = opened else { return Ok(Self(None)) };
        let is_file = matches!(target, AuditTarget::File(_));
        let (queue, orders) = mpsc::channel(LINES_WAITING_MAX);
        let counts = Arc::clone(metrics);
        std::thread::Builder::new()
            .name("audit".to_owned())
            .spawn(move || write(output, orders, &counts))
            .map_err(AuditError::Thread)?;
        let (reads, metrics) = (options.reads, Arc::clone(metrics));
        Ok(Self(Some(Arc::new(AuditQueue { queue, reads, is_file, metrics }))))
    }

    /// Whether anything is recorded.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether allowed reads are recorded.
    pub fn takes_reads(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.reads)
    }

    /// Whether the destination is a file, which can be rotated.
    pub fn is_file(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.is_file)
    }

    /// Writes a line. When this returns, the operating system has it, or the failure is counted.
    pub async fn record(&self, entry: &impl Serialize) {
        let Some(inner) = &self.0 else { return };
        let (done, written) = oneshot::channel();
        let queued = inner.queue.send(WriterOrder::Write(line(entry), done)).await.is_ok();
        if !queued || written.await.is_err() {
            inner.metrics.count_audit("failed", 1);
            tracing::error!("the audit log writer has ended: a line is lost");
        }
    }

    /// Queues a line without waiting.
    pub fn record_later(&self, entry: &impl Serialize) {
        let Some(inner) = &self.0 else { return };
        let (done, _) = oneshot::channel();
        if inner.queue.try_send(WriterOrder::Write(line(entry), done)).is_err() {
            inner.metrics.count_audit("failed", 1);
            tracing::error!("the audit log queue is full: a line is lost");
        }
    }

    /// Waits until all earlier lines are written or have failed.
    pub async fn flush(&self) {
        if let Some(inner) = &self.0 {
            let (done, written) = oneshot::channel();
            if inner.queue.send(WriterOrder::Flush(done)).await.is_ok() {
                // The writer logs why it ended.
                let _ = written.await;
            }
        }
    }

    /// Reopens the file, so that it exists even if nothing is written.
    pub async fn reopen(&self) {
        if let Some(inner) = &self.0 {
            // The writer logs why it ended.
            let _ = inner.queue.send(WriterOrder::Reopen).await;
        }
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A tag that background GC removed because its manifest was absent for the grace period; or a deleted manifest that
/// cannot be restored any more, although its time was not over.
#[derive(Debug, Serialize)]
pub struct GcAuditRecord {
    time: String,
    event: &'static str,
    operation: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    repository: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
}

impl GcAuditRecord {
    /// The tag is the last part of the key.
    pub fn tag_removed(action: &jreg_registry::GcAction) -> Self {
        Self {
            time: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            event: "gc",
            operation: "tag_remove",
            repository: action.repository.as_ref().map(ToString::to_string),
            reference: action.key.rsplit('/').next().map(str::to_owned),
            digest: action.digest.as_ref().map(ToString::to_string),
        }
    }

    /// The copy of a deleted manifest ended early.
    pub fn copy_ended(action: &jreg_registry::GcAction) -> Self {
        Self { operation: "deleted_manifest_end", reference: None, ..Self::tag_removed(action) }
    }
}

/// A tag that retention removed.
#[derive(Debug, Serialize)]
pub struct RetentionAuditRecord {
    time: String,
    event: &'static str,
    operation: &'static str,
    repository: String,
    reference: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    digest: Option<String>,
    reason: String,
}

impl RetentionAuditRecord {
    pub fn tag_removed(verdict: &jreg_registry::RetentionVerdict) -> Self {
        Self {
            time: Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true),
            event: "retention",
            operation: "tag_remove",
            repository: verdict.repository.to_string(),
            reference: verdict.tag.to_string(),
            digest: verdict.digest.as_ref().map(ToString::to_string),
            reason: verdict.reason.clone(),
        }
    }
}

fn line(entry: &impl Serialize) -> Vec<u8> {
    let line = serde_json::to_string(entry).expect("an entry is plain JSON");
    let mut line = crate::logging::escaped(&line).into_owned().into_bytes();
    line.push(b'\n');
    line
}

/// Writes queued lines until all senders are dropped.
fn write(mut output: AuditOutput, mut orders: mpsc::Receiver<WriterOrder>, metrics: &Metrics) {
    let mut is_failing = false;
    while let Some(first) = orders.blocking_recv() {
        let (mut lines, mut waiting, mut reopens) = (Vec::new(), Vec::new(), false);
        let more = std::iter::from_fn(|| orders.try_recv().ok()).take(BATCH_LINES_MAX - 1);
        for order in std::iter::once(first).chain(more) {
            match order {
                WriterOrder::Write(line, done) => {
                    lines.push(line);
                    waiting.push(done);
                }
                WriterOrder::Reopen => reopens = true,
                WriterOrder::Flush(done) => waiting.push(done),
            }
        }
        let (written, result) = output.write(&lines, reopens);
        metrics.count_audit("written", written);
        metrics.count_audit("failed", lines.len() - written);
        // Logged once until it recovers: the log must not grow with the lines that the audit log
        // loses.
        if let Err(error) = &result
            && !is_failing
        {
            let lost = lines.len() - written;
            tracing::error!(%error, lost, "the audit log cannot be written");
        }
        is_failing = result.is_err();
        for done in waiting {
            // The receiver may have been dropped.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests;
