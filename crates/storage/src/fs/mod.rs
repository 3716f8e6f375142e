//! [`FsStore`]: objects as files below one folder, which one process owns.
//!
//! A key is the path of its file. Files and folders whose names start with a dot are the store's
//! own: `.lock` and `.run` in the root, temporary files, the files of open multipart uploads; no
//! key can name them. Those of an earlier run are invisible, and a listing that finds them removes
//! them.
//!
//! A folder cannot hold one key below another (`a` and `a/b`): such a write is `Refused`.
//!
//! Empty folders are removed with their last key. One whose removal would have to wait for a lock
//! stays, which is invisible: a listing shows keys, and common prefixes of keys.
//!
//! The folder may vanish under the store: moved, removed, unmounted. Every operation checks, before
//! and after, whether the path still leads to the folder that was locked; if not, all is
//! `Unavailable`, so that an empty mount point is not taken for an empty store. The same holds for
//! folders in it that are mount points or symbolic links.
//!
//! Blocking calls run on threads of tokio's pool for such work; nothing holds one of its threads while it
//! waits for a client. Writes and listings, which wait for syncs, have a number of these threads
//! each at most: in a pool of [`FS_THREADS`] a read finds a thread however slow the disk syncs. A
//! read still waits for the sync of a write whose key shares its lock ([`KEY_STRIPES`]). Cached
//! records and open files are served without it, once the file at the path is verified to be the
//! same, so the root is not checked. So is absence, if the root is still ours.

mod clock;
mod copying;
mod disk;
mod disk_waits;
mod failure;
mod folders;
mod linked;
mod listing;
mod modes;
mod name_cache;
mod owner;
mod reading;
mod record_cache;
mod records;
mod reserve;
mod root;
mod sequence;
mod staged;
mod sync;
mod threads;
mod uploads;
mod wal;

use std::fs::Metadata;
use std::io;
use std::panic::resume_unwind;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use self::clock::FolderClock;
use self::disk::Disk;
use self::disk_waits::{DiskWaits, WaitGuard};
use self::folders::{FolderLocks, Stripes};
use self::reading::OpenFiles;
use self::record_cache::RecordCache;
use self::reserve::DiskReserve;
use self::root::FsRoot;
use self::sync::Syncs;
use self::threads::{BlockingThreads, WorkFailure};
use self::uploads::{FsUploads, STAGING};
use self::wal::{ReplayError, Wal};
use crate::{
    ByteRange, ByteStream, Clock, CopiedObject, CopySource, ETag, Error, ErrorKind, Key, ListPage,
    ListRequest, Multipart, OpenFile, Part, PartRules, Presign, Put, PutMode, PutPurpose,
    ReadOnlyStore, Record, Result, SequenceOutcome, StagedUpload, Stat, Store, StoreCapabilities,
    StoreChange, StoreHealth, SystemClock, Written,
};

#[cfg(feature = "testing")]
pub use self::disk::SyscallHook;
pub use self::disk::{Syscall, SyscallTarget};
pub use self::root::FsOpenError;
pub use self::sync::{Durability, SyncCounts};

/// What the name of a temporary file starts with. The run and a number follow.
const TEMPORARY: &str = ".tmp-";
/// The largest record that is written with the space that is kept back, in bytes.
const RESERVED_BYTES_MAX: usize = 64 * 1024;
/// Number of locks that keys share. A read waits for a write whose key has the same one, and for its
/// sync: while [`WRITES_MAX`] writes are in flight, one read of a thousand does.
const KEY_STRIPES: usize = 65_536;
const CACHE_BYTES: u64 = 8 * 1024 * 1024;
const UPLOAD_AGE_MAX: Duration = Duration::from_secs(31 * 24 * 3600);
/// Maximum number of writes in flight: each holds a thread until it is durable.
const WRITES_MAX: usize = 64;
/// Maximum number of listings in flight: each may wait for the writes in its folder.
const LISTINGS_MAX: usize = 16;
/// Number of threads that neither writes nor listings take.
const READ_THREADS: usize = 32;
/// Number of blocking threads (tokio's `max_blocking_threads`) with which no read of a folder waits
/// for a sync.
pub const FS_THREADS: usize = WRITES_MAX + LISTINGS_MAX + READ_THREADS;
/// A part is as small as the work beside the copy of its bytes allows: then those are still in the
/// processor's cache when they are written to the file. Half of this costs 5 to 15 % more, as each part
/// is written by another thread.
const PART_RULES: PartRules =
    PartRules { part_bytes: 256 * 1024, uniform: false, parts_max: u64::MAX };

