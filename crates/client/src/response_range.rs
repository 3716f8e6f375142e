//! [`ResponseRange`]: which part of a blob a 206 has.

/// The `Content-Range` of a 206 (RFC 9110 section 14.4): `bytes start-last/total`.
///
/// - it is not empty, and ends within the total.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResponseRange {
    /// The first byte.
    pub start: u64,
    /// The byte after the last.
    pub end: u64,
    /// The size of the whole, if the response says it.
    pub total: Option<u64>,
}

impl ResponseRange {
    /// Reads the header. `None` if it is not one range in bytes.
    pub fn parse(header: &str) -> Option<Self> {
        let (unit, range) = header.trim_matches([' ', '\t']).split_once(' ')?;
        if !unit.eq_ignore_ascii_case("bytes") {
            return None;
        }
        let (range, total) = range.trim_start_matches(' ').split_once('/')?;
        let (start, last) = range.split_once('-')?;
        let (start, last) = (number(start)?, number(last)?);
        let total = match total {
            "*" => None,
            total => Some(number(total)?),
        };
        let end = last.checked_add(1)?;
        let is_fit = start < end && total.is_none_or(|total| end <= total);
        is_fit.then_some(Self { start, end, total })
    }
}

/// Decimal digits and nothing else.
fn number(digits: &str) -> Option<u64> {
    let is_number = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit());
    if is_number { digits.parse().ok() } else { None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_read_or_refused() {
        let range = |start, end, total| Some(ResponseRange { start, end, total });
        for (header, expected) in [
            ("bytes 0-0/1", range(0, 1, Some(1))),
            ("Bytes 5-9/*", range(5, 10, None)),
            (" bytes 5-9/10 ", range(5, 10, Some(10))),
            ("bytes 5-9/9", None),
            ("bytes 9-5/10", None),
            ("bytes */10", None),
            ("bytes +5-9/10", None),
            ("bytes 5-9", None),
            ("items 5-9/10", None),
            ("5-9/10", None),
            ("bytes 0-18446744073709551615/*", None),
            ("bytes 5-9/99999999999999999999", None),
            ("", None),
        ] {
            assert_eq!(ResponseRange::parse(header), expected, "{header}");
        }
    }
}
