//! Deliveries to a receiver that does what a test says.

#![allow(clippy::unwrap_used)]

mod receiver;

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jreg_auth::Secret;
use jreg_events::{
    ATTEMPTS_MAX, DeliveryError, DeliveryObserver, DeliveryProgress, DeliveryStatus, SecretSource,
    SinkClient, SinkDelivery, SinkFilter, SinkFormat, SinkInterest, SinkOptions, signature,
};
use jreg_oci::{Algorithm, Digest};
use jreg_registry::{
    ChangeEvidence, ChangeState, DeadLetter, Event, EventAction, EventDetail, Registry,
    RegistryOptions, Result, Sequencer, SinkName,
};
use jreg_storage::testing::{Fault, FaultyStore, ManualClock};
use jreg_storage::{Clock, ErrorKind, MemoryStore, Store};
use serde_json::{Value, json};
use ulid::Ulid;

use self::receiver::{Receiver, Reply};

/// Says of every change that it took effect.
struct Confirmed;

impl ChangeEvidence for Confirmed {
    async fn find(&self, events: &[&Event]) -> Result<Vec<ChangeState>> {
        Ok(vec![ChangeState::Archived; events.len()])
    }
}

#[derive(Debug, Default)]
struct Watched {
    failures: Mutex<Vec<DeliveryError>>,
    dead: Mutex<Vec<DeadLetter>>,
    lost: Mutex<u64>,
    status: Mutex<DeliveryStatus>,
}

impl DeliveryObserver for Watched {
    fn sent(&self, _: &SinkName) {}

    fn failed(&self, _: &SinkName, error: &DeliveryError) {
        self.failures.lock().unwrap().push(error.clone());
    }

    fn dead_letter(&self, _: &SinkName, letter: &DeadLetter) {
        self.dead.lock().unwrap().push(letter.clone());
    }

    fn lost(&self, _: &SinkName, events: u64) {
        *self.lost.lock().unwrap() += events;
    }

    fn status(&self, _: &SinkName, status: DeliveryStatus) {
        *self.status.lock().unwrap() = status;
    }
}

struct DeliveryBench {
    faults: Arc<FaultyStore>,
    clock: Arc<ManualClock>,
    registry: Registry,
    receiver: Receiver,
    watched: Arc<Watched>,
    sequencer: Sequencer,
    minted: u128,
}

impl DeliveryBench {
    async fn new() -> Self {
        let clock = Arc::new(ManualClock::default());
        let memory = MemoryStore::builder().remote().clock(clock.clone()).build();
        let faults = Arc::new(FaultyStore::new(Arc::new(memory)));
        let store = faults.clone() as Arc<dyn Store>;
        let registry =
            Registry::open(store, clock.clone(), RegistryOptions::default()).await.unwrap();
        let actions = SinkFormat::CloudEvents.default_actions();
        let filter = SinkFilter { repositories: Vec::new(), actions };
        let registry = registry.with_events(Arc::new(SinkInterest(vec![filter])));
        let bench = Self {
            faults,
            clock,
            registry,
            receiver: Receiver::start().await,
            watched: Arc::default(),
            sequencer: Sequencer::default(),
            minted: 0,
        };
        // A new sink begins at the end of the log.
        bench.registry.sink_cursor(&bench.options().name).await.unwrap();
        bench
    }

    fn options(&self) -> SinkOptions {
        SinkOptions {
            name: "scanner".parse().unwrap(),
            url: self.receiver.url(),
            format: SinkFormat::CloudEvents,
            filter: SinkFilter {
                repositories: Vec::new(),
                actions: SinkFormat::CloudEvents.default_actions(),
            },
            secrets: Vec::new(),
            timeout: Duration::from_secs(5),
            ca_file: None,
        }
    }

    async fn delivery(&self) -> SinkDelivery {
        self.delivery_with(self.options()).await
    }

    async fn delivery_with(&self, options: SinkOptions) -> SinkDelivery {
        let client = SinkClient::open(options, None).await.unwrap();
        let (clock, watched) = (self.clock.clone(), self.watched.clone());
        SinkDelivery::new(self.registry.clone(), client, clock, watched)
    }

    fn mint(&mut self, tag: &str) -> Event {
        self.minted += 1;
        let now = self.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap();
        let change = Ulid::from_parts(u64::try_from(now.as_millis()).unwrap(), self.minted);
        let change = change.to_string().parse().unwrap();
        Event {
            repository: Some("team/app".parse().unwrap()),
            tag: Some(tag.parse().unwrap()),
            digest: Some(Digest::of(Algorithm::Sha256, tag.as_bytes())),
            ..Event::of_change(EventAction::TagMove, change)
        }
    }

