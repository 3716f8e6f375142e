//! [`ClientBody`]: a request body with its limits.
//!
//! - A client that sends nothing for too long, or is too slow on average, is disconnected. Only the
//!   time in which the server waits for the client counts: under back-pressure the body is not
//!   polled, and no timer runs.
//! - The unread rest of a rejected body is read and discarded, up to a limit: a client that writes
//!   its whole request before reading would otherwise see a connection error instead of the
//!   response.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context as TaskContext, Poll, ready};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use http::{HeaderMap, header};
use http_body::Body as _;
use http_body_util::BodyExt;
use jreg_access::limits::BytesInFlight;
use jreg_net::server::Body;
use jreg_oci::ContentRange;
use jreg_registry::{
    BodyError, BudgetReservation, Error, MemoryBudget, ReservationGauge, UploadChunk,
};
use tokio::time::{Instant, Sleep};

use crate::observed::ObservedRequest;
use crate::options::HttpOptions;

/// Maximum time for discarding the rest of a rejected body.
const DRAIN_TIME_MAX: Duration = Duration::from_secs(10);

pub(crate) struct ClientBody {
    body: Body,
    observed: Arc<ObservedRequest>,
    idle_limit: Duration,
    pace: BodyPace,
    /// Since when the server has waited without receiving anything.
    silent_since: Option<Instant>,
    /// Since when the server has waited; not yet added to `pace`.
    waiting_since: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
    drain_bytes_max: u64,
    /// The client sends nothing before it gets 100 Continue (RFC 9110 section 10.1.1).
    awaits_continue: bool,
    /// The body has ended, or the rest is not needed.
    over: bool,
    /// Counts the body's bytes among the client's bytes in flight.
    moving: Option<BytesInFlight>,
}

impl ClientBody {
    pub(crate) fn new(
        body: Body,
        headers: &HeaderMap,
        options: &HttpOptions,
        observed: Arc<ObservedRequest>,
    ) -> Self {
        let expect = headers.get(header::EXPECT);
        Self {
            over: body.is_end_stream(),
            body,
            observed,
            idle_limit: options.body_idle_timeout,
            pace: BodyPace::new(options.body_rate_min, options.body_rate_grace),
            silent_since: None,
            waiting_since: None,
            timer: None,
            moving: None,
            drain_bytes_max: options.drain_bytes_max,
            awaits_continue: expect
                .is_some_and(|value| value.as_bytes().eq_ignore_ascii_case(b"100-continue")),
        }
    }

    /// The length of the body, if known from Content-Length or the end of the headers.
    pub(crate) fn length(&self) -> Option<u64> {
        self.body.size_hint().exact()
    }

    /// Counts the body's bytes until it is dropped.
    pub(crate) fn counted_by(mut self, moving: Option<BytesInFlight>) -> Self {
        self.moving = moving;
        self
    }

    /// The body as an upload chunk.
    pub(crate) fn into_chunk(self, range: Option<ContentRange>) -> UploadChunk {
        let (length, gauge) = (self.length(), self.pace.gauge.clone());
        UploadChunk { range, length, body: self.boxed(), gauge }
    }

    /// Reads the whole body, at most `max_bytes`, with its reservation in `budget`. The reservation
    /// grows with the received bytes and never exceeds the buffer's next size.
    ///
    /// # Errors
    ///
    /// [`Error::Body`] if the body is incomplete or too large; [`Error::Busy`] if the budget is
    /// exhausted for too long.
    pub(crate) async fn collect(
        mut self,
        max_bytes: u64,
        budget: &MemoryBudget,
    ) -> Result<(Bytes, Option<BudgetReservation>), Error> {
        let hint = self.body.size_hint();
        if hint.lower() > max_bytes {
            return Err(BodyError::TooLarge { max_bytes }.into());
        }
        let target = hint.exact().unwrap_or(max_bytes);
        let (mut whole, mut room) = (BytesMut::new(), None);
        while let Some(bytes) = self.next().await.transpose()? {
            let length = (whole.len() + bytes.len()) as u64;
            if length > max_bytes {
                return Err(BodyError::TooLarge { max_bytes }.into());
            }
            let grown = grown(budget, room, length, target.max(length)).await?;
            self.pace.gauge.set(budget, grown.bytes());
            room = Some(grown);
            whole.extend_from_slice(&bytes);
        }
        Ok((whole.freeze(), room))
    }

