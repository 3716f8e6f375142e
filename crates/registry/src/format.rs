//! The mark of a registry's store: the version of its format, and the kinds of records in it that a
//! program must know before it deletes anything.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use serde::{Deserialize, Serialize};

/// The version of the store's format that this code reads and writes (docs/format.md).
pub const FORMAT_VERSION: u32 = 1;

/// A kind of records that keep content. A program that does not know it serves, and deletes nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct StoreFeature(&'static str);

impl StoreFeature {
    /// Replaced changes of tags, and copies of deleted manifests.
    pub(crate) const HISTORY: Self = Self("history");
    /// Content of other registries: tags of mirrors, and manifests whose references were not fetched.
    pub(crate) const MIRROR: Self = Self("mirror");
    /// A backup is being restored: no program may open the store.
    pub(crate) const RESTORING: Self = Self("restoring");

    /// Those that this program knows.
    const KNOWN: [Self; 2] = [Self::HISTORY, Self::MIRROR];
}

/// The content of `jreg.json`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FormatMarker {
    pub(crate) format: u32,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    requires: Vec<String>,
    /// Whether pulls were ever tracked. An instance that does not track them has to say so only then.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pulls: bool,
    /// What this program does not know.
    #[serde(flatten)]
    further: BTreeMap<String, serde_json::Value>,
}

impl FormatMarker {
    /// That of a new store.
    pub(crate) fn new() -> Self {
        let requires = vec![StoreFeature::HISTORY.0.to_owned()];
        Self { format: FORMAT_VERSION, requires, pulls: false, further: BTreeMap::new() }
    }

    /// The marker in some bytes, if they are one.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Self> {
        serde_json::from_slice(bytes).ok()
    }

    pub(crate) fn encode(&self) -> Bytes {
        serde_json::to_vec(self).expect("a marker has only string keys").into()
    }

    /// Adds a feature.
    pub(crate) fn require(&mut self, feature: StoreFeature) {
        self.requires.push(feature.0.to_owned());
    }

    /// Notes that pulls are tracked. Whether that is new.
    pub(crate) fn note_pulls(&mut self) -> bool {
        !std::mem::replace(&mut self.pulls, true)
    }

    pub(crate) fn requires(&self, feature: StoreFeature) -> bool {
        self.requires.iter().any(|name| name == feature.0)
    }

    /// What it requires and this program does not know.
    pub(crate) fn unknown(&self) -> Vec<String> {
        let is_known = |name: &&String| StoreFeature::KNOWN.iter().any(|known| known.0 == **name);
        self.requires.iter().filter(|name| !is_known(name)).cloned().collect()
    }
}

/// Which features the marker is known to require.
#[derive(Debug, Default)]
pub(crate) struct RequiredFeatures {
    history: AtomicBool,
    mirror: AtomicBool,
    /// Pulls were tracked at some time.
    pulls: AtomicBool,
}

impl RequiredFeatures {
    pub(crate) fn of(marker: &FormatMarker) -> Self {
        let required = Self::default();
        required.note(marker);
        required
    }

    /// Takes over what a marker says.
    pub(crate) fn note(&self, marker: &FormatMarker) {
        for feature in StoreFeature::KNOWN {
            if let Some(flag) = self.flag(feature) {
                flag.fetch_or(marker.requires(feature), Ordering::Relaxed);
            }
        }
        self.pulls.fetch_or(marker.pulls, Ordering::Relaxed);
    }

    pub(crate) fn has_pulls(&self) -> bool {
        self.pulls.load(Ordering::Relaxed)
    }

    pub(crate) fn has(&self, feature: StoreFeature) -> bool {
        self.flag(feature).is_some_and(|flag| flag.load(Ordering::Relaxed))
    }

    fn flag(&self, feature: StoreFeature) -> Option<&AtomicBool> {
        match feature {
            StoreFeature::HISTORY => Some(&self.history),
            StoreFeature::MIRROR => Some(&self.mirror),
            _ => None,
        }
    }
}
