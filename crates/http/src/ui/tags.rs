//! The tags of a repository.

use std::cmp::Ordering;
use std::sync::Arc;

use futures::stream::{self, StreamExt};
use jreg_access::Authorized;
use jreg_oci::{Endpoint, PageParams, Reference, RepositoryName, Tag};
use jreg_registry::{LIST_AGE_MAX, ListedTag, PageRequest, TagDetails, TagList, search_names};
use jreg_ui::document::DescriptorDocument;
use jreg_ui::link::with_query;
use jreg_ui::{
    ArtifactKind, ManifestFacts, RepositoryHead, TagKind, TagOrder, TagRow, TagsPage, artifact,
    tags_page,
};

use super::images::{choose, listed_facts};
use super::query::UiQuery;
use super::request::{PageResult, UiRequest};
use super::{PageResponse, attached};
use crate::error::ApiError;
use crate::ui_state::ManifestSummary;

/// Tags on a page: as many records are read.
const ROWS_MAX: usize = 50;
/// Manifests that are read at the same time.
const READS_AT_ONCE: usize = 16;
const SUGGESTIONS_MAX: usize = 5;

/// What the head of a repository's pages says.
pub(crate) fn head_of(request: &UiRequest<'_>, name: &RepositoryName) -> RepositoryHead {
    let page = PageParams { n: None, last: None };
    let digest = jreg_oci::Digest::of(jreg_oci::Algorithm::Sha256, b"");
    RepositoryHead {
        may_delete: request.may(&Endpoint::DeletedManifests { name: name.clone(), page }),
        may_push: request.may(&Endpoint::ManifestRestore { name: name.clone(), digest }),
        mirror_of: request.context.gate.mirror_of(name).map(str::to_owned),
        name: name.clone(),
    }
}

/// Which tags a page shows.
#[derive(Default)]
struct PageOfTags {
    tags: Vec<Tag>,
    count: Option<usize>,
    is_too_large: bool,
    age_max_s: Option<u64>,
    next: Option<(&'static str, String)>,
    suggestions: Vec<Tag>,
}

pub(crate) async fn list(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    query: &UiQuery,
) -> PageResult {
    let after = query.nonempty("after").map(str::to_owned);
    let page = PageParams { n: Some(ROWS_MAX), last: after.clone() };
    let access = request.admit(&Endpoint::TagList { name: name.clone(), page }).await?;
    let filter = query.get("q").trim();
    let order = TagOrder::parse(query.get("order"));
    let from: usize = query.get("from").parse().unwrap_or(0);
    let page = match (order, filter) {
        (TagOrder::Name, "") => by_name(&access, after.clone()).await?,
        _ => in_memory(&access, order, filter, from, after.as_deref()).await?,
    };
    let details = access.tag_details(page.tags).await?;
    let mut rows = rows(request, &access, details, request.shows_details(query)).await;
    if request.shows_details(query) {
        attached::add_to_rows(&access, &mut rows).await?;
    }
    let has_pulls = query.nonempty("pulls").is_some() && request.context.gate.tracks_pulls();
    if has_pulls {
        add_last_pulls(&access, &mut rows).await?;
    }
    let is_unknown = |row: &TagRow| row.size.is_none();
    let has_unknown = !request.shows_details(query) && rows.iter().any(is_unknown);
    let here_with = |more: &str| {
        let all = ["q", "order", "after", "from", "details", "pulls"].into_iter();
        let all = all.map(|key| (key, if key == more { "yes" } else { query.get(key) }));
        with_query(&request.page.paths.repository(name), &all.collect::<Vec<_>>())
    };
    let details = has_unknown.then(|| here_with("details"));
    let offers_pulls = request.context.gate.tracks_pulls() && !has_pulls && !rows.is_empty();
    let pulls = offers_pulls.then(|| here_with("pulls"));
    let view = TagsPage {
        head: head_of(request, name),
        rows,
        order,
        filter: filter.to_owned(),
        count: page.count,
        is_too_large: page.is_too_large,
        age_max_s: page.age_max_s,
        is_first: after.is_none() && from == 0,
        next: page.next,
        details,
        has_pulls,
        pulls,
        suggestions: page.suggestions,
    };
    Ok(PageResponse::Html(tags_page(&request.page, &view)))
}

/// One listing of the store.
async fn by_name(access: &Authorized, after: Option<String>) -> Result<PageOfTags, ApiError> {
    let found = access.tags(&PageRequest { limit: ROWS_MAX, last: after.clone() }).await?;
    let is_all = after.is_none() && found.next.is_none();
    Ok(PageOfTags {
        count: is_all.then_some(found.items.len()),
        tags: found.items,
        next: found.next.map(|next| ("after", next)),
        ..PageOfTags::default()
    })
}

/// From the list of all tags in memory.
async fn in_memory(
    access: &Authorized,
    order: TagOrder,
    filter: &str,
    from: usize,
    after: Option<&str>,
) -> Result<PageOfTags, ApiError> {
    let list = access.tag_list().await?;
    if !list.is_whole {
        // The filter is where the list begins.
        let start = after.or(Some(filter).filter(|filter| !filter.is_empty()));
        let page = by_name(access, start.map(str::to_owned)).await?;
        return Ok(PageOfTags { is_too_large: true, ..page });
    }
    let matching = matching(&list, filter, false);
    let suggestions = match matching.is_empty() && !filter.is_empty() {
        true => matching_first(&list, filter),
        false => Vec::new(),
    };
    let (count, next) = (matching.len(), from.saturating_add(ROWS_MAX));
    let mut first = matching;
    sort_first(&mut first, order, next);
    let tags = first.into_iter().skip(from).map(|listed| listed.tag.clone()).collect();
    Ok(PageOfTags {
        count: Some(count),
        next: (next < count).then(|| ("from", next.to_string())),
        age_max_s: Some(LIST_AGE_MAX.as_secs()),
        tags,
        suggestions,
        is_too_large: false,
    })
}

fn matching<'a>(list: &'a TagList, filter: &str, with_typos: bool) -> Vec<&'a ListedTag> {
    if filter.is_empty() {
        return list.tags.iter().collect();
    }
    let names = list.tags.iter().map(|listed| listed.tag.as_str());
    let found = search_names(filter, names, with_typos);
    found.into_iter().filter_map(|(_, index)| list.tags.get(index)).collect()
}

