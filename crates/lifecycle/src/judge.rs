//! [`LifecycleRules::judge`]: from the content of a repository to a verdict on each tag.

use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

use crate::closure::related_tags;
use crate::file::LifecycleRules;
use crate::repository::{RepositoryState, TagState};
use crate::retention::{RetentionEntry, RetentionKeep};
use crate::verdict::{
    ProtectionReason, REMOVALS_ALWAYS, REMOVALS_PERCENT_MAX, RetentionJudgement, RetentionRun,
    ShareExceeded, TagDecision, TagExpiry, TagValues, TagVerdict, UnevaluatedReason,
};

impl LifecycleRules {
    /// Judges every tag of a repository.
    pub fn judge(&self, state: &RepositoryState, run: &RetentionRun) -> RetentionJudgement {
        let Some((number, entry)) = self.retention_of(&state.name) else {
            let kept = |tag| verdict(tag, run, TagDecision::NoEntry, None, None);
            let verdicts = state.tags.iter().map(kept).collect();
            return RetentionJudgement { entry: None, verdicts, withheld: None };
        };
        let ranks = entry.keeps.iter().map(|keep| ranks(keep, &state.tags)).collect();
        let entry_run = EntryRun { rules: self, entry, state, run, ranks };
        let verdicts = entry_run.verdicts(number);
        let withheld = if run.force { None } else { share_exceeded(&verdicts) };
        RetentionJudgement { entry: Some(number), verdicts, withheld }
    }
}

fn share_exceeded(verdicts: &[TagVerdict]) -> Option<ShareExceeded> {
    let is_removed = |verdict: &&TagVerdict| verdict.decision == TagDecision::Remove;
    let (tags, removals) = (verdicts.len(), verdicts.iter().filter(is_removed).count());
    let max = (tags.saturating_mul(REMOVALS_PERCENT_MAX) / 100).max(REMOVALS_ALWAYS);
    (removals > max).then_some(ShareExceeded { removals, tags, max })
}

/// The place of each tag among those that a keep with `most_recent` matches, from 1. A tag whose push
/// is unknown has no place, and takes none from another.
fn ranks(keep: &RetentionKeep, tags: &[TagState]) -> Vec<Option<usize>> {
    if keep.most_recent.is_none() {
        return Vec::new();
    }
    let mut matched: Vec<_> = tags
        .iter()
        .enumerate()
        .filter(|(_, tag)| keep.matches(&tag.tag))
        .filter_map(|(index, tag)| tag.pushed.map(|pushed| (Reverse(pushed), &tag.tag, index)))
        .collect();
    matched.sort_unstable();
    let mut ranks = vec![None; tags.len()];
    for (rank, (_, _, index)) in (1..).zip(matched) {
        if let Some(place) = ranks.get_mut(index) {
            *place = Some(rank);
        }
    }
    ranks
}

/// One entry, evaluated over one repository.
struct EntryRun<'a> {
    rules: &'a LifecycleRules,
    entry: &'a RetentionEntry,
    state: &'a RepositoryState,
    run: &'a RetentionRun,
    /// By keep, then by tag; empty for keeps without `most_recent`.
    ranks: Vec<Vec<Option<usize>>>,
}

/// What a condition, or all of one keep, says of a tag.
#[derive(Clone, Copy, Debug)]
enum KeepOutcome {
    Fails,
    Unknown(UnevaluatedReason),
    /// `until`: how long without another push or pull; `None`: no time ends it.
    Holds {
        until: Option<SystemTime>,
    },
}

impl KeepOutcome {
    fn and(self, other: Self) -> Self {
        match (self, other) {
            (Self::Fails, _) | (_, Self::Fails) => Self::Fails,
            (Self::Unknown(reason), _) | (_, Self::Unknown(reason)) => Self::Unknown(reason),
            (Self::Holds { until: None }, holds) | (holds, Self::Holds { until: None }) => holds,
            (Self::Holds { until: Some(one) }, Self::Holds { until: Some(two) }) => {
                Self::Holds { until: Some(one.min(two)) }
            }
        }
    }
}

/// What the keeps of an entry say of a tag together.
#[derive(Default)]
struct KeepsOutcome {
    /// The first keep that holds.
    holds: Option<usize>,
    /// The first keep that cannot be evaluated.
    unknown: Option<(usize, UnevaluatedReason)>,
    /// Whether a keep holds that no time ends.
    is_forever: bool,
    /// When the last of the others ends.
    until: Option<SystemTime>,
    /// Whether a pull may make a keep hold for longer.
    can_be_pulled: bool,
    rank: Option<usize>,
}

