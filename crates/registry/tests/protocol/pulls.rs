//! Pull times: what is noted, flushed, merged and read, in every order of failures.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime};

use jreg_lifecycle::{CurrentRules, LifecycleRules};
use jreg_oci::{Reference, RepositoryName};
use jreg_registry::{
    EventAction, EventInterest, FindingKind, FsckOptions, GcOptions, NoObserver, Registry,
    RegistryOptions, RetentionOptions, RetentionVerdict, Sequencer, TouchPolicy, VerdictStatus,
};
use jreg_storage::testing::{Call, Fault, FaultyStore, ManualClock};
use jreg_storage::{Clock, ErrorKind, ListRequest, MemoryStore, PutMode, Store};

use crate::bench::{Bench, HOUR, MINUTE, digest, push_of};

const DAY: Duration = Duration::from_secs(24 * 3600);
/// A manifest without references.
const IMAGE: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
const RULES: &str =
    "[[retention]]\nrepositories = ['a']\n[[retention.keep]]\npulled_within = '30d'\n";

fn rules(text: &str) -> CurrentRules {
    CurrentRules::new(Arc::new(LifecycleRules::parse(&format!("{text}[end]\n")).unwrap()))
}

/// Instances on one store, each with a clock of its own.
struct Pulled {
    bench: Bench,
    rules: CurrentRules,
    registry: Registry,
}

impl Pulled {
    async fn new() -> Self {
        Self::with(RULES).await
    }

    async fn with(text: &str) -> Self {
        let (bench, rules) = (Bench::new().await, rules(text));
        let registry = bench.registry.with_rules(rules.clone());
        Self { bench, rules, registry }
    }

    /// Another instance.
    async fn another(&self) -> Registry {
        let (store, clock) = (self.bench.gate.clone(), self.bench.clock.clone());
        let registry = Registry::open(store, clock, RegistryOptions::default()).await.unwrap();
        registry.with_rules(self.rules.clone())
    }

    /// Another instance whose clock stands there.
    async fn another_at(&self, now: SystemTime) -> Registry {
        let (store, clock) = (self.bench.gate.clone(), Arc::new(ManualClock::new(now)));
        let registry = Registry::open(store, clock, RegistryOptions::default()).await.unwrap();
        registry.with_rules(self.rules.clone())
    }

    async fn push(&self, tag: &str) {
        self.bench.put_manifest("a", tag, IMAGE).await.unwrap();
    }

    /// What the job does every five minutes.
    async fn tick(&self, registry: &Registry) {
        registry.update_pulls_since().await.unwrap();
        registry.flush_pulls().await.unwrap();
    }

    fn advance(&self, by: Duration) {
        self.bench.clock.advance(by);
    }

    async fn verdict(&self, tag: &str) -> RetentionVerdict {
        // An instance that remembers nothing.
        verdict(&self.another().await, tag).await
    }

    async fn damage(&self, key: &str) {
        let key = key.parse().unwrap();
        self.bench.faults.put(&key, "damage".into(), PutMode::Overwrite).await.unwrap();
    }

    async fn keys(&self) -> Vec<String> {
        self.bench.keys("pulls/").await.iter().map(ToString::to_string).collect()
    }

    async fn objects(&self) -> Vec<String> {
        let is_object = |key: &String| key.as_bytes()[6].is_ascii_digit();
        self.keys().await.into_iter().filter(is_object).collect()
    }
}

async fn verdict(registry: &Registry, tag: &str) -> RetentionVerdict {
    let (name, tag) = ("a".parse().unwrap(), tag.parse().unwrap());
    let options = RetentionOptions::default();
    registry.explain_retention(&name, &tag, &options).await.unwrap().unwrap()
}

/// A client pulls.
async fn pull(registry: &Registry, name: &str, reference: &str) {
    let repository = registry.repository(name.parse().unwrap());
    let reference: Reference = reference.parse().unwrap();
    let found = repository.manifest_get(&reference, TouchPolicy::Never).await.unwrap();
    repository.record_pull(&reference, &found);
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs()
}

