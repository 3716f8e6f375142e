//! How clients pull, and what must exist when they do.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::TryStreamExt;
use jreg_oci::Reference;
use jreg_registry::{Error, PageRequest, Repository, Result, TouchPolicy};
use jreg_storage::ByteRange;

use crate::soak::client::{Client, Outcome};
use crate::soak::cluster::INSTANCES;
use crate::soak::fault_schedule::count;
use crate::soak::fixtures::{REPOSITORIES, TAGS, tag_of};
use crate::soak::ledger::{Reading, Register};

/// How long a reader may use a location: bytes are kept for an hour, of which caches take a minute.
const READ_MAX: Duration = Duration::from_secs(50 * 60);

/// A pull of everything that a tag leads to.
struct Pull {
    repository: usize,
    instance: usize,
    /// Whether the tag had this target from the beginning to the end.
    tag: Reading,
    blobs: Vec<Reading>,
    manifests: Vec<Reading>,
}

impl Client {
    /// Pulls the target of a tag, at any instance.
    pub(crate) async fn pull(&mut self, repository: usize, tag: usize) {
        let instance = self.any_instance();
        self.pull_at(instance, repository, tag).await;
    }

    /// The same at one instance; returns the target, if there was a response.
    pub(crate) async fn pull_at(
        &mut self,
        instance: usize,
        repository: usize,
        tag: usize,
    ) -> Option<Option<usize>> {
        count(&self.schedule().counts.pulls);
        let pull = self.begin_pull(instance, repository, tag);
        let reference = Reference::Tag(tag_of(tag));
        let found = self.get(instance, repository, reference).await;
        let led_to = match &found {
            Outcome::Yes(manifest) => Some(Some(*manifest)),
            Outcome::No(Error::ManifestUnknown { .. }) => Some(None),
            Outcome::No(error) => self.schedule().violation(&format!("a pull fails: {error}"), &[]),
            Outcome::Unsure => None,
        };
        if let Some(value) = led_to {
            let values = self.shared.ledger.so_far(&pull.tag).values;
            let what = format!("{}:{}", REPOSITORIES[repository], TAGS[tag]);
            let about = format!("{}/_tags/{}", REPOSITORIES[repository], TAGS[tag]);
            let manifests = &self.shared.fixtures.manifests;
            let hexes = values.iter().flatten().map(|to| manifests[*to].digest.hex());
            let of = |hex| format!("{}/_manifests/sha256/{hex}", REPOSITORIES[repository]);
            let keys: Vec<_> = hexes.map(of).chain([about]).collect();
            let about: Vec<_> = keys.iter().map(String::as_str).collect();
            self.check_possible(&values, value, &what, &about);
        }
        if let Some(Some(manifest)) = led_to {
            self.pull_tree(&pull, manifest).await;
        }
        self.end_pull(pull);
        led_to
    }

    fn begin_pull(&self, instance: usize, repository: usize, tag: usize) -> Pull {
        let (fixtures, ledger) = (&self.shared.fixtures, &self.shared.ledger);
        let blob = |blob| ledger.read(Register::Blob(repository, blob));
        let manifest = |manifest| ledger.read(Register::Manifest(repository, manifest));
        Pull {
            repository,
            instance,
            tag: ledger.read(Register::Tag(repository, tag)),
            blobs: (0..fixtures.blobs.len()).map(blob).collect(),
            manifests: (0..fixtures.manifests.len()).map(manifest).collect(),
        }
    }

    fn end_pull(&self, pull: Pull) {
        for reading in pull.blobs.into_iter().chain(pull.manifests).chain([pull.tag]) {
            self.shared.ledger.seen(reading);
        }
    }

    /// The manifest, its children, its referrers, and all blobs.
    async fn pull_tree(&mut self, pull: &Pull, manifest: usize) {
        let fixtures = Arc::clone(&self.shared.fixtures);
        self.pull_blobs(pull, manifest, manifest).await;
        let bound = self.shared.ledger.bound_to(pull.repository, manifest);
        let kept = fixtures.manifests[manifest].children.iter().copied();
        for child in kept.chain(fixtures.referrers(manifest)) {
            self.pull_kept(pull, manifest, child, &bound).await;
        }
        self.check_referrers(pull, manifest, &bound).await;
    }

