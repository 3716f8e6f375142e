//! The pages of a repository: their head and tabs ([`RepositoryHead`]), and the list of its tags.

use std::time::SystemTime;

use jreg_oci::{Digest, Reference, RepositoryName, Tag};
use maud::{Markup, html};

use crate::artifact::{ArtifactKind, PullCommand, pull_commands};
use crate::context::PageContext;
use crate::layout::{Crumb, Layout, Section};
use crate::parts::{self, Tab};
use crate::{link, text};

/// A page of a repository.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RepositoryTab {
    Tags,
    Manifests,
    Deleted,
    Lifecycle,
    Usage,
}

/// What the head of a repository's pages needs to know.
#[derive(Clone, Debug)]
pub struct RepositoryHead {
    pub name: RepositoryName,
    /// Whether the viewer may delete from it, and so may see what was deleted.
    pub may_delete: bool,
    pub may_push: bool,
    /// The registry that it mirrors.
    pub mirror_of: Option<String>,
}

/// The breadcrumb of a name: its folders, then itself.
pub(crate) fn crumbs_of(context: &PageContext, name: &RepositoryName, is_last: bool) -> Vec<Crumb> {
    let paths = &context.paths;
    let mut crumbs = vec![Crumb::new("Repositories", paths.home())];
    let parts: Vec<&str> = name.as_str().split('/').collect();
    for end in 1..parts.len() {
        let folder = parts.iter().take(end).copied().collect::<Vec<_>>().join("/");
        let path = link::with_query(&paths.home(), &[("in", &folder)]);
        crumbs.push(Crumb::new(parts.get(end - 1).copied().unwrap_or_default(), path));
    }
    let last = parts.last().copied().unwrap_or_default();
    crumbs.push(match is_last {
        true => Crumb::last(last),
        false => Crumb::new(last, paths.repository(name)),
    });
    crumbs
}

impl RepositoryHead {
    fn tabs(&self, context: &PageContext, current: RepositoryTab) -> Markup {
        let paths = &context.paths;
        let tab = |tab, name, path| Tab { name, path, is_current: tab == current };
        let page = |page| paths.repository_page(&self.name, page);
        let mut tabs = vec![
            tab(RepositoryTab::Tags, "Tags", paths.repository(&self.name)),
            tab(RepositoryTab::Manifests, "Manifests", page("manifests")),
        ];
        if self.may_delete {
            tabs.push(tab(RepositoryTab::Deleted, "Deleted", page("deleted")));
        }
        tabs.push(tab(RepositoryTab::Lifecycle, "Lifecycle", page("lifecycle")));
        tabs.push(tab(RepositoryTab::Usage, "Usage", page("usage")));
        parts::tabs("Repository", &tabs)
    }

    /// A whole page of the repository.
    pub(crate) fn render(
        &self,
        context: &PageContext,
        tab: RepositoryTab,
        title: &str,
        content: &Markup,
    ) -> String {
        let main = html! {
            div class="head" {
                h1 { (text::line(self.name.as_str())) }
                @if let Some(origin) = &self.mirror_of { (parts::mirror_badge(origin)) }
                div class="lead" {
                    code { (context.host) "/" (self.name) }
                    (parts::copy_button(&format!("{}/{}", context.host, self.name), "Copy name"))
                }
            }
            (self.tabs(context, tab))
            (content)
        };
        let title = match title {
            "" => self.name.to_string(),
            title => format!("{title} of {}", self.name),
        };
        let crumbs = crumbs_of(context, &self.name, true);
        Layout::new(context, Section::Repositories, &title).crumbs(crumbs).render(&main)
    }
}

/// The order of a list of tags.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum TagOrder {
    /// By name, which is how the store lists them.
    #[default]
    Name,
    Newest,
    Oldest,
    /// Versions from the highest, numbers as numbers.
    Version,
}

impl TagOrder {
    const ALL: [(Self, &'static str, &'static str); 4] = [
        (Self::Name, "name", "Name"),
        (Self::Newest, "newest", "Newest push"),
        (Self::Oldest, "oldest", "Oldest push"),
        (Self::Version, "version", "Highest version"),
    ];

    pub fn parse(text: &str) -> Self {
        let found = Self::ALL.into_iter().find(|(_, key, _)| *key == text);
        found.map_or(Self::Name, |(order, _, _)| order)
    }

    pub fn as_str(self) -> &'static str {
        let found = Self::ALL.into_iter().find(|(order, _, _)| *order == self);
        found.map_or("name", |(_, key, _)| key)
    }
}

