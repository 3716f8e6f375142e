//! The folder store beyond the contract: ownership, crashes, damage, syncs, foreign files.

use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures::{StreamExt, TryStreamExt};
use jreg_storage::testing::ManualClock;
use jreg_storage::{
    ByteRange, Clock, Durability, ErrorKind, FsOpenError, FsOptions, FsStore, Key, ListRequest,
    Multipart, PutMode, Store, SyncCounts,
};
use tempfile::TempDir;

fn options(durability: Durability) -> FsOptions {
    FsOptions { durability, lock_wait: Duration::ZERO, ..FsOptions::default() }
}

fn open(root: &Path, durability: Durability) -> FsStore {
    FsStore::open(root, options(durability)).unwrap()
}

fn strict() -> (TempDir, FsStore) {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), Durability::Strict);
    (root, store)
}

fn key(key: &str) -> Key {
    key.parse().unwrap()
}

async fn put(store: &FsStore, name: &str, bytes: impl Into<Bytes>) -> Result<(), ErrorKind> {
    let written = store.put(&key(name), bytes.into(), PutMode::Create).await;
    written.map(|_| ()).map_err(|error| error.kind())
}

async fn get(store: &FsStore, name: &str) -> Result<Bytes, ErrorKind> {
    store.get(&key(name)).await.map(|record| record.bytes).map_err(|error| error.kind())
}

async fn list(store: &FsStore, prefix: &str) -> Result<Vec<String>, ErrorKind> {
    let page = store.list(&ListRequest::below(prefix)).await.map_err(|error| error.kind())?;
    Ok(page.entries.into_iter().map(|entry| entry.key.into()).collect())
}

async fn begin(store: &FsStore, bytes: &'static [u8]) -> Multipart {
    let mut upload = store.create_multipart(&key("bulk/object"), 1, 1024).await.unwrap();
    let part = store.put_part(&upload, 0, bytes.into()).await.unwrap();
    upload.record(part);
    store.sync_parts(&upload).await.unwrap();
    upload
}

fn staging_file(root: &Path) -> PathBuf {
    let entries = fs::read_dir(root.join("bulk")).unwrap();
    let mut hidden = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| path.file_name().unwrap().as_bytes().starts_with(b".upload-"));
    let found = hidden.next().unwrap();
    assert_eq!(hidden.next(), None);
    found
}

// Ownership.

#[test]
fn second_store_is_refused_and_names_the_owner() {
    let (root, _store) = strict();
    let refused = FsStore::open(root.path(), options(Durability::Strict)).unwrap_err();
    let FsOpenError::InUse { holder, .. } = &refused else { panic!("{refused}") };
    assert_eq!(*holder, std::process::id().to_string());
    assert!(refused.to_string().ends_with(&format!("is in use by process {holder}")));
}

#[test]
fn opener_waits_for_an_owner_that_stops() {
    let (root, store) = strict();
    let opener = std::thread::spawn({
        let root = root.path().to_owned();
        let lock_wait = Duration::from_secs(60);
        move || FsStore::open(root, FsOptions { lock_wait, ..FsOptions::default() }).map(|_| ())
    });
    drop(store);
    opener.join().unwrap().unwrap();
}

/// Another process that owns a folder. It is this program, told to run one test.
struct Owner {
    child: Child,
    output: BufReader<ChildStdout>,
    upload: Multipart,
}

const OWNED_ROOT: &str = "JREG_TEST_OWNED_ROOT";

impl Owner {
    fn start(root: &Path, durability: &str) -> Self {
        Self::start_with(Command::new(std::env::current_exe().unwrap()), root, durability)
    }

    /// Starts with a umask, as the shell writes it.
    fn start_with_umask(umask: &str, root: &Path) -> Self {
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
        shell.arg(std::env::current_exe().unwrap());
        Self::start_with(shell, root, "strict")
    }

    fn start_with(mut command: Command, root: &Path, durability: &str) -> Self {
        let mut child = command
            .args(["--exact", "fs::other_process_owns_the_folder", "--nocapture"])
            .env(OWNED_ROOT, root)
            .env("JREG_TEST_DURABILITY", durability)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let id = loop {
            let mut line = String::new();
            assert_ne!(output.read_line(&mut line).unwrap(), 0, "the other process said no id");
            if let Some((_, id)) = line.trim_end().split_once("upload ") {
                break id.to_owned();
            }
        };
        let part = jreg_storage::Part { offset: 0, size_bytes: 5, etag: String::new() };
        let key = key("bulk/object");
        Self {
            child,
            output,
            upload: Multipart { key, id, writer: 1, part_bytes: 1024, parts: vec![part] },
        }
    }

    fn kill(mut self) -> Multipart {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.upload
    }

    fn stop(mut self) -> Multipart {
        drop(self.child.stdin.take());
        self.output.read_to_string(&mut String::new()).unwrap();
        assert!(self.child.wait().unwrap().success());
        self.upload
    }
}