fn matching_first(list: &Arc<TagList>, filter: &str) -> Vec<Tag> {
    let similar = matching(list, filter, true).into_iter();
    similar.take(SUGGESTIONS_MAX).map(|listed| listed.tag.clone()).collect()
}

/// Keeps the first `count` tags of an order, sorted: of many only these are.
fn sort_first(tags: &mut Vec<&ListedTag>, order: TagOrder, count: usize) {
    let compare = |a: &&ListedTag, b: &&ListedTag| {
        let by_name = || a.tag.as_str().cmp(b.tag.as_str());
        match order {
            TagOrder::Name => by_name(),
            TagOrder::Newest => b.written.cmp(&a.written).then_with(by_name),
            TagOrder::Oldest => a.written.cmp(&b.written).then_with(by_name),
            TagOrder::Version => {
                compare_versions(b.tag.as_str(), a.tag.as_str()).then_with(by_name)
            }
        }
    };
    if count < tags.len() {
        tags.select_nth_unstable_by(count, compare);
        tags.truncate(count);
    }
    tags.sort_unstable_by(compare);
}

/// Versions in their order: runs of digits as numbers, `1.0-rc1` before `1.0`, and what does not begin with a
/// number (but for a `v`) before all versions.
fn compare_versions(one: &str, other: &str) -> Ordering {
    let (one, other) = (without_v(one), without_v(other));
    let is_version = |text: &str| text.starts_with(is_digit);
    is_version(one).cmp(&is_version(other)).then_with(|| {
        let (mut left, mut right) = (runs(one), runs(other));
        loop {
            let order = match (left.next(), right.next()) {
                (None, None) => return Ordering::Equal,
                // What follows a hyphen comes before the release.
                (None, Some(rest)) => {
                    if rest.starts_with('-') {
                        Ordering::Greater
                    } else {
                        Ordering::Less
                    }
                }
                (Some(rest), None) => {
                    if rest.starts_with('-') {
                        Ordering::Less
                    } else {
                        Ordering::Greater
                    }
                }
                (Some(a), Some(b)) => compare_runs(a, b),
            };
            if order != Ordering::Equal {
                return order;
            }
        }
    })
}