    /// Makes changes, and appends their events. Returns their ids.
    async fn change(&mut self, tags: &[&str]) -> Vec<String> {
        let mut ids = Vec::new();
        for tag in tags {
            let event = self.mint(tag);
            self.registry.record_event(&event).await.unwrap();
            ids.push(event.id());
        }
        self.registry.sequence_events(&mut self.sequencer, &Confirmed).await.unwrap();
        ids
    }

    async fn end(&mut self) -> u64 {
        let pass = self.registry.sequence_events(&mut self.sequencer, &Confirmed).await;
        pass.unwrap().next_sequence
    }

    /// Passes until everything was sent.
    async fn deliver(&mut self, delivery: &mut SinkDelivery) -> u32 {
        let end = self.end().await;
        for retries in 0..1000 {
            match delivery.run_pass(end).await.unwrap() {
                DeliveryProgress::Idle => return retries,
                DeliveryProgress::Retry(wait) => {
                    assert!(wait <= Duration::from_secs(300), "{wait:?}");
                    self.clock.advance(wait);
                }
            }
        }
        panic!("the sink never gets everything")
    }

    fn received(&self) -> Vec<String> {
        self.receiver.ids()
    }
}

#[tokio::test]
async fn events_are_sent_in_their_order_and_once() {
    let mut bench = DeliveryBench::new().await;
    let mut delivery = bench.delivery().await;
    let mut sent = bench.change(&["a", "b", "a"]).await;
    assert_eq!(bench.deliver(&mut delivery).await, 0);
    assert_eq!(bench.received(), sent);
    // Another process continues where that one ended.
    sent.extend(bench.change(&["c"]).await);
    let mut delivery = bench.delivery().await;
    bench.deliver(&mut delivery).await;
    assert_eq!(bench.received(), sent);
    assert_eq!(*bench.watched.status.lock().unwrap(), DeliveryStatus::default());
}

#[tokio::test]
async fn a_sink_that_does_not_work_stops_and_then_gets_everything_in_order() {
    let mut bench = DeliveryBench::new().await;
    let mut delivery = bench.delivery().await;
    let sent = bench.change(&["a", "b"]).await;
    for status in [500, 503, 401, 403, 408, 425, 429, 302, 304] {
        bench.receiver.reply([Reply::Status(status)]);
        let end = bench.end().await;
        let progress = delivery.run_pass(end).await.unwrap();
        assert!(matches!(progress, DeliveryProgress::Retry(_)), "{status}: {progress:?}");
    }
    let failing = bench.registry.find_sink_cursor(&bench.options().name).await.unwrap().unwrap();
    assert_eq!((failing.attempts, failing.error.as_deref()), (0, Some("status 304")));
    assert!(failing.failing_since.is_some());
    assert_eq!(bench.watched.status.lock().unwrap().lag_events, 2);
    bench.receiver.forget();
    bench.receiver.work();
    bench.deliver(&mut delivery).await;
    assert_eq!(bench.received(), sent);
    let cursor = bench.registry.find_sink_cursor(&bench.options().name).await.unwrap().unwrap();
    assert_eq!((cursor.failing_since, cursor.error, cursor.dead), (None, None, 0));
}

#[tokio::test]
async fn a_sink_that_is_down_hangs_or_breaks_off_is_retried() {
    let mut bench = DeliveryBench::new().await;
    let options = SinkOptions { timeout: Duration::from_millis(200), ..bench.options() };
    let mut delivery = bench.delivery_with(options).await;
    let sent = bench.change(&["a"]).await;
    bench.receiver.reply([Reply::Hang, Reply::Close, Reply::Status(200)]);
    assert_eq!(bench.deliver(&mut delivery).await, 2);
    assert_eq!(bench.watched.failures.lock().unwrap().len(), 2);
    assert_eq!(bench.received().last(), sent.last());
    // A port on which no process listens.
    let options = SinkOptions { url: "http://127.0.0.1:1/".to_owned(), ..bench.options() };
    let mut delivery = bench.delivery_with(options).await;
    bench.change(&["b"]).await;
    let end = bench.end().await;
    let progress = delivery.run_pass(end).await.unwrap();
    assert!(matches!(progress, DeliveryProgress::Retry(_)));
}

