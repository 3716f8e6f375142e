//! What can go wrong in the registry, in the registry's words: one variant for each thing that a
//! caller would do differently. No HTTP here.

use std::fmt;

use jreg_lifecycle::{ImmutableRefusal, QuotaUsage};
use jreg_oci::{Digest, InvalidManifest, MediaType, Reference, RepositoryName, Tag};

use crate::UploadId;

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why an operation did not happen.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The repository does not have this blob.
    #[error("blob {digest} is not in repository {name}")]
    BlobUnknown {
        /// The repository of the request.
        name: RepositoryName,
        digest: Digest,
    },
    /// The repository has no such tag or manifest.
    #[error("manifest {reference} is not in repository {name}")]
    ManifestUnknown {
        /// The repository of the request.
        name: RepositoryName,
        reference: Reference,
    },
    /// No manifest was ever pushed to this repository.
    #[error("repository {name} is not known")]
    NameUnknown { name: RepositoryName },
    /// The upload was never begun here, is cancelled, finished or too old.
    #[error("upload {id} is not known: it was cancelled, has expired, or belongs elsewhere")]
    UploadUnknown { id: UploadId },
    /// A chunk does not start where the upload stands. The upload lives on.
    #[error("chunk starts at byte {start}, the upload continues at byte {offset}")]
    ChunkOutOfOrder {
        /// Where the chunk says that it starts.
        start: u64,
        /// How many bytes the upload has: where the next chunk must start.
        offset: u64,
    },
    /// A newer request took the upload over while this one was sending. The upload lives on.
    #[error("another request has taken over the upload, which continues at byte {offset}")]
    UploadSuperseded {
        /// How many bytes the upload had when it was last read.
        offset: u64,
    },
    /// The bytes do not match the digest. They were deleted.
    #[error("the content has digest {actual}, not {expected}")]
    DigestMismatch {
        /// What the client declared.
        expected: Digest,
        /// The digest or size of the bytes.
        actual: Digest,
    },
    /// The body is shorter or longer than was announced.
    #[error("{actual} bytes received, {expected} announced")]
    SizeMismatch {
        /// What Content-Length or Content-Range said.
        expected: u64,
        /// What came.
        actual: u64,
    },
    /// The upload exceeds the store's maximum object size.
    #[error("the upload exceeds {max_bytes} bytes, the most that one blob may have here")]
    BlobTooLarge { max_bytes: u64 },
    /// The manifest's bytes are not those of the digest in the request.
    #[error("the manifest has digest {actual}, not {expected}")]
    ManifestDigestMismatch {
        /// What the client declared.
        expected: Digest,
        /// The digest or size of the bytes.
        actual: Digest,
    },
    /// The manifest cannot be understood.
    #[error(transparent)]
    ManifestInvalid(#[from] InvalidManifest),
    /// The manifest has a media type that the operator does not allow.
    #[error("a manifest may not have the media type {media_type}, but {allowed}")]
    MediaTypeNotAllowed {
        media_type: MediaType,
        /// The limit.
        allowed: String,
    },
    /// The manifest exists with another media type, which it keeps until it is deleted.
    #[error(
        "manifest {digest} is stored as {stored}, which must be its Content-Type; to change it, \
         delete the manifest first"
    )]
    ManifestTypeConflict {
        digest: Digest,
        /// Its media type.
        stored: MediaType,
    },
    /// The manifest is larger than the limit.
    #[error("the manifest has more than {max_bytes} bytes")]
    ManifestTooLarge { max_bytes: u64 },
    /// The manifest references blobs or manifests that this repository does not have.
    #[error("the manifest refers to content that is not in repository {name}: {}", list(.missing))]
    ReferencesUnknown {
        name: RepositoryName,
        /// The missing references, in the manifest's order.
        missing: Vec<Digest>,
    },
    /// `If-Match` or `If-None-Match` failed; the tag or manifest was not changed. If the tag moved
    /// during the push, the manifest may have been stored without it.
    #[error("precondition failed: {reference} is at {}", current.as_ref().map_or("nothing".to_owned(), ToString::to_string))]
    PreconditionFailed {
        /// The tag or digest that the condition is about.
        reference: Reference,
        /// The current digest.
        current: Option<Digest>,
    },
    /// The same, for a client that may not know what is there.
    #[error("precondition failed: {reference} is not as the request expects")]
    ConditionFailed { reference: Reference },
    /// A tag that the requester may not remove points to the manifest, which stays.
    #[error("tag {tag} of repository {name} points to the manifest and may not be removed")]
    TagProtected { name: RepositoryName, tag: Tag },
    /// A tag that cannot be read may point to the manifest, which stays.
    #[error(
        "tag {tag} of repository {name} is damaged and may point to the manifest; delete the tag or \
         push it again first"
    )]
    TagDamaged { name: RepositoryName, tag: Tag },
    /// The rules file forbids it.
    #[error(transparent)]
    Immutable(#[from] Box<ImmutableRefusal>),
    /// A quota has no room.
    #[error("{0}")]
    Quota(Box<QuotaUsage>),
    /// Whether an immutable tag needs the manifest cannot be found out in a bounded time.
    #[error(
        "repository {name} has more than {tags_max} tags, or more than {records_max} \
         immutable tags and manifests below them: delete by tag; garbage collection removes the rest"
    )]
    ProtectionUnknown {
        name: RepositoryName,
        /// How many tags are listed.
        tags_max: usize,
        /// How many tags and manifests are read.
        records_max: usize,
    },
    /// A purge would break what is in use.
    #[error(
        "manifest {digest} of repository {name} is in use: {obstacle}; with force it is purged nevertheless"
    )]
    PurgeRefused { name: RepositoryName, digest: Digest, obstacle: Box<PurgeObstacle> },
    /// Too many others changed the same thing at the same time, or as many uploads as are
    /// allowed run already. It may be done in part; trying again helps.
    #[error("too busy: {what}; try again")]
    Busy {
        /// The exhausted resource.
        what: &'static str,
    },
    /// Something that this operation relied on went away while it ran. Trying again helps.
    #[error("{what} changed during the request; try again")]
    Interrupted {
        /// What went away.
        what: &'static str,
    },
    /// The client's body broke off. What had come of a chunk that was appended is
    /// kept for the upload to continue.
    #[error(transparent)]
    Body(#[from] BodyError),
    #[error(transparent)]
    Store(#[from] jreg_storage::Error),
    /// An object of the store is corrupt.
    #[error("store object {key} is damaged: {reason}")]
    Damaged {
        key: String,
        /// Description of the damage.
        reason: String,
    },
    /// Another version of this program has added records that this one does not know: it deletes and
    /// repairs nothing.
    #[error(
        "the storage has records of a kind that this version of jreg does not know ({}): nothing is \
         deleted or repaired; use a version that knows them", names.join(", ")
    )]
    FeaturesUnknown {
        /// The unknown names in `requires` of `jreg.json`.
        names: Vec<String>,
    },
    /// A record of a read-only store names what is not there: replication may be late.
    #[error(
        "{what} has not arrived yet: the storage is read-only, and others may fill it; try again"
    )]
    NotArrived { what: String },
    /// The page of a history cannot begin there.
    #[error("the cursor in \"last\" is invalid: restart the listing without it")]
    InvalidCursor,
    /// The task that did the work was stopped before it finished.
    #[error("the operation was stopped before it finished")]
    Stopped,
}

