//! The queue, the sequencer and the log of events, with changes that a test makes up: what happens to
//! them is what the fake evidence says.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use jreg_oci::RepositoryName;
use jreg_registry::{
    ChangeEvidence, ChangeId, ChangeState, DeadLetter, EVENTS_PER_SEGMENT_MAX, Event, EventAction,
    EventDetail, EventInterest, LogPosition, Registry, RegistryOptions, Result, Sequencer,
    SequencerReport, SinkName,
};
use jreg_storage::testing::{Call, Fault};
use jreg_storage::{Clock, ErrorKind, PutMode, Store};
use ulid::Ulid;

use crate::bench::{Bench, HOUR, MINUTE, digest};

#[derive(Debug)]
struct Everything;

impl EventInterest for Everything {
    fn wants(&self, _: EventAction, _: Option<&RepositoryName>) -> bool {
        true
    }
}

/// Tags whose changes are as the test says.
#[derive(Debug, Default)]
struct FakeTags(Mutex<BTreeMap<String, Vec<ChangeId>>>);

impl FakeTags {
    /// Makes a change the current one. That before it is archived.
    fn commit(&self, event: &Event) {
        self.0.lock().unwrap().entry(name(event)).or_default().push(event.change);
    }
}

fn name(event: &Event) -> String {
    let tag = event.tag.as_ref().map(ToString::to_string);
    format!("{:?}/{tag:?}/{:?}", event.repository, event.digest.as_ref().filter(|_| tag.is_none()))
}

impl ChangeEvidence for FakeTags {
    async fn find(&self, events: &[&Event]) -> Result<Vec<ChangeState>> {
        let tags = self.0.lock().unwrap();
        let changes = tags.get(&name(events[0])).cloned().unwrap_or_default();
        let state = |event: &&Event| {
            let (current, change) = (changes.last().copied(), event.change);
            match current {
                Some(current) if current == change => ChangeState::Current,
                Some(current) if current < change => ChangeState::Unknown,
                Some(_) if changes.contains(&change) => ChangeState::Archived,
                Some(_) => ChangeState::Superseded,
                None => ChangeState::Unknown,
            }
        };
        Ok(events.iter().map(state).collect())
    }
}

struct EventBench {
    bench: Bench,
    registry: Registry,
    tags: FakeTags,
    /// So that changes of one moment differ.
    minted: Mutex<u128>,
}

impl EventBench {
    async fn new() -> Self {
        let bench = Bench::new().await;
        let registry = bench.registry.with_events(Arc::new(Everything));
        Self { bench, registry, tags: FakeTags::default(), minted: Mutex::new(0) }
    }

    /// Another instance.
    async fn another(&self) -> Registry {
        let (store, clock) = (self.bench.gate.clone(), self.bench.clock.clone());
        let registry = Registry::open(store, clock, RegistryOptions::default()).await.unwrap();
        registry.with_events(Arc::new(Everything))
    }

    /// An event of a new change, which is greater than all before.
    fn mint(&self, tag: &str) -> Event {
        let mut minted = self.minted.lock().unwrap();
        *minted += 1;
        let now = self.bench.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let change = Ulid::from_parts(u64::try_from(now.as_millis()).unwrap(), *minted);
        let change = change.to_string().parse().unwrap();
        Event {
            repository: Some("app".parse().unwrap()),
            tag: Some(tag.parse().unwrap()),
            digest: Some(digest(tag.as_bytes())),
            ..Event::of_change(EventAction::TagMove, change)
        }
    }

    async fn queue(&self, tag: &str) -> Event {
        let event = self.mint(tag);
        self.registry.record_event(&event).await.unwrap();
        event
    }

    async fn change(&self, tag: &str) -> Event {
        let event = self.queue(tag).await;
        self.tags.commit(&event);
        event
    }

    async fn pass(&self, sequencer: &mut Sequencer) -> SequencerReport {
        self.registry.sequence_events(sequencer, &self.tags).await.unwrap()
    }

    /// All events of the log.
    async fn log(&self) -> Vec<Event> {
        let mut events = Vec::new();
        let mut number = 0;
        while let Some(next) = self.registry.next_event_segment(number).await.unwrap() {
            let segment = self.registry.event_segment(next).await.unwrap().unwrap();
            assert_eq!(segment.first, events.len() as u64 + 1, "numbers have no gap");
            events.extend(segment.events.iter().cloned());
            number = next;
        }
        events
    }

