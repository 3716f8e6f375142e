//! [`FsckJob`]: background deep fsck, which verifies the whole store including blob bytes.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_registry::{
    Event, EventAction, EventDetail, FsckFinding, FsckObserver, FsckOptions, FsckPhase, Registry,
    RepairStatus, Severity,
};
use jreg_storage::error_chain;
use jreg_telemetry::metrics::{Metrics, RunEnd};

use serde::Serialize;
use serde_json::Value;

use super::Job;

#[derive(Clone, Debug)]
pub struct FsckJob {
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    /// Options; background fsck never repairs.
    pub options: FsckOptions,
    /// Mean interval between runs.
    pub interval: Duration,
}

/// Logs findings as they are made.
#[derive(Debug)]
struct FsckLog;

impl FsckObserver for FsckLog {
    fn phase(&self, phase: FsckPhase) {
        tracing::debug!(phase = phase.label(), "running fsck");
    }

    fn progress(&self, _objects: u64, _bytes: u64) {}

    fn finding(&self, finding: &FsckFinding) {
        let (kind, key, detail) = (finding.kind.name(), &finding.key, &finding.detail);
        let repairable = finding.repair == RepairStatus::Possible;
        match finding.kind.severity() {
            Severity::Damage => {
                tracing::error!(kind, key, detail, repairable, "damage in the store")
            }
            Severity::Untidy => {
                tracing::warn!(kind, key, detail, repairable, "inconsistency in the store")
            }
            Severity::Note => tracing::debug!(kind, key, detail, "fsck note"),
        }
    }
}

impl Job for FsckJob {
    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) {
        match self.registry.fsck(&self.options, &FsckLog).await {
            Ok(checked) => {
                self.metrics.count_check(&checked);
                let (objects, damage) = (checked.objects, checked.damage);
                let (untidy, bytes) = (checked.untidy, checked.hashed_bytes);
                tracing::info!(objects, bytes, damage, untidy, "fsck completed");
                let detail = detail_of(&checked);
                let event = Event::of_fact(EventAction::FsckReport, SystemTime::now(), detail);
                super::record(&self.registry, event).await;
            }
            Err(error) => {
                self.metrics.count_failed_check(RunEnd::Failed);
                tracing::warn!(error = error_chain(&error), "fsck failed; retrying later");
            }
        }
    }
}

/// A report as the details of an event.
pub(super) fn detail_of(report: &impl Serialize) -> EventDetail {
    match serde_json::to_value(report) {
        Ok(Value::Object(detail)) => detail,
        _ => EventDetail::new(),
    }
}
