//! `jreg usage`: how many bytes repositories hold.

use jreg_oci::RepositoryName;
use jreg_registry::{LIST_KEYS_MAX, PageRequest, Registry, RepositoryUsage};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::MaintenanceEvent;
use super::print::{count, size};

/// Which repositories are counted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageRequest {
    /// The repository of this name, and those below it; `None`: all.
    pub prefix: Option<String>,
}

/// The sum over repositories: content that several of them have is in it several times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UsageReport {
    pub repositories: u64,
    pub manifest_bytes: u64,
    pub blob_bytes: u64,
    pub deleted_bytes: u64,
    pub upload_bytes: u64,
}

impl UsageRequest {
    fn matches(&self, name: &RepositoryName) -> bool {
        let Some(prefix) = &self.prefix else { return true };
        let rest = name.as_str().strip_prefix(prefix.trim_end_matches('/'));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }
}

/// Counts one repository after the other.
pub(super) async fn run(
    registry: &Registry,
    request: &UsageRequest,
    events: &mpsc::Sender<MaintenanceEvent>,
) -> jreg_registry::Result<UsageReport> {
    let (mut report, uploads) = (UsageReport::default(), registry.open_uploads().await?);
    let mut page = PageRequest { limit: LIST_KEYS_MAX, last: None };
    loop {
        let names = registry.catalog(&page).await?;
        for name in names.items.into_iter().filter(|name| request.matches(name)) {
            let usage = registry.repository(name).storage_usage(&uploads).await?;
            report.repositories += 1;
            report.manifest_bytes += usage.manifest_bytes;
            report.blob_bytes += usage.blob_bytes;
            report.deleted_bytes += usage.deleted_bytes;
            report.upload_bytes += usage.upload_bytes;
            // The receiver may have been dropped.
            events.send(MaintenanceEvent::Repository(usage)).await.ok();
        }
        match names.next {
            Some(next) => page.last = Some(next),
            None => return Ok(report),
        }
    }
}

/// One repository as text.
pub(super) fn line(usage: &RepositoryUsage) -> String {
    let RepositoryUsage { repository, manifests, blobs, uploads, unreadable, .. } = usage;
    let held = size(usage.manifest_bytes + usage.blob_bytes);
    let manifests = count(*manifests, "manifest", "manifests");
    let mut line = format!("{repository}  {held}  {manifests}  {}", count(*blobs, "blob", "blobs"));
    if usage.deleted_bytes > 0 {
        line += &format!("  {} deleted and kept", size(usage.deleted_bytes));
    }
    if *uploads > 0 {
        let uploads = count(*uploads, "open upload", "open uploads");
        line += &format!("  {} in {uploads}", size(usage.upload_bytes));
    }
    if *unreadable > 0 {
        line += &format!("  {unreadable} unreadable (jreg fsck)");
    }
    line + "\n"
}

/// The sum as text.
pub(super) fn plain(report: &UsageReport) -> String {
    let held = size(report.manifest_bytes + report.blob_bytes);
    let (deleted, uploads) = (size(report.deleted_bytes), size(report.upload_bytes));
    let repositories = count(report.repositories, "repository", "repositories");
    format!(
        "{repositories}: {held}, {deleted} deleted and kept, {uploads} in open uploads; content of \
         several repositories counts in each\n"
    )
}
