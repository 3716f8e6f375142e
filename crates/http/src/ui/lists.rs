//! Pages of a repository beside its tags: manifests, deleted manifests, history, what is attached, why content is
//! kept, retention, usage.

use std::collections::HashSet;
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_access::Authorized;
use jreg_oci::{Digest, Endpoint, MountSource, PageParams, Reference, RepositoryName, Tag};
use jreg_registry::{
    EXPLAINED_MANIFESTS_MAX, ExplainReport, PREVIEWED_TAGS_MAX, PageRequest, RepositoryUsage,
    RetentionReason, RetentionVerdict, TagHistoryEntry, VerdictStatus,
};
use jreg_ui::document::DescriptorDocument;
use jreg_ui::{
    ArtifactKind, ChangeRow, ContentDifference, DeletedPage, DeletedRow, DeletedTagRow,
    HistoryPage, KeptPage, KeptReason, LifecyclePage, ManifestFacts, ManifestRow, ManifestsPage,
    QuotaRow, ReferrerRow, ReferrersPage, RepositoryUsagePage, UsageFigures, VerdictKind,
    VerdictRow, artifact, deleted_page, history_page, kept_page, lifecycle_page, manifests_page,
    referrers_page, repository_usage_page,
};

use super::PageResponse;
use super::images::{annotations_of, choose, cosign_tags, listed_facts, may_see_tag};
use super::query::UiQuery;
use super::request::{PageResult, UiRequest};
use super::sharing;
use super::tags::{head_of, remember};
use crate::error::ApiError;

/// Manifests on a page: of each two or three store requests.
const MANIFESTS_MAX: usize = 25;
/// Tags of a manifest that its row names.
const TAGS_OF_ROW_MAX: usize = 5;
/// Changes on a page of a history.
const CHANGES_MAX: usize = 20;
const DELETED_MAX: usize = 50;
const REFERRERS_MAX: usize = 50;
const READS_AT_ONCE: usize = 8;

fn after_of(query: &UiQuery) -> Option<String> {
    query.nonempty("after").map(str::to_owned)
}

fn page_of(limit: usize, query: &UiQuery) -> (PageRequest, PageParams) {
    let last = after_of(query);
    (PageRequest { limit, last: last.clone() }, PageParams { n: Some(limit), last })
}

pub(crate) async fn manifests(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    query: &UiQuery,
) -> PageResult {
    let (wanted, page) = page_of(MANIFESTS_MAX, query);
    let access = request.admit(&Endpoint::TagList { name: name.clone(), page }).await?;
    let _turn = request.context.ui.document_turn().await?;
    let found = access.manifests(&wanted, TAGS_OF_ROW_MAX).await?;
    let rows = found.items.into_iter().map(|details| {
        let facts = listed_facts(&details.manifest);
        remember(request, &facts);
        ManifestRow {
            digest: facts.digest.clone(),
            kind: facts.kind,
            artifact_type: details.artifact_type.unwrap_or_default(),
            size: (facts.kind != ArtifactKind::Index).then(|| facts.total_bytes()),
            subject: details.subject,
            tags: details.tags.into_iter().filter(|tag| may_see_tag(request, name, tag)).collect(),
            has_more_tags: details.has_more_tags,
        }
    });
    let view = ManifestsPage {
        head: head_of(request, name),
        rows: rows.collect(),
        is_first: wanted.last.is_none(),
        next: found.next,
    };
    Ok(PageResponse::Html(manifests_page(&request.page, &view)))
}

