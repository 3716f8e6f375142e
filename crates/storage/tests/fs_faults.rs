//! The folder store over system calls that fail: each one once, for every operation, followed by a
//! power cut; and calls that wait.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use jreg_storage::testing::{FullDisk, SyscallFaults};
use jreg_storage::{
    Durability, ETag, Error, ErrorKind, FsOpenError, FsOptions, FsStore, Key, ListRequest, Put,
    PutMode, PutPurpose, Result, SequenceOutcome, Store, StoreChange, Syscall, SyscallHook,
    SyscallTarget,
};

use crate::power::{PowerDisk, folder};

const EIO: i32 = 5;
const ENOSPC: i32 = 28;
/// What is larger is synced itself.
const LOGGED_BYTES_MAX: usize = 128 * 1024;
const MIB: u64 = 1024 * 1024;
/// A listing of so many is remembered.
const MANY: usize = 70;
/// After which a test takes it that something hangs.
const HANG: Duration = Duration::from_secs(60);

fn key(name: &str) -> Key {
    name.parse().unwrap()
}

fn open(root: &Path, disk: &Arc<PowerDisk>) -> Result<FsStore, FsOpenError> {
    FsStore::open_with(root, FsOptions::default(), disk.clone())
}

/// What may be at each key by what the store said.
type Allowed = BTreeMap<String, BTreeSet<Option<Bytes>>>;

/// A store, and what it may hold.
struct FaultRun<'s> {
    store: &'s FsStore,
    allowed: Allowed,
}

fn is_ambiguous(error: &Error) -> bool {
    error.kind() == ErrorKind::Unavailable
}