/// How an [`FsStore`] is to behave.
#[derive(Clone, Debug)]
pub struct FsOptions {
    /// What an acknowledged write survives.
    pub durability: Durability,
    /// The machine's clock. The store's clock, from which files get their times, follows it, but at most
    /// at double speed ([`Store::clock`]).
    pub clock: Arc<dyn Clock>,
    /// How long [`FsStore::open`] waits for another process to release the folder.
    pub lock_wait: Duration,
    /// How many bytes of small records are kept in memory.
    pub cache_bytes: u64,
    /// After which time without a write the file of an upload is removed by a listing of its folder: a
    /// crash may leave one that no record names. By then no record may name it.
    pub upload_age_max: Duration,
    /// Folders in the root whose content is secret: [`FsStore::open`] takes all permissions of
    /// other users from everything below them, as it does from the root and the files in it.
    pub private_folders: &'static [&'static str],
    /// Keys that begin with one of these are written to free space: on a full disk they take from
    /// what is kept back for that, as deletes do, and swaps of small records for ones
    /// that are no larger.
    pub reserved_for: Vec<String>,
}

impl Default for FsOptions {
    fn default() -> Self {
        Self {
            durability: Durability::default(),
            clock: Arc::new(SystemClock::new()),
            lock_wait: Duration::from_secs(10),
            cache_bytes: CACHE_BYTES,
            upload_age_max: UPLOAD_AGE_MAX,
            private_folders: &[],
            reserved_for: Vec::new(),
        }
    }
}

/// A store in a folder. Dropping it marks a clean stop and lets the folder go, as soon as the
/// calls that run are over; streams that are open stay readable.
#[derive(Debug)]
pub struct FsStore {
    inner: Arc<FsInner>,
    /// A permit for each thread that writes may hold.
    writes: Arc<Semaphore>,
    /// A permit for each thread that listings may hold.
    listings: Arc<Semaphore>,
}

#[derive(Debug)]
struct FsInner {
    clock: Arc<FolderClock>,
    disk: Disk,
    /// Reads, writes and listings, and changes in flight into the log.
    watch: DiskWaits,
    /// Reserved space for writes that free space.
    reserve: DiskReserve,
    reserved_for: Vec<String>,
    /// Nothing is written, not even to remove what earlier runs left.
    is_read_only: bool,
    syncs: Arc<Syncs>,
    /// Open files, for the next readers.
    files: OpenFiles,
    /// Cached records.
    known: RecordCache,
    /// Makes small changes durable. It is declared, and so ends, before the root, which is let go
    /// when its log is no longer needed. `None`: nothing is synced, or this system has no log.
    log: Option<Wal>,
    folders: FolderLocks,
    keys: Stripes,
    uploads: FsUploads,
    upload_age_max: Duration,
    run: String,
    temporaries: AtomicU64,
    threads: BlockingThreads,
    root: FsRoot,
    /// How much of the next part fits on the disk.
    #[cfg(test)]
    room: std::sync::Mutex<Option<usize>>,
}

/// What opening a folder makes.
struct FsParts {
    syncs: Arc<Syncs>,
    watch: DiskWaits,
    log: Option<Wal>,
    reserve: DiskReserve,
}

impl FsStore {
    /// Opens a folder as a store, and makes it if it is missing. Blocks the thread, for
    /// [`FsOptions::lock_wait`] at most while another process owns the folder.
    pub fn open(root: impl AsRef<Path>, options: FsOptions) -> Result<Self, FsOpenError> {
        Self::open_on(root.as_ref(), options, Disk::default())
    }

    /// The same, with every system call seen by a test before it is made.
    #[cfg(feature = "testing")]
    pub fn open_with(
        root: impl AsRef<Path>,
        options: FsOptions,
        hook: Arc<dyn SyscallHook>,
    ) -> Result<Self, FsOpenError> {
        Self::open_on(root.as_ref(), options, Disk::with(hook))
    }

