//! Blobs: pull, look, delete (end-2, end-10). They are never compressed.

use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use futures::{StreamExt, TryStreamExt, stream};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jreg_oci::{Digest, ErrorCode, RangeHeader, Ranges};
use jreg_registry::BlobReader;
use jreg_storage::ByteRange;
use uuid::Uuid;

use super::api::Call;
use super::error::ApiError;
use super::files::{self, FileBody, Files, SMALL_BYTES_MAX};
use super::{conditional, headers};

const BYTES: HeaderValue = HeaderValue::from_static("bytes");

pub(super) async fn head(call: Call, digest: &Digest) -> Result<Response, ApiError> {
    let blob = call.access.blob_stat(digest).await?;
    if conditional::is_known(&call.headers, digest) {
        return Ok(not_modified(digest));
    }
    Ok(whole(digest, blob.size_bytes, Body::empty()))
}

pub(super) async fn get(call: Call, digest: &Digest) -> Result<Response, ApiError> {
    let reader = call.access.blob_open(digest).await?;
    if conditional::is_known(&call.headers, digest) {
        return Ok(not_modified(digest));
    }
    let redirects = &call.context.options.redirects;
    if let Some(elsewhere) = redirects.answer(&reader, call.peer, &call.headers).await? {
        return Ok(elsewhere);
    }
    let size = reader.blob().size_bytes;
    match ranges(&call.headers, digest, size) {
        Ranges::Whole => {
            let body = body(&reader, call.files.as_ref(), 0, size).await?;
            Ok(whole(digest, size, body))
        }
        Ranges::Single(start, end) => {
            let body = body(&reader, call.files.as_ref(), start, end).await?;
            Ok(part(digest, (start, end), size, body))
        }
        Ranges::Multi(parts) => Ok(parts_of(reader, digest, &parts)),
        Ranges::Unsatisfiable => Err(unsatisfiable(size)),
    }
}

pub(super) async fn delete(call: Call, digest: &Digest) -> Result<Response, ApiError> {
    call.access.blob_delete(digest).await?;
    Ok(headers::empty(StatusCode::ACCEPTED))
}

/// Which bytes to send. A `Range` that cannot be read, or that is about other content, is as
/// good as none (RFC 9110 section 14.2).
fn ranges(request: &HeaderMap, digest: &Digest, size: u64) -> Ranges {
    let header = request.get(header::RANGE).and_then(|value| value.to_str().ok());
    match header.and_then(RangeHeader::parse) {
        Some(ranges) if conditional::range_applies(request, digest) => ranges.resolve(size),
        Some(_) | None => Ranges::Whole,
    }
}

/// A range of a blob as a body: out of its file, where there is one; otherwise, read.
async fn body(
    reader: &BlobReader,
    files: Option<&Arc<Files>>,
    start: u64,
    end: u64,
) -> Result<Body, ApiError> {
    let range = ByteRange { start, end };
    if let Some(file) = reader.file().await?
        && end <= file.size_bytes
    {
        if range.len() <= SMALL_BYTES_MAX
            && let Some(bytes) = files::read_resident(&file, range)
        {
            return Ok(Body::from(bytes));
        }
        let sent = files.and_then(|files| FileBody::new(files, file, range));
        if let Some(body) = sent {
            return Ok(Body::new(body));
        }
    }
    // A file that is too short is told from one that is well here.
    Ok(Body::from_stream(reader.read(range).await?))
}

fn common(status: StatusCode, digest: &Digest, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let answer = response.headers_mut();
    answer.insert(headers::DIGEST, headers::digest(digest));
    answer.insert(header::ETAG, headers::etag(digest));
    answer.insert(header::CACHE_CONTROL, headers::IMMUTABLE);
    answer.insert(header::ACCEPT_RANGES, BYTES);
    answer.insert(header::CONTENT_DISPOSITION, headers::ATTACHMENT);
    response
}

fn not_modified(digest: &Digest) -> Response {
    common(StatusCode::NOT_MODIFIED, digest, Body::empty())
}

fn whole(digest: &Digest, size: u64, body: Body) -> Response {
    let mut response = common(StatusCode::OK, digest, body);
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, headers::OCTET_STREAM);
    answer.insert(header::CONTENT_LENGTH, size.into());
    response
}

