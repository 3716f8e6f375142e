//! [`scan`]: finds every string of a JSON text without allocating.
//!
//! The references of a manifest must not depend on how a client interprets its media type, so the
//! extractor examines every string of the document, in any field. The text must be valid JSON;
//! the scan keeps a position and a depth only, whatever the document contains.

use std::borrow::Cow;

/// A string of the document, or the beginning of a value of the outermost object.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum FoundString<'a> {
    /// A field of the outermost object, by its name, and whether its value is other than `null`.
    Field(Cow<'a, str>, bool),
    /// A string that is a value, in this field of the outermost object.
    Value(Cow<'a, str>, &'a str),
}

/// Calls `found` with the fields of the outermost object and with every string value, in order.
/// Returns how deeply objects and arrays are nested at most.
///
/// A string with half of a surrogate pair is skipped: it is no valid text, hence no
/// digest and no name of a relevant field.
pub(crate) fn scan<'a>(json: &'a str, mut found: impl FnMut(FoundString<'a>)) -> usize {
    let bytes = json.as_bytes();
    let (mut at, mut depth, mut depth_max) = (0, 0_usize, 0);
    let mut field: &'a str = "";
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => {
                depth += 1;
                depth_max = depth_max.max(depth);
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b'"' => {
                let end = end_of_string(bytes, at);
                let raw = json.get(at..end).unwrap_or_default();
                at = end + 1;
                match value_after_colon(bytes, at) {
                    Some(value) if depth == 1 => {
                        field = raw;
                        if let Some(name) = unescaped(raw) {
                            found(FoundString::Field(name, bytes.get(value) != Some(&b'n')));
                        }
                    }
                    Some(_) => {}
                    None => {
                        if let Some(text) = unescaped(raw) {
                            found(FoundString::Value(text, field));
                        }
                    }
                }
            }
            _ => {}
        }
    }
    depth_max
}

/// Where the closing quote of the string is that begins at `at`.
pub(crate) fn end_of_string(bytes: &[u8], mut at: usize) -> usize {
    loop {
        match bytes.get(at) {
            None | Some(b'"') => return at,
            Some(b'\\') => at += 2,
            Some(_) => at += 1,
        }
    }
}

/// Where the value begins, if the string before `at` is the name of a field.
pub(crate) fn value_after_colon(bytes: &[u8], at: usize) -> Option<usize> {
    let colon = skip_space(bytes, at);
    (bytes.get(colon) == Some(&b':')).then(|| skip_space(bytes, colon + 1))
}

fn skip_space(bytes: &[u8], mut at: usize) -> usize {
    while bytes.get(at).is_some_and(|byte| matches!(byte, b' ' | b'\t' | b'\n' | b'\r')) {
        at += 1;
    }
    at
}

/// The text that is written so between quotes; `None` if there is no such text.
pub(crate) fn unescaped(raw: &str) -> Option<Cow<'_, str>> {
    if !raw.contains('\\') {
        return Some(Cow::Borrowed(raw));
    }
    serde_json::from_str(&format!("\"{raw}\"")).ok().map(Cow::Owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(json: &str) -> (Vec<String>, usize) {
        let mut all = Vec::new();
        let depth = scan(json, |found| {
            all.push(match found {
                FoundString::Field(name, is_given) => format!("{name}={is_given}"),
                FoundString::Value(text, field) => format!("{field}:{text}"),
            });
        });
        (all, depth)
    }

    #[test]
    fn every_string_is_found_with_its_field() {
        let json = r#" { "a" : "1", "b":[ "2", {"in":"3","x":{"y":["4"]}} ,5,true,null],
            "n" : null, "\u0063":"\u0035\"\\", "lone":"\ud800", "\ud800":"6", "e":{}, "z": -1.5e3 } "#;
        let (all, depth) = found(json);
        let expected = [
            "a=true",
            "a:1",
            "b=true",
            "b:2",
            "b:3",
            "b:4",
            "n=false",
            "c=true",
            "\\u0063:5\"\\",
            "lone=true",
            "\\ud800:6",
            "e=true",
            "z=true",
        ];
        assert_eq!(all, expected);
        assert_eq!(depth, 5);
    }

    #[test]
    fn what_is_no_object_has_no_fields() {
        assert_eq!(found(r#""x""#), (vec![":x".to_owned()], 0));
        assert_eq!(found("[[]]"), (Vec::new(), 2));
        assert_eq!(found(""), (Vec::new(), 0));
    }
}
