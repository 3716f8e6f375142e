//! How many bytes repositories hold: `_jreg/usage`.

use http::header;
use jreg_access::USAGE_REPOSITORIES_MAX;
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
    let items_max = pages.items_max.min(USAGE_REPOSITORIES_MAX);
    let pages = PageOptions { items_max, ..pages };
    let request = pages.request(page);
    let usage = call.access.usage(&request).await?;
    let mut response = headers::json(headers::JSON, &json!({ "repositories": usage.items }));
    if let Some(last) = usage.next {
        let link = pages.link("/v2/_jreg/usage", request.limit, &last, None);
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}
