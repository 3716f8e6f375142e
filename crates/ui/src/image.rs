//! The page of an image or another artifact.

use std::collections::BTreeMap;
use std::time::SystemTime;

use jreg_oci::{Digest, MediaType, Reference, RepositoryName, Tag};
use maud::{Markup, html};

use crate::artifact::{self, ArtifactKind, TITLE};
use crate::context::PageContext;
use crate::document::{
    ChartDocument, ConfigDocument, ContainerDocument, DescriptorDocument, HistoryDocument,
    ManifestDocument, Pairs, Sbom, StatementDocument,
};
use crate::findings_card::{FindingsView, findings_card};
use crate::format::{format_bytes, parse_time};
use crate::layout::{Crumb, Layout, Section};
use crate::parts::{self, Tab};
use crate::repository::crumbs_of;
use crate::sharing::{SharingView, sharing_card};
use crate::{chart, link, statement, text};

/// An image or another artifact.
#[derive(Clone, Debug)]
pub struct ImagePage {
    pub name: RepositoryName,
    pub reference: Reference,
    /// Of a reference by tag.
    pub tag: Option<TagFacts>,
    pub manifest: ManifestFacts,
    /// What is shown of an index: its entry, if that is there.
    pub entry: Option<ManifestFacts>,
    /// The config of the image, or of the entry.
    pub config: Option<ConfigDocument>,
    pub chart: Option<ChartDocument>,
    /// The README of the chart.
    pub readme: Option<String>,
    pub sbom: Option<SbomView>,
    pub findings: Option<FindingsView>,
    pub statement: Option<StatementDocument>,
    /// Why a document is not shown.
    pub document_note: Option<String>,
    /// The tags that point to the manifest.
    pub tags: Vec<Tag>,
    pub has_more_tags: bool,
    /// What is attached to it, by kind.
    pub attached: Vec<(ArtifactKind, usize)>,
    pub may_delete: bool,
    pub sharing: SharingView,
}

/// A manifest as it is stored.
#[derive(Clone, Debug)]
pub struct ManifestFacts {
    pub digest: Digest,
    pub media_type: MediaType,
    pub kind: ArtifactKind,
    pub document: ManifestDocument,
    /// Length of the manifest.
    pub bytes: u64,
    /// Indented.
    pub raw: Option<String>,
}

#[derive(Clone, Debug)]
pub struct TagFacts {
    pub tag: Tag,
    pub pushed: SystemTime,
    pub by: Option<String>,
    /// The rule by which it is immutable.
    pub immutable: Option<String>,
    /// When it was last pulled; `None`: pulls are not recorded. Within: no pull is known.
    pub pulled: Option<Option<SystemTime>>,
}

/// The packages of an SBOM that match a filter.
#[derive(Clone, Debug)]
pub struct SbomView {
    pub sbom: Sbom,
    pub filter: String,
}

/// Packages that a page shows.
const PACKAGES_SHOWN_MAX: usize = 500;
/// Characters of a manifest that a page shows.
const RAW_CHARS_MAX: usize = 200_000;

impl ManifestFacts {
    /// Bytes of the manifest, its config and its layers.
    pub fn total_bytes(&self) -> u64 {
        let document = &self.document;
        let blobs = document.config.iter().chain(artifact::files(document));
        blobs.fold(self.bytes, |total, blob| total.saturating_add(blob.size))
    }
}

/// What a page calls an image.
pub(crate) fn title_of(name: &RepositoryName, reference: &Reference) -> String {
    match reference {
        Reference::Tag(tag) => format!("{name}:{tag}"),
        Reference::Digest(digest) => format!("{name}@{}", parts::short(digest)),
    }
}

impl ImagePage {
    fn title(&self) -> String {
        title_of(&self.name, &self.reference)
    }

    /// The manifest whose content is shown.
    fn shown(&self) -> &ManifestFacts {
        self.entry.as_ref().unwrap_or(&self.manifest)
    }
}

/// The tabs of an image: `current` is the name of one.
pub(crate) fn tag_tabs(
    context: &PageContext,
    name: &RepositoryName,
    tag: &Tag,
    digest: Option<&Digest>,
    current: &str,
) -> Markup {
    let reference = Reference::Tag(tag.clone());
    image_tabs(context, name, &reference, digest, current)
}

