//! The mapping of errors to responses.
#![allow(clippy::unwrap_used)]

use jreg_access::{CredentialState, Right};
use jreg_auth::TokenScope;
use jreg_oci::{Endpoint, Reference, RepositoryName};

use super::*;

fn name() -> RepositoryName {
    "library/alpine".parse().unwrap()
}

fn digest(byte: char) -> Digest {
    format!("sha256:{}", byte.to_string().repeat(64)).parse().unwrap()
}

fn reference() -> Reference {
    "latest".parse().unwrap()
}

fn store(kind: ErrorKind) -> Error {
    Error::Store(jreg_storage::Error::with_source(kind, "blobs/secret", "disk at /srv is gone"))
}

/// Each error with its status code and error code.
fn rows() -> Vec<(Error, u16, &'static str)> {
    let mismatch = (digest('a'), digest('b'));
    vec![
        (Error::BlobUnknown { name: name(), digest: digest('a') }, 404, "BLOB_UNKNOWN"),
        (Error::ManifestUnknown { name: name(), reference: reference() }, 404, "MANIFEST_UNKNOWN"),
        (Error::NameUnknown { name: name() }, 404, "NAME_UNKNOWN"),
        (Error::ChunkOutOfOrder { start: 9, offset: 5 }, 416, "BLOB_UPLOAD_INVALID"),
        (Error::UploadSuperseded { offset: 0 }, 416, "BLOB_UPLOAD_INVALID"),
        (
            Error::DigestMismatch { expected: mismatch.0.clone(), actual: mismatch.1.clone() },
            400,
            "DIGEST_INVALID",
        ),
        (
            Error::ManifestDigestMismatch { expected: mismatch.0, actual: mismatch.1 },
            400,
            "DIGEST_INVALID",
        ),
        (Error::SizeMismatch { expected: 2, actual: 1 }, 400, "SIZE_INVALID"),
        (Error::BlobTooLarge { max_bytes: 1 }, 413, "SIZE_INVALID"),
        (
            Error::MediaTypeNotAllowed {
                media_type: "text/html".parse().unwrap(),
                allowed: "application/*".to_owned(),
            },
            400,
            "MANIFEST_INVALID",
        ),
        (
            Error::ManifestTypeConflict {
                digest: digest('a'),
                stored: jreg_oci::MediaType::OCI_IMAGE_INDEX,
            },
            409,
            "MANIFEST_INVALID",
        ),
        (Error::ManifestTooLarge { max_bytes: 1 }, 413, "MANIFEST_INVALID"),
        (
            Error::ReferencesUnknown { name: name(), missing: vec![digest('a')] },
            400,
            "MANIFEST_BLOB_UNKNOWN",
        ),
        (
            Error::PreconditionFailed { reference: reference(), current: None },
            412,
            "MANIFEST_INVALID",
        ),
        (Error::ConditionFailed { reference: reference() }, 412, "MANIFEST_INVALID"),
        (Error::TagProtected { name: name(), tag: "v1".parse().unwrap() }, 403, "DENIED"),
        (Error::TagDamaged { name: name(), tag: "v1".parse().unwrap() }, 409, "MANIFEST_INVALID"),
        (Error::Busy { what: "uploads" }, 429, "TOOMANYREQUESTS"),
        (Error::Interrupted { what: "the link" }, 503, "UNAVAILABLE"),
        (Error::Stopped, 503, "UNAVAILABLE"),
        (Error::Body(BodyError::Broken), 400, "BLOB_UPLOAD_INVALID"),
        (Error::Body(BodyError::Idle { limit_s: 1 }), 408, "BLOB_UPLOAD_INVALID"),
        (Error::Body(BodyError::TooLarge { max_bytes: 1 }), 413, "SIZE_INVALID"),
        (store(ErrorKind::Throttled), 503, "UNAVAILABLE"),
        (store(ErrorKind::Unavailable), 503, "UNAVAILABLE"),
        (store(ErrorKind::Full), 507, "UNAVAILABLE"),
        (store(ErrorKind::Refused), 500, "UNKNOWN"),
        (store(ErrorKind::NotFound), 500, "UNKNOWN"),
        (Error::Damaged { key: "k".into(), reason: "r".into() }, 500, "UNKNOWN"),
    ]
}

