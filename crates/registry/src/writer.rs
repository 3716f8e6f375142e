//! [`UploadWriter`]: the bytes of one request in flight into the store.
//!
//! Frames of the body are hashed as they arrive and gathered into parts ([`PartPipeline`]), which
//! are stored a few at a time while the next one fills. Stored bytes become part of the upload with
//! the next session record ([`SessionRecord`]). A writer that is interrupted, or that another
//! request superseded, leaves the session as last recorded.
//!
//! A sweep removes objects that no record references. So the record that names one, a session or a
//! link, is sent within the window that opened before the object was stored, or not at all.

mod closing;
mod part_memory;
mod part_pipeline;
mod session_record;

pub(crate) use closing::CloseOutcome;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::TryStreamExt;
use jreg_oci::{Algorithm, Digest, Hasher, RepositoryName};
use jreg_storage::{ByteRange, ETag, Key, Multipart, Put, PutMode};

use crate::body::IncomingBody;
use crate::core::Core;
use crate::keys;
use crate::record::Location;
use crate::session::OpenUpload;
use crate::unrecorded::WaitingWriter;
use crate::{Error, FillProgress, Result, UploadId};
use part_memory::check_size;
use part_pipeline::{PartPipeline, StoredBytes};
use session_record::{SavedProgress, SessionRecord};

/// Maximum bytes of one stream without a record (plus a part): where a dropped connection resumes.
const CHECKPOINT_BYTES: u64 = 256 * 1024 * 1024;

/// After this time a stream is recorded, where no record was needed before: other requests can then
/// see, cancel and take over the upload.
const UNRECORDED_MAX: Duration = Duration::from_secs(1);

/// How bytes are put at a new key: no other request writes there, and a retry may find what the
/// first attempt stored.
const NEW_KEY: PutMode = PutMode::Overwrite;

/// Where a part may be of any size, a first request with no more than this does not become a part:
/// so small a blob is written faster as a file of its own. It fits the folder store's write-ahead
/// log, together with its session.
const SMALL_BYTES: usize = 128 * 1024;

/// For a blob of known length, parts are made so large that this many suffice.
const PARTS_AIM: u64 = 9_000;

/// Larger parts are whole MiB.
const PART_STEP_BYTES: u64 = 1024 * 1024;

/// What becomes of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum WritePurpose {
    /// They are appended to an upload whose digest is not known yet. What came is kept when the
    /// stream breaks off.
    Append,
    /// They are the whole of this blob.
    Whole(Digest),
    /// They are the last of an upload; all or nothing.
    Last,
}

/// One request's bytes in flight into the store.
#[derive(Debug)]
pub(crate) struct UploadWriter {
    core: Arc<Core>,
    purpose: WritePurpose,
    hasher: Hasher,
    pipeline: PartPipeline,
    record: SessionRecord,
    /// How many bytes the upload had before this request.
    begun_at: u64,
    /// When this request began, by the monotonic clock.
    started: Duration,
}

impl UploadWriter {
    /// A writer of an upload that has no session yet.
    pub(crate) fn fresh(
        core: &Arc<Core>,
        name: &RepositoryName,
        id: &UploadId,
        algorithm: Algorithm,
        purpose: WritePurpose,
        length: Option<u64>,
    ) -> Self {
        let hasher = Hasher::new(algorithm);
        let part_bytes = part_bytes(core, length);
        Self {
            core: Arc::clone(core),
            purpose,
            pipeline: PartPipeline::new(core, part_bytes, StoredBytes::Nothing),
            record: SessionRecord::unrecorded(core, name, id, part_bytes, hasher.state()),
            hasher,
            begun_at: 0,
            started: core.clock.monotonic(),
        }
    }

