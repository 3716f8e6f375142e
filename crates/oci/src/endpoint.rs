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
    Algorithm, Digest, InvalidDigest, InvalidName, InvalidReference, InvalidTag, Reference,
    RepositoryName, Tag,
};

/// The longest path, in bytes: the longest name and digest, every byte percent-encoded, and room.
pub const PATH_BYTES_MAX: usize = 2 * 1024;
/// The longest query, in bytes: room for [`TAGS_PER_PUT_MAX`] tags of full length.
pub const QUERY_BYTES_MAX: usize = 16 * 1024;
/// The most `tag` parameters of one manifest PUT.
pub const TAGS_PER_PUT_MAX: usize = 64;

/// An operation of the specification on what it names, ready to be authorised and performed.
///
/// HEAD on a list, on the base and on an upload is the same operation as GET: the answer only
/// loses its body.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// Is this a registry, and am I let in? (end-1)
    Ping,
    /// List the repositories (not in the specification, but everywhere).
    Catalog {
        /// Which part of the list.
        page: Page,
    },
    /// Read a blob (end-2).
    BlobGet {
        /// The repository.
        name: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// Ask whether a blob exists (end-2).
    BlobHead {
        /// The repository.
        name: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// Delete a blob (end-10).
    BlobDelete {
        /// The repository.
        name: RepositoryName,
        /// The blob.
        digest: Digest,
    },
    /// Start an upload (end-4a, end-4c), push a blob whole (end-4b) or mount one (end-11).
    UploadStart {
        /// The repository.
        name: RepositoryName,
        /// The digest of the body, which is the whole blob.
        digest: Option<Digest>,
        /// The algorithm the closing digest will use.
        algorithm: Option<Algorithm>,
        /// The blob to mount instead of uploading it.
        mount: Option<Digest>,
        /// Where to mount it from; meaningless without `mount`.
        from: MountSource,
    },
    /// How far is an upload? (end-13)
    UploadStatus {
        /// The repository.
        name: RepositoryName,
        /// The session, not validated.
        id: String,
    },
    /// Append to an upload (end-5).
    UploadPatch {
        /// The repository.
        name: RepositoryName,
        /// The session, not validated.
        id: String,
    },
    /// Close an upload (end-6).
    UploadPut {
        /// The repository.
        name: RepositoryName,
        /// The session, not validated.
        id: String,
        /// The digest of the whole blob.
        digest: Digest,
    },
    /// Cancel an upload (end-14).
    UploadCancel {
        /// The repository.
        name: RepositoryName,
        /// The session, not validated.
        id: String,
    },
    /// Read a manifest (end-3).
    ManifestGet {
        /// The repository.
        name: RepositoryName,
        /// The manifest.
        reference: Reference,
    },
    /// Ask whether a manifest exists (end-3).
    ManifestHead {
        /// The repository.
        name: RepositoryName,
        /// The manifest.
        reference: Reference,
    },
    /// Push a manifest (end-7a, end-7b).
    ManifestPut {
        /// The repository.
        name: RepositoryName,
        /// The tag it gets, or its digest.
        reference: Reference,
        /// Tags it gets besides: at most [`TAGS_PER_PUT_MAX`], each once, in the order given.
        tags: Vec<Tag>,
    },
    /// Delete a manifest or a tag (end-9).
    ManifestDelete {
        /// The repository.
        name: RepositoryName,
        /// The tag, or the manifest.
        reference: Reference,
    },
    /// List the tags of a repository (end-8a, end-8b).
    TagList {
        /// The repository.
        name: RepositoryName,
        /// Which part of the list.
        page: Page,
    },
    /// List what refers to a manifest (end-12a, end-12b).
    Referrers {
        /// The repository.
        name: RepositoryName,
        /// The manifest referred to.
        subject: Digest,
        /// List only artifacts of this type.
        artifact_type: Option<String>,
        /// Which part of the list.
        page: Page,
    },
}

/// Which part of a list is wanted.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Page {
    /// At most this many entries; any number, 0 included, the caller clamps it.
    pub n: Option<usize>,
    /// Only entries after this one, which need not exist; never empty.
    pub last: Option<String>,
}

/// Where a blob is to be mounted from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum MountSource {
    /// From wherever it can be found: no `from` was given.
    Any,
    /// From this repository.
    Repository(RepositoryName),
    /// From what cannot be a repository: the mount fails as from one that does not exist.
    Unknown,
}

/// One row of [`Endpoint::ALL`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct EndpointInfo {
    /// A short name in snake case, for logs and metrics.
    pub id: &'static str,
    /// The methods that lead to it.
    pub methods: &'static [&'static str],
    /// The path with placeholders in braces.
    pub template: &'static str,
}

