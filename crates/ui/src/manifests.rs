//! The manifests of a repository, tagged or not.

use jreg_oci::{Digest, Tag};
use maud::{Markup, html};

use crate::artifact::ArtifactKind;
use crate::context::PageContext;
use crate::repository::{RepositoryHead, RepositoryTab};
use crate::{link, parts, text};

/// A page of manifests in the order of their digests.
#[derive(Clone, Debug)]
pub struct ManifestsPage {
    pub head: RepositoryHead,
    pub rows: Vec<ManifestRow>,
    pub is_first: bool,
    pub next: Option<String>,
}

#[derive(Clone, Debug)]
pub struct ManifestRow {
    pub digest: Digest,
    pub kind: ArtifactKind,
    pub artifact_type: String,
    /// Bytes of the manifest and what it declares of its blobs.
    pub size: Option<u64>,
    pub subject: Option<Digest>,
    pub tags: Vec<Tag>,
    pub has_more_tags: bool,
}

pub fn manifests_page(context: &PageContext, page: &ManifestsPage) -> String {
    let here = context.paths.repository_page(&page.head.name, "manifests");
    let next = page.next.as_ref().map(|after| link::with_query(&here, &[("after", after)]));
    let first = (!page.is_first).then_some(here.as_str());
    let content = html! {
        p class="faint" { "Every manifest, by digest: also those without a tag, which a tag left behind, and those that others refer to." }
        @if page.rows.is_empty() {
            div class="card" { div class="empty" { h2 { "No manifests" } } }
        } @else {
            div class="card flush" {
                table class="rows" {
                    thead {
                        tr {
                            th scope="col" { "Manifest" }
                            th scope="col" { "Kind" }
                            th scope="col" { "Tags" }
                            th scope="col" { "Refers to" }
                            th class="number" scope="col" { "Size" }
                        }
                    }
                    tbody { @for row in &page.rows { (manifest_row(context, page, row)) } }
                }
                (parts::pager(first, next.as_deref()))
            }
        }
    };
    page.head.render(context, RepositoryTab::Manifests, "Manifests", &content)
}

fn manifest_row(context: &PageContext, page: &ManifestsPage, row: &ManifestRow) -> Markup {
    let (paths, name) = (&context.paths, &page.head.name);
    html! {
        tr {
            th class="main" scope="row" {
                (parts::digest_link(&row.digest, Some(&paths.manifest(name, &row.digest))))
            }
            td {
                (row.kind.name())
                @if !row.artifact_type.is_empty() { div class="faint small" { (text::breakable(&row.artifact_type)) } }
            }
            td {
                @if row.tags.is_empty() { span class="badge warn" { "untagged" } }
                @for (index, tag) in row.tags.iter().enumerate() {
                    @if index > 0 { ", " }
                    a href=(paths.tag(name, tag)) { (text::line(tag.as_str())) }
                }
                @if row.has_more_tags { span class="faint" { " …" } }
            }
            td {
                @match &row.subject {
                    Some(subject) => (parts::digest_link(subject, Some(&paths.manifest(name, subject)))),
                    None => "",
                }
            }
            td class="number" data-label="Size" { (parts::size_or_dash(row.size)) }
        }
    }
}
