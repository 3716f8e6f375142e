//! [`Snapshot`]: one finished backup; and [`SnapshotRecords`], the records in it.
//!
//! The records are one object: a line that says what it is, and for each record the lengths of its key and of its
//! bytes (4 bytes each, the most significant first), the key and the bytes, in the order of the keys. The snapshot has
//! the length and the SHA-256 of that object.

use std::collections::{BTreeMap, BTreeSet};

use bytes::{BufMut, Bytes, BytesMut};
use jreg_oci::{Algorithm, Digest, RepositoryName};
use jreg_storage::{Key, PutMode, Store};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::bytes::{StoredBlob, put_object, read_object};
use super::{BackupError, MissingContent, key};
use crate::keys::ParsedKey;
use crate::record::{JsonRecord, Link, StoredRecord, decode_json};
use crate::tag_record::TagRecord;

const SNAPSHOTS: &str = "snapshots/";
const RECORDS: &str = "records/";
const MAGIC: &[u8] = b"jreg backup records 1\n";

/// The records of a backup, by their keys.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct SnapshotRecords(pub(super) BTreeMap<Key, Bytes>);

/// How much a snapshot has.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct SnapshotCounts {
    pub(super) records: u64,
    pub(super) repositories: u64,
    pub(super) tags: u64,
    pub(super) blobs: u64,
    pub(super) bytes: u64,
}

/// The object of the records.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RecordsObject {
    key: Key,
    size: u64,
    digest: Digest,
}

/// One finished backup.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Snapshot {
    records: RecordsObject,
    pub(super) counts: SnapshotCounts,
    #[serde(default)]
    pub(super) with_secrets: bool,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) missing: Vec<MissingContent>,
}

impl JsonRecord for Snapshot {
    const VERSION: Option<(&'static str, u32)> = Some(("snapshot", 1));
}

/// How much of a list of missing content a snapshot says: it must stay a small record.
const MISSING_MAX: usize = 1000;

impl SnapshotRecords {
    fn encode(&self) -> Bytes {
        let length = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap_or(u32::MAX);
        let mut all = BytesMut::from(MAGIC);
        for (key, bytes) in &self.0 {
            let key = key.as_str().as_bytes();
            all.put_u32(length(key));
            all.put_u32(length(bytes));
            all.put_slice(key);
            all.put_slice(bytes);
        }
        all.freeze()
    }

    /// `None`: these are no records.
    fn decode(all: &Bytes) -> Option<Self> {
        let mut rest = all.strip_prefix(MAGIC).map(|_| all.slice(MAGIC.len()..))?;
        let mut records = BTreeMap::new();
        while !rest.is_empty() {
            let head: [u8; 8] = rest.get(..8)?.try_into().ok()?;
            let [a, b, c, d, e, f, g, h] = head;
            let key_len = u32::from_be_bytes([a, b, c, d]) as usize;
            let len = u32::from_be_bytes([e, f, g, h]) as usize;
            let end = 8_usize.checked_add(key_len)?.checked_add(len)?;
            rest.get(..end)?;
            let key = std::str::from_utf8(rest.get(8..8 + key_len)?).ok()?.parse().ok()?;
            records.insert(key, rest.slice(8 + key_len..end));
            rest = rest.slice(end..);
        }
        Some(Self(records))
    }

    /// The blobs that links name, each place once.
    pub(super) fn blobs(&self) -> BTreeSet<StoredBlob> {
        let mut blobs = BTreeSet::new();
        for (key, bytes) in &self.0 {
            if let Some(ParsedKey::Link(digest, _)) = ParsedKey::parse(key)
                && let Ok(Link::Live(at)) = Link::decode(bytes)
            {
                blobs.insert(StoredBlob { key: at.key, digest, size_bytes: at.size_bytes });
            }
        }
        blobs
    }

    pub(super) fn counts(&self) -> SnapshotCounts {
        let blobs = self.blobs();
        let mut repositories: BTreeSet<RepositoryName> = BTreeSet::new();
        let mut tags = 0;
        for (key, bytes) in &self.0 {
            match ParsedKey::parse(key) {
                Some(ParsedKey::Tag(..)) => {
                    let is_live = TagRecord::decode(bytes).is_ok_and(|tag| tag.live().is_some());
                    tags += u64::from(is_live);
                }
                Some(ParsedKey::Catalog(name)) => {
                    repositories.insert(name);
                }
                _ => {}
            }
        }
        SnapshotCounts {
            records: self.0.len() as u64,
            repositories: repositories.len() as u64,
            tags,
            blobs: blobs.len() as u64,
            bytes: blobs.iter().map(|blob| blob.size_bytes).sum(),
        }
    }
}

impl Snapshot {
    /// Writes records, and then the snapshot that names them.
    pub(super) async fn write(
        store: &dyn Store,
        id: Ulid,
        records: &SnapshotRecords,
        with_secrets: bool,
        missing: &[MissingContent],
    ) -> Result<Self, BackupError> {
        let object = Self::write_records(store, records).await?;
        let missing = missing.iter().take(MISSING_MAX).cloned().collect();
        let snapshot = Self { records: object, counts: records.counts(), with_secrets, missing };
        store.put(&snapshot_key(id), snapshot.encode(), PutMode::Create).await?;
        Ok(snapshot)
    }

