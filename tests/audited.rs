//! What `jreg token`, `jreg user`, `jreg gc` and `jreg fsck` write to the audit log, with the real
//! binary: alone on a folder, and beside the process that serves it.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jreg_testkit::Process;
use serde_json::{Value, json};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");

/// A storage and an audit log.
struct Scene(TempDir);

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("data")).unwrap();
        Self(folder)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn run(&self, log: &str, args: &[&str]) -> Output {
        let mut command = Command::new(BINARY);
        command.args(args).env("JREG_AUDIT_LOG", log).env("JREG_STORAGE", self.path("data"));
        command.env("JREG_HTPASSWD", self.path("users")).output().unwrap()
    }

    fn jreg(&self, args: &[&str]) -> Output {
        self.run(self.path("audit.log").to_str().unwrap(), args)
    }

    /// The text of the log, which is then rotated.
    fn take(&self) -> String {
        let text = std::fs::read_to_string(self.path("audit.log")).unwrap_or_default();
        let _ = std::fs::rename(self.path("audit.log"), self.path("audit.log.1"));
        text
    }
}

fn out(output: &Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

/// The one line of a log.
#[track_caller]
fn line(log: &str) -> Value {
    assert_eq!(log.lines().count(), 1, "{log}");
    let line: Value = serde_json::from_str(log).unwrap();
    assert_eq!((&line["event"], &line["source"]), (&json!("command"), &json!("machine")));
    assert!(line["identity"].as_str().unwrap().starts_with("machine:"), "{line}");
    chrono::DateTime::parse_from_rfc3339(line["time"].as_str().unwrap()).unwrap();
    line
}

fn own_uid(folder: &Path) -> u32 {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata(folder).unwrap().uid()
}

const CREATE: &[&str] = &["token", "create", "--name", "ci", "--allow", "pull,push:team/**"];

/// Makes and revokes a token, and looks at the lines.
fn tokens(scene: &Scene) {
    let token = out(&scene.jreg(CREATE));
    let id = token.split('_').nth(1).unwrap().to_owned();
    let log = scene.take();
    assert!(!log.contains(token.rsplit('_').next().unwrap()), "the secret: {log}");
    let made = line(&log);
    assert_eq!(made["uid"], own_uid(scene.0.path()));
    assert_eq!((&made["operation"], &made["outcome"]), (&json!("token_create"), &json!("done")));
    assert_eq!(made["credential"], *id);
    assert_eq!((&made["asked"]["do"], &made["asked"]["name"]), (&json!("create"), &json!("ci")));
    assert!(made["asked"]["permissions"].to_string().contains("team/**"), "{made}");
    out(&scene.jreg(&["token", "list"]));
    assert_eq!(scene.take(), "", "nothing was changed");
    out(&scene.jreg(&["token", "revoke", &id]));
    let revoked = line(&scene.take());
    assert_eq!(
        (&revoked["operation"], &revoked["credential"]),
        (&"token_revoke".into(), &id.into())
    );
    let none = "0123456789abcdef";
    assert!(!scene.jreg(&["token", "revoke", none]).status.success());
    let failed = line(&scene.take());
    assert_eq!((&failed["outcome"], &failed["asked"]["id"]), (&"failed".into(), &none.into()));
}

fn collections(scene: &Scene) {
    out(&scene.jreg(&["gc", "--dry-run"]));
    out(&scene.jreg(&["fsck"]));
    assert_eq!(scene.take(), "", "nothing was changed");
    out(&scene.jreg(&["gc", "--force", "--grace", "3h"]));
    let collected = line(&scene.take());
    assert_eq!((&collected["operation"], &collected["outcome"]), (&"gc".into(), &"done".into()));
    assert_eq!(collected["asked"]["force"], true);
    out(&scene.jreg(&["fsck", "--repair"]));
    assert_eq!(line(&scene.take())["operation"], "fsck_repair");
}

#[test]
fn commands_on_a_folder_of_their_own_write_lines() {
    let scene = Scene::new();
    tokens(&scene);
    collections(&scene);
}

/// The server writes, whatever the settings of the command are.
#[test]
fn commands_beside_the_process_that_serves_are_written_by_it_once() {
    let scene = Scene::new();
    let (log, data) = (scene.path("audit.log"), scene.path("data"));
    let environment = [("JREG_AUDIT_LOG", log.to_str().unwrap())];
    let process = Process::start_with_environment(BINARY, data.to_str().unwrap(), &environment);
    tokens(&scene);
    collections(&scene);
    out(&scene.run("off", CREATE));
    assert_eq!(line(&scene.take())["operation"], "token_create");
    process.terminate();
}

#[test]
fn users_that_are_added_and_removed_are_lines_without_passwords() {
    let scene = Scene::new();
    let password = out(&scene.jreg(&["user", "add", "alice"]));
    let log = scene.take();
    assert!(!log.contains(&password), "{log}");
    let added = line(&log);
    assert_eq!((&added["operation"], &added["outcome"]), (&"user_add".into(), &"done".into()));
    assert_eq!(added["asked"]["name"], "alice");
    assert_eq!(added["asked"]["file"], scene.path("users").to_str().unwrap());
    out(&scene.jreg(&["user", "list"]));
    assert_eq!(scene.take(), "");
    out(&scene.jreg(&["user", "remove", "alice"]));
    assert_eq!(line(&scene.take())["operation"], "user_remove");
    assert!(!scene.jreg(&["user", "remove", "alice"]).status.success());
    assert_eq!(line(&scene.take())["outcome"], "failed");
    let users = scene.path("others");
    out(&scene.jreg(&["user", "add", "bob", "--file", users.to_str().unwrap()]));
    assert_eq!(line(&scene.take())["asked"]["file"], users.to_str().unwrap());
}

#[test]
fn what_a_command_prints_is_not_mixed_with_lines() {
    let scene = Scene::new();
    for stream in ["stdout", "stderr"] {
        let made = scene.run(stream, CREATE);
        assert!(out(&made).starts_with("jreg_") && out(&made).lines().count() == 1);
        assert!(!String::from_utf8_lossy(&made.stderr).contains("token_create"));
    }
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let scene = Scene::new();
    let log = scene.path("nowhere/audit.log");
    for args in [CREATE, &["gc"], &["user", "add", "alice"]] {
        let refused = scene.run(log.to_str().unwrap(), args);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(error.contains("cannot open the audit log"), "{args:?}: {error}");
        assert_eq!(refused.status.code(), Some(1));
    }
    assert!(!scene.path("users").exists());
    let listed = scene.jreg(&["token", "list"]);
    assert!(
        String::from_utf8_lossy(&listed.stderr).contains("holds no registry"),
        "nothing is made"
    );
    // A device that takes nothing, as a disk that is full: it is done all the same.
    let added = scene.run("/dev/full", &["user", "add", "alice"]);
    assert!(out(&added).len() > 10 && scene.path("users").exists());
    assert!(String::from_utf8_lossy(&added.stderr).contains("the audit log cannot be written"));
}
