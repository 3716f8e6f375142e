//! Referrers of a manifest (end-12).

use std::convert::Infallible;

use bytes::Bytes;
use futures::stream;
use http::{HeaderValue, header};
use jreg_mirror::MirroredReferrers;
use jreg_net::server::{Body, Response};
use jreg_oci::{Descriptor, Digest, PageParams, RepositoryName, media_type};
use jreg_registry::Referrer;

use crate::call::ApiCall;
use crate::error::ApiError;
use crate::headers;
use crate::page::PageOptions;

pub(crate) struct ReferrersQuery {
    pub(crate) name: RepositoryName,
    pub(crate) subject: Digest,
    pub(crate) artifact_type: Option<String>,
    pub(crate) page: PageParams,
}

const ARTIFACT_TYPE: &str = "artifactType";
/// Larger bodies are sent in chunks that the cache shares with other responses.
const JOINED_BYTES_MAX: usize = 64 * 1024;

pub(crate) async fn list(
    call: ApiCall,
    pages: PageOptions<'_>,
    query: ReferrersQuery,
) -> Result<Response, ApiError> {
    let ReferrersQuery { name, subject, artifact_type, page } = query;
    let artifact_type = artifact_type.as_deref();
    if let Some(mirror) = call.access.mirrored()? {
        let listed = mirror.referrers(&subject).await?;
        return Ok(mirrored(&listed, artifact_type));
    }
    let request = pages.request(page);
    let referrers = call.access.referrers(&subject, artifact_type, &request).await?;
    let mut response = index(referrers.items);
    let map = response.headers_mut();
    if artifact_type.is_some() {
        map.insert(headers::FILTERS_APPLIED, HeaderValue::from_static(ARTIFACT_TYPE));
    }
    if let Some(last) = referrers.next {
        let path = format!("/v2/{name}/referrers/{subject}");
        let filter = artifact_type.map(|value| (ARTIFACT_TYPE, value));
        map.insert(header::LINK, pages.link(&path, request.limit, &last, filter));
    }
    Ok(response)
}

/// The whole list of a mirrored registry: a page of it would have to be of one moment.
fn mirrored(listed: &MirroredReferrers, artifact_type: Option<&str>) -> Response {
    let is_wanted = |descriptor: &&Descriptor| {
        artifact_type.is_none_or(|wanted| descriptor.artifact_type.as_deref() == Some(wanted))
    };
    let referrers = listed.descriptors.iter().filter(is_wanted).map(|descriptor| Referrer {
        digest: descriptor.digest.clone(),
        artifact_type: descriptor.artifact_type.clone(),
        json: headers::to_json(descriptor).into(),
    });
    let mut response = index(referrers.collect());
    let map = response.headers_mut();
    if artifact_type.is_some() {
        map.insert(headers::FILTERS_APPLIED, HeaderValue::from_static(ARTIFACT_TYPE));
    }
    if let Some(warning) = listed.warning {
        map.append(header::WARNING, headers::stale_warning(warning));
    }
    response
}

/// An image index (image-spec, "Image Index") of the referrers. Their descriptors are JSON already.
fn index(referrers: Vec<Referrer>) -> Response {
    let start = format!(
        r#"{{"schemaVersion":2,"mediaType":"{}","manifests":["#,
        media_type::OCI_IMAGE_INDEX
    );
    let mut pieces = vec![Bytes::from(start)];
    for (index, referrer) in referrers.into_iter().enumerate() {
        if index > 0 {
            pieces.push(Bytes::from_static(b","));
        }
        pieces.push(referrer.json);
    }
    pieces.push(Bytes::from_static(b"]}"));
    let length: usize = pieces.iter().map(Bytes::len).sum();
    let body = match length {
        ..=JOINED_BYTES_MAX => Body::from(pieces.concat()),
        _ => Body::from_stream(stream::iter(pieces.into_iter().map(Ok::<_, Infallible>))),
    };
    let mut response = Response::new(body);
    let map = response.headers_mut();
    // Some clients compare the content type byte for byte: no parameters.
    map.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::OCI_IMAGE_INDEX));
    map.insert(header::CONTENT_LENGTH, length.into());
    response
}
