//! The codes and bodies of errors.

use jreg_oci::{ErrorBody, ErrorCode};
use serde_json::json;

/// The table of the specification, section "Error Codes".
const CODES: &[(&str, &str)] = &[
    ("BLOB_UNKNOWN", "blob unknown to registry"),
    ("BLOB_UPLOAD_INVALID", "blob upload invalid"),
    ("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"),
    ("DIGEST_INVALID", "provided digest did not match uploaded content"),
    ("MANIFEST_BLOB_UNKNOWN", "manifest references a manifest or blob unknown to registry"),
    ("MANIFEST_INVALID", "manifest invalid"),
    ("MANIFEST_UNKNOWN", "manifest unknown to registry"),
    ("NAME_INVALID", "invalid repository name"),
    ("NAME_UNKNOWN", "repository name not known to registry"),
    ("SIZE_INVALID", "provided length did not match content length"),
    ("UNAUTHORIZED", "authentication required"),
    ("DENIED", "requested access to the resource is denied"),
    ("UNSUPPORTED", "the operation is unsupported"),
    ("TOOMANYREQUESTS", "too many requests"),
];

#[test]
fn the_codes_are_those_of_the_specification() {
    let of_specification = &ErrorCode::ALL[..CODES.len()];
    let codes: Vec<_> = of_specification.iter().map(|c| (c.as_str(), c.description())).collect();
    assert_eq!(codes, CODES);
    let ours: Vec<_> = ErrorCode::ALL[CODES.len()..].iter().map(|c| c.as_str()).collect();
    assert_eq!(ours, ["UNKNOWN", "UNAVAILABLE"]);
}

#[test]
fn a_code_is_sent_as_it_is_shown() {
    for code in ErrorCode::ALL {
        assert_eq!(serde_json::to_value(code).unwrap(), json!(code.as_str()));
        assert_eq!(serde_json::from_value::<ErrorCode>(json!(code.to_string())).unwrap(), code);
    }
}

#[test]
fn a_body_has_the_form_of_the_specification() {
    let detail = Some(json!({"name": "a"}));
    let body = ErrorBody::new(ErrorCode::NameUnknown, "no such repository", detail);
    let json = json!({"errors": [
        {"code": "NAME_UNKNOWN", "message": "no such repository", "detail": {"name": "a"}}
    ]});
    assert_eq!(serde_json::to_value(&body).unwrap(), json);
    assert_eq!(serde_json::from_value::<ErrorBody>(json).unwrap(), body);

    let body = ErrorBody::new(ErrorCode::Denied, "no", None);
    let text = serde_json::to_string(&body).unwrap();
    assert_eq!(text, r#"{"errors":[{"code":"DENIED","message":"no"}]}"#);
}
