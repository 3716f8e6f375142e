//! Deleted manifests that are kept and can be restored: `_jreg/deleted`.

use http::header;
use jreg_net::server::Response;
use jreg_oci::{PageParams, RepositoryName};
use jreg_registry::DeletedManifest;
use serde_json::{Value, json};

use crate::call::ApiCall;
use crate::error::ApiError;
use crate::headers;
use crate::page::PageOptions;

pub(crate) async fn list(
    call: ApiCall,
    pages: PageOptions<'_>,
    name: &RepositoryName,
    page: PageParams,
) -> Result<Response, ApiError> {
    let request = pages.request(page);
    let deleted = call.access.deleted_manifests(&request).await?;
    let manifests: Vec<Value> = deleted.items.iter().map(shown).collect();
    let body = json!({ "name": name.as_str(), "manifests": manifests });
    let mut response = headers::json(headers::JSON, &body);
    if let Some(last) = deleted.next {
        let path = format!("/v2/{name}/_jreg/deleted");
        let link = pages.link(&path, request.limit, &last, None);
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

fn shown(deleted: &DeletedManifest) -> Value {
    let mut shown = json!({
        "digest": deleted.digest,
        "mediaType": deleted.media_type,
        "size": deleted.size,
        "change": deleted.change.to_string(),
        "time": headers::rfc3339(deleted.deleted_at()),
        "tags": deleted.tags,
    });
    let fields = [
        ("artifactType", deleted.artifact_type.as_deref()),
        ("actor", deleted.origin.actor()),
        ("requestId", deleted.origin.request_id()),
    ];
    for (field, value) in fields {
        if let Some(value) = value {
            shown[field] = value.into();
        }
    }
    shown
}
