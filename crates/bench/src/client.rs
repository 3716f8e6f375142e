//! A client of one registry: keeps a connection, makes another when the server closed it, shows a
//! token where one is asked for, and follows redirects of downloads.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::{
    AuthChallenge, BenchCredentials, RequestedAccess, TokenCache, token, token_target,
};
use crate::failure::OperationError;
use crate::stream::{BenchTlsClient, ConnectionStream};
use crate::url::{Url, UrlAuthority};
use crate::wire::{BodySink, HttpConnection, HttpResponse, RequestBody};

/// How many hosts a client keeps a connection to: the registry, and where it redirects to.
const HOSTS_MAX: usize = 4;
/// How many redirects of one request are followed.
const REDIRECTS_MAX: usize = 3;
const USER_AGENT: &str = concat!("jreg-bench/", env!("CARGO_PKG_VERSION"));

/// What all clients of a run share.
#[derive(Debug)]
pub(crate) struct BenchTarget {
    pub(crate) authority: UrlAuthority,
    pub(crate) tls: Option<BenchTlsClient>,
    pub(crate) credentials: Option<BenchCredentials>,
    pub(crate) tokens: TokenCache,
    pub(crate) timeout: Duration,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BenchRequest<'a> {
    pub(crate) method: &'static str,
    pub(crate) target: &'a str,
    pub(crate) access: RequestedAccess<'a>,
    pub(crate) headers: &'a [(&'static str, &'a str)],
    pub(crate) body: RequestBody<'a>,
}

impl<'a> BenchRequest<'a> {
    pub(crate) fn new(method: &'static str, target: &'a str, access: RequestedAccess<'a>) -> Self {
        Self { method, target, access, headers: &[], body: RequestBody::None }
    }

    pub(crate) fn headers(self, headers: &'a [(&'static str, &'a str)]) -> Self {
        Self { headers, ..self }
    }

    pub(crate) fn body(self, body: RequestBody<'a>) -> Self {
        Self { body, ..self }
    }
}

/// What a client did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct ByteCounter {
    /// Requests that were sent, also for tokens and where they were redirected.
    pub(crate) requests: u64,
    /// Connections made because one had been closed.
    pub(crate) reconnects: u64,
    /// Bytes of bodies that came with a 2xx.
    pub(crate) received: u64,
    /// Bytes of bodies that were accepted with a 2xx.
    pub(crate) sent: u64,
}

impl ByteCounter {
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.reconnects += other.reconnects;
        self.received += other.received;
        self.sent += other.sent;
    }
}

#[derive(Debug)]
pub(crate) struct BenchClient {
    server: Arc<BenchTarget>,
    connections: Vec<(UrlAuthority, HttpConnection)>,
    head: String,
    pub(crate) traffic: ByteCounter,
}

impl BenchClient {
    pub(crate) fn new(server: Arc<BenchTarget>) -> Self {
        Self {
            server,
            connections: Vec::new(),
            head: String::new(),
            traffic: ByteCounter::default(),
        }
    }

    /// Makes the connection that the first request would make.
    pub(crate) async fn connect(&mut self) -> Result<(), OperationError> {
        let server = Arc::clone(&self.server);
        let deadline = server.timeout;
        let connecting = self.connection(&server.authority);
        tokio::time::timeout(deadline, connecting)
            .await
            .map_err(|_| OperationError::TimedOut)??;
        Ok(())
    }

    /// Sends a request; where the server asks for a token, gets one and sends it again.
    pub(crate) async fn send(
        &mut self,
        request: BenchRequest<'_>,
        sink: &mut BodySink,
    ) -> Result<HttpResponse, OperationError> {
        let server = Arc::clone(&self.server);
        let shown = server.tokens.get(request.access);
        let response = self.follow(&server.authority, request, shown.as_deref(), sink).await?;
        if response.status != 401 {
            return Ok(response);
        }
        let Some(challenge) = response.challenge.as_deref().and_then(AuthChallenge::read) else {
            return Ok(response);
        };
        let Some(authorization) = self.authorization(challenge, request.access).await? else {
            return Ok(response);
        };
        let authorization: Arc<str> = authorization.into();
        server.tokens.put(request.access, Arc::clone(&authorization));
        sink.restart();
        self.follow(&server.authority, request, Some(&authorization), sink).await
    }

    /// What to show where this was asked for; nothing if the client has nothing to show.
    async fn authorization(
        &mut self,
        challenge: AuthChallenge,
        access: RequestedAccess<'_>,
    ) -> Result<Option<String>, OperationError> {
        let server = Arc::clone(&self.server);
        let basic = server.credentials.as_ref().map(BenchCredentials::basic);
        let AuthChallenge::Bearer { realm, service, scope } = challenge else { return Ok(basic) };
        let realm: Url = realm.parse().map_err(|_| OperationError::Token("its realm is no URL"))?;
        let scope = scope.filter(|scope| !scope.is_empty()).unwrap_or_else(|| access.scope());
        let target = token_target(&realm.target, service.as_deref(), &scope);
        let request = BenchRequest::new("GET", &target, access);
        let mut kept = BodySink::Keep(Vec::new());
        let response =
            self.exchange(&realm.authority, request, basic.as_deref(), &mut kept).await?;
        match (response.status, kept) {
            (200, BodySink::Keep(body)) => {
                let token =
                    token(&body).ok_or(OperationError::Token("there is none in the response"))?;
                Ok(Some(format!("Bearer {token}")))
            }
            _ => Err(OperationError::Token("its server refused")),
        }
    }

