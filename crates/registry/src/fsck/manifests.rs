//! Manifests: their bytes, what they reference, and the records that must exist with them.

use std::time::Duration;

use futures::stream::{self, StreamExt};
use jreg_oci::{Digest, Manifest, ManifestReference, ReferenceKind, RepositoryName};
use jreg_storage::{ETag, Key, Record};

use super::read::{RawState, RecordState, UnreadableCause, UnreadableRecord, read_raw, read_state};
use super::repair::{RepairPlan, rewrite};
use super::{FindingKind, FindingSubject, FsckPhase, FsckRun, RepairStatus};
use crate::fingerprint;
use crate::keys::{self, ParsedKey};
use crate::manifest::is_required;
use crate::manifest_header::{HeadlessManifest, manifest_header, referrer_entry};
use crate::record::{
    Link, ManifestHeader, ManifestRecord, PresenceMark, ReferrerEntry, StoredRecord,
    VersionedRecord, decode_versioned,
};
use crate::window::WRITE_MAX;
use crate::{Error, Result};

/// The scope of a pass over the manifests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ManifestScope {
    /// Everything about a manifest.
    Everything,
    /// Whether it references a blob whose link this run has deleted.
    DeletedReferences,
    /// Whether it is in the list of its subject's referrers, from which it was missing at first.
    Referrers,
}

/// How much later a manifest is re-read that is missing from a list of referrers: a delete removes
/// the list's entry first, and then the manifest.
const DELETE_TIME: Duration = Duration::from_secs(3);

/// Maximum number of these that are kept.
const SUSPECTS_MAX: usize = 10_000;

/// A manifest whose bytes are those of its digest.
struct SoundManifest<'a> {
    of: FindingSubject<'a>,
    name: &'a RepositoryName,
    digest: &'a Digest,
    manifest: Manifest,
    record: ManifestRecord,
    etag: ETag,
    /// Whether no push can still be about to write the records that go with it.
    is_settled: bool,
}

