//! [`Endpoint`]: a request line as one value.
//!
//! Repository names contain slashes and may contain the words of the paths (`blobs`, `tags`, ...),
//! so a path is matched from its right end. The path is decoded once and then split at its slashes:
//! some clients encode the slashes of a repository name (`/v2/a%2Fb/tags/list`). What is parsed,
//! authorized and logged is the decoded name; `%252F` is a name with a percent sign, which is none.

use std::borrow::Cow;

use crate::excerpt::excerpt;
use crate::percent::decode;
use crate::{
    Algorithm, Digest, InvalidDigest, InvalidName, InvalidReference, InvalidTag, MirrorNames,
    MirrorRoute, NamedBy, Reference, RepositoryName, Tag,
};

/// The longest path, in bytes: the longest name and digest, every byte percent-encoded, and room.
pub const PATH_BYTES_MAX: usize = 2 * 1024;
/// The longest query, in bytes: room for [`TAGS_PER_PUT_MAX`] tags of full length.
pub const QUERY_BYTES_MAX: usize = 16 * 1024;
/// The most `tag` parameters of one manifest PUT.
pub const TAGS_PER_PUT_MAX: usize = 64;

/// An operation of the specification on what it names, ready to be authorised and performed.
///
/// HEAD on a list, on the base and on an upload is the same operation as GET: the response only
/// has no body.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "fields named after the parameters of the path and query")]
pub enum Endpoint {
    /// Check the API version and the credentials (end-1).
    Ping,
    /// List the repositories (not in the specification, but common).
    Catalog { page: PageParams },
    /// Read a blob (end-2).
    BlobGet { name: RepositoryName, digest: Digest },
    /// Check whether a blob exists (end-2).
    BlobHead { name: RepositoryName, digest: Digest },
    /// Delete a blob (end-10).
    BlobDelete { name: RepositoryName, digest: Digest },
    /// Start an upload session (end-4a, end-4c), push a blob in one request (end-4b) or mount one (end-11).
    UploadStart {
        name: RepositoryName,
        /// The digest of the body, which is the complete blob.
        digest: Option<Digest>,
        /// The algorithm of the digest in the closing PUT.
        algorithm: Option<Algorithm>,
        /// The blob to mount instead of uploading it.
        mount: Option<Digest>,
        /// The repository to mount it from; meaningless without `mount`.
        from: MountSource,
    },
    /// Get the offset of an upload session (end-13).
    UploadStatus {
        name: RepositoryName,
        /// The id of the upload session, not validated.
        id: String,
    },
    /// Append a chunk to an upload session (end-5).
    UploadPatch {
        name: RepositoryName,
        /// The id of the upload session, not validated.
        id: String,
    },
    /// Complete an upload (end-6).
    UploadPut {
        name: RepositoryName,
        /// The id of the upload session, not validated.
        id: String,
        /// The digest of the complete blob.
        digest: Digest,
    },
    /// Cancel an upload session (end-14).
    UploadCancel {
        name: RepositoryName,
        /// The id of the upload session, not validated.
        id: String,
    },
    /// Read a manifest (end-3).
    ManifestGet { name: RepositoryName, reference: Reference },
    /// Check whether a manifest exists (end-3).
    ManifestHead { name: RepositoryName, reference: Reference },
    /// Push a manifest (end-7a, end-7b).
    ManifestPut {
        name: RepositoryName,
        /// The tag to write, or the digest of the manifest.
        reference: Reference,
        /// Additional tags: at most [`TAGS_PER_PUT_MAX`], each once, in the given order.
        tags: Vec<Tag>,
    },
    /// Delete a manifest or a tag (end-9).
    ManifestDelete {
        name: RepositoryName,
        /// The tag, or the manifest.
        reference: Reference,
    },
    /// List the tags of a repository (end-8a, end-8b).
    TagList { name: RepositoryName, page: PageParams },
    /// List the referrers of a subject (end-12a, end-12b).
    Referrers {
        name: RepositoryName,
        subject: Digest,
        /// Only referrers of this artifact type.
        artifact_type: Option<String>,
        page: PageParams,
    },
    /// List the extensions of the registry (extensions/_oci.md).
    Extensions,
    /// List the extensions of a repository (extensions/_oci.md).
    RepositoryExtensions { name: RepositoryName },
    /// List the history of a tag, as drafted for the specification.
    OciTagHistory { name: RepositoryName, tag: Tag, query: TagHistoryQuery },
    /// List the history of a tag, with who made each change.
    TagHistory { name: RepositoryName, tag: Tag, page: PageParams },
    /// Point a tag to a manifest again.
    TagRestore { name: RepositoryName, tag: Tag },
    /// List the deleted manifests that are kept.
    DeletedManifests { name: RepositoryName, page: PageParams },
    /// Restore a deleted manifest.
    ManifestRestore { name: RepositoryName, digest: Digest },
    /// How many bytes repositories hold.
    Usage { page: PageParams },
}

