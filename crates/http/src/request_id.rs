//! [`RequestId`]: identifies a request in logs and responses.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use http::{HeaderMap, HeaderName, HeaderValue};
use uuid::Uuid;

/// The header of the request and the response.
pub(crate) const HEADER: HeaderName = HeaderName::from_static("x-request-id");
/// Maximum length of an id that a client sends, in bytes.
pub const REQUEST_ID_BYTES_MAX: usize = 128;

/// Identifies a request.
///
/// - 1 to [`REQUEST_ID_BYTES_MAX`] letters, digits, dots, underscores and hyphens: safe in a log
///   line, a header and a JSON text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RequestId(String);

impl RequestId {
    /// The id that the client or a proxy sent, if valid; otherwise a new UUIDv7.
    pub fn of(headers: &HeaderMap) -> Self {
        let sent = headers.get(HEADER).and_then(|value| value.to_str().ok());
        match sent {
            Some(sent) if is_sane(sent) => Self(sent.to_owned()),
            _ => Self(new_uuid().to_string()),
        }
    }

    /// The id as a header value.
    pub fn to_header(&self) -> HeaderValue {
        HeaderValue::from_str(&self.0).expect("the characters of a request id suit a header")
    }
}

/// A UUIDv7. It must be unique, not unpredictable, so the random bits are a keyed hash of a counter
/// instead of a system call.
fn new_uuid() -> Uuid {
    static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::new);
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let count = COUNTER.fetch_add(1, Ordering::Relaxed);
    let mut random = [0; 10];
    let hashed = [HASHER.hash_one((count, 0)), HASHER.hash_one((count, 1))].map(u64::to_le_bytes);
    random.iter_mut().zip(hashed.into_iter().flatten()).for_each(|(to, from)| *to = from);
    let millis = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
    uuid::Builder::from_unix_timestamp_millis(millis, &random).into_uuid()
}

fn is_sane(id: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(allowed)
}

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn of(value: &[u8]) -> String {
        let mut headers = HeaderMap::new();
        headers.insert(HEADER, HeaderValue::from_bytes(value).unwrap());
        RequestId::of(&headers).to_string()
    }

    #[test]
    fn a_sane_id_is_kept() {
        let longest = "x".repeat(REQUEST_ID_BYTES_MAX);
        for id in ["1", "abc-DEF_1.2", longest.as_str()] {
            assert_eq!(of(id.as_bytes()), id);
        }
    }

    #[test]
    fn anything_else_is_replaced_by_a_uuid() {
        let too_long = "x".repeat(REQUEST_ID_BYTES_MAX + 1);
        for id in ["", "a b", "a\"b", "a,b", "<x>", too_long.as_str()] {
            assert_eq!(Uuid::parse_str(&of(id.as_bytes())).unwrap().get_version_num(), 7, "{id}");
        }
        assert!(Uuid::parse_str(&of(b"\xff")).is_ok());
        assert!(Uuid::parse_str(&RequestId::of(&HeaderMap::new()).to_string()).is_ok());
    }
}
