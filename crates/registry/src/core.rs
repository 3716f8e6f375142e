//! [`Core`]: what every part of the registry works with, and the writing rules they share.
//!
//! A *referencing write* (a manifest, a mount, a commit onto an existing link) makes something
//! depend on records that a collector may be about to remove. The rules that keep this safe
//! without a lock (docs/format.md has the records they are about):
//!
//! - W1 read every record that will be depended on; one older than [`TOUCH_AGE`] is written again
//!   with a new nonce, on the version just read. What a collector judged old is then a version
//!   that no longer exists, and its delete, which names that version, fails.
//! - W2 send the referencing write before the [`Window`] that opened before the first such read
//!   has closed. The store looks at it again between signing the request and sending it.
//! - W3 acknowledge only after W2.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_storage::{
    Clock, ETag, Key, ListRequest, Listed, Locality, Put, PutMode, SendWindow, Stat, Store, Written,
};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};
use uuid::Uuid;

use crate::budget::Budget;
use crate::cache::Cache;
use crate::compute::Compute;
use crate::fingerprint::Version;
use crate::manifest_locks::ManifestLocks;
use crate::page::LIST_KEYS_MAX;
use crate::part_buffer::Mappings;
use crate::record::{Stored, Versioned, versioned};
use crate::referrer_cache::ReferrerCache;
use crate::rules::{Rule, Rules};
use crate::session_cache::SessionCache;
use crate::suspects::Suspects;
use crate::{Error, Options, Result};

/// From what age on a record is written again before anything is made to depend on it: the
/// format's constant T. A collector leaves alone what is younger than its grace, which is at
/// least twice this.
pub(crate) const TOUCH_AGE: Duration = Duration::from_secs(3600);

/// How long after its first read a referencing write may still be handed to the store, which
/// repeats it for a minute at most. With the 15 minutes that a signed request may travel, this is
/// the format's bound B of 20 minutes.
pub(crate) const WINDOW: Duration = Duration::from_secs(4 * 60);

/// For how long the store repeats a write on a condition.
const REPEATED_MAX: Duration = Duration::from_secs(60);

/// For how long a referencing write may be on its way to the store, from its first read on: the
/// format's bound B.
pub(crate) const WRITE_MAX: Duration = Duration::from_secs(20 * 60);

/// How often a lost compare-and-swap is tried again before the client is asked to.
pub(crate) const ATTEMPTS_MAX: u32 = 24;

const BACKOFF_MIN_MS: u64 = 2;
const BACKOFF_MAX_MS: u64 = 250;
/// So many that of some hundred tags that are written at the same time hardly any two share one.
const TAG_LOCKS: usize = 4096;
/// Maximum bytes of manifests in memory, over all requests, because something that is pushed relies on
/// them and they are old (what is young is not read), or because they may protect what is deleted.
const TOUCH_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// The most manifests that are read at the same time to serve or protect them, and the most pages of
/// referrers. Each may have as many bytes
/// as a manifest can have, and large ones are hashed a few at a time.
pub const MANIFEST_READS_MAX: usize = 32;

/// The store with everything that is kept beside it in memory.
///
/// A clone works with the same memory and the same locks.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: Options,
    pub(crate) rules: Rules,
    pub(crate) cache: Arc<Cache>,
    pub(crate) referrers: Arc<ReferrerCache>,
    pub(crate) sessions: Arc<SessionCache>,
    pub(crate) suspects: Arc<Suspects>,
    /// A permit for each upload that may send at the same time.
    pub(crate) upload_slots: Arc<Semaphore>,
    /// The bytes of uploads that may be in memory.
    pub(crate) upload_bytes: Budget,
    /// What those bytes are collected in.
    pub(crate) mappings: Mappings,
    /// Sessions of unfinished uploads that the reaper has read.
    pub(crate) unfinished: Arc<std::sync::Mutex<HashSet<Version>>>,
    /// Writers of one tag in this process go one after the other. Only a courtesy: what makes
    /// them safe is compare-and-swap, but without this they would mostly fail at it.
    tag_locks: Arc<[Mutex<()>]>,
    /// In this process a manifest is not deleted between a push of it and its tags. Between processes
    /// such a tag may be left without its manifest, until a collector removes it.
    pub(crate) manifest_locks: ManifestLocks,
    /// The memory for manifests that are written again because something relies on them, in KiB.
    touch_room: Arc<Semaphore>,
    /// Reads of manifests that are not in memory: each has one until its reader does with it what it
    /// likes.
    pub(crate) manifest_reads: Arc<Semaphore>,
    /// Pages of referrers with entries that are not in memory, likewise.
    pub(crate) referrer_reads: Arc<Semaphore>,
    /// Hashing and parsing of what is large.
    pub(crate) compute: Compute,
}