/// What [`Endpoint::OciTagHistory`] is asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TagHistoryQuery {
    /// Maximum number of entries; any number including 0, the caller clamps it.
    pub n: Option<usize>,
    /// Only entries older than this time (RFC 3339), not validated; never empty.
    pub before: Option<String>,
    /// Only entries newer than this time (RFC 3339), not validated; never empty.
    pub since: Option<String>,
    /// Only entries of this manifest.
    pub digest: Option<Digest>,
}

/// Pagination of a list.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PageParams {
    /// Maximum number of entries; any number including 0, the caller clamps it.
    pub n: Option<usize>,
    /// Only entries after this one, which need not exist; never empty.
    pub last: Option<String>,
}

/// The source of a mount.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// Any repository with the blob: no `from` was given.
    Any,
    /// This repository.
    Repository(RepositoryName),
    /// An invalid name: the mount fails like one from a repository that does not exist.
    Unknown,
}

/// An operation, and how the request led to a mirror.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RoutedEndpoint {
    /// The operation, with local names.
    pub endpoint: Endpoint,
    /// `None`: the path has the local name.
    pub route: Option<MirrorRoute>,
}

/// One row of [`Endpoint::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointInfo {
    /// A short name in snake case, for logs and metrics.
    pub id: &'static str,
    /// The methods of the operation.
    pub methods: &'static [&'static str],
    /// The path with placeholders in braces.
    pub template: &'static str,
}

/// Error of a request line that is no operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The path is not one of the specification.
    #[error("not an endpoint of the distribution specification")]
    NotFound,
    /// The path does not support this method.
    #[error("method not allowed: must be one of {}", allowed.join(", "))]
    MethodNotAllowed {
        /// The supported methods, for the `Allow` header.
        allowed: &'static [&'static str],
    },
    /// The repository name is invalid.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// A digest in the path or the query is malformed, missing or of an unsupported algorithm.
    #[error(transparent)]
    InvalidDigest(#[from] InvalidDigest),
    /// The closing PUT of an upload lacks the digest.
    #[error("the query parameter digest is missing")]
    MissingDigest,
    /// The reference or a `tag` parameter is not a tag.
    #[error(transparent)]
    InvalidTag(#[from] InvalidTag),
    /// The tag of a history is none. Its response is no 404, which would say that there are no
    /// histories.
    #[error(transparent)]
    InvalidTagOfHistory(InvalidTag),
    /// A parameter has an invalid value.
    #[error("invalid query parameter {parameter}={value:?}: {reason}")]
    InvalidQuery {
        /// The parameter.
        parameter: &'static str,
        /// Its value, cut if it is long.
        value: String,
        /// What is allowed.
        reason: &'static str,
    },
    /// More tags than one manifest can be given at once.
    #[error("too many tags in one request: at most {max} are allowed")]
    TooManyTags {
        /// [`TAGS_PER_PUT_MAX`].
        max: usize,
    },
    /// The path or the query is too long.
    #[error("path or query too long: at most {max_bytes} bytes are allowed")]
    PathTooLong {
        /// [`PATH_BYTES_MAX`] or [`QUERY_BYTES_MAX`].
        max_bytes: usize,
    },
    /// A mirror of another registry cannot be pushed to.
    #[error("{prefix} is a mirror of {namespace}: push to that registry, or to another repository")]
    Mirrored {
        /// The prefix of its repositories.
        prefix: RepositoryName,
        /// What it mirrors.
        namespace: String,
    },
    /// No mirror has this namespace.
    #[error("there is no mirror of {namespace:?}")]
    UnknownNamespace {
        /// The value of `ns`, cut if it is long.
        namespace: String,
    },
    /// A part of the path or the query is not percent-encoded UTF-8 text.
    #[error(
        "invalid encoding in {part:?}: must be percent-encoded UTF-8 without control characters"
    )]
    BadEncoding {
        /// The part as it was sent, cut if it is long.
        part: String,
    },
}

impl From<InvalidReference> for RouteError {
    fn from(error: InvalidReference) -> Self {
        match error {
            InvalidReference::Tag(error) => Self::InvalidTag(error),
            InvalidReference::Digest(error) => Self::InvalidDigest(error),
        }
    }
}

const GET: &[&str] = &["GET"];
const HEAD: &[&str] = &["HEAD"];
const GET_OR_HEAD: &[&str] = &["GET", "HEAD"];

