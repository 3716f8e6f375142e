//! [`MemoryStore`]: everything in one ordered map behind one lock.
//!
//! It is the reference for the other stores: the smallest code that keeps the whole contract of
//! [`Store`]. Nothing survives the value. It can also be built with the habits of a shared store
//! (see [`MemoryStore::builder`]), so that what a caller does for S3 is tested without S3.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::SystemTime;

use async_trait::async_trait;
use bytes::{Bytes, BytesMut};
use futures::StreamExt;

use crate::{
    ByteRange, ByteStream, Clock, ETag, Error, ErrorKind, Key, ListPage, ListRequest, Listed,
    Multipart, OpenFile, Part, PartRules, Presign, PutMode, RECORD_BYTES_MAX, Record, Result, Stat,
    Store, StoreCapabilities, SystemClock, Written,
};

/// How many bytes a stream yields at a time.
const CHUNK_BYTES: usize = 64 * 1024;

/// Part rules of a store that takes parts as they come.
const PART_RULES: PartRules =
    PartRules { part_bytes: 1024 * 1024, uniform: false, parts_max: 10_000 };

/// A store in memory.
#[derive(Debug)]
pub struct MemoryStore {
    capabilities: StoreCapabilities,
    clock: Arc<dyn Clock>,
    state: Mutex<MemoryState>,
}

/// How a [`MemoryStore`] is to behave.
#[derive(Clone, Debug)]
pub struct MemoryBuilder {
    capabilities: StoreCapabilities,
    clock: Arc<dyn Clock>,
}

#[derive(Clone, Debug, Default)]
struct MemoryState {
    objects: BTreeMap<Key, MemoryObject>,
    uploads: BTreeMap<String, MemoryUpload>,
    names_given: u64,
}

#[derive(Clone, Debug)]
struct MemoryObject {
    bytes: Bytes,
    etag: ETag,
    last_modified: SystemTime,
}

#[derive(Clone, Debug)]
struct MemoryUpload {
    key: Key,
    writer: u64,
    parts: BTreeMap<u64, MemoryPart>,
}

#[derive(Clone, Debug)]
struct MemoryPart {
    bytes: Bytes,
    etag: String,
}

impl MemoryStore {
    /// An empty store with the clock of the operating system.
    pub fn new() -> Self {
        Self::builder().build()
    }

    /// An empty store that reads the time from `clock`.
    pub fn with_clock(clock: Arc<dyn Clock>) -> Self {
        Self::builder().clock(clock).build()
    }

    /// Starts from the habits of [`MemoryStore::new`].
    pub fn builder() -> MemoryBuilder {
        MemoryBuilder {
            capabilities: StoreCapabilities::local(PART_RULES),
            clock: Arc::new(SystemClock::new()),
        }
    }

    /// A copy of it as it is now, which reads the time from `clock`.
    pub fn fork(&self, clock: Arc<dyn Clock>) -> Self {
        let capabilities = self.capabilities;
        Self { capabilities, clock, state: Mutex::new(self.state().clone()) }
    }

    fn state(&self) -> MutexGuard<'_, MemoryState> {
        self.state.lock().expect("no code panics while it holds this lock")
    }
}

impl Default for MemoryStore {
    fn default() -> Self {
        Self::new()
    }
}

impl MemoryBuilder {
    /// Makes the store behave as S3 does: it cannot shut a superseded claim out, and finds what such
    /// a claim spoiled at completion.
    pub fn remote(mut self) -> Self {
        self.capabilities = StoreCapabilities::remote(self.capabilities.parts);
        self
    }

    /// Sets the rules for parts. With uniform parts the store names each part, and refuses at
    /// completion an upload whose parts break the rules.
    pub fn part_rules(mut self, parts: PartRules) -> Self {
        self.capabilities.parts = parts;
        self
    }

    /// Sets the clock.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// Makes the empty store.
    pub fn build(self) -> MemoryStore {
        let Self { capabilities, clock } = self;
        MemoryStore { capabilities, clock, state: Mutex::default() }
    }
}

impl MemoryState {
    fn name(&mut self) -> String {
        self.names_given += 1;
        self.names_given.to_string()
    }

    fn object(&self, key: &Key) -> Result<&MemoryObject> {
        self.objects.get(key).ok_or_else(|| Error::new(ErrorKind::NotFound, key))
    }

    fn upload(&mut self, upload: &Multipart) -> Result<&mut MemoryUpload> {
        self.uploads
            .get_mut(&upload.id)
            .filter(|found| found.key == upload.key)
            .ok_or_else(|| Error::new(ErrorKind::NotFound, &upload.key))
    }

