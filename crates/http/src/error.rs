//! [`ApiError`]: error responses, and their log messages.
//!
//! The mapping of registry errors to HTTP is [`From<jreg_registry::Error>`]; that of invalid
//! request lines is [`ApiError::route`]. A 5xx body contains a code and the request id, no internal
//! details; those are logged once, when the response is created.
//!
//! The form of the body decides what docker does. It retries errors with the specification's text
//! and no `detail` for 50 seconds without showing them: the form of temporary errors
//! (`ApiError::temporary`). It stops at errors with another text or a `detail` and shows them: the
//! form of all others.

use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use jreg_access::limits::LimitExceeded;
use jreg_access::{AccessError, AuthError, BASIC_CHALLENGE, RefusedAccess, whole_seconds};
use jreg_mirror::MirrorError;
use jreg_net::server::{Body, Response};
use jreg_oci::{Digest, ErrorBody, ErrorCode, RouteError};
use jreg_registry::{BodyError, Error};
use jreg_storage::{ErrorKind, error_chain};
use serde_json::{Value, json};

use crate::headers;
use crate::observed::ObservedRequest;
use crate::outcome::AuditOutcome;

/// A failed request.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: ErrorCode,
    /// What was wrong and what is allowed. For a 5xx it contains no internal details.
    message: String,
    detail: Option<Value>,
    /// Log message; only for 5xx.
    log: Option<String>,
    /// Whether a retry can succeed (`Retry-After`).
    retry: Retry,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Reason of the refusal, only for the log.
    why: Option<Box<RefusalReason>>,
    /// The OAuth 2.0 error, for token endpoints.
    oauth: Option<OauthError>,
    /// Completed part of the operation, only for the audit log.
    outcome: Option<Box<AuditOutcome>>,
}

/// Why a request was refused; not sent to the client.
#[derive(Debug)]
enum RefusalReason {
    /// Authentication or authorization failed.
    Denied(String),
    Limited(String),
}

/// An error of a token endpoint (RFC 6749 section 5.2, RFC 8693 section 2.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OauthError {
    /// A parameter is missing, invalid or repeated, or the subject token is invalid.
    InvalidRequest,
    /// No part of the requested scope is granted.
    InvalidScope,
    /// The requested audience or resource is not this registry.
    InvalidTarget,
    /// The grant type is not supported.
    UnsupportedGrantType,
}

impl OauthError {
    const fn as_str(self) -> &'static str {
        match self {
            Self::InvalidRequest => "invalid_request",
            Self::InvalidScope => "invalid_scope",
            Self::InvalidTarget => "invalid_target",
            Self::UnsupportedGrantType => "unsupported_grant_type",
        }
    }
}

/// When a client should retry.
#[derive(Clone, Copy, Debug)]
enum Retry {
    /// A retry cannot succeed.
    Never,
    /// After the configured time.
    Usual,
    After(Duration),
}

