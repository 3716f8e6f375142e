//! Ranges of reads and of uploads.

use jreg_oci::{ContentRange, RANGES_MAX, RangeHeader, Ranges};
use proptest::prelude::*;

fn resolve(header: &str, size: u64) -> Ranges {
    RangeHeader::parse(header).map_or(Ranges::Whole, |range| range.resolve(size))
}

fn multi(parts: &[(u64, u64)]) -> Ranges {
    Ranges::Multi(parts.to_vec())
}

#[test]
fn what_is_no_list_of_byte_ranges_is_ignored() {
    let ignored = [
        "",
        "bytes",
        "bytes=",
        "bytes=,",
        "bytes= , ",
        "bytes=-",
        "bytes=abc",
        "bytes=a-b",
        "bytes=1",
        "bytes=1-2-3",
        "bytes=--1",
        "bytes=1--2",
        "bytes=+1-2",
        "bytes=1 - 2",
        "bytes=1-2,x",
        "bytes=0x1-2",
        "bytes=١-٢",
        "bytes 0-1",
        "bytes =0-1",
        "bytes:0-1",
        "0-1",
        "items=0-1",
        "=0-1",
        "bytes=0-1;bytes=2-3",
        "bytes=*",
    ];
    for header in ignored {
        assert_eq!(RangeHeader::parse(header), None, "{header:?}");
    }
}

#[test]
fn one_range_is_held_against_the_size() {
    let rows = [
        ("bytes=0-0", Ranges::Single(0, 1)),
        ("bytes=0-99", Ranges::Single(0, 100)),
        ("bytes=10-19", Ranges::Single(10, 20)),
        ("bytes=99-99", Ranges::Single(99, 100)),
        ("bytes=0-", Ranges::Single(0, 100)),
        ("bytes=99-", Ranges::Single(99, 100)),
        ("bytes=50-1000", Ranges::Single(50, 100)),
        ("bytes=50-18446744073709551615", Ranges::Single(50, 100)),
        ("bytes=50-99999999999999999999999", Ranges::Single(50, 100)),
        ("bytes=-1", Ranges::Single(99, 100)),
        ("bytes=-100", Ranges::Single(0, 100)),
        ("bytes=-500", Ranges::Single(0, 100)),
        ("bytes=-99999999999999999999999", Ranges::Single(0, 100)),
        ("BYTES=0-0", Ranges::Single(0, 1)),
        (" bytes=\t0-0 ,", Ranges::Single(0, 1)),
        ("bytes=000-0001", Ranges::Single(0, 2)),
        ("bytes=100-", Ranges::Unsatisfiable),
        ("bytes=100-200", Ranges::Unsatisfiable),
        ("bytes=500-0", Ranges::Unsatisfiable),
        ("bytes=2-1", Ranges::Unsatisfiable),
        ("bytes=-0", Ranges::Unsatisfiable),
        ("bytes=18446744073709551615-", Ranges::Unsatisfiable),
        ("bytes=99999999999999999999999-", Ranges::Unsatisfiable),
    ];
    for (header, expected) in rows {
        assert_eq!(resolve(header, 100), expected, "{header:?}");
    }
}

