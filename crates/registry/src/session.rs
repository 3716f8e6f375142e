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
//! - Every change is a compare-and-swap on the version that was read, so two requests on one
//!   upload never both go on.
//! - `closed` is written *before* the bytes are made visible and linked, `cancelled` before any
//!   byte is removed. So the bytes of a `closed` session are never removed, and whoever finds it
//!   `closed` may finish the work.
//! - What a `closed` session names, others may have linked: only an upload without a session ever
//!   takes its bytes back.
//! - A `closed` session may write its link only within [`REPLAY_MAX`] of closing: later, a
//!   collector may have removed link and bytes since.

use std::time::Duration;

use jreg_oci::{Digest, HashState, RepositoryName};
use jreg_storage::{Key, Multipart};
use serde::{Deserialize, Serialize};

use crate::Result;
use crate::core::Core;
use crate::record::{JsonRecord, Location};

/// For how long after closing a session may still write its link (a client's retry of the
/// closing PUT).
pub(crate) const REPLAY_MAX: Duration = Duration::from_secs(3600);

/// The record at `uploads/<id>`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Session {
    pub(crate) repository: RepositoryName,
    #[serde(flatten)]
    pub(crate) state: State,
}

/// Where an upload stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum State {
    /// It takes bytes.
    Open(Open),
    /// Its digest was right; its blob is there or about to be.
    Closed(Closed),
    /// It was given up, and its bytes are gone or about to be.
    Cancelled(Leftover),
}

/// The bytes of an upload that was given up: what is to be removed, again if need be, until the
/// record goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Leftover {
    /// Parts that never became an object.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) multipart: Option<Multipart>,
    /// Objects that no link ever named.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) objects: Vec<Key>,
}

impl Leftover {
    /// The parts of `multipart`, which are removed by its name alone, and `objects`.
    pub(crate) fn new(multipart: Option<Multipart>, objects: Vec<Key>) -> Self {
        let multipart = multipart.map(|upload| Multipart { parts: Vec::new(), ..upload });
        Self { multipart, objects }
    }

    fn places(&self) -> Vec<Key> {
        let multipart = self.multipart.iter().map(|upload| upload.key.clone());
        multipart.chain(self.objects.iter().cloned()).collect()
    }

    /// Removes the bytes. Again is fine.
    pub(crate) async fn discard(&self, core: &Core) -> Result<()> {
        if let Some(upload) = &self.multipart {
            core.store.abort_multipart(upload).await?;
        }
        for key in &self.objects {
            core.store.delete(key, None).await?;
        }
        Ok(())
    }
}

impl Core {
    /// Removes what was stored and turned out not to be wanted. If this fails, it is left to the
    /// sweep: nobody has ever heard of it.
    pub(crate) async fn discard_loose(&self, loose: Option<Location>) {
        let objects = loose.into_iter().map(|loose| loose.key).collect();
        Leftover::new(None, objects).discard(self).await.ok();
    }
}

/// An upload that takes bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Open {
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
pub(crate) struct Closed {
    pub(crate) digest: Digest,
    /// Where the blob's bytes are, or will be once the parts are put together.
    #[serde(flatten)]
    pub(crate) location: Location,
    /// The parts that are to be put together at `location`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) multipart: Option<Multipart>,
    /// The upload's own bytes, if somebody else's at `location` were linked in their place.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) spare: Option<Leftover>,
}

impl Closed {
    /// An upload that was closed with its own bytes.
    pub(crate) fn new(digest: Digest, location: Location, multipart: Option<Multipart>) -> Self {
        Self { digest, location, multipart, spare: None }
    }
}

impl Session {
    /// Every place of bytes that it names.
    pub(crate) fn places(&self) -> Vec<Key> {
        match &self.state {
            State::Open(open) => open.clone().leftover().places(),
            State::Cancelled(leftover) => leftover.places(),
            State::Closed(closed) => {
                let mut places = vec![closed.location.key.clone()];
                places.extend(closed.multipart.iter().map(|upload| upload.key.clone()));
                places.extend(closed.spare.iter().flat_map(Leftover::places));
                places
            }
        }
    }

    /// Whether the upload was finished with this digest.
    pub(crate) fn is_closed_with(&self, digest: &Digest) -> bool {
        matches!(&self.state, State::Closed(closed) if closed.digest == *digest)
    }
}

impl JsonRecord for Session {
    const VERSION: Option<(&'static str, u32)> = Some(("session", 1));
}

impl Open {
    /// What it leaves behind if it is given up.
    pub(crate) fn leftover(self) -> Leftover {
        let objects = self.tail.into_iter().map(|tail| tail.key).collect();
        Leftover::new(self.multipart, objects)
    }

    /// Whether what is stored can be closed with such a digest as it is: no bytes must still
    /// become a part, and they were hashed that way.
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
    use crate::record::Stored;

    #[test]
    fn sessions_come_back_as_they_were() {
        let key: Key = "blobs/_/AA/01".parse().expect("a key");
        let parts = vec![Part { offset: 0, size_bytes: 5, etag: "e".to_owned() }];
        let multipart =
            Multipart { key: key.clone(), id: "m".to_owned(), writer: 2, part_bytes: 16, parts };
        let digest = Digest::of(Algorithm::Sha256, b"hello");
        let mut hasher = Hasher::new(Algorithm::Sha512);
        hasher.update(b"hello w");
        let location = Location { key, size_bytes: 2 };
        let open = Open {
            claim: 2,
            part_bytes: 5,
            offset: 7,
            hash: hasher.state(),
            multipart: Some(multipart.clone()),
            tail: Some(location.clone()),
        };
        let spare = Some(open.clone().leftover());
        let closed = Closed { spare, ..Closed::new(digest, location, Some(multipart)) };
        let cancelled = State::Cancelled(open.clone().leftover());
        for state in [State::Open(open), State::Closed(closed), cancelled] {
            let repository = "team/app".parse().expect("a name");
            let session = Session { repository, state };
            assert_eq!(Session::decode(&session.encode()), Ok(session));
        }
    }
}
