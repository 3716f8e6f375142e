//! [`Writer`]: one request's bytes on their way into the store.
//!
//! Frames of the body are hashed as they come and collected to a part; full parts are sent to
//! the store while the next one fills, a few at a time. Room is reserved from the budget that all
//! uploads share as bytes arrive; while that is spent, the client's socket is not read.
//!
//! What was stored becomes part of the upload only with the next session record. A writer that
//! breaks off, or was superseded, leaves the session as the last record says.
//!
//! An object that nothing names is taken by a sweep some time. So what names it, a session or a
//! link, is sent within the window that opened before the object was stored, or not at all.

mod room;

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::TryStreamExt;
use jreg_oci::{Algorithm, Digest, HashState, Hasher, RepositoryName};
use jreg_storage::{ByteRange, ETag, ErrorKind, Key, Multipart, Part, Put, PutMode};
use tokio::task::JoinHandle;

use crate::body::Incoming;
use crate::budget::BudgetReservation;
use crate::commit::is_gone_or_done;
use crate::core::{Core, over};
use crate::keys;
use crate::pace::Pace;
use crate::part_buffer::PartBuffer;
use crate::record::{Link, Location, Stored};
use crate::rules::Rule;
use crate::session::{Closed, Leftover, Open, Session, State};
use crate::window::Window;
use crate::{Error, Result, UploadId};

/// How many bytes of one stream go unrecorded at most (plus a part): where a dropped connection
/// resumes.
const CHECKPOINT_BYTES: u64 = 256 * 1024 * 1024;

/// How bytes are put at a key that was made for them: nobody else ever writes there, and a retry
/// may find what the first attempt stored.
const NEW_KEY: PutMode = PutMode::Overwrite;

/// Where a part may be of any size, a first request with no more than this is not made one: a blob
/// so small is a file of its own sooner than a file that is collected and then given its name. It is
/// what a folder's log takes, so that it goes there with its session.
const SMALL_BYTES: usize = 128 * 1024;

/// For a blob of known length, parts are made so large that this many suffice.
const PARTS_AIM: u64 = 9_000;

/// Larger parts are whole MiB.
const PART_STEP_BYTES: u64 = 1024 * 1024;

/// What becomes of the bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// They are appended to an upload whose digest is not known yet. What came is kept when the
    /// stream breaks off.
    Append,
    /// They are the whole of this blob.
    Whole(Digest),
    /// They are the last of an upload; all or nothing.
    Last,
}

/// What came of closing an upload and linking its bytes at once.
#[derive(Debug)]
pub(crate) enum OneStep {
    /// Both are done, and the blob is there.
    Linked(Location),
    /// It is closed, and something is at the link already. It may be linked within the window.
    Closed(Box<Closed>, Window),
    /// Nothing is done: it has parts, or the store does one after the other anyway.
    Apart,
}

/// The session as it was last recorded.
#[derive(Clone, Debug)]
struct Saved {
    offset: u64,
    hash: HashState,
    tail: Option<Location>,
}

impl Drop for Writer {
    /// Parts of a request that failed need not arrive.
    fn drop(&mut self) {
        for sent in &self.sending {
            sent.abort();
        }
    }
}

/// One request's bytes on their way into the store.
#[derive(Debug)]
pub(crate) struct Writer {
    core: Arc<Core>,
    name: RepositoryName,
    id: UploadId,
    purpose: Purpose,
    /// The version of the session record; `None` until there is one.
    recorded: Option<ETag>,
    saved: Saved,
    /// How many bytes the upload had before this request.
    begun_at: u64,
    claim: u64,
    part_bytes: u64,
    hasher: Hasher,
    multipart: Option<Multipart>,
    /// Stored bytes after the parts that have not been taken into the buffer.
    tail: Option<Location>,
    buffer: PartBuffer,
    /// The part of the shared budget that the buffer takes.
    reserved: Option<BudgetReservation>,
    /// Where the request's body ends, if that is known.
    end: Option<u64>,
    /// How many bytes were handed to the store as parts: where the buffer starts.
    sent: u64,
    sending: VecDeque<JoinHandle<jreg_storage::Result<Part>>>,
    /// In which an object that was stored must be named, by a session or a link: it opened before
    /// that became visible, and a sweep takes what is not named for long.
    unnamed: Option<Window>,
}

