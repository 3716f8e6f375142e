//! Retention: what a run removes, on which version, and that a preview writes nothing.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use jreg_lifecycle::{CurrentRules, LifecycleRules};
use jreg_oci::{Digest, RepositoryName, Tag};
use jreg_registry::{
    EventAction, EventInterest, GcOptions, LeftRepository, NoObserver, Registry, RegistryOptions,
    RemovalOutcome, RetentionError, RetentionObserver, RetentionOptions, RetentionPlan,
    RetentionReport, RetentionVerdict, Sequencer, VerdictStatus,
};
use jreg_storage::testing::{Call, Fault};
use jreg_storage::{ErrorKind, Store};

use crate::bench::{Bench, digest, push_of};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// Releases stay, and what was pushed within two weeks.
const RULES: &str = r#"
[[retention]]
repositories = ["a", "a/**"]
[[retention.keep]]
tags = ["v*"]
[[retention.keep]]
pushed_within = "14d"
"#;

/// Keeps what a run says.
#[derive(Debug, Default)]
struct Verdicts {
    verdicts: Mutex<Vec<RetentionVerdict>>,
    left: Mutex<Vec<LeftRepository>>,
}

impl Verdicts {
    fn take(&self) -> Vec<RetentionVerdict> {
        std::mem::take(&mut self.verdicts.lock().unwrap())
    }

    fn left(&self) -> Vec<LeftRepository> {
        std::mem::take(&mut self.left.lock().unwrap())
    }
}

impl RetentionObserver for Verdicts {
    fn verdict(&self, verdict: &RetentionVerdict) {
        self.verdicts.lock().unwrap().push(verdict.clone());
    }

    fn left(&self, left: &LeftRepository) {
        self.left.lock().unwrap().push(left.clone());
    }
}

fn image(number: usize) -> String {
    image_of(number, &[])
}

/// An image of which `number` tells it from others, with these layers.
fn image_of(number: usize, layers: &[&[u8]]) -> String {
    let descriptor = |bytes: &[u8]| {
        format!(
            r#"{{"mediaType":"application/octet-stream","digest":"{}","size":{}}}"#,
            digest(bytes),
            bytes.len()
        )
    };
    let layers: Vec<_> = layers.iter().map(|layer| descriptor(layer)).collect();
    let (config, layers) = (descriptor(b"{}"), layers.join(","));
    format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","annotations":{{"n":"{number}"}},"config":{config},"layers":[{layers}]}}"#
    )
}

fn digest_of(number: usize) -> Digest {
    digest(image(number).as_bytes())
}

fn rules(text: &str) -> CurrentRules {
    CurrentRules::new(Arc::new(LifecycleRules::parse(&format!("{text}\n[end]\n")).unwrap()))
}

fn options() -> RetentionOptions {
    RetentionOptions::default()
}

struct Retained {
    bench: Bench,
    registry: Registry,
    verdicts: Verdicts,
}

impl Retained {
    async fn new(text: &str) -> Self {
        let bench = Bench::new().await;
        for name in ["a", "b", "a/b"] {
            bench.push(name, &"{}".into()).await;
        }
        let registry = bench.registry.with_rules(rules(text));
        Self { bench, registry, verdicts: Verdicts::default() }
    }

    async fn put(&self, name: &str, tag: &str, number: usize) {
        self.bench.put_manifest(name, tag, &image(number)).await.unwrap();
    }

    async fn run(&self) -> RetentionReport {
        self.registry.run_retention(&options(), &self.verdicts).await.unwrap()
    }

    async fn preview(&self) -> RetentionReport {
        self.registry.preview_retention(&options(), true, &self.verdicts).await.unwrap()
    }

    async fn run_plan(&self, plan: &RetentionPlan) -> Result<RetentionReport, RetentionError> {
        self.registry.run_retention_plan(plan, &options(), &self.verdicts).await
    }

