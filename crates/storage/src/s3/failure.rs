//! What a failed request to the bucket means: one verdict, from which both the repetition of the
//! request and the [`Error`] of the operation follow.
//!
//! A 404 is absence only if the store says that it is the key that is missing. Any other (the
//! bucket no longer exists, a proxy does not know the way) is a fault, as is a 403: a store that
//! does not let us list responds so for absent keys too.

use std::fmt;
use std::time::Duration;

use http::{HeaderMap, StatusCode};
use object_store::client::{HttpError, HttpErrorKind};
use serde::Deserialize;

use crate::{Error, ErrorKind};

/// What a failure means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum FailureClass {
    /// The key is absent.
    Absent,
    /// The upload, or a part of it, is gone or another.
    NoUpload,
    /// The condition does not hold; nothing was written.
    Condition,
    /// Another write of the key is in flight; nothing was written.
    Conflict,
    /// The range is beyond the end.
    OutOfRange,
    /// The response is larger than was asked for.
    TooLarge,
    /// Too many requests; nothing was written.
    Throttled,
    /// The request never left.
    Unsent,
    /// The store failed or its response was lost: the request may have taken effect.
    Unsure,
    /// The clocks are too far apart, or the window of the write has closed; nothing was written.
    Skewed,
    /// The store does not do that for us, however often we ask.
    Refused,
}

impl FailureClass {
    /// Whether the same request may fare better later.
    pub(super) fn is_passing(self) -> bool {
        matches!(self, Self::Conflict | Self::Throttled | Self::Unsent | Self::Unsure)
    }

    pub(super) fn of_code(status: StatusCode, code: &str) -> Self {
        match code {
            "NoSuchKey" => Self::Absent,
            "NoSuchUpload" | "InvalidPart" | "InvalidPartOrder" => Self::NoUpload,
            "PreconditionFailed" => Self::Condition,
            "ConditionalRequestConflict" | "OperationAborted" => Self::Conflict,
            "InvalidRange" => Self::OutOfRange,
            "SlowDown"
            | "TooManyRequests"
            | "RequestLimitExceeded"
            | "Throttling"
            | "ThrottlingException" => Self::Throttled,
            "RequestTimeTooSkewed" => Self::Skewed,
            "InternalError" | "RequestTimeout" | "ServiceUnavailable" => Self::Unsure,
            _ => Self::of_status(status),
        }
    }

    fn of_status(status: StatusCode) -> Self {
        match status {
            StatusCode::PRECONDITION_FAILED => Self::Condition,
            StatusCode::CONFLICT => Self::Conflict,
            StatusCode::RANGE_NOT_SATISFIABLE => Self::OutOfRange,
            StatusCode::TOO_MANY_REQUESTS => Self::Throttled,
            StatusCode::REQUEST_TIMEOUT => Self::Unsure,
            StatusCode::NOT_IMPLEMENTED => Self::Refused,
            status if status.is_server_error() => Self::Unsure,
            _ => Self::Refused,
        }
    }
}

/// A request that failed.
#[derive(Debug)]
pub(super) struct S3Failure {
    pub(super) verdict: FailureClass,
    /// How long the store asks us to wait.
    pub(super) retry_after: Option<Duration>,
    status: Option<StatusCode>,
    source: Box<dyn std::error::Error + Send + Sync>,
}

impl S3Failure {
    pub(super) fn new(
        verdict: FailureClass,
        source: impl Into<Box<dyn std::error::Error + Send + Sync>>,
    ) -> Self {
        Self { verdict, retry_after: None, status: None, source: source.into() }
    }

    /// A response that is not what was asked for.
    pub(super) fn of_response(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let response = ErrorResponse::read(status, headers, body);
        let seconds =
            headers.get(http::header::RETRY_AFTER).and_then(|v| v.to_str().ok()?.parse().ok());
        Self {
            verdict: FailureClass::of_code(status, &response.code),
            retry_after: seconds.map(Duration::from_secs),
            status: Some(status),
            source: Box::new(response),
        }
    }

    /// No response.
    pub(super) fn of_http(error: HttpError) -> Self {
        let verdict = match error.kind() {
            HttpErrorKind::Connect => FailureClass::Unsent,
            _ => FailureClass::Unsure,
        };
        Self::new(verdict, error)
    }

    /// Whether the store says that it is one that does not know the request.
    pub(super) fn is_not_implemented(&self) -> bool {
        self.status == Some(StatusCode::NOT_IMPLEMENTED)
    }

    /// Whether the store may be one that does not know the request.
    pub(super) fn is_unknown_request(&self) -> bool {
        const REFUSALS: [StatusCode; 3] =
            [StatusCode::BAD_REQUEST, StatusCode::METHOD_NOT_ALLOWED, StatusCode::NOT_IMPLEMENTED];
        let is_refusal = self.status.is_some_and(|status| REFUSALS.contains(&status));
        is_refusal && self.verdict == FailureClass::Refused
    }