impl FaultRun<'_> {
    /// Notes what a write that was told of has done.
    fn note<T>(&mut self, name: &str, bytes: Option<Bytes>, done: &Result<T>) {
        let allowed = self.allowed.entry(name.to_owned()).or_insert_with(|| [None].into());
        match done {
            Ok(_) => *allowed = [bytes].into(),
            Err(error) if is_ambiguous(error) => drop(allowed.insert(bytes)),
            Err(_) => {}
        }
    }

    async fn put(&mut self, name: &str, bytes: impl Into<Bytes>, mode: PutMode) {
        let bytes = bytes.into();
        let done = self.store.put(&key(name), bytes.clone(), mode).await;
        self.note(name, Some(bytes), &done);
    }

    async fn put_pair(&mut self, first: &str, then: &str, purpose: PutPurpose) {
        let bytes = Bytes::from("both");
        let put =
            |name| Put::new(key(name), bytes.clone(), PutMode::Overwrite).with_purpose(purpose);
        let done = self.store.put_after(vec![StoreChange::Put(put(first))], put(then)).await;
        self.note(first, Some(bytes.clone()), &done);
        match done {
            Ok(done) => self.note(then, Some(bytes), &done.last()),
            // If the first is ambiguous, so is the second.
            Err(error) => self.note::<()>(then, Some(bytes), &Err(error)),
        }
    }

    async fn delete(&mut self, name: &str) {
        let done = self.store.delete(&key(name), None).await;
        self.note(name, None, &done);
    }

    async fn delete_many(&mut self, names: &[&str]) {
        let keys: Vec<_> = names.iter().map(|name| key(name)).collect();
        let done = self.store.delete_many(&keys).await;
        // On an error some may no longer exist, whatever it is.
        let done = done.map_err(|error| Error::new(ErrorKind::Unavailable, error.key()));
        names.iter().for_each(|name| self.note(name, None, &done));
    }

    async fn upload(&mut self, name: &str, length: usize) {
        let bytes = Bytes::from(vec![b'u'; length]);
        let uploaded = self.try_upload(name, &bytes).await;
        self.note(name, Some(bytes), &uploaded);
    }

    async fn try_upload(&self, name: &str, bytes: &Bytes) -> Result<()> {
        let store = self.store;
        let mut upload = store.create_multipart(&key(name), 1, 1024).await?;
        let half = bytes.len() / 2;
        let part = store.put_part(&upload, 0, bytes.slice(..half)).await?;
        upload.record(part);
        store.sync_parts(&upload).await?;
        let mut upload = store.resume_multipart(&upload, 2).await?;
        let part = store.put_part(&upload, half as u64, bytes.slice(half..)).await?;
        upload.record(part);
        store.complete_multipart(&upload).await
    }

    /// An upload that no record names is completed between two puts.
    async fn complete_in_sequence(&mut self, names: [&str; 3], length: usize) {
        let [first, object, last] = names;
        let bytes = Bytes::from(vec![b'u'; length]);
        let small = Bytes::from("sequence");
        let put = |name| Put::new(key(name), small.clone(), PutMode::Overwrite);
        let Ok(mut upload) = self.store.create_multipart(&key(object), 1, 1024).await else {
            return;
        };
        let Ok(part) = self.store.put_part(&upload, 0, bytes.clone()).await else { return };
        upload.record(part);
        let before = vec![StoreChange::Put(put(first)), StoreChange::Complete(upload.clone())];
        let done = self.store.put_after(before, put(last)).await;
        let (count, error) = match done {
            Ok(SequenceOutcome::All(_)) => (3, None),
            Ok(SequenceOutcome::Stopped { done, error }) => (done, Some(error)),
            Err(error) => (0, Some(error)),
        };
        let error = error.map_or(ErrorKind::NotFound, |error| error.kind());
        let contents = [small.clone(), bytes, small];
        for (index, (name, bytes)) in names.into_iter().zip(contents).enumerate() {
            let made = if index < count { Ok(()) } else { Err(Error::new(error, name)) };
            self.note(name, Some(bytes), &made);
        }
        let _ = self.store.abort_multipart(&upload).await;
    }

    async fn abort(&mut self, name: &str) {
        let Ok(upload) = self.store.create_multipart(&key(name), 1, 1024).await else { return };
        let _ = self.store.put_part(&upload, 0, "123".into()).await;
        let _ = self.store.abort_multipart(&upload).await;
        self.allowed.entry(name.to_owned()).or_insert_with(|| [None].into());
    }

    async fn run_script(&mut self) {
        let _ = self.store.list(&ListRequest::below("many/")).await;
        self.put("a", "1", PutMode::Create).await;
        self.put("a", "2", PutMode::Overwrite).await;
        self.put("many/new", "1", PutMode::Create).await;
        self.delete("many/0").await;
        self.put("b/c/d", vec![b'l'; LOGGED_BYTES_MAX + 1], PutMode::Overwrite).await;
        self.put("b/c/d", "small", PutMode::Overwrite).await;
        self.put_pair("b/e", "many/both", PutPurpose::Content).await;
        self.put_pair("d/history", "many/4", PutPurpose::Delete).await;
        self.delete_many(&["a", "many/1", "many/2", "b/c/d"]).await;
        self.upload("bulk/small", 100).await;
        self.upload("bulk/large", LOGGED_BYTES_MAX + 2).await;
        self.abort("bulk/aborted").await;
        self.complete_in_sequence(["c/first", "bulk/one", "many/last"], 100).await;
        let large = LOGGED_BYTES_MAX + 2;
        self.complete_in_sequence(["many/first", "bulk/two", "b/last"], large).await;
        self.put("b/e", vec![b'l'; LOGGED_BYTES_MAX + 1], PutMode::Overwrite).await;
        self.put("a", "3", PutMode::Create).await;
        self.delete("b/e").await;
    }

    /// What is there is allowed, listings show the same as look-ups, and both the same as the files.
    async fn check(&self, root: &Path, when: &str) {
        let mut present = Vec::new();
        for (name, allowed) in &self.allowed {
            let found = match self.store.get(&key(name)).await {
                Ok(record) => Some(record.bytes),
                Err(error) if error.is_not_found() => None,
                Err(error) => panic!("{when}: {name}: {error:?}"),
            };
            assert!(allowed.contains(&found), "{when}: {name} is {:?}", found.map(|b| b.len()));
            assert_eq!(fs::read(root.join(name)).ok().map(Bytes::from), found, "{when}: {name}");
            present.extend(found.map(|_| name.clone()));
        }
        let page = ListRequest { limit: usize::MAX, ..ListRequest::below("") };
        let listed = self.store.list(&page).await.unwrap().entries;
        let listed: Vec<_> = listed.into_iter().map(|entry| entry.key.to_string()).collect();
        assert_eq!(listed, present, "{when}");
        let below = ListRequest { limit: usize::MAX, ..ListRequest::below("many/") };
        let many = self.store.list(&below).await.unwrap().entries.len();
        let expected = present.iter().filter(|name| name.starts_with("many/")).count();
        assert_eq!(many, expected, "{when}: the names that are remembered");
    }
}

/// A folder with enough objects, at rest.
fn seeded() -> (tempfile::TempDir, Allowed) {
    let root = folder();
    let names = (0..MANY).map(|number| format!("many/{number}")).chain(["b/e".to_owned()]);
    let mut allowed = Allowed::new();
    for name in names {
        let path = root.path().join(&name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, "seed").unwrap();
        allowed.insert(name, [Some("seed".into())].into());
    }
    (root, allowed)
}

