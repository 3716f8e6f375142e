//! [`decode`]: strict percent-decoding of one path segment or query value.

use std::borrow::Cow;

/// Decodes each `%XX` once (RFC 3986 section 2.1). `+` stays `+`: it is part of media types, and
/// no value of the specification contains a space.
///
/// `None` if a `%` is not followed by two hexadecimal digits, if the result is not UTF-8 (overlong
/// forms are not), or if it contains a control character.
pub fn decode(encoded: &str) -> Option<Cow<'_, str>> {
    // Nearly always nothing is encoded, and every byte stands for itself. Without a way out
    // half-way that is found out many bytes at a time.
    let is_itself = |byte: u8| matches!(byte, b' '..=b'~') & (byte != b'%');
    if encoded.bytes().fold(true, |is, byte| is & is_itself(byte)) {
        return Some(Cow::Borrowed(encoded));
    }
    let decoded = if encoded.contains('%') {
        Cow::Owned(String::from_utf8(decode_bytes(encoded)?).ok()?)
    } else {
        Cow::Borrowed(encoded)
    };
    (!decoded.contains(char::is_control)).then_some(decoded)
}

fn decode_bytes(encoded: &str) -> Option<Vec<u8>> {
    let mut decoded = Vec::with_capacity(encoded.len());
    let mut bytes = encoded.bytes();
    while let Some(byte) = bytes.next() {
        decoded.push(match byte {
            b'%' => hex_digit(bytes.next()?)? << 4 | hex_digit(bytes.next()?)?,
            other => other,
        });
    }
    Some(decoded)
}

fn hex_digit(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