#[tokio::test]
async fn without_a_rule_or_a_setting_nothing_is_requested() {
    let pulled =
        Pulled::with("[[retention]]\nrepositories = ['a']\n[[retention.keep]]\ntags = ['v*']\n")
            .await;
    pulled.push("v1").await;
    pull(&pulled.registry, "a", "v1").await;
    pulled.bench.calls.take();
    for _ in 0..3 {
        pull(&pulled.registry, "a", "v1").await;
        let gets = pulled.bench.calls.take();
        assert_eq!(gets.len(), 1, "the tag itself: {gets:?}");
        pulled.tick(&pulled.registry).await;
        assert_eq!(pulled.bench.calls.take().len(), 0);
    }
    pulled.registry.collect_garbage(&gc(), &NoObserver).await.unwrap();
    verdict(&pulled.registry, "v1").await;
    let calls = pulled.bench.calls.take();
    assert!(calls.iter().all(|call| !call.key.starts_with("pulls/")), "{calls:?}");
    assert_eq!(pulled.keys().await, [""; 0]);
}

fn gc() -> GcOptions {
    GcOptions { sweep_now: true, ..GcOptions::default() }
}

#[tokio::test]
async fn a_pull_costs_nothing_and_a_flush_one_object() {
    let pulled = Pulled::new().await;
    for number in 0..50 {
        pulled.push(&format!("v{number}")).await;
    }
    pulled.tick(&pulled.registry).await;
    pulled.bench.calls.take();
    pulled.tick(&pulled.registry).await;
    assert_eq!(pulled.bench.calls.take().len(), 0, "nothing was pulled");
    for number in (0..50).chain(0..50) {
        pull(&pulled.registry, "a", &format!("v{number}")).await;
    }
    let calls = pulled.bench.calls.take();
    assert!(calls.iter().all(|call| call.operation == "get"), "{calls:?}");
    assert_eq!(calls.len(), 101, "the tags themselves, and the manifest once");
    pulled.tick(&pulled.registry).await;
    assert_eq!(pulled.bench.calls.take().len(), 1);
    assert_eq!(pulled.objects().await.len(), 1);
    // 50 tags in 45 or so of the 256 shards: each is read and written.
    let merged = pulled.registry.merge_pulls().await.unwrap();
    assert_eq!(merged.objects, 1);
    let calls = pulled.bench.calls.take();
    // The listing, the object, the start three times, with a write of it, and the removal.
    assert_eq!(calls.len(), 2 * merged.shards + 7, "{calls:?}");
    assert_eq!(pulled.objects().await, [""; 0]);
    assert_eq!(pulled.registry.merge_pulls().await.unwrap().objects, 0);
    assert_eq!(pulled.bench.calls.take().len(), 2);
}

#[tokio::test]
async fn a_tag_is_kept_by_its_pulls_and_removed_when_they_end() {
    let pulled = Pulled::new().await;
    for tag in ["used", "by-digest", "unused"] {
        let image = IMAGE.replace("[]", &format!("[],\"annotations\":{{\"t\":\"{tag}\"}}"));
        pulled.bench.put_manifest("a", tag, &image).await.unwrap();
    }
    pulled.tick(&pulled.registry).await;
    pulled.advance(20 * DAY);
    pull(&pulled.registry, "a", "used").await;
    let image = IMAGE.replace("[]", "[],\"annotations\":{\"t\":\"by-digest\"}");
    pull(&pulled.registry, "a", &digest(image.as_bytes()).to_string()).await;
    pulled.tick(&pulled.registry).await;
    pulled.advance(11 * DAY);
    // In objects, and in shards.
    for _ in 0..2 {
        for (tag, status) in [
            ("used", VerdictStatus::Keep),
            ("by-digest", VerdictStatus::Keep),
            ("unused", VerdictStatus::Remove),
        ] {
            assert_eq!(pulled.verdict(tag).await.status, status, "{tag}");
        }
        let kept = pulled.verdict("used").await;
        let pulled_at = seconds(pulled.bench.clock.now() - 11 * DAY);
        assert_eq!(kept.pulled, Some(pulled_at / 60 * 60));
        let expires = "pulled 11 days ago); expires 2024-08-22 by retention entry 1 unless pulled";
        assert!(kept.reason.ends_with(expires), "{}", kept.reason);
        pulled.registry.merge_pulls().await.unwrap();
    }
    let report = pulled.registry.run_retention(&RetentionOptions::default(), &NoObserver).await;
    let report = report.unwrap();
    assert_eq!((report.kept, report.removed), (2, 1));
    pulled.advance(19 * DAY + 14 * MINUTE);
    assert_eq!(pulled.verdict("used").await.status, VerdictStatus::Keep, "the slack");
    pulled.advance(3 * MINUTE);
    assert_eq!(pulled.verdict("used").await.status, VerdictStatus::Remove);
}

