//! The collector comes to the same references as the writer, and others can read what is accepted.
//!
//! Input: a `Content-Type` or nothing, a line feed, the manifest.
#![no_main]

use std::collections::HashSet;

use jreg_oci::{LOOKUPS_MAX, Manifest, MediaType, ReferenceKind};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let end = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(0);
    let (header, manifest) = bytes.split_at(end);
    let header = std::str::from_utf8(header).unwrap_or_default();
    let content_type = MediaType::from_content_type(header).ok();
    let Ok(written) = Manifest::parse(content_type.as_ref(), manifest) else { return };

    let collected = Manifest::parse_stored(&written.media_type, manifest);
    assert_eq!(collected.as_ref(), Ok(&written));
    // Half of a surrogate pair is no text in Rust; everything else that is accepted is read.
    let others = serde_json::from_slice::<serde_json::Value>(manifest);
    assert!(others.is_ok_and(|v| v.is_object()) || manifest.windows(2).any(|w| w == b"\\u"));
    assert!(written.references.len() <= LOOKUPS_MAX);
    let digests: HashSet<_> = written.references.iter().map(|r| &r.digest).collect();
    assert_eq!(digests.len(), written.references.len());
    assert!(written.references.iter().all(|r| !r.required || r.kind != ReferenceKind::Any));
});
