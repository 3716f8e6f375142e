//! Tags, hints, and entries of lists of referrers.

use futures::stream::{self, StreamExt};
use jreg_oci::{Digest, RepositoryName, Tag};
use jreg_storage::Key;

use super::mend::{Remedy, quarantine};
use super::read::{Found, Raw, look, look_raw};
use super::{CheckPhase, FindingKind, Repair, Run, Subject};
use crate::Result;
use crate::core::Core;
use crate::fingerprint;
use crate::keys::{self, Place};
use crate::manifest::verified;
use crate::record::{ManifestRecord, Mark, Stored, TagTarget, Versioned};
use crate::window::WRITE_MAX;

/// A record of a repository, as it was read.
enum Entry {
    Tag(RepositoryName, Tag, Found<TagTarget>),
    Hint(RepositoryName, Digest, Tag, Found<Mark>),
    /// Read only if no manifest was found that it is the entry of.
    Referrer(RepositoryName, Digest, Digest),
    Other,
}

async fn read(core: &Core, key: &Key) -> Result<Entry> {
    Ok(match Place::of(key) {
        Some(Place::Tag(name, tag)) => Entry::Tag(name, tag, look(core, key).await?),
        Some(Place::Hint(name, digest, tag)) => {
            Entry::Hint(name, digest, tag, look(core, key).await?)
        }
        Some(Place::Referrer(name, subject, own)) => Entry::Referrer(name, subject, own),
        _ => Entry::Other,
    })
}

impl Run<'_> {
    /// Reads every tag and every hint, and looks for entries of referrers that are none.
    pub(super) async fn check_records(&mut self) -> Result<()> {
        self.watch.phase(CheckPhase::Records);
        let core = self.core.clone();
        let mut pages = self.core.pages(keys::REPOSITORIES);
        while let Some(page) = pages.next().await? {
            let reads: Vec<_> = page.entries.iter().map(|entry| read(&core, &entry.key)).collect();
            let mut reads = stream::iter(reads).buffered(self.width());
            for entry in &page.entries {
                let Some(record) = reads.next().await else { break };
                match record? {
                    Entry::Tag(name, tag, found) => {
                        self.check_tag(&entry.key, &name, &tag, found).await?;
                    }
                    Entry::Hint(name, digest, tag, found) => {
                        let of = Subject::content(&entry.key, &name, &digest);
                        self.check_hint(&of, &name, &digest, &tag, found).await?;
                    }
                    Entry::Referrer(name, subject, own) => {
                        let age = page.date.duration_since(entry.last_modified);
                        let is_known = self.seen.entries.contains(fingerprint::key(&entry.key));
                        if !is_known && age.unwrap_or_default() > WRITE_MAX {
                            self.judge_referrer(&entry.key, &name, &subject, &own).await?;
                        }
                    }
                    Entry::Other => continue,
                }
                self.watch.progress(1, entry.size_bytes);
            }
        }
        Ok(())
    }

    async fn check_tag(
        &mut self,
        key: &Key,
        name: &RepositoryName,
        tag: &Tag,
        found: Found<TagTarget>,
    ) -> Result<()> {
        let of = Subject { repository: Some(name), ..Subject::of(key) };
        let read = match found {
            Found::Absent => return Ok(()),
            Found::Good(read) => read,
            Found::Bad(bad) => {
                self.report_bad(FindingKind::TagUnreadable, &of, &bad, Remedy::PutAside).await?;
                return Ok(());
            }
        };
        let digest = read.value.digest.clone();
        let of = Subject { digest: Some(&digest), ..of };
        if !self.has_manifest(name, &digest)
            && !self.core.exists(&keys::manifest(name, &digest)).await?
        {
            if self.core.etag(key).await?.as_ref() == Some(&read.etag) {
                let detail = format!("{digest} is not in the repository");
                self.report(FindingKind::TagDangling, &of, detail, Repair::None);
            }
            return Ok(());
        }
        self.check_hint_of(&of, name, tag, &read).await
    }

    /// Whether the listing has shown a manifest.
    fn has_manifest(&self, name: &RepositoryName, digest: &Digest) -> bool {
        let content = fingerprint::content(name, digest);
        self.seen.manifests.contains(content) && !self.seen.put_aside.contains(&content)
    }

    /// A hint is there before its tag is.
    async fn check_hint_of(
        &mut self,
        of: &Subject<'_>,
        name: &RepositoryName,
        tag: &Tag,
        read: &Versioned<TagTarget>,
    ) -> Result<()> {
        let hint = keys::tag_hint(name, &read.value.digest, tag);
        if self.seen.hints.contains(fingerprint::key(&hint)) || self.core.exists(&hint).await? {
            return Ok(());
        }
        if self.core.etag(of.key).await?.as_ref() != Some(&read.etag) {
            return Ok(());
        }
        let repair = self.mend(async {
            self.core.ensure(self.core.open_window(), &hint, &Mark {}).await?;
            Ok(true)
        });
        let repair = repair.await;
        let detail = format!("{} has no hint", of.key);
        self.report(FindingKind::HintMissing, &Subject { key: &hint, ..*of }, detail, repair);
        Ok(())
    }

    async fn check_hint(
        &mut self,
        of: &Subject<'_>,
        name: &RepositoryName,
        digest: &Digest,
        tag: &Tag,
        found: Found<Mark>,
    ) -> Result<()> {
        let read = match found {
            Found::Absent => return Ok(()),
            Found::Good(read) => read,
            Found::Bad(bad) => {
                let remedy = Remedy::Rewrite(Mark {}.encode());
                self.report_bad(FindingKind::HintUnreadable, of, &bad, remedy).await?;
                return Ok(());
            }
        };
        let tag = keys::tag(name, tag);
        let has_tag = self.seen.tags.contains(fingerprint::key(&tag));
        // One that is young is there for a tag that is about to be.
        if (has_tag && self.has_manifest(name, digest)) || read.age() <= WRITE_MAX {
            return Ok(());
        }
        let core = &self.core;
        let serves = core.exists(&tag).await? && core.exists(&keys::manifest(name, digest)).await?;
        if !serves && core.etag(of.key).await?.as_ref() == Some(&read.etag) {
            let detail = "its tag or its manifest is gone";
            self.report(FindingKind::HintStray, of, detail, Repair::None);
        }
        Ok(())
    }

    /// An entry of no manifest that was read: that manifest may be gone, be another's, or new.
    async fn judge_referrer(
        &mut self,
        key: &Key,
        name: &RepositoryName,
        subject: &Digest,
        own: &Digest,
    ) -> Result<()> {
        let of = Subject::content(key, name, own);
        let manifest = keys::manifest(name, own);
        let header = match look::<ManifestRecord>(&self.core, &manifest).await? {
            Found::Absent => None,
            // Its own finding tells of it.
            Found::Bad(_) => return Ok(()),
            Found::Good(read) => match verified(&manifest, own, read.value.clone()) {
                Ok(_) => Some(read.value.header),
                Err(_) => return Ok(()),
            },
        };
        let Raw::Whole(record) = look_raw(&self.core, key).await? else { return Ok(()) };
        match header {
            None => {
                let detail = format!("{own} is not in the repository");
                self.report(FindingKind::ReferrerStray, &of, detail, Repair::None);
            }
            Some(header) if header.subject.as_ref() == Some(subject) => {}
            Some(_) => {
                let repair = self.mend(quarantine(&self.core, &of, &record)).await;
                let detail = format!("{own} has another subject, or none");
                self.report(FindingKind::ReferrerWrong, &of, detail, repair);
            }
        }
        Ok(())
    }
}