    fn poll_data(&mut self, task: &mut TaskContext<'_>) -> Poll<Option<Result<Bytes, BodyError>>> {
        loop {
            match ready!(Pin::new(&mut self.body).poll_frame(task)) {
                None => return Poll::Ready(None),
                Some(Err(_)) => return Poll::Ready(Some(Err(BodyError::Broken))),
                // Trailers are ignored.
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(bytes) if !bytes.is_empty() => return Poll::Ready(Some(Ok(bytes))),
                    Ok(_) | Err(_) => {}
                },
            }
        }
    }

    /// Waits until the client has been idle, or too slow, for too long.
    fn poll_patience(&mut self, task: &mut TaskContext<'_>) -> Poll<BodyError> {
        loop {
            let now = Instant::now();
            let silent_since = *self.silent_since.get_or_insert(now);
            let waiting_since = self.waiting_since.replace(now).unwrap_or(now);
            if now.duration_since(silent_since) >= self.idle_limit {
                return Poll::Ready(BodyError::Idle { limit_s: self.idle_limit.as_secs() });
            }
            if let Err(error) = self.pace.waited(now.duration_since(waiting_since)) {
                return Poll::Ready(error);
            }
            let silence_end = silent_since + self.idle_limit;
            let next =
                self.pace.window_left().map_or(silence_end, |left| silence_end.min(now + left));
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(next)));
            timer.as_mut().reset(next);
            ready!(timer.as_mut().poll(task));
        }
    }

    /// Records that the client has sent something, or has ended.
    fn noted(&mut self, bytes: usize) -> Result<(), BodyError> {
        self.silent_since = None;
        self.pace.came(bytes);
        let waited = self.waiting_since.take().map(|since| since.elapsed());
        self.pace.waited(waited.unwrap_or_default())
    }
}

/// Transfer rate of a body, in windows of a fixed length of waiting time. A body that holds a
/// reservation for which others wait must transfer that many bytes per window.
#[derive(Debug)]
struct BodyPace {
    /// Bytes per second; 0: no minimum.
    rate_min: u64,
    window: Duration,
    waited: Duration,
    came_bytes: u64,
    gauge: ReservationGauge,
}

impl BodyPace {
    fn new(rate_min: u64, window: Duration) -> Self {
        let gauge = ReservationGauge::default();
        Self { rate_min, window, waited: Duration::ZERO, came_bytes: 0, gauge }
    }

    /// Waiting time that is left in the window.
    fn window_left(&self) -> Option<Duration> {
        (self.rate_min > 0).then(|| self.window.saturating_sub(self.waited))
    }

    fn came(&mut self, bytes: usize) {
        self.came_bytes = self.came_bytes.saturating_add(bytes as u64);
    }

    /// Adds waiting time. The next window begins when this one is over.
    fn waited(&mut self, time: Duration) -> Result<(), BodyError> {
        self.waited += time;
        if self.rate_min == 0 || self.waited < self.window {
            return Ok(());
        }
        let rate_held = u128::from(self.gauge.contended_bytes()) * 1000 / self.window.as_millis();
        let rate_min = self.rate_min.max(u64::try_from(rate_held).unwrap_or(u64::MAX));
        let wanted = u128::from(rate_min) * self.waited.as_millis() / 1000;
        if u128::from(self.came_bytes) < wanted {
            return Err(BodyError::Slow { rate_min });
        }
        (self.waited, self.came_bytes) = (Duration::ZERO, 0);
        Ok(())
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
            let error = ready!(self.poll_patience(task));
            self.over = true;
            return Poll::Ready(Some(Err(error)));
        };
        let bytes = item.as_ref().and_then(|item| item.as_ref().ok()).map_or(0, Bytes::len);
        let noted = self.noted(bytes);
        if let (Some(Ok(_)), Err(error)) = (&item, noted) {
            self.over = true;
            return Poll::Ready(Some(Err(error)));
        }
        match &item {
            Some(Ok(bytes)) => {
                self.observed.add_received(bytes.len());
                if let Some(moving) = &mut self.moving {
                    moving.came(bytes.len());
                }
            }
            Some(Err(_)) | None => self.over = true,
        }
        Poll::Ready(item)
    }
}

/// Reserves `bytes` for a body that may reach `target`.
async fn grown(
    budget: &MemoryBudget,
    room: Option<BudgetReservation>,
    bytes: u64,
    target: u64,
) -> Result<BudgetReservation, Error> {
    let Some(mut room) = room else { return budget.begin(bytes, target).await };
    while room.bytes() < bytes {
        budget.grow(&mut room, target).await?;
    }
    Ok(room)
}