/// Owns a folder until its standard input ends, if the environment names one: the other half of
/// the tests with an `Owner`.
#[tokio::test]
async fn other_process_owns_the_folder() {
    let Some(root) = std::env::var_os(OWNED_ROOT) else { return };
    let relaxed = std::env::var("JREG_TEST_DURABILITY").unwrap() == "relaxed";
    let durability = if relaxed { Durability::Relaxed } else { Durability::Strict };
    let store = open(Path::new(&root), durability);
    put(&store, "record", "kept").await.unwrap();
    let upload = begin(&store, b"12345").await;
    store.put_part(&upload, 5, Bytes::from_static(b"not recorded")).await.unwrap();
    println!("upload {}", upload.id);
    std::io::stdout().flush().unwrap();
    std::io::stdin().read_line(&mut String::new()).unwrap();
}

/// Every file and folder below one, with its mode, but the root's own.
fn modes(folder: &Path) -> Vec<(PathBuf, u32)> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let (path, metadata) =
            entry.map(|entry| (entry.path(), entry.metadata().unwrap())).unwrap();
        found.push((path.clone(), metadata.mode() & 0o7777));
        if metadata.is_dir() {
            found.extend(modes(&path));
        }
    }
    found
}

#[test]
fn what_the_store_creates_is_private_whatever_the_umask() {
    let above = tempfile::tempdir().unwrap();
    let root = above.path().join("root");
    let owner = Owner::start_with_umask("000", &root);
    let check = |when: &str| {
        assert_eq!(fs::metadata(&root).unwrap().mode() & 0o7777, 0o700, "{when}");
        for (path, mode) in modes(&root) {
            let private = if path.is_dir() { 0o700 } else { 0o600 };
            assert_eq!(mode, private, "{when}: {}", path.display());
        }
    };
    check("in use");
    owner.kill();
    // The replay creates them again.
    fs::remove_file(root.join("record")).unwrap();
    fs::remove_dir_all(root.join("bulk")).unwrap();
    let _store = open(&root, Durability::Strict);
    assert!(root.join("record").exists());
    check("after a crash");
}

#[test]
fn folder_of_an_earlier_version_becomes_private() {
    use std::os::unix::fs::PermissionsExt;
    let (root, store) = strict();
    drop(store);
    fs::create_dir(root.path().join("auth")).unwrap();
    fs::write(root.path().join("auth/keys"), "secret").unwrap();
    for (name, mode) in [("", 0o755), ("auth", 0o755), ("auth/keys", 0o644), (".run", 0o644)] {
        fs::set_permissions(root.path().join(name), fs::Permissions::from_mode(mode)).unwrap();
    }
    let options = FsOptions { private_folders: &["auth"], ..options(Durability::Strict) };
    let _store = FsStore::open(root.path(), options).unwrap();
    assert_eq!(fs::metadata(root.path()).unwrap().mode() & 0o7777, 0o700);
    for (path, mode) in modes(root.path()) {
        assert_eq!(mode & 0o077, 0, "{}", path.display());
    }
}

#[test]
fn another_owner_is_reported_and_its_death_frees_the_folder() {
    let root = tempfile::tempdir().unwrap();
    let owner = Owner::start(root.path(), "strict");
    let refused = FsStore::open(root.path(), options(Durability::Strict)).unwrap_err();
    let pid = owner.child.id().to_string();
    assert!(matches!(&refused, FsOpenError::InUse { holder, .. } if *holder == pid), "{refused}");
    owner.kill();
    open(root.path(), Durability::Strict);
}

#[test]
fn case_insensitive_folder_is_refused() {
    let root = tempfile::tempdir().unwrap();
    // What a look-up of `.LOCK` finds in such a folder, where `.lock` is.
    fs::write(root.path().join(".LOCK"), "").unwrap();
    let refused = FsStore::open(root.path(), options(Durability::Strict)).unwrap_err();
    assert!(matches!(refused, FsOpenError::CaseInsensitive { .. }), "{refused}");
}

#[tokio::test]
async fn missing_root_is_made_with_its_parents() {
    let above = tempfile::tempdir().unwrap();
    let root = above.path().join("some/where/below");
    let store = open(&root, Durability::Strict);
    put(&store, "a", "1").await.unwrap();
    assert_eq!(fs::read(root.join("a")).unwrap(), b"1");
}

#[test]
fn root_that_is_a_file_is_an_error() {
    let file = tempfile::NamedTempFile::new().unwrap();
    let refused = FsStore::open(file.path(), options(Durability::Strict)).unwrap_err();
    let FsOpenError::Io { root, source } = &refused else { panic!("{refused}") };
    assert_eq!((root.as_path(), source.kind()), (file.path(), std::io::ErrorKind::NotADirectory));
    assert_eq!(refused.to_string(), format!("folder {root:?} cannot be used"));
}

