//! The question before tags or a manifest are deleted.

use jreg_oci::{Digest, Endpoint, ErrorCode, Reference, RepositoryName, Tag};
use jreg_ui::{DeleteQuestion, delete_page};

use super::PageResponse;
use super::forms::TAGS_DELETED_MAX;
use super::images::tags_here;
use super::query::UiQuery;
use super::request::{PageResult, UiRequest};
use crate::error::ApiError;

pub(crate) async fn question(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    query: &UiQuery,
) -> PageResult {
    let manifest: Option<Digest> = query.get("digest").parse().ok();
    let tags = query.all("tag").take(TAGS_DELETED_MAX).filter_map(|tag| tag.parse().ok());
    let tags: Vec<Tag> = if manifest.is_some() { Vec::new() } else { tags.collect() };
    let reference = match (&manifest, tags.first()) {
        (Some(digest), _) => Reference::Digest(digest.clone()),
        (None, Some(tag)) => Reference::Tag(tag.clone()),
        (None, None) => {
            let message = "no tag was selected: go back and select some";
            return Err(ApiError::bad_request(ErrorCode::Unsupported, message));
        }
    };
    request.admit(&Endpoint::ManifestDelete { name: name.clone(), reference }).await?;
    let tags_of_manifest = match &manifest {
        Some(digest) => tags_of(request, name, digest).await?,
        None => Vec::new(),
    };
    let question = DeleteQuestion {
        name: name.clone(),
        tags,
        manifest,
        tags_of_manifest,
        kept_for: request.context.ui.history_kept(),
    };
    Ok(PageResponse::Html(delete_page(&request.page, &question)))
}

async fn tags_of(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<Vec<Tag>, ApiError> {
    let reference = Reference::Digest(digest.clone());
    let endpoint = Endpoint::ManifestGet { name: name.clone(), reference };
    match request.try_admit(&endpoint) {
        Some(access) => Ok(tags_here(request, &access, name, digest).await?.0),
        None => Ok(Vec::new()),
    }
}