impl FsckRun<'_> {
    /// Reads every manifest.
    pub(super) async fn check_manifests(&mut self, scope: ManifestScope) -> Result<()> {
        self.watch.phase(FsckPhase::Manifests);
        let core = self.core.clone();
        let mut pages = self.core.list_pages(keys::REPOSITORIES);
        while let Some(page) = pages.next().await? {
            let manifests =
                page.entries.iter().filter_map(|entry| match ParsedKey::parse(&entry.key) {
                    Some(ParsedKey::Manifest(name, digest)) => Some((entry, name, digest)),
                    _ => None,
                });
            let manifests: Vec<_> = manifests.collect();
            let reads = manifests.iter().map(|(entry, ..)| read_raw(&core, &entry.key));
            let reads: Vec<_> = reads.collect();
            let mut reads = stream::iter(reads).buffered(self.width());
            for (entry, name, digest) in &manifests {
                let Some(raw) = reads.next().await else { break };
                self.check_manifest(&entry.key, name, digest, raw?, scope).await?;
                self.watch.progress(1, entry.size_bytes);
            }
        }
        self.seen.entries.seal();
        Ok(())
    }

    /// Reads manifests again that were missing from lists of referrers.
    pub(super) async fn recheck_referrers(&mut self) -> Result<()> {
        if self.seen.unlisted.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(DELETE_TIME).await;
        for (name, digest) in std::mem::take(&mut self.seen.unlisted) {
            let key = keys::manifest(&name, &digest);
            let raw = read_raw(&self.core, &key).await?;
            self.check_manifest(&key, &name, &digest, raw, ManifestScope::Referrers).await?;
        }
        Ok(())
    }

    async fn check_manifest(
        &mut self,
        key: &Key,
        name: &RepositoryName,
        digest: &Digest,
        raw: RawState,
        scope: ManifestScope,
    ) -> Result<()> {
        let of = FindingSubject::content(key, name, digest);
        let mut judged = self.judge(key, digest, raw).await?;
        if matches!(judged, ManifestVerdict::Unsound(..)) {
            judged = self.judge(key, digest, read_raw(&self.core, key).await?).await?;
        }
        let (manifest, read) = match judged {
            ManifestVerdict::Gone => return Ok(()),
            ManifestVerdict::Sound(sound) => *sound,
            ManifestVerdict::Unsound(kind, bad) => {
                if scope == ManifestScope::Everything {
                    self.bad_manifest(kind, &of, digest, bad).await?;
                }
                return Ok(());
            }
        };
        let is_settled = read.age() > WRITE_MAX;
        let (etag, record) = (read.etag, read.value);
        let sound = SoundManifest { of, name, digest, manifest, record, etag, is_settled };
        match scope {
            ManifestScope::DeletedReferences => self.check_references_to_deleted(&sound).await,
            ManifestScope::Referrers => self.check_referrer(&sound, scope).await,
            ManifestScope::Everything => self.check_sound(&sound).await,
        }
    }

    /// Runs on the compute pool, if the manifest is large.
    async fn judge(&self, key: &Key, digest: &Digest, raw: RawState) -> Result<ManifestVerdict> {
        let length = match &raw {
            RawState::Whole(record) => record.bytes.len(),
            RawState::Absent | RawState::Unreadable(_) => 0,
        };
        let (key, digest) = (key.clone(), digest.clone());
        self.core.compute.run(length, move || judge(&key, &digest, raw)).await
    }

    async fn bad_manifest(
        &mut self,
        kind: FindingKind,
        of: &FindingSubject<'_>,
        digest: &Digest,
        mut bad: UnreadableRecord,
    ) -> Result<()> {
        let read = |record: &Record| HeadlessManifest::read(digest, &record.bytes)?.rebuild();
        let right = bad.record.as_ref().and_then(read);
        let remedy = match right {
            Some(right) => RepairPlan::Rewrite(right.encode()),
            None => {
                if kind == FindingKind::ManifestInvalid {
                    // The pushed bytes are complete, but cannot be parsed.
                    bad.record = None;
                }
                RepairPlan::Quarantine
            }
        };
        let is_quarantine = matches!(remedy, RepairPlan::Quarantine);
        let repair = self.report_unreadable(kind, of, &bad, remedy).await?;
        if is_quarantine
            && repair == RepairStatus::Done
            && let Some(name) = of.repository
        {
            self.seen.quarantined_manifests.insert(fingerprint::content(name, digest));
        }
        Ok(())
    }

    async fn check_sound(&mut self, sound: &SoundManifest<'_>) -> Result<()> {
        self.check_header(sound).await;
        for reference in &sound.manifest.references {
            if !self.seems_there(sound, reference) {
                self.judge_missing(sound, reference).await?;
            }
        }
        self.check_referrer(sound, ManifestScope::Everything).await?;
        self.check_listed(sound).await
    }

    /// By its header a delete finds the list that the manifest is in.
    async fn check_header(&mut self, sound: &SoundManifest<'_>) {
        let is = &sound.record.header;
        let should = manifest_header(&sound.manifest, is.size);
        if is.subject == should.subject && is.artifact_type == should.artifact_type {
            return;
        }
        let (change, restored, origin) = (is.change, is.restored, is.origin);
        let header = ManifestHeader { change, restored, origin, ..should };
        let record = ManifestRecord { header, bytes: sound.record.bytes.clone() };
        let swap = async {
            let written = self.core.swap(sound.of.key, Some(&sound.etag), record.encode()).await?;
            Ok(written.is_some())
        };
        let repair = self.repair_by(swap).await;
        let detail = "its header line names another subject or artifact type than its bytes";
        self.report(FindingKind::ManifestHeader, &sound.of, detail, repair);
    }

    /// Whether the listings contain the references of a manifest.
    fn seems_there(&self, sound: &SoundManifest<'_>, reference: &ManifestReference) -> bool {
        let content = fingerprint::content(sound.name, &reference.digest);
        self.seen.linked.contains(content)
            || reference.kind.may_be_manifest()
                && self.seen.manifests.contains(content)
                && !self.seen.quarantined_manifests.contains(&content)
    }

    /// Reports a missing reference, if the manifest still exists.
    async fn judge_missing(
        &mut self,
        sound: &SoundManifest<'_>,
        reference: &ManifestReference,
    ) -> Result<()> {
        // What a mirror has not fetched is not missing.
        if !reference.required || sound.record.header.is_mirrored() {
            return Ok(());
        }
        let (core, digest) = (&self.core, &reference.digest);
        if reference.kind.may_be_manifest()
            && core.exists(&keys::manifest(sound.name, digest)).await?
        {
            return Ok(());
        }
        let is_deleted = match read_state::<Link>(core, &keys::link(digest, sound.name)).await? {
            RecordState::Absent => false,
            RecordState::Valid(link) if link.value == Link::Deleted => true,
            RecordState::Valid(_) | RecordState::Unreadable(_) => return Ok(()),
        };
        if !self.is_still(sound).await? {
            return Ok(());
        }
        let kind = match reference.kind {
            _ if !is_required(self.core.options.references, reference) => {
                FindingKind::SparseReference
            }
            ReferenceKind::Child => FindingKind::ChildMissing,
            _ => FindingKind::BlobMissing,
        };
        let how = if is_deleted { ", it was deleted" } else { "" };
        let detail = format!("{digest} is not in the repository{how}");
        self.report(kind, &sound.of, detail, RepairStatus::None);
        Ok(())
    }

    async fn check_references_to_deleted(&mut self, sound: &SoundManifest<'_>) -> Result<()> {
        for reference in &sound.manifest.references {
            let content = fingerprint::content(sound.name, &reference.digest);
            if self.seen.deleted_links.contains(&content) {
                self.judge_missing(sound, reference).await?;
            }
        }
        Ok(())
    }

    /// Whether a manifest is the version that was read.
    async fn is_still(&self, sound: &SoundManifest<'_>) -> Result<bool> {
        Ok(self.core.read_etag(sound.of.key).await?.as_ref() == Some(&sound.etag))
    }

    /// A manifest with a subject must be in the list of its referrers, as it is.
    async fn check_referrer(
        &mut self,
        sound: &SoundManifest<'_>,
        scope: ManifestScope,
    ) -> Result<()> {
        let Some(subject) = &sound.manifest.subject else { return Ok(()) };
        let key = keys::referrer(sound.name, &subject.digest, sound.digest);
        if scope == ManifestScope::Everything {
            self.seen.entries.insert(fingerprint::key(&key));
        }
        let size = sound.record.header.size;
        let should = referrer_entry(&sound.manifest, sound.digest, size);
        let of = FindingSubject { key: &key, ..sound.of };
        match read_state::<ReferrerEntry>(&self.core, &key).await? {
            RecordState::Valid(read) if read.value == should => Ok(()),
            RecordState::Valid(read) => self.wrong_referrer(sound, &of, &read, &should).await,
            // A push in flight has yet to write it.
            RecordState::Absent if !sound.is_settled => Ok(()),
            RecordState::Absent if scope == ManifestScope::Referrers => {
                self.missing_referrer(sound, &of, &should).await
            }
            RecordState::Absent => {
                self.seen.unlisted.push((sound.name.clone(), sound.digest.clone()));
                match self.seen.unlisted.len() {
                    SUSPECTS_MAX => Box::pin(self.recheck_referrers()).await,
                    _ => Ok(()),
                }
            }
            RecordState::Unreadable(bad) => {
                let remedy = RepairPlan::Rewrite(should.encode());
                self.report_unreadable(FindingKind::ReferrerUnreadable, &of, &bad, remedy).await?;
                Ok(())
            }
        }
    }

    async fn wrong_referrer(
        &mut self,
        sound: &SoundManifest<'_>,
        of: &FindingSubject<'_>,
        read: &VersionedRecord<ReferrerEntry>,
        should: &ReferrerEntry,
    ) -> Result<()> {
        if !self.is_still(sound).await? {
            return Ok(());
        }
        let core = &self.core;
        let repair = self.repair_by(async {
            match read_raw(core, of.key).await? {
                RawState::Whole(record) if record.etag == read.etag => {
                    rewrite(core, of, &record, should.encode()).await
                }
                _ => Ok(false),
            }
        });
        let repair = repair.await;
        let detail = format!("it does not match {}", sound.of.key);
        self.report(FindingKind::ReferrerWrong, of, detail, repair);
        Ok(())
    }

    async fn missing_referrer(
        &mut self,
        sound: &SoundManifest<'_>,
        of: &FindingSubject<'_>,
        should: &ReferrerEntry,
    ) -> Result<()> {
        if !self.is_still(sound).await? || self.core.exists(of.key).await? {
            return Ok(());
        }
        let repair = self.repair_by(self.ensure_beside(sound, of.key, should)).await;
        let detail = format!("{} is not in the list of its subject's referrers", sound.digest);
        self.report(FindingKind::ReferrerMissing, of, detail, repair);
        Ok(())
    }

    /// A repository with a manifest must be in the catalog. Reported once for each repository.
    async fn check_listed(&mut self, sound: &SoundManifest<'_>) -> Result<()> {
        let repository = fingerprint::repository(sound.name);
        let is_known = self.seen.listed.contains(repository)
            || self.seen.reported_unlisted.contains(&repository);
        if is_known || !sound.is_settled {
            return Ok(());
        }
        let key = keys::catalog(sound.name);
        if self.core.exists(&key).await? || !self.is_still(sound).await? {
            return Ok(());
        }
        let repair = self.repair_by(self.ensure_beside(sound, &key, &PresenceMark {})).await;
        let of = FindingSubject { repository: Some(sound.name), ..FindingSubject::of(&key) };
        let detail = "the repository has manifests and is not in the catalog";
        self.report(FindingKind::CatalogMissing, &of, detail, repair);
        self.seen.reported_unlisted.insert(repository);
        Ok(())
    }

    /// Writes a record that belongs to a manifest, unless the manifest is deleted meanwhile.
    async fn ensure_beside<T: StoredRecord + PartialEq + Send + Sync + 'static>(
        &self,
        sound: &SoundManifest<'_>,
        key: &Key,
        value: &T,
    ) -> Result<bool> {
        let window = self.core.open_window();
        let _turn = self.core.manifest_locks.lock_for_push(sound.of.key).await;
        if !self.is_still(sound).await? {
            return Ok(false);
        }
        self.core.ensure_record(window, key, value).await?;
        Ok(true)
    }
}

