//! Changes of tags and their history; copies of deleted manifests, restores and purges; and what GC keeps
//! of it all.

use std::sync::Arc;
use std::time::Duration;

use jreg_oci::{Digest, Reference, Tag};
use jreg_registry::{
    ChangeOrigin, Error, GcError, GcOptions, HISTORY_ENTRIES_MAX, MaySetTag, NoObserver, OpenError,
    PageRequest, PurgeObstacle, ReferencePrecondition, Registry, RegistryOptions, TagHistoryEntry,
    TouchPolicy,
};
use jreg_storage::testing::{Call, Fault, ManualClock};
use jreg_storage::{Clock, ErrorKind, PutMode, Store};

use crate::bench::{Bench, BenchStoreKind, HOUR, MINUTE, digest, push_of};

const DAY: Duration = Duration::from_secs(24 * 3600);
pub(crate) const KINDS: [BenchStoreKind; 2] = [BenchStoreKind::Local, BenchStoreKind::Remote];

/// An image without layers, one of many.
pub(crate) fn image(number: usize) -> String {
    let config = digest(b"{}");
    format!(
        r#"{{"schemaVersion":2,"annotations":{{"n":"{number}"}},"config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"{config}","size":2}},"layers":[]}}"#
    )
}

pub(crate) fn digest_of(number: usize) -> Digest {
    digest(image(number).as_bytes())
}

pub(crate) fn tag(name: &str) -> Tag {
    name.parse().unwrap()
}

pub(crate) fn all() -> PageRequest {
    PageRequest { limit: 1000, last: None }
}

/// A registry with the config of every image.
pub(crate) async fn bench(kind: BenchStoreKind) -> Bench {
    let bench = Bench::at(kind, RegistryOptions::default()).await;
    bench.push("a", &"{}".into()).await;
    bench.calls.take();
    bench
}

pub(crate) async fn push(bench: &Bench, name: &str, number: usize) {
    bench.put_manifest("a", name, &image(number)).await.unwrap();
    bench.clock.advance(Duration::from_secs(1));
}

pub(crate) async fn delete(bench: &Bench, reference: &str) {
    let reference: Reference = reference.parse().unwrap();
    bench.repository("a").manifest_delete(&reference, None).await.unwrap();
    bench.clock.advance(Duration::from_secs(1));
}

pub(crate) async fn history(bench: &Bench, name: &str) -> Vec<TagHistoryEntry> {
    bench.repository("a").tag_history(&tag(name), &all()).await.unwrap().items
}

pub(crate) fn targets(history: &[TagHistoryEntry]) -> Vec<Option<Digest>> {
    history.iter().map(|entry| entry.digest.clone()).collect()
}

pub(crate) async fn collect(bench: &Bench, options: GcOptions) -> jreg_registry::GcReport {
    let options = GcOptions { sweep_now: true, share_max_percent: 100, ..options };
    bench.registry.collect_garbage(&options, &NoObserver).await.unwrap()
}

#[tokio::test]
async fn a_moved_tag_has_a_history_with_the_latest_change_first() {
    for kind in KINDS {
        let bench = bench(kind).await;
        let repository = bench.repository("a").changed_by(ChangeOrigin::request("alice", "r1"));
        for number in [1, 2, 2, 1] {
            repository.manifest_put(push_of("v1", &image(number))).await.unwrap();
            bench.clock.advance(HOUR);
        }
        let changes = history(&bench, "v1").await;
        let [one, two] = [1, 2].map(|number| Some(digest_of(number)));
        assert_eq!(targets(&changes), [one.clone(), two, one], "the second push of 2 is none");
        assert!(
            changes.windows(2).all(|pair| pair[0].change > pair[1].change
                && pair[1].until == Some(pair[0].change.time()))
        );
        assert_eq!(changes[0].until, None);
        let origin = &changes[2].origin;
        assert_eq!((origin.actor(), origin.request_id()), (Some("alice"), Some("r1")));
        // Page by page, it is the same.
        let (mut pages, mut last) = (Vec::new(), None);
        for _ in 0..4 {
            let page = PageRequest { limit: 1, last };
            let page = bench.repository("a").tag_history(&tag("v1"), &page).await.unwrap();
            pages.extend(page.items);
            last = page.next;
            if last.is_none() {
                break;
            }
        }
        assert_eq!((pages, last), (changes, None));
    }
}

