//! Repairs. Each is a write on the version that was judged, and what cannot be decoded is quarantined
//! before it is removed.

use std::collections::HashSet;

use bytes::Bytes;
use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{ETag, Key, PutMode, Record};

use super::read::{UnreadableCause, UnreadableRecord};
use super::{FindingKind, FindingSubject, FsckRun, RepairStatus};
use crate::core::Core;
use crate::keys::{self, ParsedKey};
use crate::record::{Link, Location, StoredRecord};
use crate::{Error, Result};

/// How a record that cannot be decoded is repaired.
pub(super) enum RepairPlan {
    /// It is quarantined, and absent from then on.
    Quarantine,
    /// It is quarantined, and written anew from its key or from other records.
    Rewrite(Bytes),
    /// It stays: nothing can be made of it, and a copy would be no better.
    Keep,
}

impl FsckRun<'_> {
    /// Runs a repair, if the options ask for it. `Ok(false)`: the record was changed concurrently.
    pub(super) async fn repair_by(
        &self,
        repair: impl Future<Output = Result<bool>>,
    ) -> RepairStatus {
        if !self.options.repair {
            return RepairStatus::Possible;
        }
        match repair.await {
            Ok(true) => RepairStatus::Done,
            Ok(false) | Err(_) => RepairStatus::Failed,
        }
    }

    /// Reports and repairs a record that cannot be decoded.
    pub(super) async fn report_unreadable(
        &mut self,
        kind: FindingKind,
        of: &FindingSubject<'_>,
        bad: &UnreadableRecord,
        remedy: RepairPlan,
    ) -> Result<RepairStatus> {
        let kind = match bad.cause {
            UnreadableCause::Damaged => kind,
            UnreadableCause::Newer => FindingKind::RecordNewer,
            UnreadableCause::ReadFails => FindingKind::ReadFails,
        };
        let repair = match (&bad.record, bad.cause) {
            (Some(record), UnreadableCause::Damaged) => match remedy {
                RepairPlan::Rewrite(right) => {
                    if kind == FindingKind::LinkUnreadable {
                        self.announce_repair(kind, of, &bad.reason).await?;
                    }
                    self.repair_by(rewrite(&self.core, of, record, right)).await
                }
                RepairPlan::Quarantine if can_go(&self.core, of.key) => {
                    self.announce_repair(kind, of, &bad.reason).await?;
                    self.repair_by(quarantine(&self.core, of, record)).await
                }
                RepairPlan::Quarantine | RepairPlan::Keep => RepairStatus::None,
            },
            _ => RepairStatus::None,
        };
        self.report(kind, of, bad.reason.clone(), repair);
        Ok(repair)
    }
}

/// Whether the store can remove the version of this record that was read, or whether a record exists
/// that stands for its absence.
fn can_go(core: &Core, key: &Key) -> bool {
    core.store.capabilities().deletes_versions
        || !matches!(ParsedKey::parse(key), Some(ParsedKey::Upload(_)))
}

/// Copies a record to the quarantine, then removes that version. `false`: it was changed concurrently.
pub(super) async fn quarantine(
    core: &Core,
    of: &FindingSubject<'_>,
    record: &Record,
) -> Result<bool> {
    let copy = copy_to_quarantine(core, of.key, record.bytes.clone()).await?;
    let _turn = match ParsedKey::parse(of.key) {
        Some(ParsedKey::Manifest(..)) => Some(core.manifest_locks.lock_alone(of.key).await),
        _ => None,
    };
    forget(core, of);
    let removed = core.remove(of.key, &record.etag).await;
    forget(core, of);
    discard_copy(core, &copy, &removed).await;
    removed
}

/// Copies a record to the quarantine, then writes the right one over that version. `false`: it was
/// changed concurrently.
pub(super) async fn rewrite(
    core: &Core,
    of: &FindingSubject<'_>,
    record: &Record,
    right: Bytes,
) -> Result<bool> {
    let copy = copy_to_quarantine(core, of.key, record.bytes.clone()).await?;
    forget(core, of);
    let written = core.swap(of.key, Some(&record.etag), right).await;
    forget(core, of);
    let written = written.map(|written| written.is_some());
    discard_copy(core, &copy, &written).await;
    written
}

