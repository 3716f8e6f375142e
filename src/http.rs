//! HTTP: one router for everything that is served.
//!
//! Health, metrics and documents are ordinary routes (`service`); every path under `/v2/` becomes
//! an [`Endpoint`](jreg_oci::Endpoint) and is answered by the file of its noun (`blobs`,
//! `uploads`, `manifests`, `tags`, `referrers`, `catalog`, `base`). `exchange` observes all of
//! them, `error` is the one place where a failure becomes an answer.

mod api;
mod base;
mod blobs;
mod body;
mod byteranges;
mod catalog;
mod conditional;
mod error;
mod exchange;
pub(crate) mod files;
mod framing;
mod headers;
mod manifests;
pub(crate) mod memory;
mod page;
mod proxies;
mod record;
mod redirect;
mod referrers;
mod request_id;
mod service;
pub(crate) mod slots;
mod tags;
mod token;
mod uploads;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::middleware::from_fn_with_state;
use axum::response::Response;
use http::{HeaderValue, Method, header};
use http_body::Body as _;
use jreg_auth::Certificate;
use jreg_registry::Budget;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::audit::AuditLog;
use crate::auth::{Gate, Guard};
use crate::config::Settings;
use crate::limits::{Limits, Shares};
use crate::metrics::Metrics;
use crate::tls::Tls;

use proxies::Proxies;
use redirect::Redirects;

pub use request_id::{REQUEST_ID_BYTES_MAX, RequestId};
pub use service::ROUTES as SERVICE_ROUTES;

/// The chunk size that clients are asked for (`OCI-Chunk-Min-Length`), in bytes. Smaller chunks
/// are taken too; each costs a few store requests.
pub const CHUNK_BYTES_MIN: u64 = 1024 * 1024;

/// The other end of a request's connection. The server puts it among the request's extensions.
#[derive(Clone, Copy, Debug)]
pub struct Peer(pub SocketAddr);

/// A request's connection is TLS. The server puts it among the request's extensions.
#[derive(Clone, Debug)]
pub struct Secured {
    /// What the client's certificate says, if it showed one that names somebody.
    pub certificate: Option<Arc<Certificate>>,
}

/// Whether a connection has had a request that was authorized. The server puts it among the extensions of
/// its requests.
#[derive(Clone, Debug, Default)]
pub(crate) struct AuthorizedBefore(Arc<AtomicBool>);

