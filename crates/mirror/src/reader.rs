//! [`FlightReader`]: one reader of a blob that is being fetched.

use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::TryStreamExt;
use jreg_client::UpstreamClient;
use jreg_oci::{Hasher, RepositoryName};
use jreg_registry::{BlobReader, Repository, StoredFill};
use jreg_storage::{ByteRange, ByteStream, OpenFile};
use jreg_telemetry::metrics::MirrorMetrics;
use tokio::sync::watch;
use tokio::time::{Instant, timeout_at};

use crate::MirrorError;
use crate::error::{failure, outcome_of};
use crate::flight::{BlobFlight, FlightBytes, TAIL_BYTES};
use crate::own_stream::{OwnHash, OwnStream};
use crate::service::MirrorShared;
use crate::{DecisionInput, LocalState, OnGone, RequestedMethod, RequestedReference, decide};

/// Maximum bytes of one read of a file.
const PIECE_BYTES_MAX: u64 = 64 * 1024;

/// Where a reader gets content that the others do not have for it.
#[derive(Clone, Debug)]
pub(crate) struct ReaderSource {
    pub(crate) shared: Arc<MirrorShared>,
    pub(crate) client: UpstreamClient,
    pub(crate) upstream: RepositoryName,
    pub(crate) repository: Repository,
}

/// A reader of a flight.
#[derive(Debug)]
pub(crate) struct FlightReader {
    flight: Arc<BlobFlight>,
    source: ReaderSource,
    size_bytes: u64,
    start: u64,
    offset: u64,
    end: u64,
    changes: watch::Receiver<u64>,
    progress: watch::Receiver<StoredFill>,
    /// Whether it reads the whole blob.
    is_whole: bool,
    /// Whether the reader may have to read the rest of the whole blob by itself.
    may_read_alone: bool,
    /// Of all bytes so far, where the reader may have to read on by itself, or in a copy.
    hasher: Option<Hasher>,
    /// The growing file of the blob.
    file: Option<Arc<OpenFile>>,
    stored: Option<StoredStream>,
    own: Option<OwnStream>,
    /// Until when it waits for the blob to be stored.
    patience: Option<Instant>,
}

/// The bytes of the stored blob. The debug output has none.
struct StoredStream(ByteStream);

impl std::fmt::Debug for StoredStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("StoredStream")
    }
}

impl Drop for FlightReader {
    fn drop(&mut self) {
        self.flight.remove_reader();
    }
}

impl FlightReader {
    pub(crate) fn new(
        flight: Arc<BlobFlight>,
        source: ReaderSource,
        size_bytes: u64,
        range: ByteRange,
    ) -> Self {
        flight.add_reader();
        // Others find everything in memory or in a file.
        let is_whole = range == (ByteRange { start: 0, end: size_bytes });
        let may_read_alone = is_whole && source.shared.registry.fill_bytes_unreadable().is_none();
        let is_hashed = may_read_alone || flight.may_be_copy();
        Self {
            is_whole,
            may_read_alone,
            hasher: is_hashed.then(|| Hasher::new(flight.digest.algorithm())),
            changes: flight.subscribe(),
            progress: flight.progress.subscribe(),
            flight,
            source,
            size_bytes,
            start: range.start,
            offset: range.start,
            end: range.end,
            file: None,
            stored: None,
            own: None,
            patience: None,
        }
    }

