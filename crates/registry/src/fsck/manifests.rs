//! Manifests: their bytes, what they name, and what must lead to them.

use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use jreg_oci::{Digest, Manifest, ManifestReference, MediaType, ReferenceKind, RepositoryName};
use jreg_storage::{ETag, Key, Record};
use serde::Deserialize;

use super::mend::{Remedy, rewrite};
use super::read::{Bad, Cause, Found, Raw, look, look_raw};
use super::{CheckPhase, FindingKind, Repair, Run, Subject};
use crate::fingerprint;
use crate::keys::{self, Place};
use crate::manifest::{header, is_required, referrer_entry};
use crate::record::{
    Link, ManifestHeader, ManifestRecord, Mark, ReferrerEntry, Stored, Versioned, versioned,
};
use crate::window::WRITE_MAX;
use crate::{Error, Result};

/// What is looked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Everything that can be said of a manifest.
    Everything,
    /// Whether it names what this run has let go.
    WhatWasLetGo,
    /// Whether it is in the list of its subject's referrers, from which it was missing before.
    SecondLook,
}

/// How much later a manifest is looked at again that is missing from a list of referrers: a delete
/// takes it off the list, and then removes it.
const DELETE_TIME: Duration = Duration::from_secs(3);

/// How many of these are kept.
const SUSPECTS_MAX: usize = 10_000;

/// A manifest whose bytes are those of its digest.
struct Sound<'a> {
    of: Subject<'a>,
    name: &'a RepositoryName,
    digest: &'a Digest,
    manifest: Box<Manifest>,
    record: ManifestRecord,
    etag: ETag,
    /// Whether no push of it can still be about to write what goes with it.
    is_settled: bool,
}

