//! Sizes and durations as operators write them, in settings and in rules: `500GiB`, `14d`.

use std::time::Duration;

const SIZE_UNITS: [(&str, u64); 5] =
    [("TiB", 1 << 40), ("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10), ("", 1)];

const DURATION_UNITS: [(&str, u64); 5] =
    [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("ms", 1), ("s", 1000)];

/// Parses a size in bytes: a number, optionally with `KiB`, `MiB`, `GiB` or `TiB`.
pub fn parse_size(text: &str) -> Option<u64> {
    with_unit(text, &SIZE_UNITS)
}

/// Formats a size so that [`parse_size`] returns it.
pub fn format_size(bytes: u64) -> String {
    show_with_unit(bytes, &SIZE_UNITS)
}

/// Parses a duration: a number with `ms`, `s`, `m`, `h` or `d`.
pub fn parse_duration(text: &str) -> Option<Duration> {
    with_unit(text, &DURATION_UNITS).map(Duration::from_millis)
}

/// Formats a duration, to the millisecond, so that [`parse_duration`] returns it.
pub fn format_duration(duration: Duration) -> String {
    let millis = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    // Whole seconds up to two minutes are formatted as seconds.
    match millis {
        0..120_000 if millis.is_multiple_of(1000) => format!("{}s", millis / 1000),
        _ => show_with_unit(millis, &DURATION_UNITS),
    }
}

fn with_unit(text: &str, units: &[(&str, u64)]) -> Option<u64> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits)?;
    let (_, factor) = units.iter().find(|(name, _)| *name == unit.trim_start())?;
    number.parse::<u64>().ok()?.checked_mul(*factor)
}

fn show_with_unit(value: u64, units: &[(&str, u64)]) -> String {
    let fits = |(_, factor): &&(&str, u64)| value != 0 && value.is_multiple_of(*factor);
    match units.iter().filter(fits).max_by_key(|(_, factor)| *factor) {
        Some((unit, factor)) => format!("{}{unit}", value / factor),
        None => "0".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_and_written() {
        for (text, bytes) in
            [("0", 0), ("1000", 1000), ("1KiB", 1024), ("500 GiB", 500 << 30), ("2TiB", 2 << 40)]
        {
            assert_eq!(parse_size(text), Some(bytes), "{text}");
            assert_eq!(parse_size(&format_size(bytes)), Some(bytes), "{text}");
        }
        assert_eq!(format_size(500 << 30), "500GiB");
        for wrong in ["", "GiB", "1GB", "1.5GiB", "-1", "99999999999TiB"] {
            assert_eq!(parse_size(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn durations_are_read_and_written() {
        for (text, seconds) in [("0s", 0), ("90s", 90), ("36h", 36 * 3600), ("14d", 14 * 86_400)] {
            assert_eq!(parse_duration(text), Some(Duration::from_secs(seconds)), "{text}");
            assert_eq!(format_duration(Duration::from_secs(seconds)), text);
        }
        for wrong in ["", "14", "d", "1w", "-1d", "1.5d"] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }
}
