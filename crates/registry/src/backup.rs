//! Backups: a copy of what the tags of a store lead to, in another store of any kind.
//!
//! A backup needs no lock and stops no push. It reads tags, then manifests, then by key whatever these name
//! and is missing until nothing is, then links, then bytes. What went away meanwhile is looked at again from
//! its tag: a tag that has moved is taken as it is now. Content that is still named but gone is reported, and
//! the backup with it. So every tag that was acknowledged before the backup began and has not changed since is
//! as it was; others are as at some moment of the run.
//!
//! It writes the other way round: bytes first, at the key that they have in the registry (such a key is never
//! used again, so what is there need not be copied), then the records in one object, and last the snapshot that
//! names it. So a store holds every finished backup whole, and a crash leaves all earlier ones intact.
//!
//! ```text
//! backup.json               that this is a store of backups, and the version of its format
//! blobs/...                 bytes, under the keys of the registry
//! records/<ulid>            all records of one snapshot
//! snapshots/<ulid>          one finished backup
//! activity/<ulid>           who is writing to the store, or removing from it
//! ```
//!
//! - `closure.rs`: which records a backup has
//! - `bytes.rs`: copying and checking bytes
//! - `snapshot.rs`: how records and snapshots are stored
//! - `restore.rs`: a snapshot becomes a registry's store
//! - `removal.rs`: removal of snapshots, and of a manifest from all of them
//! - `activity.rs`: backups and removals keep out of each other's way

mod activity;
mod bytes;
mod closure;
mod removal;
mod restore;
mod snapshot;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::SystemTime;

use futures::stream::{self, StreamExt};
use jreg_storage::{Key, ListRequest, PutMode, Store};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::{Error, Registry, Result};
use activity::{Activity, ActivityKind};
use bytes::{CopyOutcome, copy_blob};
use closure::BackupClosure;
use snapshot::Snapshot;

pub use removal::{PruneReport, PurgedBackup, prune_backups, purge_from_backups};
pub use restore::{RestoreReport, finish_restore, restore_backup};

/// The version of the format of backups.
const BACKUP_FORMAT: u32 = 1;

/// What a backup takes along.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackupOptions {
    /// Also private keys: those that sign tokens, and of TLS certificates.
    pub with_secrets: bool,
    /// How many blobs are copied at the same time.
    pub blobs_at_once: usize,
}

impl Default for BackupOptions {
    fn default() -> Self {
        Self { with_secrets: false, blobs_at_once: 8 }
    }
}

/// Content that something names and that is gone or damaged.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MissingContent {
    /// What is missing.
    pub content: String,
    /// What is wrong with it.
    pub reason: String,
}

/// A finished backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupReport {
    /// The id of the snapshot.
    pub snapshot: Ulid,
    pub records: u64,
    pub repositories: u64,
    pub tags: u64,
    /// Blobs that the snapshot names, and their bytes.
    pub blobs: u64,
    pub bytes: u64,
    /// Blobs that were copied by this run, and their bytes.
    pub copied: u64,
    pub copied_bytes: u64,
    /// Content that is named but gone: the rest is in the backup.
    pub missing: Vec<MissingContent>,
}

/// A snapshot of a store of backups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BackupInfo {
    pub snapshot: Ulid,
    /// When the backup began.
    pub time: SystemTime,
    pub records: u64,
    pub repositories: u64,
    pub tags: u64,
    pub blobs: u64,
    pub bytes: u64,
    /// Whether private keys are in it.
    pub with_secrets: bool,
    /// Number of objects that were named but gone.
    pub missing: u64,
}

/// Sees how far a backup or a restore is.
pub trait BackupObserver: Send + Sync {
    /// A phase began.
    fn phase(&self, label: &'static str);

    /// Objects and bytes were read or written.
    fn progress(&self, objects: u64, bytes: u64);
}

/// Why a store cannot be used for backups, or a backup not be restored.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error(transparent)]
    Registry(#[from] Error),
    #[error(transparent)]
    Store(#[from] jreg_storage::Error),
    /// The store has something else.
    #[error("it is no store of backups: it holds {}; name an empty folder or bucket, or one with backups", names.join(", "))]
    Foreign { names: Vec<String> },
    #[error("it holds no backups: there is no backup.json")]
    NoBackups,
    #[error("its backups have format version {found}, this jreg knows {BACKUP_FORMAT}")]
    Format { found: u32 },
    #[error("there is no snapshot {snapshot}")]
    NoSnapshot { snapshot: String },
    #[error("the snapshot {snapshot} is damaged: {reason}")]
    DamagedSnapshot { snapshot: String, reason: String },
    /// Only an empty store takes a backup.
    #[error("the storage is not empty: a backup is restored to an empty folder or bucket")]
    NotEmpty,
    /// An interrupted restore of another snapshot.
    #[error(
        "a restore of snapshot {other} into the storage was interrupted: finish it, or empty the storage"
    )]
    OtherRestore { other: String },
    /// A backup and a removal at the same time would take each other's content.
    #[error(
        "{other} is running on the backups: try again when it has ended, or 15 minutes after it was killed"
    )]
    Busy { other: String },
    /// The bytes of a blob are not what the snapshot says.
    #[error("blob {content} of the backup is damaged: {reason}")]
    DamagedBlob { content: String, reason: String },
    #[error("the snapshots have no manifest {digest} of {name}")]
    NotInBackups { name: String, digest: String },
}

#[derive(Debug, Serialize, Deserialize)]
struct BackupMarker {
    backup: u32,
}

