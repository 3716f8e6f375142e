//! [`Client`]: random requests to the instances, checked against the ledger.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_oci::Reference;
use jreg_registry::{Error, Registry, Repository, Result};
use jreg_testkit::Rng;

use crate::fixtures::Fixtures;
use crate::soak::cluster::{Cluster, INSTANCES};
use crate::soak::fault_schedule::{FaultSchedule, count};
use crate::soak::fixtures::{REPOSITORIES, TAGS, repository_name, tag_of};
use crate::soak::ledger::{Ledger, Register, Value, Writing};

/// How long a client may rely on existing content: the minimum grace period less the age from which
/// on it is touched.
pub(crate) const RELY: Duration = Duration::from_secs(3600);

/// What all clients share.
#[derive(Clone, Debug)]
pub(crate) struct Shared {
    pub(crate) fixtures: Arc<Fixtures>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) cluster: Arc<Cluster>,
}

/// One client.
#[derive(Debug)]
pub(crate) struct Client {
    pub(crate) shared: Shared,
    pub(crate) rng: Rng,
}

/// Outcome of a request.
#[derive(Debug)]
pub(crate) enum Outcome<T> {
    Yes(T),
    /// A definite refusal.
    No(Error),
    /// It failed, or had no response: it may have taken effect, or still will.
    Unsure,
}

impl Client {
    pub(crate) fn new(shared: Shared, seed: u64) -> Self {
        Self { shared, rng: Rng::new(seed) }
    }

    pub(crate) fn schedule(&self) -> &FaultSchedule {
        &self.shared.cluster.schedule
    }

    pub(crate) fn now(&self) -> SystemTime {
        self.schedule().now()
    }

    pub(crate) fn below(&mut self, end: usize) -> usize {
        usize::try_from(self.rng.below(end as u64)).unwrap()
    }

    pub(crate) fn any_instance(&mut self) -> usize {
        self.below(INSTANCES)
    }

    /// Runs a request on a repository at an instance.
    pub(crate) async fn ask<T, F>(
        &mut self,
        repository: usize,
        work: impl FnOnce(Repository) -> F,
    ) -> Outcome<T>
    where
        F: Future<Output = Result<T>>,
    {
        let instance = self.any_instance();
        self.ask_at(instance, repository, work).await
    }

    pub(crate) async fn ask_at<T, F>(
        &self,
        instance: usize,
        repository: usize,
        work: impl FnOnce(Repository) -> F,
    ) -> Outcome<T>
    where
        F: Future<Output = Result<T>>,
    {
        let cluster = Arc::clone(&self.shared.cluster);
        let asking = |registry: Registry| work(registry.repository(repository_name(repository)));
        let Some(outcome) = cluster.at(instance, asking).await else { return Outcome::Unsure };
        match outcome {
            Ok(outcome) => {
                count(&self.schedule().counts.acknowledged);
                Outcome::Yes(outcome)
            }
            Err(Error::Store(_) | Error::Busy { .. } | Error::Interrupted { .. }) => {
                Outcome::Unsure
            }
            Err(error) => Outcome::No(error),
        }
    }

    /// Records the outcome of a write.
    pub(crate) fn settle<T>(&self, writing: Writing, outcome: &Outcome<T>) {
        let (ledger, now) = (&self.shared.ledger, self.now());
        match outcome {
            Outcome::Yes(_) => ledger.acknowledged(writing, now),
            Outcome::No(_) => ledger.refused(writing),
            Outcome::Unsure => ledger.in_doubt(writing, now),
        }
    }

