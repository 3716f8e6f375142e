//! [`Wal`]: small changes become durable in one file, many by one sync.
//!
//! A record costs three syncs if it is to survive a power cut as a file: its bytes, its name, its
//! folder's name, and each of them a commit of the file system's journal. Here it costs a part of
//! one: a *change* is appended to the log, whatever has gathered meanwhile is synced at once, and
//! only then are the files changed, without a sync of their own. After a crash the log is replayed
//! over them.
//!
//! - **Before the file.** A change is in the log, durably, before the files show it: a file system
//!   may bring the new name of a file to the disk before its bytes.
//! - **In order.** A writer locks the key from the moment that the change is handed to the log, so
//!   the entries of one file are in the order of its changes. What one change was based on is
//!   before it in the log, and so survives with it.
//! - **Beside it.** A file that changes by its own syncs, because it is large, or the disk too full
//!   for a longer log, is taken out of the log by a [`WalEntry::Keep`] once that is done.
//!
//! The log is two files, *segments*, used by turns. One that has grown to [`SEGMENT_BYTES`] is
//! closed; once its changes are applied to the files, the file system is synced (`syncfs(2)`), and
//! the segment is free again, its space being kept. While that takes long the other segment grows,
//! to [`SEGMENT_GROWS_MAX`] times that at most: then writers wait. What is above [`SEGMENT_BYTES`]
//! is given back when the segment is free. A clean stop leaves no log.
//!
//! - **Applied.** A checkpoint waits until the changes of its segment are applied, so no lock is
//!   taken between a change's entry and its application: the lock's holder may wait for the log. A
//!   delete is applied at its unlink, before its entry is waited for.
//! - **Torn or damaged.** Only the last batch may be torn (see `wal/entry.rs`). Anything else is damage:
//!   the store does not start, and the log stays as it is.
//! - **Of the last run.** A segment of an earlier run, put back from a backup, is not replayed over newer
//!   files (see `wal/run_mark.rs`).
//!
//! Only on Linux, and on file systems whose `syncfs(2)` is known to sync.

mod entry;
mod replay;
mod run_mark;
mod scan;

use std::collections::HashSet;
use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use self::entry::{BatchHead, FREE, HEAD_BYTES, sum};
use self::run_mark::RunMark;
use super::disk::{Disk, syncs_all};
use super::disk_waits::{DiskWaits, WaitGuard};
use super::sync::Syncs;

pub(super) use entry::WalEntry;
pub(super) use replay::{has_changes, replay};
pub(super) use scan::ReplayError;

/// The largest object whose bytes go through the log: it is written twice, once here.
pub(super) const LOGGED_BYTES_MAX: u64 = 128 * 1024;
/// When a segment is closed.
const SEGMENT_BYTES: u64 = 32 * 1024 * 1024;
/// How many times as long a segment may become while the other one is not free. A writer that would
/// make it longer waits.
const SEGMENT_GROWS_MAX: u64 = 2;
/// By how much a segment grows. Growing takes a commit of the journal; writing where there is
/// space already takes none.
const GROWTH_BYTES: u64 = 1024 * 1024;
/// How much is gathered for one sync at most.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A buffer that was larger is given back.
const BUFFER_BYTES_MAX: usize = 256 * 1024;
/// The files of the segments.
const SEGMENTS: [&str; 2] = [".log-0", ".log-1"];
/// A copy of the last batch that was torn.
const TORN: &str = ".log-torn";
/// The segment of a change that is not written yet.
const NOT_WRITTEN: usize = usize::MAX;

/// Why a change is not in the log.
#[derive(Debug)]
pub(super) enum WalRefusal {
    /// There is no space for it: the files must be synced themselves. The log is empty.
    Full,
    /// The log could not be synced. Whether it has the change is unknown, and none will follow.
    Failed(io::Error),
}