    /// A writer that continues where a session stands. `open` is what is recorded at `etag`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if the recorded hash cannot be resumed.
    pub(crate) fn resume(
        core: &Arc<Core>,
        name: &RepositoryName,
        id: &UploadId,
        purpose: WritePurpose,
        open: OpenUpload,
        etag: ETag,
    ) -> Result<Self> {
        let damaged = |reason: String| Error::Damaged { key: keys::upload(id).to_string(), reason };
        let hasher = Hasher::resume(&open.hash).map_err(|error| damaged(error.to_string()))?;
        let in_parts = open.multipart.as_ref().map_or(0, Multipart::size_bytes);
        let stored = in_parts + open.tail.as_ref().map_or(0, |tail| tail.size_bytes);
        if hasher.len() != open.offset || stored != open.offset {
            return Err(damaged(format!("{stored} bytes are recorded, not {}", open.offset)));
        }
        let record = SessionRecord::recorded(core, name, id, &open, etag);
        let stored = StoredBytes::new(open.multipart, open.tail);
        Ok(Self {
            core: Arc::clone(core),
            purpose,
            hasher,
            pipeline: PartPipeline::new(core, open.part_bytes, stored),
            record,
            begun_at: open.offset,
            started: core.clock.monotonic(),
        })
    }

    /// Says from now on how much is stored.
    pub(crate) fn report_to(&mut self, progress: &Arc<FillProgress>) {
        self.pipeline.progress = Some(Arc::clone(progress));
    }

    /// Shuts out the writers of earlier claims, where the store can, and discards what they
    /// stored beyond the record.
    pub(crate) async fn take_over(&mut self) -> Result<()> {
        let (parts, tail) = self.pipeline.stored().clone().into_parts_and_tail();
        let Some(parts) = parts else { return Ok(()) };
        let error = match self.core.store.resume_multipart(&parts, self.record.claim).await {
            Ok(resumed) => {
                self.pipeline.set_stored(StoredBytes::new(Some(resumed), tail));
                return Ok(());
            }
            Err(error) => error,
        };
        // A closing PUT with another algorithm may have put the parts together, and broken off.
        let whole = Location::new(parts.key, self.record.saved().offset);
        if error.is_not_found() && self.core.is_stored(&whole).await? {
            self.pipeline.set_stored(StoredBytes::Object(whole));
            return Ok(());
        }
        Err(self.record.part_error(error.into()))
    }

    /// Whether more than one part has come.
    pub(crate) fn has_parts(&self) -> bool {
        self.pipeline.parts().is_some()
    }

    /// Whether there is a session record, by which others know of the upload.
    pub(crate) fn is_recorded(&self) -> bool {
        self.record.is_recorded()
    }

    /// The repository of the upload.
    pub(crate) fn repository(&self) -> &RepositoryName {
        self.record.repository()
    }

    /// Notes whether the bytes are acknowledged before they are recorded.
    pub(crate) fn set_acknowledged(&mut self, is_acknowledged: bool) {
        self.record.set_acknowledged(is_acknowledged);
    }

    /// What its bytes are hashed with.
    pub(crate) fn algorithm(&self) -> Algorithm {
        self.hasher.algorithm()
    }

    /// How many bytes have come so far, over all requests of the upload.
    pub(crate) fn offset(&self) -> u64 {
        self.hasher.len()
    }

    /// Takes a body in, to its end.
    ///
    /// # Errors
    ///
    /// [`Error::SizeMismatch`], [`Error::Body`], [`Error::BlobTooLarge`],
    /// [`Error::UploadSuperseded`], [`Error::UploadUnknown`], [`Error::Store`]. What came before
    /// the error can still be kept by [`UploadWriter::checkpoint`].
    pub(crate) async fn feed(&mut self, incoming: &mut IncomingBody) -> Result<()> {
        self.check_size(incoming.left())?;
        while let Some(frame) = self.next_frame(incoming).await? {
            self.write(frame).await?;
        }
        Ok(())
    }