impl Error {
    /// The same without what tags point to: for clients that may change a repository and not read it.
    #[must_use]
    pub fn without_targets(self) -> Self {
        match self {
            Self::PreconditionFailed { reference, .. } => Self::ConditionFailed { reference },
            Self::Immutable(refusal) => Self::Immutable(Box::new(refusal.without_targets())),
            error => error,
        }
    }

    /// Whether clients would disagree on what a manifest is, or its media type is not allowed: it must not be
    /// served either.
    pub fn is_unsafe_manifest(&self) -> bool {
        match self {
            Self::MediaTypeNotAllowed { .. } => true,
            Self::ManifestInvalid(invalid) => matches!(
                invalid,
                InvalidManifest::MediaTypeMismatch { .. }
                    | InvalidManifest::MediaType(_)
                    | InvalidManifest::AmbiguousField { .. }
                    | InvalidManifest::Ambiguous { .. }
            ),
            _ => false,
        }
    }
}

/// Why a client's body ended early: the client's doing or the network's, never ours.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// The connection broke, or the encoding of the body was wrong.
    #[error("the client's body broke off")]
    Broken,
    /// No bytes arrived for longer than the idle limit.
    #[error("the client sent nothing for {limit_s} seconds")]
    Idle { limit_s: u64 },
    /// It came more slowly than is allowed.
    #[error("the client sent less than {rate_min} bytes a second")]
    Slow {
        /// The fewest bytes a second that are allowed.
        rate_min: u64,
    },
    /// The body outgrew a limit.
    #[error("the body has more than {max_bytes} bytes")]
    TooLarge { max_bytes: u64 },
}

fn list(digests: &[Digest]) -> String {
    digests.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Why a purge is refused without force.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PurgeObstacle {
    /// Tags point to the manifest.
    Tagged(Vec<Tag>),
    /// An index references it.
    Referenced(Digest),
}

impl fmt::Display for PurgeObstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tagged(tags) => {
                let tags: Vec<_> = tags.iter().take(10).map(Tag::as_str).collect();
                write!(f, "it is tagged {}", tags.join(", "))
            }
            Self::Referenced(by) => write!(f, "manifest {by} references it"),
        }
    }
}
