//! [`Core`]: what every part of the registry works with, and the writing rules they share.
//!
//! A *referencing write* (a manifest, a mount, a commit onto an existing link) makes something
//! depend on records that a collector may be about to remove. The rules that keep this safe
//! without a lock (docs/format.md has the records they are about):
//!
//! - W1 read every record that will be depended on; one older than [`TOUCH_AGE`] is touched: written
//!   with a new nonce, on the version just read. What a collector judged old is then a version
//!   that no longer exists, and its delete, which names that version, fails.
//! - W2 send the referencing write before the [`WriteWindow`] that opened before the first such read
//!   has closed. The store looks at it again between signing the request and sending it.
//! - W3 acknowledge only after W2.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_lifecycle::CurrentRules;
use jreg_storage::{
    Clock, ETag, Key, ListRequest, Listed, Put, PutMode, PutPurpose, SequenceOutcome, Stat, Store,
    StoreChange, Written,
};
use tokio::sync::{Mutex, Semaphore, SemaphorePermit};

use crate::attempts::SwapAttempts;
use crate::budget::MemoryBudget;
use crate::cache::ContentCache;
use crate::compute::ComputePool;
use crate::damaged::{DamageCounter, FoundRecord};
use crate::event::EventOutbox;
use crate::fingerprint::ListedVersion;
use crate::format::{FormatMarker, RequiredFeatures};
use crate::manifest_locks::ManifestLocks;
use crate::name_lists::NameLists;
use crate::page::LIST_KEYS_MAX;
use crate::part_buffer::MappingPool;
use crate::pull_collector::PullCollector;
use crate::quota_ledger::QuotaLedger;
use crate::record::{StoredRecord, VersionedRecord, decode_versioned};
use crate::referrer_cache::ReferrerCache;
use crate::rules::{Rule, Rules};
use crate::session_cache::SessionCache;
use crate::size_cache::SizeCache;
use crate::suspects::Suspects;
use crate::unrecorded::UnrecordedUploads;
use crate::window::{TOUCH_AGE, WINDOW, WriteWindow};
use crate::{Error, RegistryOptions, Result, TouchPolicy};

/// What a client is told to retry for, of the records that list a repository's content.
const REPOSITORY_CONTENDED: &str = "the repository is being changed by too many others";
/// So many that of some hundred tags that are written at the same time hardly any two share one.
const TAG_LOCKS: usize = 4096;
/// Maximum bytes of manifests in memory, over all requests, because something that is pushed relies on
/// them and they are old (what is young is not read), or because they may protect what is deleted.
const TOUCH_BYTES_MAX: u64 = 32 * 1024 * 1024;
/// Maximum concurrent reads of manifests that are not cached, to serve or protect them, and of pages of
/// referrers. Each may have as many bytes as a manifest can have, and large ones are hashed a few at a
/// time.
pub const MANIFEST_READS_MAX: usize = 32;

/// Maximum number of requests that count what repositories hold at the same time.
const USAGE_COUNTS_MAX: usize = 2;

