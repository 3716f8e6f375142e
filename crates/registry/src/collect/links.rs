//! C3 to C5: the links, and what becomes of those that nothing keeps.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};

use futures::stream::{self, StreamExt};
use jreg_oci::{Digest, RepositoryName};
use jreg_storage::Listed;
use serde::{Deserialize, Serialize};

use super::action::{Action, ActionKind, Deed, Outcome};
use super::manifests::{recall, remember};
use super::memo::{Kind, Memo};
use super::queue::Queued;
use super::sweep::Places;
use super::watch::Phase;
use super::{CLOCK_ERROR, REMOVALS_FREE, Result, Run, last_key};
use crate::core::ATTEMPTS_MAX;
use crate::fingerprint::{self, Version};
use crate::keys::{self, Place};
use crate::link::is_deleted;
use crate::record::{Link, Location, Stored, Versioned, stored_as_json};
use crate::rules::Rule;

/// How many digests whose bytes lie at several places one run looks at.
const FOLDS_MAX: usize = 10_000;

/// After how many shards a run notes how far it is.
const SHARDS_PER_NOTE: usize = 16;

/// What a listing of all links has shown.
#[derive(Debug, Default)]
pub(super) struct Census {
    links: u64,
    /// The candidates in each shard that has any.
    candidates: BTreeMap<String, u64>,
    /// Digests whose bytes lie at several places, where links were read.
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

/// What became of the links of one digest.
#[derive(Default)]
struct GroupOutcome {
    outcomes: Vec<(Outcome, u64)>,
    read: u64,
    /// The places of bytes that no link names any more.
    free: Vec<Location>,
}

/// Where the next run begins to remove, so that one that is cut off, or that may remove only a
/// share, does not begin at the same place again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Position {
    shard: String,
}

stored_as_json!(Position);

