//! [`Sequencer`]: from the queue to the log.
//!
//! A pass lists the queue twice. The first listing says which events may be appended, the second has
//! every event with a smaller change of the same tag: that was queued before any of them was, and the
//! first listing may have passed its key before that. A cursor over the queue would miss events whose
//! write arrives late.
//!
//! The changes of a manifest are not ordered by their ids: the push of one may choose its id, another may
//! delete the manifest, and only then the first writes it. But a delete is queued before it takes effect. So if
//! a pass confirms pushes, it lists the queue a third time, and leaves what came after a delete that it does not
//! append. Among those that it appends, the store's clock tells which delete came first.
//!
//! Two passes at the same time append the same events once: each appends the segment with the next
//! number by Create, and the one that comes second reads what the other has appended.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::time::{Duration, SystemTime};

use futures::stream::{self, StreamExt, TryStreamExt};
use jreg_oci::{Digest, RepositoryName, Tag};
use jreg_storage::{Key, Listed};

use super::log::{EVENTS_PER_SEGMENT_MAX, LogSegment, SEGMENT_BYTES_MAX};
use super::queue::ReadQueued;
use super::{ChangeEvidence, ChangeState, SinkCursor};
use crate::attempts::SwapAttempts;
use crate::core::Core;
use crate::window::{CLOCK_ERROR, WRITE_MAX};
use crate::{ChangeId, Event, EventAction, Registry, Result};

/// Maximum number of queued events in memory. A pass over a longer queue takes its first events.
const PASS_EVENTS_MAX: usize = 20_000;
/// How many of the last segments are remembered, so that what was appended is not appended again.
const REMEMBERED_SEGMENTS: usize = 16;

/// What is known of the end of the log. Only a cache: any number of sequencers may run.
#[derive(Debug, Default)]
pub struct Sequencer {
    /// The number of the last segment that was seen; 0: none.
    last: u64,
    /// The number of a segment that there was.
    floor: u64,
    /// The number of the next event.
    next_sequence: u64,
    /// The ids of the events of the last segments.
    recent: VecDeque<HashSet<String>>,
    /// Whether it has looked for the end of the log.
    has_looked: bool,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SequencerReport {
    /// Events that were appended to the log.
    pub appended: usize,
    /// Events that another pass had appended already.
    pub repeated: usize,
    /// Events of changes that never took effect.
    pub dead: usize,
    /// Events that stay in the queue: nothing is known of their changes yet.
    pub waiting: usize,
    /// Events that cannot be decoded.
    pub damaged: usize,
    /// The age of the oldest event that stays.
    pub oldest: Duration,
    /// Whether the queue has more.
    pub more: bool,
    /// The number that the next event will have.
    pub next_sequence: u64,
}

/// What one change is about.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum ChangeSubject {
    Tag(RepositoryName, Tag),
    Manifest(RepositoryName, Digest),
}

/// An event of the queue.
#[derive(Debug)]
struct PassEntry {
    key: Key,
    event: Event,
    age: Duration,
    /// Whether the first listing had it.
    is_eligible: bool,
}

/// The delete of a manifest in the queue.
#[derive(Debug)]
struct QueuedDelete {
    key: Key,
    subject: ChangeSubject,
    /// The change by which the manifest had come into being.
    change: ChangeId,
    /// When it was queued, by the store's clock.
    written: SystemTime,
}

impl QueuedDelete {
    fn of(key: &Key, event: &Event, written: SystemTime) -> Option<Self> {
        let subject = subject(event).filter(|_| event.action == EventAction::ManifestDelete)?;
        Some(Self { key: key.clone(), subject, change: event.change, written })
    }
}

/// What becomes of the events of a pass.
#[derive(Debug, Default)]
struct PassPlan {
    confirmed: Vec<PassEntry>,
    /// To delete from the queue.
    settled: Vec<Key>,
    /// Pushes of manifests of which nothing was found.
    doubtful: Vec<PassEntry>,
    /// The deletes of manifests that were queued.
    deletes: Vec<QueuedDelete>,
    /// The keys of the second listing.
    known: HashSet<Key>,
    report: SequencerReport,
}

