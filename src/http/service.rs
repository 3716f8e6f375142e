//! What is not content: health, metrics, documents. Ordinary routes, all of them in [`ROUTES`].

use std::sync::Arc;
use std::time::Duration;

use axum::body::Body;
use axum::extract::{Extension, State};
use axum::response::Response;
use axum::routing::{MethodRouter, get};
use http::{HeaderMap, HeaderValue, StatusCode, header};
use jreg_oci::ErrorCode;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::Instant;

use super::error::ApiError;
use super::exchange::Exchange;
use super::{Context, headers, memory, token};
use crate::logging::chain;
use crate::metrics::OPENMETRICS;

/// How long an answer of the store to "are you there?" is good for.
const READINESS_AGE_MAX: Duration = Duration::from_secs(1);
/// How long the store may take for it.
const READINESS_WAIT_MAX: Duration = Duration::from_secs(5);

/// One ordinary route.
#[derive(Debug)]
pub struct Route {
    /// Its path.
    pub path: &'static str,
    /// Its name in logs and metrics.
    pub id: &'static str,
    pub(super) handler: fn() -> MethodRouter<Arc<Context>>,
}

/// Every ordinary route.
pub const ROUTES: &[Route] = &[
    Route { path: "/", id: "root", handler: || get(root) },
    Route { path: "/livez", id: "livez", handler: || get(live) },
    Route { path: "/readyz", id: "readyz", handler: || get(ready) },
    Route { path: "/health", id: "health", handler: || get(live) },
    Route { path: "/ready", id: "ready", handler: || get(ready) },
    Route { path: "/metrics", id: "metrics", handler: || get(metrics) },
    Route { path: "/token", id: "token", handler: || get(token::answer).post(token::answer) },
    Route { path: "/openapi.yaml", id: "openapi", handler: || get(openapi) },
];

/// The name of a path in logs and metrics, if it is one of [`ROUTES`].
pub(super) fn endpoint_id(path: &str) -> Option<&'static str> {
    ROUTES.iter().find(|route| route.path == path).map(|route| route.id)
}

/// Whether machines ask for this path every few seconds.
pub(super) fn is_probe(path: &str) -> bool {
    matches!(path, "/livez" | "/readyz" | "/health" | "/ready" | "/metrics")
}

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

async fn root() -> Response {
    text("text/plain; charset=utf-8", ROOT)
}

async fn live() -> Response {
    headers::json(headers::JSON, &json!({ "status": "ok" }))
}

async fn ready(
    State(context): State<Arc<Context>>,
    Extension(exchange): Extension<Arc<Exchange>>,
) -> Response {
    match context.readiness.check(&context).await {
        Ok(()) => headers::json(headers::JSON, &json!({ "status": "ok" })),
        Err(reason) => {
            let unavailable = StatusCode::SERVICE_UNAVAILABLE;
            ApiError::internal(unavailable, ErrorCode::Unavailable, reason)
                .render(&context, &exchange)
        }
    }
}

async fn metrics(
    State(context): State<Arc<Context>>,
    Extension(exchange): Extension<Arc<Exchange>>,
    request: HeaderMap,
) -> Response {
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
    let held = memory::hold_response(&context, &exchange, response);
    held.unwrap_or_else(|error| error.render(&context, &exchange))
}

async fn openapi() -> Response {
    text("application/yaml", include_str!("../../docs/openapi.yaml"))
}

/// A known path was asked with a method it does not take. The router adds `Allow` itself, but an
/// error's body names it too.
pub(super) async fn method_not_allowed(
    State(context): State<Arc<Context>>,
    Extension(exchange): Extension<Arc<Exchange>>,
    uri: http::Uri,
) -> Response {
    ApiError::method_not_allowed(if uri.path() == "/token" {
        "GET, HEAD, POST"
    } else {
        "GET, HEAD"
    })
    .render(&context, &exchange)
}

/// The last answer of the store to "are you there?", so that many probes cost one request.
#[derive(Debug, Default)]
pub struct Readiness(Mutex<Option<Verdict>>);

#[derive(Clone, Debug)]
struct Verdict {
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
                *last = Some(Verdict { at: Instant::now(), result: result.clone() });
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
        Ok(Err(error)) => Err(chain(&error)),
        Err(_) => Err("the store does not answer".to_owned()),
    }
}
