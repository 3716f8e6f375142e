//! [`Lease`]: which instance usually does some work. Safety never depends on it: two instances only do
//! the same work twice.

use std::time::{Duration, SystemTime};

use jreg_storage::{ETag, Key};
use serde::{Deserialize, Serialize};

use crate::record::{JsonRecord, StoredRecord};
use crate::{Registry, Result, keys};

/// What a lease is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LeaseKind {
    /// GC.
    Gc,
    /// Sequencing and sending events.
    Events,
    /// Retention.
    Retention,
    /// Eviction from mirrors.
    Eviction,
    /// Fetching what the schedules of mirrors name.
    MirrorSync,
    /// Merging pull times.
    Pulls,
}

impl LeaseKind {
    fn key(self) -> Key {
        match self {
            Self::Gc => keys::note("lease"),
            Self::Events => keys::events_lease(),
            Self::Retention => keys::note("retention-lease"),
            Self::Eviction => keys::note("eviction-lease"),
            Self::MirrorSync => keys::note("mirror-sync-lease"),
            Self::Pulls => keys::pulls_lease(),
        }
    }
}

/// A lease that was taken.
#[derive(Clone, Debug)]
pub struct Lease {
    kind: LeaseKind,
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
pub(crate) struct LeaseRecord {
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
        kind: LeaseKind,
        holder: &str,
        ttl: Duration,
    ) -> Result<Result<Lease, LeaseHeld>> {
        let (core, key) = (self.core(), kind.key());
        let seen = match core.read::<LeaseRecord>(&key).await {
            Ok(seen) => seen,
            // One that cannot be decoded is free.
            Err(crate::Error::Damaged { .. }) => {
                let version = core.read_etag(&key).await?;
                return self.write_lease(kind, version.as_ref(), holder, ttl).await;
            }
            Err(error) => return Err(error),
        };
        let Some(seen) = seen else { return self.write_lease(kind, None, holder, ttl).await };
        let age = age(seen.date, seen.last_modified);
        let is_over = seen.value.is_free || age > Duration::from_secs(seen.value.ttl_s);
        if !is_over && seen.value.holder != holder {
            return Ok(Err(LeaseHeld { holder: seen.value.holder, age }));
        }
        self.write_lease(kind, Some(&seen.etag), holder, ttl).await
    }

    async fn write_lease(
        &self,
        kind: LeaseKind,
        version: Option<&ETag>,
        holder: &str,
        ttl: Duration,
    ) -> Result<Result<Lease, LeaseHeld>> {
        let record =
            LeaseRecord { holder: holder.to_owned(), ttl_s: ttl.as_secs(), is_free: false };
        let written = self.core().swap(&kind.key(), version, record.encode()).await?;
        Ok(match written {
            Some(written) => Ok(Lease { kind, holder: holder.to_owned(), version: written.etag }),
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
    pub async fn renew_lease(&self, lease: Lease, ttl: Duration) -> Result<Option<Lease>> {
        Ok(self.write_lease(lease.kind, Some(&lease.version), &lease.holder, ttl).await?.ok())
    }

    /// Releases the lease.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn free_lease(&self, lease: Lease) -> Result<()> {
        let record = LeaseRecord { holder: lease.holder, ttl_s: 0, is_free: true };
        self.core().swap(&lease.kind.key(), Some(&lease.version), record.encode()).await?;
        Ok(())
    }
}

fn age(date: SystemTime, last_modified: SystemTime) -> Duration {
    date.duration_since(last_modified).unwrap_or_default()
}
