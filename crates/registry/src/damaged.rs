//! Records that exist and cannot be decoded, as writes find them. A read of one fails, and changes
//! nothing. A push that is about to write such a record writes it over the version that was read,
//! since it has everything that the record must say; a delete of it by name removes that version.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use jreg_storage::{ETag, Key, Record};

use crate::record::{StoredRecord, VersionedRecord, decode_versioned, later_version};
use crate::{Error, Result};

/// A record as a write finds it.
#[derive(Clone, Debug)]
pub(crate) enum FoundRecord<T> {
    Absent,
    Valid(VersionedRecord<T>),
    Damaged(DamagedRecord),
}

/// A version of a record that cannot be decoded.
#[derive(Clone, Debug)]
pub(crate) struct DamagedRecord {
    pub(crate) etag: ETag,
    pub(crate) bytes: Bytes,
    reason: String,
}

/// Counts damaged records that pushes replaced or deletes removed.
#[derive(Debug, Default)]
pub(crate) struct DamageCounter(AtomicU64);

impl DamageCounter {
    pub(crate) fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Logs and counts that a push replaced a damaged record.
    pub(crate) fn note_replaced(&self, key: &Key, damaged: &DamagedRecord) {
        self.0.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%key, reason = damaged.reason, "a push replaced a damaged record");
    }

    /// Logs and counts that a delete removed a damaged record.
    pub(crate) fn note_removed(&self, key: &Key, damaged: &DamagedRecord) {
        self.0.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(%key, reason = damaged.reason, "a delete removed a damaged record");
    }
}

impl DamagedRecord {
    /// A version that can be decoded, and is wrong.
    pub(crate) fn new(etag: ETag, bytes: Bytes, reason: String) -> Self {
        Self { etag, bytes, reason }
    }
}

impl<T: StoredRecord> FoundRecord<T> {
    /// Decodes a record. One that only a later version of this program decodes is an error like any
    /// other: it is not damaged.
    pub(crate) fn decode(key: &Key, record: Record) -> Result<Self> {
        let (etag, bytes) = (record.etag.clone(), record.bytes.clone());
        match decode_versioned(key, record) {
            Ok(record) => Ok(Self::Valid(record)),
            Err(Error::Damaged { reason, .. }) if later_version(&bytes).is_none() => {
                Ok(Self::Damaged(DamagedRecord { etag, bytes, reason }))
            }
            Err(error) => Err(error),
        }
    }
}

impl<T> FoundRecord<T> {
    pub(crate) fn valid(&self) -> Option<&VersionedRecord<T>> {
        match self {
            Self::Valid(record) => Some(record),
            Self::Absent | Self::Damaged(_) => None,
        }
    }

    pub(crate) fn damaged(self) -> Option<DamagedRecord> {
        match self {
            Self::Damaged(damaged) => Some(damaged),
            Self::Absent | Self::Valid(_) => None,
        }
    }

    /// The version to write over.
    pub(crate) fn etag(&self) -> Option<&ETag> {
        match self {
            Self::Absent => None,
            Self::Valid(record) => Some(&record.etag),
            Self::Damaged(damaged) => Some(&damaged.etag),
        }
    }
}

/// To a client that may push, a damaged record counts as absent, so that it pushes again.
pub(crate) fn absent_if_damaged<T>(read: Result<Option<T>>) -> Result<Option<T>> {
    match read {
        Err(Error::Damaged { key, reason }) => {
            tracing::warn!(key, reason, "a damaged record counts as absent for a push");
            Ok(None)
        }
        read => read,
    }
}
