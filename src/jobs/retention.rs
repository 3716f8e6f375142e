//! [`RetentionJob`]: removes the tags that the lifecycle rules do not keep.

use std::sync::Arc;
use std::time::Duration;

use jreg_registry::{
    LeaseKind, LeftRepository, Registry, RemovalOutcome, RetentionError, RetentionObserver,
    RetentionOptions, RetentionReport, RetentionVerdict,
};
use jreg_storage::error_chain;
use jreg_telemetry::audit::{AuditLog, RetentionAuditRecord};
use jreg_telemetry::metrics::{Metrics, RunEnd};

use super::Job;
use super::gc::{LEASE, work_under};

#[derive(Clone, Debug)]
pub struct RetentionJob {
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    /// Where removed tags are recorded.
    pub audit: AuditLog,
    pub options: RetentionOptions,
    /// Mean interval between runs.
    pub interval: Duration,
    /// Name of this instance in the lease.
    pub holder: String,
    /// Whether other instances may share the store.
    pub is_shared: bool,
}

/// Logs what a run removes, in the audit log, too.
pub(crate) struct RetentionLog<'a> {
    pub(crate) audit: &'a AuditLog,
    /// What else sees it.
    pub(crate) next: Option<&'a dyn RetentionObserver>,
}

impl RetentionObserver for RetentionLog<'_> {
    fn verdict(&self, verdict: &RetentionVerdict) {
        let RetentionVerdict { repository, tag, digest, reason, .. } = verdict;
        if verdict.outcome == Some(RemovalOutcome::Removed) {
            self.audit.record_later(&RetentionAuditRecord::tag_removed(verdict));
            let digest = digest.as_ref().map(tracing::field::display);
            tracing::info!(%repository, %tag, digest, reason, "retention removed a tag");
        }
        if let Some(next) = self.next {
            next.verdict(verdict);
        }
    }

    fn left(&self, left: &LeftRepository) {
        let LeftRepository { repository, tags, reason } = left;
        tracing::warn!(%repository, tags, reason, "retention removes no tag of a repository");
        if let Some(next) = self.next {
            next.left(left);
        }
    }
}

impl Job for RetentionJob {
    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) {
        if self.registry.lifecycle().retention().is_empty() {
            return;
        }
        if !self.is_shared {
            return self.remove().await;
        }
        match self.registry.take_lease(LeaseKind::Retention, &self.holder, LEASE).await {
            Ok(Ok(lease)) => Box::pin(work_under(&self.registry, lease, self.remove())).await,
            Ok(Err(held)) => {
                tracing::debug!(holder = held.holder, "another instance runs retention");
            }
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "cannot start retention; retrying later"
                );
            }
        }
    }
}

impl RetentionJob {
    async fn remove(&self) {
        let log = RetentionLog { audit: &self.audit, next: None };
        report_retention(&self.metrics, &self.registry.run_retention(&self.options, &log).await);
    }
}

/// Counts and logs the result of a run, in the background or by command.
pub(crate) fn report_retention(
    metrics: &Metrics,
    result: &Result<RetentionReport, RetentionError>,
) {
    match result {
        Ok(done) => {
            metrics.count_retention_run(done);
            tracing::info!(
                repositories = done.repositories,
                tags = done.tags,
                removed = done.removed,
                protected = done.protected,
                unevaluated = done.unevaluated,
                withheld = done.withheld,
                "retention completed"
            );
        }
        Err(error) => {
            metrics.count_failed_retention_run(RunEnd::Failed);
            tracing::warn!(error = error_chain(error), "retention failed; retrying later");
        }
    }
}
