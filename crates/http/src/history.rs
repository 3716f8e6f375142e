//! The history of a tag: `_jreg/tags/<tag>/history`.

use http::header;
use jreg_net::server::Response;
use jreg_oci::{PageParams, RepositoryName, Tag};
use jreg_registry::TagHistoryEntry;
use serde_json::{Value, json};

use crate::call::ApiCall;
use crate::error::ApiError;
use crate::headers;
use crate::page::PageOptions;

pub(crate) async fn list(
    call: ApiCall,
    pages: PageOptions<'_>,
    (name, tag): (&RepositoryName, &Tag),
    page: PageParams,
) -> Result<Response, ApiError> {
    let request = pages.request(page);
    let history = call.access.tag_history(tag, &request).await?;
    let entries: Vec<Value> = history.items.iter().map(shown).collect();
    let body = json!({ "name": name.as_str(), "tag": tag.as_str(), "history": entries });
    let mut response = headers::json(headers::JSON, &body);
    if let Some(last) = history.next {
        let path = format!("/v2/{name}/_jreg/tags/{tag}/history");
        let link = pages.link(&path, request.limit, &last, None);
        response.headers_mut().insert(header::LINK, link);
    }
    Ok(response)
}

fn shown(entry: &TagHistoryEntry) -> Value {
    let mut shown = json!({
        "change": entry.change.to_string(),
        "event": if entry.digest.is_some() { "set" } else { "deleted" },
        "time": headers::rfc3339(entry.change.time()),
    });
    let fields = [
        ("digest", entry.digest.as_ref().map(|digest| json!(digest))),
        ("mediaType", entry.media_type.as_ref().map(|media_type| json!(media_type))),
        ("size", entry.size.map(Value::from)),
        ("until", entry.until.map(|until| headers::rfc3339(until).into())),
        ("actor", entry.origin.actor().map(Value::from)),
        ("requestId", entry.origin.request_id().map(Value::from)),
    ];
    for (field, value) in fields {
        if let Some(value) = value {
            shown[field] = value;
        }
    }
    shown
}
