//! `jreg upload`: lists and cancels unfinished uploads.

use std::fmt::Write as _;
use std::time::{Duration, SystemTime};

use jreg_registry::{HeldUploads, ListedUpload, ListedUploadState, Registry};
use jreg_storage::error_chain;
use serde::{Deserialize, Serialize};

use super::print::{count, size};
use super::token::day;

/// An operation on uploads.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub enum UploadRequest {
    List,
    Cancel {
        id: String,
    },
    /// All that began so long ago.
    CancelOlder {
        than: Duration,
    },
}

impl UploadRequest {
    /// Whether it changes the store.
    pub(super) fn changes(&self) -> bool {
        !matches!(self, Self::List)
    }
}

/// Result of an operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct UploadReport {
    /// The unfinished uploads, or those that were cancelled.
    pub uploads: Vec<ListedUpload>,
    /// All of these, also those that are not listed.
    pub held: HeldUploads,
    /// Whether these were cancelled.
    pub cancelled: bool,
    /// Number of those that could not be cancelled.
    pub failed: u64,
}

/// Performs the operation.
pub(super) async fn run(
    registry: &Registry,
    request: UploadRequest,
) -> Result<UploadReport, String> {
    let list = registry.list_uploads().await.map_err(|error| error_chain(&error))?;
    let chosen: Vec<&ListedUpload> = match &request {
        UploadRequest::List => {
            let (uploads, held) = (list.uploads, list.held);
            return Ok(UploadReport { uploads, held, cancelled: false, failed: 0 });
        }
        UploadRequest::Cancel { id } => {
            let chosen = list.uploads.iter().find(|upload| upload.id == *id);
            vec![chosen.ok_or_else(|| format!("there is no unfinished upload {id}"))?]
        }
        UploadRequest::CancelOlder { than } => list.older_than(*than, SystemTime::now()).collect(),
    };
    let mut report = UploadReport {
        uploads: Vec::new(),
        held: HeldUploads::default(),
        cancelled: true,
        failed: 0,
    };
    for upload in chosen {
        match registry.cancel_listed_upload(upload).await {
            Ok(()) => {
                report.held.uploads += 1;
                report.held.bytes += upload.bytes;
                report.uploads.push(upload.clone());
            }
            Err(error) if matches!(request, UploadRequest::Cancel { .. }) => {
                return Err(error_chain(&error));
            }
            Err(error) => {
                tracing::warn!(upload = upload.id, error = error_chain(&error), "cannot cancel");
                report.failed += 1;
            }
        }
    }
    Ok(report)
}

/// The result as text.
pub(super) fn plain(report: &UploadReport) -> String {
    let mut text = String::new();
    for upload in &report.uploads {
        let ListedUpload { id, repository, state, started, last_byte, bytes, .. } = upload;
        let repository = repository.as_ref().map_or("-", |name| name.as_str());
        let started = started.map_or_else(|| "-".to_owned(), day);
        let (last, bytes) = (day(*last_byte), size(*bytes));
        let state = state_name(*state);
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{id}  {repository}  {state}  started {started}  last byte {last}  {bytes}"
        );
    }
    let HeldUploads { uploads, bytes } = report.held;
    let (hold, bytes) = (if uploads == 1 { "holds" } else { "hold" }, size(bytes));
    let unfinished = count(uploads, "unfinished upload", "unfinished uploads");
    let uploads = count(uploads, "upload", "uploads");
    let _ = match (report.cancelled, report.failed) {
        (false, _) => writeln!(text, "{unfinished} {hold} {bytes}"),
        (true, 0) => writeln!(text, "{uploads} cancelled, {bytes} freed"),
        (true, failed) => writeln!(text, "{uploads} cancelled, {bytes} freed; {failed} failed"),
    };
    text
}

fn state_name(state: ListedUploadState) -> &'static str {
    match state {
        ListedUploadState::Open => "open",
        ListedUploadState::Cancelled => "cancelled",
        ListedUploadState::Sending => "sending",
        ListedUploadState::Orphan => "orphan",
        ListedUploadState::Unreadable => "unreadable",
    }
}