macro_rules! endpoint_info {
    ($($name:ident: $id:literal, $methods:expr, $template:expr;)*) => {
        $(const $name: EndpointInfo =
            EndpointInfo { id: $id, methods: $methods, template: $template };)*
        const ALL: &[EndpointInfo] = &[$($name),*];
    };
}

const BLOB: &str = "/v2/{name}/blobs/{digest}";
const UPLOADS: &str = "/v2/{name}/blobs/uploads/";
const UPLOAD: &str = "/v2/{name}/blobs/uploads/{id}";
const MANIFEST: &str = "/v2/{name}/manifests/{reference}";
const OCI_TAG_HISTORY_PATH: &str = "/v2/{name}/_oci/tag-history/{tag}";
const RESTORE: &str = "/v2/{name}/_jreg/deleted/{digest}/restore";

endpoint_info! {
    PING: "ping", GET_OR_HEAD, "/v2/";
    CATALOG: "catalog", GET_OR_HEAD, "/v2/_catalog";
    BLOB_GET: "blob_get", GET, BLOB;
    BLOB_HEAD: "blob_head", HEAD, BLOB;
    BLOB_DELETE: "blob_delete", &["DELETE"], BLOB;
    UPLOAD_START: "upload_start", &["POST"], UPLOADS;
    UPLOAD_STATUS: "upload_status", GET_OR_HEAD, UPLOAD;
    UPLOAD_PATCH: "upload_patch", &["PATCH"], UPLOAD;
    UPLOAD_PUT: "upload_put", &["PUT"], UPLOAD;
    UPLOAD_CANCEL: "upload_cancel", &["DELETE"], UPLOAD;
    MANIFEST_GET: "manifest_get", GET, MANIFEST;
    MANIFEST_HEAD: "manifest_head", HEAD, MANIFEST;
    MANIFEST_PUT: "manifest_put", &["PUT"], MANIFEST;
    MANIFEST_DELETE: "manifest_delete", &["DELETE"], MANIFEST;
    TAG_LIST: "tag_list", GET_OR_HEAD, "/v2/{name}/tags/list";
    REFERRERS: "referrers", GET_OR_HEAD, "/v2/{name}/referrers/{digest}";
    EXTENSIONS: "extensions", GET_OR_HEAD, "/v2/_oci/ext/discover";
    REPOSITORY_EXTENSIONS: "repository_extensions", GET_OR_HEAD, "/v2/{name}/_oci/ext/discover";
    OCI_TAG_HISTORY: "oci_tag_history", GET_OR_HEAD, OCI_TAG_HISTORY_PATH;
    TAG_HISTORY: "tag_history", GET_OR_HEAD, "/v2/{name}/_jreg/tags/{tag}/history";
    TAG_RESTORE: "tag_restore", &["POST"], "/v2/{name}/_jreg/tags/{tag}/restore";
    DELETED_MANIFESTS: "deleted_manifests", GET_OR_HEAD, "/v2/{name}/_jreg/deleted";
    MANIFEST_RESTORE: "manifest_restore", &["POST"], RESTORE;
    USAGE: "usage", GET_OR_HEAD, "/v2/_jreg/usage";
}

impl Endpoint {
    /// All operations.
    pub const ALL: &[EndpointInfo] = ALL;

    /// Reads a request line: the method, and the path and query as they were sent, still encoded.
    ///
    /// Unknown parameters are ignored (`ns` is one that proxies add).
    ///
    /// # Errors
    ///
    /// See [`RouteError`]. The path is checked before the method, the method before names and
    /// digests, those before the query.
    pub fn parse(method: &str, path: &str, query: Option<&str>) -> Result<Self, RouteError> {
        check_length(path, PATH_BYTES_MAX)?;
        let query = QueryParams(query.unwrap_or_default());
        check_length(query.0, QUERY_BYTES_MAX)?;
        Self::of_path(method, path, &query)
    }

