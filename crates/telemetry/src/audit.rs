//! [`AuditLog`]: one JSON line for each decision about who may do what, and for each command of an
//! operator (`command.rs`). `docs/audit.md` says which, and what is in a line.
//!
//! - A line is written before the client has its answer: who waits for [`AuditLog::record`] knows
//!   that the operating system has it.
//! - One thread writes. Lines wait for it in a queue of [`LINES_WAITING_MAX`]; when that is full,
//!   requests wait, and nothing is thrown away.
//! - A file is only ever appended to, and is opened again when it was renamed or removed: each line
//!   is whole, and in exactly one of the files.
//! - Availability goes before the audit: what cannot be written is counted and said in the log, and
//!   the request is answered.

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

/// The most lines that wait to be written. Then requests wait.
pub const LINES_WAITING_MAX: usize = 1024;
/// The most lines that are written at once.
const BATCH_LINES_MAX: usize = 256;

/// What an operator can set about the audit log.
#[derive(Clone, Debug, Default)]
pub struct AuditOptions {
    /// Where decisions are written.
    pub target: AuditTarget,
    /// Whether allowed reads are written, too.
    pub reads: bool,
}

/// Where decisions are written.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum AuditTarget {
    /// Nowhere.
    #[default]
    Off,
    /// To standard output.
    Stdout,
    /// To standard error, among the lines of the log.
    Stderr,
    /// To the end of this file.
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

/// A decision, as it stands in a line.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct AuditRecord {
    /// When the line was made (RFC 3339, UTC).
    pub time: String,
    /// The request.
    pub request_id: String,
    /// `login` or `access`.
    pub event: &'static str,
    /// Who asked, if that was found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub identity: Option<String>,
    /// By what it was found out: `htpasswd`, `access-token`, `issuer`, `certificate` or `anonymous`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub source: Option<&'static str>,
    /// The id of the access token, or the name of the issuer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub credential: Option<String>,
    /// The name that came with a password. Anybody can say any.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed: Option<String>,
    /// The operation, by its name in the OpenAPI document.
    pub operation: &'static str,
    /// The right that it needs: `pull`, `push`, `delete`, `list` or `login`.
    pub action: &'static str,
    /// The repository.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub repository: Option<String>,
    /// The tag or digest.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// The tags that a push by digest sets besides.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// The upload session.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub upload: Option<String>,
    /// Where a blob is to be mounted from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mount_from: Option<String>,
    /// Where a blob was mounted from.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mounted_from: Option<String>,
    /// The digest of the manifest that was pushed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub digest: Option<String>,
    /// The tags that were removed with a manifest, the first of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tags_removed: Vec<String>,
    /// How many they were.
    #[serde(skip_serializing_if = "is_zero")]
    pub tags_removed_count: usize,
    /// The address of the client.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client: Option<String>,
    /// The trusted proxy that said so: the other end of the connection.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// Whether it was allowed.
    pub allowed: bool,
    /// By which rule it was allowed, or why it was not.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rule: Option<String>,
    /// The status of the answer.
    pub status: u16,
}

/// Where decisions are written.
#[derive(Clone, Debug)]
pub struct AuditLog(Option<Arc<AuditQueue>>);

#[derive(Debug)]
struct AuditQueue {
    queue: mpsc::Sender<WriterOrder>,
    reads: bool,
    is_file: bool,
    metrics: Arc<Metrics>,
}

/// What the writer is to do.
#[derive(Debug)]
enum WriterOrder {
    /// Write a line, then say so.
    Write(Vec<u8>, oneshot::Sender<()>),
    /// Open the file again.
    Reopen,
    /// Say when everything that came before is done with.
    Flush(oneshot::Sender<()>),
}

/// Why there can be no audit log.
#[derive(Debug, thiserror::Error)]
pub enum AuditError {
    /// The file cannot be opened.
    #[error("cannot open the audit log {target}")]
    Open {
        /// The file.
        target: String,
        /// Why.
        source: io::Error,
    },
    /// There is no thread to write it.
    #[error("cannot start the audit log writer")]
    Thread(#[source] io::Error),
}

impl AuditLog {
    /// As the options say. Blocks as a disk does.
    ///
    /// # Errors
    ///
    /// [`AuditError`].
    pub fn open(options: &AuditOptions, metrics: &Arc<Metrics>) -> Result<Self, AuditError> {
        Self::to(&options.target, options, metrics)
    }

    /// As the options say, for a command: a standard stream is the server's. Blocks as a disk does.
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

    /// One that takes nothing.
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

    /// Whether decisions are written.
    pub fn is_on(&self) -> bool {
        self.0.is_some()
    }

    /// Whether allowed reads are written, too.
    pub fn takes_reads(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.reads)
    }

    /// Whether it goes to a file, which can be rotated.
    pub fn is_file(&self) -> bool {
        self.0.as_ref().is_some_and(|inner| inner.is_file)
    }

    /// Writes a line. Once this returns, the operating system has it, or the failure is counted.
    pub async fn record(&self, entry: &impl Serialize) {
        let Some(inner) = &self.0 else { return };
        let (done, written) = oneshot::channel();
        let queued = inner.queue.send(WriterOrder::Write(line(entry), done)).await.is_ok();
        if !queued || written.await.is_err() {
            inner.metrics.count_audit("failed", 1);
            tracing::error!("the audit log writer has ended: a line is lost");
        }
    }

    /// Writes a line soon. For who cannot wait.
    pub fn record_later(&self, entry: &impl Serialize) {
        let Some(inner) = &self.0 else { return };
        let (done, _) = oneshot::channel();
        if inner.queue.try_send(WriterOrder::Write(line(entry), done)).is_err() {
            inner.metrics.count_audit("failed", 1);
            tracing::error!("the audit log queue is full: a line is lost");
        }
    }

    /// Waits until everything that was recorded is written, or cannot be.
    pub async fn flush(&self) {
        if let Some(inner) = &self.0 {
            let (done, written) = oneshot::channel();
            if inner.queue.send(WriterOrder::Flush(done)).await.is_ok() {
                // Whoever ended has said so.
                let _ = written.await;
            }
        }
    }

    /// Opens the file again, so that it is there even if nothing is written.
    pub async fn reopen(&self) {
        if let Some(inner) = &self.0 {
            // Whoever ended has said so.
            let _ = inner.queue.send(WriterOrder::Reopen).await;
        }
    }
}

fn is_zero(count: &usize) -> bool {
    *count == 0
}

/// A tag that GC removed in the background because its manifest had been absent for the grace.
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
    /// The tag is the last part of the key that the action names.
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
}

fn line(entry: &impl Serialize) -> Vec<u8> {
    let mut line = serde_json::to_vec(entry).expect("an entry is plain JSON");
    line.push(b'\n');
    line
}

/// Writes what comes, until nobody is left to send anything.
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
        // Once until it works again: the log must not grow by what the other one cannot take.
        if let Err(error) = &result
            && !is_failing
        {
            let lost = lines.len() - written;
            tracing::error!(%error, lost, "the audit log cannot be written");
        }
        is_failing = result.is_err();
        for done in waiting {
            // Who does not wait any more need not know.
            let _ = done.send(());
        }
    }
}

#[cfg(test)]
mod tests;
