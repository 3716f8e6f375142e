//! The [`Store`] trait: what jreg requires of the store that holds its bytes.
//!
//! Two kinds of object share one key space. *Records* are small (at most
//! [`RECORD_BYTES_MAX`]), are read and written whole, carry an [`ETag`] and are changed by
//! compare-and-swap. *Bulk* objects are blob bytes: written once at a key that is never used
//! again, by [`Store::put`] or as a [`Multipart`], and read as a stream.

use std::fmt::Debug;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::future::BoxFuture;
use futures::stream::BoxStream;
use serde::{Deserialize, Serialize};

use crate::{Error, Key, Result};

/// The largest object that [`Store::get`] returns: a 4 MiB manifest with its header line, with
/// a margin.
pub const RECORD_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// What an asynchronous method of [`Store`] returns.
pub type StoreFuture<'a, T> = BoxFuture<'a, Result<T>>;

/// A stream of an object's bytes. An error ends it; the bytes before it are good.
pub type ByteStream = BoxStream<'static, Result<Bytes>>;

/// An opaque version of one object, compared byte for byte and never parsed.
///
/// Two writes of a record never share an etag as long as their bytes differ, which is why every
/// record of jreg carries a random nonce.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct ETag(String);

impl ETag {
    /// Wraps what a store calls an object's version.
    pub fn new(value: impl Into<String>) -> Self {
        Self(value.into())
    }

    /// The version as the store spelled it.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// A record, read whole.
#[derive(Clone, Debug)]
pub struct Record {
    /// The bytes.
    pub bytes: Bytes,
    /// The version these bytes are.
    pub etag: ETag,
    /// When this version was written, by the store's clock.
    pub last_modified: SystemTime,
    /// When the store responded, by the same clock: `date - last_modified` is the record's age.
    pub date: SystemTime,
}

/// What is known of an object without reading it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// The object's length.
    pub size_bytes: u64,
    /// When it was written, by the store's clock. For a multipart object some stores give the
    /// time it was begun.
    pub last_modified: SystemTime,
    /// When the store responded, by the same clock.
    pub date: SystemTime,
}

/// The condition under which a record is written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PutMode {
    /// Only if the key is absent; otherwise [`ErrorKind::AlreadyExists`](crate::ErrorKind).
    Create,
    /// Only if the key's version is this one; otherwise, or if the key is absent,
    /// [`ErrorKind::Precondition`](crate::ErrorKind).
    Match(ETag),
    /// Whatever is there. Never for a key that anything else may write: a delayed retry of an
    /// unconditional write may land late and revert a newer one.
    Overwrite,
}

/// The response to a write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Written {
    /// The version that now is.
    pub etag: ETag,
    /// When the store responded, by its clock.
    pub date: SystemTime,
}

/// A change that comes before a write ([`Store::put_after`]).
#[derive(Clone, Debug)]
pub enum StoreChange {
    /// As [`Store::put`].
    Put(Put),
    /// As [`Store::complete_multipart`].
    Complete(Multipart),
}

/// How far [`Store::put_after`] came. An error before the first change took effect is none of these.
#[derive(Debug)]
#[must_use]
pub enum SequenceOutcome {
    /// Everything was done, and this is the last write.
    All(Written),
    /// The change after the first `done` (at least one) was not made.
    Stopped {
        /// How many changes were made.
        done: usize,
        /// Why the next one was not.
        error: Error,
    },
}

impl SequenceOutcome {
    /// The result of the last write.
    ///
    /// # Errors
    ///
    /// Why it, or a change before it, was not made.
    pub fn last(self) -> Result<Written> {
        match self {
            Self::All(written) => Ok(written),
            Self::Stopped { error, .. } => Err(error),
        }
    }

    /// What a change makes of a sequence of which `done` changes were made before it.
    pub(crate) fn stopped(done: usize, error: Error) -> Result<Self> {
        if done == 0 { Err(error) } else { Ok(Self::Stopped { done, error }) }
    }
}

