//! Headers and bodies that several responses share.

use std::time::SystemTime;

use chrono::{DateTime, SecondsFormat, Utc};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use http_body::Body as _;
use jreg_net::server::{Body, Response};
use jreg_oci::{Digest, RepositoryName};
use serde::Serialize;

/// Digest of the content.
pub(crate) const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
pub(crate) const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// Version of the registry API, older than OCI.
pub(crate) const API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");
/// Minimum chunk size for clients.
pub(crate) const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// Subject of the pushed manifest.
pub(crate) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// A tag that was set by a push by digest.
pub(crate) const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// Filters applied to a referrers list.
pub(crate) const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// The namespace that a mirror serves (containerd's `?ns=`).
pub(crate) const NAMESPACE: HeaderName = HeaderName::from_static("oci-namespace");

/// In every response: disables content sniffing (Fetch standard, "X-Content-Type-Options").
pub(crate) const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
/// In every API response, whose content a client pushed: a browser runs and loads nothing, and
/// treats it as of another origin.
pub(crate) const SANDBOX: HeaderValue = HeaderValue::from_static("sandbox; default-src 'none'");
/// For content: a browser saves it instead of showing it.
pub(crate) const ATTACHMENT: HeaderValue = HeaderValue::from_static("attachment");

/// Closes an HTTP/1 connection after the response.
pub(crate) const CLOSE: HeaderValue = HeaderValue::from_static("close");

pub(crate) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// Content type of blobs.
pub(crate) const OCTET_STREAM: HeaderValue = HeaderValue::from_static(OCTET_STREAM_TEXT);
/// The same as a string.
pub(crate) const OCTET_STREAM_TEXT: &str = "application/octet-stream";
/// For content addressed by digest, which never changes. Not `public`: with authentication, a
/// shared cache must not serve it to other clients.
pub(crate) const IMMUTABLE: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");
/// For content addressed by tag: revalidate each time, by ETag.
pub(crate) const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");
const PRIVATE_IMMUTABLE: HeaderValue =
    HeaderValue::from_static("private, max-age=31536000, immutable");
const PRIVATE_REVALIDATE: HeaderValue = HeaderValue::from_static("private, no-cache");

/// Keeps shared caches from storing a response for other clients (RFC 9111 section 5.2.2.7).
pub(crate) fn make_private(headers: &mut HeaderMap) {
    let private = match headers.get(header::CACHE_CONTROL) {
        None => PRIVATE_REVALIDATE,
        Some(control) if *control == REVALIDATE => PRIVATE_REVALIDATE,
        Some(control) if *control == IMMUTABLE => PRIVATE_IMMUTABLE,
        Some(control) => match control.to_str() {
            Ok(control) if control.contains("no-store") => return,
            Ok(control) => value(&format!("private, {control}")),
            Err(_) => PRIVATE_REVALIDATE,
        },
    };
    headers.insert(header::CACHE_CONTROL, private);
}

/// A header value of visible ASCII.
pub(crate) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("names, digests and paths are visible ASCII")
}

/// The value of a `Warning` header (RFC 7234 section 5.5). Names and patterns have no quotation marks.
pub(crate) fn warning(text: &str) -> HeaderValue {
    let text = text.replace(['"', '\\'], "'");
    HeaderValue::from_str(&format!("299 - \"{text}\"")).unwrap_or(HeaderValue::from_static("299"))
}

/// The value of a `Warning` about content that may be outdated (RFC 7234 section 5.5.2).
pub(crate) fn stale_warning(text: &str) -> HeaderValue {
    HeaderValue::from_str(&format!("110 - \"{text}\"")).unwrap_or(HeaderValue::from_static("110"))
}

/// A digest as a header value.
pub(crate) fn digest(digest: &Digest) -> HeaderValue {
    value(&digest.to_string())
}

/// The entity tag of content with this digest.
pub(crate) fn etag(digest: &Digest) -> HeaderValue {
    value(&format!("\"{digest}\""))
}

/// The `Range` of an upload with `offset` bytes. An empty range cannot be expressed, so an empty
/// upload has `0-0`, as in other registries.
pub(crate) fn upload_range(offset: u64) -> HeaderValue {
    value(&format!("0-{}", offset.saturating_sub(1)))
}

/// The value of `Content-Range` for bytes from `start` to `end` (exclusive).
pub(crate) fn content_range(start: u64, end: u64, size: u64) -> String {
    format!("bytes {start}-{}/{size}", end - 1)
}

pub(crate) fn blob_path(name: &RepositoryName, digest: &Digest) -> String {
    format!("/v2/{name}/blobs/{digest}")
}

pub(crate) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("responses have string keys only")
}

/// A time in UTC, to the millisecond.
pub(crate) fn rfc3339(time: SystemTime) -> String {
    DateTime::<Utc>::from(time).to_rfc3339_opts(SecondsFormat::Millis, true)
}

/// A response without a body.
pub(crate) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// A JSON response.
pub(crate) fn json(content_type: HeaderValue, value: &impl Serialize) -> Response {
    let mut response = Response::new(Body::from(to_json(value)));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

/// The length of a response's body, if known.
pub(crate) fn length_of(response: &Response) -> Option<u64> {
    let announced = || {
        let length = response.headers().get(header::CONTENT_LENGTH);
        length.and_then(|length| length.to_str().ok()?.parse().ok())
    };
    response.body().size_hint().exact().or_else(announced)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_upload_range_ends_at_the_last_byte() {
        for (offset, range) in [(0, "0-0"), (1, "0-0"), (2, "0-1"), (100, "0-99")] {
            assert_eq!(upload_range(offset), range);
        }
    }
}
