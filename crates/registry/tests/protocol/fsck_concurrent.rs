//! Checks beside pushes, deletes and collections; and checks that are cut off and continue. Gates
//! play each interleaving: what the listings make look wrong is right by the time that it is looked
//! at.

use std::sync::Arc;

use jreg_oci::Reference;
use jreg_registry::{
    FindingKind, FsckFinding, FsckOptions, FsckReport, GcOptions, NoObserver, Registry,
    RegistryOptions, RepairStatus,
};
use jreg_storage::testing::{Call, GateStore, ManualClock};
use jreg_storage::{MemoryStore, PutMode, Store};

use crate::bench::{Bench, HOUR, MINUTE, bytes, digest};
use crate::fsck::{FindingList, cheap, check, deep, healthy, place};
use crate::gc::{image, referrer};

/// Checks through a gate of its own, which is closed after the listing of `prefix` was answered (or
/// before a call is made) until `meanwhile` is over.
async fn check_while(
    bench: &Bench,
    options: &FsckOptions,
    stop: impl Fn(&Call) -> bool + Send + Sync + 'static,
    meanwhile: impl AsyncFnOnce(&Bench),
) -> Vec<FsckFinding> {
    let gate = Arc::new(GateStore::new(bench.faults.clone()));
    let registry = Registry::open(gate.clone(), bench.clock.clone(), RegistryOptions::default());
    let registry = registry.await.unwrap();
    let mut held = gate.hold_response(stop);
    let found = FindingList::default();
    let (done, ()) = tokio::join!(registry.fsck(options, &found), async {
        held.reached(1).await;
        meanwhile(bench).await;
        held.release();
    });
    done.unwrap();
    found.take()
}