/// The store with everything that is kept beside it in memory.
///
/// A clone works with the same memory and the same locks.
#[derive(Clone, Debug)]
pub(crate) struct Core {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: RegistryOptions,
    /// What the store's mark is known to require.
    pub(crate) required: Arc<RequiredFeatures>,
    pub(crate) rules: Rules,
    /// The rules file.
    pub(crate) lifecycle: CurrentRules,
    pub(crate) cache: Arc<ContentCache>,
    pub(crate) referrers: Arc<ReferrerCache>,
    pub(crate) sessions: Arc<SessionCache>,
    pub(crate) unrecorded: Arc<UnrecordedUploads>,
    pub(crate) suspects: Arc<Suspects>,
    pub(crate) damage: Arc<DamageCounter>,
    /// Whether events are written.
    pub(crate) events: EventOutbox,
    /// A permit for each upload that may send at the same time.
    pub(crate) upload_slots: Arc<Semaphore>,
    /// The bytes of uploads that may be in memory.
    pub(crate) upload_bytes: MemoryBudget,
    /// What those bytes are collected in.
    pub(crate) mappings: MappingPool,
    /// Sessions of unfinished uploads that the reaper has read.
    pub(crate) unfinished: Arc<std::sync::Mutex<HashSet<ListedVersion>>>,
    /// Writers of one tag in this process go one after the other. Only a courtesy: what makes
    /// them safe is compare-and-swap, but without this they would mostly fail at it.
    tag_locks: Arc<[Mutex<()>]>,
    /// How pushes and deletes of a manifest in this process take turns.
    pub(crate) manifest_locks: ManifestLocks,
    /// The memory for manifests that are touched because something relies on them, in KiB.
    touch_room: Arc<Semaphore>,
    /// A permit for each read of a manifest that is not cached, until it is verified.
    pub(crate) manifest_reads: Arc<Semaphore>,
    /// A permit for each page of referrers with entries that are not cached.
    pub(crate) referrer_reads: Arc<Semaphore>,
    /// Sizes of what manifests reference, for counting what repositories hold.
    pub(crate) sizes: Arc<SizeCache>,
    /// What the pools of quotas hold.
    pub(crate) quotas: Arc<QuotaLedger>,
    /// What was pulled and is not written down yet.
    pub(crate) pulls: Arc<PullCollector>,
    /// Whether pulls are tracked also if no rule needs it.
    pub(crate) always_tracks_pulls: bool,
    /// Names that people look through.
    pub(crate) name_lists: Arc<NameLists>,
    /// A permit for each request that counts.
    pub(crate) usage_counts: Arc<Semaphore>,
    /// Hashing and parsing of what is large.
    pub(crate) compute: ComputePool,
    /// Whether what is written comes from other registries.
    pub(crate) is_mirror: bool,
}

/// How a record is written over the version that was read, or created if none was.
pub(crate) fn swap_mode(seen: Option<&ETag>) -> PutMode {
    seen.map_or(PutMode::Create, |etag| PutMode::Match(etag.clone()))
}

impl Core {
    pub(crate) fn new(
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        options: RegistryOptions,
        marker: &FormatMarker,
    ) -> Self {
        // What is judged by its age here has its times from the store.
        let clock = store.clock().unwrap_or(clock);
        let limits = &options.limits;
        // One part must fit, or no upload could ever send.
        let part_bytes =
            limits.part_bytes.unwrap_or_default().max(store.capabilities().parts.part_bytes);
        let budget = limits.upload_buffer_bytes.max(part_bytes);
        Self {
            cache: Arc::new(ContentCache::new(store.capabilities().is_exclusive, &options)),
            referrers: Arc::new(ReferrerCache::new(options.cache_bytes)),
            sessions: Arc::new(SessionCache::new()),
            unrecorded: Arc::new(UnrecordedUploads::new()),
            suspects: Arc::new(Suspects::new()),
            damage: Arc::default(),
            events: EventOutbox::default(),
            required: Arc::new(RequiredFeatures::of(marker)),
            rules: Rules::default(),
            lifecycle: CurrentRules::default(),
            upload_slots: Arc::new(Semaphore::new(limits.uploads_max)),
            upload_bytes: MemoryBudget::new(budget, part_bytes, limits.buffer_wait_max),
            mappings: MappingPool::new(budget),
            unfinished: Arc::default(),
            tag_locks: (0..TAG_LOCKS).map(|_| Mutex::new(())).collect(),
            manifest_locks: ManifestLocks::new(),
            touch_room: Arc::new(Semaphore::new(in_kib(TOUCH_BYTES_MAX) as usize)),
            manifest_reads: Arc::new(Semaphore::new(MANIFEST_READS_MAX)),
            referrer_reads: Arc::new(Semaphore::new(MANIFEST_READS_MAX)),
            sizes: Arc::new(SizeCache::new()),
            quotas: Arc::default(),
            pulls: Arc::new(PullCollector::new()),
            always_tracks_pulls: false,
            name_lists: Arc::default(),
            usage_counts: Arc::new(Semaphore::new(USAGE_COUNTS_MAX)),
            compute: ComputePool::new(),
            is_mirror: false,
            store,
            clock,
            options,
        }
    }

