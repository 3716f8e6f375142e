//! A registry with users, access tokens, issuers and a manual clock.

use std::net::IpAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use base64::Engine;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::BodyExt;
use jreg_access::{AccessTokenStore, JwksFetchError, JwksFetcher};
use jreg_auth::{ClientCertificate, CodeRequest, parse_permissions};
use jreg_config::Settings;
use jreg_net::server::{Body, Peer, Secured};
use jreg_oci::{Algorithm, Digest};
use jreg_storage::testing::{ManualClock, RecordingStore};
use jreg_storage::{Clock, MemoryStore, Store};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::provider::Provider;
use crate::app::App;
use crate::error::StartError;

/// The digest of bytes.
pub(crate) fn hash_of(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

/// A Basic `Authorization` header.
pub(crate) fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// A Bearer `Authorization` header.
pub(crate) fn bearer(token: &str) -> String {
    format!("Bearer {token}")
}

/// An issuer that signs tokens and publishes keys.
#[derive(Debug)]
pub(crate) struct Forge {
    /// The last one is in use. Without an id, it is published and named without one.
    keys: Mutex<Vec<(Option<String>, EcdsaKeyPair)>>,
    /// The status code of the JWKS URL, instead of the keys.
    pub(crate) outage: Mutex<Option<u16>>,
    /// Number of key fetches.
    pub(crate) fetches: AtomicUsize,
    /// Blocks fetches while a test holds the write lock.
    pub(crate) slow: tokio::sync::RwLock<()>,
    /// What it is as an OpenID provider.
    pub(crate) provider: Provider,
}

fn new_pair() -> EcdsaKeyPair {
    let (random, algorithm) = (SystemRandom::new(), &ECDSA_P256_SHA256_FIXED_SIGNING);
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap()
}

impl Forge {
    fn new() -> Self {
        let keys = Mutex::new(vec![(Some("k0".to_owned()), new_pair())]);
        let (outage, fetches, slow, provider) = Default::default();
        Self { keys, outage, fetches, slow, provider }
    }

    /// Replaces the signing key, and publishes only the new one.
    pub(crate) fn rotate(&self) {
        let kid = format!("k{}", self.keys.lock().unwrap().len());
        self.rotate_to(Some(&kid));
    }

    /// The same with a key of this id.
    pub(crate) fn rotate_to(&self, kid: Option<&str>) {
        self.keys.lock().unwrap().push((kid.map(str::to_owned), new_pair()));
    }

    fn published(&self) -> Value {
        let keys = self.keys.lock().unwrap();
        let (kid, pair) = keys.last().unwrap();
        let point = pair.public_key().as_ref();
        let part = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
        let (x, y) = (part(&point[1..33]), part(&point[33..]));
        let mut key = json!({ "kty": "EC", "crv": "P-256", "x": x, "y": y });
        if let Some(kid) = kid {
            key["kid"] = kid.as_str().into();
        }
        json!({ "keys": [key] })
    }

    /// A token with these claims.
    pub(crate) fn sign(&self, claims: &Value) -> String {
        let keys = self.keys.lock().unwrap();
        let (kid, pair) = keys.last().unwrap();
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let mut header = json!({ "alg": "ES256" });
        if let Some(kid) = kid {
            header["kid"] = kid.as_str().into();
        }
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

#[async_trait::async_trait]
impl JwksFetcher for Forge {
    async fn fetch(&self, url: &str) -> Result<Vec<u8>, JwksFetchError> {
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let _held = self.slow.read().await;
        if let Some(status) = *self.outage.lock().unwrap() {
            return Err(JwksFetchError::Status(status));
        }
        let found = self.provider.description(url).unwrap_or_else(|| self.published());
        Ok(found.to_string().into_bytes())
    }

    async fn post_form(&self, request: &CodeRequest) -> Result<(u16, Vec<u8>), JwksFetchError> {
        let _held = self.slow.read().await;
        if let Some(status) = *self.outage.lock().unwrap() {
            return Err(JwksFetchError::Status(status));
        }
        let (status, body) = self.provider.exchange(request, |claims| self.sign(claims));
        Ok((status, body.into_bytes()))
    }
}

#[derive(Debug)]
pub(crate) struct ReceivedResponse {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Vec<u8>,
}

impl ReceivedResponse {
    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_default()
    }

    pub(crate) fn challenge(&self) -> &str {
        self.headers.get("www-authenticate").map_or("", |value| value.to_str().unwrap())
    }
}

/// Sends a request to an instance.
pub(crate) async fn send(app: &App, request: Request<Body>) -> ReceivedResponse {
    let response = app.api().respond(request).await;
    let (parts, body) = response.into_parts();
    let body = body.collect().await.unwrap().to_bytes().to_vec();
    ReceivedResponse { status: parts.status, headers: parts.headers, body }
}

/// Three instances of a registry with authentication.
pub(crate) struct Registry {
    pub(crate) apps: Vec<App>,
    pub(crate) store: Arc<dyn Store>,
    /// The same store, which records the requests to it.
    pub(crate) recorded: Arc<RecordingStore>,
    pub(crate) clock: Arc<ManualClock>,
    pub(crate) forge: Arc<Forge>,
    settings: Settings,
    pub(crate) folder: TempDir,
    /// An access token with all rights below `open` and `closed`.
    pub(crate) access_token: String,
    /// A revoked access token.
    pub(crate) revoked: String,
    /// A token of the issuer `ci`.
    pub(crate) workload: String,
}

const INSTANCES: usize = 3;

impl Registry {
    /// Two issuers: one for identities, one external token service.
    pub(crate) fn issuers() -> String {
        let issuer = |name: &str, more: &str| {
            format!(
                "[[issuer]]\nname = '{name}'\nissuer = 'https://{name}'\naudience = 'us'\n\
                 jwks-url = 'https://{name}/keys'\n{more}\n"
            )
        };
        issuer("ci", "identity = '{repository}'") + &issuer("hub", "access = 'claim'")
    }

    /// With the user alice, whose password is `secret`, and this policy.
    pub(crate) async fn with_policy(rules: &str) -> Self {
        Self::with(Some(rules), |_| {}).await
    }

    /// The same with other settings; `None`: no policy.
    pub(crate) async fn with(rules: Option<&str>, change: impl FnOnce(&mut Settings)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let users = folder.path().join("users");
        let hash = bcrypt::hash("secret", 4).unwrap();
        std::fs::write(&users, format!("alice:{hash}\n")).unwrap();
        let mut settings =
            Settings { htpasswd: Some(users.display().to_string()), ..Settings::default() };
        if let Some(rules) = rules {
            let policy = folder.path().join("policy.toml");
            std::fs::write(&policy, rules).unwrap();
            settings.policy = Some(policy.display().to_string());
        }
        change(&mut settings);
        let recorded = Arc::new(RecordingStore::new(Arc::new(MemoryStore::new())));
        let store = Arc::clone(&recorded) as Arc<dyn Store>;
        seed(&store).await;
        let clock = Arc::new(ManualClock::default());
        let forge = Arc::new(Forge::new());
        let access_tokens = AccessTokenStore::new(Arc::clone(&store), clock.clone());
        let all =
            || parse_permissions("pull,push,delete:open/** pull,push,delete:closed/**").unwrap();
        let (access_token, _, _) = access_tokens.create("ci", all(), None).await.unwrap();
        let (revoked, id, _) = access_tokens.create("old", all(), None).await.unwrap();
        access_tokens.revoke(&id).await.unwrap();
        let workload = forge.sign(&claims("ci", &*clock, &json!({ "repository": "acme/app" })));
        let apps = Vec::new();
        let mut registry = Self {
            apps,
            settings,
            store,
            recorded,
            clock,
            forge,
            folder,
            access_token,
            revoked,
            workload,
        };
        for _ in 0..INSTANCES {
            registry.apps.push(registry.start_instance().await.unwrap());
        }
        registry
    }

    /// One more instance.
    pub(crate) async fn start_instance(&self) -> Result<App, StartError> {
        let forge = Arc::clone(&self.forge) as Arc<dyn JwksFetcher>;
        let (store, clock) = (Arc::clone(&self.store), self.clock.clone());
        App::build_with(self.settings.clone(), store, clock, forge).await
    }

    /// A token of the external token service `hub`.
    pub(crate) fn access(&self, name: &str, actions: &[String]) -> String {
        let access = json!([
            { "type": "repository", "name": name, "actions": actions },
            { "type": "registry", "name": "catalog", "actions": ["*"] },
        ]);
        let claims = claims("hub", &*self.clock, &json!({ "sub": "somebody", "access": access }));
        self.forge.sign(&claims)
    }

    /// Sends a request to the first instance.
    pub(crate) async fn send(
        &self,
        method: &str,
        target: &str,
        header: Option<&str>,
    ) -> ReceivedResponse {
        self.send_to(0, method, target, header).await
    }

    /// Sends a request to one of the instances.
    pub(crate) async fn send_to(
        &self,
        instance: usize,
        method: &str,
        target: &str,
        header: Option<&str>,
    ) -> ReceivedResponse {
        let mut request = Request::builder().method(method).uri(target).header("Host", "test");
        if let Some(header) = header {
            request = request.header("Authorization", header);
        }
        send(&self.apps[instance], request.body(Body::from("x")).unwrap()).await
    }

    /// Sends a request to the first instance over TLS, as a client whose certificate has a name.
    pub(crate) async fn send_as(
        &self,
        common_name: &str,
        method: &str,
        target: &str,
        header: Option<&str>,
    ) -> ReceivedResponse {
        let certificate = ClientCertificate {
            common_name: Some(common_name.to_owned()),
            ..ClientCertificate::default()
        };
        let secured = Secured { certificate: Some(Arc::new(certificate)) };
        let mut request = Request::builder().method(method).uri(target).header("Host", "test");
        if let Some(header) = header {
            request = request.header("Authorization", header);
        }
        send(&self.apps[0], request.extension(secured).body(Body::from("x")).unwrap()).await
    }

    /// Sends a GET to the first instance from an address.
    pub(crate) async fn send_from(
        &self,
        address: &str,
        target: &str,
        header: Option<&str>,
    ) -> ReceivedResponse {
        let peer = Peer((address.parse::<IpAddr>().unwrap(), 1234).into());
        let mut request = Request::builder().uri(target).header("Host", "test").extension(peer);
        if let Some(header) = header {
            request = request.header("Authorization", header);
        }
        send(&self.apps[0], request.body(Body::empty()).unwrap()).await
    }

    /// Sends a form to `/token` of one of the instances.
    pub(crate) async fn post(&self, instance: usize, form: &str) -> ReceivedResponse {
        let request = Request::builder().method("POST").uri("/token").header("Host", "test");
        let request = request.header("Content-Type", "application/x-www-form-urlencoded");
        send(&self.apps[instance], request.body(Body::from(form.to_owned())).unwrap()).await
    }

    /// A token from the first instance, or the status code of the refusal.
    pub(crate) async fn token(&self, header: Option<&str>, scope: &str) -> Result<String, u16> {
        let response = self.send("GET", &token_target(scope), header).await;
        match response.json()["token"].as_str() {
            Some(token) => Ok(token.to_owned()),
            None => Err(response.status.as_u16()),
        }
    }

    /// Changes the content of a configuration file.
    pub(crate) fn write(&self, file: &str, text: &str) {
        let path = self.folder.path().join(file);
        let new = path.with_extension("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(&new, &path).unwrap();
        self.reload();
    }

    /// Reloads the files of every instance: a change is loaded when it is found twice.
    pub(crate) fn reload(&self) {
        for guard in self.apps.iter().filter_map(|app| app.guard()) {
            let (first, _) = (guard.reload(), guard.reload());
            assert!(first.is_empty());
        }
    }
}

/// A request to the token endpoint.
pub(crate) fn token_target(scope: &str) -> String {
    let scopes: String = form_urlencoded::Serializer::new(String::new())
        .append_pair("service", "jreg")
        .append_pair("scope", scope)
        .finish();
    format!("/token?{scopes}")
}

/// Claims of an issuer's token, valid for ten minutes, with further ones.
pub(crate) fn claims(issuer: &str, clock: &dyn Clock, more: &Value) -> Value {
    let now = seconds(clock.now());
    let mut claims =
        json!({ "iss": format!("https://{issuer}"), "aud": "us", "exp": now + 600, "sub": "s" });
    for (name, value) in more.as_object().unwrap() {
        claims[name] = value.clone();
    }
    claims
}

pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs()
}

pub(crate) const INDEX: &str =
    r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;

/// Content in an open and in a closed repository.
async fn seed(store: &Arc<dyn Store>) {
    let app = App::build(Settings::default(), Arc::clone(store)).await.unwrap();
    for name in ["open/app", "closed/app", "always/open"] {
        let blob = format!("/v2/{name}/blobs/uploads/?digest={}", hash_of(b"x"));
        let manifest = format!("/v2/{name}/manifests/latest");
        for (method, target, body) in [("POST", blob, "x"), ("PUT", manifest, INDEX)] {
            let request = Request::builder().method(method).uri(target).header("Host", "test");
            let response = send(&app, request.body(Body::from(body)).unwrap()).await;
            assert_eq!(response.status, StatusCode::CREATED, "{}", response.text());
        }
    }
}
