//! C5: bytes that have lost their last link wait here until no client can be reading them.
//!
//! A record `gc/queue/<ulid>` is written once, after the links were deleted: its age is how long
//! its bytes have waited. A queue that is lost with an interrupted run only delays the delete: a
//! sweep finds the bytes.

use futures::stream::{self, StreamExt};
use jreg_oci::Digest;
use jreg_storage::{Key, PutMode};
use serde::{Deserialize, Serialize};

use super::action::{GcAction, GcActionKind};
use super::observer::GcPhase;
use super::{GcRun, Result};
use crate::core::Core;
use crate::fsck::QuarantinedLocations;
use crate::keys;
use crate::record::{JsonRecord, Link, Location, StoredRecord};
use crate::rules::Rule;
use crate::window::TOUCH_AGE;

/// Maximum number of locations in one record.
const PLACES_MAX: usize = 1000;

/// Locations of bytes that no link references any more, each with its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct GcQueue {
    locations: Vec<QueuedLocation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct QueuedLocation {
    digest: Digest,
    #[serde(flatten)]
    at: Location,
}

impl JsonRecord for GcQueue {}

impl GcQueue {
    pub(super) fn add(&mut self, digest: Digest, at: Location) {
        self.locations.push(QueuedLocation { digest, at });
    }

    pub(super) async fn write(self, core: &Core) -> Result<()> {
        for locations in self.locations.chunks(PLACES_MAX) {
            let key = keys::note(&format!("queue/{}", ulid::Ulid::generate()));
            let record = Self { locations: locations.to_vec() };
            core.store.put(&key, record.encode(), PutMode::Create).await?;
        }
        Ok(())
    }
}

impl GcRun<'_> {
    /// Deletes the bytes that have waited for long enough, unless a link references them after all.
    pub(super) async fn remove_queued(&mut self) -> Result<()> {
        self.watch.phase(GcPhase::Queue);
        let mut pages = self.core.list_pages(format!("{}queue/", keys::NOTES));
        while let Some(page) = pages.next().await? {
            for entry in page.entries {
                let age = page.date.duration_since(entry.last_modified).unwrap_or_default();
                if age >= self.options.bytes_wait || !self.core.rules.keep(Rule::BytesWait) {
                    self.remove_record(&entry.key).await?;
                }
            }
        }
        Ok(())
    }

    async fn remove_record(&mut self, key: &Key) -> Result<()> {
        let queued = match self.core.read::<GcQueue>(key).await {
            Ok(Some(queued)) => queued.value,
            // A sweep finds its locations.
            Ok(None) | Err(crate::Error::Damaged { .. }) => GcQueue::default(),
            Err(error) => return Err(error.into()),
        };
        let mut free = Vec::new();
        {
            let core = &self.core;
            let looks = queued.locations.into_iter().map(|location| async move {
                let is_named = is_named(core, &location).await;
                (location, is_named)
            });
            let looks: Vec<_> = looks.collect();
            let mut looks = stream::iter(looks).buffer_unordered(self.width());
            while let Some((location, is_named)) = looks.next().await {
                if !is_named? {
                    free.push(location);
                }
            }
        }
        self.remove_locations(free).await?;
        if !self.options.dry_run {
            self.core.store.delete(key, None).await?;
        }
        Ok(())
    }

    async fn remove_locations(&mut self, mut locations: Vec<QueuedLocation>) -> Result<()> {
        if !locations.is_empty() {
            let quarantined = self.quarantined().await?;
            locations
                .retain(|location| !quarantined.may_name(&location.at.key, location.at.size_bytes));
        }
        let actions: Vec<_> = locations
            .iter()
            .map(|location| GcAction {
                kind: GcActionKind::RemoveBytes,
                key: location.at.key.to_string(),
                repository: None,
                digest: Some(location.digest.clone()),
                size_bytes: location.at.size_bytes,
            })
            .collect();
        let keys: Vec<_> = locations.into_iter().map(|location| location.at.key).collect();
        self.remove_bytes(&actions, &keys).await;
        self.watch.progress(keys.len() as u64);
        Ok(())
    }

    /// The locations that quarantined links name, or may name: corrupt bytes stay until an operator has
    /// removed the link from the quarantine. Read when the first bytes are to be removed.
    pub(super) async fn quarantined(&mut self) -> Result<&QuarantinedLocations> {
        if self.seen.quarantined.is_none() {
            self.seen.quarantined = match self.core.rules.keep(Rule::QuarantineKeeps) {
                true => Some(self.core.quarantined_locations().await?),
                false => None,
            };
        }
        Ok(self.seen.quarantined.get_or_insert_default())
    }

    /// Removes bytes and counts them.
    pub(super) async fn remove_bytes(&mut self, actions: &[GcAction], keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        let outcome = self.sink.remove_objects(&self.core, self.watch, actions, keys).await;
        for action in actions {
            self.done.blobs.count(outcome, action.size_bytes);
        }
    }
}

/// Whether any link references these bytes, or may: an unreadable one, and one that is deleted
/// while the others are read, as it may have been copied to a part of the listing that was already
/// read. Then a sweep decides.
async fn is_named(core: &Core, location: &QueuedLocation) -> Result<bool> {
    if !core.rules.keep(Rule::EveryLink) {
        return Ok(false);
    }
    let mut after = None;
    loop {
        let links = core.list(keys::links(&location.digest), after, 1000).await?;
        for listed in &links.entries {
            match core.read::<Link>(&listed.key).await {
                Ok(Some(link)) => match link.value.live() {
                    Some(at) if at.key == location.at.key => return Ok(true),
                    None if link.age() < TOUCH_AGE => return Ok(true),
                    _ => {}
                },
                Ok(None) | Err(crate::Error::Damaged { .. }) => return Ok(true),
                Err(error) => return Err(error.into()),
            }
        }
        match links.entries.last() {
            Some(last) if links.more => after = Some(last.key.to_string()),
            _ => return Ok(false),
        }
    }
}