/// The time in which the writes that rely on some reads must be sent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    opened: Duration,
    /// The same by a clock that goes on while the machine sleeps.
    opened_at: SystemTime,
}

/// How a record is written over the version that was seen, or anew if none was.
pub(crate) fn over(seen: Option<&ETag>) -> PutMode {
    seen.map_or(PutMode::Create, |etag| PutMode::Match(etag.clone()))
}

impl Core {
    pub(crate) fn new(store: Arc<dyn Store>, clock: Arc<dyn Clock>, options: Options) -> Self {
        let limits = &options.limits;
        // One part must fit, or no upload could ever send.
        let part_bytes = limits.part_bytes.unwrap_or_default().max(store.part_rules().part_bytes);
        let budget = limits.upload_buffer_bytes.max(part_bytes);
        Self {
            cache: Arc::new(Cache::new(store.locality(), &options)),
            referrers: Arc::new(ReferrerCache::new(options.cache_bytes)),
            sessions: Arc::new(SessionCache::new()),
            suspects: Arc::new(Suspects::new()),
            rules: Rules::default(),
            upload_slots: Arc::new(Semaphore::new(limits.uploads_max)),
            upload_bytes: Budget::new(budget, part_bytes, limits.buffer_wait_max),
            mappings: Mappings::new(budget),
            unfinished: Arc::default(),
            tag_locks: (0..TAG_LOCKS).map(|_| Mutex::new(())).collect(),
            manifest_locks: ManifestLocks::new(),
            touch_room: Arc::new(Semaphore::new(in_kib(TOUCH_BYTES_MAX) as usize)),
            manifest_reads: Arc::new(Semaphore::new(MANIFEST_READS_MAX)),
            referrer_reads: Arc::new(Semaphore::new(MANIFEST_READS_MAX)),
            compute: Compute::new(),
            store,
            clock,
            options,
        }
    }

    /// Opens the window for referencing writes; to be called before the first read.
    pub(crate) fn window(&self) -> Window {
        Window { opened: self.clock.monotonic(), opened_at: self.clock.now() }
    }

    /// The window to write in, of which `opened` says that it opened before what is relied on was
    /// read, or stored.
    pub(crate) fn since(&self, opened: Window) -> Window {
        if self.rules.keep(Rule::WindowFirst) { opened } else { self.window() }
    }

    /// Fails once the window has closed: what was read may by now be gone.
    pub(crate) fn check(&self, window: Window) -> Result<()> {
        if self.passed_since(window) < WINDOW || !self.rules.keep(Rule::Window) {
            return Ok(());
        }
        Err(Error::Interrupted { what: "content that this request relies on may have" })
    }

    /// How long a window has been open, by the clock that shows more.
    pub(crate) fn passed_since(&self, window: Window) -> Duration {
        let awake = self.clock.monotonic().saturating_sub(window.opened);
        let asleep = self.clock.now().duration_since(window.opened_at).unwrap_or_default();
        awake.max(asleep)
    }

    /// Runs writes that must not be sent, nor repeated, after the window and the minute in which the
    /// store repeats them.
    pub(crate) async fn send_within<T>(
        &self,
        window: Option<Window>,
        writes: impl Future<Output = T>,
    ) -> T {
        match window.filter(|_| self.rules.keep(Rule::WindowAtSend)) {
            None => writes.await,
            Some(Window { opened, opened_at }) => {
                let (clock, length) = (Arc::clone(&self.clock), WINDOW + REPEATED_MAX);
                SendWindow::new(clock, opened, opened_at, length).scope(writes).await
            }
        }
    }