impl Writer {
    /// A writer of an upload that has no session yet.
    pub(crate) fn fresh(
        core: &Arc<Core>,
        name: &RepositoryName,
        id: &UploadId,
        algorithm: Algorithm,
        purpose: Purpose,
        length: Option<u64>,
    ) -> Self {
        let hasher = Hasher::new(algorithm);
        let saved = Saved { offset: 0, hash: hasher.state(), tail: None };
        Self {
            core: Arc::clone(core),
            name: name.clone(),
            id: id.clone(),
            part_bytes: part_bytes(core, length),
            purpose,
            recorded: None,
            saved,
            begun_at: 0,
            claim: 1,
            hasher,
            multipart: None,
            tail: None,
            buffer: core.mappings.buffer(),
            reserved: None,
            end: None,
            sent: 0,
            sending: VecDeque::new(),
            unnamed: None,
        }
    }

    /// A writer that goes on where a session stands. `open` is what is recorded at `etag`.
    ///
    /// # Errors
    ///
    /// [`Error::Damaged`] if the recorded hash cannot be resumed.
    pub(crate) fn resume(
        core: &Arc<Core>,
        name: &RepositoryName,
        id: &UploadId,
        purpose: Purpose,
        open: Open,
        etag: ETag,
    ) -> Result<Self> {
        let damaged = |reason: String| Error::Damaged { key: keys::upload(id).to_string(), reason };
        let hasher = Hasher::resume(&open.hash).map_err(|error| damaged(error.to_string()))?;
        let sent = open.multipart.as_ref().map_or(0, Multipart::size_bytes);
        let stored = sent + open.tail.as_ref().map_or(0, |tail| tail.size_bytes);
        if hasher.len() != open.offset || stored != open.offset {
            return Err(damaged(format!("{stored} bytes are recorded, not {}", open.offset)));
        }
        let saved = Saved { offset: open.offset, hash: open.hash, tail: open.tail.clone() };
        Ok(Self {
            core: Arc::clone(core),
            name: name.clone(),
            id: id.clone(),
            purpose,
            recorded: Some(etag),
            saved,
            begun_at: open.offset,
            claim: open.claim,
            part_bytes: open.part_bytes,
            hasher,
            multipart: open.multipart,
            tail: open.tail,
            buffer: core.mappings.buffer(),
            reserved: None,
            end: None,
            sent,
            sending: VecDeque::new(),
            unnamed: None,
        })
    }

    /// Shuts out the writers of earlier claims, where the store can, and discards what they
    /// stored beyond the record.
    pub(crate) async fn take_over(&mut self) -> Result<()> {
        let Some(upload) = &self.multipart else { return Ok(()) };
        let error = match self.core.store.resume_multipart(upload, self.claim).await {
            Ok(resumed) => {
                self.multipart = Some(resumed);
                return Ok(());
            }
            Err(error) => error,
        };
        // A closing PUT with another algorithm may have put the parts together, and broken off.
        let whole = Location { key: upload.key.clone(), size_bytes: self.saved.offset };
        if error.is_not_found() && self.is_stored(&whole).await? {
            (self.multipart, self.tail) = (None, Some(whole));
            return Ok(());
        }
        Err(self.part_error(error))
    }

