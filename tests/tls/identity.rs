//! Client certificates as identities, alone and with other credentials.

use std::io::Write;
use std::process::{Command, Stdio};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use jreg_testkit::{CertificateAndKey, TestCa};
use serde_json::Value;

use super::{Server, TlsScenario, exchange, request};

const POLICY: &str = r#"
[[rule]]
name = "builders push"
subjects = ["certificate:cn=builder", "certificate:uri=spiffe://test/ci"]
repositories = ["team/**"]
actions = ["pull", "push"]

[[rule]]
name = "certificates may list"
subjects = ["certificate"]
actions = ["list"]

[[rule]]
name = "alice pulls"
subjects = ["user:alice"]
repositories = ["team/**"]
actions = ["pull"]

[[rule]]
name = "what is public is"
subjects = ["everyone"]
repositories = ["public/**"]
actions = ["pull"]
"#;

const PUSH: &str = "/v2/team/app/blobs/uploads/";

/// A registry with this policy, and a user whose password is `secret`.
struct MutualTlsServer {
    scenario: TlsScenario,
    clients: TestCa,
    server: Server,
}

impl MutualTlsServer {
    async fn start() -> Self {
        let clients = TestCa::new();
        let mut scenario = TlsScenario::asking(&clients);
        scenario.write("policy.toml", POLICY);
        add_user(&scenario.path("users").display().to_string());
        scenario.settings.policy = Some(scenario.path("policy.toml").display().to_string());
        scenario.settings.htpasswd = Some(scenario.path("users").display().to_string());
        let server = scenario.serve().await;
        Self { scenario, clients, server }
    }

    async fn ask(&self, who: Option<&CertificateAndKey>, request: &str) -> String {
        let client = self.scenario.client();
        let client = who.map_or(client.clone(), |who| client.identity(who));
        exchange(client.connect(self.server.address).await.unwrap(), request).await
    }

    async fn status(
        &self,
        who: Option<&CertificateAndKey>,
        method: &str,
        path: &str,
        headers: &str,
    ) -> u16 {
        let response = self.ask(who, &request(method, path, headers)).await;
        response.split(' ').nth(1).unwrap().parse().unwrap()
    }

    /// A token for pushing, with a client certificate or other credentials.
    async fn token(&self, who: Option<&CertificateAndKey>, headers: &str) -> String {
        let path = "/token?service=jreg&scope=repository:team/app:pull,push";
        let response = self.ask(who, &request("GET", path, headers)).await;
        let body = response.split_once("\r\n\r\n").unwrap().1;
        let body: Value = serde_json::from_str(body).unwrap();
        format!("Authorization: Bearer {}\r\n", body["token"].as_str().unwrap())
    }
}

fn add_user(file: &str) {
    let mut adding = Command::new(env!("CARGO_BIN_EXE_jreg"))
        .args(["user", "add", "alice", "--password-stdin", "--file", file])
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    adding.stdin.take().unwrap().write_all(b"secret").unwrap();
    assert!(adding.wait().unwrap().success());
}

fn basic(password: &str) -> String {
    format!("Authorization: Basic {}\r\n", STANDARD.encode(format!("alice:{password}")))
}

#[tokio::test]
async fn rules_are_about_common_names_and_uris() {
    let registry = MutualTlsServer::start().await;
    let builder = registry.clients.client(Some("builder"), &[]);
    let workload = registry.clients.client(None, &["spiffe://test/ci"]);
    let other = registry.clients.client(Some("other"), &["spiffe://test/other"]);
    let anonymous = registry.clients.client(None, &[]);
    for (who, enter, push, list) in [
        (Some(&builder), 200, 202, 200),
        (Some(&workload), 200, 202, 200),
        (Some(&other), 200, 403, 200),
        (Some(&anonymous), 401, 401, 401),
        (None, 401, 401, 401),
    ] {
        let statuses = (
            registry.status(who, "GET", "/v2/", "").await,
            registry.status(who, "POST", PUSH, "").await,
            registry.status(who, "GET", "/v2/_catalog", "").await,
        );
        assert_eq!(statuses, (enter, push, list));
    }
}

#[tokio::test]
async fn other_credentials_go_before_a_certificate() {
    let registry = MutualTlsServer::start().await;
    let builder = registry.clients.client(Some("builder"), &[]);
    let who = Some(&builder);
    let (right, wrong) = (&basic("secret"), &basic("wrong"));
    assert_eq!(registry.status(who, "POST", PUSH, right).await, 403, "alice may not");
    assert_eq!(registry.status(who, "GET", "/v2/_catalog", right).await, 403, "nor list");
    assert_eq!(registry.status(who, "POST", PUSH, wrong).await, 401);
    let token = &registry.token(who, right).await;
    assert_eq!(registry.status(who, "POST", PUSH, token).await, 403, "a token of alice's");
}

#[tokio::test]
async fn a_token_for_a_certificate_is_good_only_with_it() {
    let registry = MutualTlsServer::start().await;
    let builder = registry.clients.client(Some("builder"), &[]);
    let renewed = registry.clients.client(Some("builder"), &[]);
    let other = registry.clients.client(Some("other"), &[]);
    let token = &registry.token(Some(&builder), "").await;
    assert_eq!(registry.status(Some(&builder), "POST", PUSH, token).await, 202);
    assert_eq!(registry.status(Some(&renewed), "POST", PUSH, token).await, 202);
    assert_eq!(registry.status(Some(&other), "POST", PUSH, token).await, 401);
    assert_eq!(registry.status(None, "POST", PUSH, token).await, 401);
}

#[tokio::test]
async fn a_challenge_sends_clients_on_by_https() {
    let registry = MutualTlsServer::start().await;
    let response = registry.ask(None, &request("GET", "/v2/", "")).await;
    let challenge = "www-authenticate: Bearer realm=\"https://registry.test/token\",";
    assert!(response.contains(challenge), "{response}");
    // Also over HTTP/2, where the host is in `:authority`.
    let stream = registry.scenario.client().protocols(&["h2"]);
    let stream = stream.connect(registry.server.address).await.unwrap();
    let io = hyper_util::rt::TokioIo::new(stream);
    let executor = hyper_util::rt::TokioExecutor::new();
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(executor, io).await.unwrap();
    tokio::spawn(connection);
    let request = http::Request::get("https://other.test:8443/v2/");
    let request = request.body(http_body_util::Empty::<bytes::Bytes>::new()).unwrap();
    let response = sender.send_request(request).await.unwrap();
    let challenge = response.headers()["www-authenticate"].to_str().unwrap();
    assert!(
        challenge.starts_with("Bearer realm=\"https://other.test:8443/token\","),
        "{challenge}"
    );
}
