//! [`Log`]: small changes become durable in one file, many by one sync.
//!
//! A record costs three syncs if it is to survive a power cut as a file: its bytes, its name, its
//! folder's name, and each of them a commit of the file system's journal. Here it costs a part of
//! one: a *change* is appended to the log, whatever has gathered meanwhile is synced at once, and
//! only then are the files changed, without a sync of their own. After a crash the log is replayed
//! over them.
//!
//! - **Before the file.** A change is in the log, durably, before the files show it: a file system
//!   may bring the new name of a file to the disk before its bytes.
//! - **In order.** Who changes a file holds its key from the moment that the change is handed to
//!   the log, so the entries of one file are in the order of its changes. What one change was
//!   based on is before it in the log, and so survives with it.
//! - **Beside it.** A file that changes by its own syncs, because it is large, or the disk too full
//!   for a longer log, is taken out of the log by a [`Change::Keep`] once that is done.
//!
//! The log is two files, *segments*, used by turns. One that has grown to [`SEGMENT_BYTES`] is
//! closed; once its changes are done to the files, the file system is synced (`syncfs(2)`), and
//! the segment is free again, its space being kept. An orderly stop leaves no log.
//!
//! Only on Linux: elsewhere nothing syncs one file system.

mod entry;
mod replay;

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::modes::FILE_MODE;
use super::sync::Syncs;

pub(super) use entry::Change;
pub(super) use replay::replay;

/// The largest object whose bytes go through the log: it is written twice, once here.
pub(super) const LOGGED_BYTES_MAX: u64 = 128 * 1024;
/// When a segment is closed.
const SEGMENT_BYTES: u64 = 32 * 1024 * 1024;
/// By how much a segment grows. Growing takes a commit of the journal; writing where there is
/// space already takes none.
const GROWTH_BYTES: u64 = 1024 * 1024;
/// How much is gathered for one sync at the most.
const BATCH_BYTES_MAX: usize = 4 * 1024 * 1024;
/// A buffer that was larger is given back.
const BUFFER_BYTES_MAX: usize = 256 * 1024;
/// The files of the segments.
const SEGMENTS: [&str; 2] = [".log-0", ".log-1"];

/// Why a change is not in the log.
#[derive(Debug)]
pub(super) enum Refused {
    /// There is no space for it: the files must be synced themselves. The log is empty.
    Full,
    /// The log could not be synced. Whether it has the change nobody knows, and none will follow.
    Failed(io::Error),
}

/// The log of one store.
#[derive(Debug)]
pub(super) struct Log {
    shared: Arc<Shared>,
    queue: Option<Sender<Submission>>,
    writer: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    root: PathBuf,
    /// The root itself, wherever it is moved.
    folder: File,
    syncs: Arc<Syncs>,
    hasher: RandomState,
    /// How many submissions are on their way: nobody knows yet what they name.
    queued: AtomicUsize,
    segments: Mutex<[Segment; 2]>,
    /// A change was done to the files, or a segment became free.
    moved: Condvar,
}

/// What is known of a segment besides its bytes.
#[derive(Debug, Default)]
struct Segment {
    /// How many changes are in it that the files do not show yet.
    undone: usize,
    /// The files that it names, hashed: one that is named by mistake costs an entry.
    named: HashSet<u64>,
    /// It has entries, and nobody but the checkpoint may touch it.
    is_closed: bool,
}

struct Submission {
    changes: Vec<Change>,
    /// Who waits, if anybody does. In it comes the segment.
    reply: Option<Sender<Result<usize, Refused>>>,
}

/// Changes on their way into the log.
#[must_use]
pub(super) struct Pending<'l> {
    log: &'l Log,
    reply: Option<Receiver<Result<usize, Refused>>>,
}

/// Changes that are in the log, durably, and that the files are to show before this is dropped.
#[must_use]
pub(super) struct Logged<'l> {
    log: &'l Log,
    segment: usize,
}

