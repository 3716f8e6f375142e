//! The write-ahead log of the folder store: what replay restores after a power cut that keeps only
//! synced data.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use jreg_storage::{
    Durability, ErrorKind, FsOpenError, FsOptions, FsStore, Key, ListRequest, Multipart, Put,
    PutMode, Store, StoreChange, SyncCounts, Syscall, SyscallHook, SyscallTarget,
};

use crate::numbers::Numbers;

/// What is larger is synced itself.
const LOGGED_BYTES_MAX: usize = 128 * 1024;
/// When a segment is closed.
const SEGMENT_BYTES: usize = 32 * 1024 * 1024;
/// The head of a batch.
const HEAD_BYTES: usize = 52;
const SEGMENTS: [&str; 2] = [".log-0", ".log-1"];

fn open(root: &Path) -> FsStore {
    FsStore::open(root, FsOptions::default()).unwrap()
}

fn key(name: &str) -> Key {
    name.parse().unwrap()
}

impl Numbers {
    fn bytes(&mut self, length: usize) -> Bytes {
        let first = u8::try_from(self.below(256)).unwrap();
        vec![first; length].into()
    }
}

/// A store, what it acknowledged, and what a disk is sure to have of it.
struct WalRun {
    live: tempfile::TempDir,
    disk: tempfile::TempDir,
    store: FsStore,
    objects: BTreeMap<String, Bytes>,
    uploads: Vec<(Multipart, Bytes)>,
    numbers: Numbers,
}

impl WalRun {
    fn new(seed: u64) -> Self {
        let (live, disk) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let store = open(live.path());
        let (objects, uploads, numbers) = (BTreeMap::new(), Vec::new(), Numbers(seed));
        Self { live, disk, store, objects, uploads, numbers }
    }

    fn name(&mut self) -> String {
        let names = ["a", "b/c", "b/d", "e/f/g", "e/f/h"];
        names[usize::try_from(self.numbers.below(5)).unwrap()].to_owned()
    }

    fn length(&mut self) -> usize {
        let large = self.numbers.below(3) == 0;
        if large { LOGGED_BYTES_MAX + 1 } else { usize::try_from(self.numbers.below(100)).unwrap() }
    }

    async fn step(&mut self) {
        match self.numbers.below(9) {
            0..=2 => self.put().await,
            8 => self.put_pair().await,
            3 | 4 => self.delete().await,
            5 => self.begin_upload().await,
            6 => self.go_on().await,
            _ => self.end_upload().await,
        }
    }

    async fn put(&mut self) {
        let (name, length) = (self.name(), self.length());
        let bytes = self.numbers.bytes(length);
        let mode = match self.objects.get(&name) {
            None => PutMode::Create,
            Some(_) if self.numbers.below(2) == 0 => PutMode::Overwrite,
            Some(_) if length > LOGGED_BYTES_MAX => PutMode::Overwrite,
            Some(there) if there.len() > LOGGED_BYTES_MAX => PutMode::Overwrite,
            Some(_) => PutMode::Match(self.store.get(&key(&name)).await.unwrap().etag),
        };
        self.store.put(&key(&name), bytes.clone(), mode).await.unwrap();
        self.objects.insert(name, bytes);
        self.keep_large();
    }

    async fn put_pair(&mut self) {
        let (name, length) = (self.name(), self.length());
        let bytes = self.numbers.bytes(length);
        let other = format!("pairs/{}", self.numbers.below(3));
        let put = |name: &str, mode| Put::new(key(name), bytes.clone(), mode);
        let first = put(&name, PutMode::Overwrite);
        let then = self
            .store
            .put_after(vec![StoreChange::Put(first)], put(&other, PutMode::Create))
            .await
            .unwrap()
            .last();
        self.objects.insert(name, bytes.clone());
        assert_eq!(then.is_ok(), !self.objects.contains_key(&other));
        self.objects.entry(other).or_insert(bytes);
        self.keep_large();
    }

