//! Work that goes on beside the requests: removing what uploads leave behind.
//!
//! A job may be stopped anywhere, and any number of instances may do the same one at the same
//! time: the registry's own rules keep it safe. The intervals are spread, so that instances that
//! were started together do not work in step.

use std::sync::Arc;
use std::time::Duration;

use jreg_registry::{Reaped, Registry};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use uuid::Uuid;

use crate::metrics::Metrics;

/// The first run comes after this part of an interval, so that a process that never lives for
/// long cleans up too.
const FIRST: f64 = 1.0 / 60.0;

/// The reaper of uploads.
#[derive(Clone, Debug)]
pub struct Reaper {
    /// Where to reap.
    pub registry: Registry,
    /// Where to count.
    pub metrics: Arc<Metrics>,
    /// The mean time between two runs.
    pub interval: Duration,
}

impl Reaper {
    /// Reaps until `stopping`.
    pub fn spawn(self, tasks: &TaskTracker, stopping: CancellationToken) {
        tasks.spawn(async move { stopping.run_until_cancelled(self.run()).await });
    }

    async fn run(self) {
        tokio::time::sleep(self.interval.mul_f64(FIRST * spread())).await;
        loop {
            self.reap().await;
            tokio::time::sleep(self.interval.mul_f64(spread())).await;
        }
    }

    async fn reap(&self) {
        match self.registry.reap_uploads().await {
            Ok(reaped) => self.report(reaped),
            Err(error) => {
                let error = crate::logging::chain(&error);
                tracing::warn!(error, "old uploads could not be listed; trying again later");
            }
        }
    }

    fn report(&self, reaped: Reaped) {
        let Reaped { unfinished, ended, failed } = reaped;
        self.metrics.uploads_expired.inc_by(unfinished);
        if failed > 0 {
            tracing::warn!(unfinished, ended, failed, "some old uploads could not be removed");
        } else if unfinished + ended > 0 {
            tracing::info!(unfinished, ended, "removed what old uploads left behind");
        }
    }
}

/// A random factor around 1.
fn spread() -> f64 {
    let random = u32::try_from(Uuid::new_v4().as_u64_pair().1 & 0xffff).unwrap_or_default();
    0.5 + f64::from(random) / 65536.0
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use jreg_registry::{Chunk, Options};
    use jreg_storage::testing::ManualClock;
    use jreg_storage::{ListRequest, MemoryStore, Store};

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);
    const WEEK: Duration = Duration::from_secs(7 * 24 * 3600);

    #[tokio::test(start_paused = true)]
    async fn reaps_again_and_again_until_it_is_stopped() {
        let clock = Arc::new(ManualClock::default());
        let store = Arc::new(MemoryStore::with_clock(clock.clone()));
        let options = Options::default();
        let registry = Registry::open(store.clone(), clock.clone(), options).await.unwrap();
        let metrics = Arc::new(Metrics::new());
        let (tasks, stopping) = (TaskTracker::new(), CancellationToken::new());
        let job = Reaper { registry: registry.clone(), metrics: metrics.clone(), interval: HOUR };
        job.spawn(&tasks, stopping.clone());
        let repository = registry.repository("a".parse().unwrap());
        for round in 1..=2 {
            let id = repository.upload_start(None);
            repository.upload_append(&id, Chunk::of("x")).await.unwrap();
            clock.advance(WEEK);
            tokio::time::sleep(2 * HOUR).await;
            let left = store.list(&ListRequest::below("uploads/")).await.unwrap();
            assert_eq!(left.entries, []);
            assert_eq!(metrics.uploads_expired.get(), round);
        }
        stopping.cancel();
        tasks.close();
        tasks.wait().await;
    }
}