async fn copy_to_quarantine(core: &Core, key: &Key, bytes: Bytes) -> Result<Key> {
    let copy = keys::quarantined(key);
    core.store.put(&copy, bytes, PutMode::Create).await?;
    Ok(copy)
}

/// Removes a copy that turned out not to be needed. An ambiguous write is taken for done: better a copy
/// too many than none.
async fn discard_copy(core: &Core, copy: &Key, done: &Result<bool>) {
    if matches!(done, Ok(false)) {
        core.store.delete(copy, None).await.ok();
    }
}

/// Marks a link as deleted, so that the blob is absent from the repository and can be pushed again. The link is quarantined, and keeps the bytes from GC until it is removed by hand.
/// `false`: the link was changed concurrently.
pub(super) async fn delete_link(
    core: &Core,
    name: &RepositoryName,
    digest: &Digest,
    location: &Location,
    seen: &ETag,
) -> Result<bool> {
    let link = keys::link(digest, name);
    let copy = copy_to_quarantine(core, &link, Link::Live(location.clone()).encode()).await?;
    core.cache.forget(name, digest);
    let swapped = core.swap(&link, Some(seen), Link::Deleted.encode()).await;
    core.cache.forget(name, digest);
    let swapped = swapped.map(|written| written.is_some());
    discard_copy(core, &copy, &swapped).await;
    swapped
}

/// Locations that quarantined links name, or may name.
#[derive(Debug, Default)]
pub(crate) struct QuarantinedLocations {
    named: HashSet<Key>,
    /// Digests with a quarantined link that cannot be decoded: it may name any location of its digest, or
    /// one whose key has no digest.
    unreadable: HashSet<Digest>,
    lost: LostBytes,
}

/// What links say of bytes that are not at their location. Such a link may be corrupt and still decode,
/// and its bytes be at another location.
#[derive(Debug, Default)]
pub(crate) struct LostBytes {
    digests: HashSet<Digest>,
    sizes: HashSet<u64>,
}

impl LostBytes {
    pub(crate) fn add(&mut self, digest: Digest, size_bytes: u64) {
        self.digests.insert(digest);
        self.sizes.insert(size_bytes);
    }

    /// Whether an object may be some of them: by its digest or, where its key has none, by its size.
    pub(crate) fn may_include(&self, location: &Key, size_bytes: u64) -> bool {
        match ParsedKey::parse(location) {
            Some(ParsedKey::Blob(Some(digest))) => self.digests.contains(&digest),
            _ => self.sizes.contains(&size_bytes),
        }
    }
}

impl QuarantinedLocations {
    pub(crate) fn may_name(&self, location: &Key, size_bytes: u64) -> bool {
        self.named.contains(location)
            || self.is_named_by_unreadable(location)
            || self.lost.may_include(location, size_bytes)
    }

    fn is_named_by_unreadable(&self, location: &Key) -> bool {
        match ParsedKey::parse(location) {
            Some(ParsedKey::Blob(Some(digest))) => self.unreadable.contains(&digest),
            _ => !self.unreadable.is_empty(),
        }
    }
}

impl Core {
    /// Reads the quarantined links.
    pub(crate) async fn quarantined_locations(&self) -> Result<QuarantinedLocations> {
        let mut locations = QuarantinedLocations::default();
        let mut pages = self.list_pages(keys::QUARANTINE);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                let before = keys::before_quarantine(&entry.key);
                let Some(ParsedKey::Link(digest, _)) =
                    before.and_then(|key| ParsedKey::parse(&key))
                else {
                    continue;
                };
                match self.read::<Link>(&entry.key).await {
                    Ok(link) => {
                        let named = link.as_ref().and_then(|link| link.value.live());
                        let Some(at) = named else { continue };
                        if !self.exists(&at.key).await? {
                            locations.lost.add(digest, at.size_bytes);
                        }
                        locations.named.insert(at.key.clone());
                    }
                    Err(Error::Damaged { .. }) => {
                        locations.unreadable.insert(digest);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(locations)
    }
}

/// Called before and after each write of a repair.
fn forget(core: &Core, of: &FindingSubject<'_>) {
    if let (Some(name), Some(digest)) = (of.repository, of.digest) {
        core.cache.forget(name, digest);
    }
}