    async fn delete(&mut self) {
        let name = self.name();
        if self.numbers.below(2) == 0 {
            self.store.delete(&key(&name), None).await.unwrap();
        } else {
            self.store.delete_many(&[key(&name), key("absent")]).await.unwrap();
        }
        self.objects.remove(&name);
    }

    async fn begin_upload(&mut self) {
        let name = format!("bulk/{}", self.numbers.below(1_000_000));
        let upload = self.store.create_multipart(&key(&name), 1, 1024).await.unwrap();
        self.uploads.push((upload, Bytes::new()));
        self.go_on().await;
    }

    async fn go_on(&mut self) {
        let length = self.length();
        let more = self.numbers.bytes(length);
        let Some((upload, bytes)) = self.uploads.last_mut() else { return };
        let part = self.store.put_part(upload, bytes.len() as u64, more.clone()).await.unwrap();
        upload.record(part);
        self.store.sync_parts(upload).await.unwrap();
        *bytes = [&bytes[..], &more[..]].concat().into();
        self.keep_large();
    }

    async fn end_upload(&mut self) {
        let Some((upload, bytes)) = self.uploads.pop() else { return };
        if self.numbers.below(4) == 0 {
            self.store.abort_multipart(&upload).await.unwrap();
        } else {
            self.store.complete_multipart(&upload).await.unwrap();
            self.objects.insert(upload.key.to_string(), bytes);
        }
    }

    /// What is large was synced, with its name. What happens to the name later may be lost.
    fn keep_large(&self) {
        for path in files(self.live.path()) {
            let from = self.live.path().join(&path);
            if fs::metadata(&from).unwrap().len() > LOGGED_BYTES_MAX as u64 {
                copy(&from, &self.disk.path().join(&path));
            }
        }
    }

    /// The folder as it may be after the power was cut: the log, what was synced, and of what was
    /// not, anything.
    fn after_power_cut(&mut self) -> tempfile::TempDir {
        let found = tempfile::tempdir().unwrap();
        for path in files(self.disk.path()) {
            copy(&self.disk.path().join(&path), &found.path().join(&path));
        }
        for path in files(self.live.path()) {
            let (from, to) = (self.live.path().join(&path), found.path().join(&path));
            let is_large = fs::metadata(&from).unwrap().len() > LOGGED_BYTES_MAX as u64;
            match self.numbers.below(3) {
                0 if !is_large => copy(&from, &to),
                1 if !is_large => write(&to, b""),
                _ => {}
            }
        }
        for name in SEGMENTS.into_iter().chain([".run"]) {
            let from = self.live.path().join(name);
            if from.exists() {
                copy(&from, &found.path().join(name));
            }
        }
        found
    }

    async fn check_after_power_cut(&mut self) {
        let found = self.after_power_cut();
        let store = open(found.path());
        let page = ListRequest { limit: usize::MAX, ..ListRequest::below("") };
        let listed = store.list(&page).await.unwrap();
        let names: Vec<_> = listed.entries.iter().map(|entry| entry.key.to_string()).collect();
        assert_eq!(names, self.objects.keys().cloned().collect::<Vec<_>>());
        for entry in listed.entries {
            let name = entry.key.to_string();
            assert_eq!(fs::read(found.path().join(&name)).unwrap(), self.objects[&name], "{name}");
            let before = self.store.head(&entry.key).await.unwrap().last_modified;
            assert_eq!(entry.last_modified, before, "{name}");
        }
        for (upload, bytes) in &self.uploads {
            let resumed = store.resume_multipart(upload, upload.writer + 1).await.unwrap();
            store.complete_multipart(&resumed).await.unwrap();
            assert_eq!(fs::read(found.path().join(upload.key.as_str())).unwrap(), bytes[..]);
        }
    }
}

/// The files below a folder that are not the store's own, but uploads are.
fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap().to_string_lossy().into_owned();
            if path.is_dir() {
                folders.push(path);
            } else if !name.starts_with('.') || name.starts_with(".upload-") {
                found.push(path.strip_prefix(root).unwrap().to_owned());
            }
        }
    }
    found
}

fn copy(from: &Path, to: &Path) {
    let modified = fs::metadata(from).unwrap().modified().unwrap();
    write(to, &fs::read(from).unwrap());
    fs::File::options().write(true).open(to).unwrap().set_modified(modified).unwrap();
}

