//! [`MediaTypePattern`]: which media types an operator allows.

use std::fmt;
use std::str::FromStr;

use crate::{InvalidMediaType, MediaType};

/// A media type, or all of one type (`application/*`), or all (`*/*`). Upper and lower case are
/// ignored.
///
/// ```
/// # use jreg_oci::MediaTypePattern;
/// let pattern: MediaTypePattern = "application/*".parse().unwrap();
/// assert!(pattern.matches(&"application/json".parse().unwrap()));
/// assert!(!pattern.matches(&"text/html".parse().unwrap()));
/// assert!("application".parse::<MediaTypePattern>().is_err());
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MediaTypePattern(PatternParts);

#[derive(Clone, Debug, PartialEq, Eq)]
enum PatternParts {
    All,
    /// The type before the slash.
    Type(String),
    Exact(MediaType),
}

impl MediaTypePattern {
    /// `application/*`: no browser shows such content as a page.
    pub fn application() -> Self {
        Self(PatternParts::Type("application".to_owned()))
    }

    /// Whether a media type is among them.
    pub fn matches(&self, media_type: &MediaType) -> bool {
        match &self.0 {
            PatternParts::All => true,
            PatternParts::Type(kind) => {
                let of = media_type.as_str().split('/').next().unwrap_or_default();
                of.eq_ignore_ascii_case(kind)
            }
            PatternParts::Exact(exact) => media_type.is(exact.as_str()),
        }
    }
}

impl FromStr for MediaTypePattern {
    type Err = InvalidMediaType;

    fn from_str(text: &str) -> Result<Self, InvalidMediaType> {
        if text == "*/*" {
            return Ok(Self(PatternParts::All));
        }
        match text.strip_suffix("/*") {
            // Any subtype shows whether the type is one.
            Some(kind) => {
                format!("{kind}/x").parse::<MediaType>()?;
                Ok(Self(PatternParts::Type(kind.to_owned())))
            }
            None => text.parse().map(|exact| Self(PatternParts::Exact(exact))),
        }
    }
}

impl fmt::Display for MediaTypePattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            PatternParts::All => f.write_str("*/*"),
            PatternParts::Type(kind) => write!(f, "{kind}/*"),
            PatternParts::Exact(exact) => f.write_str(exact.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn patterns_match_whole_types() {
        for (pattern, media_type, matches) in [
            ("application/*", "application/vnd.oci.image.index.v1+json", true),
            ("Application/*", "APPLICATION/json", true),
            ("application/*", "applications/json", false),
            ("application/*", "text/html", false),
            ("application/json", "application/JSON", true),
            ("application/json", "application/json5", false),
            ("*/*", "text/html", true),
        ] {
            let pattern: MediaTypePattern = pattern.parse().unwrap();
            assert_eq!(pattern.matches(&media_type.parse().unwrap()), matches, "{pattern}");
            assert_eq!(pattern.to_string().parse::<MediaTypePattern>().unwrap(), pattern);
        }
        for wrong in ["", "*", "*/json", "a b/*", "text", "text/*/*"] {
            assert!(wrong.parse::<MediaTypePattern>().is_err(), "{wrong}");
        }
    }
}
