//! [`ScriptedUpstream`]: a registry that serves content, misbehaves where a test tells it to, and counts its
//! requests by kind.
//!
//! It is what a pull-through cache, an import and their client have in front of them. Content is given to it
//! directly. What a request does otherwise than in a well-behaved registry is said by rules: the first rule that
//! matches a request decides.

mod content;
mod request;
mod respond;
mod script;
mod token;

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use http::Request;
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};
use tokio_rustls::TlsAcceptor;

use crate::content::{Image, Manifest};
use crate::tls::TestCa;
use content::UpstreamContent;
pub use request::{RequestKind, UpstreamRequestRecord};
pub use script::{RulePick, UpstreamFault, UpstreamRule};
use token::TokenState;
pub use token::{TokenService, UpstreamAuth};

/// A registry on a port of its own on loopback, which stops when it is dropped.
#[derive(Debug)]
pub struct ScriptedUpstream {
    state: Arc<Mutex<UpstreamState>>,
    address: SocketAddr,
    is_tls: bool,
    accepting: JoinHandle<()>,
}

#[derive(Debug, Default)]
struct UpstreamState {
    base: String,
    content: UpstreamContent,
    auth: UpstreamAuth,
    tokens: TokenState,
    rules: Vec<UpstreamRule>,
    requests: Vec<UpstreamRequestRecord>,
    /// Headers of every response.
    headers: Vec<(String, String)>,
    has_no_referrers_api: bool,
    referrers_page: Option<usize>,
    /// What other paths have: a status and a body.
    documents: BTreeMap<String, (u16, String)>,
    /// Connections that were accepted.
    connections: usize,
}

impl ScriptedUpstream {
    /// Starts one without content that speaks plain HTTP and asks for no credentials.
    pub async fn start() -> Self {
        Self::start_with(None).await
    }

    /// Starts one that speaks TLS, with a certificate for its address and for `localhost`, and HTTP/2 if the
    /// client wants to.
    pub async fn start_tls(authority: &TestCa) -> Self {
        let hosts =
            [Ipv4Addr::LOCALHOST.to_string(), "localhost".to_owned(), "registry.test".to_owned()];
        Self::start_with(Some(authority.acceptor_of(&hosts, &["h2", "http/1.1"]))).await
    }

    async fn start_with(acceptor: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        let is_tls = acceptor.is_some();
        let base = format!("{}://{address}", if is_tls { "https" } else { "http" });
        let state = Arc::new(Mutex::new(UpstreamState { base, ..UpstreamState::default() }));
        let accepting = tokio::spawn(accept(listener, acceptor, Arc::clone(&state)));
        Self { state, address, is_tls, accepting }
    }

    fn state(&self) -> MutexGuard<'_, UpstreamState> {
        lock(&self.state)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its base URL, without a slash at the end.
    pub fn url(&self) -> String {
        self.state().base.clone()
    }

    /// Its base URL by another host name, which the client resolves to its address.
    pub fn url_as(&self, host: &str) -> String {
        let scheme = if self.is_tls { "https" } else { "http" };
        format!("{scheme}://{host}:{}", self.address.port())
    }

    /// Adds a blob. Returns its digest.
    pub fn add_blob(&self, repository: &str, bytes: impl Into<Bytes>) -> String {
        self.state().content.add_blob(repository, bytes.into())
    }

    /// Adds a manifest, and points a tag to it. Returns its digest.
    pub fn add_manifest(&self, repository: &str, tag: Option<&str>, manifest: &Manifest) -> String {
        let mut state = self.state();
        let digest = state.content.add_manifest(repository, manifest);
        if let Some(tag) = tag {
            state.content.set_tag(repository, tag, &digest);
        }
        digest
    }

    /// Adds an image with its blobs. Returns the digest of its manifest.
    pub fn add_image(&self, repository: &str, tag: Option<&str>, image: &Image) -> String {
        for blob in &image.blobs {
            self.add_blob(repository, blob.bytes.clone());
        }
        self.add_manifest(repository, tag, &image.manifest)
    }

    /// Points a tag to a manifest.
    pub fn set_tag(&self, repository: &str, tag: &str, digest: &str) {
        self.state().content.set_tag(repository, tag, digest);
    }

    /// Removes a tag.
    pub fn remove_tag(&self, repository: &str, tag: &str) {
        self.state().content.remove_tag(repository, tag);
    }