#[tokio::test]
async fn a_push_that_moves_a_tag_costs_one_more_write_at_most_and_no_more_waits() {
    let bench = bench(BenchStoreKind::Remote).await;
    push(&bench, "v1", 1).await;
    bench.writes();
    push(&bench, "v1", 1).await;
    assert_eq!(
        bench.writes().len(),
        3,
        "hint, as nothing says whether it is there; manifest and tag"
    );
    push(&bench, "v1", 2).await;
    let writes = bench.writes();
    assert_eq!(writes.len(), 4, "manifest, hint, archive, tag: {writes:?}");
    let position = |part: &str| writes.iter().position(|write| write.contains(part)).unwrap();
    assert!(position("history/") < position("/_tags/"), "{writes:?}");
    delete(&bench, "v1").await;
    let writes = bench.writes();
    assert_eq!(writes.len(), 2, "archive and tag: {writes:?}");
}

#[tokio::test]
async fn a_deleted_tag_is_absent_and_its_history_is_not() {
    for kind in KINDS {
        let bench = bench(kind).await;
        push(&bench, "v1", 1).await;
        push(&bench, "v2", 1).await;
        delete(&bench, "v1").await;
        let repository = bench.repository("a");
        let read = repository.manifest_get(&"v1".parse().unwrap(), TouchPolicy::Never).await;
        assert!(matches!(read, Err(Error::ManifestUnknown { .. })), "{read:?}");
        assert_eq!(repository.tags(&all()).await.unwrap().items, [tag("v2")]);
        let again = repository.manifest_delete(&"v1".parse().unwrap(), None).await;
        assert!(matches!(again, Err(Error::ManifestUnknown { .. })), "{again:?}");
        assert_eq!(targets(&history(&bench, "v1").await), [None, Some(digest_of(1))]);
        push(&bench, "v1", 2).await;
        let [one, two] = [1, 2].map(|number| Some(digest_of(number)));
        assert_eq!(targets(&history(&bench, "v1").await), [two, None, one]);
        let unknown = repository.tag_history(&tag("v3"), &all()).await;
        assert!(matches!(unknown, Err(Error::ManifestUnknown { .. })), "{unknown:?}");
    }
}

/// Whatever its clock says, an instance makes a later change of what it replaces.
#[tokio::test]
async fn changes_are_in_order_across_clocks() {
    let bench = bench(BenchStoreKind::Remote).await;
    push(&bench, "v1", 1).await;
    bench.clock.advance(MINUTE);
    push(&bench, "v1", 2).await;
    let late = Arc::new(ManualClock::new(bench.clock.now() - MINUTE));
    let other = Registry::open(bench.faults.clone(), late, RegistryOptions::default()).await;
    let other = other.unwrap().repository("a".parse().unwrap());
    other.manifest_put(push_of("v1", &image(3))).await.unwrap();
    let targets = targets(&history(&bench, "v1").await);
    assert_eq!(targets, [3, 2, 1].map(|number| Some(digest_of(number))));
}

/// A change that is archived and not replaced is the current one, and shown once.
#[tokio::test]
async fn a_push_that_was_given_up_after_archiving_is_not_in_the_history() {
    let bench = bench(BenchStoreKind::Remote).await;
    push(&bench, "v1", 1).await;
    let mut held =
        bench.gate.hold(|call: &Call| call.operation == "put" && call.key.contains("/_tags/"));
    let (repository, moved) = (bench.repository("a"), image(2));
    let pushing = tokio::spawn(async move { repository.manifest_put(push_of("v1", &moved)).await });
    held.reached(1).await;
    assert_eq!(bench.keys("history/").await.len(), 1);
    assert_eq!(targets(&history(&bench, "v1").await), [Some(digest_of(1))]);
    pushing.abort();
    drop(held);
    assert_eq!(targets(&history(&bench, "v1").await), [Some(digest_of(1))]);
    push(&bench, "v1", 3).await;
    assert_eq!(targets(&history(&bench, "v1").await), [3, 1].map(|n| Some(digest_of(n))));
}