impl EntryRun<'_> {
    fn verdicts(&self, number: usize) -> Vec<TagVerdict> {
        let tags = &self.state.tags;
        let outcomes: Vec<_> = tags.iter().enumerate().map(|(i, tag)| self.keeps(i, tag)).collect();
        let own = tags.iter().zip(&outcomes).map(|(tag, outcome)| self.own_decision(tag, outcome));
        let own: Vec<Option<TagDecision>> = own.collect();
        let related = related_tags(self.state, |index| own.get(index).is_some_and(Option::is_some));
        let judged = tags.iter().zip(outcomes).zip(own).zip(related);
        judged
            .map(|(((tag, outcome), own), related)| {
                let expires = match &own {
                    Some(_) if related.is_some() => None,
                    Some(decision) => self.expiry(number, tag, decision, &outcome),
                    None => None,
                };
                let root = related.and_then(|cause| tags.get(cause.root).map(|tag| (cause, tag)));
                let decision = match (own, root) {
                    (Some(decision), _) => decision,
                    (None, Some((cause, root))) => {
                        let (relation, of) = (cause.relation, cause.of.clone());
                        let tag = root.tag.clone();
                        TagDecision::Protected(ProtectionReason::Related { relation, of, tag })
                    }
                    (None, None) => TagDecision::Remove,
                };
                verdict(tag, self.run, decision, outcome.rank, expires)
            })
            .collect()
    }

    /// Why a tag stays by itself, whatever else does.
    fn own_decision(&self, tag: &TagState, outcome: &KeepsOutcome) -> Option<TagDecision> {
        if let Some(rule) = self.rules.immutable().judge_retention(&self.state.name, &tag.tag) {
            return Some(TagDecision::Protected(ProtectionReason::Immutable(rule)));
        }
        if let Some(keep) = outcome.holds {
            return Some(TagDecision::Keep { keep });
        }
        if let Some((keep, reason)) = outcome.unknown {
            return Some(TagDecision::Unevaluated { keep: Some(keep), reason });
        }
        let Some(pushed) = tag.pushed else {
            let reason = UnevaluatedReason::PushTime;
            return Some(TagDecision::Unevaluated { keep: None, reason });
        };
        let until = pushed.checked_add(self.run.delay);
        // One that is pushed after T0 changed during the run.
        (self.age(pushed) < self.run.delay || pushed > self.run.at)
            .then_some(TagDecision::Protected(ProtectionReason::Young { until }))
    }

    fn expiry(
        &self,
        entry: usize,
        tag: &TagState,
        decision: &TagDecision,
        outcome: &KeepsOutcome,
    ) -> Option<TagExpiry> {
        let young_until = tag.pushed.and_then(|pushed| pushed.checked_add(self.run.delay));
        let at = match decision {
            TagDecision::Keep { .. } if outcome.is_forever || outcome.unknown.is_some() => None,
            TagDecision::Keep { .. } => outcome.until.max(young_until),
            TagDecision::Protected(ProtectionReason::Young { until }) => *until,
            _ => None,
        };
        at.map(|at| TagExpiry { at, entry, unless_pulled: outcome.can_be_pulled })
    }

    fn keeps(&self, index: usize, tag: &TagState) -> KeepsOutcome {
        let mut all = KeepsOutcome::default();
        for (place, keep) in self.entry.keeps.iter().enumerate() {
            if !keep.matches(&tag.tag) {
                continue;
            }
            let rank = self.ranks.get(place).and_then(|ranks| ranks.get(index).copied().flatten());
            all.rank = [all.rank, rank].into_iter().flatten().min();
            all.can_be_pulled |= keep.pulled_within.is_some();
            match self.keep(keep, tag, rank) {
                KeepOutcome::Fails => {}
                KeepOutcome::Unknown(reason) => {
                    all.unknown.get_or_insert((place + 1, reason));
                }
                KeepOutcome::Holds { until } => {
                    all.holds.get_or_insert(place + 1);
                    all.is_forever |= until.is_none();
                    all.until = all.until.max(until);
                }
            }
        }
        all
    }

    /// The conditions of a keep whose patterns match.
    fn keep(&self, keep: &RetentionKeep, tag: &TagState, rank: Option<usize>) -> KeepOutcome {
        let mut outcome = KeepOutcome::Holds { until: None };
        if let Some(most) = keep.most_recent {
            outcome = outcome.and(match rank {
                Some(rank) if rank <= most => KeepOutcome::Holds { until: None },
                Some(_) => KeepOutcome::Fails,
                None => KeepOutcome::Unknown(UnevaluatedReason::PushTime),
            });
        }
        if let Some(within) = keep.pushed_within {
            outcome = outcome.and(match tag.pushed {
                Some(pushed) if self.age(pushed) <= within => {
                    KeepOutcome::Holds { until: pushed.checked_add(within) }
                }
                Some(_) => KeepOutcome::Fails,
                None => KeepOutcome::Unknown(UnevaluatedReason::PushTime),
            });
        }
        if let Some(within) = keep.pulled_within {
            outcome = outcome.and(self.pulled_within(tag, within));
        }
        outcome
    }

    fn pulled_within(&self, tag: &TagState, within: Duration) -> KeepOutcome {
        let Some(used) = tag.used() else {
            return KeepOutcome::Unknown(UnevaluatedReason::PushTime);
        };
        let since = self.run.pulls_since;
        let within = within.saturating_add(self.run.pulls_slack);
        if self.age(used) <= within {
            // Pulls before `since` are unknown: the condition fails only when none of them matters.
            let until = since.and_then(|since| used.max(since).checked_add(within));
            return KeepOutcome::Holds { until };
        }
        match since {
            Some(since) if self.age(since) >= within => KeepOutcome::Fails,
            since => {
                let from = since.and_then(|since| since.checked_add(within));
                KeepOutcome::Unknown(UnevaluatedReason::PullTimes { from })
            }
        }
    }

    fn age(&self, since: SystemTime) -> Duration {
        age(self.run, since)
    }
}

/// A time after T0 is of age 0: clocks differ.
fn age(run: &RetentionRun, since: SystemTime) -> Duration {
    run.at.duration_since(since).unwrap_or_default()
}

fn verdict(
    tag: &TagState,
    run: &RetentionRun,
    decision: TagDecision,
    rank: Option<usize>,
    expires: Option<TagExpiry>,
) -> TagVerdict {
    let values = TagValues {
        created: tag.created,
        pushed_age: tag.pushed.map(|pushed| age(run, pushed)),
        pulled_age: tag.pulled.map(|pulled| age(run, pulled)),
        rank,
    };
    TagVerdict { tag: tag.tag.clone(), digest: tag.digest.clone(), decision, values, expires }
}
