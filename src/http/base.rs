//! `/v2/`: this is a registry (end-1).

use axum::response::Response;
use serde_json::json;

use super::headers;

pub(super) fn ping() -> Response {
    headers::json(headers::JSON, &json!({}))
}
