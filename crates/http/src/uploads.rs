//! Uploads: start, append, finish, status, cancel; and mounting (end-4 to end-6, end-11, end-13,
//! end-14).

use http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header};
use jreg_net::server::Response;
use jreg_oci::{Algorithm, ContentRange, Digest, ErrorCode, MountSource, RepositoryName};
use jreg_registry::{Blob, UploadChunk, UploadId};

use crate::body::ClientBody;
use crate::call::ApiCall;
use crate::error::ApiError;
use crate::headers;
use crate::options::CHUNK_BYTES_MIN;
use crate::outcome::AuditOutcome;

pub(crate) struct UploadStart {
    pub(crate) name: RepositoryName,
    pub(crate) digest: Option<Digest>,
    pub(crate) algorithm: Option<Algorithm>,
    pub(crate) mount: Option<Digest>,
    pub(crate) from: MountSource,
}

/// Mounts the blob, stores the body as the blob, or starts an upload: a mount that finds no source
/// becomes an upload, never an error.
pub(crate) async fn start(call: ApiCall, start: UploadStart) -> Result<Response, ApiError> {
    let UploadStart { name, digest, algorithm, mount, from } = start;
    if let Some(digest) = &mount
        && let Some((blob, source)) = call.access.blob_mount(digest, &from).await?
    {
        let mut response = created(&call.base_url, &name, &blob);
        response.extensions_mut().insert(AuditOutcome::Mounted(source));
        return Ok(response);
    }
    if let Some(digest) = &digest {
        let chunk = chunk(&call.headers, call.body)?;
        let blob = call.access.blob_push(digest, chunk).await?;
        return Ok(created(&call.base_url, &name, &blob));
    }
    let algorithm = algorithm.or(mount.map(|digest| digest.algorithm()));
    let id = call.access.upload_start(algorithm)?;
    let mut response = headers::empty(StatusCode::ACCEPTED);
    let map = response.headers_mut();
    map.extend(location_headers(&call.base_url, &name, &id));
    map.insert(header::RANGE, headers::upload_range(0));
    map.insert(headers::CHUNK_MIN_LENGTH, HeaderValue::from(CHUNK_BYTES_MIN));
    Ok(response)
}

pub(crate) async fn status(
    call: ApiCall,
    name: &RepositoryName,
    id: &str,
) -> Result<Response, ApiError> {
    let id = parse(id)?;
    let progress = call.access.upload_status(&id).await?;
    Ok(accepted(StatusCode::NO_CONTENT, &call.base_url, name, &id, progress.offset))
}

pub(crate) async fn patch(
    call: ApiCall,
    name: &RepositoryName,
    id: &str,
) -> Result<Response, ApiError> {
    let id = parse(id)?;
    let chunk = chunk(&call.headers, call.body)?;
    let base_url = &call.base_url;
    let progress = call.access.upload_append(&id, chunk).await;
    let progress = progress.map_err(|error| with_location(error.into(), base_url, name, &id))?;
    Ok(accepted(StatusCode::ACCEPTED, base_url, name, &id, progress.offset))
}

pub(crate) async fn put(
    call: ApiCall,
    name: &RepositoryName,
    id: &str,
    digest: &Digest,
) -> Result<Response, ApiError> {
    let id = parse(id)?;
    let chunk = last_chunk(&call.headers, call.body)?;
    let base_url = &call.base_url;
    let blob = call.access.upload_finish(&id, digest, chunk).await;
    let blob = blob.map_err(|error| with_location(error.into(), base_url, name, &id))?;
    Ok(created(base_url, name, &blob))
}

pub(crate) async fn cancel(call: ApiCall, id: &str) -> Result<Response, ApiError> {
    call.access.upload_cancel(&parse(id)?).await?;
    Ok(headers::empty(StatusCode::NO_CONTENT))
}

fn parse(id: &str) -> Result<UploadId, ApiError> {
    id.parse().map_err(|_| ApiError::upload_unknown(id))
}

/// The request body with the headers that describe it.
fn chunk(headers: &HeaderMap, body: ClientBody) -> Result<UploadChunk, ApiError> {
    let range = content_range(headers)?;
    Ok(body.into_chunk(range))
}

/// The same for the request that finishes an upload. Some clients repeat the `Content-Range` of
/// their last chunk there without a body; it is ignored then.
fn last_chunk(headers: &HeaderMap, body: ClientBody) -> Result<UploadChunk, ApiError> {
    if body.length() == Some(0) {
        return Ok(body.into_chunk(None));
    }
    chunk(headers, body)
}

fn content_range(headers: &HeaderMap) -> Result<Option<ContentRange>, ApiError> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
    let text = String::from_utf8_lossy(value.as_bytes());
    let range = ContentRange::parse(&text);
    range
        .map(Some)
        .map_err(|error| ApiError::bad_request(ErrorCode::BlobUploadInvalid, error.to_string()))
}

/// The response with the location of a new blob.
fn created(base_url: &str, name: &RepositoryName, blob: &Blob) -> Response {
    let mut response = headers::empty(StatusCode::CREATED);
    let location = format!("{base_url}{}", headers::blob_path(name, &blob.digest));
    response.headers_mut().insert(header::LOCATION, headers::value(&location));
    response.headers_mut().insert(headers::DIGEST, headers::digest(&blob.digest));
    response
}

/// The response with the location and offset of the upload.
fn accepted(
    status: StatusCode,
    base_url: &str,
    name: &RepositoryName,
    id: &UploadId,
    offset: u64,
) -> Response {
    let mut response = headers::empty(status);
    let map = response.headers_mut();
    map.extend(location_headers(base_url, name, id));
    map.insert(header::RANGE, headers::upload_range(offset));
    response
}

/// Adds the location and offset to a refused chunk, so that the client can continue.
fn with_location(
    error: ApiError,
    base_url: &str,
    name: &RepositoryName,
    id: &UploadId,
) -> ApiError {
    error.with_headers_if(StatusCode::RANGE_NOT_SATISFIABLE, location_headers(base_url, name, id))
}

/// The location and the id of an upload.
fn location_headers(
    base_url: &str,
    name: &RepositoryName,
    id: &UploadId,
) -> [(HeaderName, HeaderValue); 2] {
    let location = format!("{base_url}/v2/{name}/blobs/uploads/{id}");
    [
        (header::LOCATION, headers::value(&location)),
        (headers::UPLOAD_ID, headers::value(&id.to_string())),
    ]
}