#[tokio::test]
async fn full_disk_can_be_opened_again() {
    let root = tempfile::tempdir().unwrap();
    let upload = Owner::start(root.path(), "strict").kill();
    // Whatever is written through these links finds the disk full.
    for name in [".run.new", ".lock"] {
        let _ = fs::remove_file(root.path().join(name));
        symlink("/dev/full", root.path().join(name)).unwrap();
    }
    let run = || fs::read_to_string(root.path().join(".run")).unwrap();
    let strict = run();
    drop(open(root.path(), Durability::Strict));
    assert_eq!(run(), strict, "nothing to write");
    let relaxed = open(root.path(), Durability::Relaxed);
    let began = strict.trim_end().replace("strict", "relaxed");
    assert!(run().starts_with(&began), "in place: {}", run());
    assert!(fs::symlink_metadata(root.path().join(".run.new")).is_err(), "nothing is left behind");
    put(&relaxed, "record", "again").await.unwrap_err();
    assert_eq!(resumed_after(&relaxed, &upload).await, Ok("12345".into()));
    drop(relaxed);
    assert_eq!(run(), strict.replace("strict", "closed"));
}

/// An unmounted file system leaves the empty folder that it was mounted on.
#[tokio::test]
async fn missing_root_is_unavailable_and_not_empty() {
    let above = tempfile::tempdir().unwrap();
    let (root, away) = (above.path().join("root"), above.path().join("away"));
    let store = open(&root, Durability::Relaxed);
    put(&store, "a", "1").await.unwrap();
    let upload = begin(&store, b"12345").await;
    fs::rename(&root, &away).unwrap();
    for is_there in [false, true] {
        if is_there {
            fs::create_dir(&root).unwrap();
        }
        let found = [
            get(&store, "a").await.map(|_| ()),
            get(&store, "b").await.map(|_| ()),
            list(&store, "").await.map(|_| ()),
            list(&store, "b/").await.map(|_| ()),
            put(&store, "b", "1").await,
            put(&store, "b/c", "1").await,
        ];
        assert_eq!(found, [Err(ErrorKind::Unavailable); 6], "{is_there}");
        let range = ByteRange { start: 0, end: 1 };
        let key = key("a");
        let others = [
            store.head(&key).await.map(|_| ()),
            store.read(&key, range).await.map(|_| ()),
            store.delete(&key, None).await,
            store.delete_many(std::slice::from_ref(&key)).await,
            store.create_multipart(&key, 1, 16).await.map(|_| ()),
            store.resume_multipart(&upload, 2).await.map(|_| ()),
            store.put_part(&upload, 5, "6".into()).await.map(|_| ()),
            store.sync_parts(&upload).await,
            store.complete_multipart(&upload).await,
            store.abort_multipart(&upload).await,
        ];
        assert_eq!(
            others.map(|outcome| outcome.map_err(|e| e.kind())),
            [Err(ErrorKind::Unavailable); 10]
        );
    }
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "nothing is written there");
    fs::remove_dir(&root).unwrap();
    fs::rename(&away, &root).unwrap();
    assert_eq!(get(&store, "a").await, Ok("1".into()), "it is back");
    fs::rename(&root, &away).unwrap();
    fs::create_dir(&root).unwrap();
    drop(store);
    assert_eq!(fs::read_dir(&root).unwrap().count(), 0, "nor is the mark of a clean stop");
}

// Crashes.

async fn resumed_after(store: &FsStore, upload: &Multipart) -> Result<Bytes, ErrorKind> {
    let resumed = store.resume_multipart(upload, 2).await.map_err(|error| error.kind())?;
    store.complete_multipart(&resumed).await.unwrap();
    get(store, "bulk/object").await
}

#[tokio::test]
async fn strict_upload_survives_the_death_of_its_process() {
    let root = tempfile::tempdir().unwrap();
    let upload = Owner::start(root.path(), "strict").kill();
    let store = open(root.path(), Durability::Strict);
    assert_eq!(get(&store, "record").await, Ok("kept".into()));
    assert_eq!(list(&store, "").await.unwrap(), ["record"]);
    assert_eq!(resumed_after(&store, &upload).await, Ok("12345".into()));
}

/// The mark of a run before the operating system was started.
fn make_run_of_another_boot(root: &Path) {
    let run = fs::read_to_string(root.join(".run")).unwrap();
    let [epoch, "relaxed", boot] = run.split_whitespace().collect::<Vec<_>>()[..] else {
        panic!("{run}")
    };
    fs::write(root.join(".run"), format!("{epoch} relaxed {}\n", "0".repeat(boot.len()))).unwrap();
}

/// The operating system has its bytes. A strict run may not continue it: they are not on the disk.
#[tokio::test]
async fn relaxed_upload_survives_the_death_of_its_process() {
    let root = tempfile::tempdir().unwrap();
    let upload = Owner::start(root.path(), "relaxed").kill();
    let store = open(root.path(), Durability::Relaxed);
    assert_eq!(resumed_after(&store, &upload).await, Ok("12345".into()));
}