/// [`Store::put_after`] as one call after the other, for stores and decorators that must see each.
///
/// # Errors
///
/// Why the first change was not made.
pub async fn put_in_sequence(
    store: &(impl Store + ?Sized),
    before: Vec<StoreChange>,
    then: Put,
) -> Result<SequenceOutcome> {
    let count = before.len();
    for (done, change) in before.into_iter().enumerate() {
        let made = match change {
            StoreChange::Put(put) => store.put(&put.key, put.bytes, put.mode).await.map(|_| ()),
            StoreChange::Complete(upload) => store.complete_multipart(&upload).await,
        };
        if let Err(error) = made {
            return SequenceOutcome::stopped(done, error);
        }
    }
    match store.put(&then.key, then.bytes, then.mode).await {
        Ok(written) => Ok(SequenceOutcome::All(written)),
        Err(error) => SequenceOutcome::stopped(count, error),
    }
}

/// Which bytes of a bulk object to read. Ends are exclusive and must lie within the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ByteRange {
    /// The first byte.
    pub start: u64,
    /// One past the last byte; at least `start`.
    pub end: u64,
}

impl ByteRange {
    /// The number of bytes in the range.
    pub fn len(self) -> u64 {
        self.end.saturating_sub(self.start)
    }

    /// Whether the range holds no byte.
    pub fn is_empty(self) -> bool {
        self.len() == 0
    }
}

/// One page of a listing.
#[derive(Clone, Debug)]
pub struct ListRequest {
    /// Only keys that start with this, taken as plain bytes: `""` is everything, `"a/"` a folder.
    pub prefix: String,
    /// Only keys (or common prefixes) after this one, in byte order. It need not exist.
    pub start_after: Option<String>,
    /// Group everything below the next `/` after the prefix into one common prefix.
    pub delimiter: bool,
    /// At most this many entries and common prefixes together. At least 1; a store may have a
    /// smaller maximum of its own (S3: 1,000), in which case the page says that there is more.
    pub limit: usize,
}

impl ListRequest {
    /// Every key below a prefix, from the start, one store page (1,000) at a time.
    pub fn below(prefix: impl Into<String>) -> Self {
        Self { prefix: prefix.into(), start_after: None, delimiter: false, limit: LIST_PAGE_KEYS }
    }
}

/// An object as a listing shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listed {
    /// Its key.
    pub key: Key,
    /// Its length.
    pub size_bytes: u64,
    /// When it was written, by the store's clock.
    pub last_modified: SystemTime,
    /// Its version, where the store knows it without reading the object (S3 and memory do, a
    /// folder does not).
    pub etag: Option<ETag>,
}

/// A page of a listing, in byte order of the keys.
#[derive(Clone, Debug)]
pub struct ListPage {
    /// The objects.
    pub entries: Vec<Listed>,
    /// With a delimiter: the common prefixes, each ending in `/`, in byte order.
    pub prefixes: Vec<String>,
    /// Where to continue, as the next request's `start_after`; `None` says that this page
    /// reached the end. A page that was cut is never shown as a last one.
    pub next: Option<String>,
    /// When the store responded, by its clock.
    pub date: SystemTime,
}

/// What one call of [`Store::purge`] did.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Purged {
    /// Number of tombstones that were removed.
    pub removed: u64,
    /// Where to continue, as the next request's `start_after`; `None`: that was all.
    pub next: Option<String>,
}

/// What a write is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PutPurpose {
    /// Content, or a record about it.
    #[default]
    Content,
    /// A delete: what it leaves of what it removes. If there is no space, it may take what the store keeps back
    /// for deletes ([`Store::put_after`]).
    Delete,
}

/// A write of a whole object.
#[derive(Clone, Debug)]
pub struct Put {
    /// Where.
    pub key: Key,
    /// All of it.
    pub bytes: Bytes,
    /// Under which condition.
    pub mode: PutMode,
    /// For what.
    pub purpose: PutPurpose,
}

