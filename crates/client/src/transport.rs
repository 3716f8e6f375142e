//! [`Transport`]: sends requests by HTTP and follows redirects, by rules about where it connects to.
//!
//! - `https` only; `http` only if the upstream itself is plain HTTP;
//! - only to addresses that the [`AddressRule`] allows;
//! - an `Authorization` header is never sent to another host than that for which it was made;
//! - each wait has a timeout, and so has a body that is read whole.

use std::error::Error as StdError;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use bytes::{Bytes, BytesMut};
use chrono::DateTime;
use jreg_reload::read_regular;
use reqwest::header::{
    AUTHORIZATION, AsHeaderName, CONTENT_ENCODING, HeaderMap, HeaderValue, LOCATION, RETRY_AFTER,
};
use reqwest::{Method, StatusCode, Url};
use tokio::time::{Instant as Deadline, timeout, timeout_at};

use crate::address::{AddressRule, CheckedResolver, RefusedAddress, SystemResolver};
use crate::error::chain;
use crate::url::{address_of, host_of};
use crate::{
    UpstreamError, UpstreamErrorKind, UpstreamOptions, UpstreamTimeouts, UpstreamTracing,
    UpstreamUrl,
};

/// Maximum redirects of a request.
const REDIRECTS_MAX: usize = 5;
/// Maximum bytes of a CA bundle.
const CA_BYTES_MAX: usize = 1 << 20;
/// How much of a body the peer may send by HTTP/2 before it is read.
const STREAM_WINDOW_BYTES: u32 = 2 << 20;
/// The same of all bodies of a connection: so many that a few which are not read stop no other.
const CONNECTION_WINDOW_BYTES: u32 = 128 << 20;
/// The longest `Retry-After` that is respected.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(3600);

/// The ids of the trace that a request belongs to.
const TRACEPARENT: &str = "traceparent";

const AGENT: &str = concat!("jreg/", env!("CARGO_PKG_VERSION"));

/// Why a client cannot be set up.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamSetupError {
    /// There is no URL.
    #[error("an upstream needs a URL")]
    NoUrl,
    /// The CA bundle cannot be read.
    #[error("cannot read {}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The CA bundle has no certificates.
    #[error("{}: {why}", path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// There are no root certificates.
    #[error("cannot set up https for upstream {host}: install a CA bundle, or set its ca-file")]
    Http {
        /// The host.
        host: String,
        /// Why.
        source: reqwest::Error,
    },
}

/// A request, which is sent again where it is redirected to.
#[derive(Debug)]
pub(crate) struct HttpRequest {
    pub(crate) method: Method,
    pub(crate) url: Url,
    pub(crate) headers: HeaderMap,
    /// Only for the host of the URL.
    pub(crate) authorization: Option<HeaderValue>,
    /// A form with credentials: it is not redirected.
    pub(crate) body: Option<String>,
    /// How long the head of the response may take, and then its body if it is read whole; if that is shorter
    /// than the timeouts.
    pub(crate) response_max: Duration,
}

impl HttpRequest {
    pub(crate) fn get(url: Url) -> Self {
        Self {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            authorization: None,
            body: None,
            response_max: Duration::MAX,
        }
    }
}

/// The head of a response, and the way to its body.
#[derive(Debug)]
pub(crate) struct HttpResponse {
    pub(crate) host: Arc<str>,
    /// Whether it comes from another host than the request was for.
    pub(crate) is_elsewhere: bool,
    /// Whether it comes from a distribution API: some registries redirect to another one.
    pub(crate) is_api: bool,
    response: reqwest::Response,
    idle: Duration,
    body_max: Duration,
}

