//! The page of an image or another artifact.

use std::collections::BTreeMap;

use bytes::Bytes;
use futures::TryStreamExt;
use jreg_access::Authorized;
use jreg_oci::{Digest, Endpoint, PageParams, Reference, RepositoryName, Tag};
use jreg_registry::{PageRequest, StoredManifest};
use jreg_storage::ByteRange;
use jreg_ui::document::{
    DOCUMENT_BYTES_MAX, DescriptorDocument, ManifestDocument, Pairs, SBOM_BYTES_MAX, Sbom,
    StatementDocument, decode_envelope, parse, parse_sbom, pretty,
};
use jreg_ui::findings::{Findings, parse_findings};
use jreg_ui::{
    ArtifactKind, FindingsView, ImagePage, ManifestFacts, SbomView, TagFacts, artifact, image_page,
};

use super::PageResponse;
use super::chart::{self, off_runtime};
use super::query::UiQuery;
use super::request::{PageResult, UiRequest};
use super::sharing;
use super::tags::remember;
use crate::error::ApiError;

/// Tags that point to a manifest and are shown.
const TAGS_SHOWN_MAX: usize = 30;
/// Referrers that are counted by kind.
const REFERRERS_COUNTED_MAX: usize = 50;
/// The suffixes of the tags by which cosign attaches what it makes.
pub(crate) const COSIGN_TAGS: [(&str, ArtifactKind); 3] = [
    ("sig", ArtifactKind::Signature),
    ("att", ArtifactKind::Attestation),
    ("sbom", ArtifactKind::Sbom),
];
/// The annotation of a layer that says what statement it is.
const PREDICATE_TYPE: &str = "in-toto.io/predicate-type";

pub(crate) async fn show(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    reference: &Reference,
    query: &UiQuery,
) -> PageResult {
    let endpoint = Endpoint::ManifestGet { name: name.clone(), reference: reference.clone() };
    let access = request.admit(&endpoint).await?;
    let (manifest, tag) = match read_reference(request, &access, reference).await {
        Ok(found) => found,
        Err(error) if error.is_not_found() => {
            let history = history_of_deleted(request, name, reference).await;
            return history.map(PageResponse::SeeOther).ok_or(error);
        }
        Err(error) => return Err(error),
    };
    let manifest = facts(&manifest);
    remember(request, &manifest);
    let entry = match manifest.kind {
        ArtifactKind::Index => read_entry(request, name, &manifest, query).await?,
        _ => None,
    };
    entry.iter().for_each(|entry| drop(remember(request, entry)));
    let (tags, has_more_tags) = tags_here(request, &access, name, &manifest.digest).await?;
    let sharing = sharing::of_image(request, (name, reference), &manifest.digest, query).await?;
    let mut view = ImagePage {
        attached: attached(&access, &manifest.digest).await?,
        may_delete: may_delete(request, name, reference),
        name: name.clone(),
        reference: reference.clone(),
        tag,
        manifest,
        entry,
        config: None,
        chart: None,
        readme: None,
        sbom: None,
        statement: None,
        document_note: None,
        tags,
        has_more_tags,
        findings: None,
        sharing,
    };
    read_documents(request, &mut view, query).await?;
    Ok(PageResponse::Html(image_page(&request.page, &view)))
}

/// The address of the history of a tag that was deleted: from there it can be restored.
async fn history_of_deleted(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    reference: &Reference,
) -> Option<String> {
    let tag = reference.tag()?;
    let page = PageParams { n: Some(1), last: None };
    let endpoint = Endpoint::TagHistory { name: name.clone(), tag: tag.clone(), page };
    let access = request.try_admit(&endpoint)?;
    access.tag_history(tag, &PageRequest { limit: 1, last: None }).await.ok()?;
    Some(request.page.paths.repository_page(name, &format!("history/{tag}")))
}

fn may_delete(request: &UiRequest<'_>, name: &RepositoryName, reference: &Reference) -> bool {
    let (name, reference) = (name.clone(), reference.clone());
    request.may(&Endpoint::ManifestDelete { name, reference })
}

