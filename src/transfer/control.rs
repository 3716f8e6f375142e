//! [`ControlClient`]: the registry of the process that serves a folder, over its control socket.
//!
//! It speaks the distribution API, as clients do. Each connection begins with a line that asks for HTTP, as an
//! operator: who may open the socket may do everything.

use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{StreamExt, TryStreamExt};
use http::{Method, Request, Response, StatusCode, header};
use http_body::{Body, Frame, SizeHint};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, BodyStream, Empty, Full};
use hyper::body::Incoming;
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use jreg_oci::{Algorithm, Digest, Reference, RepositoryName, Tag};
use serde::Deserialize;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::access::{
    BlobStream, HashedStream, OpenBlob, RegistryAccess, RegistryManifest, Result, TransferError,
};
use crate::maintenance::socket;

/// The most bytes of a response that is read whole: more than a page of any listing.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;
const BLOB_TYPE: &str = "application/octet-stream";
/// How many requests are sent at the same time, each on a connection of its own: the process allows
/// [`socket::HTTP_CONNECTIONS_MAX`] for all commands.
const REQUESTS_MAX: usize = socket::HTTP_CONNECTIONS_MAX / 4;
/// How many tags one push sets.
const TAGS_PER_PUSH: usize = jreg_oci::TAGS_PER_PUT_MAX;

type RequestBody = UnsyncBoxBody<Bytes, std::io::Error>;

/// A stream of known length as a body.
struct SizedBody {
    stream: BlobStream,
    left: u64,
}