pub(crate) async fn deleted(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    query: &UiQuery,
) -> PageResult {
    let (wanted, page) = page_of(DELETED_MAX, query);
    let access = request.admit(&Endpoint::DeletedManifests { name: name.clone(), page }).await?;
    let found = access.deleted_manifests(&wanted).await?;
    let rows = found.items.into_iter().map(|deleted| DeletedRow {
        at: deleted.deleted_at(),
        by: deleted.origin.actor().map(str::to_owned),
        media_type: deleted.media_type.to_string(),
        digest: deleted.digest,
        artifact_type: deleted.artifact_type,
        size: deleted.size,
        tags: deleted.tags,
    });
    let (tags, next_tag) = match wanted.last {
        None => deleted_tags(request, name, &access, query).await?,
        Some(_) => (Vec::new(), None),
    };
    let view = DeletedPage {
        head: head_of(request, name),
        tags,
        next_tag,
        rows: rows.collect(),
        is_first: wanted.last.is_none(),
        next: found.next,
    };
    Ok(PageResponse::Html(deleted_page(&request.page, &view)))
}

/// Deleted tags that a page shows, each with a few store requests.
const DELETED_TAGS_MAX: usize = 20;

/// The deleted tags that the viewer might pull, each with what it pointed to, and where the next ones begin.
async fn deleted_tags(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    access: &Authorized,
    query: &UiQuery,
) -> Result<(Vec<DeletedTagRow>, Option<String>), ApiError> {
    let last = query.nonempty("after-tag").map(str::to_owned);
    let found = access.deleted_tags(&PageRequest { limit: DELETED_TAGS_MAX, last }).await?;
    let rows = found.items.into_iter().map(|tag| async move {
        let page = PageParams { n: Some(2), last: None };
        let endpoint = Endpoint::TagHistory { name: name.clone(), tag: tag.clone(), page };
        let Some(access) = request.try_admit(&endpoint) else { return Ok::<_, ApiError>(None) };
        let wanted = PageRequest { limit: 2, last: None };
        let changes = match access.tag_history(&tag, &wanted).await.map_err(ApiError::from) {
            Ok(changes) => changes.items,
            // It has expired meanwhile.
            Err(error) if error.is_not_found() => return Ok(None),
            Err(error) => return Err(error),
        };
        let digest = changes.iter().find_map(|change| change.digest.clone());
        let manifest = match digest.clone() {
            Some(digest) => read_manifest(&access, digest).await,
            None => None,
        };
        Ok(changes.first().filter(|change| change.digest.is_none()).map(|change| DeletedTagRow {
            at: change.change.time(),
            by: change.origin.actor().map(str::to_owned),
            is_present: manifest.is_some(),
            digest,
            tag,
        }))
    });
    let rows: Vec<_> = rows.collect();
    let rows = stream::iter(rows).buffered(READS_AT_ONCE);
    let rows: Vec<Option<DeletedTagRow>> = rows.try_collect().await?;
    Ok((rows.into_iter().flatten().collect(), found.next))
}

pub(crate) async fn history(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    tag: &Tag,
    query: &UiQuery,
) -> PageResult {
    let (wanted, page) = page_of(CHANGES_MAX, query);
    let endpoint = Endpoint::TagHistory { name: name.clone(), tag: tag.clone(), page };
    let access = request.admit(&endpoint).await?;
    let found = access.tag_history(tag, &wanted).await?;
    let is_first = wanted.last.is_none();
    let current = match is_first {
        true => found.items.first().filter(|change| change.until.is_none()).cloned(),
        false => None,
    };
    let current = match (current, is_first) {
        (Some(change), _) => change.digest,
        (None, true) => None,
        (None, false) => current_digest(&access, tag).await?,
    };
    let manifests = read_manifests(&access, &found.items).await;
    let endpoint = Endpoint::TagRestore { name: name.clone(), tag: tag.clone() };
    let view = HistoryPage {
        changes: changes(found.items, &manifests),
        name: name.clone(),
        tag: tag.clone(),
        is_first,
        next: found.next,
        may_push: request.may(&endpoint),
        current,
    };
    Ok(PageResponse::Html(history_page(&request.page, &view)))
}

async fn current_digest(access: &Authorized, tag: &Tag) -> Result<Option<Digest>, ApiError> {
    let details = access.tag_details(vec![tag.clone()]).await?;
    Ok(details.into_iter().next().map(|details| details.digest))
}