/// Runs the script with a fault, looks, cuts the power, and re-reads, twice. Says whether the fault
/// struck.
async fn run_with(fault: impl Fn(&SyscallFaults), when: &str) -> bool {
    let (root, allowed) = seeded();
    let disk = Arc::new(PowerDisk::new(root.path()));
    let store = open(root.path(), &disk).unwrap();
    fault(&disk.faults);
    let mut run = FaultRun { store: &store, allowed };
    run.run_script().await;
    let struck = disk.faults.failed() > 0;
    disk.faults.heal();
    run.check(root.path(), when).await;
    let found = disk.after_power_cut();
    let mut allowed = run.allowed;
    for start in ["after the power cut", "after another start"] {
        let store = FsStore::open(found.path(), FsOptions::default()).unwrap();
        let mut run = FaultRun { store: &store, allowed };
        run.check(found.path(), &format!("{when}, {start}")).await;
        // From now on it is what it is.
        for (name, allowed) in &mut run.allowed {
            *allowed = [fs::read(found.path().join(name)).ok().map(Bytes::from)].into();
        }
        allowed = run.allowed;
    }
    struck
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_any_one_system_call_fails() {
    let mut number = 0;
    while run_with(|faults| faults.fail_after(number, EIO), &format!("call {number}")).await {
        number += 1;
    }
    assert!(number > 150, "{number} calls");
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_any_one_call_finds_no_space() {
    let mut number = 0;
    while run_with(|faults| faults.no_space_after(number), &format!("call {number}")).await {
        number += 1;
    }
    assert!(number > 30, "{number} calls");
}

#[tokio::test]
async fn nothing_acknowledged_is_lost_when_every_call_fails_from_one_on() {
    let mut number = 0;
    while run_with(|faults| faults.fail_all_after(number, EIO), &format!("from {number}")).await {
        number += 7;
    }
}

fn copy_all(from: &Path) -> tempfile::TempDir {
    let to = folder();
    let disk = PowerDisk::new(from);
    disk.restore_to(to.path());
    to
}

/// The log of both segments, and no other file, as after a power cut while a checkpoint was slow.
async fn two_segments() -> (tempfile::TempDir, Allowed) {
    let root = folder();
    let disk = Arc::new(PowerDisk::new(root.path()));
    let store = open(root.path(), &disk).unwrap();
    disk.faults.hold(Syscall::SyncAll);
    let mut run = FaultRun { store: &store, allowed: Allowed::new() };
    run.put("a", "old", PutMode::Create).await;
    run.upload("bulk", 100).await;
    run.put("b", "old", PutMode::Create).await;
    let filler = Bytes::from(vec![b'f'; LOGGED_BYTES_MAX]);
    while !root.path().join(".log-1").exists() {
        run.put("filler", filler.clone(), PutMode::Overwrite).await;
    }
    run.put("a", "new", PutMode::Overwrite).await;
    run.delete("b").await;
    let (found, allowed) = (disk.after_power_cut(), run.allowed);
    disk.faults.heal();
    assert_ne!(fs::read(found.path().join("a")).unwrap_or_default(), b"new");
    (found, allowed)
}

/// The older segment may end only where the newer one continues.
#[tokio::test]
async fn segment_that_lacks_its_last_batch_stops_the_start() {
    let (found, _) = two_segments().await;
    let path = found.path().join(".log-0");
    let mut log = fs::read(&path).unwrap();
    let is_head = |bytes: &[u8]| bytes == b"jregWAL\x02";
    let last = log.windows(8).rposition(is_head).unwrap();
    log[last..].fill(0);
    fs::write(&path, &log).unwrap();
    let refused = FsStore::open(found.path(), FsOptions::default()).unwrap_err();
    assert!(matches!(refused, FsOpenError::DamagedLog { .. }), "{refused}");
    assert_eq!(fs::read(&path).unwrap(), log);
}

#[tokio::test]
async fn replay_may_fail_or_stop_at_any_system_call() {
    let (found, allowed) = two_segments().await;
    let mut number = 0;
    loop {
        let mut struck = false;
        for is_stop in [false, true] {
            let again = copy_all(found.path());
            let disk = Arc::new(PowerDisk::new(again.path()));
            match is_stop {
                true => disk.faults.fail_all_after(number, EIO),
                false => disk.faults.fail_after(number, EIO),
            }
            drop(open(again.path(), &disk));
            struck |= disk.faults.failed() > 0;
            let cut = disk.after_power_cut();
            for root in [again.path(), cut.path()] {
                let store = FsStore::open(root, FsOptions::default()).unwrap();
                let run = FaultRun { store: &store, allowed: allowed.clone() };
                run.check(root, &format!("call {number}, stop: {is_stop}")).await;
            }
        }
        if !struck {
            break;
        }
        number += 1;
    }
    assert!(number > 30, "{number} calls");
}

/// A store over which calls can be held, and what holds them.
fn held() -> (tempfile::TempDir, Arc<SyscallFaults>, Arc<FsStore>) {
    let root = folder();
    let faults = Arc::new(SyscallFaults::with_segments(4 * MIB));
    let store = FsStore::open_with(root.path(), FsOptions::default(), faults.clone()).unwrap();
    (root, faults, Arc::new(store))
}

async fn put(store: &FsStore, name: &str, bytes: impl Into<Bytes>) -> Result<(), ErrorKind> {
    let put = store.put(&key(name), bytes.into(), PutMode::Overwrite).await;
    put.map(|_| ()).map_err(|error| error.kind())
}

async fn in_time<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANG, work).await.expect("it hangs")
}

