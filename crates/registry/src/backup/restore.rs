//! Restoring a snapshot: into an empty store of any kind.
//!
//! `jreg.json` comes first and says that the store is being restored, so that nothing opens it, and last again
//! without that, once what was restored has been checked. Between them bytes, links, manifests and then what makes them found are created in the order
//! in which they depend on each other. A restore that was interrupted is continued by running it again.
//! Every record gets a new nonce: it is a version of this store.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use jreg_storage::{Key, PutMode, Store};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::bytes::{CopyOutcome, StoredBlob, copy_blob};
use super::snapshot::{self, Snapshot, SnapshotRecords};
use super::{BackupError, BackupObserver, open_backups, top_level};
use crate::Result;
use crate::format::{FormatMarker, StoreFeature};
use crate::keys::{self, ParsedKey};
use crate::record::{header_line, renewed_nonce};

/// How many records are written at the same time.
const WRITES_AT_ONCE: usize = 32;
/// How many blobs are copied at the same time.
const BLOBS_AT_ONCE: usize = 8;
/// The field of `jreg.json` that names the snapshot.
const SNAPSHOT_FIELD: &str = "restoring_snapshot";

/// A finished restore.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RestoreReport {
    pub snapshot: Ulid,
    pub records: u64,
    pub blobs: u64,
    pub bytes: u64,
    /// Blobs that were copied by this run.
    pub copied: u64,
}

/// Restores a snapshot, the latest if none is named, into an empty store. Only
/// [`Registry::open_restored`](crate::Registry::open_restored) opens it until [`finish_restore`].
///
/// # Errors
///
/// [`BackupError`].
pub async fn restore_backup(
    backups: &Arc<dyn Store>,
    wanted: Option<Ulid>,
    target: &Arc<dyn Store>,
    observer: &dyn BackupObserver,
) -> Result<RestoreReport, BackupError> {
    open_backups(&**backups).await?;
    let id = match wanted {
        Some(id) => id,
        None => snapshot::ids(&**backups).await?.pop().ok_or(BackupError::NoBackups)?,
    };
    let snapshot = Snapshot::read(&**backups, id).await?;
    let records = snapshot.records(&**backups, id).await?;
    begin(&**target, id).await?;
    observer.phase("blobs");
    let blobs: Vec<StoredBlob> = records.blobs().into_iter().collect();
    let bytes = blobs.iter().map(|blob| blob.size_bytes).sum();
    let count = blobs.len() as u64;
    let copied = copy_blobs(backups, target, blobs, observer).await?;
    observer.phase("records");
    for class in RecordClass::ALL {
        write_records(target, &records, class, observer).await?;
    }
    let records = records.0.len() as u64;
    Ok(RestoreReport { snapshot: id, records, blobs: count, bytes, copied })
}

/// Marks the store as one that is being restored.
async fn begin(target: &dyn Store, id: Ulid) -> Result<(), BackupError> {
    let key = keys::format();
    let found = match target.get(&key).await {
        Ok(record) => Some(record),
        Err(error) if error.is_not_found() => None,
        Err(error) => return Err(error.into()),
    };
    let Some(found) = found else {
        if !top_level(target).await?.is_empty() {
            return Err(BackupError::NotEmpty);
        }
        let mut marker = FormatMarker::new();
        marker.require(StoreFeature::RESTORING);
        marker.set(SNAPSHOT_FIELD, id.to_string().into());
        target.put(&key, marker.encode(), PutMode::Create).await?;
        return Ok(());
    };
    let marker = FormatMarker::decode(&found.bytes).ok_or(BackupError::NotEmpty)?;
    if !marker.requires(StoreFeature::RESTORING) {
        return Err(BackupError::NotEmpty);
    }
    match marker.get(SNAPSHOT_FIELD).and_then(|other| other.as_str()) {
        Some(other) if other != id.to_string() => {
            Err(BackupError::OtherRestore { other: other.to_owned() })
        }
        _ => Ok(()),
    }
}