    async fn pull_kept(
        &mut self,
        pull: &Pull,
        parent: usize,
        child: usize,
        bound: &BTreeSet<usize>,
    ) {
        let digest = self.shared.fixtures.manifests[child].digest.clone();
        let reference = Reference::Digest(digest.clone());
        match self.get(pull.instance, pull.repository, reference).await {
            Outcome::Yes(_) => self.pull_blobs(pull, parent, child).await,
            Outcome::No(Error::ManifestUnknown { .. }) => {
                if bound.contains(&child) && self.is_still_bound(pull, parent, child) {
                    let what = format!("manifest {child} is gone, which {parent} keeps");
                    let parent = self.shared.fixtures.manifests[parent].digest.clone();
                    self.schedule().violation(&what, &[&digest.hex(), &parent.hex()]);
                }
            }
            Outcome::No(error) => self.schedule().violation(&format!("a pull fails: {error}"), &[]),
            Outcome::Unsure => {}
        }
    }

    /// Whether the tag had the parent as its target all the while, and the parent still references
    /// the child.
    fn is_still_bound(&self, pull: &Pull, parent: usize, child: usize) -> bool {
        let ledger = &self.shared.ledger;
        ledger.so_far(&pull.tag).is_surely(Some(parent))
            && ledger.bound_to(pull.repository, parent).contains(&child)
            && ledger.so_far(&pull.manifests[child]).is_surely(crate::soak::ledger::THERE)
    }

    async fn check_referrers(&mut self, pull: &Pull, subject: usize, bound: &BTreeSet<usize>) {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let digest = fixtures.manifests[subject].digest.clone();
        let asked = digest.clone();
        let list = |r: Repository| async move {
            r.referrers(&asked, None, &PageRequest { limit: 100, last: None }).await
        };
        let Outcome::Yes(page) = self.ask_at(pull.instance, pull.repository, list).await else {
            return;
        };
        for referrer in fixtures.referrers(subject) {
            let wanted = &fixtures.manifests[referrer].digest;
            let is_listed = page.items.iter().any(|descriptor| descriptor.digest == *wanted);
            if !is_listed
                && bound.contains(&referrer)
                && self.is_still_bound(pull, subject, referrer)
            {
                let what = format!("{wanted} is not among the referrers of {digest}");
                self.schedule().violation(&what, &[&digest.hex(), &wanted.hex()]);
            }
        }
    }

    /// The blobs of a manifest that exists because the tag leads to `root`.
    async fn pull_blobs(&mut self, pull: &Pull, root: usize, manifest: usize) {
        let fixtures = Arc::clone(&self.shared.fixtures);
        for blob in &fixtures.manifests[manifest].needs {
            let is_gone = self.pull_blob(pull.instance, pull.repository, *blob).await;
            let ledger = &self.shared.ledger;
            if is_gone
                && ledger.so_far(&pull.tag).is_surely(Some(root))
                && ledger.so_far(&pull.blobs[*blob]).is_surely(crate::soak::ledger::THERE)
                && self.is_there_all_along(pull, root, manifest)
            {
                let digest = &fixtures.blobs[*blob].digest;
                let name = REPOSITORIES[pull.repository];
                let what = format!("{digest} is gone from {name}; manifest {manifest} names it");
                let by = &fixtures.manifests[manifest].digest;
                self.schedule().violation(&what, &[&digest.hex(), &by.hex()]);
            }
        }
    }

    /// Whether no client deleted the manifest meanwhile.
    fn is_there_all_along(&self, pull: &Pull, root: usize, manifest: usize) -> bool {
        let ledger = &self.shared.ledger;
        let seen = ledger.so_far(&pull.manifests[manifest]);
        root == manifest || seen.is_surely(crate::soak::ledger::THERE)
    }

