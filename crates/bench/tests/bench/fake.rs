//! A small registry that writes down what it was asked, and can be made to misbehave.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use http::{HeaderMap, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use jreg_testkit::sha256;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;

/// What was asked.
#[derive(Clone, Debug)]
pub(crate) struct FakeRequest {
    pub(crate) method: Method,
    /// Path and query.
    pub(crate) target: String,
    pub(crate) headers: HeaderMap,
    pub(crate) body: Bytes,
}

/// A response.
pub(crate) type FakeResponse = Response<Full<Bytes>>;

/// Responds instead of the registry, where it gives something.
pub(crate) type FakeFault = dyn Fn(&FakeRequest) -> Option<FakeResponse> + Send + Sync;

/// A registry that keeps blobs and manifests of all repositories by what they are asked by.
pub(crate) struct FakeRegistry {
    address: SocketAddr,
    state: Arc<FakeState>,
    accepting: JoinHandle<()>,
}

struct FakeState {
    asked: Mutex<Vec<FakeRequest>>,
    kept: Mutex<HashMap<String, Bytes>>,
    uploads: Mutex<HashMap<String, Bytes>>,
    misbehave: Box<FakeFault>,
}

pub(crate) fn response(status: u16, body: impl Into<Bytes>) -> FakeResponse {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = StatusCode::from_u16(status).unwrap();
    response
}

pub(crate) fn response_with(status: u16, name: &'static str, value: &str) -> FakeResponse {
    let mut response = response(status, "a body that is not what was asked for");
    response.headers_mut().insert(name, value.parse().unwrap());
    response
}

impl FakeRegistry {
    /// One that behaves.
    pub(crate) async fn start() -> Self {
        Self::misbehaving(|_| None).await
    }

    /// One that misbehaves where it is told to.
    pub(crate) async fn misbehaving(
        misbehave: impl Fn(&FakeRequest) -> Option<FakeResponse> + Send + Sync + 'static,
    ) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let state = Arc::new(FakeState {
            asked: Mutex::default(),
            kept: Mutex::default(),
            uploads: Mutex::default(),
            misbehave: Box::new(misbehave),
        });
        let accepting = tokio::spawn(accept(listener, Arc::clone(&state)));
        Self { address, state, accepting }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(crate) fn asked(&self) -> Vec<FakeRequest> {
        self.state.asked.lock().unwrap().clone()
    }
}

impl Drop for FakeRegistry {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

async fn accept(listener: TcpListener, state: Arc<FakeState>) {
    while let Ok((stream, _)) = listener.accept().await {
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let service = service_fn(move |request| respond(Arc::clone(&state), request));
            let connection = hyper::server::conn::http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service);
            connection.await.ok();
        });
    }
}

async fn respond(
    state: Arc<FakeState>,
    request: Request<Incoming>,
) -> Result<FakeResponse, Infallible> {
    let (parts, body) = request.into_parts();
    let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
    let target = parts.uri.path_and_query().unwrap().to_string();
    let asked = FakeRequest { method: parts.method, target, headers: parts.headers, body };
    state.asked.lock().unwrap().push(asked.clone());
    Ok((state.misbehave)(&asked).unwrap_or_else(|| state.response(&asked)))
}

impl FakeState {
    fn response(&self, asked: &FakeRequest) -> FakeResponse {
        let (path, query) = asked.target.split_once('?').unwrap_or((&asked.target, ""));
        match asked.method {
            Method::GET | Method::HEAD if path == "/v2/" => response(200, "{}"),
            Method::GET | Method::HEAD => match self.kept.lock().unwrap().get(path) {
                Some(bytes) => response(200, bytes.clone()),
                None => response(404, "{}"),
            },
            Method::POST => {
                let number = self.uploads.lock().unwrap().len();
                self.write(&format!("{path}{number}"), Bytes::new(), 202)
            }
            Method::PATCH => self.write(path, asked.body.clone(), 202),
            Method::PUT if path.contains("/manifests/") => {
                let (repository, _) = path.rsplit_once('/').unwrap();
                let by_digest = format!("{repository}/{}", sha256(&asked.body));
                self.keep([path, &by_digest], &asked.body)
            }
            Method::PUT => {
                let patched = self.uploads.lock().unwrap().get(path).cloned().unwrap_or_default();
                let bytes = if asked.body.is_empty() { patched } else { asked.body.clone() };
                let digest = query.rsplit_once("digest=").unwrap().1;
                if digest != sha256(&bytes) {
                    return response(400, "{}");
                }
                let blobs = path.split_once("uploads/").unwrap().0;
                self.keep([&format!("{blobs}{digest}")], &bytes)
            }
            _ => response(405, "{}"),
        }
    }

    fn write(&self, upload: &str, bytes: Bytes, status: u16) -> FakeResponse {
        self.uploads.lock().unwrap().insert(upload.to_owned(), bytes);
        response_with(status, "location", &format!("{upload}?state=x"))
    }

    fn keep<const N: usize>(&self, paths: [&str; N], bytes: &Bytes) -> FakeResponse {
        let mut kept = self.kept.lock().unwrap();
        for path in paths {
            kept.insert(path.to_owned(), bytes.clone());
        }
        response(201, "")
    }
}
