//! Tags, hints and referrer entries.

use futures::stream::{self, StreamExt};
use jreg_oci::{Digest, RepositoryName, Tag};
use jreg_storage::{ETag, Key};

use super::read::{RawState, RecordState, read_raw, read_state};
use super::repair::{RepairPlan, quarantine};
use super::{FindingKind, FindingSubject, FsckPhase, FsckRun, RepairStatus};
use crate::Result;
use crate::core::Core;
use crate::fingerprint;
use crate::keys::{self, ParsedKey};
use crate::manifest_read::verified;
use crate::record::{ManifestRecord, PresenceMark, StoredRecord};
use crate::tag_record::TagRecord;
use crate::window::WRITE_MAX;

/// A record of a repository, as it was read.
enum RepositoryRecord {
    Tag(RepositoryName, Tag, RecordState<TagRecord>),
    Hint(RepositoryName, Digest, Tag, RecordState<PresenceMark>),
    /// Read only if no manifest requires it.
    Referrer(RepositoryName, Digest, Digest),
    Other,
}

async fn read(core: &Core, key: &Key) -> Result<RepositoryRecord> {
    Ok(match ParsedKey::parse(key) {
        Some(ParsedKey::Tag(name, tag)) => {
            RepositoryRecord::Tag(name, tag, read_state(core, key).await?)
        }
        Some(ParsedKey::Hint(name, digest, tag)) => {
            RepositoryRecord::Hint(name, digest, tag, read_state(core, key).await?)
        }
        Some(ParsedKey::Referrer(name, subject, own)) => {
            RepositoryRecord::Referrer(name, subject, own)
        }
        _ => RepositoryRecord::Other,
    })
}

