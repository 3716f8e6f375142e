//! What is stored under a key: bytes, and the headers that S3 keeps with them.

use std::time::SystemTime;

use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use super::pieces::Pieces;

/// The headers of a write that are kept, and given again when the object is read.
const KEPT: [&str; 6] = [
    "cache-control",
    "content-disposition",
    "content-encoding",
    "content-language",
    "content-type",
    "expires",
];
const KEPT_PREFIXES: [&str; 4] =
    [CHECKSUM_PREFIX, "x-amz-meta-", ENCRYPTION_PREFIX, "x-amz-storage-class"];
const CHECKSUM_PREFIX: &str = "x-amz-checksum-";
const ENCRYPTION_PREFIX: &str = "x-amz-server-side-encryption";

/// An object.
#[derive(Clone, Debug)]
pub(crate) struct S3Object {
    pub(crate) pieces: Pieces,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
    pub(crate) headers: HeaderMap,
}

impl S3Object {
    /// An object that was not made of parts: its etag is the MD5 of its bytes.
    pub(crate) fn plain(pieces: Pieces, headers: HeaderMap, modified: SystemTime) -> Self {
        Self { etag: hex(&pieces.md5()), pieces, modified, headers }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.pieces.len()
    }

    /// As a test sees it.
    pub(crate) fn shown(&self) -> StoredObject {
        StoredObject {
            bytes: self.pieces.joined(),
            etag: self.etag.clone(),
            last_modified: self.modified,
            headers: self.headers.clone(),
        }
    }
}

/// An object as a test sees it.
#[derive(Clone, Debug)]
pub struct StoredObject {
    pub bytes: Bytes,
    /// Its etag, without quotes.
    pub etag: String,
    /// When it was written, by the server's clock, in whole seconds.
    pub last_modified: SystemTime,
    /// The headers it was written with, of those that S3 keeps: content type and the like,
    /// storage class, encryption, checksums, metadata.
    pub headers: HeaderMap,
}

impl StoredObject {
    /// The value of a header it was written with.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name)?.to_str().ok()
    }
}

/// Those headers of a write that stay with the object.
pub(crate) fn kept(headers: &HeaderMap) -> HeaderMap {
    filtered(headers, |name| {
        KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
    })
}

/// Those headers of a write that its response says again.
pub(crate) fn echoed(headers: &HeaderMap) -> HeaderMap {
    filtered(headers, |name| {
        name.starts_with(CHECKSUM_PREFIX) || name.starts_with(ENCRYPTION_PREFIX)
    })
}

/// Those headers of an object that are shown without being asked for.
pub(crate) fn without_checksums(headers: &HeaderMap) -> HeaderMap {
    filtered(headers, |name| !name.starts_with(CHECKSUM_PREFIX))
}

fn filtered(headers: &HeaderMap, keeps: impl Fn(&str) -> bool) -> HeaderMap {
    let keeps = |(name, _): &(&HeaderName, _)| keeps(name.as_str());
    headers.iter().filter(keeps).map(|(name, value)| (name.clone(), value.clone())).collect()
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_etag_is_the_md5() {
        let object = S3Object::plain(Pieces::default(), HeaderMap::new(), SystemTime::UNIX_EPOCH);
        assert_eq!(object.etag, "d41d8cd98f00b204e9800998ecf8427e");
    }

    #[test]
    fn headers_are_kept_and_echoed_by_name() {
        let names = |headers: HeaderMap| {
            let mut names: Vec<_> = headers.keys().map(|name| name.as_str().to_owned()).collect();
            names.sort();
            names
        };
        let sent: HeaderMap = [
            "authorization",
            "content-type",
            "x-amz-checksum-crc32",
            "x-amz-meta-a",
            "x-amz-server-side-encryption",
        ]
        .into_iter()
        .map(|name| (HeaderName::from_static(name), http::HeaderValue::from_static("v")))
        .collect();
        assert_eq!(names(kept(&sent)), names(sent.clone())[1..]);
        let echoed = names(echoed(&sent));
        assert_eq!(echoed, ["x-amz-checksum-crc32", "x-amz-server-side-encryption"]);
        assert_eq!(without_checksums(&kept(&sent)).len(), 3);
    }
}