    /// Sends a request, to where a response leads if that is a redirect of a download.
    async fn follow(
        &mut self,
        authority: &UrlAuthority,
        request: BenchRequest<'_>,
        authorization: Option<&str>,
        sink: &mut BodySink,
    ) -> Result<HttpResponse, OperationError> {
        let mut response = self.exchange(authority, request, authorization, sink).await?;
        let mut place: Option<Url> = None;
        for _ in 0..REDIRECTS_MAX {
            let HttpResponse {
                status: 301 | 302 | 303 | 307 | 308, location: Some(location), ..
            } = &response
            else {
                break;
            };
            if !matches!(request.method, "GET" | "HEAD") {
                break;
            }
            let from = place.as_ref().map_or(authority, |place| &place.authority);
            let to = Url::resolve(from, location)
                .map_err(|_| OperationError::Protocol("a Location that is no URL"))?;
            // A token is for the host that asked for it.
            let shown = authorization.filter(|_| to.authority == *authority);
            let there = BenchRequest { target: &to.target, ..request };
            sink.restart();
            response = self.exchange(&to.authority, there, shown, sink).await?;
            place = Some(to);
        }
        Ok(response)
    }

    /// Sends a request and reads the response, once more if the server had closed the connection
    /// before the request came to it.
    async fn exchange(
        &mut self,
        authority: &UrlAuthority,
        request: BenchRequest<'_>,
        authorization: Option<&str>,
        sink: &mut BodySink,
    ) -> Result<HttpResponse, OperationError> {
        write_head(&mut self.head, authority, request, authorization);
        let deadline = self.server.timeout;
        let exchange = self.exchange_or_again(authority, request, sink);
        let response = tokio::time::timeout(deadline, exchange)
            .await
            .map_err(|_| OperationError::TimedOut)??;
        if (200..300).contains(&response.status) {
            self.traffic.received += response.received;
            self.traffic.sent += match request.body {
                RequestBody::None => 0,
                RequestBody::Sized(first, last) | RequestBody::Chunked(first, last) => {
                    u64::try_from(first.len() + last.len()).unwrap_or(u64::MAX)
                }
            };
        }
        Ok(response)
    }

    async fn exchange_or_again(
        &mut self,
        authority: &UrlAuthority,
        request: BenchRequest<'_>,
        sink: &mut BodySink,
    ) -> Result<HttpResponse, OperationError> {
        let to_head = request.method == "HEAD";
        let head = std::mem::take(&mut self.head);
        let outcome = loop {
            self.traffic.requests += 1;
            let connection = match self.connection(authority).await {
                Ok(connection) => connection,
                Err(failure) => break Err(failure),
            };
            let was_used = connection.was_used();
            match connection.exchange(head.as_bytes(), request.body, to_head, sink).await {
                Ok(response) => break Ok(response),
                Err(broken)
                    if broken.silent
                        && was_used
                        && matches!(broken.failure, OperationError::Broken(_)) =>
                {
                    self.traffic.requests -= 1;
                    self.traffic.reconnects += 1;
                }
                Err(broken) => break Err(broken.failure),
            }
        };
        self.head = head;
        outcome
    }

    /// A connection to a host on which a request may be sent.
    async fn connection(
        &mut self,
        authority: &UrlAuthority,
    ) -> Result<&mut HttpConnection, OperationError> {
        let known = self.connections.iter().position(|(host, _)| host == authority);
        let place = match known {
            Some(place) if self.connections.get(place).is_some_and(|(_, c)| c.is_usable()) => place,
            _ => {
                if let Some(place) = known {
                    self.connections.swap_remove(place);
                }
                let tls = self.server.tls.as_ref();
                let stream = ConnectionStream::connect(authority, tls)
                    .await
                    .map_err(OperationError::Connect)?;
                self.connections.truncate(HOSTS_MAX - 1);
                self.connections.push((authority.clone(), HttpConnection::new(stream)));
                self.connections.len() - 1
            }
        };
        let found = self.connections.get_mut(place).map(|(_, connection)| connection);
        found.ok_or(OperationError::Protocol("no connection"))
    }
}

fn write_head(
    head: &mut String,
    authority: &UrlAuthority,
    request: BenchRequest<'_>,
    authorization: Option<&str>,
) {
    head.clear();
    let BenchRequest { method, target, headers, body, .. } = request;
    // Writing to a string cannot fail.
    let _ = write!(head, "{method} {target} HTTP/1.1\r\nHost: {}\r\n", authority.host_header());
    let _ = write!(head, "User-Agent: {USER_AGENT}\r\n");
    for (name, value) in headers {
        let _ = write!(head, "{name}: {value}\r\n");
    }
    if let Some(authorization) = authorization {
        let _ = write!(head, "Authorization: {authorization}\r\n");
    }
    match body {
        RequestBody::None => {}
        RequestBody::Sized(first, last) => {
            let _ = write!(head, "Content-Length: {}\r\n", first.len() + last.len());
        }
        RequestBody::Chunked(..) => head.push_str("Transfer-Encoding: chunked\r\n"),
    }
    head.push_str("\r\n");
}