/// A page of a repository's tags.
#[derive(Clone, Debug)]
pub struct TagsPage {
    pub head: RepositoryHead,
    pub rows: Vec<TagRow>,
    pub order: TagOrder,
    pub filter: String,
    /// Number of tags that match, if it is known.
    pub count: Option<usize>,
    /// Why the order or filter does not apply: the repository has too many tags.
    pub is_too_large: bool,
    /// How old the list may be that was sorted or filtered, in seconds.
    pub age_max_s: Option<u64>,
    pub is_first: bool,
    /// The parameters of the next page: `after` or `from`.
    pub next: Option<(&'static str, String)>,
    /// The address of this page with sizes and platforms, if not all are known.
    pub details: Option<String>,
    /// Whether last pulls were looked up; and the address of this page with them, if they are recorded.
    pub has_pulls: bool,
    pub pulls: Option<String>,
    /// Tags that are similar to the filter, if it found none.
    pub suggestions: Vec<Tag>,
}

#[derive(Clone, Debug)]
pub struct TagRow {
    pub tag: Tag,
    pub digest: Digest,
    pub kind: TagKind,
    pub pushed: SystemTime,
    pub by: Option<String>,
    /// `linux/amd64`, if it is known without a request.
    pub platforms: Vec<String>,
    /// Bytes of its content, if known; of an index those of one platform.
    pub size: Option<u64>,
    /// The rule by which it is immutable.
    pub immutable: Option<String>,
    /// What it is, if that is no image.
    pub kind_name: Option<&'static str>,
    /// What is attached to it.
    pub attached: Vec<&'static str>,
    /// When it was last pulled, if that was looked up.
    pub pulled: Option<SystemTime>,
}

/// What the media type of a tag says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TagKind {
    Index,
    Manifest,
}

pub fn tags_page(context: &PageContext, page: &TagsPage) -> String {
    let content = html! {
        (pull_command(context, page))
        (toolbar(context, page))
        @if page.is_too_large {
            p class="notice info" {
                "This repository has more than 100,000 tags: they are listed by name only. \
                 Type the beginning of a name to start there."
            }
        }
        @if page.rows.is_empty() { (no_tags(context, page)) } @else { (table(context, page)) }
    };
    page.head.render(context, RepositoryTab::Tags, "", &content)
}

/// The command that pulls `latest`, or what was pushed last of the rows, if its kind is known.
fn pull_command(context: &PageContext, page: &TagsPage) -> Markup {
    if !page.is_first || !page.filter.is_empty() {
        return html! {};
    }
    let latest = page.rows.iter().find(|row| row.tag.as_str() == "latest");
    let newest = || page.rows.iter().max_by_key(|row| row.pushed);
    let command = latest.or_else(newest).and_then(|row| {
        let kind = match (row.kind, row.kind_name, row.size) {
            (TagKind::Index, None, _) => ArtifactKind::Index,
            (_, Some(name), _) => ArtifactKind::named(name)?,
            (TagKind::Manifest, None, Some(_)) => ArtifactKind::Image,
            (TagKind::Manifest, None, None) => return None,
        };
        let reference = Reference::Tag(row.tag.clone());
        let commands = pull_commands(kind, &context.host, &page.head.name, &reference);
        commands.into_iter().next()
    });
    html! {
        @if let Some(PullCommand { tool, command }) = &command {
            div class="pull" {
                span class="faint small" { "Pull with " (tool) }
                (parts::command(command))
            }
        }
    }
}

fn toolbar(context: &PageContext, page: &TagsPage) -> Markup {
    html! {
        form class="toolbar" method="get" action=(context.paths.repository(&page.head.name)) {
            div class="field grow" {
                label for="filter" { "Filter tags" }
                input id="filter" name="q" type="search" value=(page.filter) maxlength="128"
                    placeholder="e.g. 1.27 alpine";
            }
            div class="field" {
                label for="order" { "Order" }
                select id="order" name="order" data-submit {
                    @for (order, key, name) in TagOrder::ALL {
                        option value=(key) selected[order == page.order] { (name) }
                    }
                }
            }
            button class="quiet" type="submit" { "Apply" }
        }
    }
}

fn no_tags(context: &PageContext, page: &TagsPage) -> Markup {
    let name = &page.head.name;
    html! {
        div class="card" {
            div class="empty" {
                @if page.filter.is_empty() {
                    h2 { "No tags" }
                    p { "Push one:" }
                    (parts::command(&format!("docker push {}/{name}:latest", context.host)))
                } @else {
                    h2 { "No tag contains " q { (text::line(&page.filter)) } }
                    @if !page.suggestions.is_empty() {
                        p {
                            "Similar: "
                            @for (index, tag) in page.suggestions.iter().enumerate() {
                                @if index > 0 { ", " }
                                a href=(context.paths.tag(name, tag)) { (tag) }
                            }
                        }
                    }
                    p { a href=(context.paths.repository(name)) { "All tags" } }
                }
            }
        }
    }
}