    async fn tags(&self, name: &str) -> Vec<String> {
        let page = jreg_registry::PageRequest { limit: 1000, last: None };
        let tags = self.bench.repository(name).tags(&page).await.unwrap().items;
        tags.iter().map(Tag::to_string).collect()
    }
}

#[tokio::test]
async fn what_no_rule_keeps_is_removed_and_can_be_restored() {
    let retained = Retained::new(RULES).await;
    for (number, tag) in ["v1", "old", "pr-1"].into_iter().enumerate() {
        retained.put("a", tag, number).await;
        retained.put("b", tag, number).await;
    }
    retained.bench.clock.advance(15 * DAY);
    retained.put("a", "pr-1", 9).await;
    let report = retained.run().await;
    assert_eq!((report.repositories, report.unmatched), (1, 1));
    assert_eq!((report.tags, report.kept, report.removed), (3, 2, 1));
    assert_eq!(retained.tags("a").await, ["pr-1", "v1"]);
    assert_eq!(retained.tags("b").await, ["old", "pr-1", "v1"]);
    let verdicts = retained.verdicts.take();
    let [removed] = &verdicts[..] else { panic!("{verdicts:?}") };
    assert_eq!((removed.tag.as_str(), removed.status), ("old", VerdictStatus::Remove));
    assert_eq!(removed.outcome, Some(RemovalOutcome::Removed));
    assert!(removed.reason.contains("nothing of retention entry 1 keeps it"), "{removed:?}");
    let repository = retained.bench.repository("a");
    let tag: Tag = "old".parse().unwrap();
    let page = jreg_registry::PageRequest { limit: 10, last: None };
    let history = repository.tag_history(&tag, &page).await.unwrap();
    assert_eq!(history.items.first().unwrap().origin.actor(), Some("jreg:retention"));
    repository.tag_restore(&tag, &digest_of(1), None).await.unwrap();
    // The restore was a push.
    assert_eq!(retained.run().await.removed, 0);
    assert_eq!(retained.tags("a").await, ["old", "pr-1", "v1"]);
}

#[tokio::test]
async fn a_preview_writes_nothing_and_its_plan_is_carried_out_once() {
    let retained = Retained::new(RULES).await;
    for (number, tag) in ["one", "two", "three", "v1"].into_iter().enumerate() {
        retained.put("a", tag, number).await;
    }
    retained.bench.clock.advance(15 * DAY);
    retained.bench.calls.take();
    let writes = |call: &Call| !call.is_read();
    let refused = Fault::fail(ErrorKind::Refused).on(writes).from_then_on();
    retained.bench.faults.inject(refused);
    let report = retained.preview().await;
    assert_eq!(retained.bench.writes(), [""; 0]);
    retained.bench.faults.heal();
    assert_eq!((report.is_preview, report.removed, report.kept), (true, 3, 1));
    let verdicts = retained.verdicts.take();
    assert_eq!(verdicts.len(), 4);
    assert!(verdicts.iter().all(|verdict| verdict.outcome.is_none()), "{verdicts:?}");
    let plan = report.plan.unwrap();
    let text = serde_json::to_string(&plan).unwrap();
    let plan = serde_json::from_str(&text).unwrap();
    // One moves there and back, one is pushed again: neither is the version of the plan.
    retained.put("a", "one", 7).await;
    retained.put("a", "one", 0).await;
    retained.put("a", "two", 1).await;
    let report = retained.run_plan(&plan).await.unwrap();
    assert_eq!((report.removed, report.changed), (1, 2));
    assert_eq!(retained.tags("a").await, ["one", "two", "v1"]);
    let again = retained.run_plan(&plan).await.unwrap();
    assert_eq!((again.removed, again.changed), (0, 3));
    let other = retained.bench.registry.with_rules(rules(&format!("{RULES}# changed")));
    retained.bench.calls.take();
    let refused = other.run_retention_plan(&plan, &options(), &retained.verdicts).await;
    assert!(matches!(refused, Err(RetentionError::OtherRules { .. })), "{refused:?}");
    assert_eq!(retained.bench.writes(), [""; 0]);
}

