//! The records as they lie in the store, and reading them with their version and age.
//!
//! Each carries a nonce: two writes of the same content are two versions, so a re-push is visible
//! as a new write (format version 1, see docs/format.md). Each ends with a checksum of what precedes
//! it: a record that the disk changed and that still parses would send clients elsewhere, serve a
//! manifest as something else, or grant other rights. Records of earlier versions have none.

use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jreg_oci::{Algorithm, Descriptor, Digest, MediaType};
use jreg_storage::{ETag, Key, Record};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::{ChangeId, Error, Result};

/// What makes each write of a record its own version.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Nonce(String);

impl Nonce {
    pub(crate) fn new() -> Self {
        Self(Uuid::new_v4().simple().to_string())
    }
}

/// A record with its version and age.
#[derive(Clone, Debug)]
pub(crate) struct VersionedRecord<T> {
    pub(crate) value: T,
    /// As it is stored.
    pub(crate) bytes: Bytes,
    pub(crate) etag: ETag,
    pub(crate) last_modified: SystemTime,
    pub(crate) date: SystemTime,
}

impl<T> VersionedRecord<T> {
    /// How old the record was when it was read, by the store's clock.
    pub(crate) fn age(&self) -> Duration {
        self.date.duration_since(self.last_modified).unwrap_or_default()
    }
}

/// Something that is stored as a record.
pub(crate) trait StoredRecord: Sized {
    /// Decodes the stored bytes; `Err` describes the damage.
    fn decode(bytes: &Bytes) -> Result<Self, String>;

    /// The bytes to store, with a new nonce.
    fn encode(&self) -> Bytes;

    /// The bytes to store over a version of the same record: what that has and this program does not
    /// know stays in it. Another version of the program may have written it.
    fn encode_over(&self, seen: &Bytes) -> Bytes;
}

impl<T: StoredRecord> VersionedRecord<T> {
    /// The same with a new nonce.
    pub(crate) fn renewed(&self) -> Bytes {
        self.value.encode_over(&self.bytes)
    }
}

/// Reads a record that the store returned for `key`.
pub(crate) fn decode_versioned<T: StoredRecord>(
    key: &Key,
    record: Record,
) -> Result<VersionedRecord<T>> {
    let value = T::decode(&record.bytes)
        .map_err(|reason| Error::Damaged { key: key.to_string(), reason })?;
    let Record { bytes, etag, last_modified, date, .. } = record;
    Ok(VersionedRecord { value, bytes, etag, last_modified, date })
}

/// The version of which these bytes are a whole record, if it is one that this code does not know. Not
/// where the checksum is wrong: then the version may be.
pub(crate) fn later_version(bytes: &Bytes) -> Option<u64> {
    #[derive(Deserialize)]
    struct RecordVersion {
        v: u64,
    }
    verify_checksum(bytes).ok()?;
    let version: RecordVersion = serde_json::from_slice(bytes).ok()?;
    (version.v > 1).then_some(version.v)
}

