//! [`GcJob`]: background garbage collection.
//!
//! Instances that share a bucket take turns by a lease, so that usually one of them works. Safety
//! does not depend on it: two concurrent runs only do the same work twice.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use jreg_registry::{
    Event, EventAction, EventDetail, FsckFinding, GcAction, GcActionKind, GcError, GcObserver,
    GcOptions, GcOutcome, GcPhase, GcReport, Lease, LeaseKind, Registry,
};
use jreg_storage::error_chain;
use jreg_telemetry::audit::{AuditLog, GcAuditRecord};
use jreg_telemetry::metrics::{GaugeGuard, Metrics, RunEnd};
use tokio::time::sleep;

use super::Job;
use super::fsck::detail_of;

/// Duration of the lease.
pub(super) const LEASE: Duration = Duration::from_secs(600);

/// Renewal interval of the lease during a run.
const LEASE_RENEWAL: Duration = Duration::from_secs(180);

#[derive(Clone, Debug)]
pub struct GcJob {
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    /// Where removed tags are recorded.
    pub audit: AuditLog,
    pub options: GcOptions,
    /// Mean interval between runs.
    pub interval: Duration,
    /// Name of this instance in the lease.
    pub holder: String,
    /// Whether other instances may share the store.
    pub is_shared: bool,
}

/// Logs the progress of a run.
#[derive(Debug)]
struct GcLog<'a> {
    audit: &'a AuditLog,
}

impl GcObserver for GcLog<'_> {
    fn phase(&self, phase: GcPhase) {
        tracing::debug!(phase = phase.label(), "running GC");
    }

    fn progress(&self, _objects: u64) {}

    fn action(&self, action: &GcAction, outcome: GcOutcome) {
        let GcAction { kind, key, digest, .. } = action;
        if *kind == GcActionKind::RemoveTag && outcome == GcOutcome::Done {
            self.audit.record_later(&GcAuditRecord::tag_removed(action));
            let digest = digest.as_ref().map(tracing::field::display);
            tracing::warn!(
                key,
                digest,
                "deleted a tag whose manifest was absent for the grace period"
            );
            return;
        }
        if *kind == GcActionKind::EndCopy && outcome == GcOutcome::Done {
            self.audit.record_later(&GcAuditRecord::copy_ended(action));
            let digest = digest.as_ref().map(tracing::field::display);
            tracing::warn!(key, digest, "a deleted manifest ended early: a quota is exceeded");
            return;
        }
        tracing::debug!(?kind, key, ?outcome, "running GC");
    }

    fn finding(&self, finding: &FsckFinding) {
        let (kind, key, detail) = (finding.kind.name(), &finding.key, &finding.detail);
        tracing::error!(kind, key, detail, "damage in the store");
    }
}

impl Job for GcJob {
    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) {
        if !self.is_shared {
            return self.collect().await;
        }
        match self.registry.take_lease(LeaseKind::Gc, &self.holder, LEASE).await {
            Ok(Ok(lease)) => Box::pin(work_under(&self.registry, lease, self.collect())).await,
            Ok(Err(held)) => {
                tracing::debug!(holder = held.holder, "another instance runs GC");
            }
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "cannot start GC; retrying later");
            }
        }
    }
}

impl GcJob {
    async fn collect(&self) {
        let (_running, began) = (GaugeGuard::new(&self.metrics.gc_running), Instant::now());
        let result =
            self.registry.collect_garbage(&self.options, &GcLog { audit: &self.audit }).await;
        report(&self.metrics, &result, began.elapsed());
        record_report(&self.registry, &result, began.elapsed()).await;
    }
}

/// Works for as long as a lease can be renewed.
pub(super) async fn work_under(
    registry: &Registry,
    mut lease: Lease,
    work: impl Future<Output = ()>,
) {
    tokio::pin!(work);
    loop {
        tokio::select! {
            () = &mut work => break,
            () = sleep(LEASE_RENEWAL) => {}
        }
        match registry.renew_lease(lease.clone(), LEASE).await {
            Ok(Some(renewed)) => lease = renewed,
            Ok(None) => {
                tracing::info!("another instance has taken over");
                return;
            }
            // The run continues: safety does not depend on the lease.
            Err(error) => tracing::debug!(error = error_chain(&error), "cannot renew the lease"),
        }
    }
    if let Err(error) = registry.free_lease(lease).await {
        tracing::debug!(error = error_chain(&error), "cannot release the lease; it expires");
    }
}

/// Queues the event of a run that has ended, and notes what it did.
pub(crate) async fn record_report(
    registry: &Registry,
    result: &Result<GcReport, GcError>,
    took: Duration,
) {
    let noted =
        registry.note_gc_run(result.as_ref().map_err(|error| error_chain(error)), took).await;
    if let Err(error) = noted {
        tracing::debug!(error = error_chain(&error), "cannot note what GC did");
    }
    let detail = match result {
        Ok(done) => detail_of(done),
        Err(error) => EventDetail::from_iter([("error".to_owned(), error_chain(error).into())]),
    };
    let event = Event::of_fact(EventAction::GcReport, SystemTime::now(), detail);
    super::record(registry, event).await;
}

/// Counts and logs the result of a run, in the background or by command.
pub(crate) fn report(metrics: &Metrics, result: &Result<GcReport, GcError>, duration: Duration) {
    let duration_s = duration.as_secs_f64();
    match result {
        Ok(done) => {
            metrics.count_gc_run(done, duration);
            tracing::info!(
                duration_s,
                manifests = done.manifests.scanned,
                links = done.links.scanned,
                links_removed = done.links.removed,
                links_withheld = done.links.withheld,
                manifests_removed = done.manifests.removed,
                blobs_removed = done.blobs.removed,
                bytes_removed = done.blobs.removed_bytes,
                bytes_queued = done.queued_bytes,
                deduplicated = done.deduplicated.removed,
                uploads_removed = done.uploads.unfinished + done.uploads.ended,
                "GC completed"
            );
            if done.links.withheld > 0 {
                tracing::warn!(
                    withheld = done.links.withheld,
                    "gc-share-max reached: the rest waits for the next run or jreg gc --force"
                );
            }
        }
        Err(error @ GcError::Damaged { .. }) => {
            metrics.count_failed_gc_run(RunEnd::Damaged);
            tracing::error!(
                error = error_chain(error),
                duration_s,
                "GC failed; nothing was deleted"
            );
        }
        Err(error) => {
            metrics.count_failed_gc_run(RunEnd::Failed);
            tracing::warn!(error = error_chain(error), duration_s, "GC failed; retrying later");
        }
    }
}