    /// Removes a manifest and the tags that point to it.
    pub fn remove_manifest(&self, repository: &str, digest: &str) {
        self.state().content.remove_manifest(repository, digest);
    }

    /// How clients must authenticate from now on. Tokens that were issued become invalid.
    pub fn set_auth(&self, auth: UpstreamAuth) {
        let mut state = self.state();
        state.auth = auth;
        state.tokens = TokenState::default();
    }

    /// Makes the tokens that were issued invalid.
    pub fn revoke_tokens(&self) {
        self.state().tokens = TokenState::default();
    }

    /// Whether there is a referrers API, as at first, or only the fallback tag.
    pub fn set_referrers_api(&self, has_api: bool) {
        self.state().has_no_referrers_api = !has_api;
    }

    /// Returns lists of referrers in pages of so many.
    pub fn set_referrers_page(&self, entries: usize) {
        self.state().referrers_page = Some(entries);
    }

    /// Sends a header with every response from now on, such as `ratelimit-remaining`.
    pub fn set_header(&self, name: &str, value: &str) {
        let mut state = self.state();
        state.headers.retain(|(known, _)| known != name);
        state.headers.push((name.to_owned(), value.to_owned()));
    }

    /// Responds to requests for a path outside the registry's API, as the services of clouds have them.
    pub fn set_document(&self, path: &str, status: u16, body: impl Into<String>) {
        self.state().documents.insert(path.to_owned(), (status, body.into()));
    }

    /// Adds a rule after those there are.
    pub fn add_rule(&self, rule: UpstreamRule) {
        self.state().rules.push(rule);
    }

    /// Removes all rules.
    pub fn clear_rules(&self) {
        self.state().rules.clear();
    }

    /// The requests since the start, or since they were last cleared.
    pub fn requests(&self) -> Vec<UpstreamRequestRecord> {
        self.state().requests.clone()
    }

    /// Forgets the requests. Rules go on counting.
    pub fn clear_requests(&self) {
        self.state().requests.clear();
    }

    /// How many requests of a kind there were.
    pub fn count(&self, kind: RequestKind) -> usize {
        self.state().requests.iter().filter(|request| request.kind == kind).count()
    }

    /// How many requests of each kind there were.
    pub fn counts(&self) -> BTreeMap<RequestKind, usize> {
        let mut counts = BTreeMap::new();
        for request in &self.state().requests {
            *counts.entry(request.kind).or_default() += 1;
        }
        counts
    }

    /// How many requests of a kind were about a path that contains this, such as a digest.
    pub fn count_of(&self, kind: RequestKind, part: &str) -> usize {
        let state = self.state();
        state
            .requests
            .iter()
            .filter(|request| request.kind == kind && request.path.contains(part))
            .count()
    }

    /// How many connections were accepted.
    pub fn connections(&self) -> usize {
        self.state().connections
    }
}

impl Drop for ScriptedUpstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

fn lock(state: &Mutex<UpstreamState>) -> MutexGuard<'_, UpstreamState> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn accept(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    state: Arc<Mutex<UpstreamState>>,
) {
    let mut connections = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        lock(&state).connections += 1;
        connections.spawn(connection(stream, acceptor.clone(), Arc::clone(&state)));
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(
    stream: TcpStream,
    acceptor: Option<TlsAcceptor>,
    state: Arc<Mutex<UpstreamState>>,
) {
    stream.set_nodelay(true).unwrap();
    let Some(acceptor) = acceptor else { return serve(stream, false, state).await };
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let is_http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    serve(stream, is_http2, state).await;
}

/// An error is a client that has gone, or a response that breaks off.
async fn serve(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    is_http2: bool,
    state: Arc<Mutex<UpstreamState>>,
) {
    let service = service_fn(|request: Request<Incoming>| {
        let state = Arc::clone(&state);
        async move {
            let (head, body) = request.into_parts();
            let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
            respond::respond(&state, head, body, is_http2).await
        }
    });
    let stream = TokioIo::new(stream);
    let _ = match is_http2 {
        true => {
            hyper::server::conn::http2::Builder::new(TokioExecutor::new())
                .serve_connection(stream, service)
                .await
        }
        false => hyper::server::conn::http1::Builder::new().serve_connection(stream, service).await,
    };
}
