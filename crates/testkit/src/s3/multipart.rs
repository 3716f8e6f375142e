//! Multipart uploads: what has come of each, and the rules under which one becomes an object.

use std::collections::BTreeMap;
use std::time::SystemTime;

use http::HeaderMap;
use s3s::crypto::{Checksum as _, Md5};
use s3s::dto::CompletedPart;
use s3s::{S3Result, s3_error};

use super::object::{S3Object, hex};
use super::pieces::Pieces;

/// The highest number a part may have (S3 user guide, "Amazon S3 multipart upload limits").
pub(crate) const PART_NUMBER_MAX: i32 = 10_000;

/// The rules for parts.
#[derive(Clone, Copy, Debug)]
pub struct S3PartRules {
    /// The least size of all parts but the last; 5 MiB on AWS.
    pub size_min_bytes: u64,
    /// Whether all parts but the last must have one size, as Cloudflare R2 wants it.
    pub equal_sizes: bool,
}

impl Default for S3PartRules {
    /// Those of AWS.
    fn default() -> Self {
        Self { size_min_bytes: 5 * 1024 * 1024, equal_sizes: false }
    }
}

/// A part.
#[derive(Clone, Debug)]
pub(crate) struct S3Part {
    pub(crate) pieces: Pieces,
    md5: [u8; 16],
    pub(crate) modified: SystemTime,
}

impl S3Part {
    pub(crate) fn new(pieces: Pieces, modified: SystemTime) -> Self {
        Self { md5: pieces.md5(), pieces, modified }
    }

    pub(crate) fn size_bytes(&self) -> u64 {
        self.pieces.len()
    }

    /// Without quotes.
    pub(crate) fn etag(&self) -> String {
        hex(&self.md5)
    }
}

/// An upload that is neither complete nor aborted.
#[derive(Clone, Debug)]
pub(crate) struct S3Upload {
    pub(crate) key: String,
    pub(crate) initiated: SystemTime,
    pub(crate) headers: HeaderMap,
    pub(crate) parts: BTreeMap<i32, S3Part>,
}

/// A part as the client names it when it completes: number and bare etag.
pub(crate) type NamedPart = (i32, String);

/// What the client names, of a request to complete.
pub(crate) fn named(parts: Vec<CompletedPart>) -> S3Result<Vec<NamedPart>> {
    let name = |part: CompletedPart| Some((part.part_number?, part.e_tag?.into_value()));
    let named: Option<Vec<_>> = parts.into_iter().map(name).collect();
    named
        .filter(|named| !named.is_empty())
        .ok_or_else(|| s3_error!(MalformedXML, "no parts, or one without number or etag"))
}

impl S3Upload {
    /// Makes the object of the parts that the client names.
    pub(crate) fn assemble(
        &self,
        named: &[NamedPart],
        rules: S3PartRules,
        modified: SystemTime,
    ) -> S3Result<S3Object> {
        if !named.is_sorted_by(|one, next| one.0 < next.0) {
            return Err(s3_error!(InvalidPartOrder, "the parts are not in ascending order"));
        }
        let parts = named.iter().map(|part| self.part(part)).collect::<S3Result<Vec<_>>>()?;
        check_sizes(&parts, rules)?;
        let md5s = parts.iter().flat_map(|part| part.md5).collect::<Vec<_>>();
        Ok(S3Object {
            pieces: parts.iter().map(|part| &part.pieces).collect(),
            etag: format!("{}-{}", hex(&Md5::checksum(&md5s)), parts.len()),
            modified,
            headers: self.headers.clone(),
        })
    }

    fn part(&self, (number, etag): &NamedPart) -> S3Result<&S3Part> {
        self.parts
            .get(number)
            .filter(|part| part.etag() == *etag)
            .ok_or_else(|| s3_error!(InvalidPart, "no part {number} with etag {etag}"))
    }
}

fn check_sizes(parts: &[&S3Part], rules: S3PartRules) -> S3Result<()> {
    let Some((last, before)) = parts.split_last() else { return Ok(()) };
    if before.iter().any(|part| part.size_bytes() < rules.size_min_bytes) {
        return Err(s3_error!(EntityTooSmall, "a part but the last is too small"));
    }
    let Some(first) = before.first().filter(|_| rules.equal_sizes) else { return Ok(()) };
    let size = first.size_bytes();
    let equal = before.iter().all(|part| part.size_bytes() == size) && last.size_bytes() <= size;
    if equal { Ok(()) } else { Err(s3_error!(InvalidPart, "parts but the last differ in size")) }
}
