//! ACME records in the store, shared by all instances (docs/format.md).

use std::collections::BTreeMap;
use std::fmt;

use bytes::Bytes;
use jreg_registry::{
    acme_account, acme_certificate, acme_order, add_record_checksum, verify_record_checksum,
};
use jreg_storage::Key;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// A record with a nonce that makes the version of each write unique.
#[derive(Serialize, Deserialize)]
struct Noted<T> {
    nonce: String,
    v: u32,
    #[serde(flatten)]
    value: T,
}

fn decode<T: DeserializeOwned>(key: &Key, bytes: &[u8]) -> Result<T, String> {
    verify_record_checksum(key, bytes).map_err(|_| "its checksum is of other bytes".to_owned())?;
    // The cause may contain part of a key.
    let noted: Noted<T> = serde_json::from_slice(bytes).map_err(|_| "it is damaged".to_owned())?;
    if noted.v == 1 { Ok(noted.value) } else { Err(format!("version {} is not known", noted.v)) }
}

fn encode<T: Serialize>(value: &T) -> Bytes {
    let noted = Noted { nonce: Uuid::new_v4().simple().to_string(), v: 1, value };
    add_record_checksum(serde_json::to_vec(&noted).unwrap_or_default())
}

/// The account at the CA.
#[derive(Serialize, Deserialize)]
pub(super) struct AccountRecord {
    pub(super) directory: String,
    pub(super) contact: Option<String>,
    /// Account URL and private key, in the library's format.
    pub(super) credentials: serde_json::Value,
}

impl AccountRecord {
    /// `None`: it is damaged, and replaced by another account.
    pub(super) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let account = decode(&acme_account(), bytes);
        let note = |error: &String| tracing::error!(error, "the stored ACME account is damaged");
        account.inspect_err(note).ok()
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        encode(self)
    }
}

#[derive(Serialize, Deserialize)]
pub(super) struct CertificateRecord {
    /// The CA that issued it.
    pub(super) directory: String,
    /// The certificate chain (PEM).
    pub(super) chain: String,
    /// Its private key (PEM).
    pub(super) key: String,
}

impl CertificateRecord {
    pub(super) fn of_bytes(bytes: &[u8]) -> Result<Self, String> {
        decode(&acme_certificate(), bytes)
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

/// The current order and the result of the last. Times are seconds of the Unix epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct OrderRecord {
    pub(super) directory: String,
    pub(super) domains: Vec<String>,
    /// The instance that holds the claim.
    pub(super) holder: Option<String>,
    /// When the claim expires.
    pub(super) until: u64,
    /// Expected challenge response per name: the SHA-256 of the key authorization.
    pub(super) challenges: BTreeMap<String, [u8; 32]>,
    /// Number of failures since the last success.
    pub(super) failures: u32,
    /// Cause of the last failure.
    pub(super) reason: Option<String>,
    /// Earliest time of the next attempt.
    pub(super) not_before: u64,
    /// When the last certificate was issued.
    pub(super) done: u64,
}

impl OrderRecord {
    /// `None`: it is damaged, and replaced by the next order.
    pub(super) fn of_bytes(bytes: &[u8]) -> Option<Self> {
        let order = decode(&acme_order(), bytes);
        let note = |error: &String| tracing::error!(error, "the stored ACME order is damaged");
        order.inspect_err(note).ok()
    }

    pub(super) fn to_bytes(&self) -> Bytes {
        encode(self)
    }
}
