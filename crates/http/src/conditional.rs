//! Conditional requests (RFC 9110 section 13). An entity tag is a digest in quotes.

use http::{HeaderMap, HeaderName, header};
use jreg_oci::{Digest, ErrorCode};
use jreg_registry::ReferencePrecondition;

use crate::error::ApiError;

/// The entity tags of a header.
#[derive(Debug, PartialEq, Eq)]
enum Tags<'a> {
    /// `*`.
    Any,
    Some(Vec<EntityTag<'a>>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct EntityTag<'a> {
    weak: bool,
    opaque: &'a str,
}

/// Whether the client already has the content (`If-None-Match`). A malformed header is ignored.
pub(crate) fn is_known(headers: &HeaderMap, digest: &Digest) -> bool {
    match tags(headers, header::IF_NONE_MATCH) {
        Ok(Some(Tags::Any)) => true,
        Ok(Some(Tags::Some(tags))) => {
            let digest = digest.to_string();
            // RFC 9110 section 13.1.2: weak comparison.
            tags.iter().any(|tag| tag.opaque == digest)
        }
        Ok(None) | Err(()) => false,
    }
}

/// Whether `Range` applies (`If-Range`): only if the client's part is of the same content.
pub(crate) fn range_applies(headers: &HeaderMap, digest: &Digest) -> bool {
    let Some(condition) = headers.get(header::IF_RANGE) else { return true };
    // Dates and weak tags never match: content has no modification date.
    condition.as_bytes() == format!("\"{digest}\"").as_bytes()
}

/// The precondition of a write (`If-Match`, `If-None-Match: *`).
pub(crate) fn condition(headers: &HeaderMap) -> Result<Option<ReferencePrecondition>, ApiError> {
    let bad = |message| ApiError::bad_request(ErrorCode::Unsupported, message);
    let read = |name| {
        tags(headers, name).map_err(|()| bad("an entity tag must be * or a digest in quotes"))
    };
    match (read(header::IF_MATCH)?, read(header::IF_NONE_MATCH)?) {
        (None, None) => Ok(None),
        (Some(Tags::Any), None) => Ok(Some(ReferencePrecondition::Exists)),
        (Some(Tags::Some(tags)), None) => Ok(Some(ReferencePrecondition::IsOneOf(digests(&tags)))),
        (None, Some(Tags::Any)) => Ok(Some(ReferencePrecondition::Absent)),
        (None, Some(Tags::Some(_))) => Err(bad("if-none-match must be * in a write")),
        (Some(_), Some(_)) => Err(bad("if-match and if-none-match exclude each other")),
    }
}

/// The digests that can match: weak tags never do (RFC 9110 section 13.1.1), nor do tags that are
/// not digests.
fn digests(tags: &[EntityTag<'_>]) -> Vec<Digest> {
    tags.iter().filter(|tag| !tag.weak).filter_map(|tag| tag.opaque.parse().ok()).collect()
}

fn tags(headers: &HeaderMap, name: HeaderName) -> Result<Option<Tags<'_>>, ()> {
    let mut tags = Vec::new();
    for value in headers.get_all(&name) {
        let value = value.to_str().map_err(|_| ())?.trim();
        if value == "*" {
            return Ok(Some(Tags::Any));
        }
        read_list(value, &mut tags)?;
    }
    match tags.is_empty() {
        true if headers.contains_key(&name) => Err(()),
        true => Ok(None),
        false => Ok(Some(Tags::Some(tags))),
    }
}

fn read_list<'a>(mut rest: &'a str, tags: &mut Vec<EntityTag<'a>>) -> Result<(), ()> {
    while !rest.is_empty() {
        let (weak, quoted) = match rest.strip_prefix("W/") {
            Some(quoted) => (true, quoted),
            None => (false, rest),
        };
        let (opaque, after) = quoted.strip_prefix('"').and_then(|q| q.split_once('"')).ok_or(())?;
        tags.push(EntityTag { weak, opaque });
        let after = after.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => return Err(()),
        };
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
    const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";

    fn headers(pairs: &[(&'static str, String)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (HeaderName::from_static(name), value.parse().unwrap()))
            .collect()
    }

    fn digest(text: &str) -> Digest {
        text.parse().unwrap()
    }

    #[test]
    fn if_none_match_compares_weakly() {
        for (value, known) in [
            (format!("\"{A}\""), true),
            (format!("W/\"{A}\""), true),
            (format!("\"{B}\", \"{A}\""), true),
            (format!("\"{B}\",W/\"{A}\" "), true),
            ("*".to_owned(), true),
            (format!("\"{B}\""), false),
            (A.to_owned(), false),
            (String::new(), false),
        ] {
            let headers = headers(&[("if-none-match", value.clone())]);
            assert_eq!(is_known(&headers, &digest(A)), known, "{value}");
        }
        assert!(!is_known(&HeaderMap::new(), &digest(A)));
    }

    #[test]
    fn if_range_compares_strongly() {
        for (value, applies) in [
            (format!("\"{A}\""), true),
            (format!("W/\"{A}\""), false),
            (format!("\"{B}\""), false),
            ("Wed, 21 Oct 2015 07:28:00 GMT".to_owned(), false),
        ] {
            let headers = headers(&[("if-range", value.clone())]);
            assert_eq!(range_applies(&headers, &digest(A)), applies, "{value}");
        }
        assert!(range_applies(&HeaderMap::new(), &digest(A)));
    }

    #[test]
    fn changes_take_conditions() {
        let of = |pairs: &[(&'static str, String)]| condition(&headers(pairs));
        assert_eq!(of(&[]).unwrap(), None);
        assert_eq!(
            of(&[("if-none-match", "*".into())]).unwrap(),
            Some(ReferencePrecondition::Absent)
        );
        assert_eq!(of(&[("if-match", "*".into())]).unwrap(), Some(ReferencePrecondition::Exists));
        let one_of = |digests: &[&str]| {
            Some(ReferencePrecondition::IsOneOf(digests.iter().map(|text| digest(text)).collect()))
        };
        let both = format!("\"{A}\", \"{B}\"");
        assert_eq!(of(&[("if-match", both)]).unwrap(), one_of(&[A, B]));
        assert_eq!(of(&[("if-match", format!("W/\"{A}\""))]).unwrap(), one_of(&[]));
        assert_eq!(of(&[("if-match", "\"other\"".into())]).unwrap(), one_of(&[]));
    }

    #[test]
    fn conditions_that_cannot_be_read_are_refused() {
        for pairs in [
            vec![("if-match", A.to_owned())],
            vec![("if-match", "\"open".to_owned())],
            vec![("if-match", String::new())],
            vec![("if-match", format!("\"{A}\" \"{B}\""))],
            vec![("if-none-match", format!("\"{A}\""))],
            vec![("if-match", "*".to_owned()), ("if-none-match", "*".to_owned())],
        ] {
            assert!(condition(&headers(&pairs)).is_err(), "{pairs:?}");
        }
    }
}
