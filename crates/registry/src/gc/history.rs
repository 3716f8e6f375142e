//! What history keeps: replaced changes of tags, and copies of deleted manifests. They are roots like tags
//! and manifests until they expire, and are listed after those: content moves from tags and manifests to
//! history and copies, so what is missed in the first listing is in the second.

use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{RepositoryName, Tag};
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
use crate::{ChangeId, ChangeOrigin, Repository};

/// Maximum number of replaced changes that are kept of one tag; older ones end early.
pub const HISTORY_ENTRIES_MAX: usize = 1000;

/// The changes of one tag, while they are listed, the latest first.
struct ListedHistory {
    name: RepositoryName,
    tag: Tag,
    /// How many were listed.
    entries: usize,
    /// When the last listed one began.
    successor: SystemTime,
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

    /// Removes copies that have expired, and marks of purges that are older than the grace.
    pub(super) async fn expire_copies(&mut self) -> Result<()> {
        let mut pages = self.core.list_pages(keys::DELETED_MANIFESTS);
        while let Some(page) = pages.next().await? {
            let mut expired = Vec::new();
            for entry in &page.entries {
                self.done.copies.scan(entry.size_bytes);
                match ParsedKey::parse(&entry.key) {
                    Some(ParsedKey::ManifestCopy(name, digest, change))
                        if !self.is_kept(change.time()) =>
                    {
                        expired.push(GcAction {
                            kind: GcActionKind::RemoveCopy,
                            key: entry.key.to_string(),
                            repository: Some(name),
                            digest: Some(digest),
                            size_bytes: entry.size_bytes,
                        });
                    }
                    Some(ParsedKey::PurgeMark(name, digest))
                        if self.is_old(entry.last_modified) =>
                    {
                        expired.push(GcAction {
                            kind: GcActionKind::RemovePurgeMark,
                            key: entry.key.to_string(),
                            repository: Some(name),
                            digest: Some(digest),
                            size_bytes: 0,
                        });
                    }
                    _ => self.done.copies.kept += 1,
                }
            }
            let outcome = self.remove_expired(&expired).await;
            expired.iter().for_each(|action| self.done.copies.count(outcome, action.size_bytes));
        }
        Ok(())
    }

    /// Removes replaced changes of tags that have expired.
    pub(super) async fn expire_history(&mut self) -> Result<()> {
        let mut pages = self.core.list_pages(keys::HISTORY);
        let mut history: Option<ListedHistory> = None;
        while let Some(page) = pages.next().await? {
            let mut expired = Vec::new();
            for entry in &page.entries {
                let Some(ParsedKey::History(name, tag, change, digest)) =
                    ParsedKey::parse(&entry.key)
                else {
                    continue;
                };
                self.done.history.scan(entry.size_bytes);
                let listed = history.take_if(|listed| listed.name == name && listed.tag == tag);
                if self.has_expired(listed.as_ref(), (&name, &tag, change)).await? {
                    let (repository, key) = (Some(name.clone()), entry.key.to_string());
                    let kind = GcActionKind::RemoveHistory;
                    expired.push(GcAction { kind, key, repository, digest, size_bytes: 0 });
                } else {
                    self.done.history.kept += 1;
                }
                let entries = listed.map_or(0, |listed| listed.entries) + 1;
                history = Some(ListedHistory { name, tag, entries, successor: change.time() });
            }
            let outcome = self.remove_expired(&expired).await;
            expired.iter().for_each(|_| self.done.history.count(outcome, 0));
        }
        Ok(())
    }

    /// Whether a replaced change has expired. `listed`: the later ones of its tag, if there are any.
    async fn has_expired(
        &self,
        listed: Option<&ListedHistory>,
        (name, tag, change): (&RepositoryName, &Tag, ChangeId),
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
        Ok(match current.map(|read| read.value.change().id) {
            // It is about to be replaced.
            Some(current) if current <= change => false,
            Some(current) => !self.is_kept(current.time()),
            None => true,
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
        let outcome = match self.core.read::<TagRecord>(&entry.key).await {
            Ok(Some(read)) if read.value.live().is_none() && self.is_old(read.last_modified) => {
                let archived = self.archive_deleted(&name, tag, &read.value).await;
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
        name: &RepositoryName,
        tag: &Tag,
        record: &TagRecord,
    ) -> crate::Result<()> {
        if self.options.dry_run || !self.core.rules.keep(Rule::ArchiveDeleted) {
            return Ok(());
        }
        self.core.archive(None, self.repository(name).archive_of(tag, record)).await
    }

    /// A repository whose changes name the run.
    pub(super) fn repository(&self, name: &RepositoryName) -> Repository {
        Repository {
            core: std::sync::Arc::new(self.core.clone()),
            name: name.clone(),
            origin: std::sync::Arc::new(ChangeOrigin::program("gc")),
        }
    }
}
