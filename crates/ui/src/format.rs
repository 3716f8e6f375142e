//! Sizes and times as people read them.

use std::time::{Duration, SystemTime};

use chrono::{DateTime, SecondsFormat, Utc};

const UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("B", 1)];

/// A size with three digits: `31.4 MiB`.
pub fn format_bytes(bytes: u64) -> String {
    let (unit, factor) = UNITS.into_iter().find(|(_, factor)| bytes >= *factor).unwrap_or(("B", 1));
    if factor == 1 {
        return format!("{bytes} {unit}");
    }
    let (whole, rest) = (bytes / factor, bytes % factor);
    // The rest is less than 2^40, and times 100 it fits.
    let hundredths = rest * 100 / factor;
    match whole {
        0..10 if factor > 1024 => format!("{whole}.{hundredths:02} {unit}"),
        0..100 => format!("{whole}.{} {unit}", hundredths / 10),
        _ => format!("{whole} {unit}"),
    }
}

/// A number with its thousands apart: `12 345`.
pub(crate) fn format_count(count: u64) -> String {
    let digits = count.to_string();
    let mut shown = String::with_capacity(digits.len() + digits.len() / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            shown.push('\u{202f}');
        }
        shown.push(digit);
    }
    shown
}

/// A time in UTC, to the minute.
pub fn format_time(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).format("%Y-%m-%d %H:%M UTC").to_string()
}

pub(crate) fn format_rfc3339(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Secs, true)
}

/// How long before or after now: `3 hours ago`, `in 2 days`.
pub(crate) fn format_relative(time: SystemTime, now: SystemTime) -> String {
    match now.duration_since(time) {
        Ok(ago) if ago.as_secs() < 5 => "just now".to_owned(),
        Ok(ago) => format!("{} ago", format_span(ago)),
        Err(ahead) => format!("in {}", format_span(ahead.duration())),
    }
}

/// A duration in its largest unit.
pub fn format_span(span: Duration) -> String {
    const STEPS: [(&str, u64); 6] = [
        ("year", 365 * 86_400),
        ("month", 30 * 86_400),
        ("day", 86_400),
        ("hour", 3600),
        ("minute", 60),
        ("second", 1),
    ];
    let seconds = span.as_secs();
    let (unit, factor) =
        STEPS.into_iter().find(|(_, factor)| seconds >= *factor).unwrap_or(("second", 1));
    match seconds / factor {
        1 => format!("1 {unit}"),
        count => format!("{count} {unit}s"),
    }
}

/// A time of a document, if it is RFC 3339.
pub(crate) fn parse_time(text: &str) -> Option<SystemTime> {
    DateTime::parse_from_rfc3339(text).ok().map(SystemTime::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_three_digits() {
        for (bytes, shown) in [
            (0, "0 B"),
            (1023, "1023 B"),
            (1024, "1.0 KiB"),
            (1536, "1.5 KiB"),
            (32_900_000, "31.3 MiB"),
            (3_300_000, "3.14 MiB"),
            (u64::MAX, "16777215 TiB"),
        ] {
            assert_eq!(format_bytes(bytes), shown);
        }
    }

    #[test]
    fn times_are_relative_to_now() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000_000);
        let at = |ago| format_relative(now - Duration::from_secs(ago), now);
        assert_eq!(
            [at(0), at(59), at(3600), at(90_000), at(400 * 86_400)],
            ["just now", "59 seconds ago", "1 hour ago", "1 day ago", "1 year ago"]
        );
        assert_eq!(format_relative(now + Duration::from_secs(7200), now), "in 2 hours");
        assert_eq!(format_time(now), "2001-09-09 01:46 UTC");
    }

    #[test]
    fn thousands_are_apart() {
        assert_eq!(
            [format_count(7), format_count(1234), format_count(1_234_567)],
            ["7", "1\u{202f}234", "1\u{202f}234\u{202f}567"]
        );
    }
}