#[tokio::test]
async fn until_pulls_were_tracked_for_so_long_nothing_is_removed() {
    let pulled = Pulled::new().await;
    pulled.push("v1").await;
    pulled.advance(100 * DAY);
    let verdict = pulled.verdict("v1").await;
    assert_eq!(verdict.status, VerdictStatus::Keep);
    assert!(verdict.reason.contains("pulls are not tracked"), "{}", verdict.reason);
    pulled.tick(&pulled.registry).await;
    let verdict = pulled.verdict("v1").await;
    assert!(
        verdict.reason.contains("pulls are tracked long enough only from 2024-11-10 on"),
        "{}",
        verdict.reason
    );
    pulled.advance(30 * DAY + 20 * MINUTE);
    assert_eq!(pulled.verdict("v1").await.status, VerdictStatus::Remove);
}

/// What this process has noted counts at once.
#[tokio::test]
async fn a_run_knows_the_pulls_of_its_own_process_before_they_are_written() {
    let pulled = Pulled::new().await;
    pulled.push("v1").await;
    pulled.tick(&pulled.registry).await;
    pulled.advance(31 * DAY);
    assert_eq!(verdict(&pulled.registry, "v1").await.status, VerdictStatus::Remove);
    pull(&pulled.registry, "a", "v1").await;
    assert_eq!(verdict(&pulled.registry, "v1").await.status, VerdictStatus::Keep);
    assert_eq!(pulled.objects().await, [""; 0]);
}

/// Stopped at every call between the flush and the end of the merge, with the response lost or the request never sent:
/// what was flushed is known, to every reader, at any time.
#[tokio::test]
async fn what_was_flushed_survives_a_stop_at_every_call_of_a_merge() {
    for is_applied in [false, true] {
        for stop in 0.. {
            let pulled = Pulled::new().await;
            for tag in ["v1", "v2", "v3"] {
                pulled.push(tag).await;
            }
            pulled.tick(&pulled.registry).await;
            pulled.advance(20 * DAY);
            for tag in ["v1", "v2", "v3"] {
                pull(&pulled.registry, "a", tag).await;
                pulled.tick(&pulled.registry).await;
            }
            pulled.advance(11 * DAY);
            let fault = match is_applied {
                false => Fault::fail(ErrorKind::Refused),
                true => Fault::lose_response(ErrorKind::Refused),
            };
            let merging = pulled.another().await;
            pulled.bench.faults.inject(fault.nth(stop + 1).from_then_on());
            let merged = merging.merge_pulls().await;
            pulled.bench.faults.heal();
            for _ in 0..2 {
                for tag in ["v1", "v2", "v3"] {
                    let verdict = pulled.verdict(tag).await;
                    assert_eq!(verdict.status, VerdictStatus::Keep, "call {stop} {verdict:?}");
                }
                pulled.registry.merge_pulls().await.unwrap();
                assert_eq!(pulled.objects().await, [""; 0]);
            }
            if merged.is_ok() {
                assert!(stop > 8, "{stop}");
                break;
            }
        }
    }
}

/// Stopped at every call, a flush is repeated, and the pull is known then.
#[tokio::test]
async fn a_flush_that_fails_keeps_what_was_pulled() {
    for is_applied in [false, true] {
        let pulled = Pulled::new().await;
        pulled.push("v1").await;
        pulled.tick(&pulled.registry).await;
        pulled.advance(20 * DAY);
        pull(&pulled.registry, "a", "v1").await;
        let fault = match is_applied {
            false => Fault::fail(ErrorKind::Unavailable),
            true => Fault::lose_response(ErrorKind::Unavailable),
        };
        pulled.bench.faults.inject(fault.from_then_on());
        pulled.registry.flush_pulls().await.unwrap_err();
        pulled.bench.faults.heal();
        pulled.advance(5 * MINUTE);
        pulled.tick(&pulled.registry).await;
        pulled.registry.merge_pulls().await.unwrap();
        pulled.advance(11 * DAY);
        assert_eq!(pulled.verdict("v1").await.status, VerdictStatus::Keep);
    }
}

