//! Restores: a tag to an earlier manifest (`_jreg/tags/<tag>/restore`), a deleted manifest from its copy
//! (`_jreg/deleted/<digest>/restore`).

use http::{StatusCode, header};
use jreg_net::server::Response;
use jreg_oci::{Digest, ErrorCode, Tag};
use jreg_registry::{MemoryBudget, TagTransition};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use crate::body::ClientBody;
use crate::call::ApiCall;
use crate::error::ApiError;
use crate::outcome::AuditOutcome;
use crate::{conditional, headers};

/// Maximum size of the body of a restore.
const BODY_BYTES_MAX: u64 = 4096;

/// The body of a tag's restore.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct TagRestoreBody {
    digest: Digest,
}

/// The body of a manifest's restore.
#[derive(Debug, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
struct ManifestRestoreBody {
    /// Whether the tags that it had are set again.
    tags: bool,
}

pub(crate) async fn tag(
    call: ApiCall,
    budget: &MemoryBudget,
    tag: &Tag,
) -> Result<Response, ApiError> {
    check_content_type(&call)?;
    let condition = conditional::condition(&call.headers)?;
    let body: Option<TagRestoreBody> = read(call.body, budget).await?;
    let Some(TagRestoreBody { digest }) = body else {
        return Err(ApiError::bad_request(ErrorCode::Unsupported, BODY_EXPECTED));
    };
    let transition = call.access.tag_restore(tag, &digest, condition).await?;
    let mut response = headers::json(headers::JSON, &shown(&transition));
    response.headers_mut().insert(header::ETAG, headers::etag(&digest));
    response.extensions_mut().insert(AuditOutcome::TagsChanged(vec![transition]));
    Ok(response)
}

pub(crate) async fn manifest(
    call: ApiCall,
    budget: &MemoryBudget,
    digest: &Digest,
) -> Result<Response, ApiError> {
    check_content_type(&call)?;
    let body: Option<ManifestRestoreBody> = read(call.body, budget).await?;
    let with_tags = body.unwrap_or_default().tags;
    let mut tags = Vec::new();
    let restored = match call.access.manifest_restore(digest, with_tags, &mut tags).await {
        Ok(restored) => restored,
        Err(error) => {
            let outcome = (!tags.is_empty()).then_some(AuditOutcome::TagsChanged(tags));
            return Err(ApiError::from(error).with_outcome(outcome));
        }
    };
    let body = json!({
        "digest": restored.digest,
        "tags": restored.transitions.iter().map(shown).collect::<Vec<_>>(),
        "tagsKept": restored.tags_kept,
    });
    let mut response = headers::json(headers::JSON, &body);
    response.headers_mut().insert(header::ETAG, headers::etag(digest));
    response.extensions_mut().insert(AuditOutcome::TagsChanged(restored.transitions));
    Ok(response)
}

const BODY_EXPECTED: &str = "the body must be a JSON object with the digest of the manifest, for \
                             example {\"digest\": \"sha256:...\"}";

fn shown(transition: &TagTransition) -> Value {
    json!({
        "tag": transition.tag,
        "change": transition.change.to_string(),
        "before": transition.before,
        "after": transition.after,
    })
}

/// A page of another origin can send a POST of other content types with the credentials of a browser.
fn check_content_type(call: &ApiCall) -> Result<(), ApiError> {
    let content_type = call.headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok());
    let essence = content_type.and_then(|value| value.split(';').next()).unwrap_or_default();
    if essence.trim().eq_ignore_ascii_case("application/json") {
        return Ok(());
    }
    let message = "the Content-Type must be application/json";
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ErrorCode::Unsupported, message))
}

/// The body of a request; `None`: it is empty.
async fn read<T: DeserializeOwned>(
    body: ClientBody,
    budget: &MemoryBudget,
) -> Result<Option<T>, ApiError> {
    let (bytes, _room) = body.collect(BODY_BYTES_MAX, budget).await?;
    if bytes.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(&bytes).map(Some).map_err(|error| {
        ApiError::bad_request(ErrorCode::Unsupported, format!("invalid JSON in the body: {error}"))
    })
}
