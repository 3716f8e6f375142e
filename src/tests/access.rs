//! No operation runs without its right.
#![allow(clippy::unwrap_used)]

mod attacks;
mod audit;
mod browser;
mod connection;
mod failures;
mod guarded;
mod limits;
mod login;
mod matrix;
mod oidc;
mod pages;
mod provider;
mod proxies;
mod tokens;
mod workload;

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use http::{Request, StatusCode};
use http_body_util::BodyExt;
use jreg_access::*;
use jreg_auth::{DecisionReason, Identity};
use jreg_config::Settings;
use jreg_net::server::Body;
use jreg_oci::{Algorithm, Digest, Endpoint, Tag};
use jreg_storage::{MemoryStore, SystemClock};

use crate::app::App;

const CHALLENGE: &str = r#"Basic realm="jreg""#;

/// Grants rights by a function, and records the requested rights.
#[derive(Debug)]
struct Clerk {
    grants: fn(&Right) -> bool,
    asked: Mutex<Vec<Right>>,
}

impl Clerk {
    fn new(grants: fn(&Right) -> bool) -> Arc<Self> {
        Arc::new(Self { grants, asked: Mutex::default() })
    }

    fn asked(&self) -> Vec<Right> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

#[async_trait]
impl Authorizer for Clerk {
    async fn identify(
        &self,
        request_info: RequestInfo,
        _: &Right,
    ) -> Result<AuthContext, AuthError> {
        let clerk = Identity::named("clerk", jreg_auth::IdentitySource::Htpasswd);
        Ok(AuthContext::new(Principal::from_identity(clerk), request_info))
    }

    fn grant(&self, _: &AuthContext, right: &Right) -> Result<DecisionReason, AuthError> {
        self.asked.lock().unwrap().push(right.clone());
        if (self.grants)(right) {
            return Ok(DecisionReason::Open);
        }
        let reason = "the clerk says no".to_owned();
        let access = RefusedAccess::new(CredentialState::No, right);
        Err(AuthError::Unauthenticated { challenge: Some(CHALLENGE.to_owned()), access, reason })
    }

    fn grant_tag(
        &self,
        auth: &AuthContext,
        right: &Right,
        _: &Tag,
    ) -> Result<DecisionReason, AuthError> {
        self.grant(auth, right)
    }

    fn depends_on_tag(&self, _: &AuthContext, _: &Right) -> bool {
        false
    }
}

fn digest(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha256, bytes)
}

async fn app(clerk: Arc<Clerk>) -> App {
    let store = Arc::new(MemoryStore::new());
    App::build_guarded(Settings::default(), store, Arc::new(SystemClock::new()), clerk)
        .await
        .unwrap()
}

async fn send(app: &App, method: &str, target: &str, body: &'static str) -> Response {
    let request = Request::builder().method(method).uri(target).header("Host", "test");
    let request = request.body(Body::from(body)).unwrap();
    let response = app.api().respond(request).await;
    let (parts, body) = response.into_parts();
    Response { parts, body: body.collect().await.unwrap().to_bytes() }
}

struct Response {
    parts: http::response::Parts,
    body: bytes::Bytes,
}

/// A target for each operation, in repository `a/b`.
fn targets() -> impl Iterator<Item = (&'static str, &'static str, String)> {
    Endpoint::ALL.iter().flat_map(|info| {
        let digest = digest(b"x").to_string();
        let path = info.template.replace("{name}", "a/b").replace("{digest}", &digest);
        let path = path.replace("{reference}", "latest").replace("{tag}", "latest");
        let path = path.replace("{id}", "none");
        let query =
            if info.id == "upload_put" { format!("?digest={digest}") } else { String::new() };
        info.methods.iter().map(move |method| (info.id, *method, format!("{path}{query}")))
    })
}

#[tokio::test]
async fn every_operation_is_refused_to_those_without_its_right() {
    let clerk = Clerk::new(|_| false);
    let app = app(Arc::clone(&clerk)).await;
    for (id, method, target) in targets() {
        let response = send(&app, method, &target, "x").await;
        assert_eq!(response.parts.status, StatusCode::UNAUTHORIZED, "{id} {method} {target}");
        assert_eq!(response.parts.headers["www-authenticate"], CHALLENGE, "{id}");
        if method != "HEAD" {
            let body: serde_json::Value = serde_json::from_slice(&response.body).unwrap();
            assert_eq!(body["errors"][0]["code"], "UNAUTHORIZED", "{id}");
        }
        let endpoint =
            target.split_once('?').map_or((target.as_str(), None), |(p, q)| (p, Some(q)));
        let endpoint = Endpoint::parse(method, endpoint.0, endpoint.1).unwrap();
        assert_eq!(clerk.asked(), [right_of(&endpoint)], "{id}: asked once, and for its right");
    }
}