    fn open_on(root: &Path, options: FsOptions, disk: Disk) -> Result<Self, FsOpenError> {
        let root = FsRoot::open(root, options.durability, options.lock_wait)?;
        modes::restrict(root.path(), options.private_folders).log(root.path());
        let io = |source| FsOpenError::Io { root: root.path().to_owned(), source };
        let disk = disk.owned_by(root.owner());
        let is_one = root.is_one_file_system();
        let replayed = match wal::replay(root.path(), &disk, is_one) {
            Err(ReplayError::Io(error)) if wal::is_full(&error) => {
                DiskReserve::remove(root.path(), &disk).map_err(io)?;
                wal::replay(root.path(), &disk, is_one)
            }
            replayed => replayed,
        };
        replayed.map_err(|error| match error {
            ReplayError::Io(source) => io(source),
            ReplayError::Damaged { path, offset, what } => {
                FsOpenError::DamagedLog { path, offset, what }
            }
            ReplayError::Stale { path } => FsOpenError::StaleLog { path },
        })?;
        let syncs = Arc::new(Syncs::new(options.durability, disk.clone()));
        let watch = DiskWaits::default();
        let log = Wal::start(root.path(), &disk, &syncs, &watch, is_one).map_err(io)?;
        let reserve = DiskReserve::open(root.path(), &disk);
        Ok(Self::of_parts(root, options, disk, FsParts { syncs, watch, log, reserve }, false))
    }

    /// Opens a folder that has a store, to read it: nothing in it is changed, not even by opening it. Several
    /// processes may do so at the same time, but none while another writes.
    ///
    /// # Errors
    ///
    /// [`FsOpenError::NotReplayed`] if it was not stopped cleanly.
    pub fn open_read_only(
        root: impl AsRef<Path>,
        options: FsOptions,
    ) -> Result<ReadOnlyStore, FsOpenError> {
        let disk = Disk::default();
        let root = FsRoot::open_read_only(root.as_ref())?;
        if wal::has_changes(root.path(), &disk).unwrap_or(true) {
            return Err(FsOpenError::NotReplayed { root: root.path().to_owned() });
        }
        // Whatever is read is there, durable or not: there is nothing to sync.
        let syncs = Arc::new(Syncs::new(Durability::Strict, disk.clone()));
        let reserve = DiskReserve::none(root.path(), &disk);
        let parts = FsParts { syncs, watch: DiskWaits::default(), log: None, reserve };
        Ok(ReadOnlyStore::new(Arc::new(Self::of_parts(root, options, disk, parts, true))))
    }

    fn of_parts(
        root: FsRoot,
        options: FsOptions,
        disk: Disk,
        parts: FsParts,
        is_read_only: bool,
    ) -> Self {
        let FsOptions { clock, cache_bytes, upload_age_max, reserved_for, .. } = options;
        let FsParts { syncs, watch, log, reserve } = parts;
        let device = log.as_ref().map(|_| root.device());
        let inner = FsInner {
            clock: Arc::new(FolderClock::new(clock)),
            watch,
            reserve,
            reserved_for,
            is_read_only,
            log,
            disk: disk.clone(),
            syncs,
            files: OpenFiles::default(),
            known: RecordCache::new(cache_bytes),
            folders: FolderLocks::new(root.path().to_owned(), device, disk),
            keys: Stripes::new(KEY_STRIPES),
            uploads: FsUploads::default(),
            upload_age_max,
            run: uuid::Uuid::new_v4().simple().to_string(),
            temporaries: AtomicU64::new(0),
            threads: BlockingThreads::default(),
            root,
            #[cfg(test)]
            room: std::sync::Mutex::default(),
        };
        Self {
            inner: Arc::new(inner),
            writes: Arc::new(Semaphore::new(WRITES_MAX)),
            listings: Arc::new(Semaphore::new(LISTINGS_MAX)),
        }
    }

    /// How often the store has synced since it was opened. Syncs of opening it do not count.
    pub fn sync_counts(&self) -> SyncCounts {
        self.inner.syncs.counts()
    }

    /// Reads in the folder. How long it takes counts for [`StoreHealth::longest_wait`].
    async fn read_in<T: Send + 'static>(
        &self,
        key: impl Into<String>,
        read: impl FnOnce(&FsInner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        self.run(None, key, move |inner| inner.watched(read)).await
    }

    /// Writes in the folder, which may wait for a sync. How long it takes, with the wait for a permit,
    /// counts for [`StoreHealth::longest_wait`].
    async fn write_in<T: Send + 'static>(
        &self,
        key: impl Into<String>,
        work: impl FnOnce(&FsInner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let wait = self.inner.watch.begin();
        let permit = permit(&self.writes).await;
        self.run(Some((permit, wait)), key, work).await
    }

