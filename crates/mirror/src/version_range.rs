//! [`VersionRange`]: which versions, as package managers write it.

use std::fmt;
use std::str::FromStr;

use jreg_oci::Tag;

/// The longest range, in characters.
pub const VERSION_RANGE_CHARS_MAX: usize = 256;
/// Maximum numbers of a version.
const NUMBERS_MAX: usize = 4;

/// A range of versions: comparators joined by commas or spaces, all of which must hold, and alternatives joined by
/// `||`.
///
/// - `=1.2`, `>1.2`, `>=1.2`, `<1.2`, `<=1.2` compare the numbers that they have: `1.2.7` is `=1.2` and not `>1.2`;
/// - `^1.2` is `>=1.2` with the same first number that is not 0, `~1.2.3` is `>=1.2.3` with the same two first ones;
/// - a version without a comparator is as with `=`, and `1.x` and `1.*` are `=1`;
/// - the version of a tag is one to four numbers, with or without `v` before them. What follows a dash is no part of
///   it.
///
/// ```
/// # use jreg_mirror::VersionRange;
/// let range: VersionRange = ">=1.25, <2 || =3".parse().unwrap();
/// let matches = |tag: &str| range.matches(&tag.parse().unwrap());
/// assert!(matches("1.25.3") && matches("v1.26-alpine") && matches("3.7"));
/// assert!(!matches("1.24") && !matches("2.0") && !matches("latest"));
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct VersionRange {
    text: String,
    alternatives: Vec<Vec<Comparator>>,
}

/// Why a text is no range of versions.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "must be comparators such as >=1.25, ^1.2 or ~1.2.3, joined by commas, alternatives by ||; at most \
     {VERSION_RANGE_CHARS_MAX} characters"
)]
pub struct InvalidVersionRange;

#[derive(Clone, Debug, PartialEq, Eq)]
struct Comparator {
    operator: Operator,
    /// At least one.
    version: Vec<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operator {
    Equal,
    Greater,
    GreaterOrEqual,
    Less,
    LessOrEqual,
    /// With the same numbers up to the first that is not 0.
    Compatible,
    /// With the same first two numbers.
    Close,
}

/// What is written before a version, the longer ones first.
const OPERATORS: [(&str, Operator); 7] = [
    (">=", Operator::GreaterOrEqual),
    ("<=", Operator::LessOrEqual),
    (">", Operator::Greater),
    ("<", Operator::Less),
    ("=", Operator::Equal),
    ("^", Operator::Compatible),
    ("~", Operator::Close),
];

impl VersionRange {
    /// Whether the version of a tag lies in it; a tag without a version does not.
    pub fn matches(&self, tag: &Tag) -> bool {
        let Some(version) = version_of(tag) else { return false };
        self.alternatives.iter().any(|all| all.iter().all(|comparator| comparator.holds(&version)))
    }
}

impl Comparator {
    fn holds(&self, version: &[u64]) -> bool {
        let number = |index: usize| version.get(index).copied().unwrap_or_default();
        // Only as many numbers as the comparator has.
        let compared =
            self.version.iter().enumerate().map(|(index, wanted)| number(index).cmp(wanted));
        let order = compared.fold(std::cmp::Ordering::Equal, std::cmp::Ordering::then);
        let has_same =
            |count: usize| (0..count.min(self.version.len())).all(|i| number(i) == self.version[i]);
        match self.operator {
            Operator::Equal => order.is_eq(),
            Operator::Greater => order.is_gt(),
            Operator::GreaterOrEqual => order.is_ge(),
            Operator::Less => order.is_lt(),
            Operator::LessOrEqual => order.is_le(),
            Operator::Compatible => {
                let leading = self.version.iter().take_while(|number| **number == 0).count();
                order.is_ge() && has_same(leading + 1)
            }
            Operator::Close => order.is_ge() && has_same(2),
        }
    }
}

/// The numbers at the beginning of a tag.
fn version_of(tag: &Tag) -> Option<Vec<u64>> {
    let text = tag.as_str();
    let text = text.strip_prefix('v').unwrap_or(text);
    numbers(text.split(['-', '_']).next()?)
}

fn numbers(text: &str) -> Option<Vec<u64>> {
    let numbers: Option<Vec<u64>> = text.split('.').map(number).collect();
    numbers.filter(|numbers| numbers.len() <= NUMBERS_MAX)
}

fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

fn comparator(text: &str) -> Option<Comparator> {
    let found =
        OPERATORS.iter().find_map(|(sign, operator)| Some((text.strip_prefix(sign)?, *operator)));
    let (version, operator) = found.unwrap_or((text, Operator::Equal));
    let version = version.strip_prefix('v').unwrap_or(version);
    let mut version = version;
    while let Some(shorter) = version.strip_suffix(".x").or(version.strip_suffix(".*")) {
        version = shorter;
    }
    Some(Comparator { operator, version: numbers(version)? })
}

impl FromStr for VersionRange {
    type Err = InvalidVersionRange;

