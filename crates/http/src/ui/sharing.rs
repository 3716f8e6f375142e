//! Which content of an image or a repository is needed elsewhere, too.

use std::collections::HashMap;

use jreg_access::Authorized;
use jreg_oci::{Digest, Endpoint, PageParams, Reference, RepositoryName};
use jreg_registry::{ContentSharing, SharedBlob, SharingLimits};
use jreg_ui::{SharingFacts, SharingView, sharing_path};

use super::query::UiQuery;
use super::request::UiRequest;
use crate::error::ApiError;

/// Repositories that a page names.
const REPOSITORIES_SHOWN_MAX: usize = 8;

/// The empty JSON object, which artifacts have as config: that others have it, too, says nothing.
const EMPTY_BYTES: u64 = 2;

/// What a page of an image says: in a folder it looks by itself where that is little work.
pub(crate) async fn of_image(
    request: &UiRequest<'_>,
    (name, reference): (&RepositoryName, &Reference),
    digest: &Digest,
    query: &UiQuery,
) -> Result<SharingView, ApiError> {
    // It says how much other manifests need, whose tags a policy may hide.
    let endpoint =
        Endpoint::TagList { name: name.clone(), page: PageParams { n: None, last: None } };
    let Some(access) = request.try_admit(&endpoint) else { return Ok(SharingView::None) };
    let is_asked = query.nonempty("sharing").is_some();
    let limits = match is_asked {
        true => SharingLimits::LARGE,
        false => SharingLimits::SMALL,
    };
    let _turn = match is_asked {
        true => Some(request.context.ui.document_turn().await?),
        false => None,
    };
    let found = match is_asked || !request.context.gate.is_remote() {
        true => access.content_sharing(Some(digest), limits).await?,
        false => None,
    };
    Ok(match (found, is_asked) {
        (Some(found), _) => SharingView::Known(facts(found)),
        (None, true) => SharingView::TooMuch,
        (None, false) => {
            let path = request.page.paths.reference(name, reference);
            SharingView::Offered(sharing_path(&path, &[("platform", query.get("platform"))]))
        }
    })
}

/// What the page of a repository's usage says.
pub(crate) async fn of_repository(access: &Authorized) -> Result<Option<SharingFacts>, ApiError> {
    Ok(access.content_sharing(None, SharingLimits::LARGE).await?.map(facts))
}

fn facts(found: ContentSharing) -> SharingFacts {
    let mut facts = SharingFacts {
        bytes: found.bytes,
        needed_here_bytes: found.needed_here_bytes,
        only_bytes: found.bytes - found.needed_here_bytes,
        listed_blobs: found.listed.len(),
        blobs: found.blobs,
        ..SharingFacts::default()
    };
    let mut repositories: HashMap<RepositoryName, u64> = HashMap::new();
    let is_elsewhere =
        |blob: &SharedBlob| blob.size_bytes > EMPTY_BYTES && !blob.repositories.is_empty();
    for blob in found.listed.into_iter().filter(is_elsewhere) {
        facts.elsewhere_bytes += blob.size_bytes;
        if !blob.is_needed_here {
            facts.only_bytes -= blob.size_bytes;
        }
        for name in blob.repositories {
            *repositories.entry(name).or_default() += blob.size_bytes;
        }
    }
    let mut repositories: Vec<_> = repositories.into_iter().collect();
    repositories.sort_by(|one, other| (other.1, &one.0).cmp(&(one.1, &other.0)));
    facts.more_repositories = repositories.len().saturating_sub(REPOSITORIES_SHOWN_MAX);
    repositories.truncate(REPOSITORIES_SHOWN_MAX);
    SharingFacts { repositories, ..facts }
}
