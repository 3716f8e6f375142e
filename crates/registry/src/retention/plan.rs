//! [`RetentionPlan`]: what a preview found, to be removed later, and nothing else.

use std::time::SystemTime;

use jreg_oci::{Digest, RepositoryName, Tag};
use serde::{Deserialize, Serialize};

use super::report::{RemovalOutcome, RetentionVerdict, VerdictStatus};
use super::{RetentionError, seconds};
use crate::ChangeId;

/// Maximum number of removals of a plan.
pub const PLAN_REMOVALS_MAX: usize = 50_000;

/// The version of plans that this program writes and reads.
const VERSION: u32 = 1;

/// Tags to be removed, each on the version that was judged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RetentionPlan {
    #[serde(rename = "v")]
    version: u32,
    /// T0 of the preview, in seconds of the Unix epoch.
    pub at: u64,
    /// The hash of the rules by which it was made.
    pub rules: Digest,
    pub removals: Vec<PlannedRemoval>,
}

/// A tag to be removed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedRemoval {
    pub repository: RepositoryName,
    pub tag: Tag,
    pub digest: Digest,
    /// The change by which it points there.
    pub change: ChangeId,
    /// Its last push, in seconds of the Unix epoch.
    pub pushed: u64,
}

impl RetentionPlan {
    pub(super) fn new(at: SystemTime, rules: Digest) -> Self {
        Self { version: VERSION, at: seconds(at), rules, removals: Vec::new() }
    }

    pub(super) fn add(&mut self, removal: PlannedRemoval) -> Result<(), RetentionError> {
        if self.removals.len() >= PLAN_REMOVALS_MAX {
            return Err(RetentionError::PlanTooLarge);
        }
        self.removals.push(removal);
        Ok(())
    }

    pub(super) fn check(&self, rules: &Digest) -> Result<(), RetentionError> {
        if self.version != VERSION {
            return Err(RetentionError::PlanVersion { version: self.version });
        }
        if self.rules != *rules {
            let (plan, rules) = (self.rules.clone(), rules.clone());
            return Err(RetentionError::OtherRules { plan, rules });
        }
        Ok(())
    }
}

impl PlannedRemoval {
    pub(super) fn verdict(&self, outcome: RemovalOutcome) -> RetentionVerdict {
        RetentionVerdict {
            repository: self.repository.clone(),
            tag: self.tag.clone(),
            digest: Some(self.digest.clone()),
            status: VerdictStatus::Remove,
            reason: "the plan removes it".to_owned(),
            pushed: Some(self.pushed),
            pulled: None,
            rank: None,
            expires: None,
            only_bytes: None,
            outcome: Some(outcome),
        }
    }
}
