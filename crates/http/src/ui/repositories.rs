//! The list of repositories, and the search.

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_access::Authorized;
use jreg_oci::{Endpoint, PageParams, RepositoryName, Tag};
use jreg_registry::{PageRequest, search_names};
use jreg_ui::{
    RepositoriesPage, RepositoryRow, RepositorySummary, SearchPage, repositories_page, search_page,
};

use super::PageResponse;
use super::query::UiQuery;
use super::request::{PageResult, UiRequest};
use crate::error::ApiError;

/// Rows of a page.
const ROWS_MAX: usize = 50;
/// Names that are listed for the rows of a page: one store request.
const NAMES_MAX: usize = 1000;
/// Repositories in which a search looks for a tag, and tags that it shows of each.
const TAG_REPOSITORIES_MAX: usize = 3;
const TAGS_MAX: usize = 10;
/// Repositories whose tags are listed at the same time.
const LISTINGS_AT_ONCE: usize = 16;
/// Maximum length of a query.
const QUERY_CHARS_MAX: usize = 300;

pub(crate) async fn list(request: &UiRequest<'_>, query: &UiQuery) -> PageResult {
    let folder = query.get("in").trim_matches('/').to_owned();
    let after = query.nonempty("after").map(str::to_owned);
    let start = after.clone().or_else(|| (!folder.is_empty()).then(|| format!("{folder}/")));
    let wanted = PageRequest { limit: NAMES_MAX, last: start.clone() };
    let page = PageParams { n: Some(NAMES_MAX), last: start };
    let access = request.admit(&Endpoint::Catalog { page }).await?;
    let found = access.catalog(&wanted).await?;
    let within = match folder.as_str() {
        "" => String::new(),
        folder => format!("{folder}/"),
    };
    let listed = found.items.len();
    let names: Vec<RepositoryName> =
        found.items.into_iter().take_while(|name| name.as_str().starts_with(&within)).collect();
    // After the folder there are others.
    let more = found.next.filter(|_| names.len() == listed);
    let (rows, next) = rows_of(&names, &within, more);
    let has_details = request.shows_details(query);
    let rows = if has_details { with_summaries(request, rows).await? } else { rows };
    let rows = rows.into_iter().map(|row| with_what_is_known(request, row)).collect();
    let is_first = after.is_none();
    let after = after.unwrap_or_default();
    let view = RepositoriesPage { folder, rows, is_first, next, has_details, after };
    Ok(PageResponse::Html(repositories_page(&request.page, &view)))
}

/// Adds what a listing of its tags says of each repository.
async fn with_summaries(
    request: &UiRequest<'_>,
    rows: Vec<RepositoryRow>,
) -> Result<Vec<RepositoryRow>, ApiError> {
    let rows = rows.into_iter().map(|row| async move {
        let RepositoryRow::Repository { name, .. } = row else { return Ok(row) };
        let page = PageParams { n: None, last: None };
        let endpoint = Endpoint::TagList { name: name.clone(), page };
        let summary = match request.try_admit(&endpoint) {
            Some(access) => Some(access.tag_summary().await?),
            None => None,
        };
        let summary = summary.map(|found| RepositorySummary {
            tags: Some(found.tags as u64),
            has_more_tags: found.has_more,
            pushed: found.pushed,
            ..RepositorySummary::default()
        });
        Ok(RepositoryRow::Repository { name, summary })
    });
    let rows: Vec<_> = rows.collect();
    stream::iter(rows).buffered(LISTINGS_AT_ONCE).try_collect().await
}

/// Adds what is known without a request.
fn with_what_is_known(request: &UiRequest<'_>, row: RepositoryRow) -> RepositoryRow {
    let RepositoryRow::Repository { name, summary } = row else { return row };
    let summary = RepositorySummary {
        mirror_of: request.context.gate.mirror_of(&name).map(str::to_owned),
        size: request.context.ui.size_of(&name),
        ..summary.unwrap_or_default()
    };
    RepositoryRow::Repository { name, summary: Some(summary) }
}

/// A row for each repository, and for each folder of several; and where the next page begins.
fn rows_of(
    names: &[RepositoryName],
    within: &str,
    more: Option<String>,
) -> (Vec<RepositoryRow>, Option<String>) {
    let mut rows = Vec::new();
    let mut index = 0;
    while let Some(name) = names.get(index) {
        if rows.len() == ROWS_MAX {
            let last = index.checked_sub(1).and_then(|last| names.get(last));
            return (rows, last.map(ToString::to_string));
        }
        let inner = name.as_str().strip_prefix(within).unwrap_or(name.as_str());
        let Some((component, _)) = inner.split_once('/') else {
            rows.push(RepositoryRow::Repository { name: name.clone(), summary: None });
            index += 1;
            continue;
        };
        let path = format!("{within}{component}");
        let folder = format!("{path}/");
        let inside = names.get(index..).unwrap_or_default().iter();
        let count = inside.take_while(|name| name.as_str().starts_with(&folder)).count();
        let is_cut = index + count == names.len() && more.is_some();
        match count {
            1 if !is_cut => {
                rows.push(RepositoryRow::Repository { name: name.clone(), summary: None });
            }
            _ => rows.push(RepositoryRow::Folder { path, count, has_more: is_cut }),
        }
        index += count;
        if is_cut {
            // Names have no tilde: so this is after all of the folder.
            return (rows, Some(format!("{folder}~")));
        }
    }
    (rows, more)
}

