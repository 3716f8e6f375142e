//! [`PullCollector`]: what was pulled from this instance since its last flush.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use jreg_oci::{Digest, Reference, RepositoryName};
use tokio::sync::Notify;
use uuid::Uuid;

/// Maximum memory of what was pulled and is not written yet: some 20,000 tags. There are two such maps while one is
/// being written.
const PULLS_BYTES_MAX: usize = 4 * 1024 * 1024;
/// What a tag or digest, and a repository, take beside their names.
const ENTRY_BYTES: usize = 160;

/// What was pulled from this instance and is not in the store yet.
#[derive(Debug)]
pub(crate) struct PullCollector {
    /// Tells the objects of this instance from those of others.
    pub(crate) instance: String,
    pulled: Mutex<PulledMaps>,
    /// Whether a pull was not noted.
    missed: AtomicBool,
    /// What this instance knows of `pulls/since`.
    pub(crate) known_since: tokio::sync::Mutex<KnownSince>,
    /// Held by a flush.
    pub(crate) flushing: tokio::sync::Mutex<()>,
    /// Told when the memory is full.
    pub(crate) full: Notify,
}

/// What this instance knows of `pulls/since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum KnownSince {
    Unknown,
    /// It has a time.
    Tracked,
    /// It says that pulls are not tracked.
    Off,
}

#[derive(Debug, Default)]
struct PulledMaps {
    open: PullMap,
    /// What a flush is writing.
    in_flight: Option<Arc<PullMap>>,
}

/// Tags and digests that were pulled.
#[derive(Debug, Default)]
pub(crate) struct PullMap {
    repositories: HashMap<RepositoryName, HashMap<Reference, PullEntry>>,
    bytes: usize,
}

/// The pulls of one tag or digest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct PullEntry {
    /// Of the last, in minutes of the Unix epoch.
    pub(crate) minute: u32,
    pub(crate) pulls: u64,
    /// What the tag pointed to at the last pull, if an event will say it.
    pub(crate) digest: Option<Digest>,
}

impl PullMap {
    pub(crate) fn len(&self) -> usize {
        self.repositories.values().map(HashMap::len).sum()
    }

    pub(crate) fn entries(
        &self,
    ) -> impl Iterator<Item = (&RepositoryName, &Reference, &PullEntry)> {
        self.repositories.iter().flat_map(|(name, references)| {
            references.iter().map(move |(reference, entry)| (name, reference, entry))
        })
    }

    /// Adds pulls. `false`: there is no room.
    fn add(&mut self, name: &RepositoryName, reference: &Reference, pulls: PullEntry) -> bool {
        let known = self.repositories.get_mut(name);
        if let Some(entry) = known.and_then(|references| references.get_mut(reference)) {
            entry.add(pulls);
            return true;
        }
        let room = match self.repositories.contains_key(name) {
            true => 0,
            false => name.as_str().len() + ENTRY_BYTES,
        } + reference_bytes(reference)
            + ENTRY_BYTES;
        if self.bytes + room > PULLS_BYTES_MAX {
            return false;
        }
        self.bytes += room;
        let references = self.repositories.entry(name.clone()).or_default();
        references.insert(reference.clone(), pulls);
        true
    }
}

fn reference_bytes(reference: &Reference) -> usize {
    match reference {
        Reference::Tag(tag) => tag.as_str().len(),
        Reference::Digest(digest) => digest.algorithm().hex_len(),
    }
}

impl PullEntry {
    fn add(&mut self, other: Self) {
        self.pulls += other.pulls;
        if other.minute >= self.minute {
            self.minute = other.minute;
            self.digest = other.digest.or(self.digest.take());
        }
    }
}

impl PullCollector {
    pub(crate) fn new() -> Self {
        Self {
            instance: Uuid::new_v4().simple().to_string(),
            pulled: Mutex::default(),
            missed: AtomicBool::new(false),
            known_since: tokio::sync::Mutex::new(KnownSince::Unknown),
            flushing: tokio::sync::Mutex::default(),
            full: Notify::new(),
        }
    }

    fn pulled(&self) -> MutexGuard<'_, PulledMaps> {
        // A poisoned lock is fine: every change leaves it consistent.
        self.pulled.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A pull was not noted. Until that is written down, a tag may look as if it was not pulled.
    pub(crate) fn note_missed(&self) {
        if !self.missed.load(Ordering::Relaxed) {
            self.missed.store(true, Ordering::Release);
        }
    }

    pub(crate) fn has_missed(&self) -> bool {
        self.missed.load(Ordering::Acquire)
    }

