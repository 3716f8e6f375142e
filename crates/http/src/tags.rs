//! The tags of a repository (end-8).

use http::header;
use jreg_net::server::Response;
use jreg_oci::RepositoryName;
use serde_json::json;

use super::api::ApiCall;
use super::error::ApiError;
use super::{headers, page};

pub(super) async fn list(
    call: ApiCall,
    name: &RepositoryName,
    page: jreg_oci::PageParams,
) -> Result<Response, ApiError> {
    let options = &call.context.options;
    let request = page::request(page, options);
    let tags = call.access.tags(&request).await?;
    let names: Vec<&str> = tags.items.iter().map(|tag| tag.as_str()).collect();
    let body = json!({ "name": name.as_str(), "tags": names });
    let mut response = headers::json(headers::JSON, &body);
    if let Some(last) = tags.next {
        let path = format!("/v2/{name}/tags/list");
        let link = page::link(options, &path, request.limit, &last, None);
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}
