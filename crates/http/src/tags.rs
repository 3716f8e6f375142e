//! The tags of a repository (end-8).

use http::header;
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