/// Lets a restored store be opened, after its check.
///
/// # Errors
///
/// [`BackupError`].
pub async fn finish_restore(target: &dyn Store) -> Result<(), BackupError> {
    let key = keys::format();
    let seen = target.get(&key).await?;
    let marker = FormatMarker::decode(&seen.bytes).ok_or(BackupError::NotEmpty)?;
    let marker = marker.without(StoreFeature::RESTORING, SNAPSHOT_FIELD);
    target.put(&key, marker.encode(), PutMode::Match(seen.etag)).await?;
    Ok(())
}

async fn copy_blobs(
    backups: &Arc<dyn Store>,
    target: &Arc<dyn Store>,
    blobs: Vec<StoredBlob>,
    observer: &dyn BackupObserver,
) -> Result<u64, BackupError> {
    let copies = blobs.into_iter().map(|blob| async move {
        let outcome = copy_blob(&**backups, &**target, &blob).await?;
        let damaged = |reason: String| {
            let content = format!("{} ({})", blob.digest, blob.key);
            Err(BackupError::DamagedBlob { content, reason })
        };
        match outcome {
            CopyOutcome::Copied => Ok(Some(blob.size_bytes)),
            CopyOutcome::Present => Ok(None),
            CopyOutcome::Gone => damaged("it is absent".to_owned()),
            CopyOutcome::Damaged(reason) => damaged(reason),
        }
    });
    // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
    let copies: Vec<_> = copies.collect();
    let mut copies = stream::iter(copies).buffer_unordered(BLOBS_AT_ONCE);
    let mut copied = 0;
    while let Some(outcome) = copies.next().await {
        let bytes = outcome?;
        copied += u64::from(bytes.is_some());
        observer.progress(1, bytes.unwrap_or_default());
    }
    Ok(copied)
}

/// The order in which records are created.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RecordClass {
    Link,
    Manifest,
    /// What makes manifests found, and everything that no other record depends on.
    Other,
    Tag,
}

impl RecordClass {
    const ALL: [Self; 4] = [Self::Link, Self::Manifest, Self::Other, Self::Tag];

    fn of(key: &Key) -> Option<Self> {
        Some(match ParsedKey::parse(key)? {
            ParsedKey::Link(..) => Self::Link,
            ParsedKey::Manifest(..) => Self::Manifest,
            ParsedKey::Tag(..) => Self::Tag,
            _ => Self::Other,
        })
    }
}

async fn write_records(
    target: &Arc<dyn Store>,
    records: &SnapshotRecords,
    class: RecordClass,
    observer: &dyn BackupObserver,
) -> Result<(), BackupError> {
    let of_class = records.0.iter().filter(|(key, _)| RecordClass::of(key) == Some(class));
    let writes = of_class.map(|(key, bytes)| async move {
        let written = target.put(key, renewed(key, bytes), PutMode::Create).await;
        match written {
            // An earlier run has created it.
            Err(error) if error.is_conflict() => Ok(()),
            written => written.map(|_| ()),
        }
    });
    let writes: Vec<_> = writes.collect();
    let mut writes = stream::iter(writes).buffer_unordered(WRITES_AT_ONCE);
    while let Some(written) = writes.next().await {
        written?;
        observer.progress(1, 0);
    }
    Ok(())
}

/// The record with a new nonce, if it has one.
fn renewed(key: &Key, bytes: &Bytes) -> Bytes {
    match ParsedKey::parse(key) {
        Some(ParsedKey::Manifest(..)) => match header_line(bytes) {
            Some(line) => {
                let rest = bytes.get(line.len()..).unwrap_or_default();
                [renewed_nonce(line), rest.to_vec()].concat().into()
            }
            None => bytes.clone(),
        },
        // Copies and histories have none.
        Some(ParsedKey::ManifestCopy(..) | ParsedKey::History(..)) => bytes.clone(),
        _ => renewed_nonce(bytes).into(),
    }
}
