//! A workload with what it needs in the registry, ready to be done again and again.

use serde::Deserialize;

use crate::auth::RequestedAccess;
use crate::content::ContentTemplate;
use crate::failure::OperationError;
use crate::operation::{
    LoadWorker, StoredContent, StoredImage, fetch, fetch_range, list, look, miss, pull_image, push,
    push_image, put_manifest,
};
use crate::workload::PushStyle;

/// How many entries a page of a list is asked to have.
pub(crate) const PAGE_ENTRIES: usize = 100;
/// How many bytes a ranged GET asks for.
pub(crate) const RANGE_BYTES: u64 = 64 * 1024;
/// How many tags `tag-put` moves.
const MOVED_TAGS: u64 = 256;
/// Of so many operations of a mix one is a push.
const MIX_OF: u64 = 4;

/// A manifest that was pushed.
#[derive(Clone, Debug)]
pub(crate) struct BenchManifest {
    pub(crate) tag: String,
    pub(crate) digest: String,
    pub(crate) bytes: Vec<u8>,
}

/// What is done in a repository.
#[derive(Debug)]
pub(crate) struct WorkloadJob {
    pub(crate) repository: String,
    pub(crate) work: JobWork,
}

/// What is done.
#[derive(Debug)]
pub(crate) enum JobWork {
    Fetch(Vec<StoredContent>),
    Look(Vec<StoredContent>),
    Miss,
    Range(Vec<StoredContent>),
    Push {
        template: ContentTemplate,
        style: PushStyle,
    },
    PushImage {
        layers: Vec<ContentTemplate>,
    },
    PullImage(Vec<StoredImage>),
    Mix {
        layers: Vec<ContentTemplate>,
        images: Vec<StoredImage>,
    },
    PutTag(Vec<BenchManifest>),
    /// Tags of the repository, in their order.
    Tags(Vec<String>),
    /// Repositories, in their order.
    Catalog(Vec<String>),
    Referrers {
        subject: String,
        count: usize,
    },
}

impl WorkloadJob {
    /// How many bytes an operation leaves in the registry at most.
    pub(crate) fn leaves_bytes(&self) -> u64 {
        let bytes = match &self.work {
            JobWork::Push { template, .. } => template.size(),
            JobWork::PushImage { layers } | JobWork::Mix { layers, .. } => {
                layers.iter().map(ContentTemplate::size).sum()
            }
            _ => 0,
        };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Does it once.
    pub(crate) async fn run(&self, worker: &mut LoadWorker) -> Result<(), OperationError> {
        let repository = self.repository.as_str();
        match &self.work {
            JobWork::Fetch(stored) => {
                let stored = one(worker.rng.pick(stored))?;
                fetch(&mut worker.client, repository, stored, worker.verifies).await
            }
            JobWork::Look(stored) => {
                let stored = one(worker.rng.pick(stored))?;
                look(&mut worker.client, repository, stored).await
            }
            JobWork::Miss => {
                let digest = worker.source.missing_digest();
                miss(&mut worker.client, RequestedAccess::Pull(repository), repository, &digest)
                    .await
            }
            JobWork::Range(stored) => {
                let stored = one(worker.rng.pick(stored))?;
                let start = worker.rng.below(stored.size.saturating_sub(RANGE_BYTES) + 1);
                let range = start..stored.size.min(start + RANGE_BYTES);
                fetch_range(&mut worker.client, repository, stored, range).await
            }
            JobWork::Push { template, style } => {
                let source = std::sync::Arc::clone(&worker.source);
                push(&mut worker.client, repository, &template.make(&source), *style).await
            }
            JobWork::PushImage { layers } => push_image(worker, repository, layers).await.map(drop),
            JobWork::PullImage(images) => {
                let image = one(worker.rng.pick(images))?;
                pull_image(worker, repository, image).await
            }
            JobWork::Mix { layers, images } => match worker.rng.below(MIX_OF) {
                0 => push_image(worker, repository, layers).await.map(drop),
                _ => {
                    let image = one(worker.rng.pick(images))?;
                    pull_image(worker, repository, image).await
                }
            },
            JobWork::PutTag(manifests) => put_tag(worker, repository, manifests).await,
            JobWork::Tags(names) => {
                let asked = format!("/v2/{repository}/tags/list");
                page(worker, RequestedAccess::Pull(repository), &asked, names).await
            }
            JobWork::Catalog(names) => {
                page(worker, RequestedAccess::Catalog, "/v2/_catalog", names).await
            }
            JobWork::Referrers { subject, count } => {
                referrers(worker, repository, subject, *count).await
            }
        }
    }
}

/// What was to be picked from something that holds one at least.
fn one<T>(picked: Option<&T>) -> Result<&T, OperationError> {
    picked.ok_or(OperationError::List)
}

/// Moves one of the tags from one manifest to another.
async fn put_tag(
    worker: &mut LoadWorker,
    repository: &str,
    manifests: &[BenchManifest],
) -> Result<(), OperationError> {
    let number = worker.source.number();
    let tag = format!("moved-{}", number % MOVED_TAGS);
    // Each round through the tags continues to the next manifest, so that every PUT changes its
    // tag.
    let turn = number / MOVED_TAGS + number;
    let count = u64::try_from(manifests.len()).unwrap_or(u64::MAX).max(1);
    let turn = usize::try_from(turn % count).unwrap_or_default();
    let manifest = one(manifests.get(turn))?;
    put_manifest(&mut worker.client, repository, &tag, &manifest.bytes).await
}

/// GET of the page after one of the names.
async fn page(
    worker: &mut LoadWorker,
    access: RequestedAccess<'_>,
    list_target: &str,
    names: &[String],
) -> Result<(), OperationError> {
    let starts = names.len().saturating_sub(PAGE_ENTRIES).max(1);
    let start =
        usize::try_from(worker.rng.below(u64::try_from(starts).unwrap_or(1))).unwrap_or_default();
    let last = one(names.get(start))?;
    let target = format!("{list_target}?n={PAGE_ENTRIES}&last={last}");
    let body = list(&mut worker.client, access, &target).await?;
    if !worker.verifies {
        return Ok(());
    }
    let after = names.get(start + 1..).unwrap_or_default();
    let expected = after.get(..PAGE_ENTRIES.min(after.len())).unwrap_or_default();
    match named(&body) {
        // A catalog continues with what others pushed.
        Some(found) if found.starts_with(expected) => Ok(()),
        Some(found) if found.len() > PAGE_ENTRIES => Err(OperationError::Unpaged),
        _ => Err(OperationError::List),
    }
}

fn named(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct TagsPage {
        tags: Option<Vec<String>>,
        repositories: Option<Vec<String>>,
    }
    let TagsPage { tags, repositories } = serde_json::from_slice(body).ok()?;
    tags.or(repositories)
}

async fn referrers(
    worker: &mut LoadWorker,
    repository: &str,
    subject: &str,
    count: usize,
) -> Result<(), OperationError> {
    #[derive(Deserialize)]
    struct ReferrersIndex {
        manifests: Vec<serde_json::Value>,
    }
    let target = format!("/v2/{repository}/referrers/{subject}");
    let body = list(&mut worker.client, RequestedAccess::Pull(repository), &target).await?;
    if !worker.verifies {
        return Ok(());
    }
    match serde_json::from_slice::<ReferrersIndex>(&body) {
        Ok(index) if index.manifests.len() == count => Ok(()),
        _ => Err(OperationError::List),
    }
}
