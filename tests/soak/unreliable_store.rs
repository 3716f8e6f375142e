//! [`UnreliableStore`]: the store as one instance has it until it crashes. Requests take a while,
//! fail, lose their response, are delayed, and are the last thing that the instance does.

#![deny(clippy::missing_trait_methods)]

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use jreg_storage::{
    ByteRange, ByteStream, CopiedObject, CopySource, ETag, Error, ErrorKind, Key, ListPage,
    ListRequest, Multipart, OpenFile, Part, Presign, Purged, Put, PutMode, Record, Result,
    SequenceOutcome, StagedUpload, Stat, Store, StoreChange, Written, forward_store,
    put_in_sequence,
};
use tokio::sync::{Notify, watch};

use crate::soak::fault_schedule::{DelayedWrite, FaultSchedule, count};

/// The lifetime of an instance: `true` after its crash.
#[derive(Debug)]
pub(crate) struct InstanceLifetime(watch::Sender<bool>);

impl InstanceLifetime {
    pub(crate) fn new() -> Self {
        Self(watch::Sender::new(false))
    }

    /// Returns when it has crashed.
    pub(crate) async fn ended(&self) {
        self.0.subscribe().wait_for(|is_over| *is_over).await.unwrap();
    }

    fn end(&self) {
        self.0.send_replace(true);
    }

    fn is_over(&self) -> bool {
        *self.0.borrow()
    }
}