    /// The same where other registries are mirrored: names become those of the local repositories.
    ///
    /// # Errors
    ///
    /// As [`Endpoint::parse`], then those of the namespace and of pushes to a mirror.
    pub fn parse_routed(
        method: &str,
        path: &str,
        query: Option<&str>,
        mirrors: &MirrorNames,
    ) -> Result<RoutedEndpoint, RouteError> {
        if mirrors.is_empty() && !mirrors.refuses_unknown() {
            let endpoint = Self::parse(method, path, query)?;
            return Ok(RoutedEndpoint { endpoint, route: None });
        }
        check_length(path, PATH_BYTES_MAX)?;
        let query = QueryParams(query.unwrap_or_default());
        check_length(query.0, QUERY_BYTES_MAX)?;
        let by_path = mirrors.split_path(path);
        let path = by_path.map_or(path, |(_, rest)| rest);
        let mut endpoint = Self::of_path(method, path, &query)?;
        let route = match by_path {
            Some((mirror, _)) => Some(mirror.path_route()),
            None if endpoint.name().is_some() => query.route(mirrors)?,
            None => None,
        };
        if let Some(name) = endpoint.name_mut() {
            let mirror = route.as_ref().and_then(|route| mirrors.by_namespace(&route.namespace));
            *name = match mirror {
                Some((_, mirror)) if !mirror.is_spelled_out(name) => mirror.local(name.as_str())?,
                _ => mirrors.canonical(name.clone())?,
            };
        }
        endpoint.check_mirrored(mirrors)?;
        Ok(RoutedEndpoint { endpoint, route })
    }

    /// Refuses what would write to a mirror. Deletes evict.
    fn check_mirrored(&self, mirrors: &MirrorNames) -> Result<(), RouteError> {
        let name = match self {
            Self::UploadStart { name, .. }
            | Self::UploadStatus { name, .. }
            | Self::UploadPatch { name, .. }
            | Self::UploadPut { name, .. }
            | Self::UploadCancel { name, .. }
            | Self::ManifestPut { name, .. }
            | Self::TagRestore { name, .. }
            | Self::ManifestRestore { name, .. } => name,
            _ => return Ok(()),
        };
        match mirrors.of_repository(name) {
            Some((_, mirror)) => Err(RouteError::Mirrored {
                prefix: mirror.prefix.clone(),
                namespace: mirror.namespace.clone(),
            }),
            None => Ok(()),
        }
    }

    fn of_path(method: &str, path: &str, query: &QueryParams<'_>) -> Result<Self, RouteError> {
        let segments = segments(path)?;
        let segments: Vec<&str> = segments.iter().map(Cow::as_ref).collect();
        let resource = PathResource::find(&segments).ok_or(RouteError::NotFound)?;
        resource.operation(method, query)
    }

    /// The row of [`Endpoint::ALL`] that describes this operation.
    pub fn info(&self) -> &'static EndpointInfo {
        match self {
            Self::Ping => &PING,
            Self::Catalog { .. } => &CATALOG,
            Self::BlobGet { .. } => &BLOB_GET,
            Self::BlobHead { .. } => &BLOB_HEAD,
            Self::BlobDelete { .. } => &BLOB_DELETE,
            Self::UploadStart { .. } => &UPLOAD_START,
            Self::UploadStatus { .. } => &UPLOAD_STATUS,
            Self::UploadPatch { .. } => &UPLOAD_PATCH,
            Self::UploadPut { .. } => &UPLOAD_PUT,
            Self::UploadCancel { .. } => &UPLOAD_CANCEL,
            Self::ManifestGet { .. } => &MANIFEST_GET,
            Self::ManifestHead { .. } => &MANIFEST_HEAD,
            Self::ManifestPut { .. } => &MANIFEST_PUT,
            Self::ManifestDelete { .. } => &MANIFEST_DELETE,
            Self::TagList { .. } => &TAG_LIST,
            Self::Referrers { .. } => &REFERRERS,
            Self::Extensions => &EXTENSIONS,
            Self::RepositoryExtensions { .. } => &REPOSITORY_EXTENSIONS,
            Self::OciTagHistory { .. } => &OCI_TAG_HISTORY,
            Self::TagHistory { .. } => &TAG_HISTORY,
            Self::TagRestore { .. } => &TAG_RESTORE,
            Self::DeletedManifests { .. } => &DELETED_MANIFESTS,
            Self::ManifestRestore { .. } => &MANIFEST_RESTORE,
            Self::Usage { .. } => &USAGE,
        }
    }

    /// A short name in snake case, for logs and metrics.
    pub fn id(&self) -> &'static str {
        self.info().id
    }

    /// The path with placeholders in braces.
    pub fn template(&self) -> &'static str {
        self.info().template
    }

    /// The repository, of every operation on one.
    pub fn name(&self) -> Option<&RepositoryName> {
        match self {
            Self::Ping | Self::Catalog { .. } | Self::Extensions | Self::Usage { .. } => None,
            Self::BlobGet { name, .. }
            | Self::BlobHead { name, .. }
            | Self::BlobDelete { name, .. }
            | Self::UploadStart { name, .. }
            | Self::UploadStatus { name, .. }
            | Self::UploadPatch { name, .. }
            | Self::UploadPut { name, .. }
            | Self::UploadCancel { name, .. }
            | Self::ManifestGet { name, .. }
            | Self::ManifestHead { name, .. }
            | Self::ManifestPut { name, .. }
            | Self::ManifestDelete { name, .. }
            | Self::TagList { name, .. }
            | Self::Referrers { name, .. }
            | Self::RepositoryExtensions { name }
            | Self::OciTagHistory { name, .. }
            | Self::TagHistory { name, .. }
            | Self::TagRestore { name, .. }
            | Self::DeletedManifests { name, .. }
            | Self::ManifestRestore { name, .. } => Some(name),
        }
    }

    fn name_mut(&mut self) -> Option<&mut RepositoryName> {
        match self {
            Self::Ping | Self::Catalog { .. } | Self::Extensions | Self::Usage { .. } => None,
            Self::BlobGet { name, .. }
            | Self::BlobHead { name, .. }
            | Self::BlobDelete { name, .. }
            | Self::UploadStart { name, .. }
            | Self::UploadStatus { name, .. }
            | Self::UploadPatch { name, .. }
            | Self::UploadPut { name, .. }
            | Self::UploadCancel { name, .. }
            | Self::ManifestGet { name, .. }
            | Self::ManifestHead { name, .. }
            | Self::ManifestPut { name, .. }
            | Self::ManifestDelete { name, .. }
            | Self::TagList { name, .. }
            | Self::Referrers { name, .. }
            | Self::RepositoryExtensions { name }
            | Self::OciTagHistory { name, .. }
            | Self::TagHistory { name, .. }
            | Self::TagRestore { name, .. }
            | Self::DeletedManifests { name, .. }
            | Self::ManifestRestore { name, .. } => Some(name),
        }
    }
}