impl Put {
    /// A write of content.
    pub fn new(key: Key, bytes: Bytes, mode: PutMode) -> Self {
        Self { key, bytes, mode, purpose: PutPurpose::Content }
    }

    /// The same write for another purpose.
    #[must_use]
    pub fn with_purpose(self, purpose: PutPurpose) -> Self {
        Self { purpose, ..self }
    }
}

/// A store's rules for the parts of a multipart upload.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PartRules {
    /// How large to make a part when nothing else decides.
    pub part_bytes: u64,
    /// Whether every part but the last must be exactly as large as the first. If not, a part may
    /// be of any size, and what is left at the end of a request can be stored as a part at once.
    pub uniform: bool,
    /// The most parts one upload may have.
    pub parts_max: u64,
}

/// The capabilities of a store. Constant for its lifetime.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoreCapabilities {
    /// Sizes and number of the parts of a multipart upload.
    pub parts: PartRules,
    /// Every change passes through this value: a cache beside it can be exact. Otherwise other
    /// processes may change the store, and what was read is already old.
    pub is_exclusive: bool,
    /// Every write is refused ([`ErrorKind::ReadOnly`](crate::ErrorKind)), and others may write.
    pub is_read_only: bool,
    /// Each request is a round trip over a network: concurrent reads are worth sharing, slow ones
    /// worth hedging, and a read that can be spared is.
    pub is_remote: bool,
    /// [`Store::put_after`] makes all changes durable at once.
    pub combines_changes: bool,
    /// [`Store::resume_multipart`] shuts out smaller claims, and finds lost parts, itself. Otherwise
    /// the next part or the completion does.
    pub fences_claims: bool,
    /// A multipart upload for which [`Store::sync_parts`] was never called is dropped when the process
    /// ends. So it needs no record by which it can be cleaned up.
    pub drops_unrecorded_uploads: bool,
    /// What an upload in progress received within the last second may be lost with the process, for the
    /// sake of speed: the record of an upload may be deferred for so long.
    pub defers_upload_records: bool,
    /// [`Store::delete`] of a version works on every key. If not, it is
    /// [`ErrorKind::Refused`](crate::ErrorKind) except where the store says otherwise, and a record
    /// is swapped for a tombstone instead.
    pub deletes_versions: bool,
    /// How many keys a page should have when everything below a prefix is listed.
    pub list_page_keys: usize,
}

impl StoreCapabilities {
    /// Those of a store in this process.
    pub const fn local(parts: PartRules) -> Self {
        Self {
            parts,
            is_exclusive: true,
            is_read_only: false,
            is_remote: false,
            combines_changes: true,
            fences_claims: true,
            drops_unrecorded_uploads: false,
            defers_upload_records: false,
            deletes_versions: true,
            // A folder is read whole for each page of it, and nothing is written in it meanwhile.
            list_page_keys: 10_000,
        }
    }

    /// Those of a store that is a service which others use as well.
    pub const fn remote(parts: PartRules) -> Self {
        Self {
            parts,
            is_exclusive: false,
            is_read_only: false,
            is_remote: true,
            combines_changes: false,
            fences_claims: false,
            drops_unrecorded_uploads: false,
            defers_upload_records: false,
            deletes_versions: true,
            list_page_keys: LIST_PAGE_KEYS,
        }
    }
}

/// How many keys a page of a listing has unless the request says otherwise.
const LIST_PAGE_KEYS: usize = 1000;

/// How a store is at the moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoreHealth {
    /// How far the store's clock was from this machine's: of a service at the last response, as far
    /// as that tells; of a folder now. `None` if there was no response, or if there is but one clock.
    pub clock_difference: Option<Duration>,
    /// How long the oldest request that waits for the disk has waited: a read, or a write that is
    /// in flight into the write-ahead log. `None` if none waits, or if the store has no disk.
    pub longest_wait: Option<Duration>,
    /// How many bytes of the disk the store keeps back for deletes. `None` if it keeps none back.
    pub reserved_bytes: Option<u64>,
}

