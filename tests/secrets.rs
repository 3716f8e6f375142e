//! Secrets are passed to the real binary in every supported way and appear in no output: no log
//! level, error, response, metric, help or audit log.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use jreg_testkit::s3::{S3Server, S3Spec};
use jreg_testkit::{Client, Request};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_jreg");
const PASSWORD: &str = "MARKED-password";
const WRONG_PASSWORD: &str = "MARKED-wrong-password";
const SESSION_TOKEN: &str = "MARKED-session-token";
const SECRET_KEY: &str = "MARKED-secret-key";
const EXCHANGE: &str = "grant_type=urn:ietf:params:oauth:grant-type:token-exchange";
const TYPE: &str = "urn:ietf:params:oauth:token-type:";
const JWT: &str = "eyJhbGciOiJFUzI1NiIsImtpZCI6ImsifQ.eyJpc3MiOiJodHRwczovL2NpIn0.MARKED-signature";

/// Strings that no output may contain.
#[derive(Debug, Default)]
struct Marks(BTreeMap<String, &'static str>);

impl Marks {
    /// A secret, by itself and as a part of a header.
    fn add(&mut self, what: &'static str, secret: &str) {
        self.0.insert(secret.to_owned(), what);
        // Part of the middle is the same at any offset of the encoded text.
        for before in ["", "x", "xx"] {
            let encoded = STANDARD.encode(format!("{before}{secret}"));
            let middle = encoded.get(4..encoded.len() - 4).unwrap();
            self.0.insert(middle.to_owned(), what);
        }
    }

    #[track_caller]
    fn assert_absent(&self, text: &str, place: &str) {
        for (mark, what) in &self.0 {
            if let Some(line) = text.lines().find(|line| line.contains(mark.as_str())) {
                panic!("the {what} is in {place}: {line}");
            }
        }
    }
}

/// Runs a command to its end. Returns both outputs, and whether it succeeded.
fn run(arguments: &[&str], environment: &[(&str, &str)], input: &str) -> (String, String, bool) {
    let mut command = Command::new(PROGRAM);
    command.args(arguments).env_clear().envs(environment.iter().copied());
    let piped = Stdio::piped;
    let mut child = command.stdin(piped()).stdout(piped()).stderr(piped()).spawn().unwrap();
    // The reader may have closed the pipe.
    let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
    let output = child.wait_with_output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(&output.stdout), text(&output.stderr), output.status.success())
}