#[test]
fn several_ranges_are_reduced_to_what_can_be_sent() {
    let rows = [
        ("bytes=0-9,20-29", multi(&[(0, 10), (20, 30)]), "kept"),
        ("bytes=20-29, 0-9", multi(&[(20, 30), (0, 10)]), "in the order asked for"),
        ("bytes=0-9,-10", multi(&[(0, 10), (90, 100)]), "with a suffix"),
        ("bytes=0-9,10-19", multi(&[(0, 10), (10, 20)]), "adjacent are not merged"),
        ("bytes=0-9,5-19", Ranges::Single(0, 20), "overlapping are merged"),
        ("bytes=30-39,5-19,0-9", multi(&[(0, 20), (30, 40)]), "overlapping give up the order"),
        ("bytes=0-9,0-9", Ranges::Single(0, 10), "twice the same"),
        ("bytes=0-29,10-19", Ranges::Single(0, 30), "one within the other"),
        ("bytes=0-9,200-", Ranges::Single(0, 10), "beyond the end is left out"),
        ("bytes=0-9,9-5,-0", Ranges::Single(0, 10), "empty ones are left out"),
        ("bytes=200-,300-", Ranges::Unsatisfiable, "nothing is left"),
        ("bytes=5-1,-0", Ranges::Unsatisfiable, "nothing is left"),
        ("bytes=0-,0-", Ranges::Whole, "more bytes than the blob has"),
        ("bytes=0-59,40-99", Ranges::Whole, "more bytes than the blob has"),
        ("bytes=0-49,50-99", multi(&[(0, 50), (50, 100)]), "exactly the blob"),
        ("bytes=0-9,,20-29,", multi(&[(0, 10), (20, 30)]), "empty elements"),
    ];
    for (header, expected, why) in rows {
        assert_eq!(resolve(header, 100), expected, "{header:?}: {why}");
    }
}

#[test]
fn an_empty_blob_has_no_ranges() {
    assert_eq!(resolve("bytes=0-", 0), Ranges::Unsatisfiable);
    assert_eq!(resolve("bytes=0-0", 0), Ranges::Unsatisfiable);
    assert_eq!(resolve("bytes=-0", 0), Ranges::Unsatisfiable);
    // Satisfiable by RFC 9110 section 14.1.2, but inexpressible in a Content-Range.
    assert_eq!(resolve("bytes=-1", 0), Ranges::Whole);
}

#[test]
fn too_many_ranges_get_the_whole_blob() {
    let ranges = |count: usize| {
        let specs: Vec<_> = (0..count).map(|i| format!("{0}-{0}", 2 * i)).collect();
        format!("bytes={}", specs.join(","))
    };
    let count = |ranges: &str| match resolve(ranges, 1_000_000) {
        Ranges::Multi(parts) => parts.len(),
        other => panic!("{other:?}"),
    };
    // As many as clients of zstd:chunked layers ask for.
    assert_eq!(count(&ranges(1024)), 1024);
    assert_eq!(count(&ranges(RANGES_MAX)), RANGES_MAX);
    assert_eq!(resolve(&ranges(RANGES_MAX + 1), 1_000_000), Ranges::Whole);
    assert_eq!(resolve(&ranges(100_000), 1_000_000), Ranges::Whole);
}

#[test]
fn several_ranges_are_distinguished_from_one() {
    for (header, several) in
        [("bytes=0-1", false), ("bytes=0-1,", false), ("bytes=0-1,3-", true), ("bytes=9-,9-", true)]
    {
        assert_eq!(RangeHeader::parse(header).unwrap().is_multiple(), several, "{header}");
    }
}

#[test]
fn the_largest_blob_does_not_overflow() {
    let header = "bytes=0-18446744073709551614,0-18446744073709551614";
    assert_eq!(resolve(header, u64::MAX), Ranges::Whole);
    assert_eq!(resolve("bytes=0-", u64::MAX), Ranges::Single(0, u64::MAX));
}

#[test]
fn the_range_of_a_chunk_is_read() {
    let accepted = [
        ("0-0", 0, 0, 1),
        ("0-99", 0, 99, 100),
        ("100-199", 100, 199, 100),
        ("007-0009", 7, 9, 3),
        (" 1-2 ", 1, 2, 2),
        ("bytes 1-2", 1, 2, 2),
        ("bytes=1-2", 1, 2, 2),
        ("Bytes 1-2/3", 1, 2, 2),
        ("bytes 1-2/*", 1, 2, 2),
        ("1-2/3", 1, 2, 2),
        ("1-2/*", 1, 2, 2),
        ("0-18446744073709551614", 0, u64::MAX - 1, u64::MAX),
    ];
    for (header, start, end_inclusive, len) in accepted {
        let range = ContentRange::parse(header).unwrap();
        assert_eq!(range, ContentRange { start, end_inclusive }, "{header:?}");
        assert_eq!(range.len(), len, "{header:?}");
        assert_eq!(range.to_string().parse(), Ok(range));
    }
}

