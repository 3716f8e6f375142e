//! The history of tags: each change that another has replaced, archived by the writer that replaces it.
//!
//! An entry is created before the record that it archives is replaced, and says what that record says.
//! So a page is whole and without speculation if the tag is read first, and entries that are not older than
//! its change are left out. An entry is written once, never changed, and removed when it has expired.

use std::time::SystemTime;

use futures::future::try_join;
use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, MediaType, Reference, Tag};
use jreg_storage::{Key, Put, PutMode, SequenceOutcome, StoreChange};

use crate::core::Core;
use crate::damaged::FoundRecord;
use crate::keys::{self, ParsedKey};
use crate::page::list_requests_max;
use crate::rules::Rule;
use crate::tag::TagVersion;
use crate::tag_record::TagRecord;
use crate::window::WriteWindow;
use crate::{ChangeId, ChangeOrigin, Error, Event, PageRequest, Repository, Result, ResultPage};

/// One change in the history of a tag.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagHistoryEntry {
    pub change: ChangeId,
    /// What the tag pointed to from then on; `None`: the change deleted it.
    pub digest: Option<Digest>,
    /// The media type of that manifest.
    pub media_type: Option<MediaType>,
    /// The size of that manifest in bytes.
    pub size: Option<u64>,
    /// When the next change replaced it; `None`: it is the current one.
    pub until: Option<SystemTime>,
    /// Who made the change.
    pub origin: ChangeOrigin,
}

/// An entry as its key names it.
struct ListedChange {
    change: ChangeId,
    key: Key,
    until: Option<SystemTime>,
}

impl TagHistoryEntry {
    fn new(record: TagRecord, until: Option<SystemTime>) -> Self {
        let change = record.change().clone();
        let (digest, media_type, size) = match record.into_live() {
            Some(target) => (Some(target.digest), Some(target.media_type), Some(target.size)),
            None => (None, None, None),
        };
        Self { change: change.id, digest, media_type, size, until, origin: change.origin }
    }
}

impl Repository {
    /// The changes of a tag, the latest first, of a tag that was deleted, too, until its history has
    /// expired. `page.last` is the change that the page begins after.
    ///
    /// One store request for the tag, those of a listing, and one for each entry that is shown.
    ///
    /// # Errors
    ///
    /// [`Error::ManifestUnknown`] if nothing is known of the tag; [`Error::InvalidCursor`];
    /// [`Error::Damaged`]; [`Error::Store`].
    pub async fn tag_history(
        &self,
        tag: &Tag,
        page: &PageRequest,
    ) -> Result<ResultPage<TagHistoryEntry>> {
        let core = &self.core;
        let limit = page.limit.min(core.options.limits.page_items_max);
        let last = page.last.as_ref().map(|last| last.parse::<ChangeId>());
        let last = last.transpose().map_err(|_| Error::InvalidCursor)?;
        // Read first: what replaces it from now on is not in this page.
        let current = core.read::<TagRecord>(&keys::tag(&self.name, tag)).await?;
        let current = current.map(|read| read.value).filter(|record| !record.is_placeholder());
        let newest = current.as_ref().map(|record| record.change().id);
        let mut items = Vec::new();
        let is_first_page = last.is_none();
        if let Some(record) =
            current.filter(|record| last.is_none_or(|last| record.change().id < last))
            && limit > 0
        {
            items.push(TagHistoryEntry::new(record, None));
        }
        let before = [last, newest].into_iter().flatten().min();
        let Some(left) = limit.checked_sub(items.len()).filter(|left| *left > 0) else {
            // Whether there are older ones is not known without a request.
            let next = newest.filter(|_| limit > 0).map(|change| change.to_string());
            return Ok(ResultPage { items, next });
        };
        let older = self.list_history(tag, before, left).await?;
        let keys = older.items.iter().map(|listed| listed.key.clone()).collect();
        for (listed, read) in older.items.into_iter().zip(core.read_archived(keys).await?) {
            // It has expired meanwhile.
            let Some(record) = read else { continue };
            items.push(TagHistoryEntry::new(record, listed.until));
        }
        if items.is_empty() && is_first_page && limit > 0 {
            return Err(self.unknown(&Reference::Tag(tag.clone())));
        }
        Ok(ResultPage { items, next: older.next })
    }

