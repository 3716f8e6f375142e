//! The registry's domain over any store: what a push, a pull and a delete are, without HTTP.
//!
//! A caller opens a [`Registry`] over a [`Store`](jreg_storage::Store) and works with its
//! [`Repository`] values. No state is kept that the store does not have, except caches and limits,
//! so any number of registries may share one store.
//!
//! - `keys.rs`, `record.rs`: where everything lies in the store, and in which form
//! - `core.rs`: the rules by which records are written so that GC never removes what a client was
//!   just promised
//! - `window.rs`: in which time a write must be sent that relies on what was read
//! - `attempts.rs`: how a lost compare-and-swap is retried
//! - `blob.rs`, `upload.rs`, `manifest.rs`, `tag.rs`, `referrer.rs`: the operations, by noun
//! - `commit.rs`: from the last bytes of an upload to a blob
//! - `session.rs`, `upload_id.rs`: an upload's states, and its id
//! - `writer.rs`, `writer/`: an upload's bytes on their way into the store: the part in memory, the
//!   parts in flight, the session record, how it ends
//! - `upload_body.rs`: a request's body, which may be stored before its session is looked up
//! - `budget.rs`, `part_buffer.rs`: the memory that uploads may take, and what they collect in it
//! - `upload_list.rs`: the uploads of all repositories, what they hold, and how an operator cancels them
//! - `storage_usage.rs`, `content_sizes.rs`, `size_cache.rs`: how many bytes the manifests of a repository hold
//! - `quota.rs`, `quota_ledger.rs`, `quota_warning.rs`: how much the repositories of a pool may hold together
//! - `reaper.rs`: removes what uploads leave behind
//! - `gc.rs`, `gc/`: garbage collection: removes unreferenced content
//! - `pace.rs`: how fast background work reads bytes
//! - `fsck.rs`, `fsck/`: verifies the store, and repairs it
//! - `deleted_tags.rs`: tags that were deleted and have a history
//! - `sharing.rs`: which content other manifests and other repositories need
//! - `explain.rs`: what keeps some content, or when it will go
//! - `change.rs`, `tag_record.rs`, `history.rs`: changes of tags, by whom, and what they replaced
//! - `format.rs`: the mark of a store, and what a program must know to collect in it
//! - `delete.rs`: deletes of tags and manifests; `protect.rs`: what tags protect from a delete by digest
//! - `manifest_copy.rs`: copies of deleted manifests, and how they are restored; `purge.rs`: removal for good
//! - `manifest_list.rs`: every manifest of a repository, for commands
//! - `manifest_locks.rs`: how pushes and deletes of one manifest take turns
//! - `mirror.rs`, `fill_progress.rs`: mirrors of other registries: their tags, and blobs on their way into the store
//! - `eviction.rs`: what of a mirror is not pulled any more
//! - `compute.rs`: hashing and parsing beside the runtime's threads
//! - `browse.rs`, `browse/`, `name_lists.rs`: what pages of people show, and in which names they search
//! - `retention.rs`, `retention/`: removal of the tags that the rules file does not keep
//! - `backup.rs`, `backup/`: copies of what tags lead to in another store, and restoring them
//! - `pull_collector.rs`, `pulls.rs`, `pulls/`: when tags were pulled last
//! - `immutable.rs`: changes that the rules file forbids
//! - `link.rs`: which repository links which blob
//! - `event.rs`, `change_events.rs`, `events.rs`, `events/`, `evidence.rs`: what changed, for sinks that want
//!   to know
//! - `lease.rs`: which instance usually does some work
//! - `rules.rs`: the safety rules by name, for tests that break one
//! - `cache.rs`, `referrer_cache.rs`: what is kept in memory for serving
//! - `damaged.rs`: records that cannot be decoded, as writes find them
//! - `suspects.rs`: locations whose bytes were seen to be missing or wrong; `location_check.rs`: checks
//!   before a request relies on a location

#![allow(missing_docs, reason = "a comment that repeats a field's name is noise")]

mod attempts;
mod backup;
mod blob;
mod body;
mod browse;
mod budget;
mod cache;
mod change;
mod change_events;
mod commit;
mod compute;
mod content;
mod content_sizes;
mod copied_blob;
mod core;
mod damaged;
mod delete;
mod deleted_tags;
mod error;
mod event;
mod events;
mod eviction;
mod evidence;
mod explain;
mod fill_progress;
mod fingerprint;
mod format;
mod fsck;
mod gc;
mod history;
mod immutable;
mod immutable_push;
mod keys;
mod lease;
mod link;
mod listing;
mod location_check;
mod manifest;
mod manifest_copy;
mod manifest_header;
mod manifest_list;
mod manifest_locks;
mod manifest_read;
mod mirror;
mod name_lists;
mod observer;
mod options;
mod pace;
mod page;
mod part_buffer;
mod protect;
mod pull_collector;
mod pulls;
mod purge;
mod quota;
mod quota_ledger;
mod quota_warning;
mod reaper;
mod record;
mod referrer;
mod referrer_cache;
mod registry;
mod retention;
mod rules;
mod session;
mod session_cache;
mod sharing;
mod size_cache;
mod storage_usage;
mod suspects;
mod tag;
mod tag_record;
mod unrecorded;
mod upload;
mod upload_body;
mod upload_bytes;
mod upload_id;
mod upload_list;
mod window;
mod writer;