    async fn write_records(
        store: &dyn Store,
        records: &SnapshotRecords,
    ) -> Result<RecordsObject, BackupError> {
        let bytes = records.encode();
        let key = key(format!("{RECORDS}{}", Ulid::generate()));
        let (size, digest) = (bytes.len() as u64, Digest::of(Algorithm::Sha256, &bytes));
        put_object(store, &key, bytes).await?;
        Ok(RecordsObject { key, size, digest })
    }

    /// Writes the snapshot again with other records.
    pub(super) async fn rewrite(
        &self,
        store: &dyn Store,
        id: Ulid,
        records: &SnapshotRecords,
    ) -> Result<(), BackupError> {
        let key = snapshot_key(id);
        let seen = store.get(&key).await?;
        let object = Self::write_records(store, records).await?;
        let next = Self { records: object, counts: records.counts(), ..self.clone() };
        store.put(&key, next.encode(), PutMode::Match(seen.etag)).await?;
        Ok(())
    }

    pub(super) async fn read(store: &dyn Store, id: Ulid) -> Result<Self, BackupError> {
        let record = match store.get(&snapshot_key(id)).await {
            Ok(record) => record,
            Err(error) if error.is_not_found() => {
                return Err(BackupError::NoSnapshot { snapshot: id.to_string() });
            }
            Err(error) => return Err(error.into()),
        };
        decode_json(&record.bytes).map_err(|reason| damaged(id, reason))
    }

    /// The records, once their checksum was compared.
    pub(super) async fn records(
        &self,
        store: &dyn Store,
        id: Ulid,
    ) -> Result<SnapshotRecords, BackupError> {
        let RecordsObject { key, size, digest } = &self.records;
        let bytes = match read_object(store, key, *size).await {
            Err(BackupError::Store(error)) if error.is_not_found() => {
                return Err(damaged(id, "its records are missing"));
            }
            read => read?,
        };
        if Digest::of(digest.algorithm(), &bytes) != *digest {
            return Err(damaged(id, "the checksum of its records is of other bytes"));
        }
        SnapshotRecords::decode(&bytes).ok_or_else(|| damaged(id, "its records cannot be read"))
    }

    /// Where its records lie.
    pub(super) fn records_key(&self) -> &Key {
        &self.records.key
    }
}

pub(super) fn snapshot_key(id: Ulid) -> Key {
    key(format!("{SNAPSHOTS}{id}"))
}

fn damaged(id: Ulid, reason: impl Into<String>) -> BackupError {
    BackupError::DamagedSnapshot { snapshot: id.to_string(), reason: reason.into() }
}

/// Every key below a prefix.
pub(super) async fn keys_below(store: &dyn Store, prefix: &str) -> Result<Vec<Key>, BackupError> {
    let mut request = jreg_storage::ListRequest::below(prefix);
    let mut keys = Vec::new();
    loop {
        let page = store.list(&request).await?;
        keys.extend(page.entries.into_iter().map(|entry| entry.key));
        match page.next {
            Some(next) => request.start_after = Some(next),
            None => return Ok(keys),
        }
    }
}

/// The ids of all snapshots, the oldest first.
pub(super) async fn ids(store: &dyn Store) -> Result<Vec<Ulid>, BackupError> {
    let keys = keys_below(store, SNAPSHOTS).await?;
    let id = |key: &Key| Ulid::from_string(key.as_str().strip_prefix(SNAPSHOTS)?).ok();
    Ok(keys.iter().filter_map(id).collect())
}

/// The keys of all objects of records.
pub(super) async fn record_objects(store: &dyn Store) -> Result<Vec<Key>, BackupError> {
    keys_below(store, RECORDS).await
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn records_come_back_as_they_were_and_damage_is_seen() {
        let mut records = SnapshotRecords::default();
        for (key, bytes) in [("a", &b""[..]), ("b/c", b"1\n2"), ("b/d", &[0; 300])] {
            records.0.insert(key.parse().unwrap(), Bytes::copy_from_slice(bytes));
        }
        let encoded = records.encode();
        assert_eq!(SnapshotRecords::decode(&encoded), Some(records));
        let ends: Vec<usize> = (0..encoded.len())
            .filter(|end| SnapshotRecords::decode(&encoded.slice(..*end)).is_some())
            .collect();
        // Only where a record ends; the length and the checksum in the snapshot tell those.
        assert_eq!(ends.len(), 3, "{ends:?}");
        assert_eq!(SnapshotRecords::decode(&Bytes::from_static(b"x")), None);
    }
}
