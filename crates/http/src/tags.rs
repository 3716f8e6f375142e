//! The tags of a repository (end-8).

use http::header;
use jreg_mirror::MirroredTags;
use jreg_net::server::Response;
use jreg_oci::{PageParams, RepositoryName};
use serde_json::json;

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
    if let Some(mirror) = call.access.mirrored()? {
        let listed = mirror.tags(&request).await?;
        return Ok(mirrored(&call, pages, name, request.limit, listed));
    }
    let tags = call.access.tags(&request).await?;
    let names: Vec<&str> = tags.items.iter().map(|tag| tag.as_str()).collect();
    let body = json!({ "name": name.as_str(), "tags": names });
    let mut response = headers::json(headers::JSON, &body);
    if let Some(last) = tags.next {
        let path = format!("/v2/{name}/tags/list");
        let link = pages.link(&path, request.limit, &last, None);
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

/// The list of a mirrored registry, by the names that the client uses.
fn mirrored(
    call: &ApiCall,
    pages: PageOptions<'_>,
    name: &RepositoryName,
    limit: usize,
    listed: MirroredTags,
) -> Response {
    let names: Vec<&str> = listed.tags.iter().map(|tag| tag.as_str()).collect();
    let own = call.route.as_ref().map_or(name.as_str(), |route| route.client_name(name));
    let body = json!({ "name": own, "tags": names });
    let mut response = headers::json(headers::JSON, &body);
    let map = response.headers_mut();
    if let Some(last) = listed.next {
        let (path, namespace) = call.client_path(name);
        let namespace = namespace.map(|namespace| ("ns", namespace));
        map.insert(header::LINK, pages.link(&format!("{path}/tags/list"), limit, &last, namespace));
    }
    if let Some(warning) = listed.warning {
        map.append(header::WARNING, headers::stale_warning(warning));
    }
    response
}
