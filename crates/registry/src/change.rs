//! Changes: each move, creation and deletion of a tag has an id, which orders it among the changes of
//! that tag, and says who made it.

use std::fmt;
use std::time::{Duration, SystemTime};

use serde::{Deserialize, Serialize};
use ulid::Ulid;

/// Maximum length of the text that says who made a change, in bytes.
pub const ACTOR_BYTES_MAX: usize = 128;
/// Maximum length of a request id in a change, in bytes.
const REQUEST_BYTES_MAX: usize = 64;

/// The id of a change: a ULID, which begins with its time in milliseconds. The changes of one tag are in
/// the order of their ids, whatever the clocks of the instances say.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ChangeId(Ulid);

impl ChangeId {
    /// The id of a change that replaces `previous`: greater than it, also if the clock that set that one
    /// is ahead of ours.
    pub(crate) fn after(previous: Option<Self>, now: SystemTime) -> Self {
        let now_ms = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_millis();
        let now_ms = u64::try_from(now_ms).unwrap_or(u64::MAX);
        let next_ms = previous.map_or(0, |previous| previous.0.timestamp_ms() + 1);
        Self(Ulid::from_parts(now_ms.max(next_ms), Ulid::generate().random()))
    }

    /// The id of the change that a record of an earlier version stands for, which has none: it follows
    /// from the record, so that every reader finds the same.
    pub(crate) fn of_earlier_version(time_s: u64, nonce: &str) -> Self {
        let digits = nonce.get(..20).unwrap_or_default();
        let random = u128::from_str_radix(digits, 16).unwrap_or_default();
        Self(Ulid::from_parts(time_s.saturating_mul(1000), random))
    }

    /// Before every change of this time, to the millisecond, and after all of earlier times.
    pub fn earliest(time: SystemTime) -> Self {
        let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        Self(Ulid::from_parts(u64::try_from(since.as_millis()).unwrap_or(u64::MAX), 0))
    }

    /// When the change was made, by the clock of the instance that made it.
    pub fn time(&self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.time_ms())
    }

    /// The same in milliseconds of the Unix epoch.
    pub(crate) fn time_ms(self) -> u64 {
        self.0.timestamp_ms()
    }

    /// In the order of these texts, the latest change is first.
    pub(crate) fn inverted(&self) -> String {
        Ulid(!self.0.0).to_string()
    }

    pub(crate) fn from_inverted(text: &str) -> Option<Self> {
        Ulid::from_string(text).ok().map(|inverted| Self(Ulid(!inverted.0)))
    }
}

impl Default for ChangeId {
    /// Before every other.
    fn default() -> Self {
        Self(Ulid::nil())
    }
}

impl fmt::Display for ChangeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl std::str::FromStr for ChangeId {
    type Err = ulid::DecodeError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Ulid::from_string(text).map(Self)
    }
}

/// Who made a change, and by which request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChangeOrigin {
    /// The identity of the client, or `jreg:` and the command or job that made the change.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    actor: Option<String>,
    /// The id of the request, as it is in logs and in the audit log.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    request: Option<String>,
}

impl ChangeOrigin {
    /// A change by a client's request. The texts are cut to [`ACTOR_BYTES_MAX`] and 64 bytes, and have no
    /// control characters, quotation marks or backslashes afterwards: so the length of a record with them has a bound.
    pub fn request(actor: &str, request: &str) -> Self {
        let actor = Some(bounded(actor, ACTOR_BYTES_MAX));
        let request = Some(bounded(request, REQUEST_BYTES_MAX)).filter(|id| !id.is_empty());
        Self { actor, request }
    }

    /// A change by a command or a job of this program.
    pub fn program(name: &str) -> Self {
        Self { actor: Some(bounded(&format!("jreg:{name}"), ACTOR_BYTES_MAX)), request: None }
    }

    /// What a record says.
    pub(crate) fn stored(actor: Option<String>, request: Option<String>) -> Self {
        Self { actor, request }
    }

    pub fn actor(&self) -> Option<&str> {
        self.actor.as_deref()
    }

    pub fn request_id(&self) -> Option<&str> {
        self.request.as_deref()
    }
}

/// A text of which JSON escapes nothing, cut to a length.
fn bounded(text: &str, bytes_max: usize) -> String {
    let plain = text.chars().map(|c| match c {
        '"' | '\\' => '_',
        c if c.is_control() => '_',
        c => c,
    });
    let mut bounded = String::new();
    for c in plain {
        if bounded.len() + c.len_utf8() > bytes_max {
            break;
        }
        bounded.push(c);
    }
    bounded
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_is_later_than_the_one_it_replaces_whatever_the_clock_says() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let mut previous = ChangeId::after(None, now);
        assert_eq!(previous.time(), now);
        for clock in [now, now - Duration::from_secs(60), now + Duration::from_millis(1), now] {
            let change = ChangeId::after(Some(previous), clock);
            assert!(change > previous && change.inverted() < previous.inverted());
            assert_eq!(ChangeId::from_inverted(&change.inverted()), Some(change));
            previous = change;
        }
    }

    #[test]
    fn a_record_of_an_earlier_version_has_the_same_change_for_every_reader() {
        let nonce = "00112233445566778899aabbccddeeff";
        let change = ChangeId::of_earlier_version(1_700_000_000, nonce);
        assert_eq!(change, ChangeId::of_earlier_version(1_700_000_000, nonce));
        assert_ne!(change, ChangeId::of_earlier_version(1_700_000_000, &nonce.replace('3', "4")));
        assert_eq!(change.time(), SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000));
        assert_eq!(ChangeId::of_earlier_version(0, "n").time(), SystemTime::UNIX_EPOCH);
    }

    #[test]
    fn texts_of_an_origin_have_a_bound_and_nothing_that_json_escapes() {
        let origin = ChangeOrigin::request(&"é\"\\\u{1}".repeat(100), "id");
        let json = serde_json::to_string(&origin).expect("json");
        assert!(origin.actor().is_some_and(|actor| actor.len() <= ACTOR_BYTES_MAX), "{json}");
        assert!(!json.contains('\\'), "{json}");
        assert_eq!(ChangeOrigin::program("gc").actor(), Some("jreg:gc"));
    }
}