/// A record that is one JSON object: a nonce, a version if the record has one, and its own fields.
pub(crate) trait JsonRecord: Serialize + DeserializeOwned {
    /// What errors call it, and the version that is read and written.
    const VERSION: Option<(&'static str, u32)> = None;
    /// Whether it is ever written over. One that is written once has no nonce: writers that say the
    /// same write the same bytes.
    const HAS_NONCE: bool = true;
}

/// The fields that are put before a record's own.
#[derive(Serialize, Deserialize)]
struct RecordPreamble {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    nonce: Option<Nonce>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    v: Option<u32>,
}

/// The last field of a record: a checksum of all bytes before it.
const CHECK: (&[u8], &[u8]) = (b",\"check\":\"", b"\"}");
const CHECKSUM_DIGITS: usize = 16;
/// The length of a checksum with its field, in place of the last brace of a record.
pub(crate) const CHECK_BYTES: usize = CHECK.0.len() + CHECKSUM_DIGITS + CHECK.1.len() - 1;

fn checksum(bytes: &[u8]) -> String {
    let mut digits = Digest::of(Algorithm::Sha256, bytes).hex();
    digits.truncate(CHECKSUM_DIGITS);
    digits
}

/// Ends an object, whose last brace is missing, with its checksum.
fn add_checksum(record: &mut Vec<u8>) {
    let checksum = checksum(record);
    for part in [CHECK.0, checksum.as_bytes(), CHECK.1] {
        record.extend_from_slice(part);
    }
}

/// Compares an object with its checksum. `Ok(false)`: it has none.
pub(crate) fn verify_checksum(record: &[u8]) -> Result<bool, String> {
    let split = record.strip_suffix(CHECK.1).and_then(|record| {
        let (record, digits) =
            record.split_at_checked(record.len().checked_sub(CHECKSUM_DIGITS)?)?;
        Some((record.strip_suffix(CHECK.0)?, digits))
    });
    match split {
        None => Ok(false),
        Some((record, digits)) if checksum(record).as_bytes() == digits => Ok(true),
        Some(_) => Err("its checksum is of other bytes".to_owned()),
    }
}

/// Ends the JSON object of a record that another crate writes with its checksum.
pub fn add_record_checksum(mut object: Vec<u8>) -> Bytes {
    if object.pop_if(|last| *last == b'}').is_some() {
        add_checksum(&mut object);
    }
    object.into()
}

/// Compares such a record with its checksum, if it has one.
///
/// # Errors
///
/// [`Error::Damaged`].
pub fn verify_record_checksum(key: &Key, record: &[u8]) -> Result<()> {
    match verify_checksum(record) {
        Ok(_) => Ok(()),
        Err(reason) => Err(Error::Damaged { key: key.to_string(), reason }),
    }
}

/// A record with another nonce of the same length, and the checksum that goes with it: those of access tokens, signing
/// keys and sessions have 16 digits, all others 32. One without a nonce, and the record of a tag of an
/// earlier version, whose nonce names its change, stay as they are.
pub(crate) fn renewed_nonce(record: &[u8]) -> Vec<u8> {
    const START: &[u8] = b"{\"nonce\":\"";
    const DIGITS_MIN: usize = 16;
    let is_tag_without_change = || {
        serde_json::from_slice::<serde_json::Value>(record).is_ok_and(|record| {
            record.get("digest").is_some()
                && record.get("time").is_some()
                && record.get("change").is_none()
        })
    };
    let rest = record.strip_prefix(START).and_then(|rest| {
        let digits = rest.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (_, rest) = rest.split_at_checked(digits).filter(|_| digits >= DIGITS_MIN)?;
        let nonce = Nonce::new().0.get(..digits)?.to_owned();
        rest.starts_with(b"\"").then_some((nonce, rest))
    });
    let (Some((nonce, rest)), Ok(has_checksum), false) =
        (rest, verify_checksum(record), is_tag_without_change())
    else {
        return record.to_vec();
    };
    let mut renewed = [START, nonce.as_bytes(), rest].concat();
    if has_checksum {
        renewed.truncate(renewed.len() - (CHECK_BYTES + 1));
        add_checksum(&mut renewed);
    }
    renewed
}

/// Reads one JSON object.
pub(crate) fn decode_json<T: JsonRecord>(bytes: &[u8]) -> Result<T, String> {
    verify_checksum(bytes)?;
    let wrong = |error: serde_json::Error| error.to_string();
    let preamble: RecordPreamble = serde_json::from_slice(bytes).map_err(wrong)?;
    if T::HAS_NONCE && preamble.nonce.is_none() {
        return Err("it has no nonce".to_owned());
    }
    if let Some((name, known)) = T::VERSION {
        match preamble.v {
            Some(v) if v == known => {}
            Some(v) => return Err(format!("{name} version {v} is not known")),
            None => return Err(format!("{name} has no version")),
        }
    }
    serde_json::from_slice(bytes).map_err(wrong)
}

/// Writes one JSON object, with a new nonce. The text of a value is kept as it is, raw JSON in it
/// included, which flattening could not do.
fn encode_json<T: JsonRecord>(value: &T) -> Vec<u8> {
    encode_with(value, &[], 0)
}

/// The same with further fields, as JSON without braces, and spaces up to a length.
pub(crate) fn encode_with<T: JsonRecord>(value: &T, further: &[u8], bytes_min: usize) -> Vec<u8> {
    let nonce = T::HAS_NONCE.then(Nonce::new);
    let preamble = RecordPreamble { nonce, v: T::VERSION.map(|(_, version)| version) };
    let to_json = "a record has only string keys";
    let mut record = serde_json::to_vec(&preamble).expect(to_json);
    let own = serde_json::to_vec(value).expect(to_json);
    record.pop();
    for fields in [own.get(1..own.len() - 1).unwrap_or_default(), further] {
        if record.len() > 1 && !fields.is_empty() {
            record.push(b',');
        }
        record.extend_from_slice(fields);
    }
    let length = record.len() + CHECK_BYTES + 1;
    record.resize(record.len() + bytes_min.saturating_sub(length), b' ');
    add_checksum(&mut record);
    record
}

/// The fields of a stored record that this program does not know, as JSON without braces.
pub(crate) fn unknown_fields<T: JsonRecord>(stored: &[u8]) -> Vec<u8> {
    type Fields<'a> = std::collections::BTreeMap<String, &'a serde_json::value::RawValue>;
    let Ok(fields) = serde_json::from_slice::<Fields<'_>>(stored) else { return Vec::new() };
    let Ok(value) = serde_json::from_slice::<T>(stored) else { return Vec::new() };
    let known = serde_json::to_vec(&value).unwrap_or_default();
    let known = serde_json::from_slice::<Fields<'_>>(&known).unwrap_or_default();
    let mut unknown = Vec::new();
    for (name, value) in fields {
        if known.contains_key(&name) || ["nonce", "v", "check"].contains(&name.as_str()) {
            continue;
        }
        if !unknown.is_empty() {
            unknown.push(b',');
        }
        unknown.extend_from_slice(serde_json::Value::from(name).to_string().as_bytes());
        unknown.push(b':');
        unknown.extend_from_slice(value.get().as_bytes());
    }
    unknown
}

impl<T: JsonRecord> StoredRecord for T {
    fn decode(bytes: &Bytes) -> Result<Self, String> {
        decode_json(bytes)
    }

