//! Blobs: pull, existence check, delete (end-2, end-10). Bodies are never compressed.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, StatusCode, header};
use jreg_mirror::{MirroredBlob, StreamedBlob};
use jreg_net::server::files::{FileBody, FileQueue, SMALL_BYTES_MAX, read_resident};
use jreg_net::server::slots::ResponseSlots;
use jreg_net::server::{Body, Response};
use jreg_oci::{Digest, ErrorCode, RangeHeader, Ranges};
use jreg_registry::BlobReader;
use jreg_storage::ByteRange;
use uuid::Uuid;

use crate::byteranges::RangeParts;
use crate::call::ApiCall;
use crate::error::ApiError;
use crate::redirect::Redirects;
use crate::{conditional, headers, reading};

const BYTES: HeaderValue = HeaderValue::from_static("bytes");

pub(crate) async fn head(call: ApiCall, digest: &Digest) -> Result<Response, ApiError> {
    if let Some(mirror) = call.access.mirrored()? {
        let size = mirror.blob_size(digest).await?;
        return Ok(match conditional::is_known(&call.headers, digest) {
            true => not_modified(digest),
            false => whole(digest, size, Body::empty()),
        });
    }
    let blob = call.access.blob_stat(digest).await?;
    if conditional::is_known(&call.headers, digest) {
        return Ok(not_modified(digest));
    }
    Ok(whole(digest, blob.size_bytes, Body::empty()))
}

pub(crate) async fn get(
    call: ApiCall,
    redirects: &Redirects,
    digest: &Digest,
) -> Result<Response, ApiError> {
    let reader = match call.access.mirrored()? {
        None => call.access.blob_open(digest).await?,
        Some(mirror) => match mirror.blob_open(digest).await? {
            MirroredBlob::Stored(reader) => reader,
            MirroredBlob::Streamed(blob) => return streamed(call, digest, blob).await,
        },
    };
    if conditional::is_known(&call.headers, digest) {
        return Ok(not_modified(digest));
    }
    if can_be_redirected(&call.headers)
        && let Some(elsewhere) =
            redirects.redirect_response(&reader, call.peer, &call.headers).await?
    {
        return Ok(elsewhere);
    }
    let size = reader.blob().size_bytes;
    let files = call.files.as_ref();
    let slots = call.resources.as_ref().map(|resources| &resources.slots);
    let all = |body| whole(digest, size, body);
    match ranges(&call.headers, digest, size) {
        Ranges::Whole => respond(&reader, files, slots, (0, size), all).await,
        Ranges::Single(start, end) => {
            let part = |body| part(digest, (start, end), size, body);
            respond(&reader, files, slots, (start, end), part).await
        }
        Ranges::Multi(parts) => match parts_of(&reader, digest, parts) {
            Some(response) => Ok(response),
            None => respond(&reader, files, slots, (0, size), all).await,
        },
        Ranges::Unsatisfiable => Err(unsatisfiable(size)),
    }
}

/// Responds with a blob that a mirror is fetching. Of several ranges the whole blob is sent.
async fn streamed(
    call: ApiCall,
    digest: &Digest,
    blob: StreamedBlob,
) -> Result<Response, ApiError> {
    if conditional::is_known(&call.headers, digest) {
        return Ok(not_modified(digest));
    }
    let size = blob.size_bytes();
    let slot = match call.resources.as_ref().map(|resources| &resources.slots) {
        Some(slots) => slots.clone().take().await,
        None => None,
    };
    let mut response = match ranges(&call.headers, digest, size) {
        Ranges::Whole | Ranges::Multi(_) => {
            let bytes = blob.read(ByteRange { start: 0, end: size }).await?;
            whole(digest, size, Body::from_stream(bytes))
        }
        Ranges::Single(start, end) => {
            let bytes = blob.read(ByteRange { start, end }).await?;
            part(digest, (start, end), size, Body::from_stream(bytes))
        }
        Ranges::Unsatisfiable => return Err(unsatisfiable(size)),
    };
    if let Some(slot) = slot {
        response.extensions_mut().insert(Arc::new(slot));
    }
    Ok(response)
}

pub(crate) async fn delete(call: ApiCall, digest: &Digest) -> Result<Response, ApiError> {
    call.access.blob_delete(digest).await?;
    Ok(headers::empty(StatusCode::ACCEPTED))
}

/// Whether the request can be redirected to the bucket. S3 does not serve several ranges: some
/// implementations send the whole object, others an error.
fn can_be_redirected(request: &HeaderMap) -> bool {
    !range_header(request).is_some_and(|ranges| ranges.is_multiple())
}

fn range_header(request: &HeaderMap) -> Option<RangeHeader> {
    let header = request.get(header::RANGE).and_then(|value| value.to_str().ok());
    header.and_then(RangeHeader::parse)
}

