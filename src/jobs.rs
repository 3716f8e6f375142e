//! Background jobs: write probes, expired uploads, GC, retention, eviction, prefetch, pull times, fsck, events, reload and
//! certificates.
//!
//! A job may be stopped at any point, and any number of instances may run the same job
//! concurrently: the registry's rules keep it safe. Intervals have jitter, so that instances
//! started together do not run in step.

mod certificates;
mod events;
mod fsck;
mod gc;
mod mirrors;
mod pulls;
mod reload;
mod retention;
mod uploads;
mod usage;
mod write_probe;

use std::time::Duration;

use jreg_profile::{WorkName, work};
use jreg_storage::full_jitter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use certificates::CertificateJob;
pub use events::EventsJob;
pub(crate) use events::{record, spawn_events};
pub use fsck::FsckJob;
pub use gc::GcJob;
pub(crate) use gc::{record_report, report};
pub use mirrors::{EvictionJob, SyncJob};
pub(crate) use pulls::spawn_pulls;
pub use pulls::{PullsJob, PullsMergeJob};
pub use reload::ReloadJob;
pub use retention::RetentionJob;
pub(crate) use retention::{RetentionLog, report_retention};
pub use uploads::ExpiredUploadsJob;
pub use usage::UsageJob;
pub use write_probe::WriteProbeJob;

/// Delay of the first run, as a fraction of the interval, so that short-lived processes run jobs,
/// too.
const FIRST: f64 = 1.0 / 60.0;

/// A periodic job.
pub(crate) trait Job: Send + Sync + 'static {
    /// Mean interval between runs.
    fn interval(&self) -> Duration;

    /// Runs once.
    fn run(&self) -> impl Future<Output = ()> + Send;
}

/// Runs a job periodically until `stopping`.
pub(crate) fn spawn(job: impl Job, tasks: &TaskTracker, stopping: CancellationToken) {
    tasks.spawn(async move { stopping.run_until_cancelled(run_periodically(&job)).await });
}

async fn run_periodically(job: &impl Job) {
    let name = WorkName("job", name_of(job));
    tokio::time::sleep(spread(job.interval().mul_f64(FIRST))).await;
    loop {
        work(name, job.run()).await;
        tokio::time::sleep(spread(job.interval())).await;
    }
}

/// The name of a job's type, without its modules.
fn name_of<J>(_: &J) -> &'static str {
    let name = std::any::type_name::<J>();
    name.rsplit_once("::").map_or(name, |(_, name)| name)
}

/// A random duration between 0.5 and 1.5 times the mean.
fn spread(mean: Duration) -> Duration {
    mean / 2 + full_jitter(mean)
}

#[cfg(test)]
mod tests;