    async fn is_stored(&self, location: &Location) -> Result<bool> {
        match self.core.store.head(&location.key).await {
            Ok(stat) => Ok(stat.size_bytes == location.size_bytes),
            Err(error) if error.is_not_found() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether more than one part has come.
    pub(crate) fn has_parts(&self) -> bool {
        self.multipart.is_some()
    }

    /// Whether there is a session record, by which others know of the upload.
    pub(crate) fn is_recorded(&self) -> bool {
        self.recorded.is_some()
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
    /// the error can still be kept by [`Writer::checkpoint`].
    pub(crate) async fn feed(&mut self, incoming: &mut Incoming) -> Result<()> {
        self.check_room(incoming.left())?;
        loop {
            self.expect(incoming.left());
            incoming.holds(&self.core.upload_bytes, self.reserved_bytes());
            let Some(frame) = incoming.next().await? else { return Ok(()) };
            self.take(frame).await?;
        }
    }

    /// Takes in what fits into the first part, and sends nothing. `false`: more follows.
    ///
    /// # Errors
    ///
    /// [`Error::SizeMismatch`], [`Error::Body`].
    pub(crate) async fn fill(&mut self, incoming: &mut Incoming) -> Result<bool> {
        self.check_room(incoming.left())?;
        loop {
            self.expect(incoming.left());
            incoming.holds(&self.core.upload_bytes, self.reserved_bytes());
            let Some(mut frame) = incoming.next().await? else { return Ok(true) };
            while !frame.is_empty() {
                if self.part_room() == 0 {
                    incoming.put_back(frame);
                    return Ok(false);
                }
                self.reserve().await?;
                self.collect(&mut frame);
            }
        }
    }

    /// Stores and records the first bytes of an upload. If somebody else has begun it, they are
    /// only stored, and this says where.
    ///
    /// # Errors
    ///
    /// [`Error::Store`]; nothing is recorded then.
    pub(crate) async fn begin(&mut self) -> Result<Option<Location>> {
        self.save_tail(self.new_key()).await
    }

    /// Stores all that was taken in, while it is not known yet whether it is wanted: nobody else
    /// has ever heard of it. Gives its memory back.
    ///
    /// # Errors
    ///
    /// [`Error::Store`].
    pub(crate) async fn put_loose(&mut self) -> Result<Location> {
        self.put_buffer(self.new_key()).await
    }

    /// Appends what another writer has stored; `left` more bytes are known to follow. It is read
    /// back rather than handed over, so that the tail that goes before it, and what follows in
    /// the same part, have their place in the budget.
    ///
    /// # Errors
    ///
    /// As [`Writer::feed`].
    pub(crate) async fn adopt(&mut self, loose: &Location, left: Option<u64>) -> Result<()> {
        let left = left.map(|left| left + loose.size_bytes);
        self.check_room(left)?;
        self.expect(left);
        let tail = self.tail.as_ref().map_or(0, |tail| tail.size_bytes);
        self.begin_room(self.part_bytes.min(tail + loose.size_bytes)).await?;
        let range = ByteRange { start: 0, end: loose.size_bytes };
        let mut bytes = self.core.store.read(&loose.key, range).await?;
        while let Some(frame) = bytes.try_next().await? {
            self.take(frame).await?;
        }
        Ok(())
    }

    async fn take(&mut self, mut frame: Bytes) -> Result<()> {
        if frame.is_empty() {
            return Ok(());
        }
        self.load_tail().await?;
        while !frame.is_empty() {
            // A part is only cut off once more follows: what fits one part is one PUT.
            if self.part_room() == 0 {
                self.send_part().await?;
                self.checkpoint_long_stream().await?;
            }
            self.reserve().await?;
            self.collect(&mut frame);
        }
        Ok(())
    }

    /// Takes as much of a frame as there is room for.
    fn collect(&mut self, frame: &mut Bytes) {
        let piece = frame.split_to(self.room().min(frame.len()));
        self.hasher.update(&piece);
        self.buffer.extend_from_slice(&piece);
    }

    /// Takes the stored tail into the buffer, so that what comes can follow it in one part.
    async fn load_tail(&mut self) -> Result<()> {
        let Some(tail) = self.tail.take() else { return Ok(()) };
        if tail.size_bytes > self.part_bytes {
            // Left by a closing PUT with another algorithm that broke off: nothing to append to.
            return Err(self.unknown());
        }
        if self.reserved.is_none() {
            self.begin_room(tail.size_bytes).await?;
        }
        let range = ByteRange { start: 0, end: tail.size_bytes };
        // It is gone if the upload was cancelled meanwhile.
        let read = self.core.store.read(&tail.key, range).await;
        let mut bytes = read.map_err(|error| self.part_error(error))?;
        while let Some(frame) = bytes.try_next().await? {
            self.buffer.extend_from_slice(&frame);
        }
        Ok(())
    }

    async fn send_part(&mut self) -> Result<()> {
        let (store, offset) = (Arc::clone(&self.core.store), self.sent);
        let bytes = self.buffer.take();
        let reserved = self.reserved.take();
        self.begin_multipart().await?;
        while self.sending.len() >= self.core.options.limits.parts_in_flight.max(1) {
            self.land_one().await?;
        }
        let Some(upload) = &self.multipart else { return Err(Error::Stopped) };
        let parts = (upload.parts.len() + self.sending.len()) as u64;
        let parts_max = store.capabilities().parts.parts_max;
        if parts >= parts_max {
            let max_bytes = self.part_bytes.saturating_mul(parts_max);
            return Err(Error::BlobTooLarge { max_bytes });
        }
        self.sent += bytes.len() as u64;
        let upload = Multipart { parts: Vec::new(), ..upload.clone() };
        self.sending.push_back(tokio::spawn(async move {
            let part = store.put_part(&upload, offset, bytes).await;
            drop(reserved);
            part
        }));
        Ok(())
    }

    /// Begins the multipart upload, and records its id at once: whoever cleans up must know it.
    async fn begin_multipart(&mut self) -> Result<()> {
        if self.multipart.is_some() {
            return Ok(());
        }
        let key = self.new_key();
        let upload = self.core.store.create_multipart(&key, self.claim, self.part_bytes).await?;
        self.multipart = Some(upload.clone());
        let recorded = self.record(self.saved.clone(), Some(upload.clone())).await;
        if let Err(Error::UploadSuperseded { .. }) = recorded {
            // Nobody else has ever heard of it.
            self.core.store.abort_multipart(&upload).await?;
        }
        recorded
    }

    async fn land_one(&mut self) -> Result<()> {
        let Some(sent) = self.sending.pop_front() else { return Ok(()) };
        let part = sent.await.map_err(|_| Error::Stopped)?;
        let part = part.map_err(|error| self.part_error(error))?;
        if let Some(upload) = &mut self.multipart {
            upload.record(part);
        }
        Ok(())
    }

    /// Waits until every part that was sent is stored and durable.
    async fn land_all(&mut self) -> Result<()> {
        while !self.sending.is_empty() {
            self.land_one().await?;
        }
        if let Some(upload) = &self.multipart {
            let synced = self.core.store.sync_parts(upload).await;
            synced.map_err(|error| self.part_error(error))?;
        }
        Ok(())
    }

    async fn checkpoint_long_stream(&mut self) -> Result<()> {
        let unrecorded = self.sent.saturating_sub(self.saved.offset);
        if self.purpose != Purpose::Append || unrecorded < CHECKPOINT_BYTES {
            return Ok(());
        }
        self.save().await
    }

    /// Stores and records all that has come, so that any instance can go on from here.
    ///
    /// # Errors
    ///
    /// As [`Writer::feed`]; the session then stands where it was last recorded.
    pub(crate) async fn checkpoint(&mut self) -> Result<()> {
        if self.offset() == self.saved.offset {
            return Ok(());
        }
        if self.buffer.is_empty() {
            return self.save().await;
        }
        if self.keeps_tail() {
            let loose = self.save_tail(self.tail_key()).await?;
            return loose.map_or(Ok(()), |_| Err(self.superseded()));
        }
        self.send_part().await?;
        self.save().await
    }

    async fn save(&mut self) -> Result<()> {
        self.land_all().await?;
        let saved = Saved { offset: self.offset(), hash: self.hasher.state(), tail: None };
        self.record(saved, self.multipart.clone()).await
    }

    /// Whether the last bytes are to be an object of their own rather than a part: where a part
    /// must not be short, and where all that came is so little that it is mostly the whole blob.
    fn keeps_tail(&self) -> bool {
        let is_first = self.multipart.is_none();
        match self.core.store.capabilities().parts.uniform {
            true => self.part_room() > 0 || is_first,
            false => is_first && self.buffer.len() <= SMALL_BYTES,
        }
    }

    /// For bytes short of a part: an object of their own, which may turn out to be the whole blob.
    fn tail_key(&self) -> Key {
        match self.multipart {
            None => keys::new_unnamed_blob(),
            Some(_) => keys::new_upload_tail(&self.id),
        }
    }

    /// Stores what is in the buffer, and records the session that names it. If somebody else has
    /// changed that, the bytes are only stored, and this says where.
    async fn save_tail(&mut self, key: Key) -> Result<Option<Location>> {
        self.land_all().await?;
        let bytes = self.buffer.take();
        let tail = Location { key, size_bytes: bytes.len() as u64 };
        let (offset, hash) = (self.offset(), self.hasher.state());
        let saved = Saved { offset, hash, tail: Some(tail.clone()) };
        let state = State::Open(self.open(&saved, self.multipart.clone()));
        let unnamed = self.multipart.is_none().then(|| self.core.open_window());
        let first = Put { key: tail.key.clone(), bytes, mode: NEW_KEY };
        let recorded = self.core.put_then(unnamed, first, self.session_put(state)).await?;
        self.reserved = None;
        let Some(recorded) = recorded else { return Ok(Some(tail)) };
        self.recorded = Some(recorded.etag);
        self.is_saved(saved).await;
        Ok(None)
    }

    /// Notes what is recorded now. A tail that it names no more goes at once where that costs
    /// little, and otherwise with a sweep.
    async fn is_saved(&mut self, saved: Saved) {
        let before = std::mem::replace(&mut self.saved, saved).tail;
        self.unnamed = None;
        let loose = before.filter(|before| self.saved.tail.as_ref() != Some(before));
        if !self.core.store.capabilities().is_remote {
            self.core.discard_loose(loose).await;
        }
    }

    async fn put_buffer(&mut self, key: Key) -> Result<Location> {
        let bytes = self.buffer.take();
        let size_bytes = bytes.len() as u64;
        if self.multipart.is_none() {
            self.unnamed = Some(self.core.open_window());
        }
        self.core.store.put(&key, bytes, NEW_KEY).await?;
        self.reserved = None;
        Ok(Location { key, size_bytes })
    }

    /// Writes the session record over the version this writer knows.
    async fn record(&mut self, saved: Saved, multipart: Option<Multipart>) -> Result<()> {
        let state = State::Open(self.open(&saved, multipart));
        self.check_unnamed()?;
        let unnamed = self.unnamed.map(|window| self.core.window_since(window));
        self.recorded = Some(self.core.send_within(unnamed, self.swap(state)).await?);
        self.is_saved(saved).await;
        Ok(())
    }

    /// Fails if what was stored may be gone before the record names it.
    fn check_unnamed(&self) -> Result<()> {
        self.unnamed.map_or(Ok(()), |window| self.core.check_window(self.core.window_since(window)))
    }

    fn open(&self, saved: &Saved, multipart: Option<Multipart>) -> Open {
        Open {
            claim: self.claim,
            part_bytes: self.part_bytes,
            offset: saved.offset,
            hash: saved.hash.clone(),
            multipart,
            tail: saved.tail.clone(),
        }
    }

    /// Spares a closing request that comes next the reading of the session, if reading is a round
    /// trip and the session is short.
    pub(crate) fn remember(&self) {
        let core = &self.core;
        if let Some(etag) = &self.recorded
            && core.store.capabilities().is_remote
            && self.multipart.is_none()
        {
            let state = State::Open(self.open(&self.saved, None));
            let session = Session { repository: self.name.clone(), state };
            core.sessions.keep(&self.id, session, etag.clone());
        }
    }

    async fn swap(&self, state: State) -> Result<ETag> {
        let Put { key, bytes, .. } = self.session_put(state);
        let swapped = self.core.swap(&key, self.recorded.as_ref(), bytes).await?;
        swapped.map(|written| written.etag).ok_or_else(|| self.superseded())
    }

    /// The write of the session record over the version that this writer knows.
    fn session_put(&self, state: State) -> Put {
        let session = Session { repository: self.name.clone(), state };
        let mode = over(self.recorded.as_ref());
        Put { key: keys::upload(&self.id), bytes: session.encode(), mode }
    }

    /// The digest of all that has come. If the session hashed with another algorithm than
    /// `wanted`, the bytes are put together where nobody sees them, and read back.
    pub(crate) async fn digest(&mut self, wanted: Algorithm) -> Result<Digest> {
        if self.hasher.algorithm() == wanted {
            return Ok(self.hasher.clone().finish());
        }
        let (location, multipart) = self.gather().await?;
        if let Some(upload) = multipart {
            self.complete(&upload, &location).await?;
        }
        let (offset, hash) = (self.offset(), self.hasher.state());
        self.multipart = None;
        self.tail = Some(location.clone());
        self.record(Saved { offset, hash, tail: Some(location.clone()) }, None).await?;
        self.read_back(&location, wanted).await
    }

    /// Puts the parts together where nobody sees them, unless an earlier request has.
    async fn complete(&self, upload: &Multipart, location: &Location) -> Result<()> {
        let store = &self.core.store;
        match store.complete_multipart(upload).await {
            Err(error) if is_gone_or_done(error.kind()) => {
                if self.is_stored(location).await? {
                    Ok(())
                } else {
                    Err(self.unknown())
                }
            }
            completed => Ok(completed?),
        }
    }

    async fn read_back(&self, location: &Location, algorithm: Algorithm) -> Result<Digest> {
        Ok(self.core.hash_bytes(location, algorithm, &Pace::new(0)).await?)
    }

    /// Marks the upload as closed, with its digest right, and says where its bytes are, and in
    /// which window they may be linked. An upload that was never recorded, because one PUT was
    /// enough, stays so.
    pub(crate) async fn close(&mut self, digest: &Digest) -> Result<(Closed, Window)> {
        let (location, multipart) = self.gather().await?;
        let closed = Closed::new(digest.clone(), location, multipart);
        let now = self.core.open_window();
        if self.recorded.is_none() {
            return Ok((closed, self.unnamed.unwrap_or(now)));
        }
        if self.core.rules.keep(Rule::CloseFirst) {
            self.check_unnamed()?;
            self.recorded = Some(self.swap(State::Closed(closed.clone())).await?);
        }
        Ok((closed, now))
    }

    /// As [`Writer::close`], and links the bytes in the same step, where both are one.
    pub(crate) async fn close_and_link(&mut self, digest: &Digest) -> Result<OneStep> {
        let core = Arc::clone(&self.core);
        let is_one_step = core.store.capabilities().combines_puts;
        if !is_one_step || self.multipart.is_some() || !core.rules.keep(Rule::CloseFirst) {
            return Ok(OneStep::Apart);
        }
        self.check_unnamed()?;
        let window = core.open_window();
        let (closed, first) = if self.recorded.is_some() {
            let (location, _) = self.gather().await?;
            let closed = Closed::new(digest.clone(), location, None);
            let put = self.session_put(State::Closed(closed.clone()));
            (closed, put)
        } else if self.tail.is_none() {
            let (key, bytes) = (self.new_key(), self.buffer.take());
            let location = Location { key: key.clone(), size_bytes: bytes.len() as u64 };
            (Closed::new(digest.clone(), location, None), Put { key, bytes, mode: NEW_KEY })
        } else {
            return Ok(OneStep::Apart);
        };
        let link = Link::Live(closed.location.clone()).encode();
        let (key, mode) = (keys::link(digest, &self.name), PutMode::Create);
        let linked = core.put_then(Some(window), first, Put { key, bytes: link, mode }).await;
        self.reserved = None;
        match linked {
            Ok(Some(_)) => Ok(OneStep::Linked(closed.location)),
            Ok(None) => Ok(OneStep::Closed(Box::new(closed), window)),
            Err(Error::Store(error)) if error.is_conflict() => Err(self.superseded()),
            Err(error) => {
                if self.recorded.is_none() {
                    core.discard_unlinked(&closed.location, &error).await;
                }
                Err(error)
            }
        }
    }

    /// Marks the upload as closed with a copy of its bytes that a link names, and removes its own:
    /// no link ever named them, and now none ever will. If another request took the upload over, its
    /// bytes are that one's.
    ///
    /// # Errors
    ///
    /// [`Error::UploadSuperseded`], [`Error::Store`].
    pub(crate) async fn close_deduplicated(
        &mut self,
        digest: &Digest,
        there: Location,
    ) -> Result<()> {
        let own = self.leftover().await?;
        if self.recorded.is_some() {
            let closed = Closed::new(digest.clone(), there, None);
            let closed = Closed { spare: Some(own.clone()), ..closed };
            self.recorded = Some(self.swap(State::Closed(closed)).await?);
        }
        own.discard(&self.core).await
    }

    /// Without [`Rule::KeepOwnBytes`]: trusts that another copy will still be there.
    pub(crate) async fn free_before_link(&mut self) -> Result<()> {
        match self.core.rules.keep(Rule::KeepOwnBytes) {
            true => Ok(()),
            false => self.leftover().await?.discard(&self.core).await,
        }
    }

    /// After an error that a retry meets again, like that of a full disk: frees what this request
    /// stored beyond the session's record, or all of it if the upload began with this request. What
    /// cannot be freed now is left to the next request or the reaper.
    pub(crate) async fn free_after(&mut self, error: &Error) {
        if self.recorded.is_none() || !is_definite(error) {
            return;
        }
        self.buffer.clear();
        self.reserved = None;
        self.free_unrecorded().await.ok();
        if self.begun_at == 0 && self.saved.offset > 0 {
            self.rewind().await.ok();
        }
    }

    /// Makes the store drop what lies beyond the record, which stays true as it is.
    async fn free_unrecorded(&mut self) -> Result<()> {
        for sent in std::mem::take(&mut self.sending) {
            sent.await.map_err(|_| Error::Stopped)?.ok();
        }
        let Some(upload) = &self.multipart else { return Ok(()) };
        let tail_bytes = self.saved.tail.as_ref().map_or(0, |tail| tail.size_bytes);
        let recorded = upload.cut_to(self.saved.offset.saturating_sub(tail_bytes));
        self.multipart = Some(self.core.store.resume_multipart(&recorded, self.claim).await?);
        Ok(())
    }

    /// Stores what is left, and says where the whole is or will be.
    async fn gather(&mut self) -> Result<(Location, Option<Multipart>)> {
        if self.multipart.is_none() {
            let location = match self.tail.take() {
                Some(tail) => tail,
                None => self.put_buffer(self.new_key()).await?,
            };
            return Ok((location, None));
        }
        self.load_tail().await?;
        if !self.buffer.is_empty() {
            self.send_part().await?;
        }
        self.land_all().await?;
        let upload = self.multipart.clone().ok_or(Error::Stopped)?;
        let location = Location { key: upload.key.clone(), size_bytes: self.offset() };
        Ok((location, Some(upload)))
    }

    /// Gives the upload up: first the session, then the bytes.
    pub(crate) async fn cancel(&mut self) -> Result<()> {
        let leftover = self.leftover().await?;
        self.recorded = Some(self.swap(State::Cancelled(leftover.clone())).await?);
        leftover.discard(&self.core).await
    }

    /// Gives up an upload whose id nobody was told: first the bytes, so that this helps a store
    /// that is full, then the session.
    pub(crate) async fn abandon(&mut self) -> Result<()> {
        self.leftover().await?.discard(&self.core).await?;
        self.swap(State::Cancelled(Leftover::default())).await?;
        Ok(())
    }

    /// Makes the upload one that has nothing yet, and removes what came.
    pub(crate) async fn rewind(&mut self) -> Result<()> {
        if self.recorded.is_none() {
            return Ok(());
        }
        let leftover = self.leftover().await?;
        let hash = Hasher::new(self.hasher.algorithm()).state();
        self.record(Saved { offset: 0, hash, tail: None }, None).await?;
        leftover.discard(&self.core).await
    }

    /// The upload's bytes, once none of them is on its way any more: a part that lands after an
    /// abort would be left behind.
    async fn leftover(&mut self) -> Result<Leftover> {
        for sent in std::mem::take(&mut self.sending) {
            sent.await.map_err(|_| Error::Stopped)?.ok();
        }
        self.unnamed = None;
        let tails = [self.tail.take(), self.saved.tail.take()];
        let objects = tails.into_iter().flatten().map(|tail| tail.key).collect();
        Ok(Leftover::new(self.multipart.take(), objects))
    }

    fn new_key(&self) -> Key {
        match &self.purpose {
            Purpose::Whole(digest) => keys::new_blob(digest),
            Purpose::Append | Purpose::Last => keys::new_unnamed_blob(),
        }
    }

    fn part_error(&self, error: jreg_storage::Error) -> Error {
        match error.kind() {
            ErrorKind::Precondition => self.superseded(),
            ErrorKind::NotFound => self.unknown(),
            _ => error.into(),
        }
    }

    fn superseded(&self) -> Error {
        Error::UploadSuperseded { offset: self.saved.offset }
    }

    fn unknown(&self) -> Error {
        Error::UploadUnknown { id: self.id.clone() }
    }
}

impl Core {
    /// Removes bytes without a session after the only write that would have linked them has failed, if
    /// it definitely has. If this fails, they are left to the sweep.
    pub(crate) async fn discard_unlinked(&self, bytes: &Location, error: &Error) {
        if is_definite(error) {
            self.discard_loose(Some(bytes.clone())).await;
        }
    }
}

/// Whether nothing was written, and the same would happen again: the store has no room, or the blob
/// is too large.
fn is_definite(error: &Error) -> bool {
    match error {
        Error::Store(error) => matches!(error.kind(), ErrorKind::Full | ErrorKind::TooLarge),
        Error::BlobTooLarge { .. } => true,
        _ => false,
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
    // If not even what is wanted fits the budget, the blob is refused.
    whole.min(core.upload_bytes.bytes_max().max(wanted))
}
