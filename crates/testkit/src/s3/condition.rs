//! The conditions of a write, and of a delete: read off the headers, and held against what is
//! stored under the key.

use http::HeaderMap;
use s3s::{S3Result, s3_error};

use super::object::S3Object;

/// What must hold for a write to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    /// Nothing.
    None,
    /// `If-None-Match: *`
    Absent,
    /// `If-Match: *`
    Present,
    /// `If-Match: "etag"`; held without the quotes.
    Is(String),
    /// One that nothing fulfils: a quoted etag, on a server that compares it with a bare one.
    Never,
}

/// How a server reads an `If-Match`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IfMatchForm {
    /// With quotes or without, as AWS does.
    #[default]
    Any,
    /// Only without: a quoted etag matches nothing (Ceph RGW before 17).
    Bare,
}

impl Condition {
    /// Reads the condition of a write. An etag in `If-None-Match` is not implemented, as on AWS.
    pub(crate) fn of(headers: &HeaderMap, form: IfMatchForm) -> S3Result<Self> {
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        match (text("if-match"), text("if-none-match")) {
            (Some(_), Some(_)) => Err(s3_error!(NotImplemented, "both If-Match and If-None-Match")),
            (Some(etag), None) => Ok(Self::matching(etag, form)),
            (None, Some("*")) => Ok(Self::Absent),
            (None, Some(other)) => {
                Err(s3_error!(NotImplemented, "If-None-Match: {other} on a write"))
            }
            (None, None) => Ok(Self::None),
        }
    }

    pub(crate) fn matching(etag: &str, form: IfMatchForm) -> Self {
        let bare = etag.strip_prefix('"').and_then(|etag| etag.strip_suffix('"'));
        match (etag, bare, form) {
            ("*", ..) => Self::Present,
            (_, Some(_), IfMatchForm::Bare) => Self::Never,
            (_, Some(bare), IfMatchForm::Any) => Self::Is(bare.to_owned()),
            (etag, None, _) => Self::Is(etag.to_owned()),
        }
    }

    /// Holds the condition against what is stored.
    ///
    /// Without an object, `If-Match` gives 404, else a failed condition gives 412 (S3 user guide,
    /// "How to prevent object overwrites with conditional writes" and "How to perform conditional
    /// deletes").
    pub(crate) fn check(&self, stored: Option<&S3Object>) -> S3Result<()> {
        let holds = match (self, stored) {
            (Self::None, _) | (Self::Absent, None) | (Self::Present, Some(_)) => true,
            (Self::Present | Self::Is(_) | Self::Never, None) => {
                return Err(s3_error!(NoSuchKey, "no such key, and If-Match was given"));
            }
            (Self::Is(etag), Some(object)) => *etag == object.etag,
            (Self::Absent | Self::Never, Some(_)) => false,
        };
        if holds { Ok(()) } else { Err(s3_error!(PreconditionFailed, "a precondition failed")) }
    }
}
