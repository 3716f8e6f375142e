//! Checks of HTTP/1.1 message framing. Requests that two parsers may interpret differently are
//! rejected: they are used for request smuggling.

use http::{StatusCode, Version, header};
use jreg_net::server::Request;
use jreg_oci::ErrorCode;

use crate::error::ApiError;

/// Maximum number of request headers. It equals hyper's default for HTTP/1.1: setting it there
/// would cost each request an allocation.
const HEADERS_MAX: usize = 100;

/// Rejects a request with too many headers (RFC 6585 section 5), without exactly one Host (RFC 9112
/// section 3.2), or with a transfer coding besides `chunked`, whose bytes would be stored encoded
/// (section 6.1).
pub(crate) fn check(request: &Request) -> Result<(), ApiError> {
    let headers = request.headers().len();
    if headers > HEADERS_MAX {
        let message = format!("the request has {headers} headers, it may have {HEADERS_MAX}");
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        return Err(ApiError::new(status, ErrorCode::Unsupported, message));
    }
    if request.version() != Version::HTTP_11 {
        return Ok(());
    }
    let hosts = request.headers().get_all(header::HOST).iter().count();
    if hosts != 1 {
        let message = format!("the request has {hosts} Host headers, it must have one");
        return Err(ApiError::bad_request(ErrorCode::Unsupported, message));
    }
    let mut codings = request.headers().get_all(header::TRANSFER_ENCODING).iter();
    match (codings.next(), codings.next()) {
        (None, _) => Ok(()),
        (Some(only), None) if only.as_bytes().eq_ignore_ascii_case(b"chunked") => Ok(()),
        (Some(_), _) => {
            let message = "the only supported transfer coding is chunked";
            let status = StatusCode::NOT_IMPLEMENTED;
            Err(ApiError::new(status, ErrorCode::Unsupported, message))
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use jreg_net::server::Body;

    use super::*;

    fn status(version: Version, headers: &[(&str, &str)]) -> Option<u16> {
        let mut request = http::Request::builder().version(version);
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let checked = check(&request.body(Body::empty()).unwrap());
        checked.err().map(|error| error.status().as_u16())
    }

    #[test]
    fn a_request_has_one_host_and_no_coding_but_chunked() {
        let host = ("Host", "a");
        for (headers, refused) in [
            (vec![], Some(400)),
            (vec![host], None),
            (vec![host, host], Some(400)),
            (vec![host, ("Transfer-Encoding", "Chunked")], None),
            (vec![host, ("Transfer-Encoding", "gzip, chunked")], Some(501)),
            (vec![host, ("Transfer-Encoding", "gzip")], Some(501)),
            (
                vec![host, ("Transfer-Encoding", "chunked"), ("Transfer-Encoding", "chunked")],
                Some(501),
            ),
        ] {
            assert_eq!(status(Version::HTTP_11, &headers), refused, "{headers:?}");
        }
        assert_eq!(status(Version::HTTP_10, &[]), None);
        assert_eq!(status(Version::HTTP_2, &[]), None);
    }

    #[test]
    fn a_request_has_so_many_headers() {
        let some = vec![("X", "y"); HEADERS_MAX];
        assert_eq!(status(Version::HTTP_2, &some), None);
        let more = vec![("X", "y"); HEADERS_MAX + 1];
        assert_eq!(status(Version::HTTP_2, &more), Some(431));
        assert_eq!(status(Version::HTTP_11, &more), Some(431));
    }
}