#[test]
fn other_ranges_of_chunks_are_refused() {
    let refused = [
        ("", "must be start-end"),
        ("-", "must be start-end"),
        ("5", "must be start-end"),
        ("5-", "must be start-end"),
        ("-5", "must be start-end"),
        ("0--1", "must be start-end"),
        ("-1-5", "must be start-end"),
        ("+1-5", "must be start-end"),
        ("1-2-3", "must be start-end"),
        ("1 - 2", "must be start-end"),
        ("a-b", "must be start-end"),
        ("bytes", "must be start-end"),
        ("bytes1-2", "must be start-end"),
        ("bytes */100", "must be start-end"),
        ("bytes:1-2", "must be start-end"),
        ("items 1-2", "must be start-end"),
        ("1-2/", "must be start-end"),
        ("1-2/x", "must be start-end"),
        ("1-2/*/*", "must be start-end"),
        ("1-2,3-4", "must be start-end"),
        ("2-1", "must not be before the start"),
        ("1-2/2", "must be before the total"),
        ("0-18446744073709551615", "must be less than"),
        ("99999999999999999999-99999999999999999999", "must be less than"),
    ];
    for (header, reason) in refused {
        let error = ContentRange::parse(header).unwrap_err().to_string();
        assert!(error.starts_with(&format!("invalid content range {header:?}: ")), "{error}");
        assert!(error.contains(reason), "{error}");
    }
}

/// Which bytes of a small blob a range asks for, by the words of the RFC.
fn asked_for(spec: &str, size: u64) -> Vec<u64> {
    let (first, last) = spec.split_once('-').unwrap();
    match (first.parse::<u64>(), last.parse::<u64>()) {
        (Ok(first), Ok(last)) => (first..=last).filter(|byte| *byte < size).collect(),
        (Ok(first), Err(_)) => (first..size).collect(),
        (Err(_), Ok(suffix)) => (size.saturating_sub(suffix)..size).collect(),
        (Err(_), Err(_)) => unreachable!("not generated"),
    }
}

proptest! {
    #[test]
    fn the_parts_are_exactly_what_was_asked_for(
        specs in prop::collection::vec("[0-9]{1,2}-[0-9]{0,2}|-[0-9]{1,2}", 1..6),
        size in 0u64..60,
    ) {
        let mut asked: Vec<u64> = specs.iter().flat_map(|spec| asked_for(spec, size)).collect();
        let bytes_asked = asked.len() as u64;
        asked.sort_unstable();
        asked.dedup();
        let resolved = resolve(&format!("bytes={}", specs.join(",")), size);
        if resolved == Ranges::Whole {
            prop_assert!(size == 0 || bytes_asked > size);
            return Ok(());
        }
        let parts = match resolved {
            Ranges::Single(start, end) => vec![(start, end)],
            Ranges::Multi(parts) if parts.len() > 1 => parts,
            _ => Vec::new(),
        };
        let mut sent: Vec<u64> = parts.iter().flat_map(|(start, end)| *start..*end).collect();
        prop_assert_eq!(sent.len(), asked.len(), "no byte twice: {:?}", parts);
        sent.sort_unstable();
        prop_assert_eq!(sent, asked);
    }

    #[test]
    fn any_header_is_read_or_ignored(header in "(bytes=)?[-0-9, ]{0,30}|\\PC*", size: u64) {
        if let Some(range) = RangeHeader::parse(&header) {
            range.resolve(size);
        }
        if let Ok(range) = ContentRange::parse(&header) {
            prop_assert!(range.len() > 0);
            prop_assert_eq!(ContentRange::parse(&range.to_string()), Ok(range));
        }
    }
}
