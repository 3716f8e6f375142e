//! Merging: from the objects of instances to the shards.

use std::collections::BTreeMap;

use futures::stream::{self, StreamExt};
use jreg_oci::{Reference, RepositoryName};
use jreg_storage::{Key, PutMode};
use tracing::warn;

use super::record::{
    PullTable, PullsObject, PullsShard, PullsSince, entries, note_pull, parse_entry, shard_of,
};
use super::since::SinceChange;
use crate::attempts::SwapAttempts;
use crate::core::Core;
use crate::damaged::{DamagedRecord, FoundRecord};
use crate::keys;
use crate::record::StoredRecord;
use crate::{Error, Result};

/// Maximum objects, and bytes of them, that are merged at once, in memory.
const MERGE_OBJECTS_MAX: usize = 256;
const MERGE_BYTES_MAX: u64 = 16 * 1024 * 1024;
/// Maximum size of a shard. What is pulled for the longest time has no place in a larger one.
const SHARD_BYTES_MAX: usize = 7 * 1024 * 1024;

/// What a merge did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MergedPulls {
    /// Objects that were merged and removed.
    pub objects: usize,
    /// Shards that were written.
    pub shards: usize,
    /// Objects and shards that could not be read.
    pub damaged: usize,
}

/// What became of the times of tags and digests that are gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct PrunedPulls {
    /// All that were looked at.
    pub(crate) scanned: u64,
    pub(crate) removed: u64,
    /// Those that stay because their shard changed meanwhile.
    pub(crate) changed: u64,
}

/// Objects that are merged together.
#[derive(Default)]
struct MergeBatch {
    keys: Vec<Key>,
    bytes: u64,
}

impl Core {
    pub(crate) async fn merge_pulls(&self) -> Result<MergedPulls> {
        let (mut merged, mut batch) = (MergedPulls::default(), MergeBatch::default());
        let mut pages = self.list_pages(keys::PULLS);
        while let Some(page) = pages.next().await? {
            for entry in page.entries {
                if !keys::is_pulls_object(&entry.key) {
                    continue;
                }
                let is_full = batch.keys.len() >= MERGE_OBJECTS_MAX
                    || batch.bytes + entry.size_bytes > MERGE_BYTES_MAX;
                if is_full && !batch.keys.is_empty() {
                    self.merge_batch(std::mem::take(&mut batch), &mut merged).await?;
                }
                batch.bytes += entry.size_bytes;
                batch.keys.push(entry.key);
            }
        }
        if !batch.keys.is_empty() {
            self.merge_batch(batch, &mut merged).await?;
        }
        // Another instance may have turned tracking off while this one goes on.
        if self.tracks_pulls() {
            self.change_pulls_since(SinceChange::Begin).await?;
        }
        Ok(merged)
    }

    /// Merges some objects into every shard that they are about, and only then removes them.
    async fn merge_batch(&self, batch: MergeBatch, merged: &mut MergedPulls) -> Result<()> {
        let (tables, done) = self.read_batch(batch.keys, merged).await?;
        let since = self.find_record::<PullsSince>(&keys::pulls_since()).await?;
        let written_before = since.valid().map(|read| read.value.shards).unwrap_or_default();
        let mut shards = Vec::new();
        for (shard, table) in &tables {
            let was_written = written_before.has(*shard);
            if self.merge_shard(*shard, table, was_written, merged).await? {
                merged.shards += 1;
            }
            if !was_written {
                shards.push(*shard);
            }
        }
        if !shards.is_empty() {
            self.add_written_shards(&shards).await?;
        }
        self.store.delete_many(&done).await?;
        merged.objects += done.len();
        Ok(())
    }