/// A flush whose process ends while it writes.
#[tokio::test]
async fn a_flush_that_is_dropped_is_made_up_for() {
    let pulled = Pulled::new().await;
    pulled.push("v1").await;
    pulled.tick(&pulled.registry).await;
    pulled.advance(31 * DAY);
    pull(&pulled.registry, "a", "v1").await;
    let mut held = pulled.bench.gate.hold(|call| call.key.starts_with("pulls/"));
    let registry = pulled.registry.clone();
    let flushing = tokio::spawn(async move { registry.flush_pulls().await });
    held.reached(1).await;
    flushing.abort();
    flushing.await.unwrap_err();
    held.release();
    assert_eq!(verdict(&pulled.registry, "v1").await.status, VerdictStatus::Keep);
    pulled.registry.flush_pulls().await.unwrap();
    assert_eq!(pulled.verdict("v1").await.status, VerdictStatus::Keep);
}

/// Two merge the same objects at once, held at each of their writes in turn.
#[tokio::test]
async fn two_merges_at_once_lose_nothing() {
    for held_at in 0.. {
        let pulled = Pulled::new().await;
        pulled.push("v1").await;
        pulled.push("v2").await;
        let (one, two) = (pulled.another().await, pulled.another().await);
        pulled.tick(&one).await;
        pulled.tick(&two).await;
        pulled.advance(31 * DAY);
        pull(&one, "a", "v1").await;
        pulled.tick(&one).await;
        let calls = AtomicUsize::new(0);
        let mut held = pulled.bench.gate.hold(move |call: &Call| {
            let is_of_merge = call.key.starts_with("pulls/") || call.operation == "delete_many";
            is_of_merge && calls.fetch_add(1, Ordering::SeqCst) == held_at
        });
        let mut merging = tokio::spawn(async move { one.merge_pulls().await });
        let is_done = tokio::select! {
            () = held.reached(1) => false,
            done = &mut merging => {
                done.unwrap().unwrap();
                true
            }
        };
        if is_done {
            assert!(held_at > 6, "{held_at}");
            break;
        }
        // The other one comes in between, with later pulls.
        pulled.advance(DAY);
        pull(&two, "a", "v1").await;
        pull(&two, "a", "v2").await;
        pulled.tick(&two).await;
        two.merge_pulls().await.unwrap();
        held.release();
        merging.await.unwrap().unwrap();
        for tag in ["v1", "v2"] {
            let last = pulled.verdict(tag).await.pulled;
            assert_eq!(last, Some(seconds(pulled.bench.clock.now()) / 60 * 60), "{tag} {held_at}");
        }
        assert_eq!(pulled.objects().await, [""; 0]);
    }
}

/// Nothing expires because of what is lost, and tracking begins anew.
#[tokio::test]
async fn damage_of_any_object_keeps_every_tag_until_pulls_were_tracked_again_for_so_long() {
    for damaged in ["object", "shard", "shard removed", "since", "since removed"] {
        for is_repaired_by_fsck in [false, true] {
            let pulled = Pulled::new().await;
            pulled.push("unused").await;
            pulled.push("v1").await;
            pulled.tick(&pulled.registry).await;
            pulled.advance(5 * DAY);
            pull(&pulled.registry, "a", "v1").await;
            pulled.tick(&pulled.registry).await;
            pulled.registry.merge_pulls().await.unwrap();
            pull(&pulled.registry, "a", "v1").await;
            pulled.tick(&pulled.registry).await;
            pulled.advance(40 * DAY);
            assert_eq!(pulled.verdict("unused").await.status, VerdictStatus::Remove);
            let shard = shard_of(&pulled).await;
            match damaged {
                "object" => pulled.damage(&pulled.objects().await[0]).await,
                "shard" => pulled.damage(&shard).await,
                "shard removed" => {
                    pulled.bench.faults.delete(&shard.parse().unwrap(), None).await.unwrap();
                }
                "since" => pulled.damage("pulls/since").await,
                _ => {
                    let since = "pulls/since".parse().unwrap();
                    pulled.bench.faults.delete(&since, None).await.unwrap();
                }
            }
            let context = format!("{damaged} {is_repaired_by_fsck}");
            // The tag is in the shard that is lost; of an object any may be.
            assert_eq!(pulled.verdict("v1").await.status, VerdictStatus::Keep, "{context}");
            if damaged != "since removed" {
                let found = fsck(&pulled, false).await;
                assert_eq!(found, [FindingKind::PullTimesLost], "{context}");
            }
            if is_repaired_by_fsck {
                fsck(&pulled, true).await;
                assert_eq!(fsck(&pulled, false).await, [], "{context}");
            }
            // A pull that makes the merge look at the shard.
            pull(&pulled.registry, "a", "v1").await;
            pulled.tick(&pulled.registry).await;
            pulled.registry.merge_pulls().await.unwrap();
            assert_eq!(fsck(&pulled, false).await, [], "{context}");
            for tag in ["unused", "v1"] {
                assert_eq!(pulled.verdict(tag).await.status, VerdictStatus::Keep, "{context}");
            }
            pulled.advance(29 * DAY);
            assert_eq!(pulled.verdict("unused").await.status, VerdictStatus::Keep, "{context}");
            pulled.advance(2 * DAY);
            assert_eq!(pulled.verdict("unused").await.status, VerdictStatus::Remove, "{context}");
        }
    }
}

