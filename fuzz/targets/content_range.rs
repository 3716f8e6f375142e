//! The range of a chunk is not empty, and reads the same when it is written again.
#![no_main]

use jreg_oci::ContentRange;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(range) = ContentRange::parse(text) else { return };
    assert!(range.start <= range.end_inclusive && range.len() > 0);
    assert_eq!(ContentRange::parse(&range.to_string()), Ok(range));
    assert_eq!(ContentRange::parse(&format!("bytes {range}/*")), Ok(range));
});
