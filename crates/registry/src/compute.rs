//! [`ComputePool`]: work on many bytes that must not keep the runtime's threads from other requests.

use std::sync::Arc;

use jreg_profile::WorkName;
use tokio::sync::Semaphore;

use crate::{Error, Result};

/// What profiles call it.
const WORK: WorkName = WorkName("hash and parse", "");

/// Work on so many bytes or fewer is done where it is: it takes less than to hand it over would.
pub(crate) const INLINE_BYTES_MAX: usize = 64 * 1024;

/// A bound on how much is hashed and parsed at the same time, on threads beside the runtime's.
#[derive(Clone, Debug)]
pub(crate) struct ComputePool {
    slots: Arc<Semaphore>,
}

impl ComputePool {
    /// As many at the same time as the machine has processors.
    pub(crate) fn new() -> Self {
        let width = std::thread::available_parallelism().map_or(1, usize::from);
        Self { slots: Arc::new(Semaphore::new(width)) }
    }

    /// Does work on so many bytes: here if they are few, else on a thread of its own once there is a
    /// slot for it.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        bytes: usize,
        work: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T> {
        if bytes <= INLINE_BYTES_MAX {
            return Ok(jreg_profile::measure(WORK, work));
        }
        let slot = Arc::clone(&self.slots).acquire_owned().await.map_err(|_| Error::Stopped)?;
        let work = jreg_profile::carry(WORK, move || {
            let _slot = slot;
            work()
        });
        match tokio::task::spawn_blocking(work).await {
            Ok(done) => Ok(done),
            Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
            Err(_) => Err(Error::Stopped),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Mutex;
    use std::thread::{self, ThreadId};

    use super::*;

    /// On a runtime of one thread, work on many bytes does not run on that one, and no more of it at
    /// the same time than there are slots.
    #[tokio::test]
    async fn large_work_is_done_beside_the_runtime() {
        let compute = ComputePool { slots: Arc::new(Semaphore::new(1)) };
        let here = thread::current().id();
        let small: ThreadId =
            compute.run(INLINE_BYTES_MAX, || thread::current().id()).await.expect("runs");
        assert_eq!(small, here);
        let alone = Arc::new(Mutex::new(()));
        let work = |alone: Arc<Mutex<()>>| {
            move || {
                let _alone = alone.try_lock().expect("no other work runs");
                (0..100_000).for_each(|_| std::hint::spin_loop());
                thread::current().id()
            }
        };
        let runs = (0..8).map(|_| compute.run(INLINE_BYTES_MAX + 1, work(Arc::clone(&alone))));
        for thread in futures::future::try_join_all(runs).await.expect("runs") {
            assert_ne!(thread, here);
        }
    }
}
