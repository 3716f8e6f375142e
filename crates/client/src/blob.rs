//! [`UpstreamBlob`]: the bytes of a blob as they arrive, resumed where they break off.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{Stream, try_unfold};
use jreg_oci::{Digest, Hasher, RepositoryName};
use reqwest::header::CONTENT_RANGE;
use tokio::time::{Instant, sleep};

use crate::client::{blob_request, check_digest, digest_header, jitter};
use crate::endpoint::{Endpoint, Reply, UpstreamRequest};
use crate::response_range::ResponseRange;
use crate::{
    BlobRequest, ByteRange, RESUMED_BYTES_MIN, UpstreamClient, UpstreamError, UpstreamErrorKind,
};

/// The first pause before a blob is resumed; doubled while too few bytes come ([`RESUMED_BYTES_MIN`]).
const RESUME_PAUSE: Duration = Duration::from_millis(50);

/// How long a `Retry-After` is waited for before a blob is resumed.
const RESUME_WAIT_MAX: Duration = Duration::from_secs(30);

/// The rate at which a blob arrives, in windows of a fixed length of waiting time.
#[derive(Debug)]
struct ReceiveRate {
    /// Bytes per second; 0: no minimum.
    rate_min: u64,
    window: Duration,
    waited: Duration,
    received: u64,
}

impl ReceiveRate {
    fn new(rate_min: u64, window: Duration) -> Self {
        Self { rate_min, window, waited: Duration::ZERO, received: 0 }
    }

    /// Adds waiting time that no byte has ended yet.
    fn add_wait(&mut self, waited: Duration) {
        self.waited += waited;
    }

    /// Adds waiting time, and the bytes that ended it. The next window begins when this one is over. `false`:
    /// it has brought too little.
    fn note(&mut self, waited: Duration, bytes: u64) -> bool {
        self.add_wait(waited);
        self.received = self.received.saturating_add(bytes);
        if self.waited < self.window {
            return true;
        }
        let wanted = u128::from(self.rate_min) * self.waited.as_millis() / 1000;
        let is_enough = u128::from(self.received) >= wanted;
        (self.waited, self.received) = (Duration::ZERO, 0);
        is_enough
    }
}

/// A blob, or a part of it.
///
/// - The bytes of a whole blob are hashed while they pass. That they have the digest is known only when the
///   stream ends without an error: a reader that must not be given wrong bytes is not given the last ones before.
/// - Those of a part cannot be verified.
/// - It occupies one of the client's requests in flight until it is dropped.
#[derive(Debug)]
pub struct UpstreamBlob {
    client: UpstreamClient,
    request: UpstreamRequest,
    digest: Digest,
    size: Option<u64>,
    start: u64,
    /// The byte after the last one, if it is known.
    end: Option<u64>,
    position: u64,
    /// Bytes at the beginning of the body that were not requested.
    surplus: u64,
    hasher: Option<Hasher>,
    reply: Option<Reply>,
    sources: Vec<Arc<Endpoint>>,
    /// How often it was resumed, and the bytes since the last time.
    resumes: u32,
    resumed_bytes: u64,
    rate: ReceiveRate,
}

impl UpstreamBlob {
    pub(crate) async fn open(
        client: UpstreamClient,
        repository: RepositoryName,
        wanted: BlobRequest,
    ) -> Result<Self, UpstreamError> {
        let range = wanted.range.filter(|range| *range != ByteRange { start: 0, end: None });
        let mut request = blob_request(&repository, &wanted.digest);
        request.range = range.map(|range| range_header(range.start, range.end));
        let rate_min = client.limits().blob_rate_min;
        let mut blob = Self {
            rate: ReceiveRate::new(rate_min, client.timeouts().blob_rate_window),
            client,
            request,
            hasher: range.is_none().then(|| Hasher::new(wanted.digest.algorithm())),
            digest: wanted.digest,
            size: wanted.size,
            start: range.map_or(0, |range| range.start),
            end: range.map_or(wanted.size, |range| range.end),
            position: range.map_or(0, |range| range.start),
            surplus: 0,
            reply: None,
            sources: Vec::new(),
            resumes: 0,
            resumed_bytes: 0,
        };
        blob.connect().await?;
        Ok(blob)
    }

    /// The size of the whole blob in bytes, if the upstream said it or the request did.
    pub fn size(&self) -> Option<u64> {
        self.size
    }

    /// The first byte of the part.
    pub fn start(&self) -> u64 {
        self.start
    }

