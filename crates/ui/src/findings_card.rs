//! The table of a scan report or a VEX document.

use maud::{Markup, html};

use crate::findings::{Finding, Findings, Severity};
use crate::{link, parts, text};

/// Findings that a page shows.
const FINDINGS_SHOWN_MAX: usize = 500;

/// Findings that match a filter.
#[derive(Clone, Debug)]
pub struct FindingsView {
    pub findings: Findings,
    pub filter: String,
}

/// What a document says, with a filter. `here` is the address of its page.
pub(crate) fn findings_card(here: &str, view: &FindingsView) -> Markup {
    let Findings { format, author, is_vex, items, more } = &view.findings;
    let filter = view.filter.to_lowercase();
    let has = |text: &str| text.to_lowercase().contains(&filter);
    let is_match = |of: &&Finding| {
        filter.is_empty()
            || [&of.id, &of.subject, &of.status].into_iter().any(|text| has(text))
            || has(of.severity.name())
    };
    let matching: Vec<&Finding> = items.iter().filter(is_match).collect();
    html! {
        section class="card flush" aria-labelledby="findings" {
            h2 id="findings" {
                @if *is_vex { "Statements " } @else { "Findings " }
                span class="count" {
                    (items.len() + more) " · " (text::line(format))
                    @if !author.is_empty() { " · " (text::line(author)) }
                }
                (parts::badge("warn", "not verified", "jreg shows what the document says"))
            }
            @if items.is_empty() {
                div class="empty" {
                    p { @if *is_vex { "It makes no statement." } @else { "It names no finding." } }
                }
            } @else {
                p class="pad badges" { (summary(items, *is_vex)) }
                form class="toolbar pad" method="get" action=(here) {
                    div class="field grow" {
                        label for="find" { "Find a vulnerability, product or " @if *is_vex { "status" } @else { "severity" } }
                        input id="find" name="find" type="search" value=(view.filter) maxlength="100";
                    }
                    button class="quiet" type="submit" { "Find" }
                    @if !view.filter.is_empty() { a class="button quiet" href=(here) { "Show all" } }
                }
                @if *is_vex { (statements(&matching)) } @else { (found(&matching)) }
                @if matching.is_empty() { p class="pad faint" { "Nothing matches." } }
                @if matching.len() > FINDINGS_SHOWN_MAX {
                    p class="pad faint" { "and " (matching.len() - FINDINGS_SHOWN_MAX) " more: find one by its name" }
                }
                @if *more > 0 { p class="pad faint" { (more) " others are not read." } }
            }
        }
    }
}

/// How many there are of each severity, or of each status.
fn summary(items: &[Finding], is_vex: bool) -> Markup {
    if is_vex {
        let statuses = STATUSES.map(|(status, class)| {
            let count = items.iter().filter(|of| of.status == status).count();
            (count, class, status.replace('_', " "))
        });
        return counts(&statuses);
    }
    let severities = Severity::ALL.map(|severity| {
        let count = items.iter().filter(|of| of.severity == severity).count();
        (count, severity_class(severity), severity.name().to_owned())
    });
    counts(&severities)
}

fn counts(counts: &[(usize, &'static str, String)]) -> Markup {
    html! {
        @for (count, class, name) in counts.iter().filter(|(count, _, _)| *count > 0) {
            (parts::badge(class, &format!("{count} {name}"), ""))
        }
    }
}

/// What documents call the status of a product, with the class of its badge.
const STATUSES: [(&str, &str); 9] = [
    ("affected", "bad"),
    ("exploitable", "bad"),
    ("under_investigation", "warn"),
    ("in_triage", "warn"),
    ("not_affected", "good"),
    ("false_positive", "good"),
    ("fixed", "good"),
    ("resolved", "good"),
    ("resolved_with_pedigree", "good"),
];

fn severity_class(severity: Severity) -> &'static str {
    match severity {
        Severity::Critical | Severity::High => "bad",
        Severity::Medium => "warn",
        Severity::Low | Severity::Negligible | Severity::Unknown => "",
    }
}

fn name(of: &Finding) -> Markup {
    html! {
        @match link::is_linkable(&of.url) {
            true => a class="external" href=(of.url) rel="noopener nofollow ugc" { (text::line(&of.id)) },
            false => (text::line(&of.id)),
        }
    }
}

fn found(findings: &[&Finding]) -> Markup {
    html! {
        table class="rows findings" {
            thead { tr {
                th scope="col" { "Vulnerability" }
                th scope="col" { "Severity" }
                th scope="col" { "In" }
                th scope="col" { "Version" }
                th scope="col" { "Fixed in" }
            } }
            tbody { @for of in findings.iter().take(FINDINGS_SHOWN_MAX) { tr {
                th class="main name" scope="row" {
                    (name(of))
                    @if !of.detail.is_empty() { div class="faint small" { (text::line(&of.detail)) } }
                }
                td { (parts::badge(severity_class(of.severity), of.severity.name(), "")) }
                td data-label="In" { (text::breakable(&of.subject)) }
                td data-label="Version" { (value(&of.version)) }
                td data-label="Fixed in" { (value(&of.fixed)) }
            } } }
        }
    }
}

fn statements(findings: &[&Finding]) -> Markup {
    html! {
        table class="rows findings" {
            thead { tr {
                th scope="col" { "Vulnerability" }
                th scope="col" { "Status" }
                th scope="col" { "Product" }
                th scope="col" { "Why" }
            } }
            tbody { @for of in findings.iter().take(FINDINGS_SHOWN_MAX) { tr {
                th class="main name" scope="row" { (name(of)) }
                td { (status(&of.status)) }
                td data-label="Product" { (text::breakable(&of.subject)) }
                td data-label="Why" { (value(&of.detail)) }
            } } }
        }
    }
}

fn status(status: &str) -> Markup {
    let known = STATUSES.into_iter().find(|(name, _)| *name == status);
    match known {
        Some((name, class)) => parts::badge(class, &name.replace('_', " "), ""),
        None => text::line(status),
    }
}

fn value(text: &str) -> Markup {
    match text.is_empty() {
        true => html! { span class="faint" title="not said" { "–" } },
        false => text::line(text),
    }
}