impl HttpResponse {
    pub(crate) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(crate) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    /// A header, if it is text.
    pub(crate) fn header(&self, name: impl AsHeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    pub(crate) fn content_length(&self) -> Option<u64> {
        self.header(reqwest::header::CONTENT_LENGTH)?.parse().ok()
    }

    pub(crate) fn retry_after(&self) -> Option<Duration> {
        let text = self.header(RETRY_AFTER)?;
        Some(parse_retry_after(text, SystemTime::now())?.min(RETRY_AFTER_MAX))
    }

    /// The next bytes of the body.
    pub(crate) async fn chunk(&mut self) -> Result<Option<Bytes>, UpstreamError> {
        match timeout(self.idle, self.response.chunk()).await {
            Ok(Ok(chunk)) => Ok(chunk),
            Ok(Err(error)) => Err(failure(&self.host, error)),
            Err(_) => {
                Err(UpstreamErrorKind::Timeout { what: "the next bytes of a body" }.of(&self.host))
            }
        }
    }

    /// Until when a body whose head has just arrived must have arrived as a whole.
    pub(crate) fn body_deadline(&self) -> Deadline {
        Deadline::now() + self.body_max
    }

    /// The whole body, if it is not larger than this, and has arrived by then.
    pub(crate) async fn body(
        &mut self,
        bytes_max: u64,
        until: Deadline,
    ) -> Result<Bytes, UpstreamError> {
        match timeout_at(until, self.whole(bytes_max)).await {
            Ok(body) => body,
            Err(_) => Err(UpstreamErrorKind::Timeout { what: "a whole body" }.of(&self.host)),
        }
    }

    async fn whole(&mut self, bytes_max: u64) -> Result<Bytes, UpstreamError> {
        let too_large = |host| UpstreamErrorKind::TooLarge { bytes_max }.of(host);
        if self.content_length().is_some_and(|length| length > bytes_max) {
            return Err(too_large(&self.host));
        }
        let mut body = BytesMut::new();
        while let Some(chunk) = self.chunk().await? {
            if (body.len() + chunk.len()) as u64 > bytes_max {
                return Err(too_large(&self.host));
            }
            body.extend_from_slice(&chunk);
        }
        Ok(body.freeze())
    }
}

/// Sends requests for one URL of an upstream.
#[derive(Debug)]
pub(crate) struct Transport {
    http: reqwest::Client,
    rule: AddressRule,
    is_plain: bool,
    timeouts: UpstreamTimeouts,
    tracing: Option<UpstreamTracing>,
}

impl Transport {
    pub(crate) fn new(
        options: &UpstreamOptions,
        url: &UpstreamUrl,
    ) -> Result<Self, UpstreamSetupError> {
        // Fails if a provider is already installed; then that one is used.
        rustls::crypto::ring::default_provider().install_default().ok();
        let is_private_literal =
            url.address().is_some_and(|address| !AddressRule::Public.allows(address));
        let is_private = options.private_addresses || is_private_literal || url.is_loopback();
        let rule = if is_private { AddressRule::Private } else { AddressRule::Public };
        let resolver = options.resolver.clone().unwrap_or_else(|| Arc::new(SystemResolver));
        let builder = reqwest::Client::builder()
            .user_agent(AGENT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .connect_timeout(options.timeouts.connect)
            .http2_initial_stream_window_size(STREAM_WINDOW_BYTES)
            .http2_initial_connection_window_size(CONNECTION_WINDOW_BYTES)
            .dns_resolver(CheckedResolver { rule, resolver });
        let builder = match &options.ca_file {
            Some(path) => builder.tls_certs_only(authorities(path)?),
            None => builder,
        };
        let failed = |source| UpstreamSetupError::Http { host: url.host().to_owned(), source };
        let http = builder.build().map_err(failed)?;
        let (timeouts, tracing) = (options.timeouts.clone(), options.tracing);
        Ok(Self { http, rule, is_plain: url.is_plain(), timeouts, tracing })
    }

    /// Sends a request, and again where a response redirects it to.
    pub(crate) async fn send(&self, request: HttpRequest) -> Result<HttpResponse, UpstreamError> {
        let origin = request.url.origin();
        let mut url = request.url.clone();
        for _ in 0..=REDIRECTS_MAX {
            let host = host_of(&url);
            self.check(&url, &host)?;
            let is_elsewhere = url.origin() != origin;
            let response = self.send_once(&request, &url, &host, is_elsewhere).await?;
            let is_api = !is_elsewhere || url.path().starts_with("/v2/");
            let idle = self.timeouts.idle;
            let body_max = self.timeouts.body.min(request.response_max);
            let response = HttpResponse { host, is_elsewhere, is_api, response, idle, body_max };
            match redirected(&url, &response)? {
                None => return checked_encoding(response),
                Some(next) if request.body.is_none() => url = next,
                Some(_) => {
                    return Err(
                        UpstreamErrorKind::protocol("a form is redirected").of(&response.host)
                    );
                }
            }
        }
        Err(UpstreamErrorKind::protocol("too many redirects").of(&host_of(&request.url)))
    }

    /// Whether a request may be sent to a URL.
    fn check(&self, url: &Url, host: &Arc<str>) -> Result<(), UpstreamError> {
        match url.scheme() {
            "https" => {}
            "http" if self.is_plain => {}
            _ => {
                return Err(
                    UpstreamErrorKind::protocol("redirected to a URL that is not https").of(host)
                );
            }
        }
        match address_of(url) {
            Some(address) if !self.rule.allows(address) => {
                Err(UpstreamErrorKind::AddressRefused { address }.of(host))
            }
            _ => Ok(()),
        }
    }

    async fn send_once(
        &self,
        request: &HttpRequest,
        url: &Url,
        host: &Arc<str>,
        is_elsewhere: bool,
    ) -> Result<reqwest::Response, UpstreamError> {
        let mut builder =
            self.http.request(request.method.clone(), url.clone()).headers(request.headers.clone());
        if let Some(authorization) = request.authorization.as_ref().filter(|_| !is_elsewhere) {
            builder = builder.header(AUTHORIZATION, authorization.clone());
        }
        let parent = self.tracing.and_then(|tracing| (tracing.parent)());
        if let Some(parent) = parent.filter(|_| !is_elsewhere) {
            builder = builder.header(TRACEPARENT, parent);
        }
        if let Some(body) = &request.body {
            builder = builder.body(body.clone());
        }
        let response_max = self.timeouts.response.min(request.response_max);
        let began = Instant::now();
        let sent = timeout(response_max, builder.send()).await;
        if let Some(tracing) = self.tracing {
            let is_good = matches!(&sent, Ok(Ok(response)) if !response.status().is_server_error());
            (tracing.note)(is_good.then_some(()).ok_or(()), began.elapsed());
        }
        let response = match sent {
            Ok(response) => response.map_err(|error| failure(host, error))?,
            Err(_) => {
                return Err(UpstreamErrorKind::Timeout { what: "the head of a response" }.of(host));
            }
        };
        match response.remote_addr().map(|peer| peer.ip()) {
            Some(address) if !self.rule.allows(address) => {
                Err(UpstreamErrorKind::AddressRefused { address }.of(host))
            }
            _ => Ok(response),
        }
    }
}

/// Seconds, or a date (RFC 9110 section 10.2.3).
fn parse_retry_after(text: &str, now: SystemTime) -> Option<Duration> {
    if let Ok(seconds) = text.trim().parse() {
        return Some(Duration::from_secs(seconds));
    }
    let date = DateTime::parse_from_rfc2822(text.trim()).ok()?.timestamp();
    let date = UNIX_EPOCH + Duration::from_secs(u64::try_from(date).ok()?);
    Some(date.duration_since(now).unwrap_or_default())
}

/// The next URL, if the response is a redirect.
fn redirected(url: &Url, response: &HttpResponse) -> Result<Option<Url>, UpstreamError> {
    if !matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308) {
        return Ok(None);
    }
    let location = response.header(LOCATION).and_then(|location| url.join(location).ok());
    let location = location
        .filter(|next| next.has_host() && next.username().is_empty() && next.password().is_none());
    match location {
        Some(next) => Ok(Some(next)),
        None => {
            Err(UpstreamErrorKind::protocol("a redirect without a valid Location")
                .of(&response.host))
        }
    }
}

/// Nothing is decoded: what is encoded is not what was requested.
fn checked_encoding(response: HttpResponse) -> Result<HttpResponse, UpstreamError> {
    match response.header(CONTENT_ENCODING) {
        None | Some("" | "identity") => Ok(response),
        Some(_) => {
            Err(UpstreamErrorKind::protocol("the body has a Content-Encoding").of(&response.host))
        }
    }
}

/// The kind of an error of the HTTP client.
fn failure(host: &Arc<str>, error: reqwest::Error) -> UpstreamError {
    let error = error.without_url();
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(RefusedAddress(address)) = cause.downcast_ref() {
            return UpstreamErrorKind::AddressRefused { address: *address }.of(host);
        }
        source = cause.source();
    }
    match error.is_timeout() {
        true => UpstreamErrorKind::Timeout { what: "a connection" }.of(host),
        false => UpstreamErrorKind::unavailable(chain(&error)).of(host),
    }
}

