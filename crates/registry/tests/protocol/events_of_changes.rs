//! Events of real changes: as many as the store shows changes, whatever is killed where.

use std::collections::BTreeSet;
use std::sync::Arc;

use jreg_oci::{RepositoryName, Tag};
use jreg_registry::{
    Event, EventAction, EventInterest, PageRequest, ReferencePolicy, Registry, RegistryOptions,
    Repository, Result, Sequencer,
};
use jreg_storage::testing::{Fault, GateStore};
use jreg_storage::{ErrorKind, Store};
use serde_json::Value;

use crate::bench::{Bench, BenchStoreKind, MINUTE, digest, push_of};

#[derive(Debug)]
struct Everything;

impl EventInterest for Everything {
    fn wants(&self, _: EventAction, _: Option<&RepositoryName>) -> bool {
        true
    }
}

/// An operation of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Operation {
    PushNew,
    PushAgain,
    PushWithTags,
    MoveTag,
    PushAfterDelete,
    DeleteTag,
    DeleteManifest,
}

const OPERATIONS: [Operation; 7] = [
    Operation::PushNew,
    Operation::PushAgain,
    Operation::PushWithTags,
    Operation::MoveTag,
    Operation::PushAfterDelete,
    Operation::DeleteTag,
    Operation::DeleteManifest,
];

fn manifest(n: u32) -> String {
    let config = r#"{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}"#;
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{config},"layers":[],"annotations":{{"n":"{n}"}}}}"#
    )
}

struct ChangeBench {
    bench: Bench,
    registry: Registry,
}

impl ChangeBench {
    async fn new(kind: BenchStoreKind) -> Self {
        let bench = Bench::at(kind, options()).await;
        let registry = bench.registry.with_events(Arc::new(Everything));
        Self { bench, registry }
    }

    /// Another process on the same store.
    async fn restart(&mut self) {
        let (store, clock) = (self.bench.gate.clone(), self.bench.clock.clone());
        let registry = Registry::open(store, clock, options()).await.unwrap();
        self.registry = registry.with_events(Arc::new(Everything));
    }

    /// A further process on the same store, with a gate of its own.
    async fn other(&self) -> (Registry, Arc<GateStore>) {
        let gate = Arc::new(GateStore::new(self.bench.calls.clone()));
        let clock = self.bench.clock.clone();
        let registry = Registry::open(gate.clone(), clock, options()).await.unwrap();
        (registry.with_events(Arc::new(Everything)), gate)
    }

    fn repository(&self) -> Repository {
        self.registry.repository("app".parse().unwrap())
    }

    async fn push(&self, tag: &str, n: u32) -> Result<()> {
        self.repository().manifest_put(push_of(tag, &manifest(n))).await.map(drop)
    }

    async fn prepare(&self, operation: Operation) {
        match operation {
            Operation::PushNew | Operation::PushWithTags => {}
            Operation::PushAgain
            | Operation::MoveTag
            | Operation::DeleteTag
            | Operation::DeleteManifest => {
                self.push("v1", 1).await.unwrap();
                self.push("v2", 1).await.unwrap();
            }
            Operation::PushAfterDelete => {
                self.push("v1", 1).await.unwrap();
                let of = digest(manifest(1).as_bytes()).to_string().parse().unwrap();
                self.repository().manifest_delete(&of, None).await.unwrap();
            }
        }
        // What is old is touched.
        self.bench.clock.advance(90 * MINUTE);
    }

    async fn run(&self, operation: Operation) -> Result<()> {
        match operation {
            Operation::PushNew | Operation::PushAgain | Operation::PushAfterDelete => {
                self.push("v1", 1).await
            }
            Operation::PushWithTags => {
                let of = digest(manifest(1).as_bytes()).to_string();
                let tags = ["v1", "v2"].map(|tag| tag.parse().unwrap()).to_vec();
                let push = jreg_registry::ManifestPush { tags, ..push_of(&of, &manifest(1)) };
                self.repository().manifest_put(push).await.map(drop)
            }
            Operation::MoveTag => self.push("v1", 2).await,
            Operation::DeleteTag => {
                self.repository().manifest_delete(&"v1".parse().unwrap(), None).await
            }
            Operation::DeleteManifest => {
                let of = digest(manifest(1).as_bytes()).to_string().parse().unwrap();
                self.repository().manifest_delete(&of, None).await
            }
        }
    }

