//! What is not content: health, metrics, documents. Fixed paths, all of them in [`ROUTES`].

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jreg_net::server::{Body, Request, Response};
use jreg_oci::ErrorCode;
use jreg_storage::error_chain;
use jreg_telemetry::metrics::OPENMETRICS;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::ApiError;
use super::exchange::ObservedRequest;
use super::{Context, headers, memory, token};

/// How long an answer of the store to "are you there?" is good for.
const READINESS_AGE_MAX: Duration = Duration::from_secs(1);
/// How long the store may take for it.
const READINESS_WAIT_MAX: Duration = Duration::from_secs(5);

/// One fixed path.
#[derive(Debug)]
pub struct Route {
    /// Its path.
    pub path: &'static str,
    /// Its name in logs and metrics.
    pub id: &'static str,
    document: Document,
}

/// What is served at a fixed path.
#[derive(Clone, Copy, Debug)]
enum Document {
    Root,
    Live,
    Ready,
    Metrics,
    Token,
    OpenApi,
}

/// Every fixed path.
pub const ROUTES: &[Route] = &[
    Route { path: "/", id: "root", document: Document::Root },
    Route { path: "/livez", id: "livez", document: Document::Live },
    Route { path: "/readyz", id: "readyz", document: Document::Ready },
    Route { path: "/health", id: "health", document: Document::Live },
    Route { path: "/ready", id: "ready", document: Document::Ready },
    Route { path: "/metrics", id: "metrics", document: Document::Metrics },
    Route { path: "/token", id: "token", document: Document::Token },
    Route { path: "/openapi.yaml", id: "openapi", document: Document::OpenApi },
];

/// What is served at a path, if it is one of [`ROUTES`].
pub(super) fn route(path: &str) -> Option<&'static Route> {
    ROUTES.iter().find(|route| route.path == path)
}

impl Route {
    /// Responds to a request for its path.
    pub(super) async fn respond(
        &self,
        context: &Arc<Context>,
        exchange: &Arc<ObservedRequest>,
        request: Request,
    ) -> Response {
        let allowed = self.methods();
        if !allowed.contains(request.method()) {
            let allowed: Vec<_> = allowed.iter().map(Method::as_str).collect();
            let refused = ApiError::method_not_allowed(&allowed.join(", "));
            return refused.render(context, exchange);
        }
        match self.document {
            Document::Root => text("text/plain; charset=utf-8", ROOT),
            Document::Live => live(),
            Document::Ready => ready(context, exchange).await,
            Document::Metrics => metrics(context, exchange, request.headers()),
            Document::Token => token::respond(context, exchange, request).await,
            Document::OpenApi => text("application/yaml", OPENAPI),
        }
    }

    fn methods(&self) -> &'static [Method] {
        match self.document {
            Document::Token => &[Method::GET, Method::HEAD, Method::POST],
            Document::Root
            | Document::Live
            | Document::Ready
            | Document::Metrics
            | Document::OpenApi => &[Method::GET, Method::HEAD],
        }
    }
}

/// The name of a path in logs and metrics, if it is one of [`ROUTES`].
pub(super) fn endpoint_id(path: &str) -> Option<&'static str> {
    route(path).map(|route| route.id)
}

/// Whether machines ask for this path every few seconds.
pub(super) fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/health" | "/ready" | "/metrics")
}

const OPENAPI: &str = include_str!("../../../docs/openapi.yaml");

const ROOT: &str = concat!(
    "jreg ",
    env!("CARGO_PKG_VERSION"),
    ": an OCI registry

  docker push <this address>/<name>:<tag>
  docker pull <this address>/<name>:<tag>

/v2/            the registry's API
/token          tokens for those who log in, if that is on
/openapi.yaml   what it takes and answers
/livez /readyz  health
/metrics        for Prometheus
"
);

fn text(content_type: &'static str, body: impl Into<Body>) -> Response {
    let mut response = Response::new(body.into());
    let content_type = HeaderValue::from_static(content_type);
    response.headers_mut().insert(header::CONTENT_TYPE, content_type);
    response
}

fn live() -> Response {
    headers::json(headers::JSON, &json!({ "status": "ok" }))
}

async fn ready(context: &Arc<Context>, exchange: &ObservedRequest) -> Response {
    match context.readiness.check(context).await {
        Ok(()) => headers::json(headers::JSON, &json!({ "status": "ok" })),
        Err(reason) => {
            let unavailable = StatusCode::SERVICE_UNAVAILABLE;
            ApiError::internal(unavailable, ErrorCode::Unavailable, reason)
                .render(context, exchange)
        }
    }
}

fn metrics(context: &Arc<Context>, exchange: &ObservedRequest, request: &HeaderMap) -> Response {
    let accept = request.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let content_type = if accept.is_some_and(|accept| accept.contains(OPENMETRICS)) {
        "application/openmetrics-text; version=1.0.0; charset=utf-8"
    } else {
        "text/plain; version=0.0.4; charset=utf-8"
    };
    context.metrics.set_manifest_buffer(context.manifest_room.usage());
    if let Some(guard) = &context.guard {
        context.metrics.set_budget("password_hashing", guard.hashing());
    }
    let response = text(content_type, context.metrics.render(&context.gate.usage()));
    let held = memory::hold_response(context, exchange, response);
    held.unwrap_or_else(|error| error.render(context, exchange))
}

/// The last answer of the store to "are you there?", so that many probes cost one request.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<ReadinessVerdict>>);

#[derive(Clone, Debug)]
struct ReadinessVerdict {
    at: Instant,
    result: Result<(), String>,
}

impl Readiness {
    async fn check(&self, context: &Context) -> Result<(), String> {
        if context.stopping.is_cancelled() {
            return Err("the server is stopping".to_owned());
        }
        let mut last = self.0.lock().await;
        match &*last {
            Some(verdict) if verdict.at.elapsed() < READINESS_AGE_MAX => verdict.result.clone(),
            Some(_) | None => {
                let result = ask(context).await;
                *last = Some(ReadinessVerdict { at: Instant::now(), result: result.clone() });
                result
            }
        }
    }
}

async fn ask(context: &Context) -> Result<(), String> {
    if context.tls.as_ref().is_some_and(|tls| tls.lacks_certificate()) {
        return Err("there is no TLS certificate yet".to_owned());
    }
    match tokio::time::timeout(READINESS_WAIT_MAX, context.gate.ready()).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(error)) => Err(error_chain(&error)),
        Err(_) => Err("the store does not answer".to_owned()),
    }
}
