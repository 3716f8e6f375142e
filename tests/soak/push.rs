//! How clients push: blobs in all forms, and the manifests that reference them.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use jreg_oci::{ContentRange, Digest, Reference};
use jreg_registry::{Blob, Error, ManifestPush, TouchPolicy, UploadChunk, UploadId};

use crate::soak::client::{Client, Outcome, RELY};
use crate::soak::fixtures::{REPOSITORIES, TAGS, repository_name, tag_of};
use crate::soak::ledger::{Reading, Register, THERE};

/// Maximum attempts to push a blob.
const TRIES: usize = 4;

/// Content that a response promised, and since when it is checked.
#[derive(Debug)]
pub(crate) struct Relied {
    digest: Digest,
    register: Register,
    reading: Reading,
    began: SystemTime,
}

impl Client {
    /// Pushes a manifest with everything that it references, and points a tag to it.
    pub(crate) async fn push(&mut self, repository: usize, manifest: usize, tag: Option<usize>) {
        let Some(relied) = self.ensure_content(repository, manifest).await else { return };
        self.put_manifest(repository, manifest, tag, &relied).await;
        for Relied { reading, .. } in relied {
            self.shared.ledger.seen(reading);
        }
    }

    async fn ensure_content(&mut self, repository: usize, manifest: usize) -> Option<Vec<Relied>> {
        let found = self.shared.fixtures.manifests[manifest].clone();
        let mut relied = Vec::new();
        for blob in found.needs {
            relied.push(self.ensure_blob(repository, blob).await?);
        }
        for child in found.children {
            relied.push(self.ensure_child(repository, child).await?);
        }
        Some(relied)
    }

    /// Ensures that an image exists which an index will list.
    async fn ensure_child(&mut self, repository: usize, child: usize) -> Option<Relied> {
        let register = Register::Manifest(repository, child);
        let digest = self.shared.fixtures.manifests[child].digest.clone();
        for _ in 0..2 {
            let (began, reading) = (self.now(), self.shared.ledger.read(register));
            let reference = Reference::Digest(digest.clone());
            let found = self.ask(repository, |r| async move {
                r.manifest_get(&reference, TouchPolicy::IfOld).await
            });
            if let Outcome::Yes(_) = found.await {
                self.hold_that(register, began);
                return Some(Relied { digest, register, reading, began });
            }
            self.shared.ledger.seen(reading);
            // An image, which has no children.
            let mut relied = Vec::new();
            for blob in self.shared.fixtures.manifests[child].needs.clone() {
                relied.push(self.ensure_blob(repository, blob).await?);
            }
            self.put_manifest(repository, child, None, &relied).await;
        }
        None
    }

    /// Ensures that a blob exists: by HEAD, by mounting, or by pushing.
    pub(crate) async fn ensure_blob(&mut self, repository: usize, blob: usize) -> Option<Relied> {
        let register = Register::Blob(repository, blob);
        let digest = self.shared.fixtures.blobs[blob].digest.clone();
        let reading = self.shared.ledger.read(register);
        let mut began = None;
        if self.rng.chance(3, 5) {
            began = self.look(repository, blob).await;
        }
        if began.is_none() && self.rng.chance(1, 3) {
            let from = self.below(REPOSITORIES.len());
            began = self.mount(repository, from, blob).await;
        }
        if began.is_none() {
            began = self.push_blob(repository, blob).await;
        }
        let Some(began) = began else {
            self.shared.ledger.seen(reading);
            return None;
        };
        // A read that began before a delete does not prove existence.
        self.shared.ledger.seen(reading);
        let reading = self.shared.ledger.read(register);
        Some(Relied { digest, register, reading, began })
    }