impl ApiError {
    /// A client error.
    pub(crate) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        let message = message.into();
        let headers = Vec::new();
        let (detail, log, why, oauth, outcome) = Default::default();
        let retry = Retry::Never;
        Self { status, code, message, detail, log, retry, headers, why, oauth, outcome }
    }

    pub(crate) fn status(&self) -> StatusCode {
        self.status
    }

    /// Whether what the request names is not there, or may not be seen.
    pub(crate) fn is_not_found(&self) -> bool {
        self.status == StatusCode::NOT_FOUND
    }

    /// Why authentication or authorization failed, if it did.
    pub(crate) fn denied(&self) -> Option<&str> {
        match self.why.as_deref() {
            Some(RefusalReason::Denied(reason)) => Some(reason),
            Some(RefusalReason::Limited(_)) | None => None,
        }
    }

    /// Adds the completed part of the operation.
    pub(crate) fn with_outcome(self, outcome: Option<AuditOutcome>) -> Self {
        Self { outcome: outcome.map(Box::new), ..self }
    }

    /// The completed part of the operation.
    pub(crate) fn outcome(&self) -> Option<&AuditOutcome> {
        self.outcome.as_deref()
    }

    /// A server error: `log` is only for the log.
    pub(crate) fn internal(status: StatusCode, code: ErrorCode, log: String) -> Self {
        Self { log: Some(log), retry: Retry::Usual, ..Self::new(status, code, code.description()) }
    }

    /// The task panicked; the panic hook has logged where.
    pub(crate) fn panicked() -> Self {
        let log = "the handler of this request panicked".to_owned();
        Self::internal(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown, log)
    }

    /// An invalid value in the request.
    pub(crate) fn bad_request(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The upload id in the path is invalid: same response as for an upload that no longer exists.
    pub(crate) fn upload_unknown(id: &str) -> Self {
        let message = format!(
            "upload {:?} is not known: it was cancelled, has expired, or belongs elsewhere",
            id.chars().take(80).collect::<String>()
        );
        Self::new(StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown, message)
    }

    pub(crate) fn deletes_are_off() -> Self {
        let message = "deletes are disabled in this registry";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
            .with_header(header::ALLOW, HeaderValue::from_static("GET, HEAD"))
    }

    /// As distribution answers in its read-only mode; docker shows the text.
    pub(crate) fn read_only() -> Self {
        let message =
            "this registry is read-only: push to and delete in the registry that it copies";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
            .with_header(header::ALLOW, HeaderValue::from_static("GET, HEAD"))
    }

    /// No endpoint has this path.
    pub(crate) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            ErrorCode::Unsupported,
            "there is no endpoint at this path",
        )
    }

    pub(crate) fn method_not_allowed(allowed: &str) -> Self {
        let message = format!("method not allowed: must be one of {allowed}");
        let error = Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message);
        match HeaderValue::from_str(allowed) {
            Ok(allowed) => error.with_header(header::ALLOW, allowed),
            Err(_) => error,
        }
    }

    /// An invalid request line.
    pub(crate) fn route(error: &RouteError, method: &Method) -> Self {
        let message = error.to_string();
        match error {
            RouteError::NotFound => Self::not_found(),
            RouteError::MethodNotAllowed { allowed } => {
                Self::method_not_allowed(&allowed.join(", "))
            }
            RouteError::InvalidName(_) => Self::bad_request(ErrorCode::NameInvalid, message),
            RouteError::InvalidDigest(_) | RouteError::MissingDigest => {
                Self::bad_request(ErrorCode::DigestInvalid, message)
            }
            // An invalid tag cannot exist, so reads get 404: existence checks treat 404 as an
            // result and 400 as a failure.
            RouteError::InvalidTag(_) if is_read(method) => {
                Self::new(StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown, message)
            }
            RouteError::InvalidTag(_) | RouteError::InvalidTagOfHistory(_) => {
                Self::bad_request(ErrorCode::ManifestInvalid, message)
            }
            RouteError::Mirrored { .. } => {
                Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
                    .with_header(header::ALLOW, HeaderValue::from_static("GET, HEAD, DELETE"))
            }
            RouteError::UnknownNamespace { .. } => {
                Self::new(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, message)
            }
            RouteError::InvalidQuery { .. } => Self::bad_request(ErrorCode::Unsupported, message),
            RouteError::BadEncoding { .. } => Self::bad_request(ErrorCode::NameInvalid, message),
            RouteError::TooManyTags { .. } | RouteError::PathTooLong { .. } => {
                Self::new(StatusCode::URI_TOO_LONG, ErrorCode::Unsupported, message)
            }
        }
    }

    /// Authentication is required.
    fn unauthorized(access: &RefusedAccess, challenge: &str) -> Self {
        let status = StatusCode::UNAUTHORIZED;
        let error = Self::new(status, ErrorCode::Unauthorized, access.to_string());
        let error = error.with_detail(access.detail());
        match HeaderValue::from_str(challenge) {
            Ok(challenge) => error.with_header(header::WWW_AUTHENTICATE, challenge),
            Err(_) => error,
        }
    }

    /// A temporary refusal. `limit` is only for the log.
    fn temporary(limit: String, retry: Retry) -> Self {
        let code = ErrorCode::TooManyRequests;
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, code, code.description());
        Self { retry, why: Some(Box::new(RefusalReason::Limited(limit))), ..error }
    }

    /// The memory or the slots for it are taken. `limit` is for the log only.
    pub(crate) fn busy(limit: String) -> Self {
        Self::temporary(limit, Retry::Usual)
    }

    /// Login throttling. An immediate retry does not help, so docker shows the message.
    fn delayed(message: String, wait: Duration) -> Self {
        let code = ErrorCode::TooManyRequests;
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, code, message);
        let error = error.with_detail(json!({ "retryAfterSeconds": whole_seconds(wait) }));
        Self { retry: Retry::After(wait), ..error }
    }

    /// Whether it is temporary, in the form that docker retries.
    #[cfg(test)]
    fn is_temporary(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS && self.message == self.code.description()
    }

    fn unavailable(log: String) -> Self {
        Self::internal(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, log)
    }

    /// Adds a header.
    pub(crate) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds headers if the response has this status code.
    pub(crate) fn with_headers_if(
        mut self,
        status: StatusCode,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Self {
        if self.status == status {
            self.headers.extend(headers);
        }
        self
    }

    /// Adds the OAuth 2.0 error.
    pub(crate) fn with_oauth(mut self, error: OauthError) -> Self {
        self.oauth = Some(error);
        self.with_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
    }

    /// Logs why authentication or authorization failed.
    /// Replaces the message that is shown.
    pub(crate) fn with_message(self, message: impl Into<String>) -> Self {
        Self { message: message.into(), ..self }
    }

    /// A form of a person who is not logged in any more.
    pub(crate) fn session_over() -> Self {
        let message = "you are not logged in any more: log in, and send the form again";
        Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
    }

    pub(crate) fn with_denied(mut self, reason: String) -> Self {
        self.why = Some(Box::new(RefusalReason::Denied(reason)));
        self
    }

    fn with_detail(mut self, detail: Value) -> Self {
        self.detail = Some(detail);
        self
    }

    /// Creates the response, and logs it if it is a 5xx.
    pub(crate) fn render(self, observed: &ObservedRequest, retry_after: Duration) -> Response {
        let request_id = &observed.request_id;
        let code = self.code;
        let description = self.oauth.map(|error| (error.as_str(), self.message.clone()));
        let ReportedError { status, message, detail, headers, retry_after_s } =
            self.report(observed, retry_after);
        let detail = match status.is_server_error() {
            true => Some(json!({ "requestId": request_id.to_string() })),
            false => detail,
        };
        let body = ErrorBody::new(code, message, detail);
        let body = match description {
            None => headers::to_json(&body),
            Some((error, description)) => headers::to_json(&json!({
                "error": error,
                "error_description": description,
                "errors": body.errors,
            })),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = status;
        response.headers_mut().extend(headers);
        response.headers_mut().insert(header::CONTENT_TYPE, headers::JSON);
        if let Some(after_s) = retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, after_s.into());
        }
        response
    }

    /// Logs the error if it is a 5xx, and returns what a response says of it.
    pub(crate) fn report(self, observed: &ObservedRequest, retry_after: Duration) -> ReportedError {
        observed.set_error_code(self.code);
        match self.why.map(|why| *why) {
            Some(RefusalReason::Denied(reason)) => observed.set_denied(reason),
            Some(RefusalReason::Limited(limit)) => observed.set_limited(limit),
            None => {}
        }
        if let Some(log) = &self.log {
            let request_id = &observed.request_id;
            tracing::error!(%request_id, code = self.code.as_str(), error = log, "request failed");
        }
        let after = match self.retry {
            Retry::Never => None,
            Retry::Usual => Some(retry_after),
            Retry::After(wait) => Some(wait),
        };
        let Self { status, message, detail, headers, .. } = self;
        let retry_after_s = after.map(whole_seconds);
        ReportedError { status, message, detail, headers, retry_after_s }
    }
}

