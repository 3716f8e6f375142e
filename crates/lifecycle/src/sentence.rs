//! Rules as English sentences.

use std::fmt::Display;
use std::time::Duration;

use jreg_oci::RepositoryPattern;
use jreg_units::format_size;

use crate::file::LifecycleRules;
use crate::immutable::ImmutableRule;
use crate::quota::QuotaPool;
use crate::retention::{RetentionEntry, RetentionKeep, UntaggedRule};

/// Maximum patterns that an error names.
const ABRIDGED_MAX: usize = 4;

/// Patterns in an error: a file may have hundreds.
pub(crate) fn abridged<P: Display>(patterns: &[P]) -> String {
    let mut texts: Vec<_> = patterns.iter().take(ABRIDGED_MAX).map(P::to_string).collect();
    if patterns.len() > ABRIDGED_MAX {
        texts.push("...".to_owned());
    }
    texts.join(", ")
}

/// `a, b or c`.
fn any_of<P: Display>(patterns: &[P]) -> String {
    joined(&patterns.iter().map(P::to_string).collect::<Vec<_>>(), "or")
}

fn joined(texts: &[String], word: &str) -> String {
    match texts {
        [] => String::new(),
        [only] => only.clone(),
        [first @ .., last] => format!("{} {word} {last}", first.join(", ")),
    }
}

/// A duration in words: `14 days`.
pub(crate) fn in_words(duration: Duration) -> String {
    let millis = duration.as_millis();
    let units = [("day", 86_400_000), ("hour", 3_600_000), ("minute", 60_000), ("second", 1000)];
    let exact = |(_, length): &(&str, u128)| millis.is_multiple_of(*length);
    let (unit, length) = units.into_iter().find(exact).unwrap_or(("millisecond", 1));
    match millis / length {
        1 => format!("1 {unit}"),
        number => format!("{number} {unit}s"),
    }
}

/// The rough age of something: `3 days`, `5 hours`.
pub(crate) fn about(age: Duration) -> String {
    let seconds = age.as_secs();
    let units = [("day", 86_400), ("hour", 3600), ("minute", 60), ("second", 1)];
    let fits = |(_, length): &(&str, u64)| seconds >= 2 * length;
    let (unit, length) = units.into_iter().find(fits).unwrap_or(("second", 1));
    match seconds / length {
        1 => format!("1 {unit}"),
        number => format!("{number} {unit}s"),
    }
}

impl LifecycleRules {
    /// Each rule as a sentence, with its name: `retention entry 1`.
    pub fn sentences(&self) -> Vec<(String, String)> {
        let named = |what: &str, number: usize, sentence| (format!("{what} {number}"), sentence);
        let retention = (1..).zip(&self.retention);
        let retention = retention.map(|(n, entry)| named("retention entry", n, entry.sentence()));
        let immutable = (1..).zip(self.immutable().all());
        let immutable = immutable.map(|(n, rule)| named("immutable rule", n, rule.sentence()));
        let quotas = (1..).zip(self.quotas().all());
        let quotas = quotas.map(|(n, pool)| named("quota", n, pool.sentence()));
        retention.chain(immutable).chain(quotas).collect()
    }

    /// What an operator may have meant otherwise.
    pub fn remarks(&self) -> Vec<String> {
        let mut remarks = Vec::new();
        for (index, entry) in self.retention.iter().enumerate() {
            let earlier = self.retention.iter().take(index);
            if let Some(hiding) = earlier.enumerate().find(|(_, other)| other.hides(entry)) {
                let (number, other) = (index + 1, hiding.0 + 1);
                remarks.push(format!(
                    "retention entry {number} is never used: retention entry {other} comes first \
                     and matches the same repositories"
                ));
            }
        }
        remarks
    }
}