pub use crate::core::MANIFEST_READS_MAX;
pub use backup::{
    BackupError, BackupInfo, BackupObserver, BackupOptions, BackupReport, MissingContent,
    PruneReport, PurgedBackup, RestoreReport, back_up, finish_restore, list_backups, prune_backups,
    purge_from_backups, restore_backup,
};
pub use blob::BlobReader;
pub use body::{BodyStream, UploadChunk};
pub use browse::{
    CatalogMatches, EXPLAINED_MANIFESTS_MAX, ManifestDetails, NameMatch, PREVIEWED_TAGS_MAX,
    RetentionPreview, SUMMARY_TAGS_MAX, TagDetails, TagSummary, search_names,
};
pub use budget::{BudgetReservation, BudgetUsage, MemoryBudget, ReservationGauge};
pub use change::{ACTOR_BYTES_MAX, ChangeId, ChangeOrigin};
pub use content::{Blob, ReferencePrecondition, Referrer, StoredManifest, TouchPolicy};
pub use copied_blob::SourceTrust;
pub use delete::MayRemoveTag;
pub use error::{BodyError, Error, PurgeObstacle, Result};
pub use event::{Event, EventAction, EventDetail, EventInterest};
pub use events::{
    ChangeEvidence, ChangeState, DeadLetter, EVENTS_PER_SEGMENT_MAX, LogPosition, LogSegment,
    SequencedEvent, Sequencer, SequencerReport, SinkCursor, SinkName, StoredCursor,
};
pub use eviction::{EvictionOptions, EvictionReport};
pub use explain::{ContentKind, ExplainReport, ExplainRequest, ExplainedContent, RetentionReason};
pub use fill_progress::{FillProgress, StoredFill};
pub use format::FORMAT_VERSION;
pub use fsck::{
    FindingKind, FsckFinding, FsckObserver, FsckOptions, FsckPhase, FsckReport, RepairStatus,
    Severity,
};
pub use gc::{
    BYTES_WAIT_MIN, CompletedGcRun, FailedGcRun, GRACE_MIN, GcAction, GcActionKind, GcError,
    GcObserver, GcOptions, GcOutcome, GcPhase, GcReport, GcSummary, GcTally, HISTORY_ENTRIES_MAX,
    REMOVALS_FREE, StoredBlobs,
};
pub use history::TagHistoryEntry;
pub use keys::FREES_SPACE;
pub use keys::{
    ACCESS_TOKENS, LEGACY_ACCESS_TOKENS, SECRET_FOLDERS, access_token_key, acme_account,
    acme_certificate, acme_order, legacy_access_token_key, may_come_back, session_key,
    signing_keys,
};
pub use lease::{Lease, LeaseHeld, LeaseKind};
pub use manifest::{ManifestPush, PushedManifest};
pub use manifest_copy::{COPIED_TAGS_MAX, DeletedManifest, MaySetTag, RestoredManifest};
pub use mirror::{FillClaim, MirrorRoom, MirrorTag, MirrorTagVersion};
pub use name_lists::{
    CATALOG_LIST_MAX, CatalogList, LIST_AGE_MAX, ListedTag, TAG_LIST_MAX, TagList,
};
pub use observer::NoObserver;
pub use options::{PartFuture, PartTask, ReferencePolicy, RegistryLimits, RegistryOptions};
pub use page::{
    EXTRA_LIST_REQUESTS_MAX, LIST_KEYS_MAX, PageRequest, ResultPage, list_requests_max,
};
pub use protect::{DeleteProtection, PROTECTING_RECORDS_MAX, PROTECTING_TAGS_MAX};
pub use pulls::{FlushedPulls, MergedPulls, PULLS_FLUSH_INTERVAL, PULLS_MERGE_INTERVAL};
pub use purge::PurgeReport;
pub use quota_warning::PoolUsage;
pub use reaper::ReaperReport;
pub use record::{add_record_checksum, verify_record_checksum};
pub use referrer::{REFERRERS_EXAMINED_MAX, REFERRERS_PAGE_BYTES_MAX};
pub use registry::{OpenError, Registry, RegistryUsage, Repository};
pub use retention::{
    LeftRepository, PLAN_REMOVALS_MAX, PlannedRemoval, RemovalOutcome, RetentionError,
    RetentionObserver, RetentionOptions, RetentionPlan, RetentionReport, RetentionVerdict,
    VerdictStatus,
};
pub use rules::Rule;
pub use sharing::{ContentSharing, SharedBlob, SharingLimits};
pub use storage_usage::RepositoryUsage;
pub use tag::TagTransition;
pub use upload::UploadProgress;
pub use upload_id::{InvalidUploadId, UploadId};
pub use upload_list::{
    HeldUploads, ListedUpload, ListedUploadState, OpenUploads, UPLOADS_LISTED_MAX, UploadList,
};
