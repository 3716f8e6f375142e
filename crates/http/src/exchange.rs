//! [`ObservedRequest`]: one request and its answer, observed from the head of the one to the last byte
//! of the other.
//!
//! The promise: every request is counted once and logged on one line,
//! when its answer is finished or given up, whatever happens in between.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::task::{Context as TaskContext, Poll};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Method, StatusCode, header};
use http_body::{Body as _, Frame, SizeHint};
use jreg_access::ConnectionCredentials;
use jreg_access::limits::BytesInFlight;
use jreg_auth::Network;
use jreg_net::server::{Body, BodyFailure, Request, Response};
use jreg_oci::{Endpoint, ErrorCode};
use jreg_storage::error_chain;
use jreg_telemetry::logging::shortened;
use jreg_telemetry::metrics::{AnsweredRequest, GaugeGuard};
use tracing::{Instrument, Level};

use super::error::ApiError;
use super::proxies::{Client, Proxies};
use super::request_id::{self, RequestId};
use super::{Context, framing, headers, memory, service};

/// What is logged and counted when a client goes away before it has an answer.
const CLIENT_GONE: u16 = 499;
/// The same of a request that is cut off because the server stops.
const CUT_OFF: u16 = 503;

/// The most of a path and of a User-Agent that is logged. HTTP/2 lets a client repeat a long one
/// with two bytes.
const PATH_BYTES_MAX: usize = 1024;
const USER_AGENT_BYTES_MAX: usize = 256;

/// One request, as far as it is known.
#[derive(Debug)]
pub(super) struct ObservedRequest {
    /// Its name.
    pub(super) request_id: RequestId,
    started: Instant,
    method: Method,
    path: String,
    client: Client,
    credentials: Option<Arc<ConnectionCredentials>>,
    user_agent: Option<String>,
    subject: OnceLock<RequestSubject>,
    code: OnceLock<ErrorCode>,
    identity: OnceLock<(String, Option<String>)>,
    denied: OnceLock<String>,
    limited: OnceLock<String>,
    received_bytes: AtomicU64,
    /// Counts the bytes of the answer among those that the client has in flight, to its end.
    moving: OnceLock<BytesInFlight>,
}

/// What a request is about.
#[derive(Debug, Default)]
struct RequestSubject {
    endpoint: &'static str,
    repository: Option<String>,
    reference: Option<String>,
    upload: Option<String>,
}

impl ObservedRequest {
    pub(super) fn new(
        request: &Request,
        proxies: &Proxies,
        credentials: Option<Arc<ConnectionCredentials>>,
    ) -> Self {
        let user_agent = request.headers().get(header::USER_AGENT);
        Self {
            request_id: RequestId::of(request.headers()),
            started: Instant::now(),
            method: request.method().clone(),
            path: shortened(request.uri().path(), PATH_BYTES_MAX),
            client: proxies.client(request),
            credentials,
            user_agent: user_agent.map(|value| {
                shortened(&String::from_utf8_lossy(value.as_bytes()), USER_AGENT_BYTES_MAX)
            }),
            subject: OnceLock::new(),
            code: OnceLock::new(),
            identity: OnceLock::new(),
            denied: OnceLock::new(),
            limited: OnceLock::new(),
            received_bytes: AtomicU64::new(0),
            moving: OnceLock::new(),
        }
    }

    /// Where it comes from.
    pub(super) fn client(&self) -> &Client {
        &self.client
    }

    /// What its connection remembers of credentials.
    pub(super) fn credentials(&self) -> Option<&Arc<ConnectionCredentials>> {
        self.credentials.as_ref()
    }

    /// The network of its address.
    pub(super) fn network(&self) -> Option<Network> {
        self.client.address.map(|address| Network::of(address.ip()))
    }

    /// Notes which operation was asked for.
    pub(super) fn is_about(&self, endpoint: &Endpoint) {
        // Only the first description counts, and there is only one.
        let _ = self.subject.set(RequestSubject::of(endpoint));
    }

    /// The tag or digest, and the upload, that it is about.
    pub(super) fn reference_and_upload(&self) -> (Option<&String>, Option<&String>) {
        let subject = self.subject.get();
        let reference = subject.and_then(|subject| subject.reference.as_ref());
        (reference, subject.and_then(|subject| subject.upload.as_ref()))
    }

    /// Notes with which code it was refused.
    pub(super) fn failed_with(&self, code: ErrorCode) {
        let _ = self.code.set(code);
    }

    /// Notes who asked, and by what they were let in.
    pub(super) fn is_by(&self, identity: String, reason: Option<String>) {
        let _ = self.identity.set((identity, reason));
    }