/// What a response says of an error.
#[derive(Debug)]
pub(crate) struct ReportedError {
    pub(crate) status: StatusCode,
    pub(crate) message: String,
    detail: Option<Value>,
    pub(crate) headers: Vec<(HeaderName, HeaderValue)>,
    pub(crate) retry_after_s: Option<u64>,
}

fn is_read(method: &Method) -> bool {
    method == Method::GET || method == Method::HEAD || method == Method::DELETE
}

impl From<AuthError> for ApiError {
    fn from(error: AuthError) -> Self {
        let message = error.to_string();
        let reason = error.reason().to_owned();
        let error = match error {
            AuthError::Invalid { .. } => {
                let challenge = HeaderValue::from_static(BASIC_CHALLENGE);
                Self::new(StatusCode::UNAUTHORIZED, ErrorCode::Unauthorized, message)
                    .with_header(header::WWW_AUTHENTICATE, challenge)
            }
            AuthError::Unauthenticated { challenge, access, .. } => {
                Self::unauthorized(&access, challenge.as_deref().unwrap_or(BASIC_CHALLENGE))
            }
            AuthError::Forbidden { access, .. } => {
                Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
                    .with_detail(access.detail())
            }
            // As if the repository did not exist.
            AuthError::Hidden { access, .. } => {
                Self::new(StatusCode::NOT_FOUND, ErrorCode::NameUnknown, message)
                    .with_detail(access.detail())
            }
            AuthError::ScopeNotGranted => {
                Self::bad_request(ErrorCode::Denied, message).with_oauth(OauthError::InvalidScope)
            }
            AuthError::Busy => Self::busy(message),
            AuthError::Throttled { wait } => Self::delayed(message, wait),
            AuthError::Unavailable { reason } => Self::unavailable(reason),
        };
        error.with_denied(reason)
    }
}