/// The manifest, and what the record of a tag says.
async fn read_reference(
    request: &UiRequest<'_>,
    access: &Authorized,
    reference: &Reference,
) -> Result<(std::sync::Arc<StoredManifest>, Option<TagFacts>), ApiError> {
    let manifest = access.manifest_get(reference).await?;
    let Some(tag) = reference.tag() else { return Ok((manifest, None)) };
    let details = access.tag_details(vec![tag.clone()]).await?;
    let pulled = match request.context.gate.tracks_pulls() {
        true => {
            let pointed = [(tag.clone(), manifest.digest.clone())];
            Some(access.last_pulls(&pointed).await?.into_iter().next().flatten())
        }
        false => None,
    };
    let tag = details.into_iter().next().map(|details| TagFacts {
        pulled,
        tag: details.tag,
        pushed: details.pushed,
        by: details.origin.actor().map(str::to_owned),
        immutable: details.immutable.map(|rule| rule.to_string()),
    });
    Ok((manifest, tag))
}

/// Larger manifests are not parsed for lists of many.
const LISTED_BYTES_MAX: usize = 256 * 1024;

/// What a manifest says of itself.
pub(crate) fn facts(manifest: &StoredManifest) -> ManifestFacts {
    ManifestFacts { raw: pretty(&manifest.bytes), ..facts_of(manifest, usize::MAX) }
}

/// The same for one of many that a page lists.
pub(crate) fn listed_facts(manifest: &StoredManifest) -> ManifestFacts {
    facts_of(manifest, LISTED_BYTES_MAX)
}

fn facts_of(manifest: &StoredManifest, bytes_max: usize) -> ManifestFacts {
    let bytes = Some(&manifest.bytes).filter(|bytes| bytes.len() <= bytes_max);
    let document: ManifestDocument = bytes.and_then(|bytes| parse(bytes)).unwrap_or_default();
    ManifestFacts {
        digest: manifest.digest.clone(),
        kind: ArtifactKind::of(&manifest.media_type, &document),
        media_type: manifest.media_type.clone(),
        document,
        bytes: manifest.bytes.len() as u64,
        raw: None,
    }
}

/// The entry of an index that is shown: the one that was chosen, `linux/amd64`, or the first that has a platform.
pub(crate) fn choose<'a>(
    index: &'a ManifestDocument,
    query: &UiQuery,
) -> Option<&'a DescriptorDocument> {
    let entries = || index.manifests.items.iter().filter(|entry| !artifact::is_attached(entry));
    let wanted: Option<Digest> = query.get("platform").parse().ok();
    if wanted.is_some() {
        return entries().find(|entry| entry.digest == wanted);
    }
    let is_usual = |entry: &&DescriptorDocument| artifact::platform_name(entry) == "linux/amd64";
    entries().find(is_usual).or_else(|| entries().find(|entry| entry.platform.is_some()))
}