fn write(to: &Path, bytes: &[u8]) {
    fs::create_dir_all(to.parent().unwrap()).unwrap();
    fs::write(to, bytes).unwrap();
}

#[tokio::test]
async fn what_was_acknowledged_survives_a_power_cut_at_any_step() {
    for seed in 0..12 {
        let mut run = WalRun::new(seed);
        for _ in 0..25 {
            run.step().await;
            run.check_after_power_cut().await;
        }
    }
}

#[tokio::test]
async fn an_orderly_end_leaves_no_log() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    store.put(&key("a"), "1".into(), PutMode::Create).await.unwrap();
    assert!(root.path().join(SEGMENTS[0]).exists());
    drop(store);
    assert!(SEGMENTS.iter().all(|name| !root.path().join(name).exists()));
    assert_eq!(open(root.path()).get(&key("a")).await.unwrap().bytes, "1");
}

#[tokio::test]
async fn relaxed_durability_replays_the_log_of_a_strict_run_and_has_none() {
    let mut run = WalRun::new(1);
    run.store.put(&key("a"), "1".into(), PutMode::Create).await.unwrap();
    run.objects.insert("a".to_owned(), "1".into());
    let found = run.after_power_cut();
    let options = FsOptions { durability: Durability::Relaxed, ..FsOptions::default() };
    let store = FsStore::open(found.path(), options).unwrap();
    assert_eq!(store.get(&key("a")).await.unwrap().bytes, "1");
    store.put(&key("b"), "1".into(), PutMode::Create).await.unwrap();
    assert_eq!(store.sync_counts(), SyncCounts::default());
    assert!(SEGMENTS.iter().all(|name| !found.path().join(name).exists()));
}

#[tokio::test]
async fn two_small_objects_share_a_sync() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let put = |name| Put::new(key(name), "1".into(), PutMode::Create);
    store.put_after(vec![StoreChange::Put(put("a/1"))], put("b/1")).await.unwrap().last().unwrap();
    assert_eq!(store.sync_counts(), SyncCounts { files: 0, folders: 0, logs: 1 });
}

#[tokio::test]
async fn many_that_write_at_once_share_their_syncs() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path());
    let puts = (0..200).map(|number| {
        let store = &store;
        async move { store.put(&key(&format!("a/{number}")), "1".into(), PutMode::Create).await }
    });
    let written = futures::future::join_all(puts).await;
    assert!(written.iter().all(Result::is_ok));
    let logs = store.sync_counts().logs;
    assert!((1..200).contains(&logs), "{logs}");
}

/// Whether a segment's entries do not count any more.
fn is_free(root: &Path, segment: &str) -> bool {
    fs::read(root.join(segment))
        .unwrap()
        .starts_with(b"jreg: this part of the write-ahead log is free")
}

#[tokio::test]
async fn a_closed_segment_is_not_replayed_over_what_came_later() {
    const WAITS_MAX: u32 = 10_000;
    let mut run = WalRun::new(2);
    let store = &run.store;
    store.put(&key("a"), "1".into(), PutMode::Create).await.unwrap();
    let bytes = Bytes::from(vec![7; LOGGED_BYTES_MAX]);
    for number in 0..=SEGMENT_BYTES / LOGGED_BYTES_MAX {
        store.put(&key(&format!("b/{number}")), bytes.clone(), PutMode::Create).await.unwrap();
    }
    let mut waits = 0;
    while !is_free(run.live.path(), SEGMENTS[0]) {
        tokio::time::sleep(Duration::from_millis(1)).await;
        waits += 1;
        assert!(waits < WAITS_MAX, "the segment is never free");
    }
    let large = Bytes::from(vec![1; LOGGED_BYTES_MAX + 1]);
    store.put(&key("a"), large.clone(), PutMode::Overwrite).await.unwrap();
    // All that was in the log is on the disk by now, and stays with a power cut.
    for path in files(run.live.path()) {
        copy(&run.live.path().join(&path), &run.disk.path().join(&path));
    }
    let found = run.after_power_cut();
    let after = open(found.path());
    assert_eq!(fs::read(found.path().join("a")).unwrap(), large);
    let entries = after.list(&ListRequest::below("b/")).await.unwrap().entries;
    assert_eq!(entries.len(), SEGMENT_BYTES / LOGGED_BYTES_MAX + 1);
    assert!(entries.iter().all(|entry| entry.last_modified > SystemTime::UNIX_EPOCH));
}