/// A multipart upload in progress: plain data, so that any instance can pick it up.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Multipart {
    /// The key at which the object appears when the upload is completed.
    pub key: Key,
    /// The store's own name for the upload.
    pub id: String,
    /// Which claim on the upload is writing: see [`Store::resume_multipart`].
    pub writer: u64,
    /// How large each part but the last is, where the store wants that; 0 in what an earlier
    /// version recorded for a store that does not.
    #[serde(default)]
    pub part_bytes: u64,
    /// The parts stored so far, in order and without a gap.
    pub parts: Vec<Part>,
}

impl Multipart {
    /// How many bytes the recorded parts hold.
    pub fn size_bytes(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.offset + part.size_bytes)
    }

    /// The upload as it was when the recorded parts ended at `size_bytes`.
    #[must_use]
    pub fn cut_to(&self, size_bytes: u64) -> Self {
        let within = |part: &&Part| part.offset < size_bytes;
        let cut = |part: &Part| {
            let left = size_bytes - part.offset;
            Part { size_bytes: part.size_bytes.min(left), ..part.clone() }
        };
        Self { parts: self.parts.iter().filter(within).map(cut).collect(), ..self.clone() }
    }

    /// Records a part that [`Store::put_part`] returned; it must start where the last one ended.
    /// Parts of a store that does not name them (an empty etag) become one.
    pub fn record(&mut self, part: Part) {
        debug_assert_eq!(part.offset, self.size_bytes(), "parts are recorded in order");
        match self.parts.last_mut() {
            Some(last) if last.etag.is_empty() && part.etag.is_empty() => {
                last.size_bytes += part.size_bytes;
            }
            _ => self.parts.push(part),
        }
    }
}

/// A stored part of a multipart upload.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Where in the object the part starts.
    pub offset: u64,
    /// How many bytes it holds.
    pub size_bytes: u64,
    /// The store's name for it; empty where the store does not need one.
    pub etag: String,
}

/// What a presigned URL should make the store respond.
#[derive(Clone, Debug)]
pub struct Presign {
    /// How long the URL works, in seconds.
    pub expires_s: u64,
    /// The Content-Type of the response.
    pub content_type: String,
}

/// An object's file.
#[derive(Debug)]
pub struct OpenFile {
    /// The file, open for reading. Its position means nothing.
    pub file: std::fs::File,
    /// Its length when it was opened.
    pub size_bytes: u64,
}

/// An upload that is not completed, as the store lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StagedUpload {
    /// Its id, and a key in its folder, which [`Store::abort_multipart`] takes.
    pub upload: Multipart,
    /// How many bytes it holds.
    pub size_bytes: u64,
    /// When a byte was last written, by the store's clock.
    pub last_modified: SystemTime,
    /// Whether a record may name it. Others are being written, and do not outlive the process.
    pub may_be_named: bool,
}

/// Bytes outside of a store, of which [`Store::copy_in`] makes an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum CopySource {
    /// A file of this machine.
    File {
        /// Where it is.
        path: PathBuf,
        /// Whether the object may be another name of this file (hard link): nothing changes it any more.
        may_link: bool,
    },
    /// An object of a bucket.
    Object {
        /// The service that has the bucket: [`S3Url::service`](crate::S3Url::service).
        service: String,
        /// The bucket.
        bucket: String,
        /// The key in the bucket.
        key: String,
        /// Its length.
        size_bytes: u64,
    },
}

/// How an object was made of bytes that were somewhere already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CopyMethod {
    /// The file system shares the blocks of both files until one is changed.
    Reflink,
    /// Both names are of one file.
    HardLink,
    /// The service that has the bucket copied it.
    Service,
}

