//! [`Memo`]: what earlier runs read of records that have not changed since.
//!
//! A memo is read along with a listing, in the order of its keys. It is stored in segments, each of
//! which records its last key, so that a run holds one segment of it in memory at a time. Each run
//! writes a *generation* of its own, and deletes the others at its end: an interrupted run leaves
//! half a generation, which the next one reads as well. A memo is never needed for safety: an entry
//! that is absent or unreadable is read from the record itself.
//!
//! A segment is `gc/<kind>/<generation>/<number>`: one line of JSON, then entries, each the
//! [`ListedVersion`] (16 bytes), the number of its values (4 bytes) and these (8 bytes each, all
//! big-endian).

use std::collections::HashMap;
use std::collections::VecDeque;
use std::ops::Range;

use bytes::{Buf, Bytes};
use jreg_oci::EXTRACTOR_VERSION;
use jreg_storage::{ErrorKind, Key, ListRequest, PutMode};
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::Result;
use crate::core::Core;
use crate::fingerprint::ListedVersion;
use crate::keys;

/// How large a segment is about to be when it is written.
const SEGMENT_BYTES: usize = 1024 * 1024;
/// From how much on a page adds no more: a segment is a record, whose size has a limit.
const BUFFER_BYTES_MAX: usize = 4 * 1024 * 1024;
/// How many interrupted generations are read; older ones are only deleted.
const GENERATIONS_MAX: usize = 3;

/// What one kind of memo holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum MemoKind {
    /// Manifests: the subject (or 0), then what they refer to.
    Manifests,
    /// Tags: the manifest they point to.
    Tags,
    /// Copies of deleted manifests: what they refer to.
    Copies,
    /// Links: where the bytes lie, or 0 if the link is deleted.
    Links,
    /// Sessions: where their bytes lie.
    Sessions,
    /// Untagged manifests: since when, in seconds of the Unix epoch.
    Untagged,
    /// Orphan bytes: since when.
    Orphans,
    /// Tags whose manifest is absent: since when.
    Dangling,
}

impl MemoKind {
    fn folder(self) -> &'static str {
        match self {
            Self::Manifests => "manifests",
            Self::Tags => "tags",
            Self::Copies => "copies",
            Self::Links => "links",
            Self::Sessions => "sessions",
            Self::Untagged => "untagged",
            Self::Orphans => "unnamed",
            Self::Dangling => "dangling",
        }
    }

    /// By which version of the rules its values were found, if any rules may change.
    fn rules(self) -> u32 {
        match self {
            Self::Manifests | Self::Copies => EXTRACTOR_VERSION,
            Self::Tags
            | Self::Links
            | Self::Sessions
            | Self::Untagged
            | Self::Orphans
            | Self::Dangling => 0,
        }
    }
}

#[derive(Serialize, Deserialize)]
struct MemoHead {
    v: u32,
    /// The version of the rules by which the values were found: another is as good as none.
    #[serde(default)]
    rules: u32,
    /// The last key that an entry may be of.
    last: String,
}

/// One segment, in memory.
#[derive(Debug, Default)]
struct MemoSegment {
    last: String,
    values: Vec<u64>,
    entries: HashMap<ListedVersion, Range<u32>>,
}

/// One generation, as far as it has been read.
#[derive(Debug)]
struct MemoCursor {
    current: MemoSegment,
    coming: VecDeque<Key>,
}

/// A memo that is read and written along a listing.
#[derive(Debug)]
pub(super) struct Memo<'a> {
    core: &'a Core,
    kind: MemoKind,
    cursors: Vec<MemoCursor>,
    /// Keys to delete once this run's generation is complete.
    old: Vec<Key>,
    generation: Ulid,
    segments: u32,
    buffer: Vec<u8>,
    /// Whether anything is written at all.
    writes: bool,
}

impl<'a> Memo<'a> {
    /// Opens what earlier runs left; `writes`: to continue from it.
    pub(super) async fn open(core: &'a Core, kind: MemoKind, writes: bool) -> Result<Self> {
        let mut segments = Vec::new();
        let mut request = ListRequest::below(folder(kind));
        loop {
            let page = core.store.list(&request).await?;
            segments.extend(page.entries.into_iter().map(|entry| entry.key));
            match page.next {
                Some(next) => request.start_after = Some(next),
                None => break,
            }
        }
        let generation_of = |key: &Key| key.as_str().rsplit('/').nth(1).map(str::to_owned);
        let mut generations: Vec<(Option<String>, VecDeque<Key>)> = Vec::new();
        for key in &segments {
            let generation = generation_of(key);
            match generations.last_mut() {
                Some((last, keys)) if *last == generation => keys.push_back(key.clone()),
                _ => generations.push((generation, VecDeque::from([key.clone()]))),
            }
        }
        let newest = generations.into_iter().rev().take(GENERATIONS_MAX);
        let cursors = newest
            .map(|(_, coming)| MemoCursor { current: MemoSegment::default(), coming })
            .collect();
        Ok(Self {
            core,
            kind,
            cursors,
            old: segments,
            generation: Ulid::generate(),
            segments: 0,
            buffer: Vec::new(),
            writes,
        })
    }

