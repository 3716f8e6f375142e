//! What workloads need in the registry before they begin: pushed once in a run, into repositories
//! of this run only.

use std::sync::Mutex;
use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures::future::try_join_all;

use crate::content::{
    ContentDescriptor, ContentSource, ContentSpec, ContentTemplate, config, digest_of, manifest,
};
use crate::failure::OperationError;
use crate::job::{BenchManifest, JobWork, WorkloadJob};
use crate::operation::{LoadWorker, StoredContent, StoredImage, push, push_image, put_manifest};
use crate::workload::{ImageShape, PushStyle, WorkloadKind};

/// How many manifests are read in turns.
const MANIFESTS: usize = 64;
/// How many layers they name.
const MANIFEST_LAYERS: usize = 5;
/// How many bytes of blobs of one size are read in turns, at most.
const BLOBS_BYTES_MAX: usize = 128 * 1024 * 1024;
/// How many blobs of one size are read in turns, at most.
const BLOBS_MAX: usize = 64;
/// How many images of one kind are pulled in turns.
const IMAGES: usize = 8;
/// How many manifests refer to the one whose referrers are asked for.
const REFERRERS: usize = 20;
/// How long the blobs are that only need to be there.
const SMALL_BYTES: usize = 4 * 1024;
/// How long the blobs are of which parts are read.
const RANGED_BYTES: usize = 10 * 1024 * 1024;
/// The images of a mix.
const MIX_IMAGE: ImageShape = ImageShape::Even(5);

/// What is pushed for workloads, and where.
#[derive(Debug)]
pub(crate) struct Fixtures {
    /// The repository of this run, and the beginning of those beside it.
    repository: String,
    tags: usize,
    repositories: usize,
    manifests: Vec<BenchManifest>,
    blobs: Vec<(usize, Vec<StoredContent>)>,
    images: Vec<(ImageShape, Vec<StoredImage>)>,
}

/// How much content a workload makes at a time at most, in bytes.
pub(crate) fn content_bytes_max(kind: WorkloadKind) -> usize {
    match kind {
        WorkloadKind::BlobGet { size } | WorkloadKind::Push { size, .. } => size,
        WorkloadKind::BlobRange => RANGED_BYTES,
        WorkloadKind::ImagePush { shape } | WorkloadKind::ImagePull { shape } => {
            shape.layers().into_iter().max().unwrap_or_default()
        }
        WorkloadKind::Mix => MIX_IMAGE.layers().into_iter().max().unwrap_or_default(),
        _ => SMALL_BYTES,
    }
}

impl Fixtures {
    pub(crate) fn new(repository: String, tags: usize, repositories: usize) -> Self {
        Self {
            repository,
            tags,
            repositories,
            manifests: Vec::new(),
            blobs: Vec::new(),
            images: Vec::new(),
        }
    }

    /// Pushes what is not there yet.
    pub(crate) async fn prepare(
        &mut self,
        kind: WorkloadKind,
        workers: &mut [LoadWorker],
    ) -> Result<WorkloadJob, OperationError> {
        let source = match workers.first() {
            Some(worker) => std::sync::Arc::clone(&worker.source),
            None => return Err(OperationError::List),
        };
        let template = |size| ContentTemplate::new(&source, size);
        let work = match kind {
            WorkloadKind::BenchManifest { head, by_tag } => {
                let manifests = self.manifests(workers).await?;
                let stored = manifests.iter().map(|manifest| {
                    let reference = if by_tag { &manifest.tag } else { &manifest.digest };
                    let (digest, size) = (manifest.digest.clone(), manifest.bytes.len());
                    StoredContent::manifest(
                        &self.repository,
                        reference,
                        &ContentDescriptor { digest, size },
                    )
                });
                let stored = stored.collect();
                if head { JobWork::Look(stored) } else { JobWork::Fetch(stored) }
            }
            WorkloadKind::BlobHead => {
                JobWork::Look(self.blobs(workers, template(SMALL_BYTES)).await?)
            }
            WorkloadKind::BlobHeadMissing => JobWork::Miss,
            WorkloadKind::BlobGet { size } => {
                JobWork::Fetch(self.blobs(workers, template(size)).await?)
            }
            WorkloadKind::BlobRange => {
                JobWork::Range(self.blobs(workers, template(RANGED_BYTES)).await?)
            }
            WorkloadKind::Push { size, style } => JobWork::Push { template: template(size), style },
            WorkloadKind::ImagePush { shape } => {
                JobWork::PushImage { layers: templates(&source, shape) }
            }
            WorkloadKind::ImagePull { shape } => {
                JobWork::PullImage(self.images(workers, &source, shape).await?)
            }
            WorkloadKind::Mix => {
                let images = self.images(workers, &source, MIX_IMAGE).await?;
                JobWork::Mix { layers: templates(&source, MIX_IMAGE), images }
            }
            WorkloadKind::TagPut => JobWork::PutTag(self.manifests(workers).await?),
            WorkloadKind::TagPage => return self.tags(workers).await,
            WorkloadKind::Catalog => JobWork::Catalog(self.catalog(workers).await?),
            WorkloadKind::Referrers => self.referrers(workers).await?,
        };
        Ok(WorkloadJob { repository: self.repository.clone(), work })
    }