impl Run<'_> {
    fn link_entry(&self, listed: Listed) -> Option<LinkEntry> {
        let Some(Place::Link(digest, name)) = Place::of(&listed.key) else { return None };
        let is_needless = match is_deleted(&listed) {
            true => self.core.store.removes_versions(),
            false => !self.seen.kept.contains(fingerprint::content(&name, &digest)),
        };
        let is_candidate = is_needless && self.is_old(listed.last_modified);
        Some(LinkEntry { digest, name, listed, is_candidate })
    }

    /// C3, to count. With `places` every link is also read, if it was not before, and what it
    /// names is ticked off.
    pub(super) async fn list_links(&mut self, mut places: Option<&mut Places>) -> Result<Census> {
        self.watch.phase(Phase::Links);
        let core = self.core.clone();
        let mut memo = match places {
            Some(_) => Some(Memo::open(&core, Kind::Links, !self.options.dry_run).await?),
            None => None,
        };
        let mut census = Census::default();
        let mut group = Group::default();
        let mut pages = self.core.pages(keys::LINKS);
        while let Some(page) = pages.next().await? {
            let (last, listed) = (last_key(&page.entries).cloned(), page.entries.len() as u64);
            let links: Vec<_> =
                page.entries.into_iter().filter_map(|listed| self.link_entry(listed)).collect();
            if let (Some(memo), Some(places)) = (&mut memo, places.as_deref_mut()) {
                let named = self.read_places(&links, page.date, memo).await?;
                let (mut moved, mut lost) = (BTreeSet::new(), Vec::new());
                for (link, place) in links.iter().zip(named) {
                    places.tick_off(place);
                    if place.is_some_and(|place| places.lacks(place)) && self.was_before(link) {
                        lost.push(link);
                    }
                    group.add(link, place, &mut census.duplicates);
                    if place == Some(0) && self.may_have_moved(link) {
                        moved.insert(&link.digest);
                    }
                }
                for digest in moved {
                    self.look_again(digest, places).await?;
                }
                for link in lost {
                    self.note_lost(link, places).await?;
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

    fn count(&mut self, link: &LinkEntry, census: &mut Census) {
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

    /// The place that each link names: `Some(0)` if it names none, `None` if it cannot be read.
    async fn read_places(
        &mut self,
        links: &[LinkEntry],
        date: std::time::SystemTime,
        memo: &mut Memo<'_>,
    ) -> Result<Vec<Option<u64>>> {
        let mut named = Vec::with_capacity(links.len());
        let mut unread = Vec::new();
        for (index, link) in links.iter().enumerate() {
            let version = Version::of(&link.listed, date);
            let known = recall(memo, &link.listed.key, version).await;
            named.push(known.as_ref().and_then(|values| values.first().copied()));
            if known.is_none() {
                unread.push((index, version, link.listed.key.clone()));
            }
        }
        self.done.links_read += unread.len() as u64;
        let reads = unread.into_iter().map(|(index, version, key)| {
            let core = self.core.clone();
            async move { (index, version, core.read::<Link>(&key).await) }
        });
        let mut reads = stream::iter(reads).buffer_unordered(self.width());
        while let Some((index, version, link)) = reads.next().await {
            let place = match link {
                Ok(Some(Versioned { value: Link::Live(location), .. })) => {
                    fingerprint::key(&location.key)
                }
                Ok(_) => 0,
                // It stays, and so do all bytes: nobody knows which it names.
                Err(crate::Error::Damaged { .. }) => continue,
                Err(error) => return Err(error.into()),
            };
            remember(memo, version, &[place]);
            if let Some(named) = named.get_mut(index) {
                *named = Some(place);
            }
        }
        Ok(named)
    }

    /// Whether a link that names nothing may have done so since this run began: it may have been
    /// copied, before it went, to where the listing had passed.
    fn may_have_moved(&self, link: &LinkEntry) -> bool {
        let since = self.began.checked_sub(CLOCK_ERROR);
        let is_recent = since.is_none_or(|since| link.listed.last_modified >= since);
        (is_recent || !is_deleted(&link.listed)) && self.core.rules.keep(Rule::SweepAgain)
    }

    /// Whether a link was last written before this run began: then its bytes were there.
    fn was_before(&self, link: &LinkEntry) -> bool {
        let began = self.began.checked_sub(CLOCK_ERROR);
        began.is_some_and(|began| link.listed.last_modified < began)
    }

    /// Notes what a link says of bytes that are not where it says.
    async fn note_lost(&self, link: &LinkEntry, places: &mut Places) -> Result<()> {
        match self.core.read::<Link>(&link.listed.key).await {
            Ok(Some(Versioned { value: Link::Live(at), .. })) => {
                if places.lacks(fingerprint::key(&at.key)) {
                    places.lost.add(link.digest.clone(), at.size_bytes);
                }
                Ok(())
            }
            Ok(_) => Ok(()),
            Err(crate::Error::Damaged { .. }) => {
                places.tick_off(None);
                Ok(())
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Ticks off what the links to one blob name now, and once more if one of them went meanwhile.
    async fn look_again(&self, digest: &Digest, places: &mut Places) -> Result<()> {
        for _ in 0..ATTEMPTS_MAX {
            let mut has_moved = false;
            let mut pages = self.core.pages(keys::links(digest));
            while let Some(page) = pages.next().await? {
                for listed in page.entries.iter().filter(|listed| !is_deleted(listed)) {
                    match self.core.read::<Link>(&listed.key).await {
                        Ok(Some(Versioned { value: Link::Live(at), .. })) => {
                            places.tick_off(Some(fingerprint::key(&at.key)));
                        }
                        Ok(_) => has_moved = true,
                        Err(crate::Error::Damaged { .. }) => places.tick_off(None),
                        Err(error) => return Err(error.into()),
                    }
                }
            }
            if !has_moved {
                return Ok(());
            }
        }
        places.tick_off(None);
        Ok(())
    }

    /// C4, shard by shard, for those that have candidates.
    pub(super) async fn remove_links(&mut self, census: &Census) -> Result<()> {
        if census.candidates.is_empty() {
            return Ok(());
        }
        self.watch.phase(Phase::Removing);
        let share = census.links / 100 * u64::from(self.options.share_max_percent.min(100));
        let may_remove = match self.options.share_max_percent {
            100.. => u64::MAX,
            _ => share.max(REMOVALS_FREE),
        };
        let room = AtomicU64::new(may_remove);
        let shards = self.in_turn(census.candidates.keys().cloned().collect()).await;
        for (index, shard) in shards.iter().enumerate() {
            if index % SHARDS_PER_NOTE == 0 || room.load(Ordering::Relaxed) == 0 {
                self.note_position(shard).await?;
            }
            self.remove_links_of(shard, &room).await?;
        }
        Ok(())
    }

    /// The shards from the one on at which the last run stopped, then those before it.
    async fn in_turn(&self, mut shards: Vec<String>) -> Vec<String> {
        let position = self.core.read::<Position>(&keys::note("position")).await.ok().flatten();
        if let Some(position) = position {
            let before = shards.partition_point(|shard| *shard < position.value.shard);
            shards.rotate_left(before);
        }
        shards
    }

    async fn note_position(&self, shard: &str) -> Result<()> {
        if self.options.dry_run {
            return Ok(());
        }
        let (key, position) = (keys::note("position"), Position { shard: shard.to_owned() });
        let seen = self.core.etag(&key).await?;
        self.core.swap(&key, seen.as_ref(), position.encode()).await?;
        Ok(())
    }

    async fn remove_links_of(&mut self, shard: &str, room: &AtomicU64) -> Result<()> {
        let mut queued = Queued::default();
        let mut pages = self.core.pages(format!("{}{shard}/", keys::LINKS));
        // The links of one digest may go on in the next page.
        let mut carried: Vec<LinkEntry> = Vec::new();
        let mut is_last = false;
        while !is_last {
            let page = pages.next().await?;
            is_last = page.is_none();
            let mut groups: Vec<Vec<LinkEntry>> = Vec::new();
            groups.extend((!carried.is_empty()).then(|| std::mem::take(&mut carried)));
            for listed in page.into_iter().flat_map(|page| page.entries) {
                let Some(link) = self.link_entry(listed) else { continue };
                match groups.last_mut() {
                    Some(group) if group.first().is_some_and(|one| one.digest == link.digest) => {
                        group.push(link);
                    }
                    _ => groups.push(vec![link]),
                }
            }
            if !is_last {
                carried = groups.pop().unwrap_or_default();
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
        groups: Vec<Vec<LinkEntry>>,
        room: &AtomicU64,
        queued: &mut Queued,
    ) {
        let has_candidate = |group: &Vec<LinkEntry>| group.iter().any(|link| link.is_candidate);
        let digests: Vec<_> =
            groups.iter().map(|group| group.first().map(|l| l.digest.clone())).collect();
        let outcomes: Vec<(usize, GroupOutcome)> = {
            let run = &*self;
            let works = groups.iter().enumerate().filter(|(_, group)| has_candidate(group));
            let works: Vec<_> = works
                .map(|(index, group)| async move { (index, run.remove_group(group, room).await) })
                .collect();
            stream::iter(works).buffer_unordered(self.width()).collect().await
        };
        for (index, outcome) in outcomes {
            self.done.links_read += outcome.read;
            for (outcome, bytes) in outcome.outcomes {
                self.done.links.count(outcome, bytes);
            }
            let Some(Some(digest)) = digests.get(index) else { continue };
            for location in outcome.free {
                self.done.queued += 1;
                self.done.queued_bytes += location.size_bytes;
                queued.add(digest.clone(), location);
            }
        }
    }

    /// C4 for the candidates among all links to one blob.
    async fn remove_group(&self, group: &[LinkEntry], room: &AtomicU64) -> GroupOutcome {
        let mut done = GroupOutcome::default();
        let mut removed = 0;
        let mut free: Vec<Location> = Vec::new();
        for link in group.iter().filter(|link| link.is_candidate) {
            let take = |room: u64| room.checked_sub(1);
            if room.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_err() {
                done.outcomes.push((Outcome::Withheld, 0));
                continue;
            }
            done.read += 1;
            let (outcome, location) = self.remove_link(link).await;
            let bytes = location.as_ref().map_or(0, |location| location.size_bytes);
            done.outcomes.push((outcome, bytes));
            if outcome == Outcome::Done {
                removed += 1;
                free.extend(location.filter(|location| !free.contains(location)));
            }
        }
        // What other links name is not read for this: where some are left, and name other bytes,
        // a sweep finds those that nobody names.
        if removed == group.len() || !self.core.rules.keep(Rule::EveryLink) {
            done.free = free;
        }
        done
    }

    /// C4: reads a candidate again, looks at its age again, and removes that version.
    async fn remove_link(&self, link: &LinkEntry) -> (Outcome, Option<Location>) {
        let key = &link.listed.key;
        let read = match self.core.read::<Link>(key).await {
            Ok(Some(read)) => read,
            Ok(None) => return (Outcome::Changed, None),
            Err(_) => return (Outcome::Failed, None),
        };
        let was_deleted = is_deleted(&link.listed);
        if !self.is_old(read.last_modified) || was_deleted != (read.value == Link::Deleted) {
            return (Outcome::Changed, None);
        }
        let location = read.value.live().cloned();
        let action = Action {
            kind: ActionKind::RemoveLink,
            key: key.to_string(),
            repository: Some(link.name.clone()),
            digest: Some(link.digest.clone()),
            size_bytes: location.as_ref().map_or(0, |location| location.size_bytes),
        };
        let deed = Deed::Remove(&read.etag);
        let outcome = self.sink.perform(&self.core, self.watch, &action, key, deed).await;
        (outcome, location)
    }
}

/// Follows the links of one digest through the listing.
#[derive(Debug, Default)]
struct Group {
    digest: Option<Digest>,
    place: u64,
    is_noted: bool,
}

impl Group {
    fn add(&mut self, link: &LinkEntry, place: Option<u64>, duplicates: &mut Vec<Digest>) {
        if self.digest.as_ref() != Some(&link.digest) {
            *self = Self { digest: Some(link.digest.clone()), ..Self::default() };
        }
        let Some(place @ 1..) = place else { return };
        if self.place == 0 {
            self.place = place;
        } else if self.place != place && !self.is_noted && duplicates.len() < FOLDS_MAX {
            self.is_noted = true;
            duplicates.push(link.digest.clone());
        }
    }
}
