//! An upload's session: its state in the store and the only ways it changes.
//!
//! ```text
//!            first bytes              closing PUT, digest right
//!  (nothing) ────────────► open ─────────────────────────────► closed
//!      │                   │  ▲ PATCH: claim + 1, then offset      │ its parts are spoiled
//!      │ DELETE            │  └─────────                           ▼
//!      └───────────────────┴───────────────────────────────► cancelled
//!                            DELETE, expiry, digest wrong
//! ```
//!
//! - Every change is a compare-and-swap on the version that was read, so two requests on one upload
//!   never both continue.
//! - `closed` is written *before* the bytes are made visible and linked, `cancelled` before any
//!   byte is removed. So the bytes of a `closed` session are never removed, and a request that
//!   finds it `closed` may finish the work.
//! - What a `closed` session references, others may have linked: only an upload without a session
//!   ever takes its bytes back.
//! - A `closed` session may write its link only within [`REPLAY_MAX`] of closing: later, a GC run
//!   may have removed link and bytes since.

use std::time::Duration;

use jreg_oci::{Digest, HashState, RepositoryName};
use jreg_storage::{Key, Multipart};
use serde::{Deserialize, Serialize};

use crate::record::{JsonRecord, Location};

/// For how long after closing a session may still write its link (a client's retry of the
/// closing PUT).
pub(crate) const REPLAY_MAX: Duration = Duration::from_secs(3600);

/// The record at `uploads/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct UploadSession {
    pub(crate) repository: RepositoryName,
    #[serde(flatten)]
    pub(crate) state: SessionState,
}

/// Where an upload stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum SessionState {
    /// It takes bytes.
    Open(OpenUpload),
    /// Its digest was right; its blob is there or about to be.
    Closed(ClosedUpload),
    /// It was cancelled, and its bytes are being deleted.
    Cancelled(AbandonedBytes),
}

/// The bytes of an upload that was abandoned: to be deleted, with retries, until the record is
/// deleted.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct AbandonedBytes {
    /// Parts that never became an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) multipart: Option<Multipart>,
    /// Objects that no link ever referenced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) objects: Vec<Key>,
}

impl AbandonedBytes {
    /// The parts of `multipart`, which are removed by its name alone, and `objects`.
    pub(crate) fn new(multipart: Option<Multipart>, objects: Vec<Key>) -> Self {
        let multipart = multipart.map(|upload| Multipart { parts: Vec::new(), ..upload });
        Self { multipart, objects }
    }

    fn object_keys(&self) -> Vec<Key> {
        let multipart = self.multipart.iter().map(|upload| upload.key.clone());
        multipart.chain(self.objects.iter().cloned()).collect()
    }
}

/// An upload that takes bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OpenUpload {
    /// Counts the requests that took the upload over; the newest is the one that may write.
    pub(crate) claim: u64,
    /// The size of its parts, fixed when its first part is stored.
    pub(crate) part_bytes: u64,
    /// How many bytes are stored, in parts and tail.
    pub(crate) offset: u64,
    /// The hash of these bytes.
    pub(crate) hash: HashState,
    /// The parts, once there is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) multipart: Option<Multipart>,
    /// The bytes after the parts that are short of a part: an object of their own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) tail: Option<Location>,
}

/// An upload whose digest was right.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClosedUpload {
    pub(crate) digest: Digest,
    /// Where the blob's bytes are, or will be once the parts are completed.
    #[serde(flatten)]
    pub(crate) location: Location,
    /// The parts that are to be completed at `location`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) multipart: Option<Multipart>,
    /// The upload's own bytes, if a copy of them at `location` was linked instead.
    #[serde(default, rename = "spare", skip_serializing_if = "Option::is_none")]
    pub(crate) replaced: Option<AbandonedBytes>,
}

impl ClosedUpload {
    /// An upload that was closed with its own bytes.
    pub(crate) fn new(digest: Digest, location: Location, multipart: Option<Multipart>) -> Self {
        Self { digest, location, multipart, replaced: None }
    }
}

impl UploadSession {
    /// The key of every object that it references.
    pub(crate) fn object_keys(&self) -> Vec<Key> {
        match &self.state {
            SessionState::Open(open) => open.clone().into_abandoned().object_keys(),
            SessionState::Cancelled(bytes) => bytes.object_keys(),
            SessionState::Closed(closed) => {
                let mut keys = vec![closed.location.key.clone()];
                keys.extend(closed.multipart.iter().map(|upload| upload.key.clone()));
                keys.extend(closed.replaced.iter().flat_map(AbandonedBytes::object_keys));
                keys
            }
        }
    }

    /// Whether the upload was finished with this digest.
    pub(crate) fn is_closed_with(&self, digest: &Digest) -> bool {
        matches!(&self.state, SessionState::Closed(closed) if closed.digest == *digest)
    }
}

impl JsonRecord for UploadSession {
    const VERSION: Option<(&'static str, u32)> = Some(("session", 1));
}

impl OpenUpload {
    /// Its bytes, if it is abandoned.
    pub(crate) fn into_abandoned(self) -> AbandonedBytes {
        let objects = self.tail.into_iter().map(|tail| tail.key).collect();
        AbandonedBytes::new(self.multipart, objects)
    }

    /// Whether the stored bytes can be closed with such a digest without reading them: none must
    /// still become a part, and they were hashed with that algorithm.
    pub(crate) fn is_whole_for(&self, digest: &Digest) -> bool {
        let has_loose_tail = self.multipart.is_some() && self.tail.is_some();
        !has_loose_tail && self.hash.algorithm == digest.algorithm()
    }
}

#[cfg(test)]
mod tests {
    use jreg_oci::{Algorithm, Hasher};
    use jreg_storage::Part;

    use super::*;
    use crate::record::StoredRecord;

    #[test]
    fn sessions_come_back_as_they_were() {
        let key: Key = "blobs/_/AA/01".parse().expect("a key");
        let parts = vec![Part { offset: 0, size_bytes: 5, etag: "e".to_owned() }];
        let multipart =
            Multipart { key: key.clone(), id: "m".to_owned(), writer: 2, part_bytes: 16, parts };
        let digest = Digest::of(Algorithm::Sha256, b"hello");
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"hello w");
        let location = Location::new(key, 2);
        let open = OpenUpload {
            claim: 2,
            part_bytes: 5,
            offset: 7,
            hash: hasher.state(),
            multipart: Some(multipart.clone()),
            tail: Some(location.clone()),
        };
        let replaced = Some(open.clone().into_abandoned());
        let closed =
            ClosedUpload { replaced, ..ClosedUpload::new(digest, location, Some(multipart)) };
        let cancelled = SessionState::Cancelled(open.clone().into_abandoned());
        for state in [SessionState::Open(open), SessionState::Closed(closed), cancelled] {
            let repository = "team/app".parse().expect("a name");
            let session = UploadSession { repository, state };
            assert_eq!(UploadSession::decode(&session.encode()), Ok(session));
        }
    }
}