/// The log has no room for a write of the second key, and waits until the delete of the first,
/// which it has, is applied. The delete continues with the second key.
#[tokio::test(flavor = "multi_thread")]
async fn delete_of_several_does_not_wait_for_a_key_while_the_log_waits_for_it() {
    let (_root, faults, store) = held();
    let filler = Bytes::from(vec![b'f'; LOGGED_BYTES_MAX]);
    for name in ["a/1", "a/2"] {
        put(&store, name, "1").await.unwrap();
    }
    for _ in 0..7 {
        put(&store, "filler", filler.clone()).await.unwrap();
    }
    faults.fail(&[Syscall::Allocate], 28);
    faults.hold(Syscall::Unlink);
    let deleting = store.clone();
    let deleting =
        tokio::spawn(async move { deleting.delete_many(&[key("a/1"), key("a/2")]).await });
    let held = faults.clone();
    assert!(tokio::task::spawn_blocking(move || held.waits_for_held(1)).await.unwrap());
    // The delete of the first is in the log once this is.
    put(&store, "b", "1").await.unwrap();
    let writing = store.clone();
    let writing = tokio::spawn(async move { put(&writing, "a/2", filler).await });
    let failed = faults.clone();
    assert!(tokio::task::spawn_blocking(move || failed.waits_for_failed(1)).await.unwrap());
    faults.release(Syscall::Unlink);
    in_time(deleting).await.unwrap().unwrap();
    in_time(writing).await.unwrap().unwrap();
}

fn log_bytes(root: &Path) -> u64 {
    let lengths = [".log-0", ".log-1"].map(|name| fs::metadata(root.join(name)));
    lengths.into_iter().flatten().map(|metadata| metadata.len()).sum()
}

#[tokio::test(flavor = "multi_thread")]
async fn log_does_not_grow_without_end_while_a_checkpoint_is_slow() {
    let (root, faults, store) = held();
    faults.hold(Syscall::SyncAll);
    let writing = store.clone();
    let filler = Bytes::from(vec![b'f'; LOGGED_BYTES_MAX]);
    let writing = tokio::spawn(async move {
        for number in 0..200 {
            put(&writing, &format!("a/{}", number % 4), filler.clone()).await.unwrap();
        }
    });
    // It stands still once both segments are as long as they may be.
    let mut stood = 0;
    let mut before = 0;
    while stood < 20 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        let now = log_bytes(root.path());
        stood = if now == before && now > 8 * MIB { stood + 1 } else { 0 };
        before = now;
        assert!(now <= 13 * MIB, "{now}");
    }
    assert!(!writing.is_finished());
    assert!(store.health().longest_wait.is_some_and(|wait| wait > Duration::from_secs(1)));
    faults.heal();
    in_time(writing).await.unwrap();
    assert!(store.health().longest_wait.is_none());
    let store = Arc::into_inner(store).unwrap();
    put(&store, "b", "1").await.unwrap();
    drop(store);
    assert_eq!(log_bytes(root.path()), 0);
}

/// A store that has acknowledged so many objects, `a/0` and so on, while a checkpoint is held.
async fn store_with_held_checkpoint() -> (tempfile::TempDir, Arc<PowerDisk>, Arc<FsStore>, usize) {
    let root = folder();
    let disk = Arc::new(PowerDisk::new(root.path()));
    let store = Arc::new(open(root.path(), &disk).unwrap());
    disk.faults.hold(Syscall::SyncAll);
    let mut acknowledged = 0;
    while !root.path().join(".log-1").exists() {
        let filler = Bytes::from(vec![b'f'; LOGGED_BYTES_MAX]);
        put(&store, &format!("a/{acknowledged}"), filler).await.unwrap();
        acknowledged += 1;
    }
    let held = disk.clone();
    assert!(tokio::task::spawn_blocking(move || held.faults.waits_for_held(1)).await.unwrap());
    (root, disk, store, acknowledged)
}

