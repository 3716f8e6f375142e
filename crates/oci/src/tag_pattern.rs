//! [`TagPattern`]: a pattern over tags.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::Tag;
use crate::excerpt::excerpt;
use crate::glob::glob_matches;
use crate::tag::TAG_CHARS_MAX;

/// Maximum length of a pattern, in characters: that of a tag.
pub const TAG_PATTERN_CHARS_MAX: usize = TAG_CHARS_MAX;

/// A pattern over tags.
///
/// - `*` stands for any characters, none included, `?` for exactly one;
/// - every other character stands for itself: letters, digits, `_`, `.` and `-`, in upper or lower
///   case as written;
/// - the pattern is for the whole tag: `v1` matches `v1` and not `v1.2`;
/// - a pattern that matches no tag (`-rc*`) is rejected.
///
/// ```
/// # use jreg_oci::{Tag, TagPattern};
/// let pattern: TagPattern = "v?.*".parse().unwrap();
/// assert!(pattern.matches(&"v1.2".parse().unwrap()));
/// assert!(!pattern.matches(&"v10.2".parse().unwrap()));
/// assert!("v[0-9]".parse::<TagPattern>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TagPattern(String);

/// Why a string is not a pattern over tags.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid tag pattern {pattern:?}: {reason}")]
pub struct InvalidTagPattern {
    pattern: String,
    reason: &'static str,
}

impl TagPattern {
    /// The pattern in its original spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches a tag. The number of steps is at most the product of both lengths.
    pub fn matches(&self, tag: &Tag) -> bool {
        glob_matches(self.0.as_bytes(), tag.as_str().as_bytes())
    }

    /// Whether it matches every tag.
    pub fn is_any(&self) -> bool {
        self.0.bytes().all(|byte| byte == b'*')
    }
}

fn check(pattern: &str) -> Result<(), &'static str> {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"_.-*?".contains(&b);
    if pattern.is_empty() || pattern.len() > TAG_PATTERN_CHARS_MAX {
        return Err("it must be 1 to 128 characters long");
    }
    if !pattern.bytes().all(is_allowed) {
        return Err("it may contain only letters, digits, _ . - and the wildcards * and ?");
    }
    if pattern.starts_with(['.', '-']) {
        return Err("no tag can match it: tags start with a letter, a digit or _");
    }
    Ok(())
}

impl FromStr for TagPattern {
    type Err = InvalidTagPattern;

    fn from_str(pattern: &str) -> Result<Self, InvalidTagPattern> {
        match check(pattern) {
            Ok(()) => Ok(Self(pattern.to_owned())),
            Err(reason) => Err(InvalidTagPattern { pattern: excerpt(pattern), reason }),
        }
    }
}

impl TryFrom<String> for TagPattern {
    type Error = InvalidTagPattern;

    fn try_from(pattern: String) -> Result<Self, InvalidTagPattern> {
        pattern.parse()
    }
}

impl From<TagPattern> for String {
    fn from(pattern: TagPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for TagPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, tag: &str) -> bool {
        pattern.parse::<TagPattern>().unwrap().matches(&tag.parse().unwrap())
    }

    #[test]
    fn a_pattern_is_for_the_whole_tag_and_case_sensitive() {
        for (pattern, yes, no) in [
            ("latest", &["latest"][..], &["latest2", "xlatest", "Latest", "late"][..]),
            ("v*", &["v", "v1", "v1.2.3_rc-1"], &["V1", "1v", "xv"]),
            ("*-rc", &["1-rc", "a-rc-rc"], &["rc", "1-rc1"]),
            ("v?", &["v1", "v-"], &["v", "v10"]),
            ("?", &["a", "_"], &["ab"]),
            ("*", &["a", "_", "a.b-c"], &[]),
            ("**", &["a", "ab"], &[]),
            ("?*", &["a", "ab"], &[]),
            ("v*.*.*", &["v1.2.3", "v1.2.3.4"], &["v1.2"]),
            ("a*b*c", &["abc", "a1b2c", "abbbc"], &["acb", "ab"]),
            ("a?c*", &["abc", "abcd"], &["ac", "abx"]),
            ("sha256-*", &["sha256-0", "sha256-"], &["sha256", "sha512-0"]),
        ] {
            for tag in yes {
                assert!(matches(pattern, tag), "{pattern} {tag}");
            }
            for tag in no {
                assert!(!matches(pattern, tag), "{pattern} {tag}");
            }
        }
        assert!("**".parse::<TagPattern>().unwrap().is_any());
        assert!(!"*?".parse::<TagPattern>().unwrap().is_any());
    }

    #[test]
    fn a_pattern_that_matches_no_tag_is_rejected_with_the_reason() {
        let long = "a".repeat(TAG_PATTERN_CHARS_MAX + 1);
        for (pattern, reason) in [
            ("", "1 to 128 characters"),
            (&long, "1 to 128 characters"),
            ("v[0-9]", "the wildcards * and ?"),
            ("^v1", "the wildcards * and ?"),
            ("v1|v2", "the wildcards * and ?"),
            ("v 1", "the wildcards * and ?"),
            ("vä", "the wildcards * and ?"),
            ("a/b", "the wildcards * and ?"),
            ("v1\0", "the wildcards * and ?"),
            (".*", "no tag can match it"),
            ("-rc", "no tag can match it"),
        ] {
            let error = pattern.parse::<TagPattern>().unwrap_err().to_string();
            assert!(error.starts_with("invalid tag pattern \""), "{error}");
            assert!(error.contains(reason), "{pattern}: {error}");
        }
        assert!("a".repeat(TAG_PATTERN_CHARS_MAX).parse::<TagPattern>().is_ok());
    }

    #[test]
    fn many_stars_end_soon() {
        let pattern = format!("{}b", "a*".repeat(63));
        assert!(!matches(&pattern, &"a".repeat(TAG_CHARS_MAX)));
        let pattern = format!("{}b", "*?".repeat(63));
        assert!(!matches(&pattern, &"a".repeat(TAG_CHARS_MAX)));
    }

    /// The definition, word by word; exponential.
    fn naive(pattern: &[u8], text: &[u8]) -> bool {
        match pattern {
            [] => text.is_empty(),
            [b'*', rest @ ..] => (0..=text.len()).any(|skipped| naive(rest, &text[skipped..])),
            [b'?', rest @ ..] => !text.is_empty() && naive(rest, &text[1..]),
            [byte, rest @ ..] => text.first() == Some(byte) && naive(rest, &text[1..]),
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 4096, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn matching_is_as_the_definition_says(pattern in "[ab*?]{1,9}", tag in "[ab]{1,12}") {
            let wanted = naive(pattern.as_bytes(), tag.as_bytes());
            prop_assert_eq!(matches(&pattern, &tag), wanted);
        }
    }
}