async fn read_entry(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    index: &ManifestFacts,
    query: &UiQuery,
) -> Result<Option<ManifestFacts>, ApiError> {
    let Some(digest) = choose(&index.document, query).and_then(|entry| entry.digest.clone()) else {
        return Ok(None);
    };
    let reference = Reference::Digest(digest);
    let endpoint = Endpoint::ManifestGet { name: name.clone(), reference: reference.clone() };
    let Some(access) = request.try_admit(&endpoint) else { return Ok(None) };
    match access.manifest_get(&reference).await.map_err(ApiError::from) {
        Ok(manifest) => Ok(Some(facts(&manifest))),
        // An index may be sparse.
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}

/// The tags that point to a manifest, but for those that the viewer may not pull.
pub(crate) async fn tags_here(
    request: &UiRequest<'_>,
    access: &Authorized,
    name: &RepositoryName,
    digest: &Digest,
) -> Result<(Vec<Tag>, bool), ApiError> {
    let (mut tags, has_more) = access.tags_of_manifest(digest, TAGS_SHOWN_MAX).await?;
    tags.retain(|tag| may_see_tag(request, name, tag));
    Ok((tags, has_more))
}

pub(crate) fn may_see_tag(request: &UiRequest<'_>, name: &RepositoryName, tag: &Tag) -> bool {
    let reference = Reference::Tag(tag.clone());
    request.may(&Endpoint::ManifestGet { name: name.clone(), reference })
}

/// The tags by which cosign attaches something to a manifest.
pub(crate) fn cosign_tags(digest: &Digest) -> Vec<(Tag, ArtifactKind)> {
    let tag = |suffix: &str| format!("{}-{}.{suffix}", digest.algorithm(), digest.hex()).parse();
    let tags = COSIGN_TAGS.iter().map(|(suffix, kind)| (tag(suffix), *kind));
    tags.filter_map(|(tag, kind)| Some((tag.ok()?, kind))).collect()
}

/// What is attached to a manifest, by kind: a listing of referrers, and three tags of cosign.
async fn attached(
    access: &Authorized,
    digest: &Digest,
) -> Result<Vec<(ArtifactKind, usize)>, ApiError> {
    let page = PageRequest { limit: REFERRERS_COUNTED_MAX, last: None };
    let referrers = access.referrers(digest, None, &page).await?;
    let mut counts: BTreeMap<&'static str, (ArtifactKind, usize)> = BTreeMap::new();
    let mut count = |kind: ArtifactKind| counts.entry(kind.name()).or_insert((kind, 0)).1 += 1;
    for referrer in referrers.items {
        let artifact_type = referrer.artifact_type.unwrap_or_default();
        count(artifact::referrer_kind(&artifact_type, &annotations_of(&referrer.json)));
    }
    let tags = cosign_tags(digest);
    let found = access.tag_details(tags.iter().map(|(tag, _)| tag.clone()).collect()).await?;
    for details in found {
        let kind = tags.iter().find(|(tag, _)| *tag == details.tag).map(|(_, kind)| *kind);
        kind.into_iter().for_each(&mut count);
    }
    Ok(counts.into_values().collect())
}

/// The annotations in a descriptor.
pub(crate) fn annotations_of(descriptor: &[u8]) -> Pairs {
    parse::<DescriptorDocument>(descriptor).unwrap_or_default().annotations
}

/// Reads what the manifest refers to and a page shows: the config, a chart, an SBOM, a statement.
async fn read_documents(
    request: &UiRequest<'_>,
    view: &mut ImagePage,
    query: &UiQuery,
) -> Result<(), ApiError> {
    let shown = view.entry.as_ref().unwrap_or(&view.manifest).clone();
    let name = view.name.clone();
    let config = shown.document.config.as_ref();
    match shown.kind {
        ArtifactKind::Index => {}
        ArtifactKind::Image => {
            if let Some(bytes) = read_document(request, &name, config, view).await? {
                view.config = parse(&bytes);
            }
        }
        ArtifactKind::HelmChart => {
            if let Some(bytes) = read_document(request, &name, config, view).await? {
                view.chart = parse(&bytes);
            }
            view.readme = chart::readme(request, &name, &shown).await?;
        }
        ArtifactKind::Sbom
        | ArtifactKind::Attestation
        | ArtifactKind::Vex
        | ArtifactKind::ScanReport
        | ArtifactKind::Signature => {
            read_statements(request, view, &shown, query).await?;
        }
        ArtifactKind::Wasm | ArtifactKind::Model | ArtifactKind::Files => {}
    }
    Ok(())
}

/// Files of an attestation that are read at the most.
const STATEMENTS_READ_MAX: usize = 3;

async fn read_statements(
    request: &UiRequest<'_>,
    view: &mut ImagePage,
    shown: &ManifestFacts,
    query: &UiQuery,
) -> Result<(), ApiError> {
    let name = view.name.clone();
    for file in artifact::files(&shown.document).iter().take(STATEMENTS_READ_MAX) {
        let predicate = file.annotations.get(PREDICATE_TYPE).unwrap_or(&file.media_type);
        let kinds = [Some(shown.kind), ArtifactKind::of_type(predicate)];
        let is_large = kinds.into_iter().flatten().any(has_many_entries);
        let _turn = match is_large {
            true => Some(request.context.ui.document_turn().await?),
            false => None,
        };
        let bytes_max = if is_large { SBOM_BYTES_MAX } else { DOCUMENT_BYTES_MAX };
        let read = read_blob(request, &name, Some(file), bytes_max).await?;
        let bytes = match read {
            BlobRead::Bytes(bytes) => bytes,
            BlobRead::TooLarge(size) => {
                view.document_note = Some(too_large(size));
                continue;
            }
            BlobRead::Absent => continue,
        };
        let AttachedDocument { sbom, findings, statement } =
            off_runtime(bytes, false, parse_attached).await?;
        let filter = |name: &str| query.get(name).trim().to_owned();
        if view.sbom.is_none() {
            view.sbom = sbom.map(|sbom| SbomView { sbom, filter: filter("package") });
        }
        if view.findings.is_none() {
            let filter = filter("find");
            view.findings = findings.map(|findings| FindingsView { findings, filter });
        }
        if view.statement.is_none() {
            view.statement = statement.filter(|found| !found.predicate_type.is_empty());
        }
    }
    if view.sbom.is_none() && view.findings.is_none() && has_many_entries(shown.kind) {
        let note = || "It is of a format that is not shown here: download it below.".to_owned();
        view.document_note.get_or_insert_with(note);
    }
    Ok(())
}

/// Whether a document of this kind is a table of many rows.
fn has_many_entries(kind: ArtifactKind) -> bool {
    matches!(kind, ArtifactKind::Sbom | ArtifactKind::Vex | ArtifactKind::ScanReport)
}

/// What an attached document is, in itself or in an envelope: an SBOM may have findings, too.
struct AttachedDocument {
    sbom: Option<Sbom>,
    findings: Option<Findings>,
    statement: Option<StatementDocument>,
}

fn parse_attached(bytes: &[u8]) -> AttachedDocument {
    let content = decode_envelope(bytes);
    let bytes = content.as_deref().unwrap_or(bytes);
    let (sbom, findings) = (parse_sbom(bytes), parse_findings(bytes));
    let statement = if sbom.is_none() { parse(bytes) } else { None };
    AttachedDocument { sbom, findings, statement }
}

fn too_large(size: u64) -> String {
    format!("A document of {} is too large to be shown here.", jreg_ui::format_bytes(size))
}

/// A document that a page shows; a note says why there is none.
async fn read_document(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    descriptor: Option<&DescriptorDocument>,
    view: &mut ImagePage,
) -> Result<Option<Bytes>, ApiError> {
    match read_blob(request, name, descriptor, DOCUMENT_BYTES_MAX).await? {
        BlobRead::Bytes(bytes) => Ok(Some(bytes)),
        BlobRead::TooLarge(size) => {
            view.document_note = Some(too_large(size));
            Ok(None)
        }
        BlobRead::Absent => {
            view.document_note = Some("Its configuration is not in this repository.".to_owned());
            Ok(None)
        }
    }
}

pub(crate) enum BlobRead {
    Bytes(Bytes),
    TooLarge(u64),
    Absent,
}

pub(crate) async fn read_blob(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    descriptor: Option<&DescriptorDocument>,
    bytes_max: u64,
) -> Result<BlobRead, ApiError> {
    let Some(digest) = descriptor.and_then(|descriptor| descriptor.digest.clone()) else {
        return Ok(BlobRead::Absent);
    };
    let endpoint = Endpoint::BlobGet { name: name.clone(), digest: digest.clone() };
    let Some(access) = request.try_admit(&endpoint) else { return Ok(BlobRead::Absent) };
    let reader = match access.blob_open(&digest).await.map_err(ApiError::from) {
        Ok(reader) => reader,
        Err(error) if error.is_not_found() => return Ok(BlobRead::Absent),
        Err(error) => return Err(error),
    };
    let size = reader.blob().size_bytes;
    if size > bytes_max {
        return Ok(BlobRead::TooLarge(size));
    }
    let stream = reader.read(ByteRange { start: 0, end: size }).await?;
    let frames: Vec<Bytes> = stream
        .try_collect()
        .await
        .map_err(|error| ApiError::from(jreg_registry::Error::Store(error)))?;
    Ok(BlobRead::Bytes(Bytes::from(frames.concat())))
}