pub(crate) fn image_tabs(
    context: &PageContext,
    name: &RepositoryName,
    reference: &Reference,
    digest: Option<&Digest>,
    current: &str,
) -> Markup {
    let paths = &context.paths;
    let mut tabs = vec![("Overview", paths.reference(name, reference))];
    let tag = reference.tag().map_or("", Tag::as_str);
    if let Some(digest) = digest {
        let page = |page: &str| {
            link::with_query(
                &paths.repository_page(name, &format!("{page}/{digest}")),
                &[("tag", tag)],
            )
        };
        tabs.push(("Attached", page("referrers")));
        tabs.push(("Why it is kept", page("kept")));
    }
    if let Some(tag) = reference.tag() {
        tabs.push(("History", paths.repository_page(name, &format!("history/{tag}"))));
    }
    let tabs: Vec<Tab<'_>> = tabs
        .into_iter()
        .map(|(name, path)| Tab { name, path, is_current: name == current })
        .collect();
    parts::tabs("Image", &tabs)
}

/// The breadcrumb of a page of an image.
pub(crate) fn image_crumbs(
    context: &PageContext,
    name: &RepositoryName,
    reference: &Reference,
    page: Option<&str>,
) -> Vec<Crumb> {
    let mut crumbs = crumbs_of(context, name, false);
    let shown = match reference {
        Reference::Tag(tag) => tag.to_string(),
        Reference::Digest(digest) => parts::short(digest),
    };
    match page {
        None => crumbs.push(Crumb::last(shown)),
        Some(page) => {
            crumbs.push(Crumb::new(shown, context.paths.reference(name, reference)));
            crumbs.push(Crumb::last(page));
        }
    }
    crumbs
}

pub fn image_page(context: &PageContext, page: &ImagePage) -> String {
    let main = html! {
        (head(context, page))
        (image_tabs(context, &page.name, &page.reference, Some(&page.manifest.digest), "Overview"))
        div class="grid wide-left" {
            div class="stack" {
                (commands(context, page))
                @if page.manifest.kind == ArtifactKind::Index { (platforms(context, page)) }
                (content(context, page))
            }
            div class="stack" {
                (summary(context, page))
                (sharing_card(context, &page.sharing))
                (annotations(page))
                (raw(page))
            }
        }
    };
    let crumbs = image_crumbs(context, &page.name, &page.reference, None);
    Layout::new(context, Section::Repositories, &page.title()).crumbs(crumbs).render(&main)
}

fn head(context: &PageContext, page: &ImagePage) -> Markup {
    let paths = &context.paths;
    let (parameter, value) = match &page.reference {
        Reference::Tag(tag) => ("tag", tag.to_string()),
        Reference::Digest(digest) => ("digest", digest.to_string()),
    };
    let delete = link::with_query(
        &paths.repository_page(&page.name, "delete"),
        &[(parameter, value.as_str())],
    );
    let immutable = page.tag.as_ref().and_then(|tag| tag.immutable.as_ref());
    html! {
        div class="head" {
            h1 { (text::line(&page.title())) }
            span class="badges" {
                (parts::badge("accent", page.manifest.kind.name(), ""))
                @if let Some(rule) = immutable { (parts::badge("good", "immutable", rule)) }
            }
            @if page.may_delete && context.deletes && immutable.is_none() {
                div class="actions" { a class="button quiet" href=(delete) { "Delete…" } }
            }
        }
    }
}

