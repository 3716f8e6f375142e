//! Records that pushes and deletes have left behind, and unreferenced manifests.
//!
//! Hints, referrer entries and entries of the catalog are written or touched before a push is
//! acknowledged that relies on them. So one that is older than the grace, and whose tag, manifest
//! or repository is not in the listings that began after T0, is unused: the same rule as for links.
//! A tag that dangles still needs its hint, by which a sweep finds it; it is deleted once two
//! sweeps that are a grace apart have found its manifest absent, so that a restore in two steps, or
//! late replication, still finds it. Manifests follow the same rule if the settings ask for it; a
//! manifest is unreferenced if no tag points to it, no manifest references it, and its subject does
//! not exist.

use std::time::SystemTime;

use jreg_oci::{Digest, Reference, RepositoryName, Tag};
use jreg_storage::{Key, ListRequest, Listed, error_chain};

use super::action::{GcAction, GcActionKind, GcOutcome, GcStep};
use super::memo::{Memo, MemoKind};
use super::observer::GcPhase;
use super::{GcRun, GcTally, Result, last_key, seconds};
use crate::damaged::FoundRecord;
use crate::fingerprint::{self, ListedVersion};
use crate::keys::{self, ParsedKey};
use crate::pulls::PrunedPulls;
use crate::record::{ManifestRecord, VersionedRecord};
use crate::rules::Rule;
use crate::tag::{KnownTag, TagChange};
use crate::tag_record::{TagRecord, is_deleted_tag};
use crate::window::{TOUCH_AGE, WRITE_MAX, WriteWindow};

/// How long before a run a pull must have been that is dropped with its tag: longer than clocks differ.
const PULLED_BEFORE_S: u64 = 3600;

/// What earlier runs noted.
struct TidyMemos<'a, 'b> {
    untagged: Option<&'a mut Memo<'b>>,
    dangling: Option<&'a mut Memo<'b>>,
}

/// A tag whose manifest is not there, as it was read.
struct DanglingTag {
    tag: Tag,
    key: Key,
    digest: Digest,
    read: VersionedRecord<TagRecord>,
    /// Opened before it was read.
    window: WriteWindow,
}