    /// HEAD, like a client that will not push existing content.
    async fn look(&mut self, repository: usize, blob: usize) -> Option<SystemTime> {
        let register = Register::Blob(repository, blob);
        let digest = self.shared.fixtures.blobs[blob].digest.clone();
        let (began, reading) = (self.now(), self.shared.ledger.read(register));
        let asked = digest.clone();
        let outcome = self
            .ask(repository, |r| async move { r.blob_stat(&asked, TouchPolicy::IfOld).await })
            .await;
        let seen = self.shared.ledger.seen(reading);
        match outcome {
            Outcome::Yes(_) => {
                self.hold_that(register, began);
                Some(began)
            }
            Outcome::No(error) => {
                if seen.is_promised(self.now()) {
                    let what = format!("{error}, but it was promised");
                    self.schedule().violation(&what, &[&digest.hex()]);
                }
                None
            }
            Outcome::Unsure => None,
        }
    }

    pub(crate) async fn mount(
        &mut self,
        repository: usize,
        from: usize,
        blob: usize,
    ) -> Option<SystemTime> {
        let (register, source) = (Register::Blob(repository, blob), Register::Blob(from, blob));
        let digest = self.shared.fixtures.blobs[blob].digest.clone();
        let (began, reading) = (self.now(), self.shared.ledger.read(source));
        let writing = self.shared.ledger.write(register, THERE);
        let (asked, name) = (digest.clone(), repository_name(from));
        let outcome =
            self.ask(repository, |r| async move { r.blob_mount(&asked, &name).await }).await;
        let seen = self.shared.ledger.seen(reading);
        match outcome {
            Outcome::Yes(None) => {
                self.shared.ledger.refused(writing);
                if seen.is_promised(self.now()) {
                    self.schedule().violation("there is nothing to mount", &[&digest.hex()]);
                }
                None
            }
            outcome => {
                self.settle(writing, &outcome);
                matches!(outcome, Outcome::Yes(_)).then(|| {
                    self.hold_that(register, began);
                    began
                })
            }
        }
    }

    async fn push_blob(&mut self, repository: usize, blob: usize) -> Option<SystemTime> {
        let register = Register::Blob(repository, blob);
        let writing = self.shared.ledger.write(register, THERE);
        for _ in 0..TRIES {
            let began = self.now();
            let outcome = match self.rng.below(4) {
                0 => self.push_known(repository, blob).await,
                1 => self.push_whole(repository, blob).await,
                _ => self.push_in_chunks(repository, blob).await,
            };
            if let Outcome::Yes(_) = &outcome {
                self.settle(writing, &outcome);
                self.hold_that(register, began);
                return Some(began);
            }
        }
        self.settle::<()>(writing, &Outcome::Unsure);
        None
    }

    /// POST with the digest and the bytes.
    async fn push_known(&mut self, repository: usize, blob: usize) -> Outcome<Blob> {
        let found = self.shared.fixtures.blobs[blob].clone();
        let pushing = |r: jreg_registry::Repository| async move {
            r.blob_push(&found.digest, UploadChunk::of(found.bytes)).await
        };
        self.ask(repository, pushing).await
    }

    /// POST, then PUT with the bytes.
    async fn push_whole(&mut self, repository: usize, blob: usize) -> Outcome<Blob> {
        let found = self.shared.fixtures.blobs[blob].clone();
        let Some(id) = self.begin(repository).await else { return Outcome::Unsure };
        self.finish(repository, &id, &found.digest, found.bytes).await
    }

    /// POST, PATCHes at random instances, PUT with the rest; resumes at the current offset.
    async fn push_in_chunks(&mut self, repository: usize, blob: usize) -> Outcome<Blob> {
        let found = self.shared.fixtures.blobs[blob].clone();
        let Some(id) = self.begin(repository).await else { return Outcome::Unsure };
        let chunks = 1 + self.below(3);
        for _ in 0..chunks {
            let Some(offset) = self.stands(repository, &id).await else { continue };
            let left = found.bytes.slice(offset..);
            let piece = left.slice(..self.below(left.len() + 1));
            if !piece.is_empty() {
                self.append(repository, &id, offset, piece).await;
            }
        }
        let Some(offset) = self.stands(repository, &id).await else { return Outcome::Unsure };
        let left = found.bytes.slice(offset..);
        if self.rng.chance(1, 2) && !left.is_empty() {
            self.append(repository, &id, offset, left).await;
            return self.finish(repository, &id, &found.digest, Bytes::new()).await;
        }
        self.finish_at(repository, &id, &found.digest, left, offset).await
    }