/// Invalid settings next to a secret, of each kind.
#[test]
fn wrong_settings_are_told_without_the_secret() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("jreg.toml");
    let mut marks = Marks::default();
    marks.add("secret key", SECRET_KEY);
    let path = file.display().to_string();
    for text in [
        format!("s3-secret-access-key = \"{SECRET_KEY}\nlisten = 1"),
        format!("s3-secret-access-key = {SECRET_KEY}"),
        format!("s3-secret-access-key = [\"{SECRET_KEY}\", \"x\"]"),
        format!("s3-secret-access-key = {{ key = \"{SECRET_KEY}\" }}"),
        format!("[s3-secret-access-key]\nkey = \"{SECRET_KEY}\""),
        format!("s3-secret-acces-key = \"{SECRET_KEY}\""),
        format!("s3-secret-access-key = \"a\"\ns3-secret-access-key = \"{SECRET_KEY}\""),
        format!("s3-session-token = [[\"{SECRET_KEY}\"]]"),
        format!("storage = \"s3://key:{SECRET_KEY}@bucket\""),
        format!("public-url = \"https://user:{SECRET_KEY}@registry\""),
        format!("token-realm = \"https://user:{SECRET_KEY}@registry/token?x\""),
        format!("[[login.client]]\nissuer = 'a'\nclient-id = 'b'\nsecret = [\"{SECRET_KEY}\"]"),
        format!(
            "[[login.client]]\nissuer = 'a'\nclient-id = 'b'\nsecret = \"{SECRET_KEY}\"\nx = 1"
        ),
        format!("[[login.client]]\nissuer = 'a'\nclient = 'b'\nsecret = \"{SECRET_KEY}"),
    ] {
        std::fs::write(&file, &text).unwrap();
        for command in [&["serve"][..], &["gc"], &["token", "list"]] {
            let arguments = [command, &["--config", &path]].concat();
            // The file is invalid in any case, so nothing is served.
            let (out, error, is_ok) = run(&arguments, &[("JREG_LISTEN", "nowhere")], "");
            assert!(!is_ok && error.contains("jreg.toml"), "{text}: {out}{error}");
            marks.assert_absent(&format!("{out}{error}"), &text);
        }
    }
    let s3 = "--s3-secret-access-key";
    for arguments in [
        vec!["serve", s3, SECRET_KEY, s3, SECRET_KEY],
        vec!["serve", s3, SECRET_KEY, "--listen", "nowhere"],
        vec!["serve", s3, SECRET_KEY, "--help"],
    ] {
        let (out, error, _) = run(&arguments, &[], "");
        marks.assert_absent(&format!("{out}{error}"), &arguments.join(" "));
    }
    for name in ["JREG_S3_SECRET_ACCESS_KEY", "JREG_S3_SECRET_ACCES_KEY", "AWS_SECRET_ACCESS_KEY"] {
        for arguments in [
            &["--help"][..],
            &["serve", "--help"],
            &["token", "create", "--help"],
            &["serve", "--listen", "nowhere"],
            &["gc", "--storage", "s3://bucket?endpoint=http://127.0.0.1:1&region=x"],
        ] {
            let environment = [
                (name, SECRET_KEY),
                ("JREG_S3_ACCESS_KEY_ID", "id"),
                ("JREG_S3_REQUEST_BUDGET", "100ms"),
                ("JREG_LOG", "trace"),
            ];
            let (out, error, _) = run(arguments, &environment, "");
            marks.assert_absent(&format!("{out}{error}"), &format!("{name} {arguments:?}"));
        }
    }
}

#[test]
fn commands_about_users_do_not_repeat_the_password() {
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("users").display().to_string();
    let mut marks = Marks::default();
    marks.add("password", PASSWORD);
    let add = ["user", "add", "alice", "--file", &users, "--password-stdin"];
    let audit = folder.path().join("audit.log").display().to_string();
    let (out, error, is_ok) = run(&add, &[("JREG_AUDIT_LOG", &audit)], PASSWORD);
    assert!(is_ok, "{error}");
    let written = std::fs::read_to_string(&audit).unwrap();
    assert!(written.contains("user_add"), "{written}");
    marks.assert_absent(&written, "the audit log of user add");
    marks.assert_absent(&format!("{out}{error}"), "user add");
    marks.assert_absent(&std::fs::read_to_string(&users).unwrap(), "the file of users");
    // An invalid hash is reported by its line number.
    std::fs::write(&users, format!("alice:{PASSWORD}\n")).unwrap();
    let serve = ["serve", "--listen", "127.0.0.1:0", "--storage", "memory:", "--htpasswd", &users];
    let (out, error, is_ok) = run(&serve, &[], "");
    assert!(!is_ok && error.contains("line 1"), "{error}");
    marks.assert_absent(&format!("{out}{error}"), "a file of users that is wrong");
}

/// A registry with all logging enabled, in a bucket.
struct SecretScenario {
    bucket: S3Server,
    folder: TempDir,
    marks: Marks,
    access_token: String,
}