impl GcRun<'_> {
    /// Removes unused records, unreferenced manifests and old tombstones.
    pub(super) async fn tidy(&mut self) -> Result<()> {
        self.watch.phase(GcPhase::Tidying);
        let core = self.core.clone();
        let mut memo = match self.judges_untagged {
            true => Some(Memo::open(&core, MemoKind::Untagged, !self.options.dry_run).await?),
            false => None,
        };
        let mut dangling = match self.sweeps {
            true => Some(Memo::open(&core, MemoKind::Dangling, !self.options.dry_run).await?),
            false => None,
        };
        let mut pages = self.core.list_pages(keys::REPOSITORIES);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                let notes = TidyMemos { untagged: memo.as_mut(), dangling: dangling.as_mut() };
                self.tidy_entry(entry, page.date, notes).await?;
            }
            self.watch.progress(page.entries.len() as u64);
            for memo in memo.iter_mut().chain(&mut dangling) {
                memo.end_page(last_key(&page.entries)).await?;
            }
        }
        for memo in memo.into_iter().chain(dangling) {
            memo.finish().await?;
        }
        self.tidy_catalog().await?;
        self.purge().await
    }

    async fn tidy_entry(
        &mut self,
        entry: &Listed,
        date: SystemTime,
        notes: TidyMemos<'_, '_>,
    ) -> Result<()> {
        let Some(location) = ParsedKey::parse(&entry.key) else { return Ok(()) };
        let seen = &self.seen;
        let has = |name: &RepositoryName, digest: &Digest| {
            seen.manifests.contains(fingerprint::content(name, digest))
        };
        match location {
            ParsedKey::Hint(name, digest, tag) => {
                let key = keys::tag(&name, &tag);
                if !seen.tags.contains(fingerprint::key(&key)) {
                    self.remove_orphan(GcActionKind::RemoveHint, entry, name, Some(digest)).await;
                } else if !has(&name, &digest) {
                    self.tidy_dangling(entry, date, (name, digest, tag), notes.dangling).await?;
                }
            }
            ParsedKey::Referrer(name, _, own) if !has(&name, &own) => {
                self.remove_orphan(GcActionKind::RemoveReferrer, entry, name, Some(own)).await;
            }
            ParsedKey::Tag(name, tag) if is_deleted_tag(entry) => {
                self.tidy_deleted_tag(entry, name, &tag).await;
            }
            ParsedKey::Manifest(name, digest) => {
                if let Some(memo) = notes.untagged {
                    self.judge_manifest(entry, date, (name, digest), memo).await?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    /// Merges pull times, and drops those of tags and manifests that are gone. They are no content: if that fails,
    /// the next sweep retries.
    pub(super) async fn tidy_pulls(&mut self) {
        if self.options.dry_run {
            return;
        }
        let (seen, began) = (&self.seen, seconds(self.began));
        let is_gone = |name: &RepositoryName, reference: &Reference, pulled: u64| {
            let is_listed = match reference {
                Reference::Tag(tag) => seen.tags.contains(fingerprint::key(&keys::tag(name, tag))),
                Reference::Digest(digest) => {
                    seen.manifests.contains(fingerprint::content(name, digest))
                }
            };
            // What came after the listing is pulled after it.
            !is_listed && pulled + PULLED_BEFORE_S < began
        };
        let merged = self.core.merge_pulls().await;
        match merged.and(self.core.prune_pulls(&is_gone).await) {
            Ok(PrunedPulls { scanned, removed, changed }) => {
                self.done.pull_times = GcTally { scanned, removed, changed, ..GcTally::default() };
            }
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(error, "cannot tidy pull times; retrying with the next sweep");
            }
        }
    }

    /// A hint whose manifest is not there: an orphan, unless its tag still points to that manifest.
    /// A later push of it, by whatever name, brings this tag back, and the tag needs its hint.
    async fn tidy_dangling(
        &mut self,
        hint: &Listed,
        date: SystemTime,
        (name, digest, tag): (RepositoryName, Digest, Tag),
        memo: Option<&mut Memo<'_>>,
    ) -> Result<()> {
        let (key, window) = (keys::tag(&name, &tag), self.core.open_window());
        match self.core.read::<TagRecord>(&key).await {
            Ok(Some(read)) if read.value.live().is_some_and(|tag| tag.digest == digest) => {
                let Some(memo) = memo else { return Ok(()) };
                let tag = DanglingTag { tag, key, digest, read, window };
                self.judge_dangling(hint, date, name, tag, memo).await
            }
            Ok(_) => {
                self.remove_orphan(GcActionKind::RemoveHint, hint, name, Some(digest)).await;
                Ok(())
            }
            Err(_) => Ok(()),
        }
    }

    /// Removes a tag that an earlier sweep, a grace ago or more, has seen dangle as well.
    async fn judge_dangling(
        &mut self,
        hint: &Listed,
        date: SystemTime,
        name: RepositoryName,
        tag: DanglingTag,
        memo: &mut Memo<'_>,
    ) -> Result<()> {
        let version = ListedVersion::of_key(&hint.key);
        let since = memo.get(&hint.key, version).await;
        // A push that wrote it since may have seen its manifest for a while.
        let written = seconds(tag.read.last_modified);
        let since = since.and_then(|values| values.first().map(|since| written.max(*since)));
        let grace_s = self.options.grace.as_secs();
        let is_due =
            since.is_some_and(|since| seconds(self.began).saturating_sub(since) >= grace_s);
        self.done.orphans.scan(hint.size_bytes);
        if !is_due || !self.is_old(tag.read.last_modified) {
            self.done.orphans.young += 1;
            memo.put(version, &[since.unwrap_or(seconds(date))]);
            return Ok(());
        }
        let outcome = self.remove_tag(name, tag).await;
        self.done.orphans.count(outcome, hint.size_bytes);
        Ok(())
    }

    /// Checks the manifest once more, then deletes the version of the tag that was read.
    async fn remove_tag(&self, name: RepositoryName, tag: DanglingTag) -> GcOutcome {
        let DanglingTag { tag, key, digest, read, window } = tag;
        match self.core.exists(&keys::manifest(&name, &digest)).await {
            Ok(false) => {}
            Ok(true) => return GcOutcome::Changed,
            Err(_) => return GcOutcome::Failed,
        }
        let action = GcAction {
            kind: GcActionKind::RemoveTag,
            key: key.to_string(),
            repository: Some(name.clone()),
            digest: Some(digest),
            size_bytes: 0,
        };
        let repository = self.repository(&name);
        let seen = FoundRecord::Valid(read);
        let known = KnownTag { seen, is_archived: false, queued: None, window };
        let removed = async {
            let removed = repository.change_tag(&tag, None, Some(known), TagChange::RemoveKnown);
            // Rare, and the future of a run is large enough.
            Ok(Box::pin(removed).await?.is_some())
        };
        self.sink.perform_by(self.watch, &action, removed).await
    }

    /// Removes an unused record, if it is old: reads it again, compares its age again,
    /// and removes that version.
    async fn remove_orphan(
        &mut self,
        kind: GcActionKind,
        entry: &Listed,
        name: RepositoryName,
        digest: Option<Digest>,
    ) {
        self.done.orphans.scan(entry.size_bytes);
        if !self.is_old(entry.last_modified) {
            self.done.orphans.young += 1;
            return;
        }
        let key = &entry.key;
        let outcome = match self.core.store.get(key).await {
            Ok(record) if self.is_old(record.last_modified) => {
                let repository = Some(name);
                let action =
                    GcAction { kind, key: key.to_string(), repository, digest, size_bytes: 0 };
                let step = GcStep::Remove(&record.etag);
                self.sink.perform(&self.core, self.watch, &action, key, step).await
            }
            Ok(_) => GcOutcome::Changed,
            Err(error) if error.is_not_found() => GcOutcome::Changed,
            Err(_) => GcOutcome::Failed,
        };
        self.done.orphans.count(outcome, entry.size_bytes);
    }

    async fn tidy_catalog(&mut self) -> Result<()> {
        if !self.core.store.capabilities().deletes_versions {
            return Ok(());
        }
        let mut pages = self.core.list_pages(keys::CATALOG);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                let Some(name) = keys::catalog_name(&entry.key) else { continue };
                if !self.seen.repositories.contains(fingerprint::repository(&name)) {
                    self.remove_orphan(GcActionKind::RemoveCatalogEntry, entry, name, None).await;
                }
            }
        }
        Ok(())
    }

    async fn judge_manifest(
        &mut self,
        entry: &Listed,
        date: SystemTime,
        (name, digest): (RepositoryName, Digest),
        memo: &mut Memo<'_>,
    ) -> Result<()> {
        if self.seen.kept.contains(fingerprint::content(&name, &digest)) {
            self.done.manifests.kept += 1;
            return Ok(());
        }
        let Some(wanted) = self.options.untagged_in(&name, &self.rules) else {
            self.done.manifests.kept += 1;
            return Ok(());
        };
        let version = ListedVersion::of_key(&entry.key);
        let since = memo.get(&entry.key, version).await;
        // A push that wrote it since may have tagged it for a while.
        let written = seconds(entry.last_modified);
        let since = since.and_then(|values| values.first().map(|since| written.max(*since)));
        let now = seconds(self.began);
        let wanted_s = wanted.as_secs();
        let is_due = since.is_some_and(|since| now.saturating_sub(since) >= wanted_s);
        // With a wait of 0 it is removed when it is first seen untagged.
        if !(is_due || wanted_s == 0) || !self.is_old(entry.last_modified) {
            self.done.manifests.young += 1;
            // This run may have begun hours ago.
            memo.put(version, &[since.unwrap_or(seconds(date))]);
            return Ok(());
        }
        let outcome = self.remove_manifest(&entry.key, name, digest).await;
        self.done.manifests.count(outcome, entry.size_bytes);
        Ok(())
    }

    /// The manifest first, and only then its entry among the referrers of its subject: a push of
    /// it finds that entry old, and writes a new one.
    async fn remove_manifest(&self, key: &Key, name: RepositoryName, digest: Digest) -> GcOutcome {
        let _turn = self.core.manifest_locks.lock_alone(key).await;
        let read = match self.core.read::<ManifestRecord>(key).await {
            // That of a mirror has no tag; what is not pulled any more is evicted.
            Ok(Some(read)) if read.value.header.is_mirrored() => return GcOutcome::Changed,
            Ok(Some(read)) if self.is_old(read.last_modified) => read,
            Ok(_) => return GcOutcome::Changed,
            Err(_) => return GcOutcome::Failed,
        };
        let subject = read.value.header.subject.as_ref();
        let entry = subject.map(|subject| keys::referrer(&name, subject, &digest));
        let action = GcAction {
            kind: GcActionKind::RemoveManifest,
            key: key.to_string(),
            repository: Some(name),
            digest: Some(digest),
            size_bytes: read.value.header.size,
        };
        let step = GcStep::Remove(&read.etag);
        let outcome = self.sink.perform(&self.core, self.watch, &action, key, step).await;
        if let (GcOutcome::Done, Some(entry), false) = (outcome, entry, self.options.dry_run) {
            // What remains after a failure is an orphan.
            self.remove_old_entry(&entry).await.ok();
        }
        outcome
    }

    /// Removes a referrer's entry on which no push relies: one that pushes the same manifest again
    /// finds it old, and makes a new version of it. That one may be as old as it likes by the time
    /// that it is read here; what counts is when this run began.
    async fn remove_old_entry(&self, entry: &Key) -> crate::Result<()> {
        let core = &self.core;
        match core.store.get(entry).await {
            Ok(record) => {
                let age = record.date.duration_since(record.last_modified).unwrap_or_default();
                let is_old = match core.rules.keep(Rule::AgeAtStart) {
                    true => self.is_old(record.last_modified),
                    false => age >= TOUCH_AGE,
                };
                if is_old {
                    core.remove(entry, &record.etag).await?;
                }
                Ok(())
            }
            Err(error) if error.is_not_found() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn purge(&mut self) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        let mut request = ListRequest::below(keys::REPOSITORIES);
        loop {
            let purged = self.core.store.purge(&request, WRITE_MAX).await?;
            self.done.tombstones += purged.removed;
            match purged.next {
                Some(next) => request.start_after = Some(next),
                None => return Ok(()),
            }
        }
    }
}