fn check_length(part: &str, max_bytes: usize) -> Result<(), RouteError> {
    if part.len() > max_bytes { Err(RouteError::PathTooLong { max_bytes }) } else { Ok(()) }
}

fn bad_encoding(part: &str) -> RouteError {
    RouteError::BadEncoding { part: excerpt(part) }
}

/// The decoded segments after `/v2/`.
fn segments(path: &str) -> Result<Vec<Cow<'_, str>>, RouteError> {
    let rest = match path.strip_prefix("/v2") {
        Some("") => "",
        Some(rest) => rest.strip_prefix('/').ok_or(RouteError::NotFound)?,
        None => return Err(RouteError::NotFound),
    };
    let mut segments = Vec::new();
    for raw in rest.split('/') {
        match decode(raw).ok_or_else(|| bad_encoding(raw))? {
            Cow::Owned(decoded) if decoded.contains('/') => {
                segments.extend(decoded.split('/').map(|part| Cow::Owned(part.to_owned())));
            }
            segment => segments.push(segment),
        }
    }
    Ok(segments)
}

/// The resource of a path; names and digests are not validated yet.
enum PathResource<'a> {
    Base,
    Catalog,
    Uploads { name: &'a [&'a str] },
    Upload { name: &'a [&'a str], id: &'a str },
    Blob { name: &'a [&'a str], digest: &'a str },
    Manifest { name: &'a [&'a str], reference: &'a str },
    Tags { name: &'a [&'a str] },
    Referrers { name: &'a [&'a str], subject: &'a str },
    Extensions,
    RepositoryExtensions { name: &'a [&'a str] },
    OciTagHistory { name: &'a [&'a str], tag: &'a str },
    TagHistory { name: &'a [&'a str], tag: &'a str },
    TagRestore { name: &'a [&'a str], tag: &'a str },
    DeletedManifests { name: &'a [&'a str] },
    ManifestRestore { name: &'a [&'a str], digest: &'a str },
    Usage,
}