impl RetentionEntry {
    /// Whether this entry, coming first, leaves nothing to `later`.
    fn hides(&self, later: &Self) -> bool {
        let is_all = |pattern: &RepositoryPattern| pattern.as_str() == "**";
        self.repositories.iter().any(is_all)
            || later.repositories.iter().all(|pattern| self.repositories.contains(pattern))
    }

    pub fn sentence(&self) -> String {
        let keeps: Vec<_> = self.keeps.iter().map(RetentionKeep::phrase).collect();
        format!(
            "In {}, a tag is kept if it {}; other tags are removed; manifests without a tag {}.",
            any_of(&self.repositories),
            keeps.join(", or "),
            match self.untagged {
                None => "are kept or removed as the setting gc-untagged says".to_owned(),
                Some(UntaggedRule::Keep) => "are kept".to_owned(),
                Some(UntaggedRule::RemoveAfter(after)) if after.is_zero() =>
                    "are removed once history no longer keeps them".to_owned(),
                Some(UntaggedRule::RemoveAfter(after)) => {
                    format!("are removed {} after history no longer keeps them", in_words(after))
                }
            }
        )
    }
}

impl RetentionKeep {
    /// What a tag does that it keeps: `matches v* and was pushed within 14 days`.
    pub(crate) fn phrase(&self) -> String {
        let mut conditions = Vec::new();
        let (one, many) = (self.patterns("matches"), self.patterns("match"));
        match self.most_recent {
            None => conditions.extend(one),
            Some(1) => conditions.push(format!("is the most recently pushed{}", that(one))),
            Some(most) => {
                conditions.push(format!("is one of the {most} most recently pushed{}", that(many)));
            }
        }
        if let Some(within) = self.pushed_within {
            conditions.push(format!("was pushed within {}", in_words(within)));
        }
        if let Some(within) = self.pulled_within {
            conditions.push(format!("was pulled within {}", in_words(within)));
        }
        joined(&conditions, "and")
    }

    /// `matches v* but not v0*`; `None` for all tags.
    fn patterns(&self, matches: &str) -> Option<String> {
        let (tags, except) = (any_of(&self.tags), any_of(&self.except));
        match (tags.is_empty(), except.is_empty()) {
            (true, true) => None,
            (false, true) => Some(format!("{matches} {tags}")),
            (true, false) => Some(format!("{matches} anything but {except}")),
            (false, false) => Some(format!("{matches} {tags} but not {except}")),
        }
    }
}

fn that(condition: Option<String>) -> String {
    condition.map(|condition| format!(" that {condition}")).unwrap_or_default()
}

impl ImmutableRule {
    pub fn sentence(&self) -> String {
        let except = match self.except.is_empty() {
            true => String::new(),
            false => format!(" but not {}", any_of(&self.except)),
        };
        let retention = if self.expires {
            "retention may remove them"
        } else {
            "retention does not remove them"
        };
        format!(
            "In {}, tags that match {}{except} cannot be moved or deleted; {retention}.",
            any_of(&self.repositories),
            any_of(&self.tags),
        )
    }
}

impl QuotaPool {
    pub fn sentence(&self) -> String {
        format!(
            "Repositories that match {} may hold {} together; there are warnings from {}% on.",
            any_of(&self.repositories),
            format_size(self.bytes),
            self.warn_percent,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_words() {
        for (seconds, words) in [
            (86_400, "1 day"),
            (14 * 86_400, "14 days"),
            (36 * 3600, "36 hours"),
            (90, "90 seconds"),
            (60, "1 minute"),
        ] {
            assert_eq!(in_words(Duration::from_secs(seconds)), words);
        }
        assert_eq!(in_words(Duration::from_millis(1500)), "1500 milliseconds");
        for (seconds, words) in [
            (0, "0 seconds"),
            (1, "1 second"),
            (119, "119 seconds"),
            (7300, "2 hours"),
            (200_000, "2 days"),
        ] {
            assert_eq!(about(Duration::from_secs(seconds)), words);
        }
    }
}