impl From<LimitExceeded> for ApiError {
    fn from(exceeded: LimitExceeded) -> Self {
        let message = exceeded.to_string();
        match exceeded {
            LimitExceeded::Requests { wait } => Self::temporary(message, Retry::After(wait)),
            LimitExceeded::Uploads { .. } | LimitExceeded::Bytes { .. } => Self::busy(message),
        }
    }
}

impl From<AccessError> for ApiError {
    fn from(error: AccessError) -> Self {
        match error {
            AccessError::Cursor => Self::bad_request(ErrorCode::Unsupported, error.to_string()),
            AccessError::Denied(denied) => denied.into(),
            AccessError::Registry(error) => (*error).into(),
            AccessError::Mirror(error) => (*error).into(),
        }
    }
}

impl From<MirrorError> for ApiError {
    fn from(error: MirrorError) -> Self {
        let message = error.to_string();
        let not_found = |code| Self::new(StatusCode::NOT_FOUND, code, &message);
        match error {
            MirrorError::Registry(error) => Self::of_registry(&error),
            MirrorError::ManifestUnknown { .. } => not_found(ErrorCode::ManifestUnknown),
            MirrorError::BlobUnknown { .. } => not_found(ErrorCode::BlobUnknown),
            MirrorError::NameUnknown { .. } => not_found(ErrorCode::NameUnknown),
            MirrorError::FetchRefused | MirrorError::Blocked { .. } => {
                Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, message)
            }
            MirrorError::Limited { retry_after, .. } => {
                Self::temporary(message, retry_after.map_or(Retry::Usual, Retry::After))
            }
            // The message says what the operator, or the owner of the image, can do about it.
            MirrorError::BadGateway { .. } => {
                let error = Self::new(StatusCode::BAD_GATEWAY, ErrorCode::Unavailable, &message);
                Self { log: Some(message), ..error }
            }
            MirrorError::Unavailable { .. } => Self::unavailable(message),
        }
    }
}

impl From<BodyError> for ApiError {
    fn from(error: BodyError) -> Self {
        let (status, code) = match error {
            BodyError::Broken => (StatusCode::BAD_REQUEST, ErrorCode::BlobUploadInvalid),
            BodyError::Idle { .. } | BodyError::Slow { .. } => {
                (StatusCode::REQUEST_TIMEOUT, ErrorCode::BlobUploadInvalid)
            }
            BodyError::TooLarge { .. } => (StatusCode::PAYLOAD_TOO_LARGE, ErrorCode::SizeInvalid),
        };
        Self::new(status, code, error.to_string())
    }
}

impl From<Error> for ApiError {
    fn from(error: Error) -> Self {
        Self::of_registry(&error)
    }
}

