//! [`DeadLetter`]: an event that a sink refused for good.

use std::time::Duration;

use jreg_oci::{Algorithm, Digest};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use super::SinkName;
use super::log::is_older;
use crate::core::Core;
use crate::record::{JsonRecord, StoredRecord};
use crate::{Event, Registry, Result, keys};

/// An event that a sink refused for good.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeadLetter {
    pub event: Event,
    /// Its number in the log.
    pub sequence: u64,
    /// How often it was sent.
    pub attempts: u32,
    /// Why the last attempt failed.
    pub error: String,
}

impl JsonRecord for DeadLetter {
    const VERSION: Option<(&'static str, u32)> = Some(("dead letter", 1));
}

impl DeadLetter {
    /// The end of its key, which follows from the event: a repetition is the same dead letter.
    fn ulid(&self) -> Ulid {
        let hex = Digest::of(Algorithm::Sha256, self.event.id().as_bytes()).hex();
        let random = hex.get(..20).and_then(|hex| u128::from_str_radix(hex, 16).ok());
        Ulid::from_parts(self.event.change.time_ms(), random.unwrap_or_default())
    }
}

impl Registry {
    /// Keeps an event that a sink refused for good.
    ///
    /// # Errors
    ///
    /// [`Error::Store`](crate::Error).
    pub async fn keep_dead_letter(&self, sink: &SinkName, letter: &DeadLetter) -> Result<()> {
        let key = keys::dead_letter(sink.as_str(), letter.ulid());
        // One that is there is the same.
        self.core().swap(&key, None, letter.encode()).await?;
        Ok(())
    }

    /// The dead letters of a sink, the oldest first, at most `limit`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`](crate::Error), [`Error::Store`](crate::Error).
    pub async fn dead_letters(&self, sink: &SinkName, limit: usize) -> Result<Vec<DeadLetter>> {
        let core = self.core();
        let listed = core.list(keys::dead_letters(sink.as_str()), None, limit).await?;
        let keys = listed.entries.into_iter().map(|entry| entry.key).collect();
        let letters = core.read_all::<DeadLetter>(keys).await?;
        Ok(letters.into_iter().flatten().map(|read| read.value).collect())
    }
}

impl Core {
    pub(super) async fn remove_old_dead_letters(&self, keep: Duration) -> Result<()> {
        let mut pages = self.list_pages(keys::DEAD_LETTERS);
        while let Some(page) = pages.next().await? {
            let entries = page.entries.iter();
            let old = entries.filter(|entry| is_older(page.date, entry.last_modified, keep));
            let old: Vec<_> = old.map(|entry| entry.key.clone()).collect();
            for keys in old.chunks(1000) {
                self.store.delete_many(keys).await?;
            }
        }
        Ok(())
    }
}
