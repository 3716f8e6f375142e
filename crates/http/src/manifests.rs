//! Manifests: pull, push, delete (end-3, end-7, end-9).

use http::{HeaderValue, StatusCode, header};
use jreg_mirror::{MirroredManifest, RequestedMethod};
use jreg_net::server::{Body, Response};
use jreg_oci::{Digest, ErrorCode, MediaType, Reference, RepositoryName, Tag};
use jreg_registry::{BodyError, Error, ManifestPush, MemoryBudget, StoredManifest};

use crate::call::ApiCall;
use crate::error::ApiError;
use crate::outcome::AuditOutcome;
use crate::pulls::PullExceptions;
use crate::{conditional, headers};

/// Responds with the stored bytes and media type. `Accept` is ignored: an existing manifest is
/// never 404 because the client did not list its type.
pub(crate) async fn get(
    call: ApiCall,
    exceptions: &PullExceptions,
    reference: &Reference,
) -> Result<Response, ApiError> {
    if let Some(mirror) = call.access.mirrored()? {
        let mirrored = mirror.manifest(reference, RequestedMethod::Get).await?;
        record_mirrored_pull(&call, exceptions, &mirrored);
        return Ok(found_mirrored(&call, reference, &mirrored));
    }
    let manifest = call.access.manifest_get(reference).await?;
    record_pull(&call, exceptions, reference, &manifest);
    let body = Body::from(manifest.bytes.clone());
    Ok(found(&call, reference, &ManifestFacts::of(&manifest), body))
}

pub(crate) async fn head(
    call: ApiCall,
    exceptions: &PullExceptions,
    reference: &Reference,
) -> Result<Response, ApiError> {
    if let Some(mirror) = call.access.mirrored()? {
        let mirrored = mirror.manifest(reference, RequestedMethod::Head).await?;
        if let Reference::Tag(_) = reference {
            record_mirrored_pull(&call, exceptions, &mirrored);
        }
        let mirrored = MirroredManifest { manifest: None, ..mirrored };
        return Ok(found_mirrored(&call, reference, &mirrored));
    }
    let manifest = call.access.manifest_stat(reference).await?;
    if let Reference::Tag(_) = reference {
        record_pull(&call, exceptions, reference, &manifest);
    }
    Ok(found(&call, reference, &ManifestFacts::of(&manifest), Body::empty()))
}

/// A GET or HEAD of a tag, and a GET of a digest, are pulls, unless the client is excepted.
fn record_pull(
    call: &ApiCall,
    exceptions: &PullExceptions,
    reference: &Reference,
    found: &StoredManifest,
) {
    if !exceptions.excepts(call.access.identity(), &call.headers) {
        call.access.record_pull(reference, found);
    }
}

/// The same of a mirror, whose tags are no tags of the registry: only the manifest was pulled.
fn record_mirrored_pull(call: &ApiCall, exceptions: &PullExceptions, found: &MirroredManifest) {
    if let Some(manifest) = &found.manifest {
        let reference = Reference::Digest(manifest.digest.clone());
        record_pull(call, exceptions, &reference, manifest);
    }
}

/// What the headers say of a manifest.
struct ManifestFacts<'a> {
    digest: &'a Digest,
    media_type: &'a MediaType,
    size_bytes: u64,
}

impl<'a> ManifestFacts<'a> {
    fn of(manifest: &'a StoredManifest) -> Self {
        let StoredManifest { digest, media_type, bytes, .. } = manifest;
        Self { digest, media_type, size_bytes: bytes.len() as u64 }
    }
}

fn found_mirrored(call: &ApiCall, reference: &Reference, mirrored: &MirroredManifest) -> Response {
    let MirroredManifest { digest, media_type, size_bytes, manifest, warning } = mirrored;
    let facts = ManifestFacts { digest, media_type, size_bytes: *size_bytes };
    let body =
        manifest.as_ref().map_or_else(Body::empty, |stored| Body::from(stored.bytes.clone()));
    let mut response = found(call, reference, &facts, body);
    if let Some(warning) = warning {
        response.headers_mut().append(header::WARNING, headers::stale_warning(warning));
    }
    response
}

