//! [`ApiError`]: what a client is told when something fails, and what the log is told.
//!
//! The one table from the registry's errors to HTTP is [`From<jreg_registry::Error>`]; the one
//! from request lines is [`ApiError::route`]. What fails on our side is told by its code and the
//! request's id, never by what lies under it; that goes to the log, once, when the answer is made.
//!
//! The form of a body decides what docker does. Bodies with the specification's text and no `detail`
//! are retried for 50 seconds, and their text is not shown: this is the form of temporary refusals
//! (`ApiError::temporary`). Bodies with another text or with a `detail` end the operation and
//! are shown: this is the form of all others.

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderName, HeaderValue, Method, StatusCode, header};
use jreg_access::limits::LimitExceeded;
use jreg_access::{AccessError, AuthError, BASIC_CHALLENGE, RefusedAccess, whole_seconds};
use jreg_net::server::{Body, Response};
use jreg_oci::{Digest, ErrorBody, ErrorCode, RouteError};
use jreg_registry::{BodyError, Error};
use jreg_storage::{ErrorKind, error_chain};
use serde_json::{Value, json};

use super::exchange::ObservedRequest;
use super::record::AuditOutcome;
use super::{Context, headers};

/// A failed request.
#[derive(Debug)]
pub(super) struct ApiError {
    status: StatusCode,
    code: ErrorCode,
    /// What was wrong and what is allowed. For a failure of ours it names nothing from inside.
    message: String,
    detail: Option<Value>,
    /// What the log is told; only for failures of our own.
    log: Option<String>,
    /// Whether trying again can help (`Retry-After`).
    retry: Retry,
    headers: Vec<(HeaderName, HeaderValue)>,
    /// Why it was refused: for the log only.
    why: Option<Box<RefusalReason>>,
    /// What it is in the words of OAuth 2.0.
    oauth: Option<OauthError>,
    /// What was done before it failed: for the audit log only.
    outcome: Option<Box<AuditOutcome>>,
}

/// Why a request was refused. The client is not told.
#[derive(Debug)]
enum RefusalReason {
    /// Somebody was not let in.
    Denied(String),
    /// A limit was reached.
    Limited(String),
}

/// An error of a token endpoint (RFC 6749 section 5.2, RFC 8693 section 2.2.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum OauthError {
    /// A parameter is missing, wrong or there twice, or the token to exchange is not good.
    InvalidRequest,
    /// Nothing of what is asked for is granted.
    InvalidScope,
    /// The token is wanted for somebody else.
    InvalidTarget,
    /// There is no such grant.
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

/// When a client should try again.
#[derive(Clone, Copy, Debug)]
enum Retry {
    /// It would be told the same.
    Never,
    /// When the settings say.
    Usual,
    /// After this time.
    After(Duration),
}

impl ApiError {
    /// An error of the client.
    pub(super) fn new(status: StatusCode, code: ErrorCode, message: impl Into<String>) -> Self {
        let message = message.into();
        let headers = Vec::new();
        let (detail, log, why, oauth, outcome) = Default::default();
        let retry = Retry::Never;
        Self { status, code, message, detail, log, retry, headers, why, oauth, outcome }
    }

    /// The status of the answer.
    pub(super) fn status(&self) -> StatusCode {
        self.status
    }

    /// Why somebody was not let in, if that is it.
    pub(super) fn denied(&self) -> Option<&str> {
        match self.why.as_deref() {
            Some(RefusalReason::Denied(reason)) => Some(reason),
            Some(RefusalReason::Limited(_)) | None => None,
        }
    }

    /// The same, after some of the operation was done.
    pub(super) fn with_outcome(self, outcome: Option<AuditOutcome>) -> Self {
        Self { outcome: outcome.map(Box::new), ..self }
    }

    /// What was done before it failed.
    pub(super) fn outcome(&self) -> Option<&AuditOutcome> {
        self.outcome.as_deref()
    }

    /// A failure of the registry: `log` is for the log only.
    pub(super) fn internal(status: StatusCode, code: ErrorCode, log: String) -> Self {
        Self { log: Some(log), retry: Retry::Usual, ..Self::new(status, code, code.description()) }
    }