    /// Works in the folder, if it is still ours. A result is returned only if it was ours to
    /// the end. The permit is the thread's, and not
    /// the caller's, whose future may be dropped.
    async fn run<T: Send + 'static>(
        &self,
        permit: Option<(OwnedSemaphorePermit, WaitGuard)>,
        key: impl Into<String>,
        work: impl FnOnce(&FsInner) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let (inner, key) = (self.inner.clone(), key.into());
        blocking(&self.inner.threads, key.clone(), move || {
            let _permit = permit;
            inner.check_root(&key)?;
            let outcome = work(&inner);
            inner.check_root(&key)?;
            outcome
        })
        .await
    }
}

impl FsInner {
    /// Reads, and is seen to wait meanwhile.
    fn watched<T>(&self, read: impl FnOnce(&Self) -> T) -> T {
        let _wait = self.watch.begin();
        read(self)
    }

    /// Whether a write is, or may be, one that frees space: of a record in the place of another, which
    /// takes no more than that gave, or of what the options say.
    fn frees_space(&self, key: &Key, bytes: &Bytes, mode: &PutMode) -> bool {
        let is_reserved = || self.reserved_for.iter().any(|start| key.as_str().starts_with(start));
        let is_no_larger = || {
            let before = self.there(key).ok().flatten();
            before.is_some_and(|before| bytes.len() as u64 <= before.len())
        };
        let is_swap = matches!(mode, PutMode::Match(_));
        bytes.len() <= RESERVED_BYTES_MAX && (is_swap && is_no_larger() || is_reserved())
    }

    /// Does something with the space that is kept back, if there is no other.
    fn with_reserve<T>(&self, work: impl Fn() -> Result<T>) -> Result<T> {
        loop {
            let done = work();
            if is_full(&done) && self.reserve.release(0) {
                continue;
            }
            if done.is_ok() {
                self.reserve.refill();
            }
            return done;
        }
    }

    fn check_root(&self, key: &str) -> Result<()> {
        self.root.check().map_err(|error| failure::ambiguous(key, error))
    }

    /// Whether no file has this name, by a few system calls: they are not worth another thread.
    /// `false`: it must be checked further.
    fn is_absent(&self, name: &str) -> bool {
        let path = self.root.path().join(name);
        let found = self.disk.symlink_metadata(&path);
        found.is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
            && path.parent().is_none_or(|above| self.check_folders(above).is_ok())
            && self.root.check().is_ok()
    }

    fn temporary_name(&self) -> String {
        let number = self.temporaries.fetch_add(1, Ordering::Relaxed);
        format!("{TEMPORARY}{}-{number}", self.run)
    }

    /// Whether a file is an earlier run's: a temporary one, or of an upload that was dropped.
    fn is_left_over(&self, name: &str) -> bool {
        let of_another = |prefix, owner: &str| {
            name.strip_prefix(prefix).is_some_and(|rest: &str| !rest.starts_with(owner))
        };
        of_another(TEMPORARY, &self.run) || of_another(STAGING, self.root.epoch())
    }

    /// Whether a file is of an upload to which nothing was written for so long that no record names it.
    fn is_expired_upload(
        &self,
        name: &str,
        metadata: impl FnOnce() -> io::Result<Metadata>,
    ) -> bool {
        name.starts_with(STAGING)
            && metadata().and_then(|found| found.modified()).is_ok_and(|modified| {
                let age = self.clock.now().duration_since(modified);
                age.is_ok_and(|age| age > self.upload_age_max)
            })
    }
}

impl Drop for FsInner {
    fn drop(&mut self) {
        if self.syncs.durability() == Durability::Relaxed
            && self.uploads.sync_all(self.root.path()).is_err()
        {
            self.root.stops_uncleanly();
        }
    }
}

fn is_full<T>(done: &Result<T>) -> bool {
    matches!(done, Err(error) if error.kind() == ErrorKind::Full)
}

async fn permit(permits: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    Arc::clone(permits).acquire_owned().await.expect("the permits of a store are never closed")
}

/// Runs blocking work on a thread for it.
async fn blocking<T: Send + 'static>(
    threads: &BlockingThreads,
    key: impl Into<String>,
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    match threads.run(work).await {
        Ok(outcome) => outcome,
        Err(WorkFailure::Panicked(panic)) => resume_unwind(panic),
        Err(WorkFailure::Stopped) => {
            Err(Error::with_source(ErrorKind::Unavailable, key.into(), "the runtime stops"))
        }
    }
}

