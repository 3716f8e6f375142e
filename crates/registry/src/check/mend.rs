//! Repairs. Each is a write on the version that was judged, and what cannot be understood is
//! copied before it goes.

use bytes::Bytes;
use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{ETag, Key, PutMode, Record};

use super::read::{Bad, Cause};
use super::{FindingKind, Repair, Run, Subject};
use crate::Result;
use crate::core::Core;
use crate::keys::{self, Place};
use crate::record::{Link, Stored};

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
    ) -> Repair {
        let kind = match bad.cause {
            Cause::Damaged => kind,
            Cause::Newer => FindingKind::RecordNewer,
            Cause::ReadFails => FindingKind::ReadFails,
        };
        let repair = match (&bad.record, bad.cause) {
            (Some(record), Cause::Damaged) => match remedy {
                Remedy::Rewrite(right) => self.mend(rewrite(&self.core, of, record, right)).await,
                Remedy::PutAside if can_go(&self.core, of.key) => {
                    self.mend(quarantine(&self.core, of, record)).await
                }
                Remedy::PutAside => Repair::None,
            },
            _ => Repair::None,
        };
        self.report(kind, of, bad.reason.clone(), repair);
        repair
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
    let copy = put_aside(core, of.key, record).await?;
    let _turn = match Place::of(of.key) {
        Some(Place::Manifest(..)) => Some(core.manifest_lock(of.key).write().await),
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
    let copy = put_aside(core, of.key, record).await?;
    forget(core, of);
    let written = core.swap(of.key, Some(&record.etag), right).await;
    forget(core, of);
    let written = written.map(|written| written.is_some());
    drop_idle(core, &copy, &written).await;
    written
}

async fn put_aside(core: &Core, key: &Key, record: &Record) -> Result<Key> {
    let copy = keys::quarantined(key);
    core.store.put(&copy, record.bytes.clone(), PutMode::Create).await?;
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
/// again. The bytes are left to the collector. `false`: the link is another by now.
pub(super) async fn let_go(
    core: &Core,
    name: &RepositoryName,
    digest: &Digest,
    seen: &ETag,
) -> Result<bool> {
    core.cache.forget(name, digest);
    let link = keys::link(digest, name);
    let swapped = core.swap(&link, Some(seen), Link::Deleted.encode()).await;
    core.cache.forget(name, digest);
    Ok(swapped?.is_some())
}

/// To be called before and after what a repair writes.
fn forget(core: &Core, of: &Subject<'_>) {
    if let (Some(name), Some(digest)) = (of.repository, of.digest) {
        core.cache.forget(name, digest);
    }
}
