//! [`DiskWaits`]: how long requests have waited for the disk.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The requests that wait, by the order in which they began.
#[derive(Clone, Debug, Default)]
pub(super) struct DiskWaits(Arc<Mutex<WaitTable>>);

#[derive(Debug, Default)]
struct WaitTable {
    next: u64,
    began: BTreeMap<u64, Instant>,
}

/// A request that waits until this is dropped.
#[derive(Debug)]
#[must_use]
pub(super) struct WaitGuard {
    watch: DiskWaits,
    number: u64,
}

impl DiskWaits {
    fn lock(&self) -> MutexGuard<'_, WaitTable> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn begin(&self) -> WaitGuard {
        let mut waits = self.lock();
        let number = waits.next;
        waits.next += 1;
        waits.began.insert(number, Instant::now());
        WaitGuard { watch: self.clone(), number }
    }

    /// How long the one that began first has waited.
    pub(super) fn longest(&self) -> Option<Duration> {
        self.lock().began.first_key_value().map(|(_, began)| began.elapsed())
    }
}

impl Drop for WaitGuard {
    fn drop(&mut self) {
        self.watch.lock().began.remove(&self.number);
    }
}
