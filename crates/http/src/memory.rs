//! Counts the memory of stalled requests and responses: heads and forms of requests whose client sends
//! no more ([`RequestMemory`]), and in-memory responses whose client reads nothing, which share an
//! [`AddressBudget`]. HTTP/2 lets a client have hundreds of either on one connection, heads and forms before
//! it has logged in. What does not fit is refused with 429.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll};

use bytes::Bytes;
use http::{Version, header};
use http_body::{Frame, SizeHint};
use jreg_auth::Network;
use jreg_net::server::{
    AddressBudget, AddressReservation, Body, BodyFailure, ConnectionResources, HeldMemory, Request,
    RequestMemory, Response,
};
use jreg_telemetry::metrics::Metrics;

use crate::error::ApiError;
use crate::headers;

/// Budget of all in-memory responses, unless that is fewer than this many of the largest manifests.
const RESPONSES_BYTES_MAX: u64 = 128 * 1024 * 1024;
const RESPONSES_MANIFESTS_MIN: u64 = 4;
/// Memory of a request beyond its head, and of a header beyond its name and value.
const REQUEST_BYTES: usize = 8 * 1024;
const HEADER_BYTES: usize = 128;
/// Smaller responses are not counted.
const RESPONSE_BYTES_MIN: u64 = 4 * 1024;
/// Step in which memory for a form is reserved.
const FORM_STEP_BYTES: u32 = 8 * 1024;

/// The budget that all in-memory responses share.
pub fn responses_budget(manifest_bytes_max: u64) -> Arc<AddressBudget> {
    let manifests = manifest_bytes_max.saturating_mul(RESPONSES_MANIFESTS_MIN);
    AddressBudget::new(RESPONSES_BYTES_MAX.max(manifests), manifest_bytes_max)
}

/// Counts the head of a request for as long as the returned value lives. Over HTTP/1.1 a connection has
/// one.
///
/// # Errors
///
/// 429.
pub(crate) fn hold_head(
    metrics: &Metrics,
    request: &Request,
) -> Result<Option<HeldMemory>, ApiError> {
    if request.version() <= Version::HTTP_11 {
        return Ok(None);
    }
    let resources = request.extensions().get::<Arc<ConnectionResources>>();
    let hold = |of: &Arc<ConnectionResources>| hold(metrics, &of.memory, head_bytes(request));
    resources.map(hold).transpose()
}

fn hold(metrics: &Metrics, memory: &RequestMemory, bytes: u32) -> Result<HeldMemory, ApiError> {
    memory.hold(bytes).ok_or_else(|| refused(metrics, "request_memory"))
}

fn head_bytes(request: &Request) -> u32 {
    let headers = request.headers().iter();
    let headers = headers.map(|(name, value)| name.as_str().len() + value.len() + HEADER_BYTES);
    let uri = request.uri();
    let uri = uri.path().len() + uri.query().map_or(0, str::len);
    let bytes = REQUEST_BYTES + uri + headers.sum::<usize>();
    u32::try_from(bytes).unwrap_or(u32::MAX)
}

/// A form that is being received.
#[derive(Debug, Default)]
pub(crate) struct TokenForm {
    bytes: Vec<u8>,
    held_bytes: usize,
    held: Vec<HeldMemory>,
}

