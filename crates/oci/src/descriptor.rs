//! [`Descriptor`]: one entry of a manifest, and of a list of referrers.

use serde::{Deserialize, Deserializer, Serialize};
use serde_json::Value;

use crate::{Annotations, Digest, MediaType};

/// A content descriptor (image-spec "Content Descriptors").
///
/// Parsed leniently: unknown fields are dropped, `null` counts as absent, and a missing
/// media type or size is empty or zero. Absent fields are not written.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// The media type of the content, empty if unknown.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "String::is_empty"
    )]
    pub media_type: String,
    /// The digest of the content.
    pub digest: Digest,
    /// The size of the content in bytes.
    #[serde(default, deserialize_with = "null_as_default")]
    pub size: u64,
    /// The kind of artifact, if the content is one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub artifact_type: Option<String>,
    /// The annotations of the content.
    #[serde(
        default,
        deserialize_with = "null_as_default",
        skip_serializing_if = "Annotations::is_empty"
    )]
    pub annotations: Annotations,
    /// Other URLs of the content.
    #[serde(default, deserialize_with = "null_as_default", skip_serializing_if = "Vec::is_empty")]
    pub urls: Vec<String>,
    /// The content itself in base64, as written: neither its length nor its digest is checked.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// The platform of the content, as written.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Value>,
}

impl Descriptor {
    /// A descriptor of the required fields; `size` in bytes.
    pub fn new(media_type: &MediaType, digest: Digest, size: u64) -> Self {
        Self { media_type: media_type.as_str().to_owned(), ..Self::bare(digest, size) }
    }

    /// A descriptor without a media type.
    pub(crate) fn bare(digest: Digest, size: u64) -> Self {
        Self {
            media_type: String::new(),
            digest,
            size,
            artifact_type: None,
            annotations: Annotations::default(),
            urls: Vec::new(),
            data: None,
            platform: None,
        }
    }
}

/// Reads `null` as the default: Go marshals nil slices and maps as `null`.
pub(crate) fn null_as_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
