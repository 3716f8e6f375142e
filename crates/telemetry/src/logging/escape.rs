//! Escapes invisible characters that change how a line is shown, such as U+202E, as `\u202e`: with them, a
//! line of the log could say something else on a terminal than it does.

use std::borrow::Cow;
use std::fmt::Write as _;

/// Whether a character beyond ASCII controls how text is shown: the C1 controls, those of
/// bidirectional text, line and paragraph separators, and invisible ones.
pub(crate) fn is_format_control(character: char) -> bool {
    matches!(
        character,
        '\u{80}'..='\u{9f}'
            | '\u{ad}'
            | '\u{61c}'
            | '\u{180e}'
            | '\u{200b}'..='\u{200f}'
            | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{feff}'
            | '\u{fff9}'..='\u{fffb}'
            | '\u{1bca0}'..='\u{1bca3}'
            | '\u{1d173}'..='\u{1d17a}'
            | '\u{e0000}'..='\u{e007f}'
    )
}

/// Writes a character as JSON escapes it: in UTF-16.
pub(crate) fn write_escape(line: &mut String, character: char) {
    for unit in character.encode_utf16(&mut [0; 2]) {
        // Writing to a string cannot fail.
        let _ = write!(line, "\\u{unit:04x}");
    }
}

/// A text with its format control characters escaped. JSON stays the JSON of the same values: these
/// characters are in its strings only.
pub(crate) fn escaped(text: &str) -> Cow<'_, str> {
    if text.is_ascii() || !text.contains(is_format_control) {
        return Cow::Borrowed(text);
    }
    let mut line = String::with_capacity(text.len() + 16);
    for character in text.chars() {
        match is_format_control(character) {
            true => write_escape(&mut line, character),
            false => line.push(character),
        }
    }
    Cow::Owned(line)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn format_controls_are_escaped_and_other_text_is_not() {
        for plain in ["", "a\tb", "\u{1b}[1mé漢🦀", "a\u{301}"] {
            assert_eq!(escaped(plain), plain);
        }
        let controls = "\u{85}\u{200e}\u{200f}\u{2028}\u{2029}\u{202e}\u{2066}\u{2069}\u{feff}";
        let text = r"\u0085\u200e\u200f\u2028\u2029\u202e\u2066\u2069\ufeff";
        assert_eq!(escaped(controls), text);
        let beyond = "\u{e0041}";
        let read: String = serde_json::from_str(&format!("\"{}\"", escaped(beyond))).unwrap();
        assert_eq!(read, beyond);
    }
}