pub(crate) async fn search(request: &UiRequest<'_>, query: &UiQuery) -> PageResult {
    let shown: String = query.get("q").trim().chars().take(QUERY_CHARS_MAX).collect();
    let page = PageParams { n: None, last: None };
    let access = request.admit(&Endpoint::Catalog { page }).await?;
    let (name, tag) = name_and_tag(&shown, &request.page.host);
    let mut view = SearchPage { query: shown.clone(), is_whole: true, ..SearchPage::default() };
    if !name.is_empty() {
        let found = access.search(name, ROWS_MAX).await?;
        (view.repositories, view.has_more) = (found.found, found.has_more);
        (view.suggestions, view.is_whole) = (found.suggestions, found.is_whole);
    }
    if let Some(tag) = tag {
        let likely = view.repositories.iter().chain(&view.suggestions);
        let likely: Vec<_> = likely.take(TAG_REPOSITORIES_MAX).cloned().collect();
        for name in likely {
            let tags = find_tags(request, &name, tag).await?;
            view.tags.extend(tags.into_iter().map(|tag| (name.clone(), tag)));
        }
    }
    Ok(PageResponse::Html(search_page(&request.page, &view)))
}

/// The parts of a query, which may be a reference that was copied somewhere.
fn name_and_tag<'a>(query: &'a str, host: &str) -> (&'a str, Option<&'a str>) {
    let query = query.split_once("://").map_or(query, |(_, rest)| rest);
    let query = query.strip_prefix(host).and_then(|rest| rest.strip_prefix('/')).unwrap_or(query);
    let query = query.split('@').next().unwrap_or_default();
    match query.split_once(':') {
        Some((name, tag)) => (name, Some(tag).filter(|tag| !tag.is_empty())),
        None => (query, None),
    }
}

/// The tags of a repository that match, similar ones if none does.
async fn find_tags(
    request: &UiRequest<'_>,
    name: &RepositoryName,
    tag: &str,
) -> Result<Vec<Tag>, ApiError> {
    let page = PageParams { n: None, last: None };
    let Some(access) = request.try_admit(&Endpoint::TagList { name: name.clone(), page }) else {
        return Ok(Vec::new());
    };
    match matching_tags(&access, tag, false).await? {
        found if found.is_empty() => matching_tags(&access, tag, true).await,
        found => Ok(found),
    }
}

async fn matching_tags(
    access: &Authorized,
    tag: &str,
    with_typos: bool,
) -> Result<Vec<Tag>, ApiError> {
    let list = access.tag_list().await?;
    let names = list.tags.iter().map(|listed| listed.tag.as_str());
    let found = search_names(tag, names, with_typos).into_iter().take(TAGS_MAX);
    Ok(found.filter_map(|(_, index)| list.tags.get(index)).map(|of| of.tag.clone()).collect())
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn shown(names: &[&str], within: &str, more: Option<&str>) -> (Vec<String>, Option<String>) {
        let names: Vec<RepositoryName> = names.iter().map(|name| name.parse().unwrap()).collect();
        let (rows, next) = rows_of(&names, within, more.map(str::to_owned));
        let shown = rows.into_iter().map(|row| match row {
            RepositoryRow::Folder { path, count, has_more } => {
                format!("{path}/ {count}{}", if has_more { "+" } else { "" })
            }
            RepositoryRow::Repository { name, .. } => name.to_string(),
        });
        (shown.collect(), next)
    }

    #[test]
    fn folders_of_several_are_one_row() {
        let names = ["alone/app", "app", "team", "team/a", "team/b", "team/c/d"];
        assert_eq!(
            shown(&names, "", None),
            (vec!["alone/app".into(), "app".into(), "team".into(), "team/ 3".into()], None)
        );
        assert_eq!(
            shown(&["team/a", "team/b", "team/c/d", "team/c/e"], "team/", None).0,
            ["team/a", "team/b", "team/c/ 2"]
        );
        let (rows, next) = shown(&["team/a", "team/b"], "", Some("team/b"));
        assert_eq!((rows, next.as_deref()), (vec!["team/ 2+".to_owned()], Some("team/~")));
    }

    #[test]
    fn a_page_has_a_bounded_number_of_rows() {
        let names: Vec<String> = (0..200).map(|index| format!("app{index:03}")).collect();
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let (rows, next) = shown(&names, "", None);
        assert_eq!((rows.len(), next.as_deref()), (ROWS_MAX, Some("app049")));
    }

    #[test]
    fn references_that_were_copied_are_understood() {
        for (query, parts) in [
            ("nginx", ("nginx", None)),
            ("nginx:1.27", ("nginx", Some("1.27"))),
            ("r.example/library/nginx:1.27", ("library/nginx", Some("1.27"))),
            ("https://r.example/library/nginx", ("library/nginx", None)),
            ("library/nginx@sha256:00", ("library/nginx", None)),
            ("nginx:", ("nginx", None)),
            ("", ("", None)),
        ] {
            assert_eq!(name_and_tag(query, "r.example"), parts, "{query}");
        }
    }
}