fn commands(context: &PageContext, page: &ImagePage) -> Markup {
    let kind = page.manifest.kind;
    let commands = artifact::pull_commands(kind, &context.host, &page.name, &page.reference);
    let digest = Reference::Digest(page.manifest.digest.clone());
    let by_digest = artifact::pull_commands(kind, &context.host, &page.name, &digest);
    let mut shown = commands.into_iter();
    let first = shown.next();
    html! {
        section class="card" aria-labelledby="pull" {
            h2 id="pull" { "Pull" }
            div class="commands" {
                @if let Some(first) = &first {
                    div { h3 { (first.tool) } (parts::command(&first.command)) }
                }
                @if page.reference.tag().is_some() {
                    @if let Some(pinned) = by_digest.first() {
                        div { h3 { (pinned.tool) ", by digest: always this content" } (parts::command(&pinned.command)) }
                    }
                }
                details {
                    summary { "Other tools" }
                    div class="commands" {
                        @for other in shown { div { h3 { (other.tool) } (parts::command(&other.command)) } }
                        @if matches!(kind, ArtifactKind::Image | ArtifactKind::Index) {
                            div {
                                h3 { "cosign, what is attached" }
                                (parts::command(&artifact::cosign_command(&context.host, &page.name, &page.manifest.digest)))
                            }
                        }
                    }
                }
            }
        }
    }
}

fn summary(context: &PageContext, page: &ImagePage) -> Markup {
    let paths = &context.paths;
    let manifest = &page.manifest;
    let mut rows = vec![(
        "Digest",
        parts::digest_link(&manifest.digest, Some(&paths.manifest(&page.name, &manifest.digest))),
    )];
    rows.push(("Media type", text::breakable(manifest.media_type.as_str())));
    if !manifest.document.artifact_type.is_empty() {
        rows.push(("Artifact type", text::breakable(&manifest.document.artifact_type)));
    }
    if manifest.kind != ArtifactKind::Index {
        rows.push(("Size", parts::size(manifest.total_bytes())));
    }
    if let Some(tag) = &page.tag {
        let by = tag.by.as_ref();
        rows.push((
            "Pushed",
            html! {
                (parts::time(tag.pushed, context))
                @if let Some(by) = by { " by " (text::line(by)) }
            },
        ));
        match tag.pulled {
            Some(Some(at)) => rows.push(("Last pulled", parts::time(at, context))),
            Some(None) => rows.push(("Last pulled", html! { span class="faint" { "never seen" } })),
            None => {}
        }
    }
    if let Some(created) = page.config.as_ref().and_then(|config| parse_time(&config.created)) {
        rows.push(("Built", parts::time(created, context)));
    }
    if let Some(subject) = &manifest.document.subject
        && let Some(digest) = &subject.digest
    {
        rows.push((
            "Refers to",
            parts::digest_link(digest, Some(&paths.manifest(&page.name, digest))),
        ));
    }
    html! {
        section class="card" aria-labelledby="about" {
            h2 id="about" { "About" }
            (parts::facts(&rows))
            (tags_here(context, page))
            (attached(context, page))
        }
    }
}

fn tags_here(context: &PageContext, page: &ImagePage) -> Markup {
    html! {
        div {
            h3 { "Tags that point here" }
            @if page.tags.is_empty() {
                p class="faint small" { "None. " (untagged_hint(page)) }
            } @else {
                p class="badges" {
                    @for tag in &page.tags {
                        a class="badge" href=(context.paths.tag(&page.name, tag)) { (text::line(tag.as_str())) }
                    }
                    @if page.has_more_tags { span class="faint small" { "and more" } }
                }
            }
        }
    }
}

fn untagged_hint(page: &ImagePage) -> &'static str {
    match page.manifest.document.subject.is_some() {
        true => "It stays as long as what it refers to.",
        false => "An index may list it; else it is untagged.",
    }
}

fn attached(context: &PageContext, page: &ImagePage) -> Markup {
    let path =
        context.paths.repository_page(&page.name, &format!("referrers/{}", page.manifest.digest));
    let tag = page.reference.tag().map_or("", Tag::as_str);
    html! {
        @if !page.attached.is_empty() {
            div {
                h3 { "Attached" }
                p class="badges" {
                    @for (kind, count) in &page.attached {
                        a class="badge" href=(link::with_query(&path, &[("tag", tag)])) title="present, not verified" {
                            (kind.name()) @if *count > 1 { " × " (count) }
                        }
                    }
                }
                p class="faint small" { "Present; jreg verifies no signatures." }
            }
        }
    }
}