fn without_v(text: &str) -> &str {
    let rest = text.strip_prefix(['v', 'V']).filter(|rest| rest.starts_with(is_digit));
    rest.unwrap_or(text)
}

fn is_digit(c: char) -> bool {
    c.is_ascii_digit()
}

fn compare_runs(one: &str, other: &str) -> Ordering {
    match (one.starts_with(is_digit), other.starts_with(is_digit)) {
        (true, true) => {
            let (a, b) = (one.trim_start_matches('0'), other.trim_start_matches('0'));
            a.len().cmp(&b.len()).then_with(|| a.cmp(b))
        }
        // 1.0-rc1 is before 1.0.1.
        _ => other.starts_with('-').cmp(&one.starts_with('-')).then_with(|| one.cmp(other)),
    }
}

/// The runs of digits and of other characters.
fn runs(text: &str) -> impl Iterator<Item = &str> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let first = rest.chars().next()?;
        let digits = is_digit(first);
        let end = rest.find(|c| is_digit(c) != digits).unwrap_or(rest.len());
        let (run, left) = rest.split_at_checked(end)?;
        rest = left;
        Some(run)
    })
}

async fn add_last_pulls(access: &Authorized, rows: &mut [TagRow]) -> Result<(), ApiError> {
    let tags: Vec<_> = rows.iter().map(|row| (row.tag.clone(), row.digest.clone())).collect();
    for (row, pulled) in rows.iter_mut().zip(access.last_pulls(&tags).await?) {
        row.pulled = pulled;
    }
    Ok(())
}

async fn rows(
    request: &UiRequest<'_>,
    access: &Authorized,
    details: Vec<TagDetails>,
    reads_manifests: bool,
) -> Vec<TagRow> {
    let rows = details.into_iter().map(|details| async move {
        let summary = match request.context.ui.summary(&details.digest) {
            Some(summary) => Some(summary),
            None => read_summary(request, access, &details, reads_manifests).await,
        };
        let size = match &summary {
            Some(summary) => size_of(request, access, summary, reads_manifests).await,
            None => None,
        };
        TagRow { size, ..row(details, summary.as_deref()) }
    });
    let rows: Vec<_> = rows.collect();
    stream::iter(rows).buffered(READS_AT_ONCE).collect().await
}

fn row(details: TagDetails, summary: Option<&ManifestSummary>) -> TagRow {
    let media_type = details.media_type.as_str();
    let is_index = media_type.contains("image.index") || media_type.contains("manifest.list");
    TagRow {
        kind: if is_index { TagKind::Index } else { TagKind::Manifest },
        platforms: summary.map(|summary| summary.platforms.clone()).unwrap_or_default(),
        size: None,
        kind_name: summary.and_then(|summary| summary.kind),
        attached: Vec::new(),
        pulled: None,
        by: details.origin.actor().map(str::to_owned),
        immutable: details.immutable.map(|rule| rule.to_string()),
        tag: details.tag,
        digest: details.digest,
        pushed: details.pushed,
    }
}

/// The size of a manifest; of an index that of the entry that pages show first.
async fn size_of(
    request: &UiRequest<'_>,
    access: &Authorized,
    summary: &ManifestSummary,
    reads_manifests: bool,
) -> Option<u64> {
    let Some(entry) = summary.entry.as_ref() else { return summary.bytes };
    if let Some(known) = request.context.ui.summary(entry) {
        return known.bytes;
    }
    let manifest = match access.cached_manifest(entry) {
        Some(manifest) => manifest,
        None if reads_manifests => {
            access.manifest_get(&Reference::Digest(entry.clone())).await.ok()?
        }
        None => return None,
    };
    remember(request, &listed_facts(&manifest)).bytes
}