#[tokio::test]
async fn relaxed_upload_is_dropped_and_swept_after_an_unclean_stop() {
    for durability in [Durability::Relaxed, Durability::Strict] {
        let root = tempfile::tempdir().unwrap();
        let upload = Owner::start(root.path(), "relaxed").kill();
        if durability == Durability::Relaxed {
            make_run_of_another_boot(root.path());
        }
        let store = open(root.path(), durability);
        assert_eq!(get(&store, "record").await, Ok("kept".into()));
        assert_eq!(resumed_after(&store, &upload).await, Err(ErrorKind::NotFound));
        store.abort_multipart(&upload).await.unwrap();
        assert_eq!(list(&store, "").await.unwrap(), ["record"]);
        assert_eq!(fs::read_dir(root.path().join("bulk")).unwrap().count(), 0);
    }
}

#[tokio::test]
async fn relaxed_upload_survives_a_clean_stop() {
    let root = tempfile::tempdir().unwrap();
    let upload = Owner::start(root.path(), "relaxed").stop();
    let store = open(root.path(), Durability::Relaxed);
    assert_eq!(resumed_after(&store, &upload).await, Ok("12345".into()));
}

#[tokio::test]
async fn resumed_upload_is_cut_to_what_was_recorded() {
    let (root, store) = strict();
    let upload = begin(&store, b"12345").await;
    store.put_part(&upload, 5, Bytes::from_static(b"not recorded")).await.unwrap();
    store.resume_multipart(&upload, 2).await.unwrap();
    assert_eq!(fs::read(staging_file(root.path())).unwrap(), b"12345");
}

#[tokio::test]
async fn upload_that_lost_bytes_is_not_found() {
    let (root, store) = strict();
    let upload = begin(&store, b"12345").await;
    let file = fs::OpenOptions::new().write(true).open(staging_file(root.path())).unwrap();
    file.set_len(4).unwrap();
    assert_eq!(resumed_after(&store, &upload).await, Err(ErrorKind::NotFound));
    let completed = store.complete_multipart(&upload).await;
    assert_eq!(completed.unwrap_err().kind(), ErrorKind::NotFound);
}

#[tokio::test]
async fn orphans_of_a_crash_are_invisible_and_swept() {
    let (root, store) = strict();
    put(&store, "a/b", "1").await.unwrap();
    for left_over in [".tmp-earlier-1", ".upload-earlier-2"] {
        fs::write(root.path().join("a").join(left_over), "").unwrap();
    }
    assert_eq!(list(&store, "").await.unwrap(), ["a/b"]);
    let names: Vec<_> = fs::read_dir(root.path().join("a")).unwrap().collect();
    assert_eq!(names.len(), 1, "{names:?}");
}

/// A crash between the file's name and the record that was to name the upload left it for ever.
#[tokio::test]
async fn upload_to_which_nothing_was_written_for_long_is_removed() {
    let root = tempfile::tempdir().unwrap();
    let upload_age_max = Duration::from_secs(3600);
    let options = FsOptions { upload_age_max, ..FsOptions::default() };
    let store = FsStore::open(root.path(), options).unwrap();
    let upload = begin(&store, b"12345").await;
    let file = fs::File::options().write(true).open(staging_file(root.path())).unwrap();
    for (age, is_there) in [(3590, true), (3610, false)] {
        file.set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
        assert_eq!(list(&store, "").await.unwrap(), [] as [String; 0]);
        let names = fs::read_dir(root.path().join("bulk")).unwrap().count();
        assert_eq!(names == 1, is_there, "{age} s");
    }
    assert!(store.complete_multipart(&upload).await.unwrap_err().is_not_found());
}

#[tokio::test]
async fn upload_ids_of_others_name_no_file() {
    let (root, store) = strict();
    let upload = begin(&store, b"12345").await;
    fs::write(root.path().join("bulk/.upload-"), "").unwrap();
    let epoch = upload.id.split_once('-').unwrap().0;
    let foreign =
        ["", "x", "../../etc/passwd", &format!("{epoch}-"), &format!("{epoch}-../../../a")];
    for id in foreign {
        let forged = Multipart { id: id.to_owned(), ..upload.clone() };
        let sent = store.put_part(&forged, 0, Bytes::from_static(b"x")).await;
        assert_eq!(sent.unwrap_err().kind(), ErrorKind::NotFound, "{id}");
        store.abort_multipart(&forged).await.unwrap();
    }
    store.complete_multipart(&upload).await.unwrap();
}

// Damage and foreign files.

#[tokio::test]
async fn file_that_ends_early_breaks_the_stream() {
    let (root, store) = strict();
    put(&store, "a", vec![1; 1_000_000]).await.unwrap();
    let range = ByteRange { start: 0, end: 1_000_000 };
    let mut stream = store.read(&key("a"), range).await.unwrap();
    stream.next().await.unwrap().unwrap();
    fs::OpenOptions::new()
        .write(true)
        .open(root.path().join("a"))
        .unwrap()
        .set_len(900_000)
        .unwrap();
    let rest = stream.try_collect::<Vec<_>>().await;
    assert_eq!(rest.unwrap_err().kind(), ErrorKind::Unavailable);
}

