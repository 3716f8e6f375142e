//! [`ClientBody`]: the bytes that a client sends, with the limits that hold for them.
//!
//! - A client that sends nothing for too long is cut off. Only the time in which we wait for it
//!   counts: while an upload waits for memory the body is not polled, and no clock runs.
//! - What an early answer leaves unread is read and thrown away, up to a limit: a client that
//!   writes its whole request before it reads would otherwise see a broken connection instead of
//!   the answer.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use jreg_registry::{BodyError, BodyStream};
use tokio::time::Sleep;

use super::HttpOptions;
use super::exchange::Exchange;
use crate::limits::Moving;

/// The longest that the rest of a refused body is read.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

/// The body of a request.
pub(super) struct ClientBody {
    body: Body,
    exchange: Arc<Exchange>,
    idle_limit: Duration,
    idle: Option<Pin<Box<Sleep>>>,
    drain_bytes_max: u64,
    /// The client sends nothing before we ask for it (RFC 9110 section 10.1.1).
    awaits_continue: bool,
    /// Nothing more will come, or nothing more is wanted.
    over: bool,
    /// Counts its bytes among those that the client has in flight.
    moving: Option<Moving>,
}

impl ClientBody {
    pub(super) fn new(
        body: Body,
        headers: &HeaderMap,
        options: &HttpOptions,
        exchange: Arc<Exchange>,
    ) -> Self {
        let expect = headers.get(header::EXPECT);
        Self {
            over: body.is_end_stream(),
            body,
            exchange,
            idle_limit: options.body_idle_timeout,
            idle: None,
            moving: None,
            drain_bytes_max: options.drain_bytes_max,
            awaits_continue: expect
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")),
        }
    }

    /// How many bytes will come, if the client said so: by Content-Length, or by ending the
    /// request with its head.
    pub(super) fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// Counts its bytes until it is dropped.
    pub(super) fn counted_by(mut self, moving: Option<Moving>) -> Self {
        self.moving = moving;
        self
    }

    /// The body as a stream.
    pub(super) fn into_stream(self) -> BodyStream {
        self.boxed()
    }

    /// The whole body, if it is not larger than `max_bytes`.
    pub(super) async fn collect(mut self, max_bytes: u64) -> Result<Bytes, BodyError> {
        if self.body.size_hint().lower() > max_bytes {
            return Err(BodyError::TooLarge { max_bytes });
        }
        let mut whole = BytesMut::new();
        while let Some(bytes) = self.next().await.transpose()? {
            if (whole.len() + bytes.len()) as u64 > max_bytes {
                return Err(BodyError::TooLarge { max_bytes });
            }
            whole.extend_from_slice(&bytes);
        }
        Ok(whole.freeze())
    }

    fn poll_data(&mut self, task: &mut TaskContext<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(task)) {
                None => return Poll::Ready(None),
                Some(Err(_)) => return Poll::Ready(Some(Err(BodyError::Broken))),
                // Trailers carry nothing for us.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Poll::Ready(Some(Ok(bytes))),
                    Ok(_) | Err(_) => {}
                },
            }
        }
    }

    fn poll_idle(&mut self, task: &mut TaskContext<'_>) -> Poll<BodyError> {
        let limit = self.idle_limit;
        let idle = self.idle.get_or_insert_with(|| Box::pin(tokio::time::sleep(limit)));
        ready!(idle.as_mut().poll(task));
        Poll::Ready(BodyError::Idle { limit_s: limit.as_secs() })
    }
}

impl Stream for ClientBody {
    type Item = Result<Bytes, BodyError>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        task: &mut TaskContext<'_>,
    ) -> Poll<Option<Result<Bytes, BodyError>>> {
        if self.over {
            return Poll::Ready(None);
        }
        self.awaits_continue = false;
        let Poll::Ready(item) = self.poll_data(task) else {
            let error = ready!(self.poll_idle(task));
            self.over = true;
            return Poll::Ready(Some(Err(error)));
        };
        self.idle = None;
        match &item {
            Some(Ok(bytes)) => {
                self.exchange.received(bytes.len());
                if let Some(moving) = &mut self.moving {
                    moving.came(bytes.len());
                }
            }
            Some(Err(_)) | None => self.over = true,
        }
        Poll::Ready(item)
    }
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        // Reading what the client has not yet been asked for would ask for it.
        if self.over || self.awaits_continue {
            return;
        }
        let body = std::mem::take(&mut self.body);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(tokio::time::timeout(DRAIN_TIME_MAX, drain(body, self.drain_bytes_max)));
        }
    }
}