fn listing(prefix: &'static str) -> impl Fn(&Call) -> bool + Send + Sync + 'static {
    move |call| call.operation == "list" && call.key == prefix
}

fn getting(part: &'static str) -> impl Fn(&Call) -> bool + Send + Sync + 'static {
    move |call| call.operation == "get" && call.key.contains(part)
}

async fn push_another(bench: &Bench) {
    let config = bytes(40);
    bench.push("a", &config).await;
    let manifest = image(&config);
    bench.put_manifest("a", "new", &manifest).await.unwrap();
    let signature = referrer(&manifest, &config);
    let reference = digest(signature.as_bytes()).to_string();
    bench.put_manifest("a", &reference, &signature).await.unwrap();
    bench.put_manifest("fresh", "v1", r#"{"schemaVersion":2,"manifests":[]}"#).await.unwrap();
}

async fn delete(bench: &Bench, reference: &str) {
    let reference: Reference = reference.parse().unwrap();
    bench.repository("a").manifest_delete(&reference, None).await.unwrap();
}

async fn delete_everything(bench: &Bench) {
    for key in bench.keys("repositories/a/_manifests/").await {
        let hex = key.as_str().rsplit('/').next().unwrap();
        delete(bench, &format!("sha256:{hex}")).await;
    }
    for length in [5, 6] {
        bench.repository("a").blob_delete(&digest(&bytes(length))).await.unwrap();
    }
}

/// What a GC run leaves of a store without recent pushes.
async fn collect_everything(bench: &Bench) {
    delete_everything(bench).await;
    let options = GcOptions {
        share_max_percent: 100,
        history_keep: std::time::Duration::ZERO,
        sweep_now: true,
        ..GcOptions::default()
    };
    for _ in 0..3 {
        bench.clock.advance(26 * HOUR);
        bench.registry.collect_garbage(&options, &NoObserver).await.unwrap();
    }
    assert_eq!(bench.keys("blobs/").await, []);
    assert_eq!(bench.keys("links/").await, []);
}

fn worst(found: &[FsckFinding]) -> Vec<&FsckFinding> {
    found
        .iter()
        .filter(|finding| finding.repair != RepairStatus::None || finding.is_left())
        .collect()
}

const STOPS: [&str; 6] = ["blobs/", "uploads/", "links/", "repositories/", "catalog/", ""];

#[tokio::test]
async fn a_push_during_a_listing_is_no_finding() {
    for stop in STOPS {
        let bench = healthy().await;
        let found = check_while(&bench, &deep(), listing(stop), push_another).await;
        assert_eq!(found, [], "{stop}");
    }
}

/// So is one that is so old by then that everything of it should be there.
#[tokio::test]
async fn a_push_between_two_listings_of_a_slow_check_is_no_finding() {
    for stop in STOPS {
        let bench = healthy().await;
        let later = async |bench: &Bench| {
            push_another(bench).await;
            bench.clock.advance(3 * HOUR);
        };
        let found = check_while(&bench, &deep(), listing(stop), later).await;
        assert_eq!(found, [], "{stop}");
    }
}

#[tokio::test]
async fn a_delete_during_a_listing_is_no_finding() {
    for stop in STOPS {
        let bench = healthy().await;
        let found = check_while(&bench, &deep(), listing(stop), delete_everything).await;
        assert_eq!(worst(&found), Vec::<&FsckFinding>::new(), "{stop}");
    }
}

#[tokio::test]
async fn a_delete_between_a_read_and_its_look_up_is_no_finding() {
    for part in ["links/", "/_manifests/", "/_tags/", "/_tagged/", "/_referrers/", "catalog/"] {
        let bench = healthy().await;
        let found = check_while(&bench, &deep(), getting(part), delete_everything).await;
        assert_eq!(worst(&found), Vec::<&FsckFinding>::new(), "{part}");
    }
}

#[tokio::test]
async fn gc_at_any_moment_of_fsck_is_no_finding() {
    for stop in STOPS {
        let bench = healthy().await;
        let found = check_while(&bench, &deep(), listing(stop), collect_everything).await;
        assert_eq!(worst(&found), Vec::<&FsckFinding>::new(), "{stop}");
    }
    for part in ["links/", "/_manifests/", "/_tags/", "/_tagged/", "/_referrers/", "catalog/"] {
        let bench = healthy().await;
        let found = check_while(&bench, &deep(), getting(part), collect_everything).await;
        assert_eq!(worst(&found), Vec::<&FsckFinding>::new(), "{part}");
    }
}

#[tokio::test]
async fn an_upload_that_finishes_during_fsck_is_no_finding() {
    for stop in STOPS {
        let bench = healthy().await;
        let repository = bench.repository("a");
        let mut uploads = Vec::new();
        for length in [3, 20] {
            let id = repository.upload_start(None);
            let chunk = jreg_registry::UploadChunk::of(bytes(length));
            repository.upload_append(&id, chunk).await.unwrap();
            uploads.push((id, length));
        }
        bench.clock.advance(3 * HOUR);
        let finish = async |bench: &Bench| {
            for (id, length) in uploads {
                let (blob, nothing) = (digest(&bytes(length)), jreg_registry::UploadChunk::empty());
                bench.repository("a").upload_finish(&id, &blob, nothing).await.unwrap();
            }
        };
        let found = Box::pin(check_while(&bench, &deep(), listing(stop), finish)).await;
        assert_eq!(found, [], "{stop}");
    }
}

/// A repair loses to a writer between its read and its write.
#[tokio::test]
async fn a_repair_never_reverts_a_push() {
    let bench = healthy().await;
    let blob = digest(&bytes(5));
    let at = place(&bench, &blob).await;
    bench.faults.delete(&at, None).await.unwrap();
    let repairs = FsckOptions { repair: true, ..cheap() };
    let gate = Arc::new(GateStore::new(bench.faults.clone()));
    let registry = Registry::open(gate.clone(), bench.clock.clone(), RegistryOptions::default());
    let registry = registry.await.unwrap();
    let mut held = gate.hold(|call| call.operation == "put" && call.key.starts_with("links/"));
    let found = FindingList::default();
    let (done, ()) = tokio::join!(registry.fsck(&repairs, &found), async {
        held.reached(1).await;
        bench.repository("a").blob_delete(&blob).await.unwrap();
        bench.push("a", &bytes(5)).await;
        held.release();
    });
    assert_eq!(done.unwrap().repaired, 0);
    let found = found.take();
    assert_eq!((found[0].kind, found[0].repair), (FindingKind::BytesMissing, RepairStatus::Failed));
    assert_eq!(bench.pull("a", &blob).await.unwrap(), bytes(5));
    assert_eq!(check(&bench, &deep()).await.0.left, 0);
}

/// What is to be quarantined stays where it is if it was repaired meanwhile.
#[tokio::test]
async fn a_record_that_was_repaired_meanwhile_is_not_quarantined() {
    let bench = healthy().await;
    let tag = "repositories/a/_tags/v1".parse().unwrap();
    let right = bench.faults.get(&tag).await.unwrap().bytes;
    bench.faults.put(&tag, "rubbish".into(), PutMode::Overwrite).await.unwrap();
    let repairs = FsckOptions { repair: true, ..cheap() };
    let gate = Arc::new(GateStore::new(bench.faults.clone()));
    let registry = Registry::open(gate.clone(), bench.clock.clone(), RegistryOptions::default());
    let registry = registry.await.unwrap();
    let mut held = gate.hold(|call| call.operation == "delete" && call.key.contains("/_tags/"));
    let found = FindingList::default();
    let (done, ()) = tokio::join!(registry.fsck(&repairs, &found), async {
        held.reached(1).await;
        bench.faults.put(&tag, right, PutMode::Overwrite).await.unwrap();
        held.release();
    });
    assert_eq!(done.unwrap().repaired, 0);
    assert_eq!(found.take()[0].repair, RepairStatus::Failed);
    assert_eq!(bench.keys("quarantine/").await, []);
    assert_eq!(check(&bench, &deep()).await.1, []);
}

/// More blobs than are noted at a time, in the order of their links.
async fn many() -> Bench {
    let bench = Bench::new().await;
    for length in 1..=200 {
        bench.push("a", &bytes(length)).await;
    }
    bench.clock.advance(2 * HOUR);
    bench
}

/// Begins a deep check, and cuts it off once it has read so many blobs.
async fn cut_off_after(bench: &Bench, blobs: usize) -> Vec<FsckFinding> {
    let gate = Arc::new(GateStore::new(bench.faults.clone()));
    let registry = Registry::open(gate.clone(), bench.clock.clone(), RegistryOptions::default());
    let registry = registry.await.unwrap();
    let read = std::sync::atomic::AtomicUsize::new(0);
    let mut held = gate.hold(move |call| {
        let is_read = call.operation == "read";
        is_read && read.fetch_add(1, std::sync::atomic::Ordering::SeqCst) >= blobs
    });
    let found = FindingList::default();
    let options = deep();
    tokio::select! {
        _ = registry.fsck(&options, &found) => panic!("it was not held"),
        () = held.reached(1) => {}
    }
    found.take()
}

async fn go_on(bench: &Bench, options: &FsckOptions) -> (FsckReport, Vec<FsckFinding>) {
    check(bench, options).await
}

#[tokio::test]
async fn an_interrupted_deep_fsck_resumes() {
    let bench = many().await;
    cut_off_after(&bench, 150).await;
    let (done, _) = go_on(&bench, &deep()).await;
    assert_eq!((done.resumed, done.hashed), (true, 200 - 128));
    let (done, _) = go_on(&bench, &deep()).await;
    assert_eq!((done.resumed, done.hashed), (false, 200), "one that was finished is over");
}

#[tokio::test]
async fn a_deep_fsck_restarts_on_request_or_if_its_position_is_old() {
    let bench = many().await;
    cut_off_after(&bench, 150).await;
    let (done, _) = go_on(&bench, &FsckOptions { restart: true, ..deep() }).await;
    assert_eq!((done.resumed, done.hashed), (false, 200));
    cut_off_after(&bench, 150).await;
    bench.clock.advance(7 * 24 * HOUR + MINUTE);
    let (done, _) = go_on(&bench, &deep()).await;
    assert_eq!((done.resumed, done.hashed), (false, 200));
    cut_off_after(&bench, 150).await;
    let note = "gc/fsck".parse().unwrap();
    bench.faults.put(&note, "rubbish".into(), PutMode::Overwrite).await.unwrap();
    let (done, _) = go_on(&bench, &deep()).await;
    assert_eq!((done.resumed, done.hashed), (false, 200));
    assert_eq!(go_on(&bench, &deep()).await.0.hashed, 200);
}

/// A cheap check in between does not touch the note.
#[tokio::test]
async fn damage_found_before_an_interruption_is_reported_again() {
    let bench = many().await;
    let first = bench.keys("links/").await.remove(0);
    let hex = first.as_str().split('/').nth(3).unwrap();
    let at = place(&bench, &format!("sha256:{hex}").parse().unwrap()).await;
    let size = bench.faults.head(&at).await.unwrap().size_bytes;
    let wrong = vec![b'#'; usize::try_from(size).unwrap()];
    bench.faults.put(&at, wrong.into(), PutMode::Overwrite).await.unwrap();
    let found = cut_off_after(&bench, 150).await;
    let names = |found: &[FsckFinding]| -> Vec<_> {
        found.iter().map(|finding| (finding.kind, finding.key.clone())).collect()
    };
    let wrong = [(FindingKind::BytesDigest, at.to_string())];
    assert_eq!(names(&found), wrong);
    assert_eq!(names(&go_on(&bench, &cheap()).await.1), []);
    let (done, found) = go_on(&bench, &deep()).await;
    assert_eq!(names(&found), wrong);
    assert_eq!((done.resumed, done.hashed, done.left), (true, 200 - 128 + 1, 1));
}

/// A check runs in a task of its own.
#[tokio::test]
async fn a_check_can_be_spawned() {
    let clock = Arc::new(ManualClock::default());
    let store = Arc::new(MemoryStore::with_clock(clock.clone()));
    let registry = Registry::open(store, clock, RegistryOptions::default()).await.unwrap();
    let check = tokio::spawn(async move { registry.fsck(&deep(), &NoObserver).await });
    assert_eq!(check.await.unwrap().unwrap().left, 0);
}

/// Each record is read once, and nothing is written, while nothing is wrong.
#[tokio::test]
async fn what_a_check_costs() {
    let bench = healthy().await;
    bench.calls.take();
    check(&bench, &cheap()).await;
    let calls = bench.calls.take();
    let count = |operation| calls.iter().filter(|call| call.operation == operation).count();
    let keys = bench.keys("").await;
    let records = keys.iter().filter(|key| !key.as_str().starts_with("blobs/")).count();
    assert_eq!(count("get"), records);
    assert_eq!(count("list"), 17, "one for histories, copies, events each, two of mirrors");
    assert_eq!(calls.len(), count("get") + count("list"));
}

/// The requests are spread as the options say.
#[tokio::test(start_paused = true)]
async fn fsck_stays_within_its_request_rate() {
    let bench = healthy().await;
    bench.calls.take();
    let began = tokio::time::Instant::now();
    let slow = FsckOptions { requests_per_second: 2, bytes_per_second: 1, ..deep() };
    check(&bench, &slow).await;
    let requests = bench.calls.take().len() as u64;
    let seconds = began.elapsed().as_secs();
    assert!(seconds >= (requests - 1) / 2 && seconds >= 11, "{requests} in {seconds} s");
}
