//! [`Body`]: a request or response body from any source.

use std::error::Error;
use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures::{TryStream, TryStreamExt};
use http_body::{Body as HttpBody, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Incoming;

/// Why a body ended early.
pub type BodyFailure = Box<dyn Error + Send + Sync>;

/// A request or response body.
pub struct Body(BodySource);

/// Needs no allocation; most bodies are of this kind.
enum BodySource {
    /// The whole rest of the body, in memory.
    Memory(Bytes),
    /// Received from a client.
    Client(Incoming),
    Other(UnsyncBoxBody<Bytes, BodyFailure>),
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Body").finish_non_exhaustive()
    }
}

impl Body {
    /// An empty body.
    pub const fn empty() -> Self {
        Self(BodySource::Memory(Bytes::new()))
    }

    /// A body received from a client.
    pub fn of_client(body: Incoming) -> Self {
        Self(BodySource::Client(body))
    }

    /// Any other body.
    pub fn new<B>(body: B) -> Self
    where
        B: HttpBody<Data = Bytes> + Send + 'static,
        B::Error: Into<BodyFailure>,
    {
        Self(BodySource::Other(body.map_err(Into::into).boxed_unsync()))
    }

    /// A body from a stream.
    pub fn from_stream<S>(stream: S) -> Self
    where
        S: TryStream<Ok = Bytes> + Send + 'static,
        S::Error: Into<BodyFailure>,
    {
        Self::new(StreamBody::new(stream.map_ok(Frame::data).err_into::<BodyFailure>()))
    }
}

impl Default for Body {
    fn default() -> Self {
        Self::empty()
    }
}

impl<T: Into<Bytes>> From<T> for Body {
    fn from(bytes: T) -> Self {
        Self(BodySource::Memory(bytes.into()))
    }
}

impl HttpBody for Body {
    type Data = Bytes;
    type Error = BodyFailure;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyFailure>>> {
        match &mut self.0 {
            BodySource::Memory(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            BodySource::Client(body) => {
                Pin::new(body).poll_frame(task).map(|frame| Some(frame?.map_err(Into::into)))
            }
            BodySource::Other(body) => Pin::new(body).poll_frame(task),
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.0 {
            BodySource::Memory(bytes) => bytes.is_empty(),
            BodySource::Client(body) => body.is_end_stream(),
            BodySource::Other(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.0 {
            BodySource::Memory(bytes) => SizeHint::with_exact(bytes.len() as u64),
            BodySource::Client(body) => body.size_hint(),
            BodySource::Other(body) => body.size_hint(),
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use futures::stream;

    use super::*;

    #[tokio::test]
    async fn length_is_known_of_what_is_in_memory() {
        let [empty, memory] = [Body::empty(), Body::from("text")];
        assert_eq!((empty.size_hint().exact(), empty.is_end_stream()), (Some(0), true));
        assert_eq!((memory.size_hint().exact(), memory.is_end_stream()), (Some(4), false));
        assert_eq!(memory.collect().await.unwrap().to_bytes(), "text");
        let pieces = ["a", "b"].map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece)));
        let streamed = Body::from_stream(stream::iter(pieces));
        assert_eq!(streamed.size_hint().exact(), None);
        assert_eq!(streamed.collect().await.unwrap().to_bytes(), "ab");
    }

    #[tokio::test]
    async fn failure_of_a_stream_is_kept() {
        let failing = stream::iter([Err::<Bytes, _>(std::io::Error::other("gone"))]);
        let error = Body::from_stream(failing).collect().await.unwrap_err();
        assert_eq!(error.to_string(), "gone");
    }
}
