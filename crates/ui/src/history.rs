//! The history of a tag.

use std::time::SystemTime;

use jreg_oci::{Digest, RepositoryName, Tag};
use maud::{Markup, html};

use crate::context::PageContext;
use crate::format::format_bytes;
use crate::layout::{Crumb, Layout, Section};
use crate::repository::crumbs_of;
use crate::{link, parts, text};

/// A page of the history, the latest change first.
#[derive(Clone, Debug)]
pub struct HistoryPage {
    pub name: RepositoryName,
    pub tag: Tag,
    pub changes: Vec<ChangeRow>,
    pub is_first: bool,
    pub next: Option<String>,
    pub may_push: bool,
    /// What the tag points to now.
    pub current: Option<Digest>,
}

#[derive(Clone, Debug)]
pub struct ChangeRow {
    /// What it pointed to from then on; `None`: it was deleted.
    pub digest: Option<Digest>,
    pub at: SystemTime,
    /// When the next change replaced it; `None`: it is the current one.
    pub until: Option<SystemTime>,
    pub by: Option<String>,
    /// How the content differs from the change before, if both manifests are there.
    pub difference: Option<ContentDifference>,
    /// Whether the manifest is still there, if that is known.
    pub is_present: bool,
}

/// How the layers of an image differ from those of the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ContentDifference {
    pub added: usize,
    pub added_bytes: u64,
    pub removed: usize,
    pub removed_bytes: u64,
    pub kept: usize,
}

pub fn history_page(context: &PageContext, page: &HistoryPage) -> String {
    let paths = &context.paths;
    let here = paths.repository_page(&page.name, &format!("history/{}", page.tag));
    let next = page.next.as_ref().map(|after| link::with_query(&here, &[("after", after)]));
    let first = (!page.is_first).then_some(here.as_str());
    let main = html! {
        div class="head" {
            h1 { (text::line(page.name.as_str())) ":" (text::line(page.tag.as_str())) }
            p class="lead" { "What the tag pointed to, and who moved it. The latest change is first." }
        }
        (crate::image::tag_tabs(context, &page.name, &page.tag, page.current.as_ref(), "History"))
        ol class="timeline" {
            @for (index, change) in page.changes.iter().enumerate() {
                (change_row(context, page, change, page.is_first && index == 0))
            }
        }
        (parts::pager(first, next.as_deref()))
    };
    let mut crumbs = crumbs_of(context, &page.name, false);
    crumbs.push(Crumb::new(page.tag.as_str(), paths.tag(&page.name, &page.tag)));
    crumbs.push(Crumb::last("History"));
    let title = format!("History of {}:{}", page.name, page.tag);
    Layout::new(context, Section::Repositories, &title).crumbs(crumbs).render(&main)
}

fn change_row(
    context: &PageContext,
    page: &HistoryPage,
    change: &ChangeRow,
    is_latest: bool,
) -> Markup {
    let class = match (&change.digest, is_latest) {
        (None, _) => "gone",
        (Some(_), true) => "now",
        (Some(_), false) => "",
    };
    let paths = &context.paths;
    html! {
        li class=(class) {
            div class="row" {
                @match &change.digest {
                    Some(digest) => {
                        strong { @if is_latest { "Now" } @else { "Pointed to" } }
                        (parts::digest_link(
                            digest,
                            change.is_present.then(|| paths.manifest(&page.name, digest)).as_deref(),
                        ))
                        @if !change.is_present { (parts::badge("warn", "deleted", "the manifest is not there")) }
                    }
                    None => strong { "Deleted" },
                }
                @if let (Some(digest), true) = (&change.digest, page.may_push) {
                    @if page.current.as_ref() != Some(digest) { (restore_form(context, page, digest)) }
                }
            }
            p class="faint small" {
                (parts::time(change.at, context))
                @if let (Some(until), Some(_)) = (change.until, &change.digest) { ", until " (parts::time(until, context)) }
                @if let Some(by) = &change.by { " · by " (text::line(by)) }
            }
            @if let Some(difference) = &change.difference { (difference_row(difference)) }
        }
    }
}

fn restore_form(context: &PageContext, page: &HistoryPage, digest: &Digest) -> Markup {
    let label = format!("Point {} to {} again", page.tag, parts::short(digest));
    html! {
        form method="post" action=(context.paths.repository_page(&page.name, "restore-tag")) {
            (parts::form_token_field(context))
            input type="hidden" name="tag" value=(page.tag);
            input type="hidden" name="digest" value=(digest);
            @if let Some(current) = &page.current { input type="hidden" name="current" value=(current); }
            button class="quiet small" type="submit" aria-label=(label) { "Restore" }
        }
    }
}

fn difference_row(difference: &ContentDifference) -> Markup {
    let ContentDifference { added, added_bytes, removed, removed_bytes, kept } = *difference;
    html! {
        p class="small" {
            @if added == 0 && removed == 0 {
                span class="faint" { "the same " (kept) " layers" }
            } @else {
                span class="plus" { "+" (added) " layers, " (format_bytes(added_bytes)) }
                " · "
                span class="minus" { "−" (removed) " layers, " (format_bytes(removed_bytes)) }
                span class="faint" { " · " (kept) " unchanged" }
            }
        }
    }
}
