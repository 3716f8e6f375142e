//! Repairs. Each is a write on the version that was judged.

use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{ETag, ErrorKind, Key, PutMode, Record};

use super::read::{Bad, Cause};
use super::{FindingKind, Repair, Run, Subject};
use crate::Result;
use crate::core::Core;
use crate::keys::{self, Place};
use crate::record::{Link, Stored};

impl Run<'_> {
    /// Does what mends something, if repairs were asked for. `false`: somebody changed it.
    pub(super) async fn mend(&self, deed: impl Future<Output = Result<bool>>) -> Repair {
        if !self.options.repair {
            return Repair::Possible;
        }
        match deed.await {
            Ok(true) => Repair::Done,
            Ok(false) | Err(_) => Repair::Failed,
        }
    }

    /// Tells of a record that cannot be understood, and puts it aside.
    pub(super) async fn report_bad(
        &mut self,
        kind: FindingKind,
        of: &Subject<'_>,
        bad: &Bad,
    ) -> Repair {
        let (kind, repair) = match (bad.cause, &bad.record) {
            (Cause::Newer, _) => (FindingKind::RecordNewer, Repair::None),
            (Cause::ReadFails, _) => (FindingKind::ReadFails, Repair::None),
            (Cause::Damaged, Some(record)) if self.core.removes(of.key) => {
                (kind, self.mend(quarantine(&self.core, of, record)).await)
            }
            (Cause::Damaged, _) => (kind, Repair::None),
        };
        self.report(kind, of, bad.reason.clone(), repair);
        repair
    }
}

impl Core {
    /// Whether a record can be removed on its version, or be swapped for one that stands for
    /// nothing.
    fn removes(&self, key: &Key) -> bool {
        let stays = matches!(Place::of(key), Some(Place::Upload(_) | Place::Catalog(_)));
        self.store.removes_versions() || !stays
    }
}

/// Copies what is there to a place of its own, then removes that version of it.
pub(super) async fn quarantine(core: &Core, of: &Subject<'_>, record: &Record) -> Result<bool> {
    let copy = put_aside(core, of.key, record).await?;
    forget(core, of.repository, of.digest);
    let removed = match Place::of(of.key) {
        Some(Place::Link(..)) => core.retire(of.key, &record.etag).await,
        _ => core.remove(of.key, &record.etag).await,
    };
    forget(core, of.repository, of.digest);
    if !matches!(removed, Ok(true)) {
        // It is still where it was, or something newer is.
        core.store.delete(&copy, None).await.ok();
    }
    removed
}

/// Copies what is there to a place of its own, then writes what should be there over that version.
pub(super) async fn rewrite(
    core: &Core,
    key: &Key,
    record: &Record,
    right: bytes::Bytes,
) -> Result<bool> {
    let copy = put_aside(core, key, record).await?;
    let written = core.swap(key, Some(&record.etag), right).await.map(|written| written.is_some());
    if !matches!(written, Ok(true)) {
        core.store.delete(&copy, None).await.ok();
    }
    written
}

async fn put_aside(core: &Core, key: &Key, record: &Record) -> Result<Key> {
    let copy = keys::quarantined(key);
    core.store.put(&copy, record.bytes.clone(), PutMode::Create).await?;
    Ok(copy)
}

/// Lets a repository hold a blob no more, so that it is answered as absent and can be pushed
/// again. The bytes are left to the collector.
pub(super) async fn let_go(
    core: &Core,
    name: &RepositoryName,
    digest: &Digest,
    seen: &ETag,
) -> Result<bool> {
    let key = keys::link(digest, name);
    core.cache.forget(name, digest);
    let swapped = core.swap(&key, Some(seen), Link::Deleted.encode()).await;
    core.cache.forget(name, digest);
    Ok(swapped?.is_some())
}

fn forget(core: &Core, repository: Option<&RepositoryName>, digest: Option<&Digest>) {
    if let (Some(name), Some(digest)) = (repository, digest) {
        core.cache.forget(name, digest);
    }
}

/// Whether an error says that the object itself is not as it was said to be.
pub(super) fn is_about_object(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::NotFound | ErrorKind::OutOfRange)
}
