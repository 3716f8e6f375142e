//! `jreg ls`: repositories, or the tags of one.

use jreg_oci::{Reference, RepositoryName};
use jreg_registry::{Error, LIST_KEYS_MAX, PageRequest, Registry, Repository, TouchPolicy};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use super::MaintenanceEvent;
use super::print::{number, size};

/// What is listed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListContentRequest {
    /// The tags of this repository; `None`: all repositories.
    pub repository: Option<RepositoryName>,
}

/// A repository, or a tag.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedContent {
    pub name: String,
    /// The manifest of a tag; `None`: it is a repository, or the manifest is absent.
    pub manifest: Option<ListedManifest>,
}

/// The manifest that a tag points to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListedManifest {
    pub digest: String,
    pub media_type: String,
    /// Its own size.
    pub bytes: u64,
}

/// How many there are.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ListContentReport {
    pub listed: u64,
    /// Whether they are tags.
    pub are_tags: bool,
}

/// Lists page by page.
pub(super) async fn run(
    registry: &Registry,
    request: ListContentRequest,
    events: &mpsc::Sender<MaintenanceEvent>,
) -> jreg_registry::Result<ListContentReport> {
    match request.repository {
        Some(name) => list_tags(registry, name, events).await,
        None => list_repositories(registry, events).await,
    }
}

async fn list_repositories(
    registry: &Registry,
    events: &mpsc::Sender<MaintenanceEvent>,
) -> jreg_registry::Result<ListContentReport> {
    let mut report = ListContentReport::default();
    let mut page = PageRequest { limit: LIST_KEYS_MAX, last: None };
    loop {
        let names = registry.catalog(&page).await?;
        for name in names.items {
            report.listed += 1;
            let content = ListedContent { name: name.to_string(), manifest: None };
            // The receiver may have been dropped.
            events.send(MaintenanceEvent::Listed(content)).await.ok();
        }
        match names.next {
            Some(next) => page.last = Some(next),
            None => return Ok(report),
        }
    }
}

async fn list_tags(
    registry: &Registry,
    name: RepositoryName,
    events: &mpsc::Sender<MaintenanceEvent>,
) -> jreg_registry::Result<ListContentReport> {
    let repository = registry.repository(name);
    let report = list_tags_of(&repository, events).await?;
    match report.listed {
        // It may be of a mirror: then those that were pulled through that.
        0 => list_tags_of(&repository.showing_mirrored_tags(), events).await,
        _ => Ok(report),
    }
}

async fn list_tags_of(
    repository: &Repository,
    events: &mpsc::Sender<MaintenanceEvent>,
) -> jreg_registry::Result<ListContentReport> {
    let mut report = ListContentReport { listed: 0, are_tags: true };
    let mut page = PageRequest { limit: LIST_KEYS_MAX, last: None };
    loop {
        let tags = repository.tags(&page).await?;
        for tag in tags.items {
            let reference = Reference::Tag(tag.clone());
            let manifest = match repository.manifest_get(&reference, TouchPolicy::Never).await {
                Ok(stored) => Some(ListedManifest {
                    digest: stored.digest.to_string(),
                    media_type: stored.media_type.to_string(),
                    bytes: stored.bytes.len() as u64,
                }),
                Err(Error::ManifestUnknown { .. }) => None,
                Err(error) => return Err(error),
            };
            report.listed += 1;
            let content = ListedContent { name: tag.to_string(), manifest };
            // The receiver may have been dropped.
            events.send(MaintenanceEvent::Listed(content)).await.ok();
        }
        match tags.next {
            Some(next) => page.last = Some(next),
            None => return Ok(report),
        }
    }
}

/// One repository or tag as text.
pub(super) fn line(content: &ListedContent) -> String {
    let ListedContent { name, manifest } = content;
    match manifest {
        Some(ListedManifest { digest, media_type, bytes }) => {
            format!("{name}  {digest}  {media_type}  {}\n", size(*bytes))
        }
        None => format!("{name}\n"),
    }
}

/// The count as text; nothing for a script that reads names.
pub(super) fn plain(report: ListContentReport) -> String {
    let what = if report.are_tags { "tags" } else { "repositories" };
    match report.listed {
        0 => format!("no {what}: {}\n", number(0)),
        _ => String::new(),
    }
}
