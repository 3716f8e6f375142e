//! [`Receiver`]: a server that keeps what it is sent, and answers as a test says.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http_body_util::BodyExt;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::net::TcpListener;

/// What a request gets.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Reply {
    Status(u16),
    RetryAfter(u16, &'static str),
    Redirect(&'static str),
    /// No response.
    Hang,
    /// The connection is closed.
    Close,
    /// Status 200, and a body without an end.
    Endless,
}

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct ReceivedRequest {
    pub(crate) path: String,
    pub(crate) content_type: String,
    pub(crate) signature: Option<String>,
    pub(crate) body: Bytes,
}

#[derive(Debug, Default)]
struct ReceiverState {
    replies: Mutex<VecDeque<Reply>>,
    requests: Mutex<Vec<ReceivedRequest>>,
}

pub(crate) struct Receiver {
    address: SocketAddr,
    state: Arc<ReceiverState>,
}

/// Many bytes, or none.
struct ReplyBody(u64);

impl Body for ReplyBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        match self.0 {
            0 => Poll::Ready(None),
            _ => {
                self.0 -= 1;
                Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(&[b'x'; 1024])))))
            }
        }
    }
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, state) = (listener.local_addr().unwrap(), Arc::<ReceiverState>::default());
        let shared = Arc::clone(&state);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let state = Arc::clone(&shared);
                let answer = service_fn(move |request| answer(Arc::clone(&state), request));
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), answer));
            }
        });
        Self { address, state }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}/hook", self.address)
    }

    /// What the next requests get; those after them get 200.
    pub(crate) fn reply(&self, replies: impl IntoIterator<Item = Reply>) {
        self.state.replies.lock().unwrap().extend(replies);
    }

    /// From now on every request gets 200.
    pub(crate) fn work(&self) {
        self.state.replies.lock().unwrap().clear();
    }

    pub(crate) fn requests(&self) -> Vec<ReceivedRequest> {
        self.state.requests.lock().unwrap().clone()
    }

    pub(crate) fn forget(&self) {
        self.state.requests.lock().unwrap().clear();
    }

    pub(crate) fn paths(&self) -> Vec<String> {
        self.requests().into_iter().map(|request| request.path).collect()
    }

    pub(crate) fn bodies(&self) -> Vec<Value> {
        let requests = self.requests();
        requests.iter().map(|request| serde_json::from_slice(&request.body).unwrap()).collect()
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        self.bodies().iter().map(|body| body["id"].as_str().unwrap().to_owned()).collect()
    }
}

async fn answer(
    state: Arc<ReceiverState>,
    request: Request<Incoming>,
) -> Result<Response<ReplyBody>, hyper::Error> {
    let header =
        |name: &str| request.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
    let (content_type, signature) = (header("content-type"), header("jreg-signature"));
    let path = request.uri().path().to_owned();
    let body = request.into_body().collect().await?.to_bytes();
    let content_type = content_type.unwrap_or_default();
    let received = ReceivedRequest { path, content_type, signature, body };
    state.requests.lock().unwrap().push(received);
    let reply = state.replies.lock().unwrap().pop_front().unwrap_or(Reply::Status(200));
    let response = Response::builder();
    let (response, chunks) = match reply {
        Reply::Status(status) => (response.status(status), 0),
        Reply::RetryAfter(status, after) => {
            (response.status(status).header("retry-after", after), 0)
        }
        Reply::Redirect(to) => (response.status(302).header("location", to), 0),
        Reply::Endless => (response, u64::MAX),
        Reply::Hang => std::future::pending().await,
        // The task of the connection ends.
        Reply::Close => panic!("the connection is closed"),
    };
    Ok(response.body(ReplyBody(chunks)).unwrap())
}