impl<'a> PathResource<'a> {
    fn find(segments: &'a [&'a str]) -> Option<Self> {
        Self::find_extension(segments).or_else(|| Self::find_content(segments))
    }

    /// Paths with a component that begins with an underscore, which no repository name has: so these
    /// are the resources of no other repository.
    fn find_extension(segments: &'a [&'a str]) -> Option<Self> {
        match segments {
            ["_oci", "ext", "discover"] => Some(Self::Extensions),
            ["_jreg", "usage"] => Some(Self::Usage),
            [_, .., "_oci", "ext", "discover"] => {
                Some(Self::RepositoryExtensions { name: head(segments, 3) })
            }
            [.., ""] => None,
            [_, .., "_oci", "tag-history", tag] => {
                Some(Self::OciTagHistory { name: head(segments, 3), tag })
            }
            [_, .., "_jreg", "tags", tag, "history"] => {
                Some(Self::TagHistory { name: head(segments, 4), tag })
            }
            [_, .., "_jreg", "tags", tag, "restore"] => {
                Some(Self::TagRestore { name: head(segments, 4), tag })
            }
            [_, .., "_jreg", "deleted"] => Some(Self::DeletedManifests { name: head(segments, 2) }),
            [_, .., "_jreg", "deleted", digest, "restore"] => {
                Some(Self::ManifestRestore { name: head(segments, 4), digest })
            }
            _ => None,
        }
    }

    fn find_content(segments: &'a [&'a str]) -> Option<Self> {
        match segments {
            [""] => Some(Self::Base),
            ["_catalog"] => Some(Self::Catalog),
            // Some clients omit the trailing slash.
            [_, .., "blobs", "uploads"] => Some(Self::Uploads { name: head(segments, 2) }),
            [_, .., "blobs", "uploads", ""] => Some(Self::Uploads { name: head(segments, 3) }),
            [.., ""] => None,
            [_, .., "blobs", "uploads", id] => Some(Self::Upload { name: head(segments, 3), id }),
            [_, .., "tags", "list"] => Some(Self::Tags { name: head(segments, 2) }),
            [_, .., "blobs", digest] => Some(Self::Blob { name: head(segments, 2), digest }),
            [_, .., "manifests", reference] => {
                Some(Self::Manifest { name: head(segments, 2), reference })
            }
            [_, .., "referrers", subject] => {
                Some(Self::Referrers { name: head(segments, 2), subject })
            }
            _ => None,
        }
    }

    fn operation(&self, method: &str, query: &QueryParams<'_>) -> Result<Endpoint, RouteError> {
        match *self {
            Self::Base => base(method),
            Self::Catalog => catalog(method, query),
            Self::Uploads { name } => uploads(method, name, query),
            Self::Upload { name, id } => upload(method, name, id, query),
            Self::Blob { name, digest } => blob(method, name, digest),
            Self::Manifest { name, reference } => manifest(method, name, reference, query),
            Self::Tags { name } => tags(method, name, query),
            Self::Referrers { name, subject } => referrers(method, name, subject, query),
            Self::Extensions => extensions(method),
            Self::RepositoryExtensions { name } => repository_extensions(method, name),
            Self::OciTagHistory { name, tag } => oci_tag_history(method, name, tag, query),
            Self::TagHistory { name, tag } => tag_history(method, name, tag, query),
            Self::TagRestore { name, tag } => tag_restore(method, name, tag),
            Self::DeletedManifests { name } => deleted_manifests(method, name, query),
            Self::ManifestRestore { name, digest } => manifest_restore(method, name, digest),
            Self::Usage => usage(method, query),
        }
    }
}

fn head<'a>(segments: &'a [&'a str], tail_len: usize) -> &'a [&'a str] {
    &segments[..segments.len() - tail_len]
}

fn repository(name: &[&str]) -> Result<RepositoryName, RouteError> {
    Ok(name.join("/").parse()?)
}

fn allow(method: &str, allowed: &'static [&'static str]) -> Result<(), RouteError> {
    if allowed.contains(&method) { Ok(()) } else { Err(RouteError::MethodNotAllowed { allowed }) }
}

fn base(method: &str) -> Result<Endpoint, RouteError> {
    allow(method, PING.methods)?;
    Ok(Endpoint::Ping)
}

fn catalog(method: &str, query: &QueryParams<'_>) -> Result<Endpoint, RouteError> {
    allow(method, CATALOG.methods)?;
    Ok(Endpoint::Catalog { page: query.page()? })
}

fn usage(method: &str, query: &QueryParams<'_>) -> Result<Endpoint, RouteError> {
    allow(method, USAGE.methods)?;
    Ok(Endpoint::Usage { page: query.page()? })
}

fn blob(method: &str, name: &[&str], digest: &str) -> Result<Endpoint, RouteError> {
    let parts = || Ok::<_, RouteError>((repository(name)?, digest.parse()?));
    match method {
        "GET" => parts().map(|(name, digest)| Endpoint::BlobGet { name, digest }),
        "HEAD" => parts().map(|(name, digest)| Endpoint::BlobHead { name, digest }),
        "DELETE" => parts().map(|(name, digest)| Endpoint::BlobDelete { name, digest }),
        _ => Err(RouteError::MethodNotAllowed { allowed: &["GET", "HEAD", "DELETE"] }),
    }
}

fn uploads(method: &str, name: &[&str], query: &QueryParams<'_>) -> Result<Endpoint, RouteError> {
    allow(method, UPLOAD_START.methods)?;
    Ok(Endpoint::UploadStart {
        name: repository(name)?,
        // Not an empty one: a body may follow, which would be discarded.
        digest: query.get("digest")?.map(|digest| digest.parse()).transpose()?,
        algorithm: query.parse_nonempty("digest-algorithm")?,
        mount: query.parse_nonempty("mount")?,
        from: query.mount_source(),
    })
}

