//! Headers and bodies that several answers share.

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jreg_net::server::{Body, Response};
use jreg_oci::{Digest, RepositoryName};
use serde::Serialize;

/// The digest of what is served or was stored.
pub(super) const DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
/// The id of an upload.
pub(super) const UPLOAD_ID: HeaderName = HeaderName::from_static("docker-upload-uuid");
/// The version of the API, from before it was OCI's.
pub(super) const API_VERSION: HeaderName =
    HeaderName::from_static("docker-distribution-api-version");
/// The chunk size that clients should not go below.
pub(super) const CHUNK_MIN_LENGTH: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// The subject of the manifest that was pushed.
pub(super) const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
/// A tag that was written beside a push by digest.
pub(super) const TAG: HeaderName = HeaderName::from_static("oci-tag");
/// The filters that a list of referrers went through.
pub(super) const FILTERS_APPLIED: HeaderName = HeaderName::from_static("oci-filters-applied");

/// For every response: browsers take its type as it is (Fetch standard, "X-Content-Type-Options").
pub(super) const NOSNIFF: HeaderValue = HeaderValue::from_static("nosniff");
/// For every response of the API, whose content a client pushed: a browser that opens it runs and loads
/// nothing, and treats it as of another origin.
pub(super) const SANDBOX: HeaderValue = HeaderValue::from_static("sandbox; default-src 'none'");
/// For content: a browser stores it instead of showing it.
pub(super) const ATTACHMENT: HeaderValue = HeaderValue::from_static("attachment");

/// The type of JSON.
pub(super) const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The type of blobs.
pub(super) const OCTET_STREAM: HeaderValue = HeaderValue::from_static(OCTET_STREAM_TEXT);
/// The same as text.
pub(super) const OCTET_STREAM_TEXT: &str = "application/octet-stream";
/// For what is named by its digest: it never changes. Not `public`: where a login is needed, a
/// shared cache must not hand it to others.
pub(super) const IMMUTABLE: HeaderValue = HeaderValue::from_static("max-age=31536000, immutable");
/// For what is named by a tag: ask again each time, by ETag.
pub(super) const REVALIDATE: HeaderValue = HeaderValue::from_static("no-cache");

/// Keeps shared caches from storing a response for other clients (RFC 9111 section 5.2.2.7).
pub(super) fn make_private(headers: &mut HeaderMap) {
    let private = match headers.get(header::CACHE_CONTROL).and_then(|value| value.to_str().ok()) {
        Some(control) if control.contains("no-store") => return,
        Some(control) => value(&format!("private, {control}")),
        None => HeaderValue::from_static("private, no-cache"),
    };
    headers.insert(header::CACHE_CONTROL, private);
}

/// A value made of characters that suit a header.
pub(super) fn value(text: &str) -> HeaderValue {
    HeaderValue::from_str(text).expect("names, digests and paths are visible ASCII")
}

/// A digest as a header.
pub(super) fn digest(digest: &Digest) -> HeaderValue {
    value(&digest.to_string())
}

/// The entity tag of what has this digest.
pub(super) fn etag(digest: &Digest) -> HeaderValue {
    value(&format!("\"{digest}\""))
}

/// The `Range` of an upload that has `offset` bytes. There is no way to write an empty one, so
/// an upload without a byte says `0-0` as every registry does.
pub(super) fn upload_range(offset: u64) -> HeaderValue {
    value(&format!("0-{}", offset.saturating_sub(1)))
}

/// The path of a blob.
pub(super) fn blob_path(name: &RepositoryName, digest: &Digest) -> String {
    format!("/v2/{name}/blobs/{digest}")
}

/// JSON text.
pub(super) fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("answers have string keys only")
}

/// An answer without a body.
pub(super) fn empty(status: StatusCode) -> Response {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = status;
    response
}

/// An answer of JSON.
pub(super) fn json(content_type: HeaderValue, value: &impl Serialize) -> Response {
    let mut response = Response::new(Body::from(to_json(value)));
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
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