/// Both segments are full, and the writer waits for the checkpoint of the older one, which fails.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_lost_when_a_checkpoint_fails_while_a_write_waits_for_it() {
    let (_root, disk, store, mut acknowledged) = store_with_held_checkpoint().await;
    let writing = store.clone();
    let writing = tokio::spawn(async move {
        let filler = Bytes::from(vec![b'f'; LOGGED_BYTES_MAX]);
        while put(&writing, &format!("a/{acknowledged}"), filler.clone()).await.is_ok() {
            acknowledged += 1;
        }
        acknowledged
    });
    while store.health().longest_wait.is_none_or(|wait| wait < Duration::from_secs(2)) {
        assert!(!writing.is_finished());
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    disk.faults.fail(&[Syscall::SyncAll], EIO);
    disk.faults.release(Syscall::SyncAll);
    let acknowledged = in_time(writing).await.unwrap();
    let found = disk.after_power_cut();
    let found = FsStore::open(found.path(), FsOptions::default()).unwrap();
    for number in 0..acknowledged {
        assert!(found.head(&key(&format!("a/{number}"))).await.is_ok(), "{number}");
    }
}

/// The system tells of a failure once: the sync at the end succeeds, and says nothing.
#[tokio::test(flavor = "multi_thread")]
async fn log_stays_when_a_checkpoint_fails_while_the_store_stops() {
    let (root, disk, store, _) = store_with_held_checkpoint().await;
    let stopping = tokio::task::spawn_blocking(move || drop(Arc::into_inner(store).unwrap()));
    // The writer is to wait for the checkpoint by now.
    tokio::time::sleep(Duration::from_millis(500)).await;
    disk.faults.fail_next(Syscall::SyncAll, EIO);
    disk.faults.release(Syscall::SyncAll);
    in_time(stopping).await.unwrap();
    assert!([".log-0", ".log-1"].iter().all(|name| root.path().join(name).exists()));
}

/// A copy-on-write file system takes new space for bytes that are overwritten, too.
#[tokio::test]
async fn writes_go_on_where_overwriting_a_segment_finds_no_space() {
    let root = folder();
    let disk = Arc::new(PowerDisk::new(root.path()));
    let store = open(root.path(), &disk).unwrap();
    put(&store, "a", "1").await.unwrap();
    disk.faults.fail(&[Syscall::Overwrite], ENOSPC);
    put(&store, "b", "1").await.unwrap();
    store.delete(&key("a"), None).await.unwrap();
    disk.faults.heal();
    put(&store, "c", "1").await.unwrap();
    assert_eq!(store.sync_counts().logs, 2, "the log is used again");
    let found = disk.after_power_cut();
    let found = FsStore::open(found.path(), FsOptions::default()).unwrap();
    let listed = found.list(&ListRequest::below("")).await.unwrap().entries;
    let names: Vec<_> = listed.iter().map(|entry| entry.key.as_str()).collect();
    assert_eq!(names, ["b", "c"]);
}

/// A disk that has no space for one record, and then for less than it gave for that.
#[derive(Debug, Default)]
struct TightDisk {
    failing: Mutex<Vec<Syscall>>,
}

impl SyscallHook for TightDisk {
    fn before(&self, call: Syscall, _: SyscallTarget<'_>) -> io::Result<()> {
        let mut failing = self.failing.lock().unwrap();
        match failing.iter().position(|failing| *failing == call) {
            Some(place) => {
                failing.remove(place);
                Err(io::Error::from_raw_os_error(ENOSPC))
            }
            None => Ok(()),
        }
    }
}

#[tokio::test]
async fn reserve_takes_back_what_there_is() {
    let root = folder();
    let disk = Arc::new(TightDisk::default());
    let store = FsStore::open_with(root.path(), FsOptions::default(), disk.clone()).unwrap();
    let version = store.put(&key("a"), "live".into(), PutMode::Create).await.unwrap().etag;
    // The largest steps find no space.
    *disk.failing.lock().unwrap() = [Syscall::Create, Syscall::Allocate].repeat(2);
    store.put(&key("a"), "dead".into(), PutMode::Match(version)).await.unwrap();
    assert_eq!(*disk.failing.lock().unwrap(), []);
    assert_eq!(fs::metadata(root.path().join(".reserve")).unwrap().len(), 8 * MIB);
    assert_eq!(store.health().reserved_bytes, Some(8 * MIB));
}