    /// W2 for one record: swaps it while the window is open.
    pub(crate) async fn swap_within(
        &self,
        window: Window,
        key: &Key,
        seen: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<Option<Written>> {
        self.check(window)?;
        self.send_within(Some(window), self.swap(key, seen, bytes)).await
    }

    /// Reads a record; `None` if it is absent.
    pub(crate) async fn read<T: Stored>(&self, key: &Key) -> Result<Option<Versioned<T>>> {
        match self.store.get(key).await {
            Ok(record) => versioned(key, record).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes a record over the version that was seen, or anew if none was. `None` if another
    /// writer was first.
    pub(crate) async fn swap(
        &self,
        key: &Key,
        seen: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<Option<Written>> {
        match self.store.put(key, bytes, over(seen)).await {
            Ok(written) => Ok(Some(written)),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores an object, and then swaps a record, over the version that was seen, that names it.
    /// `None` for the record: another writer was first. In `unnamed` nothing else names the
    /// object, so the record must be sent before that closes.
    pub(crate) async fn put_then(
        &self,
        unnamed: Option<Window>,
        first: Put,
        then: Put,
    ) -> Result<Option<Written>> {
        let open = || {
            let window = unnamed.map(|window| self.since(window));
            window.map_or(Ok(()), |window| self.check(window)).map(|()| window)
        };
        let named = match self.store.locality() {
            Locality::InProcess => {
                let window = open()?;
                self.send_within(window, self.store.put_both(first, then)).await?
            }
            Locality::Shared => {
                self.store.put(&first.key, first.bytes, first.mode).await?;
                let window = open()?;
                let put = self.store.put(&then.key, then.bytes, then.mode);
                self.send_within(window, put).await
            }
        };
        match named {
            Ok(written) => Ok(Some(written)),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the version of a record that was seen. `false` if there is another, or none.
    pub(crate) async fn remove(&self, key: &Key, seen: &ETag) -> Result<bool> {
        match self.store.delete(key, Some(seen)).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// W1 for one record: returns it once it is young, writing it again if it is old. `None` if
    /// it is absent, or if `holds` says that it stands for nothing.
    pub(crate) async fn hold<T: Stored>(
        &self,
        window: Window,
        key: &Key,
        holds: impl Fn(&T) -> bool,
    ) -> Result<Option<Versioned<T>>> {
        for attempt in 0..ATTEMPTS_MAX {
            let Some(seen) = self.read::<T>(key).await? else { return Ok(None) };
            if !holds(&seen.value) {
                return Ok(None);
            }
            if let Some(young) = self.renew(window, key, seen).await? {
                return Ok(Some(young));
            }
            self.back_off(attempt).await;
        }
        Err(Error::Busy { what: "the content is being changed by too many others" })
    }

    /// W1 for a record that was read: as it is if it is young, else written again. `None` if
    /// another writer was first.
    pub(crate) async fn renew<T: Stored>(
        &self,
        window: Window,
        key: &Key,
        mut seen: Versioned<T>,
    ) -> Result<Option<Versioned<T>>> {
        if seen.age() < TOUCH_AGE || !self.rules.keep(Rule::Touch) {
            return Ok(Some(seen));
        }
        let bytes = seen.value.encode();
        let written = self.swap_within(window, key, Some(&seen.etag), bytes).await?;
        Ok(written.map(|Written { etag, date }| {
            (seen.etag, seen.last_modified, seen.date) = (etag, date, date);
            seen
        }))
    }

    /// Makes sure that a record whose content follows from its key is there, and young.
    pub(crate) async fn ensure<T: Stored + PartialEq>(
        &self,
        window: Window,
        key: &Key,
        value: &T,
    ) -> Result<()> {
        for attempt in 0..ATTEMPTS_MAX {
            if self.swap_within(window, key, None, value.encode()).await?.is_some() {
                return Ok(());
            }
            let done = match self.read::<T>(key).await? {
                None => false,
                Some(seen) if seen.value == *value => {
                    self.renew(window, key, seen).await?.is_some()
                }
                Some(other) => {
                    let seen = Some(&other.etag);
                    self.swap_within(window, key, seen, value.encode()).await?.is_some()
                }
            };
            if done {
                return Ok(());
            }
            self.back_off(attempt).await;
        }
        Err(Error::Busy { what: "the repository is being changed by too many others" })
    }

    /// Writes a record that is a new version whatever is there: what is on its way to remove the
    /// one before will miss.
    pub(crate) async fn write_anew<T: Stored>(
        &self,
        window: Window,
        key: &Key,
        value: &T,
    ) -> Result<()> {
        let mut seen = None;
        for attempt in 0..ATTEMPTS_MAX {
            if self.swap_within(window, key, seen.as_ref(), value.encode()).await?.is_some() {
                return Ok(());
            }
            seen = self.etag(key).await?;
            // That something is there at first is no other writer's doing.
            if attempt > 0 {
                self.back_off(attempt).await;
            }
        }
        Err(Error::Busy { what: "the repository is being changed by too many others" })
    }

    /// The version of a record, whatever it holds.
    pub(crate) async fn etag(&self, key: &Key) -> Result<Option<ETag>> {
        match self.store.get(key).await {
            Ok(record) => Ok(Some(record.etag)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Whether an object is there.
    pub(crate) async fn exists(&self, key: &Key) -> Result<bool> {
        Ok(self.stat(key).await?.is_some())
    }

    /// What is known of an object without reading it; `None` if it is absent.
    pub(crate) async fn stat(&self, key: &Key) -> Result<Option<Stat>> {
        match self.store.head(key).await {
            Ok(stat) => Ok(Some(stat)),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// W1 for a record that may be large and is mostly young: it is read only to be written again.
    /// `false` if it is absent.
    pub(crate) async fn hold_large<T: Stored>(&self, window: Window, key: &Key) -> Result<bool> {
        let Some(stat) = self.stat(key).await? else { return Ok(false) };
        let age = stat.date.duration_since(stat.last_modified).unwrap_or_default();
        if age < TOUCH_AGE || !self.rules.keep(Rule::Touch) {
            return Ok(true);
        }
        let _room = self.room_to_touch(stat.size_bytes).await?;
        Ok(self.hold::<T>(window, key, |_| true).await?.is_some())
    }

    /// Waits for room for a record of so many bytes, as it was read and as it is written.
    pub(crate) async fn room_to_touch(&self, bytes: u64) -> Result<SemaphorePermit<'_>> {
        let kib = in_kib(bytes.saturating_mul(2).min(TOUCH_BYTES_MAX));
        self.touch_room.acquire_many(kib).await.map_err(|_| Error::Stopped)
    }

    /// Up to `limit` objects below a prefix, whatever the store's own page size.
    pub(crate) async fn list(
        &self,
        prefix: String,
        start_after: Option<String>,
        limit: usize,
    ) -> Result<Listing> {
        let limit = limit.max(1);
        let mut request = ListRequest { prefix, start_after, delimiter: false, limit };
        let mut entries = Vec::new();
        loop {
            let page = self.store.list(&request).await?;
            entries.extend(page.entries);
            if page.next.is_none() || entries.len() >= limit {
                let more = page.next.is_some() || entries.len() > limit;
                entries.truncate(limit);
                return Ok(Listing { entries, more });
            }
            // Many tombstones are passed over in few requests.
            request.limit = LIST_KEYS_MAX;
            request.start_after = page.next;
        }
    }

    /// Reads several records at a time, at most [`wave_reads_max`](crate::Limits) of them, in
    /// the order of the keys.
    pub(crate) async fn read_all<T: Stored>(
        &self,
        keys: Vec<Key>,
    ) -> Result<Vec<Option<Versioned<T>>>> {
        let reads = keys.into_iter().map(|key| async move { self.read(&key).await });
        stream::iter(reads).buffered(self.wave_width()).try_collect().await
    }

    /// How many reads of one wave run at the same time.
    pub(crate) fn wave_width(&self) -> usize {
        self.options.limits.wave_reads_max.max(1)
    }

    /// The lock under which this process writes a tag.
    pub(crate) fn tag_lock(&self, tag: &Key) -> &Mutex<()> {
        &self.tag_locks[stripe(tag, TAG_LOCKS)]
    }

    /// Waits a random while that grows with the attempts, so that writers of one record do not
    /// keep in step.
    pub(crate) async fn back_off(&self, attempt: u32) {
        let limit = BACKOFF_MAX_MS.min(BACKOFF_MIN_MS << attempt.min(10));
        let random = Uuid::new_v4().as_u64_pair().0;
        tokio::time::sleep(Duration::from_millis(random % limit)).await;
    }
}

/// Bytes in KiB, rounded up.
fn in_kib(bytes: u64) -> u32 {
    u32::try_from(bytes.div_ceil(1024)).unwrap_or(u32::MAX)
}

/// Which of `count` locks a key has, together with other keys.
fn stripe(key: &Key, count: usize) -> usize {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    usize::try_from(hasher.finish() % count as u64).unwrap_or_default()
}

/// A part of a listing.
#[derive(Debug)]
pub(crate) struct Listing {
    pub(crate) entries: Vec<Listed>,
    /// Whether the store has more after these.
    pub(crate) more: bool,
}