/// The shard of the tag that was merged.
async fn shard_of(pulled: &Pulled) -> String {
    let shards = pulled.bench.keys("pulls/times/").await;
    assert_eq!(shards.len(), 1);
    shards[0].to_string()
}

/// The findings, but for what a repair has quarantined.
async fn fsck(pulled: &Pulled, repair: bool) -> Vec<FindingKind> {
    let (options, actions) =
        (FsckOptions { repair, ..FsckOptions::default() }, Findings::default());
    pulled.another().await.fsck(&options, &actions).await.unwrap();
    let findings = actions.0.into_inner().unwrap();
    findings.into_iter().filter(|kind| *kind != FindingKind::Quarantined).collect()
}

#[derive(Debug, Default)]
struct Findings(std::sync::Mutex<Vec<FindingKind>>);

impl jreg_registry::FsckObserver for Findings {
    fn phase(&self, _: jreg_registry::FsckPhase) {}

    fn progress(&self, _: u64, _: u64) {}

    fn repairing(&self, _: &jreg_registry::FsckFinding, _: &[String]) {}

    fn finding(&self, finding: &jreg_registry::FsckFinding) {
        self.0.lock().unwrap().push(finding.kind);
    }
}

/// The start is set before what was damaged is replaced: a reader that comes between sees one of both.
#[tokio::test]
async fn a_stop_at_every_call_while_damage_is_replaced_removes_nothing() {
    for damaged in ["object", "shard"] {
        for stop in 0.. {
            let pulled = Pulled::new().await;
            pulled.push("v1").await;
            pulled.tick(&pulled.registry).await;
            pulled.advance(20 * DAY);
            pull(&pulled.registry, "a", "v1").await;
            pulled.tick(&pulled.registry).await;
            if damaged == "shard" {
                pulled.registry.merge_pulls().await.unwrap();
                pull(&pulled.registry, "a", "v1").await;
                pulled.tick(&pulled.registry).await;
                pulled.damage(&shard_of(&pulled).await).await;
                pulled
                    .bench
                    .faults
                    .delete(&pulled.objects().await[0].parse().unwrap(), None)
                    .await
                    .unwrap();
                pulled.push("v2").await;
                pull(&pulled.registry, "a", "v1").await;
                pulled.tick(&pulled.registry).await;
            } else {
                pulled.damage(&pulled.objects().await[0]).await;
            }
            pulled.advance(11 * DAY);
            let fault = Fault::fail(ErrorKind::Refused).nth(stop + 1).from_then_on();
            let merging = pulled.another().await;
            pulled.bench.faults.inject(fault);
            let merged = merging.merge_pulls().await;
            pulled.bench.faults.heal();
            assert_eq!(pulled.verdict("v1").await.status, VerdictStatus::Keep, "{damaged} {stop}");
            if merged.is_ok() {
                assert!(stop > 5, "{stop}");
                break;
            }
        }
    }
}