    async fn manifests(
        &mut self,
        workers: &mut [LoadWorker],
    ) -> Result<Vec<BenchManifest>, OperationError> {
        if self.manifests.is_empty() {
            let repository = self.repository.as_str();
            let parts = FixtureParts::push(workers, repository, MANIFEST_LAYERS).await?;
            self.manifests = spread(workers, MANIFESTS, async |worker: &mut LoadWorker, number| {
                let bytes = manifest(&worker.source, &parts.config, &parts.layers, None);
                let tag = format!("v{number}");
                put_manifest(&mut worker.client, repository, &tag, &bytes).await?;
                Ok(BenchManifest { tag, digest: digest_of(&bytes), bytes })
            })
            .await?;
        }
        Ok(self.manifests.clone())
    }

    async fn blobs(
        &mut self,
        workers: &mut [LoadWorker],
        template: ContentTemplate,
    ) -> Result<Vec<StoredContent>, OperationError> {
        let size = template.size();
        if let Some((_, blobs)) = self.blobs.iter().find(|(of_size, _)| *of_size == size) {
            return Ok(blobs.clone());
        }
        let repository = self.repository.as_str();
        let count = (BLOBS_BYTES_MAX / size).clamp(1, BLOBS_MAX);
        let blobs = spread(workers, count, async |worker: &mut LoadWorker, _| {
            let content = push_one(worker, repository, &template).await?;
            Ok(StoredContent::blob(repository, &content))
        })
        .await?;
        self.blobs.push((size, blobs.clone()));
        Ok(blobs)
    }

    async fn images(
        &mut self,
        workers: &mut [LoadWorker],
        source: &ContentSource,
        shape: ImageShape,
    ) -> Result<Vec<StoredImage>, OperationError> {
        if let Some((_, images)) = self.images.iter().find(|(of_shape, _)| *of_shape == shape) {
            return Ok(images.clone());
        }
        let repository = self.repository.as_str();
        let layers = templates(source, shape);
        let size: usize = layers.iter().map(ContentTemplate::size).sum();
        let count = (BLOBS_BYTES_MAX / size.max(1)).clamp(1, IMAGES);
        let images = spread(workers, count, async |worker: &mut LoadWorker, _| {
            push_image(worker, repository, &layers).await
        })
        .await?;
        self.images.push((shape, images.clone()));
        Ok(images)
    }

    /// A repository of its own, so that nothing else is among the tags.
    async fn tags(&self, workers: &mut [LoadWorker]) -> Result<WorkloadJob, OperationError> {
        let repository = format!("{}/tags", self.repository);
        let parts = FixtureParts::push(workers, &repository, 1).await?;
        let bytes = parts.manifest(workers)?;
        let mut names = spread(workers, self.tags, async |worker: &mut LoadWorker, number| {
            let tag = format!("t{number:07}");
            put_manifest(&mut worker.client, &repository, &tag, &bytes).await?;
            Ok(tag)
        })
        .await?;
        names.sort();
        Ok(WorkloadJob { repository, work: JobWork::Tags(names) })
    }