/// A bucket refuses a request that was signed longer ago than this (RequestTimeTooSkewed). So a
/// suspended process cannot complete an old request, however long it was suspended.
const SIGNATURE_MAX: Duration = Duration::from_secs(15 * 60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RequestFault {
    None,
    /// It never arrives.
    Refused,
    /// It takes effect, and its response is lost.
    ResponseLost,
    /// It takes effect later.
    Delayed,
}

#[derive(Debug)]
pub(crate) struct UnreliableStore {
    inner: Arc<dyn Store>,
    schedule: Arc<FaultSchedule>,
    lifetime: Arc<InstanceLifetime>,
    instance: usize,
}

impl UnreliableStore {
    pub(crate) fn new(
        inner: Arc<dyn Store>,
        schedule: Arc<FaultSchedule>,
        lifetime: Arc<InstanceLifetime>,
        instance: usize,
    ) -> Self {
        Self { inner, schedule, lifetime, instance }
    }

    async fn crash(&self, key: &str) {
        count(&self.schedule.counts.crashes);
        self.schedule.note(|| format!("{} ! crashes at {key}", self.instance));
        self.lifetime.end();
        std::future::pending().await
    }

    /// Runs before a request; returns its fault.
    async fn before(&self, is_write: bool, key: &str) -> RequestFault {
        if self.lifetime.is_over() {
            std::future::pending::<()>().await;
        }
        let schedule = &self.schedule;
        count(&schedule.counts.requests);
        if schedule.is_quiet() {
            return RequestFault::None;
        }
        self.yield_to_others().await;
        if schedule.chance(70) {
            schedule.jump().await;
        }
        if schedule.chance(25) {
            schedule.release_one().await;
        }
        if schedule.chance(500) {
            schedule.note(|| format!("{} . stalls before {key}", self.instance));
            schedule.stall().await;
        }
        if schedule.chance(if is_write { 300 } else { 4000 }) {
            self.crash(key).await;
        }
        let fault = self.fault(is_write);
        if fault != RequestFault::None {
            count(&schedule.counts.faults);
        }
        fault
    }

    fn fault(&self, is_write: bool) -> RequestFault {
        let rate = match (self.schedule.is_burst(), is_write) {
            (true, true) => 30,
            (true, false) => 400,
            (false, true) => 200,
            (false, false) => 2000,
        };
        let mut rng = self.schedule.rng();
        if !rng.chance(1, rate) {
            return RequestFault::None;
        }
        match rng.below(4) {
            0 | 1 if is_write => RequestFault::ResponseLost,
            2 if is_write && self.schedule.delays_writes() => RequestFault::Delayed,
            _ => RequestFault::Refused,
        }
    }

    async fn after(&self, is_write: bool, key: &str) {
        let schedule = &self.schedule;
        if schedule.is_quiet() {
            return;
        }
        self.yield_to_others().await;
        if schedule.chance(if is_write { 300 } else { 8000 }) {
            self.crash(key).await;
        }
        if schedule.chance(500) {
            schedule.note(|| format!("{} . stalls after {key}", self.instance));
            schedule.stall().await;
        }
    }

    /// Yields, and advances the clock a little.
    async fn yield_to_others(&self) {
        let times = self.schedule.rng().below(4);
        for _ in 0..times {
            tokio::task::yield_now().await;
        }
        if self.schedule.delays_writes() {
            tokio::time::advance(Duration::from_millis(1)).await;
        }
    }

    async fn ask<T>(
        &self,
        name: &'static str,
        key: &str,
        work: impl Future<Output = Result<T>> + Send,
    ) -> Result<T> {
        if self.before(false, key).await != RequestFault::None {
            return Err(unavailable(key));
        }
        let outcome = {
            let _in_flight = self.schedule.in_flight().await;
            work.await
        };
        if let Err(error) = &outcome
            && !error.is_not_found()
        {
            self.schedule.note(|| format!("{} {name} {key}: {error}", self.instance));
        }
        self.after(false, key).await;
        outcome
    }

    /// A write; `again` creates it for the target store.
    async fn tell<T, F>(
        &self,
        name: &'static str,
        key: &str,
        work: impl FnOnce(Arc<dyn Store>) -> F,
    ) -> Result<T>
    where
        T: Send + 'static,
        F: Future<Output = Result<T>> + Send + 'static,
    {
        let signed = self.schedule.now();
        let mut fault = self.before(true, key).await;
        if self.schedule.now().duration_since(signed).unwrap_or_default() > SIGNATURE_MAX {
            fault = RequestFault::Refused;
        }
        let note =
            |what: String| self.schedule.note(|| format!("{} {name} {key} {what}", self.instance));
        let work = work(Arc::clone(&self.inner));
        match fault {
            RequestFault::Refused => {
                note("is refused".to_owned());
                return Err(unavailable(key));
            }
            RequestFault::Delayed => {
                note("will be late".to_owned());
                self.send_delayed(format!("{} {name} {key} lands late", self.instance), work);
                return Err(unavailable(key));
            }
            RequestFault::None | RequestFault::ResponseLost => {}
        }
        let outcome = {
            let _in_flight = self.schedule.in_flight().await;
            work.await
        };
        match &outcome {
            Ok(_) => note(format!("{fault:?}")),
            Err(error) => note(format!("{fault:?}: {:?}", error.kind())),
        }
        self.after(true, key).await;
        match fault {
            RequestFault::ResponseLost => Err(unavailable(key)),
            _ => outcome,
        }
    }

    fn send_delayed<T: Send + 'static>(
        &self,
        what: String,
        work: impl Future<Output = Result<T>> + Send + 'static,
    ) {
        let (go, schedule) = (Arc::new(Notify::new()), Arc::clone(&self.schedule));
        let wait = Arc::clone(&go);
        let landing = tokio::spawn(async move {
            wait.notified().await;
            let landed = work.await.map(|_| ()).map_err(|error| error.kind());
            schedule.note(|| format!("{what}: {landed:?}"));
        });
        self.schedule.add_delayed(DelayedWrite { sent: self.schedule.now(), go, landing });
    }
}

/// A key, and for a record with a location its content.
fn shown(key: &Key, bytes: &Bytes) -> String {
    match key.as_str() {
        name if name.starts_with("links/")
            || name.starts_with("uploads/")
            || name.contains("/_tags/") =>
        {
            format!("{name} {}", String::from_utf8_lossy(bytes))
        }
        name => name.to_owned(),
    }
}

fn unavailable(key: &str) -> Error {
    Error::with_source(ErrorKind::Unavailable, key, "the fault schedule")
}