    fn check(&self, key: &Key, mode: &PutMode) -> Result<()> {
        let current = self.objects.get(key).map(|object| &object.etag);
        match mode {
            PutMode::Create if current.is_some() => Err(Error::new(ErrorKind::AlreadyExists, key)),
            PutMode::Match(etag) if current != Some(etag) => {
                Err(Error::new(ErrorKind::Precondition, key))
            }
            _ => Ok(()),
        }
    }

    fn insert(&mut self, key: &Key, bytes: Bytes, last_modified: SystemTime) -> ETag {
        let etag = ETag::new(self.name());
        self.objects.insert(key.clone(), MemoryObject { bytes, etag: etag.clone(), last_modified });
        etag
    }

    /// The first object at or after a bound, if it has the prefix.
    fn next(&self, from: Bound<&str>, prefix: &str) -> Option<(&Key, &MemoryObject)> {
        self.objects
            .range::<str, _>((from, Bound::Unbounded))
            .next()
            .filter(|(key, _)| key.as_str().starts_with(prefix))
    }
}

impl MemoryUpload {
    /// The bytes of the recorded parts, or nothing if they are not all there.
    fn recorded(&self, upload: &Multipart) -> Option<Bytes> {
        let named = upload.parts.iter().all(|part| {
            part.etag.is_empty()
                || self.parts.get(&part.offset).is_some_and(|stored| stored.etag == part.etag)
        });
        let mut whole = BytesMut::new();
        while named && (whole.len() as u64) < upload.size_bytes() {
            let stored =
                self.parts.get(&(whole.len() as u64)).filter(|part| !part.bytes.is_empty())?;
            whole.extend_from_slice(&stored.bytes);
        }
        whole.truncate(usize::try_from(upload.size_bytes()).ok()?);
        named.then(|| whole.freeze())
    }

    fn truncate(&mut self, size_bytes: u64) {
        self.parts.retain(|offset, _| *offset < size_bytes);
        for (offset, part) in &mut self.parts {
            let room = usize::try_from(size_bytes - offset).unwrap_or(usize::MAX);
            part.bytes.truncate(room);
        }
    }
}

fn check_rules(rules: PartRules, upload: &Multipart) -> Result<()> {
    let refuse = |why| Err(Error::with_source(ErrorKind::Refused, &upload.key, why));
    let Some((last, parts)) = upload.parts.split_last() else {
        return refuse("an upload needs at least one part");
    };
    if upload.parts.len() as u64 > rules.parts_max {
        return refuse("more parts than the store takes");
    }
    match parts.first() {
        Some(first) if parts.iter().any(|part| part.size_bytes != first.size_bytes) => {
            refuse("every part but the last must be as large as the first")
        }
        Some(first) if last.size_bytes > first.size_bytes => {
            refuse("the last part must not be larger than the first")
        }
        _ => Ok(()),
    }
}

/// Folds a key into the common prefix that stands for it, if a delimiter follows the prefix.
fn common_prefix<'k>(key: &'k str, prefix: &str) -> Option<&'k str> {
    let rest = key.strip_prefix(prefix)?;
    let slash = rest.find('/')?;
    key.get(..prefix.len() + slash + 1)
}

fn slice(key: &Key, bytes: &Bytes, range: ByteRange) -> Result<Bytes> {
    let out_of_range = || Error::new(ErrorKind::OutOfRange, key);
    let start = usize::try_from(range.start).map_err(|_| out_of_range())?;
    let end = usize::try_from(range.end).map_err(|_| out_of_range())?;
    if start > end || end > bytes.len() {
        return Err(out_of_range());
    }
    Ok(bytes.slice(start..end))
}

#[async_trait]
impl Store for MemoryStore {
    fn capabilities(&self) -> StoreCapabilities {
        self.capabilities
    }

    async fn get(&self, key: &Key) -> Result<Record> {
        let MemoryObject { bytes, etag, last_modified } = self.state().object(key)?.clone();
        if bytes.len() as u64 > RECORD_BYTES_MAX {
            return Err(Error::new(ErrorKind::TooLarge, key));
        }
        Ok(Record { bytes, etag, last_modified, date: self.clock.now() })
    }

    async fn head(&self, key: &Key) -> Result<Stat> {
        let state = self.state();
        let object = state.object(key)?;
        Ok(Stat {
            size_bytes: object.bytes.len() as u64,
            last_modified: object.last_modified,
            date: self.clock.now(),
        })
    }

    async fn read(&self, key: &Key, range: ByteRange) -> Result<ByteStream> {
        let mut rest = slice(key, &self.state().object(key)?.bytes, range)?;
        let chunks = std::iter::from_fn(move || {
            let chunk = rest.split_to(rest.len().min(CHUNK_BYTES));
            (!chunk.is_empty()).then_some(Ok(chunk))
        });
        Ok(futures::stream::iter(chunks).boxed())
    }

    async fn put(&self, key: &Key, bytes: Bytes, mode: PutMode) -> Result<Written> {
        let mut state = self.state();
        state.check(key, &mode)?;
        let date = self.clock.now();
        Ok(Written { etag: state.insert(key, bytes, date), date })
    }

