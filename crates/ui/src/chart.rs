//! What a Helm chart says of itself.

use maud::{Markup, html};

use crate::document::ChartDocument;
use crate::{link, parts, text};

/// Characters of a README that a page shows.
const README_CHARS_MAX: usize = 60_000;

pub(crate) fn chart_card(chart: &ChartDocument) -> Markup {
    let mut rows = vec![("Name", text::line(&chart.name)), ("Version", text::line(&chart.version))];
    let optional = [
        ("App version", &chart.app_version),
        ("Type", &chart.r#type),
        ("Kubernetes", &chart.kube_version),
    ];
    for (name, value) in optional {
        if !value.is_empty() {
            rows.push((name, text::line(value)));
        }
    }
    if !chart.home.is_empty() {
        rows.push(("Home", link::external(&chart.home)));
    }
    if !chart.sources.items.is_empty() {
        rows.push(("Sources", html! { ul class="plain" { @for source in &chart.sources.items { li { (link::external(source)) } } } }));
    }
    if !chart.maintainers.items.is_empty() {
        rows.push(("Maintainers", html! {
            ul class="plain" { @for person in &chart.maintainers.items { li {
                (text::line(&person.name))
                @if !person.email.is_empty() { span class="faint" { " " (text::line(&person.email)) } }
            } } }
        }));
    }
    if !chart.keywords.items.is_empty() {
        rows.push(("Keywords", text::line(&chart.keywords.items.join(", "))));
    }
    html! {
        section class="card" aria-labelledby="chart" {
            h2 id="chart" { "Chart" @if chart.deprecated { " " (parts::badge("warn", "deprecated", "")) } }
            @if !chart.description.is_empty() { p { (text::block(&chart.description)) } }
            (parts::facts(&rows))
            @if !chart.dependencies.items.is_empty() {
                h3 { "Dependencies" }
                div class="scroll" tabindex="0" role="region" aria-label="Dependencies" {
                    table {
                        thead { tr { th scope="col" { "Name" } th scope="col" { "Version" } th scope="col" { "Repository" } } }
                        tbody { @for dependency in &chart.dependencies.items { tr {
                            th scope="row" { (text::line(&dependency.name)) }
                            td { (text::line(&dependency.version)) }
                            td { (link::external(&dependency.repository)) }
                        } } }
                    }
                }
            }
        }
    }
}

/// The README as plain text: nothing in it becomes markup.
pub(crate) fn readme_card(readme: &str) -> Markup {
    html! {
        section class="card" aria-labelledby="readme" {
            h2 id="readme" { "README" }
            pre class="readme" tabindex="0" { (text::block_up_to(readme, README_CHARS_MAX)) }
        }
    }
}
