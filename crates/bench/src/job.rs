//! A workload with what it needs in the registry, ready to be done again and again.

use serde::Deserialize;

use crate::auth::Access;
use crate::content::Template;
use crate::failure::Failure;
use crate::operation::{
    Image, Stored, Worker, fetch, fetch_range, list, look, miss, pull_image, push, push_image,
    put_manifest,
};
use crate::workload::Style;

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
pub(crate) struct Manifest {
    pub(crate) tag: String,
    pub(crate) digest: String,
    pub(crate) bytes: Vec<u8>,
}

/// What is done in a repository.
#[derive(Debug)]
pub(crate) struct Job {
    pub(crate) repository: String,
    pub(crate) work: Work,
}

/// What is done.
#[derive(Debug)]
pub(crate) enum Work {
    Fetch(Vec<Stored>),
    Look(Vec<Stored>),
    Miss,
    Range(Vec<Stored>),
    Push {
        template: Template,
        style: Style,
    },
    PushImage {
        template: Template,
        layers: usize,
    },
    PullImage(Vec<Image>),
    Mix {
        template: Template,
        layers: usize,
        images: Vec<Image>,
    },
    PutTag(Vec<Manifest>),
    /// Tags of the repository, in their order.
    Tags(Vec<String>),
    /// Repositories, in their order.
    Catalog(Vec<String>),
    Referrers {
        subject: String,
        count: usize,
    },
}

impl Job {
    /// How many bytes an operation leaves in the registry at the most.
    pub(crate) fn leaves_bytes(&self) -> u64 {
        let bytes = match &self.work {
            Work::Push { template, .. } => template.size(),
            Work::PushImage { template, layers } | Work::Mix { template, layers, .. } => {
                template.size() * layers
            }
            _ => 0,
        };
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// Does it once.
    pub(crate) async fn run(&self, worker: &mut Worker) -> Result<(), Failure> {
        let repository = self.repository.as_str();
        match &self.work {
            Work::Fetch(stored) => {
                let stored = one(worker.rng.pick(stored))?;
                fetch(&mut worker.client, repository, stored, worker.verifies).await
            }
            Work::Look(stored) => {
                let stored = one(worker.rng.pick(stored))?;
                look(&mut worker.client, repository, stored).await
            }
            Work::Miss => {
                let digest = worker.source.missing_digest();
                miss(&mut worker.client, Access::Pull(repository), repository, &digest).await
            }
            Work::Range(stored) => {
                let stored = one(worker.rng.pick(stored))?;
                let start = worker.rng.below(stored.size.saturating_sub(RANGE_BYTES) + 1);
                let range = start..stored.size.min(start + RANGE_BYTES);
                fetch_range(&mut worker.client, repository, stored, range).await
            }
            Work::Push { template, style } => {
                let source = std::sync::Arc::clone(&worker.source);
                push(&mut worker.client, repository, &template.make(&source), *style).await
            }
            Work::PushImage { template, layers } => {
                push_image(worker, repository, *layers, template).await.map(drop)
            }
            Work::PullImage(images) => {
                let image = one(worker.rng.pick(images))?;
                pull_image(worker, repository, image).await
            }
            Work::Mix { template, layers, images } => match worker.rng.below(MIX_OF) {
                0 => push_image(worker, repository, *layers, template).await.map(drop),
                _ => {
                    let image = one(worker.rng.pick(images))?;
                    pull_image(worker, repository, image).await
                }
            },
            Work::PutTag(manifests) => put_tag(worker, repository, manifests).await,
            Work::Tags(names) => {
                let asked = format!("/v2/{repository}/tags/list");
                page(worker, Access::Pull(repository), &asked, names).await
            }
            Work::Catalog(names) => page(worker, Access::Catalog, "/v2/_catalog", names).await,
            Work::Referrers { subject, count } => {
                referrers(worker, repository, subject, *count).await
            }
        }
    }
}

/// What was to be picked from something that holds one at least.
fn one<T>(picked: Option<&T>) -> Result<&T, Failure> {
    picked.ok_or(Failure::List)
}

/// Moves one of the tags from one manifest to another.
async fn put_tag(
    worker: &mut Worker,
    repository: &str,
    manifests: &[Manifest],
) -> Result<(), Failure> {
    let number = worker.source.number();
    let tag = format!("moved-{}", number % MOVED_TAGS);
    // Each round through the tags goes on to the next manifest, so that every PUT changes its tag.
    let turn = number / MOVED_TAGS + number;
    let count = u64::try_from(manifests.len()).unwrap_or(u64::MAX).max(1);
    let turn = usize::try_from(turn % count).unwrap_or_default();
    let manifest = one(manifests.get(turn))?;
    put_manifest(&mut worker.client, repository, &tag, &manifest.bytes).await
}

/// GET of the page after one of the names.
async fn page(
    worker: &mut Worker,
    access: Access<'_>,
    list_target: &str,
    names: &[String],
) -> Result<(), Failure> {
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
        // A catalog goes on with what others pushed.
        Some(found) if found.starts_with(expected) => Ok(()),
        Some(found) if found.len() > PAGE_ENTRIES => Err(Failure::Unpaged),
        _ => Err(Failure::List),
    }
}

fn named(body: &[u8]) -> Option<Vec<String>> {
    #[derive(Deserialize)]
    struct Page {
        tags: Option<Vec<String>>,
        repositories: Option<Vec<String>>,
    }
    let Page { tags, repositories } = serde_json::from_slice(body).ok()?;
    tags.or(repositories)
}

async fn referrers(
    worker: &mut Worker,
    repository: &str,
    subject: &str,
    count: usize,
) -> Result<(), Failure> {
    #[derive(Deserialize)]
    struct Index {
        manifests: Vec<serde_json::Value>,
    }
    let target = format!("/v2/{repository}/referrers/{subject}");
    let body = list(&mut worker.client, Access::Pull(repository), &target).await?;
    if !worker.verifies {
        return Ok(());
    }
    match serde_json::from_slice::<Index>(&body) {
        Ok(index) if index.manifests.len() == count => Ok(()),
        _ => Err(Failure::List),
    }
}