    /// Receives what fits into the first part, and stores nothing. `false`: more follows.
    ///
    /// # Errors
    ///
    /// [`Error::SizeMismatch`], [`Error::Body`].
    pub(crate) async fn fill(&mut self, incoming: &mut IncomingBody) -> Result<bool> {
        self.check_size(incoming.left())?;
        while let Some(mut frame) = self.next_frame(incoming).await? {
            while !frame.is_empty() {
                if self.pipeline.memory.part_room() == 0 {
                    incoming.put_back(frame);
                    return Ok(false);
                }
                self.collect(&mut frame).await?;
            }
        }
        Ok(true)
    }

    async fn next_frame(&mut self, incoming: &mut IncomingBody) -> Result<Option<Bytes>> {
        let memory = &mut self.pipeline.memory;
        memory.expect(incoming.left());
        incoming.note_reserved(memory.budget(), memory.reserved_bytes());
        incoming.next().await
    }

    fn check_size(&self, left: Option<u64>) -> Result<()> {
        let parts_max = self.core.store.capabilities().parts.parts_max;
        let size_bytes = self.offset().saturating_add(left.unwrap_or_default());
        check_size(size_bytes, self.pipeline.memory.blob_bytes_max(parts_max))
    }

    /// Stores and records the first bytes of an upload. If another request has begun it, they are
    /// only stored, and this says where.
    ///
    /// # Errors
    ///
    /// [`Error::Store`]; nothing is recorded then.
    pub(crate) async fn begin(&mut self) -> Result<Option<Location>> {
        self.save_tail(self.new_key()).await
    }

