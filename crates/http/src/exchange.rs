//! Observes a request and its response, from the head of the request to the last byte of the
//! response; here an error becomes a response.
//!
//! Invariant: every request is counted once and logged on one line, when its response has ended or
//! was aborted, whatever happens in between.

use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::FutureExt;
use http::{HeaderValue, Method, StatusCode, Version, header};
use http_body::{Frame, SizeHint};
use jreg_access::ConnectionCredentials;
use jreg_net::server::{Body, BodyFailure, Request, Response};
use jreg_oci::NamedBy;
use jreg_profile::WorkName;
use jreg_storage::error_chain;
use jreg_telemetry::metrics::{FinishedRequest, GaugeGuard};
use jreg_telemetry::trace;
use tracing::Instrument;

use crate::context::ApiContext;
use crate::error::ApiError;
use crate::observed::ObservedRequest;
use crate::{framing, headers, memory, request_id};

/// Logged and counted status if the client disconnects before the response.
const CLIENT_GONE: u16 = 499;
/// The same if the server stops.
const CUT_OFF: u16 = 503;

/// The ids of the client's trace.
const TRACEPARENT: &str = "traceparent";

/// Observes a request and its response, and makes a response of an error.
pub(crate) async fn observe<A: Future<Output = Result<Response, ApiError>>>(
    context: &Arc<ApiContext>,
    credentials: Option<Arc<ConnectionCredentials>>,
    request: Request,
    handle: impl FnOnce(Arc<ObservedRequest>, Request) -> A,
) -> Response {
    let parent = request.headers().get(TRACEPARENT).and_then(|header| header.to_str().ok());
    let trace = context.tracer.begin(parent);
    let observed = ObservedRequest::new(&request, &context.options.proxies, credentials);
    let observed = Arc::new(observed.with_trace(trace.clone()));
    let head = request.method() == Method::HEAD;
    let is_http1 = request.version() < Version::HTTP_2;
    let mut watch = ResponseWatch::new(context, &observed);
    let span = tracing::info_span!("request", request_id = %observed.request_id);
    let render = |error: ApiError| error.render(&observed, context.options.retry_after);
    let handled = async {
        let held = match memory::hold_head(&context.metrics, &request) {
            Ok(held) => held,
            Err(error) => return memory::without_body(render(error)),
        };
        let handled = async {
            framing::check(&request)?;
            handle(Arc::clone(&observed), request).await
        };
        let result = AssertUnwindSafe(handled).catch_unwind().await;
        let result = result.unwrap_or_else(|_| Err(ApiError::panicked()));
        memory::hold_small_response(held, result.unwrap_or_else(render))
    };
    let mut response = trace::within(trace, handled.instrument(span)).await;
    add_headers(context, &observed, &mut response);
    if is_http1 && (context.draining.is_cancelled() || context.stopping.is_cancelled()) {
        // The next request of this client goes to another instance.
        response.headers_mut().insert(header::CONNECTION, headers::CLOSE);
    }
    watch.response_began(&response, head);
    let bodiless = is_bodiless(response.status());
    response.map(|body| Body::new(WatchedBody { body, bodiless, watch: Some(watch) }))
}

/// Adds the length of a response, and takes the body from that to a HEAD request.
pub(crate) fn finish(mut response: Response, is_head: bool) -> Response {
    // Without it, a HEAD response would not contain the length of the GET response.
    let length = http_body::Body::size_hint(response.body()).exact();
    if let Some(length) = length
        && !response.headers().contains_key(header::CONTENT_LENGTH)
    {
        response.headers_mut().insert(header::CONTENT_LENGTH, length.into());
    }
    // HTTP/2 would send the body of an error, which ends the connection.
    if is_head { response.map(|_| Body::empty()) } else { response }
}