    async fn begin(&mut self, repository: usize) -> Option<UploadId> {
        let begin = |r: jreg_registry::Repository| async move { Ok(r.upload_start(None)) };
        match self.ask(repository, begin).await {
            Outcome::Yes(id) => Some(id),
            _ => None,
        }
    }

    async fn stands(&mut self, repository: usize, id: &UploadId) -> Option<usize> {
        let id = id.clone();
        match self.ask(repository, |r| async move { r.upload_status(&id).await }).await {
            Outcome::Yes(progress) => Some(usize::try_from(progress.offset).unwrap()),
            _ => None,
        }
    }

    async fn append(&mut self, repository: usize, id: &UploadId, offset: usize, bytes: Bytes) {
        let id = id.clone();
        let chunk = UploadChunk { range: Some(range(offset, &bytes)), ..UploadChunk::of(bytes) };
        self.ask(repository, |r| async move { r.upload_append(&id, chunk).await }).await;
    }

    async fn finish(
        &mut self,
        repository: usize,
        id: &UploadId,
        digest: &Digest,
        bytes: Bytes,
    ) -> Outcome<Blob> {
        let chunk = if bytes.is_empty() { UploadChunk::empty() } else { UploadChunk::of(bytes) };
        self.close(repository, id, digest, chunk).await
    }

    async fn finish_at(
        &mut self,
        repository: usize,
        id: &UploadId,
        digest: &Digest,
        bytes: Bytes,
        offset: usize,
    ) -> Outcome<Blob> {
        if bytes.is_empty() {
            return self.finish(repository, id, digest, bytes).await;
        }
        let chunk = UploadChunk { range: Some(range(offset, &bytes)), ..UploadChunk::of(bytes) };
        self.close(repository, id, digest, chunk).await
    }

    async fn close(
        &mut self,
        repository: usize,
        id: &UploadId,
        digest: &Digest,
        chunk: UploadChunk,
    ) -> Outcome<Blob> {
        let closing = (id.clone(), digest.clone());
        let first = self.ask(repository, |r| async move {
            let (id, digest) = closing;
            r.upload_finish(&id, &digest, chunk).await
        });
        let first = first.await;
        if !matches!(first, Outcome::Unsure) || self.rng.chance(1, 3) {
            return first;
        }
        // A retry, like a client without a response.
        let closing = (id.clone(), digest.clone());
        let again = self.ask(repository, |r| async move {
            let (id, digest) = closing;
            r.upload_finish(&id, &digest, UploadChunk::empty()).await
        });
        again.await
    }

    /// Starts an upload that is never finished; sometimes cancels it.
    pub(crate) async fn abandon(&mut self, repository: usize, blob: usize) {
        let bytes = self.shared.fixtures.blobs[blob].bytes.clone();
        let Some(id) = self.begin(repository).await else { return };
        self.append(repository, &id, 0, bytes).await;
        if self.rng.chance(1, 2) {
            self.ask(repository, |r| async move { r.upload_cancel(&id).await }).await;
        }
    }

