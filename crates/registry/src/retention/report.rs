//! What a retention run reports: a [`RetentionVerdict`] on each tag, and a [`RetentionReport`].

use std::time::{Duration, SystemTime};

use jreg_lifecycle::{TagStatus, TagVerdict};
use jreg_oci::{Digest, RepositoryName, Tag};
use serde::{Deserialize, Serialize};

use super::plan::RetentionPlan;
use super::seconds;
use super::state::JudgedRepository;
use crate::NoObserver;

/// What a run does with a tag, and why.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionVerdict {
    pub repository: RepositoryName,
    pub tag: Tag,
    /// `None`: the record of the tag cannot be read.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub digest: Option<Digest>,
    pub status: VerdictStatus,
    /// A sentence that names the rule and the values that it was evaluated with.
    pub reason: String,
    /// The last push, in seconds of the Unix epoch.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pushed: Option<u64>,
    /// The last known pull.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub pulled: Option<u64>,
    /// The place among the most recently pushed tags, if a rule counts them.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub rank: Option<usize>,
    /// From when on a run removes it, in seconds of the Unix epoch, if nothing happens.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub expires: Option<u64>,
    /// Of a tag that the rules remove: bytes of manifests and blobs in this repository that no other tag
    /// references, by the sizes that manifests declare.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub only_bytes: Option<u64>,
    /// What became of a removal; `None` in a preview, and for tags that stay.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub outcome: Option<RemovalOutcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum VerdictStatus {
    Keep,
    Protected,
    Remove,
}

/// The result of a removal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RemovalOutcome {
    Removed,
    /// It was pushed, moved or deleted since it was judged.
    Changed,
    /// Too many tags of the repository would be removed.
    Withheld,
    /// The store failed. The next run retries.
    Failed,
}

/// A repository in which nothing is removed although rules would.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeftRepository {
    pub repository: RepositoryName,
    /// Number of tags that would be removed, if it is known.
    pub tags: u64,
    pub reason: String,
}

/// The result of a run or a preview.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionReport {
    /// T0, in seconds of the Unix epoch.
    pub at: u64,
    /// The hash of the rules.
    pub rules: Digest,
    /// Whether nothing was written.
    pub is_preview: bool,
    /// Repositories that were judged.
    pub repositories: u64,
    /// Repositories that no entry matches, or that were not selected.
    pub unmatched: u64,
    /// Repositories left alone because a record in them cannot be read.
    pub damaged: u64,
    /// Tags that were judged.
    pub tags: u64,
    pub kept: u64,
    /// Of these: because a rule cannot be evaluated.
    pub unevaluated: u64,
    pub protected: u64,
    /// Removed; in a preview: would be.
    pub removed: u64,
    /// Tags that stay because too many of their repository would be removed.
    pub withheld: u64,
    /// Tags that stay because they changed since they were judged.
    pub changed: u64,
    pub failed: u64,
    /// Bytes of manifests and blobs that in their repository only the removed tags reference.
    pub only_bytes: u64,
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub plan: Option<RetentionPlan>,
}

/// Sees what a run does.
pub trait RetentionObserver: Sync {
    /// A tag was judged (in a preview), or its removal was tried.
    fn verdict(&self, verdict: &RetentionVerdict);

    /// Nothing is removed in a repository although rules would.
    fn left(&self, left: &LeftRepository);
}

impl RetentionObserver for NoObserver {
    fn verdict(&self, _: &RetentionVerdict) {}

    fn left(&self, _: &LeftRepository) {}
}

impl RetentionVerdict {
    pub(super) fn new(repository: &RepositoryName, verdict: &TagVerdict, at: SystemTime) -> Self {
        let before = |age: Duration| at.checked_sub(age).map(seconds);
        Self {
            repository: repository.clone(),
            tag: verdict.tag.clone(),
            digest: Some(verdict.digest.clone()),
            status: match verdict.decision.status() {
                TagStatus::Keep => VerdictStatus::Keep,
                TagStatus::Protected => VerdictStatus::Protected,
                TagStatus::Remove => VerdictStatus::Remove,
            },
            reason: String::new(),
            pushed: verdict.values.pushed_age.and_then(before),
            pulled: verdict.values.pulled_age.and_then(before),
            rank: verdict.values.rank,
            expires: verdict.expires.map(|expiry| seconds(expiry.at)),
            only_bytes: None,
            outcome: None,
        }
    }
}

impl RetentionReport {
    pub(super) fn new(at: SystemTime, rules: Digest) -> Self {
        Self {
            at: seconds(at),
            rules,
            is_preview: false,
            repositories: 0,
            unmatched: 0,
            damaged: 0,
            tags: 0,
            kept: 0,
            unevaluated: 0,
            protected: 0,
            removed: 0,
            withheld: 0,
            changed: 0,
            failed: 0,
            only_bytes: 0,
            plan: None,
        }
    }

    /// Counts the tags of a repository, but for what becomes of those that are removed.
    pub(super) fn count(&mut self, judged: &JudgedRepository) {
        let judgement = &judged.judgement;
        self.tags += judgement.verdicts.len() as u64;
        self.unevaluated += judgement.unevaluated() as u64;
        for verdict in &judgement.verdicts {
            match verdict.decision.status() {
                TagStatus::Keep => self.kept += 1,
                TagStatus::Protected => self.protected += 1,
                TagStatus::Remove => {}
            }
        }
        match judgement.withheld {
            Some(withheld) => self.withheld += withheld.removals as u64,
            None => self.only_bytes += judged.bytes_together,
        }
    }

    pub(super) fn count_removal(&mut self, outcome: RemovalOutcome) {
        match outcome {
            RemovalOutcome::Removed => self.removed += 1,
            RemovalOutcome::Changed => self.changed += 1,
            RemovalOutcome::Withheld => self.withheld += 1,
            RemovalOutcome::Failed => self.failed += 1,
        }
    }
}
