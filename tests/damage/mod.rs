//! Damage: each kind of object is truncated, emptied, overwritten or deleted behind the registry,
//! in a folder and in a bucket. After damage to one object, a pull is correct or fails, fsck
//! reports the damage, GC deletes nothing valid, and a repair and another push restore everything.

mod concurrent;
mod healing;
mod kept;
mod lifecycle_file;
mod object;
mod scenario;
mod serving;

use jreg_registry::{
    FsckFinding, FsckObserver, FsckOptions, FsckPhase, GcError, GcOptions, NoObserver,
};

use self::object::{Damage, Object};
use self::scenario::{Backend, DamageScenario, HOUR};

fn block_on(test: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test);
}

/// Records findings.
#[derive(Debug, Default)]
struct Findings(std::sync::Mutex<Vec<FsckFinding>>);

impl FsckObserver for Findings {
    fn phase(&self, _: FsckPhase) {}

    fn progress(&self, _: u64, _: u64) {}

    fn finding(&self, finding: &FsckFinding) {
        self.0.lock().unwrap().push(finding.clone());
    }
}

async fn check(scenario: &DamageScenario, repair: bool) -> Vec<FsckFinding> {
    let options = FsckOptions { deep: true, repair, ..FsckOptions::default() };
    let found = Findings::default();
    scenario.registry.fsck(&options, &found).await.unwrap();
    found.0.into_inner().unwrap()
}

/// fsck reports the damage, and nothing in the other repository.
async fn is_named(scenario: &DamageScenario, object: Object, damage: Damage, context: &str) {
    let found = check(scenario, false).await;
    let expected = object.finding(damage).map(|(kind, at)| (kind, scenario.key(at)));
    let named: Vec<_> = found.iter().map(|found| (found.kind, found.key.as_str())).collect();
    match expected {
        None | Some((_, None)) => assert_eq!(named, [], "{context}"),
        Some((kind, Some(at))) => assert!(named.contains(&(kind, at)), "{context}: {found:#?}"),
    }
    let is_of_other = |found: &&FsckFinding| {
        found.repository.as_ref().is_some_and(|name| name.as_str() == "good")
    };
    assert_eq!(found.iter().find(is_of_other), None, "{context}");
}

/// Runs GC repeatedly, with everything older than the grace period. Only the damaged object is
/// deleted, and what only it referenced.
async fn nothing_referenced_is_collected(
    scenario: &DamageScenario,
    object: Object,
    damage: Damage,
    context: &str,
) {
    let options = GcOptions {
        share_max_percent: 100,
        history_keep: std::time::Duration::ZERO,
        sweep_now: true,
        ..GcOptions::default()
    };
    let before = scenario.keys().await;
    for _ in 0..3 {
        scenario.advance(26 * HOUR);
        let outcome = scenario.registry.collect_garbage(&options, &NoObserver).await;
        match outcome {
            Err(GcError::Damaged { key, .. }) => {
                assert!(object.stops_collections(damage), "{context}");
                assert_eq!(Some(key.as_str()), scenario.key(object), "{context}");
            }
            Err(error) => panic!("{context}: {error}"),
            Ok(_) => assert!(!object.stops_collections(damage), "{context}"),
        }
    }
    let after = scenario.keys().await;
    let with_it = object.may_go_with_it(damage).iter();
    let may_go: Vec<_> = with_it.filter_map(|at| scenario.key(*at)).collect();
    let gone: Vec<_> = before.iter().filter(|key| !after.contains(key)).collect();
    let stays = |key: &str| !may_go.contains(&key) && !scenario.is_finished_session(key);
    let lost: Vec<_> = gone.iter().filter(|key| stays(key)).collect();
    assert!(lost.is_empty(), "{context}: {lost:?} went");
}

async fn one(home: Backend, object: Object, damage: Damage) {
    let context = &format!("{home:?}: {object:?} {damage:?}");
    let scenario = DamageScenario::new(home).await;
    if scenario.key(object).is_none() {
        return;
    }
    scenario.advance(2 * HOUR);
    scenario.damage(object, damage);
    is_named(&scenario, object, damage, context).await;
    scenario.pulls_are_right_or_fail(object, damage, context).await;
    nothing_referenced_is_collected(&scenario, object, damage, context).await;
    scenario.other_repository_is_whole(context).await;
    check(&scenario, true).await;
    scenario.push_again().await;
    scenario.everything_is_right(context).await;
    let left: Vec<_> =
        check(&scenario, false).await.into_iter().filter(FsckFinding::is_left).collect();
    assert_eq!(left, [], "{context}");
}

macro_rules! objects {
    ($($name:ident: $object:ident),* $(,)?) => {$(
        #[test]
        fn $name() {
            for home in [Backend::Folder, Backend::Bucket] {
                for damage in Damage::ALL {
                    block_on(one(home, Object::$object, damage));
                }
            }
        }
    )*

    #[test]
    fn every_kind_of_object_is_damaged() {
        assert_eq!([$(Object::$object),*], Object::ALL);
    }};
}

objects! {
    bytes_of_a_known_digest: KnownBytes,
    bytes_that_were_streamed: StreamedBytes,
    link: Link,
    manifest: Manifest,
    index: Index,
    signature: Signature,
    tag: Tag,
    hint: Hint,
    entry_of_a_referrer: Referrer,
    entry_of_the_catalog: Catalog,
    session: Session,
    bytes_of_an_upload: UploadBytes,
    format_marker: Marker,
}