    /// Whether the blob is absent. If it exists, it must be the right one.
    async fn pull_blob(&mut self, instance: usize, repository: usize, blob: usize) -> bool {
        let found = self.shared.fixtures.blobs[blob].clone();
        let (digest, began) = (found.digest.clone(), self.now());
        match self.ask_at(instance, repository, |r| read(r, digest)).await {
            Outcome::Yes(bytes) if bytes == found.bytes => {
                count(&self.schedule().counts.objects_checked);
                false
            }
            Outcome::Yes(_) => {
                self.schedule().violation("wrong bytes are served", &[&found.digest.hex()]);
            }
            Outcome::No(Error::BlobUnknown { .. }) => true,
            Outcome::No(Error::Damaged { .. }) if self.now() > began + READ_MAX => false,
            Outcome::No(Error::Damaged { key, .. }) => {
                let name = REPOSITORIES[repository];
                let what = format!("{name}: the bytes of {} at {key} are gone", found.digest);
                self.schedule().violation(&what, &[&found.digest.hex(), &key]);
            }
            Outcome::No(error) => self.schedule().violation(&format!("a pull fails: {error}"), &[]),
            Outcome::Unsure => false,
        }
    }

    /// Reads a manifest, which must be one of the fixtures.
    async fn get(
        &mut self,
        instance: usize,
        repository: usize,
        reference: Reference,
    ) -> Outcome<usize> {
        let wanted = reference.clone();
        let get = |r: Repository| async move { r.manifest_get(&wanted, TouchPolicy::Never).await };
        match self.ask_at(instance, repository, get).await {
            Outcome::Yes(manifest) => match self.shared.fixtures.manifest_of(&manifest.bytes) {
                Some(number) => {
                    count(&self.schedule().counts.objects_checked);
                    Outcome::Yes(number)
                }
                None => {
                    self.schedule().violation(&format!("{reference} is an unknown manifest"), &[])
                }
            },
            Outcome::No(error) => Outcome::No(error),
            Outcome::Unsure => Outcome::Unsure,
        }
    }

    /// Pulls content by digest that earlier responses promised.
    pub(crate) async fn pull_promised(&mut self, repository: usize) {
        let instance = self.below(INSTANCES);
        let blob = self.below(self.shared.fixtures.blobs.len());
        self.check_promised_blob(instance, repository, blob).await;
        let manifest = self.below(self.shared.fixtures.manifests.len());
        self.check_promised_manifest(instance, repository, manifest).await;
    }

    pub(crate) async fn check_promised_blob(
        &mut self,
        instance: usize,
        repository: usize,
        blob: usize,
    ) {
        let reading = self.shared.ledger.read(Register::Blob(repository, blob));
        let is_gone = self.pull_blob(instance, repository, blob).await;
        if is_gone && self.is_promised(reading) {
            let digest = &self.shared.fixtures.blobs[blob].digest;
            let what = format!("{digest} was promised in {}", REPOSITORIES[repository]);
            self.schedule().violation(&what, &[&digest.hex()]);
        }
    }

    pub(crate) async fn check_promised_manifest(
        &mut self,
        instance: usize,
        repository: usize,
        manifest: usize,
    ) {
        let reading = self.shared.ledger.read(Register::Manifest(repository, manifest));
        let digest = self.shared.fixtures.manifests[manifest].digest.clone();
        let found = self.get(instance, repository, Reference::Digest(digest.clone())).await;
        let is_gone = matches!(found, Outcome::No(Error::ManifestUnknown { .. }));
        if self.is_promised(reading) && is_gone {
            let what = format!("{digest} was promised in {}", REPOSITORIES[repository]);
            self.schedule().violation(&what, &[&digest.hex()]);
        }
    }

    fn is_promised(&self, reading: Reading) -> bool {
        let now: SystemTime = self.now();
        self.shared.ledger.seen(reading).is_promised(now)
    }
}

async fn read(repository: Repository, digest: jreg_oci::Digest) -> Result<Bytes> {
    let reader = repository.blob_open(&digest).await?;
    let range = ByteRange { start: 0, end: reader.blob().size_bytes };
    let read: Vec<Bytes> = reader.read(range).await?.try_collect().await?;
    Ok(read.concat().into())
}