    /// The next bytes; `None` at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, MirrorError> {
        if self.offset >= self.end {
            return Ok(None);
        }
        let bytes = loop {
            if self.own.is_some() || self.stored.is_some() {
                break self.read_on().await?;
            }
            self.changes.borrow_and_update();
            match self.flight.look(self.offset, self.end) {
                FlightBytes::Here(bytes) => break bytes,
                FlightBytes::Linked => self.open_stored().await?,
                FlightBytes::Failed(error) => return Err(aborted(&error)),
                FlightBytes::Awaited => {
                    let _ = self.changes.changed().await;
                }
                FlightBytes::Passed { is_stored } => {
                    if let Some(bytes) = self.read_passed(is_stored).await? {
                        break bytes;
                    }
                }
            }
        };
        self.offset += bytes.len() as u64;
        if !self.may_read_alone && !self.flight.may_be_copy() {
            self.hasher = None;
        }
        if let Some(hasher) = self.hasher.as_mut().filter(|_| self.own.is_none()) {
            hasher.update(&bytes);
        }
        self.patience = None;
        Ok(Some(bytes))
    }

    /// The next bytes of the store, or of its own request.
    async fn read_on(&mut self) -> Result<Bytes, MirrorError> {
        let next = match (&mut self.own, &mut self.stored) {
            (Some(own), _) => own.next().await.map_err(|error| aborted(&error))?,
            (None, Some(StoredStream(stored))) => {
                stored.try_next().await.map_err(jreg_registry::Error::from)?
            }
            (None, None) => None,
        };
        next.ok_or_else(|| MirrorError::Unavailable { error: "the bytes ended early".to_owned() })
    }

    async fn open_stored(&mut self) -> Result<(), MirrorError> {
        let reader: BlobReader = self.source.repository.blob_open(&self.flight.digest).await?;
        if self.offset > self.start && self.flight.may_be_copy() {
            self.compare_with(&reader).await?;
        }
        let range = ByteRange { start: self.offset, end: self.end };
        self.stored = Some(StoredStream(reader.read(range).await?));
        Ok(())
    }

    /// Fails if the bytes so far, which were not verified, are others than those of a copy.
    async fn compare_with(&mut self, copy: &BlobReader) -> Result<(), MirrorError> {
        let range = ByteRange { start: self.start, end: self.offset };
        let mut stored = copy.read(range).await?;
        let mut hasher = Hasher::new(self.flight.digest.algorithm());
        while let Some(bytes) = stored.try_next().await.map_err(jreg_registry::Error::from)? {
            hasher.update(&bytes);
        }
        let come = self.hasher.clone().map(Hasher::finish);
        if come.is_some_and(|come| come == hasher.finish()) {
            return Ok(());
        }
        let error = "the registry sent other bytes than those of the digest".to_owned();
        Err(MirrorError::BadGateway { error })
    }

    /// Bytes that are not in memory any more: in a file, or to be waited for, or to be read alone.
    async fn read_passed(&mut self, is_stored: bool) -> Result<Option<Bytes>, MirrorError> {
        let readable = self.progress.borrow_and_update().clone();
        if readable.bytes > self.offset {
            if self.file.is_none() {
                // It may have become the object meanwhile: then the flight is linked in a moment.
                let opened = self.source.shared.registry.staged_file(&readable).await;
                self.file = opened.unwrap_or_default();
            }
            let end = self.piece_end(readable.bytes);
            if let Some(file) = self.file.as_ref().filter(|_| end > self.offset) {
                return read_file(file, self.offset, end).await.map(Some);
            }
        }
        if !is_stored {
            return self.open_own().await.map(|()| None);
        }
        let wait = match self.source.shared.registry.fill_bytes_unreadable() {
            // It will be in the file.
            Some(_) => Duration::from_secs(3600),
            None => self.source.shared.limits.wait,
        };
        let until = *self.patience.get_or_insert_with(|| Instant::now() + wait);
        let changed = async {
            tokio::select! {
                changed = self.changes.changed() => changed.is_ok(),
                changed = self.progress.changed() => changed.is_ok(),
            }
        };
        if timeout_at(until, changed).await.is_err() {
            self.open_own().await?;
        }
        Ok(None)
    }

    /// Where a piece of a file ends that may be handed on before the digest is known.
    fn piece_end(&self, readable: u64) -> u64 {
        let tail = self.size_bytes.saturating_sub(TAIL_BYTES);
        // Behind the tail it is never out of memory before the digest is known.
        self.end.min(readable).min(self.offset + PIECE_BYTES_MAX).min(tail.max(self.offset))
    }

    async fn open_own(&mut self) -> Result<(), MirrorError> {
        self.metrics().count_fallback();
        let ReaderSource { client, upstream, .. } = &self.source;
        let range = (self.offset, self.end);
        let digest = &self.flight.digest;
        let hashing = match self.hasher.take().filter(|_| self.is_whole) {
            Some(hasher) => OwnHash::After(Box::new(hasher)),
            None if self.is_whole => OwnHash::FromBeginning,
            None => OwnHash::None,
        };
        let own = OwnStream::open(client, upstream, digest, self.size_bytes, range, hashing).await;
        self.own = Some(own.map_err(|error| aborted(&error))?);
        Ok(())
    }

    fn metrics(&self) -> &MirrorMetrics {
        &self.source.shared.metrics.mirror
    }
}

/// A failure in the middle of a body, which ends it.
fn aborted(error: &jreg_client::UpstreamError) -> MirrorError {
    MirrorError::BadGateway { error: error.to_string() }
}

/// A failure before the first byte.
pub(crate) fn refused(
    repository: &RepositoryName,
    digest: &jreg_oci::Digest,
    method: RequestedMethod,
    error: &jreg_client::UpstreamError,
) -> MirrorError {
    let action = decide(DecisionInput {
        local: LocalState::Absent,
        upstream: outcome_of(error),
        reference: RequestedReference::Digest,
        method,
        on_gone: OnGone::NotFound,
    });
    let absent = MirrorError::BlobUnknown { name: repository.clone(), digest: digest.clone() };
    failure(action, repository, Some(error), absent)
}

async fn read_file(file: &Arc<OpenFile>, start: u64, end: u64) -> Result<Bytes, MirrorError> {
    let length = usize::try_from(end.saturating_sub(start)).unwrap_or_default();
    let file = Arc::clone(file);
    let reading = tokio::task::spawn_blocking(move || {
        let mut bytes = vec![0; length];
        file.file.read_exact_at(&mut bytes, start).map(|()| Bytes::from(bytes))
    });
    match reading.await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(error)) => Err(MirrorError::Unavailable { error: error.to_string() }),
        Err(_) => Err(MirrorError::Unavailable { error: "a read was stopped".to_owned() }),
    }
}
