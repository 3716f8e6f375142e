//! `/v2/`: this is a registry (end-1).

use serde_json::json;

use super::headers;
use crate::server::Response;

pub(super) fn ping() -> Response {
    headers::json(headers::JSON, &json!({}))
}
