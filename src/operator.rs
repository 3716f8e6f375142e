//! What is served over the control socket, beside commands: the API with an operator's rights, and the storage
//! as it lies there, to be read.
//!
//! `jreg backup` reads records that no API shows, in its own process, since this one opens no path and no address
//! that a command names. Who may open the socket may read the files, too.

use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use futures::TryStreamExt;
use http::{Method, Response, StatusCode};
use http_body_util::{BodyExt, Limited};
use jreg_http::Api;
use jreg_net::server::{Body, Request, RequestHandler, ResponseFuture};
use jreg_storage::{ByteRange, ErrorKind, Key, ListRequest, Store, error_chain};
use serde::{Deserialize, Serialize};

/// The path below which the storage is read.
pub(crate) const STORE_PATH: &str = "/_store/read";
/// The header with what is known of a record beside its bytes.
pub(crate) const RECORD_HEADER: &str = "jreg-record";
/// Maximum length of a request: a key and a prefix.
const REQUEST_BYTES_MAX: usize = 16 * 1024;

/// A request to read the storage: the methods of a store that change nothing.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "kebab-case")]
pub(crate) enum StoreRequest {
    Get { key: Key },
    Head { key: Key },
    Read { key: Key, start: u64, end: u64 },
    List { prefix: String, start_after: Option<String>, delimiter: bool, limit: usize },
}

/// What is known of a record, and of an object.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ObjectInfo {
    pub(crate) etag: Option<String>,
    pub(crate) size_bytes: u64,
    pub(crate) last_modified: SystemTime,
    pub(crate) date: SystemTime,
}

/// An object in a listing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ListedInfo {
    pub(crate) key: Key,
    pub(crate) size_bytes: u64,
    pub(crate) last_modified: SystemTime,
    pub(crate) etag: Option<String>,
}

/// A page of a listing.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct ListedPage {
    pub(crate) entries: Vec<ListedInfo>,
    pub(crate) prefixes: Vec<String>,
    pub(crate) next: Option<String>,
    pub(crate) date: SystemTime,
}

/// Serves an operator.
#[derive(Clone, Debug)]
pub(crate) struct OperatorHandler {
    api: Api,
    store: Arc<dyn Store>,
}

impl OperatorHandler {
    pub(crate) fn new(api: Api, store: Arc<dyn Store>) -> Self {
        Self { api, store }
    }

    async fn read_store(&self, request: Request) -> Response<Body> {
        let body = Limited::new(request.into_body(), REQUEST_BYTES_MAX).collect().await;
        let Ok(body) = body else { return status(StatusCode::BAD_REQUEST, "") };
        match serde_json::from_slice(&body.to_bytes()) {
            Ok(request) => match self.answer(request).await {
                Ok(response) => response,
                Err(error) => failure(&error),
            },
            Err(error) => status(StatusCode::BAD_REQUEST, &error.to_string()),
        }
    }

    async fn answer(&self, request: StoreRequest) -> jreg_storage::Result<Response<Body>> {
        match request {
            StoreRequest::Get { key } => {
                let record = self.store.get(&key).await?;
                let info = ObjectInfo {
                    etag: Some(record.etag.as_str().to_owned()),
                    size_bytes: record.bytes.len() as u64,
                    last_modified: record.last_modified,
                    date: record.date,
                };
                Ok(with_info(&info, record.bytes))
            }
            StoreRequest::Head { key } => {
                let stat = self.store.head(&key).await?;
                let (last_modified, date) = (stat.last_modified, stat.date);
                let info =
                    ObjectInfo { etag: None, size_bytes: stat.size_bytes, last_modified, date };
                Ok(with_info(&info, Bytes::new()))
            }
            StoreRequest::Read { key, start, end } => {
                let stream = self.store.read(&key, ByteRange { start, end }).await?;
                Ok(Response::new(Body::from_stream(stream.map_err(std::io::Error::other))))
            }
            StoreRequest::List { prefix, start_after, delimiter, limit } => {
                let request = ListRequest { prefix, start_after, delimiter, limit };
                let page = self.store.list(&request).await?;
                let entries = page.entries.into_iter().map(|entry| ListedInfo {
                    key: entry.key,
                    size_bytes: entry.size_bytes,
                    last_modified: entry.last_modified,
                    etag: entry.etag.map(|etag| etag.as_str().to_owned()),
                });
                let (prefixes, next) = (page.prefixes, page.next);
                let page =
                    ListedPage { entries: entries.collect(), prefixes, next, date: page.date };
                Ok(Response::new(Body::from(to_json(&page))))
            }
        }
    }
}

impl RequestHandler for OperatorHandler {
    fn handle(&self, request: Request) -> ResponseFuture {
        match request.method() == Method::POST && request.uri().path() == STORE_PATH {
            true => {
                let handler = self.clone();
                Box::pin(async move { handler.read_store(request).await })
            }
            false => self.api.handle(request),
        }
    }
}

fn to_json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).expect("a response has only string keys")
}

fn with_info(info: &ObjectInfo, bytes: Bytes) -> Response<Body> {
    let mut response = Response::new(Body::from(bytes));
    if let Ok(value) = http::HeaderValue::from_bytes(&to_json(info)) {
        response.headers_mut().insert(RECORD_HEADER, value);
    }
    response
}

fn failure(error: &jreg_storage::Error) -> Response<Body> {
    let code = match error.kind() {
        ErrorKind::NotFound => StatusCode::NOT_FOUND,
        ErrorKind::OutOfRange => StatusCode::RANGE_NOT_SATISFIABLE,
        ErrorKind::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        _ => StatusCode::SERVICE_UNAVAILABLE,
    };
    status(code, &error_chain(error))
}

fn status(code: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(Body::from(text.to_owned()));
    *response.status_mut() = code;
    response
}
