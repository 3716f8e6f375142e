//! `jreg import`, `export`, `backup` and `restore`, killed (`kill -9`) at moments that reach from their start to their
//! end, and run again: nothing half-made is taken for whole, nothing is damaged, and the last run completes it.

use std::cell::Cell;
use std::io::{Read, Seek};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use jreg_testkit::Process;

use crate::transfer::{APP, Content, block_on, complaint, counts, jreg, served, text};

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
/// How much later each kill comes than the one before.
const STEP: Duration = Duration::from_millis(5);
/// Maximum number of kills. By then a command had five seconds.
const KILLS_MAX: u32 = 1000;

/// Runs a command again and again, each time killed a little later, until it ends by itself. Calls `check`
/// after each kill. How far a kill gets depends on the machine; what holds afterwards does not.
#[track_caller]
fn kill_until_done(command: impl Fn() -> Command, mut check: impl FnMut()) {
    for kills in 1..=KILLS_MAX {
        let (mut command, mut complaint) = (command(), tempfile::tempfile().unwrap());
        let stderr = complaint.try_clone().unwrap();
        let mut running = command.stdout(Stdio::null()).stderr(stderr).spawn().unwrap();
        block_on(async { tokio::time::sleep(STEP * kills).await });
        if let Some(status) = running.try_wait().unwrap() {
            let mut said = String::new();
            complaint.rewind().unwrap();
            complaint.read_to_string(&mut said).unwrap();
            assert!(status.success(), "{command:?}: {status} after {kills} runs: {said}");
            assert!(kills > 1, "it ended before it was killed once");
            return;
        }
        running.kill().unwrap();
        running.wait().unwrap();
        check();
    }
    panic!("it was killed {KILLS_MAX} times and did not end");
}

fn command(args: &[&str], storage: &Path) -> Command {
    let mut command = Command::new(BINARY);
    command.args(args).arg("--storage").arg(storage);
    command
}

fn is_whole(storage: &Path) {
    if storage.join("jreg.json").exists() {
        text(&jreg(storage, &["fsck", "--deep"]));
    }
}

fn at(folder: &Path, name: &str) -> String {
    folder.join(name).display().to_string()
}

/// The content, its storage without a server, and an archive of it.
struct Source {
    content: Content,
    storage: tempfile::TempDir,
    work: tempfile::TempDir,
    archive: String,
}

impl Source {
    fn new() -> Self {
        let content = Content::new();
        let (storage, process) = served(&content);
        process.terminate();
        let work = tempfile::tempdir().unwrap();
        let archive = at(work.path(), "source.tar");
        text(&jreg(storage.path(), &["export", APP, "--to", &archive]));
        Self { content, storage, work, archive }
    }

    /// Starts a server on what came of it, and compares every byte.
    fn check(&self, storage: &Path) {
        let process = Process::start(BINARY, storage);
        block_on(self.content.check(&process.client(), APP));
        process.terminate();
    }
}

#[test]
fn an_import_that_is_killed_is_run_again() {
    let source = Source::new();
    let target = tempfile::tempdir().unwrap();
    let import = || command(&["import", &source.archive], target.path());
    kill_until_done(import, || is_whole(target.path()));
    is_whole(target.path());
    source.check(target.path());
    let again = jreg(target.path(), &["import", &source.archive, "--json"]);
    assert_eq!(counts(&again).0, 0, "all is there");
}

#[test]
fn an_import_beside_a_server_that_is_killed_is_run_again() {
    let source = Source::new();
    let target = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, target.path());
    let import = || command(&["import", &source.archive], target.path());
    kill_until_done(import, || {
        assert_eq!(block_on(process.client().get("/v2/")).status, 200);
    });
    block_on(source.content.check(&process.client(), APP));
    process.terminate();
    is_whole(target.path());
}

#[test]
fn an_import_whose_server_is_killed_fails_and_is_run_again() {
    let source = Source::new();
    let target = tempfile::tempdir().unwrap();
    for kills in 1..=KILLS_MAX {
        let process = Process::start(BINARY, target.path());
        let mut import = command(&["import", &source.archive], target.path());
        let mut running = import.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        block_on(async { tokio::time::sleep(STEP * kills).await });
        let done = running.try_wait().unwrap();
        process.kill();
        let status = running.wait().unwrap();
        is_whole(target.path());
        if done.is_some() {
            assert!(status.success(), "{status}");
            break;
        }
        // It either had all acknowledged, or took the folder after the server, or says that it failed.
        assert!(matches!(status.code(), Some(0 | 1)), "{status}");
    }
    source.check(target.path());
}

#[test]
fn an_export_that_is_killed_leaves_no_archive_that_looks_whole() {
    let source = Source::new();
    let wanted = std::fs::read(&source.archive).unwrap();
    let target = at(source.work.path(), "killed.tar");
    let export = || command(&["export", APP, "--to", &target], source.storage.path());
    let is_partial_at_most = || {
        if let Ok(bytes) = std::fs::read(&target) {
            assert!(bytes == wanted, "an archive has its name and is not whole");
            std::fs::remove_file(&target).unwrap();
        }
    };
    kill_until_done(export, is_partial_at_most);
    assert!(std::fs::read(&target).unwrap() == wanted);
    is_whole(source.storage.path());
}

#[test]
fn an_export_into_a_folder_that_is_killed_has_no_index() {
    let source = Source::new();
    let number = Cell::new(0);
    let folder = || source.work.path().join(format!("layout-{}", number.get()));
    let export = || {
        let to = folder().display().to_string();
        command(&["export", APP, "--to", &to], source.storage.path())
    };
    let is_whole_or_no_layout = || {
        if folder().join("index.json").exists() {
            let target = tempfile::tempdir().unwrap();
            text(&jreg(target.path(), &["import", folder().to_str().unwrap()]));
            source.check(target.path());
        }
        number.set(number.get() + 1);
    };
    kill_until_done(export, is_whole_or_no_layout);
    is_whole_or_no_layout();
}

#[test]
fn a_backup_that_is_killed_is_no_snapshot() {
    let source = Source::new();
    let backups = at(source.work.path(), "backups");
    let snapshots = || {
        let listed = Command::new(BINARY).args(["backup", "list", &backups]).output().unwrap();
        match listed.status.code() {
            Some(1) => assert!(complaint(&listed).contains("holds no backups"), "{listed:?}"),
            _ => drop(text(&listed)),
        }
    };
    let back_up = || command(&["backup", "--to", &backups], source.storage.path());
    kill_until_done(back_up, snapshots);
}

#[test]
fn a_restore_that_is_killed_is_run_again() {
    let source = Source::new();
    let (backups, target) =
        (at(source.work.path(), "backups"), source.work.path().join("restored"));
    text(&jreg(source.storage.path(), &["backup", "--to", &backups]));
    let restore = || command(&["restore", "--from", &backups], &target);
    // A process that is killed at its very end leaves a registry, to which nothing is restored.
    let is_over = Cell::new(false);
    let again = || if is_over.get() { command(&["ls"], &target) } else { restore() };
    kill_until_done(again, || is_over.set(jreg(&target, &["ls"]).status.success()));
    is_whole(&target);
    source.check(&target);
}
