//! The records of pull times, and what is known of one tag or digest.

use std::collections::BTreeMap;

use jreg_oci::{Reference, RepositoryName};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::fingerprint::{self, Fingerprint};
use crate::pull_collector::PullMap;
use crate::record::JsonRecord;

/// Minutes of the Unix epoch by tag or digest, by repository.
pub(crate) type PullTable = BTreeMap<String, BTreeMap<String, u32>>;

/// Number of shards.
pub(super) const SHARDS: usize = 256;

/// What one instance has noted: written once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PullsObject {
    pub(super) pulls: PullTable,
}

impl JsonRecord for PullsObject {
    const VERSION: Option<(&'static str, u32)> = Some(("pulls", 1));
    const HAS_NONCE: bool = false;
}

/// The last pull of each tag and digest of a shard.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PullsShard {
    pub(super) pulls: PullTable,
}

impl JsonRecord for PullsShard {
    const VERSION: Option<(&'static str, u32)> = Some(("pull times", 1));
}

/// Since when no pull was missed, and which shards there are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PullsSince {
    /// In seconds of the Unix epoch; `None`: pulls are not tracked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<u64>,
    /// A bit for each shard that was written.
    #[serde(default)]
    pub(super) shards: WrittenShards,
}

impl PullsSince {
    /// The shards that were written and are not among these.
    pub(crate) fn missing_of(&self, present: WrittenShards) -> impl Iterator<Item = u8> {
        self.shards.each().filter(move |shard| !present.has(*shard))
    }
}

impl JsonRecord for PullsSince {
    const VERSION: Option<(&'static str, u32)> = Some(("start of pull times", 1));
}

/// Which shards were written: one that is not there any more is lost. 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct WrittenShards([u64; 4]);

impl WrittenShards {
    pub(super) fn has(self, shard: u8) -> bool {
        let word = self.0.get(usize::from(shard) / 64).copied().unwrap_or_default();
        word >> (shard % 64) & 1 == 1
    }

    /// Adds one. Whether it is new.
    pub(super) fn add(&mut self, shard: u8) -> bool {
        let is_new = !self.has(shard);
        if let Some(word) = self.0.get_mut(usize::from(shard) / 64) {
            *word |= 1 << (shard % 64);
        }
        is_new
    }

    pub(super) fn each(self) -> impl Iterator<Item = u8> {
        (0..=u8::MAX).filter(move |shard| self.has(*shard))
    }
}

impl TryFrom<String> for WrittenShards {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let mut words = [0; 4];
        for (place, word) in words.iter_mut().enumerate() {
            let digits = text.get(place * 16..place * 16 + 16);
            let digits = digits.filter(|_| text.len() == 64).ok_or("it must have 64 digits")?;
            *word = u64::from_str_radix(digits, 16).map_err(|_| "it must be hexadecimal")?;
        }
        Ok(Self(words))
    }
}

impl From<WrittenShards> for String {
    fn from(shards: WrittenShards) -> Self {
        shards.0.map(|word| format!("{word:016x}")).concat()
    }
}

impl PullsObject {
    pub(super) fn of(pulled: &PullMap) -> Self {
        let mut pulls = PullTable::new();
        for (name, reference, entry) in pulled.entries() {
            note_pull(&mut pulls, name.as_str(), &reference.to_string(), entry.minute);
        }
        Self { pulls }
    }
}

/// Notes a pull, if it is later than what is known. Whether it was.
pub(super) fn note_pull(pulls: &mut PullTable, name: &str, reference: &str, minute: u32) -> bool {
    let known = pulls.get_mut(name).and_then(|references| references.get_mut(reference));
    match known {
        Some(known) if *known >= minute => false,
        Some(known) => {
            *known = minute;
            true
        }
        None => {
            let references = pulls.entry(name.to_owned()).or_default();
            references.insert(reference.to_owned(), minute);
            true
        }
    }
}

/// Every entry of a table.
pub(super) fn entries(pulls: &PullTable) -> impl Iterator<Item = (&str, &str, u32)> {
    pulls.iter().flat_map(|(name, references)| {
        references.iter().map(move |(reference, minute)| (&**name, &**reference, *minute))
    })
}

/// The shard of a tag or digest. Part of the format.
pub(super) fn shard_of(name: &str, reference: &str) -> u8 {
    let mut hasher = Sha256::new();
    hasher.update(name.as_bytes());
    hasher.update([0]);
    hasher.update(reference.as_bytes());
    hasher.finalize().first().copied().unwrap_or_default()
}

/// What stands for a tag or digest of a repository in memory.
pub(super) fn fingerprint_of(name: &str, reference: &str) -> Fingerprint {
    fingerprint::text(&format!("{name}\0{reference}"))
}

/// The names of an entry, if this version knows such.
pub(super) fn parse_entry(name: &str, reference: &str) -> Option<(RepositoryName, Reference)> {
    Some((name.parse().ok()?, reference.parse().ok()?))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn written_shards_come_back_as_they_were() {
        let mut shards = WrittenShards::default();
        for shard in [0, 63, 64, 200, 255] {
            assert!(shards.add(shard) && !shards.add(shard));
        }
        let text = String::from(shards);
        assert_eq!(text.len(), 64);
        let read = WrittenShards::try_from(text).unwrap();
        assert_eq!(read.each().collect::<Vec<_>>(), [0, 63, 64, 200, 255]);
        for wrong in ["", "0", &"g".repeat(64), &"0".repeat(65), &"é".repeat(32)] {
            assert!(WrittenShards::try_from(wrong.to_owned()).is_err(), "{wrong}");
        }
    }

    #[test]
    fn only_a_later_pull_is_news() {
        let mut pulls = PullTable::new();
        assert!(note_pull(&mut pulls, "a", "v1", 7));
        assert!(!note_pull(&mut pulls, "a", "v1", 7) && !note_pull(&mut pulls, "a", "v1", 6));
        assert!(note_pull(&mut pulls, "a", "v1", 8));
        assert_eq!(entries(&pulls).collect::<Vec<_>>(), [("a", "v1", 8)]);
    }

    /// Other versions of the program look there, too.
    #[test]
    fn the_shard_of_a_tag_never_changes() {
        assert_eq!(shard_of("team/app", "v1"), 0xa1);
        assert_ne!(shard_of("team/app", "v1"), shard_of("team/ap", "pv1"));
    }
}
