//! [`MediaType`]: media types, and the ones that a registry knows.

use std::borrow::Cow;
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::excerpt::excerpt;

/// The longest media type, in bytes (RFC 6838 section 4.2: 127 for each half, and the slash).
pub const MEDIA_TYPE_BYTES_MAX: usize = 255;
const HALF_BYTES_MAX: usize = 127;

/// An OCI image manifest.
pub const OCI_IMAGE_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// An OCI image index.
pub const OCI_IMAGE_INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// An OCI artifact manifest: withdrawn before image-spec 1.1, but pushed by clients of its time.
pub const OCI_ARTIFACT_MANIFEST: &str = "application/vnd.oci.artifact.manifest.v1+json";
/// The config of an artifact that needs none: `{}`.
pub const OCI_EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// A Docker image manifest.
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// A Docker manifest list.
pub const DOCKER_MANIFEST_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// A Docker layer that is fetched from elsewhere.
pub const DOCKER_FOREIGN_LAYER: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip";
/// Every OCI layer type that need not be in the registry starts with this.
pub const OCI_NONDISTRIBUTABLE_LAYER_PREFIX: &str =
    "application/vnd.oci.image.layer.nondistributable.v1.tar";
/// Every Docker layer type that need not be in the registry starts with this.
const DOCKER_FOREIGN_LAYER_PREFIX: &str = "application/vnd.docker.image.rootfs.foreign.diff.tar";

/// A media type without parameters, in its original spelling.
///
/// - `type "/" subtype`, at most [`MEDIA_TYPE_BYTES_MAX`] bytes, 1 to 127 for each half;
/// - each half is ASCII letters, digits and `! # $ & - ^ _ . +`, and starts with a letter or a
///   digit (RFC 6838 section 4.2);
/// - upper and lower case are kept, and differ in `==`; [`MediaType::is`] ignores them.
///
/// ```
/// # use jreg_oci::MediaType;
/// assert!("application/vnd.oci.image.index.v1+json".parse::<MediaType>().is_ok());
/// assert!("application".parse::<MediaType>().is_err());
/// let sent = MediaType::from_content_type("application/json; charset=utf-8").unwrap();
/// assert_eq!(sent.as_str(), "application/json");
/// ```
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct MediaType(Cow<'static, str>);

/// Error of a string that is no media type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("invalid media type {media_type:?}: {reason}")]
pub struct InvalidMediaType {
    media_type: String,
    reason: &'static str,
}

impl MediaType {
    /// [`OCI_IMAGE_MANIFEST`] as a value.
    pub const OCI_IMAGE_MANIFEST: Self = Self(Cow::Borrowed(OCI_IMAGE_MANIFEST));
    /// [`OCI_IMAGE_INDEX`] as a value.
    pub const OCI_IMAGE_INDEX: Self = Self(Cow::Borrowed(OCI_IMAGE_INDEX));
    /// [`OCI_ARTIFACT_MANIFEST`] as a value.
    pub const OCI_ARTIFACT_MANIFEST: Self = Self(Cow::Borrowed(OCI_ARTIFACT_MANIFEST));
    /// [`OCI_EMPTY`] as a value.
    pub const OCI_EMPTY: Self = Self(Cow::Borrowed(OCI_EMPTY));
    /// [`DOCKER_MANIFEST`] as a value.
    pub const DOCKER_MANIFEST: Self = Self(Cow::Borrowed(DOCKER_MANIFEST));
    /// [`DOCKER_MANIFEST_LIST`] as a value.
    pub const DOCKER_MANIFEST_LIST: Self = Self(Cow::Borrowed(DOCKER_MANIFEST_LIST));

    /// The media type of a `Content-Type` header: its parameters and the space around are dropped
    /// (distribution-spec "Pushing Manifests": the registry should ignore parameters).
    ///
    /// # Errors
    ///
    /// What stands before the first `;` is not a media type.
    pub fn from_content_type(header: &str) -> Result<Self, InvalidMediaType> {
        let media_type = header.split(';').next().unwrap_or_default();
        media_type.trim_matches([' ', '\t']).parse()
    }

    /// The media type as a string, as it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Whether this is `other`, upper and lower case ignored (RFC 9110 section 8.3.1).
    pub fn is(&self, other: &str) -> bool {
        self.0.eq_ignore_ascii_case(other)
    }

    /// Whether a layer of this type need not be in the registry: OCI nondistributable layers and
    /// Docker foreign layers, however they are compressed.
    pub fn is_nondistributable_layer(&self) -> bool {
        is_nondistributable_layer(&self.0)
    }
}

/// [`MediaType::is_nondistributable_layer`] for a type that was not validated.
pub(crate) fn is_nondistributable_layer(media_type: &str) -> bool {
    [OCI_NONDISTRIBUTABLE_LAYER_PREFIX, DOCKER_FOREIGN_LAYER_PREFIX].iter().any(|prefix| {
        let head = media_type.get(..prefix.len());
        head.is_some_and(|head| head.eq_ignore_ascii_case(prefix))
    })
}

fn check(media_type: &str) -> Result<(), &'static str> {
    let Some((kind, subtype)) = media_type.split_once('/') else {
        return Err("must be a type, a slash and a subtype");
    };
    if !is_restricted_name(kind) || !is_restricted_name(subtype) {
        return Err(
            "type and subtype must each be 1 to 127 letters, digits and ! # $ & - ^ _ . + \
                    and start with a letter or a digit",
        );
    }
    Ok(())
}

/// `restricted-name` of RFC 6838 section 4.2.
fn is_restricted_name(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || b"!#$&-^_.+".contains(&b);
    name.len() <= HALF_BYTES_MAX
        && name.bytes().next().is_some_and(|first| first.is_ascii_alphanumeric())
        && name.bytes().all(allowed)
}

impl FromStr for MediaType {
    type Err = InvalidMediaType;

    fn from_str(media_type: &str) -> Result<Self, InvalidMediaType> {
        match check(media_type) {
            Ok(()) => Ok(Self(Cow::Owned(media_type.to_owned()))),
            Err(reason) => Err(InvalidMediaType { media_type: excerpt(media_type), reason }),
        }
    }
}

impl TryFrom<&str> for MediaType {
    type Error = InvalidMediaType;

    fn try_from(media_type: &str) -> Result<Self, InvalidMediaType> {
        media_type.parse()
    }
}

impl TryFrom<String> for MediaType {
    type Error = InvalidMediaType;

    fn try_from(media_type: String) -> Result<Self, InvalidMediaType> {
        media_type.parse()
    }
}

impl From<MediaType> for String {
    fn from(media_type: MediaType) -> Self {
        media_type.0.into_owned()
    }
}

impl AsRef<str> for MediaType {
    fn as_ref(&self) -> &str {
        &self.0
    }
}

impl PartialEq<str> for MediaType {
    fn eq(&self, other: &str) -> bool {
        self.0 == other
    }
}

impl PartialEq<&str> for MediaType {
    fn eq(&self, other: &&str) -> bool {
        self.0 == *other
    }
}

impl fmt::Display for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for MediaType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.as_str())
    }
}