/// An instance without the rule serves pulls that nobody notes.
#[tokio::test]
async fn a_pull_that_is_not_noted_begins_tracking_anew() {
    let pulled = Pulled::new().await;
    pulled.push("v1").await;
    pulled.tick(&pulled.registry).await;
    pulled.advance(40 * DAY);
    assert_eq!(pulled.verdict("v1").await.status, VerdictStatus::Remove);
    // The rule is reloaded away and back, within one interval.
    let with = pulled.rules.get();
    pulled.rules.replace(Arc::default());
    pull(&pulled.registry, "a", "v1").await;
    pulled.rules.replace(with.clone());
    pulled.tick(&pulled.registry).await;
    assert_eq!(pulled.verdict("v1").await.status, VerdictStatus::Keep);
    pulled.advance(40 * DAY);
    assert_eq!(pulled.verdict("v1").await.status, VerdictStatus::Remove);
    // A restart without it says that pulls are not tracked any more, at once and once.
    pulled.rules.replace(Arc::default());
    let without = pulled.another().await;
    without.update_pulls_since().await.unwrap();
    pulled.bench.calls.take();
    without.update_pulls_since().await.unwrap();
    assert_eq!(pulled.bench.calls.take().len(), 0);
    pulled.rules.replace(with);
    assert_eq!(pulled.verdict("v1").await.status, VerdictStatus::Keep);
    // A restart with it does not begin anew.
    let again = pulled.another().await;
    pulled.tick(&again).await;
    pulled.advance(31 * DAY);
    pulled.tick(&pulled.another().await).await;
    assert_eq!(pulled.verdict("v1").await.status, VerdictStatus::Remove);
}

/// Clocks that are a minute off, in both directions.
#[tokio::test]
async fn clocks_that_differ_by_a_minute_cost_no_tag() {
    for (ahead, behind) in [(MINUTE, Duration::ZERO), (Duration::ZERO, MINUTE)] {
        let pulled = Pulled::new().await;
        pulled.push("v1").await;
        let now = pulled.bench.clock.now();
        pulled.tick(&pulled.another_at(now + ahead - behind).await).await;
        // Pulled in the last second in which it is not too late, and flushed five minutes later.
        pulled.advance(30 * DAY);
        let late = pulled.another_at(pulled.bench.clock.now() + ahead - behind).await;
        pull(&late, "a", "v1").await;
        for _ in 0..10 {
            pulled.advance(MINUTE);
            let verdict = pulled.verdict("v1").await;
            assert_eq!(verdict.status, VerdictStatus::Keep, "{}", verdict.reason);
        }
        pulled.tick(&late).await;
        pulled.advance(29 * DAY);
        assert_eq!(pulled.verdict("v1").await.status, VerdictStatus::Keep);
    }
}

#[tokio::test]
async fn what_is_known_of_removed_tags_and_repositories_is_dropped_by_a_sweep() {
    let pulled = Pulled::new().await;
    for (name, tag) in [("a", "v1"), ("a", "gone"), ("b", "gone")] {
        pulled.bench.put_manifest(name, tag, IMAGE).await.unwrap();
    }
    pulled.tick(&pulled.registry).await;
    let image = digest(IMAGE.as_bytes()).to_string();
    for (name, reference) in [("a", "v1"), ("a", "gone"), ("b", "gone"), ("b", &*image)] {
        pull(&pulled.registry, name, reference).await;
    }
    pulled.tick(&pulled.registry).await;
    let delete = async |name: &str, reference: &str| {
        let repository = pulled.bench.repository(name);
        repository.manifest_delete(&reference.parse().unwrap(), None).await.unwrap();
    };
    delete("a", "gone").await;
    delete("b", &image).await;
    pulled.advance(30 * MINUTE);
    let report = pulled.registry.collect_garbage(&gc(), &NoObserver).await.unwrap();
    assert_eq!((report.pull_times.scanned, report.pull_times.removed), (4, 0), "too young");
    pulled.advance(HOUR);
    let report = pulled.registry.collect_garbage(&gc(), &NoObserver).await.unwrap();
    assert_eq!((report.pull_times.scanned, report.pull_times.removed), (4, 3));
    let report = pulled.registry.collect_garbage(&gc(), &NoObserver).await.unwrap();
    assert_eq!((report.pull_times.scanned, report.pull_times.removed), (1, 0));
    assert!(pulled.verdict("v1").await.pulled.is_some());
}

#[tokio::test]
async fn a_plan_spares_what_was_pulled_since() {
    let pulled = Pulled::new().await;
    pulled.push("v1").await;
    pulled.push("v2").await;
    pulled.tick(&pulled.registry).await;
    pulled.advance(40 * DAY);
    let options = RetentionOptions::default();
    let preview = pulled.registry.preview_retention(&options, true, &NoObserver).await.unwrap();
    assert_eq!(preview.removed, 2);
    pulled.advance(HOUR);
    pull(&pulled.registry, "a", "v1").await;
    let plan = preview.plan.unwrap();
    let done = pulled.registry.run_retention_plan(&plan, &options, &NoObserver).await.unwrap();
    assert_eq!((done.removed, done.changed), (1, 1));
}