#[tokio::test]
async fn an_event_that_is_refused_becomes_a_dead_letter_and_the_next_is_sent() {
    let mut bench = DeliveryBench::new().await;
    let mut delivery = bench.delivery().await;
    let sent = bench.change(&["bad", "good"]).await;
    bench.receiver.reply((0..ATTEMPTS_MAX).map(|_| Reply::Status(400)));
    assert_eq!(bench.deliver(&mut delivery).await, ATTEMPTS_MAX - 1);
    let received = bench.received();
    assert_eq!(received.len(), ATTEMPTS_MAX as usize + 1);
    assert!(received[..ATTEMPTS_MAX as usize].iter().all(|id| *id == sent[0]));
    assert_eq!(received.last(), sent.last());
    let name = bench.options().name;
    let dead = bench.registry.dead_letters(&name, 10).await.unwrap();
    assert_eq!(dead, *bench.watched.dead.lock().unwrap());
    assert_eq!((dead[0].event.id(), dead[0].attempts), (sent[0].clone(), ATTEMPTS_MAX));
    assert_eq!(dead[0].error, "status 400");
    assert_eq!(bench.registry.find_sink_cursor(&name).await.unwrap().unwrap().dead, 1);
}

#[tokio::test]
async fn attempts_of_a_refused_event_survive_a_restart() {
    let mut bench = DeliveryBench::new().await;
    bench.change(&["bad"]).await;
    bench.receiver.reply((0..ATTEMPTS_MAX).map(|_| Reply::Status(422)));
    let end = bench.end().await;
    for attempt in 1..=ATTEMPTS_MAX {
        let progress = bench.delivery().await.run_pass(end).await.unwrap();
        let is_last = attempt == ATTEMPTS_MAX;
        assert_eq!(progress == DeliveryProgress::Idle, is_last, "attempt {attempt}");
    }
    assert_eq!(bench.received().len(), ATTEMPTS_MAX as usize);
}

