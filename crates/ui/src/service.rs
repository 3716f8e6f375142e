//! What administrators see of the registry as a whole: the last GC run, and the quotas.

use std::time::{Duration, SystemTime};

use maud::{Markup, html};

use crate::context::PageContext;
use crate::format::{format_bytes, format_count, format_span};
use crate::{parts, text};

/// What the page of usage says of the registry as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceUsage {
    pub gc: Option<GcNote>,
    pub quotas: Vec<QuotaRow>,
}

/// What the last GC run did, on any instance.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GcNote {
    /// When it ended, and how long it took.
    pub completed: Option<(SystemTime, Duration)>,
    /// When a run failed since then, and why.
    pub failed: Option<(SystemTime, String)>,
    /// What the last sweep counted: when, the bytes of all blobs, and their number.
    pub stored: Option<(SystemTime, u64, u64)>,
    pub manifests: u64,
    pub links: u64,
    pub removed_manifests: u64,
    pub removed_bytes: u64,
    /// Bytes that wait for their removal.
    pub queued_bytes: u64,
}

/// A quota, with its use as this instance counted it last.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct QuotaRow {
    /// From 1.
    pub number: usize,
    /// What it says; empty where only its use is shown.
    pub sentence: String,
    /// `None`: it was not counted since this instance started.
    pub used: Option<u64>,
    pub limit: u64,
    pub is_warned: bool,
}

/// What is stored, and what the last GC run did.
pub(crate) fn gc_card(context: &PageContext, note: Option<&GcNote>) -> Markup {
    html! {
        section class="card" aria-labelledby="gc" {
            h2 id="gc" { "Garbage collection" }
            @match note {
                None => p class="faint" { "No run has ended yet." },
                Some(note) => (gc_facts(context, note)),
            }
        }
    }
}

fn gc_facts(context: &PageContext, note: &GcNote) -> Markup {
    let mut facts = Vec::new();
    if let Some((at, took)) = note.completed {
        facts.push((
            "Last run",
            html! { (parts::time(at, context)) span class="faint" { ", took " (format_span(took)) } },
        ));
        facts.push((
            "Examined",
            html! { (format_count(note.manifests)) " manifests, " (format_count(note.links)) " links" },
        ));
        facts.push((
            "Removed",
            html! {
                (format_count(note.removed_manifests)) " manifests, " (parts::size(note.removed_bytes)) " of blobs"
                @if note.queued_bytes > 0 {
                    span class="faint" { "; " (format_bytes(note.queued_bytes)) " wait for their removal" }
                }
            },
        ));
    }
    if let Some((at, bytes, locations)) = note.stored {
        facts.push((
            "Stored",
            html! {
                (parts::size(bytes)) " in " (format_count(locations)) " blobs"
                span class="faint" { ", counted " (parts::time(at, context)) }
            },
        ));
    }
    html! {
        @if let Some((at, reason)) = &note.failed {
            p class="notice bad" { "The last run failed " (parts::time(*at, context)) ": " (text::line(reason)) }
        }
        (parts::facts(&facts))
    }
}

/// Quotas with their use; nothing if there are none.
pub(crate) fn quota_card(quotas: &[QuotaRow]) -> Markup {
    html! {
        @if !quotas.is_empty() {
            section class="card flush" aria-labelledby="quotas" {
                h2 id="quotas" { "Quotas " span class="count" { "as this instance counted them last" } }
                table class="rows" {
                    thead { tr {
                        th scope="col" { "Quota" }
                        th scope="col" { span class="away" { "Share" } }
                        th class="number" scope="col" { "Used" }
                        th class="number" scope="col" { "Limit" }
                    } }
                    tbody { @for row in quotas { (quota_row(row)) } }
                }
            }
        }
    }
}

fn quota_row(row: &QuotaRow) -> Markup {
    let used = row.used.unwrap_or(0);
    let percent = used.saturating_mul(100).checked_div(row.limit).unwrap_or(100);
    html! {
        tr {
            th class="main name" scope="row" {
                "Quota " (row.number) " "
                @if row.used.is_some_and(|used| used > row.limit) {
                    (parts::badge("bad", "exceeded", "Pushes are refused"))
                } @else if row.is_warned {
                    (parts::badge("warn", "nearly used", "Its threshold of warnings is reached"))
                }
                @if !row.sentence.is_empty() { div class="faint small" { (text::line(&row.sentence)) } }
            }
            td class="share" { (parts::bar(used, row.limit)) }
            td class="number" data-label="Used" {
                @match row.used {
                    Some(used) => { (parts::size(used)) span class="faint small" { " " (percent) " %" } }
                    None => span class="faint" title="Nothing was pushed to it since this instance started" { "not counted" },
                }
            }
            td class="number" data-label="Limit" { (parts::size(row.limit)) }
        }
    }
}