impl SecretScenario {
    fn file(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn environment(&self) -> Vec<(&'static str, String)> {
        vec![
            ("JREG_S3_ACCESS_KEY_ID", self.bucket.access_key().to_owned()),
            ("JREG_S3_SECRET_ACCESS_KEY", self.bucket.secret_key().to_owned()),
            ("JREG_S3_SESSION_TOKEN", SESSION_TOKEN.to_owned()),
            ("JREG_LOG", "trace".to_owned()),
        ]
    }

    fn run(&self, arguments: &[&str], input: &str) -> (String, String, bool) {
        let environment = self.environment();
        let environment: Vec<_> =
            environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
        run(arguments, &environment, input)
    }

    fn new(bucket: S3Server) -> Self {
        let (folder, marks) = (tempfile::tempdir().unwrap(), Marks::default());
        let mut scenario = Self { bucket, folder, marks, access_token: String::new() };
        let users = scenario.file("users").display().to_string();
        scenario.run(&["user", "add", "alice", "--file", &users, "--password-stdin"], PASSWORD);
        let policy = "[[issuer]]\nname = 'ci'\nissuer = 'https://ci'\naudience = 'us'\n\
             jwks-url = 'http://127.0.0.1:1/keys'\n[[rule]]\nname = 'all'\n\
             subjects = ['authenticated']\nrepositories = ['**']\n\
             actions = ['pull', 'push', 'delete', 'list']\n";
        std::fs::write(scenario.file("policy.toml"), policy).unwrap();
        let storage = scenario.bucket.storage_url();
        let create =
            ["token", "create", "--name", "ci", "--allow", "pull:**", "--storage", &storage];
        let (out, log, is_ok) = scenario.run(&create, "");
        assert!(is_ok, "{log}");
        scenario.access_token = out.lines().next().unwrap().to_owned();
        let secret_key = scenario.bucket.secret_key().to_owned();
        for (what, secret) in [
            ("password", PASSWORD),
            ("wrong password", WRONG_PASSWORD),
            ("session token", SESSION_TOKEN),
            ("secret key", &secret_key),
            ("signature of a token", "MARKED-signature"),
            ("access token", scenario.access_token.rsplit('_').next().unwrap()),
        ] {
            scenario.marks.add(what, secret);
        }
        scenario.marks.assert_absent(&log, "the log of token create");
        scenario
    }

    fn serve(&self, format: &str) -> Serving {
        let mut command = Command::new(PROGRAM);
        command.args(["serve", "--listen", "127.0.0.1:0", "--audit-log", "stderr"]);
        command.args(["--audit-reads", "on", "--log-format", format]);
        command.args(["--storage", &self.bucket.storage_url()]);
        command.arg("--htpasswd").arg(self.file("users"));
        command.arg("--policy").arg(self.file("policy.toml"));
        command.env_clear().envs(self.environment());
        Serving::spawn(command)
    }
}

/// A process, and its output.
struct Serving {
    child: Child,
    said: Arc<Mutex<String>>,
    reader: Option<std::thread::JoinHandle<()>>,
    client: Client,
}

impl Serving {
    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(child.stderr.take().unwrap());
        let said = Arc::new(Mutex::new(String::new()));
        let (sender, listens) = mpsc::channel();
        let all = Arc::clone(&said);
        let reader = std::thread::spawn(move || {
            for line in output.lines() {
                let line = line.unwrap();
                if line.contains("listening")
                    && let Some((_, rest)) = line.split_once("127.0.0.1:")
                {
                    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    sender.send(port.parse::<u16>().unwrap()).unwrap();
                }
                let mut all = all.lock().unwrap();
                all.push_str(&line);
                all.push('\n');
            }
        });
        let port = listens.recv().unwrap();
        let client = Client::new(([127, 0, 0, 1], port).into());
        Self { child, said, reader: Some(reader), client }
    }