/// Who loses the swap archives what is there then.
#[tokio::test]
async fn no_change_is_lost_when_two_push_at_the_same_time() {
    for kind in KINDS {
        let bench = bench(kind).await;
        push(&bench, "v1", 1).await;
        let is_tag =
            |call: &Call| call.operation.starts_with("put") && call.key.contains("/_tags/");
        let mut held = bench.gate.hold(is_tag);
        let (repository, moved) = (bench.another("a").await, image(2));
        let late =
            tokio::spawn(async move { repository.manifest_put(push_of("v1", &moved)).await });
        held.reached(1).await;
        // Past the gate: another process.
        let clock = bench.clock.clone();
        let other = Registry::open(bench.faults.clone(), clock, RegistryOptions::default());
        let other = other.await.unwrap().repository("a".parse().unwrap());
        other.manifest_put(push_of("v1", &image(3))).await.unwrap();
        held.release();
        late.await.unwrap().unwrap();
        let targets = targets(&history(&bench, "v1").await);
        assert_eq!(targets, [2, 3, 1].map(|number| Some(digest_of(number))), "{kind:?}");
    }
}

#[tokio::test]
async fn history_expires_after_its_end_and_keeps_its_manifests_until_then() {
    let bench = bench(BenchStoreKind::Remote).await;
    let options = GcOptions {
        untagged: Some(Duration::ZERO),
        history_keep: 10 * DAY,
        ..GcOptions::default()
    };
    push(&bench, "v1", 1).await;
    bench.clock.advance(20 * DAY);
    push(&bench, "v1", 2).await;
    push(&bench, "v1", 3).await;
    delete(&bench, "v1").await;
    bench.clock.advance(9 * DAY);
    let done = collect(&bench, options.clone()).await;
    assert_eq!((done.manifests.removed, done.history.removed), (0, 0));
    assert_eq!(bench.keys("repositories/a/_tags/").await, [], "archived and removed");
    assert_eq!(history(&bench, "v1").await.len(), 4);
    bench.clock.advance(DAY + HOUR);
    let done = collect(&bench, options.clone()).await;
    assert_eq!((done.manifests.removed, done.history.removed), (0, 4), "one run later");
    assert_eq!(collect(&bench, options).await.manifests.removed, 3);
    let gone = bench.repository("a").tag_history(&tag("v1"), &all()).await;
    assert!(matches!(gone, Err(Error::ManifestUnknown { .. })), "{gone:?}");
}

#[tokio::test]
async fn a_tag_has_a_bounded_history() {
    let bench = bench(BenchStoreKind::Local).await;
    for number in 0..HISTORY_ENTRIES_MAX + 3 {
        push(&bench, "v1", number % 2).await;
    }
    let done = collect(&bench, GcOptions::default()).await;
    assert_eq!((done.history.scanned, done.history.removed), (1002, 2));
    assert_eq!(collect(&bench, GcOptions::default()).await.history.removed, 0);
}