fn platforms(context: &PageContext, page: &ImagePage) -> Markup {
    let entries = &page.manifest.document.manifests;
    let shown = page.entry.as_ref().map(|entry| &entry.digest);
    let is_attached = |entry: &&DescriptorDocument| artifact::is_attached(entry);
    let platforms = entries.items.iter().filter(|entry| !is_attached(entry));
    let attestations = attestations_by_platform(&page.manifest.document);
    let path = |digest: &Digest| {
        let path = context.paths.reference(&page.name, &page.reference);
        link::with_query(&path, &[("platform", &digest.to_string())])
    };
    html! {
        section class="card flush" aria-labelledby="platforms" {
            h2 id="platforms" { "Platforms " span class="count" { (platforms.clone().count()) } }
            table class="rows" {
                thead {
                    tr {
                        th scope="col" { "Platform" }
                        th scope="col" { "Digest" }
                        th scope="col" { "Attestations" }
                        th class="number" scope="col" { "Manifest" }
                    }
                }
                tbody {
                    @for entry in platforms {
                        @let is_shown = shown.is_some() && entry.digest.as_ref() == shown;
                        tr {
                            th class="main name" scope="row" {
                                @match &entry.digest {
                                    Some(digest) => a href=(path(digest)) aria-current=[is_shown.then_some("true")] {
                                        (text::line(&artifact::platform_name(entry)))
                                    },
                                    None => (text::line(&artifact::platform_name(entry))),
                                }
                                @if is_shown { " " (parts::badge("accent", "shown below", "")) }
                            }
                            td {
                                @if let Some(digest) = &entry.digest {
                                    (parts::digest_link(digest, Some(&context.paths.manifest(&page.name, digest))))
                                }
                            }
                            td {
                                @for digest in entry.digest.as_ref().and_then(|of| attestations.get(of)).into_iter().flatten() {
                                    a class="badge" href=(context.paths.manifest(&page.name, digest)) title="present, not verified" { "attestation" }
                                }
                            }
                            td class="number" data-label="Manifest" { (format_bytes(entry.size)) }
                        }
                    }
                }
            }
            @if entries.more > 0 { p class="pad faint" { "and " (entries.more) " more" } }
        }
    }
}

/// The attestations that buildx attached to each platform.
fn attestations_by_platform(index: &ManifestDocument) -> BTreeMap<Digest, Vec<&Digest>> {
    let mut found: BTreeMap<Digest, Vec<&Digest>> = BTreeMap::new();
    for entry in index.manifests.items.iter().filter(|entry| artifact::is_attached(entry)) {
        if let (Some(platform), Some(digest)) = (artifact::attached_to(entry), &entry.digest) {
            found.entry(platform).or_default().push(digest);
        }
    }
    found
}

fn content(context: &PageContext, page: &ImagePage) -> Markup {
    let shown = page.shown();
    html! {
        @if let Some(note) = &page.document_note { p class="notice info" { (text::line(note)) } }
        @if let Some(sbom) = &page.sbom { (packages(context, page, sbom)) }
        @if let Some(findings) = &page.findings {
            (findings_card(&context.paths.reference(&page.name, &page.reference), findings))
        }
        @if let Some(statement) = &page.statement { (statement::statement_card(statement)) }
        @if let Some(chart) = &page.chart { (chart::chart_card(chart)) }
        @if let Some(readme) = &page.readme { (chart::readme_card(readme)) }
        @match shown.kind {
            ArtifactKind::Index => "",
            ArtifactKind::Image => {
                @if let Some(config) = &page.config {
                    (config_card(config))
                    (layers(shown, &config.history.items))
                } @else {
                    (layers(shown, &[]))
                }
            }
            _ => (files_card(context, page, shown)),
        }
    }
}

