//! [`TestInstance`]: one instance of the registry with what its clients do, noted in the ledger.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use jreg_lifecycle::{CurrentRules, LifecycleRules};
use jreg_oci::{Digest, Reference, Tag};
use jreg_registry::{
    Error, GRACE_MIN, GcAction, GcActionKind, GcError, GcObserver, GcOptions, GcOutcome, GcPhase,
    ManifestPush, NoObserver, PageRequest, Registry, Repository, Result, RetentionOptions,
    TouchPolicy, UploadChunk, UploadId,
};
use jreg_storage::testing::ManualClock;
use jreg_storage::{ByteRange, Clock, Key, PutMode, Store};

use crate::content::digest;
use crate::ledger::{HistoryPage, KEPT, PageItem, PushedContent, RunLedger};

#[derive(Clone, Debug)]
pub(crate) struct TestInstance {
    pub(crate) registry: Registry,
    pub(crate) store: Arc<dyn Store>,
    pub(crate) ledger: Arc<RunLedger>,
    pub(crate) clock: Arc<ManualClock>,
}

/// A GC run that removes all it may, as early as it may.
pub(crate) fn eager() -> GcOptions {
    GcOptions {
        grace: GRACE_MIN,
        history_keep: Duration::ZERO,
        share_max_percent: 100,
        sweep_now: true,
        ..GcOptions::default()
    }
}

/// The same, which also removes manifests that nothing keeps.
pub(crate) fn eager_for_untagged() -> GcOptions {
    GcOptions { untagged: Some(Duration::ZERO), ..eager() }
}

/// How long [`keeping`] runs keep what was replaced or deleted.
pub(crate) const HISTORY_KEEP: Duration = Duration::from_secs(GRACE_MIN.as_secs() + 3600);

/// The same, which keeps history for a while.
pub(crate) fn keeping() -> GcOptions {
    GcOptions { history_keep: HISTORY_KEEP, ..eager_for_untagged() }
}

/// The changes of a tag, the latest first.
pub(crate) async fn read_history(repository: &Repository, tag: &Tag) -> Result<Vec<PageItem>> {
    let all = PageRequest { limit: 100, last: None };
    match repository.tag_history(tag, &all).await {
        Ok(page) => Ok(page.items.into_iter().map(|item| (item.change, item.digest)).collect()),
        Err(Error::ManifestUnknown { .. }) => Ok(Vec::new()),
        Err(error) => Err(error),
    }
}

impl TestInstance {
    fn repository(&self, name: &str) -> Repository {
        self.registry.repository(name.parse().unwrap())
    }

    fn now(&self) -> Duration {
        self.clock.monotonic()
    }

    /// Advances the clock of all instances.
    pub(crate) fn pass(&self, by: Duration) {
        self.clock.advance(by);
    }

    async fn noted(
        &self,
        thing: PushedContent,
        of: &Digest,
        work: impl Future<Output = Result<()>>,
    ) -> bool {
        let push = self.ledger.begin(thing, of, self.now());
        let outcome = work.await;
        self.ledger.end(&[push], outcome, self.now())
    }

    /// Asks for a blob, as one who will not push it if it is there.
    pub(crate) async fn has_blob(&self, name: &str, bytes: &Bytes) -> bool {
        let (of, repository) = (digest(bytes), self.repository(name));
        let ask = async { repository.blob_stat(&of, TouchPolicy::IfOld).await.map(|_| ()) };
        self.noted(blob(name, &of), &of, ask).await
    }

    /// Pushes a blob in one request.
    pub(crate) async fn push_blob(&self, name: &str, bytes: &Bytes) -> bool {
        let (of, repository) = (digest(bytes), self.repository(name));
        let push = Box::pin(repository.blob_push(&of, UploadChunk::of(bytes.clone())));
        self.noted(blob(name, &of), &of, async { push.await.map(|_| ()) }).await
    }

    /// Begins an upload and sends all bytes.
    pub(crate) async fn upload(&self, name: &str, bytes: &Bytes) -> Option<UploadId> {
        let repository = self.repository(name);
        let id = repository.upload_start(None);
        let sent = Box::pin(repository.upload_append(&id, UploadChunk::of(bytes.clone()))).await;
        sent.is_ok().then_some(id)
    }

    /// Closes an upload that has all its bytes.
    pub(crate) async fn close(&self, name: &str, id: &UploadId, bytes: &Bytes) -> bool {
        let (of, repository) = (digest(bytes), self.repository(name));
        let close = Box::pin(repository.upload_finish(id, &of, UploadChunk::empty()));
        self.noted(blob(name, &of), &of, async { close.await.map(|_| ()) }).await
    }

    /// Gives an upload up. That deletes nothing which was acknowledged.
    pub(crate) async fn cancel(&self, name: &str, id: &UploadId) {
        let cancelled = self.repository(name).upload_cancel(id).await;
        self.ledger.records().removed += u64::from(cancelled.is_ok());
    }