impl Run<'_> {
    /// Reads every manifest.
    pub(super) async fn check_manifests(&mut self, scope: Scope) -> Result<()> {
        self.watch.phase(CheckPhase::Manifests);
        let core = self.core.clone();
        let mut pages = self.core.pages(keys::REPOSITORIES);
        while let Some(page) = pages.next().await? {
            let manifests = page.entries.iter().filter_map(|entry| match Place::of(&entry.key) {
                Some(Place::Manifest(name, digest)) => Some((entry, name, digest)),
                _ => None,
            });
            let manifests: Vec<_> = manifests.collect();
            let reads = manifests.iter().map(|(entry, ..)| look_raw(&core, &entry.key));
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

    /// Looks again at manifests that were missing from lists of referrers.
    pub(super) async fn look_again(&mut self) -> Result<()> {
        if self.seen.unlisted.is_empty() {
            return Ok(());
        }
        tokio::time::sleep(DELETE_TIME).await;
        for (name, digest) in std::mem::take(&mut self.seen.unlisted) {
            let key = keys::manifest(&name, &digest);
            let raw = look_raw(&self.core, &key).await?;
            self.check_manifest(&key, &name, &digest, raw, Scope::SecondLook).await?;
        }
        Ok(())
    }

    async fn check_manifest(
        &mut self,
        key: &Key,
        name: &RepositoryName,
        digest: &Digest,
        raw: Raw,
        scope: Scope,
    ) -> Result<()> {
        let of = Subject::content(key, name, digest);
        let mut judged = self.judge(key, digest, raw).await?;
        if matches!(judged, Judged::Bad(..)) {
            judged = self.judge(key, digest, look_raw(&self.core, key).await?).await?;
        }
        let (manifest, read) = match judged {
            Judged::Gone => return Ok(()),
            Judged::Sound(manifest, read) => (manifest, read),
            Judged::Bad(kind, bad) => {
                if scope == Scope::Everything {
                    self.bad_manifest(kind, &of, digest, bad).await?;
                }
                return Ok(());
            }
        };
        let is_settled = read.age() > WRITE_MAX;
        let (etag, record) = (read.etag, read.value);
        let sound = Sound { of, name, digest, manifest, record, etag, is_settled };
        match scope {
            Scope::WhatWasLetGo => self.check_let_go(&sound).await,
            Scope::SecondLook => self.check_referrer(&sound, scope).await,
            Scope::Everything => self.check_sound(&sound).await,
        }
    }

    /// Beside the runtime's threads, if the manifest is large.
    async fn judge(&self, key: &Key, digest: &Digest, raw: Raw) -> Result<Judged> {
        let length = match &raw {
            Raw::Whole(record) => record.bytes.len(),
            Raw::Absent | Raw::Bad(_) => 0,
        };
        let (key, digest) = (key.clone(), digest.clone());
        self.core.compute.run(length, move || judge(&key, &digest, raw)).await
    }

    async fn bad_manifest(
        &mut self,
        kind: FindingKind,
        of: &Subject<'_>,
        digest: &Digest,
        mut bad: Bad,
    ) -> Result<()> {
        let right = bad.record.as_ref().and_then(|record| rebuilt(digest, &record.bytes));
        let remedy = match right {
            Some(right) => Remedy::Rewrite(right),
            None => {
                if kind == FindingKind::ManifestInvalid {
                    // What was pushed is all there, and only not understood.
                    bad.record = None;
                }
                Remedy::PutAside
            }
        };
        let is_put_aside = matches!(remedy, Remedy::PutAside);
        let repair = self.report_bad(kind, of, &bad, remedy).await?;
        if is_put_aside
            && repair == Repair::Done
            && let Some(name) = of.repository
        {
            self.seen.put_aside.insert(fingerprint::content(name, digest));
        }
        Ok(())
    }

    async fn check_sound(&mut self, sound: &Sound<'_>) -> Result<()> {
        self.check_header(sound).await;
        for reference in &sound.manifest.references {
            if !self.seems_there(sound, reference) {
                self.judge_missing(sound, reference).await?;
            }
        }
        self.check_referrer(sound, Scope::Everything).await?;
        self.check_listed(sound).await
    }

    /// By its header a delete finds the list that the manifest is in.
    async fn check_header(&mut self, sound: &Sound<'_>) {
        let is = &sound.record.header;
        let should = header(&sound.manifest, is.size);
        if is.subject == should.subject && is.artifact_type == should.artifact_type {
            return;
        }
        let record = ManifestRecord { header: should, bytes: sound.record.bytes.clone() };
        let swap = async {
            let written = self.core.swap(sound.of.key, Some(&sound.etag), record.encode()).await?;
            Ok(written.is_some())
        };
        let repair = self.mend(swap).await;
        let detail = "its header line names another subject or artifact type than its bytes";
        self.report(FindingKind::ManifestHeader, &sound.of, detail, repair);
    }

    /// Whether the listings have shown what a manifest refers to.
    fn seems_there(&self, sound: &Sound<'_>, reference: &ManifestReference) -> bool {
        let content = fingerprint::content(sound.name, &reference.digest);
        self.seen.held.contains(content)
            || reference.kind.may_be_manifest()
                && self.seen.manifests.contains(content)
                && !self.seen.put_aside.contains(&content)
    }

    /// Looks whether what a manifest refers to is missing, and the manifest still there.
    async fn judge_missing(
        &mut self,
        sound: &Sound<'_>,
        reference: &ManifestReference,
    ) -> Result<()> {
        if !reference.required {
            return Ok(());
        }
        let (core, digest) = (&self.core, &reference.digest);
        if reference.kind.may_be_manifest()
            && core.exists(&keys::manifest(sound.name, digest)).await?
        {
            return Ok(());
        }
        let is_deleted = match look::<Link>(core, &keys::link(digest, sound.name)).await? {
            Found::Absent => false,
            Found::Good(link) if link.value == Link::Deleted => true,
            Found::Good(_) | Found::Bad(_) => return Ok(()),
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
        self.report(kind, &sound.of, detail, Repair::None);
        Ok(())
    }

    async fn check_let_go(&mut self, sound: &Sound<'_>) -> Result<()> {
        for reference in &sound.manifest.references {
            let content = fingerprint::content(sound.name, &reference.digest);
            if self.seen.let_go.contains(&content) {
                self.judge_missing(sound, reference).await?;
            }
        }
        Ok(())
    }

    /// Whether a manifest is the version that was read.
    async fn is_still(&self, sound: &Sound<'_>) -> Result<bool> {
        Ok(self.core.etag(sound.of.key).await?.as_ref() == Some(&sound.etag))
    }

    /// A manifest with a subject must be in the list of its referrers, as it is.
    async fn check_referrer(&mut self, sound: &Sound<'_>, scope: Scope) -> Result<()> {
        let Some(subject) = &sound.manifest.subject else { return Ok(()) };
        let key = keys::referrer(sound.name, &subject.digest, sound.digest);
        if scope == Scope::Everything {
            self.seen.entries.insert(fingerprint::key(&key));
        }
        let size = sound.record.header.size;
        let should = referrer_entry(&sound.manifest, sound.digest, size);
        let of = Subject { key: &key, ..sound.of };
        match look::<ReferrerEntry>(&self.core, &key).await? {
            Found::Good(read) if read.value == should => Ok(()),
            Found::Good(read) => self.wrong_referrer(sound, &of, &read, &should).await,
            // A push that goes on has yet to write it.
            Found::Absent if !sound.is_settled => Ok(()),
            Found::Absent if scope == Scope::SecondLook => {
                self.missing_referrer(sound, &of, &should).await
            }
            Found::Absent => {
                self.seen.unlisted.push((sound.name.clone(), sound.digest.clone()));
                match self.seen.unlisted.len() {
                    SUSPECTS_MAX => Box::pin(self.look_again()).await,
                    _ => Ok(()),
                }
            }
            Found::Bad(bad) => {
                let remedy = Remedy::Rewrite(should.encode());
                self.report_bad(FindingKind::ReferrerUnreadable, &of, &bad, remedy).await?;
                Ok(())
            }
        }
    }

    async fn wrong_referrer(
        &mut self,
        sound: &Sound<'_>,
        of: &Subject<'_>,
        read: &Versioned<ReferrerEntry>,
        should: &ReferrerEntry,
    ) -> Result<()> {
        if !self.is_still(sound).await? {
            return Ok(());
        }
        let core = &self.core;
        let repair = self.mend(async {
            match look_raw(core, of.key).await? {
                Raw::Whole(record) if record.etag == read.etag => {
                    rewrite(core, of, &record, should.encode()).await
                }
                _ => Ok(false),
            }
        });
        let repair = repair.await;
        let detail = format!("it does not describe {} as that is", sound.of.key);
        self.report(FindingKind::ReferrerWrong, of, detail, repair);
        Ok(())
    }

    async fn missing_referrer(
        &mut self,
        sound: &Sound<'_>,
        of: &Subject<'_>,
        should: &ReferrerEntry,
    ) -> Result<()> {
        if !self.is_still(sound).await? || self.core.exists(of.key).await? {
            return Ok(());
        }
        let repair = self.mend(self.ensure_beside(sound, of.key, should)).await;
        let detail = format!("{} is not in the list of its subject's referrers", sound.digest);
        self.report(FindingKind::ReferrerMissing, of, detail, repair);
        Ok(())
    }

    /// A repository with a manifest must be in the catalog. Told once of each.
    async fn check_listed(&mut self, sound: &Sound<'_>) -> Result<()> {
        let repository = fingerprint::repository(sound.name);
        let is_known =
            self.seen.listed.contains(repository) || self.seen.told_unlisted.contains(&repository);
        if is_known || !sound.is_settled {
            return Ok(());
        }
        let key = keys::catalog(sound.name);
        if self.core.exists(&key).await? || !self.is_still(sound).await? {
            return Ok(());
        }
        let repair = self.mend(self.ensure_beside(sound, &key, &Mark {})).await;
        let of = Subject { repository: Some(sound.name), ..Subject::of(&key) };
        let detail = "the repository has manifests and is not in the catalog";
        self.report(FindingKind::CatalogMissing, &of, detail, repair);
        self.seen.told_unlisted.insert(repository);
        Ok(())
    }

    /// Writes what goes with a manifest, unless that is deleted meanwhile.
    async fn ensure_beside<T: Stored + PartialEq>(
        &self,
        sound: &Sound<'_>,
        key: &Key,
        value: &T,
    ) -> Result<bool> {
        let window = self.core.open_window();
        let _turn = self.core.manifest_locks.push(sound.of.key).await;
        if !self.is_still(sound).await? {
            return Ok(false);
        }
        self.core.ensure(window, key, value).await?;
        Ok(true)
    }
}

/// What a manifest's record turned out to be.
enum Judged {
    Gone,
    Sound(Box<Manifest>, Versioned<ManifestRecord>),
    Bad(FindingKind, Bad),
}

fn judge(key: &Key, digest: &Digest, raw: Raw) -> Judged {
    let record = match raw {
        Raw::Absent => return Judged::Gone,
        Raw::Bad(bad) => return Judged::Bad(FindingKind::ManifestUnreadable, bad),
        Raw::Whole(record) => record,
    };
    let bad = |kind, reason, record: Record| {
        Judged::Bad(kind, Bad { reason, cause: Cause::Damaged, record: Some(record) })
    };
    let read = match versioned::<ManifestRecord>(key, record.clone()) {
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
        Ok(manifest) => Judged::Sound(Box::new(manifest), read),
        Err(error) => bad(FindingKind::ManifestInvalid, error.to_string(), record),
    }
}

/// The record of a manifest whose header line alone is damaged: where the bytes after it have the
/// right digest, and say themselves what they are.
fn rebuilt(digest: &Digest, record: &Bytes) -> Option<Bytes> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Typed {
        media_type: MediaType,
    }
    let end = record.iter().position(|byte| *byte == b'\n')?;
    let bytes = record.slice(end + 1..);
    if Digest::of(digest.algorithm(), &bytes) != *digest {
        return None;
    }
    let typed: Typed = serde_json::from_slice(&bytes).ok()?;
    let manifest = Manifest::parse_stored(&typed.media_type, &bytes).ok()?;
    let header: ManifestHeader = header(&manifest, bytes.len() as u64);
    Some(ManifestRecord { header, bytes }.encode())
}