/// The log of one store.
#[derive(Debug)]
pub(super) struct Wal {
    shared: Arc<WalShared>,
    queue: Option<Sender<WalSubmission>>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct WalShared {
    root: PathBuf,
    /// The root itself, wherever it is moved.
    folder: File,
    disk: Disk,
    watch: DiskWaits,
    syncs: Arc<Syncs>,
    hasher: RandomState,
    /// Number of queued submissions: what they name is not known yet.
    queued: AtomicUsize,
    segments: Mutex<[SegmentState; 2]>,
    /// A change was applied to the files, or a segment became free.
    moved: Condvar,
}

/// The state of a segment besides its bytes.
#[derive(Debug, Default)]
struct SegmentState {
    /// How many submissions are in it that are not applied to the files yet.
    unapplied: usize,
    /// The files that it names, hashed: one that is named by mistake costs an entry.
    named: HashSet<u64>,
    /// It has entries, and only the checkpoint may touch it.
    is_closed: bool,
}

struct WalSubmission {
    changes: Vec<WalEntry>,
    progress: Arc<SubmissionProgress>,
    /// The writer that waits.
    reply: Sender<Result<(), WalRefusal>>,
    /// Until the reply is sent.
    _wait: WaitGuard,
}

/// How far a submission is. It changes while the segments are locked.
#[derive(Debug)]
struct SubmissionProgress {
    /// The segment that it is in, or [`NOT_WRITTEN`].
    segment: AtomicUsize,
    /// Whether the files show it, or never will.
    is_applied: AtomicBool,
}

/// Changes in flight into the log. Dropping it says that the files show them, or never will.
#[must_use]
pub(super) struct PendingEntries<'l> {
    reply: Receiver<Result<(), WalRefusal>>,
    unapplied: UnappliedGuard<'l>,
}

/// Changes that are in the log, durably, and that the files are to show before this is dropped.
#[must_use]
pub(super) struct LoggedEntries<'l> {
    _unapplied: UnappliedGuard<'l>,
}

/// Keeps the segment of a submission from being free. Its holder takes no lock.
struct UnappliedGuard<'l> {
    log: &'l Wal,
    progress: Arc<SubmissionProgress>,
}

impl Wal {
    /// Begins a log in a folder whose last one was replayed. Nothing is written before the first
    /// change. There is none if nothing is to be synced, if this system cannot sync a file system, or
    /// if the store is on several.
    pub(super) fn start(
        root: &Path,
        disk: &Disk,
        syncs: &Arc<Syncs>,
        watch: &DiskWaits,
        is_one_file_system: bool,
    ) -> io::Result<Option<Self>> {
        if !syncs.is_strict() || !cfg!(target_os = "linux") {
            return Ok(None);
        }
        let folder = disk.open(root)?;
        if !is_one_file_system || !syncs_all(&folder)? {
            tracing::warn!(folder = %root.display(), "syncfs is not known to work on this file system, or a part of the folder lies on another one: each file is synced by itself, which is slower");
            return Ok(None);
        }
        let shared = Arc::new(WalShared {
            root: root.to_owned(),
            folder,
            disk: disk.clone(),
            watch: watch.clone(),
            syncs: Arc::clone(syncs),
            hasher: RandomState::new(),
            queued: AtomicUsize::new(0),
            segments: Mutex::default(),
            moved: Condvar::new(),
        });
        let (queue, submissions) = channel();
        let writer = WalWriter {
            shared: Arc::clone(&shared),
            run: rand::random(),
            number: 1,
            batch: 1,
            current: 0,
            files: [None, None],
            is_marked: false,
            buffer: Vec::new(),
        };
        let writer = std::thread::Builder::new()
            .name("jreg-log".to_owned())
            .spawn(move || writer.run(&submissions))?;
        Ok(Some(Self { shared, queue: Some(queue), writer: Some(writer) }))
    }

