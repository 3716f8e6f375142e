//! [`PullTimes`]: what a run knows of pulls.
//!
//! Times move from the memory of an instance to an object, and from there to a shard. They are read in this order,
//! so that none is missed on its way. `pulls/since` is read after each shard: an instance that replaces a damaged one sets
//! that first.

use std::collections::HashMap;
use std::time::SystemTime;

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, RepositoryName, Tag};
use tokio::sync::Mutex;
use tracing::warn;

use super::at;
use super::record::{
    PullsObject, PullsShard, PullsSince, SHARDS, entries, fingerprint_of, shard_of,
};
use crate::core::Core;
use crate::damaged::FoundRecord;
use crate::fingerprint::Fingerprint;
use crate::keys;
use crate::{Error, Registry, Repository, Result};

/// Maximum tags and digests of shards in memory, of 12 bytes and as much again; more are read again.
const ENTRIES_MAX: usize = 4_000_000;

/// The times of last pulls, in minutes of the Unix epoch.
type Minutes = HashMap<Fingerprint, u32>;

/// What a run knows of pulls.
#[derive(Debug)]
pub(crate) struct PullTimes {
    core: Core,
    /// What is in no shard yet.
    unmerged: Minutes,
    shards: Mutex<ReadShards>,
}

/// The shards that were read, and what is known of the start.
#[derive(Debug)]
struct ReadShards {
    since: PullsSince,
    /// Something cannot be read: then nothing is certain.
    is_damaged: bool,
    minutes: HashMap<u8, Minutes>,
}

/// The last pulls of some tags.
#[derive(Debug)]
pub(crate) struct LastPulls {
    /// In the order of the tags; `None`: none is known.
    pub(crate) times: Vec<Option<SystemTime>>,
    /// Since when none was missed; `None`: that is not known.
    pub(crate) since: Option<SystemTime>,
}

impl Registry {
    /// The last known pull of a tag, or of the digest that it points to.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn last_pull(
        &self,
        name: &RepositoryName,
        tag: &Tag,
        digest: &Digest,
    ) -> Result<Option<SystemTime>> {
        let core = self.core();
        core.check_required().await?;
        if !core.required.has_pulls() {
            return Ok(None);
        }
        let times = PullTimes::open(core).await?;
        let last = times.of(name, &[(tag, digest)]).await?;
        Ok(last.times.into_iter().flatten().next())
    }
}

impl Repository {
    /// The last known pulls of tags, or of the digests that they point to, in their order: a listing, what is not
    /// merged yet, and a read for each of at most 256 shards.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub async fn last_pulls(&self, tags: &[(Tag, Digest)]) -> Result<Vec<Option<SystemTime>>> {
        self.core.check_required().await?;
        if !self.core.required.has_pulls() {
            return Ok(vec![None; tags.len()]);
        }
        let tags: Vec<_> = tags.iter().map(|(tag, digest)| (tag, digest)).collect();
        let times = PullTimes::open(&self.core).await?;
        Ok(times.of(&self.name, &tags).await?.times)
    }
}