    /// The times in objects, by shard, and the objects that need not be read again.
    async fn read_batch(
        &self,
        keys: Vec<Key>,
        merged: &mut MergedPulls,
    ) -> Result<(BTreeMap<u8, PullTable>, Vec<Key>)> {
        let reads = keys.into_iter().map(|key| async move {
            let found = self.find_record::<PullsObject>(&key).await;
            (key, found)
        });
        // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
        let reads: Vec<_> = reads.collect();
        let reads = stream::iter(reads).buffered(self.reads_in_flight_max());
        let (mut tables, mut done) = (BTreeMap::<u8, PullTable>::new(), Vec::new());
        for (key, found) in reads.collect::<Vec<_>>().await {
            match found {
                Ok(FoundRecord::Valid(read)) => {
                    for (name, reference, minute) in entries(&read.value.pulls) {
                        let table = tables.entry(shard_of(name, reference)).or_default();
                        note_pull(table, name, reference, minute);
                    }
                }
                // Another merge has removed it.
                Ok(FoundRecord::Absent) => continue,
                Ok(FoundRecord::Damaged(damaged)) => {
                    merged.damaged += 1;
                    self.lose_pulls(&key, &damaged).await?;
                }
                // A later version of this program merges it.
                Err(Error::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            }
            done.push(key);
        }
        Ok((tables, done))
    }

    /// Pull times are lost: keeps their bytes, and says that nothing is known of pulls before now.
    async fn lose_pulls(&self, key: &Key, damaged: &DamagedRecord) -> Result<()> {
        warn!(%key, "damaged pull times: quarantined");
        self.reset_pulls_since().await?;
        self.store.put(&keys::quarantined(key), damaged.bytes.clone(), PutMode::Create).await?;
        Ok(())
    }

    /// Whether the shard was written.
    async fn merge_shard(
        &self,
        shard: u8,
        table: &PullTable,
        was_written: bool,
        merged: &mut MergedPulls,
    ) -> Result<bool> {
        let key = keys::pulls_shard(shard);
        let mut attempts = SwapAttempts::new("pull times are being merged by too many others");
        loop {
            attempts.next().await?;
            let seen = self.find_record::<PullsShard>(&key).await?;
            let mut value = match &seen {
                FoundRecord::Valid(read) => read.value.clone(),
                FoundRecord::Absent => {
                    if was_written {
                        merged.damaged += 1;
                        warn!(%key, "pull times are missing");
                        self.reset_pulls_since().await?;
                    }
                    PullsShard::default()
                }
                FoundRecord::Damaged(damaged) => {
                    merged.damaged += 1;
                    self.lose_pulls(&key, damaged).await?;
                    PullsShard::default()
                }
            };
            let mut is_new = seen.valid().is_none();
            for (name, reference, minute) in entries(table) {
                is_new |= note_pull(&mut value.pulls, name, reference, minute);
            }
            if !is_new {
                return Ok(false);
            }
            self.limit_shard(&mut value).await?;
            if self.swap_shard(&key, &seen, &value).await? {
                return Ok(true);
            }
        }
    }

    async fn swap_shard(
        &self,
        key: &Key,
        seen: &FoundRecord<PullsShard>,
        value: &PullsShard,
    ) -> Result<bool> {
        let bytes = match seen {
            FoundRecord::Valid(read) => value.encode_over(&read.bytes),
            _ => value.encode(),
        };
        Ok(self.swap(key, seen.etag(), bytes).await?.is_some())
    }

    /// Drops the older half of a shard that is too large for a record. Then pulls up to those are not known any more.
    async fn limit_shard(&self, shard: &mut PullsShard) -> Result<()> {
        if shard.encode().len() <= SHARD_BYTES_MAX {
            return Ok(());
        }
        let mut minutes: Vec<_> = entries(&shard.pulls).map(|(_, _, minute)| minute).collect();
        minutes.sort_unstable();
        let last = minutes.get(minutes.len() / 2).copied().unwrap_or_default();
        let after = (u64::from(last) + 1) * 60;
        warn!("a shard of pull times is full: the older half is dropped");
        self.change_pulls_since(SinceChange::AtLeast(after)).await?;
        retain(shard, |_, _, minute| minute > last);
        Ok(())
    }

    /// Drops what is known of tags and digests that are gone. A shard that changes meanwhile waits for the next time.
    pub(crate) async fn prune_pulls(
        &self,
        is_gone: &(dyn Fn(&RepositoryName, &Reference, u64) -> bool + Sync),
    ) -> Result<PrunedPulls> {
        let mut tally = PrunedPulls::default();
        for shard in self.present_shards().await?.each() {
            let key = keys::pulls_shard(shard);
            let seen = match self.find_record::<PullsShard>(&key).await {
                Ok(seen) => seen,
                Err(Error::Damaged { .. }) => continue,
                Err(error) => return Err(error),
            };
            let Some(read) = seen.valid() else { continue };
            let mut value = read.value.clone();
            let before = entries(&value.pulls).count() as u64;
            retain(&mut value, |name, reference, minute| match parse_entry(name, reference) {
                Some((name, reference)) => !is_gone(&name, &reference, u64::from(minute) * 60),
                None => true,
            });
            let gone = before - entries(&value.pulls).count() as u64;
            tally.scanned += before;
            if gone > 0 {
                match self.swap_shard(&key, &seen, &value).await? {
                    true => tally.removed += gone,
                    false => tally.changed += gone,
                }
            }
        }
        Ok(tally)
    }
}

fn retain(shard: &mut PullsShard, keep: impl Fn(&str, &str, u32) -> bool) {
    for (name, references) in &mut shard.pulls {
        references.retain(|reference, minute| keep(name, reference, *minute));
    }
    shard.pulls.retain(|_, references| !references.is_empty());
}
