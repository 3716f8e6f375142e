//! [`RangeHeader`] asks for parts of a blob; [`ContentRange`] says which part is uploaded.

use std::fmt;
use std::str::FromStr;

use crate::excerpt::excerpt;

/// The most ranges of one request that get a response in parts; a request for more gets
/// the whole. Clients of zstd:chunked and eStargz layers send up to 1,024, so this is twice that. It
/// bounds the store requests of one GET; what these read is bounded by the size of the blob.
pub const RANGES_MAX: usize = 2048;

/// A `Range` header in bytes (RFC 9110 section 14.2), not yet held against a size.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RangeHeader {
    /// At least one; at most [`RANGES_MAX`] + 1, which stands for any larger number.
    specs: Vec<RangeSpec>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RangeSpec {
    From(u64),
    FromTo(u64, u64),
    Suffix(u64),
}

/// What a [`RangeHeader`] comes to for a blob of a known size. Every pair is the first byte and
/// the byte after the last, is not empty, and lies within the blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ranges {
    /// Respond with the whole blob, as without the header.
    Whole,
    /// One part: start, end (exclusive).
    Single(u64, u64),
    /// Two or more parts that do not overlap.
    Multi(Vec<(u64, u64)>),
    /// Nothing of the blob was asked for.
    Unsatisfiable,
}

impl RangeHeader {
    /// Reads the header. `None` if it is not a list of ranges in bytes: then it is to be ignored
    /// (RFC 9110 section 14.2).
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, list) = header.trim_matches(SPACE).split_once('=')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let mut specs = Vec::new();
        // Empty elements of a list are ignored (RFC 9110 section 5.6.1.2).
        for spec in list.split(',').map(|spec| spec.trim_matches(SPACE)).filter(|s| !s.is_empty()) {
            let spec = parse_spec(spec)?;
            if specs.len() <= RANGES_MAX {
                specs.push(spec);
            }
        }
        (!specs.is_empty()).then_some(Self { specs })
    }

    /// Whether the header has several ranges, whatever they come to.
    pub fn is_multiple(&self) -> bool {
        self.specs.len() > 1
    }

    /// Holds the ranges against a blob of `size` bytes.
    ///
    /// A range beyond the end, or whose last byte lies before its first, asks for nothing: it is
    /// left out of several, and alone it cannot be satisfied. Ranges that overlap are merged; ranges
    /// that only touch are not, because some clients match parts to their ranges by position. More
    /// than [`RANGES_MAX`] ranges, or more bytes than the blob has, are answered with the whole.
    pub fn resolve(&self, size: u64) -> Ranges {
        if self.specs.len() > RANGES_MAX || self.is_whole_of_nothing(size) {
            return Ranges::Whole;
        }
        let parts: Vec<_> = self.specs.iter().filter_map(|spec| spec.resolve(size)).collect();
        match parts.as_slice() {
            [] => Ranges::Unsatisfiable,
            [(start, end)] => Ranges::Single(*start, *end),
            _ if total(&parts) > u128::from(size) => Ranges::Whole,
            _ => merge(parts),
        }
    }

    /// A suffix of an empty blob is satisfiable, but there is no `Content-Range` to say so.
    fn is_whole_of_nothing(&self, size: u64) -> bool {
        let is_suffix = |spec: &RangeSpec| matches!(spec, RangeSpec::Suffix(1..));
        size == 0 && self.specs.iter().any(is_suffix)
    }
}

impl RangeSpec {
    fn resolve(self, size: u64) -> Option<(u64, u64)> {
        let (start, end) = match self {
            Self::From(start) => (start, size),
            Self::FromTo(start, last) => (start, last.saturating_add(1).min(size)),
            Self::Suffix(length) => (size.saturating_sub(length), size),
        };
        (start < end).then_some((start, end))
    }
}

const SPACE: [char; 2] = [' ', '\t'];

fn parse_spec(spec: &str) -> Option<RangeSpec> {
    let (first, last) = spec.split_once('-')?;
    match (first, last) {
        ("", suffix) => Some(RangeSpec::Suffix(parse_position(suffix)?)),
        (first, "") => Some(RangeSpec::From(parse_position(first)?)),
        (first, last) => Some(RangeSpec::FromTo(parse_position(first)?, parse_position(last)?)),
    }
}