    /// The code that did the work panicked; the panic hook has said where.
    pub(super) fn panicked() -> Self {
        let log = "the handler of this request panicked".to_owned();
        Self::internal(StatusCode::INTERNAL_SERVER_ERROR, ErrorCode::Unknown, log)
    }

    /// A client error of a value in the request.
    pub(super) fn bad_request(code: ErrorCode, message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, message)
    }

    /// The upload in the path is not one: the same answer as for one that is gone.
    pub(super) fn upload_unknown(id: &str) -> Self {
        let message = format!(
            "upload {:?} is not known: it was cancelled, has expired, or belongs elsewhere",
            id.chars().take(80).collect::<String>()
        );
        Self::new(StatusCode::NOT_FOUND, ErrorCode::BlobUploadUnknown, message)
    }

    /// The operation is switched off.
    pub(super) fn deletes_are_off() -> Self {
        let message = "deletes are disabled in this registry";
        Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message)
            .with_header(header::ALLOW, HeaderValue::from_static("GET, HEAD"))
    }

    /// The path is nothing that is served here.
    pub(super) fn not_found() -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            ErrorCode::Unsupported,
            "there is no endpoint at this path",
        )
    }

    /// The path does not take this method.
    pub(super) fn method_not_allowed(allowed: &str) -> Self {
        let message = format!("method not allowed: must be one of {allowed}");
        let error = Self::new(StatusCode::METHOD_NOT_ALLOWED, ErrorCode::Unsupported, message);
        match HeaderValue::from_str(allowed) {
            Ok(allowed) => error.with_header(header::ALLOW, allowed),
            Err(_) => error,
        }
    }

    /// A request line that is not an operation.
    pub(super) fn route(error: &RouteError, method: &Method) -> Self {
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
            // What cannot be a tag is no manifest's, and readers are told so: existence checks
            // take 404 for an answer and 400 for a fault.
            RouteError::InvalidTag(_) if is_read(method) => {
                Self::new(StatusCode::NOT_FOUND, ErrorCode::ManifestUnknown, message)
            }
            RouteError::InvalidTag(_) => Self::bad_request(ErrorCode::ManifestInvalid, message),
            RouteError::InvalidQuery { .. } => Self::bad_request(ErrorCode::Unsupported, message),
            RouteError::BadEncoding { .. } => Self::bad_request(ErrorCode::NameInvalid, message),
            RouteError::TooManyTags { .. } | RouteError::PathTooLong { .. } => {
                Self::new(StatusCode::URI_TOO_LONG, ErrorCode::Unsupported, message)
            }
        }
    }

    /// Whoever asks is to say who they are.
    fn unauthorized(access: &RefusedAccess, challenge: &str) -> Self {
        let status = StatusCode::UNAUTHORIZED;
        let error = Self::new(status, ErrorCode::Unauthorized, access.to_string());
        let error = error.with_detail(access.detail());
        match HeaderValue::from_str(challenge) {
            Ok(challenge) => error.with_header(header::WWW_AUTHENTICATE, challenge),
            Err(_) => error,
        }
    }

    /// A refusal that passes by itself. `limit` is for the log only.
    fn temporary(limit: String, retry: Retry) -> Self {
        let code = ErrorCode::TooManyRequests;
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, code, code.description());
        Self { retry, why: Some(Box::new(RefusalReason::Limited(limit))), ..error }
    }

    /// The memory or the slots for it are taken. `limit` is for the log only.
    pub(super) fn busy(limit: String) -> Self {
        Self::temporary(limit, Retry::Usual)
    }

    /// Too many logins have failed. Repeating them at once does not help, so the client is told.
    fn delayed(message: String, wait: Duration) -> Self {
        let code = ErrorCode::TooManyRequests;
        let error = Self::new(StatusCode::TOO_MANY_REQUESTS, code, message);
        let error = error.with_detail(json!({ "retryAfterSeconds": whole_seconds(wait) }));
        Self { retry: Retry::After(wait), ..error }
    }

    /// Whether it passes by itself, in the form that docker retries.
    #[cfg(test)]
    fn is_temporary(&self) -> bool {
        self.status == StatusCode::TOO_MANY_REQUESTS && self.message == self.code.description()
    }

    fn unavailable(log: String) -> Self {
        Self::internal(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, log)
    }

    /// Adds a header to the answer.
    pub(super) fn with_header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Adds headers to the answer if it has this status.
    pub(super) fn with_headers_if(
        mut self,
        status: StatusCode,
        headers: impl IntoIterator<Item = (HeaderName, HeaderValue)>,
    ) -> Self {
        if self.status == status {
            self.headers.extend(headers);
        }
        self
    }

    /// Says it in the words of OAuth 2.0, too.
    pub(super) fn with_oauth(mut self, error: OauthError) -> Self {
        self.oauth = Some(error);
        self.with_header(header::CACHE_CONTROL, HeaderValue::from_static("no-store"))
    }

    /// Says in the log why somebody was not let in.
    pub(super) fn with_denied(mut self, reason: String) -> Self {
        self.why = Some(Box::new(RefusalReason::Denied(reason)));
        self
    }

    fn with_detail(mut self, detail: Value) -> Self {
        self.detail = Some(detail);
        self
    }

    /// Makes the answer, and tells the log if the failure is ours.
    pub(super) fn render(self, context: &Arc<Context>, exchange: &ObservedRequest) -> Response {
        exchange.failed_with(self.code);
        match self.why.map(|why| *why) {
            Some(RefusalReason::Denied(reason)) => exchange.denied_because(reason),
            Some(RefusalReason::Limited(limit)) => exchange.limited_by(limit),
            None => {}
        }
        let request_id = &exchange.request_id;
        if let Some(log) = &self.log {
            tracing::error!(%request_id, code = self.code.as_str(), error = log, "request failed");
        }
        let server_error = self.status.is_server_error();
        let detail = if server_error {
            Some(json!({ "requestId": request_id.to_string() }))
        } else {
            self.detail
        };
        let description = self.oauth.map(|error| (error.as_str(), self.message.clone()));
        let body = ErrorBody::new(self.code, self.message, detail);
        let body = match description {
            None => headers::to_json(&body),
            Some((error, description)) => headers::to_json(&json!({
                "error": error,
                "error_description": description,
                "errors": body.errors,
            })),
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        response.headers_mut().extend(self.headers);
        response.headers_mut().insert(header::CONTENT_TYPE, headers::JSON);
        let after = match self.retry {
            Retry::Never => None,
            Retry::Usual => Some(context.options.retry_after),
            Retry::After(wait) => Some(wait),
        };
        if let Some(after) = after {
            let after_s = HeaderValue::from(whole_seconds(after));
            response.headers_mut().insert(header::RETRY_AFTER, after_s);
        }
        response
    }
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
            // As if it was not there.
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
        let message = error.to_string();
        let bad = |code| Self::bad_request(code, &message);
        let not_found = |code| Self::new(StatusCode::NOT_FOUND, code, &message);
        let too_large = |code| Self::new(StatusCode::PAYLOAD_TOO_LARGE, code, &message);
        match &error {
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
            Error::PreconditionFailed { current, .. } => {
                Self::new(StatusCode::PRECONDITION_FAILED, ErrorCode::ManifestInvalid, &message)
                    .with_detail(json!({ "current": current }))
            }
            Error::Busy { .. } => Self::busy(message),
            Error::Body(error) => (*error).into(),
            Error::Interrupted { .. } | Error::Stopped => unavailable(&error),
            Error::Store(store) if store.kind() == ErrorKind::Full => full(&error),
            Error::Store(store) if is_passing(store.kind()) => unavailable(&error),
            Error::Store(_) | Error::Damaged { .. } => broken(&error),
        }
    }
}

fn mismatch(expected: &Digest, actual: &Digest) -> Value {
    json!({ "expected": expected, "actual": actual })
}

/// Whether a failure of the store is likely to pass by itself.
fn is_passing(kind: ErrorKind) -> bool {
    matches!(kind, ErrorKind::Throttled | ErrorKind::Unavailable)
}

fn unavailable(error: &Error) -> ApiError {
    ApiError::internal(StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable, error_chain(error))
}

/// The client can do nothing about it, but learns that somebody must make room (RFC 4918
/// section 11.5).
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
