//! [`Changer`]: a client that pushes, moves, deletes, restores and purges at random instances.

use std::sync::Arc;
use std::time::Duration;

use jreg_oci::{Digest, Reference, Tag};
use jreg_registry::{
    Error, ManifestPush, PageRequest, PushedManifest, Registry, Repository, Result, UploadChunk,
};
use jreg_testkit::Rng;

use crate::soak::changes::{ChangeSoak, IMAGES, IMMUTABLE, MOVING, REPOSITORIES, tag};
use crate::soak::cluster::INSTANCES;
use crate::soak::fault_schedule::count;
use crate::soak::fixtures::repository_name;

/// Maximum attempts of a push that needs its content first.
const TRIES: usize = 4;

#[derive(Debug)]
pub(crate) struct Changer {
    soak: ChangeSoak,
    rng: Rng,
}

/// Whether a request failed in a way that says nothing of its effect.
fn is_unsure(error: &Error) -> bool {
    matches!(error, Error::Store(_) | Error::Busy { .. } | Error::Interrupted { .. })
}

impl Changer {
    pub(crate) fn new(soak: ChangeSoak, seed: u64) -> Self {
        Self { soak, rng: Rng::new(seed) }
    }

    pub(crate) async fn run(mut self, operations: u64) {
        for _ in 0..operations {
            count(&self.soak.cluster.schedule.counts.operations);
            Box::pin(self.one()).await;
            let pause = self.rng.below(20);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.rng.below(end as u64)).unwrap()
    }

    async fn one(&mut self) {
        let (repository, image) = (self.below(REPOSITORIES), self.below(IMAGES));
        let moving = tag(self.below(MOVING.len()));
        let immutable = tag(MOVING.len() + self.below(IMMUTABLE));
        let any = if self.rng.chance(2, 3) { moving.clone() } else { immutable.clone() };
        match self.rng.below(100) {
            0..40 => self.push(repository, image, &moving).await,
            40..55 => self.push(repository, image, &immutable).await,
            55..65 => self.delete_tag(repository, &any).await,
            65..77 => self.delete_manifest(repository, image).await,
            77..87 => self.restore_manifest(repository, image).await,
            87..95 => self.restore_tag(repository, image, &moving).await,
            _ => self.purge(repository, image).await,
        }
    }

    fn digest(&self, image: usize) -> Digest {
        self.soak.fixtures.manifests[image].digest.clone()
    }

    /// Runs a request at an instance; `None`: the instance has crashed.
    async fn at<T, F>(
        &self,
        instance: usize,
        repository: usize,
        work: impl FnOnce(Repository) -> F,
    ) -> Option<Result<T>>
    where
        F: Future<Output = Result<T>>,
    {
        let asking = |registry: Registry| work(registry.repository(repository_name(repository)));
        let outcome = self.soak.cluster.at(instance, asking).await;
        if let Some(Ok(_)) = &outcome {
            count(&self.soak.cluster.schedule.counts.acknowledged);
        }
        outcome
    }

    fn any_instance(&mut self) -> usize {
        self.below(INSTANCES)
    }

    fn push_of(&self, image: usize, reference: Reference) -> ManifestPush {
        let manifest = &self.soak.fixtures.manifests[image];
        ManifestPush {
            reference,
            tags: Vec::new(),
            media_type: Some(manifest.media_type.clone()),
            bytes: manifest.bytes.clone(),
            condition: None,
        }
    }

    /// Pushes an image to a tag at an instance.
    pub(crate) async fn try_put(
        &self,
        instance: usize,
        repository: usize,
        image: usize,
        tag: &Tag,
    ) -> Result<PushedManifest> {
        let push = self.push_of(image, Reference::Tag(tag.clone()));
        let put = self.at(instance, repository, |r| async move { r.manifest_put(push).await });
        put.await.unwrap()
    }

    /// Pushes the blobs of all images.
    pub(crate) async fn push_all_content(&self, repository: usize) {
        for image in 0..IMAGES {
            self.push_blobs(0, repository, image).await;
        }
    }

    async fn push_blobs(&self, instance: usize, repository: usize, image: usize) {
        for blob in self.soak.fixtures.manifests[image].needs.clone() {
            let blob = self.soak.fixtures.blobs[blob].clone();
            let push = self.at(instance, repository, |r| async move {
                r.blob_push(&blob.digest, UploadChunk::of(blob.bytes)).await
            });
            if let Some(Err(error)) = push.await {
                assert!(is_unsure(&error), "{error}");
            }
        }
    }