/// The manifest of each change, if it is there; of an index its usual entry, in the second place.
async fn read_manifests(access: &Authorized, changes: &[TagHistoryEntry]) -> Vec<ReadChange> {
    let reads = changes.iter().map(|change| async move {
        let Some(digest) = change.digest.clone() else { return (None, None) };
        let Some(manifest) = read_manifest(access, digest).await else { return (None, None) };
        let entry = choose(&manifest.document, &UiQuery::default());
        let entry = match entry.and_then(|entry| entry.digest.clone()) {
            Some(digest) if manifest.kind == ArtifactKind::Index => {
                read_manifest(access, digest).await
            }
            _ => None,
        };
        (Some(manifest), entry)
    });
    let reads: Vec<_> = reads.collect();
    stream::iter(reads).buffered(READS_AT_ONCE).collect().await
}

type ReadChange = (Option<ManifestFacts>, Option<ManifestFacts>);

async fn read_manifest(access: &Authorized, digest: Digest) -> Option<ManifestFacts> {
    let manifest = access.manifest_get(&Reference::Digest(digest)).await;
    manifest.ok().map(|manifest| listed_facts(&manifest))
}

fn changes(entries: Vec<TagHistoryEntry>, manifests: &[ReadChange]) -> Vec<ChangeRow> {
    let rows = entries.into_iter().enumerate().map(|(index, entry)| {
        let content = |index: usize| {
            let (manifest, entry) = manifests.get(index)?;
            entry.as_ref().or(manifest.as_ref())
        };
        let is_present = manifests.get(index).is_some_and(|(manifest, _)| manifest.is_some());
        ChangeRow {
            at: entry.change.time(),
            until: entry.until,
            by: entry.origin.actor().map(str::to_owned),
            difference: content(index)
                .zip(content(index + 1))
                .and_then(|(now, before)| difference(now, before)),
            is_present,
            digest: entry.digest,
        }
    });
    rows.collect()
}

/// How the layers of two manifests differ; `None` for those without.
fn difference(now: &ManifestFacts, before: &ManifestFacts) -> Option<ContentDifference> {
    let layers = |of: &ManifestFacts| artifact::files(&of.document).to_vec();
    let (now, before) = (layers(now), layers(before));
    if now.is_empty() || before.is_empty() {
        return None;
    }
    let digests = |layers: &[DescriptorDocument]| -> HashSet<Option<Digest>> {
        layers.iter().map(|layer| layer.digest.clone()).collect()
    };
    let (now_has, before_had) = (digests(&now), digests(&before));
    let mut found = ContentDifference::default();
    for layer in &now {
        match before_had.contains(&layer.digest) {
            true => found.kept += 1,
            false => {
                found.added += 1;
                found.added_bytes = found.added_bytes.saturating_add(layer.size);
            }
        }
    }
    for layer in before.iter().filter(|layer| !now_has.contains(&layer.digest)) {
        found.removed += 1;
        found.removed_bytes = found.removed_bytes.saturating_add(layer.size);
    }
    Some(found)
}

/// The tag by which the viewer came to a page of a digest, if it still points there.
async fn tag_of_query(
    access: &Authorized,
    digest: &Digest,
    query: &UiQuery,
) -> Result<Option<Tag>, ApiError> {
    let Some(tag) = query.get("tag").parse::<Tag>().ok() else { return Ok(None) };
    Ok(current_digest(access, &tag).await?.filter(|current| current == digest).map(|_| tag))
}