    /// Stores the received bytes as an object that no record references, and frees its memory.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub(crate) async fn put_orphan(&mut self) -> Result<Location> {
        self.put_object(self.new_key()).await
    }

    /// Appends the bytes that another writer has stored; `left` more bytes are known to follow. It
    /// is read back rather than handed over, so that the tail that goes before it, and what follows
    /// in the same part, have room in the budget.
    ///
    /// # Errors
    ///
    /// As [`UploadWriter::feed`].
    pub(crate) async fn append_stored(
        &mut self,
        object: &Location,
        left: Option<u64>,
    ) -> Result<()> {
        let left = left.map(|left| left + object.size_bytes);
        self.check_size(left)?;
        self.pipeline.memory.expect(left);
        let (_, tail) = self.pipeline.stored().clone().into_parts_and_tail();
        let taken = tail.map_or(0, |tail| tail.size_bytes) + object.size_bytes;
        self.begin_part(self.record.part_bytes.min(taken)).await?;
        let range = ByteRange { start: 0, end: object.size_bytes };
        let mut bytes = self.core.store.read(&object.key, range).await?;
        while let Some(frame) = bytes.try_next().await? {
            self.write(frame).await?;
        }
        Ok(())
    }

    async fn write(&mut self, mut frame: Bytes) -> Result<()> {
        if frame.is_empty() {
            return Ok(());
        }
        self.load_tail().await?;
        while !frame.is_empty() {
            // A part is only cut off once more follows: what fits one part is one PUT.
            if self.pipeline.memory.part_room() == 0 {
                self.send_part().await?;
                self.checkpoint_long_stream().await?;
            }
            self.collect(&mut frame).await?;
        }
        Ok(())
    }

    /// Takes as much of a frame as there is room for.
    async fn collect(&mut self, frame: &mut Bytes) -> Result<()> {
        let is_ahead = self.is_ahead();
        self.pipeline.memory.reserve(is_ahead).await?;
        let piece = self.pipeline.memory.collect(frame);
        self.hasher.update(&piece);
        Ok(())
    }

    async fn begin_part(&mut self, taken: u64) -> Result<()> {
        let is_ahead = self.is_ahead();
        self.pipeline.memory.begin(taken, is_ahead).await
    }

    /// Whether the request has sent a part: it fills another at once.
    fn is_ahead(&self) -> bool {
        self.pipeline.sent_bytes() > self.record.saved().offset
    }

    /// Takes the stored tail into memory, so that what comes can follow it in one part.
    async fn load_tail(&mut self) -> Result<()> {
        let Some(tail) = self.pipeline.take_tail() else { return Ok(()) };
        if tail.size_bytes > self.record.part_bytes {
            // Left by a closing PUT with another algorithm that broke off: it cannot be appended
            // to.
            return Err(self.record.unknown());
        }
        if !self.pipeline.memory.has_begun() {
            self.begin_part(tail.size_bytes).await?;
        }
        let range = ByteRange { start: 0, end: tail.size_bytes };
        // It is absent if the upload was cancelled meanwhile.
        let read = self.core.store.read(&tail.key, range).await;
        let mut bytes = read.map_err(|error| self.record.part_error(error.into()))?;
        while let Some(frame) = bytes.try_next().await? {
            self.pipeline.memory.load(&frame);
        }
        Ok(())
    }

    async fn send_part(&mut self) -> Result<()> {
        let part = self.pipeline.memory.take();
        if self.pipeline.parts().is_none() {
            self.begin_parts().await?;
        }
        self.pipeline.send(part).await.map_err(|error| self.record.part_error(error))
    }

    /// Sends the last part of a request. Where that takes no round trip, it is stored after the others,
    /// and all are made durable at once.
    async fn send_last_part(&mut self) -> Result<()> {
        if self.pipeline.parts().is_none() || self.core.store.capabilities().is_remote {
            return self.send_part().await;
        }
        let part = self.pipeline.memory.take();
        self.pipeline.put_last(part).await.map_err(|error| self.record.part_error(error))
    }

    /// Begins the multipart upload, and records its id at once, so that it can be cleaned up, unless
    /// the store does that itself.
    async fn begin_parts(&mut self) -> Result<()> {
        let (claim, part_bytes) = (self.record.claim, self.record.part_bytes);
        let upload = self.core.store.create_multipart(&self.new_key(), claim, part_bytes).await?;
        self.pipeline.set_stored(StoredBytes::Parts(upload));
        match self.core.store.capabilities().drops_unrecorded_uploads {
            true => Ok(()),
            false => {
                let progress = self.record.saved().clone();
                self.record.save(progress, self.pipeline.parts().cloned()).await
            }
        }
    }

    /// Waits until every part that was sent is stored.
    async fn land_parts(&mut self) -> Result<()> {
        self.pipeline.land_parts().await.map_err(|error| self.record.part_error(error))
    }

    /// Waits until every part that was sent is stored and durable, so that a record may name it.
    async fn land_all(&mut self) -> Result<()> {
        self.land_parts().await?;
        self.pipeline.sync_parts().await.map_err(|error| self.record.part_error(error))
    }

    async fn checkpoint_long_stream(&mut self) -> Result<()> {
        let unrecorded = self.pipeline.sent_bytes().saturating_sub(self.record.saved().offset);
        let is_long =
            unrecorded >= CHECKPOINT_BYTES || !self.is_recorded() && self.age() >= UNRECORDED_MAX;
        match self.purpose == WritePurpose::Append && is_long {
            true => self.save_parts().await,
            false => Ok(()),
        }
    }

    /// Stores and records all that has come, so that any instance can continue from here.
    ///
    /// # Errors
    ///
    /// As [`UploadWriter::feed`]; the session then stands where it was last recorded.
    pub(crate) async fn checkpoint(&mut self) -> Result<()> {
        if self.offset() == self.record.saved().offset {
            return Ok(());
        }
        if self.pipeline.memory.is_empty() {
            return self.save_parts().await;
        }
        if self.keeps_tail() {
            let orphan = self.save_tail(self.tail_key()).await?;
            return orphan.map_or(Ok(()), |_| Err(self.record.superseded()));
        }
        self.send_last_part().await?;
        self.save_parts().await
    }

    async fn save_parts(&mut self) -> Result<()> {
        self.land_all().await?;
        let progress = self.progress(None);
        self.record.save(progress, self.pipeline.parts().cloned()).await
    }

    fn age(&self) -> Duration {
        self.core.clock.monotonic().saturating_sub(self.started)
    }

    fn progress(&self, tail: Option<Location>) -> SavedProgress {
        SavedProgress { offset: self.offset(), hash: self.hasher.state(), tail }
    }

    /// Whether the last bytes are to be an object of their own rather than a part: where a part
    /// must not be short, and where all that came is so little that it is mostly the whole blob.
    fn keeps_tail(&self) -> bool {
        let is_first = !self.has_parts();
        match self.core.store.capabilities().parts.uniform {
            true => self.pipeline.memory.part_room() > 0 || is_first,
            false => is_first && self.pipeline.memory.len() <= SMALL_BYTES,
        }
    }

    /// For bytes short of a part: an object of their own, which may turn out to be the whole blob.
    fn tail_key(&self) -> Key {
        match self.has_parts() {
            false => keys::new_blob_without_digest(),
            true => keys::new_upload_tail(self.record.id()),
        }
    }

    /// Stores the bytes in memory as the tail, and records the session that references it. If
    /// another request has changed the session, the bytes are only stored, and this returns where.
    async fn save_tail(&mut self, key: Key) -> Result<Option<Location>> {
        self.land_all().await?;
        let part = self.pipeline.memory.take();
        let tail = Location::new(key.clone(), part.bytes.len() as u64);
        let (parts, _) = self.pipeline.stored().clone().into_parts_and_tail();
        let object = Put::new(key, part.bytes, NEW_KEY);
        let progress = self.progress(Some(tail.clone()));
        match self.record.put_and_save(object, progress, parts.clone()).await {
            Ok(true) => {
                self.pipeline.set_stored(StoredBytes::new(parts, Some(tail)));
                Ok(None)
            }
            Ok(false) => Ok(Some(tail)),
            Err(error) => {
                self.core.discard_unlinked(&tail, &error).await;
                Err(error)
            }
        }
    }

    /// Stores the bytes in memory as an object, which the next record will reference.
    async fn put_object(&mut self, key: Key) -> Result<Location> {
        let part = self.pipeline.memory.take();
        let size_bytes = part.bytes.len() as u64;
        if !self.has_parts() {
            self.record.expect_reference();
        }
        self.core.store.put(&key, part.bytes, NEW_KEY).await?;
        Ok(Location::new(key, size_bytes))
    }

    /// Saves a closing request that follows the read of a short session.
    pub(crate) fn remember(&self) {
        if !self.has_parts() {
            self.record.remember();
        }
    }

    fn new_key(&self) -> Key {
        match &self.purpose {
            WritePurpose::Whole(digest) => keys::new_blob(digest),
            WritePurpose::Append | WritePurpose::Last => keys::new_blob_without_digest(),
        }
    }
}

impl WaitingWriter for UploadWriter {
    fn record(&mut self) -> BoxFuture<'_, Result<()>> {
        Box::pin(async move {
            let recorded = self.checkpoint().await;
            match &recorded {
                Ok(()) => self.remember(),
                Err(error) => self.free_after(error).await,
            }
            recorded
        })
    }
}

/// The part size of a new upload: the configured one, or larger so that a blob of known length
/// fits the number of parts.
fn part_bytes(core: &Core, length: Option<u64>) -> u64 {
    let rules = core.store.capabilities().parts;
    let configured = core.options.limits.part_bytes.unwrap_or(rules.part_bytes).max(1);
    let wanted = length.filter(|_| rules.uniform).map_or(0, |length| length.div_ceil(PARTS_AIM));
    if wanted <= configured {
        return configured;
    }
    let whole = wanted.next_multiple_of(PART_STEP_BYTES);
    // If not even this fits the budget, the blob is refused.
    whole.min(core.upload_bytes.bytes_max().max(wanted))
}
