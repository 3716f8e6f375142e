//! What a mirror keeps in memory of what the mirrored registry said. All of it may be lost at any time.

use std::sync::Arc;
use std::time::Duration;

use jreg_oci::{Digest, Reference, RepositoryName};
use jreg_storage::Clock;
use quick_cache::sync::Cache;
use serde_json::Value;

use crate::UpstreamOutcome;

/// Maximum number of absences, of checked digests, and of sizes.
const ABSENT_MAX: usize = 10_000;
const CHECKED_MAX: usize = 50_000;
const SIZES_MAX: usize = 100_000;
/// The largest manifest whose descriptors are remembered.
const PARSED_BYTES_MAX: usize = 256 * 1024;
/// How deep a manifest is searched for descriptors.
const NESTING_MAX: usize = 8;

/// What a mirror remembers.
#[derive(Debug)]
pub(crate) struct Remembered {
    clock: Arc<dyn Clock>,
    /// Manifests that are not there, until when.
    absent: Cache<(RepositoryName, Reference), (UpstreamOutcome, Duration)>,
    /// The same of blobs: a digest may be of a blob and of no manifest.
    absent_blobs: Cache<(RepositoryName, Digest), (UpstreamOutcome, Duration)>,
    /// When the registry was last asked for a digest.
    checked: Cache<(RepositoryName, Digest), Duration>,
    /// Sizes of content by the descriptors of manifests.
    sizes: Cache<(RepositoryName, Digest), u64>,
}

impl Remembered {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        Self {
            clock,
            absent: Cache::new(ABSENT_MAX),
            absent_blobs: Cache::new(ABSENT_MAX),
            checked: Cache::new(CHECKED_MAX),
            sizes: Cache::new(SIZES_MAX),
        }
    }

    /// What the registry said a moment ago of a manifest, if that was that it has no such content.
    pub(crate) fn absence(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Option<UpstreamOutcome> {
        self.if_still(self.absent.get(&(name.clone(), reference.clone()))?)
    }

    pub(crate) fn note_absence(
        &self,
        name: &RepositoryName,
        reference: &Reference,
        outcome: UpstreamOutcome,
        negative: Duration,
    ) {
        if let Some(absence) = self.absence_of(outcome, negative) {
            self.absent.insert((name.clone(), reference.clone()), absence);
        }
    }

    /// The same of a blob.
    pub(crate) fn blob_absence(
        &self,
        name: &RepositoryName,
        digest: &Digest,
    ) -> Option<UpstreamOutcome> {
        self.if_still(self.absent_blobs.get(&(name.clone(), digest.clone()))?)
    }

    pub(crate) fn note_blob_absence(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        outcome: UpstreamOutcome,
        negative: Duration,
    ) {
        if let Some(absence) = self.absence_of(outcome, negative) {
            self.absent_blobs.insert((name.clone(), digest.clone()), absence);
        }
    }

    fn if_still(&self, (outcome, until): (UpstreamOutcome, Duration)) -> Option<UpstreamOutcome> {
        (self.clock.monotonic() < until).then_some(outcome)
    }

    /// An outcome that is remembered, and until when.
    fn absence_of(
        &self,
        outcome: UpstreamOutcome,
        negative: Duration,
    ) -> Option<(UpstreamOutcome, Duration)> {
        let is_absence =
            matches!(outcome, UpstreamOutcome::NotFound | UpstreamOutcome::RepositoryRefused);
        let is_kept = is_absence && !negative.is_zero();
        is_kept.then(|| (outcome, self.clock.monotonic() + negative))
    }

    /// Time since the registry last had a digest.
    pub(crate) fn checked(&self, name: &RepositoryName, digest: &Digest) -> Option<Duration> {
        let checked = self.checked.get(&(name.clone(), digest.clone()))?;
        Some(self.clock.monotonic().saturating_sub(checked))
    }

    pub(crate) fn note_checked(&self, name: &RepositoryName, digest: &Digest) {
        self.checked.insert((name.clone(), digest.clone()), self.clock.monotonic());
    }

    /// The size of a blob, by a manifest that was served.
    pub(crate) fn size(&self, name: &RepositoryName, digest: &Digest) -> Option<u64> {
        self.sizes.get(&(name.clone(), digest.clone()))
    }

    /// Takes the sizes from the descriptors of a manifest.
    pub(crate) fn note_sizes(&self, name: &RepositoryName, manifest: &[u8]) {
        if manifest.len() > PARSED_BYTES_MAX {
            return;
        }
        if let Ok(document) = serde_json::from_slice(manifest) {
            each_descriptor(&document, NESTING_MAX, &mut |digest, size| {
                self.sizes.insert((name.clone(), digest), size);
            });
        }
    }
}

fn each_descriptor(value: &Value, depth: usize, see: &mut impl FnMut(Digest, u64)) {
    let Some(depth) = depth.checked_sub(1) else { return };
    match value {
        Value::Object(fields) => {
            let digest = fields.get("digest").and_then(Value::as_str);
            let size = fields.get("size").and_then(Value::as_u64);
            if let (Some(digest), Some(size)) = (digest.and_then(|text| text.parse().ok()), size) {
                see(digest, size);
            }
            fields.values().for_each(|value| each_descriptor(value, depth, see));
        }
        Value::Array(items) => items.iter().for_each(|value| each_descriptor(value, depth, see)),
        _ => {}
    }
}