#[tokio::test]
async fn a_deleted_manifest_can_be_restored_with_its_tags_until_its_copy_expires() {
    for kind in KINDS {
        let bench = bench(kind).await;
        for name in ["v1", "v2", "v3"] {
            push(&bench, name, 1).await;
        }
        let (repository, of) = (bench.repository("a"), digest_of(1));
        delete(&bench, &of.to_string()).await;
        let deleted = repository.deleted_manifests(&all()).await.unwrap().items;
        assert_eq!(deleted.len(), 1);
        assert_eq!((&deleted[0].digest, deleted[0].tags.len()), (&of, 3));
        bench.clock.advance(20 * DAY);
        let done = collect(&bench, GcOptions::default()).await;
        assert_eq!((done.links.removed, done.copies.removed), (0, 0), "the copy keeps the config");
        push(&bench, "v2", 2).await;
        let restored = repository.manifest_restore(&of, true).await.unwrap();
        let set: Vec<_> = restored.transitions.iter().map(|set| set.tag.as_str()).collect();
        assert_eq!((set, restored.tags_kept), (vec!["v1", "v3"], vec![tag("v2")]));
        for (name, number) in [("v1", 1), ("v2", 2), ("v3", 1)] {
            let read = repository.manifest_get(&name.parse().unwrap(), TouchPolicy::Never).await;
            assert_eq!(read.unwrap().digest, digest_of(number), "{name}");
        }
        assert_eq!(repository.deleted_manifests(&all()).await.unwrap().items, [], "it is there");
        let past = history(&bench, "v1").await;
        assert_eq!(targets(&past), [Some(of.clone()), None, Some(of.clone())]);
        delete(&bench, &of.to_string()).await;
        delete(&bench, &digest_of(2).to_string()).await;
        bench.clock.advance(31 * DAY);
        assert_eq!(collect(&bench, GcOptions::default()).await.copies.removed, 3);
        assert_eq!(collect(&bench, GcOptions::default()).await.links.removed, 1, "the config");
        let gone = repository.manifest_restore(&of, false).await;
        assert!(matches!(gone, Err(Error::ManifestUnknown { .. })), "{gone:?}");
    }
}

/// What was done is known, whatever fails after it.
#[tokio::test]
async fn a_restore_that_fails_between_its_tags_says_which_were_set() {
    let bench = bench(BenchStoreKind::Remote).await;
    for name in ["v1", "v2", "v3"] {
        push(&bench, name, 1).await;
    }
    let (repository, of) = (bench.repository("a"), digest_of(1));
    delete(&bench, &of.to_string()).await;
    let of_second = |call: &Call| call.operation == "put" && call.key.ends_with("/_tags/v2");
    bench.faults.inject(Fault::fail(ErrorKind::Unavailable).on(of_second).from_then_on());
    let mut set = Vec::new();
    let all: MaySetTag<'_> = &|_| true;
    let failed = repository.manifest_restore_if(&of, Some(all), &mut set).await;
    assert!(matches!(failed, Err(Error::Store(_))), "{failed:?}");
    let names: Vec<_> = set.iter().map(|set| set.tag.as_str()).collect();
    assert_eq!(names, ["v1"]);
    assert_eq!(set[0].change, history(&bench, "v1").await[0].change);
    bench.faults.heal();
    let restored = repository.manifest_restore(&of, true).await;
    assert!(restored.is_ok(), "{restored:?}");
}

