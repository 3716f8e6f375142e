//! What counts for which kind of work.

#![allow(clippy::unwrap_used)]

use std::time::Duration;

use tokio::sync::Mutex;

use super::*;
use crate::tree::thread_time_ns;

const REQUEST: WorkName = WorkName("request", "blob_get");
const STORE: WorkName = WorkName("store", "read");
const HASH: WorkName = WorkName("hash", "");

/// Recordings are of the whole process: one test at a time.
static ALONE: Mutex<()> = Mutex::const_new(());

/// Uses so much processor time, however busy the machine is.
fn spin(time: Duration) {
    let until = thread_time_ns() + u64::try_from(time.as_nanos()).unwrap();
    while thread_time_ns() < until {
        std::hint::spin_loop();
    }
}

fn find<'a>(profile: &'a WorkProfile, names: &[WorkName]) -> &'a ProfiledWork {
    let found = profile.work.iter().find(|work| work.names == names);
    found.unwrap_or_else(|| panic!("no {names:?} in {profile:?}"))
}

#[tokio::test]
async fn time_counts_for_the_innermost_work() {
    let _alone = ALONE.lock().await;
    let recording = Recording::begin().unwrap();
    work(REQUEST, async {
        spin(Duration::from_millis(30));
        work(STORE, async { spin(Duration::from_millis(60)) }).await;
        tokio::task::yield_now().await;
        measure(HASH, || spin(Duration::from_millis(5)));
    })
    .await;
    let profile = recording.finish();
    let (request, store) = (find(&profile, &[REQUEST]), find(&profile, &[REQUEST, STORE]));
    let hash = find(&profile, &[REQUEST, HASH]);
    for (work, own_ms) in [(store, 60), (request, 30), (hash, 5)] {
        assert!(work.own >= Duration::from_millis(own_ms), "{profile:?}");
        assert!(work.own < Duration::from_millis(own_ms + 25), "{profile:?}");
    }
    assert_eq!((request.runs, store.runs, hash.runs), (2, 1, 1), "{profile:?}");
    assert_eq!(profile.work.first().unwrap().names, [REQUEST, STORE]);
    assert!(profile.process >= store.own + request.own, "{profile:?}");
    assert_eq!(profile.other() + profile.work.iter().map(|work| work.own).sum(), profile.process);
}

#[tokio::test]
async fn work_handed_to_another_thread_counts_below_the_work_that_hands_it_over() {
    let _alone = ALONE.lock().await;
    let recording = Recording::begin().unwrap();
    let hash = || carry(HASH, || spin(Duration::from_millis(2)));
    work(REQUEST, async { tokio::task::spawn_blocking(hash()).await.unwrap() }).await;
    tokio::task::spawn_blocking(hash()).await.unwrap();
    let profile = recording.finish();
    assert_eq!(find(&profile, &[REQUEST, HASH]).runs, 1, "{profile:?}");
    assert_eq!(find(&profile, &[HASH]).runs, 1, "{profile:?}");
}

#[tokio::test]
async fn one_recording_runs_at_a_time_and_a_dropped_one_ends() {
    let _alone = ALONE.lock().await;
    let first = Recording::begin().unwrap();
    assert_eq!(Recording::begin().unwrap_err(), RecordingError::Busy);
    // Work that began in an earlier recording counts for none that begins meanwhile.
    let second = measure(REQUEST, move || {
        drop(first);
        Recording::begin().unwrap()
    });
    measure(STORE, || ());
    let profile = second.finish();
    let names: Vec<_> = profile.work.iter().map(|work| work.names.as_slice()).collect();
    assert_eq!(names, [[STORE].as_slice()], "{profile:?}");
    measure(STORE, || ());
    assert_eq!(Recording::begin().unwrap().finish().work, []);
}

#[tokio::test]
async fn kinds_of_work_are_bounded() {
    let _alone = ALONE.lock().await;
    let recording = Recording::begin().unwrap();
    branch(12);
    let profile = recording.finish();
    // Half of them, without the root.
    assert_eq!(profile.work.len(), 4095);
}

/// Each call is another kind of work, as it is below others.
fn branch(depth: u32) {
    if depth > 0 {
        measure(STORE, || branch(depth - 1));
        measure(HASH, || branch(depth - 1));
    }
}
