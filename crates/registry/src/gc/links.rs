//! C3 to C5: the links, and the removal of unreferenced ones.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use futures::stream::{self, StreamExt};
use jreg_oci::{Digest, RepositoryName};
use jreg_storage::Listed;
use serde::{Deserialize, Serialize};

use super::action::{GcAction, GcActionKind, GcOutcome, GcStep};
use super::manifests::{recall, remember};
use super::memo::{Memo, MemoKind};
use super::observer::GcPhase;
use super::queue::GcQueue;
use super::sweep::BlobLocations;
use super::{GcRun, REMOVALS_FREE, Result, last_key};
use crate::fingerprint::{self, Fingerprint, ListedVersion};
use crate::keys::{self, ParsedKey};
use crate::link::is_deleted;
use crate::record::{JsonRecord, Link, Location, VersionedRecord};
use crate::rules::Rule;
use crate::window::CLOCK_ERROR;

/// Maximum number of blobs at several locations that one run deduplicates.
const DUPLICATES_MAX: usize = 10_000;

/// Maximum number of times that the links to one blob are listed again while they change.
const RELISTS_MAX: u32 = 24;

/// Number of shards after which a run notes its position.
const SHARDS_PER_NOTE: usize = 16;

/// The result of listing all links.
#[derive(Debug, Default)]
pub(super) struct LinkCensus {
    links: u64,
    /// The candidates in each shard that has any.
    candidates: BTreeMap<String, u64>,
    /// Digests whose bytes lie at several locations, where links were read.
    pub(super) duplicates: Vec<Digest>,
}

/// A link as a listing shows it.
#[derive(Debug)]
struct LinkEntry {
    digest: Digest,
    name: RepositoryName,
    listed: Listed,
    is_candidate: bool,
}

/// The location that a link references.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum LinkTarget {
    /// The bytes at the location with this fingerprint.
    Location(Fingerprint),
    /// None: the link is marked as deleted, or absent.
    Nothing,
    /// The link cannot be read: it may name any location.
    Unreadable,
}

impl LinkTarget {
    /// Its value in a memo: no fingerprint is 0.
    fn from_memo(values: &[u64]) -> Option<Self> {
        match values {
            [0] => Some(Self::Nothing),
            [location] => Some(Self::Location(*location)),
            _ => None,
        }
    }

    fn to_memo(self) -> Option<[u64; 1]> {
        match self {
            Self::Location(location) => Some([location]),
            Self::Nothing => Some([0]),
            Self::Unreadable => None,
        }
    }
}

/// All links to one blob.
struct LinkGroup {
    digest: Digest,
    links: Vec<LinkEntry>,
}

/// What became of one candidate.
struct LinkRemoval {
    outcome: GcOutcome,
    /// The location it referenced, if it was read.
    location: Option<Location>,
}

impl LinkRemoval {
    fn without_location(outcome: GcOutcome) -> Self {
        Self { outcome, location: None }
    }

    fn size_bytes(&self) -> u64 {
        self.location.as_ref().map_or(0, |location| location.size_bytes)
    }
}

/// What became of the links to one blob.
struct LinkGroupOutcome {
    digest: Digest,
    removals: Vec<LinkRemoval>,
    /// Locations of bytes that no link references any more.
    unreferenced: Vec<Location>,
}

/// Where the next run begins to remove, so that one that is interrupted, or that may remove only a
/// share, does not begin at the same shard again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct RemovalPosition {
    shard: String,
}

impl JsonRecord for RemovalPosition {}

