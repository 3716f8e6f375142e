//! `jreg lifecycle preview` and `run`, and `jreg explain NAME:TAG`, with the real binary: alone on a folder, beside its
//! server, and on a bucket.

use std::path::Path;
use std::process::{Command, Output};

use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::{Image, Process, Scenario, push_image};
use serde_json::Value;

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
/// Releases stay.
const RULES: &str =
    "[[retention]]\nrepositories = ['contract/*']\n[[retention.keep]]\ntags = ['v*']\n[end]\n";

fn jreg(storage: &str, args: &[&str]) -> Output {
    let mut command = Command::new(BINARY);
    command.args(args).args(["--storage", storage]);
    command.env("JREG_RETENTION_DELAY", "0s");
    command.output().unwrap()
}

fn text(output: &Output) -> String {
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{complaint}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn lines(output: &Output) -> Vec<Value> {
    text(output).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// Pushes two tags of one image.
fn fill(process: &Process) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let mut scenario = Scenario::new("app", process.client());
        for tag in ["v1", "dev"] {
            scenario.run(push_image(tag, &Image::plain(1))).await;
        }
    });
}

fn rules_file(folder: &Path) -> String {
    let path = folder.join("lifecycle.toml");
    std::fs::write(&path, RULES).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_plan_is_made_and_carried_out_alone_and_beside_the_server() {
    let (storage, files) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let (rules, plan) = (rules_file(files.path()), files.path().join("plan.json"));
    let (folder, plan) = (storage.path().to_str().unwrap(), plan.to_str().unwrap());
    let audit = files.path().join("audit.log");
    let flags = ["--lifecycle", &*rules, "--retention-delay", "0s"];
    let flags = [&flags[..], &["--audit-log", audit.to_str().unwrap()]].concat();
    let process = Process::start_with(BINARY, storage.path(), &flags);
    fill(&process);
    let preview = ["lifecycle", "preview", "--json", "--plan", plan];
    let shown = lines(&jreg(folder, &preview));
    let [first, second, done] = &shown[..] else { panic!("{shown:?}") };
    assert_eq!((&first["tag"], &first["status"]), (&"dev".into(), &"remove".into()));
    assert_eq!((&second["tag"], &second["status"]), (&"v1".into(), &"keep".into()));
    assert_eq!((&done["is_preview"], &done["removed"]), (&true.into(), &1.into()));
    let explained = text(&jreg(folder, &["explain", "contract/app:v1"]));
    assert!(explained.starts_with("keep "), "{explained}");
    assert!(explained.contains("retention entry 1, keep 1: it matches v*"), "{explained}");
    let run = ["lifecycle", "run", "--json", "--plan", plan];
    let done = lines(&jreg(folder, &run));
    assert_eq!((&done[0]["outcome"], &done[1]["removed"]), (&"removed".into(), &1.into()));
    let absent = jreg(folder, &["explain", "contract/app:dev"]);
    assert_eq!(absent.status.code(), Some(1));
    let audited = std::fs::read_to_string(&audit).unwrap();
    assert!(audited.contains(r#""event":"retention","operation":"tag_remove""#), "{audited}");
    assert!(audited.contains(r#""reference":"dev""#), "{audited}");
    fill(&process);
    process.terminate();
    // Alone, and with other rules than those of the plan.
    let refused = jreg(folder, &run);
    assert_eq!(refused.status.code(), Some(3));
    let with_rules = ["lifecycle", "run", "--lifecycle", &rules, "--plan", plan];
    let again = text(&jreg(folder, &with_rules));
    assert!(again.contains("1 changed meanwhile"), "{again}");
    let done = text(&jreg(folder, &["lifecycle", "run", "contract/app", "--lifecycle", &rules]));
    assert!(done.contains("contract/app:dev: nothing of retention entry 1 keeps it"), "{done}");
    assert!(done.contains("1 kept, 0 protected, 1 removed\n"), "{done}");
}

#[test]
fn a_bucket_is_worked_on_directly() {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let bucket = runtime.block_on(S3Server::start(S3Spec::default()));
    let files = tempfile::tempdir().unwrap();
    let rules = rules_file(files.path());
    let process = Process::start_in_bucket(BINARY, &bucket, &[]);
    fill(&process);
    let jreg = |action: &str| {
        let mut command = Command::new(BINARY);
        command.args(["lifecycle", action, "--lifecycle", &rules]);
        command.args(["--storage", &bucket.storage_url()]).env("JREG_RETENTION_DELAY", "0s");
        command.env("AWS_ACCESS_KEY_ID", bucket.access_key());
        command.env("AWS_SECRET_ACCESS_KEY", bucket.secret_key());
        text(&command.output().unwrap())
    };
    assert!(jreg("preview").contains("1 kept, 0 protected, 1 would be removed\n"));
    assert!(jreg("run").contains("1 kept, 0 protected, 1 removed\n"));
    assert!(jreg("run").contains("1 kept, 0 protected, 0 removed\n"));
    process.terminate();
}

#[test]
fn without_rules_nothing_is_removed() {
    let storage = tempfile::tempdir().unwrap();
    let process = Process::start(BINARY, storage.path());
    fill(&process);
    let refused = jreg(storage.path().to_str().unwrap(), &["lifecycle", "run"]);
    assert_eq!(refused.status.code(), Some(3));
    let complaint = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(complaint.contains("no [[retention]] entry: set lifecycle"), "{complaint}");
    process.terminate();
}
