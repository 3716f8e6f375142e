//! Blobs: from the store, or from the mirrored registry into the store and to every reader.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::future::join;
use futures::{Stream, stream};
use jreg_client::{BlobRequest, UpstreamError, UpstreamErrorKind};
use jreg_oci::{Digest, Hasher, RepositoryName};
use jreg_profile::{WorkName, work};
use jreg_registry::{BlobReader, Error, FillClaim, TouchPolicy, UploadChunk};
use jreg_storage::{ByteRange, error_chain};
use jreg_telemetry::trace;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::sleep;

use crate::error::outcome_of;
use crate::flight::{BlobFlight, FlightHead};
use crate::own_stream::{OwnHash, OwnStream};
use crate::reader::{FlightReader, ReaderSource, refused};
use crate::service::MirrorShared;
use crate::{MirrorError, MirrorLimits, MirrorRepository, RequestedMethod};

/// For how long a claim to store a blob holds, and how often it is renewed.
const CLAIM_TTL: Duration = Duration::from_secs(60);
const CLAIM_RENEWAL: Duration = Duration::from_secs(20);
/// How long a flight can be joined after its blob is stored: a reader may have looked for the link before that.
const LINGER: Duration = Duration::from_secs(10);
/// The memory of a blob where there is little, and where readers can follow it in a file.
const WINDOW_BYTES_MIN: u64 = 1024 * 1024;
const FILE_WINDOW_BYTES: u64 = 4 * 1024 * 1024;

type FlightKey = (RepositoryName, Digest);

/// The blobs that are being fetched.
#[derive(Debug)]
pub(crate) struct BlobFlights {
    by_key: Mutex<HashMap<FlightKey, Arc<BlobFlight>>>,
    /// The memory of their windows, in KiB.
    room: Arc<Semaphore>,
    room_kib: u32,
}

/// A blob of a mirror.
#[derive(Debug)]
pub enum MirroredBlob {
    /// It is stored.
    Stored(BlobReader),
    /// It is fetched.
    Streamed(StreamedBlob),
}

/// A blob that is being fetched.
#[derive(Debug)]
pub struct StreamedBlob {
    /// `None`: there is no memory for it.
    flight: Option<Arc<BlobFlight>>,
    source: ReaderSource,
    digest: Digest,
    size_bytes: u64,
}

impl BlobFlights {
    pub(crate) fn new(limits: &MirrorLimits) -> Self {
        let room_kib = in_kib(limits.memory_bytes / 2);
        let room = Arc::new(Semaphore::new(room_kib as usize));
        Self { by_key: Mutex::default(), room, room_kib }
    }

    fn table(&self) -> MutexGuard<'_, HashMap<FlightKey, Arc<BlobFlight>>> {
        self.by_key.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn memory_used(&self) -> u64 {
        let free = u64::try_from(self.room.available_permits()).unwrap_or(u64::MAX);
        u64::from(self.room_kib).saturating_sub(free) * 1024
    }

    /// Memory for a window of so many bytes, or for a small one.
    fn window(&self, wanted: u64) -> Option<(u64, OwnedSemaphorePermit)> {
        let sizes = [wanted, wanted.min(WINDOW_BYTES_MIN)];
        sizes.into_iter().find_map(|bytes| {
            let room = Arc::clone(&self.room).try_acquire_many_owned(in_kib(bytes));
            room.ok().map(|room| (bytes, room))
        })
    }

    fn remove(&self, key: &FlightKey, flight: &Arc<BlobFlight>) {
        let mut table = self.table();
        if table.get(key).is_some_and(|there| Arc::ptr_eq(there, flight)) {
            table.remove(key);
        }
    }
}

/// Ends a flight, and forgets it, however its task ends.
struct EndingFlight<'a> {
    shared: &'a MirrorShared,
    key: FlightKey,
    flight: &'a Arc<BlobFlight>,
}

impl Drop for EndingFlight<'_> {
    fn drop(&mut self) {
        self.flight.end();
        self.shared.flights.remove(&self.key, self.flight);
    }
}

fn in_kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

impl StreamedBlob {
    pub fn size_bytes(&self) -> u64 {
        self.size_bytes
    }

