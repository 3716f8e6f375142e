//! The bytes of blobs, as listings show them.

use jreg_oci::Digest;
use jreg_storage::{Key, Listed};

use super::repair::QuarantinedLocations;
use super::{FindingKind, FindingSubject, FsckPhase, FsckRun, RepairStatus};
use crate::fingerprint;
use crate::keys::{self, ParsedKey};
use crate::record::Link;
use crate::session::REPLAY_MAX;
use crate::window::WRITE_MAX;
use crate::{Error, Result};

impl FsckRun<'_> {
    /// Notes the location and size of all blob bytes.
    pub(super) async fn list_bytes(&mut self) -> Result<()> {
        self.watch.phase(FsckPhase::Bytes);
        let mut pages = self.core.list_pages(keys::BLOBS);
        while let Some(page) = pages.next().await? {
            self.count(&page);
            for entry in &page.entries {
                match ParsedKey::parse(&entry.key) {
                    Some(_) => {
                        let bytes = fingerprint::sized(&entry.key, entry.size_bytes);
                        self.seen.bytes.insert(bytes);
                    }
                    None => self.report_unknown(&entry.key).await?,
                }
            }
        }
        self.seen.bytes.seal();
        Ok(())
    }

    /// Finds orphans: bytes that no record references. Bytes were listed first, then sessions, then
    /// links: so bytes listed then and not referenced will not be; and newer ones are young, or
    /// parts of an upload, which a session references.
    pub(super) async fn find_orphans(&mut self) -> Result<()> {
        if self.seen.may_name_any {
            return Ok(());
        }
        self.watch.phase(FsckPhase::Orphans);
        self.seen.named.seal();
        let mut pages = self.core.list_pages(keys::BLOBS);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                let is_named = self.seen.named.contains(fingerprint::key(&entry.key));
                let Some(ParsedKey::Blob(digest)) = ParsedKey::parse(&entry.key) else { continue };
                let age = page.date.duration_since(entry.last_modified).unwrap_or_default();
                if !is_named && age > REPLAY_MAX + WRITE_MAX {
                    self.judge_orphan(entry, digest.as_ref()).await?;
                }
            }
            self.watch.progress(page.entries.len() as u64, 0);
        }
        Ok(())
    }

    async fn judge_orphan(&mut self, entry: &Listed, digest: Option<&Digest>) -> Result<()> {
        let key = &entry.key;
        if let Some(digest) = digest
            && self.is_perhaps_linked(digest, key).await?
        {
            return Ok(());
        }
        let is_quarantined = self.quarantined().await?.may_name(key, entry.size_bytes);
        if !is_quarantined && self.core.exists(key).await? {
            let detail = format!("{} bytes that no link and no session names", entry.size_bytes);
            let subject = FindingSubject { digest, ..FindingSubject::of(key) };
            self.report(FindingKind::BytesOrphan, &subject, detail, RepairStatus::None);
        }
        Ok(())
    }

    /// The locations that quarantined links name, or may name: read at the first use.
    async fn quarantined(&mut self) -> Result<&QuarantinedLocations> {
        if self.seen.quarantined.is_none() {
            self.seen.quarantined = Some(self.core.quarantined_locations().await?);
        }
        Ok(self.seen.quarantined.get_or_insert_default())
    }

    /// Whether a link of this digest references a location, or, if it cannot be read, may do so.
    async fn is_perhaps_linked(&self, digest: &Digest, location: &Key) -> Result<bool> {
        let mut pages = self.core.list_pages(keys::links(digest));
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                match self.core.read::<Link>(&entry.key).await {
                    Ok(Some(link)) if link.value.live().is_some_and(|at| at.key == *location) => {
                        return Ok(true);
                    }
                    Ok(_) => {}
                    Err(Error::Damaged { .. }) => return Ok(true),
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(false)
    }
}
