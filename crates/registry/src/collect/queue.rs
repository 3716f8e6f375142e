//! C5: bytes that have lost their last link wait here until nobody can be reading them.
//!
//! A record `gc/queue/<ulid>` is written once, after the links are gone: its age is how long its
//! bytes have waited. A queue that is lost with a run that was cut off costs nothing but time: a
//! sweep finds the bytes.

use futures::stream::{self, StreamExt};
use jreg_oci::Digest;
use jreg_storage::{Key, PutMode};
use serde::{Deserialize, Serialize};

use super::action::{Action, ActionKind};
use super::watch::Phase;
use super::{Result, Run};
use crate::check::QuarantinedPlaces;
use crate::core::{Core, TOUCH_AGE};
use crate::keys;
use crate::record::{Link, Location, Stored, stored_as_json};
use crate::rules::Rule;

/// How many places one record names at most.
const PLACES_MAX: usize = 1000;

/// Places of bytes that no link names any more, each with its digest.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Queued {
    places: Vec<QueuedPlace>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct QueuedPlace {
    digest: Digest,
    #[serde(flatten)]
    at: Location,
}

stored_as_json!(Queued);

impl Queued {
    pub(super) fn add(&mut self, digest: Digest, at: Location) {
        self.places.push(QueuedPlace { digest, at });
    }

    pub(super) async fn write(self, core: &Core) -> Result<()> {
        for places in self.places.chunks(PLACES_MAX) {
            let key = keys::note(&format!("queue/{}", ulid::Ulid::generate()));
            let record = Self { places: places.to_vec() };
            core.store.put(&key, record.encode(), PutMode::Create).await?;
        }
        Ok(())
    }
}

impl Run<'_> {
    /// Removes the bytes that have waited for long enough, unless a link names them after all.
    pub(super) async fn remove_queued(&mut self) -> Result<()> {
        self.watch.phase(Phase::Queue);
        let mut pages = self.core.pages(format!("{}queue/", keys::NOTES));
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
        let queued = match self.core.read::<Queued>(key).await {
            Ok(Some(queued)) => queued.value,
            // What it named is a sweep's.
            Ok(None) | Err(crate::Error::Damaged { .. }) => Queued::default(),
            Err(error) => return Err(error.into()),
        };
        let mut free = Vec::new();
        {
            let core = &self.core;
            let looks = queued.places.into_iter().map(|place| async move {
                let is_named = is_named(core, &place).await;
                (place, is_named)
            });
            let looks: Vec<_> = looks.collect();
            let mut looks = stream::iter(looks).buffer_unordered(self.width());
            while let Some((place, is_named)) = looks.next().await {
                if !is_named? {
                    free.push(place);
                }
            }
        }
        self.remove_places(free).await?;
        if !self.options.dry_run {
            self.core.store.delete(key, None).await?;
        }
        Ok(())
    }

    async fn remove_places(&mut self, mut places: Vec<QueuedPlace>) -> Result<()> {
        if !places.is_empty() {
            let quarantined = self.quarantined().await?;
            places.retain(|place| !quarantined.may_name(&place.at.key, place.at.size_bytes));
        }
        let actions: Vec<_> = places
            .iter()
            .map(|place| Action {
                kind: ActionKind::RemoveBytes,
                key: place.at.key.to_string(),
                repository: None,
                digest: Some(place.digest.clone()),
                size_bytes: place.at.size_bytes,
            })
            .collect();
        let keys: Vec<_> = places.into_iter().map(|place| place.at.key).collect();
        self.remove_bytes(&actions, &keys).await;
        self.watch.progress(keys.len() as u64);
        Ok(())
    }

    /// The places that links which a repair has put aside name, or may name: what was found corrupt stays until
    /// somebody has looked at it. Read when the first bytes are to be removed.
    pub(super) async fn quarantined(&mut self) -> Result<&QuarantinedPlaces> {
        if self.seen.quarantined.is_none() {
            self.seen.quarantined = match self.core.rules.keep(Rule::QuarantineKeeps) {
                true => Some(self.core.quarantined_places().await?),
                false => None,
            };
        }
        Ok(self.seen.quarantined.get_or_insert_default())
    }

    /// Removes bytes and counts them.
    pub(super) async fn remove_bytes(&mut self, actions: &[Action], keys: &[Key]) {
        if keys.is_empty() {
            return;
        }
        let outcome = self.sink.remove_bytes(&self.core, self.watch, actions, keys).await;
        for action in actions {
            self.done.blobs.count(outcome, action.size_bytes);
        }
    }
}

/// Whether any link names these bytes, or may: one that cannot be read, and one that is going while
/// the others are looked at, which may have been copied to where this has looked before. Then a
/// sweep has the bytes.
async fn is_named(core: &Core, place: &QueuedPlace) -> Result<bool> {
    if !core.rules.keep(Rule::EveryLink) {
        return Ok(false);
    }
    let mut after = None;
    loop {
        let links = core.list(keys::links(&place.digest), after, 1000).await?;
        for listed in &links.entries {
            match core.read::<Link>(&listed.key).await {
                Ok(Some(link)) => match link.value.live() {
                    Some(at) if at.key == place.at.key => return Ok(true),
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