    /// Notes why they were not.
    pub(super) fn denied_because(&self, reason: String) {
        let _ = self.denied.set(reason);
    }

    /// Notes which limit it reached.
    pub(super) fn limited_by(&self, limit: String) {
        let _ = self.limited.set(limit);
    }

    /// Counts the bytes of the response until this is dropped.
    pub(super) fn answers_with(&self, moving: Option<BytesInFlight>) {
        if let Some(moving) = moving {
            // There is one answer.
            let _ = self.moving.set(moving);
        }
    }

    /// How many bytes of its body were read.
    pub(super) fn received_bytes(&self) -> u64 {
        self.received_bytes.load(Ordering::Relaxed)
    }

    /// Notes that bytes of its body were read.
    pub(super) fn received(&self, bytes: usize) {
        self.received_bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// Adds what every answer carries, and what those of the API carry.
    fn mark(&self, context: &Context, response: &mut Response) {
        let answer = response.headers_mut();
        answer.insert(request_id::HEADER, self.request_id.to_header());
        answer.insert(header::X_CONTENT_TYPE_OPTIONS, headers::NOSNIFF);
        if self.path == "/v2" || self.path.starts_with("/v2/") {
            answer.insert(headers::API_VERSION, HeaderValue::from_static("registry/2.0"));
            answer.insert(header::CONTENT_SECURITY_POLICY, headers::SANDBOX);
            if context.guard.is_some() {
                headers::make_private(answer);
            }
            for warning in &context.options.warnings {
                answer.append(header::WARNING, warning.clone());
            }
        }
    }

    fn endpoint(&self) -> &'static str {
        match self.subject.get() {
            Some(subject) => subject.endpoint,
            None => service::endpoint_id(&self.path).unwrap_or("unknown"),
        }
    }
}

impl RequestSubject {
    fn of(endpoint: &Endpoint) -> Self {
        let (reference, upload) = match endpoint {
            Endpoint::Ping | Endpoint::Catalog { .. } | Endpoint::TagList { .. } => (None, None),
            Endpoint::BlobGet { digest, .. }
            | Endpoint::BlobHead { digest, .. }
            | Endpoint::BlobDelete { digest, .. } => (Some(digest.to_string()), None),
            Endpoint::UploadStart { digest, mount, .. } => {
                (mount.as_ref().or(digest.as_ref()).map(ToString::to_string), None)
            }
            Endpoint::UploadStatus { id, .. }
            | Endpoint::UploadPatch { id, .. }
            | Endpoint::UploadCancel { id, .. } => (None, Some(id.clone())),
            Endpoint::UploadPut { id, digest, .. } => (Some(digest.to_string()), Some(id.clone())),
            Endpoint::ManifestGet { reference, .. }
            | Endpoint::ManifestHead { reference, .. }
            | Endpoint::ManifestPut { reference, .. }
            | Endpoint::ManifestDelete { reference, .. } => (Some(reference.to_string()), None),
            Endpoint::Referrers { subject, .. } => (Some(subject.to_string()), None),
        };
        let repository = endpoint.name().map(ToString::to_string);
        Self { endpoint: endpoint.id(), repository, reference, upload }
    }
}

/// Observes a request and its answer.
pub(super) async fn observed<A: Future<Output = Response>>(
    context: &Arc<Context>,
    credentials: Option<Arc<ConnectionCredentials>>,
    request: Request,
    answer: impl FnOnce(Arc<ObservedRequest>, Request) -> A,
) -> Response {
    let exchange = Arc::new(ObservedRequest::new(&request, &context.options.proxies, credentials));
    let head = request.method() == Method::HEAD;
    let mut watch = ResponseWatch::new(context, &exchange);
    let span = tracing::info_span!("request", request_id = %exchange.request_id);
    let answer = async {
        let hold_head = |()| memory::hold_head(&context.metrics, &request);
        match framing::check(&request).and_then(hold_head) {
            Ok(_held) => answer(Arc::clone(&exchange), request).await,
            Err(error) => error.render(context, &exchange),
        }
    };
    let answer = AssertUnwindSafe(answer).catch_unwind().instrument(span).await;
    let mut response = answer.unwrap_or_else(|_| ApiError::panicked().render(context, &exchange));
    exchange.mark(context, &mut response);
    watch.answer_began(&response, head);
    let bodiless = is_bodiless(response.status());
    response.map(|body| Body::new(WatchedBody { body, bodiless, watch: Some(watch) }))
}

