//! A tag is kept as it was written, and is safe as a file name.
#![no_main]

use jreg_oci::{Reference, TAG_CHARS_MAX, Tag};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(tag) = text.parse::<Tag>() else { return };
    assert_eq!(tag.as_str(), text);
    assert!(text.len() <= TAG_CHARS_MAX);
    assert!(!text.starts_with(['.', '-']) && !text.contains(['/', '\\', ':', '\0']));
    assert_eq!(text.parse(), Ok(Reference::Tag(tag)));
});