fn table(context: &PageContext, page: &TagsPage) -> Markup {
    let paths = &context.paths;
    let may_delete = page.head.may_delete && context.deletes;
    let name = &page.head.name;
    let more = page.next.as_ref().map(|(parameter, value)| {
        let base = [("q", page.filter.as_str()), ("order", order_of(page))];
        let all: Vec<_> = base.into_iter().chain([(*parameter, value.as_str())]).collect();
        link::with_query(&paths.repository(name), &all)
    });
    let first = (!page.is_first).then(|| {
        let base = [("q", page.filter.as_str()), ("order", order_of(page))];
        link::with_query(&paths.repository(name), &base)
    });
    html! {
        form class="card flush" method="get" action=(paths.repository_page(name, "delete")) data-select {
            div class="pad actions" {
                @match page.count {
                    Some(1) => span class="faint" { "1 tag" },
                    Some(count) => span class="faint" { (count) " tags" },
                    None => span class="faint" { (page.rows.len()) " tags on this page" },
                }
                @if let Some(age) = page.age_max_s {
                    span class="faint small" { "as of " (age) " s ago or less" }
                }
                @if let Some(details) = &page.details {
                    a class="small" href=(details) { "Show sizes and platforms" }
                }
                @if let Some(pulls) = &page.pulls { a class="small" href=(pulls) { "Show last pulls" } }
                @if may_delete {
                    label class="faint small" hidden { input type="checkbox" data-all; " all on this page" }
                    button class="danger" type="submit" data-count { "Delete…" }
                }
            }
            table class="rows" {
                thead {
                    tr {
                        @if may_delete { th class="tick" scope="col" { span class="away" { "Select" } } }
                        th scope="col" { "Tag" }
                        th scope="col" { "Digest" }
                        th scope="col" { "Platforms" }
                        th class="number" scope="col" { "Size" }
                        th scope="col" { "Pushed" }
                        @if page.has_pulls { th scope="col" { "Last pulled" } }
                    }
                }
                tbody {
                    @for row in &page.rows { (tag_row(context, page, row, may_delete)) }
                }
            }
            (parts::pager(first.as_deref(), more.as_deref()))
        }
    }
}

fn order_of(page: &TagsPage) -> &'static str {
    match page.order {
        TagOrder::Name => "",
        order => order.as_str(),
    }
}

fn tag_row(context: &PageContext, page: &TagsPage, row: &TagRow, may_delete: bool) -> Markup {
    let (paths, name) = (&context.paths, &page.head.name);
    let reference = format!("{}/{name}:{}", context.host, row.tag);
    html! {
        tr {
            @if may_delete {
                td class="tick" {
                    @if row.immutable.is_none() {
                        input type="checkbox" name="tag" value=(row.tag)
                            aria-label={ "Select " (row.tag) };
                    }
                }
            }
            th class="main name" scope="row" {
                a href=(paths.tag(name, &row.tag)) { (text::line(row.tag.as_str())) }
                " "
                (parts::copy_button(&reference, "Copy reference"))
                " "
                span class="badges" {
                    @if let Some(rule) = &row.immutable { (parts::badge("good", "immutable", rule)) }
                    @if let Some(kind) = row.kind_name { (parts::badge("", kind, "")) }
                    @for kind in &row.attached { (parts::badge("accent", kind, "present, not verified")) }
                }
            }
            td { (parts::digest_link(&row.digest, Some(&paths.manifest(name, &row.digest)))) }
            td {
                @if row.platforms.is_empty() {
                    @match row.kind {
                        TagKind::Index => span class="faint" { "several" },
                        TagKind::Manifest => (parts::dash()),
                    }
                } @else {
                    span class="badges" {
                        @for platform in row.platforms.iter().take(PLATFORMS_SHOWN_MAX) {
                            (parts::badge("", &text::plain(platform), &text::plain(platform)))
                        }
                        @if row.platforms.len() > PLATFORMS_SHOWN_MAX {
                            span class="faint small" { "+" (row.platforms.len() - PLATFORMS_SHOWN_MAX) }
                        }
                    }
                }
            }
            td class="number" data-label="Size" {
                @match row.kind {
                    TagKind::Index => span title="of one platform" { (parts::size_or_dash(row.size)) },
                    TagKind::Manifest => (parts::size_or_dash(row.size)),
                }
            }
            td data-label="Pushed" {
                (parts::time(row.pushed, context))
                @if let Some(by) = &row.by { span class="by" { "by " (text::line(by)) } }
            }
            @if page.has_pulls {
                td data-label="Last pulled" {
                    @match row.pulled {
                        Some(at) => (parts::time(at, context)),
                        None => span class="faint" { "never seen" },
                    }
                }
            }
        }
    }
}

/// Platforms of a tag that its row names.
const PLATFORMS_SHOWN_MAX: usize = 4;
