//! [`UploadReaper`]: removes what uploads leave behind.

use std::sync::Arc;
use std::time::Duration;

use jreg_registry::{ReaperReport, Registry};
use jreg_telemetry::metrics::Metrics;

use super::Job;

/// The reaper of uploads.
#[derive(Clone, Debug)]
pub struct UploadReaper {
    /// Where to reap.
    pub registry: Registry,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// The mean time between two runs.
    pub interval: Duration,
}

impl Job for UploadReaper {
    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) {
        match self.registry.reap_uploads().await {
            Ok(reaped) => self.report(reaped),
            Err(error) => {
                let error = jreg_storage::error_chain(&error);
                tracing::warn!(error, "old uploads could not be listed; trying again later");
            }
        }
    }
}

impl UploadReaper {
    fn report(&self, reaped: ReaperReport) {
        let ReaperReport { unfinished, ended, failed } = reaped;
        self.metrics.uploads_expired.inc_by(unfinished);
        if failed > 0 {
            tracing::warn!(unfinished, ended, failed, "some old uploads could not be removed");
        } else if unfinished + ended > 0 {
            tracing::info!(unfinished, ended, "removed what old uploads left behind");
        }
    }
}