#[async_trait]
impl Store for FsStore {
    fn capabilities(&self) -> StoreCapabilities {
        StoreCapabilities {
            drops_unrecorded_uploads: true,
            defers_upload_records: self.inner.syncs.durability() == Durability::Relaxed,
            ..StoreCapabilities::local(PART_RULES)
        }
    }

    fn health(&self) -> StoreHealth {
        StoreHealth {
            clock_difference: Some(self.inner.clock.difference()),
            longest_wait: self.inner.watch.longest(),
            reserved_bytes: self.inner.reserve.bytes(),
        }
    }

    fn clock(&self) -> Option<Arc<dyn Clock>> {
        Some(self.inner.clock.clone())
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        if let Some(found) = self.inner.known.get(key, &self.inner.path(key)) {
            return self.inner.record(key, found);
        }
        if self.inner.is_absent(key.as_str()) {
            return Err(Error::new(ErrorKind::NotFound, key));
        }
        let key = key.clone();
        self.read_in(key.clone(), move |inner| inner.get(&key)).await
    }

    async fn head(&self, key: &Key) -> Result<Stat> {
        let key = key.clone();
        self.read_in(key.clone(), move |inner| inner.head(&key)).await
    }

    async fn read(&self, key: &Key, range: ByteRange) -> Result<ByteStream> {
        let wanted = key.clone();
        let file = self.read_in(key.clone(), move |inner| inner.open_range(&wanted, range)).await?;
        Ok(reading::stream(key.clone(), file, range, (&self.inner.threads, &self.inner.watch)))
    }

    async fn put(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<Written> {
        let key = key.clone();
        self.write_in(key.clone(), move |inner| {
            let done = inner.put(&key, &bytes, &mode);
            if is_full(&done) && inner.frees_space(&key, &bytes, &mode) {
                return inner.with_reserve(|| inner.put(&key, &bytes, &mode));
            }
            done
        })
        .await
    }

    async fn put_after(&self, before: Vec<StoreChange>, then: Put) -> Result<SequenceOutcome> {
        self.write_in(then.key.clone(), move |inner| match then.purpose {
            PutPurpose::Content => inner.put_after(&before, &then),
            PutPurpose::Delete => inner.put_after_with_reserve(&before, &then),
        })
        .await
    }

    async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        let (key, version) = (key.clone(), version.cloned());
        self.write_in(key.clone(), move |inner| {
            inner.with_reserve(|| inner.delete(&key, version.as_ref()))
        })
        .await
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        let keys = keys.to_vec();
        self.write_in("several keys", move |inner| inner.with_reserve(|| inner.delete_many(&keys)))
            .await
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let (date, prefix) = (self.inner.clock.now(), request.prefix.clone());
        if let Some(folder) = request.prefix.strip_suffix('/')
            && self.inner.is_absent(folder)
        {
            return Ok(ListPage { entries: Vec::new(), prefixes: Vec::new(), next: None, date });
        }
        let (request, wait) = (request.clone(), self.inner.watch.begin());
        let permit = permit(&self.listings).await;
        let work = move |inner: &FsInner| inner.list(&request);
        self.run(Some((permit, wait)), prefix, work).await
    }

    async fn create_multipart(&self, key: &Key, writer: u64, part_bytes: u64) -> Result<Multipart> {
        // Only names are given: the file comes with the first part.
        self.inner.check_root(key.as_str())?;
        self.inner.create_multipart(key, writer, part_bytes)
    }

    async fn resume_multipart(&self, upload: &Multipart, writer: u64) -> Result<Multipart> {
        let upload = upload.clone();
        self.write_in(upload.key.clone(), move |inner| inner.resume_multipart(&upload, writer))
            .await
    }

    async fn put_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part> {
        // Without the checks of the root: see `open_staging`.
        let wait = self.inner.watch.begin();
        let permit = permit(&self.writes).await;
        let (inner, upload) = (Arc::clone(&self.inner), upload.clone());
        blocking(&self.inner.threads, upload.key.to_string(), move || {
            let _held = (permit, wait);
            inner.put_part(&upload, offset, &bytes)
        })
        .await
    }

    async fn put_last_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part> {
        let upload = upload.clone();
        self.write_in(upload.key.clone(), move |inner| {
            let part = inner.put_part(&upload, offset, &bytes)?;
            inner.sync_parts(&upload)?;
            Ok(part)
        })
        .await
    }

    async fn sync_parts(&self, upload: &Multipart) -> Result<()> {
        let upload = upload.clone();
        self.write_in(upload.key.clone(), move |inner| inner.sync_parts(&upload)).await
    }

