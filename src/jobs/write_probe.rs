//! [`WriteProbeJob`]: writes a record where nothing was written for a while, so that alerts learn of a store that
//! takes no writes before a client does.

use std::sync::Arc;
use std::time::Duration;

use jreg_registry::Registry;
use jreg_storage::error_chain;
use jreg_telemetry::metrics::Metrics;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// How long no write may have been made before one is made.
const WRITE_AGE_MAX: Duration = Duration::from_secs(30);

/// Makes writes where clients make none.
#[derive(Clone, Debug)]
pub struct WriteProbeJob {
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
}

impl WriteProbeJob {
    /// Probes until `stopping`.
    pub(crate) fn spawn(self, tasks: &TaskTracker, stopping: CancellationToken) {
        tasks.spawn(async move {
            let probing = async {
                loop {
                    tokio::time::sleep(WRITE_AGE_MAX).await;
                    self.probe().await;
                }
            };
            stopping.run_until_cancelled(probing).await
        });
    }

    /// Writes, unless something else was written lately. What observes the store notes the outcome.
    async fn probe(&self) {
        if self.metrics.store_write_age().is_some_and(|age| age < WRITE_AGE_MAX) {
            return;
        }
        if let Err(error) = self.registry.probe_write().await {
            tracing::warn!(error = error_chain(&error), "the store does not take writes");
        }
    }
}
