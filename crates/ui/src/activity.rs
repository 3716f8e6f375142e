//! What is going on: uploads and recent pushes, and for administrators GC and fsck, mirrors, event sinks and
//! quotas.

use std::time::SystemTime;

use jreg_oci::{RepositoryName, Tag};
use maud::{Markup, html};

use crate::context::PageContext;
use crate::layout::{Layout, Section};
use crate::service::{GcNote, QuotaRow, gc_card, quota_card};
use crate::{parts, text};

/// What is going on.
#[derive(Clone, Debug, Default)]
pub struct ActivityPage {
    pub uploads: Vec<UploadRow>,
    /// What was pushed to this instance lately, the latest first.
    pub pushes: Vec<PushRow>,
    /// `None`: the viewer may not see it.
    pub service: Option<ServiceActivity>,
}

#[derive(Clone, Debug)]
pub struct UploadRow {
    pub repository: RepositoryName,
    pub state: &'static str,
    pub started: Option<SystemTime>,
    pub last_byte: SystemTime,
    pub bytes: u64,
}

/// A push of a tag.
#[derive(Clone, Debug)]
pub struct PushRow {
    pub repository: RepositoryName,
    pub tag: Tag,
    pub at: SystemTime,
    pub by: Option<String>,
}

/// What concerns the registry as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ServiceActivity {
    pub gc: Option<GcNote>,
    pub sections: Vec<ActivitySection>,
    pub quotas: Vec<QuotaRow>,
}

/// A heading, and rows of a name, a state and a text.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActivitySection {
    pub heading: String,
    /// Shown if there are no rows.
    pub empty: String,
    pub rows: Vec<ActivityRow>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ActivityRow {
    pub name: String,
    pub state: ActivityState,
    pub text: String,
    pub at: Option<SystemTime>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ActivityState {
    #[default]
    Neutral,
    Good,
    Warn,
    Bad,
}

impl ActivityState {
    fn class_and_name(self) -> Option<(&'static str, &'static str)> {
        match self {
            Self::Neutral => None,
            Self::Good => Some(("good", "good")),
            Self::Warn => Some(("warn", "look at it")),
            Self::Bad => Some(("bad", "failed")),
        }
    }
}

/// A page of what is going on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ActivityTab {
    Activity,
    Mirrors,
}

/// The tabs of administrators; others have one page.
pub(crate) fn activity_tabs(context: &PageContext, current: ActivityTab) -> Markup {
    if !context.viewer.is_admin {
        return html! {};
    }
    let tab = |tab, name, page| parts::Tab {
        name,
        path: context.paths.service(page),
        is_current: tab == current,
    };
    parts::tabs(
        "Activity",
        &[
            tab(ActivityTab::Activity, "Overview", "activity"),
            tab(ActivityTab::Mirrors, "Mirrors", "mirrors"),
        ],
    )
}

pub fn activity_page(context: &PageContext, page: &ActivityPage) -> String {
    let main = html! {
        div class="head" { h1 { "Activity" } }
        (activity_tabs(context, ActivityTab::Activity))
        (uploads(context, page))
        (pushes(context, page))
        @if let Some(service) = &page.service {
            (gc_card(context, service.gc.as_ref()))
            @for section in &service.sections { (section_card(context, section)) }
            (quota_card(&service.quotas))
        }
    };
    Layout::new(context, Section::Activity, "Activity").render(&main)
}

fn uploads(context: &PageContext, page: &ActivityPage) -> Markup {
    html! {
        section class="card flush" aria-labelledby="uploads" {
            h2 id="uploads" { "Uploads in progress " span class="count" { (page.uploads.len()) } }
            @if page.uploads.is_empty() {
                p class="pad faint" { "None in repositories that you may see." }
            } @else {
                table class="rows" {
                    thead { tr {
                        th scope="col" { "Repository" }
                        th scope="col" { "State" }
                        th scope="col" { "Started" }
                        th scope="col" { "Last bytes" }
                        th class="number" scope="col" { "Received" }
                    } }
                    tbody { @for upload in &page.uploads { tr {
                        th class="main name" scope="row" {
                            a href=(context.paths.repository(&upload.repository)) { (text::line(upload.repository.as_str())) }
                        }
                        td { (upload.state) }
                        td data-label="Started" { (parts::time_or_dash(upload.started, context)) }
                        td data-label="Last bytes" { (parts::time(upload.last_byte, context)) }
                        td class="number" data-label="Received" { (parts::size(upload.bytes)) }
                    } } }
                }
            }
        }
    }
}

fn pushes(context: &PageContext, page: &ActivityPage) -> Markup {
    html! {
        section class="card flush" aria-labelledby="pushes" {
            h2 id="pushes" { "Recent pushes " span class="count" { "to this instance since it started" } }
            @if page.pushes.is_empty() {
                p class="pad faint" { "None of tags that you may see." }
            } @else {
                table class="rows" {
                    thead { tr {
                        th scope="col" { "Tag" }
                        th scope="col" { "Pushed" }
                    } }
                    tbody { @for push in &page.pushes { tr {
                        th class="main name" scope="row" {
                            a href=(context.paths.tag(&push.repository, &push.tag)) {
                                (text::line(push.repository.as_str())) ":" (text::line(push.tag.as_str()))
                            }
                        }
                        td data-label="Pushed" {
                            (parts::time(push.at, context))
                            @if let Some(by) = &push.by { span class="by" { "by " (text::line(by)) } }
                        }
                    } } }
                }
            }
        }
    }
}

fn section_card(context: &PageContext, section: &ActivitySection) -> Markup {
    html! {
        section class="card flush" {
            h2 { (text::line(&section.heading)) }
            @if section.rows.is_empty() {
                p class="pad faint" { (text::line(&section.empty)) }
            } @else {
                table class="rows" {
                    thead class="away" { tr { th scope="col" { "What" } th scope="col" { "State" } th scope="col" { "When" } } }
                    tbody { @for row in &section.rows { tr {
                        th class="main name" scope="row" { (text::line(&row.name)) }
                        td {
                            @if let Some((class, name)) = row.state.class_and_name() { (parts::badge(class, name, "")) " " }
                            (text::line(&row.text))
                        }
                        td { @if let Some(at) = row.at { (parts::time(at, context)) } }
                    } } }
                }
            }
        }
    }
}
