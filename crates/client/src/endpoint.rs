//! [`Endpoint`]: one URL of an upstream, with what is known of it.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use jreg_oci::{Digest, RepositoryName};
use reqwest::header::{ACCEPT, HeaderMap, HeaderValue, RANGE, WWW_AUTHENTICATE};
use reqwest::{Method, StatusCode};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Instant, timeout};

use crate::auth::{Authenticator, Authorization, Scope, ScopeChallenge};
use crate::breaker::{BreakerStatus, CircuitBreaker, CountedFailures};
use crate::challenge::{Challenge, parse_challenges};
use crate::pace::RequestPace;
use crate::response::RateLimit;
use crate::transport::{HttpRequest, HttpResponse, Transport, UpstreamSetupError};
use crate::{
    MISMATCH_PAUSE_MIN, UpstreamEndpoint, UpstreamError, UpstreamErrorKind, UpstreamOptions,
    UpstreamOutcome, UpstreamRequestKind, UpstreamUrl,
};

/// Maximum digests for which a URL is skipped.
const SKIPS_MAX: usize = 1024;

/// A request as every URL of the upstream is sent it.
#[derive(Clone, Debug)]
pub(crate) struct UpstreamRequest {
    pub(crate) kind: UpstreamRequestKind,
    pub(crate) method: Method,
    pub(crate) repository: Option<RepositoryName>,
    /// Begins with `/v2/`.
    pub(crate) path: String,
    pub(crate) query: Option<String>,
    pub(crate) accept: Option<&'static str>,
    pub(crate) range: Option<String>,
    /// URLs that served other bytes for this are left out.
    pub(crate) digest: Option<Digest>,
    /// The breakers that have counted a failure of the operation that it is for. Clones share it.
    pub(crate) counted: CountedFailures,
    /// The URLs that served something else for it. Clones share it.
    pub(crate) mismatched: MismatchedUrls,
}

/// The URLs that served something else than one operation requested: that does not ask them again, however short
/// the pause is after which others do.
#[derive(Clone, Debug, Default)]
pub(crate) struct MismatchedUrls(Arc<Mutex<Vec<usize>>>);

impl MismatchedUrls {
    fn add(&self, endpoint: &Endpoint) {
        let (mut mismatched, address) = (lock(&self.0), std::ptr::from_ref(endpoint).addr());
        if !mismatched.contains(&address) {
            mismatched.push(address);
        }
    }

    fn contains(&self, endpoint: &Endpoint) -> bool {
        lock(&self.0).contains(&std::ptr::from_ref(endpoint).addr())
    }
}

impl UpstreamRequest {
    /// The content that it is for, if that has a digest.
    fn content(&self) -> Option<(Option<RepositoryName>, Digest)> {
        Some((self.repository.clone(), self.digest.clone()?))
    }

    fn headers(&self) -> HeaderMap {
        let mut headers = HeaderMap::new();
        if let Some(accept) = self.accept {
            headers.insert(ACCEPT, HeaderValue::from_static(accept));
        }
        let range = self.range.as_ref().and_then(|range| HeaderValue::from_str(range).ok());
        if let Some(range) = range {
            headers.insert(RANGE, range);
        }
        headers
    }

    fn scope(&self) -> Scope {
        match (&self.repository, self.kind) {
            (Some(repository), _) => Scope::Repository(repository.clone()),
            (None, UpstreamRequestKind::Catalog) => Scope::Catalog,
            (None, _) => Scope::None,
        }
    }
}

/// How long one request may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RequestLimits {
    /// Until when it waits for its turn.
    pub(crate) deadline: Instant,
    /// How long it waits for its credentials, and then for the head of its response.
    pub(crate) response: Duration,
}

/// What is known of the challenge to a request before it is sent.
#[derive(Debug, Default)]
struct ExpectedChallenge {
    challenge: Option<ScopeChallenge>,
    authorization: Option<Authorization>,
    /// Why the challenge led to no token.
    failure: Option<UpstreamError>,
}

