//! Fingerprints: what a GC run or fsck records of each object, in 8 or 16 bytes.
//!
//! They are the beginnings of SHA-256 hashes, so that they mean the same in every run and every
//! build. Where two that collide would only keep something that could go, 8 bytes do; where they
//! would take one version of a record for another, it is 16.

use std::time::{Duration, SystemTime};

use jreg_oci::{Digest, RepositoryName};
use jreg_storage::{Key, Listed};
use sha2::{Digest as _, Sha256};

/// How old a record must be for its time to tell its version: two writes within the resolution of a
/// file system's clock look alike.
const RACY: Duration = Duration::from_secs(10);

/// The fingerprint of some content in a repository, of a tag or of a location.
pub(crate) type Fingerprint = u64;

/// The fingerprint of one version of a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct ListedVersion(pub(crate) [u8; 16]);

fn hash(parts: &[&str]) -> [u8; 32] {
    let mut hasher = Sha256::new();
    for part in parts {
        hasher.update(part.as_bytes());
        // In no name, digest or key.
        hasher.update([0]);
    }
    hasher.finalize().into()
}

fn short(hash: [u8; 32]) -> Fingerprint {
    let mut bytes = [0; 8];
    bytes.copy_from_slice(hash.get(..8).unwrap_or_default());
    // Zero means absent.
    Fingerprint::from_be_bytes(bytes).max(1)
}

/// Of a manifest or a blob in a repository.
pub(crate) fn content(name: &RepositoryName, digest: &Digest) -> Fingerprint {
    short(hash(&["content", name.as_str(), &digest.to_string()]))
}

/// Of any text.
pub(crate) fn text(text: &str) -> Fingerprint {
    short(hash(&["text", text]))
}

/// Of a manifest or a blob in any repository.
pub(crate) fn digest(digest: &Digest) -> Fingerprint {
    short(hash(&["digest", &digest.to_string()]))
}

pub(crate) fn repository(name: &RepositoryName) -> Fingerprint {
    short(hash(&["repository", name.as_str()]))
}

/// Of whatever lies at a key.
pub(crate) fn key(key: &Key) -> Fingerprint {
    short(hash(&["key", key.as_str()]))
}

/// Of whatever lies at a key, with its size.
pub(crate) fn sized(key: &Key, size_bytes: u64) -> Fingerprint {
    short(hash(&["sized", key.as_str(), &size_bytes.to_string()]))
}

impl ListedVersion {
    /// Of a record as a listing of `date` shows it; `None` if it cannot be told
    /// from one that is written a moment later.
    pub(crate) fn of(listed: &Listed, date: SystemTime) -> Option<Self> {
        let version = match &listed.etag {
            Some(etag) => etag.as_str().to_owned(),
            None => {
                let is_settled =
                    date.duration_since(listed.last_modified).is_ok_and(|age| age >= RACY);
                let since = listed.last_modified.duration_since(SystemTime::UNIX_EPOCH).ok()?;
                is_settled.then(|| format!("{} {}", since.as_nanos(), listed.size_bytes))?
            }
        };
        Some(Self::named(&listed.key, &version))
    }

    /// Of a key alone, for an object that is written once.
    pub(crate) fn of_key(key: &Key) -> Self {
        Self::named(key, "")
    }

    fn named(key: &Key, version: &str) -> Self {
        let hash = hash(&["version", key.as_str(), version]);
        let mut bytes = [0; 16];
        bytes.copy_from_slice(hash.get(..16).unwrap_or_default());
        Self(bytes)
    }
}

/// A set of fingerprints: 8 bytes for each, and as much again while it grows.
#[derive(Debug, Default)]
pub(crate) struct FingerprintSet {
    sorted: Vec<Fingerprint>,
    /// What came since the last time that they were sorted.
    fresh: Vec<Fingerprint>,
}

/// Fingerprints that are added before the set is sorted again, at least.
const FRESH_MIN: usize = 1 << 14;

impl FingerprintSet {
    pub(crate) fn insert(&mut self, fingerprint: Fingerprint) {
        self.fresh.push(fingerprint);
        if self.fresh.len() >= FRESH_MIN.max(self.sorted.len() / 4) {
            self.seal();
        }
    }

    /// Call it after the last insertion, before the first look-up.
    pub(crate) fn seal(&mut self) {
        self.sorted.append(&mut self.fresh);
        self.sorted.sort_unstable();
        self.sorted.dedup();
        self.fresh.shrink_to(FRESH_MIN);
    }

    pub(crate) fn contains(&self, fingerprint: Fingerprint) -> bool {
        debug_assert!(self.fresh.is_empty(), "sealed before it is asked");
        self.index(fingerprint).is_some()
    }

    /// The index of one among all.
    pub(crate) fn index(&self, fingerprint: Fingerprint) -> Option<usize> {
        self.sorted.binary_search(&fingerprint).ok()
    }

    pub(crate) fn len(&self) -> usize {
        self.sorted.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_set_holds_what_was_put_in_however_it_grew() {
        let mut set = FingerprintSet::default();
        let odd = |n: u64| n * 2 + 1;
        for n in (0..100_000).rev().chain(0..100_000) {
            set.insert(odd(n));
        }
        set.seal();
        assert_eq!(set.len(), 100_000);
        assert!((0..100_000).all(|n| set.contains(odd(n)) && !set.contains(2 * n)));
    }

    #[test]
    fn a_time_tells_a_version_only_once_it_is_past() {
        let key: Key = "links/x".parse().expect("a key");
        let written = SystemTime::UNIX_EPOCH + Duration::from_secs(1000);
        let listed = Listed { key, size_bytes: 3, last_modified: written, etag: None };
        assert_eq!(ListedVersion::of(&listed, written + RACY / 2), None);
        let version = ListedVersion::of(&listed, written + RACY);
        assert!(version.is_some());
        let larger = Listed { size_bytes: 4, ..listed.clone() };
        assert_ne!(ListedVersion::of(&larger, written + RACY), version);
        let etag = Some(jreg_storage::ETag::new("e"));
        let known = Listed { etag, ..listed };
        assert!(ListedVersion::of(&known, written).is_some());
    }
}
