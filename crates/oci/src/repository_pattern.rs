//! [`RepositoryPattern`]: a pattern over repository names.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::RepositoryName;
use crate::glob::glob_matches;
use crate::name::NAME_CHARS_MAX;

/// Maximum `**` in one pattern. Each makes matching slower.
const DOUBLE_STARS_MAX: usize = 4;

/// A pattern over repository names.
///
/// ```text
/// pattern   = component *( "/" component )
/// component = "**" / 1*( letter / digit / "." / "_" / "-" / "*" )
/// ```
///
/// - `*` within a component stands for any characters of that component, none included;
/// - `**` as the last component stands for one or more components, elsewhere for any number of
///   them, none included: `team/**` is everything below `team` and not `team` itself, `**/app` is
///   `app` at any depth, `**` is every repository;
/// - letters are lowercase, and a pattern that matches no repository name (`..`, `a//b`, `A`) is rejected.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryPattern(String);

/// Error of an invalid pattern.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid repository pattern {pattern:?}: {reason}")]
pub struct InvalidRepositoryPattern {
    pattern: String,
    reason: &'static str,
}

impl RepositoryPattern {
    /// The pattern in its original spelling.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether it matches a repository.
    pub fn matches(&self, name: &RepositoryName) -> bool {
        if self.0 == "**" {
            return true;
        }
        let pattern: Vec<&str> = self.0.split('/').collect();
        let name: Vec<&str> = name.as_str().split('/').collect();
        components_match(&pattern, &name)
    }
}

/// Bounded by [`DOUBLE_STARS_MAX`] nested loops over the components of a name.
fn components_match(pattern: &[&str], name: &[&str]) -> bool {
    match (pattern, name) {
        ([], rest) => rest.is_empty(),
        (["**"], rest) => !rest.is_empty(),
        (["**", later @ ..], rest) => (0..=rest.len()).any(|skipped| match rest.get(skipped..) {
            Some(rest) => components_match(later, rest),
            None => false,
        }),
        ([first, later @ ..], [component, rest @ ..]) => {
            glob_matches(first.as_bytes(), component.as_bytes()) && components_match(later, rest)
        }
        ([_, ..], []) => false,
    }
}

fn check(pattern: &str) -> Result<(), &'static str> {
    if pattern.is_empty() || pattern.len() > NAME_CHARS_MAX {
        return Err("it must be 1 to 255 characters long");
    }
    let is_allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"._-*/".contains(&b);
    if !pattern.bytes().all(is_allowed) {
        return Err("it must be lowercase letters, digits and . _ - * /");
    }
    if pattern.split('/').filter(|component| *component == "**").count() > DOUBLE_STARS_MAX {
        return Err("it may have ** at most four times");
    }
    for component in pattern.split('/') {
        if component == "**" {
            continue;
        }
        if component.contains("**") {
            return Err("** must be a whole component");
        }
        if component.replace('*', "a").parse::<RepositoryName>().is_err() {
            return Err("no repository name can match it");
        }
    }
    Ok(())
}

impl FromStr for RepositoryPattern {
    type Err = InvalidRepositoryPattern;

    fn from_str(pattern: &str) -> Result<Self, InvalidRepositoryPattern> {
        let excerpt = || pattern.chars().take(80).collect();
        match check(pattern) {
            Ok(()) => Ok(Self(pattern.to_owned())),
            Err(reason) => Err(InvalidRepositoryPattern { pattern: excerpt(), reason }),
        }
    }
}

impl TryFrom<String> for RepositoryPattern {
    type Error = InvalidRepositoryPattern;

    fn try_from(pattern: String) -> Result<Self, InvalidRepositoryPattern> {
        pattern.parse()
    }
}

impl From<RepositoryPattern> for String {
    fn from(pattern: RepositoryPattern) -> Self {
        pattern.0
    }
}

impl fmt::Display for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn matches(pattern: &str, name: &str) -> bool {
        pattern.parse::<RepositoryPattern>().unwrap().matches(&name.parse().unwrap())
    }

    #[test]
    fn stars_stay_in_a_component_and_double_stars_go_across() {
        for (pattern, yes, no) in [
            ("app", &["app"][..], &["app2", "team/app", "ap"][..]),
            ("*", &["app", "x"], &["team/app"]),
            ("team/*", &["team/app"], &["team", "team/a/b", "teams/app"]),
            ("team/**", &["team/app", "team/a/b"], &["team", "teams/app"]),
            ("**", &["a", "a/b/c"], &[]),
            ("**/app", &["app", "a/app", "a/b/app"], &["app/a", "a/app2"]),
            ("a/**/z", &["a/z", "a/b/z", "a/b/c/z"], &["a", "z", "a/z/b"]),
            ("a*c", &["ac", "abc", "abbc"], &["ab", "abcd", "a/c"]),
            ("*-dev", &["app-dev", "x-dev"], &["dev", "app-devel"]),
            ("a*b*c", &["abc", "a1b2c", "abbbc"], &["acb", "ab"]),
            ("**/a/**", &["a/b", "x/a/b", "x/a/b/c"], &["a", "x/a"]),
        ] {
            for name in yes {
                assert!(matches(pattern, name), "{pattern} {name}");
            }
            for name in no {
                assert!(!matches(pattern, name), "{pattern} {name}");
            }
        }
    }

    #[test]
    fn patterns_that_match_no_name_are_rejected() {
        let long = "a".repeat(256);
        for pattern in [
            "",
            "..",
            "a/..",
            "../a",
            "a/../b",
            ".",
            "/a",
            "a/",
            "a//b",
            "A",
            "Team/**",
            "a%2fb",
            "a%2e%2e",
            "ä",
            "ａ",
            "a b",
            "a\0",
            "a\\b",
            "a***",
            "x**",
            "a**b",
            "-a",
            "a-",
            "a..b",
            "[a]",
            "a?",
            "{a,b}",
            "!a",
            "**/**/**/**/**",
            &long,
        ] {
            assert!(pattern.parse::<RepositoryPattern>().is_err(), "{pattern:?}");
        }
    }

    #[test]
    fn many_stars_end_soon() {
        let pattern = "a*".repeat(100) + "b";
        assert!(!matches(&pattern, &"a".repeat(255)));
        assert!(!matches("**/a/**/a/**/a/**/b", &["a"; 120].join("/")));
    }
}
