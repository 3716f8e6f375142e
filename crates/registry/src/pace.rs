//! How fast background work runs: [`ReadPace`] limits how many bytes a second fsck and deduplication
//! read ([`Core::hash_bytes`]), [`paced`] their store requests.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::stream::TryStreamExt;
use jreg_oci::{Algorithm, Digest, Hasher};
use jreg_storage::{ByteRange, PacedStore};
use tokio::time::{Instant, sleep_until};

use crate::core::Core;
use crate::record::Location;

/// How fast bytes may be read.
#[derive(Debug)]
pub(crate) struct ReadPace {
    bytes_per_second: u64,
    /// When the next bytes may be read.
    next: Mutex<Option<Instant>>,
}

impl ReadPace {
    pub(crate) fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, next: Mutex::default() }
    }

    /// Waits for as long as so many bytes may take.
    pub(crate) async fn took(&self, bytes: u64) {
        if self.bytes_per_second == 0 {
            return;
        }
        let nanos = u128::from(bytes) * 1_000_000_000 / u128::from(self.bytes_per_second);
        let takes = Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX));
        let now = Instant::now();
        let at = {
            // A poisoned lock is fine: every change leaves it consistent.
            let mut next = self.next.lock().unwrap_or_else(PoisonError::into_inner);
            let at = next.map_or(now, |next| next.max(now)) + takes;
            *next = Some(at);
            at
        };
        sleep_until(at).await;
    }
}

impl Core {
    /// The digest of the bytes at a location.
    ///
    /// # Errors
    ///
    /// `NotFound` or `OutOfRange` if bytes are missing; failures of the store.
    pub(crate) async fn hash_bytes(
        &self,
        location: &Location,
        algorithm: Algorithm,
        pace: &ReadPace,
    ) -> jreg_storage::Result<Digest> {
        let range = ByteRange { start: 0, end: location.size_bytes };
        let mut bytes = self.store.read(&location.key, range).await?;
        let mut hasher = Hasher::new(algorithm);
        while let Some(frame) = bytes.try_next().await? {
            hasher.update(&frame);
            pace.took(frame.len() as u64).await;
        }
        Ok(hasher.finish())
    }
}

/// The same registry, with a store that is limited to a request rate.
pub(crate) fn paced(core: &Core, requests_per_second: u32) -> Core {
    let mut core = core.clone();
    if requests_per_second > 0 {
        core.store = Arc::new(PacedStore::new(core.store, requests_per_second));
    }
    core
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn bytes_are_spread_in_time_however_many_read_them() {
        let pace = ReadPace::new(1000);
        let began = Instant::now();
        tokio::join!(pace.took(1500), pace.took(500));
        pace.took(1000).await;
        assert_eq!(began.elapsed().as_secs(), 3);
        ReadPace::new(0).took(u64::MAX).await;
        assert_eq!(began.elapsed().as_secs(), 3);
    }
}
