//! [`ExpiredUploadsJob`]: removes expired upload sessions and their data.

use std::sync::Arc;
use std::time::Duration;

use jreg_registry::{ReaperReport, Registry};
use jreg_telemetry::metrics::Metrics;

use super::Job;

#[derive(Clone, Debug)]
pub struct ExpiredUploadsJob {
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    /// Mean interval between runs.
    pub interval: Duration,
}

impl Job for ExpiredUploadsJob {
    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) {
        match self.registry.reap_uploads().await {
            Ok(reaped) => self.report(reaped),
            Err(error) => {
                let error = jreg_storage::error_chain(&error);
                tracing::warn!(error, "cannot list expired uploads; retrying later");
            }
        }
    }
}

impl ExpiredUploadsJob {
    fn report(&self, reaped: ReaperReport) {
        let ReaperReport { unfinished, ended, failed } = reaped;
        self.metrics.uploads_expired.inc_by(unfinished);
        if failed > 0 {
            tracing::warn!(unfinished, ended, failed, "cannot delete some expired uploads");
        } else if unfinished + ended > 0 {
            tracing::info!(unfinished, ended, "deleted expired uploads");
        }
    }
}
