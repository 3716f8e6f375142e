//! Reads records that may be in any state.

use jreg_storage::{ErrorKind, Key, Record, error_chain};

use crate::core::Core;
use crate::keys;
use crate::record::{StoredRecord, VersionedRecord, decode_versioned, later_version};
use crate::{Error, Result};

/// Number of attempts before a failing read is attributed to the object.
const ATTEMPTS: u32 = 3;

/// A record as it was found.
pub(super) enum RecordState<T> {
    Absent,
    Valid(VersionedRecord<T>),
    Unreadable(UnreadableRecord),
}

/// A record that cannot be read or decoded.
#[derive(Debug)]
pub(super) struct UnreadableRecord {
    pub(super) reason: String,
    pub(super) cause: UnreadableCause,
    /// The stored bytes; `None`: they cannot be read whole.
    pub(super) record: Option<Record>,
}

/// Why a record cannot be read or decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum UnreadableCause {
    /// No known version writes such a record.
    Damaged,
    /// It has a later format version.
    Newer,
    /// The store fails to read it, though it reads others.
    ReadFails,
}

/// An object as it was found.
pub(super) enum RawState {
    Absent,
    Whole(Record),
    Unreadable(UnreadableRecord),
}

/// Reads a record. One that cannot be decoded is read twice before that is reported.
pub(super) async fn read_state<T: StoredRecord>(core: &Core, key: &Key) -> Result<RecordState<T>> {
    let mut is_second = false;
    loop {
        let record = match read_raw(core, key).await? {
            RawState::Absent => return Ok(RecordState::Absent),
            RawState::Unreadable(bad) => return Ok(RecordState::Unreadable(bad)),
            RawState::Whole(record) => record,
        };
        match decode_versioned::<T>(key, record.clone()) {
            Ok(good) => return Ok(RecordState::Valid(good)),
            Err(Error::Damaged { reason, .. }) if is_second => {
                return Ok(RecordState::Unreadable(bad(reason, record)));
            }
            Err(Error::Damaged { .. }) => is_second = true,
            Err(error) => return Err(error),
        }
    }
}

/// Reads an object whole. If the store fails at it repeatedly, and not at others, the object is
/// reported as unreadable.
pub(super) async fn read_raw(core: &Core, key: &Key) -> Result<RawState> {
    let mut patience = ReadRetries::new();
    loop {
        let error = match core.store.get(key).await {
            Ok(record) => return Ok(RawState::Whole(record)),
            Err(error) if error.is_not_found() => return Ok(RawState::Absent),
            Err(error) if error.kind() == ErrorKind::TooLarge => {
                let reason = "it is larger than any record".to_owned();
                return Ok(RawState::Unreadable(UnreadableRecord {
                    reason,
                    cause: UnreadableCause::Damaged,
                    record: None,
                }));
            }
            Err(error) => error,
        };
        if let Some(reason) = patience.lose(core, error).await? {
            return Ok(RawState::Unreadable(UnreadableRecord {
                reason,
                cause: UnreadableCause::ReadFails,
                record: None,
            }));
        }
    }
}

/// Counts the failures of reads of one object.
pub(super) struct ReadRetries {
    failures: u32,
}

impl ReadRetries {
    pub(super) fn new() -> Self {
        Self { failures: 0 }
    }

    /// A read has failed. `None`: retry. A reason: the store fails at this object, and not at others.
    ///
    /// # Errors
    ///
    /// The store fails at other objects, too.
    pub(super) async fn lose(
        &mut self,
        core: &Core,
        error: jreg_storage::Error,
    ) -> Result<Option<String>> {
        self.failures += 1;
        if !matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Refused) {
            return Err(error.into());
        }
        if self.failures < ATTEMPTS {
            return Ok(None);
        }
        core.store.get(&keys::format()).await?;
        Ok(Some(format!("the store fails to read it: {}", error_chain(&error))))
    }
}

fn bad(reason: String, record: Record) -> UnreadableRecord {
    let (reason, cause) = match later_version(&record.bytes) {
        Some(version) => (
            format!("only a later version of jreg decodes its version {version}"),
            UnreadableCause::Newer,
        ),
        None => (reason, UnreadableCause::Damaged),
    };
    UnreadableRecord { reason, cause, record: Some(record) }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn a_later_version_is_distinguished_from_damage() {
        let version = |text: &'static str| later_version(&Bytes::from_static(text.as_bytes()));
        assert_eq!(version(r#"{"nonce":"n","v":3,"state":"frozen","where":["a"]}"#), Some(3));
        // The version itself may be what is damaged.
        let flipped = r#"{"nonce":"n","v":3,"state":"live","check":"0123456789abcdef"}"#;
        assert_eq!(version(flipped), None);
        for other in ["", "{", "{}", r#"{"v":1}"#, r#"{"v":"2"}"#, r#"{"v":2"#] {
            assert_eq!(version(other), None, "{other}");
        }
    }
}