/// The summary of a manifest that is in memory; of another one only if asked for.
async fn read_summary(
    request: &UiRequest<'_>,
    access: &Authorized,
    details: &TagDetails,
    reads_manifests: bool,
) -> Option<Arc<ManifestSummary>> {
    let manifest = match access.cached_manifest(&details.digest) {
        Some(manifest) => manifest,
        None if reads_manifests => {
            access.manifest_get(&Reference::Digest(details.digest.clone())).await.ok()?
        }
        None => return None,
    };
    let facts = listed_facts(&manifest);
    Some(remember(request, &facts))
}

/// Keeps what lists say of a manifest.
pub(crate) fn remember(request: &UiRequest<'_>, facts: &ManifestFacts) -> Arc<ManifestSummary> {
    let entries = facts.document.manifests.items.iter();
    let platforms = entries.filter(|entry| !artifact::is_attached(entry));
    let entry = match facts.kind {
        ArtifactKind::Index => choose(&facts.document, &UiQuery::default()),
        _ => None,
    };
    let summary = Arc::new(ManifestSummary {
        entry: entry.and_then(|entry| entry.digest.clone()),
        platforms: platforms.take(PLATFORMS_MAX).map(listed_platform).collect(),
        bytes: (facts.kind != ArtifactKind::Index).then(|| facts.total_bytes()),
        kind: match facts.kind {
            ArtifactKind::Image | ArtifactKind::Index => None,
            other => Some(other.name()),
        },
    });
    request.context.ui.add_summary(facts.digest.clone(), Arc::clone(&summary));
    summary
}

/// Platforms of an index that lists name.
const PLATFORMS_MAX: usize = 24;
/// Characters of a platform that lists show: thousands of summaries are kept.
const PLATFORM_CHARS_MAX: usize = 64;

/// The platform of an entry of an index, as lists name it.
fn listed_platform(entry: &DescriptorDocument) -> String {
    let mut name = artifact::platform_name(entry);
    if let Some((end, _)) = name.char_indices().nth(PLATFORM_CHARS_MAX) {
        name.truncate(end);
        name.push('…');
        name.shrink_to_fit();
    }
    name
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: summaries of indexes with long names of platforms took gigabytes.
    #[test]
    fn fixed_lists_keep_no_long_names_of_platforms() {
        let platform = |os: String| {
            let platform = jreg_ui::document::PlatformDocument { os, ..Default::default() };
            let entry = DescriptorDocument { platform: Some(platform), ..Default::default() };
            listed_platform(&entry)
        };
        assert_eq!(platform("ö".repeat(PLATFORM_CHARS_MAX)), "ö".repeat(PLATFORM_CHARS_MAX));
        let long = platform("ö".repeat(100_000));
        assert_eq!(long, format!("{}…", "ö".repeat(PLATFORM_CHARS_MAX)));
        assert!(long.capacity() < 1000);
    }

    #[test]
    fn versions_have_their_order() {
        let mut tags = [
            "latest",
            "1.10",
            "v1.9",
            "1.9.1",
            "2",
            "1.10-rc1",
            "1.10-rc10",
            "1.10-rc2",
            "10.0",
            "1.9-alpine",
            "edge",
            "01.2",
        ];
        tags.sort_by(|a, b| compare_versions(b, a));
        assert_eq!(
            tags,
            [
                "10.0",
                "2",
                "1.10",
                "1.10-rc10",
                "1.10-rc2",
                "1.10-rc1",
                "1.9.1",
                "v1.9",
                "1.9-alpine",
                "01.2",
                "latest",
                "edge"
            ]
        );
    }

    #[test]
    fn the_order_of_versions_is_total() {
        let tags = ["1", "1-a", "1.0", "1a", "a1", "v", "v1", "", "1-", "-1", "1.-", "00", "0"];
        for a in tags {
            for b in tags {
                assert_eq!(compare_versions(a, b), compare_versions(b, a).reverse(), "{a} {b}");
                for c in tags {
                    if compare_versions(a, b).is_le() && compare_versions(b, c).is_le() {
                        assert!(compare_versions(a, c).is_le(), "{a} {b} {c}");
                    }
                }
            }
        }
    }
}