/// It looks like one that was torn by a power cut, so the start continues.
#[tokio::test]
async fn damage_to_the_head_of_the_last_batch_leaves_a_copy_of_it() {
    let (found, log, starts) = batches().await;
    let last = starts[BATCHES - 1];
    for place in last..last + HEAD_BYTES {
        let mut damaged = log.clone();
        damaged[place] ^= 1;
        let store = reopen(found.path(), &damaged).unwrap();
        let listed = store.list(&ListRequest::below("a/")).await.unwrap().entries;
        assert_eq!(listed.len(), BATCHES - 1, "{place}");
        drop(store);
        let copy = fs::read(found.path().join(".log-torn")).unwrap();
        assert!(damaged[last..].starts_with(&copy) && copy.len() > HEAD_BYTES, "{place}");
        fs::remove_file(found.path().join(".log-torn")).unwrap();
        fs::remove_dir_all(found.path().join("a")).unwrap();
    }
    // What an earlier use of the segment left there is no batch.
    let mut older = log.clone();
    older.copy_within(starts[0] + 3..starts[1], last);
    drop(reopen(found.path(), &older).unwrap());
    assert!(!found.path().join(".log-torn").exists());
}

/// How many batches the log of [`batches`] has.
const BATCHES: usize = 20;

/// The log of some writes, each in a batch of its own, and where these begin.
async fn batches() -> (tempfile::TempDir, Vec<u8>, Vec<usize>) {
    let run = WalRun::new(3);
    for number in 0..BATCHES {
        let name = format!("a/{number}");
        run.store.put(&key(&name), "1".into(), PutMode::Create).await.unwrap();
    }
    let found = tempfile::tempdir().unwrap();
    copy(&run.live.path().join(".run"), &found.path().join(".run"));
    let log = fs::read(run.live.path().join(SEGMENTS[0])).unwrap();
    let heads = log.windows(8).enumerate().filter(|(_, bytes)| *bytes == b"jregWAL\x02");
    let starts: Vec<_> = heads.map(|(start, _)| start).collect();
    assert_eq!(starts.len(), BATCHES);
    (found, log, starts)
}

fn reopen(root: &Path, log: &[u8]) -> Result<FsStore, FsOpenError> {
    write(&root.join(SEGMENTS[0]), log);
    FsStore::open(root, FsOptions { lock_wait: Duration::ZERO, ..FsOptions::default() })
}

#[tokio::test]
async fn damage_before_the_last_batch_stops_the_start_and_changes_nothing() {
    let (found, log, starts) = batches().await;
    let last = starts[BATCHES - 1];
    for place in 0..last {
        // Every byte of the first two batches, and some of the others.
        if place >= starts[2] && place % 13 != 0 {
            continue;
        }
        let mut damaged = log.clone();
        damaged[place] ^= 1;
        let refused = reopen(found.path(), &damaged).unwrap_err();
        assert!(matches!(refused, FsOpenError::DamagedLog { .. }), "{place}: {refused}");
        let said = refused.to_string();
        assert!(said.contains(".log-0") && said.contains("move"), "{said}");
        assert_eq!(fs::read(found.path().join(SEGMENTS[0])).unwrap(), damaged, "{place}");
        assert!(!found.path().join("a").exists(), "{place}");
    }
    // Bytes that are lost are no different.
    for (from, to) in [(0, 64), (0, starts[3]), (starts[4], starts[6])] {
        let mut damaged = log.clone();
        damaged[from..to].fill(0);
        let refused = reopen(found.path(), &damaged).unwrap_err();
        assert!(matches!(refused, FsOpenError::DamagedLog { .. }), "{from}: {refused}");
    }
    let mut older = log.clone();
    older[..8].copy_from_slice(b"\x01\x02\x03\x04\x05\x06\x07\x08");
    assert!(reopen(found.path(), &older).is_err(), "another version");
}

