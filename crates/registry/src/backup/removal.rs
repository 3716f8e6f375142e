//! Removal of old snapshots with what only they name, and of one manifest from all snapshots.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_oci::{Digest, Manifest, RepositoryName};
use jreg_storage::{Key, Store};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::activity::{Activity, ActivityKind};
use super::snapshot::{self, Snapshot, SnapshotRecords, keys_below, record_objects, snapshot_key};
use super::{BackupError, open_backups};
use crate::Result;
use crate::keys::{self, ParsedKey};
use crate::manifest_copy::ManifestCopy;
use crate::record::{ManifestRecord, StoredRecord};
use crate::tag_record::TagRecord;

/// How many objects are removed with one request.
const REMOVED_AT_ONCE: usize = 1000;

/// What a removal of old snapshots did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PruneReport {
    pub removed: Vec<Ulid>,
    pub kept: Vec<Ulid>,
    /// Objects of bytes that no snapshot names any more.
    pub blobs: u64,
}

/// What was removed of a manifest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PurgedBackup {
    /// The snapshots that had it.
    pub snapshots: Vec<Ulid>,
    /// Records that were removed from them.
    pub records: u64,
    /// Objects of bytes that no snapshot names any more.
    pub blobs: u64,
}

/// Removes snapshots that are older than `keep`, but never the last whole one; and the bytes that no other names.
///
/// # Errors
///
/// [`BackupError`]. A snapshot that cannot be read keeps everything.
pub async fn prune_backups(
    store: &Arc<dyn Store>,
    keep: Duration,
    now: SystemTime,
) -> Result<PruneReport, BackupError> {
    open_backups(&**store).await?;
    let activity = Activity::begin(store, ActivityKind::Removal).await?;
    let report = activity.during(prune(&**store, keep, now)).await;
    activity.end().await;
    report
}

async fn prune(
    store: &dyn Store,
    keep: Duration,
    now: SystemTime,
) -> Result<PruneReport, BackupError> {
    let mut report = PruneReport::default();
    let ids = snapshot::ids(store).await?;
    let mut last_whole = None;
    for id in &ids {
        if Snapshot::read(store, *id).await?.missing.is_empty() {
            last_whole = Some(*id);
        }
    }
    for id in ids {
        let age = now.duration_since(id.datetime()).unwrap_or_default();
        match age <= keep || Some(id) == last_whole {
            true => report.kept.push(id),
            false => report.removed.push(id),
        }
    }
    // Without any whole one, the latest is better than none.
    if report.kept.is_empty() {
        report.kept.extend(report.removed.pop());
    }
    let removed: Vec<Key> = report.removed.iter().map(|id| snapshot_key(*id)).collect();
    remove(store, &removed).await?;
    report.blobs = sweep(store).await?;
    Ok(report)
}

/// Removes what no snapshot names. Returns the number of blobs.
async fn sweep(store: &dyn Store) -> Result<u64, BackupError> {
    let (mut blobs, mut objects) = (BTreeSet::new(), BTreeSet::new());
    for id in snapshot::ids(store).await? {
        let snapshot = Snapshot::read(store, id).await?;
        blobs.extend(snapshot.records(store, id).await?.blobs().into_iter().map(|blob| blob.key));
        objects.insert(snapshot.records_key().clone());
    }
    let unnamed = |keys: Vec<Key>, named: &BTreeSet<Key>| -> Vec<Key> {
        keys.into_iter().filter(|key| !named.contains(key)).collect()
    };
    let objects = unnamed(record_objects(store).await?, &objects);
    remove(store, &objects).await?;
    let blobs = unnamed(keys_below(store, keys::BLOBS).await?, &blobs);
    remove(store, &blobs).await?;
    Ok(blobs.len() as u64)
}

async fn remove(store: &dyn Store, keys: &[Key]) -> Result<(), BackupError> {
    for keys in keys.chunks(REMOVED_AT_ONCE) {
        store.delete_many(keys).await?;
    }
    Ok(())
}

