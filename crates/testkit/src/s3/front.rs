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
use http::header::{CONTENT_TYPE, DATE};
use http::request::Parts;
use http::{HeaderValue, Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use s3s::service::S3Service;
use tokio::sync::watch;

use super::answer::Answer;
use super::clock::{S3Clock, http_date};
use super::journal::{Entry, Journal};
use super::operation::Target;
use super::pieces::len;
use super::rule::{Fault, Refusal, Rules};

/// The layer.
#[derive(Debug)]
pub(crate) struct Front {
    pub(crate) service: S3Service,
    pub(crate) clock: S3Clock,
    pub(crate) journal: Arc<Journal>,
    pub(crate) rules: Rules,
    pub(crate) latency_us: AtomicU64,
    /// The most bytes of an answer in a second.
    pub(crate) answer_bytes_per_second: Option<u64>,
    /// How many requests are being served, with or without somebody who waits for the answer.
    pub(crate) serving: watch::Sender<usize>,
    pub(crate) stopping: watch::Receiver<()>,
}

/// A request that is being served, until this is dropped.
struct Serving(Arc<Front>);

impl Serving {
    fn begin(front: Arc<Front>) -> Self {
        front.serving.send_modify(|serving| *serving += 1);
        Self(front)
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        self.0.serving.send_modify(|serving| *serving -= 1);
    }
}

/// An answer, or the end of the connection.
type Outcome = io::Result<Response<Answer>>;

impl Front {
    /// Serves one request; an error closes the connection without an answer.
    pub(crate) async fn serve(self: Arc<Self>, request: Request<Incoming>) -> Outcome {
        let begun = Serving::begin(Arc::clone(&self));
        let (head, body) = request.into_parts();
        let target = Target::of(&head);
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

    async fn affect(&self, head: Parts, body: Bytes, faults: Vec<Fault>, entry: Entry) -> Outcome {
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
        entry: Entry,
    ) -> io::Result<Response<s3s::Body>> {
        head.extensions.insert(entry);
        let request = Request::from_parts(head, s3s::Body::from(body));
        let failed = |error: s3s::HttpError| io::Error::other(s3s::StdError::from(error));
        self.service.call(request).await.map_err(failed)
    }

    fn finished(
        &self,
        mut response: Response<s3s::Body>,
        faults: Vec<Fault>,
        entry: Entry,
    ) -> Response<Answer> {
        let date = HeaderValue::try_from(http_date(self.clock.now())).expect("a date is ASCII");
        response.headers_mut().insert(DATE, date);
        response.map(|body| {
            let mut answer = Answer::new(body, entry);
            if let Some(bytes_per_second) = self.answer_bytes_per_second {
                answer.pace(bytes_per_second);
            }
            for fault in faults {
                match fault {
                    Fault::CutBody(after_bytes) => answer.cut(after_bytes),
                    Fault::StallBody(after_bytes, gate) => answer.stall(after_bytes, gate),
                    _ => {}
                }
            }
            answer
        })
    }
}

async fn before(faults: &[Fault]) -> io::Result<Option<Refusal>> {
    let mut refusal = None;
    for fault in faults {
        match fault {
            Fault::Delay(delay) => tokio::time::sleep(*delay).await,
            Fault::Hold(gate) => gate.enter().await,
            Fault::CutBefore => return Err(io::Error::other("the request was to be cut off")),
            Fault::Refuse(with) => refusal = refusal.or(Some(*with)),
            _ => {}
        }
    }
    Ok(refusal)
}

/// The answer, or what a server says instead that does not tell losers so.
fn told(response: Response<s3s::Body>, faults: &[Fault]) -> Response<s3s::Body> {
    let lost = response.status() == StatusCode::PRECONDITION_FAILED;
    let instead = faults.iter().find_map(|fault| match fault {
        Fault::RefuseLosers(with) if lost => Some(*with),
        _ => None,
    });
    instead.map_or(response, refused)
}

async fn after(faults: &[Fault]) -> io::Result<()> {
    for fault in faults {
        match fault {
            Fault::HoldAnswer(gate) => gate.enter().await,
            Fault::LoseAnswer => return Err(io::Error::other("the answer was to be lost")),
            _ => {}
        }
    }
    Ok(())
}

fn refused(refusal: Refusal) -> Response<s3s::Body> {
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