/// A copy that broke off was taken for a torn last batch: all that followed was lost, and the log removed.
#[tokio::test]
async fn log_that_is_cut_stops_the_start_and_stays() {
    let (found, log, starts) = batches().await;
    let last = starts[BATCHES - 1];
    let end = log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for length in (1..end).filter(|place| *place < starts[2] || *place >= last || place % 13 == 0) {
        let refused = reopen(found.path(), &log[..length]).unwrap_err();
        assert!(matches!(refused, FsOpenError::DamagedLog { .. }), "{length}: {refused}");
        assert_eq!(fs::read(found.path().join(SEGMENTS[0])).unwrap().len(), length);
        assert!(!found.path().join("a").exists(), "{length}");
    }
}

/// A segment from a backup was replayed over newer records of a folder that had stopped cleanly.
#[tokio::test]
async fn log_of_an_earlier_run_is_not_replayed() {
    let folder = tempfile::tempdir().unwrap();
    let (root, name) = (folder.path(), key("a/1"));
    let store = open(root);
    store.put(&name, "old".into(), PutMode::Create).await.unwrap();
    let [stale, mark] = [SEGMENTS[0], ".log-run"].map(|name| fs::read(root.join(name)).unwrap());
    store.put(&name, "new".into(), PutMode::Overwrite).await.unwrap();
    drop(store);
    let is_refused = || {
        for segment in SEGMENTS {
            write(&root.join(segment), &stale);
            let options = FsOptions { lock_wait: Duration::ZERO, ..FsOptions::default() };
            let refused = FsStore::open(root, options).unwrap_err();
            assert!(matches!(refused, FsOpenError::StaleLog { .. }), "{refused}");
            assert!(refused.to_string().contains(segment), "{refused}");
            assert_eq!(fs::read(root.join(segment)).unwrap(), stale, "nothing is changed");
            assert_eq!(fs::read(root.join("a/1")).unwrap(), b"new");
            fs::remove_file(root.join(segment)).unwrap();
        }
    };
    is_refused();
    // Nor is it once another run has a log, which is replayed if it is alone.
    let store = open(root);
    store.put(&key("a/2"), "2".into(), PutMode::Create).await.unwrap();
    let copies = [SEGMENTS[0], ".log-run"].map(|name| fs::read(root.join(name)).unwrap());
    drop(store);
    fs::remove_file(root.join("a/2")).unwrap();
    write(&root.join(".log-run"), &copies[1]);
    is_refused();
    write(&root.join(SEGMENTS[0]), &copies[0]);
    drop(open(root));
    assert_eq!(fs::read(root.join("a/2")).unwrap(), b"2");
    is_refused();
    // A whole folder that is restored has its own mark, and that of an earlier version none.
    for mark in [Some(&mark), None] {
        write(&root.join(SEGMENTS[0]), &stale);
        match mark {
            Some(mark) => write(&root.join(".log-run"), mark),
            None => fs::remove_file(root.join(".log-run")).unwrap(),
        }
        write(&root.join("a/1"), b"damaged");
        drop(open(root));
        assert_eq!(fs::read(root.join("a/1")).unwrap(), b"old");
    }
}

#[tokio::test]
async fn last_batch_may_be_torn_and_a_copy_of_it_is_kept() {
    let (found, log, starts) = batches().await;
    let last = starts[BATCHES - 1];
    // Its bytes end with the path.
    let end = log.iter().rposition(|byte| *byte != 0).unwrap() + 1;
    for place in last..end {
        let mut torn = log.clone();
        torn[place..end].fill(0xaa);
        let store = reopen(found.path(), &torn).unwrap();
        let listed = store.list(&ListRequest::below("a/")).await.unwrap().entries;
        assert_eq!(listed.len(), BATCHES - 1, "{place}");
        drop(store);
        fs::remove_dir_all(found.path().join("a")).unwrap();
    }
    assert!(fs::read(found.path().join(".log-torn")).unwrap().starts_with(b"jregWAL"));
    let store = reopen(found.path(), &log).unwrap();
    assert_eq!(store.list(&ListRequest::below("a/")).await.unwrap().entries.len(), BATCHES);
}

