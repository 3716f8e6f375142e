//! [`BlobFlight`]: one blob on its way from the mirrored registry into the store and to its readers.
//!
//! The bytes pass through a window in memory. The store takes them from there, and so do the readers that
//! keep up; neither waits for a reader. A reader that has fallen behind the window reads what the store has
//! by now, or goes on by itself (`reader.rs`). If the store does not keep up, it is left behind, too: the
//! blob is then not stored.
//!
//! A copy that another repository of the mirror has takes the place of bytes that were not verified yet: a
//! reader that has some of these compares them with the copy before it reads on there.
//!
//! **Must:** the last [`TAIL_BYTES`] reach no reader before the whole digest is right.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use futures::{StreamExt, stream};
use jreg_client::{UpstreamBlob, UpstreamError, UpstreamErrorKind};
use jreg_oci::Digest;
use jreg_registry::{BodyError, BodyStream, FillProgress};
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::{Instant, timeout_at};

/// How much of the end of a blob is withheld until its digest is known to be right.
pub const TAIL_BYTES: u64 = 64 * 1024;

/// A blob that is being fetched.
#[derive(Debug)]
pub(crate) struct BlobFlight {
    pub(crate) digest: Digest,
    /// How much of it readers can read from the store.
    pub(crate) progress: Arc<FillProgress>,
    state: Mutex<FlightState>,
    /// Counts the changes of the state.
    version: watch::Sender<u64>,
    readers: AtomicUsize,
}

/// What is known of the blob before its first byte.
#[derive(Clone, Debug)]
pub(crate) enum FlightHead {
    /// Its bytes are coming.
    Begun {
        size_bytes: u64,
    },
    /// There is no memory for it: each reader makes a request of its own.
    Busy,
    Failed(UpstreamError),
}

/// Whether the bytes are right.
#[derive(Clone, Debug)]
enum Verdict {
    Unknown,
    Right,
    Wrong(UpstreamError),
}

/// What becomes of the bytes in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum StoreState {
    /// The store takes them, and has taken those before this offset.
    Taking { fed: u64 },
    /// The repository links the blob.
    Linked,
    /// It is not stored.
    Unstored,
}

/// Whether another repository has a copy of the blob.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum CopySearch {
    Running,
    /// There is none, or the bytes of the flight were stored before it was found.
    Ended,
    /// The repository links the copy.
    Linked,
}

#[derive(Debug)]
struct FlightState {
    head: Option<FlightHead>,
    size_bytes: u64,
    /// Pieces with the offset of each.
    window: VecDeque<(u64, Bytes)>,
    /// Where the window begins and ends.
    start: u64,
    end: u64,
    window_max: u64,
    verdict: Verdict,
    store: StoreState,
    copy: CopySearch,
    /// The memory of the window.
    room: Option<OwnedSemaphorePermit>,
}

/// What a reader finds at its position.
#[derive(Debug)]
pub(crate) enum FlightBytes {
    Here(Bytes),
    /// They are in the store.
    Linked,
    /// They are not in memory any more.
    Passed {
        /// Whether they will be in the store.
        is_stored: bool,
    },
    /// They have yet to come, or to be known to be right.
    Awaited,
    Failed(UpstreamError),
}

impl BlobFlight {
    pub(crate) fn new(digest: Digest) -> Self {
        Self {
            digest,
            progress: Arc::default(),
            state: Mutex::new(FlightState {
                head: None,
                size_bytes: 0,
                window: VecDeque::new(),
                start: 0,
                end: 0,
                window_max: 0,
                verdict: Verdict::Unknown,
                store: StoreState::Taking { fed: 0 },
                copy: CopySearch::Running,
                room: None,
            }),
            version: watch::Sender::new(0),
            readers: AtomicUsize::new(0),
        }
    }

