//! What is attached to the manifests of a list: a listing of referrers for each, and one of the tags of cosign.

use std::collections::{BTreeSet, HashMap, HashSet};

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_access::Authorized;
use jreg_oci::Digest;
use jreg_registry::PageRequest;
use jreg_ui::{ArtifactKind, TagRow, artifact};

use super::images::{annotations_of, cosign_tags};
use crate::error::ApiError;

/// Referrers of a manifest that are looked at.
const REFERRERS_MAX: usize = 20;
/// Tags of cosign of a repository that are looked at: as many as a store lists at once.
const COSIGN_TAGS_MAX: usize = 1000;
/// What the names of all tags of cosign begin after.
const BEFORE_COSIGN_TAGS: &str = "sha256-";
const LISTINGS_AT_ONCE: usize = 16;

/// Adds to rows what is attached to their manifests.
pub(crate) async fn add_to_rows(access: &Authorized, rows: &mut [TagRow]) -> Result<(), ApiError> {
    if rows.is_empty() {
        return Ok(());
    }
    let page = PageRequest { limit: COSIGN_TAGS_MAX, last: Some(BEFORE_COSIGN_TAGS.to_owned()) };
    let tags: HashSet<_> = access.tags(&page).await?.items.into_iter().collect();
    let digests: HashSet<Digest> = rows.iter().map(|row| row.digest.clone()).collect();
    let looks = digests.into_iter().map(|digest| async {
        let page = PageRequest { limit: REFERRERS_MAX, last: None };
        let referrers = access.referrers(&digest, None, &page).await?.items.into_iter();
        let kinds = referrers.map(|referrer| {
            let artifact_type = referrer.artifact_type.unwrap_or_default();
            artifact::referrer_kind(&artifact_type, &annotations_of(&referrer.json))
        });
        let mut names: BTreeSet<&str> = kinds.filter_map(badge).collect();
        let by_tag = cosign_tags(&digest).into_iter().filter(|(tag, _)| tags.contains(tag));
        names.extend(by_tag.filter_map(|(_, kind)| badge(kind)));
        Ok::<_, ApiError>((digest, names.into_iter().collect::<Vec<_>>()))
    });
    // Made before the first is awaited: a borrowing closure kept across an await is not `Send`.
    let looks: Vec<_> = looks.collect();
    let found = stream::iter(looks).buffer_unordered(LISTINGS_AT_ONCE);
    let found: HashMap<Digest, Vec<&str>> = found.try_collect().await?;
    for row in rows {
        row.attached = found.get(&row.digest).cloned().unwrap_or_default();
    }
    Ok(())
}

/// The badge of what is attached; `None`: it says nothing about the whole.
fn badge(kind: ArtifactKind) -> Option<&'static str> {
    match kind {
        ArtifactKind::Signature => Some("signature"),
        ArtifactKind::Sbom => Some("SBOM"),
        ArtifactKind::Attestation => Some("attestation"),
        ArtifactKind::Vex => Some("VEX"),
        ArtifactKind::ScanReport => Some("scan report"),
        ArtifactKind::Index
        | ArtifactKind::Image
        | ArtifactKind::HelmChart
        | ArtifactKind::Wasm
        | ArtifactKind::Model
        | ArtifactKind::Files => None,
    }
}