impl GcRun<'_> {
    fn link_entry(&self, listed: Listed) -> Option<LinkEntry> {
        let Some(ParsedKey::Link(digest, name)) = ParsedKey::parse(&listed.key) else {
            return None;
        };
        let is_unreferenced = match is_deleted(&listed) {
            true => self.core.store.capabilities().deletes_versions,
            false => !self.seen.kept.contains(fingerprint::content(&name, &digest)),
        };
        let is_candidate = is_unreferenced && self.is_old(listed.last_modified);
        Some(LinkEntry { digest, name, listed, is_candidate })
    }

    /// C3, to count. With `locations` every link is also read, if it was not before, and its
    /// location is marked.
    pub(super) async fn list_links(
        &mut self,
        mut locations: Option<&mut BlobLocations>,
    ) -> Result<LinkCensus> {
        self.watch.phase(GcPhase::Links);
        let core = self.core.clone();
        let mut memo = match locations {
            Some(_) => Some(Memo::open(&core, MemoKind::Links, !self.options.dry_run).await?),
            None => None,
        };
        let mut census = LinkCensus::default();
        let mut search = DuplicateSearch::default();
        let mut pages = self.core.list_pages(keys::LINKS);
        while let Some(page) = pages.next().await? {
            let (last, listed) = (last_key(&page.entries).cloned(), page.entries.len() as u64);
            let links: Vec<_> =
                page.entries.into_iter().filter_map(|listed| self.link_entry(listed)).collect();
            if let (Some(memo), Some(locations)) = (&mut memo, locations.as_deref_mut()) {
                let targets = self.read_targets(&links, page.date, memo).await?;
                let (mut moved, mut lost) = (BTreeSet::new(), Vec::new());
                for (link, target) in links.iter().zip(targets) {
                    locations.mark_target(target);
                    if locations.lacks(target) && self.was_written_before(link) {
                        lost.push(link);
                    }
                    search.add(link, target, &mut census.duplicates);
                    if target == LinkTarget::Nothing && self.may_have_been_copied(link) {
                        moved.insert(&link.digest);
                    }
                }
                for digest in moved {
                    self.reread_links(digest, locations).await?;
                }
                for link in lost {
                    self.note_lost(link, locations).await?;
                }
                memo.end_page(last.as_ref()).await?;
            }
            links.iter().for_each(|link| self.count(link, &mut census));
            self.watch.progress(listed);
        }
        if let Some(memo) = memo {
            memo.finish().await?;
        }
        Ok(census)
    }

    fn count(&mut self, link: &LinkEntry, census: &mut LinkCensus) {
        census.links += 1;
        let tally = &mut self.done.links;
        tally.scan(link.listed.size_bytes);
        if link.is_candidate {
            let shard = keys::shard(&link.listed.key).unwrap_or_default();
            *census.candidates.entry(shard.to_owned()).or_default() += 1;
        } else if self.seen.kept.contains(fingerprint::content(&link.name, &link.digest)) {
            tally.kept += 1;
        } else {
            tally.young += 1;
        }
    }

    /// What each link references.
    async fn read_targets(
        &mut self,
        links: &[LinkEntry],
        date: SystemTime,
        memo: &mut Memo<'_>,
    ) -> Result<Vec<LinkTarget>> {
        let mut targets = Vec::with_capacity(links.len());
        let mut unread = Vec::new();
        for (index, link) in links.iter().enumerate() {
            let version = ListedVersion::of(&link.listed, date);
            let values = recall(memo, &link.listed.key, version).await;
            let known = values.and_then(|values| LinkTarget::from_memo(&values));
            if known.is_none() {
                unread.push((index, version, link.listed.key.clone()));
            }
            targets.push(known.unwrap_or(LinkTarget::Unreadable));
        }
        self.done.links_read += unread.len() as u64;
        let reads = unread.into_iter().map(|(index, version, key)| {
            let core = self.core.clone();
            async move { (index, version, core.read::<Link>(&key).await) }
        });
        let mut reads = stream::iter(reads).buffer_unordered(self.width());
        while let Some((index, version, link)) = reads.next().await {
            let target = link_target(link)?;
            if let Some(values) = target.to_memo() {
                remember(memo, version, &values);
            }
            if let Some(slot) = targets.get_mut(index) {
                *slot = target;
            }
        }
        Ok(targets)
    }

    /// Whether a link without a location may have lost it since this run began: before that, it may
    /// have been copied to a part of the listing that was already read.
    fn may_have_been_copied(&self, link: &LinkEntry) -> bool {
        let since = self.began.checked_sub(CLOCK_ERROR);
        let is_recent = since.is_none_or(|since| link.listed.last_modified >= since);
        (is_recent || !is_deleted(&link.listed)) && self.core.rules.keep(Rule::SweepAgain)
    }

    /// Whether a link was last written before this run began: then its bytes were there.
    fn was_written_before(&self, link: &LinkEntry) -> bool {
        let began = self.began.checked_sub(CLOCK_ERROR);
        began.is_some_and(|began| link.listed.last_modified < began)
    }

    /// Records a link whose bytes are not at its location.
    async fn note_lost(&self, link: &LinkEntry, locations: &mut BlobLocations) -> Result<()> {
        match self.core.read::<Link>(&link.listed.key).await {
            Ok(Some(VersionedRecord { value: Link::Live(at), .. })) => {
                if locations.lacks(LinkTarget::Location(fingerprint::key(&at.key))) {
                    locations.lost.add(link.digest.clone(), at.size_bytes);
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(crate::Error::Damaged { .. }) => {
                locations.mark_target(LinkTarget::Unreadable);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Marks the locations of the links to one blob, and once more if one of them was deleted
    /// meanwhile.
    async fn reread_links(&self, digest: &Digest, locations: &mut BlobLocations) -> Result<()> {
        for _ in 0..RELISTS_MAX {
            let mut has_moved = false;
            let mut pages = self.core.list_pages(keys::links(digest));
            while let Some(page) = pages.next().await? {
                for listed in page.entries.iter().filter(|listed| !is_deleted(listed)) {
                    let target = link_target(self.core.read::<Link>(&listed.key).await)?;
                    locations.mark_target(target);
                    has_moved |= target == LinkTarget::Nothing;
                }
            }
            if !has_moved {
                return Ok(());
            }
        }
        locations.mark_target(LinkTarget::Unreadable);
        Ok(())
    }

    /// C4, shard by shard, for those that have candidates.
    pub(super) async fn remove_links(&mut self, census: &LinkCensus) -> Result<()> {
        if census.candidates.is_empty() {
            return Ok(());
        }
        self.watch.phase(GcPhase::Removing);
        let share = census.links / 100 * u64::from(self.options.share_max_percent.min(100));
        let may_remove = match self.options.share_max_percent {
            100.. => u64::MAX,
            _ => share.max(REMOVALS_FREE),
        };
        let room = AtomicU64::new(may_remove);
        let shards =
            self.rotate_to_last_position(census.candidates.keys().cloned().collect()).await;
        for (index, shard) in shards.iter().enumerate() {
            if index % SHARDS_PER_NOTE == 0 || room.load(Ordering::Relaxed) == 0 {
                self.write_note("position", RemovalPosition { shard: shard.clone() }).await?;
            }
            self.remove_links_of(shard, &room).await?;
        }
        Ok(())
    }

    /// The shards from the one on at which the last run stopped, then those before it.
    async fn rotate_to_last_position(&self, mut shards: Vec<String>) -> Vec<String> {
        let position =
            self.core.read::<RemovalPosition>(&keys::note("position")).await.ok().flatten();
        if let Some(position) = position {
            let before = shards.partition_point(|shard| *shard < position.value.shard);
            shards.rotate_left(before);
        }
        shards
    }

    async fn remove_links_of(&mut self, shard: &str, room: &AtomicU64) -> Result<()> {
        let mut queued = GcQueue::default();
        let mut pages = self.core.list_pages(format!("{}{shard}/", keys::LINKS));
        // The links of one digest may continue in the next page.
        let mut carried: Option<LinkGroup> = None;
        let mut is_last = false;
        while !is_last {
            let page = pages.next().await?;
            is_last = page.is_none();
            let mut groups: Vec<LinkGroup> = carried.take().into_iter().collect();
            for listed in page.into_iter().flat_map(|page| page.entries) {
                let Some(link) = self.link_entry(listed) else { continue };
                match groups.last_mut() {
                    Some(group) if group.digest == link.digest => group.links.push(link),
                    _ => groups.push(LinkGroup { digest: link.digest.clone(), links: vec![link] }),
                }
            }
            if !is_last {
                carried = groups.pop();
            }
            self.remove_groups(groups, room, &mut queued).await;
        }
        if !self.options.dry_run {
            queued.write(&self.core).await?;
        }
        Ok(())
    }

    async fn remove_groups(
        &mut self,
        groups: Vec<LinkGroup>,
        room: &AtomicU64,
        queued: &mut GcQueue,
    ) {
        let has_candidate = |group: &LinkGroup| group.links.iter().any(|link| link.is_candidate);
        let outcomes: Vec<LinkGroupOutcome> = {
            let run = &*self;
            let works = groups.into_iter().filter(has_candidate);
            let works: Vec<_> = works.map(|group| run.remove_group(group, room)).collect();
            stream::iter(works).buffer_unordered(self.width()).collect().await
        };
        for group in outcomes {
            for removal in group.removals {
                self.done.links_read += u64::from(removal.outcome != GcOutcome::Withheld);
                self.done.links.count(removal.outcome, removal.size_bytes());
            }
            for location in group.unreferenced {
                self.done.queued += 1;
                self.done.queued_bytes += location.size_bytes;
                queued.add(group.digest.clone(), location);
            }
        }
    }

    /// C4 for the candidates among all links to one blob.
    async fn remove_group(&self, group: LinkGroup, room: &AtomicU64) -> LinkGroupOutcome {
        let mut removals = Vec::new();
        for link in group.links.iter().filter(|link| link.is_candidate) {
            let take = |room: u64| room.checked_sub(1);
            removals.push(match room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take) {
                Ok(_) => self.remove_link(link).await,
                Err(_) => LinkRemoval::without_location(GcOutcome::Withheld),
            });
        }
        let done = || removals.iter().filter(|removal| removal.outcome == GcOutcome::Done);
        // What other links name is not read for this: where some are left, and name other bytes,
        // a sweep finds the orphans.
        let is_all = done().count() == group.links.len();
        let mut unreferenced: Vec<Location> = Vec::new();
        if is_all || !self.core.rules.keep(Rule::EveryLink) {
            for location in done().filter_map(|removal| removal.location.as_ref()) {
                if !unreferenced.contains(location) {
                    unreferenced.push(location.clone());
                }
            }
        }
        LinkGroupOutcome { digest: group.digest, removals, unreferenced }
    }

    /// C4: re-reads a candidate, checks its age again, and deletes that version.
    async fn remove_link(&self, link: &LinkEntry) -> LinkRemoval {
        let key = &link.listed.key;
        let read = match self.core.read::<Link>(key).await {
            Ok(Some(read)) => read,
            Ok(None) => return LinkRemoval::without_location(GcOutcome::Changed),
            Err(_) => return LinkRemoval::without_location(GcOutcome::Failed),
        };
        let was_deleted = is_deleted(&link.listed);
        if !self.is_old(read.last_modified) || was_deleted != (read.value == Link::Deleted) {
            return LinkRemoval::without_location(GcOutcome::Changed);
        }
        let location = read.value.live().cloned();
        let action = GcAction {
            kind: GcActionKind::RemoveLink,
            key: key.to_string(),
            repository: Some(link.name.clone()),
            digest: Some(link.digest.clone()),
            size_bytes: location.as_ref().map_or(0, |location| location.size_bytes),
        };
        let step = GcStep::Remove(&read.etag);
        let outcome = self.sink.perform(&self.core, self.watch, &action, key, step).await;
        LinkRemoval { outcome, location }
    }
}

/// The location in a link that was read. A failure of the store ends the run.
fn link_target(read: crate::Result<Option<VersionedRecord<Link>>>) -> Result<LinkTarget> {
    match read {
        Ok(Some(VersionedRecord { value: Link::Live(location), .. })) => {
            Ok(LinkTarget::Location(fingerprint::key(&location.key)))
        }
        Ok(_) => Ok(LinkTarget::Nothing),
        // It stays, and so do all bytes: it may name any of them.
        Err(crate::Error::Damaged { .. }) => Ok(LinkTarget::Unreadable),
        Err(error) => Err(error.into()),
    }
}

/// Follows the links to one blob through the listing, to find blobs at several locations.
#[derive(Debug, Default)]
struct DuplicateSearch {
    digest: Option<Digest>,
    location: Option<Fingerprint>,
    is_noted: bool,
}

impl DuplicateSearch {
    fn add(&mut self, link: &LinkEntry, target: LinkTarget, duplicates: &mut Vec<Digest>) {
        if self.digest.as_ref() != Some(&link.digest) {
            *self = Self { digest: Some(link.digest.clone()), ..Self::default() };
        }
        let LinkTarget::Location(location) = target else { return };
        let is_other = *self.location.get_or_insert(location) != location;
        if is_other && !self.is_noted && duplicates.len() < DUPLICATES_MAX {
            self.is_noted = true;
            duplicates.push(link.digest.clone());
        }
    }
}
