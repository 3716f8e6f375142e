//! Where the binary finds bucket credentials: each source in docs/s3.md, from the environment to a
//! signed request; expiring credentials are replaced in time.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use jreg_testkit::Process;
use jreg_testkit::credentials::{
    CredentialServer, IDENTITY_TOKEN, ROLE_ARN, SSO_TOKEN, TemporaryKeys,
};
use jreg_testkit::s3::{RecordedRequest, S3Server, S3Spec};
use tempfile::TempDir;

const PROGRAM: &str = env!("CARGO_BIN_EXE_jreg");
const HOUR: Duration = Duration::from_secs(3600);

/// Polling interval for replaced keys.
const LOOKS_MAX: u32 = 500;

type Environment = Vec<(&'static str, String)>;

/// A bucket, a credentials endpoint, and a folder for files that name it.
struct CredentialScenario {
    bucket: S3Server,
    keys: CredentialServer,
    folder: TempDir,
}

impl CredentialScenario {
    async fn plain(lifetime: Duration) -> Self {
        let bucket = S3Server::start(S3Spec::default()).await;
        let keys = CredentialServer::start(temporary(&bucket, lifetime)).await;
        Self { bucket, keys, folder: tempfile::tempdir().unwrap() }
    }

    async fn with_tls(lifetime: Duration) -> Self {
        let bucket = S3Server::start(S3Spec::default()).await;
        let keys = CredentialServer::start_with_tls(temporary(&bucket, lifetime)).await;
        Self { bucket, keys, folder: tempfile::tempdir().unwrap() }
    }

    fn file(&self, name: &str, content: &str) -> PathBuf {
        let path = self.folder.path().join(name);
        std::fs::write(&path, content).unwrap();
        path
    }

    fn token_file(&self) -> String {
        self.file("token", IDENTITY_TOKEN).display().to_string()
    }

    /// As EKS sets it for a service account with a role.
    fn web_identity(&self) -> Environment {
        vec![
            ("AWS_WEB_IDENTITY_TOKEN_FILE", self.token_file()),
            ("AWS_ROLE_ARN", ROLE_ARN.to_owned()),
            ("AWS_ENDPOINT_URL_STS", self.keys.endpoint()),
        ]
    }

    /// As EKS sets it for a pod identity.
    fn pod_identity(&self) -> Environment {
        vec![
            ("AWS_CONTAINER_CREDENTIALS_FULL_URI", self.keys.container_url()),
            ("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", self.token_file()),
        ]
    }

    fn instance(&self) -> Environment {
        vec![("AWS_METADATA_ENDPOINT", self.keys.endpoint())]
    }

    fn storage(&self) -> String {
        let url = self.bucket.storage_url();
        match self.keys.certificate() {
            None => url,
            Some(pem) => format!("{url}&ca_file={}", self.file("ca.pem", pem).display()),
        }
    }

    async fn start(&self, environment: Environment) -> Process {
        let storage = self.storage();
        let start = move || {
            let environment: Vec<_> =
                environment.iter().map(|(name, value)| (*name, value.as_str())).collect();
            Process::start_with_environment(PROGRAM, &storage, &environment)
        };
        tokio::task::spawn_blocking(start).await.unwrap()
    }

    /// Starts with long-lived keys: they are fetched once, and sign everything.
    async fn assert_asked_once(&self, environment: Environment) {
        let program = self.start(environment).await;
        assert_eq!(program.client().get("/readyz").await.status, 200);
        let requests = self.bucket.take_requests();
        assert!(!requests.is_empty());
        assert!(requests.iter().all(|request| signed_token(request) == Some("session-1")));
        assert_eq!(self.keys.issued(), 1);
    }

    /// Starts with credentials that expire in a few minutes: they are replaced long before that.
    async fn assert_replaced(&self, environment: Environment) {
        let program = self.start(environment).await;
        for _ in 0..LOOKS_MAX {
            program.client().get("/v2/a/manifests/none").await;
            let tokens = self.bucket.take_requests();
            assert!(tokens.iter().all(|request| request.status != Some(403)));
            if tokens.iter().filter_map(signed_token).any(|token| token != "session-1") {
                return;
            }
        }
        panic!("the keys were never replaced");
    }
}

fn temporary(bucket: &S3Server, lifetime: Duration) -> TemporaryKeys {
    let (access_key, secret_key) = (bucket.access_key().into(), bucket.secret_key().into());
    TemporaryKeys { access_key, secret_key, lifetime }
}

/// The session token of a request, if the signature covers it.
fn signed_token(request: &RecordedRequest) -> Option<&str> {
    let signature = request.header("authorization")?;
    signature.contains("x-amz-security-token").then(|| request.header("x-amz-security-token"))?
}

fn given(bucket: &S3Server, names: [&'static str; 3]) -> Environment {
    let [key_id, secret, token] = names;
    vec![
        (key_id, bucket.access_key().to_owned()),
        (secret, bucket.secret_key().to_owned()),
        (token, "session-1".to_owned()),
    ]
}

async fn assert_keys_in(names: [&'static str; 3]) {
    let scenario = CredentialScenario::plain(HOUR).await;
    let program = scenario.start(given(&scenario.bucket, names)).await;
    assert_eq!(program.client().get("/readyz").await.status, 200);
    let requests = scenario.bucket.take_requests();
    assert!(requests.iter().all(|request| signed_token(request) == Some("session-1")));
    assert_eq!(scenario.keys.issued(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_taken_from_the_settings() {
    assert_keys_in(["JREG_S3_ACCESS_KEY_ID", "JREG_S3_SECRET_ACCESS_KEY", "JREG_S3_SESSION_TOKEN"])
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_taken_from_the_environment() {
    assert_keys_in(["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_had_for_a_web_identity() {
    let scenario = CredentialScenario::with_tls(HOUR).await;
    scenario.assert_asked_once(scenario.web_identity()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_had_for_a_pod_identity() {
    let scenario = CredentialScenario::plain(HOUR).await;
    scenario.assert_asked_once(scenario.pod_identity()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_had_from_the_metadata_of_an_instance() {
    let scenario = CredentialScenario::plain(HOUR).await;
    scenario.assert_asked_once(scenario.instance()).await;
}

/// The environment of a home folder with these files.
fn home(scenario: &CredentialScenario, files: &[(&str, String)]) -> Environment {
    for (name, text) in files {
        let path = scenario.folder.path().join(".aws").join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }
    vec![("HOME", scenario.folder.path().display().to_string())]
}

fn keys_in_a_file(bucket: &S3Server) -> String {
    let (id, secret) = (bucket.access_key(), bucket.secret_key());
    format!(
        "[default]\naws_access_key_id = {id}\naws_secret_access_key = {secret}\n\
         aws_session_token = session-1\n"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_taken_from_the_default_profile() {
    let scenario = CredentialScenario::plain(HOUR).await;
    let environment = home(&scenario, &[("credentials", keys_in_a_file(&scenario.bucket))]);
    let program = scenario.start(environment).await;
    assert_eq!(program.client().get("/readyz").await.status, 200);
    let requests = scenario.bucket.take_requests();
    assert!(!requests.is_empty());
    assert!(requests.iter().all(|request| signed_token(request) == Some("session-1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_had_from_a_credential_process() {
    let scenario = CredentialScenario::plain(HOUR).await;
    let keys = serde_json::json!({
        "Version": 1, "AccessKeyId": scenario.bucket.access_key(),
        "SecretAccessKey": scenario.bucket.secret_key(), "SessionToken": "session-1",
        "Expiration": "2999-01-01T00:00:00Z",
    });
    let file = scenario.file("keys.json", &keys.to_string());
    let config = format!("[profile dev]\ncredential_process = cat {}\n", file.display());
    let mut environment = home(&scenario, &[("config", config)]);
    environment.push(("AWS_PROFILE", "dev".to_owned()));
    environment.push(("PATH", std::env::var("PATH").unwrap()));
    let program = scenario.start(environment).await;
    assert_eq!(program.client().get("/readyz").await.status, 200);
    let requests = scenario.bucket.take_requests();
    assert!(requests.iter().all(|request| signed_token(request) == Some("session-1")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_had_for_a_session_of_identity_center() {
    let scenario = CredentialScenario::plain(HOUR).await;
    let config = "[default]\nsso_session = corp\nsso_account_id = 111122223333\nsso_role_name = jreg\n\
                  [sso-session corp]\nsso_region = eu-central-1\nsso_start_url = https://corp.test\n";
    // The SHA-1 of the session's name.
    let token = "sso/cache/ee0bfd2552fbd840c02cc48b6e823320543c450f.json".to_owned();
    let session = |ends: &str| format!(r#"{{"accessToken":"{SSO_TOKEN}","expiresAt":"{ends}"}}"#);
    let files = [("config", config.to_owned()), (&token, session("2999-01-01T00:00:00Z"))];
    let mut environment = home(&scenario, &files);
    environment.push(("AWS_ENDPOINT_URL_SSO", scenario.keys.endpoint()));
    scenario.assert_asked_once(environment.clone()).await;

    home(&scenario, &[(&token, session("2020-01-01T00:00:00Z"))]);
    let mut program = Command::new(PROGRAM);
    program.args(["gc", "--storage", &scenario.storage()]).env_clear();
    program
        .env("JREG_S3_REQUEST_BUDGET", "1s")
        .envs(environment.iter().map(|(name, value)| (*name, value.as_str())));
    let output = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("run aws sso login --profile default"), "{text}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_are_had_for_a_role_of_another_profile() {
    let scenario = CredentialScenario::plain(HOUR).await;
    let config = format!("[profile dev]\nrole_arn = {ROLE_ARN}\nsource_profile = default\n");
    let files = [("config", config), ("credentials", keys_in_a_file(&scenario.bucket))];
    let mut environment = home(&scenario, &files);
    environment.push(("AWS_PROFILE", "dev".to_owned()));
    environment.push(("AWS_ENDPOINT_URL_STS", scenario.keys.endpoint()));
    scenario.assert_asked_once(environment).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_profile_that_is_named_and_absent_is_an_error() {
    let scenario = CredentialScenario::plain(HOUR).await;
    let environment = home(&scenario, &[("credentials", keys_in_a_file(&scenario.bucket))]);
    let mut program = Command::new(PROGRAM);
    program.args(["gc", "--storage", &scenario.storage()]).env_clear();
    program.envs(environment.iter().map(|(name, value)| (*name, value.as_str())));
    let output = program.env("AWS_PROFILE", "nowhere").output().unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(text.contains("there is no profile nowhere"), "{text}");
}

const SOON: Duration = Duration::from_secs(200);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_web_identity_are_replaced_before_they_expire() {
    let scenario = CredentialScenario::with_tls(SOON).await;
    scenario.assert_replaced(scenario.web_identity()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_a_pod_identity_are_replaced_before_they_expire() {
    let scenario = CredentialScenario::plain(SOON).await;
    scenario.assert_replaced(scenario.pod_identity()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_of_an_instance_are_replaced_before_they_expire() {
    let scenario = CredentialScenario::plain(SOON).await;
    scenario.assert_replaced(scenario.instance()).await;
}

/// Until they expire the previous ones are used.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_cannot_be_replaced_are_used_until_they_end() {
    let scenario = CredentialScenario::plain(SOON).await;
    let program = scenario.start(scenario.pod_identity()).await;
    scenario.keys.fail();
    let client = program.client();
    for _ in 0..LOOKS_MAX {
        let asked = scenario.keys.failures() > 0;
        assert_eq!(client.get("/v2/a/manifests/none").await.status, 404);
        if asked {
            return;
        }
    }
    panic!("others were never asked for");
}

/// Configured keys take precedence over those of the platform.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keys_that_were_given_come_before_all_that_are_had_from_somewhere() {
    let scenario = CredentialScenario::plain(HOUR).await;
    let names = ["AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"];
    let environment =
        [given(&scenario.bucket, names), scenario.pod_identity(), scenario.instance()];
    let program = scenario.start(environment.concat()).await;
    assert_eq!(program.client().get("/readyz").await.status, 200);
    assert_eq!(scenario.keys.issued(), 0);
}

/// Without configuration and with a silent metadata service, as outside of a cloud.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_credentials_it_is_told_what_was_tried() {
    let scenario = CredentialScenario::plain(HOUR).await;
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", silent.local_addr().unwrap());
    for command in [&["serve", "--listen", "127.0.0.1:0"][..], &["gc"], &["fsck"]] {
        let mut program = Command::new(PROGRAM);
        program.args(command).args(["--storage", &scenario.storage()]).env_clear();
        program.env("AWS_METADATA_ENDPOINT", &endpoint).env("AWS_ROLE_ARN", ROLE_ARN);
        let output = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success());
        for source in [
            "settings (s3-access-key-id",
            "environment (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY: not set)",
            "web identity (AWS_WEB_IDENTITY_TOKEN_FILE: not set)",
            "container (ECS) (AWS_CONTAINER_CREDENTIALS_RELATIVE_URI: not set)",
            &format!("instance metadata ({endpoint}): no response within 0.8 s"),
        ] {
            assert!(text.contains(source), "{source}: {text}");
        }
        assert!(scenario.bucket.requests().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_token_file_that_is_missing_is_named() {
    let scenario = CredentialScenario::plain(HOUR).await;
    let mut program = Command::new(PROGRAM);
    program
        .args(["serve", "--listen", "127.0.0.1:0", "--s3-request-budget", "1s"])
        .args(["--storage", &scenario.storage()])
        .env_clear()
        .env("AWS_CONTAINER_CREDENTIALS_FULL_URI", scenario.keys.container_url())
        .env("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "/nowhere/token");
    let output = tokio::task::spawn_blocking(move || program.output().unwrap()).await.unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(text.contains("/nowhere/token"), "{text}");
    assert!(scenario.bucket.requests().is_empty());
}
