//! [`AmbiguousField`]: names of fields that clients read differently.
//!
//! Of two fields with one name some JSON parsers use the first and some the last; those written in Go
//! also take a field whose name differs in case for the one that they know. So a document could be one
//! image for a scanner and another for the client that runs it (CVE-2021-41190).

use std::borrow::Cow;
use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::scan::{end_of_string, unescaped, value_after_colon};

/// The fields that clients read of manifests, descriptors and platforms.
const KNOWN: [&str; 21] = [
    "annotations",
    "architecture",
    "artifactType",
    "blobs",
    "config",
    "data",
    "digest",
    "features",
    "fsLayers",
    "layers",
    "manifests",
    "mediaType",
    "os",
    "os.features",
    "os.version",
    "platform",
    "schemaVersion",
    "size",
    "subject",
    "urls",
    "variant",
];

/// A field that a client may take for another one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AmbiguousField<'j> {
    /// An object has it more than once, perhaps in another case.
    Repeated(Cow<'j, str>),
    /// An object that clients read has it in another case only.
    OtherCase(&'static str),
}

/// What the names in an object, or in the objects of an array, mean.
#[derive(Clone, Copy, PartialEq, Eq)]
enum NamesOf {
    /// Fields that clients read: the manifest, and the values of known fields.
    Fields,
    /// Those of annotations, which may be any.
    Annotations,
    /// Fields that clients may not know.
    Unknown,
}

/// An object or array that is being read.
struct OpenValue {
    names_of: NamesOf,
    is_array: bool,
    /// Its known fields, a bit for each.
    fields: u32,
    /// The hashes of its names.
    names: HashSet<u64>,
}

/// Searches valid JSON for ambiguous fields. Memory is bounded by the depth of nesting and the number
/// of names in the objects that contain each other.
pub(crate) fn ambiguous_field(json: &str) -> Option<AmbiguousField<'_>> {
    let (bytes, hasher) = (json.as_bytes(), RandomState::new());
    let (mut at, mut open): (usize, Vec<OpenValue>) = (0, Vec::new());
    let (mut named, mut other_case) = (None, None);
    while let Some(byte) = bytes.get(at) {
        at += 1;
        match byte {
            b'{' | b'[' => {
                let names_of = named.take().unwrap_or_else(|| names_of_item(open.last()));
                let (is_array, fields, names) = (*byte == b'[', 0, HashSet::new());
                open.push(OpenValue { names_of, is_array, fields, names });
            }
            b'}' | b']' => drop(open.pop()),
            b'"' => {
                let end = end_of_string(bytes, at);
                let raw = json.get(at..end).unwrap_or_default();
                at = end + 1;
                let (Some(value), Some(object)) = (value_after_colon(bytes, at), open.last_mut())
                else {
                    continue;
                };
                let Some(name) = unescaped(raw) else { continue };
                if !object.names.insert(hasher.hash_one(&name)) {
                    return Some(AmbiguousField::Repeated(name));
                }
                let field = known(&name).filter(|_| object.names_of != NamesOf::Annotations);
                named =
                    matches!(bytes.get(value), Some(b'{' | b'[')).then(|| names_of_value(field));
                let Some(index) = field else { continue };
                let field = KNOWN.get(index).copied().unwrap_or_default();
                if object.fields & 1 << index != 0 {
                    return Some(AmbiguousField::Repeated(field.into()));
                }
                object.fields |= 1 << index;
                if object.names_of == NamesOf::Fields && name != field {
                    other_case = Some(AmbiguousField::OtherCase(field));
                }
            }
            _ => {}
        }
    }
    other_case
}

/// What the names mean in the value of a field, a known one or not.
fn names_of_value(field: Option<usize>) -> NamesOf {
    match field.and_then(|index| KNOWN.get(index)) {
        Some(&"annotations") => NamesOf::Annotations,
        Some(_) => NamesOf::Fields,
        None => NamesOf::Unknown,
    }
}

/// What they mean in a value without a name: an item of an array, or the whole document.
fn names_of_item(within: Option<&OpenValue>) -> NamesOf {
    match within {
        None => NamesOf::Fields,
        Some(array) if array.is_array => array.names_of,
        Some(_) => NamesOf::Unknown,
    }
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
            (r#"{"layers":[],"Layers":[]}"#, Some(Repeated("layers".into()))),
            (r#"{"layers":[],"layers":[]}"#, Some(Repeated("layers".into()))),
            (r#"{"layers":[],"\u004cayers":[]}"#, Some(Repeated("layers".into()))),
            ("{\"layers\":[],\"layer\u{17f}\":[]}", Some(Repeated("layers".into()))),
            (r#"{"layers":[{"digest":"a","DIGEST":"b"}]}"#, Some(Repeated("digest".into()))),
            (r#"{"subject":{"size":1,"x":{},"size":2}}"#, Some(Repeated("size".into()))),
            (r#"{"Annotations":{},"annotations":{}}"#, Some(Repeated("annotations".into()))),
            (r#"{"mediaType":"a", "Subject" : {}}"#, Some(OtherCase("subject"))),
            (r#"{"layers":[{"digest":"a"},{"digest":"b"}],"config":{"digest":"c"}}"#, None),
            (r#"{"annotations":{"size":"1","Size":"2"},"layers":[{"size":1}]}"#, None),
            (r#"{"layers":[{"annotations":{"urls":"","URLs":""},"size":1}]}"#, None),
            (r#"{"a":"size","b":"Size","x":[{"Size":1}]}"#, None),
            (r#"{"other":1,"Other":3}"#, None),
            (
                r#"{"other":1,"x":[{"other":3},{"other":4}],"other":2}"#,
                Some(Repeated("other".into())),
            ),
            (r#"{"annotations":{"a":"1","a":"2"}}"#, Some(Repeated("a".into()))),
            (r#"{"x":{"annotations":{"a":"1","A":"2"}}}"#, None),
            (r#"{"layers":[{"digest":"a","SIZE":1}]}"#, Some(OtherCase("size"))),
            (r#"{"manifests":[{"Platform":{}}]}"#, Some(OtherCase("platform"))),
            (r#"{"manifests":[{"platform":{"os":"a","OS":"b"}}]}"#, Some(Repeated("os".into()))),
            (
                r#"{"manifests":[{"platform":{"architecture":"a","architecture":"b"}}]}"#,
                Some(Repeated("architecture".into())),
            ),
            (r#"{"manifests":[{"platform":{"os.Version":"b"}}]}"#, Some(OtherCase("os.version"))),
            (r#"{"layers":[[{"Digest":"b"}]]}"#, Some(OtherCase("digest"))),
            (r#"{"x":{"layers":[{"digest":1,"Digest":"b"}]}}"#, Some(Repeated("digest".into()))),
            (r#"["size","size"]"#, None),
            ("", None),
        ] {
            assert_eq!(ambiguous_field(json), expected, "{json}");
        }
    }
}
