//! [`RepositoryName`]: the `<name>` of the distribution specification.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt;

/// The longest repository name, in characters (all of them ASCII). Clients limit the length of
/// host and name together to about this.
pub const NAME_CHARS_MAX: usize = 255;

/// The name of a repository (distribution-spec "Pulling manifests").
///
/// - 1 to [`NAME_CHARS_MAX`] characters, in components separated by `/`;
/// - a component is lowercase letters and digits, joined by `.`, `_`, `__` or any number of `-`;
/// - so no component is empty, or starts or ends with a separator: `..` and `_catalog` are none.
///
/// A clone shares the string.
///
/// ```
/// # use jreg_oci::RepositoryName;
/// assert!("library/alpine".parse::<RepositoryName>().is_ok());
/// assert!("a__b/c--d/e.f".parse::<RepositoryName>().is_ok());
/// assert!("Library/alpine".parse::<RepositoryName>().is_err());
/// assert!("library/../alpine".parse::<RepositoryName>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct RepositoryName(Arc<str>);

/// Why a string is not a repository name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid repository name {name:?}: {reason}")]
pub struct InvalidName {
    name: String,
    reason: &'static str,
}

impl RepositoryName {
    /// The name as a string.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

fn check(name: &str) -> Result<(), &'static str> {
    if name.is_empty() || name.len() > NAME_CHARS_MAX {
        return Err("must be 1 to 255 characters long");
    }
    if !name.split('/').all(is_component) {
        return Err("must be components of lowercase letters and digits, joined by one of . _ __ \
                    or by dashes, and separated by single slashes");
    }
    Ok(())
}

/// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*`
fn is_component(component: &str) -> bool {
    let is_alphanumeric = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let is_separator =
        |run: &[u8]| matches!(run, b"." | b"_" | b"__") || run.iter().all(|b| *b == b'-');
    let bytes = component.as_bytes();
    let ends_well = |end: Option<&u8>| end.is_some_and(is_alphanumeric);
    let mut runs = bytes.chunk_by(|a, b| is_alphanumeric(a) == is_alphanumeric(b));
    ends_well(bytes.first())
        && ends_well(bytes.last())
        && runs.all(|run| run.first().is_some_and(is_alphanumeric) || is_separator(run))
}

impl FromStr for RepositoryName {
    type Err = InvalidName;

    fn from_str(name: &str) -> Result<Self, InvalidName> {
        match check(name) {
            Ok(()) => Ok(Self(name.into())),
            Err(reason) => Err(InvalidName { name: excerpt(name), reason }),
        }
    }
}

impl TryFrom<&str> for RepositoryName {
    type Error = InvalidName;

    fn try_from(name: &str) -> Result<Self, InvalidName> {
        name.parse()
    }
}

impl TryFrom<String> for RepositoryName {
    type Error = InvalidName;

    fn try_from(name: String) -> Result<Self, InvalidName> {
        name.parse()
    }
}

impl From<RepositoryName> for String {
    fn from(name: RepositoryName) -> Self {
        name.0.as_ref().to_owned()
    }
}

impl AsRef<str> for RepositoryName {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for RepositoryName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}