    fn state(&self) -> MutexGuard<'_, FlightState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.version.send_modify(|version| *version += 1);
    }

    /// Notices changes from now on.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.version.subscribe()
    }

    pub(crate) fn add_reader(&self) {
        self.readers.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn remove_reader(&self) {
        self.readers.fetch_sub(1, Ordering::Relaxed);
        self.changed();
    }

    /// Waits until it is known what comes.
    pub(crate) async fn head(&self) -> FlightHead {
        let mut changes = self.subscribe();
        loop {
            changes.borrow_and_update();
            if let Some(head) = self.state().head.clone() {
                return head;
            }
            // The sender is this value.
            let _ = changes.changed().await;
        }
    }

    /// The size, if bytes are coming.
    pub(crate) fn size_bytes(&self) -> Option<u64> {
        match self.state().head {
            Some(FlightHead::Begun { size_bytes }) => Some(size_bytes),
            _ => None,
        }
    }

    /// How far the bytes have come.
    pub(crate) fn come(&self) -> u64 {
        self.state().end
    }

    pub(crate) fn begin(&self, size_bytes: u64, window_max: u64, room: OwnedSemaphorePermit) {
        {
            let mut state = self.state();
            state.head = Some(FlightHead::Begun { size_bytes });
            (state.size_bytes, state.window_max, state.room) = (size_bytes, window_max, Some(room));
        }
        self.changed();
    }

    pub(crate) fn refuse(&self) {
        self.state().head = Some(FlightHead::Busy);
        self.changed();
    }

    /// Ends it with a failure, before or after its first byte.
    pub(crate) fn fail(&self, error: UpstreamError) {
        {
            let mut state = self.state();
            if state.head.is_none() {
                state.head = Some(FlightHead::Failed(error.clone()));
            }
            state.verdict = Verdict::Wrong(error);
            state.clear();
        }
        self.changed();
    }

    /// Ends it after the task that fetched it has stopped.
    pub(crate) fn end(&self) {
        let is_over = {
            let state = self.state();
            let is_known = !matches!(state.verdict, Verdict::Unknown);
            state.store == StoreState::Linked
                || is_known
                || matches!(state.head, Some(FlightHead::Busy | FlightHead::Failed(_)))
        };
        if !is_over {
            let why = "the fetch of a blob was stopped".into();
            let kind = UpstreamErrorKind::Unavailable { why };
            self.fail(UpstreamError { host: "".into(), kind });
        }
    }

    /// The repository links the bytes of the flight: readers get them from there.
    pub(crate) fn set_linked(&self) {
        self.link(CopySearch::Ended);
    }

    /// The repository links a copy that another one had: readers get the bytes from there.
    pub(crate) fn set_copied(&self) {
        self.link(CopySearch::Linked);
    }

    fn link(&self, copy: CopySearch) {
        {
            let mut state = self.state();
            if state.store != StoreState::Linked {
                (state.store, state.copy) = (StoreState::Linked, copy);
            }
            state.clear();
        }
        self.changed();
    }

    /// No copy takes the place of the bytes.
    pub(crate) fn end_copy_search(&self) {
        let mut state = self.state();
        if state.copy == CopySearch::Running {
            state.copy = CopySearch::Ended;
        }
    }

    /// Whether a copy has taken the place of the bytes, or may yet do so.
    pub(crate) fn may_be_copy(&self) -> bool {
        self.state().copy != CopySearch::Ended
    }

    /// The blob is not stored by this flight.
    pub(crate) fn set_unstored(&self) {
        {
            let mut state = self.state();
            if matches!(state.store, StoreState::Taking { .. }) {
                state.store = StoreState::Unstored;
            }
        }
        self.changed();
    }

    /// Whether the bytes are in the store.
    pub(crate) fn is_linked(&self) -> bool {
        self.state().store == StoreState::Linked
    }

    /// Whether no reader needs the bytes any more.
    fn is_useless(&self) -> bool {
        let state = self.state();
        state.store == StoreState::Linked
            || state.store == StoreState::Unstored && self.readers.load(Ordering::Relaxed) == 0
    }

    /// Takes the bytes of `blob` in, to their end. `stall_max` is how long the store may take nothing.
    pub(crate) async fn take_in(&self, mut blob: UpstreamBlob, stall_max: Duration) {
        loop {
            match blob.next_chunk().await {
                Ok(Some(chunk)) => {
                    self.push(chunk, stall_max).await;
                    if self.is_useless() {
                        return;
                    }
                }
                // The client has compared the digest.
                Ok(None) if self.is_whole() => {
                    self.state().verdict = Verdict::Right;
                    return self.changed();
                }
                Ok(None) => {
                    let why = UpstreamErrorKind::Protocol {
                        why: "the body has another length than its head says".into(),
                    };
                    return self.fail(UpstreamError { host: "".into(), kind: why });
                }
                Err(error) => return self.fail(error),
            }
        }
    }

    fn is_whole(&self) -> bool {
        let state = self.state();
        state.end == state.size_bytes
    }

    async fn push(&self, chunk: Bytes, stall_max: Duration) {
        let mut changes = self.subscribe();
        let (mut until, mut fed) = (Instant::now() + stall_max, None);
        loop {
            changes.borrow_and_update();
            {
                let mut state = self.state();
                if state.make_room(chunk.len() as u64) {
                    state.append(chunk);
                    break;
                }
                // Readers that come and go change nothing for the store.
                if fed.replace(state.store) != Some(state.store) {
                    until = Instant::now() + stall_max;
                }
            }
            if timeout_at(until, changes.changed()).await.is_err() {
                tracing::warn!(digest = %self.digest, "the store is too slow for a blob of a mirror: it is not stored");
                self.set_unstored();
            }
        }
        self.changed();
    }

    /// The bytes at `offset`, up to `end`, for a reader.
    pub(crate) fn look(&self, offset: u64, end: u64) -> FlightBytes {
        let state = self.state();
        let tail = state.size_bytes.saturating_sub(TAIL_BYTES);
        let limit = match &state.verdict {
            Verdict::Wrong(error) => return FlightBytes::Failed(error.clone()),
            Verdict::Right => end,
            Verdict::Unknown => end.min(tail),
        };
        match state.store {
            StoreState::Linked => FlightBytes::Linked,
            _ if offset >= limit || offset >= state.end => FlightBytes::Awaited,
            store if offset < state.start => {
                FlightBytes::Passed { is_stored: store != StoreState::Unstored }
            }
            _ => state.piece(offset, limit).map_or(FlightBytes::Awaited, FlightBytes::Here),
        }
    }

    /// The bytes for the store. They end well only if they are right.
    pub(crate) fn feed(self: &Arc<Self>) -> BodyStream {
        let feeding = (Arc::clone(self), self.subscribe(), 0);
        stream::try_unfold(feeding, |(flight, mut changes, offset)| async move {
            loop {
                changes.borrow_and_update();
                match flight.take_for_store(offset) {
                    Ok(Some(bytes)) => {
                        let next = offset + bytes.len() as u64;
                        return Ok(Some((bytes, (flight, changes, next))));
                    }
                    Ok(None) => return Ok(None),
                    Err(Some(error)) => return Err(error),
                    Err(None) => {
                        let _ = changes.changed().await;
                    }
                }
            }
        })
        .boxed()
    }

    /// The next bytes for the store, which has all before `offset`. `Err(None)`: they have yet to come.
    fn take_for_store(&self, offset: u64) -> Result<Option<Bytes>, Option<BodyError>> {
        let mut state = self.state();
        let StoreState::Taking { .. } = state.store else { return Err(Some(BodyError::Broken)) };
        match state.verdict {
            Verdict::Wrong(_) => return Err(Some(BodyError::Broken)),
            Verdict::Right if offset == state.size_bytes => return Ok(None),
            Verdict::Right | Verdict::Unknown => {}
        }
        let has_news = state.store != StoreState::Taking { fed: offset };
        state.store = StoreState::Taking { fed: offset };
        let piece = state.piece(offset, state.end);
        drop(state);
        if has_news {
            self.changed();
        }
        piece.map(Some).ok_or(None)
    }
}