    fn encode(&self) -> Bytes {
        encode_json(self).into()
    }

    fn encode_over(&self, seen: &Bytes) -> Bytes {
        encode_with(self, &unknown_fields::<T>(seen), 0).into()
    }
}

/// The link of a repository to a blob.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub(crate) enum Link {
    /// The repository has the blob, there.
    Live(Location),
    /// The blob was deleted from the repository. The record stays so that a late replay of an old
    /// write cannot bring it back.
    Deleted,
}

/// The object that has a blob's bytes.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Location {
    #[serde(rename = "location")]
    pub(crate) key: Key,
    #[serde(rename = "size")]
    pub(crate) size_bytes: u64,
    /// An import that trusts its source has not hashed them: no other repository gets them until a deep fsck has.
    #[serde(default, rename = "unverified", skip_serializing_if = "std::ops::Not::not")]
    pub(crate) is_unverified: bool,
}

impl Location {
    pub(crate) fn new(key: Key, size_bytes: u64) -> Self {
        Self { key, size_bytes, is_unverified: false }
    }
}

impl JsonRecord for Link {
    const VERSION: Option<(&'static str, u32)> = Some(("link", 1));
}

impl Link {
    pub(crate) fn live(&self) -> Option<&Location> {
        match self {
            Self::Live(location) => Some(location),
            Self::Deleted => None,
        }
    }
}

/// The descriptor of one referrer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct ReferrerEntry {
    pub(crate) descriptor: Descriptor,
}

/// A record of authentication, of which only its user knows the content.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct AuthRecord {}

impl JsonRecord for AuthRecord {
    const VERSION: Option<(&'static str, u32)> = Some(("record", 1));
}

/// A record without content.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct PresenceMark {}

impl JsonRecord for ReferrerEntry {}
impl JsonRecord for PresenceMark {}
impl JsonRecord for ManifestHeader {}

/// A manifest: a header line, then the bytes as they were pushed.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ManifestRecord {
    pub(crate) header: ManifestHeader,
    pub(crate) bytes: Bytes,
}

/// The fields of a manifest's record, without parsing the manifest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ManifestHeader {
    pub(crate) media_type: MediaType,
    pub(crate) size: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) subject: Option<Digest>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) artifact_type: Option<String>,
    /// When it came into being: kept by every write of it until it is deleted. Records of earlier
    /// versions have none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) change: Option<ChangeId>,
    /// The delete whose copy it was restored from. A later push of it by a client takes that away.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) restored: Option<ChangeId>,
    /// Where it comes from, if not from a client.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) origin: Option<ManifestOrigin>,
}

/// Where a manifest comes from that no client has pushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ManifestOrigin {
    /// A mirrored registry: what it references and is absent was not fetched yet.
    Mirror,
}