fn config_card(config: &ConfigDocument) -> Markup {
    let ContainerDocument {
        user,
        entrypoint,
        cmd,
        env,
        exposed_ports,
        volumes,
        labels,
        working_dir,
        stop_signal,
    } = &config.config;
    let words = |words: &[String]| html! { code { (text::line(&words.join(" "))) } };
    let names = |pairs: &Pairs| {
        let names: Vec<&str> = pairs.items.iter().map(|(name, _)| name.as_str()).collect();
        text::line(&names.join(", "))
    };
    let platform = [&config.os, &config.architecture, &config.variant];
    let platform: Vec<&str> =
        platform.into_iter().map(String::as_str).filter(|part| !part.is_empty()).collect();
    let mut rows = vec![("Platform", text::line(&platform.join("/")))];
    let user = if user.is_empty() { "root (not set)" } else { user.as_str() };
    rows.push(("User", text::line(user)));
    if !entrypoint.items.is_empty() {
        rows.push(("Entrypoint", words(&entrypoint.items)));
    }
    if !cmd.items.is_empty() {
        rows.push(("Command", words(&cmd.items)));
    }
    if !working_dir.is_empty() {
        rows.push(("Directory", text::line(working_dir)));
    }
    if !exposed_ports.is_empty() {
        rows.push(("Ports", names(exposed_ports)));
    }
    if !volumes.is_empty() {
        rows.push(("Volumes", names(volumes)));
    }
    if !stop_signal.is_empty() {
        rows.push(("Stop signal", text::line(stop_signal)));
    }
    if !config.author.is_empty() {
        rows.push(("Author", text::line(&config.author)));
    }
    let env: Vec<(String, String)> = env
        .items
        .iter()
        .map(|variable| {
            let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
            (name.to_owned(), value.to_owned())
        })
        .collect();
    html! {
        section class="card" aria-labelledby="config" {
            h2 id="config" { "Configuration" }
            (parts::facts(&rows))
            @if !env.is_empty() {
                details {
                    summary { "Environment (" (env.len()) ")" }
                    (parts::pairs("Environment", &env, config.config.env.more))
                }
            }
            @if !labels.is_empty() {
                details open[labels.items.len() <= 12] {
                    summary { "Labels (" (labels.items.len() + labels.more) ")" }
                    (parts::pairs("Labels", &labels.items, labels.more))
                }
            }
        }
    }
}

/// Layers beside the commands that made them: each step of the history that is not empty has one.
fn layers(manifest: &ManifestFacts, history: &[HistoryDocument]) -> Markup {
    let layers = &manifest.document.layers;
    let largest = layers.items.iter().map(|layer| layer.size).max().unwrap_or(0);
    let mut rest = layers.items.iter();
    html! {
        section class="card flush" aria-labelledby="layers" {
            h2 id="layers" {
                "Layers "
                span class="count" { (layers.items.len() + layers.more) ", " (format_bytes(manifest.total_bytes())) " compressed" }
            }
            ol class="layers" {
                @for step in history {
                    @let layer = if step.empty_layer { None } else { rest.next() };
                    (layer_row(layer, &step.created_by, &step.comment, largest))
                }
                @for layer in rest { (layer_row(Some(layer), "", "", largest)) }
            }
            @if layers.more > 0 { p class="pad faint" { "and " (layers.more) " more" } }
        }
    }
}

fn layer_row(
    layer: Option<&DescriptorDocument>,
    command: &str,
    comment: &str,
    largest: u64,
) -> Markup {
    let command = command.strip_prefix("/bin/sh -c #(nop)").unwrap_or(command).trim();
    html! {
        li {
            div {
                @match layer {
                    Some(layer) => { (parts::size(layer.size)) (parts::bar(layer.size, largest)) }
                    None => span class="none" { "no layer" },
                }
            }
            div {
                @if command.is_empty() {
                    span class="none" { (layer.map_or("", |layer| media_hint(&layer.media_type))) "no command recorded" }
                } @else {
                    div class="made" tabindex="0" role="group" aria-label="Command" { (text::block(command)) }
                }
                @if !comment.is_empty() { div class="faint" { (text::line(comment)) } }
                @if let Some(digest) = layer.and_then(|layer| layer.digest.as_ref()) {
                    div class="faint" { (parts::digest_link(digest, None)) }
                }
            }
        }
    }
}

fn media_hint(media_type: &str) -> &'static str {
    match media_type {
        _ if media_type.contains("in-toto") => "statement · ",
        _ if media_type.contains("foreign") || media_type.contains("nondistributable") => {
            "not stored here · "
        }
        _ => "",
    }
}