#[tokio::test]
async fn unreadable_folder_is_an_error_and_no_absence() {
    let (root, store) = strict();
    put(&store, "b", "1").await.unwrap();
    // Permissions do not stop the superuser, who may run this test; a loop of links does.
    symlink("a", root.path().join("a")).unwrap();
    assert_eq!(list(&store, "").await, Err(ErrorKind::Unavailable));
    assert_eq!(list(&store, "a/").await, Err(ErrorKind::Unavailable));
    assert_eq!(get(&store, "a/1").await, Err(ErrorKind::Unavailable));
    assert_eq!(get(&store, "a").await, Err(ErrorKind::Unavailable));
    assert_eq!(put(&store, "a/1", "1").await, Err(ErrorKind::Unavailable));
}

#[tokio::test]
async fn foreign_files_are_not_listed() {
    let (root, store) = strict();
    put(&store, "a/b", "1").await.unwrap();
    for name in ["with space", "back\\slash", "umlaut-ä", ".hidden"] {
        fs::write(root.path().join(name), "").unwrap();
        fs::create_dir(root.path().join("a").join(name)).unwrap();
    }
    fs::write(root.path().join(std::ffi::OsStr::from_bytes(b"not-utf-8-\xff")), "").unwrap();
    symlink("nowhere", root.path().join(".dangling")).unwrap();
    assert_eq!(list(&store, "").await.unwrap(), ["a/b"]);
}

#[tokio::test]
async fn linked_folder_is_listed_as_it_is_read() {
    let (root, store) = strict();
    let elsewhere = tempfile::tempdir().unwrap();
    symlink(elsewhere.path(), root.path().join("a")).unwrap();
    put(&store, "a/b", "1").await.unwrap();
    assert_eq!(get(&store, "a/b").await, Ok("1".into()));
    assert_eq!(list(&store, "").await.unwrap(), ["a/b"]);
}

/// GC took the manifests behind a link whose disk was not mounted for deleted, and let go of the blobs
/// of tagged images.
#[tokio::test]
async fn linked_folder_that_leads_nowhere_is_no_absence() {
    let root = tempfile::tempdir().unwrap();
    let (elsewhere, away) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (disk, unmounted) = (elsewhere.path().join("disk"), away.path().join("disk"));
    fs::create_dir(&disk).unwrap();
    fs::create_dir(root.path().join("a")).unwrap();
    symlink(&disk, root.path().join("a/linked")).unwrap();
    let store = open(root.path(), Durability::Strict);
    put(&store, "a/linked/1", "1").await.unwrap();
    fs::rename(&disk, &unmounted).unwrap();
    for is_empty in [false, true] {
        if is_empty {
            fs::create_dir(&disk).unwrap();
        }
        assert_eq!(list(&store, "").await, Err(ErrorKind::Unavailable));
        assert_eq!(list(&store, "a/linked/").await, Err(ErrorKind::Unavailable));
        assert_eq!(get(&store, "a/linked/1").await, Err(ErrorKind::Unavailable));
        assert_eq!(get(&store, "a/linked/2").await, Err(ErrorKind::Unavailable));
        assert_eq!(put(&store, "a/linked/2", "2").await, Err(ErrorKind::Unavailable));
    }
    fs::remove_dir(&disk).unwrap();
    drop(store);
    let error = FsStore::open(root.path(), options(Durability::Strict)).unwrap_err();
    assert!(matches!(error, FsOpenError::Io { .. }), "{error}");
    fs::rename(&unmounted, &disk).unwrap();
    let store = open(root.path(), Durability::Strict);
    assert_eq!(get(&store, "a/linked/1").await, Ok("1".into()));
}

/// A start looks at the outermost two folders only: what is deeper, or came later, is watched from the
/// first listing on that meets it.
#[tokio::test]
async fn deeper_linked_folder_that_leads_nowhere_is_no_absence() {
    let (root, store) = strict();
    let elsewhere = tempfile::tempdir().unwrap();
    let (disk, unmounted) = (elsewhere.path().join("disk"), elsewhere.path().join("unmounted"));
    fs::create_dir(&disk).unwrap();
    put(&store, "a/b/c/0", "0").await.unwrap();
    symlink(&disk, root.path().join("a/b/c/linked")).unwrap();
    put(&store, "a/b/c/linked/1", "1").await.unwrap();
    for _ in 0..2 {
        assert_eq!(list(&store, "").await.unwrap(), ["a/b/c/0", "a/b/c/linked/1"]);
    }
    fs::rename(&disk, &unmounted).unwrap();
    for is_empty in [false, true] {
        if is_empty {
            fs::create_dir(&disk).unwrap();
        }
        assert_eq!(list(&store, "").await, Err(ErrorKind::Unavailable));
        assert_eq!(list(&store, "a/b/c/linked/").await, Err(ErrorKind::Unavailable));
        assert_eq!(get(&store, "a/b/c/linked/2").await, Err(ErrorKind::Unavailable));
        assert_eq!(put(&store, "a/b/c/linked/2", "2").await, Err(ErrorKind::Unavailable));
    }
    fs::remove_dir(&disk).unwrap();
    fs::rename(&unmounted, &disk).unwrap();
    assert_eq!(get(&store, "a/b/c/linked/1").await, Ok("1".into()));
}