    /// Whether the store is only read. Then nothing is touched, and what a record names may be late.
    pub(crate) fn is_read_only(&self) -> bool {
        self.store.capabilities().is_read_only
    }

    /// What an existence check may touch.
    pub(crate) fn touch_policy(&self, wanted: TouchPolicy) -> TouchPolicy {
        if self.is_read_only() { TouchPolicy::Never } else { wanted }
    }

    /// Whether other processes change the store as well.
    pub(crate) fn is_shared(&self) -> bool {
        !self.store.capabilities().is_exclusive
    }

    /// Opens the window for referencing writes; to be called before the first read.
    pub(crate) fn open_window(&self) -> WriteWindow {
        WriteWindow::open(&*self.clock)
    }

    /// The window to write in: `opened` opened before what is relied on was read, or stored.
    pub(crate) fn window_since(&self, opened: WriteWindow) -> WriteWindow {
        if self.rules.keep(Rule::WindowFirst) { opened } else { self.open_window() }
    }

    /// Fails once the window has closed: what was read may be gone by now.
    pub(crate) fn check_window(&self, window: WriteWindow) -> Result<()> {
        if window.elapsed(&*self.clock) < WINDOW || !self.rules.keep(Rule::Window) {
            return Ok(());
        }
        Err(Error::Interrupted { what: "content that this request relies on may have" })
    }

    /// Runs writes that must be sent within a window, if there is one.
    pub(crate) async fn send_within<T>(
        &self,
        window: Option<WriteWindow>,
        writes: impl Future<Output = T>,
    ) -> T {
        match window.filter(|_| self.rules.keep(Rule::WindowAtSend)) {
            None => writes.await,
            Some(window) => window.scope(Arc::clone(&self.clock), writes).await,
        }
    }

