//! What is stored under a key: bytes in the pieces they came in, and the headers that S3 keeps
//! with them.

use std::ops::Range;
use std::time::SystemTime;

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName};
use s3s::crypto::{Checksum as _, Md5};

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
    ["x-amz-checksum-", "x-amz-meta-", "x-amz-server-side-encryption", "x-amz-storage-class"];

/// Read out in pieces of at most this size, so that a body can be cut or held back within.
const PIECE_BYTES: usize = 64 * 1024;

/// An object. Its pieces are shared, never copied.
#[derive(Clone, Debug)]
pub(crate) struct Object {
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) size_bytes: u64,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) modified: SystemTime,
    pub(crate) headers: HeaderMap,
}

impl Object {
    /// An object of one piece: its etag is the MD5 of its bytes.
    pub(crate) fn plain(bytes: Bytes, headers: HeaderMap, modified: SystemTime) -> Self {
        let etag = hex(&Md5::checksum(&bytes));
        let size_bytes = len(&bytes);
        Self { pieces: vec![bytes], size_bytes, etag, modified, headers }
    }

    /// A part of its bytes, in pieces.
    pub(crate) fn slices(&self, range: Range<u64>) -> Vec<Bytes> {
        let mut slices = Vec::new();
        let mut start = 0;
        for piece in &self.pieces {
            let end = start + len(piece);
            let from = range.start.clamp(start, end) - start;
            let to = range.end.clamp(start, end) - start;
            let mut slice = piece.slice(index(from)..index(to.max(from)));
            while !slice.is_empty() {
                slices.push(slice.split_to(slice.len().min(PIECE_BYTES)));
            }
            start = end;
        }
        slices
    }

    /// As a test sees it.
    pub(crate) fn shown(&self) -> StoredObject {
        let bytes = match &*self.pieces {
            [whole] => whole.clone(),
            pieces => pieces.iter().fold(BytesMut::new(), joined).freeze(),
        };
        StoredObject {
            bytes,
            etag: self.etag.clone(),
            last_modified: self.modified,
            headers: self.headers.clone(),
        }
    }
}

fn joined(mut all: BytesMut, piece: &Bytes) -> BytesMut {
    all.extend_from_slice(piece);
    all
}

/// An object as a test sees it.
#[derive(Clone, Debug)]
pub struct StoredObject {
    /// Its bytes.
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
    let keeps = |name: &HeaderName| {
        KEPT.contains(&name.as_str())
            || KEPT_PREFIXES.iter().any(|prefix| name.as_str().starts_with(prefix))
    };
    headers
        .iter()
        .filter(|(name, _)| keeps(name))
        .map(|(name, value)| (name.clone(), value.clone()))
        .collect()
}

pub(crate) fn len(bytes: &Bytes) -> u64 {
    u64::try_from(bytes.len()).expect("a length fits 64 bits")
}

fn index(offset: u64) -> usize {
    usize::try_from(offset).expect("an offset into memory fits")
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_run_over_the_seams() {
        let object = Object {
            pieces: vec![Bytes::from_static(b"abc"), Bytes::from_static(b"defg")],
            ..Object::plain(Bytes::new(), HeaderMap::new(), SystemTime::UNIX_EPOCH)
        };
        let text = |range| object.slices(range).concat();
        assert_eq!(text(0..7), b"abcdefg");
        assert_eq!(text(2..4), b"cd");
        assert_eq!(text(3..3), b"");
        assert_eq!(text(5..7), b"fg");
    }

    #[test]
    fn the_etag_is_the_md5() {
        let object = Object::plain(Bytes::new(), HeaderMap::new(), SystemTime::UNIX_EPOCH);
        assert_eq!(object.etag, "d41d8cd98f00b204e9800998ecf8427e");
    }
}