pub(crate) async fn referrers(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    digest: &Digest,
    query: &UiQuery,
) -> PageResult {
    let (wanted, page) = page_of(REFERRERS_MAX, query);
    let endpoint = Endpoint::Referrers {
        name: name.clone(),
        subject: digest.clone(),
        artifact_type: None,
        page,
    };
    let access = request.admit(&endpoint).await?;
    let found = access.referrers(digest, None, &wanted).await?;
    let mut rows: Vec<ReferrerRow> = found
        .items
        .into_iter()
        .map(|referrer| {
            let annotations = annotations_of(&referrer.json);
            let size = jreg_ui::document::parse::<DescriptorDocument>(&referrer.json);
            let artifact_type = referrer.artifact_type.unwrap_or_default();
            ReferrerRow {
                kind: artifact::referrer_kind(&artifact_type, &annotations),
                digest: referrer.digest,
                artifact_type,
                size: size.map_or(0, |descriptor| descriptor.size),
                annotations,
                by_tag: None,
            }
        })
        .collect();
    if wanted.last.is_none() {
        rows.extend(cosign_rows(&access, digest).await?);
    }
    let view = ReferrersPage {
        tag: tag_of_query(&access, digest, query).await?,
        name: name.clone(),
        digest: digest.clone(),
        rows,
        is_first: wanted.last.is_none(),
        next: found.next,
    };
    Ok(PageResponse::Html(referrers_page(&request.page, &view)))
}

async fn cosign_rows(access: &Authorized, digest: &Digest) -> Result<Vec<ReferrerRow>, ApiError> {
    let tags = cosign_tags(digest);
    let found = access.tag_details(tags.iter().map(|(tag, _)| tag.clone()).collect()).await?;
    let rows = found.into_iter().filter_map(|details| {
        let (_, kind) = tags.iter().find(|(tag, _)| *tag == details.tag)?;
        Some(ReferrerRow {
            digest: details.digest,
            kind: *kind,
            artifact_type: details.media_type.to_string(),
            size: details.manifest_bytes,
            annotations: Default::default(),
            by_tag: Some(details.tag),
        })
    });
    Ok(rows.collect())
}

pub(crate) async fn kept(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    digest: &Digest,
    query: &UiQuery,
) -> PageResult {
    let page = PageParams { n: None, last: None };
    let access = request.admit(&Endpoint::TagList { name: name.clone(), page }).await?;
    let state = &request.context.ui;
    let report = access.explain(digest, &state.gc).await?;
    let (reasons, goes_after) = match report {
        Some(report) => {
            let (reasons, goes_after) = reasons_of(report)?;
            (Some(reasons), goes_after)
        }
        None => (None, None),
    };
    let tags: Vec<&Tag> = reasons
        .iter()
        .flatten()
        .filter_map(|reason| match reason {
            KeptReason::Tag(tag) => Some(tag),
            _ => None,
        })
        .collect();
    let verdicts = match tags.is_empty() {
        true => Vec::new(),
        false => access.preview_retention(&state.retention).await?.verdicts.unwrap_or_default(),
    };
    let verdicts = verdicts.into_iter().filter(|verdict| tags.contains(&&verdict.tag));
    let verdicts: Vec<_> =
        verdicts.map(|verdict| (verdict.tag, verdict.reason, verdict.expires.map(time))).collect();
    let mut reasons = reasons;
    if let Some(reasons) = &mut reasons {
        reasons.retain(|reason| match reason {
            KeptReason::Tag(tag) => may_see_tag(request, name, tag),
            _ => true,
        });
    }
    let view = KeptPage {
        tag: tag_of_query(&access, digest, query).await?,
        name: name.clone(),
        digest: digest.clone(),
        reasons,
        goes_after,
        verdicts: verdicts
            .into_iter()
            .filter(|(tag, _, _)| may_see_tag(request, name, tag))
            .collect(),
        manifests_max: EXPLAINED_MANIFESTS_MAX,
    };
    Ok(PageResponse::Html(kept_page(&request.page, &view)))
}

fn reasons_of(report: ExplainReport) -> Result<(Vec<KeptReason>, Option<SystemTime>), ApiError> {
    let is_absent = report.holdings.is_empty();
    if is_absent {
        return Err(ApiError::not_found());
    }
    let goes_after = report.holdings.iter().filter_map(|holding| holding.goes_after).max();
    let reasons = report.holdings.into_iter().flat_map(|holding| holding.reasons);
    let reasons = reasons.map(|reason| match reason {
        RetentionReason::Tag { tag } => KeptReason::Tag(tag),
        RetentionReason::Manifest { digest } => KeptReason::Manifest(digest),
        RetentionReason::Subject { digest } => KeptReason::Subject(digest),
        RetentionReason::UntaggedKept => KeptReason::UntaggedKept,
        RetentionReason::Mirrored => KeptReason::Mirrored,
    });
    Ok((reasons.take(REASONS_MAX).collect(), goes_after.map(time)))
}

