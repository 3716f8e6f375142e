//! Audit records of `jreg token`, `jreg user`, `jreg gc` and `jreg fsck`, with the real binary:
//! alone on a folder, and with a serving process.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use jreg_testkit::Process;
use serde_json::{Value, json};
use tempfile::TempDir;

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");

/// A storage and an audit log.
struct AuditScenario(TempDir);

impl AuditScenario {
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

/// Creates and revokes a token, and checks the records.
fn tokens(scenario: &AuditScenario) {
    let token = out(&scenario.jreg(CREATE));
    let id = token.split('_').nth(1).unwrap().to_owned();
    let log = scenario.take();
    assert!(!log.contains(token.rsplit('_').next().unwrap()), "the secret: {log}");
    let made = line(&log);
    assert_eq!(made["uid"], own_uid(scenario.0.path()));
    assert_eq!((&made["operation"], &made["outcome"]), (&json!("token_create"), &json!("done")));
    assert_eq!(made["credential"], *id);
    assert_eq!((&made["asked"]["do"], &made["asked"]["name"]), (&json!("create"), &json!("ci")));
    assert!(made["asked"]["permissions"].to_string().contains("team/**"), "{made}");
    out(&scenario.jreg(&["token", "list"]));
    assert_eq!(scenario.take(), "", "nothing was changed");
    out(&scenario.jreg(&["token", "revoke", &id]));
    let revoked = line(&scenario.take());
    assert_eq!(
        (&revoked["operation"], &revoked["credential"]),
        (&"token_revoke".into(), &id.into())
    );
    let none = "0123456789abcdef";
    assert!(!scenario.jreg(&["token", "revoke", none]).status.success());
    let failed = line(&scenario.take());
    assert_eq!((&failed["outcome"], &failed["asked"]["id"]), (&"failed".into(), &none.into()));
    let ended = out(&scenario.jreg(&["session", "revoke", "company:alice"]));
    assert!(ended.starts_with("logins of company:alice until 2"), "{ended}");
    let ended = line(&scenario.take());
    assert_eq!(
        (&ended["operation"], &ended["asked"]["identity"]),
        (&"session_revoke".into(), &"company:alice".into())
    );
}

fn collections(scenario: &AuditScenario) {
    out(&scenario.jreg(&["gc", "--dry-run"]));
    out(&scenario.jreg(&["fsck"]));
    assert_eq!(scenario.take(), "", "nothing was changed");
    out(&scenario.jreg(&["gc", "--force", "--grace", "3h"]));
    let collected = line(&scenario.take());
    assert_eq!((&collected["operation"], &collected["outcome"]), (&"gc".into(), &"done".into()));
    assert_eq!(collected["asked"]["force"], true);
    out(&scenario.jreg(&["fsck", "--repair"]));
    assert_eq!(line(&scenario.take())["operation"], "fsck_repair");
}

/// Content of `app` that commands change.
const INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;

/// Serves the storage for a moment, and pushes an index to `app:v1`.
fn push(scenario: &AuditScenario) -> String {
    let data = scenario.path("data");
    let process = Process::start(BINARY, &data);
    let put = jreg_testkit::Request::new("PUT", "/v2/app/manifests/v1")
        .header("Content-Type", jreg_testkit::media::INDEX)
        .body(INDEX);
    let client = process.client();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    assert_eq!(runtime.block_on(client.send(put)).status, 201);
    process.terminate();
    jreg_testkit::sha256(INDEX)
}

/// Restores and purges, and checks that the records say what tags pointed to.
fn restores(scenario: &AuditScenario, digest: &str) {
    let content = format!("app@{digest}");
    out(&scenario.jreg(&["tag", "restore", "app:v2", digest]));
    let restored = line(&scenario.take());
    assert_eq!(
        (&restored["operation"], &restored["outcome"]),
        (&json!("tag_restore"), &json!("done"))
    );
    assert_eq!(
        (&restored["asked"]["repository"], &restored["asked"]["tag"]),
        (&json!("app"), &json!("v2"))
    );
    let changed = &restored["tag_changes"][0];
    assert_eq!(
        (&changed["tag"], &changed["before"], &changed["after"]),
        (&json!("v2"), &Value::Null, &json!(digest))
    );
    assert_eq!(changed["change"].as_str().unwrap().len(), 26);
    for args in [&["tag", "history", "app:v1"][..], &["manifest", "list-deleted", "app"]] {
        out(&scenario.jreg(args));
        assert_eq!(scenario.take(), "", "nothing was changed");
    }
    assert!(!scenario.jreg(&["purge", &content]).status.success());
    assert_eq!(line(&scenario.take())["outcome"], "failed");
    out(&scenario.jreg(&["purge", &content, "--force"]));
    let purged = line(&scenario.take());
    assert_eq!((&purged["operation"], &purged["asked"]["force"]), (&json!("purge"), &json!(true)));
    let of = |index: usize| {
        let change = &purged["tag_changes"][index];
        [&change["tag"], &change["before"], &change["after"]]
    };
    assert_eq!(of(0), [&json!("v1"), &json!(digest), &Value::Null]);
    assert_eq!(of(1), [&json!("v2"), &json!(digest), &Value::Null]);
    assert!(!scenario.jreg(&["manifest", "restore", &content]).status.success());
    let failed = line(&scenario.take());
    assert_eq!(
        (&failed["operation"], &failed["outcome"]),
        (&"manifest_restore".into(), &"failed".into())
    );
}

#[test]
fn commands_on_a_folder_of_their_own_write_lines() {
    let scenario = AuditScenario::new();
    tokens(&scenario);
    collections(&scenario);
    let digest = push(&scenario);
    restores(&scenario, &digest);
}

/// The serving process writes the record, whatever the command's settings are.
#[test]
fn commands_beside_the_process_that_serves_are_written_by_it_once() {
    let scenario = AuditScenario::new();
    let digest = push(&scenario);
    let (log, data) = (scenario.path("audit.log"), scenario.path("data"));
    let environment = [("JREG_AUDIT_LOG", log.to_str().unwrap())];
    let process = Process::start_with_environment(BINARY, data.to_str().unwrap(), &environment);
    restores(&scenario, &digest);
    tokens(&scenario);
    collections(&scenario);
    out(&scenario.run("off", CREATE));
    assert_eq!(line(&scenario.take())["operation"], "token_create");
    process.terminate();
}

#[test]
fn users_that_are_added_and_removed_are_lines_without_passwords() {
    let scenario = AuditScenario::new();
    let password = out(&scenario.jreg(&["user", "add", "alice"]));
    let log = scenario.take();
    assert!(!log.contains(&password), "{log}");
    let added = line(&log);
    assert_eq!((&added["operation"], &added["outcome"]), (&"user_add".into(), &"done".into()));
    assert_eq!(added["asked"]["name"], "alice");
    assert_eq!(added["asked"]["file"], scenario.path("users").to_str().unwrap());
    out(&scenario.jreg(&["user", "list"]));
    assert_eq!(scenario.take(), "");
    out(&scenario.jreg(&["user", "remove", "alice"]));
    assert_eq!(line(&scenario.take())["operation"], "user_remove");
    assert!(!scenario.jreg(&["user", "remove", "alice"]).status.success());
    assert_eq!(line(&scenario.take())["outcome"], "failed");
    let users = scenario.path("others");
    out(&scenario.jreg(&["user", "add", "bob", "--file", users.to_str().unwrap()]));
    assert_eq!(line(&scenario.take())["asked"]["file"], users.to_str().unwrap());
}

#[test]
fn what_a_command_prints_is_not_mixed_with_lines() {
    let scenario = AuditScenario::new();
    for stream in ["stdout", "stderr"] {
        let made = scenario.run(stream, CREATE);
        assert!(out(&made).starts_with("jreg_") && out(&made).lines().count() == 1);
        assert!(!String::from_utf8_lossy(&made.stderr).contains("token_create"));
    }
}

#[test]
fn what_cannot_be_written_down_is_not_done() {
    let scenario = AuditScenario::new();
    let log = scenario.path("nowhere/audit.log");
    for args in [CREATE, &["gc"], &["user", "add", "alice"]] {
        let refused = scenario.run(log.to_str().unwrap(), args);
        let error = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(error.contains("cannot open the audit log"), "{args:?}: {error}");
        assert_eq!(refused.status.code(), Some(1));
    }
    assert!(!scenario.path("users").exists());
    let listed = scenario.jreg(&["token", "list"]);
    assert!(
        String::from_utf8_lossy(&listed.stderr).contains("holds no registry"),
        "nothing is made"
    );
    // A device that accepts nothing, like a full disk: the command succeeds.
    let added = scenario.run("/dev/full", &["user", "add", "alice"]);
    assert!(out(&added).len() > 10 && scenario.path("users").exists());
    assert!(String::from_utf8_lossy(&added.stderr).contains("the audit log cannot be written"));
}