    /// Hands changes to the log; they are in it in the order of these calls. The keys of the files
    /// are held until the changes are applied, and no lock is taken until then.
    pub(super) fn submit(&self, changes: Vec<WalEntry>) -> PendingEntries<'_> {
        let (sender, reply) = channel();
        let progress = Arc::new(SubmissionProgress {
            segment: AtomicUsize::new(NOT_WRITTEN),
            is_applied: AtomicBool::new(false),
        });
        if let Some(queue) = &self.queue {
            self.shared.queued.fetch_add(1, Ordering::SeqCst);
            let (progress, _wait) = (Arc::clone(&progress), self.shared.watch.begin());
            // The writer lives as long as the log. If it does not, the waiting writer gets an error.
            let _ = queue.send(WalSubmission { changes, progress, reply: sender, _wait });
        }
        PendingEntries { reply, unapplied: UnappliedGuard { log: self, progress } }
    }

    /// Waits until changes are in the log.
    pub(super) fn write(&self, changes: Vec<WalEntry>) -> Result<LoggedEntries<'_>, WalRefusal> {
        self.submit(changes).wait()
    }

    /// Takes files out of the log that were synced themselves, if it names them, or may soon: a
    /// change of theirs that was handed to it earlier may still be in flight. What the log has of
    /// them is lost with that, so it is said only after the sync.
    pub(super) fn keep<'p>(&self, paths: impl IntoIterator<Item = &'p str>) -> io::Result<()> {
        let named = paths.into_iter().filter(|path| self.names(path));
        let keeps: Vec<_> = named.map(|path| WalEntry::Keep { path: path.to_owned() }).collect();
        if keeps.is_empty() {
            return Ok(());
        }
        match self.write(keeps) {
            Ok(_) => Ok(()),
            Err(WalRefusal::Failed(error)) => Err(error),
            // A log without space is empty.
            Err(WalRefusal::Full) => Ok(()),
        }
    }

    fn names(&self, path: &str) -> bool {
        if self.shared.queued.load(Ordering::SeqCst) > 0 {
            return true;
        }
        let hash = self.shared.hasher.hash_one(path);
        self.shared.lock().iter().any(|segment| segment.named.contains(&hash))
    }
}

impl Drop for Wal {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // If it panicked the log stays, and is replayed.
            let _ = writer.join();
        }
    }
}

impl<'l> PendingEntries<'l> {
    /// Waits until the changes are durable.
    pub(super) fn wait(self) -> Result<LoggedEntries<'l>, WalRefusal> {
        self.wait_for_reply()?;
        Ok(LoggedEntries { _unapplied: self.unapplied })
    }

    /// Says that the files show the changes, or never will.
    pub(super) fn applied(self) -> AppliedEntries {
        AppliedEntries(self.reply)
    }

    fn wait_for_reply(&self) -> Result<(), WalRefusal> {
        wait_for_reply(&self.reply)
    }
}

/// Changes in flight into the log that the files show already. Locks may be taken while it waits.
#[must_use]
pub(super) struct AppliedEntries(Receiver<Result<(), WalRefusal>>);

impl AppliedEntries {
    /// Waits until the changes are durable.
    pub(super) fn wait(self) -> Result<(), WalRefusal> {
        wait_for_reply(&self.0)
    }
}

fn wait_for_reply(reply: &Receiver<Result<(), WalRefusal>>) -> Result<(), WalRefusal> {
    let ended = || WalRefusal::Failed(io::Error::other("the log has ended, restart to go on"));
    reply.recv().map_err(|_| ended())?
}

impl Drop for UnappliedGuard<'_> {
    fn drop(&mut self) {
        let mut segments = self.log.shared.lock();
        self.progress.is_applied.store(true, Ordering::Relaxed);
        let segment = self.progress.segment.load(Ordering::Relaxed);
        if let Some(segment) = segments.get_mut(segment) {
            segment.unapplied -= 1;
        }
        drop(segments);
        self.log.shared.moved.notify_all();
    }
}

impl WalShared {
    fn lock(&self) -> MutexGuard<'_, [SegmentState; 2]> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, is_so: impl Fn(&[SegmentState; 2]) -> bool) {
        let mut segments = self.lock();
        while !is_so(&segments) {
            segments = self.moved.wait(segments).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes what a closed segment says true of the files, durably, and frees it.
    fn checkpoint(&self, index: usize, file: &SegmentFile) -> io::Result<()> {
        let is_applied = |segment: &SegmentState| segment.unapplied == 0;
        self.wait_until(|segments| segments.get(index).is_none_or(is_applied));
        self.syncs.check()?;
        self.disk.sync_all(&self.folder)?;
        // The kernel reports a failure once: if another sync received it meanwhile, the success of
        // this one means nothing.
        self.syncs.check()?;
        // Before it is forgotten what it names: it must not be replayed over what comes now.
        file.free(&self.disk)?;
        if let Some(segment) = self.lock().get_mut(index) {
            *segment = SegmentState::default();
        }
        self.moved.notify_all();
        Ok(())
    }
}

/// A segment's file. It is the writer's, and the checkpoint's while the segment is closed.
#[derive(Debug)]
struct SegmentFile {
    file: File,
    /// How many bytes may be written over.
    allocated: AtomicU64,
}

impl SegmentFile {
    fn allocated(&self) -> u64 {
        self.allocated.load(Ordering::Relaxed)
    }