    async fn push(&mut self, repository: usize, image: usize, tag: &Tag) {
        let (ledger, digest) = (Arc::clone(&self.soak.ledger), self.digest(image));
        for _ in 0..TRIES {
            let instance = self.any_instance();
            let push = self.push_of(image, Reference::Tag(tag.clone()));
            ledger.requested(repository, tag, Some(&digest));
            let put = self.at(instance, repository, |r| async move { r.manifest_put(push).await });
            match put.await {
                Some(Ok(pushed)) => return ledger.changed(repository, &pushed.transitions),
                Some(Err(Error::Immutable(_))) => return ledger.refused(),
                Some(Err(Error::ReferencesUnknown { .. })) => {
                    self.push_blobs(instance, repository, image).await;
                }
                Some(Err(error)) => {
                    assert!(is_unsure(&error), "{error}");
                    return;
                }
                None => return,
            }
        }
    }

    async fn delete_tag(&mut self, repository: usize, tag: &Tag) {
        let (ledger, instance) = (Arc::clone(&self.soak.ledger), self.any_instance());
        ledger.requested(repository, tag, None);
        self.delete(instance, repository, Reference::Tag(tag.clone()), ledger).await;
    }

    async fn delete_manifest(&mut self, repository: usize, image: usize) {
        let (ledger, instance) = (Arc::clone(&self.soak.ledger), self.any_instance());
        // Once for each push beside it.
        for _ in 0..4 {
            (0..MOVING.len()).for_each(|n| ledger.requested(repository, &tag(n), None));
        }
        let digest = Reference::Digest(self.digest(image));
        self.delete(instance, repository, digest, ledger).await;
    }

    async fn delete(
        &self,
        instance: usize,
        repository: usize,
        reference: Reference,
        ledger: Arc<crate::soak::changes::ChangeLedger>,
    ) {
        let deleting = self.at(instance, repository, |r| async move {
            let mut removed = Vec::new();
            let deleted = r.manifest_delete_if(&reference, None, &|_| true, &mut removed).await;
            Ok((deleted, removed))
        });
        let Some(Ok((deleted, removed))) = deleting.await else { return };
        ledger.changed(repository, &removed);
        match deleted {
            Ok(()) | Err(Error::ManifestUnknown { .. }) => {}
            Err(Error::Immutable(_)) => ledger.refused(),
            Err(error) => assert!(is_unsure(&error), "{error}"),
        }
    }

    async fn restore_manifest(&mut self, repository: usize, image: usize) {
        let (ledger, digest) = (Arc::clone(&self.soak.ledger), self.digest(image));
        let (instance, with_tags) = (self.any_instance(), self.rng.chance(1, 2));
        if with_tags {
            (0..MOVING.len()).for_each(|n| ledger.requested(repository, &tag(n), Some(&digest)));
        }
        let restore = self.at(instance, repository, |r| async move {
            r.manifest_restore(&digest, with_tags).await
        });
        match restore.await {
            Some(Ok(restored)) => ledger.changed(repository, &restored.transitions),
            Some(Err(Error::ManifestUnknown { .. } | Error::ReferencesUnknown { .. })) | None => {}
            Some(Err(Error::Immutable(_))) => ledger.refused(),
            Some(Err(error)) => assert!(is_unsure(&error), "{error}"),
        }
    }

    /// Sets a tag to an image that it may have pointed to.
    async fn restore_tag(&mut self, repository: usize, image: usize, tag: &Tag) {
        let (ledger, digest) = (Arc::clone(&self.soak.ledger), self.digest(image));
        let (instance, of) = (self.any_instance(), tag.clone());
        ledger.requested(repository, tag, Some(&digest));
        let restore = self.at(instance, repository, |r| async move {
            let page = PageRequest { limit: 5, last: None };
            match r.tag_history(&of, &page).await {
                Ok(_) | Err(Error::ManifestUnknown { .. }) => {}
                Err(error) => return Err(error),
            }
            r.tag_restore(&of, &digest, None).await
        });
        match restore.await {
            Some(Ok(transition)) => ledger.changed(repository, &[transition]),
            Some(Err(Error::ManifestUnknown { .. } | Error::ReferencesUnknown { .. })) | None => {}
            Some(Err(error)) => assert!(is_unsure(&error), "{error}"),
        }
    }

    async fn purge(&mut self, repository: usize, image: usize) {
        let (digest, instance) = (self.digest(image), self.any_instance());
        // A tag that is set beside the purge goes with it.
        for n in 0..MOVING.len() {
            self.soak.ledger.requested(repository, &tag(n), None);
        }
        let purge = self
            .at(instance, repository, |r| async move { r.manifest_purge(&digest, false).await });
        match purge.await {
            Some(Ok(_) | Err(Error::ManifestUnknown { .. } | Error::PurgeRefused { .. }))
            | None => {}
            Some(Err(Error::Immutable(_))) => self.soak.ledger.refused(),
            Some(Err(error)) => assert!(is_unsure(&error), "{error}"),
        }
    }
}