    async fn delete(&self, key: &Key, version: Option<&ETag>) -> Result<()> {
        let mut state = self.state();
        if let Some(etag) = version {
            state.check(key, &PutMode::Match(etag.clone()))?;
        }
        state.objects.remove(key);
        Ok(())
    }

    async fn delete_many(&self, keys: &[Key]) -> Result<()> {
        let mut state = self.state();
        for key in keys {
            state.objects.remove(key);
        }
        Ok(())
    }

    async fn list(&self, request: &ListRequest) -> Result<ListPage> {
        let state = self.state();
        let prefix = request.prefix.as_str();
        let (mut entries, mut prefixes, mut next) = (Vec::new(), Vec::new(), None);
        let mut last = request.start_after.clone();
        let mut from = match &request.start_after {
            Some(after) if after.as_str() >= prefix => Bound::Excluded(after.clone()),
            _ => Bound::Included(prefix.to_owned()),
        };
        while let Some((key, object)) = state.next(from.as_ref().map(String::as_str), prefix) {
            let folded = common_prefix(key.as_str(), prefix).filter(|_| request.delimiter);
            let name = folded.unwrap_or(key.as_str());
            from = match folded {
                // '0' is the byte after '/': the first key beyond everything that was deduplicated.
                Some(folded) => Bound::Included(format!("{}0", folded.trim_end_matches('/'))),
                None => Bound::Excluded(name.to_owned()),
            };
            if request.start_after.as_deref().is_some_and(|after| name <= after) {
                continue;
            }
            if entries.len() + prefixes.len() >= request.limit.max(1) {
                next = last;
                break;
            }
            last = Some(name.to_owned());
            match folded {
                Some(folded) => prefixes.push(folded.to_owned()),
                None => entries.push(Listed {
                    key: key.clone(),
                    size_bytes: object.bytes.len() as u64,
                    last_modified: object.last_modified,
                    etag: Some(object.etag.clone()),
                }),
            }
        }
        Ok(ListPage { entries, prefixes, next, date: self.clock.now() })
    }

    async fn create_multipart(&self, key: &Key, writer: u64, part_bytes: u64) -> Result<Multipart> {
        let mut state = self.state();
        let id = state.name();
        state
            .uploads
            .insert(id.clone(), MemoryUpload { key: key.clone(), writer, parts: BTreeMap::new() });
        Ok(Multipart { key: key.clone(), id, writer, part_bytes, parts: Vec::new() })
    }

    async fn resume_multipart(&self, upload: &Multipart, writer: u64) -> Result<Multipart> {
        let mut state = self.state();
        let found = state.upload(upload)?;
        if writer < found.writer {
            return Err(Error::new(ErrorKind::Precondition, &upload.key));
        }
        if found.recorded(upload).is_none() {
            return Err(Error::new(ErrorKind::NotFound, &upload.key));
        }
        if self.capabilities.fences_claims {
            found.writer = writer;
            found.truncate(upload.size_bytes());
        }
        Ok(Multipart { writer, ..upload.clone() })
    }

    async fn put_part(&self, upload: &Multipart, offset: u64, bytes: Bytes) -> Result<Part> {
        let mut state = self.state();
        let etag = if self.capabilities.parts.uniform { state.name() } else { String::new() };
        let found = state.upload(upload)?;
        if upload.writer < found.writer {
            return Err(Error::new(ErrorKind::Precondition, &upload.key));
        }
        let size_bytes = bytes.len() as u64;
        found.parts.insert(offset, MemoryPart { bytes, etag: etag.clone() });
        Ok(Part { offset, size_bytes, etag })
    }

    async fn sync_parts(&self, upload: &Multipart) -> Result<()> {
        self.state().upload(upload).map(|_| ())
    }

    async fn complete_multipart(&self, upload: &Multipart) -> Result<()> {
        let mut state = self.state();
        let found = state.upload(upload)?;
        if self.capabilities.parts.uniform {
            check_rules(self.capabilities.parts, upload)?;
        }
        let whole =
            found.recorded(upload).ok_or_else(|| Error::new(ErrorKind::NotFound, &upload.key))?;
        state.check(&upload.key, &PutMode::Create)?;
        state.uploads.remove(&upload.id);
        state.insert(&upload.key, whole, self.clock.now());
        Ok(())
    }

    async fn abort_multipart(&self, upload: &Multipart) -> Result<()> {
        self.state().uploads.remove(&upload.id);
        Ok(())
    }

    async fn file(&self, _key: &Key) -> Result<Option<Arc<OpenFile>>> {
        Ok(None)
    }

    async fn presign(&self, _key: &Key, _presign: &Presign) -> Result<Option<String>> {
        Ok(None)
    }
}