    /// The byte after the last one, if it is known.
    pub fn end(&self) -> Option<u64> {
        self.end.or(self.size)
    }

    /// The next bytes; `None` at the end, when those of a whole blob have its digest.
    ///
    /// # Errors
    ///
    /// [`UpstreamError`]. After an error, the stream has ended.
    pub async fn next_chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        loop {
            let Some(reply) = &mut self.reply else { return Ok(None) };
            let began = Instant::now();
            let received = reply.chunk().await;
            let error = match received {
                Ok(Some(chunk)) if !self.rate.note(began.elapsed(), chunk.len() as u64) => {
                    let what = "a blob at the minimum rate";
                    return self.fail(self.error(UpstreamErrorKind::Timeout { what }));
                }
                Ok(Some(chunk)) => match self.take(chunk) {
                    Ok(Some(chunk)) => return Ok(Some(chunk)),
                    Ok(None) => continue,
                    Err(error) => return self.fail(error),
                },
                Ok(None) if self.is_short() => {
                    self.error(UpstreamErrorKind::unavailable("the body ended early"))
                }
                Ok(None) => return self.finish(),
                Err(error) => error,
            };
            self.resume(error).await?;
            self.rate.add_wait(began.elapsed());
        }
    }

    /// The bytes as a stream, as [`UpstreamBlob::next_chunk`] returns them.
    pub fn into_stream(self) -> impl Stream<Item = Result<Bytes, UpstreamError>> + Send + 'static {
        try_unfold(self, |mut blob| async move {
            let chunk = blob.next_chunk().await?;
            Ok(chunk.map(|chunk| (chunk, blob)))
        })
    }

    fn is_short(&self) -> bool {
        self.surplus > 0 || self.end().is_some_and(|end| self.position < end)
    }

    /// The bytes of a chunk that were requested, hashed; `None` if there are none.
    fn take(&mut self, mut chunk: Bytes) -> Result<Option<Bytes>, UpstreamError> {
        let surplus = self.surplus.min(chunk.len() as u64);
        self.surplus -= surplus;
        // At most the length of the chunk.
        let _ = chunk.split_to(usize::try_from(surplus).unwrap_or(chunk.len()));
        let length = chunk.len() as u64;
        if let Some(end) = self.end().filter(|end| self.position + length > *end) {
            if self.hasher.is_some() {
                let actual = self.position + length;
                return Err(self.error(UpstreamErrorKind::WrongSize { expected: end, actual }));
            }
            // The whole blob came instead of the part.
            chunk.truncate(usize::try_from(end - self.position).unwrap_or(chunk.len()));
        }
        if chunk.is_empty() {
            // Nothing but what was not requested follows.
            if self.hasher.is_none() && self.end() == Some(self.position) {
                self.reply = None;
            }
            return Ok(None);
        }
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&chunk);
        }
        self.position += chunk.len() as u64;
        self.resumed_bytes += chunk.len() as u64;
        if self.resumed_bytes >= RESUMED_BYTES_MIN {
            self.resumes = 0;
        }
        Ok(Some(chunk))
    }

    fn finish(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        if let Some(hasher) = self.hasher.take() {
            let actual = hasher.finish();
            if actual != self.digest {
                let expected = self.digest.clone();
                let error = self.error(UpstreamErrorKind::WrongDigest { expected, actual });
                return self.fail(error);
            }
        }
        self.reply = None;
        Ok(None)
    }

    /// Ends the stream. URLs that served other bytes are not asked for this digest for a while.
    fn fail(&mut self, error: UpstreamError) -> Result<Option<Bytes>, UpstreamError> {
        if is_mismatch(&error) {
            self.sources.iter().for_each(|source| source.skip(&self.request, &error.kind));
        }
        self.reply = None;
        Err(error)
    }

    fn error(&self, kind: UpstreamErrorKind) -> UpstreamError {
        match &self.reply {
            Some(reply) => reply.error(kind),
            None => kind.of(&"".into()),
        }
    }

    /// Continues after an error, if it may help.
    async fn resume(&mut self, mut error: UpstreamError) -> Result<(), UpstreamError> {
        self.reply = None;
        self.resumed_bytes = 0;
        while error.kind.is_temporary() && self.resumes < self.client.limits().resumes_max {
            let pause = RESUME_PAUSE.saturating_mul(1 << self.resumes.min(6));
            let asked = match error.kind {
                UpstreamErrorKind::TooManyRequests { retry_after } => retry_after,
                _ => None,
            };
            self.resumes += 1;
            self.client.counters().add_resume();
            let (upstream, offset) = (&*error.host, self.position);
            tracing::debug!(upstream, digest = %self.digest, offset, "blob resumed");
            sleep(jitter(pause).max(asked.unwrap_or_default().min(RESUME_WAIT_MAX))).await;
            match self.connect().await {
                Ok(()) => return Ok(()),
                Err(again) => error = again,
            }
        }
        self.fail(error).map(|_| ())
    }

    /// Requests what is missing, from another URL if one serves something else.
    async fn connect(&mut self) -> Result<(), UpstreamError> {
        if self.position > 0 || self.hasher.is_none() {
            self.request.range = Some(range_header(self.position, self.end()));
        }
        loop {
            let reply = self.client.send(&self.request).await?;
            match self.accept(&reply) {
                Ok(()) => {
                    if !self.sources.iter().any(|known| Arc::ptr_eq(known, &reply.endpoint)) {
                        self.sources.push(Arc::clone(&reply.endpoint));
                    }
                    self.reply = Some(reply);
                    return Ok(());
                }
                Err(error) if is_mismatch(&error) => {
                    reply.endpoint.skip(&self.request, &error.kind);
                    if !self.client.has_other(&self.request) {
                        return Err(error);
                    }
                }
                Err(error) => return Err(error),
            }
        }
    }

    /// Checks the head of a response against what is known of the blob.
    fn accept(&mut self, reply: &Reply) -> Result<(), UpstreamError> {
        match reply.status().as_u16() {
            200 => {
                if let Some(actual) = digest_header(reply)? {
                    check_digest(reply, &self.digest, &actual)?;
                }
                self.set_size(reply, reply.response.content_length())?;
                self.surplus = self.position;
                Ok(())
            }
            206 if self.request.range.is_some() => {
                let range = reply.response.header(CONTENT_RANGE).and_then(ResponseRange::parse);
                let range = range.filter(|range| range.start == self.position);
                let range = range.filter(|range| self.end().is_none_or(|end| range.end <= end));
                let wrong = || {
                    reply.error(UpstreamErrorKind::protocol(
                        "a 206 with another part than was requested",
                    ))
                };
                let range = range.ok_or_else(wrong)?;
                if reply
                    .response
                    .content_length()
                    .is_some_and(|length| length != range.end - range.start)
                {
                    return Err(wrong());
                }
                self.set_size(reply, range.total)?;
                self.surplus = 0;
                Ok(())
            }
            416 => Err(reply.error(UpstreamErrorKind::RangeNotSatisfiable)),
            _ => Err(reply.unexpected()),
        }
    }

    fn set_size(&mut self, reply: &Reply, size: Option<u64>) -> Result<(), UpstreamError> {
        let Some(actual) = size else { return Ok(()) };
        match self.size {
            Some(expected) if expected != actual => {
                Err(reply.error(UpstreamErrorKind::WrongSize { expected, actual }))
            }
            _ if self.start > actual || (self.start == actual && self.hasher.is_none()) => {
                Err(reply.error(UpstreamErrorKind::RangeNotSatisfiable))
            }
            _ => {
                self.size = Some(actual);
                self.end = Some(self.end.map_or(actual, |end| end.min(actual)));
                Ok(())
            }
        }
    }
}

fn is_mismatch(error: &UpstreamError) -> bool {
    matches!(
        error.kind,
        UpstreamErrorKind::WrongDigest { .. } | UpstreamErrorKind::WrongSize { .. }
    )
}

/// `end` is the byte after the last.
fn range_header(start: u64, end: Option<u64>) -> String {
    match end {
        Some(end) => format!("bytes={start}-{}", end.saturating_sub(1)),
        None => format!("bytes={start}-"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rate_is_measured_over_windows_of_waiting_time() {
        let seconds = Duration::from_secs;
        let mut rate = ReceiveRate::new(100, seconds(10));
        assert!(rate.note(seconds(9), 0), "the window is not over");
        assert!(rate.note(seconds(1), 1000));
        assert!(rate.note(seconds(5), 1 << 40), "what is too fast now");
        rate.add_wait(seconds(5));
        assert!(rate.note(seconds(0), 0));
        assert!(!rate.note(seconds(10), 999), "does not count later");
        rate.add_wait(seconds(60));
        assert!(!rate.note(Duration::ZERO, 5999), "resumptions count");
        let mut unlimited = ReceiveRate::new(0, seconds(10));
        assert!(unlimited.note(seconds(1000), 0));
    }
}