    async fn queued(&self) -> usize {
        self.bench.keys("events/queue/").await.len()
    }
}

fn sink() -> SinkName {
    "scanner".parse().unwrap()
}

#[tokio::test]
async fn confirmed_events_are_appended_in_the_order_of_the_changes() {
    let bench = EventBench::new().await;
    let mut expected = Vec::new();
    for tag in ["b", "a", "b"] {
        expected.push(bench.change(tag).await);
    }
    let report = bench.pass(&mut Sequencer::default()).await;
    assert_eq!((report.appended, report.waiting, report.next_sequence), (3, 0, 4));
    assert_eq!(bench.log().await, expected);
    assert_eq!(bench.queued().await, 0);
}

#[tokio::test]
async fn without_interest_nothing_is_written() {
    let bench = EventBench::new().await;
    let event = bench.mint("a");
    bench.bench.calls.take();
    bench.bench.registry.record_event(&event).await.unwrap();
    assert_eq!(bench.bench.calls.take().len(), 0);
}

#[tokio::test]
async fn an_event_waits_for_its_change_until_the_bound_of_writes_has_passed() {
    let bench = EventBench::new().await;
    let late = bench.queue("late").await;
    bench.queue("never").await;
    let mut sequencer = Sequencer::default();
    let report = bench.pass(&mut sequencer).await;
    assert_eq!((report.waiting, report.dead), (2, 0));
    bench.bench.clock.advance(20 * MINUTE);
    bench.tags.commit(&late);
    let report = bench.pass(&mut sequencer).await;
    assert_eq!((report.appended, report.waiting), (1, 1));
    bench.bench.clock.advance(2 * MINUTE);
    let report = bench.pass(&mut sequencer).await;
    assert_eq!((report.dead, report.waiting), (1, 0));
    assert_eq!(bench.log().await, [late]);
}

#[tokio::test]
async fn a_change_that_lost_its_swap_is_no_event() {
    let bench = EventBench::new().await;
    bench.queue("a").await;
    let second = bench.change("a").await;
    let report = bench.pass(&mut Sequencer::default()).await;
    assert_eq!((report.appended, report.dead), (1, 1));
    assert_eq!(bench.log().await, [second]);
}

#[tokio::test]
async fn an_event_behind_the_listing_comes_before_later_changes_of_its_tag() {
    let bench = EventBench::new().await;
    let first = bench.mint("a");
    for _ in 0..1001 {
        bench.change("z").await;
    }
    let second = bench.mint("a");
    // The first listing has passed the key of the first event, and not that of the second.
    let listings = AtomicUsize::new(0);
    let mut second_page = bench.bench.gate.hold(move |call| {
        let is_queue = call.operation == "list" && call.key.starts_with("events/queue");
        is_queue && listings.fetch_add(1, Ordering::Relaxed) == 1
    });
    let mut sequencer = Sequencer::default();
    let pass = bench.pass(&mut sequencer);
    let writes = async {
        second_page.reached(1).await;
        for event in [&first, &second] {
            bench.registry.record_event(event).await.unwrap();
            bench.tags.commit(event);
        }
        second_page.release();
    };
    let (report, ()) = tokio::join!(pass, writes);
    assert_eq!(report.appended, 1003);
    let log = bench.log().await;
    assert_eq!((log.first(), log.last()), (Some(&first), Some(&second)));
}

#[tokio::test]
async fn an_event_that_only_the_second_listing_has_waits_for_the_next_pass() {
    let bench = EventBench::new().await;
    let first = bench.change("z").await;
    let listings = AtomicUsize::new(0);
    let mut again = bench.bench.gate.hold(move |call| {
        let is_queue = call.operation == "list" && call.key.starts_with("events/queue");
        is_queue && listings.fetch_add(1, Ordering::Relaxed) == 1
    });
    let mut sequencer = Sequencer::default();
    let pass = bench.pass(&mut sequencer);
    let writes = async {
        again.reached(1).await;
        let second = bench.change("z").await;
        again.release();
        second
    };
    let (report, second) = tokio::join!(pass, writes);
    assert_eq!(report.appended, 1);
    assert_eq!(bench.pass(&mut sequencer).await.appended, 1);
    assert_eq!(bench.log().await, [first, second]);
}