    /// Runs random operations.
    pub(crate) async fn run(mut self, operations: u64) {
        for _ in 0..operations {
            count(&self.schedule().counts.operations);
            Box::pin(self.one()).await;
            let pause = self.rng.below(20);
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    async fn one(&mut self) {
        let repository = self.below(REPOSITORIES.len());
        let manifest = self.below(self.shared.fixtures.manifests.len());
        let blob = self.below(self.shared.fixtures.blobs.len());
        let tag = self.below(TAGS.len());
        match self.rng.below(100) {
            0..30 => Box::pin(self.push(repository, manifest, Some(tag))).await,
            30..36 => Box::pin(self.push(repository, manifest, None)).await,
            36..44 => self.retag(repository, tag).await,
            44..48 => self.delete_tag(repository, tag).await,
            48..51 => self.delete_manifest(repository, manifest).await,
            51..55 => self.delete_blob(repository, blob).await,
            55..59 => self.mount_and_delete(repository, blob).await,
            59..62 => self.abandon(repository, blob).await,
            62..84 => self.pull(repository, tag).await,
            84..94 => self.pull_promised(repository).await,
            _ => {
                self.ensure_blob(repository, blob).await;
            }
        }
    }

    /// Points another tag to the target of a tag.
    async fn retag(&mut self, repository: usize, from: usize) {
        let reference = Reference::Tag(tag_of(from));
        let found = self.ask(repository, |r| async move {
            r.manifest_get(&reference, jreg_registry::TouchPolicy::IfOld).await
        });
        let Outcome::Yes(found) = found.await else { return };
        let Some(manifest) = self.shared.fixtures.manifest_of(&found.bytes) else {
            self.schedule().violation("a tag points to a manifest that was not pushed", &[]);
        };
        let to = self.below(TAGS.len());
        self.put_manifest(repository, manifest, Some(to), &[]).await;
    }

    async fn delete_tag(&mut self, repository: usize, tag: usize) {
        let writing = self.shared.ledger.write(Register::Tag(repository, tag), None);
        let reference = Reference::Tag(tag_of(tag));
        let outcome =
            self.ask(repository, |r| async move { r.manifest_delete(&reference, None).await });
        let outcome = outcome.await;
        self.settle(writing, &outcome);
    }

    async fn delete_manifest(&mut self, repository: usize, manifest: usize) {
        let ledger = Arc::clone(&self.shared.ledger);
        ledger.unbind(repository, manifest, true);
        let tags: Vec<_> =
            (0..TAGS.len()).map(|tag| ledger.write(Register::Tag(repository, tag), None)).collect();
        let writing = ledger.write(Register::Manifest(repository, manifest), None);
        let reference = Reference::Digest(self.shared.fixtures.manifests[manifest].digest.clone());
        let outcome =
            self.ask(repository, |r| async move { r.manifest_delete(&reference, None).await });
        let outcome = outcome.await;
        self.settle(writing, &outcome);
        for tag in tags {
            match &outcome {
                Outcome::Yes(()) => ledger.removed_from(tag, manifest),
                // Its tags may be deleted, and GC may have deleted the manifest first.
                Outcome::No(_) | Outcome::Unsure => ledger.in_doubt_if(tag, manifest),
            }
        }
        ledger.unbind(repository, manifest, true);
    }

    async fn delete_blob(&mut self, repository: usize, blob: usize) {
        let writing = self.shared.ledger.write(Register::Blob(repository, blob), None);
        let digest = self.shared.fixtures.blobs[blob].digest.clone();
        let outcome = self.ask(repository, |r| async move { r.blob_delete(&digest).await });
        let outcome = outcome.await;
        self.settle(writing, &outcome);
    }

    /// Mounts a blob in another repository.
    async fn mount_and_delete(&mut self, repository: usize, blob: usize) {
        let from = self.below(REPOSITORIES.len());
        if from != repository && self.mount(repository, from, blob).await.is_some() {
            self.delete_blob(from, blob).await;
        }
    }

    pub(crate) fn hold_that(&self, register: Register, began: SystemTime) {
        self.shared.ledger.promise(register, began + RELY);
    }

    /// An observed value of a register must be possible.
    pub(crate) fn check_possible(
        &self,
        values: &std::collections::BTreeSet<Value>,
        value: Value,
        what: &str,
        about: &[&str],
    ) {
        if !values.contains(&value) {
            let text = format!("{what} is {value:?}, which can only be {values:?}");
            self.schedule().violation(&text, about);
        }
    }
}