fn authorities(path: &Path) -> Result<Vec<reqwest::Certificate>, UpstreamSetupError> {
    let failed = |source| UpstreamSetupError::File { path: path.to_owned(), source };
    let wrong = |why: String| UpstreamSetupError::Content { path: path.to_owned(), why };
    let text = read_regular(path, CA_BYTES_MAX).map_err(|source| match source.kind() {
        io::ErrorKind::FileTooLarge => wrong(format!("it is larger than {CA_BYTES_MAX} bytes")),
        _ => failed(source),
    })?;
    let certificates = reqwest::Certificate::from_pem_bundle(text.as_bytes())
        .map_err(|error| wrong(chain(&error)))?;
    match certificates.is_empty() {
        true => Err(wrong("it has no certificate".to_owned())),
        false => Ok(certificates),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    /// Regression: a device has no length, and was read without end.
    #[test]
    fn fixed_cas_are_read_up_to_a_limit() {
        let error = authorities(Path::new("/dev/zero")).unwrap_err();
        assert!(chain(&error).contains("it is no regular file"), "{}", chain(&error));
    }

    #[test]
    fn retry_after_is_seconds_or_a_date() {
        let now = UNIX_EPOCH + Duration::from_secs(1_445_412_480);
        for (text, seconds) in [
            ("0", Some(0)),
            (" 120 ", Some(120)),
            ("Wed, 21 Oct 2015 07:29:00 GMT", Some(60)),
            ("Wed, 21 Oct 2015 07:27:00 GMT", Some(0)),
            ("soon", None),
            ("-1", None),
            ("1.5", None),
        ] {
            assert_eq!(parse_retry_after(text, now), seconds.map(Duration::from_secs), "{text}");
        }
    }
}