/// How long an answer's body is, if that is known.
pub(super) fn length_of(response: &Response) -> Option<u64> {
    let announced = || {
        let length = response.headers().get(header::CONTENT_LENGTH);
        length.and_then(|length| length.to_str().ok()?.parse().ok())
    };
    response.body().size_hint().exact().or_else(announced)
}

/// Whether an answer of this status has no body, not even one without a byte.
fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Counts and logs an exchange when it is dropped.
#[derive(Debug)]
struct ResponseWatch {
    context: Arc<Context>,
    exchange: Arc<ObservedRequest>,
    status: Option<StatusCode>,
    sent_bytes: u64,
    /// How many bytes the answer must have, if that is known.
    length: Option<u64>,
    ended: bool,
    _in_flight: GaugeGuard,
}

impl ResponseWatch {
    fn new(context: &Arc<Context>, exchange: &Arc<ObservedRequest>) -> Self {
        Self {
            context: Arc::clone(context),
            exchange: Arc::clone(exchange),
            status: None,
            sent_bytes: 0,
            length: None,
            ended: false,
            _in_flight: GaugeGuard::new(&context.metrics.in_flight),
        }
    }

    fn answer_began(&mut self, response: &Response, head: bool) {
        self.status = Some(response.status());
        self.length = if head { Some(0) } else { length_of(response) };
    }

    fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    fn is_whole(&self) -> bool {
        self.ended || self.length.is_some_and(|length| self.sent_bytes >= length)
    }

    fn log(&self, status: u16, whole: bool) {
        let exchange = &*self.exchange;
        let none = RequestSubject::default();
        let subject = exchange.subject.get().unwrap_or(&none);
        let proxy = exchange.client.proxy.map(tracing::field::display);
        let who = exchange.identity.get();
        macro_rules! line {
            ($level:expr) => {
                tracing::event!(
                    target: "jreg::request",
                    $level,
                    request_id = %exchange.request_id,
                    endpoint = exchange.endpoint(),
                    method = %exchange.method,
                    path = exchange.path,
                    status,
                    repository = subject.repository,
                    reference = subject.reference,
                    upload = subject.upload,
                    code = exchange.code.get().map(|code| code.as_str()),
                    identity = who.map(|(name, _)| name.as_str()),
                    allowed_by = who.and_then(|(_, reason)| reason.as_deref()),
                    denied = exchange.denied.get().map(String::as_str),
                    limited = exchange.limited.get().map(String::as_str),
                    received_bytes = exchange.received_bytes(),
                    sent_bytes = self.sent_bytes,
                    duration_ms = millis(exchange.started.elapsed()),
                    client = exchange.client.shown(),
                    proxy,
                    user_agent = exchange.user_agent,
                    aborted = (!whole).then_some(true),
                    "request"
                )
            };
        }
        // Probes come every few seconds and say nothing as long as they succeed.
        if service::is_probe(&exchange.path) && status < 400 {
            line!(Level::DEBUG);
        } else {
            line!(Level::INFO);
        }
    }
}

impl Drop for ResponseWatch {
    fn drop(&mut self) {
        // Once the server stops, it is mostly us who cut off what takes too long.
        let gone = if self.context.stopping.is_cancelled() { CUT_OFF } else { CLIENT_GONE };
        let status = self.status.map_or(gone, |status| status.as_u16());
        self.context.metrics.count_request(&AnsweredRequest {
            endpoint: self.exchange.endpoint(),
            status,
            duration: self.exchange.started.elapsed(),
            received_bytes: self.exchange.received_bytes(),
            sent_bytes: self.sent_bytes,
        });
        self.log(status, self.is_whole());
    }
}

/// A duration in milliseconds, to the microsecond.
fn millis(duration: Duration) -> f64 {
    let micros =
        u32::try_from(duration.as_micros()).map_or(duration.as_secs_f64() * 1e6, f64::from);
    micros / 1000.0
}

/// An answer's body that reports what is taken of it.
struct WatchedBody {
    body: Body,
    bodiless: bool,
    watch: Option<ResponseWatch>,
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(task));
        match (&frame, &mut self.watch) {
            (Some(Ok(frame)), Some(watch)) => watch.sent(frame.data_ref().map_or(0, Bytes::len)),
            (Some(Err(error)), Some(watch)) => {
                let request_id = &watch.exchange.request_id;
                tracing::error!(%request_id, error = error_chain(&**error), "response aborted");
            }
            (None, Some(watch)) => {
                watch.ended = true;
                self.watch = None;
            }
            (_, None) => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // The length of every body that has one is written.
        if self.bodiless { SizeHint::new() } else { self.body.size_hint() }
    }
}