/// A response, which keeps its place among the requests in flight until it is dropped.
#[derive(Debug)]
pub(crate) struct Reply {
    pub(crate) response: HttpResponse,
    pub(crate) endpoint: Arc<Endpoint>,
    counters: Arc<Counters>,
    _slot: OwnedSemaphorePermit,
}

impl Reply {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn host(&self) -> &Arc<str> {
        &self.response.host
    }

    pub(crate) fn error(&self, kind: UpstreamErrorKind) -> UpstreamError {
        kind.of(self.host())
    }

    /// An error for each status that the operation has no use for.
    pub(crate) fn unexpected(&self) -> UpstreamError {
        self.error(UpstreamErrorKind::protocol(format!("status {}", self.status().as_u16())))
    }

    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        let chunk = self.response.chunk().await?;
        self.counters.add_bytes(chunk.as_ref().map_or(0, Bytes::len));
        Ok(chunk)
    }

    /// The whole body, if it has arrived by then.
    pub(crate) async fn body(
        &mut self,
        bytes_max: u64,
        until: Instant,
    ) -> Result<Bytes, UpstreamError> {
        let body = self.response.body(bytes_max, until).await?;
        self.counters.add_bytes(body.len());
        Ok(body)
    }
}

/// What was sent and received.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    requests: Mutex<BTreeMap<(UpstreamRequestKind, UpstreamOutcome), u64>>,
    bytes: AtomicU64,
    resumes: AtomicU64,
}

impl Counters {
    pub(crate) fn count(&self, kind: UpstreamRequestKind, outcome: UpstreamOutcome) {
        *lock(&self.requests).entry((kind, outcome)).or_default() += 1;
    }