impl Sequencer {
    /// One that looks for the end of the log from the furthest cursor on.
    pub fn starting_at<'a>(cursors: impl IntoIterator<Item = &'a SinkCursor>) -> Self {
        let furthest = cursors.into_iter().max_by_key(|cursor| cursor.position);
        let (floor, next_sequence) =
            furthest.map_or((0, 0), |cursor| (cursor.position.segment, cursor.sequence));
        let last = floor.saturating_sub(REMEMBERED_SEGMENTS as u64 + 1);
        Self { last, floor: floor.saturating_sub(1), next_sequence, ..Self::default() }
    }

    /// Reads what others have appended.
    async fn refresh(&mut self, core: &Core) -> Result<()> {
        let numbers = core.segments_after(self.last).await?;
        let remembered = numbers.len().saturating_sub(REMEMBERED_SEGMENTS);
        for number in numbers.into_iter().skip(remembered) {
            match core.read_segment(number).await? {
                Some(segment) => self.remember(&segment),
                None => self.next_sequence += EVENTS_PER_SEGMENT_MAX as u64,
            }
            self.last = number;
        }
        // A log that was deleted continues where the cursors are.
        self.last = self.last.max(self.floor);
        self.has_looked = true;
        Ok(())
    }

    fn remember(&mut self, segment: &LogSegment) {
        self.next_sequence = self.next_sequence.max(segment.next_sequence());
        self.recent.push_back(segment.events.iter().map(Event::id).collect());
        if self.recent.len() > REMEMBERED_SEGMENTS {
            self.recent.pop_front();
        }
    }

    fn has(&self, event: &Event) -> bool {
        let id = event.id();
        self.recent.iter().any(|ids| ids.contains(&id))
    }

    /// Appends events in their order.
    async fn append(&mut self, core: &Core, plan: &mut PassPlan) -> Result<()> {
        let mut attempts = SwapAttempts::new("the event log is being appended to by others");
        // What a segment is judged by must not be older than what deletes segments may assume.
        let window = core.open_window();
        self.refresh(core).await?;
        loop {
            plan.confirmed.retain(|entry| {
                let is_new = !self.has(&entry.event);
                if !is_new {
                    plan.report.repeated += 1;
                    plan.settled.push(entry.key.clone());
                }
                is_new
            });
            let count = segment_length(&plan.confirmed);
            if count == 0 {
                return Ok(());
            }
            let events = plan.confirmed.iter().take(count).map(|entry| entry.event.clone());
            let segment = LogSegment { first: self.next_sequence.max(1), events: events.collect() };
            if core.append_segment(window, self.last + 1, &segment).await? {
                self.last += 1;
                self.remember(&segment);
                plan.report.appended += count;
                plan.settled.extend(plan.confirmed.drain(..count).map(|entry| entry.key));
            } else {
                attempts.next().await?;
                self.refresh(core).await?;
            }
        }
    }
}

/// How many of the events the next segment takes.
fn segment_length(entries: &[PassEntry]) -> usize {
    let mut bytes = 0;
    let fits = |entry: &&PassEntry| {
        bytes += serde_json::to_vec(&entry.event).map_or(0, |json| json.len());
        bytes <= SEGMENT_BYTES_MAX
    };
    let fitting = entries.iter().take(EVENTS_PER_SEGMENT_MAX).take_while(fits).count();
    fitting.max(entries.len().min(1))
}

impl Registry {
    /// Makes one pass over the queue.
    ///
    /// # Errors
    ///
    /// [`Error::Busy`](crate::Error), [`Error::Interrupted`](crate::Error),
    /// [`Error::Store`](crate::Error): what was not settled stays in the queue.
    pub async fn sequence_events(
        &self,
        sequencer: &mut Sequencer,
        evidence: &impl ChangeEvidence,
    ) -> Result<SequencerReport> {
        let core = self.core();
        let mut plan = PassPlan::default();
        if !sequencer.has_looked {
            sequencer.refresh(core).await?;
        }
        let first = core.list_queue(PASS_EVENTS_MAX, None).await?;
        plan.report.more = first.more;
        if let Some(last) = first.entries.last() {
            let eligible: HashSet<Key> =
                first.entries.iter().map(|entry| entry.key.clone()).collect();
            let entries = core.read_queue(&last.key, &eligible, &mut plan).await?;
            plan.judge(entries, evidence).await?;
            if plan.depends_on_deletes() {
                core.read_later_deletes(&mut plan).await?;
                plan.settle_doubtful();
                plan.hold_back();
            }
            plan.sort();
            if !plan.confirmed.is_empty() {
                sequencer.append(core, &mut plan).await?;
            }
            // A key with several events is named by each.
            plan.settled.sort_unstable();
            plan.settled.dedup();
            for keys in plan.settled.chunks(1000) {
                core.store.delete_many(keys).await?;
            }
        }
        plan.report.next_sequence = sequencer.next_sequence.max(1);
        Ok(plan.report)
    }
}