    pub(crate) async fn mount(&self, name: &str, source: &str, bytes: &Bytes) -> bool {
        let (of, repository) = (digest(bytes), self.repository(name));
        let source = source.parse().unwrap();
        let mount = async {
            let unknown = || Error::BlobUnknown { name: name.parse().unwrap(), digest: of.clone() };
            repository.blob_mount(&of, &source).await?.map(|_| ()).ok_or_else(unknown)
        };
        self.noted(blob(name, &of), &of, mount).await
    }

    /// Pushes a manifest by a tag or, if that is empty, by its digest.
    pub(crate) async fn put_manifest(&self, name: &str, tag: &str, manifest: &str) -> bool {
        self.put_manifest_as(None, name, tag, manifest).await
    }

    /// The same as a media type that its bytes need not have.
    pub(crate) async fn put_manifest_as(
        &self,
        media_type: Option<&str>,
        name: &str,
        tag: &str,
        manifest: &str,
    ) -> bool {
        let of = digest(manifest.as_bytes());
        let mut pushes = vec![self.ledger.begin(
            PushedContent::Manifest(name.to_owned(), of.clone()),
            &of,
            self.now(),
        )];
        if !tag.is_empty() {
            let thing = PushedContent::Tag(name.to_owned(), tag.to_owned());
            pushes.push(self.ledger.begin(thing, &of, self.now()));
        }
        let push = ManifestPush {
            reference: reference(tag, &of),
            tags: Vec::new(),
            media_type: media_type.map(|media_type| media_type.parse().unwrap()),
            bytes: Bytes::copy_from_slice(manifest.as_bytes()),
            condition: None,
        };
        let outcome = Box::pin(self.repository(name).manifest_put(push)).await;
        if let Ok(pushed) = &outcome {
            self.ledger.note_changes(name, &pushed.transitions);
        }
        self.ledger.end(&pushes, outcome.map(|_| ()), self.now())
    }

    /// Reads the history of a tag.
    pub(crate) async fn read_history(&self, name: &str, tag: &str) {
        let known = self.ledger.records().changes.len();
        let tag: Tag = tag.parse().unwrap();
        let Ok(items) = read_history(&self.repository(name), &tag).await else { return };
        let page = HistoryPage { tag: (name.to_owned(), tag), known, items };
        self.ledger.records().pages.push(page);
    }

    /// Restores a manifest with its tags.
    pub(crate) async fn restore(&self, name: &str, manifest: &str) -> bool {
        let of = digest(manifest.as_bytes());
        let thing = PushedContent::Manifest(name.to_owned(), of.clone());
        let push = self.ledger.begin(thing, &of, self.now());
        self.ledger.records().pushes[push].is_restore = true;
        let outcome = Box::pin(self.repository(name).manifest_restore(&of, true)).await;
        if let Ok(restored) = &outcome {
            self.ledger.note_changes(name, &restored.transitions);
        }
        self.ledger.end(&[push], outcome.map(|_| ()), self.now())
    }

    /// Purges a manifest, with force, and so deletes what only it references.
    pub(crate) async fn purge(&self, name: &str, manifest: &str, blobs: &[Bytes]) {
        let of = digest(manifest.as_bytes());
        let purged = PushedContent::Manifest(name.to_owned(), of.clone());
        let mut deletes = vec![self.ledger.begin_delete(purged.clone())];
        let began = self.ledger.records().began_last();
        deletes.extend(blobs.iter().map(|bytes| {
            self.ledger.begin_delete(PushedContent::Blob(name.to_owned(), digest(bytes)))
        }));
        let outcome = Box::pin(self.repository(name).manifest_purge(&of, true)).await.map(|_| ());
        if outcome.is_ok() {
            self.ledger.records().purges.push((purged, began));
        }
        deletes.into_iter().for_each(|delete| self.ledger.end_delete(delete, &outcome));
    }

    /// Asks for a manifest, as one who will not push it if it is there.
    pub(crate) async fn has_manifest(&self, name: &str, manifest: &str) -> bool {
        let of = digest(manifest.as_bytes());
        let (repository, thing) =
            (self.repository(name), PushedContent::Manifest(name.to_owned(), of.clone()));
        let asked = Reference::Digest(of.clone());
        let ask = async { repository.manifest_get(&asked, TouchPolicy::IfOld).await.map(|_| ()) };
        self.noted(thing, &of, ask).await
    }

    /// Pushes an image as docker does: it asks for the blob, sends it if it is not there, then
    /// pushes the manifest.
    pub(crate) async fn push_image(&self, name: &str, tag: &str, config: &Bytes) -> bool {
        if !self.has_blob(name, config).await {
            let Some(id) = self.upload(name, config).await else { return false };
            if !self.close(name, &id, config).await {
                return false;
            }
        }
        self.put_manifest(name, tag, &crate::content::image(config)).await
    }

    pub(crate) async fn delete_tag(&self, name: &str, tag: &str) {
        let delete = self.ledger.begin_delete(PushedContent::Tag(name.to_owned(), tag.to_owned()));
        let reference = tag.parse().unwrap();
        let outcome = self.delete(name, &reference).await;
        self.ledger.end_delete(delete, &outcome);
    }