/// Adds the headers of every response, and those of every API response.
fn add_headers(context: &ApiContext, observed: &ObservedRequest, response: &mut Response) {
    let headers = response.headers_mut();
    headers.insert(request_id::HEADER, observed.request_id.to_header());
    headers.insert(header::X_CONTENT_TYPE_OPTIONS, headers::NOSNIFF);
    if observed.is_api() {
        headers.insert(headers::API_VERSION, HeaderValue::from_static("registry/2.0"));
        headers.insert(header::CONTENT_SECURITY_POLICY, headers::SANDBOX);
        if context.guard.is_some() {
            headers::make_private(headers);
        }
        if let Some(route) = observed.route().filter(|route| route.by == NamedBy::Namespace)
            && let Ok(namespace) = HeaderValue::from_str(&route.namespace)
        {
            headers.insert(headers::NAMESPACE, namespace);
        }
        for warning in &context.options.warnings {
            headers.append(header::WARNING, warning.clone());
        }
    }
}

/// Whether a response of this status has no body, not even an empty one.
fn is_bodiless(status: StatusCode) -> bool {
    matches!(status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
}

/// Counts and logs a request when it is dropped.
#[derive(Debug)]
struct ResponseWatch {
    context: Arc<ApiContext>,
    observed: Arc<ObservedRequest>,
    status: Option<StatusCode>,
    sent_bytes: u64,
    /// The length of the response, if known.
    length: Option<u64>,
    ended: bool,
    _in_flight: GaugeGuard,
}

impl ResponseWatch {
    fn new(context: &Arc<ApiContext>, observed: &Arc<ObservedRequest>) -> Self {
        Self {
            context: Arc::clone(context),
            observed: Arc::clone(observed),
            status: None,
            sent_bytes: 0,
            length: None,
            ended: false,
            _in_flight: GaugeGuard::new(&context.metrics.in_flight),
        }
    }

    fn response_began(&mut self, response: &Response, head: bool) {
        self.status = Some(response.status());
        self.length = if head { Some(0) } else { headers::length_of(response) };
    }

    fn sent(&mut self, bytes: usize) {
        self.sent_bytes += bytes as u64;
    }

    fn is_whole(&self) -> bool {
        self.ended || self.length.is_some_and(|length| self.sent_bytes >= length)
    }
}

impl Drop for ResponseWatch {
    fn drop(&mut self) {
        // While it stops, the server mostly aborts requests itself.
        let gone = if self.context.stopping.is_cancelled() { CUT_OFF } else { CLIENT_GONE };
        let status = self.status.map_or(gone, |status| status.as_u16());
        self.context.metrics.count_request(&FinishedRequest {
            endpoint: self.observed.endpoint(),
            status,
            duration: self.observed.started.elapsed(),
            received_bytes: self.observed.received_bytes(),
            sent_bytes: self.sent_bytes,
            trace_id: self.observed.exported_trace_id(),
        });
        self.observed.log(status, self.sent_bytes, self.is_whole());
        if let Some(finished) = self.observed.finished_trace(status) {
            self.context.tracer.end(finished);
        }
    }
}

/// A response body that reports the bytes taken from it.
struct WatchedBody {
    body: Body,
    bodiless: bool,
    watch: Option<ResponseWatch>,
}

impl WatchedBody {
    fn endpoint(&self) -> &'static str {
        self.watch.as_ref().map_or("", |watch| watch.observed.endpoint())
    }
}

impl http_body::Body for WatchedBody {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let body = WorkName("response body", self.endpoint());
        let polled = jreg_profile::measure(body, || Pin::new(&mut self.body).poll_frame(task));
        let frame = std::task::ready!(polled);
        match (&frame, &mut self.watch) {
            (Some(Ok(frame)), Some(watch)) => watch.sent(frame.data_ref().map_or(0, Bytes::len)),
            (Some(Err(error)), Some(watch)) => {
                let request_id = &watch.observed.request_id;
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
        if self.bodiless { SizeHint::new() } else { self.body.size_hint() }
    }
}
