//! A client of one registry: keeps a connection, makes another when the server closed it, shows a
//! token where one is asked for, and follows redirects of downloads.

use std::fmt::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::auth::{Access, Challenge, Credentials, Tokens, token, token_target};
use crate::failure::Failure;
use crate::stream::{Stream, Tls};
use crate::url::{Authority, Url};
use crate::wire::{Answer, Body, Connection, Sink};

/// How many hosts a client keeps a connection to: the registry, and where it redirects to.
const HOSTS_MAX: usize = 4;
/// How many redirects of one request are followed.
const REDIRECTS_MAX: usize = 3;
const USER_AGENT: &str = concat!("jreg-bench/", env!("CARGO_PKG_VERSION"));

/// What all clients of a run share.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) authority: Authority,
    pub(crate) tls: Option<Tls>,
    pub(crate) credentials: Option<Credentials>,
    pub(crate) tokens: Tokens,
    pub(crate) timeout: Duration,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    pub(crate) method: &'static str,
    pub(crate) target: &'a str,
    pub(crate) access: Access<'a>,
    pub(crate) headers: &'a [(&'static str, &'a str)],
    pub(crate) body: Body<'a>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(method: &'static str, target: &'a str, access: Access<'a>) -> Self {
        Self { method, target, access, headers: &[], body: Body::None }
    }

    pub(crate) fn headers(self, headers: &'a [(&'static str, &'a str)]) -> Self {
        Self { headers, ..self }
    }

    pub(crate) fn body(self, body: Body<'a>) -> Self {
        Self { body, ..self }
    }
}

/// What a client did.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Traffic {
    /// Requests that were sent, also for tokens and where they were redirected.
    pub(crate) requests: u64,
    /// Connections made because one had been closed.
    pub(crate) reconnects: u64,
    /// Bytes of bodies that came with a 2xx.
    pub(crate) received: u64,
    /// Bytes of bodies that were accepted with a 2xx.
    pub(crate) sent: u64,
}

impl Traffic {
    pub(crate) fn add(&mut self, other: Self) {
        self.requests += other.requests;
        self.reconnects += other.reconnects;
        self.received += other.received;
        self.sent += other.sent;
    }
}

/// A client.
#[derive(Debug)]
pub(crate) struct Client {
    server: Arc<Server>,
    connections: Vec<(Authority, Connection)>,
    head: String,
    pub(crate) traffic: Traffic,
}

impl Client {
    pub(crate) fn new(server: Arc<Server>) -> Self {
        Self { server, connections: Vec::new(), head: String::new(), traffic: Traffic::default() }
    }

    /// Makes the connection that the first request would make.
    pub(crate) async fn connect(&mut self) -> Result<(), Failure> {
        let server = Arc::clone(&self.server);
        let deadline = server.timeout;
        let connecting = self.connection(&server.authority);
        tokio::time::timeout(deadline, connecting).await.map_err(|_| Failure::TimedOut)??;
        Ok(())
    }

    /// Sends a request; where the server asks for a token, gets one and sends it again.
    pub(crate) async fn send(
        &mut self,
        request: Request<'_>,
        sink: &mut Sink,
    ) -> Result<Answer, Failure> {
        let server = Arc::clone(&self.server);
        let shown = server.tokens.get(request.access);
        let answer = self.follow(&server.authority, request, shown.as_deref(), sink).await?;
        if answer.status != 401 {
            return Ok(answer);
        }
        let Some(challenge) = answer.challenge.as_deref().and_then(Challenge::read) else {
            return Ok(answer);
        };
        let Some(authorization) = self.authorization(challenge, request.access).await? else {
            return Ok(answer);
        };
        let authorization: Arc<str> = authorization.into();
        server.tokens.put(request.access, Arc::clone(&authorization));
        sink.restart();
        self.follow(&server.authority, request, Some(&authorization), sink).await
    }