impl AuthorizedBefore {
    pub(crate) fn set(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    pub(crate) fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

/// What an operator can set about HTTP.
#[derive(Clone, Debug)]
pub struct HttpOptions {
    /// Whether content may be deleted.
    pub deletes: bool,
    /// What goes before the paths of Location and Link; empty, or an address without a slash at
    /// its end.
    pub public_url: String,
    /// Values of the `Warning` header of every answer of the API.
    pub warnings: Vec<HeaderValue>,
    /// The largest manifest, in bytes.
    pub manifest_bytes_max: u64,
    /// The most bytes of manifests in memory while they are received.
    pub manifest_buffer_bytes: u64,
    /// The most items of a page.
    pub page_items_max: usize,
    /// How long a client may send nothing in the middle of a body.
    pub body_idle_timeout: Duration,
    /// The fewest bytes a second of a body; 0 is no limit.
    pub body_rate_min: u64,
    /// Over which time that is averaged.
    pub body_rate_grace: Duration,
    /// How long a body waits for memory.
    pub buffer_wait_max: Duration,
    /// How much of a body that was refused is read nevertheless.
    pub drain_bytes_max: u64,
    /// When to try again.
    pub retry_after: Duration,
    /// Which blobs are read from the store itself, and by whom.
    pub redirects: Redirects,
    /// Who is believed of whom a request comes from.
    pub proxies: Proxies,
}

impl HttpOptions {
    /// What the settings say of HTTP.
    pub fn of(settings: &Settings) -> Self {
        let warning = |text: &String| {
            HeaderValue::from_str(&format!("299 - \"{text}\""))
                .expect("the settings hold only printable warnings")
        };
        let public_url = settings.public_url.as_ref();
        Self {
            deletes: settings.deletes,
            public_url: public_url.map_or_else(String::new, |url| url.as_str().to_owned()),
            warnings: settings.warning.iter().map(warning).collect(),
            manifest_bytes_max: settings.manifest_bytes_max,
            manifest_buffer_bytes: settings.manifest_buffer_bytes,
            page_items_max: settings.page_items_max,
            body_idle_timeout: settings.body_idle_timeout,
            body_rate_min: settings.body_rate_min,
            body_rate_grace: settings.body_rate_grace,
            buffer_wait_max: settings.buffer_wait_max,
            drain_bytes_max: settings.drain_bytes_max,
            retry_after: settings.retry_after,
            redirects: Redirects::of(settings),
            proxies: Proxies::of(settings),
        }
    }
}

impl HttpOptions {
    /// Room for the manifests that are in memory at the same time.
    pub fn manifest_room(&self) -> Budget {
        Budget::new(self.manifest_buffer_bytes, self.manifest_bytes_max, self.buffer_wait_max)
    }
}

/// What every answer may need.
#[derive(Debug)]
pub struct Context {
    /// The way to the registry.
    pub gate: Gate,
    /// Who keeps it, if clients are asked who they are.
    pub guard: Option<Arc<Guard>>,
    /// What TLS is spoken with, if it is.
    pub tls: Option<Arc<Tls>>,
    /// Where decisions are written.
    pub audit: AuditLog,
    /// How much clients may ask for.
    pub limits: Limits,
    /// What the operator set.
    pub options: HttpOptions,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// The operations that change something: they run to their end though the client goes away,
    /// and a shutdown waits for them.
    pub tasks: TaskTracker,
    /// Cancelled when the server begins to stop.
    pub stopping: CancellationToken,
    /// The memory that manifests share while they are received and stored.
    pub manifest_room: Budget,
    /// The memory that responses share which are in memory whole.
    pub(crate) response_memory: Arc<Shares>,
    /// The last answer to "is the store there?".
    pub readiness: service::Readiness,
}

/// The API alone. The layers of a router take as long as all else of a small answer, and under
/// `/v2/` they find nothing to do.
#[derive(Clone, Debug)]
pub struct Api(Arc<Context>);

impl Api {
    /// Answers what is under `/v2/`.
    pub fn new(context: Arc<Context>) -> Self {
        Self(context)
    }

    /// Whether a request is for the API.
    pub fn is_asked(path: &str) -> bool {
        path.starts_with("/v2/")
    }

    /// Answers a request with the status, headers and body that the [`router`] gives it.
    pub async fn answer(&self, request: Request) -> Response {
        let context = &self.0;
        let answer = |exchange, request| async move {
            api::answer_observed(context, &exchange, request).await
        };
        let is_head = request.method() == Method::HEAD;
        let mut response = exchange::observed(context, request, answer).await;
        // The router does this, too, and a HEAD without it would not say how long its GET is.
        add_length(&mut response);
        // So does it this. HTTP/2 would send the body of a refusal, which ends the connection.
        if is_head { response.map(|_| Body::empty()) } else { response }
    }
}

/// The length of a body that has one, if it may be told.
fn add_length(response: &mut Response) {
    let length = response.body().size_hint().exact();
    if let Some(length) = length
        && !response.headers().contains_key(header::CONTENT_LENGTH)
    {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
}

/// The router for everything that is served.
pub fn router(context: Arc<Context>) -> Router {
    let mut router = Router::new();
    for route in service::ROUTES {
        router = router.route(route.path, (route.handler)());
    }
    router
        .method_not_allowed_fallback(service::method_not_allowed)
        .fallback(api::answer)
        .layer(from_fn_with_state(Arc::clone(&context), exchange::observe))
        .with_state(context)
}

#[cfg(test)]
mod tests;