    /// Whether a pull was missed since the last time.
    pub(crate) fn take_missed(&self) -> bool {
        self.missed.swap(false, Ordering::AcqRel)
    }

    /// Notes a pull. If there is no room for another tag, it is missed.
    pub(crate) fn record(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        digest: Option<&Digest>,
        minute: u32,
    ) {
        let entry = PullEntry { minute, pulls: 1, digest: digest.cloned() };
        let (fits, is_nearly_full) = {
            let mut pulled = self.pulled();
            let fits = pulled.open.add(name, reference, entry);
            (fits, pulled.open.bytes > PULLS_BYTES_MAX / 2)
        };
        if !fits {
            self.note_missed();
        }
        if is_nearly_full {
            self.full.notify_one();
        }
    }

    /// Takes what was pulled; `None`: nothing was. Readers still see it until the flush ends.
    pub(crate) fn begin_flush(&self) -> Option<Arc<PullMap>> {
        let mut pulled = self.pulled();
        // A flush that was dropped.
        if let Some(left) = pulled.in_flight.take() {
            self.put_back(&mut pulled, &left);
        }
        if pulled.open.repositories.is_empty() {
            return None;
        }
        let taken = Arc::new(std::mem::take(&mut pulled.open));
        pulled.in_flight = Some(Arc::clone(&taken));
        Some(taken)
    }

    /// Ends a flush, which has not written `failed`.
    pub(crate) fn end_flush(&self, failed: Option<&PullMap>) {
        let mut pulled = self.pulled();
        pulled.in_flight = None;
        if let Some(failed) = failed {
            self.put_back(&mut pulled, failed);
        }
    }

    fn put_back(&self, pulled: &mut PulledMaps, failed: &PullMap) {
        for (name, reference, entry) in failed.entries() {
            if !pulled.open.add(name, reference, entry.clone()) {
                self.note_missed();
            }
        }
    }

    /// Everything that is not in the store yet, or was not a moment ago.
    pub(crate) fn each(&self, mut see: impl FnMut(&RepositoryName, &Reference, u32)) {
        let pulled = self.pulled();
        for map in pulled.in_flight.as_deref().into_iter().chain([&pulled.open]) {
            for (name, reference, entry) in map.entries() {
                see(name, reference, entry.minute);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn times(collector: &PullCollector) -> Vec<(String, u32)> {
        let mut seen = Vec::new();
        collector
            .each(|name, reference, minute| seen.push((format!("{name}:{reference}"), minute)));
        seen.sort();
        seen
    }

    fn record(collector: &PullCollector, tag: &str, minute: u32) {
        collector.record(&"a".parse().unwrap(), &tag.parse().unwrap(), None, minute);
    }

    #[test]
    fn of_several_pulls_the_last_counts_and_all_are_counted() {
        let collector = PullCollector::new();
        for minute in [7, 9, 8] {
            record(&collector, "v1", minute);
        }
        assert_eq!(times(&collector), [("a:v1".to_owned(), 9)]);
        let taken = collector.begin_flush().unwrap();
        record(&collector, "v1", 10);
        assert_eq!(times(&collector), [("a:v1".to_owned(), 9), ("a:v1".to_owned(), 10)]);
        collector.end_flush(Some(&taken));
        let taken = collector.begin_flush().unwrap();
        let pulls: Vec<_> = taken.entries().map(|(_, _, entry)| entry.pulls).collect();
        assert_eq!(pulls, [4]);
        collector.end_flush(None);
        assert_eq!(collector.begin_flush().map(|map| map.len()), None);
        assert!(!collector.has_missed());
    }

    #[test]
    fn memory_is_bounded_and_what_has_no_room_is_missed() {
        let collector = PullCollector::new();
        let mut tags = 0;
        while !collector.has_missed() {
            record(&collector, &format!("tag-{tags}"), 7);
            tags += 1;
        }
        assert!((10_000..50_000).contains(&tags), "{tags}");
        // What is known has its place.
        assert!(collector.take_missed());
        record(&collector, "tag-0", 8);
        assert!(!collector.has_missed());
        let taken = collector.begin_flush().unwrap();
        assert!(taken.bytes <= PULLS_BYTES_MAX);
        // While it is written, there is room for as many; then not all of them have a place.
        for tag in 0..tags {
            record(&collector, &format!("other-{tag}"), 7);
        }
        collector.take_missed();
        collector.end_flush(Some(&taken));
        assert!(collector.has_missed());
        assert!(collector.begin_flush().unwrap().bytes <= PULLS_BYTES_MAX);
    }
}