impl ManifestHeader {
    /// Whether content that it references may be absent because it was not fetched yet.
    pub(crate) fn is_mirrored(&self) -> bool {
        self.origin == Some(ManifestOrigin::Mirror)
    }
}

impl StoredRecord for ManifestRecord {
    fn decode(bytes: &Bytes) -> Result<Self, String> {
        let line = header_line(bytes).ok_or("it has no header line")?;
        let header: ManifestHeader = decode_json(line)?;
        let content = bytes.slice(line.len() + 1..);
        if content.len() as u64 != header.size {
            return Err(format!("{} bytes follow the header, not {}", content.len(), header.size));
        }
        if !verify_checksum(line)? {
            check_declared_type(&header, &content)?;
        }
        Ok(Self { header, bytes: content })
    }

    fn encode(&self) -> Bytes {
        self.below(encode_json(&self.header))
    }

    fn encode_over(&self, seen: &Bytes) -> Bytes {
        self.encode_as(&self.header, header_line(seen))
    }
}

impl ManifestRecord {
    /// The record with another header, over a version that has this header line.
    pub(crate) fn encode_as(&self, header: &ManifestHeader, seen: Option<&[u8]>) -> Bytes {
        let unknown = seen.map(unknown_fields::<ManifestHeader>).unwrap_or_default();
        self.below(encode_with(header, &unknown, 0))
    }

    /// The record with this header line.
    fn below(&self, mut line: Vec<u8>) -> Bytes {
        line.reserve_exact(self.bytes.len() + 1);
        line.push(b'\n');
        line.extend_from_slice(&self.bytes);
        line.into()
    }
}

/// The header line of a manifest's record.
pub(crate) fn header_line(record: &[u8]) -> Option<&[u8]> {
    record.get(..record.iter().position(|byte| *byte == b'\n')?)
}