    /// Makes its entries count no more, durably.
    fn free(&self, disk: &Disk) -> io::Result<()> {
        let marked =
            disk.overwrite_at(&self.file, &FREE, 0).and_then(|()| disk.sync_data(&self.file));
        match marked {
            // A copy-on-write file system needs new space even for this. An empty file is as free.
            Err(error) if is_full(&error) => {
                disk.set_length(&self.file, 0)?;
                self.allocated.store(0, Ordering::Relaxed);
                disk.sync(&self.file)
            }
            marked => marked.map(|()| self.give_back(disk)),
        }
    }

    /// Gives back the space that a slow checkpoint of the other segment made this one take.
    fn give_back(&self, disk: &Disk) {
        let kept = disk.segment_bytes(SEGMENT_BYTES).next_multiple_of(GROWTH_BYTES);
        if self.allocated() > kept && disk.set_length(&self.file, kept).is_ok() {
            self.allocated.store(kept, Ordering::Relaxed);
        }
    }
}

/// A segment's file, and how far it is written.
#[derive(Debug)]
struct OpenSegment {
    file: Arc<SegmentFile>,
    end: u64,
}

/// Writes what is submitted. Its thread alone knows the files.
struct WalWriter {
    shared: Arc<WalShared>,
    /// A random number of this run.
    run: u64,
    /// The number of the current segment.
    number: u64,
    /// The number of the next batch.
    batch: u64,
    current: usize,
    files: [Option<OpenSegment>; 2],
    /// Whether the run's mark is written, without which its log is not replayed.
    is_marked: bool,
    buffer: Vec<u8>,
}

impl WalWriter {
    fn run(mut self, submissions: &Receiver<WalSubmission>) {
        while let Ok(first) = submissions.recv() {
            let mut bytes = HEAD_BYTES + first.entry_bytes();
            let mut batch = vec![first];
            while bytes < BATCH_BYTES_MAX
                && let Ok(next) = submissions.try_recv()
            {
                bytes += next.entry_bytes();
                batch.push(next);
            }
            self.write_batch(batch, bytes as u64);
        }
        if self.wait_for_checkpoint().is_ok() {
            self.end();
        }
    }

    /// Waits until no segment is closed. An error: a sync has failed, and a segment that is not
    /// closed may still be the only durable copy of its changes.
    fn wait_for_checkpoint(&self) -> io::Result<()> {
        self.shared.wait_until(|segments| segments.iter().all(|segment| !segment.is_closed));
        self.shared.syncs.check()
    }

    fn write_batch(&mut self, batch: Vec<WalSubmission>, bytes: u64) {
        let written = match self.shared.syncs.check() {
            Ok(()) => self.write(&batch, bytes),
            Err(error) => Err(WalRefusal::Failed(error)),
        };
        self.note(&batch, written.is_ok());
        self.shared.queued.fetch_sub(batch.len(), Ordering::SeqCst);
        for WalSubmission { reply, _wait: wait, .. } in batch {
            // Once the submitter continues, nothing waits.
            drop(wait);
            let outcome = match &written {
                Ok(()) => Ok(()),
                Err(WalRefusal::Full) => Err(WalRefusal::Full),
                Err(WalRefusal::Failed(error)) => Err(WalRefusal::Failed(copy(error))),
            };
            // The submitter waits.
            let _ = reply.send(outcome);
        }
    }

    /// Before the writers continue: they may be the next to ask whether a file is named.
    fn note(&self, batch: &[WalSubmission], is_written: bool) {
        if !is_written {
            return;
        }
        let mut segments = self.shared.lock();
        let Some(segment) = segments.get_mut(self.current) else { return };
        for WalSubmission { progress, .. } in batch {
            progress.segment.store(self.current, Ordering::Relaxed);
            segment.unapplied += usize::from(!progress.is_applied.load(Ordering::Relaxed));
        }
        let changes = batch.iter().flat_map(|submission| &submission.changes);
        let paths = changes.flat_map(WalEntry::paths);
        segment.named.extend(paths.map(|path| self.shared.hasher.hash_one(path)));
    }

