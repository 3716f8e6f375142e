//! [`TraceContext`]: the ids of a trace, from the header `traceparent` (W3C Trace Context).

use std::fmt;

/// The ids of a request in a trace.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TraceContext {
    pub trace_id: [u8; 16],
    /// The span of the client, if it has one.
    pub parent_id: Option<[u8; 8]>,
    pub span_id: [u8; 8],
    /// Whether the trace is recorded.
    pub is_sampled: bool,
}

impl TraceContext {
    /// That of a request. With a valid `traceparent` the client decides whether it is recorded, otherwise chance
    /// does: so many of hundred.
    pub(super) fn of(traceparent: Option<&str>, percent: u32) -> Self {
        let span_id = rand::random();
        match traceparent.and_then(parse) {
            Some((trace_id, parent_id, is_sampled)) => {
                Self { trace_id, parent_id: Some(parent_id), span_id, is_sampled }
            }
            None => {
                let is_sampled = percent > 0 && rand::random_range(0..100) < percent;
                Self { trace_id: rand::random(), parent_id: None, span_id, is_sampled }
            }
        }
    }

    /// The id of the trace, as text.
    pub fn trace_id_text(&self) -> String {
        hex(&self.trace_id)
    }
}

/// The header of requests that belong to the same trace.
impl fmt::Display for TraceContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let flags = u8::from(self.is_sampled);
        write!(f, "00-{}-{}-{flags:02x}", hex(&self.trace_id), hex(&self.span_id))
    }
}

/// Lower-case hexadecimal digits.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Trace id, span id and whether the client records. Of later versions the beginning is the same.
fn parse(header: &str) -> Option<([u8; 16], [u8; 8], bool)> {
    let parts: Vec<&str> = header.trim().split('-').collect();
    let [version, trace_id, span_id, flags, more @ ..] = &parts[..] else { return None };
    let [version] = bytes::<1>(version)?;
    if version == 0xff || (version == 0 && !more.is_empty()) {
        return None;
    }
    let (trace_id, span_id) = (bytes::<16>(trace_id)?, bytes::<8>(span_id)?);
    let [flags] = bytes::<1>(flags)?;
    let is_valid = trace_id != [0; 16] && span_id != [0; 8];
    is_valid.then_some((trace_id, span_id, flags & 1 == 1))
}

/// The bytes of lower-case hexadecimal digits.
fn bytes<const N: usize>(text: &str) -> Option<[u8; N]> {
    let is_hex = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    if text.len() != 2 * N || !text.bytes().all(is_hex) {
        return None;
    }
    let mut bytes = [0; N];
    for (place, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * place..2 * place + 2)?, 16).ok()?;
    }
    Some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

    #[test]
    fn a_client_decides_and_otherwise_chance() {
        let of = |header: &str, percent| TraceContext::of(Some(header), percent);
        let on = of(&format!("00-{TRACE}-00f067aa0bc902b7-01"), 0);
        assert_eq!((hex(&on.trace_id).as_str(), on.is_sampled), (TRACE, true));
        assert_eq!(on.parent_id, Some([0, 0xf0, 0x67, 0xaa, 0x0b, 0xc9, 0x02, 0xb7]));
        assert!(
            on.to_string().starts_with(&format!("00-{TRACE}-")) && on.to_string().ends_with("-01")
        );
        assert!(!of(&format!("00-{TRACE}-00f067aa0bc902b7-00"), 100).is_sampled);
        assert!(of(&format!("cc-{TRACE}-00f067aa0bc902b7-03-more"), 0).is_sampled);
        assert!(TraceContext::of(None, 100).is_sampled && !TraceContext::of(None, 0).is_sampled);
    }

    #[test]
    fn an_invalid_header_is_as_none() {
        let zeros = "0".repeat(32);
        for header in [
            "",
            "00",
            "00---",
            &format!("ff-{TRACE}-00f067aa0bc902b7-01"),
            &format!("00-{TRACE}-00f067aa0bc902b7-01-more"),
            &format!("00-{zeros}-00f067aa0bc902b7-01"),
            &format!("00-{TRACE}-0000000000000000-01"),
            &format!("00-{}-00f067aa0bc902b7-01", TRACE.to_uppercase()),
            &format!("00-{TRACE}-00f067aa0bc902b-01"),
            &format!("00-{TRACE}é-00f067aa0bc902b7-01"),
        ] {
            assert_eq!(TraceContext::of(Some(header), 0).parent_id, None, "{header}");
        }
    }
}