/// A folder on another file system than the root's, where the machine has one.
fn elsewhere(root: &Path) -> Option<tempfile::TempDir> {
    let device = |path: &Path| fs::metadata(path).map(|found| found.dev()).ok();
    let other = tempfile::tempdir_in("/dev/shm").ok()?;
    (device(other.path()) != device(root)).then_some(other)
}

/// The log is freed by a sync of the root's file system alone: 200 acknowledged blobs of a `blobs` folder
/// that was a link to another disk were gone after a power cut, even after a clean stop.
#[tokio::test]
async fn part_on_another_file_system_does_not_rely_on_the_log() {
    let root = tempfile::tempdir().unwrap();
    let Some(other) = elsewhere(root.path()) else { return };
    fs::create_dir(root.path().join("a")).unwrap();
    symlink(other.path(), root.path().join("a/b")).unwrap();
    let store = open(root.path());
    store.put(&key("a/b/1"), "1".into(), PutMode::Create).await.unwrap();
    store.delete(&key("a/b/1"), None).await.unwrap();
    let SyncCounts { files, folders, logs } = store.sync_counts();
    assert_eq!((files, logs), (1, 0));
    assert!(folders >= 2, "{folders}");
}

/// What the start does not see is refused before it is written.
#[tokio::test]
async fn folder_on_another_file_system_that_came_later_is_refused() {
    let root = tempfile::tempdir().unwrap();
    let Some(other) = elsewhere(root.path()) else { return };
    let store = open(root.path());
    store.put(&key("a/1"), "1".into(), PutMode::Create).await.unwrap();
    symlink(other.path(), root.path().join("a/b")).unwrap();
    fs::write(other.path().join("old"), "1").unwrap();
    let refused =
        |done: jreg_storage::Result<()>| assert_eq!(done.unwrap_err().kind(), ErrorKind::Refused);
    refused(store.delete(&key("a/b/old"), None).await);
    refused(store.put(&key("a/b/1"), "1".into(), PutMode::Create).await.map(drop));
    let upload = store.create_multipart(&key("a/b/2"), 1, 16).await.unwrap();
    refused(store.put_part(&upload, 0, "1".into()).await.map(drop));
    assert_eq!(fs::read_dir(other.path()).unwrap().count(), 1);
}

/// A log that was written before a part was moved to another file system.
#[tokio::test]
async fn replayed_part_on_another_file_system_is_synced_by_itself() {
    let (before, root) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let Some(other) = elsewhere(root.path()) else { return };
    let store = open(before.path());
    store.put(&key("a/1"), "1".into(), PutMode::Create).await.unwrap();
    for name in [".run", ".log-0"] {
        fs::copy(before.path().join(name), root.path().join(name)).unwrap();
    }
    symlink(other.path(), root.path().join("a")).unwrap();
    let syncs = Arc::new(SyncCalls::default());
    let options = FsOptions::default();
    let replayed = FsStore::open_with(root.path(), options, syncs.clone()).unwrap();
    assert_eq!(replayed.get(&key("a/1")).await.unwrap().bytes, "1");
    let syncs = syncs.0.lock().unwrap();
    assert!(!syncs.contains(&Syscall::SyncAll), "{syncs:?}");
    assert!(syncs.iter().filter(|call| **call == Syscall::Sync).count() >= 2, "{syncs:?}");
}

/// The syncs of a store.
#[derive(Debug, Default)]
struct SyncCalls(Mutex<Vec<Syscall>>);

impl SyscallHook for SyncCalls {
    fn before(&self, call: Syscall, _: SyscallTarget<'_>) -> std::io::Result<()> {
        if matches!(call, Syscall::Sync | Syscall::SyncAll) {
            self.0.lock().unwrap().push(call);
        }
        Ok(())
    }
}
