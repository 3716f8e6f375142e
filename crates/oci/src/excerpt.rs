//! [`excerpt`]: truncates an invalid value for an error message.

/// Maximum length of an invalid value in an error, in characters.
const EXCERPT_CHARS_MAX: usize = 160;

/// The truncated value: an invalid value may be megabytes long.
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
