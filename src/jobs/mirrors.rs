//! [`EvictionJob`]: evicts from mirrors what is not pulled any more.

use std::time::Duration;

use jreg_mirror::Mirrors;
use jreg_registry::{LeaseKind, Registry};
use jreg_storage::error_chain;

use super::Job;
use super::gc::{LEASE, work_under};

/// Mean interval between runs.
const INTERVAL: Duration = Duration::from_secs(6 * 3600);

#[derive(Clone, Debug)]
pub struct EvictionJob {
    pub registry: Registry,
    pub mirrors: Mirrors,
    /// Name of this instance in the lease.
    pub holder: String,
    /// Whether other instances may share the store.
    pub is_shared: bool,
}

impl Job for EvictionJob {
    fn interval(&self) -> Duration {
        INTERVAL
    }

    async fn run(&self) {
        if !self.is_shared {
            return self.evict().await;
        }
        match self.registry.take_lease(LeaseKind::Eviction, &self.holder, LEASE).await {
            Ok(Ok(lease)) => Box::pin(work_under(&self.registry, lease, self.evict())).await,
            Ok(Err(held)) => tracing::debug!(holder = held.holder, "another instance evicts"),
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "cannot start eviction; retrying later"
                );
            }
        }
    }
}

impl EvictionJob {
    async fn evict(&self) {
        match self.mirrors.evict().await {
            Ok(done) => tracing::info!(
                manifests = done.manifests,
                evicted = done.evicted,
                evicted_bytes = done.evicted_bytes,
                "eviction from mirrors completed"
            ),
            Err(error) => {
                tracing::warn!(error = error_chain(&error), "eviction failed; retrying later");
            }
        }
    }
}
