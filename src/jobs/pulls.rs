//! [`PullsJob`]: writes down what was pulled from this instance; [`PullsMergeJob`]: merges what all instances have
//! written.
//!
//! Merging has a lease of its own and is no part of GC: GC may be off, takes hours, and stops while a manifest cannot be
//! read; pull times would pile up meanwhile. Only what is known of deleted tags is left to a GC sweep, which lists all
//! tags anyway.

use std::sync::Arc;
use std::time::Duration;

use jreg_profile::{WorkName, work};
use jreg_registry::{LeaseKind, PULLS_FLUSH_INTERVAL, PULLS_MERGE_INTERVAL, Registry, Result};
use jreg_storage::error_chain;
use jreg_telemetry::metrics::Metrics;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::gc::{LEASE, work_under};
use super::{Job, spread};

/// Time before a failed write is retried.
const RETRY: Duration = Duration::from_secs(30);
/// Maximum time of the last write of a process.
const LAST_WRITE_MAX: Duration = Duration::from_secs(5);

/// Writes down what was pulled from this instance.
#[derive(Clone, Debug)]
pub struct PullsJob {
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
}

/// Merges what all instances have written.
#[derive(Clone, Debug)]
pub struct PullsMergeJob {
    pub registry: Registry,
    pub metrics: Arc<Metrics>,
    /// Name of this instance in the lease.
    pub holder: String,
    /// Whether other instances may share the store.
    pub is_shared: bool,
}

/// Runs the job until `stopping`, and once more then.
pub(crate) fn spawn_pulls(job: PullsJob, tasks: &TaskTracker, stopping: CancellationToken) {
    tasks.spawn(async move {
        let running = work(WorkName("job", "PullsJob"), job.run());
        stopping.run_until_cancelled(running).await;
        job.write_last().await;
    });
}

impl PullsJob {
    async fn run(&self) {
        loop {
            if !self.write().await {
                sleep(spread(RETRY)).await;
            }
            // Nothing waits for its result: whoever is faster wins.
            drop(timeout(PULLS_FLUSH_INTERVAL, self.registry.pulls_full()).await);
        }
    }

    /// Writes what a process has left when it ends.
    pub(crate) async fn write_last(&self) {
        if timeout(LAST_WRITE_MAX, self.write()).await.is_err() {
            tracing::warn!("the store is too slow: the last pulls were lost");
        }
    }

    async fn write(&self) -> bool {
        let written = self.try_write().await;
        if let Err(error) = &written {
            let error = error_chain(error);
            tracing::warn!(error, "cannot write when tags were pulled; retrying later");
        }
        written.is_ok()
    }

    async fn try_write(&self) -> Result<()> {
        let written = async {
            self.registry.update_pulls_since().await?;
            self.registry.flush_pulls().await
        };
        let written = written.await;
        match &written {
            Ok(flushed) => self.metrics.count_pulls_written(flushed.times),
            Err(_) => self.metrics.count_failed_pulls_write(),
        }
        written.map(drop)
    }
}

impl Job for PullsMergeJob {
    fn interval(&self) -> Duration {
        PULLS_MERGE_INTERVAL
    }

    async fn run(&self) {
        if !self.registry.tracks_pulls() {
            return;
        }
        if !self.is_shared {
            return self.merge().await;
        }
        match self.registry.take_lease(LeaseKind::Pulls, &self.holder, LEASE).await {
            Ok(Ok(lease)) => Box::pin(work_under(&self.registry, lease, self.merge())).await,
            Ok(Err(held)) => {
                tracing::debug!(holder = held.holder, "another instance merges pull times");
            }
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(error, "cannot merge pull times; retrying later");
            }
        }
    }
}

impl PullsMergeJob {
    async fn merge(&self) {
        let merged = self.registry.merge_pulls().await;
        self.metrics.count_pulls_merge(merged.is_ok());
        match merged {
            Ok(merged) => {
                let (objects, shards) = (merged.objects, merged.shards);
                tracing::debug!(objects, shards, "merged pull times");
            }
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(error, "cannot merge pull times; retrying later");
            }
        }
    }
}