impl Core {
    /// The third listing: the deletes of manifests that were queued after the second.
    async fn read_later_deletes(&self, plan: &mut PassPlan) -> Result<()> {
        let third = self.list_queue(2 * PASS_EVENTS_MAX, None).await?;
        let later = third.entries.into_iter().filter(|listed| !plan.known.contains(&listed.key));
        let reads: Vec<_> = later.map(|listed| self.read_listed(listed)).collect();
        let mut reads = stream::iter(reads).buffered(self.reads_in_flight_max());
        while let Some((listed, read)) = reads.try_next().await? {
            let events = read.and_then(std::result::Result::ok).unwrap_or_default();
            let of = |event| QueuedDelete::of(&listed.key, event, listed.last_modified);
            plan.deletes.extend(events.iter().filter_map(of));
        }
        Ok(())
    }

    async fn read_listed(&self, listed: Listed) -> Result<(Listed, ReadQueued)> {
        let read = self.read_queued(&listed.key).await?;
        Ok((listed, read))
    }

    /// The second listing, with the events.
    async fn read_queue(
        &self,
        last: &Key,
        eligible: &HashSet<Key>,
        plan: &mut PassPlan,
    ) -> Result<Vec<PassEntry>> {
        let second = self.list_queue(2 * PASS_EVENTS_MAX, Some(last)).await?;
        plan.known = second.entries.iter().map(|listed| listed.key.clone()).collect();
        let reads: Vec<_> =
            second.entries.into_iter().map(|listed| self.read_listed(listed)).collect();
        let mut reads = stream::iter(reads).buffered(self.reads_in_flight_max());
        let mut entries = Vec::new();
        while let Some((listed, read)) = reads.try_next().await? {
            // One key may have many. What is left out has greater keys, as if it were queued later.
            if entries.len() >= 2 * PASS_EVENTS_MAX {
                plan.report.more = true;
                break;
            }
            let written = listed.last_modified;
            let age = age(second.date, written);
            let key = listed.key;
            match read {
                // Another pass has settled it.
                None => {}
                Some(Ok(events)) => {
                    let is_eligible = eligible.contains(&key);
                    let deletes = events.iter();
                    plan.deletes
                        .extend(deletes.filter_map(|event| QueuedDelete::of(&key, event, written)));
                    entries.extend(events.into_iter().map(|event| {
                        let key = key.clone();
                        PassEntry { key, event, age, is_eligible }
                    }));
                }
                Some(Err(bytes)) => {
                    self.quarantine_event(&key, bytes).await?;
                    plan.report.damaged += 1;
                    plan.settled.push(key);
                }
            }
        }
        Ok(entries)
    }
}

fn age(now: SystemTime, written: SystemTime) -> Duration {
    now.duration_since(written).unwrap_or_default()
}

impl PassPlan {
    /// Decides about all events: those of one tag by one look at the store.
    async fn judge(
        &mut self,
        entries: Vec<PassEntry>,
        evidence: &impl ChangeEvidence,
    ) -> Result<()> {
        let mut subjects: BTreeMap<ChangeSubject, Vec<PassEntry>> = BTreeMap::new();
        for entry in entries {
            match subject(&entry.event) {
                Some(subject) => subjects.entry(subject).or_default().push(entry),
                None if entry.is_eligible => self.confirmed.push(entry),
                None => {}
            }
        }
        for entries in subjects.into_values() {
            // What came after the last eligible one has its turn in the next pass.
            let newest = entries.iter().filter(|entry| entry.is_eligible).map(order_of).max();
            let Some(newest) = newest else { continue };
            let entries: Vec<_> =
                entries.into_iter().filter(|entry| order_of(entry) <= newest).collect();
            let events: Vec<_> = entries.iter().map(|entry| &entry.event).collect();
            let states = evidence.find(&events).await?;
            let repeated = repetitions(&events);
            for ((entry, state), is_repeated) in entries.into_iter().zip(states).zip(repeated) {
                self.settle(entry, state, is_repeated);
            }
        }
        Ok(())
    }

    fn settle(&mut self, entry: PassEntry, state: ChangeState, is_repeated: bool) {
        match state {
            ChangeState::Current | ChangeState::Archived if is_repeated => {
                self.report.repeated += 1;
                self.settled.push(entry.key);
            }
            ChangeState::Current | ChangeState::Archived => self.confirmed.push(entry),
            ChangeState::Superseded => self.bury(entry),
            // The write of the change was sent before the bound, or will not be sent any more.
            ChangeState::Unknown if entry.age > WRITE_MAX + CLOCK_ERROR => {
                match entry.event.action {
                    EventAction::ManifestPush => self.doubtful.push(entry),
                    _ => self.bury(entry),
                }
            }
            ChangeState::Unknown => {
                self.report.waiting += 1;
                self.report.oldest = self.report.oldest.max(entry.age);
            }
        }
    }

