//! A client that trusts nothing: each request on a connection of its own, each response checked
//! against [`violations`], each HEAD compared with its GET, and each connection read to its end for
//! bytes that do not belong there.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;

use crate::{Request, Response, Wire, violations};

/// Headers that may differ between a HEAD and the GET after it.
const OF_THE_MOMENT: [&str; 4] = ["Date", "X-Request-ID", "Content-Length", "Transfer-Encoding"];

/// A client of one server.
#[derive(Clone, Debug)]
pub struct Client {
    address: SocketAddr,
    sent: Arc<AtomicU64>,
}

impl Client {
    /// A client of the server at this address.
    pub fn new(address: SocketAddr) -> Self {
        Self { address, sent: Arc::default() }
    }

    /// Where the server listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// A connection of which every byte is the caller's.
    pub async fn wire(&self) -> Wire {
        Wire::connect(self.address).await.expect("the server accepts connections")
    }

    /// Sends a request and checks the response. Panics if any rule is broken.
    pub async fn send(&self, request: Request) -> Response {
        let request = self.numbered(request);
        let response = self.exchange(&request).await;
        if request.method == "HEAD" && request.header_value("Range").is_none() {
            self.compare_with_get(&request, &response).await;
        }
        response
    }

    /// Sends a request to a server that may be killed meanwhile: a response that comes is checked,
    /// and why none came is given.
    pub async fn try_send(&self, request: Request) -> io::Result<Response> {
        self.try_exchange(&self.numbered(request)).await
    }

    /// Sends a request and gives the response unchecked, or why there was none. For bytes that are
    /// not HTTP, which a server may refuse before it knows what was asked.
    pub async fn send_unchecked(&self, request: &Request) -> io::Result<Response> {
        let mut wire = self.wire().await;
        wire.exchange(&request.method, frames(request, self.address)).await
    }

    pub async fn get(&self, target: &str) -> Response {
        self.send(Request::new("GET", target)).await
    }

    /// HEAD, compared with its GET.
    pub async fn head(&self, target: &str) -> Response {
        self.send(Request::new("HEAD", target)).await
    }

    pub async fn delete(&self, target: &str) -> Response {
        self.send(Request::new("DELETE", target)).await
    }

    /// Every second request brings an id of its own, and all ask for the end of the connection.
    fn numbered(&self, mut request: Request) -> Request {
        let number = self.sent.fetch_add(1, Ordering::Relaxed);
        request.target = path_of(&request.target).to_owned();
        if number % 2 == 1 && request.header_value("X-Request-ID").is_none() {
            request = request.header("X-Request-ID", format!("test-{number}"));
        }
        request.header("Connection", "close")
    }

    async fn exchange(&self, request: &Request) -> Response {
        match self.try_exchange(request).await {
            Ok(response) => response,
            Err(error) => panic!("no valid response: {error}\n--- request\n{request}"),
        }
    }

    async fn try_exchange(&self, request: &Request) -> io::Result<Response> {
        let mut wire = Wire::connect(self.address).await?;
        let frames = frames(request, self.address);
        let response = wire.exchange(&request.method, frames).await?;
        let mut broken = violations(request, &response);
        // What the server did not want to read is not sent any more.
        wire.finish_writing().await.ok();
        if let Ok(rest) = wire.closed().await
            && !rest.is_empty()
        {
            broken.push(format!("{} bytes after the end of the response", rest.len()));
        }
        assert!(broken.is_empty(), "{broken:#?}\n--- request\n{request}--- response\n{response}");
        Ok(response)
    }

    async fn compare_with_get(&self, head_request: &Request, head: &Response) {
        let request = Request { method: "GET".to_owned(), ..head_request.clone() };
        let get = self.exchange(&request).await;
        assert_eq!(head.status, get.status, "HEAD and GET differ\n{request}");
        assert_eq!(lasting(head), lasting(&get), "HEAD and GET differ in headers\n{request}");
        let length = head.header("Content-Length");
        let due = length.is_none_or(|length| length == get.body.len().to_string());
        assert!(
            due || head.status == 304,
            "HEAD says {length:?}, GET has {}\n{request}",
            get.body.len()
        );
    }
}

/// A target without the scheme and host that a `Location` may have, as clients send it.
pub(crate) fn path_of(target: &str) -> &str {
    let rest = target.strip_prefix("http://").or_else(|| target.strip_prefix("https://"));
    rest.and_then(|rest| rest.get(rest.find('/')?..)).unwrap_or(target)
}

fn frames(request: &Request, address: SocketAddr) -> Vec<Bytes> {
    let mut frames = vec![Bytes::from(request.head(&address.to_string()))];
    frames.extend(request.encoded_body());
    frames
}

fn lasting(response: &Response) -> Vec<(String, &str)> {
    let mut headers: Vec<_> = response
        .headers
        .iter()
        .filter(|(name, _)| !OF_THE_MOMENT.iter().any(|moment| moment.eq_ignore_ascii_case(name)))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.as_str()))
        .collect();
    headers.sort();
    headers
}