/// Why a request line is not an operation.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RouteError {
    /// The path is not one of the specification.
    #[error("not an endpoint of the distribution specification")]
    NotFound,
    /// The path is, but not with this method.
    #[error("method not allowed: must be one of {}", allowed.join(", "))]
    MethodNotAllowed {
        /// The methods that are, for the `Allow` header.
        allowed: &'static [&'static str],
    },
    /// The repository name is invalid.
    #[error(transparent)]
    InvalidName(#[from] InvalidName),
    /// A digest in the path or the query is malformed, missing or of an unsupported algorithm.
    #[error(transparent)]
    InvalidDigest(#[from] InvalidDigest),
    /// An upload is closed without saying what it is.
    #[error("the query parameter digest is missing")]
    MissingDigest,
    /// The reference or a `tag` parameter is not a tag.
    #[error(transparent)]
    InvalidTag(#[from] InvalidTag),
    /// A parameter is not what it must be.
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
    /// The path or the query is too long to be of use.
    #[error("path or query too long: at most {max_bytes} bytes are allowed")]
    PathTooLong {
        /// [`PATH_BYTES_MAX`] or [`QUERY_BYTES_MAX`].
        max_bytes: usize,
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
}

impl Endpoint {
    /// Every operation there is.
    pub const ALL: &[EndpointInfo] = ALL;

    /// Reads a request line: the method, and the path and query as they were sent, still encoded.
    ///
    /// Parameters that the operation does not know are ignored (`ns` is one that proxies add).
    ///
    /// # Errors
    ///
    /// See [`RouteError`]. The path is looked at before the method, the method before names and
    /// digests, those before the query.
    pub fn parse(method: &str, path: &str, query: Option<&str>) -> Result<Self, RouteError> {
        check_length(path, PATH_BYTES_MAX)?;
        let query = Query(query.unwrap_or_default());
        check_length(query.0, QUERY_BYTES_MAX)?;
        let segments = segments(path)?;
        let segments: Vec<&str> = segments.iter().map(Cow::as_ref).collect();
        let resource = Resource::find(&segments).ok_or(RouteError::NotFound)?;
        resource.operation(method, &query)
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
            Self::Ping | Self::Catalog { .. } => None,
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
            | Self::Referrers { name, .. } => Some(name),
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

/// What a path names; names and digests are not checked yet.
enum Resource<'a> {
    Base,
    Catalog,
    Uploads { name: &'a [&'a str] },
    Upload { name: &'a [&'a str], id: &'a str },
    Blob { name: &'a [&'a str], digest: &'a str },
    Manifest { name: &'a [&'a str], reference: &'a str },
    Tags { name: &'a [&'a str] },
    Referrers { name: &'a [&'a str], subject: &'a str },
}

impl<'a> Resource<'a> {
    fn find(segments: &'a [&'a str]) -> Option<Self> {
        match segments {
            [""] => Some(Self::Base),
            ["_catalog"] => Some(Self::Catalog),
            // Some clients leave out the trailing slash.
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

    fn operation(&self, method: &str, query: &Query<'_>) -> Result<Endpoint, RouteError> {
        match *self {
            Self::Base => base(method),
            Self::Catalog => catalog(method, query),
            Self::Uploads { name } => uploads(method, name, query),
            Self::Upload { name, id } => upload(method, name, id, query),
            Self::Blob { name, digest } => blob(method, name, digest),
            Self::Manifest { name, reference } => manifest(method, name, reference, query),
            Self::Tags { name } => tags(method, name, query),
            Self::Referrers { name, subject } => referrers(method, name, subject, query),
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

fn catalog(method: &str, query: &Query<'_>) -> Result<Endpoint, RouteError> {
    allow(method, CATALOG.methods)?;
    Ok(Endpoint::Catalog { page: query.page()? })
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

fn uploads(method: &str, name: &[&str], query: &Query<'_>) -> Result<Endpoint, RouteError> {
    allow(method, UPLOAD_START.methods)?;
    Ok(Endpoint::UploadStart {
        name: repository(name)?,
        // Not one that is empty: a body may follow, which would be thrown away.
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
    query: &Query<'_>,
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
    query: &Query<'_>,
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

fn tags(method: &str, name: &[&str], query: &Query<'_>) -> Result<Endpoint, RouteError> {
    allow(method, TAG_LIST.methods)?;
    Ok(Endpoint::TagList { name: repository(name)?, page: query.page()? })
}

fn referrers(
    method: &str,
    name: &[&str],
    subject: &str,
    query: &Query<'_>,
) -> Result<Endpoint, RouteError> {
    allow(method, REFERRERS.methods)?;
    Ok(Endpoint::Referrers {
        name: repository(name)?,
        subject: subject.parse()?,
        artifact_type: query.nonempty("artifactType")?.map(Cow::into_owned),
        page: query.page()?,
    })
}

/// The raw query string.
struct Query<'a>(&'a str);

impl<'a> Query<'a> {
    /// The raw values of a parameter; one without `=` is empty.
    fn raw_values(&self, parameter: &'static str) -> impl Iterator<Item = &'a str> {
        let pairs = self.0.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        pairs
            .filter(move |(key, _)| decode(key).is_some_and(|key| key == parameter))
            .map(|(_, v)| v)
    }

    /// The value of a parameter that has one. A value may be repeated; two that differ are ambiguous:
    /// another program on the way may look at the other one.
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

    fn page(&self) -> Result<Page, RouteError> {
        let last = self.nonempty("last")?.map(Cow::into_owned);
        let Some(n) = self.nonempty("n")? else { return Ok(Page { n: None, last }) };
        if !n.bytes().all(|b| b.is_ascii_digit()) {
            let reason = "must be a number of entries, 0 or more";
            return Err(RouteError::InvalidQuery { parameter: "n", value: excerpt(&n), reason });
        }
        // Only digits: what does not fit is merely larger than any page.
        Ok(Page { n: Some(n.parse().unwrap_or(usize::MAX)), last })
    }

    /// What is no name, not even text, or given twice with different values, names nothing to mount from: the client is
    /// to upload then, so it is not an error.
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
