//! What retention does with the tags of a repository.

use std::time::SystemTime;

use jreg_oci::Tag;
use maud::{Markup, html};

use crate::context::PageContext;
use crate::repository::{RepositoryHead, RepositoryTab};
use crate::{parts, text};

/// The preview of the next run.
#[derive(Clone, Debug)]
pub struct LifecyclePage {
    pub head: RepositoryHead,
    /// `None`: there are too many tags to judge them for a page.
    pub verdicts: Option<Vec<VerdictRow>>,
    pub tags_max: usize,
    /// The rules that apply, as sentences.
    pub rules: Vec<String>,
    /// Only verdicts of this kind are shown; empty: all.
    pub shown: String,
}

#[derive(Clone, Debug)]
pub struct VerdictRow {
    pub tag: Tag,
    pub status: VerdictKind,
    /// A sentence with the rule.
    pub reason: String,
    pub expires: Option<SystemTime>,
    pub pushed: Option<SystemTime>,
    pub bytes: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum VerdictKind {
    Keep,
    Protected,
    Remove,
}

impl VerdictKind {
    fn class(self) -> &'static str {
        match self {
            Self::Keep => "good",
            Self::Protected => "accent",
            Self::Remove => "bad",
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "kept",
            Self::Protected => "protected",
            Self::Remove => "removed",
        }
    }
}

/// Verdicts of one kind that a page shows.
const ROWS_MAX: usize = 500;

pub fn lifecycle_page(context: &PageContext, page: &LifecyclePage) -> String {
    let content = html! {
        p class="faint" {
            "What the next retention run does with each tag, by the rules in use. Nothing is changed by looking."
        }
        @for rule in &page.rules { p class="notice info" { (text::line(rule)) } }
        @match &page.verdicts {
            None => p class="notice info" {
                "This repository has more than " (page.tags_max) " tags: run "
                code { "jreg lifecycle preview --repository " (page.head.name) } "."
            },
            Some(verdicts) if verdicts.is_empty() => {
                div class="card" { div class="empty" { h2 { "No tags" } } }
            }
            Some(verdicts) => (table(context, page, verdicts)),
        }
    };
    page.head.render(context, RepositoryTab::Lifecycle, "Lifecycle", &content)
}

fn table(context: &PageContext, page: &LifecyclePage, verdicts: &[VerdictRow]) -> Markup {
    let here = context.paths.repository_page(&page.head.name, "lifecycle");
    let count = |kind| verdicts.iter().filter(|row| row.status == kind).count();
    let kinds = [VerdictKind::Remove, VerdictKind::Protected, VerdictKind::Keep];
    let shown: Vec<&VerdictRow> = verdicts
        .iter()
        .filter(|row| page.shown.is_empty() || row.status.as_str() == page.shown)
        .collect();
    html! {
        nav class="actions" aria-label="Verdicts" {
            a class="button quiet" href=(here) aria-current=[page.shown.is_empty().then_some("true")] {
                "All " (verdicts.len())
            }
            @for kind in kinds {
                a class="button quiet" href={ (here) "?show=" (kind.as_str()) }
                    aria-current=[(page.shown == kind.as_str()).then_some("true")] {
                    (kind.as_str()) " " (count(kind))
                }
            }
        }
        div class="card flush" {
            table class="rows" {
                thead {
                    tr {
                        th scope="col" { "Tag" }
                        th scope="col" { "Verdict" }
                        th scope="col" { "Why" }
                        th scope="col" { "Expires" }
                        th class="number" scope="col" { "Frees" }
                    }
                }
                tbody {
                    @for row in shown.iter().take(ROWS_MAX) {
                        tr {
                            th class="main name" scope="row" {
                                a href=(context.paths.tag(&page.head.name, &row.tag)) { (text::line(row.tag.as_str())) }
                            }
                            td { (parts::badge(row.status.class(), row.status.as_str(), "")) }
                            td { span class="small" { (text::line(&row.reason)) } }
                            td data-label="Expires" { (parts::time_or_dash(row.expires, context)) }
                            td class="number" data-label="Frees" { (parts::size_or_dash(row.bytes)) }
                        }
                    }
                }
            }
            @if shown.len() > ROWS_MAX {
                p class="pad faint" { "and " (shown.len() - ROWS_MAX) " more" }
            }
        }
    }
}