/// Removes a manifest from every snapshot, with its tags, their history and the blobs that nothing else of the
/// repository references.
///
/// # Errors
///
/// [`BackupError::NotInBackups`] if no snapshot has it.
pub async fn purge_from_backups(
    store: &Arc<dyn Store>,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<PurgedBackup, BackupError> {
    open_backups(&**store).await?;
    let activity = Activity::begin(store, ActivityKind::Removal).await?;
    let report = activity.during(purge(&**store, name, digest)).await;
    activity.end().await;
    report
}

async fn purge(
    store: &dyn Store,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<PurgedBackup, BackupError> {
    let mut report = PurgedBackup::default();
    for id in snapshot::ids(store).await? {
        let snapshot = Snapshot::read(store, id).await?;
        let records = snapshot.records(store, id).await?;
        let left = without(&records, name, digest);
        let removed = records.0.len() - left.0.len();
        if removed > 0 {
            snapshot.rewrite(store, id, &left).await?;
            report.snapshots.push(id);
            report.records += removed as u64;
        }
    }
    if report.snapshots.is_empty() {
        let (name, digest) = (name.to_string(), digest.to_string());
        return Err(BackupError::NotInBackups { name, digest });
    }
    report.blobs = sweep(store).await?;
    Ok(report)
}

/// The records without a manifest and what only it needs.
fn without(records: &SnapshotRecords, name: &RepositoryName, digest: &Digest) -> SnapshotRecords {
    let mut left = records.clone();
    left.0.retain(|key, bytes| !is_of_manifest(key, bytes, name, digest));
    if left.0.len() == records.0.len() {
        return left;
    }
    let referenced = referenced(&left, name);
    left.0.retain(|key, _| match ParsedKey::parse(key) {
        Some(ParsedKey::Link(blob, of)) => of != *name || referenced.contains(&blob),
        _ => true,
    });
    left
}

/// Whether a record is of a manifest, or points to it.
fn is_of_manifest(key: &Key, bytes: &bytes::Bytes, name: &RepositoryName, digest: &Digest) -> bool {
    match ParsedKey::parse(key) {
        Some(ParsedKey::Manifest(of, manifest)) => of == *name && manifest == *digest,
        Some(ParsedKey::Hint(of, manifest, _)) => of == *name && manifest == *digest,
        Some(ParsedKey::Referrer(of, _, referrer)) => of == *name && referrer == *digest,
        Some(ParsedKey::ManifestCopy(of, manifest, _)) => of == *name && manifest == *digest,
        Some(ParsedKey::History(of, _, _, manifest)) => {
            of == *name && manifest.as_ref() == Some(digest)
        }
        Some(ParsedKey::Tag(of, _)) if of == *name => {
            let tag = TagRecord::decode(bytes).ok().and_then(TagRecord::into_live);
            tag.is_some_and(|target| target.digest == *digest)
        }
        _ => false,
    }
}

/// What the manifests and copies of a repository reference.
fn referenced(records: &SnapshotRecords, name: &RepositoryName) -> BTreeSet<Digest> {
    let mut referenced = BTreeSet::new();
    for (key, bytes) in &records.0 {
        let manifest = match ParsedKey::parse(key) {
            Some(ParsedKey::Manifest(of, _)) if of == *name => ManifestRecord::decode(bytes).ok(),
            Some(ParsedKey::ManifestCopy(of, ..)) if of == *name => {
                ManifestCopy::decode(bytes).ok().map(|copy| copy.manifest)
            }
            _ => None,
        };
        let Some(ManifestRecord { header, bytes }) = manifest else { continue };
        if let Ok(parsed) = Manifest::parse_stored(&header.media_type, &bytes) {
            referenced.extend(parsed.references.into_iter().map(|reference| reference.digest));
        }
    }
    referenced
}