/// What it leads to was not there when the store was opened.
#[tokio::test]
async fn deeper_linked_folder_that_never_led_anywhere_is_no_absence() {
    let (root, store) = strict();
    put(&store, "a/b/c/0", "0").await.unwrap();
    symlink("nowhere", root.path().join("a/b/c/linked")).unwrap();
    assert_eq!(list(&store, "").await, Err(ErrorKind::Unavailable));
    fs::remove_file(root.path().join("a/b/c/linked")).unwrap();
    assert_eq!(list(&store, "").await.unwrap(), ["a/b/c/0"]);
}

#[tokio::test]
async fn key_below_another_is_refused() {
    let (_root, store) = strict();
    put(&store, "a", "1").await.unwrap();
    put(&store, "b/c", "1").await.unwrap();
    for below in ["a/b", "a/b/c", "b"] {
        assert_eq!(put(&store, below, "2").await, Err(ErrorKind::Refused), "{below}");
        let overwritten = store.put(&key(below), "2".into(), PutMode::Overwrite).await;
        assert_eq!(overwritten.unwrap_err().kind(), ErrorKind::Refused, "{below}");
    }
    assert_eq!(list(&store, "").await.unwrap(), ["a", "b/c"]);
}

// Syncs, times, folders, threads.

/// What is larger does not go through the log.
const LOGGED_BYTES_MAX: usize = 128 * 1024;

/// Files, folders and logs that a store has synced since it was last asked.
struct Synced<'s>(&'s FsStore, SyncCounts);

impl<'s> Synced<'s> {
    fn by(store: &'s FsStore) -> Self {
        Self(store, store.sync_counts())
    }

    fn since(&mut self) -> (u64, u64, u64) {
        let before = std::mem::replace(&mut self.1, self.0.sync_counts());
        let SyncCounts { files, folders, logs } = self.1;
        (files - before.files, folders - before.folders, logs - before.logs)
    }
}

#[tokio::test]
async fn small_changes_cost_one_sync_of_the_log() {
    let (_root, store) = strict();
    let mut synced = Synced::by(&store);
    put(&store, "a/b/1", "1").await.unwrap();
    assert_eq!(synced.since(), (0, 0, 1));
    let swap = PutMode::Match(store.get(&key("a/b/1")).await.unwrap().etag);
    store.put(&key("a/b/1"), "2".into(), swap).await.unwrap();
    assert_eq!(synced.since(), (0, 0, 1));
    put(&store, "a/b/1", "1").await.unwrap_err();
    assert_eq!(synced.since(), (0, 0, 0), "a lost Create");
    put(&store, "a/b/2", "1").await.unwrap();
    synced.since();
    store.delete_many(&[key("a/b/1"), key("a/b/2"), key("a/b/3")]).await.unwrap();
    assert!((1..=2).contains(&synced.since().2), "one for each, or for both");
    store.delete(&key("a/b/1"), None).await.unwrap();
    assert_eq!(synced.since(), (0, 0, 0), "it was not there");
    let mut upload = store.create_multipart(&key("a/b/3"), 1, 1024).await.unwrap();
    upload.record(store.put_part(&upload, 0, "12345".into()).await.unwrap());
    store.sync_parts(&upload).await.unwrap();
    let (files, folders, logs) = synced.since();
    assert_eq!((files, folders), (0, 0));
    assert!((1..=2).contains(&logs), "the name of the hidden file may go with its bytes");
    store.sync_parts(&upload).await.unwrap();
    assert_eq!(synced.since(), (0, 0, 0), "nothing came since");
    store.complete_multipart(&upload).await.unwrap();
    assert_eq!(synced.since(), (0, 0, 1), "its name");
    get(&store, "a/b/3").await.unwrap();
    list(&store, "").await.unwrap();
    assert_eq!(synced.since(), (0, 0, 0), "reading");
}

#[tokio::test]
async fn what_is_large_is_synced_itself_with_every_folder_that_is_new() {
    let (_root, store) = strict();
    let large = || bytes::Bytes::from(vec![1; LOGGED_BYTES_MAX + 1]);
    let mut synced = Synced::by(&store);
    store.put(&key("a/b/1"), large(), PutMode::Create).await.unwrap();
    assert_eq!(synced.since(), (1, 3, 0), "the file; a/b, a, and the root");
    store.put(&key("a/b/2"), large(), PutMode::Create).await.unwrap();
    assert_eq!(synced.since(), (1, 1, 0), "the file, its folder");
    store.delete(&key("a/b/2"), None).await.unwrap();
    assert_eq!(synced.since(), (0, 0, 1));
    store.put(&key("a/b/2"), large(), PutMode::Create).await.unwrap();
    assert_eq!(synced.since(), (1, 1, 1), "the log no longer says that it is not there");
    let mut upload = store.create_multipart(&key("a/b/3"), 1, 1024).await.unwrap();
    upload.record(store.put_part(&upload, 0, large()).await.unwrap());
    synced.since();
    store.sync_parts(&upload).await.unwrap();
    let (files, folders, _) = synced.since();
    assert_eq!((files, folders), (1, 1), "its bytes; the name of the hidden file");
    store.complete_multipart(&upload).await.unwrap();
    assert_eq!(synced.since(), (0, 0, 1), "its new name");
}