    /// The ids of the changes that the store shows: of the tags in their order, of manifests in any.
    async fn committed(&self) -> (Vec<Vec<String>>, BTreeSet<String>) {
        let mut of_tags = Vec::new();
        for tag in ["v1", "v2"] {
            of_tags.push(self.committed_of(&tag.parse().unwrap()).await);
        }
        let mut of_manifests = BTreeSet::new();
        for n in [1, 2] {
            let hex = digest(manifest(n).as_bytes()).hex();
            let current = self.header(&format!("repositories/app/_manifests/sha256/{hex}")).await;
            let current = current.map(|header| header["change"].as_str().unwrap().to_owned());
            of_manifests.extend(current.iter().map(|change| format!("{change}-manifest.push")));
            for copy in self.bench.keys(&format!("deleted/app/sha256/{hex}/")).await {
                let header = self.header(copy.as_str()).await.unwrap();
                let pushed = header["pushed"].as_str().unwrap();
                of_manifests.insert(format!("{pushed}-manifest.push"));
                if current.as_deref() != Some(pushed) {
                    of_manifests.insert(format!("{pushed}-manifest.delete"));
                }
            }
        }
        (of_tags, of_manifests)
    }

    async fn committed_of(&self, tag: &Tag) -> Vec<String> {
        let page = PageRequest { limit: 100, last: None };
        let Ok(history) = self.repository().tag_history(tag, &page).await else {
            return Vec::new();
        };
        let mut was_there = false;
        let mut ids = Vec::new();
        for entry in history.items.iter().rev() {
            let action = match (&entry.digest, was_there) {
                (None, _) => "tag.delete",
                (Some(_), true) => "tag.move",
                (Some(_), false) => "tag.create",
            };
            was_there = entry.digest.is_some();
            ids.push(format!("{}-{action}", entry.change));
        }
        ids
    }

    async fn header(&self, key: &str) -> Option<Value> {
        let record = self.bench.faults.get(&key.parse().unwrap()).await.ok()?;
        let line = record.bytes.split(|byte| *byte == b'\n').next().unwrap();
        Some(serde_json::from_slice(line).unwrap())
    }

    /// Sequences until the queue is empty, and returns the events of the log.
    async fn sequence(&mut self) -> Vec<Event> {
        let mut sequencer = Sequencer::default();
        let registry = self.registry.clone();
        registry.sequence_events(&mut sequencer, &registry).await.unwrap();
        // What is unsettled waits for the bound of writes.
        self.bench.clock.advance(25 * MINUTE);
        let pass = registry.sequence_events(&mut sequencer, &registry).await.unwrap();
        assert_eq!(pass.waiting, 0);
        assert_eq!(self.bench.keys("events/queue/").await, []);
        let (mut events, mut number) = (Vec::new(), 0);
        while let Some(next) = registry.next_event_segment(number).await.unwrap() {
            let segment = registry.event_segment(next).await.unwrap().unwrap();
            events.extend(segment.events.iter().cloned());
            number = next;
        }
        events
    }

    #[track_caller]
    fn compare(events: &[Event], committed: (Vec<Vec<String>>, BTreeSet<String>), at: &str) {
        let (of_tags, of_manifests) = committed;
        for (tag, expected) in ["v1", "v2"].iter().zip(of_tags) {
            let is_of = |event: &&Event| event.tag.as_ref().is_some_and(|of| of.as_str() == *tag);
            let ids: Vec<_> = events.iter().filter(is_of).map(Event::id).collect();
            assert_eq!(ids, expected, "{at}: tag {tag}");
        }
        let ids = events.iter().filter(|event| event.tag.is_none()).map(Event::id);
        let ids: Vec<_> = ids.collect();
        assert_eq!(ids.len(), of_manifests.len(), "{at}: {ids:?} {of_manifests:?}");
        assert_eq!(ids.into_iter().collect::<BTreeSet<_>>(), of_manifests, "{at}");
    }
}

