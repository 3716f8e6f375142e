//! `GET /v2/`: API version check (end-1).

use jreg_net::server::Response;
use serde_json::json;

use crate::headers;

pub(crate) fn ping() -> Response {
    headers::json(headers::JSON, &json!({}))
}