impl TokenForm {
    /// Adds bytes that have arrived.
    ///
    /// # Errors
    ///
    /// 429.
    pub(crate) fn add(
        &mut self,
        metrics: &Metrics,
        memory: Option<&RequestMemory>,
        bytes: &[u8],
    ) -> Result<(), ApiError> {
        let length = self.bytes.len() + bytes.len();
        while let Some(memory) = memory.filter(|_| self.held_bytes < length) {
            self.held.push(hold(metrics, memory, FORM_STEP_BYTES)?);
            self.held_bytes += FORM_STEP_BYTES as usize;
        }
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The bytes, and what counts them.
    pub(crate) fn into_parts(self) -> (Vec<u8>, Vec<HeldMemory>) {
        (self.bytes, self.held)
    }
}

/// Counts the bytes of a response that is in memory until its client has taken them, or is gone.
///
/// # Errors
///
/// 429.
pub(crate) fn hold_response(
    budget: &Arc<AddressBudget>,
    network: Option<Network>,
    metrics: &Metrics,
    response: Response,
) -> Result<Response, ApiError> {
    let length = headers::length_of(&response).unwrap_or_default();
    if length < RESPONSE_BYTES_MIN {
        return Ok(response);
    }
    let reservation = budget.reserve(network, length);
    let reservation = reservation.ok_or_else(|| refused(metrics, "response_memory"))?;
    Ok(hold_until_taken(ResponseMemory::Own(reservation), response))
}

/// Counts what a request held, until a response that is too small to be counted by itself is taken: over
/// HTTP/2 a client can leave hundreds of them on one connection.
pub(crate) fn hold_small_response(head: Option<HeldMemory>, response: Response) -> Response {
    let length = headers::length_of(&response).unwrap_or(RESPONSE_BYTES_MIN);
    match head {
        Some(head) if (1..RESPONSE_BYTES_MIN).contains(&length) => {
            hold_until_taken(ResponseMemory::Request(head), response)
        }
        Some(_) | None => response,
    }
}

/// A refusal for want of memory, which must not take any: without a body it is sent at once, whatever the
/// client's window.
pub(crate) fn without_body(response: Response) -> Response {
    let mut response = response.map(|_| Body::empty());
    response.headers_mut().remove(header::CONTENT_LENGTH);
    response.headers_mut().remove(header::CONTENT_TYPE);
    response
}

fn hold_until_taken(memory: ResponseMemory, response: Response) -> Response {
    response.map(|body| Body::new(HeldBody { body, memory: Arc::new(memory) }))
}

fn refused(metrics: &Metrics, limit: &'static str) -> ApiError {
    metrics.count_limited(limit);
    ApiError::busy(limit.to_owned())
}

/// What counts a response, until this is dropped.
enum ResponseMemory {
    Own(#[expect(dead_code, reason = "it is held")] AddressReservation),
    Request(#[expect(dead_code, reason = "it is held")] HeldMemory),
}

/// A body whose bytes are counted, also those that the connection has and has not sent.
struct HeldBody {
    body: Body,
    memory: Arc<ResponseMemory>,
}

/// Bytes of such a body.
struct HeldBytes {
    bytes: Bytes,
    _memory: Arc<ResponseMemory>,
}

impl AsRef<[u8]> for HeldBytes {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl http_body::Body for HeldBody {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(task));
        let held =
            |bytes| Bytes::from_owner(HeldBytes { bytes, _memory: Arc::clone(&self.memory) });
        Poll::Ready(frame.map(|frame| frame.map(|frame| frame.map_data(held))))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use http_body::Body as _;
    use http_body_util::BodyExt;

    use jreg_net::server::OWN_BYTES;
    use jreg_net::server::slots::ResponseSlots;

    use super::*;

    fn request(version: Version, memory: &RequestMemory, value_bytes: usize) -> Request {
        let request = http::Request::get("http://a/v2/").version(version);
        let slots =
            ResponseSlots::new(&Arc::new(tokio::sync::Semaphore::new(0)), Default::default());
        let (memory, authorized) = (memory.clone(), Default::default());
        let resources = Arc::new(ConnectionResources { slots, memory, authorized });
        let request = request.header("x", "y".repeat(value_bytes)).extension(resources);
        request.body(Body::empty()).unwrap()
    }

    /// 250 streams with heads of 64 KiB kept 43 MiB for one connection, before any login.
    #[test]
    fn fixed_heads_of_a_connection_are_counted() {
        let shares = AddressBudget::new(8 * u64::from(OWN_BYTES), 1);
        let network = Some(Network::of([10, 0, 0, 1].into()));
        let memory = RequestMemory::new(&shares, network);
        let hold = |version| hold_head(&Metrics::new(), &request(version, &memory, 60_000));
        let held: Vec<_> = std::iter::from_fn(|| hold(Version::HTTP_2).ok()).collect();
        assert_eq!(held.len(), 1 + 2 * OWN_BYTES as usize / 70_000);
        assert_eq!(hold(Version::HTTP_2).unwrap_err().status().as_u16(), 429);
        assert!(hold(Version::HTTP_11).unwrap().is_none());
        let other = RequestMemory::new(&shares, network);
        assert!(
            hold_head(&Metrics::new(), &request(Version::HTTP_2, &other, 60_000)).is_ok(),
            "its own"
        );
        drop(held);
        assert!(hold(Version::HTTP_2).is_ok());
    }

    /// 256 responses of 404 whose client reads nothing kept 1.1 MiB for one connection.
    #[tokio::test]
    async fn fixed_small_responses_are_counted_until_they_are_taken() {
        let memory = RequestMemory::new(&AddressBudget::new(0, 0), None);
        let respond = || {
            let request = request(Version::HTTP_2, &memory, 0);
            let held = hold_head(&Metrics::new(), &request)?;
            let body = Body::from("not found");
            let response = http::Response::builder().header("content-length", 9);
            Ok::<_, ApiError>(hold_small_response(held, response.body(body).unwrap()))
        };
        let responses: Vec<_> = std::iter::from_fn(|| respond().ok()).collect();
        assert!((8..=16).contains(&responses.len()), "{}", responses.len());
        let refused = respond().unwrap_err();
        assert_eq!(refused.status().as_u16(), 429);
        let mut taken = Vec::new();
        for response in responses {
            taken.push(response.into_body().collect().await.unwrap().to_bytes());
        }
        assert!(respond().is_err(), "the connection has them");
        drop(taken);
        assert!(respond().is_ok());
        let response = http::Response::builder().header("content-length", 9);
        let empty = without_body(response.body(Body::from("too many ")).unwrap());
        assert!(empty.into_body().is_end_stream());
    }

    /// Each byte in a frame of its own kept 64 KiB many times over.
    #[test]
    fn fixed_forms_are_counted_as_they_arrive() {
        let shares = AddressBudget::new(0, 0);
        let memory = RequestMemory::new(&shares, None);
        let metrics = Metrics::new();
        let mut form = TokenForm::default();
        for _ in 0..OWN_BYTES {
            form.add(&metrics, Some(&memory), b"a").unwrap();
        }
        assert_eq!(form.held.len(), (OWN_BYTES / FORM_STEP_BYTES) as usize);
        assert_eq!(form.add(&metrics, Some(&memory), b"a").unwrap_err().status().as_u16(), 429);
        let (bytes, held) = form.into_parts();
        assert_eq!((bytes.len(), memory.own_free_bytes()), (OWN_BYTES as usize, 0));
        drop(held);
        assert_eq!(memory.own_free_bytes(), OWN_BYTES as usize);
    }

    /// 250 streams that took nothing of manifests of 4 MiB kept 1 GiB for one connection.
    #[tokio::test]
    async fn fixed_responses_in_memory_are_counted_until_their_bytes_are_gone() {
        const LENGTH: usize = 1024 * 1024;
        let (shares, metrics) = (AddressBudget::new(LENGTH as u64, 1), Metrics::new());
        let whole = || Response::new(Body::from(vec![7; LENGTH]));
        let hold = || hold_response(&shares, None, &metrics, whole());
        let mut body = hold().unwrap().into_body();
        assert_eq!(body.size_hint().exact(), Some(LENGTH as u64));
        assert_eq!(hold().unwrap_err().status().as_u16(), 429);
        let small = Response::new(Body::from("small"));
        assert!(hold_response(&shares, None, &metrics, small).is_ok());
        let mut bytes = body.frame().await.unwrap().unwrap().into_data().unwrap();
        assert!(body.frame().await.is_none());
        drop(body);
        let last = bytes.split_off(LENGTH - 1);
        drop(bytes);
        assert!(hold().is_err(), "the last byte keeps all of it");
        drop(last);
        assert!(hold().is_ok());
    }
}
