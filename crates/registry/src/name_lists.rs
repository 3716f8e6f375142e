//! [`NameLists`]: names of repositories and tags in memory, shared by all who look at them (`browse/lists.rs`
//! reads them).

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use jreg_oci::{RepositoryName, Tag};
use tokio::sync::Mutex as AsyncMutex;

/// Maximum age of a list that is shown.
pub const LIST_AGE_MAX: Duration = Duration::from_secs(30);
/// Maximum number of tags of a repository that is listed whole: 100 store requests.
pub const TAG_LIST_MAX: usize = 100_000;
/// Maximum number of repositories in the list in which names are searched.
pub const CATALOG_LIST_MAX: usize = 100_000;
/// Maximum number of tags in all lists together, of some 100 bytes each.
const TAGS_MAX: usize = 300_000;
/// Beside its tags a list takes some memory of its own: as much as so many tags.
const LIST_TAGS: usize = 100;

/// The names of the repositories.
#[derive(Debug, Default)]
pub struct CatalogList {
    /// In byte order, at most [`CATALOG_LIST_MAX`].
    pub names: Vec<RepositoryName>,
    /// Whether there are no others.
    pub is_whole: bool,
}

/// The tags of a repository.
#[derive(Debug, Default)]
pub struct TagList {
    /// In byte order, at most [`TAG_LIST_MAX`].
    pub tags: Vec<ListedTag>,
    /// Whether there are no others.
    pub is_whole: bool,
}

/// A tag as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedTag {
    pub tag: Tag,
    /// When its record was last written: by a push of it.
    pub written: SystemTime,
}

/// A list that is being read, or was.
pub(crate) type ListSlot<T> = Arc<AsyncMutex<Option<ReadList<T>>>>;

#[derive(Debug)]
pub(crate) struct ReadList<T> {
    pub(crate) list: Arc<T>,
    /// By the monotonic clock.
    pub(crate) read_at: Duration,
}

/// The lists that are in memory.
#[derive(Debug, Default)]
pub(crate) struct NameLists {
    pub(crate) catalog: ListSlot<CatalogList>,
    tags: Mutex<HashMap<RepositoryName, TagsEntry>>,
}

#[derive(Debug)]
struct TagsEntry {
    slot: ListSlot<TagList>,
    used_at: Duration,
    /// Number of tags, with [`LIST_TAGS`].
    tags: usize,
}

impl NameLists {
    /// The list of a repository's tags, which may be being read.
    pub(crate) fn slot(&self, name: &RepositoryName, now: Duration) -> ListSlot<TagList> {
        let mut entries = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        let entry = entries.entry(name.clone()).or_insert_with(|| TagsEntry {
            slot: ListSlot::default(),
            used_at: now,
            tags: LIST_TAGS,
        });
        entry.used_at = now;
        let slot = Arc::clone(&entry.slot);
        prune(&mut entries, name, now);
        slot
    }

    /// Notes how long a list is.
    pub(crate) fn note(&self, name: &RepositoryName, tags: usize, now: Duration) {
        let mut entries = self.tags.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(entry) = entries.get_mut(name) {
            entry.tags = tags + LIST_TAGS;
        }
        prune(&mut entries, name, now);
    }
}

/// Forgets lists that are old, and as many of the others as are too many, but for one.
fn prune(entries: &mut HashMap<RepositoryName, TagsEntry>, but: &RepositoryName, now: Duration) {
    entries.retain(|_, entry| now.saturating_sub(entry.used_at) < LIST_AGE_MAX);
    let mut total: usize = entries.values().map(|entry| entry.tags).sum();
    while total > TAGS_MAX {
        let others = entries.iter().filter(|(name, _)| *name != but);
        let oldest = others.min_by_key(|(_, entry)| entry.used_at);
        let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { break };
        total -= entries.remove(&oldest).map_or(0, |entry| entry.tags);
    }
}

/// What a slot holds, if it is not too old.
pub(crate) fn fresh_list<T>(slot: &Option<ReadList<T>>, now: Duration) -> Option<Arc<T>> {
    let read = slot.as_ref()?;
    (now.saturating_sub(read.read_at) < LIST_AGE_MAX).then(|| Arc::clone(&read.list))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn lists_in_memory_are_bounded_by_their_tags() {
        let lists = NameLists::default();
        let now = Duration::from_secs(100);
        let name = |index: usize| format!("a/{index}").parse::<RepositoryName>().unwrap();
        for index in 0..10 {
            lists.slot(&name(index), now + Duration::from_millis(index as u64));
            lists.note(&name(index), 100_000, now + Duration::from_millis(index as u64));
        }
        let kept: Vec<_> = lists.tags.lock().unwrap().keys().cloned().collect();
        assert!(kept.len() == 2 && kept.contains(&name(9)) && kept.contains(&name(8)), "{kept:?}");
        for index in 0..2 * TAGS_MAX / LIST_TAGS {
            lists.slot(&name(index), now);
        }
        assert!(lists.tags.lock().unwrap().len() <= TAGS_MAX / LIST_TAGS);
        lists.slot(&name(0), now + LIST_AGE_MAX * 2);
        assert_eq!(lists.tags.lock().unwrap().len(), 1);
    }
}
