//! Streams of bulk objects that continue after a broken connection.
//!
//! A stream that breaks off is requested again from the byte it reached, on the entity tag of the
//! first response, so that the consumer never sees the joint nor a mix of two objects. What is read
//! is only ever one chunk ahead of the consumer; dropping the stream closes the connection.

use std::sync::Arc;

use bytes::Bytes;
use futures::stream::{BoxStream, StreamExt, try_unfold};
use http::{HeaderMap, Method, StatusCode, header};
use object_store::client::HttpError;
use tokio::time::timeout;

use super::bucket::{BucketClient, S3Request, S3Response, etag, length, timed_out};
use super::failure::{FailureClass, S3Failure};
use super::records::size;
use super::retry::RetryBudget;
use crate::{ByteRange, ByteStream, ETag, Error, ErrorKind, Key, Result};

/// How often one stream is taken up again.
const RESUMPTIONS_MAX: u32 = 64;

/// Beyond what any store holds (and what some can parse).
const OFFSET_MAX: u64 = 1 << 62;

struct ResumableRead {
    bucket: Arc<BucketClient>,
    key: Key,
    etag: ETag,
    /// The bytes still to come.
    rest: ByteRange,
    chunks: BoxStream<'static, Result<Bytes, HttpError>>,
    effort: RetryBudget,
    resumptions: u32,
}

impl BucketClient {
    pub(super) async fn read(self: &Arc<Self>, key: &Key, range: ByteRange) -> Result<ByteStream> {
        if range.start >= range.end || range.end > OFFSET_MAX {
            return self.read_nothing(key, range).await;
        }
        let mut effort = self.effort(0);
        let request = self.part(key, range);
        let response = self.open_patiently(&request, &mut effort).await;
        let response = response.and_then(|response| checked(response, range));
        let S3Response { headers, body, .. } = response.map_err(|failure| failure.on(key))?;
        let reading = ResumableRead {
            bucket: Arc::clone(self),
            key: key.clone(),
            etag: etag(&headers).map_err(|failure| failure.on(key))?,
            rest: range,
            chunks: body.bytes_stream(),
            effort: self.patience(),
            resumptions: 0,
        };
        Ok(try_unfold(reading, ResumableRead::next).boxed())
    }

    /// An empty range is an empty stream, if it lies within an object.
    async fn read_nothing(&self, key: &Key, range: ByteRange) -> Result<ByteStream> {
        let stat = self.head(key).await?;
        if range.start != range.end || range.end > stat.size_bytes {
            return Err(Error::new(ErrorKind::OutOfRange, key));
        }
        Ok(futures::stream::empty().boxed())
    }

    fn part(&self, key: &Key, ByteRange { start, end }: ByteRange) -> S3Request {
        let bytes = format!("bytes={start}-{}", end.saturating_sub(1));
        self.object(Method::GET, key).header(header::RANGE, &bytes)
    }

    fn patience(&self) -> RetryBudget {
        RetryBudget::new(self.options.request_timeout, self.options.transfer_budget)
    }

    async fn open_patiently(
        &self,
        request: &S3Request,
        effort: &mut RetryBudget,
    ) -> Result<S3Response, S3Failure> {
        loop {
            let failure = match self.open_once(request, effort.attempt).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            if !failure.verdict.is_passing() || !effort.again(failure.retry_after).await {
                return Err(failure);
            }
        }
    }
}

/// A response that holds exactly the range.
fn checked(response: S3Response, range: ByteRange) -> Result<S3Response, S3Failure> {
    let whole = response.status == StatusCode::OK;
    let (start, size_bytes) = match whole {
        true => (0, length(&response.headers)),
        false => (start(&response.headers).unwrap_or(u64::MAX), size(&response.headers)),
    };
    let size_bytes = size_bytes.unwrap_or_default();
    if range.end > size_bytes {
        return Err(S3Failure::new(
            FailureClass::OutOfRange,
            format!("the object has {size_bytes} bytes"),
        ));
    }
    if start != range.start || (whole && size_bytes != range.end) {
        return Err(S3Failure::new(
            FailureClass::Unsure,
            "the response is not the range asked for",
        ));
    }
    Ok(response)
}

fn start(headers: &HeaderMap) -> Option<u64> {
    let text = headers.get(header::CONTENT_RANGE)?.to_str().ok()?;
    text.strip_prefix("bytes ")?.split_once('-')?.0.parse().ok()
}

impl ResumableRead {
    async fn next(mut self) -> Result<Option<(Bytes, Self)>> {
        while !self.rest.is_empty() {
            match self.chunk().await {
                Ok(chunk) => {
                    self.rest.start += chunk.len() as u64;
                    self.effort = self.bucket.patience();
                    return Ok(Some((chunk, self)));
                }
                Err(failure) => self.resume(failure).await?,
            }
        }
        Ok(None)
    }

    /// The next bytes that the connection has for us; the time we are not asked does not count.
    async fn chunk(&mut self) -> Result<Bytes, S3Failure> {
        let idle = self.bucket.options.idle_timeout;
        loop {
            let chunk = timeout(idle, self.chunks.next()).await.map_err(|_| timed_out(idle))?;
            let ended = || S3Failure::new(FailureClass::Unsure, "the response ended early");
            let mut chunk = chunk.ok_or_else(ended)?.map_err(S3Failure::of_http)?;
            chunk.truncate(usize::try_from(self.rest.len()).unwrap_or(usize::MAX));
            if !chunk.is_empty() {
                return Ok(chunk);
            }
        }
    }

    async fn resume(&mut self, failure: S3Failure) -> Result<()> {
        self.chunks = futures::stream::empty().boxed();
        self.resumptions += 1;
        if self.resumptions > RESUMPTIONS_MAX || !self.effort.again(None).await {
            return Err(failure.on(&self.key));
        }
        let tag = self.bucket.tag(&self.etag);
        let request = self.bucket.part(&self.key, self.rest).header(header::IF_MATCH, &tag);
        let response = self.bucket.open_patiently(&request, &mut self.effort).await;
        let response = response.and_then(|response| checked(response, self.rest));
        self.chunks = response.map_err(|failure| failure.on(&self.key))?.body.bytes_stream();
        Ok(())
    }
}