    fn from_str(text: &str) -> Result<Self, InvalidVersionRange> {
        if text.len() > VERSION_RANGE_CHARS_MAX {
            return Err(InvalidVersionRange);
        }
        let alternative = |all: &str| {
            // A space after an operator belongs to it.
            let mut all = all.to_owned();
            for (sign, _) in OPERATORS {
                all = all.replace(&format!("{sign} "), sign);
            }
            let parts = all.split([',', ' ']).filter(|part| !part.is_empty());
            let comparators: Option<Vec<_>> = parts.map(comparator).collect();
            comparators.filter(|comparators| !comparators.is_empty())
        };
        let alternatives: Option<Vec<_>> = text.split("||").map(alternative).collect();
        let alternatives = alternatives.ok_or(InvalidVersionRange)?;
        Ok(Self { text: text.to_owned(), alternatives })
    }
}

impl fmt::Display for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for VersionRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn ranges_match_the_versions_of_tags() {
        for (range, tags, others) in [
            ("1.2", "1.2 1.2.7 v1.2.0 1.2-alpine", "1.3 1 12 1.20"),
            ("1.x", "1 1.0 1.9.9", "2 0.1"),
            ("1.*.*", "1 1.0", "2"),
            (">1.2", "1.3 2", "1.2 1.2.7 1.1"),
            (">=1.2", "1.2 1.2.0 1.10 2", "1.1.9 1"),
            ("<1.2", "1.1.9 0 1", "1.2 1.2.1"),
            ("<=1.2", "1.2.9 1", "1.3"),
            ("^1.2", "1.2 1.9 1.2.3", "2 1.1 0.9"),
            ("^0.2.3", "0.2.3 0.2.9", "0.3 0.2.2 1"),
            ("~1.2.3", "1.2.3 1.2.9", "1.3 1.2.2"),
            ("~1", "1 1.0", "2"),
            (">= 1.25, < 2", "1.25 1.99", "2 1.24"),
            (">=1 <1.5||=3", "1 1.4 3 3.1", "1.5 2 4"),
            ("v3", "3 v3.1", "4"),
        ] {
            let range: VersionRange = range.parse().unwrap();
            let matches = |tag: &&str| range.matches(&tag.parse().unwrap());
            assert!(tags.split(' ').all(|tag| matches(&tag)), "{range}: {tags}");
            assert!(!others.split(' ').any(|tag| matches(&tag)), "{range}: {others}");
        }
        let any: VersionRange = ">=0".parse().unwrap();
        for tag in ["latest", "alpine", "v", "1.2.3.4.5", "1..2", "sha256-abc", "_1"] {
            assert!(!any.matches(&tag.parse().unwrap()), "{tag}");
        }
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for text in [
            "",
            " ",
            ",",
            "||",
            "1||",
            ">=",
            "a",
            "1.2.3.4.5",
            "=>1",
            "1-2",
            ">=99999999999999999999",
        ] {
            assert!(text.parse::<VersionRange>().is_err(), "{text:?}");
        }
        assert!("1 ".repeat(200).parse::<VersionRange>().is_err());
    }
}
