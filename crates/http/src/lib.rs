//! HTTP: [`Api`] is the one entry point for everything that is served.
//!
//! Health, metrics and documents are fixed paths (`service`); every other path becomes
//! an [`Endpoint`](jreg_oci::Endpoint) and is answered by the file of its noun (`blobs`,
//! `uploads`, `manifests`, `tags`, `referrers`, `catalog`, `base`). `exchange` observes all of
//! them, `error` is the one place where a failure becomes an answer.

#![allow(missing_docs, reason = "a comment that repeats a name is noise")]

mod api;
mod base;
mod blobs;
mod body;
mod byteranges;
mod catalog;
mod conditional;
mod error;
mod exchange;
mod framing;
mod headers;
mod manifests;
mod memory;
mod page;
mod proxies;
mod reading;
mod record;
mod redirect;
mod referrers;
mod request_id;
mod service;
mod tags;
mod token;
mod uploads;

use std::sync::Arc;
use std::time::Duration;

use http::{HeaderValue, Method, header};
use http_body::Body as _;
use jreg_access::limits::ClientLimits;
use jreg_access::{AccessGuard, ConnectionCredentials, RegistryGate};
use jreg_net::server::{AddressBudget, Body, Request, RequestHandler, Response, ResponseFuture};
use jreg_net::tls::Tls;
use jreg_registry::MemoryBudget;
use jreg_telemetry::audit::AuditLog;
use jreg_telemetry::metrics::Metrics;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use exchange::ObservedRequest;

pub use memory::responses_budget;
pub use proxies::Proxies;
pub use redirect::Redirects;
pub use request_id::{REQUEST_ID_BYTES_MAX, RequestId};
pub use service::ROUTES as SERVICE_ROUTES;

/// The chunk size that clients are asked for (`OCI-Chunk-Min-Length`), in bytes. Smaller chunks
/// are taken too; each costs a few store requests.
pub const CHUNK_BYTES_MIN: u64 = 1024 * 1024;

/// What an operator can set about HTTP.
#[derive(Clone, Debug, PartialEq, Eq)]
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
    /// Which blobs are redirected to the store, and for which clients.
    pub redirects: Redirects,
    /// The reverse proxies whose headers are trusted.
    pub proxies: Proxies,
}

impl Default for HttpOptions {
    fn default() -> Self {
        Self {
            deletes: true,
            public_url: String::new(),
            warnings: Vec::new(),
            manifest_bytes_max: 4 << 20,
            manifest_buffer_bytes: 128 << 20,
            page_items_max: 1000,
            body_idle_timeout: Duration::from_secs(60),
            body_rate_min: 1024,
            body_rate_grace: Duration::from_secs(60),
            buffer_wait_max: Duration::from_secs(30),
            drain_bytes_max: 8 << 20,
            retry_after: Duration::from_secs(5),
            redirects: Redirects::default(),
            proxies: Proxies::default(),
        }
    }
}

impl HttpOptions {
    /// Room for the manifests that are in memory at the same time.
    pub fn manifest_room(&self) -> MemoryBudget {
        MemoryBudget::new(self.manifest_buffer_bytes, self.manifest_bytes_max, self.buffer_wait_max)
    }
}

/// What every answer may need.
#[derive(Debug)]
pub struct Context {
    /// The way to the registry.
    pub gate: RegistryGate,
    /// Who keeps it, if clients are asked who they are.
    pub guard: Option<Arc<AccessGuard>>,
    /// What TLS is spoken with, if it is.
    pub tls: Option<Arc<Tls>>,
    /// Where decisions are written.
    pub audit: AuditLog,
    /// How much clients may ask for.
    pub limits: ClientLimits,
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
    pub manifest_room: MemoryBudget,
    /// The budget that all in-memory responses share.
    pub response_memory: Arc<AddressBudget>,
    /// The last answer to "is the store there?".
    pub readiness: service::Readiness,
}

/// Everything that is served, from a request to its response: the server and every test use this.
#[derive(Clone, Debug)]
pub struct Api {
    context: Arc<Context>,
    /// Of the connection that this serves, if it serves one.
    credentials: Option<Arc<ConnectionCredentials>>,
}

impl Api {
    /// What is served with these parts.
    pub fn new(context: Arc<Context>) -> Self {
        Self { context, credentials: None }
    }

    /// Responds to a request.
    pub async fn respond(&self, request: Request) -> Response {
        let Self { context, credentials } = self;
        let is_head = request.method() == Method::HEAD;
        let answer = |exchange, request| async move { route(context, &exchange, request).await };
        let mut response = exchange::observed(context, credentials.clone(), request, answer).await;
        // A HEAD without it would not say how long its GET is.
        add_length(&mut response);
        // HTTP/2 would send the body of a refusal, which ends the connection.
        if is_head { response.map(|_| Body::empty()) } else { response }
    }
}

impl RequestHandler for Api {
    fn handle(&self, request: Request) -> ResponseFuture {
        let api = self.clone();
        Box::pin(async move { api.respond(request).await })
    }

    fn for_connection(&self) -> Option<Arc<dyn RequestHandler>> {
        Some(Arc::new(Self {
            context: Arc::clone(&self.context),
            credentials: Some(Arc::default()),
        }))
    }
}

async fn route(
    context: &Arc<Context>,
    exchange: &Arc<ObservedRequest>,
    request: Request,
) -> Response {
    match service::route(request.uri().path()) {
        Some(route) => Box::pin(route.respond(context, exchange, request)).await,
        None => api::respond(context, exchange, request).await,
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

#[cfg(test)]
mod tests;