impl Drop for ClientBody {
    fn drop(&mut self) {
        // Polling before 100 Continue is due would send it.
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

    const LIMIT: Duration = Duration::from_secs(60);

    /// A body fed by the test, and its outcome.
    fn fed(headers: &[(&str, &str)], drain_bytes_max: u64) -> (mpsc::Sender<Bytes>, ClientBody) {
        let (sender, receiver) = mpsc::channel(8);
        let frames = ReceiverStream::new(receiver)
            .map(|bytes: Bytes| Ok::<_, Infallible>(Frame::data(bytes)));
        let mut request = Request::new(Body::new(StreamBody::new(frames)));
        for (name, value) in headers {
            let name = http::HeaderName::from_bytes(name.as_bytes()).unwrap();
            request.headers_mut().insert(name, value.parse().unwrap());
        }
        let options =
            HttpOptions { drain_bytes_max, body_idle_timeout: LIMIT, ..HttpOptions::default() };
        let observed = Arc::new(ObservedRequest::new(&request, &options.proxies, None));
        let (parts, body) = request.into_parts();
        (sender, ClientBody::new(body, &parts.headers, &options, observed))
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
        body.pace = BodyPace::new(1, LIMIT * 2);
        for _ in 0..3 {
            tokio::time::sleep(LIMIT * 2).await;
            let later = sender.clone();
            tokio::spawn(async move {
                tokio::time::sleep(LIMIT / 2).await;
                feed(&later, "a");
            });
            assert_eq!(body.next().await.unwrap().unwrap(), "a");
        }
        assert_eq!(body.observed.received_bytes(), 3);
    }

    /// Regression: one byte per idle timeout kept a body open forever.
    #[tokio::test(start_paused = true)]
    async fn fixed_client_that_sends_less_than_the_minimum_rate_is_cut_off() {
        let (sender, mut body) = fed(&[], 0);
        let trickle = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LIMIT / 4).await;
                if sender.send(Bytes::from_static(b"z")).await.is_err() {
                    return;
                }
            }
        });
        let began = Instant::now();
        let mut came = 0;
        let error = loop {
            match body.next().await.unwrap() {
                Ok(bytes) => came += bytes.len(),
                Err(error) => break error,
            }
        };
        assert_eq!(error, BodyError::Slow { rate_min: 1024 });
        assert!(began.elapsed() <= LIMIT + LIMIT / 4 && came < 5, "{came} bytes");
        trickle.abort();
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_at_the_minimum_rate_may_take_as_long_as_it_likes() {
        let (sender, mut body) = fed(&[], 0);
        tokio::spawn(async move {
            for _ in 0..20 {
                tokio::time::sleep(LIMIT * 9 / 20).await;
                sender.send(vec![0; 31 * 1024].into()).await.unwrap();
            }
        });
        let mut came = 0;
        while let Some(bytes) = body.next().await {
            came += bytes.unwrap().len();
        }
        assert_eq!(came, 20 * 31 * 1024);
    }

    /// Regression: a body at the minimum rate could hold its reservation while others waited.
    #[tokio::test(start_paused = true)]
    async fn fixed_body_that_holds_room_for_which_others_wait_fills_it_in_time() {
        const HELD_BYTES: u64 = 1 << 20;
        let budget = MemoryBudget::new(HELD_BYTES, 0, LIMIT * 100);
        let _room = budget.take(HELD_BYTES).await.unwrap();
        let (sender, mut body) = fed(&[], 0);
        body.pace.gauge.set(&budget, HELD_BYTES);
        let sending = tokio::spawn(async move {
            while sender.send(vec![0; 31 * 1024].into()).await.is_ok() {
                tokio::time::sleep(LIMIT * 9 / 20).await;
            }
        });
        for _ in 0..20 {
            body.next().await.unwrap().unwrap();
        }
        let waiting = tokio::spawn(async move { budget.take(1).await.map(|_| ()) });
        let error = loop {
            if let Err(error) = body.next().await.expect("it may go on for ever") {
                break error;
            }
        };
        assert_eq!(error, BodyError::Slow { rate_min: HELD_BYTES / LIMIT.as_secs() });
        waiting.abort();
        sending.abort();
    }

    #[tokio::test]
    async fn a_buffered_body_is_complete_or_too_large() {
        let (sender, body) = fed(&[], 0);
        feed(&sender, "ab");
        feed(&sender, "cd");
        drop(sender);
        let budget = MemoryBudget::new(8, 0, LIMIT);
        let (bytes, room) = body.collect(4, &budget).await.unwrap();
        assert_eq!((bytes, budget.usage().bytes_free), ("abcd".into(), 4));
        drop(room);
        assert_eq!(budget.usage().bytes_free, 8);
        let (sender, body) = fed(&[], 0);
        feed(&sender, "ab");
        feed(&sender, "cd");
        let refused = body.collect(3, &budget).await.map(|_| ());
        let too_large = BodyError::TooLarge { max_bytes: 3 };
        assert!(matches!(refused, Err(Error::Body(error)) if error == too_large), "{refused:?}");
        drop(sender);
        assert_eq!(budget.usage().bytes_free, 8);
    }

    /// Whether the sender can still send after all ready tasks have run.
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
