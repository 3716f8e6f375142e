//! Links, and whether the bytes that they name exist.

use futures::stream::{self, StreamExt};
use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{ETag, Key};

use super::read::{RecordState, UnreadableRecord, read_state};
use super::repair::{RepairPlan, delete_link};
use super::{FindingKind, FindingSubject, FsckPhase, FsckRun, RepairStatus};
use crate::Result;
use crate::core::Core;
use crate::fingerprint;
use crate::keys::{self, ParsedKey};
use crate::record::{Link, Location, StoredRecord, VersionedRecord};
use crate::suspects::Suspicion;

/// Damage of the bytes at a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BlobDamage {
    pub(crate) kind: FindingKind,
    pub(crate) detail: String,
}

impl BlobDamage {
    /// From now on pushes do not rely on these bytes.
    pub(crate) fn mark_suspect(&self, core: &Core, location: &Location) {
        let suspicion = match self.kind {
            FindingKind::BytesMissing | FindingKind::BytesSize => Suspicion::Incomplete,
            FindingKind::BytesDigest => Suspicion::Wrong,
            _ => return,
        };
        core.suspects.add(&location.key, suspicion);
    }
}

/// A live link as it was read.
pub(super) struct LiveLink {
    pub(super) name: RepositoryName,
    pub(super) digest: Digest,
    pub(super) location: Location,
    pub(super) etag: ETag,
}

impl LiveLink {
    pub(super) fn names_same_bytes(&self, other: &Self) -> bool {
        self.digest == other.digest && self.location == other.location
    }
}

impl FsckRun<'_> {
    /// Reads every link and compares it with the bytes that were listed.
    pub(super) async fn check_links(&mut self) -> Result<()> {
        self.watch.phase(FsckPhase::Links);
        let mut pages = self.core.list_pages(keys::LINKS);
        let core = self.core.clone();
        while let Some(page) = pages.next().await? {
            self.count(&page);
            let mut links = Vec::new();
            for entry in &page.entries {
                match ParsedKey::parse(&entry.key) {
                    Some(ParsedKey::Link(digest, name)) => links.push((&entry.key, digest, name)),
                    _ => self.report_unknown(&entry.key).await?,
                }
            }
            let reads: Vec<_> =
                links.iter().map(|(key, ..)| read_state::<Link>(&core, key)).collect();
            let mut reads = stream::iter(reads).buffered(self.width());
            for (key, digest, name) in &links {
                let Some(found) = reads.next().await else { break };
                match found? {
                    RecordState::Absent => {}
                    RecordState::Valid(VersionedRecord { value: Link::Deleted, .. }) => {}
                    RecordState::Valid(VersionedRecord {
                        value: Link::Live(location),
                        etag,
                        ..
                    }) => {
                        let (name, digest) = (name.clone(), digest.clone());
                        self.check_link(LiveLink { name, digest, location, etag }).await?;
                    }
                    RecordState::Unreadable(bad) => self.bad_link(key, name, digest, &bad).await?,
                }
            }
        }
        self.seen.linked.seal();
        Ok(())
    }

    async fn bad_link(
        &mut self,
        key: &Key,
        name: &RepositoryName,
        digest: &Digest,
        bad: &UnreadableRecord,
    ) -> Result<()> {
        let (kind, of) = (FindingKind::LinkUnreadable, FindingSubject::content(key, name, digest));
        // As after a delete: a late write of the same link does not bring it back.
        let remedy = RepairPlan::Rewrite(Link::Deleted.encode());
        if self.report_unreadable(kind, &of, bad, remedy).await? != RepairStatus::Done {
            self.seen.may_name_any = true;
            self.seen.linked.insert(fingerprint::content(name, digest));
        }
        Ok(())
    }

    async fn check_link(&mut self, held: LiveLink) -> Result<()> {
        let location = &held.location;
        self.seen.named.insert(fingerprint::key(&location.key));
        let content = fingerprint::content(&held.name, &held.digest);
        let bad = match self.is_listed(location) {
            true => None,
            false => find_damage(&self.core, location).await?,
        };
        let Some(bad) = bad else {
            self.seen.linked.insert(content);
            return Ok(());
        };
        match self.report_bytes(&held, bad).await? {
            Some(RepairStatus::Done) | None => {}
            Some(_) => self.seen.linked.insert(content),
        }
        Ok(())
    }

    /// Reports bytes that do not match a link. `None`: the link was changed meanwhile.
    pub(super) async fn report_bytes(
        &mut self,
        held: &LiveLink,
        bad: BlobDamage,
    ) -> Result<Option<RepairStatus>> {
        let LiveLink { name, digest, location, etag } = held;
        if !is_unchanged(&self.core, held).await? {
            return Ok(None);
        }
        bad.mark_suspect(&self.core, location);
        let subject = FindingSubject::content(&location.key, name, digest);
        let repair = match bad.kind {
            // The store may be able to read them another time.
            FindingKind::ReadFails => RepairStatus::None,
            _ => {
                self.announce_repair(bad.kind, &subject, &bad.detail).await?;
                self.repair_by(delete_link(&self.core, name, digest, location, etag)).await
            }
        };
        self.report(bad.kind, &subject, bad.detail, repair);
        Ok(Some(repair))
    }
}

/// Whether a link is the version that was read.
async fn is_unchanged(core: &Core, held: &LiveLink) -> Result<bool> {
    let key = keys::link(&held.digest, &held.name);
    Ok(core.read_etag(&key).await?.as_ref() == Some(&held.etag))
}

/// Compares the size of the bytes at a location with the size in a link.
async fn find_damage(core: &Core, location: &Location) -> Result<Option<BlobDamage>> {
    let stat = match core.store.head(&location.key).await {
        Ok(stat) => stat,
        Err(error) if error.is_not_found() => {
            let detail = format!("its {} bytes are missing", location.size_bytes);
            return Ok(Some(BlobDamage { kind: FindingKind::BytesMissing, detail }));
        }
        Err(error) => return Err(error.into()),
    };
    let (is, should) = (stat.size_bytes, location.size_bytes);
    let detail = format!("it has {is} bytes, not {should}");
    Ok((is != should).then_some(BlobDamage { kind: FindingKind::BytesSize, detail }))
}
