//! The OCI distribution and image specifications as values: no I/O, no async.
//!
//! Everything that arrives from outside is parsed here, once, into a type that cannot hold a wrong
//! value. Section names in the documentation refer to the
//! [distribution specification](https://github.com/opencontainers/distribution-spec/blob/main/spec.md)
//! and the [image specification](https://github.com/opencontainers/image-spec/blob/main/spec.md).
//!
//! - [`Digest`], [`Hasher`]: content addresses, and computing them across interruptions
//! - [`RepositoryName`], [`Tag`], [`Reference`], [`MediaType`]: the grammars
//! - [`RepositoryPattern`], [`TagPattern`]: what rules say of names and tags
//! - [`Descriptor`], [`Manifest`]: the content of a manifest and which content it references
//! - [`Endpoint`]: a request line as one value
//! - [`RangeHeader`], [`ContentRange`]: parts of blobs
//! - [`MirrorNames`]: names of repositories of other registries
//! - [`ErrorCode`], [`ErrorBody`]: error responses

mod annotations;
mod attached;
mod descriptor;
mod digest;
mod endpoint;
mod error_code;
mod excerpt;
mod field_names;
mod glob;
mod hasher;
mod manifest;
pub mod media_type;
mod media_type_pattern;
mod mirror_names;
mod name;
mod percent;
mod range;
mod reference;
mod repository_pattern;
mod scan;
mod tag;
mod tag_pattern;

pub use annotations::Annotations;
pub use attached::attached_tags;
pub use descriptor::Descriptor;
pub use digest::{Algorithm, Digest, InvalidDigest};
pub use endpoint::{
    Endpoint, EndpointInfo, MountSource, PATH_BYTES_MAX, PageParams, QUERY_BYTES_MAX, RouteError,
    RoutedEndpoint, TAGS_PER_PUT_MAX, TagHistoryQuery,
};
pub use error_code::{ErrorBody, ErrorCode, ErrorEntry};
pub use hasher::{HASHED_BYTES_MAX, HashState, Hasher, InvalidHashState};
pub use manifest::{
    ANNOTATIONS_MAX, DESCRIPTORS_MAX, EXTRACTOR_VERSION, InvalidManifest, LOOKUPS_MAX, Manifest,
    ManifestReference, NESTING_MAX, ReferenceKind,
};
pub use media_type::{InvalidMediaType, MEDIA_TYPE_BYTES_MAX, MediaType};
pub use media_type_pattern::MediaTypePattern;
pub use mirror_names::{
    MirrorName, MirrorNames, MirrorNamesError, MirrorRoute, NamedBy, UnknownNamespace,
};
pub use name::{InvalidName, NAME_CHARS_MAX, RepositoryName};
pub use percent::decode as percent_decode;
pub use range::{ContentRange, InvalidContentRange, RANGES_MAX, RangeHeader, Ranges};
pub use reference::{InvalidReference, Reference};
pub use repository_pattern::{InvalidRepositoryPattern, RepositoryPattern};
pub use tag::{InvalidTag, TAG_CHARS_MAX, Tag};
pub use tag_pattern::{InvalidTagPattern, TAG_PATTERN_CHARS_MAX, TagPattern};