impl FsckRun<'_> {
    /// Reads every tag and every hint, and finds referrer entries without a manifest.
    pub(super) async fn check_records(&mut self) -> Result<()> {
        self.watch.phase(FsckPhase::Records);
        let core = self.core.clone();
        let mut pages = self.core.list_pages(keys::REPOSITORIES);
        while let Some(page) = pages.next().await? {
            let reads: Vec<_> = page.entries.iter().map(|entry| read(&core, &entry.key)).collect();
            let mut reads = stream::iter(reads).buffered(self.width());
            for entry in &page.entries {
                let Some(record) = reads.next().await else { break };
                match record? {
                    RepositoryRecord::Tag(name, tag, found) => {
                        self.check_tag(&entry.key, &name, &tag, found).await?;
                    }
                    RepositoryRecord::Hint(name, digest, tag, found) => {
                        let of = FindingSubject::content(&entry.key, &name, &digest);
                        self.check_hint(&of, &name, &digest, &tag, found).await?;
                    }
                    RepositoryRecord::Referrer(name, subject, own) => {
                        let age = page.date.duration_since(entry.last_modified);
                        let is_known = self.seen.entries.contains(fingerprint::key(&entry.key));
                        if !is_known && age.unwrap_or_default() > WRITE_MAX {
                            self.judge_referrer(&entry.key, &name, &subject, &own).await?;
                        }
                    }
                    RepositoryRecord::Other => continue,
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
        found: RecordState<TagRecord>,
    ) -> Result<()> {
        let of = FindingSubject { repository: Some(name), ..FindingSubject::of(key) };
        let read = match found {
            RecordState::Absent => return Ok(()),
            RecordState::Valid(read) => read,
            RecordState::Unreadable(bad) => {
                self.report_unreadable(
                    FindingKind::TagUnreadable,
                    &of,
                    &bad,
                    RepairPlan::Quarantine,
                )
                .await?;
                return Ok(());
            }
        };
        // A deleted tag needs nothing.
        let Some(digest) = read.value.into_live().map(|target| target.digest) else {
            return Ok(());
        };
        let of = FindingSubject { digest: Some(&digest), ..of };
        if !self.has_manifest(name, &digest)
            && !self.core.exists(&keys::manifest(name, &digest)).await?
        {
            if self.core.read_etag(key).await?.as_ref() == Some(&read.etag) {
                let detail = format!("{digest} is not in the repository");
                self.report(FindingKind::TagDangling, &of, detail, RepairStatus::None);
            }
            return Ok(());
        }
        self.check_hint_of(&of, (name, tag, &digest), &read.etag).await
    }

    /// Whether the listing has shown a manifest.
    fn has_manifest(&self, name: &RepositoryName, digest: &Digest) -> bool {
        let content = fingerprint::content(name, digest);
        self.seen.manifests.contains(content) && !self.seen.quarantined_manifests.contains(&content)
    }

    /// A hint is there before its tag is.
    async fn check_hint_of(
        &mut self,
        of: &FindingSubject<'_>,
        (name, tag, digest): (&RepositoryName, &Tag, &Digest),
        read: &ETag,
    ) -> Result<()> {
        let hint = keys::tag_hint(name, digest, tag);
        if self.seen.hints.contains(fingerprint::key(&hint)) || self.core.exists(&hint).await? {
            return Ok(());
        }
        if self.core.read_etag(of.key).await?.as_ref() != Some(read) {
            return Ok(());
        }
        let repair = self.repair_by(async {
            self.core.ensure_record(self.core.open_window(), &hint, &PresenceMark {}).await?;
            Ok(true)
        });
        let repair = repair.await;
        let detail = format!("{} has no hint", of.key);
        self.report(
            FindingKind::HintMissing,
            &FindingSubject { key: &hint, ..*of },
            detail,
            repair,
        );
        Ok(())
    }

    async fn check_hint(
        &mut self,
        of: &FindingSubject<'_>,
        name: &RepositoryName,
        digest: &Digest,
        tag: &Tag,
        found: RecordState<PresenceMark>,
    ) -> Result<()> {
        let read = match found {
            RecordState::Absent => return Ok(()),
            RecordState::Valid(read) => read,
            RecordState::Unreadable(bad) => {
                let remedy = RepairPlan::Rewrite(PresenceMark {}.encode());
                self.report_unreadable(FindingKind::HintUnreadable, of, &bad, remedy).await?;
                return Ok(());
            }
        };
        let tag = keys::tag(name, tag);
        let has_tag = self.seen.tags.contains(fingerprint::key(&tag));
        // A young one belongs to a tag that is about to be written.
        if (has_tag && self.has_manifest(name, digest)) || read.age() <= WRITE_MAX {
            return Ok(());
        }
        let core = &self.core;
        let is_live = match read_state::<TagRecord>(core, &tag).await? {
            RecordState::Absent => false,
            RecordState::Valid(read) => read.value.live().is_some(),
            RecordState::Unreadable(_) => true,
        };
        let serves = is_live && core.exists(&keys::manifest(name, digest)).await?;
        if !serves && core.read_etag(of.key).await?.as_ref() == Some(&read.etag) {
            let detail = "its tag or its manifest is gone";
            self.report(FindingKind::HintStray, of, detail, RepairStatus::None);
        }
        Ok(())
    }

    /// An entry that no manifest requires: the manifest may no longer exist, have another subject,
    /// or be new.
    async fn judge_referrer(
        &mut self,
        key: &Key,
        name: &RepositoryName,
        subject: &Digest,
        own: &Digest,
    ) -> Result<()> {
        let of = FindingSubject::content(key, name, own);
        let manifest = keys::manifest(name, own);
        let header = match read_state::<ManifestRecord>(&self.core, &manifest).await? {
            RecordState::Absent => None,
            // It has a finding of its own.
            RecordState::Unreadable(_) => return Ok(()),
            RecordState::Valid(read) => match verified(&manifest, own, read.value.clone()) {
                Ok(_) => Some(read.value.header),
                Err(_) => return Ok(()),
            },
        };
        let RawState::Whole(record) = read_raw(&self.core, key).await? else { return Ok(()) };
        match header {
            None => {
                let detail = format!("{own} is not in the repository");
                self.report(FindingKind::ReferrerStray, &of, detail, RepairStatus::None);
            }
            Some(header) if header.subject.as_ref() == Some(subject) => {}
            Some(_) => {
                let repair = self.repair_by(quarantine(&self.core, &of, &record)).await;
                let detail = format!("{own} has another subject, or none");
                self.report(FindingKind::ReferrerWrong, &of, detail, repair);
            }
        }
        Ok(())
    }
}