/// Reasons that a page lists.
const REASONS_MAX: usize = 200;

fn time(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)
}

pub(crate) async fn lifecycle(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    query: &UiQuery,
) -> PageResult {
    let page = PageParams { n: None, last: None };
    let access = request.admit(&Endpoint::TagList { name: name.clone(), page }).await?;
    let preview = access.preview_retention(&request.context.ui.retention).await?;
    let verdicts = preview.verdicts.map(|verdicts| {
        let seen = verdicts.into_iter().filter(|verdict| may_see_tag(request, name, &verdict.tag));
        seen.map(verdict_row).collect()
    });
    let view = LifecyclePage {
        head: head_of(request, name),
        verdicts,
        tags_max: PREVIEWED_TAGS_MAX,
        rules: vec![match preview.entry {
            Some(number) => format!("Entry {number} of the lifecycle file decides."),
            None => {
                "No entry of a lifecycle file matches this repository: retention keeps every tag."
                    .to_owned()
            }
        }],
        shown: query.get("show").to_owned(),
    };
    Ok(PageResponse::Html(lifecycle_page(&request.page, &view)))
}

fn verdict_row(verdict: RetentionVerdict) -> VerdictRow {
    VerdictRow {
        tag: verdict.tag,
        status: match verdict.status {
            VerdictStatus::Keep => VerdictKind::Keep,
            VerdictStatus::Protected => VerdictKind::Protected,
            VerdictStatus::Remove => VerdictKind::Remove,
        },
        reason: verdict.reason,
        expires: verdict.expires.map(time),
        pushed: verdict.pushed.map(time),
        bytes: verdict.only_bytes,
    }
}

pub(crate) async fn usage(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    query: &UiQuery,
) -> PageResult {
    let page = PageParams { n: Some(1), last: None };
    let access = request.admit(&Endpoint::TagList { name: name.clone(), page }).await?;
    let (figures, sharing) = match query.nonempty("count") {
        Some(_) => {
            let figures = figures(&access.repository_usage().await?);
            (Some(figures), sharing::of_repository(&access).await?)
        }
        None => (None, None),
    };
    if let Some(figures) = &figures {
        request.context.ui.note_size(name.clone(), figures.bytes);
    }
    let quotas = quotas(request, name);
    let view = RepositoryUsagePage { head: head_of(request, name), figures, sharing, quotas };
    Ok(PageResponse::Html(repository_usage_page(&request.page, &view)))
}

/// The quotas that a repository counts in, for those whose pushes they limit.
fn quotas(request: &UiRequest<'_>, name: &RepositoryName) -> Vec<QuotaRow> {
    let endpoint = Endpoint::UploadStart {
        name: name.clone(),
        digest: None,
        algorithm: None,
        mount: None,
        from: MountSource::Unknown,
    };
    let access = request.try_admit(&endpoint);
    let usage = access.and_then(|access| access.quota_usage().ok()).unwrap_or_default();
    let rows = usage.into_iter().map(|pool| QuotaRow {
        number: pool.number,
        sentence: String::new(),
        used: pool.used,
        limit: pool.limit,
        is_warned: pool.is_warned,
    });
    rows.collect()
}

pub(crate) fn figures(usage: &RepositoryUsage) -> UsageFigures {
    UsageFigures {
        manifests: usage.manifests,
        blobs: usage.blobs,
        bytes: usage.manifest_bytes.saturating_add(usage.blob_bytes),
        logical_bytes: usage.logical_bytes,
        deleted_manifests: usage.deleted_manifests,
        deleted_bytes: usage.deleted_bytes,
        uploads: usage.uploads,
        upload_bytes: usage.upload_bytes,
        unreadable: usage.unreadable,
    }
}
