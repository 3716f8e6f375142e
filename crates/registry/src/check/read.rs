//! Reading a record that may be in any state.

use jreg_storage::{ErrorKind, Key, Record};
use serde::Deserialize;

use crate::Result;
use crate::core::Core;
use crate::keys;
use crate::record::{Stored, Versioned, versioned};

/// How often a read is tried before it is the object that is at fault.
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
    /// What is there; `None`: it could not be read whole.
    pub(super) record: Option<Record>,
    pub(super) cause: Cause,
}

/// Why a record cannot be understood.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cause {
    /// It is not what any version writes.
    Damaged,
    /// It names a version that this code does not know.
    Newer,
    /// The store cannot give it, but gives others.
    ReadFails,
}

/// What is read of one object.
pub(super) enum Raw {
    Absent,
    Whole(Record),
    Bad(Bad),
}

/// Reads a record. One that cannot be understood is read twice.
pub(super) async fn look<T: Stored>(core: &Core, key: &Key) -> Result<Found<T>> {
    let mut bad = None;
    for _ in 0..2 {
        let record = match read_raw(core, key).await? {
            Raw::Absent => return Ok(Found::Absent),
            Raw::Bad(bad) => return Ok(Found::Bad(bad)),
            Raw::Whole(record) => record,
        };
        match versioned::<T>(key, record.clone()) {
            Ok(good) => return Ok(Found::Good(good)),
            Err(crate::Error::Damaged { reason, .. }) => {
                let cause = if is_newer(&record.bytes) { Cause::Newer } else { Cause::Damaged };
                bad = Some(Bad { reason, record: Some(record), cause });
            }
            Err(error) => return Err(error),
        }
    }
    Ok(bad.map_or(Found::Absent, Found::Bad))
}

/// Reads an object whole. If the store fails at it again and again, and not at others, that is a
/// matter of this object.
pub(super) async fn read_raw(core: &Core, key: &Key) -> Result<Raw> {
    let mut attempt = 0;
    loop {
        let error = match core.store.get(key).await {
            Ok(record) => return Ok(Raw::Whole(record)),
            Err(error) => error,
        };
        let (reason, cause) = match error.kind() {
            ErrorKind::NotFound => return Ok(Raw::Absent),
            ErrorKind::TooLarge => ("it is larger than any record".to_owned(), Cause::Damaged),
            _ if is_of_one_object(core, &error, attempt).await => {
                (crate::error::chain(&error), Cause::ReadFails)
            }
            _ if attempt + 1 < ATTEMPTS && error.kind() != ErrorKind::Throttled => {
                attempt += 1;
                continue;
            }
            _ => return Err(error.into()),
        };
        return Ok(Raw::Bad(Bad { reason, record: None, cause }));
    }
}

/// Whether a store that has failed this often at one object gives others.
pub(super) async fn is_of_one_object(
    core: &Core,
    error: &jreg_storage::Error,
    attempt: u32,
) -> bool {
    let may_be = matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Refused);
    may_be && attempt + 1 >= ATTEMPTS && core.store.get(&keys::format()).await.is_ok()
}

/// Whether these bytes are a whole record of a later version.
fn is_newer(bytes: &[u8]) -> bool {
    #[derive(Deserialize)]
    struct Version {
        v: u64,
    }
    serde_json::from_slice::<Version>(bytes).is_ok_and(|version| version.v > 1)
}