    fn write(&mut self, batch: &[WalSubmission], bytes: u64) -> Result<(), WalRefusal> {
        if !self.make_room(bytes)? {
            return Err(WalRefusal::Full);
        }
        self.encode(batch);
        let Some(Some(place)) = self.files.get_mut(self.current) else {
            return Err(WalRefusal::Full);
        };
        let WalShared { disk, syncs, .. } = &*self.shared;
        let file = &place.file.file;
        syncs.check().map_err(WalRefusal::Failed)?;
        let written = disk.overwrite_at(file, &self.buffer, place.end);
        if written.as_ref().is_err_and(is_full) {
            // A file system that never writes over anything. Nothing of it counts, nothing is lost.
            self.empty().map_err(WalRefusal::Failed)?;
            return Err(WalRefusal::Full);
        }
        let synced = written.and_then(|()| syncs.log(file));
        place.end += self.buffer.len() as u64;
        self.batch += 1;
        if self.buffer.capacity() > BUFFER_BYTES_MAX {
            self.buffer = Vec::new();
        }
        synced.map_err(|error| {
            syncs.fail();
            WalRefusal::Failed(error)
        })
    }

    /// Writes a batch to the buffer.
    fn encode(&mut self, batch: &[WalSubmission]) {
        self.buffer.clear();
        self.buffer.resize(HEAD_BYTES, 0);
        for change in batch.iter().flat_map(|submission| &submission.changes) {
            change.encode(&mut self.buffer);
        }
        let (head, entries) = self.buffer.split_at_mut(HEAD_BYTES);
        // Submissions are small, and a batch is not much longer than its limit.
        let bytes = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let (run, segment, batch, sum) = (self.run, self.number, self.batch, sum(entries));
        head.copy_from_slice(&BatchHead { run, segment, batch, bytes, sum }.encode());
    }

    /// Finds space for so many bytes. If there is none, the log is empty, and names no file.
    fn make_room(&mut self, bytes: u64) -> Result<bool, WalRefusal> {
        self.turn_if_full(bytes).map_err(WalRefusal::Failed)?;
        if self.fits(bytes) || self.grow(bytes).is_ok() {
            return Ok(true);
        }
        // What is in the log takes up space that these changes may have once it is applied.
        self.empty().map_err(WalRefusal::Failed)?;
        for _ in SEGMENTS {
            if self.fits(bytes) || self.grow(bytes).is_ok() {
                return Ok(true);
            }
            // Both are empty now, and the other one may have its space.
            self.current = 1 - self.current;
        }
        Ok(false)
    }

    /// Waits until the files show all that is in the log, durably.
    fn empty(&mut self) -> io::Result<()> {
        if !self.is_empty() {
            self.turn()?;
        }
        self.wait_for_checkpoint()
    }

    /// Whether the current segment has no entry.
    fn is_empty(&self) -> bool {
        let place = self.files.get(self.current).and_then(Option::as_ref);
        place.is_none_or(|place| place.end == 0)
    }

    fn fits(&self, bytes: u64) -> bool {
        let place = self.files.get(self.current).and_then(Option::as_ref);
        place.is_some_and(|place| place.end + bytes <= place.file.allocated())
    }

    /// Makes the current segment longer: with bytes, so that writing them over needs no new space.
    fn grow(&mut self, bytes: u64) -> io::Result<()> {
        #[cfg(test)]
        if self.shared.syncs.log_is_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let Some(slot) = self.files.get_mut(self.current) else { return Ok(()) };
        let WalShared { root, disk, .. } = &*self.shared;
        if !self.is_marked {
            RunMark::Open(self.run).write(root, disk)?;
            self.is_marked = true;
        }
        if slot.is_none() {
            let name = SEGMENTS.get(self.current).copied().unwrap_or_default();
            *slot = Some(OpenSegment::create(root, disk, name)?);
        }
        let Some(place) = slot else { return Ok(()) };
        place.grow(disk, bytes)
    }

