//! [`Tag`]: a human's name for a manifest.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt;

/// The longest tag, in characters (all of them ASCII).
pub const TAG_CHARS_MAX: usize = 128;

/// A tag (distribution-spec "Pulling manifests").
///
/// - 1 to [`TAG_CHARS_MAX`] of the letters `A` to `Z` and `a` to `z`, digits, `_`, `.` and `-`;
/// - it starts with a letter, a digit or `_`; upper and lower case differ.
///
/// A clone shares the string.
///
/// ```
/// # use jreg_oci::Tag;
/// assert!("v1.2.3_rc-1".parse::<Tag>().is_ok());
/// assert!("-rc".parse::<Tag>().is_err());
/// assert!("1.0+build".parse::<Tag>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Tag(Arc<str>);

/// Why a string is not a tag.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid tag {tag:?}: {reason}")]
pub struct InvalidTag {
    tag: String,
    reason: &'static str,
}

impl Tag {
    /// The tag as a string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(tag: &str) -> Result<(), &'static str> {
    let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if tag.is_empty() || tag.len() > TAG_CHARS_MAX {
        return Err("must be 1 to 128 characters long");
    }
    if !tag.bytes().next().is_some_and(is_word) {
        return Err("must start with a letter, a digit or _");
    }
    if !tag.bytes().all(|b| is_word(b) || matches!(b, b'.' | b'-')) {
        return Err("may contain only letters, digits and _ . -");
    }
    Ok(())
}

impl FromStr for Tag {
    type Err = InvalidTag;

    fn from_str(tag: &str) -> Result<Self, InvalidTag> {
        match check(tag) {
            Ok(()) => Ok(Self(tag.into())),
            Err(reason) => Err(InvalidTag { tag: excerpt(tag), reason }),
        }
    }
}

impl TryFrom<&str> for Tag {
    type Error = InvalidTag;

    fn try_from(tag: &str) -> Result<Self, InvalidTag> {
        tag.parse()
    }
}

impl TryFrom<String> for Tag {
    type Error = InvalidTag;

    fn try_from(tag: String) -> Result<Self, InvalidTag> {
        tag.parse()
    }
}

impl From<Tag> for String {
    fn from(tag: Tag) -> Self {
        tag.0.as_ref().to_owned()
    }
}

impl AsRef<str> for Tag {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}