#[tokio::test]
async fn of_two_sequencers_that_append_at_the_same_time_one_reads_what_the_other_did() {
    let bench = EventBench::new().await;
    let other = bench.another().await;
    let first = bench.change("a").await;
    let mut appends =
        bench.bench.gate.hold(|call| call.operation == "put" && call.key.contains("/log/"));
    let (mut one, mut two) = (Sequencer::default(), Sequencer::default());
    let race = async {
        appends.reached(2).await;
        appends.release();
    };
    let (here, there, ()) = tokio::join!(
        bench.pass(&mut one),
        async { other.sequence_events(&mut two, &bench.tags).await.unwrap() },
        race
    );
    assert_eq!(here.appended + there.appended, 1);
    assert_eq!(here.repeated + there.repeated, 1);
    assert_eq!(bench.log().await, std::slice::from_ref(&first));
    // Both know the end of the log.
    let second = bench.change("a").await;
    other.sequence_events(&mut two, &bench.tags).await.unwrap();
    let third = bench.change("a").await;
    bench.pass(&mut one).await;
    assert_eq!(bench.log().await, [first, second, third]);
}

#[tokio::test]
async fn a_pass_that_is_killed_anywhere_neither_loses_nor_repeats_an_event() {
    for lost in [false, true] {
        for call in 1.. {
            let bench = EventBench::new().await;
            let mut expected = vec![bench.change("a").await, bench.change("b").await];
            bench.queue("never").await;
            expected.push(bench.change("a").await);
            let fault = if lost { Fault::lose_response } else { Fault::fail };
            // From then on: the process is gone.
            bench.bench.faults.inject(fault(ErrorKind::Unavailable).nth(call).from_then_on());
            let mut killed = Sequencer::default();
            let ended = bench.registry.sequence_events(&mut killed, &bench.tags).await;
            bench.bench.faults.heal();
            bench.pass(&mut Sequencer::default()).await;
            assert_eq!(bench.log().await, expected, "killed at call {call}");
            assert_eq!(bench.queued().await, 1);
            if ended.is_ok() {
                assert!(call > 5, "no call was made");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_long_queue_becomes_several_segments() {
    let bench = EventBench::new().await;
    let mut expected = Vec::new();
    for number in 0..EVENTS_PER_SEGMENT_MAX + 10 {
        expected.push(bench.change(&format!("t{}", number % 7)).await);
    }
    bench.bench.calls.take();
    let report = bench.pass(&mut Sequencer::default()).await;
    assert_eq!(report.appended, EVENTS_PER_SEGMENT_MAX + 10);
    assert_eq!(bench.bench.keys("events/log/").await.len(), 2);
    let calls = bench.bench.calls.take();
    let count = |operation| calls.iter().filter(|call: &&Call| call.operation == operation).count();
    // Each event is read; the listings have two pages each.
    assert_eq!(count("get"), EVENTS_PER_SEGMENT_MAX + 10);
    assert_eq!((count("put"), count("delete_many"), count("list")), (2, 2, 6));
    assert_eq!(bench.log().await, expected);
}

#[tokio::test]
async fn an_idle_pass_is_one_listing() {
    let bench = EventBench::new().await;
    let mut sequencer = Sequencer::default();
    bench.pass(&mut sequencer).await;
    bench.bench.calls.take();
    bench.pass(&mut sequencer).await;
    assert_eq!(bench.bench.calls.take().len(), 1);
}

#[tokio::test]
async fn facts_are_confirmed_by_being_written() {
    let bench = EventBench::new().await;
    let mut detail = EventDetail::new();
    detail.insert("removed".to_owned(), 3.into());
    let fact = Event::of_fact(EventAction::GcReport, bench.bench.clock.now(), detail);
    bench.registry.record_event(&fact).await.unwrap();
    bench.pass(&mut Sequencer::default()).await;
    assert_eq!(bench.log().await, [fact]);
}

#[tokio::test]
async fn a_damaged_event_is_quarantined_and_stops_no_other() {
    let bench = EventBench::new().await;
    let key = format!("events/queue/{}", Ulid::from_parts(1, 1)).parse().unwrap();
    bench.bench.faults.put(&key, "damaged".into(), PutMode::Create).await.unwrap();
    let event = bench.change("a").await;
    let report = bench.pass(&mut Sequencer::default()).await;
    assert_eq!((report.damaged, report.appended), (1, 1));
    assert_eq!(bench.log().await, [event]);
    assert_eq!((bench.queued().await, bench.bench.keys("quarantine/").await.len()), (0, 1));
}

#[tokio::test]
async fn old_segments_go_but_for_the_last_and_numbers_are_not_used_again() {
    let bench = EventBench::new().await;
    let mut sequencer = Sequencer::default();
    for _ in 0..3 {
        bench.change("a").await;
        bench.pass(&mut sequencer).await;
        bench.bench.clock.advance(HOUR);
    }
    assert_eq!(bench.registry.remove_old_events(24 * HOUR).await.unwrap(), 0);
    bench.bench.clock.advance(24 * HOUR);
    assert_eq!(bench.registry.remove_old_events(24 * HOUR).await.unwrap(), 2);
    bench.change("a").await;
    // One that knows nothing of the log.
    bench.pass(&mut Sequencer::default()).await;
    let names: Vec<_> =
        bench.bench.keys("events/log/").await.iter().map(ToString::to_string).collect();
    assert_eq!(names, ["events/log/0000000000000003", "events/log/0000000000000004"]);
    let segment = bench.registry.event_segment(4).await.unwrap().unwrap();
    assert_eq!(segment.first, 4);
}

#[tokio::test]
async fn a_log_that_was_deleted_continues_where_the_cursors_are() {
    let bench = EventBench::new().await;
    bench.change("a").await;
    bench.pass(&mut Sequencer::default()).await;
    let cursor = bench.registry.sink_cursor(&sink()).await.unwrap().cursor;
    assert_eq!(cursor.position, LogPosition { segment: 2, index: 0 });
    let keys = bench.bench.keys("events/log/").await;
    bench.bench.faults.delete_many(&keys).await.unwrap();
    bench.change("a").await;
    bench.pass(&mut Sequencer::starting_at([&cursor])).await;
    assert_eq!(bench.registry.event_segment(2).await.unwrap().unwrap().first, 2);
}

#[tokio::test]
async fn a_cursor_begins_at_the_end_moves_by_compare_and_swap_and_can_be_set_back() {
    let bench = EventBench::new().await;
    let mut sequencer = Sequencer::default();
    let times: Vec<_> = {
        let mut times = Vec::new();
        for _ in 0..3 {
            times.push(bench.bench.clock.now());
            bench.change("a").await;
            bench.pass(&mut sequencer).await;
            bench.bench.clock.advance(HOUR);
        }
        times
    };
    let stored = bench.registry.sink_cursor(&sink()).await.unwrap();
    assert_eq!(stored.cursor.position, LogPosition { segment: 4, index: 0 });
    assert_eq!(stored.cursor.sequence, 4);
    let since = bench.registry.event_segment_since(times[1]).await.unwrap();
    assert_eq!(since, 2);
    let replayed = bench.registry.replay_events(&sink(), since).await.unwrap();
    assert_eq!((replayed.position.segment, replayed.sequence), (2, 2));
    // The process that sends has read it before.
    let (sink, cursor) = (sink(), stored.cursor.clone());
    assert!(bench.registry.save_sink_cursor(&sink, &stored, cursor).await.unwrap().is_none());
    let end = bench.registry.event_segment_since(bench.bench.clock.now()).await.unwrap();
    assert_eq!(end, 4);
    // A replay never skips anything.
    assert_eq!(bench.registry.replay_events(&sink, end).await.unwrap(), replayed);
    assert_eq!(bench.registry.sinks_with_cursor().await.unwrap(), [sink]);
}

#[tokio::test]
async fn a_dead_letter_that_is_kept_twice_is_one_and_goes_with_time() {
    let bench = EventBench::new().await;
    let letter = DeadLetter {
        event: bench.mint("a"),
        sequence: 7,
        attempts: 10,
        error: "status 400".to_owned(),
    };
    for _ in 0..2 {
        bench.registry.keep_dead_letter(&sink(), &letter).await.unwrap();
    }
    assert_eq!(bench.registry.dead_letters(&sink(), 10).await.unwrap(), [letter]);
    bench.bench.clock.advance(2 * HOUR);
    bench.registry.remove_old_events(HOUR).await.unwrap();
    assert_eq!(bench.registry.dead_letters(&sink(), 10).await.unwrap(), []);
}

#[tokio::test]
async fn a_name_of_a_sink_is_one_component_of_a_key() {
    for name in ["a", "scanner-2", &"a".repeat(64)] {
        assert_eq!(name.parse::<SinkName>().unwrap().as_str(), name);
    }
    for name in ["", "A", "a/b", "-a", "a-", "a.b", &"a".repeat(65)] {
        name.parse::<SinkName>().unwrap_err();
    }
}