    fn turn_if_full(&mut self, bytes: u64) -> io::Result<()> {
        let place = self.files.get(self.current).and_then(Option::as_ref);
        let end = place.map_or(0, |place| place.end);
        let is_other_free = || self.shared.lock().iter().all(|segment| !segment.is_closed);
        // While the other one is not free, this one continues growing, but not for ever.
        let segment = self.shared.disk.segment_bytes(SEGMENT_BYTES);
        let is_at_limit = end > 0 && end + bytes > SEGMENT_GROWS_MAX * segment;
        if is_at_limit || end >= segment && is_other_free() {
            self.turn()?;
        }
        Ok(())
    }

    /// Closes the current segment, and continues with the other.
    fn turn(&mut self) -> io::Result<()> {
        self.wait_for_checkpoint()?;
        let closed = self.current;
        let Some(Some(place)) = self.files.get_mut(closed) else { return Ok(()) };
        place.end = 0;
        let (shared, file) = (Arc::clone(&self.shared), Arc::clone(&place.file));
        if let Some(segment) = self.shared.lock().get_mut(closed) {
            segment.is_closed = true;
        }
        self.current = 1 - closed;
        self.number += 1;
        let checkpoint = move || {
            if let Err(error) = shared.checkpoint(closed, &file) {
                tracing::error!(%error, "checkpoint of the write-ahead log failed");
                shared.syncs.fail();
                shared.free_all();
            }
        };
        let thread = std::thread::Builder::new().name("jreg-checkpoint".to_owned());
        thread.spawn(checkpoint).map(drop).inspect_err(|_| {
            self.shared.syncs.fail();
            self.shared.free_all();
        })
    }

    /// An orderly end: the files are as the log says, and it is not needed any more.
    fn end(&self) {
        if self.files.iter().all(Option::is_none) {
            return;
        }
        let WalShared { root, folder, disk, .. } = &*self.shared;
        let [first, second] = SEGMENTS;
        let oldest_first = if self.current == 0 { [second, first] } else { [first, second] };
        let ended = disk
            .sync_all(folder)
            .and_then(|()| remove_segments(root, disk, oldest_first))
            .and_then(|()| RunMark::close(root, disk));
        if let Err(error) = ended {
            tracing::warn!(%error, "the write-ahead log stays, and the next start replays it");
        }
    }
}

impl WalShared {
    /// After a failure: no writer waits for a segment that will not be free again.
    fn free_all(&self) {
        self.lock().iter_mut().for_each(|segment| segment.is_closed = false);
        self.moved.notify_all();
    }
}

impl WalSubmission {
    fn entry_bytes(&self) -> usize {
        self.changes.iter().map(WalEntry::entry_bytes).sum()
    }
}

impl OpenSegment {
    fn create(root: &Path, disk: &Disk, name: &str) -> io::Result<Self> {
        let file = disk.create(&root.join(name))?;
        disk.sync_folder(root)?;
        let file = SegmentFile { file, allocated: AtomicU64::new(0) };
        Ok(Self { file: Arc::new(file), end: 0 })
    }

    /// Makes room for so many bytes, or takes none: space is allocated before it is written.
    fn grow(&mut self, disk: &Disk, bytes: u64) -> io::Result<()> {
        let SegmentFile { file, allocated } = &*self.file;
        let before = allocated.load(Ordering::Relaxed);
        let steps = (self.end + bytes).saturating_sub(before).div_ceil(GROWTH_BYTES);
        let after = before + steps * GROWTH_BYTES;
        let grown = disk.allocate(file, before, after - before).and_then(|()| {
            let zeros = vec![0; usize::try_from(GROWTH_BYTES).unwrap_or_default()];
            let mut starts = (0..steps).map(|step| before + step * GROWTH_BYTES);
            starts.try_for_each(|start| disk.write_at(file, &zeros, start))?;
            disk.sync(file)
        });
        match grown {
            Ok(()) => allocated.store(after, Ordering::Relaxed),
            // What was allocated in part must not be missing elsewhere.
            Err(_) => drop(disk.set_length(file, before)),
        }
        grown
    }
}

/// Removes the files of the log one after the other, durably: what is replayed after a crash between
/// them must be the newest.
fn remove_segments(root: &Path, disk: &Disk, oldest_first: [&str; 2]) -> io::Result<()> {
    for name in oldest_first {
        match disk.unlink(&root.join(name)) {
            Ok(()) => disk.sync_folder(root)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Whether there is no space.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}