#[tokio::test]
async fn relaxed_syncs_nothing() {
    let root = tempfile::tempdir().unwrap();
    let store = open(root.path(), Durability::Relaxed);
    put(&store, "a/b/1", "1").await.unwrap();
    let upload = begin(&store, b"12345").await;
    store.complete_multipart(&upload).await.unwrap();
    store.delete(&key("a/b/1"), None).await.unwrap();
    assert_eq!(store.sync_counts(), SyncCounts::default());
}

#[tokio::test]
async fn age_is_by_the_clock_of_the_store() {
    let root = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::default());
    let options = FsOptions { clock: clock.clone(), ..options(Durability::Strict) };
    let store = FsStore::open(root.path(), options).unwrap();
    let written = clock.now();
    put(&store, "a", "1").await.unwrap();
    let upload = begin(&store, b"12345").await;
    store.complete_multipart(&upload).await.unwrap();
    clock.advance(Duration::from_secs(3 * 3600));
    let record = store.get(&key("a")).await.unwrap();
    assert_eq!((record.last_modified, record.date), (written, clock.now()));
    let page = store.list(&ListRequest::below("")).await.unwrap();
    assert_eq!(page.entries.len(), 2);
    assert!(page.entries.iter().all(|entry| entry.last_modified == written));
    assert_eq!(page.date, clock.now());
}

#[tokio::test]
async fn empty_folders_are_removed_with_their_last_key() {
    let (root, store) = strict();
    put(&store, "a/b/c/1", "1").await.unwrap();
    put(&store, "a/2", "1").await.unwrap();
    store.delete(&key("a/b/c/1"), None).await.unwrap();
    assert!(!root.path().join("a/b").exists());
    assert!(root.path().join("a/2").exists());
    let upload = begin(&store, b"12345").await;
    store.abort_multipart(&upload).await.unwrap();
    assert!(!root.path().join("bulk").exists());
    store
        .put(&key("x/y"), "1".into(), PutMode::Match(jreg_storage::ETag::new("0")))
        .await
        .unwrap_err();
    assert!(!root.path().join("x").exists());
}

#[tokio::test]
async fn folder_removed_by_another_process_is_made_again() {
    let (root, store) = strict();
    put(&store, "a/b/c/1", "1").await.unwrap();
    fs::remove_dir_all(root.path().join("a")).unwrap();
    put(&store, "a/b/c/1", "2").await.unwrap();
    assert_eq!(get(&store, "a/b/c/1").await, Ok("2".into()));
}

#[tokio::test]
async fn completed_upload_is_the_same_file() {
    let (root, store) = strict();
    let upload = begin(&store, b"12345").await;
    let staged = fs::metadata(staging_file(root.path())).unwrap().ino();
    store.complete_multipart(&upload).await.unwrap();
    assert_eq!(fs::metadata(root.path().join("bulk/object")).unwrap().ino(), staged);
}

#[tokio::test]
async fn upload_to_a_taken_key_leaves_what_is_there() {
    let (_root, store) = strict();
    let upload = begin(&store, b"12345").await;
    put(&store, "bulk/object", "first").await.unwrap();
    let completed = store.complete_multipart(&upload).await;
    assert_eq!(completed.unwrap_err().kind(), ErrorKind::AlreadyExists);
    assert_eq!(get(&store, "bulk/object").await, Ok("first".into()));
}

/// More names than are kept in memory at a time, most of them folders in which there is nothing.
#[tokio::test]
async fn folder_with_many_names_is_listed_whole() {
    let (root, store) = strict();
    for n in 0..1500 {
        fs::create_dir_all(root.path().join(format!("f/{n:04}"))).unwrap();
    }
    for name in ["f/0007/1", "f/1300/1", "f/z"] {
        put(&store, name, "1").await.unwrap();
    }
    assert_eq!(list(&store, "f/").await.unwrap(), ["f/0007/1", "f/1300/1", "f/z"]);
    let folded = ListRequest { delimiter: true, limit: 2, ..ListRequest::below("f/") };
    let page = store.list(&folded).await.unwrap();
    assert_eq!(page.prefixes, ["f/0007/", "f/1300/"]);
    assert_eq!(page.next.as_deref(), Some("f/1300/"));
}

#[test]
fn slow_readers_hold_no_thread() {
    let runtime =
        tokio::runtime::Builder::new_multi_thread().max_blocking_threads(1).build().unwrap();
    runtime.block_on(async {
        let (_root, store) = strict();
        put(&store, "a", vec![1; 1_000_000]).await.unwrap();
        let range = ByteRange { start: 0, end: 1_000_000 };
        let mut slow = Vec::new();
        for _ in 0..8 {
            let mut stream = store.read(&key("a"), range).await.unwrap();
            stream.next().await.unwrap().unwrap();
            slow.push(stream);
        }
        put(&store, "b", "1").await.unwrap();
        for stream in slow {
            assert_eq!(
                stream.try_collect::<Vec<_>>().await.unwrap().concat().len(),
                1_000_000 - 256 * 1024
            );
        }
    });
}

