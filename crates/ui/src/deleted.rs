//! Deleted manifests of a repository, and the question before something is deleted.

use std::time::SystemTime;

use jreg_oci::{Digest, RepositoryName, Tag};
use maud::{Markup, html};

use crate::context::PageContext;
use crate::layout::{Crumb, Layout, Section};
use crate::repository::{RepositoryHead, RepositoryTab, crumbs_of};
use crate::{link, parts, text};

/// A page of deleted manifests.
#[derive(Clone, Debug)]
pub struct DeletedPage {
    pub head: RepositoryHead,
    /// Tags that were deleted by themselves or with a manifest.
    pub tags: Vec<DeletedTagRow>,
    /// The tag that the next of them begin after.
    pub next_tag: Option<String>,
    pub rows: Vec<DeletedRow>,
    pub is_first: bool,
    pub next: Option<String>,
}

/// A deleted tag, and what it pointed to last.
#[derive(Clone, Debug)]
pub struct DeletedTagRow {
    pub tag: Tag,
    pub at: SystemTime,
    pub by: Option<String>,
    pub digest: Option<Digest>,
    /// Whether that manifest is there, so that the tag can point to it again.
    pub is_present: bool,
}

#[derive(Clone, Debug)]
pub struct DeletedRow {
    pub digest: Digest,
    pub media_type: String,
    pub artifact_type: Option<String>,
    pub size: u64,
    pub at: SystemTime,
    pub by: Option<String>,
    pub tags: Vec<Tag>,
}

pub fn deleted_page(context: &PageContext, page: &DeletedPage) -> String {
    let here = context.paths.repository_page(&page.head.name, "deleted");
    let next = page.next.as_ref().map(|after| link::with_query(&here, &[("after", after)]));
    let first = (!page.is_first).then_some(here.as_str());
    let content = html! {
        p class="faint" { "What was deleted and can still be brought back." }
        (deleted_tags(context, page))
        @if page.rows.is_empty() && page.tags.is_empty() {
            div class="card" { div class="empty" { h2 { "Nothing was deleted lately" } } }
        } @else if !page.rows.is_empty() {
            div class="card flush" {
                h2 { "Manifests " span class="count" { "with the tags that pointed to them" } }
                table class="rows" {
                    thead {
                        tr {
                            th scope="col" { "Manifest" }
                            th scope="col" { "Tags" }
                            th scope="col" { "Type" }
                            th scope="col" { "Deleted" }
                            th scope="col" { span class="away" { "Actions" } }
                        }
                    }
                    tbody { @for row in &page.rows { (deleted_row(context, &page.head, row)) } }
                }
                (parts::pager(first, next.as_deref()))
            }
        }
    };
    page.head.render(context, RepositoryTab::Deleted, "Deleted manifests", &content)
}

fn deleted_tags(context: &PageContext, page: &DeletedPage) -> Markup {
    let here = context.paths.repository_page(&page.head.name, "deleted");
    let next = page.next_tag.as_ref().map(|after| link::with_query(&here, &[("after-tag", after)]));
    html! {
        @if !page.tags.is_empty() || next.is_some() {
            div class="card flush" {
                h2 { "Tags" }
                table class="rows" {
                    thead { tr {
                        th scope="col" { "Tag" }
                        th scope="col" { "Pointed to" }
                        th scope="col" { "Deleted" }
                        th scope="col" { span class="away" { "Actions" } }
                    } }
                    tbody { @for row in &page.tags { (deleted_tag_row(context, &page.head, row)) } }
                }
                (parts::pager(None, next.as_deref()))
            }
        }
    }
}

fn deleted_tag_row(context: &PageContext, head: &RepositoryHead, row: &DeletedTagRow) -> Markup {
    let (paths, name) = (&context.paths, &head.name);
    html! {
        tr {
            th class="main name" scope="row" {
                a href=(paths.repository_page(name, &format!("history/{}", row.tag))) { (text::line(row.tag.as_str())) }
            }
            td {
                @if let Some(digest) = &row.digest {
                    (parts::digest_link(digest, row.is_present.then(|| paths.manifest(name, digest)).as_deref()))
                }
                @if !row.is_present { " " (parts::badge("warn", "deleted, too", "Restore the manifest with its tags")) }
            }
            td data-label="Deleted" {
                (parts::time(row.at, context))
                @if let Some(by) = &row.by { span class="by" { "by " (text::line(by)) } }
            }
            td {
                @if let (Some(digest), true, true) = (&row.digest, row.is_present, head.may_push) {
                    form method="post" action=(paths.repository_page(name, "restore-tag")) {
                        (parts::form_token_field(context))
                        input type="hidden" name="tag" value=(row.tag);
                        input type="hidden" name="digest" value=(digest);
                        div class="actions" {
                            button class="quiet small" type="submit" aria-label={ "Restore the tag " (row.tag) } { "Restore" }
                        }
                    }
                }
            }
        }
    }
}