#[tokio::test]
async fn what_frees_space_is_written_on_a_full_disk() {
    let root = folder();
    let disk = Arc::new(FullDisk::default());
    let options = FsOptions { reserved_for: vec!["notes/".to_owned()], ..FsOptions::default() };
    let store = FsStore::open_with(root.path(), options, disk.clone()).unwrap();
    let mut versions = Vec::new();
    for number in 0..3 {
        let name = key(&format!("a/{number}"));
        versions.push(store.put(&name, "live".into(), PutMode::Create).await.unwrap().etag);
    }
    disk.set_room(0);
    assert_eq!(put(&store, "a/3", "new").await, Err(ErrorKind::Full));
    assert_eq!(put(&store, "a/0", "new").await, Err(ErrorKind::Full));
    let swap = PutMode::Match(versions.remove(0));
    for _ in 0..20 {
        let larger = store.put(&key("a/0"), "alive".into(), swap.clone()).await;
        assert_eq!(larger.unwrap_err().kind(), ErrorKind::Full, "it is for others");
    }
    store.put(&key("a/0"), "dead".into(), swap).await.unwrap();
    store.delete(&key("a/1"), Some(&versions[0])).await.unwrap();
    store.delete_many(&[key("a/2"), key("a/0")]).await.unwrap();
    put(&store, "notes/new/1", "what goes").await.unwrap();
    disk.set_room(0);
    assert_eq!(put(&store, "a/3", "new").await, Err(ErrorKind::Full), "it is for others");
}

/// Regression: deletes of tags and manifests, which leave a record each, needed some free space.
#[tokio::test]
async fn fixed_what_deletes_leave_is_written_on_a_full_disk() {
    let root = folder();
    let disk = Arc::new(FullDisk::default());
    let store = FsStore::open_with(root.path(), FsOptions::default(), disk.clone()).unwrap();
    let version = store.put(&key("a/1"), "live".into(), PutMode::Create).await.unwrap().etag;
    let swap = |version: &ETag, bytes: &'static str| {
        Put::new(key("a/1"), bytes.into(), PutMode::Match(version.clone()))
    };
    let left = |at: &str, bytes: Vec<u8>| Put::new(key(at), bytes.into(), PutMode::Create);
    disk.set_room(0);
    let before = vec![StoreChange::Put(left("history/1", vec![1; 300]))];
    let refused = store.put_after(before.clone(), swap(&version, "deleted, and longer")).await;
    assert_eq!(refused.unwrap_err().kind(), ErrorKind::Full, "it is for deletes");
    let deleted = swap(&version, "deleted, and longer").with_purpose(PutPurpose::Delete);
    let written = store.put_after(before, deleted.clone()).await.unwrap().last().unwrap();
    assert_eq!(store.get(&key("a/1")).await.unwrap().etag, written.etag);
    assert_eq!(store.get(&key("history/1")).await.unwrap().bytes.len(), 300);
    // More than a step of what is kept back.
    disk.set_room(0);
    let copy = left("copies/1", vec![2; 200_000]).with_purpose(PutPurpose::Delete);
    store.put_after(Vec::new(), copy).await.unwrap().last().unwrap();
    // What is refused for another reason is refused.
    disk.set_room(0);
    let again = store.put_after(Vec::new(), deleted).await.unwrap_err();
    assert_eq!(again.kind(), ErrorKind::Precondition);
    assert_eq!(put(&store, "a/2", "new").await, Err(ErrorKind::Full));
}

/// A write of a delete that was made in part before the space ended goes on where it was.
#[tokio::test]
async fn a_delete_continues_after_the_change_that_found_space() {
    for room in 0..12 {
        let root = folder();
        let disk = Arc::new(FullDisk::default());
        let options = FsOptions { durability: Durability::Relaxed, ..FsOptions::default() };
        let store = FsStore::open_with(root.path(), options, disk.clone()).unwrap();
        let version = store.put(&key("a/1"), "live".into(), PutMode::Create).await.unwrap().etag;
        disk.set_room(room);
        let history = Put::new(key("history/1"), "live".into(), PutMode::Create);
        let deleted = Put::new(key("a/1"), "deleted".into(), PutMode::Match(version));
        let deleted = deleted.with_purpose(PutPurpose::Delete);
        let done = store.put_after(vec![StoreChange::Put(history)], deleted).await.unwrap();
        assert!(matches!(done, SequenceOutcome::All(_)), "{room}: {done:?}");
        assert_eq!(store.get(&key("a/1")).await.unwrap().bytes, "deleted");
        assert_eq!(store.get(&key("history/1")).await.unwrap().bytes, "live");
    }
}

