//! What is kept in the store, for all instances (docs/format.md).

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A record with what makes each write of it a version of its own.
#[derive(Serialize, Deserialize)]
struct Noted<T> {
    nonce: String,
    v: u32,
    #[serde(flatten)]
    value: T,
}

fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, String> {
    // What is wrong in detail may hold part of a key.
    let noted: Noted<T> = serde_json::from_slice(bytes).map_err(|_| "it is damaged".to_owned())?;
    if noted.v == 1 { Ok(noted.value) } else { Err(format!("version {} is not known", noted.v)) }
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    let noted = Noted { nonce: Uuid::new_v4().simple().to_string(), v: 1, value };
    serde_json::to_vec(&noted).unwrap_or_default().into()
}

/// The account at the authority.
#[derive(Serialize, Deserialize)]
pub(super) struct AccountRecord {
    pub(super) directory: String,
    pub(super) contact: Option<String>,
    /// Its address and private key, as the library writes them.
    pub(super) credentials: serde_json::Value,
}

impl AccountRecord {
    pub(super) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        decode(bytes).ok()
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        encode(self)
    }
}

/// The certificate.
#[derive(Serialize, Deserialize)]
pub(super) struct CertificateRecord {
    /// Who issued it.
    pub(super) directory: String,
    /// It, and those between it and what clients trust (PEM).
    pub(super) chain: String,
    /// Its private key (PEM).
    pub(super) key: String,
}

impl CertificateRecord {
    pub(super) fn of_bytes(bytes: &[u8]) -> Result<Self, String> {
        decode(bytes)
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        encode(self)
    }
}

impl fmt::Debug for CertificateRecord {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CertificateRecord").finish_non_exhaustive()
    }
}

/// The order that runs, and what came of the last. Times are seconds of the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OrderRecord {
    pub(super) directory: String,
    pub(super) domains: Vec<String>,
    /// Who orders.
    pub(super) holder: Option<String>,
    /// Until when the order is theirs.
    pub(super) until: u64,
    /// What the authority wants to see of each name: the SHA-256 of the key authorization.
    pub(super) challenges: BTreeMap<String, [u8; 32]>,
    /// How many orders have failed since the last that did not.
    pub(super) failures: u32,
    /// Why the last of them has.
    pub(super) reason: Option<String>,
    /// When the next may be tried.
    pub(super) not_before: u64,
    /// When the last certificate came.
    pub(super) done: u64,
}

impl OrderRecord {
    pub(super) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        decode(bytes).ok()
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        encode(self)
    }
}