impl ApiError {
    fn of_registry(error: &Error) -> Self {
        let message = error.to_string();
        let bad = |code| Self::bad_request(code, &message);
        let not_found = |code| Self::new(StatusCode::NOT_FOUND, code, &message);
        let too_large = |code| Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, &message);
        match error {
            Error::BlobUnknown { .. } => not_found(ErrorCode::BlobUnknown),
            Error::ManifestUnknown { .. } => not_found(ErrorCode::ManifestUnknown),
            Error::NameUnknown { .. } => not_found(ErrorCode::NameUnknown),
            Error::UploadUnknown { .. } => not_found(ErrorCode::BlobUploadUnknown),
            Error::ChunkOutOfOrder { offset, .. } | Error::UploadSuperseded { offset } => {
                Self::new(StatusCode::RANGE_NOT_SATISFIABLE, ErrorCode::BlobUploadInvalid, &message)
                    .with_detail(json!({ "offset": offset }))
                    .with_header(header::RANGE, headers::upload_range(*offset))
            }
            Error::DigestMismatch { expected, actual }
            | Error::ManifestDigestMismatch { expected, actual } => {
                bad(ErrorCode::DigestInvalid).with_detail(mismatch(expected, actual))
            }
            Error::SizeMismatch { expected, actual } => bad(ErrorCode::SizeInvalid)
                .with_detail(json!({ "expected": expected, "actual": actual })),
            Error::BlobTooLarge { .. } => too_large(ErrorCode::SizeInvalid),
            Error::ManifestInvalid(_) | Error::MediaTypeNotAllowed { .. } => {
                bad(ErrorCode::ManifestInvalid)
            }
            Error::ManifestTypeConflict { stored, .. } => {
                Self::new(StatusCode::CONFLICT, ErrorCode::ManifestInvalid, &message)
                    .with_detail(json!({ "mediaType": stored }))
            }
            Error::ManifestTooLarge { .. } => too_large(ErrorCode::ManifestInvalid),
            Error::ReferencesUnknown { missing, .. } => {
                bad(ErrorCode::ManifestBlobUnknown).with_detail(json!({ "missing": missing }))
            }
            Error::TagProtected { .. } => {
                Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, &message)
            }
            Error::Immutable(_) => Self::new(StatusCode::CONFLICT, ErrorCode::Denied, &message),
            Error::Quota(usage) => {
                let detail = json!({
                    "used": usage.used,
                    "requested": usage.adding,
                    "limit": usage.limit,
                    "pool": usage.number,
                });
                Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, &message).with_detail(detail)
            }
            Error::ProtectionUnknown { .. } => {
                Self::new(StatusCode::FORBIDDEN, ErrorCode::Denied, &message)
            }
            Error::TagDamaged { .. } | Error::PurgeRefused { .. } => {
                Self::new(StatusCode::CONFLICT, ErrorCode::ManifestInvalid, &message)
            }
            Error::PreconditionFailed { current, .. } => {
                Self::new(StatusCode::PRECONDITION_FAILED, ErrorCode::ManifestInvalid, &message)
                    .with_detail(json!({ "current": current }))
            }
            Error::ConditionFailed { .. } => {
                Self::new(StatusCode::PRECONDITION_FAILED, ErrorCode::ManifestInvalid, &message)
            }
            Error::Busy { .. } => Self::busy(message),
            Error::Body(error) => (*error).into(),
            Error::Interrupted { .. } | Error::Stopped | Error::NotArrived { .. } => {
                unavailable(error)
            }
            Error::Store(store) if store.kind() == ErrorKind::ReadOnly => Self::read_only(),
            Error::Store(store) if store.kind() == ErrorKind::Full => full(error),
            Error::Store(store) if is_passing(store.kind()) => unavailable(error),
            Error::InvalidCursor => bad(ErrorCode::Unsupported),
            Error::Store(_) | Error::Damaged { .. } | Error::FeaturesUnknown { .. } => {
                broken(error)
            }
        }
    }
}

fn mismatch(expected: &Digest, actual: &Digest) -> Value {
    json!({ "expected": expected, "actual": actual })
}

/// Whether a store failure is likely to be temporary.
fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Throttled | ErrorKind::Unavailable)
}

fn unavailable(error: &Error) -> ApiError {
    ApiError::internal(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, error_chain(error))
}

/// The client cannot fix it, but learns that the operator must free space (RFC 4918 section 11.5).
fn full(error: &Error) -> ApiError {
    let status = StatusCode::INSUFFICIENT_STORAGE;
    let failure = ApiError::internal(status, ErrorCode::Unavailable, error_chain(error));
    ApiError { message: "the storage is full".to_owned(), ..failure }
}

fn broken(error: &Error) -> ApiError {
    ApiError::internal(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown, error_chain(error))
}

#[cfg(test)]
mod tests;
