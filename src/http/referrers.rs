//! What refers to a manifest (end-12).

use axum::response::Response;
use http::{HeaderValue, header};
use jreg_oci::{Descriptor, Digest, RepositoryName, media_type};
use serde::Serialize;

use super::api::Call;
use super::error::ApiError;
use super::{headers, page};

/// What is asked for.
pub(super) struct Query {
    pub(super) name: RepositoryName,
    pub(super) subject: Digest,
    pub(super) artifact_type: Option<String>,
    pub(super) page: jreg_oci::Page,
}

/// The answer: an image index (image-spec, "Image Index") of the referrers.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Index<'a> {
    schema_version: u32,
    media_type: &'static str,
    manifests: &'a [Descriptor],
}

const ARTIFACT_TYPE: &str = "artifactType";

pub(super) async fn list(call: Call, query: Query) -> Result<Response, ApiError> {
    let Query { name, subject, artifact_type, page } = query;
    let options = &call.context.options;
    let artifact_type = artifact_type.as_deref();
    let request = page::request(page, options);
    let referrers = call.access.referrers(&subject, artifact_type, &request).await?;
    let body = Index {
        schema_version: 2,
        media_type: media_type::OCI_IMAGE_INDEX,
        manifests: &referrers.items,
    };
    // Some clients compare the type byte for byte: no parameters.
    let mut response = headers::json(HeaderValue::from_static(media_type::OCI_IMAGE_INDEX), &body);
    let answer = response.headers_mut();
    if artifact_type.is_some() {
        answer.insert(headers::FILTERS_APPLIED, HeaderValue::from_static(ARTIFACT_TYPE));
    }
    if let Some(last) = referrers.next {
        let path = format!("/v2/{name}/referrers/{subject}");
        let filter = artifact_type.map(|value| (ARTIFACT_TYPE, value));
        answer.insert(header::LINK, page::link(options, &path, request.limit, &last, filter));
    }
    Ok(response)
}