    async fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        let upload = upload.clone();
        self.write_in(upload.key.clone(), move |inner| inner.complete_multipart(&upload)).await
    }

    async fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        let upload = upload.clone();
        self.write_in(upload.key.clone(), move |inner| inner.abort_multipart(&upload)).await
    }

    async fn copy_in(&self, key: &Key, source: &CopySource) -> Result<Option<CopiedObject>> {
        let (key, source) = (key.clone(), source.clone());
        self.write_in(key.clone(), move |inner| inner.copy_in(&key, &source)).await
    }

    async fn staged_uploads(&self, prefix: &str) -> Result<Vec<StagedUpload>> {
        let folder = prefix.trim_end_matches('/').to_owned();
        let (wait, permit) = (self.inner.watch.begin(), permit(&self.listings).await);
        let work = move |inner: &FsInner| inner.staged_uploads(&folder);
        self.run(Some((permit, wait)), prefix.to_owned(), work).await
    }

    async fn staged_file(&self, upload: &Multipart) -> Result<Option<Arc<OpenFile>>> {
        let upload = upload.clone();
        self.read_in(upload.key.clone(), move |inner| inner.staged_file(&upload)).await.map(Some)
    }

    async fn file(&self, key: &Key) -> Result<Option<Arc<OpenFile>>> {
        if let Some(open) = self.inner.files.get(key, &self.inner.path(key)) {
            return Ok(Some(open));
        }
        let key = key.clone();
        self.read_in(key.clone(), move |inner| inner.open_file(&key)).await.map(Some)
    }

    async fn presign(&self, _key: &Key, _presign: &Presign) -> Result<Option<String>> {
        Ok(None)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]

    use futures::StreamExt;

    use super::*;

    fn open() -> (tempfile::TempDir, FsStore) {
        let root = tempfile::tempdir().unwrap();
        let store = FsStore::open(root.path(), FsOptions::default()).unwrap();
        (root, store)
    }

    fn fail_next_sync(store: &FsStore) {
        store.inner.syncs.fail_next.store(true, Ordering::Relaxed);
    }

    async fn put(store: &FsStore, key: &str) -> Result<Written> {
        store.put(&key.parse().unwrap(), "1".into(), PutMode::Overwrite).await
    }

    /// More than goes through the log.
    fn large() -> Bytes {
        vec![1; usize::try_from(wal::LOGGED_BYTES_MAX).unwrap() + 1].into()
    }

    /// It is neither hashed for a version nor kept in memory, large or small.
    #[tokio::test]
    async fn first_of_a_pair_is_only_stored() {
        let (_root, store) = open();
        for (first, bytes) in [("a/small", "1".into()), ("a/large", large())] {
            let (first, then): (Key, Key) =
                (first.parse().unwrap(), format!("{first}-record").parse().unwrap());
            let put = |key: &Key, bytes| Put::new(key.clone(), bytes, PutMode::Create);
            let before = vec![StoreChange::Put(put(&first, bytes))];
            let written = store.put_after(before, put(&then, "2".into())).await.unwrap();
            let kept = |key: &Key| store.inner.known.get(key, &store.inner.path(key)).flatten();
            assert!(kept(&first).is_none(), "{first}");
            assert_eq!(kept(&then).unwrap().etag, written.last().unwrap().etag);
        }
    }

    #[tokio::test]
    async fn object_whose_file_did_not_sync_is_not_written() {
        let (_root, store) = open();
        fail_next_sync(&store);
        let key = "a".parse().unwrap();
        store.put(&key, large(), PutMode::Create).await.unwrap_err();
        assert!(store.get(&key).await.unwrap_err().is_not_found());
        put(&store, "a").await.unwrap();
    }

    #[tokio::test]
    async fn nothing_is_acknowledged_after_the_log_did_not_sync() {
        let (_root, store) = open();
        put(&store, "b").await.unwrap();
        fail_next_sync(&store);
        for _ in 0..2 {
            assert_eq!(put(&store, "a").await.unwrap_err().kind(), ErrorKind::Unavailable);
        }
        assert!(store.get(&"a".parse().unwrap()).await.unwrap_err().is_not_found());
        let (key, large) = ("c".parse().unwrap(), large());
        let failed = store.put(&key, large, PutMode::Create).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Unavailable);
        store.delete(&"b".parse().unwrap(), None).await.unwrap_err();
    }

    /// More writes than there are permits wait for a sync: reads continue.
    #[test]
    fn no_read_waits_behind_a_sync() {
        const READS: usize = 8 * FS_THREADS;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(FS_THREADS)
            .build()
            .unwrap();
        let root = tempfile::tempdir().unwrap();
        let options = FsOptions { cache_bytes: 0, ..FsOptions::default() };
        let store = Arc::new(FsStore::open(root.path(), options).unwrap());
        runtime.block_on(async {
            for number in 0..FS_THREADS {
                put(&store, &format!("read/{number}")).await.unwrap();
            }
        });
        let inner = Arc::clone(&store.inner);
        let gate = inner.syncs.log_gate.lock().unwrap();
        let writes = runtime.block_on(async {
            let writes = (0..2 * FS_THREADS).map(|number| {
                let store = Arc::clone(&store);
                tokio::spawn(async move { put(&store, &format!("write/{number}")).await })
            });
            let writes: Vec<_> = writes.collect();
            while store.writes.available_permits() > 0 {
                tokio::task::yield_now().await;
            }
            let reads = (0..READS).map(|number| {
                let (store, key) = (&store, format!("read/{number}").parse().unwrap());
                async move { store.head(&key).await.is_ok() == (number < FS_THREADS) }
            });
            let mut reads: futures::stream::FuturesUnordered<_> = reads.collect();
            // Hardly any read meets the lock of a write; a hang ends the test.
            for done in 0..READS - READS / 50 {
                let read = tokio::time::timeout(Duration::from_secs(60), reads.next()).await;
                assert_eq!(read, Ok(Some(true)), "after {done} reads");
            }
            writes
        });
        drop(gate);
        runtime.block_on(async {
            for write in writes {
                write.await.unwrap().unwrap();
            }
        });
        assert_eq!(store.writes.available_permits(), WRITES_MAX);
    }

    async fn is_there_after_a_crash(root: &Path, key: &str) -> bool {
        let found = tempfile::tempdir().unwrap();
        for name in [".run", ".log-0", ".log-1", key] {
            if root.join(name).exists() {
                std::fs::copy(root.join(name), found.path().join(name)).unwrap();
            }
        }
        let after = FsStore::open(found.path(), FsOptions::default()).unwrap();
        after.head(&key.parse().unwrap()).await.is_ok()
    }

    #[tokio::test]
    async fn without_space_for_a_log_the_files_are_synced_themselves() {
        let (root, store) = open();
        store.inner.syncs.log_is_full.store(true, Ordering::SeqCst);
        put(&store, "a").await.unwrap();
        put(&store, "b").await.unwrap();
        store.delete_many(&["b".parse().unwrap()]).await.unwrap();
        let SyncCounts { files, folders, logs } = store.sync_counts();
        assert_eq!((files, folders, logs), (2, 3, 0));
        assert!(is_there_after_a_crash(root.path(), "a").await);
        assert!(!is_there_after_a_crash(root.path(), "b").await);
        let key = "c".parse().unwrap();
        let mut upload = store.create_multipart(&key, 1, 1024).await.unwrap();
        upload.record(store.put_part(&upload, 0, "12345".into()).await.unwrap());
        store.complete_multipart(&upload).await.unwrap();
        assert!(is_there_after_a_crash(root.path(), "c").await);
        store.inner.syncs.log_is_full.store(false, Ordering::SeqCst);
        put(&store, "a").await.unwrap();
        assert_eq!(store.sync_counts().logs, 1);
    }

    #[tokio::test]
    async fn a_log_that_cannot_grow_is_done_and_used_again() {
        let (root, store) = open();
        put(&store, "a").await.unwrap();
        store.inner.syncs.log_is_full.store(true, Ordering::SeqCst);
        let bytes = Bytes::from(vec![1; usize::try_from(wal::LOGGED_BYTES_MAX).unwrap()]);
        for _ in 0..50 {
            let key = "b".parse().unwrap();
            store.put(&key, bytes.clone(), PutMode::Overwrite).await.unwrap();
        }
        store.delete(&"a".parse().unwrap(), None).await.unwrap();
        let SyncCounts { files, folders, logs } = store.sync_counts();
        assert_eq!((files, folders, logs), (0, 0, 52));
        assert!(is_there_after_a_crash(root.path(), "b").await);
        assert!(!is_there_after_a_crash(root.path(), "a").await);
    }

    /// The log is slow, and a delete in flight into it, when the key gets a new object that does
    /// not go through the log.
    #[tokio::test]
    #[expect(clippy::await_holding_lock, reason = "no task takes it: the thread of the log does")]
    async fn a_change_that_is_on_its_way_into_the_log_does_not_undo_a_later_one() {
        let (root, store) = open();
        let (store, key) = (Arc::new(store), "a".parse::<Key>().unwrap());
        store.put(&key, large(), PutMode::Create).await.unwrap();
        let gate = store.inner.syncs.log_gate.lock().unwrap();
        let first = store.clone();
        let first = tokio::spawn(async move { put(&first, "b").await });
        let second = store.clone();
        let deleted = key.clone();
        let second = tokio::spawn(async move { second.delete_many(&[deleted]).await });
        while root.path().join("a").exists() {
            tokio::task::yield_now().await;
        }
        let third = store.clone();
        let written = key.clone();
        let third =
            tokio::spawn(async move { third.put(&written, large(), PutMode::Create).await });
        while !root.path().join("a").exists() {
            tokio::task::yield_now().await;
        }
        drop(gate);
        first.await.unwrap().unwrap();
        second.await.unwrap().unwrap();
        third.await.unwrap().unwrap();
        let found = tempfile::tempdir().unwrap();
        for name in [".run", ".log-0", "a"] {
            std::fs::copy(root.path().join(name), found.path().join(name)).unwrap();
        }
        let after = FsStore::open(found.path(), FsOptions::default()).unwrap();
        assert_eq!(after.head(&key).await.unwrap().size_bytes, large().len() as u64);
    }

    #[tokio::test]
    async fn nothing_is_acknowledged_after_a_folder_did_not_sync() {
        let (_root, store) = open();
        put(&store, "a").await.unwrap();
        fail_next_sync(&store);
        let kind = |result: Result<()>| result.unwrap_err().kind();
        let key = "a".parse().unwrap();
        assert_eq!(kind(store.delete(&key, None).await), ErrorKind::Unavailable);
        assert_eq!(kind(store.delete(&key, None).await), ErrorKind::Unavailable);
        assert_eq!(kind(put(&store, "b").await.map(|_| ())), ErrorKind::Unavailable);
        assert_eq!(
            kind(store.create_multipart(&key, 1, 1024).await.map(|_| ())),
            ErrorKind::Unavailable
        );
    }

    #[tokio::test]
    async fn upload_whose_bytes_did_not_sync_is_not_found() {
        let (_root, store) = open();
        let key = "bulk/object".parse().unwrap();
        let mut upload = store.create_multipart(&key, 1, 1024).await.unwrap();
        upload.record(store.put_part(&upload, 0, large()).await.unwrap());
        // The name of the upload is in the log by now.
        put(&store, "b").await.unwrap();
        fail_next_sync(&store);
        let failed = store.sync_parts(&upload).await.unwrap_err();
        assert_eq!(failed.kind(), ErrorKind::Unavailable);
        assert!(store.sync_parts(&upload).await.unwrap_err().is_not_found());
        assert!(store.complete_multipart(&upload).await.unwrap_err().is_not_found());
        put(&store, "a").await.unwrap();
    }

    #[tokio::test]
    async fn part_that_does_not_fit_leaves_nothing_behind() {
        let (root, store) = open();
        let key = "bulk/object".parse().unwrap();
        let mut upload = store.create_multipart(&key, 1, 16).await.unwrap();
        upload.record(store.put_part(&upload, 0, "12345".into()).await.unwrap());
        store.sync_parts(&upload).await.unwrap();
        let staging = || {
            let mut entries = std::fs::read_dir(root.path().join("bulk")).unwrap();
            std::fs::read(entries.next().unwrap().unwrap().path()).unwrap()
        };
        for _ in 0..2 {
            *store.inner.room.lock().unwrap() = Some(3);
            let failed = store.put_part(&upload, 5, "67890".into()).await.unwrap_err();
            assert_eq!(failed.kind(), ErrorKind::Full);
            assert_eq!(staging(), b"12345");
            upload = store.resume_multipart(&upload, upload.writer + 1).await.unwrap();
        }
        store.put_part(&upload, 7, "89".into()).await.unwrap();
        *store.inner.room.lock().unwrap() = Some(1);
        store.put_part(&upload, 5, "67".into()).await.unwrap_err();
        assert_eq!(staging().len(), 9, "a part that another wrote behind it stays");
        upload.record(store.put_part(&upload, 5, "67".into()).await.unwrap());
        store.complete_multipart(&upload).await.unwrap();
        assert_eq!(store.get(&key).await.unwrap().bytes, "1234567");
    }
}
