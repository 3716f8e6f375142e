//! [`AmbiguousField`]: names of fields that clients read differently.
//!
//! Of two fields with one name some JSON parsers use the first and some the last; those written in Go
//! also take a field whose name differs in case for the one that they know. So a document could be one
//! image for a scanner and another for the client that runs it (CVE-2021-41190).

use std::borrow::Cow;

use crate::scan::{end_of_string, unescaped, value_after_colon};

/// The fields that clients read of manifests and descriptors.
const KNOWN: [&str; 15] = [
    "annotations",
    "artifactType",
    "blobs",
    "config",
    "data",
    "digest",
    "fsLayers",
    "layers",
    "manifests",
    "mediaType",
    "platform",
    "schemaVersion",
    "size",
    "subject",
    "urls",
];

/// A field that a client may take for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AmbiguousField {
    /// An object has it more than once, perhaps in another case.
    Repeated(&'static str),
    /// The outermost object has it in another case only.
    OtherCase(&'static str),
}

/// An object that is being read.
#[derive(Clone, Copy, Default)]
struct OpenObject {
    /// Its known fields, a bit for each.
    fields: u32,
    /// Its names are those of annotations, and may be any.
    is_map: bool,
}

/// Searches valid JSON for ambiguous fields. Memory is bounded by the depth of nesting.
pub(crate) fn ambiguous_field(json: &str) -> Option<AmbiguousField> {
    let bytes = json.as_bytes();
    let (mut at, mut open): (usize, Vec<OpenObject>) = (0, Vec::new());
    let (mut is_map, mut other_case) = (false, None);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'{' => open.push(OpenObject { is_map: std::mem::take(&mut is_map), fields: 0 }),
            b'}' => drop(open.pop()),
            b'"' => {
                let end = end_of_string(bytes, at);
                let raw = json.get(at..end).unwrap_or_default();
                at = end + 1;
                let is_outermost = open.len() == 1;
                let (Some(value), Some(object)) = (value_after_colon(bytes, at), open.last_mut())
                else {
                    continue;
                };
                let Some(name) = unescaped(raw).filter(|_| !object.is_map) else { continue };
                let Some(index) = known(&name) else { continue };
                let field = KNOWN.get(index).copied().unwrap_or_default();
                if object.fields & 1 << index != 0 {
                    return Some(AmbiguousField::Repeated(field));
                }
                object.fields |= 1 << index;
                is_map = field == "annotations" && bytes.get(value) == Some(&b'{');
                if is_outermost && name != field {
                    other_case = Some(AmbiguousField::OtherCase(field));
                }
            }
            _ => {}
        }
    }
    other_case
}

/// Which known field a name is for a client that ignores case.
fn known(name: &str) -> Option<usize> {
    let name = folded(name);
    KNOWN.iter().position(|known| known.eq_ignore_ascii_case(&name))
}

/// Whether two names are one for a client that ignores case, one of them being ASCII.
pub(crate) fn is_same_field(name: &str, ascii: &str) -> bool {
    folded(name).eq_ignore_ascii_case(ascii)
}

/// The two letters beyond ASCII that Unicode folds to ASCII: the long s and the Kelvin sign.
fn folded(name: &str) -> Cow<'_, str> {
    if name.is_ascii() {
        return Cow::Borrowed(name);
    }
    Cow::Owned(name.replace('\u{17f}', "s").replace('\u{212a}', "k"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_that_clients_read_differently_are_found() {
        use AmbiguousField::{OtherCase, Repeated};
        for (json, expected) in [
            (r#"{"layers":[],"Layers":[]}"#, Some(Repeated("layers"))),
            (r#"{"layers":[],"layers":[]}"#, Some(Repeated("layers"))),
            (r#"{"layers":[],"\u004cayers":[]}"#, Some(Repeated("layers"))),
            ("{\"layers\":[],\"layer\u{17f}\":[]}", Some(Repeated("layers"))),
            (r#"{"layers":[{"digest":"a","DIGEST":"b"}]}"#, Some(Repeated("digest"))),
            (r#"{"subject":{"size":1,"x":{},"size":2}}"#, Some(Repeated("size"))),
            (r#"{"Annotations":{},"annotations":{}}"#, Some(Repeated("annotations"))),
            (r#"{"mediaType":"a", "Subject" : {}}"#, Some(OtherCase("subject"))),
            (r#"{"layers":[{"digest":"a"},{"digest":"b"}],"config":{"digest":"c"}}"#, None),
            (r#"{"annotations":{"size":"1","Size":"2"},"layers":[{"size":1}]}"#, None),
            (r#"{"layers":[{"annotations":{"urls":"","URLs":""},"size":1}]}"#, None),
            (r#"{"a":"size","b":"Size","x":[{"Size":1}]}"#, None),
            (r#"{"other":1,"other":2,"Other":3}"#, None),
            (r#"["size","size"]"#, None),
            ("", None),
        ] {
            assert_eq!(ambiguous_field(json), expected, "{json}");
        }
    }
}
