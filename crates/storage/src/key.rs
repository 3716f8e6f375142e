//! [`Key`]: the name of an object, valid on every store by construction.

use std::borrow::Borrow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The longest key, in bytes (S3's limit).
pub const KEY_BYTES_MAX: usize = 1024;
/// The longest component of a key, in bytes (the file name limit of common file systems).
pub const COMPONENT_BYTES_MAX: usize = 255;

/// The name of an object: components separated by `/`.
///
/// - 1 to [`KEY_BYTES_MAX`] bytes of printable ASCII without space or backslash;
/// - no component is empty, longer than [`COMPONENT_BYTES_MAX`], or starts with `.`: a folder
///   store keeps its own files under such names.
///
/// ```
/// # use jreg_storage::Key;
/// assert!("blobs/sha256/ab/cd".parse::<Key>().is_ok());
/// assert!("../etc/passwd".parse::<Key>().is_err());
/// assert!("a//b".parse::<Key>().is_err());
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Key(String);

/// Why a string is not a key.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid store key {key:?}: {reason}")]
pub struct InvalidKey {
    key: String,
    reason: &'static str,
}

impl Key {
    /// The key as a string.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether a string is a key, without making one of it.
    pub(crate) fn is_valid(key: &str) -> bool {
        check(key).is_ok()
    }

    /// Whether any key has this prefix.
    pub(crate) fn may_start_with(prefix: &str) -> bool {
        prefix.is_empty() || Self::is_valid(prefix) || Self::is_valid(&format!("{prefix}0"))
    }
}

/// Keys are checked by the thousand in listings, so each check is a pass over all bytes without an early
/// exit, which is vectorized.
fn check(key: &str) -> Result<(), &'static str> {
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return Err("must be 1 to 1024 bytes long");
    }
    let is_allowed = |byte: u8| byte.is_ascii_graphic() & (byte != b'\\');
    if !key.bytes().fold(true, |all, byte| all & is_allowed(byte)) {
        return Err("must be printable ASCII without space or backslash");
    }
    let is_long = |component: &str| component.len() > COMPONENT_BYTES_MAX;
    let has_long = key.len() > COMPONENT_BYTES_MAX && key.split('/').any(is_long);
    if has_long || key.ends_with('/') || is_at_start(key, b'/') {
        return Err("each component must be 1 to 255 bytes long");
    }
    if is_at_start(key, b'.') {
        return Err("no component may start with a dot");
    }
    Ok(())
}

/// Whether this byte is at the start of the key or after a `/`.
fn is_at_start(key: &str, wanted: u8) -> bool {
    let bytes = key.as_bytes();
    let (_, later) = bytes.split_at(bytes.len().min(1));
    let after_slash =
        |(left, right): (&u8, &u8)| u8::from(*left == b'/') & u8::from(*right == wanted);
    let found = bytes.iter().zip(later).fold(0, |found, pair| found | after_slash(pair));
    found != 0 || bytes.first() == Some(&wanted)
}

impl TryFrom<String> for Key {
    type Error = InvalidKey;

    fn try_from(key: String) -> Result<Self, InvalidKey> {
        match check(&key) {
            Ok(()) => Ok(Self(key)),
            Err(reason) => Err(InvalidKey { key, reason }),
        }
    }
}

impl FromStr for Key {
    type Err = InvalidKey;

    fn from_str(key: &str) -> Result<Self, InvalidKey> {
        Self::try_from(key.to_owned())
    }
}

impl Borrow<str> for Key {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl From<Key> for String {
    fn from(key: Key) -> Self {
        key.0
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_at_the_limits_are_accepted() {
        let component = "x".repeat(COMPONENT_BYTES_MAX);
        let longest = format!("{component}/{component}/{component}/{component}/");
        assert_eq!(longest.len(), KEY_BYTES_MAX);
        for key in ["a", "!", "a.b/c..", "_/~", &component, longest.trim_end_matches('/')] {
            assert_eq!(key.parse::<Key>().map(String::from).as_deref(), Ok(key));
        }
    }

    #[test]
    fn a_prefix_is_known_that_no_key_has() {
        let component = "x".repeat(COMPONENT_BYTES_MAX);
        for prefix in ["", "a", "a/", "a.", "a/b", &component] {
            assert!(Key::may_start_with(prefix), "{prefix:?}");
        }
        for prefix in ["/", "/a", "a//", "a//b", "..", "a/../b", "./", "a/.", "é", "a\0", "a b"] {
            assert!(!Key::may_start_with(prefix), "{prefix:?}");
        }
    }

    #[test]
    fn strings_that_are_no_key_are_refused() {
        let component = "x".repeat(COMPONENT_BYTES_MAX + 1);
        let long = "x/".repeat(KEY_BYTES_MAX / 2) + "x";
        for refused in [
            "", "/", "/a", "a/", "a//b", ".", "..", "a/..", "a/../b", "./a", "a/.b", "a b", "a\\b",
            "a\0", "a\n", "a\u{7f}", "é", &component, &long,
        ] {
            assert!(refused.parse::<Key>().is_err(), "{refused:?}");
        }
    }

    #[test]
    fn order_of_keys_is_the_order_of_their_bytes() {
        let mut keys: Vec<Key> =
            ["a0", "a/b", "a.b", "a-b", "a"].map(|key| key.parse().expect(key)).into();
        keys.sort();
        assert_eq!(
            keys.iter().map(Key::as_str).collect::<Vec<_>>(),
            ["a", "a-b", "a.b", "a/b", "a0"]
        );
    }
}
