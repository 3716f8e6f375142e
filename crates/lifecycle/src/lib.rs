//! The rules of a lifecycle file as values: which tags retention removes, which tags are immutable,
//! and how much repositories may hold.
//!
//! Nothing here does I/O or reads a clock: the file's text, the content of a repository and the time
//! of a run are passed in. What the rules mean is said in `docs/lifecycle.md`.
//!
//! - [`LifecycleRules`]: a parsed file, which describes itself in sentences;
//! - [`LifecycleRules::judge`]: from a [`RepositoryState`] and a [`RetentionRun`] to a
//!   [`RetentionJudgement`], with a [`TagVerdict`] for each tag;
//! - [`ImmutableRules`]: which tags may not move, and the [`ImmutableRefusal`] that says so;
//! - [`QuotaRules`]: the pools that a repository counts in, and the [`QuotaVerdict`] on a use;
//! - [`CurrentRules`]: the rules in use, which a reload replaces.

#![allow(missing_docs, reason = "names of fields and variants say it")]

mod closure;
mod current;
mod file;
mod immutable;
mod judge;
mod quota;
mod repository;
mod retention;
mod sentence;
mod verdict;

pub use current::CurrentRules;
pub use file::{
    IMMUTABLE_RULES_MAX, KEEPS_MAX, LIFECYCLE_BYTES_MAX, LifecycleError, LifecycleRules,
    PATTERNS_MAX, QUOTAS_MAX, RETENTION_ENTRIES_MAX,
};
pub use immutable::{ImmutableRefusal, ImmutableRule, ImmutableRuleName, ImmutableRules};
pub use quota::{QuotaPool, QuotaRules, QuotaUsage, QuotaVerdict};
pub use repository::{ManifestState, RepositoryState, TagState};
pub use retention::{RetentionEntry, RetentionKeep, UntaggedRule};
pub use verdict::{
    ProtectionReason, REMOVALS_ALWAYS, REMOVALS_PERCENT_MAX, RETENTION_DELAY, RetentionJudgement,
    RetentionRun, ShareExceeded, TagDecision, TagExpiry, TagRelation, TagStatus, TagValues,
    TagVerdict, UnevaluatedReason,
};
