//! [`excerpt`]: how much of an offending value an error message repeats.

/// The longest part of a refused value that an error carries, in characters.
const EXCERPT_CHARS_MAX: usize = 160;

/// The value, cut to what is worth repeating: a refused value may be megabytes long.
pub(crate) fn excerpt(value: &str) -> String {
    match value.char_indices().nth(EXCERPT_CHARS_MAX) {
        None => value.to_owned(),
        Some((end, _)) => {
            let mut cut = value.get(..end).unwrap_or_default().to_owned();
            cut.push('…');
            cut
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_value_is_cut_between_characters() {
        assert_eq!(excerpt("short"), "short");
        let cut = excerpt(&"é".repeat(10_000));
        assert_eq!(cut, format!("{}…", "é".repeat(EXCERPT_CHARS_MAX)));
    }
}