    async fn catalog(&self, workers: &mut [LoadWorker]) -> Result<Vec<String>, OperationError> {
        let below = self.repository.as_str();
        let mut names =
            spread(workers, self.repositories, async |worker: &mut LoadWorker, number| {
                let repository = format!("{below}/r{number:06}");
                let parts =
                    FixtureParts::push(std::slice::from_mut(worker), &repository, 1).await?;
                let bytes = parts.manifest(std::slice::from_ref(worker))?;
                put_manifest(&mut worker.client, &repository, "latest", &bytes).await?;
                Ok(repository)
            })
            .await?;
        names.sort();
        Ok(names)
    }

    async fn referrers(&mut self, workers: &mut [LoadWorker]) -> Result<JobWork, OperationError> {
        let manifests = self.manifests(workers).await?;
        let repository = self.repository.as_str();
        let parts = FixtureParts::push(workers, repository, 0).await?;
        let Some(subject) = manifests.first() else { return Err(OperationError::List) };
        let described =
            ContentDescriptor { digest: subject.digest.clone(), size: subject.bytes.len() };
        spread(workers, REFERRERS, async |worker: &mut LoadWorker, _| {
            let bytes = manifest(&worker.source, &parts.config, &[], Some(&described));
            put_manifest(&mut worker.client, repository, &digest_of(&bytes), &bytes).await
        })
        .await?;
        Ok(JobWork::Referrers { subject: described.digest, count: REFERRERS })
    }
}

fn templates(source: &ContentSource, shape: ImageShape) -> Vec<ContentTemplate> {
    let mut made: Vec<ContentTemplate> = Vec::new();
    for size in shape.layers() {
        let known = made.iter().find(|template| template.size() == size).cloned();
        made.push(known.unwrap_or_else(|| ContentTemplate::new(source, size)));
    }
    made
}

/// A configuration and layers that manifests can be made of.
struct FixtureParts {
    config: ContentDescriptor,
    layers: Vec<ContentDescriptor>,
}

impl FixtureParts {
    async fn push(
        workers: &mut [LoadWorker],
        repository: &str,
        layers: usize,
    ) -> Result<Self, OperationError> {
        let Some(worker) = workers.first_mut() else { return Err(OperationError::List) };
        let template = ContentTemplate::new(&worker.source, SMALL_BYTES);
        let mut pushed = Vec::new();
        for _ in 0..layers {
            pushed.push(push_one(worker, repository, &template).await?);
        }
        let bytes = config(&worker.source, &pushed);
        let content =
            ContentSpec { shared: &bytes, trailer: Vec::new(), digest: digest_of(&bytes) };
        push(&mut worker.client, repository, &content, PushStyle::Known).await?;
        Ok(Self { config: content.descriptor(), layers: pushed })
    }

    fn manifest(&self, workers: &[LoadWorker]) -> Result<Vec<u8>, OperationError> {
        let worker = workers.first().ok_or(OperationError::List)?;
        Ok(manifest(&worker.source, &self.config, &self.layers, None))
    }
}

async fn push_one(
    worker: &mut LoadWorker,
    repository: &str,
    template: &ContentTemplate,
) -> Result<ContentDescriptor, OperationError> {
    let source: std::sync::Arc<ContentSource> = std::sync::Arc::clone(&worker.source);
    let content = template.make(&source);
    push(&mut worker.client, repository, &content, PushStyle::Known).await?;
    Ok(content.descriptor())
}

/// Does something so many times, all workers beside each other, and gives what came of it.
async fn spread<T>(
    workers: &mut [LoadWorker],
    count: usize,
    work: impl AsyncFn(&mut LoadWorker, usize) -> Result<T, OperationError>,
) -> Result<Vec<T>, OperationError> {
    let (next, done) = (AtomicUsize::new(0), Mutex::new(Vec::with_capacity(count)));
    try_join_all(workers.iter_mut().map(async |worker| {
        loop {
            let number = next.fetch_add(1, Ordering::Relaxed);
            if number >= count {
                return Ok(());
            }
            let made = work(worker, number).await?;
            done.lock().unwrap_or_else(PoisonError::into_inner).push(made);
        }
    }))
    .await?;
    Ok(done.into_inner().unwrap_or_else(PoisonError::into_inner))
}