/// `1*DIGIT`; a number too large to count with is as far beyond any end as the largest.
fn parse_position(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    is_number.then(|| digits.parse().unwrap_or(u64::MAX))
}

fn total(parts: &[(u64, u64)]) -> u128 {
    parts.iter().map(|(start, end)| u128::from(end - start)).sum()
}

/// Keeps the order asked for, unless ranges overlap (RFC 9110 section 15.3.7.2).
fn merge(parts: Vec<(u64, u64)>) -> Ranges {
    let mut sorted = parts.clone();
    sorted.sort_unstable();
    let mut merged: Vec<(u64, u64)> = Vec::with_capacity(sorted.len());
    for (start, end) in sorted {
        match merged.last_mut() {
            Some((_, last_end)) if start < *last_end => *last_end = end.max(*last_end),
            _ => merged.push((start, end)),
        }
    }
    match merged.as_slice() {
        [(start, end)] => Ranges::Single(*start, *end),
        _ if merged.len() == parts.len() => Ranges::Multi(parts),
        _ => Ranges::Multi(merged),
    }
}

/// The part of a blob that a PATCH or PUT carries: `start-end`, both inclusive
/// (distribution-spec "Pushing a blob in chunks").
///
/// - the end is not before the start, and is less than `u64::MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ContentRange {
    /// The offset of the first byte.
    pub start: u64,
    /// The offset of the last byte.
    pub end_inclusive: u64,
}

/// Why a `Content-Range` header of an upload is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid content range {range:?}: {reason}")]
pub struct InvalidContentRange {
    range: String,
    reason: &'static str,
}

impl ContentRange {
    /// Reads the header. The form of RFC 9110 (`bytes start-end/total`) is taken as well as the
    /// specification's bare `start-end`, because generic HTTP clients send it.
    ///
    /// # Errors
    ///
    /// Not two decimal numbers joined by a dash, the end before the start, or beyond the total.
    pub fn parse(header: &str) -> Result<Self, InvalidContentRange> {
        parse_content_range(header)
            .map_err(|reason| InvalidContentRange { range: excerpt(header), reason })
    }

    /// How many bytes the part has; never 0.
    #[expect(clippy::len_without_is_empty, reason = "both ends are inclusive: it is never empty")]
    pub fn len(&self) -> u64 {
        self.end_inclusive - self.start + 1
    }
}

impl FromStr for ContentRange {
    type Err = InvalidContentRange;

    fn from_str(header: &str) -> Result<Self, InvalidContentRange> {
        Self::parse(header)
    }
}

impl fmt::Display for ContentRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.start, self.end_inclusive)
    }
}

fn parse_content_range(header: &str) -> Result<ContentRange, &'static str> {
    let header = header.trim_matches(SPACE);
    let range = match header.get(..5) {
        Some(unit) if unit.eq_ignore_ascii_case("bytes") => {
            let rest = header.get(5..).unwrap_or_default();
            rest.strip_prefix([' ', '=']).ok_or(FORM)?.trim_matches(SPACE)
        }
        _ => header,
    };
    let (range, total) = match range.split_once('/') {
        None => (range, None),
        Some((range, "*")) => (range, None),
        Some((range, total)) => (range, Some(parse_offset(total)?)),
    };
    let (start, end) = range.split_once('-').ok_or(FORM)?;
    let (start, end_inclusive) = (parse_offset(start)?, parse_offset(end)?);
    if end_inclusive < start {
        return Err("the end must not be before the start");
    }
    if total.is_some_and(|total| end_inclusive >= total) {
        return Err("the end must be before the total");
    }
    Ok(ContentRange { start, end_inclusive })
}

const FORM: &str = "must be start-end, two decimal numbers, both inclusive";

fn parse_offset(digits: &str) -> Result<u64, &'static str> {
    match parse_position(digits) {
        None => Err(FORM),
        Some(u64::MAX) => Err("the numbers must be less than 18446744073709551615"),
        Some(offset) => Ok(offset),
    }
}
