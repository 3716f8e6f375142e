//! What an image or a repository needs of the store, and how much of it others need, too.

use jreg_oci::RepositoryName;
use maud::{Markup, html};

use crate::context::PageContext;
use crate::{link, parts, text};

/// How much of some content others need, too.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SharingFacts {
    /// The bytes of each manifest and blob once.
    pub bytes: u64,
    /// The same of what other manifests of the repository need, too.
    pub needed_here_bytes: u64,
    /// The same of what other repositories that the viewer may see link.
    pub elsewhere_bytes: u64,
    /// The same of what neither other manifests of the repository nor those repositories refer to.
    pub only_bytes: u64,
    /// These repositories, and the bytes in each of them, the most first.
    pub repositories: Vec<(RepositoryName, u64)>,
    pub more_repositories: usize,
    /// Blobs whose links were looked at, of all.
    pub listed_blobs: usize,
    pub blobs: usize,
}

/// What a page knows of it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum SharingView {
    Known(SharingFacts),
    /// It was not looked for: the address of the page that does.
    Offered(String),
    /// There is too much to read for a page.
    TooMuch,
    #[default]
    None,
}

/// The storage of an image.
pub(crate) fn sharing_card(context: &PageContext, view: &SharingView) -> Markup {
    let content = match view {
        SharingView::None => return html! {},
        SharingView::Offered(path) => html! {
            p class="faint small" { "How much of it other images need, too, is found by reading the manifests of this repository." }
            p { a class="button quiet" href=(path) { "Look for shared content" } }
        },
        SharingView::TooMuch => html! {
            p class="faint small" { "This repository has too much content to look for what its images share." }
        },
        SharingView::Known(facts) => sharing_facts(context, facts),
    };
    html! {
        section class="card" aria-labelledby="storage" {
            h2 id="storage" { "Storage" }
            (content)
        }
    }
}

fn sharing_facts(context: &PageContext, facts: &SharingFacts) -> Markup {
    let rows = [
        ("Needs", html! { strong { (parts::size(facts.bytes)) } }),
        (
            "Only this",
            html! { (parts::size(facts.only_bytes)) (parts::bar(facts.only_bytes, facts.bytes)) },
        ),
        (
            "Shared here",
            html! {
                (parts::size(facts.needed_here_bytes)) (parts::bar(facts.needed_here_bytes, facts.bytes))
                div class="faint small" { "with other manifests of this repository" }
            },
        ),
        (
            "Elsewhere",
            html! {
                (parts::size(facts.elsewhere_bytes)) (parts::bar(facts.elsewhere_bytes, facts.bytes))
                div class="faint small" { "also in other repositories; stored once" }
            },
        ),
    ];
    html! {
        (parts::facts(&rows))
        @if !facts.repositories.is_empty() {
            div { h3 { (REPOSITORIES) } (repositories(context, facts)) }
        }
        (listed_note(facts))
    }
}

/// The heading of these.
pub(crate) const REPOSITORIES: &str = "Repositories with some of it";

/// The repositories that have some of the content, too.
pub(crate) fn repositories(context: &PageContext, facts: &SharingFacts) -> Markup {
    html! {
        ul class="plain small" {
            @for (name, bytes) in &facts.repositories {
                li {
                    a href=(context.paths.repository(name)) { (text::line(name.as_str())) }
                    span class="faint" { " " (parts::size(*bytes)) }
                }
            }
            @if facts.more_repositories > 0 { li class="faint" { "and " (facts.more_repositories) " more" } }
        }
    }
}

/// That not all blobs were looked at.
pub(crate) fn listed_note(facts: &SharingFacts) -> Markup {
    html! {
        @if facts.listed_blobs < facts.blobs {
            p class="faint small" {
                "Of its " (facts.blobs) " blobs the " (facts.listed_blobs) " largest were looked for elsewhere."
            }
        }
    }
}

/// The address of a page with what is shared.
pub fn sharing_path(path: &str, parameters: &[(&str, &str)]) -> String {
    let all = parameters.iter().copied().chain([("sharing", "yes")]);
    link::with_query(path, &all.collect::<Vec<_>>())
}
