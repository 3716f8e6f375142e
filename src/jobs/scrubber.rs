//! [`FsckJob`]: checks what is stored, bytes included, slowly and in the background.

use std::sync::Arc;
use std::time::Duration;

use jreg_registry::{CheckOptions, CheckPhase, CheckWatch, Finding, Registry, Repair, Severity};

use super::Job;
use crate::logging::chain;
use crate::metrics::{Metrics, RunEnd};

/// The check of an instance.
#[derive(Clone, Debug)]
pub struct FsckJob {
    /// What to check.
    pub registry: Registry,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// How to check; nothing is mended in the background.
    pub options: CheckOptions,
    /// The mean time between two runs.
    pub interval: Duration,
}

/// Findings are logged as they come.
#[derive(Debug)]
struct Log;

impl CheckWatch for Log {
    fn phase(&self, phase: CheckPhase) {
        tracing::debug!(phase = phase.label(), "running fsck");
    }

    fn progress(&self, _objects: u64, _bytes: u64) {}

    fn finding(&self, finding: &Finding) {
        let (kind, key, detail) = (finding.kind.name(), &finding.key, &finding.detail);
        let mendable = finding.repair == Repair::Possible;
        match finding.kind.severity() {
            Severity::Damage => tracing::error!(kind, key, detail, mendable, "damage in the store"),
            Severity::Untidy => {
                tracing::warn!(kind, key, detail, mendable, "inconsistency in the store")
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
        match self.registry.check(&self.options, &Log).await {
            Ok(checked) => {
                self.metrics.count_check(&checked);
                let (objects, damage) = (checked.objects, checked.damage);
                let (untidy, bytes) = (checked.untidy, checked.hashed_bytes);
                tracing::info!(objects, bytes, damage, untidy, "fsck completed");
            }
            Err(error) => {
                self.metrics.count_failed_check(RunEnd::Failed);
                tracing::warn!(error = chain(&error), "fsck failed; retrying later");
            }
        }
    }
}
