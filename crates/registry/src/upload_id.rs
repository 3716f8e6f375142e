//! [`UploadId`]: the name of an upload, which says when it was begun and how it is hashed.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jreg_oci::Algorithm;
use uuid::{Timestamp, Uuid};

/// How far in the future an upload may have begun, by another instance's clock.
const AHEAD_MAX: Duration = Duration::from_secs(15 * 60);

/// The id of an upload: a UUIDv7, followed by `.` and the digest algorithm if one was asked for.
///
/// It is made without a store request, so it carries what must be known before the first byte:
/// when the upload began, and how its bytes will be hashed.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct UploadId {
    uuid: Uuid,
    algorithm: Option<Algorithm>,
}

/// Why a string is not an upload id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{id:?} is not the id of an upload: it must be one that this registry issued")]
pub struct InvalidUploadId {
    id: String,
}

impl UploadId {
    /// A new id for an upload that begins at `now`.
    pub(crate) fn new(now: SystemTime, algorithm: Option<Algorithm>) -> Self {
        let since = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
        let timestamp =
            Timestamp::from_unix(uuid::NoContext, since.as_secs(), since.subsec_nanos());
        Self { uuid: Uuid::new_v7(timestamp), algorithm }
    }

    /// How the bytes are hashed as they come.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.algorithm.unwrap_or(Algorithm::Sha256)
    }

    /// Whether an upload of this id can be going on at `now`.
    pub(crate) fn is_current(&self, now: SystemTime, age_max: Duration) -> bool {
        match now.duration_since(self.begun()) {
            Ok(age) => age <= age_max,
            Err(ahead) => ahead.duration() <= AHEAD_MAX,
        }
    }

    /// Whether `since` has passed since the upload began.
    pub(crate) fn is_older_than(&self, since: Duration, now: SystemTime) -> bool {
        now.duration_since(self.begun()).is_ok_and(|age| age > since)
    }

    /// When the upload began, by the clock of the instance that made the id.
    pub(crate) fn begun(&self) -> SystemTime {
        let (seconds, nanos) = self.uuid.get_timestamp().map_or((0, 0), |at| at.to_unix());
        SystemTime::UNIX_EPOCH + Duration::new(seconds, nanos)
    }
}

impl fmt::Display for UploadId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.algorithm {
            None => write!(f, "{}", self.uuid),
            Some(algorithm) => write!(f, "{}.{algorithm}", self.uuid),
        }
    }
}

impl FromStr for UploadId {
    type Err = InvalidUploadId;

    fn from_str(id: &str) -> Result<Self, InvalidUploadId> {
        let parse = || {
            let (uuid, algorithm) = match id.split_once('.') {
                Some((uuid, algorithm)) => (uuid, Some(algorithm.parse().ok()?)),
                None => (id, None),
            };
            let uuid = Uuid::try_parse(uuid).ok()?;
            let parsed = Self { uuid, algorithm };
            // One spelling only: an id is part of a store key.
            (uuid.get_version_num() == 7 && parsed.to_string() == id).then_some(parsed)
        };
        parse().ok_or_else(|| InvalidUploadId { id: id.chars().take(160).collect() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_come_back_as_they_were() {
        let now = SystemTime::now();
        for algorithm in [None, Some(Algorithm::Sha256), Some(Algorithm::Sha512)] {
            let id = UploadId::new(now, algorithm);
            assert_eq!(id.to_string().parse(), Ok(id));
        }
    }

    #[test]
    fn other_strings_are_refused() {
        let id = UploadId::new(SystemTime::now(), None).to_string();
        for refused in [
            "",
            "x",
            "..",
            "00000000-0000-0000-0000-000000000000",
            "6f1f5bf0-9c3a-4d4a-8f6e-2f1f5b1d9b52",
            &id.to_uppercase(),
            &id.replace('-', ""),
            &format!("{id}.md5"),
            &format!("{id}."),
            &format!("{{{id}}}"),
            &format!("{id}/x"),
        ] {
            assert!(refused.parse::<UploadId>().is_err(), "{refused}");
        }
    }

    #[test]
    fn an_upload_continues_until_its_age_limit() {
        let begun = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let id = UploadId::new(begun, None);
        let limit = Duration::from_secs(100);
        assert!(id.is_current(begun, limit));
        assert!(id.is_current(begun + limit, limit));
        assert!(!id.is_current(begun + limit + Duration::from_secs(1), limit));
        assert!(id.is_current(begun - AHEAD_MAX, limit));
        assert!(!id.is_current(begun - AHEAD_MAX - Duration::from_secs(1), limit));
    }
}
