//! How many bytes repositories hold.

use jreg_oci::RepositoryName;
use maud::{Markup, html};

use crate::context::PageContext;
use crate::format::{format_bytes, format_count};
use crate::layout::{Layout, Section};
use crate::repository::{RepositoryHead, RepositoryTab};
use crate::service::{QuotaRow, ServiceUsage, gc_card, quota_card};
use crate::sharing::{REPOSITORIES, SharingFacts, listed_note, repositories};
use crate::{link, parts, text};

/// What a repository holds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UsageFigures {
    pub manifests: u64,
    pub blobs: u64,
    /// Unique bytes of its manifests and blobs.
    pub bytes: u64,
    /// Each manifest with its blobs, as if no two had one in common.
    pub logical_bytes: u64,
    pub deleted_manifests: u64,
    pub deleted_bytes: u64,
    pub uploads: u64,
    pub upload_bytes: u64,
    pub unreadable: u64,
}

/// The usage of a repository.
#[derive(Clone, Debug)]
pub struct RepositoryUsagePage {
    pub head: RepositoryHead,
    /// `None`: it is asked for by a button, as counting reads every manifest.
    pub figures: Option<UsageFigures>,
    /// What other repositories have, too; `None`: there is too much to look for it.
    pub sharing: Option<SharingFacts>,
    /// The quotas that it counts in, for those who may push to it.
    pub quotas: Vec<QuotaRow>,
}

pub fn repository_usage_page(context: &PageContext, page: &RepositoryUsagePage) -> String {
    let here = context.paths.repository_page(&page.head.name, "usage");
    let figures = match &page.figures {
        Some(figures) => html! {
            dl class="stats" {
                (figure("Logical: each manifest by itself", &format_bytes(figures.logical_bytes)))
                (figure("Unique: each blob once", &format_bytes(figures.bytes)))
                @if let Some(sharing) = &page.sharing {
                    (figure("Shared with other repositories", &format_bytes(sharing.elsewhere_bytes)))
                }
                (figure("Manifests", &format_count(figures.manifests)))
                (figure("Blobs", &format_count(figures.blobs)))
                (figure("Kept of deleted manifests", &format_bytes(figures.deleted_bytes)))
                (figure("Deleted manifests", &format_count(figures.deleted_manifests)))
                (figure("Unfinished uploads", &format_bytes(figures.upload_bytes)))
            }
            @if figures.unreadable > 0 {
                p class="notice warn" { (figures.unreadable) " manifests cannot be read: run " code { "jreg fsck" } "." }
            }
            @match &page.sharing {
                Some(sharing) => (shared(context, sharing)),
                None => p class="faint" { "This repository has too much content to look for what it shares with others." },
            }
        },
        None => html! {
            div class="card" { div class="empty" {
                p { "Counting reads every manifest of this repository that was not read before." }
                a class="button" href=(link::with_query(&here, &[("count", "yes")])) { "Count now" }
            } }
        },
    };
    let content = html! { (figures) (quota_card(&page.quotas)) };
    page.head.render(context, RepositoryTab::Usage, "Usage", &content)
}

fn shared(context: &PageContext, sharing: &SharingFacts) -> Markup {
    html! {
        p class="faint" {
            "A blob that several repositories have is stored once, and counts in each of them."
            @if sharing.elsewhere_bytes == 0 { " No other repository that you may see has any of these." }
        }
        @if sharing.elsewhere_bytes > 0 {
            section class="card" { h2 { (REPOSITORIES) } (repositories(context, sharing)) (listed_note(sharing)) }
        }
    }
}

fn figure(name: &str, value: &str) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// The usage of a page of repositories.
#[derive(Clone, Debug, Default)]
pub struct UsagePage {
    pub rows: Vec<(RepositoryName, UsageFigures)>,
    /// Whether it was counted, which a button asks for.
    pub is_counted: bool,
    pub is_first: bool,
    pub next: Option<String>,
    /// `None`: the viewer may not see it.
    pub service: Option<ServiceUsage>,
}

pub fn usage_page(context: &PageContext, page: &UsagePage) -> String {
    let here = context.paths.service("usage");
    let path = |after: &str| link::with_query(&here, &[("count", "yes"), ("after", after)]);
    let next = page.next.as_deref().map(path);
    let first = (!page.is_first).then(|| path(""));
    let largest = page.rows.iter().map(|(_, figures)| figures.bytes).max().unwrap_or(0);
    let main = html! {
        div class="head" {
            h1 { "Usage" }
            p class="lead" { "What each repository holds. A blob that several hold counts in each; the store has it once." }
        }
        @if let Some(service) = &page.service {
            (gc_card(context, service.gc.as_ref()))
            (quota_card(&service.quotas))
        }
        @if !page.is_counted {
            div class="card" { div class="empty" {
                p { "Counting reads every manifest that was not read before." }
                a class="button" href=(path("")) { "Count now" }
            } }
        } @else {
            div class="card flush" {
                table class="rows" {
                    thead { tr {
                        th scope="col" { "Repository" }
                        th scope="col" { span class="away" { "Share of the largest" } }
                        th class="number" scope="col" { "Unique" }
                        th class="number" scope="col" { "Logical" }
                        th class="number" scope="col" { "Manifests" }
                        th class="number" scope="col" { "Blobs" }
                        th class="number" scope="col" { "Deleted" }
                        th class="number" scope="col" { "Uploads" }
                    } }
                    tbody { @for (name, figures) in &page.rows { tr {
                        th class="main name" scope="row" {
                            a href=(context.paths.repository_page(name, "usage")) { (text::line(name.as_str())) }
                        }
                        td class="share" { (parts::bar(figures.bytes, largest)) }
                        td class="number" data-label="Unique" { (parts::size(figures.bytes)) }
                        td class="number" data-label="Logical" { (parts::size(figures.logical_bytes)) }
                        td class="number" data-label="Manifests" { (format_count(figures.manifests)) }
                        td class="number" data-label="Blobs" { (format_count(figures.blobs)) }
                        td class="number" data-label="Deleted" { (parts::size(figures.deleted_bytes)) }
                        td class="number" data-label="Uploads" { (parts::size(figures.upload_bytes)) }
                    } } }
                }
                (parts::pager(first.as_deref(), next.as_deref()))
            }
        }
    };
    Layout::new(context, Section::Usage, "Usage").render(&main)
}
