//! The mirrored registries: whether each can be reached, what it allows, what was fetched, and what is stored.

use std::time::SystemTime;

use jreg_oci::RepositoryName;
use maud::{Markup, html};

use crate::activity::{ActivityState, ActivityTab, activity_tabs};
use crate::context::PageContext;
use crate::format::format_count;
use crate::layout::{Crumb, Layout, Section};
use crate::{link, parts, text};

/// The mirrored registries.
#[derive(Clone, Debug, Default)]
pub struct MirrorsPage {
    pub mirrors: Vec<MirrorFacts>,
    /// Whether what they hold was counted, which a button asks for.
    pub is_counted: bool,
}

/// A mirrored registry, as this instance knows it.
#[derive(Clone, Debug)]
pub struct MirrorFacts {
    pub namespace: String,
    /// The local repositories are below this.
    pub prefix: RepositoryName,
    pub state: ActivityState,
    /// Each URL in the order in which they are tried, and whether requests are sent to it.
    pub upstreams: Vec<(String, ActivityState, String)>,
    pub requests: u64,
    pub failed: u64,
    pub limited: u64,
    pub received_bytes: u64,
    /// How many pulls the registry still allows.
    pub rate_limit: Option<String>,
    /// What the settings say, by name.
    pub settings: Vec<(&'static str, String)>,
    /// What the last fetch by the schedule did.
    pub last_sync: Option<(SystemTime, String)>,
    pub last_eviction: Option<(SystemTime, String)>,
    /// Local repositories; `None`: they cannot be listed now.
    pub repositories: Option<u64>,
    pub has_more_repositories: bool,
    pub stored: Option<StoredOfMirror>,
}

/// What the repositories of a mirror hold.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredOfMirror {
    pub repositories: u64,
    pub manifests: u64,
    pub blobs: u64,
    /// Each blob of a repository once.
    pub bytes: u64,
    /// Whether all repositories were counted.
    pub is_whole: bool,
}

pub fn mirrors_page(context: &PageContext, page: &MirrorsPage) -> String {
    let count = link::with_query(&context.paths.service("mirrors"), &[("count", "yes")]);
    let main = html! {
        div class="head" {
            h1 { "Mirrors" }
            @if !page.is_counted && !page.mirrors.is_empty() {
                div class="actions" { a class="button quiet" href=(count) { "Count what is stored" } }
            }
            p class="lead" { "Registries whose content is fetched when it is pulled, and kept. Requests are counted since this instance started." }
        }
        (activity_tabs(context, ActivityTab::Mirrors))
        @if page.mirrors.is_empty() {
            div class="card" { div class="empty" {
                h2 { "No registry is mirrored" }
                p { "A table " code { "[[mirror]]" } " of the configuration file names one." }
            } }
        }
        @for (index, mirror) in page.mirrors.iter().enumerate() { (mirror_card(context, index, mirror)) }
    };
    let crumbs =
        vec![Crumb::new("Activity", context.paths.service("activity")), Crumb::last("Mirrors")];
    Layout::new(context, Section::Activity, "Mirrors").crumbs(crumbs).render(&main)
}

fn mirror_card(context: &PageContext, index: usize, mirror: &MirrorFacts) -> Markup {
    let id = format!("mirror-{index}");
    let folder = link::with_query(&context.paths.home(), &[("in", mirror.prefix.as_str())]);
    html! {
        section class="card" aria-labelledby=(id) {
            h2 id=(id) { (text::line(&mirror.namespace)) (state_badge(mirror.state)) }
            ul class="plain" {
                @for (url, state, note) in &mirror.upstreams {
                    li {
                        code { (text::line(url)) } " "
                        @if mirror.upstreams.len() > 1 { (state_badge(*state)) " " }
                        span class="faint" { (text::line(note)) }
                    }
                }
            }
            div class="grid" {
                div { h3 { "Requests" } (parts::facts(&request_rows(mirror))) }
                div { h3 { "Stored" } (parts::facts(&stored_rows(context, mirror, &folder))) }
                div { h3 { "Settings" } (parts::facts(&setting_rows(mirror))) }
            }
        }
    }
}

fn state_badge(state: ActivityState) -> Markup {
    match state {
        ActivityState::Good => parts::badge("good", "working", ""),
        ActivityState::Warn => parts::badge("warn", "look at it", ""),
        ActivityState::Bad => parts::badge("bad", "not working", ""),
        ActivityState::Neutral => parts::badge("", "not used yet", ""),
    }
}

fn request_rows(mirror: &MirrorFacts) -> Vec<(&'static str, Markup)> {
    let count = |count: u64| html! { (format_count(count)) };
    let mut rows = vec![
        ("Sent", count(mirror.requests)),
        ("Failed", count(mirror.failed)),
        ("Rate-limited", count(mirror.limited)),
        ("Received", parts::size(mirror.received_bytes)),
    ];
    if let Some(limit) = &mirror.rate_limit {
        rows.push(("Pulls left", text::line(limit)));
    }
    rows
}

fn stored_rows(
    context: &PageContext,
    mirror: &MirrorFacts,
    folder: &str,
) -> Vec<(&'static str, Markup)> {
    let repositories = html! {
        @match mirror.repositories {
            Some(0) => span class="faint" { "none was pulled yet" },
            Some(count) => a href=(folder) { (format_count(count)) @if mirror.has_more_repositories { "+" } },
            None => (parts::dash()),
        }
    };
    let mut rows = vec![("Repositories", repositories)];
    if let Some(stored) = &mirror.stored {
        rows.push(("Size", html! {
            (parts::size(stored.bytes))
            @if !stored.is_whole { span class="faint small" { " in the first " (stored.repositories) " repositories" } }
        }));
        rows.push(("Manifests", html! { (format_count(stored.manifests)) }));
        rows.push(("Blobs", html! { (format_count(stored.blobs)) }));
    }
    for (name, run) in [("Last fetch", &mirror.last_sync), ("Last eviction", &mirror.last_eviction)]
    {
        if let Some((at, what)) = run {
            rows.push((name, html! { (parts::time(*at, context)) div class="faint small" { (text::line(what)) } }));
        }
    }
    rows
}

fn setting_rows(mirror: &MirrorFacts) -> Vec<(&'static str, Markup)> {
    let below = html! { code { (text::line(mirror.prefix.as_str())) "/" } };
    let settings = mirror.settings.iter().map(|(name, value)| (*name, text::line(value)));
    [("Below", below)].into_iter().chain(settings).collect()
}