/// A copy of them could not be read, and GC would stop.
#[tokio::test]
async fn damaged_bytes_are_deleted_without_a_copy() {
    let bench = bench(BenchStoreKind::Remote).await;
    push(&bench, "v1", 1).await;
    let key = bench.keys("repositories/a/_manifests/").await.remove(0);
    let record = bench.faults.get(&key).await.unwrap().bytes;
    let text = String::from_utf8(record.to_vec()).unwrap();
    let rotten = text.replace(r#""n":"1""#, r#""n":"2""#);
    bench.faults.put(&key, rotten.into(), PutMode::Overwrite).await.unwrap();
    delete(&bench, &digest_of(1).to_string()).await;
    assert_eq!(bench.keys("deleted/").await, []);
    collect(&bench, GcOptions::default()).await;
}

#[tokio::test]
async fn a_restore_names_what_is_missing() {
    let bench = bench(BenchStoreKind::Remote).await;
    push(&bench, "v1", 1).await;
    delete(&bench, &digest_of(1).to_string()).await;
    bench.repository("a").blob_delete(&digest(b"{}")).await.unwrap();
    let failed = bench.repository("a").manifest_restore(&digest_of(1), true).await;
    assert!(
        matches!(&failed, Err(Error::ReferencesUnknown { missing, .. }) if *missing == [digest(b"{}")]),
        "{failed:?}"
    );
}

#[tokio::test]
async fn a_tag_is_restored_to_a_manifest_that_is_there_if_the_condition_holds() {
    let bench = bench(BenchStoreKind::Remote).await;
    push(&bench, "v1", 1).await;
    push(&bench, "v1", 2).await;
    let repository = bench.repository("a");
    let condition = Some(ReferencePrecondition::IsOneOf(vec![digest_of(1)]));
    let refused = repository.tag_restore(&tag("v1"), &digest_of(1), condition).await;
    assert!(matches!(refused, Err(Error::PreconditionFailed { .. })), "{refused:?}");
    let condition = Some(ReferencePrecondition::IsOneOf(vec![digest_of(2)]));
    let restored = repository.tag_restore(&tag("v1"), &digest_of(1), condition).await.unwrap();
    assert_eq!((restored.before, restored.after), (Some(digest_of(2)), Some(digest_of(1))));
    let unknown = repository.tag_restore(&tag("v1"), &digest_of(3), None).await;
    assert!(matches!(unknown, Err(Error::ManifestUnknown { .. })), "{unknown:?}");
    assert_eq!(targets(&history(&bench, "v1").await), [1, 2, 1].map(|n| Some(digest_of(n))));
}

#[tokio::test]
async fn a_purge_leaves_nothing_to_restore() {
    for kind in KINDS {
        let bench = bench(kind).await;
        push(&bench, "v1", 1).await;
        delete(&bench, &digest_of(1).to_string()).await;
        push(&bench, "v1", 1).await;
        push(&bench, "other", 2).await;
        let (repository, of) = (bench.repository("a"), digest_of(1));
        let refused = repository.manifest_purge(&of, false).await;
        let tagged = PurgeObstacle::Tagged(vec![tag("v1")]);
        assert!(
            matches!(&refused, Err(Error::PurgeRefused { obstacle, .. }) if **obstacle == tagged),
            "{refused:?}"
        );
        let report = repository.manifest_purge(&of, true).await.unwrap();
        assert!(report.manifest_removed);
        assert_eq!((report.copies_removed, report.tags_removed), (1, vec![tag("v1")]));
        assert_eq!(report.blobs_removed, [], "the other image has the config, too");
        assert_eq!(report.referenced.get(&digest(b"{}")), Some(&digest_of(2)));
        for restored in [
            repository.manifest_restore(&of, true).await.map(|_| ()),
            repository.tag_restore(&tag("v1"), &of, None).await.map(|_| ()),
            repository.manifest_purge(&of, true).await.map(|_| ()),
        ] {
            assert!(matches!(restored, Err(Error::ManifestUnknown { .. })), "{restored:?}");
        }
        bench.push("b", &"{}".into()).await;
        let report = repository.manifest_purge(&digest_of(2), true).await.unwrap();
        assert_eq!(report.blobs_removed, [digest(b"{}")]);
        let elsewhere = report.elsewhere.get(&digest(b"{}")).unwrap();
        assert_eq!(elsewhere.iter().map(ToString::to_string).collect::<Vec<_>>(), ["b"]);
        assert_eq!(bench.keys("deleted/").await.len(), 2, "two marks");
        bench.clock.advance(2 * DAY);
        collect(&bench, GcOptions::default()).await;
        assert_eq!(bench.keys("deleted/").await, []);
    }
}

/// A restore that has read the copy before a purge removes what it has written.
#[tokio::test]
async fn a_restore_beside_a_purge_undoes_itself() {
    let bench = bench(BenchStoreKind::Remote).await;
    push(&bench, "v1", 1).await;
    delete(&bench, &digest_of(1).to_string()).await;
    let is_write = |call: &Call| call.operation == "put" && call.key.contains("/_manifests/");
    let mut held = bench.gate.hold(is_write);
    let repository = bench.repository("a");
    let restoring =
        tokio::spawn(async move { repository.manifest_restore(&digest_of(1), true).await });
    held.reached(1).await;
    let clock = bench.clock.clone();
    let other = Registry::open(bench.faults.clone(), clock, RegistryOptions::default());
    let other = other.await.unwrap().repository("a".parse().unwrap());
    other.manifest_purge(&digest_of(1), false).await.unwrap();
    held.release();
    let undone = restoring.await.unwrap();
    assert!(matches!(undone, Err(Error::ManifestUnknown { .. })), "{undone:?}");
    assert_eq!(bench.keys("repositories/a/_manifests/").await, []);
    assert_eq!(bench.repository("a").tags(&all()).await.unwrap().items, []);
    let copies = bench.keys("deleted/").await;
    assert!(copies.iter().all(|key| key.as_str().ends_with("/purged")), "{copies:?}");
}

#[tokio::test]
async fn the_first_change_in_a_store_of_an_earlier_version_marks_it() {
    let bench = bench(BenchStoreKind::Remote).await;
    push(&bench, "v1", 1).await;
    let marker = "jreg.json".parse().unwrap();
    let old = r#"{"format":1,"later":true}"#;
    bench.faults.put(&marker, old.into(), PutMode::Overwrite).await.unwrap();
    let repository = bench.another("a").await;
    repository.manifest_put(push_of("v1", &image(2))).await.unwrap();
    let marked = bench.faults.get(&marker).await.unwrap().bytes;
    let marked: serde_json::Value = serde_json::from_slice(&marked).unwrap();
    assert_eq!(marked, serde_json::json!({"format":1,"requires":["history"],"later":true}));
}

#[tokio::test]
async fn a_store_with_records_of_a_later_version_is_served_and_not_collected() {
    let bench = bench(BenchStoreKind::Remote).await;
    let marker = "jreg.json".parse().unwrap();
    let later = r#"{"format":1,"requires":["history","later"]}"#;
    bench.faults.put(&marker, later.into(), PutMode::Overwrite).await.unwrap();
    let repository = bench.another("a").await;
    repository.manifest_put(push_of("v1", &image(1))).await.unwrap();
    let refused = bench.registry.collect_garbage(&GcOptions::default(), &NoObserver).await;
    let is_unknown =
        |error: &Error| matches!(error, Error::FeaturesUnknown { names } if *names == ["later"]);
    assert!(matches!(&refused, Err(GcError::Registry(error)) if is_unknown(error)), "{refused:?}");
    let reaped = bench.registry.reap_uploads().await;
    assert!(reaped.as_ref().is_err_and(is_unknown), "{reaped:?}");

    let restoring = r#"{"format":1,"requires":["restoring"]}"#;
    bench.faults.put(&marker, restoring.into(), PutMode::Overwrite).await.unwrap();
    let (store, clock) = (bench.faults.clone(), bench.clock.clone());
    let opened = Registry::open(store, clock, RegistryOptions::default()).await;
    assert!(matches!(opened, Err(OpenError::Restoring)), "{opened:?}");
}

/// Another version of the program may have written them.
#[tokio::test]
async fn fields_that_are_not_known_survive_a_touch_and_a_push_of_the_same() {
    let bench = bench(BenchStoreKind::Remote).await;
    push(&bench, "v1", 1).await;
    let add = async |key: &jreg_storage::Key| {
        let record = bench.faults.get(key).await.unwrap().bytes;
        let text = String::from_utf8(record.to_vec()).unwrap();
        let text = crate::bench::without_checksum(&text);
        let at = text.find(',').unwrap();
        let (before, after) = text.split_at(at);
        let text = format!("{before},\"later\":{{\"a\":[1, 2]}}{after}");
        bench.faults.put(key, text.into(), PutMode::Overwrite).await.unwrap();
    };
    let mut keys = bench.keys("repositories/a/_manifests/").await;
    keys.extend(bench.keys("repositories/a/_tags/").await);
    keys.extend(bench.keys("links/").await);
    for key in &keys {
        add(key).await;
    }
    bench.clock.advance(2 * HOUR);
    let repository = bench.another("a").await;
    repository.manifest_put(push_of("v1", &image(1))).await.unwrap();
    for key in &keys {
        let record = bench.faults.get(key).await.unwrap();
        let text = String::from_utf8(record.bytes.to_vec()).unwrap();
        assert!(text.contains(r#","later":{"a":[1, 2]},"check":"#), "{key}: {text}");
        assert!(record.date.duration_since(record.last_modified).unwrap() < HOUR, "{key}");
    }
    let read = repository.manifest_get(&"v1".parse().unwrap(), TouchPolicy::Never).await;
    assert_eq!(read.unwrap().digest, digest_of(1));
}