    /// Streams a range, which must lie within the blob. A whole blob ends well only if its digest is right.
    pub async fn read(
        self,
        range: ByteRange,
    ) -> Result<impl Stream<Item = Result<Bytes, MirrorError>> + Send + use<>, MirrorError> {
        let Self { flight, source, digest, size_bytes } = self;
        // What has yet to come for long is asked for alone.
        let near = |flight: &Arc<BlobFlight>| range.start <= flight.come();
        let reading = match flight.filter(near) {
            Some(flight) => {
                BlobReading::Flight(Box::new(FlightReader::new(flight, source, size_bytes, range)))
            }
            None => {
                let is_whole = range.len() == size_bytes;
                let hash = match is_whole {
                    true => OwnHash::After(Box::new(Hasher::new(digest.algorithm()))),
                    false => OwnHash::None,
                };
                source.shared.metrics.mirror.count_fallback();
                let ReaderSource { client, upstream, repository, .. } = &source;
                let range = (range.start, range.end);
                let own = OwnStream::open(client, upstream, &digest, size_bytes, range, hash);
                let own = own.await.map_err(|error| {
                    refused(repository.name(), &digest, RequestedMethod::Get, &error)
                });
                BlobReading::Own(Box::new(own?))
            }
        };
        Ok(stream::try_unfold(reading, BlobReading::next))
    }
}

enum BlobReading {
    Flight(Box<FlightReader>),
    Own(Box<OwnStream>),
}

impl BlobReading {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>, MirrorError> {
        let next = match &mut self {
            Self::Flight(reader) => reader.next().await?,
            Self::Own(own) => own
                .next()
                .await
                .map_err(|error| MirrorError::BadGateway { error: error.to_string() })?,
        };
        Ok(next.map(|bytes| (bytes, self)))
    }
}