    /// The error of an operation on `key`.
    pub(super) fn on(self, key: impl fmt::Display) -> Error {
        let kind = match self.verdict {
            FailureClass::Absent | FailureClass::NoUpload => ErrorKind::NotFound,
            FailureClass::Condition => ErrorKind::Precondition,
            FailureClass::OutOfRange => ErrorKind::OutOfRange,
            FailureClass::TooLarge => ErrorKind::TooLarge,
            FailureClass::Throttled => ErrorKind::Throttled,
            FailureClass::Conflict
            | FailureClass::Unsent
            | FailureClass::Unsure
            | FailureClass::Skewed => ErrorKind::Unavailable,
            FailureClass::Refused => ErrorKind::Refused,
        };
        Error::with_source(kind, key, self.source)
    }
}

/// The store's error message.
#[derive(Debug)]
struct ErrorResponse {
    status: StatusCode,
    code: String,
    message: String,
    request_id: String,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct S3ErrorBody {
    code: String,
    message: String,
}

impl ErrorResponse {
    fn read(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Self {
        let S3ErrorBody { code, message } = std::str::from_utf8(body)
            .ok()
            .and_then(|text| quick_xml::de::from_str(text).ok())
            .unwrap_or_default();
        let request_id = headers.get("x-amz-request-id").and_then(|id| id.to_str().ok());
        Self { status, code, message, request_id: request_id.unwrap_or_default().to_owned() }
    }
}

impl fmt::Display for ErrorResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the bucket responded with {}", self.status.as_u16())?;
        for (before, text) in
            [(" ", &self.code), (": ", &self.message), (", request ", &self.request_id)]
        {
            if !text.is_empty() {
                write!(f, "{before}{text}")?;
            }
        }
        Ok(())
    }
}

impl std::error::Error for ErrorResponse {}

#[cfg(test)]
mod tests {
    use super::*;

    fn failure(status: u16, code: &str) -> S3Failure {
        let status = StatusCode::from_u16(status).expect("a status");
        let body = format!("<Error><Code>{code}</Code><Message>m</Message></Error>");
        S3Failure::of_response(status, &HeaderMap::new(), body.as_bytes())
    }

    #[test]
    fn only_a_missing_key_or_upload_is_not_found() {
        for (status, code, kind) in [
            (404, "NoSuchKey", ErrorKind::NotFound),
            (404, "NoSuchUpload", ErrorKind::NotFound),
            (400, "InvalidPart", ErrorKind::NotFound),
            (404, "NoSuchBucket", ErrorKind::Refused),
            (404, "", ErrorKind::Refused),
            (403, "AccessDenied", ErrorKind::Refused),
            (403, "NoSuchThing", ErrorKind::Refused),
            (403, "RequestTimeTooSkewed", ErrorKind::Unavailable),
            (400, "ExpiredToken", ErrorKind::Refused),
            (412, "", ErrorKind::Precondition),
            (409, "ConditionalRequestConflict", ErrorKind::Unavailable),
            (416, "", ErrorKind::OutOfRange),
            (429, "", ErrorKind::Throttled),
            (503, "SlowDown", ErrorKind::Throttled),
            (503, "", ErrorKind::Unavailable),
            (500, "InternalError", ErrorKind::Unavailable),
            (400, "RequestTimeout", ErrorKind::Unavailable),
            (200, "InternalError", ErrorKind::Unavailable),
            (501, "NotImplemented", ErrorKind::Refused),
            (301, "PermanentRedirect", ErrorKind::Refused),
        ] {
            assert_eq!(failure(status, code).on("key").kind(), kind, "{status} {code}");
        }
    }

    #[test]
    fn the_text_names_status_code_and_request() {
        let mut headers = HeaderMap::new();
        headers.insert("x-amz-request-id", http::HeaderValue::from_static("4442587FB7D0A2F9"));
        let body = b"<Error><Code>SlowDown</Code><Message>Reduce your rate</Message></Error>";
        let failure = S3Failure::of_response(StatusCode::SERVICE_UNAVAILABLE, &headers, body);
        assert_eq!(
            failure.source.to_string(),
            "the bucket responded with 503 SlowDown: Reduce your rate, request 4442587FB7D0A2F9"
        );
    }

    #[test]
    fn a_body_that_is_no_error_is_judged_by_its_status() {
        let failure =
            S3Failure::of_response(StatusCode::BAD_GATEWAY, &HeaderMap::new(), b"<html>oops");
        assert_eq!(failure.verdict, FailureClass::Unsure);
    }
}
