//! The registry's domain over any store: what a push, a pull and a delete are, without HTTP.
//!
//! A caller opens a [`Registry`] over a [`Store`](jreg_storage::Store) and works with its
//! [`Repository`] values. No state is kept that the store does not have, except caches and limits,
//! so any number of registries may share one store.
//!
//! - `keys.rs`, `record.rs`: where everything lies in the store, and in which form
//! - `core.rs`: the rules by which records are written so that a collector never takes what
//!   somebody was just promised
//! - `blob.rs`, `upload.rs`, `manifest.rs`, `tag.rs`, `referrer.rs`: the operations, by noun
//! - `commit.rs`: from the last bytes of an upload to a blob
//! - `session.rs`, `writer.rs`, `upload_id.rs`: an upload's states, and its bytes on their way
//! - `budget.rs`, `part_buffer.rs`: the memory that uploads may take, and what they collect in it
//! - `reaper.rs`: removes what uploads leave behind
//! - `collect.rs`, `collect/`: removes what nothing keeps
//! - `pace.rs`: how fast background work reads bytes
//! - `check.rs`, `check/`: finds what is not as it should be, and mends it
//! - `explain.rs`: what keeps some content, or when it will go
//! - `protect.rs`: what tags protect from a delete by digest
//! - `manifest_locks.rs`: how pushes and deletes of one manifest take turns
//! - `compute.rs`: hashing and parsing beside the runtime's threads
//! - `link.rs`: which repository holds which blob
//! - `rules.rs`: the safety rules by name, for tests that break one
//! - `cache.rs`, `referrer_cache.rs`: what is kept in memory for serving
//! - `suspects.rs`: locations whose bytes were seen to be missing or wrong

mod blob;
mod body;
mod budget;
mod cache;
mod check;
mod collect;
mod commit;
mod compute;
mod core;
mod error;
mod explain;
mod fingerprint;
mod keys;
mod link;
mod manifest;
mod manifest_locks;
mod options;
mod pace;
mod page;
mod pages;
mod part_buffer;
mod protect;
mod reaper;
mod record;
mod referrer;
mod referrer_cache;
mod registry;
mod rules;
mod session;
mod session_cache;
mod suspects;
mod tag;
mod upload;
mod upload_id;
mod writer;

pub use crate::core::MANIFEST_READS_MAX;
pub use blob::{Blob, BlobReader, Touch};
pub use body::{BodyError, BodyStream, Chunk};
pub use budget::{Budget, BudgetUsage, HeldRoom, Reserved};
pub use check::{
    CheckOptions, CheckPhase, CheckWatch, Checked, Finding, FindingKind, Repair, Severity,
};
pub use collect::{
    Action, ActionKind, BYTES_WAIT_MIN, CollectError, CollectOptions, Collected, GRACE_MIN, Held,
    Lease, Outcome, Phase, REMOVALS_FREE, Tally, Unwatched, Watch,
};
pub use error::{Error, Result};
pub use explain::{ContentKind, ExplainRequest, Explanation, Holding, Reason};
pub use keys::FREES_SPACE;
pub use keys::{
    ACCESS_TOKENS, SECRET_FOLDERS, access_token, acme_account, acme_certificate, acme_order,
    may_come_back, signing_keys,
};
pub use manifest::{Condition, ManifestPush, PushedManifest, StoredManifest};
pub use options::{Limits, Options, ReferencePolicy};
pub use page::{EXTRA_LIST_REQUESTS_MAX, LIST_KEYS_MAX, Page, PageRequest, list_requests_max};
pub use protect::{MayRemove, PROTECTING_RECORDS_MAX, PROTECTING_TAGS_MAX, Protection};
pub use reaper::Reaped;
pub use referrer::{REFERRERS_EXAMINED_MAX, REFERRERS_PAGE_BYTES_MAX, Referrer};
pub use registry::{FORMAT_VERSION, OpenError, Registry, Repository, Usage};
pub use rules::Rule;
pub use upload::UploadProgress;
pub use upload_id::{InvalidUploadId, UploadId};
