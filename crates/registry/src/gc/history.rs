//! What history keeps: replaced changes of tags, and copies of deleted manifests. They are roots like tags
//! and manifests until they expire, and are listed after those: content moves from tags and manifests to
//! history and copies, so what is missed in the first listing is in the second.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, RepositoryName, Tag};
use jreg_storage::{Key, Listed};

use super::action::{GcAction, GcActionKind, GcOutcome, GcStep};
use super::manifests::{copied_references, damaged};
use super::memo::{Memo, MemoKind};
use super::observer::GcPhase;
use super::{CLOCK_ERROR, GcRun, Result};
use crate::fingerprint::{self, ListedVersion};
use crate::keys::{self, ParsedKey};
use crate::rules::Rule;
use crate::tag_record::TagRecord;
use crate::window::WriteWindow;
use crate::{ChangeId, ChangeOrigin, Error, Repository};

/// Maximum number of replaced changes that are kept of one tag; older ones end early.
pub const HISTORY_ENTRIES_MAX: usize = 1000;

/// How many expired changes of a tag are removed by one request.
const REMOVALS_AT_ONCE: usize = 1000;

/// The changes of one tag, while they are listed, the latest first.
struct ListedHistory {
    name: RepositoryName,
    tag: Tag,
    /// How many were listed.
    entries: usize,
    /// When the last listed one began.
    successor: SystemTime,
}

/// The copies of one manifest, with the mark of its purge.
#[derive(Default)]
struct ListedCopies {
    of: Option<(RepositoryName, Digest)>,
    entries: Vec<Listed>,
}

fn is_purge_mark(entry: &Listed) -> bool {
    matches!(ParsedKey::parse(&entry.key), Some(ParsedKey::PurgeMark(..)))
}