    /// Whether a delete that is queued by now decides about an event of this pass.
    fn depends_on_deletes(&self) -> bool {
        let is_push = |entry: &PassEntry| entry.event.action == EventAction::ManifestPush;
        !self.doubtful.is_empty() || self.confirmed.iter().any(is_push)
    }

    /// Buries pushes of which nothing was found before the third listing began, and whose manifests no queued event
    /// deletes. A purge leaves no copy, but queues its event before it removes the manifest.
    fn settle_doubtful(&mut self) {
        let deleted: HashSet<_> = self.deletes.iter().map(|delete| delete.change).collect();
        for entry in std::mem::take(&mut self.doubtful) {
            match deleted.contains(&entry.event.change) {
                true => self.report.waiting += 1,
                false => self.bury(entry),
            }
        }
    }

    /// Leaves in the queue what came after the delete of the same manifest that this pass does not append.
    fn hold_back(&mut self) {
        let appended: HashSet<&Key> =
            self.confirmed.iter().map(|entry| &entry.key).chain(&self.settled).collect();
        let mut first_left: HashMap<&ChangeSubject, (SystemTime, ChangeId)> = HashMap::new();
        for delete in self.deletes.iter().filter(|delete| !appended.contains(&delete.key)) {
            let this = (delete.written, delete.change);
            let first = first_left.entry(&delete.subject).or_insert(this);
            *first = this.min(*first);
        }
        if first_left.is_empty() {
            return;
        }
        let deleted_at = self.deletion_times();
        let comes_after = |entry: &mut PassEntry| {
            let Some(subject) = subject(&entry.event) else { return false };
            let change = entry.event.change;
            first_left.get(&subject).is_some_and(|(written, left)| {
                let deleted = deleted_at.get(&(subject, change));
                change != *left && deleted.is_none_or(|deleted| deleted > written)
            })
        };
        let left = self.confirmed.extract_if(.., comes_after).count();
        self.report.waiting += left;
    }

    /// When the first delete of each was queued.
    fn deletion_times(&self) -> HashMap<(ChangeSubject, ChangeId), SystemTime> {
        let mut times = HashMap::new();
        for delete in &self.deletes {
            let of = (delete.subject.clone(), delete.change);
            let first = times.entry(of).or_insert(delete.written);
            *first = delete.written.min(*first);
        }
        times
    }

    /// The order in the log: that of the changes. A manifest's are in the order of its deletes; what was not deleted
    /// is the last.
    fn sort(&mut self) {
        self.confirmed.sort_by_key(order_of);
        let deleted_at = self.deletion_times();
        let mut places: BTreeMap<ChangeSubject, Vec<usize>> = BTreeMap::new();
        for (place, entry) in self.confirmed.iter().enumerate() {
            if let Some(subject @ ChangeSubject::Manifest(..)) = subject(&entry.event) {
                places.entry(subject).or_default().push(place);
            }
        }
        let mut ranks: Vec<usize> = (0..self.confirmed.len()).collect();
        for (subject, places) in places {
            let mut ordered = places.clone();
            ordered.sort_by_key(|place| {
                let (change, action) = order_of(&self.confirmed[*place]);
                let deleted = deleted_at.get(&(subject.clone(), change)).copied();
                (deleted.is_none(), deleted, change, action)
            });
            ordered.into_iter().zip(places).for_each(|(from, to)| ranks[from] = to);
        }
        let confirmed = std::mem::take(&mut self.confirmed);
        let mut ranked: Vec<_> = ranks.into_iter().zip(confirmed).collect();
        ranked.sort_by_key(|(rank, _)| *rank);
        self.confirmed = ranked.into_iter().map(|(_, entry)| entry).collect();
    }

    fn bury(&mut self, entry: PassEntry) {
        self.report.dead += 1;
        self.settled.push(entry.key);
    }
}

/// Which events another of the same pass repeats: two deletes of one manifest, for example.
fn repetitions(events: &[&Event]) -> Vec<bool> {
    let mut seen = HashMap::new();
    events.iter().map(|event| seen.insert(event.id(), ()).is_some()).collect()
}

/// That of the changes, and what is made before it is deleted.
fn order_of(entry: &PassEntry) -> (ChangeId, EventAction) {
    (entry.event.change, entry.event.action)
}

fn subject(event: &Event) -> Option<ChangeSubject> {
    if !event.is_change() {
        return None;
    }
    let repository = event.repository.clone()?;
    match (&event.tag, &event.digest) {
        (Some(tag), _) => Some(ChangeSubject::Tag(repository, tag.clone())),
        (None, Some(digest)) => Some(ChangeSubject::Manifest(repository, digest.clone())),
        (None, None) => None,
    }
}
