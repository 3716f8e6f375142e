//! A read of an object, as far as GET and HEAD have it in common: conditions, range, headers.

use std::time::SystemTime;

use http::{HeaderMap, header};
use s3s::dto::{ETag, GetObjectInput, Range};
use s3s::{S3Result, s3_error};

use super::object::{S3Object, without_checksums};
use super::pieces::Pieces;

/// What a read gives.
#[derive(Debug)]
pub(crate) struct ObjectRead {
    pub(crate) pieces: Pieces,
    pub(crate) size_bytes: i64,
    /// If a range was asked for.
    pub(crate) content_range: Option<String>,
    pub(crate) etag: ETag,
    pub(crate) modified: SystemTime,
    /// Those of the object that are given with it.
    pub(crate) headers: HeaderMap,
}

impl ObjectRead {
    /// Reads an object as the headers of the request ask.
    pub(crate) fn of(object: &S3Object, asked: &HeaderMap, range: Option<Range>) -> S3Result<Self> {
        check(object, asked)?;
        let whole = object.size_bytes();
        let span = match range {
            Some(range) => span(range, whole)?,
            None => 0..whole,
        };
        // Checksums are of the whole, and are given when asked for.
        let checksums = range.is_none() && asked.contains_key("x-amz-checksum-mode");
        Ok(Self {
            size_bytes: signed(span.end - span.start),
            content_range: range.map(|_| format!("bytes {}-{}/{whole}", span.start, span.end - 1)),
            pieces: object.pieces.slice(span),
            etag: strong(&object.etag),
            modified: object.modified,
            headers: match checksums {
                true => object.headers.clone(),
                false => without_checksums(&object.headers),
            },
        })
    }

    /// Leaves out those headers that the query of a GET gives another value.
    pub(crate) fn overridden_by(mut self, input: &GetObjectInput) -> Self {
        for (overridden, name) in [
            (input.response_cache_control.is_some(), header::CACHE_CONTROL),
            (input.response_content_disposition.is_some(), header::CONTENT_DISPOSITION),
            (input.response_content_encoding.is_some(), header::CONTENT_ENCODING),
            (input.response_content_language.is_some(), header::CONTENT_LANGUAGE),
            (input.response_content_type.is_some(), header::CONTENT_TYPE),
            (input.response_expires.is_some(), header::EXPIRES),
        ] {
            if overridden {
                self.headers.remove(name);
            }
        }
        self
    }
}

/// The bytes that a range names of so many.
pub(crate) fn span(range: Range, whole: u64) -> S3Result<std::ops::Range<u64>> {
    let span = range.check(whole).ok().filter(|span| !span.is_empty());
    span.ok_or_else(|| s3_error!(InvalidRange, "{range:?} of {whole} bytes"))
}

/// The conditions on the etag; those on time are not kept.
fn check(object: &S3Object, asked: &HeaderMap) -> S3Result<()> {
    let names = |header: &str| {
        let value = asked.get(header)?.to_str().ok()?;
        let named = |etag: &str| etag == "*" || etag.trim_matches('"') == object.etag;
        Some(value.split(',').any(|etag| named(etag.trim())))
    };
    if names("if-match") == Some(false) {
        return Err(s3_error!(PreconditionFailed, "If-Match"));
    }
    if names("if-none-match") == Some(true) {
        let etag = strong(&object.etag).to_http_header().expect("an etag is ASCII");
        let mut error = s3_error!(NotModified);
        error.set_headers(HeaderMap::from_iter([(header::ETAG, etag)]));
        return Err(error);
    }
    Ok(())
}

/// An etag as s3s takes it.
pub(crate) fn strong(etag: &str) -> ETag {
    ETag::Strong(etag.to_owned())
}

/// A size as s3s takes it.
pub(crate) fn signed(size_bytes: u64) -> i64 {
    i64::try_from(size_bytes).expect("what is in memory is shorter than 2^63")
}
