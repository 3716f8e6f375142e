//! [`EvictionJob`]: evicts from mirrors what is not pulled any more; [`SyncJob`]: fetches what their schedules
//! name.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jreg_mirror::{MirrorSchedule, Mirrors, SyncItem, SyncObserver, SyncOutcome};
use jreg_registry::{LeaseKind, Registry};
use jreg_storage::error_chain;
use jreg_telemetry::metrics::Metrics;
use tokio::time::Instant;

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

/// Fetches what the schedules of the mirrors name.
#[derive(Debug)]
pub struct SyncJob {
    registry: Registry,
    mirrors: Mirrors,
    metrics: Arc<Metrics>,
    /// Name of this instance in the lease.
    holder: String,
    /// Whether other instances may share the store.
    is_shared: bool,
    interval: Duration,
    /// The schedules, each with its last run here.
    schedules: Mutex<Vec<(MirrorSchedule, Option<Instant>)>>,
}

impl SyncJob {
    /// `None`: no mirror has a schedule.
    pub fn new(
        registry: &Registry,
        mirrors: &Mirrors,
        metrics: Arc<Metrics>,
        holder: String,
        is_shared: bool,
    ) -> Option<Self> {
        let schedules = mirrors.schedules();
        let interval = schedules.iter().map(|schedule| schedule.interval).min()?;
        let schedules = Mutex::new(schedules.into_iter().map(|it| (it, None)).collect());
        let (registry, mirrors) = (registry.clone(), mirrors.clone());
        Some(Self { registry, mirrors, metrics, holder, is_shared, interval, schedules })
    }

    /// The schedules that are due, which begin now.
    fn due(&self) -> Vec<MirrorSchedule> {
        let now = Instant::now();
        let mut schedules = self.schedules.lock().unwrap_or_else(PoisonError::into_inner);
        // The time between two runs varies by half of the shortest interval.
        let is_due = |schedule: &MirrorSchedule, last: Option<Instant>| {
            last.is_none_or(|last| now >= last + schedule.interval - self.interval / 2)
        };
        let due = schedules.iter_mut().filter(|(schedule, last)| is_due(schedule, *last));
        due.map(|(schedule, last)| {
            *last = Some(now);
            schedule.clone()
        })
        .collect()
    }

    async fn sync(&self) {
        for schedule in self.due() {
            let observer = SyncLog { metrics: &self.metrics, mirror: &schedule.namespace };
            let done = self.mirrors.sync(&schedule.request, &observer).await;
            tracing::info!(
                mirror = schedule.namespace,
                tags = done.tags,
                manifests_fetched = done.manifests_fetched,
                blobs_fetched = done.blobs_fetched,
                bytes_fetched = done.bytes_fetched,
                failed = done.failed,
                is_limited = done.is_limited,
                "scheduled prefetch completed"
            );
        }
    }
}

impl Job for SyncJob {
    fn interval(&self) -> Duration {
        self.interval
    }

    async fn run(&self) {
        if !self.is_shared {
            return self.sync().await;
        }
        match self.registry.take_lease(LeaseKind::MirrorSync, &self.holder, LEASE).await {
            Ok(Ok(lease)) => Box::pin(work_under(&self.registry, lease, self.sync())).await,
            Ok(Err(held)) => tracing::debug!(holder = held.holder, "another instance prefetches"),
            Err(error) => {
                tracing::warn!(
                    error = error_chain(&error),
                    "cannot start the scheduled prefetch; retrying later"
                );
            }
        }
    }
}

/// Counts what became of each tag, and logs what failed.
struct SyncLog<'a> {
    metrics: &'a Metrics,
    mirror: &'a str,
}

impl SyncObserver for SyncLog<'_> {
    fn note(&self, item: SyncItem) {
        let result = match &item.outcome {
            SyncOutcome::Fetched { .. } => "fetched",
            SyncOutcome::Present | SyncOutcome::Selected { .. } => "present",
            SyncOutcome::Failed { error } => {
                let (repository, tag) = (&item.name, item.tag.as_ref().map(ToString::to_string));
                tracing::warn!(%repository, tag, error, "prefetch failed; retrying at the next run");
                "failed"
            }
        };
        self.metrics.mirror.count_synced(self.mirror, result);
    }
}
