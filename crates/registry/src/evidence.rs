//! What the store shows of changes: [`ChangeEvidence`] of a registry.

use std::collections::HashSet;

use jreg_oci::{Digest, RepositoryName, Tag};

use crate::core::Core;
use crate::damaged::FoundRecord;
use crate::keys::{self, ParsedKey};
use crate::manifest_copy::ManifestCopy;
use crate::record::{ManifestRecord, StoredRecord};
use crate::tag_record::TagRecord;
use crate::{ChangeEvidence, ChangeId, ChangeState, Error, Event, EventAction, Registry, Result};

impl ChangeEvidence for Registry {
    async fn find(&self, events: &[&Event]) -> Result<Vec<ChangeState>> {
        let Some(Event { repository: Some(name), tag, digest, .. }) = events.first() else {
            return Ok(vec![ChangeState::Unknown; events.len()]);
        };
        match (tag, digest) {
            (Some(tag), _) => self.core().tag_changes(name, tag, events).await,
            (None, Some(digest)) => self.core().manifest_changes(name, digest, events).await,
            (None, None) => Ok(vec![ChangeState::Unknown; events.len()]),
        }
    }
}

/// A record as it is now; `None`: nothing is known of it, as it is damaged or of a later version.
async fn find_known<T: StoredRecord + Send + 'static>(
    core: &Core,
    key: &jreg_storage::Key,
) -> Result<Option<FoundRecord<T>>> {
    match core.find_record(key).await {
        Ok(FoundRecord::Damaged(_)) | Err(Error::Damaged { .. }) => Ok(None),
        found => found.map(Some),
    }
}

impl Core {
    async fn tag_changes(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        events: &[&Event],
    ) -> Result<Vec<ChangeState>> {
        // Before the history: what replaces it from now on has archived it.
        let found = find_known::<TagRecord>(self, &keys::tag(name, tag)).await?;
        let current = match &found {
            Some(FoundRecord::Valid(record)) => Some(record.value.change().id),
            _ => None,
        };
        let is_older = |change: ChangeId| current.is_none_or(|current| change < current);
        let older: Vec<_> =
            events.iter().map(|event| event.change).filter(|change| is_older(*change)).collect();
        let archived = match (older.iter().min(), older.iter().max()) {
            (Some(oldest), Some(newest)) => {
                self.archived_changes(name, tag, *oldest, *newest).await?
            }
            _ => HashSet::new(),
        };
        let state = |event: &&Event| match event.change {
            change if current == Some(change) => ChangeState::Current,
            change if archived.contains(&change) => ChangeState::Archived,
            // Its swap was for a version that is not there any more.
            change if current.is_some_and(|current| change < current) => ChangeState::Superseded,
            _ => ChangeState::Unknown,
        };
        Ok(events.iter().map(state).collect())
    }

    /// The archived changes of a tag from one to another.
    async fn archived_changes(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        oldest: ChangeId,
        newest: ChangeId,
    ) -> Result<HashSet<ChangeId>> {
        let prefix = keys::tag_history(name, tag);
        // The latest is first. `-` is before every digit, so that the newest itself is listed.
        let after = format!("{prefix}{}", newest.inverted());
        let mut pages = self.list_pages(prefix).after(after);
        let mut changes = HashSet::new();
        while let Some(page) = pages.next().await? {
            for entry in page.entries {
                let Some(ParsedKey::History(_, _, change, _)) = ParsedKey::parse(&entry.key) else {
                    continue;
                };
                if change < oldest {
                    return Ok(changes);
                }
                changes.insert(change);
            }
        }
        Ok(changes)
    }

    async fn manifest_changes(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        events: &[&Event],
    ) -> Result<Vec<ChangeState>> {
        let key = keys::manifest(name, digest);
        let Some(found) = find_known::<ManifestRecord>(self, &key).await? else {
            return Ok(vec![ChangeState::Unknown; events.len()]);
        };
        let is_there = found.valid().is_some();
        let current = found.valid().and_then(|record| record.value.header.change);
        let is_past_push = |event: &&&Event| {
            event.action == EventAction::ManifestPush && current != Some(event.change)
        };
        // A writer that queues the event of a delete has read what it deletes: a purge leaves no copy of it.
        let is_delete = |event: &&&Event| event.action == EventAction::ManifestDelete;
        let mut existed: HashSet<_> =
            events.iter().filter(is_delete).map(|event| event.change).collect();
        let is_unseen = |event: &&Event| is_past_push(&event) && !existed.contains(&event.change);
        if events.iter().any(is_unseen) {
            existed.extend(self.copied_changes(name, digest).await?);
        }
        let state = |event: &&Event| match event.action {
            // It was there when the event was queued. One of an earlier version has no change.
            EventAction::ManifestDelete if is_there && current.is_none() => ChangeState::Unknown,
            EventAction::ManifestDelete if current == Some(event.change) => ChangeState::Unknown,
            EventAction::ManifestDelete => ChangeState::Archived,
            _ if current == Some(event.change) => ChangeState::Current,
            _ if existed.contains(&event.change) => ChangeState::Archived,
            // Another push was first. Its own may still come, after a delete.
            _ => ChangeState::Unknown,
        };
        Ok(events.iter().map(state).collect())
    }

    /// The changes by which a manifest had come into being that was deleted.
    async fn copied_changes(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Result<HashSet<ChangeId>> {
        let mut changes = HashSet::new();
        for key in self.list_all(keys::copies(name, digest)).await? {
            let Some(ParsedKey::ManifestCopy(..)) = ParsedKey::parse(&key) else { continue };
            match self.read::<ManifestCopy>(&key).await {
                Ok(read) => {
                    changes.extend(read.and_then(|read| read.value.manifest.header.change));
                }
                Err(Error::Damaged { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(changes)
    }
}