impl PullTimes {
    /// Reads what is in no shard yet.
    pub(crate) async fn open(core: &Core) -> Result<Self> {
        let mut unmerged = Minutes::new();
        core.pulls.each(|name, reference, minute| {
            note(&mut unmerged, name.as_str(), &reference.to_string(), minute);
        });
        let mut is_damaged = false;
        let objects = core.list_all(keys::PULLS.to_owned()).await?;
        let reads = objects.into_iter().filter(keys::is_pulls_object).map(|key| async move {
            let found = core.find_record::<PullsObject>(&key).await;
            Ok::<_, Error>((key, found))
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let reads: Vec<_> = reads.collect();
        let mut reads = stream::iter(reads).buffered(core.reads_in_flight_max());
        while let Some((key, found)) = reads.try_next().await? {
            match found {
                Ok(FoundRecord::Valid(read)) => {
                    for (name, reference, minute) in entries(&read.value.pulls) {
                        note(&mut unmerged, name, reference, minute);
                    }
                }
                // It was merged, and the shards have it.
                Ok(FoundRecord::Absent) => {}
                Ok(FoundRecord::Damaged(_)) | Err(Error::Damaged { .. }) => {
                    warn!(%key, "pull times cannot be read: no tag expires by them");
                    is_damaged = true;
                }
                Err(error) => return Err(error),
            }
        }
        let mut shards =
            ReadShards { since: PullsSince::default(), is_damaged, minutes: HashMap::new() };
        shards.read_since(core).await?;
        Ok(Self { core: core.clone(), unmerged, shards: Mutex::new(shards) })
    }

    /// The last pulls of tags, or of exactly what they point to.
    pub(crate) async fn of(
        &self,
        name: &RepositoryName,
        tags: &[(&Tag, &Digest)],
    ) -> Result<LastPulls> {
        let references = tags.iter().map(|(tag, digest)| vec![tag.to_string(), digest.to_string()]);
        self.latest(name, references.collect()).await
    }

    /// The last pulls of exactly these manifests.
    pub(crate) async fn of_digests(
        &self,
        name: &RepositoryName,
        digests: &[&Digest],
    ) -> Result<LastPulls> {
        let references = digests.iter().map(|digest| vec![digest.to_string()]);
        self.latest(name, references.collect()).await
    }

    /// The last pull of each group of references.
    async fn latest(
        &self,
        name: &RepositoryName,
        references: Vec<Vec<String>>,
    ) -> Result<LastPulls> {
        let name = name.as_str();
        let mut shards = self.shards.lock().await;
        let mut needed = [false; SHARDS];
        for reference in references.iter().flatten() {
            if let Some(needed) = needed.get_mut(usize::from(shard_of(name, reference))) {
                *needed = true;
            }
        }
        let needed = (0..=u8::MAX).zip(needed).filter_map(|(shard, is)| is.then_some(shard));
        shards.load(&self.core, needed.collect()).await?;
        let last = |references: &Vec<String>| {
            let known = references.iter().filter_map(|reference| {
                let fingerprint = fingerprint_of(name, reference);
                let shard = shards.minutes.get(&shard_of(name, reference));
                let merged = shard.and_then(|minutes| minutes.get(&fingerprint));
                self.unmerged.get(&fingerprint).max(merged).copied()
            });
            known.max().map(|minute| at(u64::from(minute) * 60))
        };
        let times = references.iter().map(last).collect();
        Ok(LastPulls { times, since: shards.known_since() })
    }
}

impl ReadShards {
    fn known_since(&self) -> Option<SystemTime> {
        self.since.since.filter(|_| !self.is_damaged).map(at)
    }

    async fn read_since(&mut self, core: &Core) -> Result<()> {
        match core.find_record::<PullsSince>(&keys::pulls_since()).await {
            Ok(FoundRecord::Valid(read)) => self.since = read.value,
            Ok(FoundRecord::Absent) => self.since = PullsSince::default(),
            Ok(FoundRecord::Damaged(_)) | Err(Error::Damaged { .. }) => self.is_damaged = true,
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Reads shards that were not read yet.
    async fn load(&mut self, core: &Core, shards: Vec<u8>) -> Result<()> {
        if self.minutes.values().map(HashMap::len).sum::<usize>() > ENTRIES_MAX {
            self.minutes.clear();
        }
        let unread = shards.into_iter().filter(|shard| !self.minutes.contains_key(shard));
        let unread: Vec<u8> = unread.collect();
        if unread.is_empty() {
            return Ok(());
        }
        let reads = unread.into_iter().map(|shard| async move {
            let found = core.find_record::<PullsShard>(&keys::pulls_shard(shard)).await;
            Ok::<_, Error>((shard, found))
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let reads: Vec<_> = reads.collect();
        let mut reads = stream::iter(reads).buffered(core.reads_in_flight_max());
        while let Some((shard, found)) = reads.try_next().await? {
            let mut minutes = Minutes::new();
            match found {
                Ok(FoundRecord::Valid(read)) => {
                    for (name, reference, minute) in entries(&read.value.pulls) {
                        note(&mut minutes, name, reference, minute);
                    }
                }
                Ok(FoundRecord::Absent) if !self.since.shards.has(shard) => {}
                Ok(FoundRecord::Absent | FoundRecord::Damaged(_)) | Err(Error::Damaged { .. }) => {
                    warn!(shard, "pull times are missing or damaged: no tag expires by them");
                    self.is_damaged = true;
                }
                Err(error) => return Err(error),
            }
            self.minutes.insert(shard, minutes);
        }
        self.read_since(core).await
    }
}

fn note(minutes: &mut Minutes, name: &str, reference: &str, minute: u32) {
    let known = minutes.entry(fingerprint_of(name, reference)).or_default();
    *known = minute.max(*known);
}
