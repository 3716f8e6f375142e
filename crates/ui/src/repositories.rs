//! The list of repositories, and the results of a search.

use std::time::SystemTime;

use jreg_oci::{RepositoryName, Tag};
use maud::{Markup, html};

use crate::context::PageContext;
use crate::layout::{Crumb, Layout, Section};
use crate::{link, parts, text};

/// A page of the list.
#[derive(Clone, Debug, Default)]
pub struct RepositoriesPage {
    /// The folder that is shown; empty: all.
    pub folder: String,
    pub rows: Vec<RepositoryRow>,
    pub is_first: bool,
    /// The cursor of the next page.
    pub next: Option<String>,
    /// Whether tags and pushes were looked up; if not, a link does it.
    pub has_details: bool,
    /// Where this page begins.
    pub after: String,
}

/// A repository, or a folder of several.
#[derive(Clone, Debug)]
pub enum RepositoryRow {
    Folder { path: String, count: usize, has_more: bool },
    Repository { name: RepositoryName, summary: Option<RepositorySummary> },
}

impl RepositoryRow {
    fn has_size(&self) -> bool {
        let Self::Repository { summary: Some(summary), .. } = self else { return false };
        summary.size.is_some()
    }
}

/// What is known of a repository without a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RepositorySummary {
    pub tags: Option<u64>,
    /// Whether there are more tags than were counted.
    pub has_more_tags: bool,
    pub pushed: Option<SystemTime>,
    /// The registry that it mirrors.
    pub mirror_of: Option<String>,
    /// Bytes of its content, as they were counted last, and when.
    pub size: Option<(u64, SystemTime)>,
}

pub fn repositories_page(context: &PageContext, page: &RepositoriesPage) -> String {
    let paths = &context.paths;
    let path =
        |after: &str| link::with_query(&paths.home(), &[("in", &page.folder), ("after", after)]);
    let next = page.next.as_deref().map(path);
    let first = (!page.is_first).then(|| path(""));
    let details = [("in", page.folder.as_str()), ("after", &page.after), ("details", "yes")];
    let details = link::with_query(&paths.home(), &details);
    let title = match page.folder.as_str() {
        "" => "Repositories",
        folder => folder,
    };
    let has_sizes = page.rows.iter().any(RepositoryRow::has_size);
    let main = html! {
        div class="head" {
            h1 { (text::line(title)) }
            @if !page.has_details && !page.rows.is_empty() {
                div class="actions" { a class="small" href=(details) { "Show tags and last pushes" } }
            }
        }
        @if page.rows.is_empty() && page.next.is_none() {
            (nothing(context, page))
        } @else {
            div class="card flush" {
                table class="rows" {
                    thead {
                        tr {
                            th scope="col" { "Name" }
                            @if page.has_details {
                                th class="number" scope="col" { "Tags" }
                                th scope="col" { "Last push" }
                            }
                            @if has_sizes { th class="number" scope="col" { "Size" } }
                        }
                    }
                    tbody {
                        @for row in &page.rows { (repository_row(context, page, row, has_sizes)) }
                    }
                }
                (parts::pager(first.as_deref(), next.as_deref()))
            }
        }
    };
    let layout = Layout::new(context, Section::Repositories, title);
    layout.crumbs(folder_crumbs(context, &page.folder)).render(&main)
}

fn folder_crumbs(context: &PageContext, folder: &str) -> Vec<Crumb> {
    if folder.is_empty() {
        return Vec::new();
    }
    let mut crumbs = vec![Crumb::new("Repositories", context.paths.home())];
    let parts: Vec<&str> = folder.split('/').collect();
    for (index, part) in parts.iter().enumerate() {
        let path = parts.iter().take(index + 1).copied().collect::<Vec<_>>().join("/");
        crumbs.push(match index + 1 == parts.len() {
            true => Crumb::last(*part),
            false => Crumb::new(*part, link::with_query(&context.paths.home(), &[("in", &path)])),
        });
    }
    crumbs
}

fn nothing(context: &PageContext, page: &RepositoriesPage) -> Markup {
    html! {
        div class="card" {
            div class="empty" {
                @if page.folder.is_empty() {
                    h2 { "No repositories that you may see" }
                    p { "Push an image, and it is listed here:" }
                    (parts::command(&format!("docker push {}/hello:latest", context.host)))
                    @if context.viewer.identity.is_none() && context.viewer.can_log_in {
                        p { "Others may be there after you log in." }
                    }
                } @else {
                    h2 { "No repositories in this folder" }
                    a href=(context.paths.home()) { "All repositories" }
                }
            }
        }
    }
}