    /// W2 for one record: swaps it while the window is open.
    pub(crate) async fn swap_within(
        &self,
        window: WriteWindow,
        key: &Key,
        seen: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<Option<Written>> {
        self.check_window(window)?;
        self.send_within(Some(window), self.swap(key, seen, bytes)).await
    }

    /// Reads a record; `None` if it is absent.
    pub(crate) async fn read<T: StoredRecord>(
        &self,
        key: &Key,
    ) -> Result<Option<VersionedRecord<T>>> {
        match self.store.get(key).await {
            Ok(record) => decode_versioned(key, record).map(Some),
            Err(error) if error.is_not_found() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Writes an object, within a window if there is one; a part of a delete by the method that can say so.
    pub(crate) async fn send_put(
        &self,
        window: Option<WriteWindow>,
        put: Put,
    ) -> jreg_storage::Result<Written> {
        match put.purpose {
            PutPurpose::Content => {
                self.send_within(window, self.store.put(&put.key, put.bytes, put.mode)).await
            }
            PutPurpose::Delete => {
                self.send_within(window, self.store.put_after(Vec::new(), put)).await?.last()
            }
        }
    }

    /// Writes a record over the version that was read, or creates it if none was. `None` if another
    /// writer was first.
    pub(crate) async fn swap(
        &self,
        key: &Key,
        seen: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<Option<Written>> {
        match self.store.put(key, bytes, swap_mode(seen)).await {
            Ok(written) => Ok(Some(written)),
            Err(error) if error.is_conflict() => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Stores an object, and then swaps a record, over the version that was read, that names it.
    /// `None` for the record: another writer was first. If nothing else names the object, the record
    /// must be sent before `window` closes.
    pub(crate) async fn put_then(
        &self,
        window: Option<WriteWindow>,
        first: Put,
        then: Put,
    ) -> Result<Option<Written>> {
        let open = || {
            let window = window.map(|window| self.window_since(window));
            window.map_or(Ok(()), |window| self.check_window(window)).map(|()| window)
        };
        let named = match self.store.capabilities().combines_changes {
            true => {
                let (window, before) = (open()?, vec![StoreChange::Put(first)]);
                self.send_within(window, self.store.put_after(before, then)).await?.last()
            }
            false => {
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

    /// Makes changes, and then a write, in a store that makes all durable at once. The last must be
    /// sent before `window` closes.
    pub(crate) async fn put_after(
        &self,
        window: WriteWindow,
        before: Vec<StoreChange>,
        then: Put,
    ) -> Result<SequenceOutcome> {
        let window = self.window_since(window);
        self.check_window(window)?;
        Ok(self.send_within(Some(window), self.store.put_after(before, then)).await?)
    }

    /// Reads a record that is to be written or removed.
    pub(crate) async fn find_record<T: StoredRecord + Send + 'static>(
        &self,
        key: &Key,
    ) -> Result<FoundRecord<T>> {
        let record = match self.store.get(key).await {
            Ok(record) => record,
            Err(error) if error.is_not_found() => return Ok(FoundRecord::Absent),
            Err(error) => return Err(error.into()),
        };
        let (key, length) = (key.clone(), record.bytes.len());
        self.compute.run(length, move || FoundRecord::decode(&key, record)).await?
    }

    /// Removes the version of a record that was seen. `false` if there is another, or none.
    pub(crate) async fn remove(&self, key: &Key, seen: &ETag) -> Result<bool> {
        match self.store.delete(key, Some(seen)).await {
            Ok(()) => Ok(true),
            Err(error) if error.is_conflict() => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// The same, sent while the window is open.
    pub(crate) async fn remove_within(
        &self,
        window: WriteWindow,
        key: &Key,
        seen: &ETag,
    ) -> Result<bool> {
        self.check_window(window)?;
        self.send_within(Some(window), self.remove(key, seen)).await
    }

    /// W1 for one record: returns it once it is young, writing it again if it is old. `None` if
    /// it is absent, or if `is_valid` says that it stands for nothing.
    pub(crate) async fn touch_record<T: StoredRecord>(
        &self,
        window: WriteWindow,
        key: &Key,
        is_valid: impl Fn(&T) -> bool,
    ) -> Result<Option<VersionedRecord<T>>> {
        let mut attempts = SwapAttempts::new("the content is being changed by too many others");
        loop {
            attempts.next().await?;
            let Some(seen) = self.read::<T>(key).await? else { return Ok(None) };
            if !is_valid(&seen.value) {
                return Ok(None);
            }
            if let Some(young) = self.touch_version(window, key, seen).await? {
                return Ok(Some(young));
            }
        }
    }

    /// W1 for a record that was read: as it is if it is young, else touched. `None` if
    /// another writer was first.
    pub(crate) async fn touch_version<T: StoredRecord>(
        &self,
        window: WriteWindow,
        key: &Key,
        seen: VersionedRecord<T>,
    ) -> Result<Option<VersionedRecord<T>>> {
        self.touch_version_of(window, key, seen, TOUCH_AGE).await
    }

    /// The same from this age on.
    pub(crate) async fn touch_version_of<T: StoredRecord>(
        &self,
        window: WriteWindow,
        key: &Key,
        mut seen: VersionedRecord<T>,
        touch_age: Duration,
    ) -> Result<Option<VersionedRecord<T>>> {
        if seen.age() < touch_age || !self.rules.keep(Rule::Touch) {
            return Ok(Some(seen));
        }
        let bytes = seen.renewed();
        let written = self.swap_within(window, key, Some(&seen.etag), bytes).await?;
        Ok(written.map(|Written { etag, date }| {
            (seen.etag, seen.last_modified, seen.date) = (etag, date, date);
            seen
        }))
    }

    /// Makes sure that a record whose content follows from its key is there, and young.
    pub(crate) async fn ensure_record<T: StoredRecord + PartialEq + Send + 'static>(
        &self,
        window: WriteWindow,
        key: &Key,
        value: &T,
    ) -> Result<()> {
        let mut attempts = SwapAttempts::new(REPOSITORY_CONTENDED);
        loop {
            attempts.next().await?;
            if self.swap_within(window, key, None, value.encode()).await?.is_some() {
                return Ok(());
            }
            let done = match self.find_record::<T>(key).await? {
                FoundRecord::Absent => false,
                FoundRecord::Valid(seen) if seen.value == *value => {
                    self.touch_version(window, key, seen).await?.is_some()
                }
                FoundRecord::Valid(other) => {
                    let seen = Some(&other.etag);
                    self.swap_within(window, key, seen, value.encode()).await?.is_some()
                }
                FoundRecord::Damaged(damaged) => {
                    let seen = Some(&damaged.etag);
                    let written = self.swap_within(window, key, seen, value.encode()).await?;
                    written.inspect(|_| self.damage.note_replaced(key, &damaged)).is_some()
                }
            };
            if done {
                return Ok(());
            }
        }
    }

    /// Writes a record whose content follows from its key, whatever is there: it is young then.
    pub(crate) async fn overwrite_record<T: StoredRecord>(
        &self,
        window: WriteWindow,
        key: &Key,
        value: &T,
    ) -> Result<()> {
        self.check_window(window)?;
        let put = self.store.put(key, value.encode(), PutMode::Overwrite);
        self.send_within(Some(window), put).await?;
        Ok(())
    }

    /// Writes a record that is a new version whatever is there: a delete in flight of the one before
    /// will miss.
    pub(crate) async fn write_new_version<T: StoredRecord + Send + 'static>(
        &self,
        window: WriteWindow,
        key: &Key,
        value: &T,
        purpose: PutPurpose,
    ) -> Result<()> {
        let mut attempts = SwapAttempts::new(REPOSITORY_CONTENDED);
        // Mostly there is none: that there is one is no other writer's doing, and no attempt lost.
        let mut seen = FoundRecord::<T>::Absent;
        loop {
            self.check_window(window)?;
            let put = Put::new(key.clone(), value.encode(), swap_mode(seen.etag()));
            match self.send_put(Some(window), put.with_purpose(purpose)).await {
                Ok(_) => break,
                Err(error) if error.is_conflict() => {}
                Err(error) => return Err(error.into()),
            }
            attempts.next().await?;
            seen = self.find_record(key).await?;
        }
        seen.damaged().inspect(|damaged| self.damage.note_replaced(key, damaged));
        Ok(())
    }

    /// The version of a record, whatever its content.
    pub(crate) async fn read_etag(&self, key: &Key) -> Result<Option<ETag>> {
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

    /// Waits for room for a record of so many bytes, as it was read and as it is written.
    pub(crate) async fn reserve_touch_memory(&self, bytes: u64) -> Result<SemaphorePermit<'_>> {
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
                return Ok(Listing { entries, more, date: page.date });
            }
            // Many tombstones are passed over in few requests.
            request.limit = LIST_KEYS_MAX;
            request.start_after = page.next;
        }
    }

    /// Every key below a prefix: for commands, not for requests of clients.
    pub(crate) async fn list_all(&self, prefix: String) -> Result<Vec<Key>> {
        let mut keys = Vec::new();
        let mut pages = self.list_pages(prefix);
        while let Some(page) = pages.next().await? {
            keys.extend(page.entries.into_iter().map(|entry| entry.key));
        }
        Ok(keys)
    }

    /// Reads several records at a time, at most [`manifest_reads_in_flight`](crate::RegistryLimits) of them, in
    /// the order of the keys.
    pub(crate) async fn read_all<T: StoredRecord>(
        &self,
        keys: Vec<Key>,
    ) -> Result<Vec<Option<VersionedRecord<T>>>> {
        let reads = keys.into_iter().map(|key| async move { self.read(&key).await });
        stream::iter(reads).buffered(self.reads_in_flight_max()).try_collect().await
    }

    /// How many reads of one wave run at the same time.
    pub(crate) fn reads_in_flight_max(&self) -> usize {
        self.options.limits.manifest_reads_in_flight.max(1)
    }

    /// The lock under which this process writes a tag.
    pub(crate) fn tag_lock(&self, tag: &Key) -> &Mutex<()> {
        &self.tag_locks[stripe(tag, TAG_LOCKS)]
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
    /// When the store responded, by its clock.
    pub(crate) date: SystemTime,
}
