//! Work that goes on beside the requests: removing what uploads leave behind, collecting what
//! nothing keeps, checking what is stored, and renewing the certificate.
//!
//! A job may be stopped anywhere, and any number of instances may do the same one at the same
//! time: the registry's own rules keep it safe. The intervals are spread, so that instances that
//! were started together do not work in step.

mod certificates;
mod fsck;
mod gc;
mod reload;
mod uploads;

use std::time::Duration;

use jreg_storage::full_jitter;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use certificates::CertificateJob;
pub use fsck::FsckJob;
pub use gc::GcJob;
pub(crate) use gc::report;
pub use reload::ReloadJob;
pub use uploads::ExpiredUploadsJob;

/// The first run comes after this part of an interval, so that a process that never lives for
/// long does its part too.
const FIRST: f64 = 1.0 / 60.0;

/// What is done again and again.
pub(crate) trait Job: Send + Sync + 'static {
    /// The mean time between two runs.
    fn interval(&self) -> Duration;

    /// Does it once.
    fn run(&self) -> impl Future<Output = ()> + Send;
}

/// Does a job until `stopping`.
pub(crate) fn spawn(job: impl Job, tasks: &TaskTracker, stopping: CancellationToken) {
    tasks.spawn(async move { stopping.run_until_cancelled(run_periodically(&job)).await });
}

async fn run_periodically(job: &impl Job) {
    tokio::time::sleep(spread(job.interval().mul_f64(FIRST))).await;
    loop {
        job.run().await;
        tokio::time::sleep(spread(job.interval())).await;
    }
}

/// A random duration between half and one and a half times a mean.
fn spread(mean: Duration) -> Duration {
    mean / 2 + full_jitter(mean)
}

#[cfg(test)]
mod tests;