fn options() -> RegistryOptions {
    RegistryOptions { references: ReferencePolicy::Off, ..RegistryOptions::default() }
}

#[tokio::test(start_paused = true)]
async fn there_are_as_many_events_as_changes() {
    for kind in [BenchStoreKind::Local, BenchStoreKind::Remote] {
        for operation in OPERATIONS {
            let mut bench = ChangeBench::new(kind).await;
            bench.prepare(operation).await;
            let before = bench.sequence().await.len();
            bench.run(operation).await.unwrap();
            let events = bench.sequence().await;
            let expected: &[&str] = match operation {
                Operation::PushNew => &["manifest.push", "tag.create"],
                Operation::PushAgain => &[],
                Operation::PushWithTags => &["manifest.push", "tag.create", "tag.create"],
                Operation::MoveTag => &["manifest.push", "tag.move"],
                Operation::PushAfterDelete => &["manifest.push", "tag.create"],
                Operation::DeleteTag => &["tag.delete"],
                Operation::DeleteManifest => &["manifest.delete", "tag.delete", "tag.delete"],
            };
            let new = events[before..].iter().map(|event| event.action.name());
            let mut new: Vec<_> = new.collect();
            new.sort_unstable();
            assert_eq!(new, expected, "{kind:?} {operation:?}");
            let committed = bench.committed().await;
            ChangeBench::compare(&events, committed, &format!("{kind:?} {operation:?}"));
        }
    }
}