fn upload(
    method: &str,
    name: &[&str],
    id: &str,
    query: &QueryParams<'_>,
) -> Result<Endpoint, RouteError> {
    let parts = || Ok::<_, RouteError>((repository(name)?, id.to_owned()));
    match method {
        "GET" | "HEAD" => parts().map(|(name, id)| Endpoint::UploadStatus { name, id }),
        "PATCH" => parts().map(|(name, id)| Endpoint::UploadPatch { name, id }),
        "DELETE" => parts().map(|(name, id)| Endpoint::UploadCancel { name, id }),
        "PUT" => {
            let (name, id) = parts()?;
            let digest = query.get("digest")?.ok_or(RouteError::MissingDigest)?.parse()?;
            Ok(Endpoint::UploadPut { name, id, digest })
        }
        _ => {
            let allowed = &["GET", "HEAD", "PATCH", "PUT", "DELETE"];
            Err(RouteError::MethodNotAllowed { allowed })
        }
    }
}

fn manifest(
    method: &str,
    name: &[&str],
    reference: &str,
    query: &QueryParams<'_>,
) -> Result<Endpoint, RouteError> {
    let parts = || Ok::<_, RouteError>((repository(name)?, reference.parse::<Reference>()?));
    match method {
        "GET" => parts().map(|(name, reference)| Endpoint::ManifestGet { name, reference }),
        "HEAD" => parts().map(|(name, reference)| Endpoint::ManifestHead { name, reference }),
        "DELETE" => parts().map(|(name, reference)| Endpoint::ManifestDelete { name, reference }),
        "PUT" => {
            let (name, reference) = parts()?;
            Ok(Endpoint::ManifestPut { name, reference, tags: query.tags()? })
        }
        _ => Err(RouteError::MethodNotAllowed { allowed: &["GET", "HEAD", "PUT", "DELETE"] }),
    }
}

fn tags(method: &str, name: &[&str], query: &QueryParams<'_>) -> Result<Endpoint, RouteError> {
    allow(method, TAG_LIST.methods)?;
    Ok(Endpoint::TagList { name: repository(name)?, page: query.page()? })
}

fn referrers(
    method: &str,
    name: &[&str],
    subject: &str,
    query: &QueryParams<'_>,
) -> Result<Endpoint, RouteError> {
    allow(method, REFERRERS.methods)?;
    Ok(Endpoint::Referrers {
        name: repository(name)?,
        subject: subject.parse()?,
        artifact_type: query.nonempty("artifactType")?.map(Cow::into_owned),
        page: query.page()?,
    })
}

fn extensions(method: &str) -> Result<Endpoint, RouteError> {
    allow(method, EXTENSIONS.methods)?;
    Ok(Endpoint::Extensions)
}

fn repository_extensions(method: &str, name: &[&str]) -> Result<Endpoint, RouteError> {
    allow(method, REPOSITORY_EXTENSIONS.methods)?;
    Ok(Endpoint::RepositoryExtensions { name: repository(name)? })
}

fn oci_tag_history(
    method: &str,
    name: &[&str],
    tag: &str,
    query: &QueryParams<'_>,
) -> Result<Endpoint, RouteError> {
    allow(method, OCI_TAG_HISTORY.methods)?;
    let (name, tag) = (repository(name)?, tag_of_history(tag)?);
    Ok(Endpoint::OciTagHistory { name, tag, query: query.tag_history()? })
}

fn tag_history(
    method: &str,
    name: &[&str],
    tag: &str,
    query: &QueryParams<'_>,
) -> Result<Endpoint, RouteError> {
    allow(method, TAG_HISTORY.methods)?;
    let (name, tag) = (repository(name)?, tag_of_history(tag)?);
    Ok(Endpoint::TagHistory { name, tag, page: query.page()? })
}

fn tag_of_history(tag: &str) -> Result<Tag, RouteError> {
    tag.parse().map_err(RouteError::InvalidTagOfHistory)
}

fn tag_restore(method: &str, name: &[&str], tag: &str) -> Result<Endpoint, RouteError> {
    allow(method, TAG_RESTORE.methods)?;
    Ok(Endpoint::TagRestore { name: repository(name)?, tag: tag.parse()? })
}

fn deleted_manifests(
    method: &str,
    name: &[&str],
    query: &QueryParams<'_>,
) -> Result<Endpoint, RouteError> {
    allow(method, DELETED_MANIFESTS.methods)?;
    Ok(Endpoint::DeletedManifests { name: repository(name)?, page: query.page()? })
}