impl GcRun<'_> {
    /// Whether something that ended then is still kept.
    fn is_kept(&self, ended: SystemTime) -> bool {
        let keep = self.options.history_keep;
        keep > Duration::ZERO && ended + keep + CLOCK_ERROR >= self.began
    }

    /// What replaced changes of tags point to is kept. Those that expire in this run are kept once more: a client
    /// may just be going back to one.
    pub(super) async fn read_history(&mut self) -> Result<()> {
        self.watch.phase(GcPhase::History);
        let mut pages = self.core.list_pages(keys::HISTORY);
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                if let Some(ParsedKey::History(name, _, _, Some(digest))) =
                    ParsedKey::parse(&entry.key)
                {
                    self.seen.kept.insert(fingerprint::content(&name, &digest));
                }
            }
            self.watch.progress(page.entries.len() as u64);
        }
        Ok(())
    }

    /// What copies of deleted manifests reference is kept, so that they can be restored.
    pub(super) async fn read_copies(&mut self) -> Result<()> {
        self.watch.phase(GcPhase::Copies);
        let core = self.core.clone();
        let mut memo = Memo::open(&core, MemoKind::Copies, !self.options.dry_run).await?;
        let mut pages = self.core.list_pages(keys::DELETED_MANIFESTS);
        while let Some(page) = pages.next().await? {
            let mut unread = Vec::new();
            for entry in &page.entries {
                let Some(ParsedKey::ManifestCopy(name, digest, _)) = ParsedKey::parse(&entry.key)
                else {
                    continue;
                };
                let version = ListedVersion::of_key(&entry.key);
                match memo.get(&entry.key, version).await {
                    Some(values) => self.keep_all(&mut memo, version, &values),
                    None => unread.push((name, digest, entry.key.clone(), version)),
                }
            }
            let reads = unread.into_iter().map(|(name, digest, key, version)| {
                let core = core.clone();
                async move {
                    Ok::<_, super::GcError>((
                        version,
                        copied_references(core, key, name, digest).await?,
                    ))
                }
            });
            // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
            let reads: Vec<_> = reads.collect();
            let mut reads = stream::iter(reads).buffered(self.width());
            while let Some((version, references)) = reads.try_next().await? {
                if let Some(references) = references {
                    self.keep_all(&mut memo, version, &references);
                }
            }
            self.watch.progress(page.entries.len() as u64);
            memo.end_page(super::last_key(&page.entries)).await?;
        }
        Ok(memo.finish().await?)
    }

    fn keep_all(&mut self, memo: &mut Memo<'_>, version: ListedVersion, references: &[u64]) {
        references.iter().for_each(|reference| self.seen.kept.insert(*reference));
        memo.put(version, references);
    }

    /// Removes copies that have expired or whose manifest was purged, and marks of purges that are older
    /// than the grace. The mark is listed after the copies of its manifest.
    pub(super) async fn expire_copies(&mut self) -> Result<()> {
        let over = Box::pin(self.copies_over_quota()).await?;
        let mut pages = self.core.list_pages(keys::DELETED_MANIFESTS);
        let mut copies = ListedCopies::default();
        while let Some(page) = pages.next().await? {
            for entry in page.entries {
                let of = match ParsedKey::parse(&entry.key) {
                    Some(ParsedKey::ManifestCopy(name, digest, _))
                    | Some(ParsedKey::PurgeMark(name, digest)) => (name, digest),
                    _ => continue,
                };
                self.done.copies.scan(entry.size_bytes);
                if copies.of.as_ref() != Some(&of) {
                    self.judge_copies(copies, &over).await?;
                    copies = ListedCopies { of: Some(of), entries: Vec::new() };
                }
                copies.entries.push(entry);
            }
        }
        self.judge_copies(copies, &over).await
    }

    async fn judge_copies(&mut self, copies: ListedCopies, over: &HashSet<Key>) -> Result<()> {
        let Some((name, digest)) = copies.of else { return Ok(()) };
        let mark = copies.entries.iter().find(|entry| is_purge_mark(entry)).cloned();
        let mut is_undone = true;
        if mark.is_some() {
            is_undone = self.remove_restored(&name, &digest).await?;
        }
        let mut expired = Vec::new();
        for entry in copies.entries {
            let is_over = over.contains(&entry.key);
            let is_expired = match ParsedKey::parse(&entry.key) {
                Some(ParsedKey::ManifestCopy(.., change)) => {
                    mark.is_some() || is_over || !self.is_kept(change.time())
                }
                // After the copies: a delete that had begun before the purge may have written one late.
                Some(ParsedKey::PurgeMark(..)) => self.is_old(entry.last_modified),
                _ => false,
            };
            if !is_expired {
                self.done.copies.kept += 1;
                continue;
            }
            let kind = match is_purge_mark(&entry) {
                true => GcActionKind::RemovePurgeMark,
                false if is_over && mark.is_none() => GcActionKind::EndCopy,
                false => GcActionKind::RemoveCopy,
            };
            expired.push(GcAction {
                kind,
                key: entry.key.to_string(),
                repository: Some(name.clone()),
                digest: Some(digest.clone()),
                size_bytes: entry.size_bytes,
            });
        }
        let (marks, copies): (Vec<_>, Vec<_>) =
            expired.into_iter().partition(|action| action.kind == GcActionKind::RemovePurgeMark);
        let outcome = self.remove_expired(&copies).await;
        copies.iter().for_each(|action| self.done.copies.count(outcome, action.size_bytes));
        // As long as there is something to restore, the mark stays.
        let outcome = match outcome {
            GcOutcome::Done if is_undone => self.remove_marks(&marks).await,
            GcOutcome::Done => GcOutcome::Changed,
            failed => failed,
        };
        marks.iter().for_each(|action| self.done.copies.count(outcome, action.size_bytes));
        Ok(())
    }

    /// Removes marks on the versions that are old: a purge may have written one again since the listing, and a restore
    /// looks for that. A store that cannot delete a version removes what is there.
    async fn remove_marks(&self, marks: &[GcAction]) -> GcOutcome {
        if !self.core.store.capabilities().deletes_versions {
            return self.remove_expired(marks).await;
        }
        let mut worst = GcOutcome::Done;
        for action in marks {
            let Ok(key) = action.key.parse::<Key>() else { continue };
            let outcome = match self.core.store.get(&key).await {
                Ok(mark) if self.is_old(mark.last_modified) => {
                    let step = GcStep::Remove(&mark.etag);
                    self.sink.perform(&self.core, self.watch, action, &key, step).await
                }
                Ok(_) => GcOutcome::Changed,
                Err(error) if error.is_not_found() => GcOutcome::Changed,
                Err(_) => GcOutcome::Failed,
            };
            if outcome != GcOutcome::Done {
                worst = outcome;
            }
        }
        worst
    }

    /// Removes a purged manifest that a restore has written and not looked at afterwards: it ended before.
    /// `false`: it may still be there.
    async fn remove_restored(&self, name: &RepositoryName, digest: &Digest) -> Result<bool> {
        if self.options.dry_run {
            return Ok(true);
        }
        match self.repository(name).delete_restored(digest).await {
            Ok(_) => Ok(true),
            Err(Error::Busy { .. } | Error::Interrupted { .. } | Error::Store(_)) => Ok(false),
            Err(error) => Err(damaged(error)),
        }
    }

    /// Removes replaced changes of tags that have expired: of each tag the oldest first, so that a run that is
    /// stopped leaves no gap.
    pub(super) async fn expire_history(&mut self) -> Result<()> {
        let mut pages = self.core.list_pages(keys::HISTORY);
        let mut history: Option<ListedHistory> = None;
        let mut due = Vec::new();
        while let Some(page) = pages.next().await? {
            for entry in &page.entries {
                let Some(ParsedKey::History(name, tag, change, digest)) =
                    ParsedKey::parse(&entry.key)
                else {
                    continue;
                };
                self.done.history.scan(entry.size_bytes);
                let listed = history.take_if(|listed| listed.name == name && listed.tag == tag);
                if listed.is_none() {
                    self.remove_history(&mut due).await;
                }
                let is_deleted = digest.is_none();
                if self.has_expired(listed.as_ref(), (&name, &tag, change), is_deleted).await? {
                    let (repository, key) = (Some(name.clone()), entry.key.to_string());
                    let kind = GcActionKind::RemoveHistory;
                    due.push(GcAction { kind, key, repository, digest, size_bytes: 0 });
                } else {
                    self.done.history.kept += 1;
                }
                let entries = listed.map_or(0, |listed| listed.entries) + 1;
                history = Some(ListedHistory { name, tag, entries, successor: change.time() });
            }
        }
        self.remove_history(&mut due).await;
        Ok(())
    }

    /// Removes the expired changes of one tag.
    async fn remove_history(&mut self, due: &mut Vec<GcAction>) {
        due.reverse();
        for oldest in due.chunks(REMOVALS_AT_ONCE) {
            let outcome = self.remove_expired(oldest).await;
            oldest.iter().for_each(|_| self.done.history.count(outcome, 0));
            if outcome != GcOutcome::Done {
                break;
            }
        }
        due.clear();
    }

    /// Whether a replaced change has expired. `listed`: the later ones of its tag, if there are any.
    async fn has_expired(
        &self,
        listed: Option<&ListedHistory>,
        (name, tag, change): (&RepositoryName, &Tag, ChangeId),
        is_deleted: bool,
    ) -> Result<bool> {
        if let Some(listed) = listed {
            let is_one_too_many = listed.entries >= HISTORY_ENTRIES_MAX;
            return Ok(is_one_too_many || !self.is_kept(listed.successor));
        }
        // It ended when the current change began, and not before its own beginning.
        if self.is_kept(change.time()) {
            return Ok(false);
        }
        let current = self.core.read::<TagRecord>(&keys::tag(name, tag)).await.map_err(damaged)?;
        let current = current.map(|read| read.value).filter(|record| !record.is_placeholder());
        Ok(match current.map(|record| record.change().id) {
            // It is about to be replaced.
            Some(current) if current <= change => false,
            Some(current) => !self.is_kept(current.time()),
            // Another run may have archived a delete since the listing, which ended it.
            None => is_deleted || !self.core.rules.keep(Rule::NewestStays),
        })
    }

    async fn remove_expired(&self, expired: &[GcAction]) -> GcOutcome {
        if expired.is_empty() {
            return GcOutcome::Done;
        }
        let keys: Vec<Key> = expired.iter().filter_map(|action| action.key.parse().ok()).collect();
        self.sink.remove_objects(&self.core, self.watch, expired, &keys).await
    }

    /// Archives the record of a deleted tag, and removes it.
    pub(super) async fn tidy_deleted_tag(
        &mut self,
        entry: &Listed,
        name: RepositoryName,
        tag: &Tag,
    ) {
        self.done.orphans.scan(entry.size_bytes);
        if !self.is_old(entry.last_modified) {
            self.done.orphans.young += 1;
            return;
        }
        let window = self.core.open_window();
        let outcome = match self.core.read::<TagRecord>(&entry.key).await {
            Ok(Some(read)) if read.value.live().is_none() && self.is_old(read.last_modified) => {
                let archived = self.archive_deleted(window, &name, tag, &read.value).await;
                let action = GcAction {
                    kind: GcActionKind::RemoveDeletedTag,
                    key: entry.key.to_string(),
                    repository: Some(name),
                    digest: None,
                    size_bytes: 0,
                };
                let step = GcStep::Remove(&read.etag);
                match archived {
                    Ok(()) => {
                        self.sink.perform(&self.core, self.watch, &action, &entry.key, step).await
                    }
                    Err(_) => GcOutcome::Failed,
                }
            }
            Ok(_) => GcOutcome::Changed,
            Err(_) => GcOutcome::Failed,
        };
        self.done.orphans.count(outcome, entry.size_bytes);
    }

    async fn archive_deleted(
        &self,
        window: WriteWindow,
        name: &RepositoryName,
        tag: &Tag,
        record: &TagRecord,
    ) -> crate::Result<()> {
        let is_change = !record.is_placeholder();
        if self.options.dry_run || !is_change || !self.core.rules.keep(Rule::ArchiveDeleted) {
            return Ok(());
        }
        self.core.archive(window, self.repository(name).archive_of(tag, record)).await?;
        self.core.check_window(window)
    }

    /// A repository whose changes name the run.
    pub(super) fn repository(&self, name: &RepositoryName) -> Repository {
        Repository {
            core: std::sync::Arc::new(self.core.clone()),
            name: name.clone(),
            origin: std::sync::Arc::new(ChangeOrigin::program("gc")),
            rules: std::sync::Arc::default(),
            shows_mirrored: false,
        }
    }
}