/// The run has read the tag, and is about to read it again before it removes it.
#[tokio::test]
async fn a_tag_that_moves_during_the_run_stays() {
    for is_after_the_last_read in [false, true] {
        let retained = Retained::new(RULES).await;
        retained.put("a", "old", 1).await;
        retained.bench.clock.advance(15 * DAY);
        let mut held = match is_after_the_last_read {
            false => retained
                .bench
                .gate
                .hold(|call| call.operation == "list" && call.key.contains("/_manifests/")),
            true => retained
                .bench
                .gate
                .hold(|call| call.operation == "put" && call.key.contains("/_tags/")),
        };
        let (registry, verdicts) = (retained.registry.clone(), Verdicts::default());
        let running =
            tokio::spawn(
                async move { registry.run_retention(&options(), &verdicts).await.unwrap() },
            );
        held.reached(1).await;
        let (store, clock) = (retained.bench.faults.clone(), retained.bench.clock.clone());
        let other = Registry::open(store, clock, RegistryOptions::default()).await.unwrap();
        let other = other.repository("a".parse().unwrap());
        other.manifest_put(push_of("old", &image(1))).await.unwrap();
        held.release();
        let report = running.await.unwrap();
        assert_eq!((report.removed, report.changed), (0, 1));
        assert_eq!(retained.tags("a").await, ["old"]);
    }
}

#[tokio::test]
async fn children_and_signatures_of_what_is_kept_stay() {
    let retained = Retained::new(RULES).await;
    for (number, tag) in ["amd64", "arm64"].into_iter().enumerate() {
        retained.put("a", tag, number).await;
    }
    let index = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[{{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"{}","size":{}}}]}}"#,
        digest_of(0),
        image(0).len()
    );
    retained.bench.put_manifest("a", "v1", &index).await.unwrap();
    let signature = format!("sha256-{}.sig", digest(index.as_bytes()).hex());
    retained.put("a", &signature, 7).await;
    retained.bench.clock.advance(15 * DAY);
    let report = retained.run().await;
    assert_eq!((report.kept, report.protected, report.removed), (1, 2, 1));
    assert_eq!(retained.tags("a").await, ["amd64", &*signature, "v1"]);
}

#[tokio::test]
async fn too_many_removals_of_one_repository_are_withheld_unless_forced() {
    let retained = Retained::new(RULES).await;
    for number in 0..11 {
        retained.put("a", &format!("t{number}"), number).await;
        retained.put("a/b", &format!("t{number}"), number).await;
    }
    retained.bench.repository("a/b").manifest_delete(&"t0".parse().unwrap(), None).await.unwrap();
    retained.bench.clock.advance(15 * DAY);
    let report = retained.run().await;
    assert_eq!((report.withheld, report.removed), (11, 10));
    let left = retained.verdicts.left();
    let [left] = &left[..] else { panic!("{left:?}") };
    assert_eq!((left.repository.as_str(), left.tags), ("a", 11));
    let forced = RetentionOptions { force: true, ..options() };
    let report = retained.registry.run_retention(&forced, &retained.verdicts).await.unwrap();
    assert_eq!((report.withheld, report.removed), (0, 11));
    let selected = RetentionOptions { repositories: vec!["b/**".parse().unwrap()], ..options() };
    let report = retained.registry.run_retention(&selected, &retained.verdicts).await.unwrap();
    assert_eq!((report.repositories, report.tags), (0, 0));
}