/// A header line without a checksum: the type in it must be the one that the bytes declare, if they do.
fn check_declared_type(header: &ManifestHeader, content: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct DeclaredType {
        media_type: Option<String>,
    }
    let declared = serde_json::from_slice::<DeclaredType>(content).ok();
    match declared.and_then(|declared| declared.media_type) {
        Some(declared) if !header.media_type.is(&declared) => Err(format!(
            "its bytes have another mediaType than {} in its header",
            header.media_type
        )),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn link() -> Link {
        let key = "blobs/_/AA/01".parse().expect("a key");
        Link::Live(Location::new(key, 7))
    }

    #[test]
    fn records_come_back_as_they_were() {
        for link in [link(), Link::Deleted] {
            assert_eq!(Link::decode(&link.encode()), Ok(link));
        }
        let header = ManifestHeader {
            media_type: MediaType::OCI_IMAGE_MANIFEST,
            size: 4,
            subject: None,
            artifact_type: Some("a\nb".to_owned()),
            change: None,
            restored: None,
            origin: None,
        };
        let manifest = ManifestRecord { header, bytes: Bytes::from_static(b"{\n\n}") };
        assert_eq!(ManifestRecord::decode(&manifest.encode()), Ok(manifest));
        assert_eq!(PresenceMark::decode(&PresenceMark {}.encode()), Ok(PresenceMark {}));
    }

    /// Regression: a restore made every access token, signing key and session unreadable.
    #[test]
    fn fixed_renewed_record_keeps_the_length_of_its_nonce() {
        for digits in [16, 24, 32] {
            let object = format!("{{\"nonce\":\"{}\",\"v\":1,\"name\":\"a\"}}", "a".repeat(digits));
            for record in [object.clone().into_bytes(), add_record_checksum(object.into()).to_vec()]
            {
                let renewed = renewed_nonce(&record);
                assert_ne!(renewed, record);
                assert_eq!(verify_checksum(&renewed), verify_checksum(&record));
                let [old, new] = [&record, &renewed].map(|bytes| {
                    serde_json::from_slice::<serde_json::Value>(bytes).expect("it is JSON")
                });
                assert_eq!(new["nonce"].as_str().map(str::len), Some(digits));
                assert_eq!((&new["v"], &new["name"]), (&old["v"], &old["name"]));
            }
        }
        for other in ["a".repeat(15), "a".repeat(33), "g".repeat(32)] {
            let record = format!("{{\"nonce\":\"{other}\"}}").into_bytes();
            assert_eq!(renewed_nonce(&record), record, "no nonce of ours");
        }
    }

    #[test]
    fn a_renewed_record_is_the_same_of_another_version() {
        for link in [link(), Link::Deleted] {
            let bytes = link.encode();
            let renewed = Bytes::from(renewed_nonce(&bytes));
            assert_ne!(renewed, bytes);
            assert_eq!((renewed.len(), Link::decode(&renewed)), (bytes.len(), Ok(link)));
        }
        for other in [&b"{}"[..], b"{\"nonce\":\"", b"x", b"{\"nonce\":\"1\",\"v\":1}"] {
            assert_eq!(renewed_nonce(other), other);
        }
    }

    #[test]
    fn every_write_is_its_own_version() {
        assert_ne!(link().encode(), link().encode());
    }

    #[test]
    fn a_link_is_spelled_as_the_format_says() {
        let json: serde_json::Value = serde_json::from_slice(&link().encode()).expect("json");
        assert_eq!(json["v"], 1);
        assert_eq!(json["state"], "live");
        assert_eq!(json["location"], "blobs/_/AA/01");
        assert_eq!(json["size"], 7);
        assert_eq!(json["nonce"].as_str().map(str::len), Some(32));
    }

    #[test]
    fn record_with_any_changed_byte_is_an_error_or_says_the_same() {
        let header = ManifestHeader {
            media_type: MediaType::OCI_IMAGE_MANIFEST,
            size: 2,
            subject: Some(Digest::of(Algorithm::Sha256, b"")),
            artifact_type: Some("application/x".to_owned()),
            change: None,
            restored: None,
            origin: None,
        };
        let manifest = ManifestRecord { header, bytes: Bytes::from_static(b"{}") };
        let (whole, length) = (manifest.encode(), manifest.encode().len() - 2);
        for (position, bit) in (0..length).flat_map(|position| [0, 1, 5].map(|bit| (position, bit)))
        {
            let mut bytes = whole.to_vec();
            bytes[position] ^= 1 << bit;
            // A byte in the name of the checksum's field leaves the rest as it was.
            if let Ok(read) = ManifestRecord::decode(&bytes.into()) {
                assert_eq!(read, manifest, "bit {bit} of byte {position}");
            }
        }
        let whole = link().encode();
        for position in 0..whole.len() {
            let mut bytes = whole.to_vec();
            bytes[position] ^= 1;
            assert!(Link::decode(&bytes.into()).map_or(true, |read| read == link()), "{position}");
        }
    }

    #[test]
    fn records_without_a_checksum_and_with_further_fields_are_read() {
        let record = |text: &'static str| Bytes::from_static(text.as_bytes());
        let old =
            record(r#"{"nonce":"n","v":1,"state":"live","location":"blobs/_/AA/01","size":7}"#);
        assert_eq!(Link::decode(&old), Ok(link()));
        let newer =
            record(r#"{"nonce":"n","v":1,"state":"deleted","more":{"check":"0123456789abcdef"}}"#);
        assert_eq!(Link::decode(&newer), Ok(Link::Deleted));
        for (bytes, is_read) in [
            ("{}", true),
            ("no JSON", true),
            (r#"{"mediaType":"application/x"}"#, true),
            (r#"{"mediaType":"application/y"}"#, false),
        ] {
            let size = bytes.len();
            let text = format!(
                "{{\"nonce\":\"n\",\"mediaType\":\"application/x\",\"size\":{size}}}\n{bytes}"
            );
            assert_eq!(ManifestRecord::decode(&text.into()).is_ok(), is_read, "{bytes}");
        }
    }

    #[test]
    fn damaged_records_are_errors() {
        assert!(Link::decode(&Bytes::from_static(b"")).is_err());
        assert!(
            Link::decode(&Bytes::from_static(b"{\"nonce\":\"\",\"v\":2,\"state\":\"deleted\"}"))
                .is_err()
        );
        assert!(ManifestRecord::decode(&Bytes::from_static(b"{}")).is_err());
        let cut = {
            let header = ManifestHeader {
                media_type: MediaType::OCI_IMAGE_MANIFEST,
                size: 2,
                subject: None,
                artifact_type: None,
                change: None,
                restored: None,
                origin: None,
            };
            let whole = ManifestRecord { header, bytes: Bytes::from_static(b"{}") }.encode();
            whole.slice(..whole.len() - 1)
        };
        assert!(ManifestRecord::decode(&cut).is_err());
    }
}