fn files_card(context: &PageContext, page: &ImagePage, manifest: &ManifestFacts) -> Markup {
    let files = artifact::files(&manifest.document);
    html! {
        section class="card flush" aria-labelledby="files" {
            h2 id="files" { "Files " span class="count" { (files.len()) } }
            table class="rows" {
                thead { tr {
                    th scope="col" { "Name" }
                    th scope="col" { "Media type" }
                    th class="number" scope="col" { "Size" }
                    th scope="col" { span class="away" { "Download" } }
                } }
                tbody { @for file in files { tr {
                    th class="main name" scope="row" {
                        @match file.annotations.get(TITLE) {
                            Some(title) => (text::line(title)),
                            None => span class="faint" { "no name" },
                        }
                        @if let Some(digest) = &file.digest { " " (parts::digest_link(digest, None)) }
                    }
                    td { span class="small" { (text::breakable(&file.media_type)) } }
                    td class="number" data-label="Size" { (parts::size(file.size)) }
                    td { @if let Some(digest) = &file.digest {
                        a href=(context.paths.repository_page(&page.name, &format!("blob/{digest}")))
                            aria-label={ "Download " (file.annotations.get(TITLE).map(text::plain).unwrap_or_else(|| parts::short(digest))) } { "Download" }
                    } }
                } } }
            }
        }
    }
}

fn packages(context: &PageContext, page: &ImagePage, view: &SbomView) -> Markup {
    let Sbom { format, packages, more } = &view.sbom;
    let filter = view.filter.to_lowercase();
    let matching: Vec<_> = packages
        .iter()
        .filter(|package| {
            filter.is_empty()
                || package.name.to_lowercase().contains(&filter)
                || package.purl.to_lowercase().contains(&filter)
        })
        .collect();
    html! {
        section class="card flush" aria-labelledby="packages" {
            h2 id="packages" { "Packages " span class="count" { (packages.len() + more) " · " (text::line(format)) } }
            form class="toolbar pad" method="get" action=(context.paths.reference(&page.name, &page.reference)) {
                div class="field grow" {
                    label for="package" { "Find a package" }
                    input id="package" name="package" type="search" value=(view.filter) maxlength="100";
                }
                button class="quiet" type="submit" { "Find" }
            }
            table class="rows" {
                thead { tr { th scope="col" { "Package" } th scope="col" { "Version" } th scope="col" { "Licence" } } }
                tbody { @for package in matching.iter().take(PACKAGES_SHOWN_MAX) { tr {
                    th class="main name" scope="row" {
                        (text::line(&package.name))
                        @if !package.purl.is_empty() { div class="faint small" { (text::line(&package.purl)) } }
                    }
                    td { (text::line(&package.version)) }
                    td { (text::line(&package.licence)) }
                } } }
            }
            @if matching.is_empty() { p class="pad faint" { "No package matches." } }
            @if matching.len() > PACKAGES_SHOWN_MAX {
                p class="pad faint" { "and " (matching.len() - PACKAGES_SHOWN_MAX) " more: find one by its name" }
            }
            @if *more > 0 { p class="pad faint" { (more) " packages are not searched." } }
        }
    }
}

fn annotations(page: &ImagePage) -> Markup {
    let shown = &page.shown().document.annotations;
    let own = &page.manifest.document.annotations;
    html! {
        @for (title, pairs) in [("Annotations", own), ("Annotations of the platform", shown)] {
            @if !pairs.is_empty() && (title == "Annotations" || page.entry.is_some()) {
                section class="card" {
                    h2 { (title) }
                    (parts::pairs(title, &pairs.items, pairs.more))
                }
            }
        }
    }
}

fn raw(page: &ImagePage) -> Markup {
    let manifests =
        [("Manifest", Some(&page.manifest)), ("Manifest of the platform", page.entry.as_ref())];
    html! {
        section class="card" {
            @for (title, manifest) in manifests {
                @if let Some(manifest) = manifest {
                    details {
                        summary { (title) " " span class="faint small" { (format_bytes(manifest.bytes)) } }
                        @match &manifest.raw {
                            Some(raw) => pre tabindex="0" { (text::block_up_to(raw, RAW_CHARS_MAX)) },
                            None => p class="faint" { "It is too large to be shown here." },
                        }
                    }
                }
            }
        }
    }
}