#[tokio::test]
async fn bytes_are_counted_that_only_removed_tags_reference() {
    let retained = Retained::new(RULES).await;
    let (own, shared, kept) = (&b"own"[..], &b"of two that go"[..], &b"of one that stays"[..]);
    for layer in [own, shared, kept] {
        retained.bench.push("a", &layer.to_vec().into()).await;
    }
    let images = [image_of(1, &[own, shared, kept]), image_of(2, &[shared]), image_of(3, &[kept])];
    for (tag, image) in [("one", 0), ("two", 1), ("same", 1), ("v1", 2)] {
        retained.bench.put_manifest("a", tag, &images[image]).await.unwrap();
    }
    retained.bench.clock.advance(15 * DAY);
    let report = retained.preview().await;
    let verdicts = retained.verdicts.take();
    let bytes = |tag: &str| {
        let verdict = verdicts.iter().find(|verdict| verdict.tag.as_str() == tag).unwrap();
        verdict.only_bytes
    };
    let size = |image: usize| images[image].len() as u64;
    assert_eq!(bytes("one"), Some(size(0) + own.len() as u64));
    assert_eq!((bytes("two"), bytes("same"), bytes("v1")), (Some(0), Some(0), None));
    let together = size(0) + size(1) + (own.len() + shared.len()) as u64;
    assert_eq!(report.only_bytes, together);
}

#[tokio::test]
async fn what_cannot_be_read_keeps() {
    let retained = Retained::new(RULES).await;
    for (number, tag) in ["child", "old", "dark"].into_iter().enumerate() {
        retained.put("a", tag, number).await;
    }
    // It may point to the manifest of "child", too.
    retained.put("a", "dark", 0).await;
    let key = "repositories/a/_tags/dark".parse().unwrap();
    let mode = || jreg_storage::PutMode::Overwrite;
    retained.bench.faults.put(&key, "damage".into(), mode()).await.unwrap();
    retained.bench.clock.advance(15 * DAY);
    let report = retained.preview().await;
    assert_eq!((report.unevaluated, report.protected, report.removed), (1, 1, 1));
    let verdicts = retained.verdicts.take();
    let dark = verdicts.iter().find(|verdict| verdict.tag.as_str() == "dark").unwrap();
    assert_eq!((&dark.digest, dark.status), (&None, VerdictStatus::Keep));
    assert!(dark.reason.contains("when the tag was pushed is not known"), "{}", dark.reason);
    // With a manifest that cannot be read it is not known what belongs together.
    let key = format!("repositories/a/_manifests/sha256/{}", digest_of(0).hex());
    retained.bench.faults.put(&key.parse().unwrap(), "damage".into(), mode()).await.unwrap();
    let report = retained.run().await;
    assert_eq!((report.damaged, report.removed), (1, 0));
    let left = retained.verdicts.left();
    assert!(left[0].reason.contains("cannot be read"), "{left:?}");
}

#[tokio::test]
async fn immutable_tags_go_only_if_they_expire() {
    for (expires, left) in [(false, vec!["r1"]), (true, vec![])] {
        let rules = format!(
            "{RULES}\n[[immutable]]\nrepositories = ['**']\ntags = ['r*']\nexpires = {expires}\n"
        );
        let retained = Retained::new(&rules).await;
        retained.put("a", "r1", 1).await;
        retained.bench.clock.advance(15 * DAY);
        retained.run().await;
        assert_eq!(retained.tags("a").await, left);
    }
}

#[tokio::test]
async fn a_tag_is_explained() {
    let retained = Retained::new(RULES).await;
    retained.put("a", "new", 1).await;
    let name = "a".parse().unwrap();
    let explain = async |tag: &str| {
        let tag = tag.parse().unwrap();
        retained.registry.explain_retention(&name, &tag, &options()).await.unwrap()
    };
    let verdict = explain("new").await.unwrap();
    assert_eq!(verdict.status, VerdictStatus::Keep);
    assert!(verdict.reason.ends_with("; expires 2024-07-17 by retention entry 1"), "{verdict:?}");
    assert_eq!(explain("none").await, None);
}

#[derive(Debug)]
struct Everything;

impl EventInterest for Everything {
    fn wants(&self, _: EventAction, _: Option<&RepositoryName>) -> bool {
        true
    }
}