#[tokio::test]
async fn retry_after_is_followed_within_a_limit() {
    let mut bench = DeliveryBench::new().await;
    let mut delivery = bench.delivery().await;
    bench.change(&["a"]).await;
    let end = bench.end().await;
    for (asked, expected) in [("120", 120), ("100000", 300)] {
        bench.receiver.reply([Reply::RetryAfter(503, asked)]);
        let progress = delivery.run_pass(end).await.unwrap();
        assert_eq!(progress, DeliveryProgress::Retry(Duration::from_secs(expected)));
    }
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_a_long_response_not_read() {
    let mut bench = DeliveryBench::new().await;
    let mut delivery = bench.delivery().await;
    bench.change(&["a"]).await;
    let end = bench.end().await;
    bench.receiver.reply([Reply::Redirect("/elsewhere")]);
    assert!(matches!(delivery.run_pass(end).await.unwrap(), DeliveryProgress::Retry(_)));
    bench.receiver.reply([Reply::Endless]);
    assert_eq!(delivery.run_pass(end).await.unwrap(), DeliveryProgress::Idle);
    assert_eq!(bench.receiver.paths(), ["/hook", "/hook"]);
}

#[tokio::test]
async fn killed_at_every_store_call_a_delivery_loses_nothing_and_repeats_only_the_same_ids() {
    for lost in [false, true] {
        for call in 1.. {
            let mut bench = DeliveryBench::new().await;
            let sent = bench.change(&["a", "b", "a"]).await;
            let end = bench.end().await;
            let fault = if lost { Fault::lose_response } else { Fault::fail };
            bench.faults.inject(fault(ErrorKind::Unavailable).nth(call).from_then_on());
            let ended = bench.delivery().await.run_pass(end).await;
            bench.faults.heal();
            let mut delivery = bench.delivery().await;
            bench.deliver(&mut delivery).await;
            let mut received = bench.received();
            let last = received.split_off(received.len().saturating_sub(3).min(received.len()));
            // The first deliveries are in order; what is sent again is all of it.
            assert!(last == sent || received.starts_with(&sent), "{call}: {received:?} {last:?}");
            received.extend(last);
            received.sort_unstable();
            received.dedup();
            assert_eq!(received.len(), sent.len());
            if ended.is_ok() {
                assert!(call > 3, "no call was made");
                break;
            }
        }
    }
}

#[tokio::test]
async fn a_replay_sends_again_with_the_same_ids_and_numbers() {
    let mut bench = DeliveryBench::new().await;
    let mut delivery = bench.delivery().await;
    let mut sent = Vec::new();
    let mut since = bench.clock.now();
    for tag in ["a", "b", "c"] {
        bench.clock.advance(Duration::from_secs(3600));
        if tag == "b" {
            since = bench.clock.now();
        }
        sent.extend(bench.change(&[tag]).await);
        bench.deliver(&mut delivery).await;
    }
    let first = bench.receiver.bodies();
    let name = bench.options().name;
    let segment = bench.registry.event_segment_since(since).await.unwrap();
    bench.registry.replay_events(&name, segment).await.unwrap();
    bench.deliver(&mut delivery).await;
    let all = bench.receiver.bodies();
    assert_eq!(all[..3], first);
    assert_eq!(all[3..], first[1..]);
}

#[tokio::test]
async fn events_that_were_deleted_before_they_were_sent_are_counted_and_skipped() {
    let mut bench = DeliveryBench::new().await;
    let mut delivery = bench.delivery().await;
    for tag in ["a", "b"] {
        bench.change(&[tag, tag]).await;
    }
    bench.clock.advance(Duration::from_secs(8 * 24 * 3600));
    let sent = bench.change(&["c"]).await;
    bench.registry.remove_old_events(Duration::from_secs(7 * 24 * 3600)).await.unwrap();
    bench.deliver(&mut delivery).await;
    assert_eq!(bench.received(), sent);
    assert_eq!(*bench.watched.lost.lock().unwrap(), 4);
}

#[tokio::test]
async fn two_processes_that_send_to_one_sink_repeat_and_lose_nothing() {
    let mut bench = DeliveryBench::new().await;
    let tags: Vec<_> = (0..250).map(|number| format!("t{}", number % 3)).collect();
    let tags: Vec<&str> = tags.iter().map(String::as_str).collect();
    let sent = bench.change(&tags).await;
    let end = bench.end().await;
    let (mut one, mut two) = (bench.delivery().await, bench.delivery().await);
    let (here, there) = tokio::join!(one.run_pass(end), two.run_pass(end));
    assert_eq!((here.unwrap(), there.unwrap()), (DeliveryProgress::Idle, DeliveryProgress::Idle));
    let mut firsts = Vec::new();
    for id in bench.received() {
        if !firsts.contains(&id) {
            firsts.push(id);
        }
    }
    assert_eq!(firsts, sent, "first deliveries are in order");
}

#[tokio::test]
async fn what_a_sink_does_not_want_is_skipped() {
    let mut bench = DeliveryBench::new().await;
    let filter = SinkFilter {
        repositories: vec!["other/**".parse().unwrap()],
        actions: SinkFormat::CloudEvents.default_actions(),
    };
    let mut delivery = bench.delivery_with(SinkOptions { filter, ..bench.options() }).await;
    bench.change(&["a", "b"]).await;
    bench.deliver(&mut delivery).await;
    assert_eq!(bench.received(), [""; 0]);
    let cursor = bench.registry.find_sink_cursor(&bench.options().name).await.unwrap().unwrap();
    assert_eq!((cursor.position.segment, cursor.sequence), (2, 3));
}

#[tokio::test]
async fn requests_are_signed_with_each_secret() {
    let mut bench = DeliveryBench::new().await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    std::fs::write(&path, "the old one, from a file\n").unwrap();
    let new = Secret::new("the new one, as it is");
    let secrets = vec![SecretSource::Value(new.clone()), SecretSource::File(path)];
    let mut delivery = bench.delivery_with(SinkOptions { secrets, ..bench.options() }).await;
    bench.change(&["a"]).await;
    bench.deliver(&mut delivery).await;
    let request = bench.receiver.requests().remove(0);
    let now = bench.clock.now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    let secrets = [new, Secret::new("the old one, from a file")];
    assert_eq!(request.signature.unwrap(), signature(&secrets, now, &request.body));
    let short = vec![SecretSource::Value(Secret::new("short"))];
    let error = SinkClient::open(SinkOptions { secrets: short, ..bench.options() }, None);
    assert!(error.await.unwrap_err().to_string().contains("16 bytes or more"));
}

/// What is sent for an event with every field.
async fn sent_as(format: SinkFormat, action: EventAction) -> (String, Value) {
    let mut bench = DeliveryBench::new().await;
    let filter = SinkFilter { repositories: Vec::new(), actions: EventAction::ALL.to_vec() };
    bench.registry = bench.registry.with_events(Arc::new(SinkInterest(vec![filter.clone()])));
    let options = SinkOptions { format, filter, ..bench.options() };
    let client = SinkClient::open(options, Some("https://registry.example.com".to_owned()));
    let (clock, watched) = (bench.clock.clone(), bench.watched.clone());
    let mut delivery =
        SinkDelivery::new(bench.registry.clone(), client.await.unwrap(), clock, watched);
    let digest = |text: &str| Some(Digest::of(Algorithm::Sha256, text.as_bytes()));
    let change = "01HF7YAT3V0000000000000001".parse().unwrap();
    let event = Event {
        repository: Some("team/app".parse().unwrap()),
        tag: Some("v1".parse().unwrap()),
        digest: digest("new"),
        previous_digest: digest("old"),
        media_type: Some("application/vnd.oci.image.manifest.v1+json".parse().unwrap()),
        size: Some(7),
        actor: Some("alice".to_owned()),
        request: Some("r1".to_owned()),
        detail: match action {
            EventAction::PullSummary => EventDetail::from_iter([("pulls".to_owned(), 3.into())]),
            _ => EventDetail::new(),
        },
        ..Event::of_change(action, change)
    };
    bench.registry.record_event(&event).await.unwrap();
    bench.deliver(&mut delivery).await;
    let request = bench.receiver.requests().remove(0);
    (request.content_type, serde_json::from_slice(&request.body).unwrap())
}

#[tokio::test]
async fn cloud_events_are_as_the_specification_says() {
    let (content_type, body) = sent_as(SinkFormat::CloudEvents, EventAction::TagMove).await;
    assert_eq!(content_type, "application/cloudevents+json; charset=utf-8");
    let digest = |text: &str| Digest::of(Algorithm::Sha256, text.as_bytes()).to_string();
    let expected = json!({
        "specversion": "1.0",
        "id": "01HF7YAT3V0000000000000001-tag.move",
        "source": "https://registry.example.com",
        "type": "io.jreg.tag.moved",
        "subject": "team/app:v1",
        "time": "2023-11-14T22:13:20.123Z",
        "sequence": "00000000000000000001",
        "datacontenttype": "application/json",
        "data": {
            "change": "01HF7YAT3V0000000000000001",
            "repository": "team/app",
            "tag": "v1",
            "digest": digest("new"),
            "previousDigest": digest("old"),
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "size": 7,
            "actor": "alice",
            "request": "r1",
        },
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn the_envelope_of_distribution_has_its_fields() {
    let (content_type, body) = sent_as(SinkFormat::Docker, EventAction::TagMove).await;
    assert_eq!(content_type, "application/vnd.docker.distribution.events.v2+json");
    let digest = Digest::of(Algorithm::Sha256, b"new").to_string();
    let expected = json!({ "events": [{
        "id": "01HF7YAT3V0000000000000001-tag.move",
        "timestamp": "2023-11-14T22:13:20.123Z",
        "action": "push",
        "target": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "size": 7,
            "digest": digest,
            "length": 7,
            "repository": "team/app",
            "url": format!("https://registry.example.com/v2/team/app/manifests/{digest}"),
            "tag": "v1",
        },
        "request": { "id": "r1", "method": "PUT", "useragent": "" },
        "actor": { "name": "alice" },
        "source": { "addr": "registry.example.com" },
        "sequence": 1,
    }] });
    assert_eq!(body, expected);
    // A deleted tag has no digest: its manifest was not deleted.
    let (_, body) = sent_as(SinkFormat::Docker, EventAction::TagDelete).await;
    assert_eq!(body["events"][0]["action"], "delete");
    assert_eq!(body["events"][0]["target"]["tag"], "v1");
    assert_eq!(body["events"][0]["target"].get("digest"), None);
}

#[tokio::test]
async fn pulls_are_a_number_in_both_formats() {
    let (_, body) = sent_as(SinkFormat::CloudEvents, EventAction::PullSummary).await;
    assert_eq!(
        (&body["type"], &body["subject"]),
        (&"io.jreg.content.pulled".into(), &"team/app:v1".into())
    );
    assert_eq!(body["data"]["pulls"], 3);
    let (_, body) = sent_as(SinkFormat::Docker, EventAction::PullSummary).await;
    let event = &body["events"][0];
    assert_eq!((&event["action"], &event["pulls"]), (&"pull".into(), &3.into()));
    assert_eq!(event["request"]["method"], "GET");
    let digest = Digest::of(Algorithm::Sha256, b"new").to_string();
    assert_eq!(
        (&event["target"]["digest"], &event["target"]["tag"]),
        (&digest.into(), &"v1".into())
    );
    assert!(event["target"]["url"].as_str().unwrap().contains("/v2/team/app/manifests/sha256:"));
}