fn part(digest: &Digest, (start, end): (u64, u64), size: u64, body: Body) -> Response {
    let mut response = common(StatusCode::PARTIAL_CONTENT, digest, body);
    let answer = response.headers_mut();
    answer.insert(header::CONTENT_TYPE, headers::OCTET_STREAM);
    answer.insert(header::CONTENT_LENGTH, (end - start).into());
    answer.insert(header::CONTENT_RANGE, headers::value(&content_range(start, end, size)));
    response
}

fn content_range(start: u64, end: u64, size: u64) -> String {
    format!("bytes {start}-{}/{size}", end - 1)
}

fn unsatisfiable(size: u64) -> ApiError {
    let message = format!("the range lies outside the blob, which has {size} bytes");
    ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::SizeInvalid, message)
        .with_header(header::CONTENT_RANGE, headers::value(&format!("bytes */{size}")))
        .with_header(header::ACCEPT_RANGES, BYTES)
}

/// Several parts of a blob in one body (RFC 9110 section 14.6).
struct Parts {
    /// Each part's head and range.
    heads: Vec<(Bytes, ByteRange)>,
    closing: Bytes,
}

impl Parts {
    fn new(boundary: &str, ranges: &[(u64, u64)], size: u64) -> Self {
        let head = |&(start, end): &(u64, u64)| {
            let range = content_range(start, end, size);
            let head = format!(
                "\r\n--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                 Content-Range: {range}\r\n\r\n"
            );
            (Bytes::from(head), ByteRange { start, end })
        };
        let closing = Bytes::from(format!("\r\n--{boundary}--\r\n"));
        Self { heads: ranges.iter().map(head).collect(), closing }
    }

    fn length(&self) -> u64 {
        let parts = self.heads.iter().map(|(head, range)| head.len() as u64 + range.len());
        parts.sum::<u64>() + self.closing.len() as u64
    }

    fn into_body(self, reader: BlobReader) -> Body {
        let reader = Arc::new(reader);
        let parts = stream::iter(self.heads).then(move |(head, range)| {
            let reader = Arc::clone(&reader);
            async move {
                let bytes = reader.read(range).await?.map_err(jreg_registry::Error::from);
                Ok::<_, jreg_registry::Error>(stream::iter([Ok(head)]).chain(bytes))
            }
        });
        Body::from_stream(parts.try_flatten().chain(stream::iter([Ok(self.closing)])))
    }
}

fn parts_of(reader: BlobReader, digest: &Digest, ranges: &[(u64, u64)]) -> Response {
    let boundary = Uuid::new_v4().simple().to_string();
    let parts = Parts::new(&boundary, ranges, reader.blob().size_bytes);
    let length = parts.length();
    let mut response = common(StatusCode::PARTIAL_CONTENT, digest, parts.into_body(reader));
    let content_type = format!("multipart/byteranges; boundary={boundary}");
    response.headers_mut().insert(header::CONTENT_TYPE, headers::value(&content_type));
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    response
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn parts_have_heads_of_the_length_that_is_announced() {
        let parts = Parts::new("B", &[(0, 2), (4, 5)], 10);
        let heads: Vec<_> = parts.heads.iter().map(|(head, _)| head.clone()).collect();
        assert_eq!(
            heads[0],
            "\r\n--B\r\nContent-Type: application/octet-stream\r\n\
             Content-Range: bytes 0-1/10\r\n\r\n"
        );
        assert!(String::from_utf8_lossy(&heads[1]).contains("Content-Range: bytes 4-4/10\r\n"));
        let length = heads[0].len() + 2 + heads[1].len() + 1 + "\r\n--B--\r\n".len();
        assert_eq!(parts.length(), length as u64);
    }

    #[test]
    fn a_range_of_other_content_is_ignored() {
        let digest = Digest::of(jreg_oci::Algorithm::Sha256, b"x");
        let request = |range: &str, condition: Option<&str>| {
            let mut request = HeaderMap::new();
            request.insert(header::RANGE, range.parse().unwrap());
            if let Some(condition) = condition {
                request.insert(header::IF_RANGE, condition.parse().unwrap());
            }
            ranges(&request, &digest, 10)
        };
        assert_eq!(request("bytes=1-2", None), Ranges::Single(1, 3));
        assert_eq!(request("bytes=50-", Some("\"other\"")), Ranges::Whole);
        assert_eq!(request("garbage", None), Ranges::Whole);
        assert_eq!(request("bytes=50-", None), Ranges::Unsatisfiable);
    }
}