fn manifest_restore(method: &str, name: &[&str], digest: &str) -> Result<Endpoint, RouteError> {
    allow(method, MANIFEST_RESTORE.methods)?;
    Ok(Endpoint::ManifestRestore { name: repository(name)?, digest: digest.parse()? })
}

/// The raw query string.
struct QueryParams<'a>(&'a str);

impl<'a> QueryParams<'a> {
    /// The raw values of a parameter; one without `=` is empty.
    fn raw_values(&self, parameter: &'static str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs
            .filter(move |(key, _)| decode(key).is_some_and(|key| key == parameter))
            .map(|(_, v)| v)
    }

    /// The value of a parameter that has one. A value may be repeated; two that differ are ambiguous:
    /// a proxy may use the other one.
    fn get(&self, parameter: &'static str) -> Result<Option<Cow<'a, str>>, RouteError> {
        let mut value: Option<Cow<'a, str>> = None;
        for raw in self.raw_values(parameter) {
            let next = decode(raw).ok_or_else(|| bad_encoding(raw))?;
            if value.as_ref().is_some_and(|value| *value != next) {
                let reason = "must not be given twice with different values";
                return Err(RouteError::InvalidQuery { parameter, value: excerpt(&next), reason });
            }
            value = Some(next);
        }
        Ok(value)
    }

    fn nonempty(&self, parameter: &'static str) -> Result<Option<Cow<'a, str>>, RouteError> {
        Ok(self.get(parameter)?.filter(|value| !value.is_empty()))
    }

    fn parse_nonempty<T>(&self, parameter: &'static str) -> Result<Option<T>, RouteError>
    where
        T: std::str::FromStr,
        RouteError: From<T::Err>,
    {
        Ok(self.nonempty(parameter)?.map(|value| value.parse()).transpose()?)
    }

    /// The mirror that `ns` names, if it names one.
    fn route(&self, mirrors: &MirrorNames) -> Result<Option<MirrorRoute>, RouteError> {
        let Some(namespace) = self.nonempty("ns")? else { return Ok(None) };
        match mirrors.by_namespace(&namespace) {
            Some((_, mirror)) => Ok(Some(MirrorRoute {
                by: NamedBy::Namespace,
                namespace: namespace.into_owned(),
                prefix: mirror.prefix.clone(),
            })),
            None if mirrors.refuses_unknown() => {
                Err(RouteError::UnknownNamespace { namespace: excerpt(&namespace) })
            }
            None => Ok(None),
        }
    }

    fn page(&self) -> Result<PageParams, RouteError> {
        let last = self.nonempty("last")?.map(Cow::into_owned);
        Ok(PageParams { n: self.page_size()?, last })
    }

    fn page_size(&self) -> Result<Option<usize>, RouteError> {
        let Some(n) = self.nonempty("n")? else { return Ok(None) };
        if !n.bytes().all(|b| b.is_ascii_digit()) {
            let reason = "must be a number of entries, 0 or more";
            return Err(RouteError::InvalidQuery { parameter: "n", value: excerpt(&n), reason });
        }
        // Only digits: a number that does not fit is larger than any page.
        Ok(Some(n.parse().unwrap_or(usize::MAX)))
    }

    fn tag_history(&self) -> Result<TagHistoryQuery, RouteError> {
        Ok(TagHistoryQuery {
            n: self.page_size()?,
            before: self.nonempty("before")?.map(Cow::into_owned),
            since: self.nonempty("since")?.map(Cow::into_owned),
            digest: self.parse_nonempty("digest")?,
        })
    }

    /// An invalid name, invalid text, or two different values are no source to mount from: the client
    /// uploads the blob then, so it is not an error.
    fn mount_source(&self) -> MountSource {
        match self.nonempty("from") {
            Ok(None) => MountSource::Any,
            Ok(Some(name)) => name.parse().map_or(MountSource::Unknown, MountSource::Repository),
            Err(_) => MountSource::Unknown,
        }
    }

    fn tags(&self) -> Result<Vec<Tag>, RouteError> {
        let mut tags = Vec::new();
        for (index, raw) in self.raw_values("tag").enumerate() {
            if index == TAGS_PER_PUT_MAX {
                return Err(RouteError::TooManyTags { max: TAGS_PER_PUT_MAX });
            }
            let tag = decode(raw).ok_or_else(|| bad_encoding(raw))?.parse()?;
            if !tags.contains(&tag) {
                tags.push(tag);
            }
        }
        Ok(tags)
    }
}