impl Log {
    /// Begins a log in a folder whose last one was replayed. Nothing is written before the first
    /// change. There is none if nothing is to be synced, or this system cannot.
    pub(super) fn start(root: &Path, syncs: &Arc<Syncs>) -> io::Result<Option<Self>> {
        if !syncs.is_strict() || !cfg!(target_os = "linux") {
            return Ok(None);
        }
        let shared = Arc::new(Shared {
            root: root.to_owned(),
            folder: File::open(root)?,
            syncs: Arc::clone(syncs),
            hasher: RandomState::new(),
            queued: AtomicUsize::new(0),
            segments: Mutex::default(),
            moved: Condvar::new(),
        });
        let (queue, submissions) = channel();
        let writer = Writer {
            shared: Arc::clone(&shared),
            number: 1,
            current: 0,
            files: [None, None],
            buffer: Vec::new(),
        };
        let writer = std::thread::Builder::new()
            .name("jreg-log".to_owned())
            .spawn(move || writer.run(&submissions))?;
        Ok(Some(Self { shared, queue: Some(queue), writer: Some(writer) }))
    }

    /// Hands changes to the log; they are in it in the order of these calls. The keys of the files
    /// are held until the changes are done.
    pub(super) fn submit(&self, changes: Vec<Change>) -> Pending<'_> {
        let (sender, reply) = channel();
        self.send(Submission { changes, reply: Some(sender) });
        Pending { log: self, reply: Some(reply) }
    }

    /// The same of a change that the files show already. It is durable with whatever is written
    /// after it.
    pub(super) fn note(&self, change: Change) {
        self.send(Submission { changes: vec![change], reply: None });
    }

    fn send(&self, submission: Submission) {
        if let Some(queue) = &self.queue {
            self.shared.queued.fetch_add(1, Ordering::SeqCst);
            // The writer lives as long as the log. If it does not, whoever waits will know.
            let _ = queue.send(submission);
        }
    }

    /// Waits until changes are in the log.
    pub(super) fn write(&self, changes: Vec<Change>) -> Result<Logged<'_>, Refused> {
        self.submit(changes).wait()
    }

    /// Takes files out of the log that were synced themselves, if it names them, or may soon: a
    /// change of theirs that was handed to it earlier may still be on its way.
    pub(super) fn keep<'p>(&self, paths: impl IntoIterator<Item = &'p str>) -> io::Result<()> {
        let named = paths.into_iter().filter(|path| self.names(path));
        let keeps: Vec<_> = named.map(|path| Change::Keep { path: path.to_owned() }).collect();
        if keeps.is_empty() {
            return Ok(());
        }
        match self.write(keeps) {
            Ok(_) => Ok(()),
            Err(Refused::Failed(error)) => Err(error),
            // A log without space is empty.
            Err(Refused::Full) => Ok(()),
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

impl Drop for Log {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(writer) = self.writer.take() {
            // If it panicked the log stays, and is replayed.
            let _ = writer.join();
        }
    }
}

impl<'l> Pending<'l> {
    /// Waits until the changes are durable.
    pub(super) fn wait(mut self) -> Result<Logged<'l>, Refused> {
        self.answer()
    }

    fn answer(&mut self) -> Result<Logged<'l>, Refused> {
        let ended = || Refused::Failed(io::Error::other("the log has ended, restart to go on"));
        let reply = self.reply.take().ok_or_else(ended)?;
        let segment = reply.recv().map_err(|_| ended())??;
        Ok(Logged { log: self.log, segment })
    }
}

impl Drop for Pending<'_> {
    fn drop(&mut self) {
        // A segment is free only when everything in it is done.
        let _ = self.answer();
    }
}