    /// The archived changes of a tag that are older than one, the latest first.
    async fn list_history(
        &self,
        tag: &Tag,
        before: Option<ChangeId>,
        limit: usize,
    ) -> Result<ResultPage<ListedChange>> {
        let prefix = keys::tag_history(&self.name, tag);
        // After every entry of that change.
        let start_after = before.map(|before| format!("{prefix}{}.", before.inverted()));
        let item = |key: &Key| match ParsedKey::parse(key) {
            Some(ParsedKey::History(_, _, change, _)) => {
                let listed = ListedChange { change, key: key.clone(), until: None };
                Some((change.to_string(), listed))
            }
            _ => None,
        };
        let requests = list_requests_max(limit);
        let mut page =
            self.core.list_items(prefix, start_after, limit, requests, item, |_| true).await?;
        let mut until = before.map(|before| before.time());
        for listed in &mut page.items {
            listed.until = until;
            until = Some(listed.change.time());
        }
        Ok(page)
    }

    /// The record that archives what a change of a tag replaces. `None`: it replaces nothing.
    pub(crate) fn archived(&self, tag: &Tag, seen: &TagVersion, next: &TagRecord) -> Option<Put> {
        let seen = &seen.valid()?.value;
        let is_replaced = seen.change().id != next.change().id && !seen.is_placeholder();
        is_replaced.then(|| self.archive_of(tag, seen))
    }

    pub(crate) fn archive_of(&self, tag: &Tag, record: &TagRecord) -> Put {
        let digest = record.live().map(|target| &target.digest);
        let key = keys::history_entry(&self.name, tag, record.change().id, digest);
        Put::new(key, record.encode_archived(), PutMode::Create)
    }

    /// Archives a tag that is about to be replaced, beside the other writes of a push; not where that
    /// and the swap of the tag are one write. Whether it was archived.
    pub(crate) async fn archive_early(
        &self,
        window: WriteWindow,
        tag: &Tag,
        seen: &TagVersion,
    ) -> Result<bool> {
        let core = &self.core;
        let FoundRecord::Valid(seen) = seen else { return Ok(false) };
        let archives_with_swap = core.store.capabilities().combines_changes;
        if archives_with_swap || seen.value.is_placeholder() || !core.rules.keep(Rule::Archive) {
            return Ok(false);
        }
        core.archive(window, self.archive_of(tag, &seen.value)).await?;
        Ok(true)
    }
}

impl Core {
    /// Reads records of histories, in the order of their keys.
    async fn read_archived(&self, keys: Vec<Key>) -> Result<Vec<Option<TagRecord>>> {
        let reads = keys.into_iter().map(|key| async move {
            match self.store.get(&key).await {
                Ok(record) => TagRecord::decode_archived(&record.bytes)
                    .map(Some)
                    .map_err(|reason| Error::Damaged { key: key.to_string(), reason }),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error.into()),
            }
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let reads: Vec<_> = reads.collect();
        stream::iter(reads).buffered(self.reads_in_flight_max()).try_collect().await
    }

    /// Writes a record of the history. That it exists already is as good: every writer that archives a change
    /// writes the same.
    pub(crate) async fn archive(&self, window: WriteWindow, entry: Put) -> Result<()> {
        self.require_history().await?;
        self.check_window(window)?;
        match self.send_put(Some(window), entry).await {
            Ok(_) => Ok(()),
            Err(error) if error.is_conflict() => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Archives what a swap replaces, and queues its event, if that is not done yet, and then swaps. `false`:
    /// another writer was first.
    pub(crate) async fn archive_then(
        &self,
        window: WriteWindow,
        entry: Option<Put>,
        event: Option<&Event>,
        swap: Put,
    ) -> Result<bool> {
        let entry = entry.filter(|_| self.rules.keep(Rule::Archive));
        let queueing = async {
            match event {
                Some(event) => self.queue_event(Some(window), event).await,
                None => Ok(()),
            }
        };
        let Some(entry) = entry else {
            try_join(self.require_history(), queueing).await?;
            return self.send_swap(window, swap).await;
        };
        if !self.store.capabilities().combines_changes {
            try_join(self.archive(window, entry), queueing).await?;
            return self.send_swap(window, swap).await;
        }
        try_join(self.require_history(), queueing).await?;
        let before = vec![StoreChange::Put(entry)];
        let sequence = self.store.put_after(before, swap.clone());
        match self.send_within(Some(window), sequence).await {
            Ok(SequenceOutcome::All(_)) => Ok(true),
            Ok(SequenceOutcome::Stopped { error, .. }) if error.is_conflict() => Ok(false),
            Ok(SequenceOutcome::Stopped { error, .. }) => Err(error.into()),
            // It is archived, and the swap was not tried.
            Err(error) if error.is_conflict() => self.send_swap(window, swap).await,
            Err(error) => Err(error.into()),
        }
    }

    async fn send_swap(&self, window: WriteWindow, swap: Put) -> Result<bool> {
        self.check_window(window)?;
        match self.send_put(Some(window), swap).await {
            Ok(_) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