#[test]
fn each_error_has_its_status_and_code() {
    for (error, status, code) in rows() {
        let text = format!("{error:?}");
        let api = ApiError::from(error);
        assert_eq!((api.status.as_u16(), api.code.as_str()), (status, code), "{text}");
    }
}

#[test]
fn failures_of_ours_ask_for_another_try_and_are_logged() {
    for (error, status, _) in rows() {
        let text = format!("{error:?}");
        let api = ApiError::from(error);
        let retries = !matches!(api.retry, Retry::Never);
        assert_eq!(retries, status == 429 || status >= 500, "{text}");
        assert_eq!(api.log.is_some(), status >= 500, "{text}");
    }
    let api = ApiError::from(store(ErrorKind::Refused));
    assert_eq!(api.log.unwrap(), "store refused: blobs/secret: disk at /srv is gone");
}

#[test]
fn a_chunk_out_of_order_says_where_the_upload_stands() {
    for (offset, range) in [(0, "0-0"), (1, "0-0"), (5, "0-4")] {
        let api = ApiError::from(Error::ChunkOutOfOrder { start: 9, offset });
        assert_eq!(api.headers, [(header::RANGE, HeaderValue::from_static(range))]);
    }
}

#[test]
fn headers_are_added_only_to_their_status() {
    let more = [(header::LOCATION, HeaderValue::from_static("/there"))];
    let api = ApiError::from(Error::ChunkOutOfOrder { start: 9, offset: 5 });
    let api = api.with_headers_if(StatusCode::RANGE_NOT_SATISFIABLE, more.clone());
    assert!(api.headers.contains(&more[0]));
    let api = ApiError::from(Error::Stopped);
    assert_eq!(api.with_headers_if(StatusCode::RANGE_NOT_SATISFIABLE, more).headers, []);
}

#[test]
fn request_lines_that_are_no_operation_have_their_status_and_code() {
    let long = format!("/v2/{}/tags/list", "a/".repeat(5000));
    let tags = format!("/v2/a/manifests/{}?tag={}", digest('a'), ["a"; 200].join("&tag="));
    for (method, target, status, code) in [
        ("GET", "/v2/a/nothing", 404, "UNSUPPORTED"),
        ("POST", "/v2/", 405, "UNSUPPORTED"),
        ("GET", "/v2/A/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/a%252fb/tags/list", 400, "NAME_INVALID"),
        ("GET", "/v2/a/blobs/sha256:bad", 400, "DIGEST_INVALID"),
        ("GET", "/v2/a/manifests/-bad", 404, "MANIFEST_UNKNOWN"),
        ("HEAD", "/v2/a/manifests/-bad", 404, "MANIFEST_UNKNOWN"),
        ("PUT", "/v2/a/manifests/-bad", 400, "MANIFEST_INVALID"),
        ("GET", "/v2/a/tags/list?n=abc", 400, "UNSUPPORTED"),
        ("PUT", tags.as_str(), 414, "UNSUPPORTED"),
        ("GET", long.as_str(), 414, "UNSUPPORTED"),
    ] {
        let (path, query) = target.split_once('?').map_or((target, None), |(p, q)| (p, Some(q)));
        let error = Endpoint::parse(method, path, query).unwrap_err();
        let api = ApiError::route(&error, &Method::from_bytes(method.as_bytes()).unwrap());
        assert_eq!((api.status.as_u16(), api.code.as_str()), (status, code), "{method} {target}");
        let has_allow = api.headers.iter().any(|(name, _)| name == header::ALLOW);
        assert_eq!(has_allow, status == 405, "{method} {target}");
    }
}

/// The codes and texts of distribution by which docker decides whether to retry.
const DOCKER_ENDS_AT: [(ErrorCode, &str); 5] = [
    (ErrorCode::Unauthorized, "authentication required"),
    (ErrorCode::Denied, "requested access to the resource is denied"),
    (ErrorCode::Unsupported, "The operation is unsupported."),
    (ErrorCode::TooManyRequests, "too many requests"),
    (ErrorCode::NameUnknown, "repository name not known to registry"),
];