    /// Its whole output.
    fn end(mut self) -> String {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        self.child.wait().unwrap();
        self.reader.take().unwrap().join().unwrap();
        std::mem::take(&mut self.said.lock().unwrap())
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

async fn over_http2(client: &Client, target: &str, header: &str) {
    let stream = tokio::net::TcpStream::connect(client.address()).await.unwrap();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    tokio::spawn(connection);
    let request = http::Request::get(format!("http://{}{target}", client.address()));
    let request = request.header("Authorization", header).body(Empty::<Bytes>::new()).unwrap();
    sender.send_request(request).await.unwrap().into_body().collect().await.unwrap();
}

/// Sends credentials of each kind to every endpoint, and checks the responses.
async fn try_all(client: &Client, scenario: &SecretScenario) -> Vec<String> {
    let (marks, access_token) = (&scenario.marks, &scenario.access_token);
    let token_target = "/token?offline_token=true&scope=repository:a:pull,push";
    let login = Request::new("GET", token_target).header("Authorization", basic("alice", PASSWORD));
    let tokens = client.send(login).await.json();
    let tokens = ["token", "refresh_token"].map(|name| tokens[name].as_str().unwrap().to_owned());
    let headers = [
        basic("alice", PASSWORD),
        basic("alice", WRONG_PASSWORD),
        basic("nobody", WRONG_PASSWORD),
        basic("x", access_token),
        basic(access_token, "x"),
        basic("x", &format!("{access_token}0")),
        basic("oidc", JWT),
        format!("Bearer {access_token}"),
        format!("Bearer {JWT}"),
        format!("Bearer {}", tokens[0]),
        format!("Bearer {}", tokens[1]),
        format!("Basic {WRONG_PASSWORD}"),
        WRONG_PASSWORD.to_owned(),
    ];
    for header in &headers {
        for (method, target) in [
            ("GET", "/v2/"),
            ("GET", "/v2/a/manifests/none"),
            ("PUT", "/v2/a/manifests/none"),
            ("POST", "/v2/a/blobs/uploads/"),
            ("GET", "/v2/_catalog"),
            ("GET", "/nothing"),
        ] {
            let request = Request::new(method, target).header("Authorization", header.as_str());
            let request = if method == "GET" { request } else { request.body("x") };
            let response = client.send_unchecked(&request).await.unwrap();
            marks.assert_absent(&format!("{response:?} {response}"), &format!("{method} {target}"));
        }
        over_http2(client, "/v2/a/manifests/none", header).await;
    }
    for form in [
        format!("grant_type=password&username=alice&password={WRONG_PASSWORD}"),
        format!("grant_type=refresh_token&refresh_token={WRONG_PASSWORD}"),
        format!("grant_type={WRONG_PASSWORD}"),
        format!("{EXCHANGE}&subject_token_type={TYPE}jwt&subject_token={JWT}"),
        format!("{EXCHANGE}&subject_token_type={TYPE}jwt&subject_token={access_token}"),
        format!("{EXCHANGE}&subject_token_type={WRONG_PASSWORD}&subject_token={WRONG_PASSWORD}"),
        format!("{EXCHANGE}&audience={WRONG_PASSWORD}&subject_token_type={TYPE}jwt"),
        format!("grant_type=password&service={WRONG_PASSWORD}&username=a&password=b"),
    ] {
        let request = Request::new("POST", "/token").body(form.clone());
        let request = request.header("Content-Type", "application/x-www-form-urlencoded");
        let response = client.send_unchecked(&request).await.unwrap();
        assert!(response.status >= 400, "{form}: {response}");
        marks.assert_absent(&format!("{response:?} {response}"), &form);
    }
    for target in ["/metrics", "/", "/openapi.yaml", "/readyz"] {
        let response = client.get(target).await;
        marks.assert_absent(&format!("{response:?} {response}"), target);
    }
    tokens.into()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_secret_is_in_a_log_a_response_or_a_metric() {
    let bucket = S3Server::start(S3Spec::default()).await;
    let scenario =
        Arc::new(tokio::task::spawn_blocking(move || SecretScenario::new(bucket)).await.unwrap());
    for format in ["json", "pretty"] {
        let serving = Arc::clone(&scenario);
        let serving = tokio::task::spawn_blocking(move || serving.serve(format)).await.unwrap();
        let tokens = try_all(&serving.client, &scenario).await;
        let said = tokio::task::spawn_blocking(move || serving.end()).await.unwrap();
        assert!(said.contains("TRACE") && said.contains("\"event\":\"login\""), "it says much");
        let mut issued = Marks::default();
        for token in &tokens {
            issued.add("token of the token service", token.rsplit('.').next().unwrap());
        }
        for marks in [&scenario.marks, &issued] {
            marks.assert_absent(&said, &format!("the {format} log"));
        }
    }
}