/// The verdict on a manifest's record.
enum ManifestVerdict {
    Gone,
    Sound(Box<(Manifest, VersionedRecord<ManifestRecord>)>),
    Unsound(FindingKind, UnreadableRecord),
}

fn judge(key: &Key, digest: &Digest, raw: RawState) -> ManifestVerdict {
    let record = match raw {
        RawState::Absent => return ManifestVerdict::Gone,
        RawState::Unreadable(bad) => {
            return ManifestVerdict::Unsound(FindingKind::ManifestUnreadable, bad);
        }
        RawState::Whole(record) => record,
    };
    let bad = |kind, reason, record: Record| {
        ManifestVerdict::Unsound(
            kind,
            UnreadableRecord { reason, cause: UnreadableCause::Damaged, record: Some(record) },
        )
    };
    let read = match decode_versioned::<ManifestRecord>(key, record.clone()) {
        Ok(read) => read,
        Err(Error::Damaged { reason, .. }) => {
            return bad(FindingKind::ManifestUnreadable, reason, record);
        }
        Err(error) => return bad(FindingKind::ManifestUnreadable, error.to_string(), record),
    };
    let actual = Digest::of(digest.algorithm(), &read.value.bytes);
    if actual != *digest {
        let reason = format!("its bytes have digest {actual}");
        return bad(FindingKind::ManifestDigest, reason, record);
    }
    match Manifest::parse_stored(&read.value.header.media_type, &read.value.bytes) {
        Ok(manifest) => ManifestVerdict::Sound(Box::new((manifest, read))),
        Err(error) => bad(FindingKind::ManifestInvalid, error.to_string(), record),
    }
}
