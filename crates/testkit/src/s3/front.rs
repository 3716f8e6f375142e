//! What stands between the connection and S3: records each request, and does to it what the
//! rules say.
//!
//! A request is read whole, and then served in a task of its own: what the client does meanwhile,
//! going away included, changes nothing about its effect.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::header::{CONTENT_TYPE, DATE, ETAG};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use s3s::service::S3Service;
use tokio::sync::watch;

use super::clock::{S3Clock, http_date};
use super::emulated_body::EmulatedBody;
use super::journal::{Journal, JournalEntry};
use super::operation::OperationTarget;
use super::pieces::len;
use super::rule::{FaultRules, S3Fault, S3Refusal};

/// The layer.
#[derive(Debug)]
pub(crate) struct RequestFront {
    pub(crate) service: S3Service,
    pub(crate) clock: S3Clock,
    pub(crate) journal: Arc<Journal>,
    pub(crate) rules: FaultRules,
    pub(crate) latency_us: AtomicU64,
    /// Maximum bytes of a response in a second.
    pub(crate) response_bytes_per_second: Option<u64>,
    /// How many requests are being served, with or without a client that waits for the response.
    pub(crate) serving: watch::Sender<usize>,
    pub(crate) stopping: watch::Receiver<()>,
}

/// A request that is being served, until this is dropped.
struct ServingGuard(Arc<RequestFront>);

impl ServingGuard {
    fn begin(front: Arc<RequestFront>) -> Self {
        front.serving.send_modify(|serving| *serving += 1);
        Self(front)
    }
}

impl Drop for ServingGuard {
    fn drop(&mut self) {
        self.0.serving.send_modify(|serving| *serving -= 1);
    }
}

/// A response, or the end of the connection.
type ServeResult = io::Result<Response<EmulatedBody>>;

impl RequestFront {
    /// Serves one request; an error closes the connection without a response.
    pub(crate) async fn serve(self: Arc<Self>, request: Request<Incoming>) -> ServeResult {
        let begun = ServingGuard::begin(Arc::clone(&self));
        let (head, body) = request.into_parts();
        let target = OperationTarget::of(&head);
        let entry = self.journal.open(&head, &target);
        let faults = self.rules.faults(&target);
        let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
        entry.note(|recorded| {
            recorded.bytes_in = len(&body);
            recorded.touched = !faults.is_empty();
        });
        let mut stopping = self.stopping.clone();
        let serving = async move { self.affect(head, body, faults, entry).await };
        let task = tokio::spawn(async move {
            let _begun = begun;
            tokio::select! {
                outcome = serving => outcome,
                _ = stopping.changed() => Err(io::Error::other("the server stops")),
            }
        });
        task.await.map_err(io::Error::other)?
    }

    async fn affect(
        &self,
        head: Parts,
        body: Bytes,
        faults: Vec<S3Fault>,
        entry: JournalEntry,
    ) -> ServeResult {
        let latency = Duration::from_micros(self.latency_us.load(Ordering::SeqCst));
        if !latency.is_zero() {
            tokio::time::sleep(latency).await;
        }
        let refusal = before(&faults).await?;
        let response = match refusal {
            Some(refusal) => refused(refusal),
            None => self.call(head, body, entry.clone()).await?,
        };
        let response = told(response, &faults);
        after(&faults).await?;
        entry.note(|recorded| recorded.status = Some(response.status().as_u16()));
        Ok(self.finished(response, faults, entry))
    }

    async fn call(
        &self,
        mut head: Parts,
        body: Bytes,
        entry: JournalEntry,
    ) -> io::Result<Response<s3s::Body>> {
        head.extensions.insert(entry);
        let request = Request::from_parts(head, s3s::Body::from(body));
        let failed = |error: s3s::HttpError| io::Error::other(s3s::StdError::from(error));
        self.service.call(request).await.map_err(failed)
    }

    fn finished(
        &self,
        mut response: Response<s3s::Body>,
        faults: Vec<S3Fault>,
        entry: JournalEntry,
    ) -> Response<EmulatedBody> {
        let date = HeaderValue::try_from(http_date(self.clock.now())).expect("a date is ASCII");
        response.headers_mut().insert(DATE, date);
        response.map(|body| {
            let mut emulated_body = EmulatedBody::new(body, entry);
            if let Some(bytes_per_second) = self.response_bytes_per_second {
                emulated_body.pace(bytes_per_second);
            }
            for fault in faults {
                match fault {
                    S3Fault::CutBody(after_bytes) => emulated_body.cut(after_bytes),
                    S3Fault::StallBody(after_bytes, gate) => emulated_body.stall(after_bytes, gate),
                    _ => {}
                }
            }
            emulated_body
        })
    }
}

async fn before(faults: &[S3Fault]) -> io::Result<Option<S3Refusal>> {
    let mut refusal = None;
    for fault in faults {
        match fault {
            S3Fault::Delay(delay) => tokio::time::sleep(*delay).await,
            S3Fault::Hold(gate) => gate.enter().await,
            S3Fault::CutBefore => return Err(io::Error::other("the request was to be cut off")),
            S3Fault::Refuse(with) => refusal = refusal.or(Some(*with)),
            _ => {}
        }
    }
    Ok(refusal)
}

/// The response, or what a server says instead that does not tell losers so.
fn told(response: Response<s3s::Body>, faults: &[S3Fault]) -> Response<s3s::Body> {
    let lost = response.status() == StatusCode::PRECONDITION_FAILED;
    let instead = faults.iter().find_map(|fault| match fault {
        S3Fault::RefuseLosers(with) if lost => Some(*with),
        _ => None,
    });
    instead.map_or(response, refused)
}

async fn after(faults: &[S3Fault]) -> io::Result<()> {
    for fault in faults {
        match fault {
            S3Fault::HoldResponse(gate) => gate.enter().await,
            S3Fault::LoseResponse => return Err(io::Error::other("the response was to be lost")),
            _ => {}
        }
    }
    Ok(())
}

fn refused(refusal: S3Refusal) -> Response<s3s::Body> {
    if refusal == S3Refusal::ForeignPage {
        let mut response = Response::new(s3s::Body::from("<html>Welcome</html>".to_owned()));
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/html"));
        headers.insert(ETAG, HeaderValue::from_static("\"0123456789abcdef0123456789abcdef\""));
        return response;
    }
    let code = refusal.code();
    let xml = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n\
         <Error><Code>{code}</Code><Message>injected by a rule</Message></Error>"
    );
    let mut response = Response::new(s3s::Body::from(xml));
    *response.status_mut() =
        StatusCode::from_u16(refusal.status()).expect("the statuses are valid");
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/xml"));
    response
}