/// Whether docker retries such a response: the error has another code, or is reduced to its code
/// because it has the default text and no detail.
fn docker_retries(error: &ApiError) -> bool {
    let usual = DOCKER_ENDS_AT.iter().find(|(code, _)| *code == error.code);
    usual.is_none_or(|(_, text)| error.detail.is_none() && error.message == *text)
}

fn refusals() -> Vec<ApiError> {
    let access = |right| RefusedAccess::new(CredentialState::As("alice".to_owned()), right);
    let push = Right::Push("other/app".parse().unwrap());
    let reason = || "because".to_owned();
    let challenge = || Some("Basic realm=\"a\"".to_owned());
    let mut refusals: Vec<ApiError> = vec![
        AuthError::Forbidden { access: access(&push), reason: reason() }.into(),
        AuthError::Hidden { name: name(), access: access(&push), reason: reason() }.into(),
        AuthError::Throttled { wait: Duration::from_millis(1500) }.into(),
        AuthError::Throttled { wait: Duration::from_secs(2) }.into(),
        AuthError::ScopeNotGranted.into(),
        ApiError::deletes_are_off(),
        Error::NameUnknown { name: name() }.into(),
        Error::TagProtected { name: name(), tag: "v1".parse().unwrap() }.into(),
    ];
    for by in
        [CredentialState::No, CredentialState::Invalid, CredentialState::As("alice".to_owned())]
    {
        for right in [&Right::Enter, &Right::List, &push] {
            let access = RefusedAccess::new(by.clone(), right);
            let (challenge, reason) = (challenge(), reason());
            refusals.push(AuthError::Unauthenticated { challenge, access, reason }.into());
        }
        for scope in ["", "repository:other/app:pull,push"] {
            let access = RefusedAccess::of_scope(by.clone(), &TokenScope::parse([scope]));
            refusals.push(
                AuthError::Unauthenticated { challenge: None, access, reason: reason() }.into(),
            );
        }
    }
    refusals
}

#[test]
fn c23_a_refusal_ends_what_docker_does_and_is_shown() {
    for error in refusals() {
        assert!(!docker_retries(&error), "{error:?}");
        assert!(!error.is_temporary(), "{error:?}");
    }
    let push = Right::Push("other/app".parse().unwrap());
    let access = RefusedAccess::new(CredentialState::As("alice".to_owned()), &push);
    let error = ApiError::from(AuthError::Forbidden { access, reason: "because".to_owned() });
    assert_eq!(error.message, "alice may not push to other/app");
}

#[test]
fn c23_a_temporary_refusal_is_retried_by_docker() {
    let wait = Duration::from_secs(1);
    for error in [
        ApiError::from(LimitExceeded::Requests { wait }),
        LimitExceeded::Uploads { max: 1 }.into(),
        LimitExceeded::Bytes { max: 1 }.into(),
        Error::Busy { what: "uploads" }.into(),
        AuthError::Busy.into(),
        AuthError::Busy.into(),
    ] {
        assert!(error.is_temporary() && docker_retries(&error), "{error:?}");
        assert!(!matches!(error.retry, Retry::Never), "{error:?}");
    }
    for (error, status, _) in rows() {
        let error = ApiError::from(error);
        assert_eq!(error.is_temporary(), status == 429, "{error:?}");
    }
}

#[test]
fn a_denial_is_401_with_a_challenge_or_403() {
    let challenge = r#"Bearer realm="https://a/token",service="a""#;
    let access = RefusedAccess::new(CredentialState::No, &Right::Enter);
    let api = ApiError::from(AuthError::Unauthenticated {
        challenge: Some(challenge.to_owned()),
        access: access.clone(),
        reason: "because".to_owned(),
    });
    assert_eq!((api.status.as_u16(), api.code), (401, ErrorCode::Unauthorized));
    let value = HeaderValue::from_static(challenge);
    assert_eq!(api.headers, [(header::WWW_AUTHENTICATE, value)]);
    let api = ApiError::from(AuthError::Forbidden { access, reason: "because".to_owned() });
    assert_eq!((api.status.as_u16(), api.code), (403, ErrorCode::Denied));
}
