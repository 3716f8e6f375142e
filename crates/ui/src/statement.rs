//! What an attestation says: the facts of its provenance.

use maud::{Markup, html};

use crate::document::{MaterialDocument, StatementDocument};
use crate::{link, parts, text};

/// Sources and dependencies that a page shows.
const MATERIALS_SHOWN_MAX: usize = 30;

/// A statement. It may be signed: it is not verified.
pub(crate) fn statement_card(statement: &StatementDocument) -> Markup {
    let predicate = &statement.predicate;
    let builder = [&predicate.builder.id, &predicate.run_details.builder.id];
    let build_type = [&predicate.build_type, &predicate.build_definition.build_type];
    let source = &predicate.invocation.config_source;
    let mut rows = vec![("Statement", text::line(&statement.predicate_type))];
    for (name, values) in [("Builder", builder), ("Build type", build_type)] {
        if let Some(value) = values.into_iter().find(|value| !value.is_empty()) {
            rows.push((name, link::external(value)));
        }
    }
    if !source.uri.is_empty() {
        rows.push(("Source", source_line(source)));
        if !source.entry_point.is_empty() {
            rows.push(("Entry point", text::line(&source.entry_point)));
        }
    }
    let materials = [&predicate.materials, &predicate.build_definition.resolved_dependencies];
    let materials: Vec<&MaterialDocument> =
        materials.into_iter().flat_map(|list| &list.items).collect();
    html! {
        section class="card" aria-labelledby="statement" {
            h2 id="statement" { "What it says " (parts::badge("warn", "not verified", "jreg verifies no signatures")) }
            (parts::facts(&rows))
            @if !statement.subject.items.is_empty() {
                h3 { "About" }
                ul class="plain" {
                    @for subject in &statement.subject.items {
                        li {
                            (text::line(&subject.name))
                            @for (algorithm, value) in &subject.digest.items {
                                div class="faint small" { code { (text::line(algorithm)) ":" (text::line(value)) } }
                            }
                        }
                    }
                }
            }
            @if !materials.is_empty() {
                h3 { "Built from" }
                ul class="plain" {
                    @for material in materials.iter().take(MATERIALS_SHOWN_MAX) { li { (source_line(material)) } }
                    @if materials.len() > MATERIALS_SHOWN_MAX {
                        li class="faint" { "and " (materials.len() - MATERIALS_SHOWN_MAX) " more" }
                    }
                }
            }
        }
    }
}

fn source_line(material: &MaterialDocument) -> Markup {
    html! {
        (link::external(&material.uri))
        @for (algorithm, value) in &material.digest.items {
            div class="faint small" { code { (text::line(algorithm)) ":" (text::line(value)) } }
        }
    }
}