fn deleted_row(context: &PageContext, head: &RepositoryHead, row: &DeletedRow) -> Markup {
    let kind = row.artifact_type.as_deref().unwrap_or(&row.media_type);
    let history = |tag: &Tag| context.paths.repository_page(&head.name, &format!("history/{tag}"));
    html! {
        tr {
            th class="main" scope="row" { (parts::digest_link(&row.digest, None)) }
            td {
                @if row.tags.is_empty() { span class="faint" { "no tag" } }
                @for (index, tag) in row.tags.iter().take(TAGS_SHOWN_MAX).enumerate() {
                    @if index > 0 { ", " }
                    a href=(history(tag)) { (tag) }
                }
                @if row.tags.len() > TAGS_SHOWN_MAX {
                    span class="faint" { " and " (row.tags.len() - TAGS_SHOWN_MAX) " more" }
                }
            }
            td { span class="small" { (text::breakable(kind)) } }
            td data-label="Deleted" {
                (parts::time(row.at, context))
                @if let Some(by) = &row.by { span class="by" { "by " (text::line(by)) } }
            }
            td {
                @if head.may_push {
                    form method="post" action=(context.paths.repository_page(&head.name, "restore-manifest")) {
                        (parts::form_token_field(context))
                        input type="hidden" name="digest" value=(row.digest);
                        div class="actions" {
                            @if !row.tags.is_empty() {
                                label class="small" {
                                    input type="checkbox" name="tags" value="on" checked; " with tags"
                                }
                            }
                            button class="quiet small" type="submit"
                                aria-label={ "Restore " (parts::short(&row.digest)) } { "Restore" }
                        }
                    }
                }
            }
        }
    }
}

/// Tags that a row names.
const TAGS_SHOWN_MAX: usize = 8;

/// The question before tags or a manifest are deleted.
#[derive(Clone, Debug)]
pub struct DeleteQuestion {
    pub name: RepositoryName,
    pub tags: Vec<Tag>,
    pub manifest: Option<Digest>,
    /// The tags that go with the manifest.
    pub tags_of_manifest: Vec<Tag>,
    /// How long a deleted manifest can be restored, in words; `None`: it cannot.
    pub kept_for: Option<String>,
}

pub fn delete_page(context: &PageContext, question: &DeleteQuestion) -> String {
    let DeleteQuestion { name, tags, manifest, tags_of_manifest, kept_for } = question;
    let paths = &context.paths;
    let heading = match (tags.as_slice(), manifest) {
        (_, Some(digest)) => format!("Delete manifest {}?", parts::short(digest)),
        ([tag], None) => format!("Delete tag {tag}?"),
        (tags, None) => format!("Delete {} tags?", tags.len()),
    };
    let back = match manifest {
        Some(digest) => paths.manifest(name, digest),
        None => paths.repository(name),
    };
    let main = html! {
        div class="head" { h1 { (heading) } }
        form class="card form" method="post" action=(paths.repository_page(name, "delete")) {
            (parts::form_token_field(context))
            p { "From " strong { (text::line(name.as_str())) } "." }
            @if let Some(digest) = manifest {
                input type="hidden" name="digest" value=(digest);
                p { code { (digest) } }
                @if !tags_of_manifest.is_empty() {
                    p { "These tags point to it and go with it:" }
                    ul class="plain" { @for tag in tags_of_manifest { li { (text::line(tag.as_str())) } } }
                }
            } @else {
                ul class="plain" {
                    @for tag in tags {
                        li {
                            input type="hidden" name="tag" value=(tag);
                            (text::line(tag.as_str()))
                        }
                    }
                }
                p class="faint" { "The manifests that they point to stay until they are unreferenced." }
            }
            @match kept_for {
                Some(time) => p class="faint" { "It can be restored for " (time) "." },
                None => p { strong { "It cannot be restored." } },
            }
            div class="actions" {
                button class="danger" type="submit" { "Delete" }
                a href=(back) { "Cancel" }
            }
        }
    };
    let mut crumbs = crumbs_of(context, name, false);
    crumbs.push(Crumb::last("Delete"));
    Layout::new(context, Section::Repositories, &heading).crumbs(crumbs).render(&main)
}