/// A file system that has space and no inode for one more file.
#[derive(Debug, Default)]
struct NoInode {
    free: Mutex<Option<usize>>,
}

impl SyscallHook for NoInode {
    fn before(&self, call: Syscall, _: SyscallTarget<'_>) -> io::Result<()> {
        let mut free = self.free.lock().unwrap();
        let Some(free) = &mut *free else { return Ok(()) };
        match call {
            Syscall::Create | Syscall::MakeFolder if *free == 0 => {
                return Err(io::Error::from_raw_os_error(ENOSPC));
            }
            Syscall::Create | Syscall::MakeFolder => *free -= 1,
            Syscall::Unlink => *free += 1,
            _ => {}
        }
        Ok(())
    }
}

/// GC ended at its first note, and a delete of a blob was refused.
#[tokio::test]
async fn what_frees_space_is_written_where_there_is_no_inode() {
    let root = folder();
    let disk = Arc::new(NoInode::default());
    let options = FsOptions { reserved_for: vec!["notes/".to_owned()], ..FsOptions::default() };
    let store = FsStore::open_with(root.path(), options, disk.clone()).unwrap();
    let version = store.put(&key("a/0"), "live".into(), PutMode::Create).await.unwrap().etag;
    *disk.free.lock().unwrap() = Some(0);
    assert_eq!(put(&store, "a/1", "new").await, Err(ErrorKind::Full));
    store.put(&key("a/0"), "dead".into(), PutMode::Match(version)).await.unwrap();
    put(&store, "notes/new/1", "what goes").await.unwrap();
    *disk.free.lock().unwrap() = Some(0);
    assert_eq!(put(&store, "a/1", "new").await, Err(ErrorKind::Full), "it is for others");
    *disk.free.lock().unwrap() = None;
    store.delete(&key("a/0"), None).await.unwrap();
    let names = fs::read_dir(root.path()).unwrap().map(|entry| entry.unwrap().file_name());
    let spare = names.filter(|name| name.to_str().unwrap().starts_with(".reserve-")).count();
    assert_eq!(spare, 16, "they are kept back again");
}