    /// What to show where this was asked for; nothing if the client has nothing to show.
    async fn authorization(
        &mut self,
        challenge: Challenge,
        access: Access<'_>,
    ) -> Result<Option<String>, Failure> {
        let server = Arc::clone(&self.server);
        let basic = server.credentials.as_ref().map(Credentials::basic);
        let Challenge::Bearer { realm, service, scope } = challenge else { return Ok(basic) };
        let realm: Url = realm.parse().map_err(|_| Failure::Token("its realm is no URL"))?;
        let scope = scope.filter(|scope| !scope.is_empty()).unwrap_or_else(|| access.scope());
        let target = token_target(&realm.target, service.as_deref(), &scope);
        let request = Request::new("GET", &target, access);
        let mut kept = Sink::Keep(Vec::new());
        let answer = self.exchange(&realm.authority, request, basic.as_deref(), &mut kept).await?;
        match (answer.status, kept) {
            (200, Sink::Keep(body)) => {
                let token = token(&body).ok_or(Failure::Token("there is none in the answer"))?;
                Ok(Some(format!("Bearer {token}")))
            }
            _ => Err(Failure::Token("its server refused")),
        }
    }

    /// Sends a request, to where an answer leads if that is a redirect of a download.
    async fn follow(
        &mut self,
        authority: &Authority,
        request: Request<'_>,
        authorization: Option<&str>,
        sink: &mut Sink,
    ) -> Result<Answer, Failure> {
        let mut answer = self.exchange(authority, request, authorization, sink).await?;
        let mut place: Option<Url> = None;
        for _ in 0..REDIRECTS_MAX {
            let Answer { status: 301 | 302 | 303 | 307 | 308, location: Some(location), .. } =
                &answer
            else {
                break;
            };
            if !matches!(request.method, "GET" | "HEAD") {
                break;
            }
            let from = place.as_ref().map_or(authority, |place| &place.authority);
            let to = Url::resolve(from, location)
                .map_err(|_| Failure::Protocol("a Location that is no URL"))?;
            // A token is for the host that asked for it.
            let shown = authorization.filter(|_| to.authority == *authority);
            let there = Request { target: &to.target, ..request };
            sink.restart();
            answer = self.exchange(&to.authority, there, shown, sink).await?;
            place = Some(to);
        }
        Ok(answer)
    }

    /// Sends a request and reads the answer, once more if the server had closed the connection
    /// before the request came to it.
    async fn exchange(
        &mut self,
        authority: &Authority,
        request: Request<'_>,
        authorization: Option<&str>,
        sink: &mut Sink,
    ) -> Result<Answer, Failure> {
        write_head(&mut self.head, authority, request, authorization);
        let deadline = self.server.timeout;
        let exchange = self.exchange_or_again(authority, request, sink);
        let answer =
            tokio::time::timeout(deadline, exchange).await.map_err(|_| Failure::TimedOut)??;
        if (200..300).contains(&answer.status) {
            self.traffic.received += answer.received;
            self.traffic.sent += match request.body {
                Body::None => 0,
                Body::Sized(first, last) | Body::Chunked(first, last) => {
                    u64::try_from(first.len() + last.len()).unwrap_or(u64::MAX)
                }
            };
        }
        Ok(answer)
    }

    async fn exchange_or_again(
        &mut self,
        authority: &Authority,
        request: Request<'_>,
        sink: &mut Sink,
    ) -> Result<Answer, Failure> {
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
                Ok(answer) => break Ok(answer),
                Err(broken)
                    if broken.silent
                        && was_used
                        && matches!(broken.failure, Failure::Broken(_)) =>
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
    async fn connection(&mut self, authority: &Authority) -> Result<&mut Connection, Failure> {
        let known = self.connections.iter().position(|(host, _)| host == authority);
        let place = match known {
            Some(place) if self.connections.get(place).is_some_and(|(_, c)| c.is_usable()) => place,
            _ => {
                if let Some(place) = known {
                    self.connections.swap_remove(place);
                }
                let tls = self.server.tls.as_ref();
                let stream = Stream::connect(authority, tls).await.map_err(Failure::Connect)?;
                self.connections.truncate(HOSTS_MAX - 1);
                self.connections.push((authority.clone(), Connection::new(stream)));
                self.connections.len() - 1
            }
        };
        let found = self.connections.get_mut(place).map(|(_, connection)| connection);
        found.ok_or(Failure::Protocol("no connection"))
    }
}

fn write_head(
    head: &mut String,
    authority: &Authority,
    request: Request<'_>,
    authorization: Option<&str>,
) {
    head.clear();
    let Request { method, target, headers, body, .. } = request;
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
        Body::None => {}
        Body::Sized(first, last) => {
            let _ = write!(head, "Content-Length: {}\r\n", first.len() + last.len());
        }
        Body::Chunked(..) => head.push_str("Transfer-Encoding: chunked\r\n"),
    }
    head.push_str("\r\n");
}
