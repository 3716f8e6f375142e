//! `GET /v2/_catalog`: the repositories.

use http::header;
use jreg_net::server::Response;
use serde_json::json;

use super::api::ApiCall;
use super::error::ApiError;
use super::{headers, page};

pub(super) async fn list(call: ApiCall, page: jreg_oci::PageParams) -> Result<Response, ApiError> {
    let options = &call.context.options;
    let request = page::request(page, options);
    let repositories = call.access.catalog(&request).await?;
    let names: Vec<&str> = repositories.items.iter().map(|name| name.as_str()).collect();
    let mut response = headers::json(headers::JSON, &json!({ "repositories": names }));
    if let Some(last) = repositories.next {
        let link = page::link(options, "/v2/_catalog", request.limit, &last, None);
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}