#[tokio::test(flavor = "multi_thread")]
async fn read_that_does_not_return_is_seen_to_wait() {
    let (_root, faults, store) = held();
    put(&store, "a", "1").await.unwrap();
    assert!(store.health().longest_wait.is_none());
    faults.hold(Syscall::Open);
    let reading = store.clone();
    let reading = tokio::spawn(async move { reading.head(&key("a")).await });
    let held = faults.clone();
    assert!(tokio::task::spawn_blocking(move || held.waits_for_held(1)).await.unwrap());
    assert!(store.health().longest_wait.is_some());
    faults.heal();
    in_time(reading).await.unwrap().unwrap();
    assert!(store.health().longest_wait.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn write_and_listing_that_do_not_return_are_seen_to_wait() {
    let (_root, faults, store) = held();
    for call in [Syscall::Create, Syscall::ReadNames] {
        put(&store, "a/b", "1").await.unwrap();
        assert!(store.health().longest_wait.is_none());
        faults.hold(call);
        let working = store.clone();
        let working = tokio::spawn(async move {
            if call == Syscall::Create {
                return put(&working, "a/c", "1").await.is_ok();
            }
            working.list(&ListRequest::below("a/")).await.is_ok()
        });
        let held = faults.clone();
        assert!(tokio::task::spawn_blocking(move || held.waits_for_held(1)).await.unwrap());
        let wait = store.health().longest_wait;
        faults.heal();
        assert!(in_time(working).await.unwrap());
        assert!(wait.is_some(), "{call:?}");
    }
}

/// A thread that waits for the writer of a named pipe would wait for ever.
#[tokio::test]
async fn a_named_pipe_in_the_place_of_an_object_holds_up_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(root.path(), FsOptions::default()).unwrap();
    let other = "bulk/other".parse().unwrap();
    store.put(&other, "1".into(), PutMode::Create).await.unwrap();
    let pipe = root.path().join("bulk/object");
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    let key = "bulk/object".parse().unwrap();
    let reading = async {
        assert_eq!(store.get(&key).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(store.head(&key).await.unwrap_err().kind(), ErrorKind::Unavailable);
        assert_eq!(store.file(&key).await.unwrap_err().kind(), ErrorKind::Unavailable);
    };
    tokio::time::timeout(std::time::Duration::from_secs(10), reading).await.expect("it waits");
}

/// Regression: what took the place of an object was missing in listings, like a deleted one: fsck was silent, and backups left
/// it out.
#[tokio::test]
async fn fixed_what_is_in_the_place_of_an_object_is_listed() {
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(root.path(), FsOptions::default()).unwrap();
    store.put(&"bulk/other".parse().unwrap(), "1".into(), PutMode::Create).await.unwrap();
    let pipe = root.path().join("bulk/object");
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    std::os::unix::fs::symlink(&pipe, root.path().join("bulk/link")).unwrap();
    for request in [ListRequest::below("bulk/"), ListRequest::below("")] {
        let listed = store.list(&request).await.unwrap().entries;
        let keys: Vec<_> = listed.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["bulk/link", "bulk/object", "bulk/other"]);
    }
}

/// Such a pipe in the place of what a start or an upload writes is an error, or is replaced.
#[tokio::test(flavor = "multi_thread")]
async fn a_named_pipe_in_the_place_of_a_file_of_the_store_holds_up_nothing() {
    let make_pipe = |path: &std::path::Path| {
        let _ = std::fs::remove_file(path);
        assert!(std::process::Command::new("mkfifo").arg(path).status().unwrap().success());
    };
    for name in [".run", ".run.new", ".reserve", ".reserve-0", ".log-run", ".log-0"] {
        let root = tempfile::tempdir().unwrap();
        let path = root.path().to_owned();
        let open = move || FsStore::open(&path, FsOptions::default());
        open().unwrap();
        make_pipe(&root.path().join(name));
        let _ = in_time(tokio::task::spawn_blocking(open)).await.unwrap();
    }
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(root.path(), FsOptions::default()).unwrap();
    let key = "bulk/object".parse().unwrap();
    let upload = store.create_multipart(&key, 1, 1).await.unwrap();
    store.put_part(&upload, 0, "1".into()).await.unwrap();
    let staged = fs::read_dir(root.path().join("bulk")).unwrap().next().unwrap().unwrap();
    store.sync_parts(&upload).await.unwrap();
    drop(store);
    make_pipe(&staged.path());
    let store = FsStore::open(root.path(), FsOptions::default()).unwrap();
    in_time(async {
        let resumed = store.resume_multipart(&upload, 2).await;
        resumed.unwrap();
        store.put_part(&upload, 1, "1".into()).await
    })
    .await
    .unwrap_err();
}

/// What cannot be a folder, and a link that leads nowhere, are not a folder without keys, nor an absent object.
#[tokio::test]
async fn what_took_the_place_of_a_folder_is_no_absence() {
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(root.path(), FsOptions::default()).unwrap();
    put(&store, "all/a/b/c", "1").await.unwrap();
    let folder = root.path().join("all");
    fs::rename(&folder, root.path().join("moved")).unwrap();
    let lists_nothing = async || {
        let got = store.get(&key("all/a/b/c")).await.unwrap_err().kind();
        let headed = store.head(&key("all/a/b/c")).await.unwrap_err().kind();
        assert_eq!(got, headed);
        for below in ["all/", "all/a/", "all/a/b/"] {
            let listed = store.list(&ListRequest::below(below)).await;
            let Err(refused) = listed else { return true };
            assert_eq!((refused.kind(), got), (ErrorKind::Unavailable, ErrorKind::Unavailable));
        }
        false
    };
    std::os::unix::fs::symlink("nowhere", &folder).unwrap();
    assert!(!lists_nothing().await);
    fs::remove_file(&folder).unwrap();
    assert!(std::process::Command::new("mkfifo").arg(&folder).status().unwrap().success());
    assert!(!lists_nothing().await);
    fs::remove_file(&folder).unwrap();
    assert!(lists_nothing().await);
    fs::rename(root.path().join("moved"), &folder).unwrap();
    fs::remove_file(folder.join("a/b/c")).unwrap();
    std::os::unix::fs::symlink("nowhere", folder.join("a/b/c")).unwrap();
    assert!(!lists_nothing().await);
}

/// A start that fails says at which file, and what to do about all files of another user.
#[test]
fn failed_start_names_the_file() {
    for name in [".lock", ".run", ".log-0", ".log-run"] {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join(name)).unwrap();
        let refused = FsStore::open(root.path(), FsOptions::default()).unwrap_err();
        let source = std::error::Error::source(&refused).unwrap().to_string();
        assert!(source.contains(&format!("/{name}: ")), "{source}");
    }
}
