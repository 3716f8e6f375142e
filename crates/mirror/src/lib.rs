//! Mirrors of other registries: a pull-through cache.
//!
//! [`Mirrors`] knows which local repositories are those of which registry, and [`MirrorRepository`] reads one:
//! from the store where it can, else from the mirrored registry, whose content it stores on the way. What
//! happens in which situation is one pure function, [`decide`].
//!
//! - `manifests.rs`: tags and manifests; `lists.rs`: referrers and lists of tags
//! - `blobs.rs`: blobs; `flight.rs`: one of them on its way into the store and to its readers, `reader.rs`: one
//!   of these readers, `own_stream.rs`: one that does without the others
//! - `eviction.rs`: what is not pulled any more
//! - `runs.rs`: what evictions and fetches did last
//! - `sync.rs`: what is fetched before a client asks; `version_range.rs`: of which versions
//! - `remembered.rs`, `shared.rs`: what is kept in memory, and concurrent requests for the same thing
//!
//! Rights are not checked here: callers say whether a client may have the mirrored registry asked.

#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

mod blobs;
mod decision;
mod error;
mod eviction;
mod flight;
mod lists;
mod manifests;
mod options;
mod own_stream;
mod reader;
mod remembered;
mod runs;
mod service;
mod shared;
mod sync;
mod version_range;

pub use blobs::{MirroredBlob, StreamedBlob};
pub use decision::{
    DecisionInput, LocalState, MirrorAction, OnGone, RequestedMethod, RequestedReference,
    UpstreamOutcome, decide, table,
};
pub use error::MirrorError;
pub use flight::TAIL_BYTES;
pub use lists::{MirroredReferrers, MirroredTags};
pub use manifests::MirroredManifest;
pub use options::{MirrorLimits, MirrorOptions};
pub use runs::LastRuns;
pub use service::{MirrorRepository, MirrorSetupError, MirrorStatus, Mirrors};
pub use sync::{
    InvalidSyncPlatform, InvalidSyncSelection, MirrorSchedule, SyncItem, SyncObserver, SyncOutcome,
    SyncPlatform, SyncReport, SyncRequest, SyncSelection,
};
pub use version_range::{InvalidVersionRange, VERSION_RANGE_CHARS_MAX, VersionRange};
