//! What is attached to a manifest, and why content is kept.

use std::time::SystemTime;

use jreg_oci::{Digest, Reference, RepositoryName, Tag};
use maud::{Markup, html};

use crate::artifact::ArtifactKind;
use crate::context::PageContext;
use crate::document::Pairs;
use crate::image::{image_crumbs, image_tabs, title_of};
use crate::layout::{Layout, Section};
use crate::{link, parts, text};

/// What is attached to a manifest.
#[derive(Clone, Debug)]
pub struct ReferrersPage {
    pub name: RepositoryName,
    pub digest: Digest,
    /// The tag by which the viewer came here.
    pub tag: Option<Tag>,
    pub rows: Vec<ReferrerRow>,
    pub is_first: bool,
    pub next: Option<String>,
}

#[derive(Clone, Debug)]
pub struct ReferrerRow {
    pub digest: Digest,
    pub kind: ArtifactKind,
    pub artifact_type: String,
    pub size: u64,
    pub annotations: Pairs,
    /// How it is attached, if not as a referrer: by a tag of cosign.
    pub by_tag: Option<Tag>,
}

fn reference_of(digest: &Digest, tag: Option<&Tag>) -> Reference {
    match tag {
        Some(tag) => Reference::Tag(tag.clone()),
        None => Reference::Digest(digest.clone()),
    }
}

pub fn referrers_page(context: &PageContext, page: &ReferrersPage) -> String {
    let paths = &context.paths;
    let reference = reference_of(&page.digest, page.tag.as_ref());
    let here = paths.repository_page(&page.name, &format!("referrers/{}", page.digest));
    let tag = page.tag.as_ref().map_or("", Tag::as_str);
    let next =
        page.next.as_ref().map(|after| link::with_query(&here, &[("tag", tag), ("after", after)]));
    let first = (!page.is_first).then(|| link::with_query(&here, &[("tag", tag)]));
    let main = html! {
        div class="head" {
            h1 { (text::line(&title_of(&page.name, &reference))) }
            div class="lead" { (parts::digest_link(&page.digest, Some(&paths.manifest(&page.name, &page.digest)))) }
        }
        (image_tabs(context, &page.name, &reference, Some(&page.digest), "Attached"))
        p class="notice warn" {
            "Whoever may push to this repository may attach anything. jreg shows what is present and verifies no \
             signature: use cosign or notation for that."
        }
        @if page.rows.is_empty() {
            div class="card" { div class="empty" {
                h2 { "Nothing is attached" }
                p { "Signatures, SBOMs, provenance and reports that refer to this manifest are listed here." }
            } }
        } @else {
            div class="card flush" {
                table class="rows" {
                    thead { tr {
                        th scope="col" { "What" }
                        th scope="col" { "Manifest" }
                        th scope="col" { "Annotations" }
                        th class="number" scope="col" { "Size" }
                    } }
                    tbody { @for row in &page.rows { (referrer_row(context, page, row)) } }
                }
                (parts::pager(first.as_deref(), next.as_deref()))
            }
        }
    };
    let crumbs = image_crumbs(context, &page.name, &reference, Some("Attached"));
    let title = format!("Attached to {}", title_of(&page.name, &reference));
    Layout::new(context, Section::Repositories, &title).crumbs(crumbs).render(&main)
}

fn referrer_row(context: &PageContext, page: &ReferrersPage, row: &ReferrerRow) -> Markup {
    html! {
        tr {
            th class="main" scope="row" {
                a href=(context.paths.manifest(&page.name, &row.digest)) { (row.kind.name()) }
                " " (parts::badge("", "present", "not verified"))
                div class="faint small" {
                    (text::breakable(&row.artifact_type))
                    @if let Some(tag) = &row.by_tag { " by the tag " (text::line(tag.as_str())) }
                }
            }
            td { (parts::digest_link(&row.digest, Some(&context.paths.manifest(&page.name, &row.digest)))) }
            td {
                @if !row.annotations.is_empty() {
                    details {
                        summary class="small" { "Annotations (" (row.annotations.items.len() + row.annotations.more) ")" }
                        (parts::pairs("Annotations", &row.annotations.items, row.annotations.more))
                    }
                }
            }
            td class="number" data-label="Size" { (parts::size(row.size)) }
        }
    }
}

