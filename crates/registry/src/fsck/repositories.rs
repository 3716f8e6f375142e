//! What repositories hold, as a listing shows it; and the catalog.

use futures::stream::{self, StreamExt};
use jreg_oci::RepositoryName;
use jreg_storage::{Key, Listed};

use super::mend::Remedy;
use super::read::{Found, look};
use super::{CheckPhase, FindingKind, Repair, Run, Subject};
use crate::Result;
use crate::fingerprint;
use crate::keys::{self, Place};
use crate::record::{Mark, Stored, Versioned};
use crate::window::WRITE_MAX;

impl Run<'_> {
    /// Notes what is there.
    pub(super) async fn list_repositories(&mut self) -> Result<()> {
        self.watch.phase(CheckPhase::Repositories);
        let mut pages = self.core.pages(keys::REPOSITORIES);
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
        match Place::of(&entry.key) {
            Some(Place::Manifest(name, digest)) => {
                seen.manifests.insert(fingerprint::content(&name, &digest));
                seen.repositories.insert(fingerprint::repository(&name));
            }
            Some(Place::Tag(..)) => seen.tags.insert(fingerprint::key(&entry.key)),
            Some(Place::Hint(..)) => seen.hints.insert(fingerprint::key(&entry.key)),
            Some(_) => {}
            None => self.report_unknown(&entry.key).await?,
        }
        Ok(())
    }

    /// Reads the catalog, and notes which repositories it lists.
    pub(super) async fn check_catalog(&mut self) -> Result<()> {
        self.watch.phase(CheckPhase::Catalog);
        let core = self.core.clone();
        let mut pages = self.core.pages(keys::CATALOG);
        while let Some(page) = pages.next().await? {
            self.count(&page);
            let mut entries = Vec::new();
            for entry in &page.entries {
                match Place::of(&entry.key) {
                    Some(Place::Catalog(name)) => entries.push((&entry.key, name)),
                    _ => self.report_unknown(&entry.key).await?,
                }
            }
            let reads: Vec<_> = entries.iter().map(|(key, _)| look::<Mark>(&core, key)).collect();
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
        found: Found<Mark>,
    ) -> Result<()> {
        let repository = fingerprint::repository(name);
        let of = Subject { repository: Some(name), ..Subject::of(key) };
        match found {
            Found::Absent => return Ok(()),
            Found::Bad(bad) => {
                let remedy = Remedy::Rewrite(Mark {}.encode());
                self.report_bad(FindingKind::CatalogUnreadable, &of, &bad, remedy).await?;
            }
            Found::Good(read) if self.is_empty(name, &read).await? => {
                let detail = "no manifest is in the repository";
                self.report(FindingKind::CatalogStray, &of, detail, Repair::None);
            }
            Found::Good(_) => {}
        }
        self.seen.listed.insert(repository);
        Ok(())
    }

    /// Whether nothing is in a repository, and no push is about to be.
    async fn is_empty(&self, name: &RepositoryName, read: &Versioned<Mark>) -> Result<bool> {
        let is_known = self.seen.repositories.contains(fingerprint::repository(name));
        if is_known || read.age() <= WRITE_MAX {
            return Ok(false);
        }
        let manifests = self.core.list(keys::manifests(name), None, 1).await?;
        let is_same = self.core.etag(&keys::catalog(name)).await?.as_ref() == Some(&read.etag);
        Ok(manifests.entries.is_empty() && is_same)
    }
}