fn marker_key() -> Key {
    "backup.json".parse().expect("a constant key is valid")
}

fn key(text: String) -> Key {
    Key::try_from(text).expect("ids make valid keys")
}

/// Checks that a store has backups.
async fn open_backups(store: &dyn Store) -> Result<(), BackupError> {
    let record = match store.get(&marker_key()).await {
        Ok(record) => record,
        Err(error) if error.is_not_found() => return Err(BackupError::NoBackups),
        Err(error) => return Err(error.into()),
    };
    match serde_json::from_slice::<BackupMarker>(&record.bytes) {
        Ok(BackupMarker { backup: BACKUP_FORMAT }) => Ok(()),
        Ok(BackupMarker { backup: found }) => Err(BackupError::Format { found }),
        Err(_) => Err(BackupError::NoBackups),
    }
}

/// The first names in a store.
async fn top_level(store: &dyn Store) -> Result<Vec<String>, BackupError> {
    let request = ListRequest { delimiter: true, limit: 5, ..ListRequest::below("") };
    let page = store.list(&request).await?;
    let keys = page.entries.iter().map(|entry| entry.key.to_string());
    let names = keys.chain(page.prefixes).filter(|name| name != "probe/");
    Ok(names.collect())
}

/// Opens a store for backups, and marks it if it is empty.
async fn create_backups(store: &dyn Store) -> Result<(), BackupError> {
    match open_backups(store).await {
        Err(BackupError::NoBackups) => {}
        opened => return opened,
    }
    let names = top_level(store).await?;
    if !names.is_empty() {
        return Err(BackupError::Foreign { names });
    }
    let marker = serde_json::to_vec(&BackupMarker { backup: BACKUP_FORMAT });
    let marker = marker.expect("a marker has only string keys");
    match store.put(&marker_key(), marker.into(), PutMode::Create).await {
        Err(error) if error.is_conflict() => open_backups(store).await,
        written => Ok(written.map(|_| ())?),
    }
}

/// Copies what a registry has to a store of backups.
///
/// # Errors
///
/// [`BackupError`]. Content that is gone is reported instead, if the rest could be copied.
pub async fn back_up(
    registry: &Registry,
    target: &Arc<dyn Store>,
    options: BackupOptions,
    observer: &dyn BackupObserver,
) -> Result<BackupReport, BackupError> {
    create_backups(&**target).await?;
    let activity = Activity::begin(target, ActivityKind::Backup).await?;
    let report = activity.during(copy(registry, target, options, observer)).await;
    activity.end().await;
    report
}

async fn copy(
    registry: &Registry,
    target: &Arc<dyn Store>,
    options: BackupOptions,
    observer: &dyn BackupObserver,
) -> Result<BackupReport, BackupError> {
    let began = SystemTime::now();
    let mut closure = BackupClosure::read(registry.core(), options.with_secrets, observer).await?;
    observer.phase("blobs");
    let (mut copied, mut copied_bytes) = (0, 0);
    let mut pending = closure.locations();
    let mut done = BTreeSet::new();
    while !pending.is_empty() {
        let source = &registry.core().store;
        let copies = pending.into_iter().map(|blob| async move {
            let outcome = copy_blob(&**source, &**target, &blob).await;
            outcome.map(|outcome| (blob, outcome))
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let copies: Vec<_> = copies.collect();
        let mut copies = stream::iter(copies).buffer_unordered(options.blobs_at_once.max(1));
        let mut gone = Vec::new();
        while let Some(outcome) = copies.next().await {
            let (blob, outcome) = outcome?;
            match outcome {
                CopyOutcome::Copied => {
                    copied += 1;
                    copied_bytes += blob.size_bytes;
                    observer.progress(1, blob.size_bytes);
                }
                CopyOutcome::Present => observer.progress(1, 0),
                CopyOutcome::Gone => gone.push(blob.clone()),
                CopyOutcome::Damaged(reason) => closure.note_damaged(&blob, reason),
            }
            done.insert(blob.key);
        }
        // Garbage collection may have moved links to other bytes meanwhile.
        closure.find_again(gone).await?;
        pending = closure.locations();
        pending.retain(|blob| !done.contains(&blob.key));
    }
    observer.phase("snapshot");
    let (records, missing) = closure.finish();
    let id = Ulid::from_datetime(began);
    let snapshot = Snapshot::write(&**target, id, &records, options.with_secrets, &missing).await?;
    Ok(BackupReport {
        snapshot: id,
        records: snapshot.counts.records,
        repositories: snapshot.counts.repositories,
        tags: snapshot.counts.tags,
        blobs: snapshot.counts.blobs,
        bytes: snapshot.counts.bytes,
        copied,
        copied_bytes,
        missing,
    })
}

/// The snapshots of a store of backups, the oldest first.
///
/// # Errors
///
/// [`BackupError`].
pub async fn list_backups(store: &dyn Store) -> Result<Vec<BackupInfo>, BackupError> {
    open_backups(store).await?;
    let mut infos = Vec::new();
    for id in snapshot::ids(store).await? {
        let snapshot = Snapshot::read(store, id).await?;
        let counts = snapshot.counts;
        infos.push(BackupInfo {
            snapshot: id,
            time: id.datetime(),
            records: counts.records,
            repositories: counts.repositories,
            tags: counts.tags,
            blobs: counts.blobs,
            bytes: counts.bytes,
            with_secrets: snapshot.with_secrets,
            missing: snapshot.missing.len() as u64,
        });
    }
    Ok(infos)
}