#[async_trait]
impl Store for UnreliableStore {
    forward_store! { inner: capabilities, health, clock }

    async fn purge(&self, request: &ListRequest, age_min: Duration) -> Result<Purged> {
        self.ask("purge", &request.prefix, self.inner.purge(request, age_min)).await
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        self.ask("get", key.as_str(), self.inner.get(key)).await
    }

    async fn head(&self, key: &Key) -> Result<Stat> {
        self.ask("head", key.as_str(), self.inner.head(key)).await
    }

    async fn read(&self, key: &Key, range: ByteRange) -> Result<ByteStream> {
        self.ask("read", key.as_str(), self.inner.read(key, range)).await
    }

    async fn put(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<Written> {
        let name = match mode {
            PutMode::Create => "creates",
            PutMode::Match(_) => "swaps",
            PutMode::Overwrite => "puts",
        };
        let owned = key.clone();
        let what = shown(key, &bytes);
        let write = |store: Arc<dyn Store>| async move { store.put(&owned, bytes, mode).await };
        self.tell(name, &what, write).await
    }

    async fn put_after(&self, before: Vec<StoreChange>, then: Put) -> Result<SequenceOutcome> {
        put_in_sequence(self, before, then).await
    }

    async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        let (owned, version) = (key.clone(), version.cloned());
        let write =
            |store: Arc<dyn Store>| async move { store.delete(&owned, version.as_ref()).await };
        self.tell("deletes", key.as_str(), write).await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        let names = keys.iter().map(Key::as_str).collect::<Vec<_>>().join(" ");
        let keys = keys.to_vec();
        let write = |store: Arc<dyn Store>| async move { store.delete_many(&keys).await };
        self.tell("deletes", &names, write).await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        self.ask("list", &request.prefix, self.inner.list(request)).await
    }

    async fn create_multipart(&self, key: &Key, writer: u64, part_bytes: u64) -> Result<Multipart> {
        let owned = key.clone();
        let write = |store: Arc<dyn Store>| async move {
            store.create_multipart(&owned, writer, part_bytes).await
        };
        self.tell("begins parts of", key.as_str(), write).await
    }

    async fn resume_multipart(&self, upload: &Multipart, writer: u64) -> Result<Multipart> {
        self.ask("resume", upload.key.as_str(), self.inner.resume_multipart(upload, writer)).await
    }

    async fn put_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part> {
        let owned = upload.clone();
        let write =
            move |store: Arc<dyn Store>| async move { store.put_part(&owned, offset, bytes).await };
        self.tell("puts a part of", upload.key.as_str(), write).await
    }

    async fn put_last_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part> {
        let part = self.put_part(upload, offset, bytes).await?;
        self.sync_parts(upload).await?;
        Ok(part)
    }

    async fn sync_parts(&self, upload: &Multipart) -> Result<()> {
        self.inner.sync_parts(upload).await
    }

    async fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        let owned = upload.clone();
        let write = |store: Arc<dyn Store>| async move { store.complete_multipart(&owned).await };
        self.tell("completes", upload.key.as_str(), write).await
    }

    async fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        let owned = upload.clone();
        let write = |store: Arc<dyn Store>| async move { store.abort_multipart(&owned).await };
        self.tell("aborts", upload.key.as_str(), write).await
    }

    async fn copy_in(&self, key: &Key, source: &CopySource) -> Result<Option<CopiedObject>> {
        self.inner.copy_in(key, source).await
    }

    async fn staged_uploads(&self, prefix: &str) -> Result<Vec<StagedUpload>> {
        self.inner.staged_uploads(prefix).await
    }

    async fn staged_file(&self, upload: &Multipart) -> Result<Option<Arc<OpenFile>>> {
        self.inner.staged_file(upload).await
    }

    async fn file(&self, key: &Key) -> Result<Option<Arc<OpenFile>>> {
        self.inner.file(key).await
    }

    async fn presign(&self, key: &Key, presign: &Presign) -> Result<Option<String>> {
        self.inner.presign(key, presign).await
    }
}
