//! `pulls/since`: since when no pull was missed.

use tracing::{info, warn};

use super::record::{PullsSince, WrittenShards};
use super::{at, from_now};
use crate::Result;
use crate::attempts::SwapAttempts;
use crate::core::Core;
use crate::damaged::FoundRecord;
use crate::keys::{self, PULL_SHARDS, ParsedKey, PullsKey};
use crate::pull_collector::KnownSince;
use crate::record::StoredRecord;

const CONTENDED: &str = "the start of pull times is being changed by too many others";

/// A change of `pulls/since`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SinceChange {
    /// Pulls are tracked, from now on unless they were.
    Begin,
    /// A pull was missed, or what was known is lost: pulls are tracked from then on, if they are.
    AtLeast(u64),
    /// The same, and they are tracked.
    Restart,
    /// Pulls are not tracked any more.
    End,
}

impl SinceChange {
    /// What follows on a time.
    fn after(self, since: Option<u64>, now: u64) -> Option<u64> {
        match self {
            Self::Begin => since.or(Some(now)),
            Self::AtLeast(least) => since.map(|since| since.max(least)),
            Self::Restart => Some(since.map_or(now, |since| since.max(now))),
            Self::End => None,
        }
    }

    /// What follows on a record that is damaged. Whether pulls are tracked is not known to an instance that only resets it:
    /// the next merge by an instance that tracks them begins anew.
    fn after_damage(self, now: u64) -> Option<u64> {
        matches!(self, Self::Begin | Self::Restart).then_some(now)
    }
}

impl Core {
    pub(super) async fn update_pulls_since(&self) -> Result<()> {
        let mut known = self.pulls.known_since.lock().await;
        if !self.tracks_pulls() {
            if *known == KnownSince::Unknown && !self.required.has_pulls() {
                *known = KnownSince::Off;
            }
            if *known != KnownSince::Off {
                self.change_pulls_since(SinceChange::End).await?;
                *known = KnownSince::Off;
            }
            return Ok(());
        }
        let has_missed = self.pulls.has_missed();
        if *known == KnownSince::Tracked && !has_missed {
            return Ok(());
        }
        let change = if has_missed { SinceChange::Restart } else { SinceChange::Begin };
        // A pull that is missed from here on is for the next time.
        self.pulls.take_missed();
        if let Err(error) = self.change_pulls_since(change).await {
            if has_missed {
                self.pulls.note_missed();
            }
            return Err(error);
        }
        *known = KnownSince::Tracked;
        Ok(())
    }

    /// Whatever was lost: a time that is missing must not look like a tag that is not pulled. To be called before
    /// what was lost is replaced.
    pub(crate) async fn reset_pulls_since(&self) -> Result<()> {
        self.change_pulls_since(SinceChange::AtLeast(from_now(self))).await.map(drop)
    }

    /// The record in place of one that cannot be read. Instances that track pulls begin anew.
    pub(crate) async fn restarted_pulls(&self) -> Result<PullsSince> {
        Ok(PullsSince { since: None, shards: self.present_shards().await? })
    }

    /// Changes the record, and returns what it says.
    pub(super) async fn change_pulls_since(&self, change: SinceChange) -> Result<PullsSince> {
        if matches!(change, SinceChange::Begin | SinceChange::Restart) {
            self.mark_pulls().await?;
        }
        let key = keys::pulls_since();
        let mut attempts = SwapAttempts::new(CONTENDED);
        loop {
            attempts.next().await?;
            let seen = self.find_record::<PullsSince>(&key).await?;
            let now = from_now(self);
            let (since, shards) = match &seen {
                FoundRecord::Valid(read) => {
                    (change.after(read.value.since, now), read.value.shards)
                }
                FoundRecord::Absent => match change.after(None, now) {
                    None => return Ok(PullsSince::default()),
                    since => (since, self.present_shards().await?),
                },
                FoundRecord::Damaged(_) => (change.after_damage(now), self.present_shards().await?),
            };
            let record = PullsSince { since, shards };
            let bytes = match &seen {
                FoundRecord::Valid(read) if read.value == record => return Ok(record),
                FoundRecord::Valid(read) => record.encode_over(&read.bytes),
                _ => record.encode(),
            };
            if self.swap(&key, seen.etag(), bytes).await?.is_some() {
                log(&seen, since);
                return Ok(record);
            }
        }
    }

    /// Notes that shards were written.
    pub(super) async fn add_written_shards(&self, written: &[u8]) -> Result<()> {
        let key = keys::pulls_since();
        let mut attempts = SwapAttempts::new(CONTENDED);
        loop {
            attempts.next().await?;
            let seen = self.find_record::<PullsSince>(&key).await?;
            let mut record = match &seen {
                FoundRecord::Valid(read) => read.value.clone(),
                // It says which there are once it is written anew.
                FoundRecord::Absent | FoundRecord::Damaged(_) => return Ok(()),
            };
            let is_new: Vec<_> = written.iter().map(|shard| record.shards.add(*shard)).collect();
            if !is_new.contains(&true) {
                return Ok(());
            }
            let bytes = match &seen {
                FoundRecord::Valid(read) => record.encode_over(&read.bytes),
                _ => record.encode(),
            };
            if self.swap(&key, seen.etag(), bytes).await?.is_some() {
                return Ok(());
            }
        }
    }

    /// The shards that are in the store.
    pub(crate) async fn present_shards(&self) -> Result<WrittenShards> {
        let mut shards = WrittenShards::default();
        for key in self.list_all(PULL_SHARDS.to_owned()).await? {
            if let Some(ParsedKey::Pulls(PullsKey::Shard(shard))) = ParsedKey::parse(&key) {
                shards.add(shard);
            }
        }
        Ok(shards)
    }
}

fn log(seen: &FoundRecord<PullsSince>, since: Option<u64>) {
    let since = since.map(|since| tracing::field::debug(at(since)));
    match seen {
        FoundRecord::Absent => info!(since, "pulls are tracked"),
        FoundRecord::Valid(read) if read.value.since.is_none() => info!(since, "pulls are tracked"),
        FoundRecord::Valid(_) if since.is_none() => info!("pulls are not tracked any more"),
        FoundRecord::Valid(_) => {
            warn!(since, "pulls were missed or lost: retention reckons with those since now");
        }
        FoundRecord::Damaged(_) => {
            warn!(since, "pulls/since was damaged: retention reckons with pulls since now");
        }
    }
}
