//! Handlers of the fixed paths: health, metrics, documents, tokens.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use jreg_net::server::{Body, Request, Response};
use jreg_oci::{ErrorCode, MirrorName};
use jreg_telemetry::metrics::{MetricsForm, OPENMETRICS};
use serde_json::json;

use crate::context::ApiContext;
use crate::error::ApiError;
use crate::observed::ObservedRequest;
use crate::routes::{Document, Route};
use crate::token::{self, ScopeNames, TokenEndpoint};
use crate::{headers, memory, routes, ui};

/// Responds to a request for a fixed path.
pub(crate) async fn respond(
    route: &Route,
    context: &Arc<ApiContext>,
    observed: &ObservedRequest,
    request: Request,
) -> Result<Response, ApiError> {
    check_method(route, request.method())?;
    match route.document {
        Document::Root => Ok(root(context, request.headers())),
        Document::Live => Ok(live()),
        Document::Ready if request.uri().query() == Some("write") => writable(context),
        Document::Ready => ready(context).await,
        Document::Metrics => metrics(context, observed, request.headers()),
        Document::Token => token::respond(token_endpoint(context, None), observed, request).await,
        Document::OpenApi => Ok(text("application/yaml", OPENAPI)),
        Document::Support | Document::Profile | Document::Memory => Err(ApiError::not_found()),
    }
}

/// Whether a method is allowed.
pub(crate) fn check_method(route: &Route, method: &Method) -> Result<(), ApiError> {
    let allowed = route.methods();
    if allowed.contains(method) {
        return Ok(());
    }
    let allowed: Vec<_> = allowed.iter().map(Method::as_str).collect();
    Err(ApiError::method_not_allowed(&allowed.join(", ")))
}

/// A browser opens the UI; other clients get text.
fn root(context: &ApiContext, headers: &HeaderMap) -> Response {
    if context.options.ui && ui::wants_page(headers) {
        return ui::redirect_home(context);
    }
    let mut response = text("text/plain; charset=utf-8", ROOT);
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    response
}

/// Responds to a request for a token by the names that clients of a mirror use.
pub(crate) async fn respond_to_mirror_token(
    context: &Arc<ApiContext>,
    mirror: &MirrorName,
    observed: &ObservedRequest,
    request: Request,
) -> Result<Response, ApiError> {
    let route = routes::token();
    check_method(route, request.method())?;
    observed.set_service(route.id);
    token::respond(token_endpoint(context, Some(mirror)), observed, request).await
}

fn token_endpoint<'a>(
    context: &'a ApiContext,
    mirror: Option<&'a MirrorName>,
) -> TokenEndpoint<'a> {
    TokenEndpoint {
        names: ScopeNames { mirrors: &context.options.mirrors, route: mirror },
        guard: context.guard.as_deref(),
        limits: &context.limits,
        audit: context.audit_sink(),
        metrics: &context.metrics,
        form_time_max: context.options.body_idle_timeout,
    }
}

const OPENAPI: &str = include_str!("../../../docs/openapi.yaml");

const ROOT: &str = concat!(
    "jreg ",
    env!("CARGO_PKG_VERSION"),
    ": an OCI registry

  docker push <this address>/<name>:<tag>
  docker pull <this address>/<name>:<tag>

/v2/            the registry's API
/ui/            the web UI, if it is on
/token          tokens for those who log in, if that is on
/openapi.yaml   the API's OpenAPI document
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

async fn ready(context: &ApiContext) -> Result<Response, ApiError> {
    let result = match context.draining.is_cancelled() || context.stopping.is_cancelled() {
        true => Err("the server is stopping".to_owned()),
        false => context.readiness.check(&context.gate, context.tls.as_deref()).await,
    };
    match result {
        Ok(()) => Ok(live()),
        Err(reason) => {
            let unavailable = StatusCode::SERVICE_UNAVAILABLE;
            Err(ApiError::internal(unavailable, ErrorCode::Unavailable, reason))
        }
    }
}

/// Whether the last write to the store succeeded, for alerts: a load balancer that stopped sending pulls to
/// a registry with a full disk would make it worse.
fn writable(context: &ApiContext) -> Result<Response, ApiError> {
    if context.metrics.is_store_writable() {
        return Ok(live());
    }
    let (status, code) = (StatusCode::SERVICE_UNAVAILABLE, ErrorCode::Unavailable);
    Err(ApiError::internal(status, code, "the last write to the store failed".to_owned()))
}

fn metrics(
    context: &ApiContext,
    observed: &ObservedRequest,
    request: &HeaderMap,
) -> Result<Response, ApiError> {
    let accept = request.get(header::ACCEPT).and_then(|accept| accept.to_str().ok());
    let form = match accept {
        Some(accept) if accept.contains(OPENMETRICS) => MetricsForm::OpenMetrics,
        _ => MetricsForm::Text,
    };
    let metrics = &context.metrics;
    metrics.set_manifest_buffer(context.manifest_room.usage());
    if let Some(guard) = &context.guard {
        metrics.set_budget("password_hashing", guard.hashing());
    }
    if let Some(mirrors) = context.gate.mirrors() {
        mirrors.update_metrics();
    }
    metrics.usage.set_quotas(&context.gate.quota_usage());
    let response = text(form.content_type(), metrics.render(form, &context.gate.usage()));
    memory::hold_response(&context.response_memory, observed.network(), metrics, response)
}