/// Kills the operation at its N-th store call, whose effect is lost or not, for every N. Its client may
/// try again.
async fn kill_everywhere(kind: BenchStoreKind, lost: bool, is_retried: bool) {
    for operation in OPERATIONS {
        for call in 1.. {
            let mut bench = ChangeBench::new(kind).await;
            bench.prepare(operation).await;
            let fault = if lost { Fault::lose_response } else { Fault::fail };
            let fault = fault(ErrorKind::Unavailable).nth(call).from_then_on();
            bench.bench.faults.inject(fault);
            let ended = bench.run(operation).await;
            bench.bench.faults.heal();
            bench.restart().await;
            if is_retried {
                // What was deleted is deleted.
                bench.run(operation).await.ok();
            }
            let events = bench.sequence().await;
            let at = format!("{kind:?} {operation:?}, lost {lost}, call {call}");
            ChangeBench::compare(&events, bench.committed().await, &at);
            if ended.is_ok() {
                assert!(call > 2, "{at}: no call was made");
                break;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn killed_at_every_store_call_in_a_folder_there_are_as_many_events_as_changes() {
    for (lost, is_retried) in [(false, false), (false, true), (true, false), (true, true)] {
        kill_everywhere(BenchStoreKind::Local, lost, is_retried).await;
    }
}

#[tokio::test(start_paused = true)]
async fn killed_at_every_store_call_in_a_bucket_there_are_as_many_events_as_changes() {
    for (lost, is_retried) in [(false, false), (false, true), (true, false), (true, true)] {
        kill_everywhere(BenchStoreKind::Remote, lost, is_retried).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_event_costs_one_write_and_without_a_sink_none() {
    let writes = |bench: &ChangeBench| bench.bench.writes();
    for kind in [BenchStoreKind::Local, BenchStoreKind::Remote] {
        for operation in OPERATIONS {
            let bench = ChangeBench::new(kind).await;
            bench.prepare(operation).await;
            writes(&bench);
            bench.run(operation).await.unwrap();
            let with: Vec<_> = writes(&bench);
            let without = Bench::at(kind, options()).await;
            let silent = ChangeBench { registry: without.registry.clone(), bench: without };
            silent.prepare(operation).await;
            writes(&silent);
            silent.run(operation).await.unwrap();
            let without = writes(&silent);
            let queued = |writes: &[String]| {
                writes.iter().filter(|write| write.contains(" events/")).count()
            };
            let events = match operation {
                Operation::PushNew | Operation::PushAfterDelete | Operation::MoveTag => 2,
                Operation::PushWithTags | Operation::DeleteManifest => 3,
                Operation::DeleteTag => 1,
                // The event of the manifest, withdrawn once it is seen to be there.
                Operation::PushAgain => 2,
            };
            assert_eq!(queued(&without), 0, "{kind:?} {operation:?}: {without:?}");
            assert_eq!(queued(&with), events, "{kind:?} {operation:?}: {with:?}");
            assert_eq!(with.len(), without.len() + events, "{kind:?} {operation:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn moves_of_one_tag_by_many_processes_are_events_in_their_order() {
    for kind in [BenchStoreKind::Local, BenchStoreKind::Remote] {
        let mut bench = ChangeBench::new(kind).await;
        let mut others = Vec::new();
        for _ in 0..3 {
            let (store, clock) = (bench.bench.gate.clone(), bench.bench.clock.clone());
            let other = Registry::open(store, clock, options()).await.unwrap();
            others.push(other.with_events(Arc::new(Everything)));
        }
        let registry = bench.registry.clone();
        let sequencing = async {
            let mut sequencer = Sequencer::default();
            for _ in 0..40 {
                registry.sequence_events(&mut sequencer, &registry).await.unwrap();
                tokio::time::sleep(std::time::Duration::from_millis(5)).await;
            }
        };
        let pushes = (0..60_u32).map(|n| {
            let repository = others[n as usize % 3].repository("app".parse().unwrap());
            async move {
                tokio::time::sleep(std::time::Duration::from_millis(u64::from(n % 20) * 7)).await;
                repository.manifest_put(push_of("v1", &manifest(n % 4 % 2 + 1))).await.map(drop)
            }
        });
        let (pushed, ()) = tokio::join!(futures::future::join_all(pushes), sequencing);
        assert!(pushed.iter().any(std::result::Result::is_ok));
        let events = bench.sequence().await;
        ChangeBench::compare(&events, bench.committed().await, &format!("{kind:?}"));
        assert!(events.len() > 4, "{}", events.len());
    }
}

#[tokio::test(start_paused = true)]
async fn a_manifest_that_is_purged_before_its_event_is_sequenced_has_both_events() {
    let mut bench = ChangeBench::new(BenchStoreKind::Remote).await;
    bench.push("v1", 1).await.unwrap();
    let of = digest(manifest(1).as_bytes());
    bench.repository().manifest_purge(&of, true).await.unwrap();
    let mut actions: Vec<_> =
        bench.sequence().await.iter().map(|event| event.action.name()).collect();
    actions.sort_unstable();
    assert_eq!(actions, ["manifest.delete", "manifest.push", "tag.create", "tag.delete"]);
}

#[tokio::test(start_paused = true)]
async fn restores_have_events_of_their_own() {
    let mut bench = ChangeBench::new(BenchStoreKind::Remote).await;
    bench.push("v1", 1).await.unwrap();
    bench.push("v1", 2).await.unwrap();
    let (tag, of) = ("v1".parse().unwrap(), digest(manifest(1).as_bytes()));
    bench.repository().tag_restore(&tag, &of, None).await.unwrap();
    // It points there already.
    bench.repository().tag_restore(&tag, &of, None).await.unwrap();
    let restored: Vec<_> = bench.sequence().await;
    let of_tag = restored.iter().filter(|event| event.tag.is_some());
    let actions: Vec<_> = of_tag.map(|event| event.action.name()).collect();
    assert_eq!(actions, ["tag.create", "tag.move", "tag.restore"]);
    let last = restored.iter().rfind(|event| event.tag.is_some()).unwrap();
    assert_eq!(last.digest.as_ref(), Some(&of));
    assert_eq!(last.previous_digest, Some(digest(manifest(2).as_bytes())));
}

/// A delete whose process is suspended between two attempts: another process touches the manifest before the
/// first, and the sequencer drops the event before the second.
#[tokio::test(start_paused = true)]
async fn a_delete_that_is_suspended_between_two_attempts_has_its_event() {
    let mut bench = ChangeBench::new(BenchStoreKind::Remote).await;
    bench.push("v1", 1).await.unwrap();
    let pushed = bench.sequence().await;
    bench.bench.clock.advance(90 * MINUTE);
    let of = digest(manifest(1).as_bytes());
    let hex = of.to_string().trim_start_matches("sha256:").to_owned();
    let is_of_manifest = move |call: &jreg_storage::testing::Call| {
        call.operation == "delete" && call.key.contains("manifests/") && call.key.ends_with(&hex)
    };
    let mut before = bench.bench.gate.hold(is_of_manifest.clone());
    let mut after = bench.bench.gate.hold_response(is_of_manifest);
    let repository = bench.repository();
    let reference = of.to_string().parse().unwrap();
    let deleting = tokio::spawn(async move { repository.manifest_delete(&reference, None).await });
    before.reached(1).await;
    let (other, _) = bench.other().await;
    let other = other.repository("app".parse().unwrap());
    other.manifest_put(push_of("v2", &manifest(1))).await.unwrap();
    before.release();
    after.reached(1).await;
    bench.bench.clock.advance(40 * MINUTE);
    bench.sequence().await;
    after.release();
    deleting.await.unwrap().unwrap();
    let events = bench.sequence().await;
    let is_delete = |event: &&Event| event.action == EventAction::ManifestDelete;
    assert_eq!(events.iter().filter(is_delete).count(), 1, "{pushed:?} {events:?}");
    ChangeBench::compare(&events, bench.committed().await, "a suspended delete");
}

/// A push that chose its change before another process deleted the manifest, and wrote it after that, while a pass
/// of the sequencer had listed the queue in between.
#[tokio::test(start_paused = true)]
async fn a_push_that_comes_after_a_delete_is_after_it_in_the_log() {
    let mut bench = ChangeBench::new(BenchStoreKind::Remote).await;
    bench.push("v1", 1).await.unwrap();
    bench.sequence().await;
    let of = digest(manifest(1).as_bytes());
    let ((pusher, pushing_gate), (sequencing, sequencing_gate)) =
        (bench.other().await, bench.other().await);
    let is_look = |call: &jreg_storage::testing::Call| {
        call.operation == "get" && call.key.contains("_manifests/")
    };
    let mut held_push = pushing_gate.hold(is_look);
    let pushing = tokio::spawn(async move {
        let repository = pusher.repository("app".parse().unwrap());
        repository.manifest_put(push_of("v1", &manifest(1))).await.map(drop)
    });
    held_push.reached(1).await;
    bench.bench.clock.advance(std::time::Duration::from_secs(1));
    let mut held_pass = sequencing_gate.hold(is_look);
    let passing = tokio::spawn(async move {
        sequencing.sequence_events(&mut Sequencer::default(), &sequencing).await
    });
    held_pass.reached(1).await;
    bench.repository().manifest_delete(&of.to_string().parse().unwrap(), None).await.unwrap();
    held_push.release();
    pushing.await.unwrap().unwrap();
    held_pass.release();
    passing.await.unwrap().unwrap();
    let events = bench.sequence().await;
    let of_manifest = events.iter().filter(|event| event.tag.is_none());
    let actions: Vec<_> = of_manifest.map(|event| event.action.name()).collect();
    assert_eq!(actions, ["manifest.push", "manifest.delete", "manifest.push"]);
    ChangeBench::compare(&events, bench.committed().await, "a push after a delete");
}
