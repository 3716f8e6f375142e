//! The content of repositories, as a listing shows it; and the catalog.

use futures::stream::{self, StreamExt};
use jreg_oci::RepositoryName;
use jreg_storage::{Key, Listed};

use super::read::{RecordState, read_state};
use super::repair::RepairPlan;
use super::{FindingKind, FindingSubject, FsckPhase, FsckRun, RepairStatus};
use crate::Result;
use crate::fingerprint;
use crate::keys::{self, ParsedKey};
use crate::record::{PresenceMark, StoredRecord, VersionedRecord};
use crate::tag_record::is_deleted_tag;
use crate::window::WRITE_MAX;

impl FsckRun<'_> {
    /// Notes which manifests, tags and hints exist.
    pub(super) async fn list_repositories(&mut self) -> Result<()> {
        self.watch.phase(FsckPhase::Repositories);
        let mut pages = self.core.list_pages(keys::REPOSITORIES);
        while let Some(page) = pages.next().await? {
            self.count(&page);
            for entry in &page.entries {
                self.note_entry(entry).await?;
            }
        }
        let seen = &mut self.seen;
        for set in [&mut seen.manifests, &mut seen.tags, &mut seen.hints, &mut seen.repositories] {
            set.seal();
        }
        Ok(())
    }

    async fn note_entry(&mut self, entry: &Listed) -> Result<()> {
        let seen = &mut self.seen;
        match ParsedKey::parse(&entry.key) {
            Some(ParsedKey::Manifest(name, digest)) => {
                seen.manifests.insert(fingerprint::content(&name, &digest));
                seen.repositories.insert(fingerprint::repository(&name));
            }
            Some(ParsedKey::Tag(..)) if is_deleted_tag(entry) => {}
            Some(ParsedKey::Tag(..)) => seen.tags.insert(fingerprint::key(&entry.key)),
            Some(ParsedKey::Hint(..)) => seen.hints.insert(fingerprint::key(&entry.key)),
            Some(_) => {}
            None => self.report_unknown(&entry.key).await?,
        }
        Ok(())
    }

    /// Reads the catalog, and notes which repositories it lists.
    pub(super) async fn check_catalog(&mut self) -> Result<()> {
        self.watch.phase(FsckPhase::Catalog);
        let core = self.core.clone();
        let mut pages = self.core.list_pages(keys::CATALOG);
        while let Some(page) = pages.next().await? {
            self.count(&page);
            let mut entries = Vec::new();
            for entry in &page.entries {
                match ParsedKey::parse(&entry.key) {
                    Some(ParsedKey::Catalog(name)) => entries.push((&entry.key, name)),
                    _ => self.report_unknown(&entry.key).await?,
                }
            }
            let reads: Vec<_> =
                entries.iter().map(|(key, _)| read_state::<PresenceMark>(&core, key)).collect();
            let mut reads = stream::iter(reads).buffered(self.width());
            for (key, name) in &entries {
                let Some(found) = reads.next().await else { break };
                self.check_catalog_entry(key, name, found?).await?;
            }
        }
        self.seen.listed.seal();
        Ok(())
    }

    async fn check_catalog_entry(
        &mut self,
        key: &Key,
        name: &RepositoryName,
        found: RecordState<PresenceMark>,
    ) -> Result<()> {
        let repository = fingerprint::repository(name);
        let of = FindingSubject { repository: Some(name), ..FindingSubject::of(key) };
        match found {
            RecordState::Absent => return Ok(()),
            RecordState::Unreadable(bad) => {
                let remedy = RepairPlan::Rewrite(PresenceMark {}.encode());
                self.report_unreadable(FindingKind::CatalogUnreadable, &of, &bad, remedy).await?;
            }
            RecordState::Valid(read) if self.is_empty(name, &read).await? => {
                let detail = "no manifest is in the repository";
                self.report(FindingKind::CatalogStray, &of, detail, RepairStatus::None);
            }
            RecordState::Valid(_) => {}
        }
        self.seen.listed.insert(repository);
        Ok(())
    }

    /// Whether a repository has no manifest, and no push is about to write one.
    async fn is_empty(
        &self,
        name: &RepositoryName,
        read: &VersionedRecord<PresenceMark>,
    ) -> Result<bool> {
        let is_known = self.seen.repositories.contains(fingerprint::repository(name));
        if is_known || read.age() <= WRITE_MAX {
            return Ok(false);
        }
        let manifests = self.core.list(keys::manifests(name), None, 1).await?;
        let is_same = self.core.read_etag(&keys::catalog(name)).await?.as_ref() == Some(&read.etag);
        Ok(manifests.entries.is_empty() && is_same)
    }
}