fn repository_row(
    context: &PageContext,
    page: &RepositoriesPage,
    row: &RepositoryRow,
    has_sizes: bool,
) -> Markup {
    let (paths, folder) = (&context.paths, page.folder.as_str());
    let within = |name: &str| {
        let inner = name.strip_prefix(folder).unwrap_or(name);
        inner.strip_prefix('/').unwrap_or(inner).to_owned()
    };
    match row {
        RepositoryRow::Folder { path, count, has_more } => html! {
            tr {
                th class="main folder" scope="row" {
                    a href=(link::with_query(&paths.home(), &[("in", path)])) {
                        (text::line(&within(path))) "/"
                    }
                    " "
                    span class="faint small" {
                        (count) @if *has_more { "+" } " repositories"
                    }
                }
                @if page.has_details { td {} td {} }
                @if has_sizes { td {} }
            }
        },
        RepositoryRow::Repository { name, summary } => {
            let summary = summary.clone().unwrap_or_default();
            html! {
                tr {
                    th class="main name" scope="row" {
                        a href=(paths.repository(name)) { (text::line(&within(name.as_str()))) }
                        @if let Some(origin) = &summary.mirror_of {
                            " " (parts::mirror_badge(origin))
                        }
                    }
                    @if page.has_details {
                        td class="number" data-label="Tags" {
                            @match summary.tags {
                                Some(tags) => { (tags) @if summary.has_more_tags { "+" } }
                                None => (parts::dash()),
                            }
                        }
                        td data-label="Last push" { (parts::time_or_dash(summary.pushed, context)) }
                    }
                    @if has_sizes {
                        td class="number" data-label="Size" { (parts::counted_size(summary.size, context)) }
                    }
                }
            }
        }
    }
}

/// The results of a search.
#[derive(Clone, Debug, Default)]
pub struct SearchPage {
    pub query: String,
    pub repositories: Vec<RepositoryName>,
    /// Whether there are more of them: the query should be refined.
    pub has_more: bool,
    /// Tags, with their repositories, of a query `repository:tag`.
    pub tags: Vec<(RepositoryName, Tag)>,
    /// Similar names, if few were found.
    pub suggestions: Vec<RepositoryName>,
    /// Whether all repositories were searched.
    pub is_whole: bool,
}

pub fn search_page(context: &PageContext, page: &SearchPage) -> String {
    let paths = &context.paths;
    let is_empty = page.repositories.is_empty() && page.tags.is_empty();
    let main = html! {
        div class="head" {
            h1 {
                @if page.query.is_empty() { "Search" } @else { "Results for " q { (text::line(&page.query)) } }
            }
        }
        @if !page.tags.is_empty() {
            section class="card flush" {
                h2 { "Tags" }
                table class="rows" {
                    thead class="away" { tr { th scope="col" { "Tag" } } }
                    tbody {
                        @for (name, tag) in &page.tags {
                            tr { th class="main name" scope="row" {
                                a href=(paths.tag(name, tag)) { (text::line(name.as_str())) ":" (text::line(tag.as_str())) }
                            } }
                        }
                    }
                }
            }
        }
        @if !page.repositories.is_empty() {
            section class="card flush" {
                h2 { "Repositories" }
                (names(context, &page.repositories))
            }
        }
        @if is_empty && !page.query.is_empty() {
            div class="card" { div class="empty" {
                h2 { "Nothing found" }
                p { "A search looks for names that contain each word. For tags write " code { "repository:tag" } "." }
            } }
        }
        @if !page.suggestions.is_empty() {
            section class="card flush" {
                h2 { "Did you mean" }
                (names(context, &page.suggestions))
            }
        }
        @if page.has_more {
            p class="notice info" { "There are more: refine the search." }
        }
        @if !page.is_whole && !page.query.is_empty() {
            p class="notice info" { "This registry has more than 100,000 repositories: the first of them were searched." }
        }
    };
    let title =
        if page.query.is_empty() { "Search".to_owned() } else { format!("Search: {}", page.query) };
    Layout::new(context, Section::Repositories, &title).search(&page.query).render(&main)
}

fn names(context: &PageContext, names: &[RepositoryName]) -> Markup {
    html! {
        table class="rows" {
            thead class="away" { tr { th scope="col" { "Name" } } }
            tbody {
                @for name in names {
                    tr { th class="main name" scope="row" {
                        a href=(context.paths.repository(name)) { (text::line(name.as_str())) }
                    } }
                }
            }
        }
    }
}