impl Drop for Logged<'_> {
    fn drop(&mut self) {
        let mut segments = self.log.shared.lock();
        if let Some(segment) = segments.get_mut(self.segment) {
            segment.undone -= 1;
        }
        drop(segments);
        self.log.shared.moved.notify_all();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, [Segment; 2]> {
        self.segments.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until(&self, is_so: impl Fn(&[Segment; 2]) -> bool) {
        let mut segments = self.lock();
        while !is_so(&segments) {
            segments = self.moved.wait(segments).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Makes what a closed segment says true of the files, durably, and frees it.
    fn checkpoint(&self, index: usize, file: &File) -> io::Result<()> {
        self.wait_until(|segments| segments.get(index).is_none_or(|segment| segment.undone == 0));
        sync_all(&self.folder)?;
        // Before it is forgotten what it names: it must not be replayed over what comes now.
        file.write_all_at(&[0; 64], 0)?;
        file.sync_data()?;
        if let Some(segment) = self.lock().get_mut(index) {
            *segment = Segment::default();
        }
        self.moved.notify_all();
        Ok(())
    }
}

/// A segment's file.
#[derive(Debug)]
struct Place {
    file: Arc<File>,
    end: u64,
    allocated: u64,
}

/// Writes what is submitted. Its thread alone knows the files.
struct Writer {
    shared: Arc<Shared>,
    /// The number of the current segment.
    number: u64,
    current: usize,
    files: [Option<Place>; 2],
    buffer: Vec<u8>,
}

impl Writer {
    fn run(mut self, submissions: &Receiver<Submission>) {
        while let Ok(first) = submissions.recv() {
            let mut bytes = first.entry_bytes();
            let mut batch = vec![first];
            while bytes < BATCH_BYTES_MAX
                && let Ok(next) = submissions.try_recv()
            {
                bytes += next.entry_bytes();
                batch.push(next);
            }
            self.answer(batch, bytes as u64);
        }
        if self.shared.syncs.check().is_ok() {
            self.end();
        }
    }

    fn answer(&mut self, batch: Vec<Submission>, bytes: u64) {
        let written = match self.shared.syncs.check() {
            Ok(()) => self.write(&batch, bytes),
            Err(error) => Err(Refused::Failed(error)),
        };
        self.note(&batch, written.is_ok());
        self.shared.queued.fetch_sub(batch.len(), Ordering::SeqCst);
        for reply in batch.into_iter().filter_map(|submission| submission.reply) {
            let answer = match &written {
                Ok(()) => Ok(self.current),
                Err(Refused::Full) => Err(Refused::Full),
                Err(Refused::Failed(error)) => Err(Refused::Failed(copy(error))),
            };
            // Whoever has submitted waits.
            let _ = reply.send(answer);
        }
    }

    /// Before anybody is told: who is told may be the next to ask whether a file is named.
    fn note(&self, batch: &[Submission], is_written: bool) {
        if !is_written {
            return;
        }
        let mut segments = self.shared.lock();
        let Some(segment) = segments.get_mut(self.current) else { return };
        segment.undone += batch.iter().filter(|submission| submission.reply.is_some()).count();
        let changes = batch.iter().flat_map(|submission| &submission.changes);
        let paths = changes.flat_map(Change::paths);
        segment.named.extend(paths.map(|path| self.shared.hasher.hash_one(path)));
    }

    fn write(&mut self, batch: &[Submission], bytes: u64) -> Result<(), Refused> {
        if !self.make_room(bytes)? {
            return Err(Refused::Full);
        }
        self.buffer.clear();
        for change in batch.iter().flat_map(|submission| &submission.changes) {
            change.encode(self.number, &mut self.buffer);
        }
        let Some(Some(place)) = self.files.get_mut(self.current) else { return Err(Refused::Full) };
        let written = place.file.write_all_at(&self.buffer, place.end);
        let synced = written.and_then(|()| self.shared.syncs.log(&place.file));
        place.end += self.buffer.len() as u64;
        if self.buffer.capacity() > BUFFER_BYTES_MAX {
            self.buffer = Vec::new();
        }
        synced.map_err(|error| {
            self.shared.syncs.fail();
            Refused::Failed(error)
        })
    }

    /// Finds space for so many bytes. If there is none, the log is empty, and names no file.
    fn make_room(&mut self, bytes: u64) -> Result<bool, Refused> {
        self.turn_if_full();
        if self.fits(bytes) || self.grow(bytes).is_ok() {
            return Ok(true);
        }
        // What is in the log takes up space that these changes may have once it is done.
        if !self.is_empty() {
            self.turn();
        }
        self.shared.wait_until(|segments| segments.iter().all(|segment| !segment.is_closed));
        self.shared.syncs.check().map_err(Refused::Failed)?;
        for _ in SEGMENTS {
            if self.fits(bytes) || self.grow(bytes).is_ok() {
                return Ok(true);
            }
            // Both are empty now, and the other one may have its space.
            self.current = 1 - self.current;
        }
        Ok(false)
    }

    /// Whether the current segment has no entry.
    fn is_empty(&self) -> bool {
        let place = self.files.get(self.current).and_then(Option::as_ref);
        place.is_none_or(|place| place.end == 0)
    }

    fn fits(&self, bytes: u64) -> bool {
        let place = self.files.get(self.current).and_then(Option::as_ref);
        place.is_some_and(|place| place.end + bytes <= place.allocated)
    }

    /// Makes the current segment longer: with bytes, so that writing them over needs no new space.
    fn grow(&mut self, bytes: u64) -> io::Result<()> {
        #[cfg(test)]
        if self.shared.syncs.log_is_full.load(Ordering::SeqCst) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        let Some(slot) = self.files.get_mut(self.current) else { return Ok(()) };
        if slot.is_none() {
            let name = SEGMENTS.get(self.current).copied().unwrap_or_default();
            *slot = Some(Place::create(&self.shared.root, name)?);
        }
        let Some(place) = slot else { return Ok(()) };
        place.grow(bytes)
    }

    fn turn_if_full(&mut self) {
        let place = self.files.get(self.current).and_then(Option::as_ref);
        let is_full = place.is_some_and(|place| place.end >= SEGMENT_BYTES);
        // While the other one is not free, this one goes on growing.
        if is_full && self.shared.lock().iter().all(|segment| !segment.is_closed) {
            self.turn();
        }
    }

    /// Closes the current segment, and goes on with the other.
    fn turn(&mut self) {
        self.shared.wait_until(|segments| segments.iter().all(|segment| !segment.is_closed));
        let closed = self.current;
        let Some(Some(place)) = self.files.get_mut(closed) else { return };
        place.end = 0;
        let (shared, file) = (Arc::clone(&self.shared), Arc::clone(&place.file));
        if let Some(segment) = self.shared.lock().get_mut(closed) {
            segment.is_closed = true;
        }
        self.current = 1 - closed;
        self.number += 1;
        let checkpoint = move || {
            if let Err(error) = shared.checkpoint(closed, &file) {
                tracing::error!(%error, "the log cannot be brought to an end");
                shared.syncs.fail();
                shared.free_all();
            }
        };
        let thread = std::thread::Builder::new().name("jreg-checkpoint".to_owned());
        if thread.spawn(checkpoint).is_err() {
            self.shared.syncs.fail();
            self.shared.free_all();
        }
    }

    /// An orderly end: the files are as the log says, and it is not needed any more.
    fn end(&self) {
        self.shared.wait_until(|segments| segments.iter().all(|segment| !segment.is_closed));
        if self.files.iter().all(Option::is_none) {
            return;
        }
        let Shared { root, folder, .. } = &*self.shared;
        if let Err(error) = sync_all(folder).and_then(|()| remove_segments(root)) {
            tracing::warn!(%error, "the log stays, and is replayed by the next start");
        }
    }
}

impl Shared {
    /// After a failure: nobody waits for a segment that will not be free again.
    fn free_all(&self) {
        self.lock().iter_mut().for_each(|segment| segment.is_closed = false);
        self.moved.notify_all();
    }
}

impl Submission {
    fn entry_bytes(&self) -> usize {
        self.changes.iter().map(Change::entry_bytes).sum()
    }
}

impl Place {
    fn create(root: &Path, name: &str) -> io::Result<Self> {
        let path = root.join(name);
        let mut options = OpenOptions::new();
        let file = options.write(true).create(true).truncate(true).mode(FILE_MODE).open(path)?;
        File::open(root)?.sync_all()?;
        Ok(Self { file: Arc::new(file), end: 0, allocated: 0 })
    }

    fn grow(&mut self, bytes: u64) -> io::Result<()> {
        let needed = (self.end + bytes).saturating_sub(self.allocated);
        let steps = needed.div_ceil(GROWTH_BYTES);
        for _ in 0..steps {
            let zeros = vec![0; usize::try_from(GROWTH_BYTES).unwrap_or_default()];
            self.file.write_all_at(&zeros, self.allocated)?;
            self.allocated += GROWTH_BYTES;
        }
        self.file.sync_all()
    }
}

/// Brings everything that was written on the file system of a folder to the disk.
fn sync_all(folder: &File) -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::fs::syncfs(folder)?;
    #[cfg(not(target_os = "linux"))]
    folder.sync_all()?;
    Ok(())
}

fn remove_segments(root: &Path) -> io::Result<()> {
    for name in SEGMENTS {
        match fs::remove_file(root.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    File::open(root)?.sync_all()
}

fn copy(error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), error.to_string())
}