/// An object that [`Store::copy_in`] made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopiedObject {
    /// Its length.
    pub size_bytes: u64,
    /// How it was made.
    pub method: CopyMethod,
}

/// Bytes under keys.
///
/// **Atomicity.** Every method but the multipart ones is linearizable per key: it takes effect
/// whole, at one moment between call and return. No reader sees a half-written object, whatever
/// crashes.
/// **Durability.** What returned `Ok` survives a crash of the process and, with strict
/// durability, of the machine.
/// **Ambiguity.** A write that failed with [`ErrorKind::Unavailable`](crate::ErrorKind) may or
/// may not have happened. One that failed with `AlreadyExists`, `Precondition` or `NotFound`
/// definitely did not.
/// **Absence.** Only [`ErrorKind::NotFound`](crate::ErrorKind) says that a key is absent; no
/// fault of the store is ever reported as absence.
/// **Cancellation.** A dropped future may or may not have had its effect.
/// **Nesting.** No object's key may be the folder of another's (`a` and `a/b`): some stores
/// refuse the second ([`ErrorKind::Refused`](crate::ErrorKind)).
#[async_trait]
pub trait Store: Debug + Send + Sync + 'static {
    /// What callers may rely on.
    fn capabilities(&self) -> StoreCapabilities;

    /// How the store is at the moment, for health checks and metrics.
    fn health(&self) -> StoreHealth {
        StoreHealth::default()
    }

    /// The clock that dates what is in the store, if this process reads it. `None` of a service, which
    /// has its own, and of a store that takes the machine's as it is.
    fn clock(&self) -> Option<Arc<dyn crate::Clock>> {
        None
    }

    /// Removes, in one page of the keys of `request`, tombstones that are older than `age_min` by the
    /// store's clock: nothing that any other method shows. A store without tombstones has nothing to do.
    async fn purge(&self, _request: &ListRequest, _age_min: Duration) -> Result<Purged> {
        Ok(Purged::default())
    }

    /// Reads a record whole. An absent key is `NotFound`; an object larger than
    /// [`RECORD_BYTES_MAX`] is `TooLarge`.
    async fn get(&self, key: &Key) -> Result<Record>;

    /// Says whether an object is there, and how large it is. An absent key is `NotFound`.
    async fn head(&self, key: &Key) -> Result<Stat>;

    /// Opens a range of a bulk object as a stream, in chunks that the store chooses. An absent
    /// key is `NotFound`; a range beyond the end is `OutOfRange`. An empty range of an object
    /// that exists is an empty stream. Dropping the stream stops the reading.
    async fn read(&self, key: &Key, range: ByteRange) -> Result<ByteStream>;

    /// Writes an object whole, under the condition of `mode`.
    async fn put(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<Written>;

    /// Makes changes one after the other, and then a write, as calls of the methods that they name:
    /// each only once the one before is made, and others may see the first ones alone. A store that
    /// can ([`StoreCapabilities::combines_changes`]) makes all durable at once. An error says that the
    /// first was not made. Of which version an object of `before` is, only a read says: it may be large,
    /// and its writer has no use for it.
    async fn put_after(&self, before: Vec<StoreChange>, then: Put) -> Result<SequenceOutcome> {
        put_in_sequence(self, before, then).await
    }

    /// Removes an object. With a version: only that version, otherwise `Precondition` (an absent
    /// key too). Without: whatever is there, and an absent key is `Ok`.
    async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()>;

    /// Removes several objects unconditionally, absent ones without complaint. On an error some may
    /// no longer exist.
    async fn delete_many(&self, keys: &[Key]) -> Result<()>;

    /// Lists one page. A key that exists throughout the call is in it (if the limit admits it),
    /// even while it is being overwritten. An unknown prefix is an empty page.
    async fn list(&self, request: &ListRequest) -> Result<ListPage>;

    /// Begins an object at `key`, with `writer` as the first claim. Nothing is visible at the key
    /// until the upload is completed. Where parts are uniform, each but the last will have
    /// `part_bytes`; a size that the store does not take is
    /// [`ErrorKind::Refused`](crate::ErrorKind).
    async fn create_multipart(&self, key: &Key, writer: u64, part_bytes: u64) -> Result<Multipart>;

    /// Continues with an upload after its recorded parts, as claim `writer`, and shuts out every
    /// smaller claim where the store can. Whatever lies beyond the recorded parts is discarded. An
    /// upload that no longer exists, or holds fewer bytes than were recorded, is `NotFound`; a
    /// smaller claim than one that has already written is `Precondition`. A shared store may leave
    /// both to be found by the next part or the completion.
    async fn resume_multipart(&self, upload: &Multipart, writer: u64) -> Result<Multipart>;

    /// Stores the bytes of the object from `offset` on as one part. Parts of one upload may be sent
    /// at the same time. The caller records what is returned, in order. A claim that a larger one
    /// has superseded is `Precondition`, an upload that no longer exists `NotFound`, a part beyond
    /// the store's number of parts `TooLarge`.
    async fn put_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part>;

    /// Makes every part that was stored durable, so that a record may name them. Where
    /// [`StoreCapabilities::drops_unrecorded_uploads`] says so, no record may name the upload before.
    async fn sync_parts(&self, upload: &Multipart) -> Result<()>;

    /// Stores a part ([`Store::put_part`]), and makes it and all others durable
    /// ([`Store::sync_parts`]). No other part of this claim may be in flight.
    async fn put_last_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part> {
        let part = self.put_part(upload, offset, bytes).await?;
        self.sync_parts(upload).await?;
        Ok(part)
    }

    /// Makes the object of the recorded parts appear at its key, whole and durable. An upload that
    /// no longer exists, or whose parts are not the recorded ones, is `NotFound`; the caller checks
    /// the key to learn whether an earlier call succeeded. A shared store may say `Ok` again.
    async fn complete_multipart(&self, upload: &Multipart) -> Result<()>;

    /// Aborts an upload and frees its bytes. One that no longer exists is `Ok`; an object that it
    /// became stays.
    async fn abort_multipart(&self, upload: &Multipart) -> Result<()>;

    /// Makes an object at a key that was never used of bytes elsewhere, without these passing through this
    /// process: whole, durable, and with the length that is returned. What the bytes are is for the caller to
    /// read. `None`: this store cannot do so with this source, and nothing was written.
    async fn copy_in(&self, _key: &Key, _source: &CopySource) -> Result<Option<CopiedObject>> {
        Ok(None)
    }

    /// The uploads below a prefix that ends in `/` and are not completed, as far as the store knows them. One that was
    /// made durable ([`Store::sync_parts`]) is among them until it is completed or aborted. Some services show none,
    /// and one that does not let us list them is [`ErrorKind::Refused`](crate::ErrorKind).
    async fn staged_uploads(&self, _prefix: &str) -> Result<Vec<StagedUpload>> {
        Ok(Vec::new())
    }

    /// The open file of an upload that is not completed, where the store keeps its bytes in one: a
    /// reader of it sees every part that [`Store::put_part`] has stored, also those stored later. It
    /// stays readable when the upload is completed or aborted. An upload that no longer exists, or
    /// has no part yet, is `NotFound`. `None`: the store keeps it elsewhere.
    async fn staged_file(&self, _upload: &Multipart) -> Result<Option<Arc<OpenFile>>> {
        Ok(None)
    }

    /// The open file of an object that is never replaced, where the store keeps it in one: its
    /// bytes can be sent without passing through this process. `NotFound` as [`Store::get`].
    async fn file(&self, key: &Key) -> Result<Option<Arc<OpenFile>>>;

    /// A URL that grants GET of the object for a while, where the store has such a thing.
    async fn presign(&self, key: &Key, presign: &Presign) -> Result<Option<String>>;
}
