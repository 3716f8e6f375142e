//! `GET /v2/_catalog`: the repositories.

use http::header;
use jreg_net::server::Response;
use jreg_oci::PageParams;
use serde_json::json;

use crate::call::ApiCall;
use crate::error::ApiError;
use crate::headers;
use crate::page::PageOptions;

pub(crate) async fn list(
    call: ApiCall,
    pages: PageOptions<'_>,
    page: PageParams,
) -> Result<Response, ApiError> {
    let request = pages.request(page);
    let repositories = call.access.catalog(&request).await?;
    let names: Vec<&str> = repositories.items.iter().map(|name| name.as_str()).collect();
    let mut response = headers::json(headers::JSON, &json!({ "repositories": names }));
    if let Some(last) = repositories.next {
        let link = pages.link("/v2/_catalog", request.limit, &last, None);
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}