/// A blob was still served out of the damaged file after it had been restored from a backup, until the
/// next start.
#[tokio::test]
async fn open_file_is_not_served_once_it_was_replaced() {
    let root = tempfile::tempdir().unwrap();
    let store = FsStore::open(root.path(), FsOptions::default()).unwrap();
    let (key, path): (Key, _) = ("blobs/a".parse().unwrap(), root.path().join("blobs/a"));
    store.put(&key, "right".into(), PutMode::Create).await.unwrap();
    let served = || async {
        let open = store.file(&key).await.ok().flatten()?;
        let mut bytes = vec![0; usize::try_from(open.size_bytes).unwrap()];
        open.file.read_exact_at(&mut bytes, 0).unwrap();
        Some(String::from_utf8(bytes).unwrap())
    };
    assert_eq!(served().await.as_deref(), Some("right"));
    fs::write(&path, "cut").unwrap();
    assert_eq!(served().await.as_deref(), Some("cut"), "its length is told, so that it is refused");
    fs::write(root.path().join("restored"), "right").unwrap();
    fs::rename(root.path().join("restored"), &path).unwrap();
    assert_eq!(served().await.as_deref(), Some("right"));
    fs::remove_file(&path).unwrap();
    assert_eq!(served().await, None);
}

// Folders that are only read.

/// Every file and folder below a path, with what a write would change of it.
fn files_below(path: &Path, found: &mut Vec<(PathBuf, u64, i64, i64, u32)>) {
    for entry in fs::read_dir(path).unwrap() {
        let path = entry.unwrap().path();
        let metadata = fs::symlink_metadata(&path).unwrap();
        let times = (metadata.mtime_nsec(), metadata.ctime_nsec());
        found.push((path.clone(), metadata.len(), times.0, times.1, metadata.mode()));
        if metadata.is_dir() {
            files_below(&path, found);
        }
    }
    found.sort();
}

fn fingerprint(root: &Path) -> Vec<(PathBuf, u64, i64, i64, u32)> {
    let mut found = Vec::new();
    files_below(root, &mut found);
    found
}

#[tokio::test]
async fn a_folder_that_is_only_read_stays_as_it_is() {
    let (root, store) = strict();
    put(&store, "a/b", "1").await.unwrap();
    drop(store);
    // What an earlier run left is not removed, and stays invisible.
    fs::write(root.path().join("a/.tmp-other-1"), "x").unwrap();
    let before = fingerprint(root.path());
    let one = FsStore::open_read_only(root.path(), options(Durability::Strict)).unwrap();
    let two = FsStore::open_read_only(root.path(), options(Durability::Relaxed)).unwrap();
    for store in [&one, &two] {
        assert_eq!(store.get(&key("a/b")).await.unwrap().bytes, "1");
        let page = store.list(&ListRequest::below("")).await.unwrap();
        assert_eq!(page.entries.len(), 1);
        let refused = store.put(&key("c"), "1".into(), PutMode::Create).await.unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::ReadOnly);
    }
    let busy = FsStore::open(root.path(), options(Durability::Strict)).unwrap_err();
    assert!(matches!(busy, FsOpenError::InUse { .. }), "{busy}");
    drop((one, two));
    assert_eq!(fingerprint(root.path()), before);
    // A copy without the lock.
    fs::remove_file(root.path().join(".lock")).unwrap();
    let copy = FsStore::open_read_only(root.path(), options(Durability::Strict)).unwrap();
    assert_eq!(copy.get(&key("a/b")).await.unwrap().bytes, "1");
}

#[tokio::test]
async fn a_folder_that_is_written_or_was_not_stopped_is_not_opened_to_be_read() {
    let (root, store) = strict();
    put(&store, "a", "1").await.unwrap();
    let copied = tempfile::tempdir().unwrap();
    let busy = FsStore::open_read_only(root.path(), options(Durability::Strict)).unwrap_err();
    assert!(matches!(busy, FsOpenError::InUse { .. }), "{busy}");
    let has_log = root.path().join(".log-0").exists();
    for entry in fs::read_dir(root.path()).unwrap() {
        let path = entry.unwrap().path();
        if path.is_file() {
            fs::copy(&path, copied.path().join(path.file_name().unwrap())).unwrap();
        }
    }
    drop(store);
    let opened = FsStore::open_read_only(copied.path(), options(Durability::Strict));
    if has_log {
        assert!(matches!(opened.unwrap_err(), FsOpenError::NotReplayed { .. }));
    }
    let absent = root.path().join("absent");
    assert!(FsStore::open_read_only(&absent, options(Durability::Strict)).is_err());
    assert!(!absent.exists());
}