fn found(
    call: &ApiCall,
    reference: &Reference,
    manifest: &ManifestFacts<'_>,
    body: Body,
) -> Response {
    let mut response = if conditional::is_known(&call.headers, manifest.digest) {
        headers::empty(StatusCode::NOT_MODIFIED)
    } else {
        let mut response = Response::new(body);
        let content_type = headers::value(manifest.media_type.as_str());
        response.headers_mut().insert(header::CONTENT_TYPE, content_type);
        response.headers_mut().insert(header::CONTENT_LENGTH, manifest.size_bytes.into());
        response
    };
    let map = response.headers_mut();
    map.insert(headers::DIGEST, headers::digest(manifest.digest));
    map.insert(header::ETAG, headers::etag(manifest.digest));
    map.insert(header::CACHE_CONTROL, cache_control(reference));
    map.insert(header::CONTENT_DISPOSITION, headers::ATTACHMENT);
    response
}

fn cache_control(reference: &Reference) -> HeaderValue {
    match reference {
        Reference::Tag(_) => headers::REVALIDATE,
        Reference::Digest(_) => headers::IMMUTABLE,
    }
}

/// Where the bodies of manifests are received.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ManifestBuffer<'a> {
    /// Maximum size of a manifest.
    pub(crate) bytes_max: u64,
    /// The budget that they share.
    pub(crate) budget: &'a MemoryBudget,
}

pub(crate) async fn put(
    call: ApiCall,
    buffer: ManifestBuffer<'_>,
    name: &RepositoryName,
    reference: Reference,
    tags: Vec<Tag>,
) -> Result<Response, ApiError> {
    let condition = conditional::condition(&call.headers)?;
    let media_type = media_type(&call)?;
    // The reservation is held until the manifest is stored: it is in memory until then.
    let collected = call.body.collect(buffer.bytes_max, buffer.budget).await;
    let (bytes, _room) = collected.map_err(|error| match error {
        Error::Body(BodyError::TooLarge { max_bytes }) => Error::ManifestTooLarge { max_bytes },
        error => error,
    })?;
    let push = ManifestPush { reference, tags, media_type, bytes, condition };
    let pushed = call.access.manifest_put(push).await?;
    let mut response = headers::empty(StatusCode::CREATED);
    let map = response.headers_mut();
    // By digest, even if a tag was pushed: some clients read the digest of a push from it.
    let location = format!("{}/v2/{name}/manifests/{}", call.base_url, pushed.digest);
    map.insert(header::LOCATION, headers::value(&location));
    map.insert(headers::DIGEST, headers::digest(&pushed.digest));
    map.insert(header::ETAG, headers::etag(&pushed.digest));
    if let Some(subject) = &pushed.subject {
        map.insert(headers::SUBJECT, headers::digest(subject));
    }
    for tag in &pushed.tags {
        map.append(headers::TAG, headers::value(tag.as_str()));
    }
    for refused in &pushed.refused {
        map.append(header::WARNING, headers::warning(&refused.to_string()));
    }
    for usage in &pushed.nearly_used {
        map.append(header::WARNING, headers::warning(&usage.to_string()));
    }
    if !pushed.transitions.is_empty() {
        response.extensions_mut().insert(AuditOutcome::TagsChanged(pushed.transitions));
    }
    Ok(response)
}

/// The Content-Type without parameters, which some clients add.
fn media_type(call: &ApiCall) -> Result<Option<MediaType>, ApiError> {
    let Some(value) = call.headers.get(header::CONTENT_TYPE) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let media_type = MediaType::from_content_type(&text);
    media_type
        .map(Some)
        .map_err(|error| ApiError::bad_request(ErrorCode::ManifestInvalid, error.to_string()))
}

pub(crate) async fn delete(call: ApiCall, reference: &Reference) -> Result<Response, ApiError> {
    let condition = conditional::condition(&call.headers)?;
    let mut tags = Vec::new();
    let deleted = call.access.manifest_delete(reference, condition, &mut tags).await;
    let outcome = (!tags.is_empty()).then_some(AuditOutcome::TagsChanged(tags));
    match deleted {
        Ok(()) => {
            let mut response = headers::empty(StatusCode::ACCEPTED);
            if let Some(outcome) = outcome {
                response.extensions_mut().insert(outcome);
            }
            Ok(response)
        }
        Err(error) => Err(ApiError::from(error).with_outcome(outcome)),
    }
}
