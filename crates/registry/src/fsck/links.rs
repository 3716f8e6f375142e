//! Links, and whether the bytes that they name are there.

use futures::stream::{self, StreamExt};
use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{ETag, Key};

use super::mend::{Remedy, let_go};
use super::read::{Bad, Found, look};
use super::{CheckPhase, FindingKind, Repair, Run, Subject};
use crate::Result;
use crate::core::Core;
use crate::fingerprint;
use crate::keys::{self, Place};
use crate::record::{Link, Location, Stored, Versioned};
use crate::suspects::Suspicion;

/// What is wrong with the bytes at a location.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BadBytes {
    pub(super) kind: FindingKind,
    pub(super) detail: String,
}

/// A link as it was read.
pub(super) struct HeldAt {
    pub(super) name: RepositoryName,
    pub(super) digest: Digest,
    pub(super) location: Location,
    pub(super) etag: ETag,
}

impl Run<'_> {
    /// Reads every link, and holds it against the bytes that were listed.
    pub(super) async fn check_links(&mut self) -> Result<()> {
        self.watch.phase(CheckPhase::Links);
        let mut pages = self.core.pages(keys::LINKS);
        let core = self.core.clone();
        while let Some(page) = pages.next().await? {
            self.count(&page);
            let mut links = Vec::new();
            for entry in &page.entries {
                match Place::of(&entry.key) {
                    Some(Place::Link(digest, name)) => links.push((&entry.key, digest, name)),
                    _ => self.report_unknown(&entry.key).await?,
                }
            }
            let reads: Vec<_> = links.iter().map(|(key, ..)| look::<Link>(&core, key)).collect();
            let mut reads = stream::iter(reads).buffered(self.width());
            for (key, digest, name) in &links {
                let Some(found) = reads.next().await else { break };
                match found? {
                    Found::Absent => {}
                    Found::Good(Versioned { value: Link::Deleted, .. }) => {}
                    Found::Good(Versioned { value: Link::Live(location), etag, .. }) => {
                        let (name, digest) = (name.clone(), digest.clone());
                        self.check_link(HeldAt { name, digest, location, etag }).await?;
                    }
                    Found::Bad(bad) => self.bad_link(key, name, digest, &bad).await?,
                }
            }
        }
        self.seen.held.seal();
        Ok(())
    }

    /// From now on pushes do not rely on these bytes.
    fn suspect(&self, location: &Location, kind: FindingKind) {
        let suspicion = match kind {
            FindingKind::BytesMissing | FindingKind::BytesSize => Suspicion::Incomplete,
            FindingKind::BytesDigest => Suspicion::Wrong,
            _ => return,
        };
        self.core.suspects.add(&location.key, suspicion);
    }

    async fn bad_link(
        &mut self,
        key: &Key,
        name: &RepositoryName,
        digest: &Digest,
        bad: &Bad,
    ) -> Result<()> {
        let (kind, of) = (FindingKind::LinkUnreadable, Subject::content(key, name, digest));
        // As if the blob had been deleted: a late write of the same link does not bring it back.
        let remedy = Remedy::Rewrite(Link::Deleted.encode());
        if self.report_bad(kind, &of, bad, remedy).await? != Repair::Done {
            self.seen.may_name_any = true;
            self.seen.held.insert(fingerprint::content(name, digest));
        }
        Ok(())
    }

    async fn check_link(&mut self, held: HeldAt) -> Result<()> {
        let location = &held.location;
        self.seen.named.insert(fingerprint::key(&location.key));
        let content = fingerprint::content(&held.name, &held.digest);
        let bad = match self.is_listed(location) {
            true => None,
            false => bad_bytes(&self.core, location).await?,
        };
        let Some(bad) = bad else {
            self.seen.held.insert(content);
            return Ok(());
        };
        match self.report_bytes(&held, bad).await? {
            Some(Repair::Done) | None => {}
            Some(_) => self.seen.held.insert(content),
        }
        Ok(())
    }

    /// Tells of bytes that are not what a link says, if that link is still there. `None`: it is
    /// not.
    pub(super) async fn report_bytes(
        &mut self,
        held: &HeldAt,
        bad: BadBytes,
    ) -> Result<Option<Repair>> {
        let HeldAt { name, digest, location, etag } = held;
        if !still_holds(&self.core, held).await? {
            return Ok(None);
        }
        self.suspect(location, bad.kind);
        let subject = Subject::content(&location.key, name, digest);
        let repair = match bad.kind {
            // Another time the store may give them.
            FindingKind::ReadFails => Repair::None,
            _ => {
                self.announce(bad.kind, &subject, &bad.detail).await?;
                self.mend(let_go(&self.core, name, digest, location, etag)).await
            }
        };
        self.report(bad.kind, &subject, bad.detail, repair);
        Ok(Some(repair))
    }
}

/// Whether a link is the version that was read.
async fn still_holds(core: &Core, held: &HeldAt) -> Result<bool> {
    let key = keys::link(&held.digest, &held.name);
    Ok(core.etag(&key).await?.as_ref() == Some(&held.etag))
}

/// Looks whether the bytes at a location are there, and as many as they should be.
async fn bad_bytes(core: &Core, location: &Location) -> Result<Option<BadBytes>> {
    let stat = match core.store.head(&location.key).await {
        Ok(stat) => stat,
        Err(error) if error.is_not_found() => {
            let detail = format!("its {} bytes are missing", location.size_bytes);
            return Ok(Some(BadBytes { kind: FindingKind::BytesMissing, detail }));
        }
        Err(error) => return Err(error.into()),
    };
    let (is, should) = (stat.size_bytes, location.size_bytes);
    let detail = format!("it has {is} bytes, not {should}");
    Ok((is != should).then_some(BadBytes { kind: FindingKind::BytesSize, detail }))
}