/// A removal is an event of its own, once, and names retention; a delete by a client is another.
#[tokio::test]
async fn removals_are_events() {
    let retained = Retained::new(RULES).await;
    let registry = retained.registry.with_events(Arc::new(Everything));
    retained.put("a", "old", 1).await;
    retained.put("a", "deleted", 2).await;
    retained.bench.clock.advance(15 * DAY);
    let repository = registry.repository("a".parse().unwrap());
    repository.manifest_delete(&"deleted".parse().unwrap(), None).await.unwrap();
    registry.run_retention(&options(), &NoObserver).await.unwrap();
    registry.run_retention(&options(), &NoObserver).await.unwrap();
    let mut sequencer = Sequencer::default();
    registry.sequence_events(&mut sequencer, &registry).await.unwrap();
    let number = registry.next_event_segment(0).await.unwrap().unwrap();
    let segment = registry.event_segment(number).await.unwrap().unwrap();
    let mut events: Vec<_> = segment.events.iter().collect();
    events.sort_by_key(|event| event.action);
    let expired: Vec<_> = events
        .iter()
        .map(|event| (event.action, event.tag.as_ref().unwrap().as_str(), event.actor.as_deref()))
        .collect();
    let expected = [
        (EventAction::TagDelete, "deleted", None),
        (EventAction::TagExpire, "old", Some("jreg:retention")),
    ];
    assert_eq!(expired, expected);
    assert_eq!(events[1].digest, Some(digest_of(1)));
}

/// In a bucket: the mark of the store, T0, and the catalog; for a repository that an entry matches a page of tags and
/// each tag; if any goes, a page of manifests and each manifest; for each that goes a read, an entry of its history
/// and the swap.
#[tokio::test]
async fn the_requests_of_a_run_follow_a_formula() {
    let retained = Retained::new(RULES).await;
    for number in 0..30 {
        retained.put("a", &format!("v{number}"), number).await;
        retained.put("b", &format!("v{number}"), number).await;
        retained.put("a/b", &format!("v{number}"), number).await;
    }
    for number in 30..35 {
        retained.put("a", &format!("t{number}"), number).await;
    }
    retained.bench.clock.advance(15 * DAY);
    retained.bench.calls.take();
    assert_eq!(retained.run().await.removed, 5);
    let calls = retained.bench.calls.take();
    let (start, catalog) = (2, 1);
    let tags = (1 + 35) + (1 + 30);
    let (manifests, removals) = (1 + 35, 5 * 3);
    let shown: Vec<_> =
        calls.iter().map(|call| format!("{} {}", call.operation, call.key)).collect();
    assert_eq!(calls.len(), start + catalog + tags + manifests + removals, "{shown:#?}");
    retained.run().await;
    let tags = (1 + 30) + (1 + 30);
    assert_eq!(retained.bench.calls.take().len(), start + catalog + tags);
}

/// The entry decides before the options of GC, either way.
#[tokio::test]
async fn untagged_manifests_follow_the_entry_of_their_repository() {
    let text = r#"
[[retention]]
repositories = ["a"]
untagged = "keep"
[[retention.keep]]
tags = ["*"]
[[retention]]
repositories = ["a/b"]
untagged = "1d"
[[retention.keep]]
tags = ["*"]
"#;
    for (untagged, left) in [(None, ["a", "b"].as_slice()), (Some(Duration::ZERO), &["a"])] {
        let retained = Retained::new(text).await;
        for name in ["a", "b", "a/b"] {
            let digest = digest_of(1).to_string();
            retained.bench.put_manifest(name, &digest, &image(1)).await.unwrap();
        }
        let gc = GcOptions { untagged, history_keep: Duration::ZERO, ..GcOptions::default() };
        for _ in 0..2 {
            retained.bench.clock.advance(3 * DAY);
            retained.registry.collect_garbage(&gc, &NoObserver).await.unwrap();
        }
        let keys = retained.bench.keys("repositories/").await;
        let manifests = keys.iter().filter_map(|key| key.as_str().split_once("/_manifests/"));
        let names: Vec<_> =
            manifests.map(|(name, _)| name.trim_start_matches("repositories/")).collect();
        assert_eq!(names, left, "{untagged:?}");
    }
}