impl Body for SizedBody {
    type Data = Bytes;
    type Error = std::io::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        task: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
        let chunk = ready!(self.stream.poll_next_unpin(task)).transpose()?;
        self.left = self.left.saturating_sub(chunk.as_ref().map_or(0, |chunk| chunk.len() as u64));
        Poll::Ready(chunk.map(|chunk| Ok(Frame::data(chunk))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}

/// The registry of another process.
#[derive(Debug)]
pub struct ControlClient {
    folder: PathBuf,
    /// Connections that wait for their next request.
    idle: Mutex<Vec<SendRequest<RequestBody>>>,
    /// A permit for each request whose response is not read to its end.
    requests: Arc<Semaphore>,
}

/// A connection that is in use.
#[derive(Debug)]
struct UsedConnection {
    sender: SendRequest<RequestBody>,
    _permit: OwnedSemaphorePermit,
}

/// A response as it came; its connection is not used again.
pub(super) struct RawResponse {
    pub(super) status: StatusCode,
    pub(super) headers: http::HeaderMap,
    body: Incoming,
    /// Kept until the body was read.
    connection: UsedConnection,
    client: Arc<ControlClient>,
}

impl RawResponse {
    /// The whole body.
    pub(super) async fn bytes(self) -> std::io::Result<Bytes> {
        let limited = http_body_util::Limited::new(self.body, RESPONSE_BYTES_MAX);
        let bytes = limited.collect().await.map_err(std::io::Error::other)?.to_bytes();
        self.client.keep(self.connection);
        Ok(bytes)
    }

    /// The body as text, for an error.
    pub(super) async fn text(self) -> String {
        let bytes = self.bytes().await.unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    pub(super) fn into_stream(self) -> BlobStream {
        let Self { body, connection, .. } = self;
        body_stream(body, connection)
    }
}

/// A body, with the connection that it comes on.
fn body_stream(body: Incoming, connection: UsedConnection) -> BlobStream {
    let frames = BodyStream::new(body);
    let stream =
        TryStreamExt::map_err(frames, std::io::Error::other).try_filter_map(move |frame| {
            let _open = &connection;
            futures::future::ready(Ok(frame.into_data().ok()))
        });
    stream.boxed()
}

/// A response whose connection is used again once its body was read.
struct Answer {
    response: Response<Incoming>,
    connection: UsedConnection,
}

fn failed(error: impl std::fmt::Display) -> TransferError {
    TransferError::Registry(format!("the process that serves the folder: {error}"))
}

fn empty() -> RequestBody {
    Empty::new().map_err(|never| match never {}).boxed_unsync()
}

impl ControlClient {
    /// Connects to the process that serves a folder. `None`: there is none.
    ///
    /// # Errors
    ///
    /// I/O errors; the process has another version.
    pub async fn connect(folder: &Path) -> std::io::Result<Option<Self>> {
        let Some(stream) = socket::connect_http(folder).await? else { return Ok(None) };
        let sender = Self::handshake(stream).await.map_err(std::io::Error::other)?;
        let (folder, idle) = (folder.to_owned(), Mutex::new(vec![sender]));
        let requests = Arc::new(Semaphore::new(REQUESTS_MAX));
        Ok(Some(Self { folder, idle, requests }))
    }

    async fn handshake(stream: tokio::net::UnixStream) -> hyper::Result<SendRequest<RequestBody>> {
        let (sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        tokio::spawn(connection);
        Ok(sender)
    }

    /// Keeps a connection, whose response was read, for the next request.
    fn keep(&self, connection: UsedConnection) {
        let UsedConnection { sender, _permit } = connection;
        self.idle.lock().unwrap_or_else(PoisonError::into_inner).push(sender);
    }

    /// A connection for a request, once few enough are in use.
    async fn connection(&self) -> Result<UsedConnection> {
        let permit = Arc::clone(&self.requests).acquire_owned().await.map_err(failed)?;
        Ok(UsedConnection { sender: self.sender().await?, _permit: permit })
    }

    async fn sender(&self) -> Result<SendRequest<RequestBody>> {
        loop {
            let idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let Some(mut sender) = idle else { break };
            if sender.ready().await.is_ok() {
                return Ok(sender);
            }
        }
        let stream = socket::connect_http(&self.folder).await.map_err(failed)?;
        let stream = stream.ok_or_else(|| failed("it has stopped"))?;
        Self::handshake(stream).await.map_err(failed)
    }

    async fn send(
        &self,
        method: Method,
        target: &str,
        content_type: Option<&str>,
        body: RequestBody,
    ) -> Result<Answer> {
        let mut request =
            Request::builder().method(method).uri(target).header(header::HOST, "localhost");
        if let Some(content_type) = content_type {
            request = request.header(header::CONTENT_TYPE, content_type);
        }
        let request = request.body(body).map_err(failed)?;
        let mut connection = self.connection().await?;
        let response = connection.sender.send_request(request).await.map_err(failed)?;
        Ok(Answer { response, connection })
    }

    async fn request(&self, method: Method, target: &str) -> Result<Answer> {
        self.send(method, target, None, empty()).await
    }

    /// Sends a request, whatever the response.
    pub(super) async fn post_raw(
        self: &Arc<Self>,
        target: &str,
        body: Bytes,
    ) -> Result<RawResponse> {
        let body = Full::new(body).map_err(|never| match never {}).boxed_unsync();
        let Answer { response, connection } = self.send(Method::POST, target, None, body).await?;
        let (parts, body) = response.into_parts();
        let (status, headers, client) = (parts.status, parts.headers, Arc::clone(self));
        Ok(RawResponse { status, headers, body, connection, client })
    }

    /// The whole body of a response, and its status and headers.
    async fn finish(&self, answer: Answer) -> Result<(http::response::Parts, Bytes)> {
        let (parts, body) = answer.response.into_parts();
        let limited = http_body_util::Limited::new(body, RESPONSE_BYTES_MAX);
        let bytes = limited.collect().await.map_err(failed)?.to_bytes();
        self.keep(answer.connection);
        Ok((parts, bytes))
    }

    /// The same of a response that must have one of these statuses.
    async fn expect(
        &self,
        answer: Answer,
        statuses: &[StatusCode],
    ) -> Result<(http::response::Parts, Bytes)> {
        let (parts, bytes) = self.finish(answer).await?;
        match statuses.contains(&parts.status) {
            true => Ok((parts, bytes)),
            false => Err(refused(parts.status, &bytes)),
        }
    }

    /// Reads all pages of a listing; none if it is of something unknown.
    async fn pages<T: for<'de> Deserialize<'de>, I>(
        &self,
        target: String,
        items: impl Fn(T) -> Vec<I>,
    ) -> Result<Vec<I>> {
        let mut all = Vec::new();
        let mut target = target;
        loop {
            let answer = self.request(Method::GET, &target).await?;
            let (parts, bytes) =
                self.expect(answer, &[StatusCode::OK, StatusCode::NOT_FOUND]).await?;
            if parts.status == StatusCode::NOT_FOUND {
                return Ok(all);
            }
            all.extend(items(serde_json::from_slice(&bytes).map_err(failed)?));
            match parts.headers.get(header::LINK).and_then(|link| next_page(link.to_str().ok()?)) {
                Some(next) => target = next,
                None => return Ok(all),
            }
        }
    }
}

/// The path of `Link: <…>; rel="next"`.
fn next_page(link: &str) -> Option<String> {
    let (address, rel) = link.strip_prefix('<')?.split_once('>')?;
    rel.contains("next").then(|| path_of(address)).flatten()
}

/// A path as it is, or that of a URL.
fn path_of(address: &str) -> Option<String> {
    let path = match address.split_once("://") {
        Some((_, rest)) => rest.get(rest.find('/')?..)?,
        None => address,
    };
    Some(path.to_owned())
}

/// Where an upload goes on.
fn location(parts: &http::response::Parts) -> Result<String> {
    let location = parts.headers.get(header::LOCATION);
    let path = location.and_then(|location| path_of(location.to_str().ok()?));
    path.ok_or_else(|| failed("an upload has no location"))
}

/// The error of a response.
fn refused(status: StatusCode, body: &[u8]) -> TransferError {
    #[derive(Deserialize)]
    struct Errors {
        errors: Vec<Entry>,
    }
    #[derive(Deserialize)]
    struct Entry {
        #[serde(default)]
        code: String,
        #[serde(default)]
        message: String,
    }
    let errors: Option<Errors> = serde_json::from_slice(body).ok();
    let message = errors.and_then(|errors| errors.errors.into_iter().next());
    match message {
        Some(Entry { code, message }) if code == "MANIFEST_BLOB_UNKNOWN" => {
            TransferError::MissingReferences(message)
        }
        Some(Entry { message, .. }) => TransferError::Registry(format!("{status}: {message}")),
        None => TransferError::Registry(status.to_string()),
    }
}

#[derive(Deserialize)]
struct Catalog {
    repositories: Vec<RepositoryName>,
}

#[derive(Deserialize)]
struct TagPage {
    #[serde(default)]
    tags: Option<Vec<Tag>>,
}

#[derive(Deserialize)]
struct ReferrerPage {
    #[serde(default)]
    manifests: Vec<ReferrerDigest>,
}

#[derive(Deserialize)]
struct ReferrerDigest {
    digest: Digest,
}

#[async_trait]
impl RegistryAccess for ControlClient {
    async fn repositories(&self) -> Result<Vec<RepositoryName>> {
        self.pages("/v2/_catalog?n=1000".to_owned(), |page: Catalog| page.repositories).await
    }

    async fn tags(&self, name: &RepositoryName) -> Result<Vec<Tag>> {
        let target = format!("/v2/{name}/tags/list?n=1000");
        self.pages(target, |page: TagPage| page.tags.unwrap_or_default()).await
    }

    /// The API has no list of manifests without tags.
    async fn manifests(&self, _: &RepositoryName) -> Result<Vec<Digest>> {
        Ok(Vec::new())
    }

    async fn manifest(
        &self,
        name: &RepositoryName,
        reference: &Reference,
    ) -> Result<Option<RegistryManifest>> {
        let target = format!("/v2/{name}/manifests/{reference}");
        let answer = self.request(Method::GET, &target).await?;
        let (parts, bytes) = self.expect(answer, &[StatusCode::OK, StatusCode::NOT_FOUND]).await?;
        if parts.status == StatusCode::NOT_FOUND {
            return Ok(None);
        }
        let text = |name: &str| parts.headers.get(name).and_then(|value| value.to_str().ok());
        let digest = text("docker-content-digest").and_then(|digest| digest.parse().ok());
        let media_type = text("content-type").and_then(|kind| kind.parse().ok());
        match (digest, media_type) {
            (Some(digest), Some(media_type)) => {
                Ok(Some(RegistryManifest { digest, media_type, bytes }))
            }
            _ => Err(failed("a manifest has no digest")),
        }
    }

    async fn referrers(&self, name: &RepositoryName, subject: &Digest) -> Result<Vec<Digest>> {
        let digests = |page: ReferrerPage| page.manifests.into_iter().map(|it| it.digest).collect();
        self.pages(format!("/v2/{name}/referrers/{subject}"), digests).await
    }

    async fn blob(&self, name: &RepositoryName, digest: &Digest) -> Result<Option<OpenBlob>> {
        let target = format!("/v2/{name}/blobs/{digest}");
        let answer = self.request(Method::GET, &target).await?;
        match answer.response.status() {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND => return self.finish(answer).await.map(|_| None),
            _ => return Err(self.expect(answer, &[]).await.err().unwrap_or_else(|| failed("?"))),
        }
        let length = answer.response.headers().get(header::CONTENT_LENGTH);
        let length = length.and_then(|length| length.to_str().ok()?.parse().ok());
        let size_bytes = length.ok_or_else(|| failed("a blob has no length"))?;
        let stream = body_stream(answer.response.into_body(), answer.connection);
        Ok(Some(OpenBlob { size_bytes, place: None, stream }))
    }

    async fn has_blob(&self, name: &RepositoryName, digest: &Digest) -> Result<bool> {
        let target = format!("/v2/{name}/blobs/{digest}");
        let answer = self.request(Method::HEAD, &target).await?;
        let (parts, _) = self.expect(answer, &[StatusCode::OK, StatusCode::NOT_FOUND]).await?;
        Ok(parts.status == StatusCode::OK)
    }

    async fn mount(&self, name: &RepositoryName, digest: &Digest) -> Result<bool> {
        let target = format!("/v2/{name}/blobs/uploads/?mount={digest}");
        let answer = self.request(Method::POST, &target).await?;
        let (parts, _) = self.expect(answer, &[StatusCode::CREATED, StatusCode::ACCEPTED]).await?;
        Ok(parts.status == StatusCode::CREATED)
    }

    async fn push_blob(
        &self,
        name: &RepositoryName,
        digest: &Digest,
        blob: OpenBlob,
    ) -> Result<()> {
        let target = format!("/v2/{name}/blobs/uploads/?digest={digest}");
        let body = SizedBody { stream: blob.stream, left: blob.size_bytes };
        let answer = self.send(Method::POST, &target, Some(BLOB_TYPE), body.boxed_unsync()).await?;
        self.expect(answer, &[StatusCode::CREATED]).await.map(|_| ())
    }

    async fn push_unnamed_blob(&self, name: &RepositoryName, blob: OpenBlob) -> Result<Digest> {
        let answer = self.request(Method::POST, &format!("/v2/{name}/blobs/uploads/")).await?;
        let (parts, _) = self.expect(answer, &[StatusCode::ACCEPTED]).await?;
        let (stream, hashed) = HashedStream::new(blob.stream, Algorithm::Sha256);
        let body = SizedBody { stream, left: blob.size_bytes }.boxed_unsync();
        let target = location(&parts)?;
        let answer = self.send(Method::PATCH, &target, Some(BLOB_TYPE), body).await?;
        let (parts, _) = self.expect(answer, &[StatusCode::ACCEPTED]).await?;
        let (digest, target) = (hashed.digest(), location(&parts)?);
        let joint = if target.contains('?') { '&' } else { '?' };
        let target = format!("{target}{joint}digest={digest}");
        let answer = self.request(Method::PUT, &target).await?;
        self.expect(answer, &[StatusCode::CREATED]).await?;
        Ok(digest)
    }

    async fn push_manifest(
        &self,
        name: &RepositoryName,
        manifest: RegistryManifest,
        tags: Vec<Tag>,
    ) -> Result<()> {
        let RegistryManifest { digest, media_type, bytes } = manifest;
        let mut rest = tags.as_slice();
        loop {
            let (now, later) = rest.split_at(rest.len().min(TAGS_PER_PUSH));
            let query: Vec<String> = now.iter().map(|tag| format!("tag={tag}")).collect();
            let target = match query.is_empty() {
                true => format!("/v2/{name}/manifests/{digest}"),
                false => format!("/v2/{name}/manifests/{digest}?{}", query.join("&")),
            };
            let body = Full::new(bytes.clone()).map_err(|never| match never {}).boxed_unsync();
            let kind = Some(media_type.as_str());
            let answer = self.send(Method::PUT, &target, kind, body).await?;
            self.expect(answer, &[StatusCode::CREATED]).await?;
            if later.is_empty() {
                return Ok(());
            }
            rest = later;
        }
    }
}