/// Why content is kept.
#[derive(Clone, Debug)]
pub struct KeptPage {
    pub name: RepositoryName,
    pub digest: Digest,
    pub tag: Option<Tag>,
    /// `None`: the repository has too many manifests to look for what keeps it.
    pub reasons: Option<Vec<KeptReason>>,
    /// From when on GC may delete it, if nothing keeps it.
    pub goes_after: Option<SystemTime>,
    /// What retention does with each of its tags: the tag, a sentence, when it expires.
    pub verdicts: Vec<(Tag, String, Option<SystemTime>)>,
    pub manifests_max: usize,
}

/// What keeps a manifest from GC.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KeptReason {
    Tag(Tag),
    Manifest(Digest),
    Subject(Digest),
    UntaggedKept,
    /// The repository belongs to a mirror.
    Mirrored,
}

pub fn kept_page(context: &PageContext, page: &KeptPage) -> String {
    let paths = &context.paths;
    let reference = reference_of(&page.digest, page.tag.as_ref());
    let main = html! {
        div class="head" {
            h1 { (text::line(&title_of(&page.name, &reference))) }
            div class="lead" { (parts::digest_link(&page.digest, Some(&paths.manifest(&page.name, &page.digest)))) }
        }
        (image_tabs(context, &page.name, &reference, Some(&page.digest), "Why it is kept"))
        section class="card" aria-labelledby="gc" {
            h2 id="gc" {
                @match &page.reasons {
                    Some(reasons) if !reasons.is_empty() => "Garbage collection keeps it because",
                    _ => "Garbage collection",
                }
            }
            @match &page.reasons {
                None => p {
                    "This repository has more than " (page.manifests_max) " manifests: run "
                    code { "jreg explain --repository " (page.name) " " (page.digest) } "."
                },
                Some(reasons) if reasons.is_empty() => {
                    p { strong { "Nothing refers to it." } }
                    @if let Some(after) = page.goes_after {
                        p { "A run may delete it " (parts::time(after, context)) " or later, unless it is tagged or referred to again." }
                    }
                }
                Some(reasons) => ul class="plain" { @for reason in reasons { li { (reason_line(context, page, reason)) } } },
            }
        }
        @if !page.verdicts.is_empty() {
            section class="card" aria-labelledby="retention" {
                h2 id="retention" { "Retention of its tags" }
                ul class="plain" {
                    @for (tag, reason, expires) in &page.verdicts {
                        li {
                            strong { (text::line(tag.as_str())) } ": " (text::line(reason))
                            @if let Some(expires) = expires { span class="faint" { " · expires " (parts::time(*expires, context)) } }
                        }
                    }
                }
            }
        }
    };
    let crumbs = image_crumbs(context, &page.name, &reference, Some("Why it is kept"));
    let title = format!("Why {} is kept", title_of(&page.name, &reference));
    Layout::new(context, Section::Repositories, &title).crumbs(crumbs).render(&main)
}

fn reason_line(context: &PageContext, page: &KeptPage, reason: &KeptReason) -> Markup {
    let paths = &context.paths;
    let manifest =
        |digest: &Digest| parts::digest_link(digest, Some(&paths.manifest(&page.name, digest)));
    html! {
        @match reason {
            KeptReason::Tag(tag) => { "The tag " a href=(paths.tag(&page.name, tag)) { (text::line(tag.as_str())) } " points to it." }
            KeptReason::Manifest(digest) => { "The manifest " (manifest(digest)) " references it." }
            KeptReason::Subject(digest) => { "It refers to " (manifest(digest)) ", which is there." }
            KeptReason::UntaggedKept => "Manifests without a tag are kept by the settings.",
            KeptReason::Mirrored => "It is content of a mirrored registry: its limits decide.",
        }
    }
}