    /// Pushes a manifest. Content that the client relies on must not be refused.
    pub(crate) async fn put_manifest(
        &mut self,
        repository: usize,
        manifest: usize,
        tag: Option<usize>,
        relied: &[Relied],
    ) {
        let fixtures = Arc::clone(&self.shared.fixtures);
        let found = &fixtures.manifests[manifest];
        let ledger = Arc::clone(&self.shared.ledger);
        ledger.unbind(repository, manifest, false);
        let began = self.now();
        let subject = found.subject().map(|_| self.watch_tags(repository));
        let writes = self.writes(repository, manifest, tag);
        let observations: Vec<_> = found
            .needs
            .iter()
            .map(|blob| ledger.write(Register::Blob(repository, *blob), THERE))
            .collect();
        let digest = found.digest.clone();
        let push = ManifestPush {
            reference: tag.map_or(Reference::Digest(digest), |t| Reference::Tag(tag_of(t))),
            tags: Vec::new(),
            media_type: Some(found.media_type.clone()),
            bytes: found.bytes.clone(),
            condition: None,
        };
        let outcome = self.ask(repository, |r| async move { r.manifest_put(push).await }).await;
        for writing in writes {
            self.settle(writing, &outcome);
        }
        for observation in observations {
            match &outcome {
                Outcome::Yes(_) => ledger.acknowledged(observation, self.now()),
                Outcome::No(_) | Outcome::Unsure => ledger.refused(observation),
            }
        }
        let kept_by = found
            .subject()
            .filter(|kept_by| subject.is_some_and(|tags| self.some_tag_led_to(tags, *kept_by)));
        match outcome {
            Outcome::Yes(_) => self.pushed(repository, manifest, began, relied, kept_by),
            Outcome::No(Error::ReferencesUnknown { missing, .. }) => {
                self.check_missing(repository, &missing, relied);
            }
            Outcome::No(error) => {
                self.schedule().violation(&format!("a push is refused: {error}"), &[])
            }
            Outcome::Unsure => {}
        }
    }

    fn writes(
        &self,
        repository: usize,
        manifest: usize,
        tag: Option<usize>,
    ) -> Vec<crate::soak::ledger::Writing> {
        let ledger = &self.shared.ledger;
        let tag = tag.map(|tag| ledger.write(Register::Tag(repository, tag), Some(manifest)));
        let own = ledger.write(Register::Manifest(repository, manifest), THERE);
        tag.into_iter().chain([own]).collect()
    }

    fn watch_tags(&self, repository: usize) -> Vec<Reading> {
        let of = |tag| self.shared.ledger.read(Register::Tag(repository, tag));
        (0..TAGS.len()).map(of).collect()
    }

    /// Whether one of the tags had the manifest as its target all the while.
    fn some_tag_led_to(&self, tags: Vec<Reading>, manifest: usize) -> bool {
        let seen = tags.into_iter().map(|tag| self.shared.ledger.seen(tag));
        seen.filter(|seen| seen.is_surely(Some(manifest))).count() > 0
    }

    /// The conclusions from the response to a push.
    fn pushed(
        &self,
        repository: usize,
        manifest: usize,
        began: SystemTime,
        relied: &[Relied],
        kept_by: Option<usize>,
    ) {
        let (fixtures, ledger) = (&self.shared.fixtures, &self.shared.ledger);
        let found = &fixtures.manifests[manifest];
        self.hold_that(Register::Manifest(repository, manifest), began);
        for blob in &found.needs {
            self.hold_that(Register::Blob(repository, *blob), began);
        }
        for child in &found.children {
            let register = Register::Manifest(repository, *child);
            let of_child = |relied: &&Relied| relied.register == register;
            if relied.iter().find(of_child).is_some_and(|relied| self.may_rely(relied)) {
                ledger.bind((repository, manifest, *child));
            }
        }
        if let Some(subject) = kept_by {
            ledger.bind((repository, subject, manifest));
        }
    }

    /// Whether content that a response promised still exists.
    fn may_rely(&self, relied: &Relied) -> bool {
        let seen = self.shared.ledger.so_far(&relied.reading);
        seen.is_surely(THERE) && self.now() < relied.began + RELY
    }

    fn check_missing(&self, repository: usize, missing: &[Digest], relied: &[Relied]) {
        for relied in relied.iter().filter(|relied| missing.contains(&relied.digest)) {
            if self.may_rely(relied) {
                let digest = &relied.digest;
                let name = REPOSITORIES[repository];
                let what = format!("{digest} was promised in {name} and is unknown");
                self.schedule().violation(&what, &[&digest.hex()]);
            }
        }
    }
}

fn range(offset: usize, bytes: &Bytes) -> ContentRange {
    let (start, len) = (offset as u64, bytes.len() as u64);
    ContentRange { start, end_inclusive: start + len - 1 }
}