#[tokio::test]
async fn a_preview_writes_nothing_and_shows_last_pulls_without_a_rule() {
    let pulled = Pulled::new().await;
    pulled.push("v1").await;
    pull(&pulled.registry, "a", "v1").await;
    pulled.tick(&pulled.registry).await;
    let other = "[[retention]]\nrepositories = ['a']\n[[retention.keep]]\ntags = ['*']\n";
    let registry = pulled.another().await.with_rules(rules(other)).with_pull_tracking(true);
    pulled.bench.calls.take();
    let shown = verdict(&registry, "v1").await;
    assert!(shown.pulled.is_some() && shown.reason.contains(", pulled "), "{shown:?}");
    assert_eq!(pulled.bench.writes(), [""; 0]);
    let (name, tag) = ("a".parse().unwrap(), "v1".parse().unwrap());
    let last = registry.last_pull(&name, &tag, &digest(IMAGE.as_bytes())).await.unwrap();
    assert_eq!(last.map(seconds), shown.pulled);
}

#[derive(Debug)]
struct Summaries;

impl EventInterest for Summaries {
    fn wants(&self, action: EventAction, repository: Option<&RepositoryName>) -> bool {
        action == EventAction::PullSummary && repository.is_none_or(|name| name.as_str() == "a")
    }
}

/// One event for each tag or digest and flush, if a sink wants it; no times without a rule.
#[tokio::test]
async fn pulls_are_summed_up_in_events_on_request() {
    let pulled = Pulled::with("").await;
    let registry = pulled.registry.with_events(Arc::new(Summaries));
    for name in ["a", "b"] {
        pulled.bench.put_manifest(name, "v1", IMAGE).await.unwrap();
    }
    let image = digest(IMAGE.as_bytes());
    pulled.bench.calls.take();
    for _ in 0..3 {
        pull(&registry, "a", "v1").await;
        pull(&registry, "b", "v1").await;
    }
    pull(&registry, "a", &image.to_string()).await;
    let flushed = registry.flush_pulls().await.unwrap();
    assert_eq!((flushed.times, flushed.events), (0, 2));
    assert_eq!(pulled.bench.writes().len(), 1);
    assert_eq!(registry.flush_pulls().await.unwrap().events, 0);
    let mut sequencer = Sequencer::default();
    let report = registry.sequence_events(&mut sequencer, &registry).await.unwrap();
    assert_eq!((report.appended, report.waiting), (2, 0));
    let report = registry.sequence_events(&mut sequencer, &registry).await.unwrap();
    assert_eq!((report.appended, report.repeated), (0, 0));
    assert_eq!(pulled.bench.keys("events/queue/").await, []);
    let number = registry.next_event_segment(0).await.unwrap().unwrap();
    let segment = registry.event_segment(number).await.unwrap().unwrap();
    let mut events: Vec<_> = segment.events.iter().collect();
    events.sort_by_key(|event| event.tag.is_none());
    let count = |index: usize| events[index].detail["pulls"].as_u64();
    assert_eq!((count(0), count(1)), (Some(3), Some(1)));
    assert_eq!(events[0].tag.as_ref().unwrap().as_str(), "v1");
    assert!(events.iter().all(|event| event.digest.as_ref() == Some(&image)));
    assert_ne!(events[0].id(), events[1].id());
}

/// A store that is a folder's: the same without compare-and-swap over a network.
#[tokio::test]
async fn tracking_works_alone_in_a_folder() {
    let clock = Arc::new(ManualClock::default());
    let memory = Arc::new(MemoryStore::with_clock(clock.clone()));
    let store = Arc::new(FaultyStore::new(memory));
    let registry = Registry::open(store.clone(), clock.clone(), RegistryOptions::default()).await;
    let registry = registry.unwrap().with_rules(rules(RULES));
    let repository = registry.repository("a".parse().unwrap());
    repository.manifest_put(push_of("v1", IMAGE)).await.unwrap();
    registry.update_pulls_since().await.unwrap();
    clock.advance(31 * DAY);
    pull(&registry, "a", "v1").await;
    registry.flush_pulls().await.unwrap();
    registry.merge_pulls().await.unwrap();
    assert_eq!(verdict(&registry, "v1").await.status, VerdictStatus::Keep);
    let keys = store.list(&ListRequest::below("pulls/")).await.unwrap().entries;
    let keys: Vec<_> = keys.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(keys, ["pulls/since", "pulls/times/1a"]);
}
