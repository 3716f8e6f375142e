//! [`ErrorCode`] and [`ErrorBody`]: error responses.

use std::fmt;

use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The code of an error (distribution-spec "Error Codes"), and two for 5xx responses, for which
/// the specification has none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum ErrorCode {
    /// code-1.
    BlobUnknown,
    /// code-2.
    BlobUploadInvalid,
    /// code-3.
    BlobUploadUnknown,
    /// code-4.
    DigestInvalid,
    /// code-5.
    ManifestBlobUnknown,
    /// code-6.
    ManifestInvalid,
    /// code-7.
    ManifestUnknown,
    /// code-8.
    NameInvalid,
    /// code-9.
    NameUnknown,
    /// code-10.
    SizeInvalid,
    /// code-11.
    Unauthorized,
    /// code-12.
    Denied,
    /// code-13.
    Unsupported,
    /// code-14.
    #[serde(rename = "TOOMANYREQUESTS")]
    TooManyRequests,
    /// A failure of the registry itself (500).
    Unknown,
    /// The registry is temporarily unavailable; a retry may succeed (503).
    Unavailable,
}

impl ErrorCode {
    /// Every code.
    pub const ALL: [Self; 16] = [
        Self::BlobUnknown,
        Self::BlobUploadInvalid,
        Self::BlobUploadUnknown,
        Self::DigestInvalid,
        Self::ManifestBlobUnknown,
        Self::ManifestInvalid,
        Self::ManifestUnknown,
        Self::NameInvalid,
        Self::NameUnknown,
        Self::SizeInvalid,
        Self::Unauthorized,
        Self::Denied,
        Self::Unsupported,
        Self::TooManyRequests,
        Self::Unknown,
        Self::Unavailable,
    ];

    /// The code as it is sent.
    pub const fn as_str(self) -> &'static str {
        self.row().0
    }

    /// What the code means, in the specification's words.
    pub const fn description(self) -> &'static str {
        self.row().1
    }

    const fn row(self) -> (&'static str, &'static str) {
        match self {
            Self::BlobUnknown => ("BLOB_UNKNOWN", "blob unknown to registry"),
            Self::BlobUploadInvalid => ("BLOB_UPLOAD_INVALID", "blob upload invalid"),
            Self::BlobUploadUnknown => ("BLOB_UPLOAD_UNKNOWN", "blob upload unknown to registry"),
            Self::DigestInvalid => {
                ("DIGEST_INVALID", "provided digest did not match uploaded content")
            }
            Self::ManifestBlobUnknown => (
                "MANIFEST_BLOB_UNKNOWN",
                "manifest references a manifest or blob unknown to registry",
            ),
            Self::ManifestInvalid => ("MANIFEST_INVALID", "manifest invalid"),
            Self::ManifestUnknown => ("MANIFEST_UNKNOWN", "manifest unknown to registry"),
            Self::NameInvalid => ("NAME_INVALID", "invalid repository name"),
            Self::NameUnknown => ("NAME_UNKNOWN", "repository name not known to registry"),
            Self::SizeInvalid => ("SIZE_INVALID", "provided length did not match content length"),
            Self::Unauthorized => ("UNAUTHORIZED", "authentication required"),
            Self::Denied => ("DENIED", "requested access to the resource is denied"),
            Self::Unsupported => ("UNSUPPORTED", "the operation is unsupported"),
            Self::TooManyRequests => ("TOOMANYREQUESTS", "too many requests"),
            Self::Unknown => ("UNKNOWN", "the registry failed"),
            Self::Unavailable => ("UNAVAILABLE", "the registry is unavailable, try again later"),
        }
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The JSON body of an error response.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorBody {
    /// The errors; never empty.
    pub errors: Vec<ErrorEntry>,
}

/// One error of an [`ErrorBody`].
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct ErrorEntry {
    /// Which error.
    pub code: ErrorCode,
    /// What was wrong and what is allowed, human-readable.
    #[serde(default)]
    pub message: String,
    /// The same, machine-readable, if there are details.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub detail: Option<Value>,
}

impl ErrorBody {
    /// A body with one error.
    pub fn new(code: ErrorCode, message: impl Into<String>, detail: Option<Value>) -> Self {
        Self { errors: vec![ErrorEntry { code, message: message.into(), detail }] }
    }
}
