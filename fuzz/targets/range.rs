//! Whatever ranges are asked for, the parts lie in the blob and do not overlap.
//!
//! Input: a `Range` header, a line feed, the size of a blob.
#![no_main]

use jreg_oci::{RANGES_MAX, RangeHeader, Ranges};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let (header, size) = text.rsplit_once('\n').unwrap_or((text, "100"));
    let size: u64 = size.parse().unwrap_or(100);
    let Some(range) = RangeHeader::parse(header) else { return };
    let mut parts = match range.resolve(size) {
        Ranges::Whole | Ranges::Unsatisfiable => return,
        Ranges::Single(start, end) => vec![(start, end)],
        Ranges::Multi(parts) => {
            assert!((2..=RANGES_MAX).contains(&parts.len()));
            parts
        }
    };
    assert!(parts.iter().all(|(start, end)| start < end && *end <= size));
    parts.sort_unstable();
    assert!(parts.windows(2).all(|pair| pair[0].1 <= pair[1].0));
});