async fn drain(mut body: Body, max_bytes: u64) {
    let mut drained: u64 = 0;
    while drained < max_bytes {
        let Some(Ok(frame)) = body.frame().await else { return };
        drained += frame.data_ref().map_or(0, Bytes::len) as u64;
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use std::convert::Infallible;

    use http::Request;
    use http_body::Frame;
    use http_body_util::StreamBody;
    use tokio::sync::mpsc;
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;
    use crate::config::Settings;

    const LIMIT: Duration = Duration::from_secs(60);

    /// A body that the test feeds, and what becomes of it.
    fn fed(headers: &[(&str, &str)], drain_bytes_max: u64) -> (mpsc::Sender<Bytes>, ClientBody) {
        let (sender, receiver) = mpsc::channel(8);
        let frames = ReceiverStream::new(receiver)
            .map(|bytes: Bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        let mut request = Request::new(Body::new(StreamBody::new(frames)));
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let settings =
            Settings { drain_bytes_max, body_idle_timeout: LIMIT, ..Settings::default() };
        let options = HttpOptions::of(&settings);
        let exchange = Arc::new(Exchange::new(&request, &options.proxies));
        let (parts, body) = request.into_parts();
        (sender, ClientBody::new(body, &parts.headers, &options, exchange))
    }

    fn feed(sender: &mpsc::Sender<Bytes>, bytes: &'static str) {
        sender.try_send(Bytes::from_static(bytes.as_bytes())).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_nothing_is_cut_off() {
        let (sender, mut body) = fed(&[], 0);
        feed(&sender, "a");
        assert_eq!(body.next().await.unwrap().unwrap(), "a");
        assert_eq!(body.next().await.unwrap(), Err(BodyError::Idle { limit_s: 60 }));
        assert!(body.next().await.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn time_in_which_we_do_not_ask_is_not_idle_time() {
        let (sender, mut body) = fed(&[], 0);
        for _ in 0..3 {
            tokio::time::sleep(LIMIT * 2).await;
            let later = sender.clone();
            tokio::spawn(async move {
                tokio::time::sleep(LIMIT / 2).await;
                feed(&later, "a");
            });
            assert_eq!(body.next().await.unwrap().unwrap(), "a");
        }
        assert_eq!(body.exchange.received_bytes(), 3);
    }

    #[tokio::test]
    async fn a_collected_body_is_whole_or_too_large() {
        let (sender, body) = fed(&[], 0);
        feed(&sender, "ab");
        feed(&sender, "cd");
        drop(sender);
        assert_eq!(body.collect(4).await.unwrap(), "abcd");
        let (sender, body) = fed(&[], 0);
        feed(&sender, "ab");
        feed(&sender, "cd");
        assert_eq!(body.collect(3).await, Err(BodyError::TooLarge { max_bytes: 3 }));
        drop(sender);
    }

    /// Whether the sender can still send, once everything that can run has run.
    async fn is_open(sender: &mpsc::Sender<Bytes>) -> bool {
        for _ in 0..10 {
            tokio::task::yield_now().await;
        }
        !sender.is_closed()
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_left_unread_is_drained_up_to_the_limit() {
        let (sender, body) = fed(&[], 3);
        drop(body);
        feed(&sender, "ab");
        assert!(is_open(&sender).await);
        feed(&sender, "cd");
        assert!(!is_open(&sender).await);
        let (sender, body) = fed(&[], 3);
        drop(body);
        assert!(is_open(&sender).await);
        tokio::time::advance(DRAIN_TIME_MAX).await;
        assert!(!is_open(&sender).await, "and not for ever");
    }

    #[tokio::test]
    async fn a_body_that_waits_to_be_asked_for_is_not_drained() {
        let (sender, body) = fed(&[("expect", "100-Continue")], 100);
        drop(body);
        assert!(sender.is_closed());
    }
}