#[tokio::test]
async fn every_operation_goes_on_with_its_right() {
    let app = app(Clerk::new(|_| true)).await;
    for (id, method, target) in targets() {
        let status = send(&app, method, &target, "x").await.parts.status.as_u16();
        assert!(![401, 403].contains(&status) && status < 500, "{id} {method}: {status}");
    }
}

#[tokio::test]
async fn health_and_metrics_need_no_right() {
    let app = app(Clerk::new(|_| false)).await;
    for route in jreg_http::SERVICE_ROUTES.iter().filter(|route| route.path != "/token") {
        let response = send(&app, "GET", route.path, "").await;
        assert_eq!(response.parts.status, StatusCode::OK, "{}", route.path);
    }
}

/// Everything but pulling from repositories below `secret/`.
fn no_secrets(right: &Right) -> bool {
    !matches!(right, Right::Pull(name) | Right::See(name) | Right::Mount(name) if name.as_str().starts_with("secret/"))
}

#[tokio::test]
async fn c06_a_source_that_may_not_be_read_looks_like_one_that_is_missing() {
    let app = app(Clerk::new(no_secrets)).await;
    let (secret, open) = (digest(b"secret"), digest(b"open"));
    for (name, digest, bytes) in [("secret/a", &secret, "secret"), ("open/a", &open, "open")] {
        let target = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        assert_eq!(send(&app, "POST", &target, bytes).await.parts.status, StatusCode::CREATED);
    }
    for (query, status) in [
        (format!("mount={secret}&from=secret/a"), 202),
        (format!("mount={secret}&from=missing"), 202),
        (format!("mount={secret}"), 202),
        (format!("mount={open}&from=open/a"), 201),
        (format!("mount={open}"), 201),
    ] {
        let target = format!("/v2/mine/blobs/uploads/?{query}");
        assert_eq!(send(&app, "POST", &target, "").await.parts.status.as_u16(), status, "{query}");
    }
    let target = format!("/v2/mine/blobs/{secret}");
    assert_eq!(send(&app, "HEAD", &target, "").await.parts.status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn c21_the_catalog_leaves_out_what_may_not_be_read() {
    let app = app(Clerk::new(no_secrets)).await;
    for name in ["open/a", "secret/a"] {
        let target = format!("/v2/{name}/manifests/latest");
        let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
        let response = send(&app, "PUT", &target, manifest).await;
        assert_eq!(response.parts.status, StatusCode::CREATED, "{:?}", response.body);
    }
    let catalog = send(&app, "GET", "/v2/_catalog", "").await.body;
    assert_eq!(catalog, r#"{"repositories":["open/a"]}"#);
}

/// The cursor at the end of a page is a name, too.
#[tokio::test]
async fn c21_no_link_of_the_catalog_names_what_may_not_be_read() {
    let app = app(Clerk::new(no_secrets)).await;
    let manifest = r#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#;
    for name in ["open/a", "secret/a", "secret/b", "secret/c", "tail/a"] {
        let target = format!("/v2/{name}/manifests/latest");
        assert_eq!(send(&app, "PUT", &target, manifest).await.parts.status, StatusCode::CREATED);
    }
    for limit in 1..5 {
        let mut target = format!("/v2/_catalog?n={limit}");
        let mut names = String::new();
        for _ in 0..5 {
            let response = send(&app, "GET", &target, "").await;
            names += std::str::from_utf8(&response.body).unwrap();
            let Some(link) = response.parts.headers.get("link") else { break };
            let link = link.to_str().unwrap();
            assert!(!link.contains("secret"), "{link}");
            target = link.trim_start_matches('<').split_once('>').unwrap().0.to_owned();
        }
        assert_eq!(names.matches("open/a").count(), 1, "{names}");
        assert_eq!(names.matches("tail/a").count(), 1, "{names}");
    }
}
