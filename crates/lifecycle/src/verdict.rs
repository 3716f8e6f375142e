//! [`TagVerdict`]: what retention does with a tag, and why.

use std::fmt;
use std::time::{Duration, SystemTime};

use chrono::DateTime;
use jreg_oci::{Digest, Tag};

use crate::file::LifecycleRules;
use crate::immutable::ImmutableRuleName;
use crate::sentence::about;

/// Default of [`RetentionRun::delay`].
pub const RETENTION_DELAY: Duration = Duration::from_secs(24 * 3600);
/// The percentage of a repository's tags that one run may remove.
pub const REMOVALS_PERCENT_MAX: usize = 20;
/// The number of tags that one run may remove in any case.
pub const REMOVALS_ALWAYS: usize = 10;

/// The time and the options of a run.
#[derive(Clone, Copy, Debug)]
pub struct RetentionRun {
    /// T0, of which ages are counted.
    pub at: SystemTime,
    /// The age up to which no tag is removed.
    pub delay: Duration,
    /// Since when pulls are tracked without a gap; `None`: they are not.
    pub pulls_since: Option<SystemTime>,
    /// How long a pull may take until every run knows it: so much longer `pulled_within` holds.
    pub pulls_slack: Duration,
    /// Whether the limit on the share of removed tags does not apply.
    pub force: bool,
}

/// What a run does in one repository.
#[derive(Clone, Debug)]
pub struct RetentionJudgement {
    /// The entry that decides, from 1; `None`: no entry matches, and every tag is kept.
    pub entry: Option<usize>,
    /// In the order of the tags.
    pub verdicts: Vec<TagVerdict>,
    /// Why none of the tags is removed, although rules would.
    pub withheld: Option<ShareExceeded>,
}

