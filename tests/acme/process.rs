//! The real binary obtains a certificate, and prints no key.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

use jreg_registry::{acme_account, acme_certificate};
use jreg_storage::testing::ManualClock;
use jreg_storage::{FsOptions, FsStore, Store};
use jreg_testkit::TlsClient;
use jreg_testkit::acme::AcmeServer;
use serde_json::Value;
use tokio::sync::mpsc::Receiver;

use super::{NAME, get};

const BINARY: &str = env!("CARGO_BIN_EXE_jreg");
/// More log lines than between two reads.
const LINES_MAX: usize = 65536;

/// The secrets in the store: the body of the private key in PEM, and the account key.
/// account has.
async fn secrets(store: &dyn Store) -> Vec<String> {
    let certificate = store.get(&acme_certificate()).await.unwrap();
    let certificate: Value = serde_json::from_slice(&certificate.bytes).unwrap();
    let key = certificate["key"].as_str().unwrap();
    let lines = key.lines().filter(|line| !line.starts_with("-----"));
    let account = store.get(&acme_account()).await.unwrap();
    let account: Value = serde_json::from_slice(&account.bytes).unwrap();
    let account = account["credentials"]["key_pkcs8"].as_str().unwrap().to_owned();
    // The first line is the same for all keys.
    let account = account.get(account.len() - 32..).unwrap().to_owned();
    lines
        .map(str::trim)
        .filter(|line| line.len() >= 16)
        .map(str::to_owned)
        .chain([account])
        .collect()
}

/// A process that is killed at the end of its test.
struct KilledServer(Child);

impl Drop for KilledServer {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Reads lines up to one that contains this word, and returns it.
async fn until(lines: &mut Receiver<String>, said: &mut Vec<String>, word: &str) -> String {
    while let Some(line) = lines.recv().await {
        said.push(line.clone());
        if line.contains(word) {
            return line;
        }
    }
    panic!("it ended before {word}: {said:?}");
}

#[tokio::test]
async fn it_gets_a_certificate_and_says_no_secret() {
    let clock = Arc::new(ManualClock::new(SystemTime::now()));
    let authority = AcmeServer::start(clock).await;
    let folder = tempfile::tempdir().unwrap();
    let (storage, ca_file) = (folder.path().join("storage"), folder.path().join("ca.pem"));
    std::fs::write(&ca_file, authority.ca_pem()).unwrap();
    let child = Command::new(BINARY)
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "trace", "--log-format", "json"])
        .args(["--acme-domains", NAME, "--acme-directory", &authority.directory()])
        .arg("--acme-ca-file")
        .arg(&ca_file)
        .arg("--storage")
        .arg(&storage)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut child = KilledServer(child);
    let output = BufReader::new(child.0.stderr.take().unwrap());
    // Reads concurrently, so that the process never blocks on its output.
    let (sender, mut lines) = tokio::sync::mpsc::channel(LINES_MAX);
    let reader = std::thread::spawn(move || {
        for line in output.lines() {
            sender.blocking_send(line.unwrap()).unwrap();
        }
    });
    let mut said = Vec::new();
    let listening = until(&mut lines, &mut said, "\"listening\"").await;
    let listening: Value = serde_json::from_str(&listening).unwrap();
    let address = listening["address"].as_str().unwrap().parse().unwrap();
    authority.look_at(address);
    until(&mut lines, &mut said, "has issued a certificate").await;
    let client = TlsClient::of(authority.issuer());
    let mut stream = client.connect_to(NAME, address).await.unwrap();
    assert!(get(&mut stream, "/livez").await.starts_with("HTTP/1.1 200 OK\r\n"));
    drop(stream);
    let id = child.0.id().to_string();
    assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
    while let Some(line) = lines.recv().await {
        said.push(line);
    }
    assert!(child.0.wait().unwrap().success());
    reader.join().unwrap();
    let store = FsStore::open(storage, FsOptions::default()).unwrap();
    let secrets = secrets(&store).await;
    assert!(secrets.len() >= 3, "{}", secrets.len());
    for secret in secrets {
        let line = said.iter().find(|line| line.contains(&secret));
        assert!(line.is_none(), "a key is in the log: {line:?}");
    }
}

#[test]
fn it_does_not_start_with_a_certificate_from_two_places() {
    let output = Command::new(BINARY)
        .args(["serve", "--acme-domains", NAME, "--tls-cert", "a", "--tls-key", "b"])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2), "{text}");
    assert!(text.contains("`acme-domains` cannot be given with `tls-cert`"), "{text}");
}