impl FlightState {
    fn clear(&mut self) {
        self.window.clear();
        self.start = self.end;
        self.room = None;
    }

    /// Whether there is room for so many bytes, after those were dropped that may be.
    fn make_room(&mut self, bytes: u64) -> bool {
        let needed = match self.store {
            StoreState::Taking { fed } => fed,
            StoreState::Linked | StoreState::Unstored => u64::MAX,
        };
        while self.end - self.start + bytes > self.window_max {
            match self.window.front() {
                Some((offset, piece)) if offset + piece.len() as u64 <= needed => {
                    self.start = offset + piece.len() as u64;
                    self.window.pop_front();
                }
                Some(_) => return false,
                // A piece that is larger than the window.
                None => return true,
            }
        }
        true
    }

    fn append(&mut self, chunk: Bytes) {
        let offset = self.end;
        self.end += chunk.len() as u64;
        if self.store == StoreState::Linked {
            self.start = self.end;
        } else {
            self.window.push_back((offset, chunk));
        }
    }

    /// A piece of the window from `offset` on, up to `limit`.
    fn piece(&self, offset: u64, limit: u64) -> Option<Bytes> {
        let next = self.window.partition_point(|(begin, _)| *begin <= offset);
        let (begin, piece) = self.window.get(next.checked_sub(1)?)?;
        let end = limit.min(begin + piece.len() as u64);
        if offset >= end {
            return None;
        }
        let place = |at: u64| usize::try_from(at - begin).unwrap_or(usize::MAX);
        piece.get(place(offset)..place(end)).map(|part| piece.slice_ref(part))
    }
}