/// More tags would be removed than a run may.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{removals} of {tags} tags would be removed, more than {max}: none is, unless forced")]
pub struct ShareExceeded {
    pub removals: usize,
    pub tags: usize,
    pub max: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagVerdict {
    pub tag: Tag,
    pub digest: Digest,
    pub decision: TagDecision,
    pub values: TagValues,
    /// When the tag is removed if nothing happens; `None`: never, already, or unknown.
    pub expires: Option<TagExpiry>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagStatus {
    Keep,
    Remove,
    Protected,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TagDecision {
    /// No entry matches the repository.
    NoEntry,
    /// The first keep that does, from 1.
    Keep {
        keep: usize,
    },
    /// It is kept because a rule cannot be evaluated: a keep, from 1, or whether the tag is young.
    Unevaluated {
        keep: Option<usize>,
        reason: UnevaluatedReason,
    },
    /// No keep keeps it, but it must not be removed.
    Protected(ProtectionReason),
    Remove,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UnevaluatedReason {
    /// When the tag was pushed is not known.
    PushTime,
    /// Pulls are not tracked, or for less than the rule asks about.
    PullTimes {
        /// When they will be.
        from: Option<SystemTime>,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ProtectionReason {
    Immutable(ImmutableRuleName),
    Young {
        until: Option<SystemTime>,
    },
    Related {
        relation: TagRelation,
        /// The manifest that it is related to.
        of: Digest,
        /// The tag by which that is kept.
        tag: Tag,
    },
}

/// The relation of a tag's manifest to a manifest that is kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagRelation {
    Child,
    Referrer,
    /// By the tag's name: `sha256-<hex>`.
    Signature,
}

/// The values that the rules were evaluated with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagValues {
    pub created: SystemTime,
    /// Time since the push; `None` if unknown.
    pub pushed_age: Option<Duration>,
    /// Time since the last known pull.
    pub pulled_age: Option<Duration>,
    /// The best place among the most recently pushed tags of a keep with `most_recent`, from 1.
    pub rank: Option<usize>,
}

/// When a tag is removed if nothing happens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TagExpiry {
    /// Runs after this time remove it.
    pub at: SystemTime,
    /// From 1.
    pub entry: usize,
    /// Whether a pull postpones it.
    pub unless_pulled: bool,
}

impl RetentionJudgement {
    /// The tags that the run removes.
    pub fn removals(&self) -> impl Iterator<Item = &TagVerdict> {
        let is_removed = |verdict: &&TagVerdict| verdict.decision == TagDecision::Remove;
        self.verdicts.iter().filter(is_removed).filter(|_| self.withheld.is_none())
    }

    /// Number of tags that are kept because a rule cannot be evaluated.
    pub fn unevaluated(&self) -> usize {
        let is_unevaluated =
            |verdict: &&TagVerdict| matches!(verdict.decision, TagDecision::Unevaluated { .. });
        self.verdicts.iter().filter(is_unevaluated).count()
    }
}

impl TagDecision {
    pub fn status(&self) -> TagStatus {
        match self {
            Self::NoEntry | Self::Keep { .. } | Self::Unevaluated { .. } => TagStatus::Keep,
            Self::Protected(_) => TagStatus::Protected,
            Self::Remove => TagStatus::Remove,
        }
    }
}

impl TagStatus {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Remove => "remove",
            Self::Protected => "protected",
        }
    }
}

impl fmt::Display for TagStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl LifecycleRules {
    /// Why a tag of a judgement of these rules is kept, protected or removed, and when it expires.
    pub fn explain(&self, entry: Option<usize>, verdict: &TagVerdict) -> String {
        let place = |keep: usize| {
            let entry = entry.unwrap_or_default();
            let of = self.retention.get(entry.wrapping_sub(1));
            let of = of.and_then(|of| of.keeps.get(keep.wrapping_sub(1)));
            let phrase = of.map(|keep| format!(": it {}", keep.phrase())).unwrap_or_default();
            (format!("retention entry {entry}, keep {keep}"), phrase)
        };
        let reason = match &verdict.decision {
            TagDecision::NoEntry => "no retention entry matches the repository".to_owned(),
            TagDecision::Keep { keep } => {
                let (place, phrase) = place(*keep);
                format!("{place}{phrase}")
            }
            TagDecision::Unevaluated { keep: Some(keep), reason } => {
                format!("{} cannot be evaluated: {reason}", place(*keep).0)
            }
            TagDecision::Unevaluated { keep: None, reason } => reason.to_string(),
            TagDecision::Protected(reason) => reason.to_string(),
            TagDecision::Remove => {
                format!("nothing of retention entry {} keeps it", entry.unwrap_or_default())
            }
        };
        let expiry = verdict.expires.map(|expiry| format!("; {expiry}")).unwrap_or_default();
        format!("{reason} ({}){expiry}", verdict.values)
    }
}

impl fmt::Display for UnevaluatedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PushTime => f.write_str("when the tag was pushed is not known"),
            Self::PullTimes { from: None } => f.write_str("pulls are not tracked"),
            Self::PullTimes { from: Some(from) } => {
                write!(f, "pulls are tracked long enough only from {} on", date(*from))
            }
        }
    }
}

impl fmt::Display for ProtectionReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Immutable(rule) => write!(f, "immutable ({rule})"),
            Self::Young { until: None } => f.write_str("pushed too recently"),
            Self::Young { until: Some(until) } => {
                write!(f, "pushed too recently, until {}", date(*until))
            }
            Self::Related { relation, of, tag } => {
                let relation = match relation {
                    TagRelation::Child => "a manifest of the index",
                    TagRelation::Referrer => "a referrer of",
                    TagRelation::Signature => "the signature of",
                };
                write!(f, "{relation} {of}, which tag {tag} keeps")
            }
        }
    }
}

impl fmt::Display for TagValues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.pushed_age {
            Some(age) => write!(f, "pushed {} ago", about(age))?,
            None => f.write_str("push time unknown")?,
        }
        if let Some(age) = self.pulled_age {
            write!(f, ", pulled {} ago", about(age))?;
        }
        if let Some(rank) = self.rank {
            write!(f, ", number {rank} by push")?;
        }
        Ok(())
    }
}

impl fmt::Display for TagExpiry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "expires {} by retention entry {}", date(self.at), self.entry)?;
        if self.unless_pulled { f.write_str(" unless pulled") } else { Ok(()) }
    }
}

/// A date in UTC.
fn date(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let date = i64::try_from(since).ok().and_then(|seconds| DateTime::from_timestamp(seconds, 0));
    date.map_or_else(|| "never".to_owned(), |date| date.format("%Y-%m-%d").to_string())
}