    fn add_bytes(&self, bytes: usize) {
        self.bytes.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn add_resume(&self) {
        self.resumes.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn statistics(&self) -> crate::UpstreamStatistics {
        let requests = lock(&self.requests);
        crate::UpstreamStatistics {
            requests: requests
                .iter()
                .map(|((kind, outcome), count)| (*kind, *outcome, *count))
                .collect(),
            bytes: self.bytes.load(Ordering::Relaxed),
            resumes: self.resumes.load(Ordering::Relaxed),
        }
    }
}

/// One URL of an upstream.
#[derive(Debug)]
pub(crate) struct Endpoint {
    url: UpstreamUrl,
    transport: Arc<Transport>,
    auth: Authenticator,
    discovery: tokio::sync::Mutex<()>,
    breaker: CircuitBreaker,
    pace: RequestPace,
    counters: Arc<Counters>,
    rate_limit: Mutex<Option<RateLimit>>,
    /// Until when this URL is not asked for a digest of a repository.
    skips: Mutex<HashMap<(Option<RepositoryName>, Digest), Instant>>,
    mismatch_pause: Duration,
    refused_token_age_min: Duration,
}

impl Endpoint {
    pub(crate) fn new(
        options: &UpstreamOptions,
        endpoint: &UpstreamEndpoint,
        counters: Arc<Counters>,
    ) -> Result<Self, UpstreamSetupError> {
        let transport = Arc::new(Transport::new(options, &endpoint.url)?);
        let auth =
            Authenticator::new(options, endpoint, Arc::clone(&transport), Arc::clone(&counters));
        Ok(Self {
            url: endpoint.url.clone(),
            transport,
            auth,
            discovery: tokio::sync::Mutex::default(),
            breaker: CircuitBreaker::default(),
            pace: RequestPace::new(options.limits.requests_per_second),
            counters,
            rate_limit: Mutex::default(),
            skips: Mutex::default(),
            mismatch_pause: options.limits.mismatch_pause.max(MISMATCH_PAUSE_MIN),
            refused_token_age_min: options.limits.refused_token_age_min,
        })
    }

    pub(crate) fn url(&self) -> &UpstreamUrl {
        &self.url
    }

    pub(crate) fn breaker_status(&self) -> BreakerStatus {
        self.breaker.status()
    }

    pub(crate) fn rate_limit(&self) -> Option<RateLimit> {
        *lock(&self.rate_limit)
    }

    /// Whether this URL served something else for this very request, or a short time ago for its digest in the same
    /// repository: what one repository has wrong, another may have right.
    pub(crate) fn is_skipped(&self, request: &UpstreamRequest) -> bool {
        if request.mismatched.contains(self) {
            return true;
        }
        let skips = lock(&self.skips);
        let until = request.content().and_then(|content| skips.get(&content).copied());
        until.is_some_and(|until| Instant::now() < until)
    }

    /// This URL served something else than was requested.
    pub(crate) fn skip(&self, request: &UpstreamRequest, error: &UpstreamErrorKind) {
        request.mismatched.add(self);
        let (upstream, path) = (self.url.host(), &request.path);
        tracing::warn!(upstream, path, %error, "an upstream served something else than was requested");
        let Some(content) = request.content() else { return };
        let (mut skips, now) = (lock(&self.skips), Instant::now());
        if skips.len() >= SKIPS_MAX {
            skips.retain(|_, until| now < *until);
        }
        if skips.len() < SKIPS_MAX {
            skips.insert(content, now + self.mismatch_pause);
        }
    }

    /// Sends a request with the credentials that it needs. Only responses that mean something for the operation
    /// are returned: 2xx, and 4xx other than 401, 403, 404 and 429, and 501.
    pub(crate) async fn request(
        self: &Arc<Self>,
        request: &UpstreamRequest,
        limits: RequestLimits,
        slot: OwnedSemaphorePermit,
    ) -> Result<Reply, UpstreamError> {
        let (response, authorization) = self.send_authorized(request, limits).await?;
        match self.judge(&response) {
            Ok(()) => {}
            Err(UpstreamErrorKind::RepositoryRefused { status }) => {
                return Err(self.auth.refusal(status, authorization.as_ref()).await);
            }
            Err(kind) => return Err(kind.of(&response.host)),
        }
        let counters = Arc::clone(&self.counters);
        Ok(Reply { response, endpoint: Arc::clone(self), counters, _slot: slot })
    }

    /// The response to a request with what its scope needs, and what it was sent with. A 401 is followed once by
    /// what it challenges to, a 403 to a token that may be outdated by a new one.
    async fn send_authorized(
        &self,
        request: &UpstreamRequest,
        limits: RequestLimits,
    ) -> Result<(HttpResponse, Option<Authorization>), UpstreamError> {
        let scope = request.scope();
        let expected = self.expected(request, &scope, limits).await?;
        let first = expected.authorization.as_ref().map(|first| first.header.clone());
        let response = self.send(request, first, limits).await?;
        let is_challenged = response.status() == StatusCode::UNAUTHORIZED && !response.is_elsewhere;
        let challenge = match is_challenged {
            true => self.auth.challenged(&challenges(&response), &scope)?,
            false => self.outdated(&expected, &response),
        };
        let is_refused = is_challenged && expected.authorization.is_some();
        let is_wrong = expected.failure.is_some() || is_refused;
        let Some(challenge) = challenge else {
            // No token was needed, or it is refused and nothing else is asked for.
            if let Some(known) = expected.challenge.as_ref().filter(|_| is_wrong) {
                self.auth.forget(&scope, known);
            }
            return Ok((response, expected.authorization));
        };
        match expected.failure {
            // A moment ago it led to no token.
            Some(failure) if expected.challenge.as_ref() == Some(&challenge) => {
                return Err(failure);
            }
            _ => {}
        }
        let refused = expected.authorization.as_ref();
        let renewing = self.auth.renew(&challenge, &scope, refused, &request.counted);
        let Some(renewed) = self.in_time(limits, renewing).await? else {
            return Ok((response, expected.authorization));
        };
        drop(response);
        let response = self.send(request, Some(renewed.header.clone()), limits).await?;
        if !matches!(response.status(), StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            self.auth.note_accepted(&challenge);
        }
        Ok((response, Some(renewed)))
    }

    /// The challenge that led to a token, if a 403 may be about the rights that there were when it was requested.
    fn outdated(
        &self,
        expected: &ExpectedChallenge,
        response: &HttpResponse,
    ) -> Option<ScopeChallenge> {
        let is_refused = response.status() == StatusCode::FORBIDDEN && !response.is_elsewhere;
        let token = expected.authorization.as_ref().filter(|_| is_refused)?;
        let is_old = token.token_age().is_some_and(|age| age >= self.refused_token_age_min);
        expected.challenge.clone().filter(|_| is_old)
    }

    /// What a request is sent with first, by the challenge that it is expected to get.
    async fn expected(
        &self,
        request: &UpstreamRequest,
        scope: &Scope,
        limits: RequestLimits,
    ) -> Result<ExpectedChallenge, UpstreamError> {
        if self.auth.is_unknown() {
            self.discover(limits, &request.counted).await?;
        }
        let Some(known) = self.auth.known(scope) else { return Ok(ExpectedChallenge::default()) };
        let authorizing = self.auth.authorize(&known, &request.counted);
        let (authorization, failure) = match self.in_time(limits, authorizing).await {
            Ok(authorization) => (authorization, None),
            Err(error) => {
                if !self.auth.may_go_without(&error.kind) {
                    self.auth.forget(scope, &known);
                    return Err(error);
                }
                match &error.kind {
                    // The service works; of this scope, the registry is asked.
                    UpstreamErrorKind::RepositoryRefused { .. } => {
                        self.auth.forget_of_scope(scope, &known);
                    }
                    _ => self.auth.forget(scope, &known),
                }
                (None, Some(error))
            }
        };
        Ok(ExpectedChallenge { challenge: Some(known), authorization, failure })
    }

    /// What takes longer goes on for the others that wait for it.
    async fn in_time<T>(
        &self,
        limits: RequestLimits,
        work: impl Future<Output = Result<T, UpstreamError>>,
    ) -> Result<T, UpstreamError> {
        match timeout(limits.response, work).await {
            Ok(done) => done,
            Err(_) => {
                let what = "the credentials or a token";
                Err(UpstreamErrorKind::Timeout { what }.of(&self.url.shared_host()))
            }
        }
    }

    /// Asks `/v2/` for a challenge, once for all requests that wait for it.
    async fn discover(
        &self,
        limits: RequestLimits,
        counted: &CountedFailures,
    ) -> Result<(), UpstreamError> {
        let _turn = self.discovery.lock().await;
        if !self.auth.is_unknown() {
            return Ok(());
        }
        let ping = UpstreamRequest {
            kind: UpstreamRequestKind::Ping,
            method: Method::GET,
            repository: None,
            path: "/v2/".to_owned(),
            query: None,
            accept: None,
            range: None,
            digest: None,
            counted: counted.clone(),
            mismatched: MismatchedUrls::default(),
        };
        let response = self.send(&ping, None, limits).await?;
        match response.status().as_u16() {
            401 => self.auth.learn(&challenges(&response)),
            429 | 500.. => self.judge(&response).map_err(|kind| kind.of(&response.host)),
            _ => self.auth.learn(&[]),
        }
    }

    /// One request and the head of its response.
    async fn send(
        &self,
        request: &UpstreamRequest,
        authorization: Option<HeaderValue>,
        limits: RequestLimits,
    ) -> Result<HttpResponse, UpstreamError> {
        let host = self.url.shared_host();
        let limited = |wait| UpstreamErrorKind::TooManyRequests { retry_after: Some(wait) };
        self.pace.wait(limits.deadline).await.map_err(|wait| limited(wait).of(&host))?;
        self.breaker.admit().map_err(|kind| kind.of(&host))?;
        let url = self.url.join(&request.path, request.query.as_deref());
        let method = request.method.clone();
        let (headers, response_max) = (request.headers(), limits.response);
        let sent = HttpRequest { method, url, headers, authorization, body: None, response_max };
        let response = self.transport.send(sent).await;
        self.counters.count(request.kind, outcome(&response));
        match &response {
            Ok(response) => self.note(response, &request.counted),
            Err(error) if error.kind.is_temporary() && error.host == host => {
                self.breaker.note_failure(error.kind.to_string(), &request.counted)
            }
            // This URL responded, with a redirect if the error is another host's.
            Err(_) => self.breaker.note_response(),
        }
        response
    }

    fn note(&self, response: &HttpResponse, counted: &CountedFailures) {
        if response.is_elsewhere {
            // What another host responds says nothing about this one, which has redirected to it.
            return self.breaker.note_response();
        }
        if let Some(found) = RateLimit::of(response) {
            *lock(&self.rate_limit) = Some(found);
        }
        match response.status().as_u16() {
            429 => {
                self.breaker.note_limited(response.retry_after());
            }
            501 => self.breaker.note_response(),
            status @ 500.. => self.breaker.note_failure(format!("status {status}"), counted),
            _ => self.breaker.note_response(),
        }
    }

    /// The error that a status is, whatever the operation.
    fn judge(&self, response: &HttpResponse) -> Result<(), UpstreamErrorKind> {
        let status = response.status().as_u16();
        match status {
            429 => {
                let retry_after = self.breaker.limited_for().or(response.retry_after());
                Err(UpstreamErrorKind::TooManyRequests { retry_after })
            }
            // An object store behind a redirect cannot say that something does not exist in the registry, and
            // responds with 403 to signatures that have expired.
            400..=415 | 417..500 if !response.is_api => {
                Err(UpstreamErrorKind::unavailable(format!("status {status} after a redirect")))
            }
            401 | 403 => Err(UpstreamErrorKind::RepositoryRefused { status }),
            404 => Err(UpstreamErrorKind::NotFound),
            501 => Ok(()),
            500.. => Err(UpstreamErrorKind::unavailable(format!("status {status}"))),
            _ => Ok(()),
        }
    }
}

/// The challenges of a response.
fn challenges(response: &HttpResponse) -> Vec<Challenge> {
    let headers = response.headers().get_all(WWW_AUTHENTICATE).into_iter();
    headers.filter_map(|header| header.to_str().ok()).flat_map(parse_challenges).collect()
}

pub(crate) fn outcome(response: &Result<HttpResponse, UpstreamError>) -> UpstreamOutcome {
    match response {
        Ok(response) => match response.status().as_u16() {
            200..300 => UpstreamOutcome::Ok,
            404 => UpstreamOutcome::NotFound,
            401 | 403 => UpstreamOutcome::Refused,
            429 => UpstreamOutcome::TooManyRequests,
            500.. => UpstreamOutcome::Failed,
            _ => UpstreamOutcome::Other,
        },
        Err(error) => match error.kind {
            UpstreamErrorKind::Timeout { .. } => UpstreamOutcome::Timeout,
            UpstreamErrorKind::Unavailable { .. } => UpstreamOutcome::Failed,
            _ => UpstreamOutcome::Other,
        },
    }
}

impl RateLimit {
    fn of(response: &HttpResponse) -> Option<Self> {
        let header =
            |name: &'static str| response.headers().get(name)?.to_str().ok().map(parse_rate);
        let (limit, remaining) = (header("ratelimit-limit"), header("ratelimit-remaining"));
        if limit.is_none() && remaining.is_none() {
            return None;
        }
        let window =
            limit.and_then(|(_, window)| window).or(remaining.and_then(|(_, window)| window));
        let number =
            |rate: Option<(Option<u64>, Option<Duration>)>| rate.and_then(|(number, _)| number);
        Some(Self { limit: number(limit), remaining: number(remaining), window })
    }
}

/// `100;w=21600`: a number, and a window in seconds.
fn parse_rate(header: &str) -> (Option<u64>, Option<Duration>) {
    let mut parts = header.split(';').map(str::trim);
    let number = parts.next().and_then(|number| number.parse().ok());
    let window =
        parts.find_map(|part| part.strip_prefix("w=")).and_then(|window| window.parse().ok());
    (number, window.map(Duration::from_secs))
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        assert_eq!(parse_rate("100;w=21600"), (Some(100), Some(Duration::from_secs(21600))));
        assert_eq!(parse_rate(" 7 ; w=1 "), (Some(7), Some(Duration::from_secs(1))));
        assert_eq!(parse_rate("7"), (Some(7), None));
        assert_eq!(parse_rate("x;w=y"), (None, None));
    }
}