impl MirrorRepository {
    /// The size of a blob (HEAD): what is not stored is asked for, and not fetched.
    ///
    /// # Errors
    ///
    /// [`MirrorError`].
    pub async fn blob_size(&self, digest: &Digest, may_fetch: bool) -> Result<u64, MirrorError> {
        match self.repository.blob_stat(digest, TouchPolicy::Never).await {
            Ok(blob) => return Ok(blob.size_bytes),
            Err(Error::BlobUnknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.check_blob(digest, may_fetch)?;
        let key = (self.name().clone(), digest.clone());
        let in_flight =
            self.shared.flights.table().get(&key).and_then(|flight| flight.size_bytes());
        if let Some(size_bytes) = in_flight {
            return Ok(size_bytes);
        }
        let size = self.head_blob(digest).await;
        size.map_err(|error| self.refused_blob(digest, RequestedMethod::Head, &error))
    }

    /// Asks the registry for the size of a blob.
    async fn head_blob(&self, digest: &Digest) -> Result<u64, UpstreamError> {
        let size_bytes = self.registry.client.head_blob(&self.upstream, digest).await?;
        self.check_size(digest, size_bytes)
    }

    /// Nothing withholds the end of an empty body until its digest is known to be right: it is known before.
    fn check_size(&self, digest: &Digest, size_bytes: u64) -> Result<u64, UpstreamError> {
        let empty = Digest::of(digest.algorithm(), b"");
        if size_bytes > 0 || *digest == empty {
            return Ok(size_bytes);
        }
        let kind = UpstreamErrorKind::WrongDigest { expected: digest.clone(), actual: empty };
        Err(UpstreamError { host: self.host(), kind })
    }

    /// Opens a blob.
    ///
    /// # Errors
    ///
    /// [`MirrorError`].
    pub async fn blob_open(
        &self,
        digest: &Digest,
        may_fetch: bool,
    ) -> Result<MirroredBlob, MirrorError> {
        let metrics = &self.shared.metrics.mirror;
        match self.repository.blob_open(digest).await {
            Ok(reader) => {
                metrics.count_bytes(self.namespace(), "cache", reader.blob().size_bytes);
                return Ok(MirroredBlob::Stored(reader));
            }
            Err(Error::BlobUnknown { .. }) => {}
            Err(error) => return Err(error.into()),
        }
        self.check_blob(digest, may_fetch)?;
        let flight = self.join_flight(digest);
        // Beside the request: the first byte is to come no later for it.
        let (head, is_blocked) = join(flight.head(), self.repository.is_blocked(digest)).await;
        if is_blocked? {
            return Err(MirrorError::Blocked { digest: digest.clone() });
        }
        let (flight, size_bytes) = match head {
            FlightHead::Begun { size_bytes } => (Some(flight), size_bytes),
            FlightHead::Busy => {
                let size = self.head_blob(digest).await;
                let size =
                    size.map_err(|error| self.refused_blob(digest, RequestedMethod::Get, &error))?;
                (None, size)
            }
            FlightHead::Failed(error) => {
                return Err(self.refused_blob(digest, RequestedMethod::Get, &error));
            }
        };
        metrics.count_bytes(self.namespace(), "upstream", size_bytes);
        let (digest, source) = (digest.clone(), self.source());
        Ok(MirroredBlob::Streamed(StreamedBlob { flight, source, digest, size_bytes }))
    }

    fn source(&self) -> ReaderSource {
        ReaderSource {
            shared: Arc::clone(&self.shared),
            client: self.registry.client.clone(),
            upstream: self.upstream.clone(),
            repository: self.repository.clone(),
        }
    }

    /// Whether the registry may be asked for a blob that is not stored.
    fn check_blob(&self, digest: &Digest, may_fetch: bool) -> Result<(), MirrorError> {
        let name = self.name();
        if !self.is_allowed() {
            return Err(MirrorError::NameUnknown { name: name.clone() });
        }
        if !may_fetch {
            return Err(MirrorError::FetchRefused);
        }
        match self.shared.remembered.blob_absence(name, digest) {
            Some(crate::UpstreamOutcome::RepositoryRefused) => {
                Err(MirrorError::NameUnknown { name: name.clone() })
            }
            Some(_) => Err(MirrorError::BlobUnknown { name: name.clone(), digest: digest.clone() }),
            None => Ok(()),
        }
    }

    fn refused_blob(
        &self,
        digest: &Digest,
        method: RequestedMethod,
        error: &UpstreamError,
    ) -> MirrorError {
        let (outcome, negative) = (outcome_of(error), self.registry.options.negative);
        self.shared.remembered.note_blob_absence(self.name(), digest, outcome, negative);
        refused(self.name(), digest, method, error)
    }

    /// The flight of a blob, which begins now if there is none.
    fn join_flight(&self, digest: &Digest) -> Arc<BlobFlight> {
        let key = (self.name().clone(), digest.clone());
        let mut table = self.shared.flights.table();
        if let Some(flight) = table.get(&key) {
            return Arc::clone(flight);
        }
        let flight = Arc::new(BlobFlight::new(digest.clone()));
        table.insert(key, Arc::clone(&flight));
        drop(table);
        let (mirror, of) = (self.clone(), Arc::clone(&flight));
        let fetching = work(WorkName("mirror", "fetch"), async move { mirror.fly(&of).await });
        tokio::spawn(trace::within(trace::current(), fetching));
        flight
    }

    /// Fetches a blob, stores it, and forgets the flight.
    async fn fly(&self, flight: &Arc<BlobFlight>) {
        let key = (self.name().clone(), flight.digest.clone());
        let _ending = EndingFlight { shared: &self.shared, key, flight };
        let mut storing = None;
        if let Some((blob, size_bytes)) = self.take_off(flight).await {
            let (mirror, of) = (self.clone(), Arc::clone(flight));
            let store = async move { mirror.store(&of, size_bytes).await };
            let store = work(WorkName("mirror", "store"), store);
            storing = Some(tokio::spawn(trace::within(trace::current(), store)));
            let (mirror, of) = (self.clone(), Arc::clone(flight));
            tokio::spawn(async move { mirror.link_copy(&of, size_bytes).await });
            flight.take_in(blob, self.shared.limits.wait).await;
        }
        if let Some(storing) = storing {
            // The panic hook reports a panic of the task.
            let _ = storing.await;
        }
        if flight.is_linked() {
            sleep(LINGER).await;
        }
    }

    /// Sends the request. `None`: the flight has ended.
    async fn take_off(&self, flight: &BlobFlight) -> Option<(jreg_client::UpstreamBlob, u64)> {
        let (client, digest) = (&self.registry.client, &flight.digest);
        let mut request = BlobRequest::new(digest.clone());
        if let Some(size_bytes) = self.shared.remembered.size(self.name(), digest) {
            request = request.with_size(size_bytes);
        }
        let opened = client.open_blob(&self.upstream, &request).await;
        let size = match &opened {
            Ok(blob) => match blob.size() {
                Some(size_bytes) => self.check_size(digest, size_bytes),
                None => self.head_blob(digest).await,
            },
            Err(error) => Err(error.clone()),
        };
        match (opened, size) {
            (Ok(blob), Ok(size_bytes)) => {
                match self.shared.flights.window(self.window_bytes(size_bytes)) {
                    Some((window, room)) => {
                        flight.begin(size_bytes, window, room);
                        Some((blob, size_bytes))
                    }
                    None => {
                        flight.refuse();
                        None
                    }
                }
            }
            (_, Err(error)) | (Err(error), _) => {
                flight.fail(error);
                None
            }
        }
    }

    /// How much of a blob stays in memory.
    fn window_bytes(&self, size_bytes: u64) -> u64 {
        match self.shared.registry.fill_bytes_unreadable() {
            Some(unreadable) => size_bytes.min(unreadable.max(FILE_WINDOW_BYTES)),
            None => size_bytes.min(self.shared.limits.window_bytes),
        }
    }

    /// Stores the blob of a flight.
    async fn store(&self, flight: &Arc<BlobFlight>, size_bytes: u64) {
        match self.try_store(flight, size_bytes).await {
            Ok(true) => flight.set_linked(),
            Ok(false) => flight.set_unstored(),
            Err(error) => {
                if !flight.is_linked() {
                    let (name, digest) = (self.name(), &flight.digest);
                    tracing::warn!(repository = %name, %digest, error = error_chain(&error), "a blob of a mirror could not be stored");
                }
                flight.set_unstored();
            }
        }
    }

    /// `false`: another instance stores it, or it must not be stored.
    async fn try_store(&self, flight: &Arc<BlobFlight>, size_bytes: u64) -> Result<bool, Error> {
        let (repository, digest) = (&self.repository, &flight.digest);
        if repository.is_blocked(digest).await? {
            return Ok(false);
        }
        let id = repository.upload_start(Some(digest.algorithm()));
        let mut claim = None;
        if self.shared.registry.is_stored_in_parts(size_bytes) {
            claim = repository.claim_fill(digest, &id, CLAIM_TTL).await?;
            if claim.is_none() {
                return Ok(false);
            }
        }
        let chunk = UploadChunk::new(None, Some(size_bytes), flight.feed());
        let filling = repository.fill_blob(&id, digest, chunk, &flight.progress);
        let filled = self.keep_claim(&mut claim, Box::pin(filling)).await;
        if let Some(claim) = claim {
            // One that stays expires.
            repository.end_fill(&claim).await.ok();
        }
        filled.map(|is_filled| is_filled.is_some())
    }

    /// Renews a claim while the work goes on. `None`: another instance has taken it over.
    async fn keep_claim<T>(
        &self,
        claim: &mut Option<FillClaim>,
        work: impl Future<Output = Result<T, Error>> + Unpin,
    ) -> Result<Option<T>, Error> {
        let mut work = work;
        loop {
            tokio::select! {
                done = &mut work => return done.map(Some),
                () = sleep(CLAIM_RENEWAL), if claim.is_some() => {}
            }
            if let Some(held) = claim.take() {
                *claim = self.repository.renew_fill(held).await?;
                if claim.is_none() {
                    return Ok(None);
                }
            }
        }
    }

    /// Links a copy that another repository of the mirror has, now that the mirrored registry has said that it
    /// has such a blob here, too.
    async fn link_copy(&self, flight: &BlobFlight, size_bytes: u64) {
        let digest = &flight.digest;
        let linking = async {
            let mut repositories = self.repository.mount_candidates(digest).await?;
            // A small blob may be stored by now. What another registry sent, or a client pushed, is not for
            // those who may read this mirror, whatever this registry says that it has.
            repositories.retain(|repository| {
                repository != self.name() && self.is_of_same_registry(repository)
            });
            if repositories.is_empty()
                || flight.is_linked()
                || self.repository.is_blocked(digest).await?
            {
                return Ok(None);
            }
            self.repository.link_copy(digest, size_bytes, &repositories).await
        };
        match linking.await {
            Ok(Some(_)) => flight.set_copied(),
            Ok(None) => flight.end_copy_search(),
            Err(error) => {
                flight.end_copy_search();
                tracing::debug!(%digest, error = error_chain(&error), "no copy of a blob was linked");
            }
        }
    }
}
