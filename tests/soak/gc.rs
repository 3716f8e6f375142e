//! GC that runs continuously at every instance, with the minimum grace period.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use jreg_registry::{
    BYTES_WAIT_MIN, GRACE_MIN, GcAction, GcActionKind, GcError, GcObserver, GcOptions, GcOutcome,
    GcPhase, GcReport,
};

use crate::soak::cluster::Cluster;
use crate::soak::fault_schedule::{FaultSchedule, count};

/// Options of the GC runs.
pub(crate) fn options(untagged: Duration) -> GcOptions {
    GcOptions {
        grace: GRACE_MIN,
        untagged: Some(untagged),
        history_keep: Duration::ZERO,
        share_max_percent: 100,
        bytes_wait: BYTES_WAIT_MIN,
        requests_at_once: 3,
        sweep_now: true,
        ..GcOptions::default()
    }
}

/// Records the actions of a run.
#[derive(Debug)]
struct GcRunObserver {
    schedule: Arc<FaultSchedule>,
    instance: usize,
}

impl GcObserver for GcRunObserver {
    fn phase(&self, phase: GcPhase) {
        self.schedule.note(|| format!("{} collects: {}", self.instance, phase.label()));
    }

    fn progress(&self, _objects: u64) {}

    fn action(&self, action: &GcAction, outcome: GcOutcome) {
        if outcome == GcOutcome::Done {
            count(match action.kind {
                GcActionKind::DeduplicateLink { .. } => &self.schedule.counts.deduplicated,
                _ => &self.schedule.counts.removed,
            });
        }
        let GcAction { kind, key, .. } = action;
        self.schedule.note(|| format!("{} {kind:?} {key}: {outcome:?}", self.instance));
    }
}

/// Runs GC once at an instance; `None`: it was interrupted.
pub(crate) async fn collect_once(
    cluster: &Cluster,
    instance: usize,
    untagged: Duration,
) -> Option<GcReport> {
    let (options, schedule) = (options(untagged), Arc::clone(&cluster.schedule));
    let watch = GcRunObserver { schedule, instance };
    let run = cluster
        .at(instance, |registry| async move { registry.collect_garbage(&options, &watch).await });
    match run.await {
        Some(Ok(done)) => {
            count(&cluster.schedule.counts.collections);
            Some(done)
        }
        Some(Err(GcError::Registry(jreg_registry::Error::Store(_)))) | None => {
            count(&cluster.schedule.counts.collections_cut);
            None
        }
        Some(Err(error)) => cluster.schedule.violation(&format!("a run fails: {error}"), &[]),
    }
}

/// Runs GC repeatedly.
pub(crate) async fn collect_until_stopped(
    cluster: Arc<Cluster>,
    instance: usize,
    stop: Arc<AtomicBool>,
) {
    while !stop.load(Ordering::SeqCst) {
        let hours = cluster.schedule.rng().below(4);
        collect_once(&cluster, instance, Duration::from_secs(3600 * hours)).await;
        let pause = cluster.schedule.rng().below(20);
        tokio::time::sleep(Duration::from_millis(1 + pause)).await;
    }
}