/// The requested range. A `Range` that is malformed, or whose `If-Range` does not match, is ignored
/// (RFC 9110 section 14.2).
fn ranges(request: &HeaderMap, digest: &Digest, size: u64) -> Ranges {
    match range_header(request) {
        Some(ranges) if conditional::range_applies(request, digest) => ranges.resolve(size),
        Some(_) | None => Ranges::Whole,
    }
}

/// Responds with a range of a blob. A read that begins before the response, so that its failure has
/// a status code, waits for a slot first: otherwise a client that reads nothing could have one open
/// request to the bucket per stream.
async fn respond(
    reader: &BlobReader,
    files: Option<&Arc<FileQueue>>,
    slots: Option<&ResponseSlots>,
    (start, end): (u64, u64),
    response: impl FnOnce(Body) -> Response,
) -> Result<Response, ApiError> {
    let range = ByteRange { start, end };
    if let Some(body) = file_body(reader, files, range).await? {
        return Ok(response(body));
    }
    let slot = match slots {
        Some(slots) => slots.clone().take().await,
        None => None,
    };
    let mut response = response(Body::from_stream(reader.read(range).await?));
    if let Some(slot) = slot {
        response.extensions_mut().insert(Arc::new(slot));
    }
    Ok(response)
}

/// A range of a blob read from its file. `None`: there is no file, or it is too short.
async fn file_body(
    reader: &BlobReader,
    files: Option<&Arc<FileQueue>>,
    range: ByteRange,
) -> Result<Option<Body>, ApiError> {
    if let Some(file) = reader.file().await?
        && range.end <= file.size_bytes
    {
        // One response at a time allocates memory here; an HTTP/2 connection may have hundreds.
        if range.len() <= SMALL_BYTES_MAX
            && files.is_some()
            && let Some(bytes) = read_resident(&file, range)
        {
            return Ok(Some(Body::from(bytes)));
        }
        let sent = files.and_then(|files| FileBody::new(files, file, range));
        if let Some(body) = sent {
            return Ok(Some(Body::new(body)));
        }
        return Ok(Some(Body::from_stream(reading::read(reader.clone(), range))));
    }
    Ok(None)
}

fn common(status: StatusCode, digest: &Digest, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    let map = response.headers_mut();
    map.insert(headers::DIGEST, headers::digest(digest));
    map.insert(header::ETAG, headers::etag(digest));
    map.insert(header::CACHE_CONTROL, headers::IMMUTABLE);
    map.insert(header::ACCEPT_RANGES, BYTES);
    map.insert(header::CONTENT_DISPOSITION, headers::ATTACHMENT);
    response
}

fn not_modified(digest: &Digest) -> Response {
    common(StatusCode::NOT_MODIFIED, digest, Body::empty())
}

fn whole(digest: &Digest, size: u64, body: Body) -> Response {
    let mut response = common(StatusCode::OK, digest, body);
    let map = response.headers_mut();
    map.insert(header::CONTENT_TYPE, headers::OCTET_STREAM);
    map.insert(header::CONTENT_LENGTH, size.into());
    response
}

fn part(digest: &Digest, (start, end): (u64, u64), size: u64, body: Body) -> Response {
    let mut response = common(StatusCode::PARTIAL_CONTENT, digest, body);
    let map = response.headers_mut();
    map.insert(header::CONTENT_TYPE, headers::OCTET_STREAM);
    map.insert(header::CONTENT_LENGTH, (end - start).into());
    map.insert(header::CONTENT_RANGE, headers::value(&headers::content_range(start, end, size)));
    response
}

fn unsatisfiable(size: u64) -> ApiError {
    let message = format!("the range is outside of the blob, which has {size} bytes");
    ApiError::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::SizeInvalid, message)
        .with_header(header::CONTENT_RANGE, headers::value(&format!("bytes */{size}")))
        .with_header(header::ACCEPT_RANGES, BYTES)
}

/// Responds with several ranges. `None`: they are so scattered that the whole blob costs less.
fn parts_of(reader: &BlobReader, digest: &Digest, ranges: Vec<(u64, u64)>) -> Option<Response> {
    let boundary = Uuid::new_v4().simple().to_string();
    let content_type = format!("multipart/byteranges; boundary={boundary}");
    let parts = RangeParts::new(boundary, ranges, reader.blob().size_bytes)?;
    let length = parts.length();
    let mut response = common(StatusCode::PARTIAL_CONTENT, digest, parts.into_body(reader.clone()));
    response.headers_mut().insert(header::CONTENT_TYPE, headers::value(&content_type));
    response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    Some(response)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn only_what_a_bucket_can_serve_is_redirected() {
        for (range, expected) in [
            (None, true),
            (Some("bytes=1-2"), true),
            (Some("bytes=1-"), true),
            (Some("garbage"), true),
            (Some("bytes=0-1,4-5"), false),
            (Some("bytes=0-,0-"), false),
        ] {
            let range = range.map(|range| (header::RANGE, HeaderValue::from_static(range)));
            assert_eq!(
                can_be_redirected(&range.clone().into_iter().collect()),
                expected,
                "{range:?}"
            );
        }
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
