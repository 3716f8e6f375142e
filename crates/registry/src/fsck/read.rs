//! Reading a record that may be in any state.

use bytes::Bytes;
use jreg_storage::{ErrorKind, Key, Record};
use serde::Deserialize;

use crate::core::Core;
use crate::error::chain;
use crate::keys;
use crate::record::{Stored, Versioned, versioned};
use crate::{Error, Result};

/// How often a read is tried before it is taken to be the object's fault.
const ATTEMPTS: u32 = 3;

/// A record as it was found.
pub(super) enum Found<T> {
    /// There is none.
    Absent,
    /// It is whole.
    Good(Versioned<T>),
    /// It cannot be understood.
    Bad(Bad),
}

/// A record that cannot be understood.
#[derive(Debug)]
pub(super) struct Bad {
    /// Why.
    pub(super) reason: String,
    pub(super) cause: Cause,
    /// What is there; `None`: it cannot be read whole.
    pub(super) record: Option<Record>,
}

/// Why a record cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is not what any version writes.
    Damaged,
    /// It names a version that this code does not know.
    Newer,
    /// The store cannot give it, though it gives others.
    ReadFails,
}

/// An object as it was found.
pub(super) enum Raw {
    Absent,
    Whole(Record),
    Bad(Bad),
}

/// Reads a record. One that cannot be understood is read twice before that is said.
pub(super) async fn look<T: Stored>(core: &Core, key: &Key) -> Result<Found<T>> {
    let mut is_second = false;
    loop {
        let record = match look_raw(core, key).await? {
            Raw::Absent => return Ok(Found::Absent),
            Raw::Bad(bad) => return Ok(Found::Bad(bad)),
            Raw::Whole(record) => record,
        };
        match versioned::<T>(key, record.clone()) {
            Ok(good) => return Ok(Found::Good(good)),
            Err(Error::Damaged { reason, .. }) if is_second => {
                return Ok(Found::Bad(bad(reason, record)));
            }
            Err(Error::Damaged { .. }) => is_second = true,
            Err(error) => return Err(error),
        }
    }
}

/// Reads an object whole. If the store fails at it again and again, and not at others, that is
/// said of the object.
pub(super) async fn look_raw(core: &Core, key: &Key) -> Result<Raw> {
    let mut patience = Patience::new();
    loop {
        let error = match core.store.get(key).await {
            Ok(record) => return Ok(Raw::Whole(record)),
            Err(error) if error.is_not_found() => return Ok(Raw::Absent),
            Err(error) if error.kind() == ErrorKind::TooLarge => {
                let reason = "it is larger than any record".to_owned();
                return Ok(Raw::Bad(Bad { reason, cause: Cause::Damaged, record: None }));
            }
            Err(error) => error,
        };
        if let Some(reason) = patience.lose(core, error).await? {
            return Ok(Raw::Bad(Bad { reason, cause: Cause::ReadFails, record: None }));
        }
    }
}

/// Counts the failures of reads of one object.
pub(super) struct Patience {
    failures: u32,
}

impl Patience {
    pub(super) fn new() -> Self {
        Self { failures: 0 }
    }

    /// A read has failed. `None`: try again. A reason: the store fails at this object, and not at
    /// others.
    ///
    /// # Errors
    ///
    /// The store fails at others, too.
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
        Ok(Some(format!("the store cannot give it: {}", chain(&error))))
    }
}

fn bad(reason: String, record: Record) -> Bad {
    let (reason, cause) = match later_version(&record.bytes) {
        Some(version) => (format!("only a later jreg knows its version {version}"), Cause::Newer),
        None => (reason, Cause::Damaged),
    };
    Bad { reason, cause, record: Some(record) }
}

/// The version of which these bytes are a whole record, if it is one that this code does not know.
fn later_version(bytes: &Bytes) -> Option<u64> {
    #[derive(Deserialize)]
    struct Version {
        v: u64,
    }
    let version: Version = serde_json::from_slice(bytes).ok()?;
    (version.v > 1).then_some(version.v)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_later_version_is_told_from_rubbish() {
        let version = |text: &'static str| later_version(&Bytes::from_static(text.as_bytes()));
        assert_eq!(version(r#"{"nonce":"n","v":3,"state":"frozen","where":["a"]}"#), Some(3));
        for other in ["", "{", "{}", r#"{"v":1}"#, r#"{"v":"2"}"#, r#"{"v":2"#] {
            assert_eq!(version(other), None, "{other}");
        }
    }
}
