//! Repairs. Each is a write on the version that was judged, and what cannot be understood is
//! copied before it goes.

use std::collections::HashSet;

use bytes::Bytes;
use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{ETag, Key, PutMode, Record};

use super::read::{Bad, Cause};
use super::{FindingKind, Repair, Run, Subject};
use crate::core::Core;
use crate::keys::{self, Place};
use crate::record::{Link, Location, Stored};
use crate::{Error, Result};

/// What becomes of a record that cannot be understood.
pub(super) enum Remedy {
    /// It is put aside, and is absent from then on.
    PutAside,
    /// It is put aside, and what it should be follows from its key or from other records.
    Rewrite(Bytes),
}

impl Run<'_> {
    /// Does what mends something, if repairs were asked for. `Ok(false)`: somebody has changed it.
    pub(super) async fn mend(&self, deed: impl Future<Output = Result<bool>>) -> Repair {
        if !self.options.repair {
            return Repair::Possible;
        }
        match deed.await {
            Ok(true) => Repair::Done,
            Ok(false) | Err(_) => Repair::Failed,
        }
    }

    /// Tells of a record that cannot be understood, and mends it.
    pub(super) async fn report_bad(
        &mut self,
        kind: FindingKind,
        of: &Subject<'_>,
        bad: &Bad,
        remedy: Remedy,
    ) -> Result<Repair> {
        let kind = match bad.cause {
            Cause::Damaged => kind,
            Cause::Newer => FindingKind::RecordNewer,
            Cause::ReadFails => FindingKind::ReadFails,
        };
        let repair = match (&bad.record, bad.cause) {
            (Some(record), Cause::Damaged) => match remedy {
                Remedy::Rewrite(right) => {
                    if kind == FindingKind::LinkUnreadable {
                        self.announce(kind, of, &bad.reason).await?;
                    }
                    self.mend(rewrite(&self.core, of, record, right)).await
                }
                Remedy::PutAside if can_go(&self.core, of.key) => {
                    self.announce(kind, of, &bad.reason).await?;
                    self.mend(quarantine(&self.core, of, record)).await
                }
                Remedy::PutAside => Repair::None,
            },
            _ => Repair::None,
        };
        self.report(kind, of, bad.reason.clone(), repair);
        Ok(repair)
    }
}

/// Whether the store can remove the version of this record that was seen, or whether there is
/// something to swap it for that stands for nothing.
fn can_go(core: &Core, key: &Key) -> bool {
    core.store.removes_versions() || !matches!(Place::of(key), Some(Place::Upload(_)))
}

/// Copies a record to a place of its own, then removes that version of it. `false`: there is
/// another.
pub(super) async fn quarantine(core: &Core, of: &Subject<'_>, record: &Record) -> Result<bool> {
    let copy = put_aside(core, of.key, record.bytes.clone()).await?;
    let _turn = match Place::of(of.key) {
        Some(Place::Manifest(..)) => Some(core.manifest_locks.alone(of.key).await),
        _ => None,
    };
    forget(core, of);
    let removed = core.remove(of.key, &record.etag).await;
    forget(core, of);
    drop_idle(core, &copy, &removed).await;
    removed
}

/// Copies a record to a place of its own, then writes what should be there over that version.
/// `false`: there is another.
pub(super) async fn rewrite(
    core: &Core,
    of: &Subject<'_>,
    record: &Record,
    right: Bytes,
) -> Result<bool> {
    let copy = put_aside(core, of.key, record.bytes.clone()).await?;
    forget(core, of);
    let written = core.swap(of.key, Some(&record.etag), right).await;
    forget(core, of);
    let written = written.map(|written| written.is_some());
    drop_idle(core, &copy, &written).await;
    written
}

async fn put_aside(core: &Core, key: &Key, bytes: Bytes) -> Result<Key> {
    let copy = keys::quarantined(key);
    core.store.put(&copy, bytes, PutMode::Create).await?;
    Ok(copy)
}

/// Where the version was not there any more, nothing was put aside. What may have happened is
/// taken for done: better a copy too many than none.
async fn drop_idle(core: &Core, copy: &Key, done: &Result<bool>) {
    if matches!(done, Ok(false)) {
        core.store.delete(copy, None).await.ok();
    }
}

/// Lets a repository hold a blob no more, so that the blob is answered as absent and can be pushed
/// again. The link is quarantined, and keeps the bytes from GC until it is removed by hand.
/// `false`: the link is another by now.
pub(super) async fn let_go(
    core: &Core,
    name: &RepositoryName,
    digest: &Digest,
    location: &Location,
    seen: &ETag,
) -> Result<bool> {
    let link = keys::link(digest, name);
    let copy = put_aside(core, &link, Link::Live(location.clone()).encode()).await?;
    core.cache.forget(name, digest);
    let swapped = core.swap(&link, Some(seen), Link::Deleted.encode()).await;
    core.cache.forget(name, digest);
    let swapped = swapped.map(|written| written.is_some());
    drop_idle(core, &copy, &swapped).await;
    swapped
}

/// The places of bytes that the links that a repair has quarantined name, or may name.
#[derive(Debug, Default)]
pub(crate) struct QuarantinedPlaces {
    named: HashSet<Key>,
    /// Digests of which a link was quarantined that cannot be read: it may name any place of its digest,
    /// or one whose key has no digest.
    unreadable: HashSet<Digest>,
    lost: LostBytes,
}

/// What links say of bytes that are not where they say. A link may have rotted and still read as one, and
/// its bytes lie elsewhere.
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
    pub(crate) fn may_be(&self, place: &Key, size_bytes: u64) -> bool {
        match Place::of(place) {
            Some(Place::Blob(Some(digest))) => self.digests.contains(&digest),
            _ => self.sizes.contains(&size_bytes),
        }
    }
}

impl QuarantinedPlaces {
    pub(crate) fn may_name(&self, place: &Key, size_bytes: u64) -> bool {
        self.named.contains(place)
            || self.may_be_unreadable(place)
            || self.lost.may_be(place, size_bytes)
    }

    fn may_be_unreadable(&self, place: &Key) -> bool {
        match Place::of(place) {
            Some(Place::Blob(Some(digest))) => self.unreadable.contains(&digest),
            _ => !self.unreadable.is_empty(),
        }
    }
}

impl Core {
    /// Reads the links that a repair has quarantined.
    pub(crate) async fn quarantined_places(&self) -> Result<QuarantinedPlaces> {
        let mut places = QuarantinedPlaces::default();
        let mut pages = self.pages(keys::QUARANTINE);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                let before = keys::before_quarantine(&entry.key);
                let Some(Place::Link(digest, _)) = before.and_then(|key| Place::of(&key)) else {
                    continue;
                };
                match self.read::<Link>(&entry.key).await {
                    Ok(link) => {
                        let named = link.as_ref().and_then(|link| link.value.live());
                        let Some(at) = named else { continue };
                        if !self.exists(&at.key).await? {
                            places.lost.add(digest, at.size_bytes);
                        }
                        places.named.insert(at.key.clone());
                    }
                    Err(Error::Damaged { .. }) => {
                        places.unreadable.insert(digest);
                    }
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(places)
    }
}

/// To be called before and after what a repair writes.
fn forget(core: &Core, of: &Subject<'_>) {
    if let (Some(name), Some(digest)) = (of.repository, of.digest) {
        core.cache.forget(name, digest);
    }
}
