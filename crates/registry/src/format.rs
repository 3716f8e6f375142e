//! The mark of a registry's store: the version of its format, and the kinds of records in it that a
//! program must know before it deletes anything.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use crate::attempts::SwapAttempts;
use crate::core::Core;
use crate::{Error, Result, keys};

/// The version of the store's format that this code reads and writes (docs/format.md).
pub const FORMAT_VERSION: u32 = 1;

/// A kind of records that keep content. A program that does not know it serves, and deletes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreFeature(&'static str);

impl StoreFeature {
    /// Replaced changes of tags, and copies of deleted manifests.
    pub(crate) const HISTORY: Self = Self("history");
    /// A backup is being restored: no program may open the store.
    pub(crate) const RESTORING: Self = Self("restoring");

    /// Those that this program knows.
    const KNOWN: [Self; 1] = [Self::HISTORY];
}

/// The content of `jreg.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FormatMarker {
    pub(crate) format: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requires: Vec<String>,
    /// What this program does not know.
    #[serde(flatten)]
    further: BTreeMap<String, serde_json::Value>,
}

impl FormatMarker {
    /// That of a new store.
    pub(crate) fn new() -> Self {
        let requires = vec![StoreFeature::HISTORY.0.to_owned()];
        Self { format: FORMAT_VERSION, requires, further: BTreeMap::new() }
    }

    /// The marker in some bytes, if they are one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub(crate) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a marker has only string keys").into()
    }

    pub(crate) fn requires(&self, feature: StoreFeature) -> bool {
        self.requires.iter().any(|name| name == feature.0)
    }

    /// What it requires and this program does not know.
    fn unknown(&self) -> Vec<String> {
        let is_known = |name: &&String| StoreFeature::KNOWN.iter().any(|known| known.0 == **name);
        self.requires.iter().filter(|name| !is_known(name)).cloned().collect()
    }
}

/// Which features the marker is known to require.
#[derive(Debug, Default)]
pub(crate) struct RequiredFeatures {
    history: AtomicBool,
}

impl RequiredFeatures {
    pub(crate) fn of(marker: &FormatMarker) -> Self {
        Self { history: AtomicBool::new(marker.requires(StoreFeature::HISTORY)) }
    }
}

impl Core {
    /// Makes sure that the store's mark names the history, before its first record is written.
    pub(crate) async fn require_history(&self) -> Result<()> {
        let known = &self.required.history;
        if known.load(Ordering::Relaxed) {
            return Ok(());
        }
        let key = keys::format();
        let mut attempts =
            SwapAttempts::new("the store's format is being changed by too many others");
        loop {
            attempts.next().await?;
            let record = self.store.get(&key).await?;
            let Some(mut marker) = FormatMarker::decode(&record.bytes) else {
                let reason = "it has no format version".to_owned();
                return Err(Error::Damaged { key: key.to_string(), reason });
            };
            if !marker.requires(StoreFeature::HISTORY) {
                marker.requires.push(StoreFeature::HISTORY.0.to_owned());
                if self.swap(&key, Some(&record.etag), marker.encode()).await?.is_none() {
                    continue;
                }
            }
            known.store(true, Ordering::Relaxed);
            return Ok(());
        }
    }

    /// Fails if the store has kinds of records that this program does not know: it must not delete or
    /// repair anything, as they may keep what it would delete.
    pub(crate) async fn check_required(&self) -> Result<()> {
        let key = keys::format();
        let record = self.store.get(&key).await?;
        let unknown = FormatMarker::decode(&record.bytes).map(|marker| marker.unknown());
        match unknown {
            Some(unknown) if unknown.is_empty() => Ok(()),
            Some(names) => Err(Error::FeaturesUnknown { names }),
            None => {
                let reason = "it has no format version".to_owned();
                Err(Error::Damaged { key: key.to_string(), reason })
            }
        }
    }
}