    /// The values for a version of a record. Keys must be passed in order.
    pub(super) async fn get(&mut self, key: &Key, version: ListedVersion) -> Option<Vec<u64>> {
        for cursor in &mut self.cursors {
            cursor.advance(self.core, self.kind, key).await;
            if let Some(range) = cursor.current.entries.get(&version) {
                let range = range.start as usize..range.end as usize;
                return cursor.current.values.get(range).map(<[u64]>::to_vec);
            }
        }
        None
    }

    /// Remembers a version of a record of the page that is being worked on.
    pub(super) fn put(&mut self, version: ListedVersion, values: &[u64]) {
        if !self.writes || self.buffer.len() > BUFFER_BYTES_MAX {
            return;
        }
        self.buffer.extend_from_slice(&version.0);
        let count = u32::try_from(values.len()).unwrap_or(u32::MAX);
        self.buffer.extend_from_slice(&count.to_be_bytes());
        for value in values.iter().take(count as usize) {
            self.buffer.extend_from_slice(&value.to_be_bytes());
        }
    }

    /// A page, which ended with this key, has been worked on.
    pub(super) async fn end_page(&mut self, last: Option<&Key>) -> Result<()> {
        match last {
            Some(last) if self.buffer.len() >= SEGMENT_BYTES => self.flush(last.as_str()).await,
            _ => Ok(()),
        }
    }

    async fn flush(&mut self, last: &str) -> Result<()> {
        let head = MemoHead { v: 1, rules: self.kind.rules(), last: last.to_owned() };
        let mut bytes = serde_json::to_vec(&head).expect("a head has only string keys");
        bytes.push(b'\n');
        bytes.append(&mut self.buffer);
        self.segments += 1;
        let key = self.segment(self.segments);
        match self.core.store.put(&key, bytes.into(), PutMode::Create).await {
            Err(error) if error.kind() == ErrorKind::Full => self.stop_writing().await,
            done => Ok(done.map(drop)?),
        }
    }

    fn segment(&self, number: u32) -> Key {
        keys::note(&format!("{}/{}/{number:08}", self.kind.folder(), self.generation))
    }

    /// There is no space for a memo: the run continues without one, because it frees space. The
    /// next run reads the generations of earlier runs.
    async fn stop_writing(&mut self) -> Result<()> {
        self.writes = false;
        let written: Vec<_> = (1..self.segments).map(|number| self.segment(number)).collect();
        for keys in written.chunks(1000) {
            self.core.store.delete_many(keys).await?;
        }
        Ok(())
    }

    /// The listing is over: this run's generation replaces the others.
    pub(super) async fn finish(mut self) -> Result<()> {
        if !self.writes {
            return Ok(());
        }
        if !self.buffer.is_empty() {
            // After every key.
            self.flush("~").await?;
        }
        if !self.writes {
            return Ok(());
        }
        for keys in self.old.chunks(1000) {
            self.core.store.delete_many(keys).await?;
        }
        Ok(())
    }
}

fn folder(kind: MemoKind) -> String {
    format!("{}{}/", keys::NOTES, kind.folder())
}

impl MemoCursor {
    /// Continues to the segment that may hold the key.
    async fn advance(&mut self, core: &Core, kind: MemoKind, key: &Key) {
        while self.current.last.as_str() < key.as_str() {
            let Some(next) = self.coming.pop_front() else { return };
            // One that no longer exists, or cannot be read, is skipped.
            let record = core.store.get(&next).await.ok();
            self.current =
                record.and_then(|record| MemoSegment::read(kind, record.bytes)).unwrap_or_default();
        }
    }
}

impl MemoSegment {
    fn read(kind: MemoKind, mut bytes: Bytes) -> Option<Self> {
        let end = bytes.iter().position(|byte| *byte == b'\n')?;
        let head: MemoHead = serde_json::from_slice(bytes.get(..end)?).ok()?;
        if head.v != 1 || head.rules != kind.rules() {
            return None;
        }
        bytes.advance(end + 1);
        let mut segment = Self { last: head.last, ..Self::default() };
        while bytes.has_remaining() {
            let mut version = [0; 16];
            bytes.try_copy_to_slice(&mut version).ok()?;
            let count = bytes.try_get_u32().ok()?;
            let start = u32::try_from(segment.values.len()).ok()?;
            for _ in 0..count {
                segment.values.push(bytes.try_get_u64().ok()?);
            }
            segment.entries.insert(ListedVersion(version), start..start + count);
        }
        Some(segment)
    }
}