    async fn delete(&self, name: &str, reference: &Reference) -> Result<()> {
        let (repository, mut removed) = (self.repository(name), Vec::new());
        let delete = repository.manifest_delete_if(reference, None, &|_| true, &mut removed);
        let outcome = Box::pin(delete).await;
        self.ledger.note_changes(name, &removed);
        outcome
    }

    pub(crate) async fn delete_manifest(&self, name: &str, manifest: &str) {
        let of = digest(manifest.as_bytes());
        let delete = self.ledger.begin_delete(PushedContent::Manifest(name.to_owned(), of.clone()));
        let outcome = self.delete(name, &Reference::Digest(of)).await;
        self.ledger.end_delete(delete, &outcome);
    }

    /// Runs retention by a rule that keeps no tag which is older than an hour.
    pub(crate) async fn expire(&self, name: &str, tag: &str) {
        const RULES: &str = "[[retention]]\nrepositories = ['**']\n[[retention.keep]]\n\
                             tags = ['kept']\n[end]\n";
        self.ledger.begin_expiry(PushedContent::Tag(name.to_owned(), tag.to_owned()));
        let rules = CurrentRules::new(Arc::new(LifecycleRules::parse(RULES).unwrap()));
        let options = RetentionOptions {
            delay: Duration::from_secs(3600),
            force: true,
            requests_at_once: 1,
            ..RetentionOptions::default()
        };
        let expiring = self.registry.with_rules(rules);
        match Box::pin(expiring.run_retention(&options, &NoObserver)).await {
            Ok(report) => self.ledger.records().removed += report.removed,
            Err(error) => self.ledger.blame(format!("retention gave up: {error}")),
        }
    }

    /// The same by one that does not look which version of the tag it deletes.
    pub(crate) async fn expire_any_version(&self, name: &str, tag: &str) {
        self.ledger.begin_expiry(PushedContent::Tag(name.to_owned(), tag.to_owned()));
        let deleted = self.delete(name, &tag.parse().unwrap()).await;
        self.ledger.records().removed += u64::from(deleted.is_ok());
    }

    pub(crate) async fn delete_blob(&self, name: &str, bytes: &Bytes) {
        let of = digest(bytes);
        let delete = self.ledger.begin_delete(blob(name, &of));
        let outcome = self.repository(name).blob_delete(&of).await;
        self.ledger.end_delete(delete, &outcome);
    }

    /// Opens a blob, waits for `pause`, and reads it to its end.
    pub(crate) async fn pull(&self, name: &str, bytes: &Bytes, pause: Duration) {
        let of = digest(bytes);
        let (thing, opened_at) = (blob(name, &of), self.now());
        let opened = self.ledger.begin(thing.clone(), &of, opened_at);
        let Ok(reader) = self.repository(name).blob_open(&of).await else { return };
        self.pass(pause);
        let range = ByteRange { start: 0, end: bytes.len() as u64 };
        let read = async {
            reader.read(range).await?.try_collect::<Vec<Bytes>>().await.map_err(Error::from)
        };
        let read = read.await;
        let began = self.ledger.records().pushes[opened].began;
        let excused = self.ledger.records().excuses(&thing, began);
        match read {
            Ok(read) if read.concat() == *bytes => self.ledger.records().acked += 1,
            Err(Error::Store(_)) => {}
            _ if excused || self.now() > opened_at + KEPT => {}
            other => self.ledger.blame(format!("a blob that was opened cannot be read: {other:?}")),
        }
    }

    pub(crate) async fn collect(&self, options: &GcOptions) {
        let watch = CountingWatch(Arc::clone(&self.ledger));
        match Box::pin(self.registry.collect_garbage(options, &watch)).await {
            // A deduplication may be too late.
            Ok(_) | Err(GcError::Registry(Error::Interrupted { .. } | Error::Store(_))) => {}
            Err(error) => self.ledger.blame(format!("a GC run gave up: {error}")),
        }
    }

    /// Collects as one whose reaper fails to remove a record.
    pub(crate) async fn collect_but_keep(&self, kept: &Key) {
        let record = self.store.get(kept).await.unwrap();
        self.collect(&eager()).await;
        self.store.put(kept, record.bytes, PutMode::Create).await.unwrap();
    }

    pub(crate) async fn reap(&self) {
        let reaped = self.registry.reap_uploads().await.unwrap();
        self.ledger.records().removed += reaped.unfinished + reaped.ended;
    }
}

fn blob(name: &str, of: &Digest) -> PushedContent {
    PushedContent::Blob(name.to_owned(), of.clone())
}

fn reference(tag: &str, of: &Digest) -> Reference {
    match tag {
        "" => Reference::Digest(of.clone()),
        tag => tag.parse().unwrap(),
    }
}

/// Counts what a GC run has removed.
#[derive(Debug)]
struct CountingWatch(Arc<RunLedger>);

impl GcObserver for CountingWatch {
    fn phase(&self, _: GcPhase) {}

    fn progress(&self, _: u64) {}

    fn action(&self, action: &GcAction, outcome: GcOutcome) {
        let counts =
            !matches!(action.kind, GcActionKind::RemoveHint | GcActionKind::RemoveReferrer);
        self.0.records().removed += u64::from(counts && outcome == GcOutcome::Done);
    }
}
