//! [`GcLease`]: which instance usually runs GC, or retention. Safety never depends on it: two concurrent runs only do
//! the same work twice.

use std::time::{Duration, SystemTime};

use jreg_storage::{ETag, Key};
use serde::{Deserialize, Serialize};

use crate::record::{JsonRecord, StoredRecord};
use crate::{Registry, Result, keys};

/// A lease that was taken.
#[derive(Clone, Debug)]
pub struct GcLease {
    key: Key,
    holder: String,
    version: ETag,
}

/// Another instance has the lease.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseHeld {
    /// Its name.
    pub holder: String,
    /// Time since it renewed the lease.
    pub age: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct LeaseRecord {
    holder: String,
    /// For how long it holds after it was written.
    ttl_s: u64,
    /// Whether it was released.
    is_free: bool,
}

impl JsonRecord for LeaseRecord {}

impl Registry {
    /// Takes the lease for `ttl` if it is free, or if its holder has not renewed it in time.
    /// Costs two requests.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn take_lease(
        &self,
        holder: &str,
        ttl: Duration,
    ) -> Result<Result<GcLease, LeaseHeld>> {
        self.take_lease_at(keys::note("lease"), holder, ttl).await
    }

    /// The same for a retention run.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn take_retention_lease(
        &self,
        holder: &str,
        ttl: Duration,
    ) -> Result<Result<GcLease, LeaseHeld>> {
        self.take_lease_at(keys::note("retention-lease"), holder, ttl).await
    }

    async fn take_lease_at(
        &self,
        key: Key,
        holder: &str,
        ttl: Duration,
    ) -> Result<Result<GcLease, LeaseHeld>> {
        let core = self.core();
        let seen = match core.read::<LeaseRecord>(&key).await {
            Ok(seen) => seen,
            // One that cannot be decoded is free.
            Err(crate::Error::Damaged { .. }) => {
                let version = core.read_etag(&key).await?;
                return self.write_lease(key, version.as_ref(), holder, ttl).await;
            }
            Err(error) => return Err(error),
        };
        let Some(seen) = seen else { return self.write_lease(key, None, holder, ttl).await };
        let age = age(seen.date, seen.last_modified);
        let is_over = seen.value.is_free || age > Duration::from_secs(seen.value.ttl_s);
        if !is_over && seen.value.holder != holder {
            return Ok(Err(LeaseHeld { holder: seen.value.holder, age }));
        }
        self.write_lease(key, Some(&seen.etag), holder, ttl).await
    }

    async fn write_lease(
        &self,
        key: Key,
        version: Option<&ETag>,
        holder: &str,
        ttl: Duration,
    ) -> Result<Result<GcLease, LeaseHeld>> {
        let record =
            LeaseRecord { holder: holder.to_owned(), ttl_s: ttl.as_secs(), is_free: false };
        let written = self.core().swap(&key, version, record.encode()).await?;
        Ok(match written {
            Some(written) => Ok(GcLease { key, holder: holder.to_owned(), version: written.etag }),
            None => {
                let holder = "another instance, which was faster".to_owned();
                Err(LeaseHeld { holder, age: Duration::ZERO })
            }
        })
    }

    /// Renews the lease for another `ttl`. `None`: another instance has it.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn renew_lease(&self, lease: GcLease, ttl: Duration) -> Result<Option<GcLease>> {
        Ok(self.write_lease(lease.key, Some(&lease.version), &lease.holder, ttl).await?.ok())
    }

    /// Releases the lease.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn free_lease(&self, lease: GcLease) -> Result<()> {
        let record = LeaseRecord { holder: lease.holder, ttl_s: 0, is_free: true };
        self.core().swap(&lease.key, Some(&lease.version), record.encode()).await?;
        Ok(())
    }
}

fn age(date: SystemTime, last_modified: SystemTime) -> Duration {
    date.duration_since(last_modified).unwrap_or_default()
}
