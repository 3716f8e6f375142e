//! [`TokenCache`]: tokens of token services, each requested once and used until shortly before it expires.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use form_urlencoded::Serializer;
use jreg_auth::Secret;
use reqwest::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use reqwest::{Method, Url};
use serde::Deserialize;
use tokio::time::Instant;
use tracing::Instrument;

use crate::auth::{basic, bearer};
use crate::breaker::{CircuitBreaker, CountedFailures};
use crate::credentials::{Credential, CredentialProvider, CredentialValue};
use crate::endpoint::{Counters, outcome};
use crate::transport::{HttpRequest, HttpResponse, Transport};
use crate::{UpstreamError, UpstreamErrorKind, UpstreamRequestKind};

/// Maximum bytes of the response of a token service.
const TOKEN_BYTES_MAX: u64 = 64 * 1024;
/// Maximum bytes of a token, of which [`TOKENS_MAX`] are kept; those in use have 1 to 4 KiB.
const TOKEN_TEXT_BYTES_MAX: usize = 16 * 1024;
/// How long a token is good whose service does not say it (distribution's token specification).
const LIFETIME: Duration = Duration::from_secs(60);
const LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// A token is not used in the last tenth of its lifetime, at most in this time.
const SKEW_MAX: Duration = Duration::from_secs(30);
/// Maximum token services whose failures are remembered.
const SERVICES_MAX: usize = 64;
/// Maximum tokens in the cache.
const TOKENS_MAX: usize = 4096;
/// What jreg calls itself in requests for tokens.
const CLIENT_ID: &str = "jreg";

/// A token service that requests may be sent to.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenService {
    pub(crate) realm: Url,
    pub(crate) host: Arc<str>,
    pub(crate) service: Option<String>,
}

/// What a token is for, and of which credential.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TokenKey {
    service: Arc<TokenService>,
    scope: Option<String>,
    pub(crate) generation: u64,
}

impl TokenKey {
    /// Whether it is for this scope at this service.
    pub(crate) fn is_of(&self, service: &TokenService, scope: Option<&str>) -> bool {
        *self.service == *service && self.scope.as_deref() == scope
    }
}

/// A token, as a header.
#[derive(Clone, Debug)]
pub(crate) struct Token {
    pub(crate) header: HeaderValue,
    pub(crate) key: TokenKey,
    pub(crate) since: Instant,
    /// Whether it was requested just now.
    pub(crate) is_fresh: bool,
}

/// Tokens by what they are for.
#[derive(Clone, Debug)]
pub(crate) struct TokenCache(Arc<TokenCacheInner>);

#[derive(Debug)]
struct TokenCacheInner {
    transport: Arc<Transport>,
    counters: Arc<Counters>,
    credentials: Arc<CredentialProvider>,
    /// Of each service: what one repository is sent to says nothing about that of another.
    breakers: Mutex<HashMap<Arc<TokenService>, Arc<CircuitBreaker>>>,
    slots: Mutex<HashMap<TokenKey, Arc<TokenSlot>>>,
}

#[derive(Debug, Default)]
struct TokenSlot {
    kept: Mutex<Option<CachedToken>>,
    failed: Mutex<Option<(Instant, UpstreamError)>>,
    /// Held while requesting; others who need the same token wait for it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Debug)]
struct CachedToken {
    header: HeaderValue,
    since: Instant,
    until: Instant,
}

impl TokenSlot {
    fn fresh(&self) -> Option<CachedToken> {
        lock(&self.kept).clone().filter(|token| Instant::now() < token.until)
    }
}

impl TokenCache {
    pub(crate) fn new(
        transport: Arc<Transport>,
        counters: Arc<Counters>,
        credentials: Arc<CredentialProvider>,
    ) -> Self {
        let (breakers, slots) = (Mutex::default(), Mutex::default());
        Self(Arc::new(TokenCacheInner { transport, counters, credentials, breakers, slots }))
    }

    /// A token for a scope, of the credentials there are now.
    pub(crate) async fn get(
        &self,
        service: &Arc<TokenService>,
        scope: Option<String>,
        counted: &CountedFailures,
    ) -> Result<Token, UpstreamError> {
        let credential = self.credential(service).await?;
        let token = self.get_with(service, scope.clone(), &credential, counted).await;
        match &token {
            Err(error) if matches!(error.kind, UpstreamErrorKind::CredentialsRefused { .. }) => {}
            _ => return token,
        }
        // They may have been replaced meanwhile: a file that was rotated, an exchanged token that has expired.
        self.0.credentials.invalidate(credential.generation).await;
        let renewed = self.credential(service).await?;
        match renewed.generation == credential.generation {
            true => token,
            false => self.get_with(service, scope, &renewed, counted).await,
        }
    }

    async fn credential(&self, service: &TokenService) -> Result<Arc<Credential>, UpstreamError> {
        self.0.credentials.current().await.map_err(|kind| kind.of(&service.host))
    }

    async fn get_with(
        &self,
        service: &Arc<TokenService>,
        scope: Option<String>,
        credential: &Arc<Credential>,
        counted: &CountedFailures,
    ) -> Result<Token, UpstreamError> {
        let key =
            TokenKey { service: Arc::clone(service), scope, generation: credential.generation };
        let slot = self.slot(&key);
        if let Some(CachedToken { header, since, .. }) = slot.fresh() {
            return Ok(Token { header, key, since, is_fresh: false });
        }
        let begun = Instant::now();
        let turn = Arc::clone(&slot.turn).lock_owned().await;
        // Another request may have fetched it meanwhile, or failed to.
        if let Some(CachedToken { header, since, .. }) = slot.fresh() {
            return Ok(Token { header, key, since, is_fresh: true });
        }
        let failed = lock(&slot.failed).clone();
        if let Some((_, error)) = failed.filter(|(at, _)| *at > begun) {
            return Err(error);
        }
        // In a task of its own: a client that goes away does not cancel it for the others.
        let (inner, key, credential) = (Arc::clone(&self.0), key.clone(), Arc::clone(credential));
        let counted = counted.clone();
        let fetching = async move {
            let fetched = inner.fetch(&key, &credential, &counted).await;
            match &fetched {
                Ok(token) => *lock(&slot.kept) = Some(token.clone()),
                Err(error) => *lock(&slot.failed) = Some((Instant::now(), error.clone())),
            }
            drop(turn);
            fetched.map(|CachedToken { header, since, .. }| Token {
                header,
                key,
                since,
                is_fresh: true,
            })
        };
        match tokio::spawn(fetching.in_current_span()).await {
            Ok(token) => token,
            Err(_) => {
                Err(UpstreamErrorKind::unavailable("the token request was stopped")
                    .of(&service.host))
            }
        }
    }

    /// Forgets a token that was refused.
    pub(crate) fn invalidate(&self, key: &TokenKey, refused: &HeaderValue) {
        let slot = self.slot(key);
        let mut kept = lock(&slot.kept);
        if kept.as_ref().is_some_and(|token| token.header == *refused) {
            *kept = None;
        }
    }

    fn slot(&self, key: &TokenKey) -> Arc<TokenSlot> {
        let mut slots = lock(&self.0.slots);
        if slots.len() >= TOKENS_MAX && !slots.contains_key(key) {
            slots.retain(|_, slot| slot.fresh().is_some());
            if slots.len() >= TOKENS_MAX {
                slots.clear();
            }
        }
        Arc::clone(slots.entry(key.clone()).or_default())
    }
}

#[derive(Deserialize)]
struct TokenDocument {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

impl TokenCacheInner {
    fn breaker(&self, service: &Arc<TokenService>) -> Arc<CircuitBreaker> {
        let mut breakers = lock(&self.breakers);
        if breakers.len() >= SERVICES_MAX && !breakers.contains_key(service) {
            breakers.clear();
        }
        Arc::clone(breakers.entry(Arc::clone(service)).or_default())
    }

    async fn fetch(
        &self,
        key: &TokenKey,
        credential: &Credential,
        counted: &CountedFailures,
    ) -> Result<CachedToken, UpstreamError> {
        let service = &key.service;
        match self.request(service, key.scope.as_deref(), credential, counted).await? {
            Ok(document) => cached(&document).map_err(|kind| kind.of(&service.host)),
            Err(status) => Err(self.refusal(key, credential, status, counted).await),
        }
    }

    /// Whether the token service refuses the credentials or the scope: whether it gives a token without a scope.
    async fn refusal(
        &self,
        key: &TokenKey,
        credential: &Credential,
        status: u16,
        counted: &CountedFailures,
    ) -> UpstreamError {
        let host = &key.service.host;
        let repository = UpstreamErrorKind::RepositoryRefused { status };
        if matches!(credential.value, CredentialValue::Anonymous) {
            return repository.of(host);
        }
        let without_scope = match key.scope {
            None => Ok(Err(status)),
            Some(_) => self.request(&key.service, None, credential, counted).await,
        };
        match without_scope {
            Ok(Ok(_)) => repository.of(host),
            Ok(Err(status)) => UpstreamErrorKind::CredentialsRefused { status }.of(host),
            Err(error) if error.kind.is_temporary() => error,
            // It gives none without a scope; with wrong credentials, most respond with 401.
            Err(_) if status == 401 => UpstreamErrorKind::CredentialsRefused { status }.of(host),
            Err(_) => repository.of(host),
        }
    }

    /// A document of the token service, or the status by which it refuses one.
    async fn request(
        &self,
        service: &Arc<TokenService>,
        scope: Option<&str>,
        credential: &Credential,
        counted: &CountedFailures,
    ) -> Result<Result<TokenDocument, u16>, UpstreamError> {
        let (host, breaker) = (&service.host, self.breaker(service));
        breaker.admit().map_err(|kind| kind.of(host))?;
        let request = token_request(service, scope, credential).map_err(|kind| kind.of(host))?;
        let response = self.transport.send(request).await;
        self.counters.count(UpstreamRequestKind::Token, outcome(&response));
        note(&breaker, host, &response, counted);
        let mut response = response?;
        let status = response.status().as_u16();
        let said = || format!("the token service responds with status {status}");
        match status {
            200..300 => {}
            401 | 403 => return Ok(Err(status)),
            429 => {
                let retry_after = breaker.limited_for().or(response.retry_after());
                return Err(UpstreamErrorKind::TooManyRequests { retry_after }.of(host));
            }
            500.. => return Err(UpstreamErrorKind::unavailable(said()).of(host)),
            _ => return Err(UpstreamErrorKind::protocol(said()).of(host)),
        }
        let until = response.body_deadline();
        let body = response.body(TOKEN_BYTES_MAX, until).await?;
        serde_json::from_slice(&body).map(Ok).map_err(|_| {
            UpstreamErrorKind::protocol("the response of the token service is not a token").of(host)
        })
    }
}

/// What a response of the token service, or none, says about it; one of another host says nothing.
fn note(
    breaker: &CircuitBreaker,
    host: &Arc<str>,
    response: &Result<HttpResponse, UpstreamError>,
    counted: &CountedFailures,
) {
    match response {
        Ok(response) if response.is_elsewhere => breaker.note_response(),
        Ok(response) => match response.status().as_u16() {
            429 => {
                breaker.note_limited(response.retry_after());
            }
            status @ 500.. => breaker.note_failure(format!("status {status}"), counted),
            _ => breaker.note_response(),
        },
        Err(error) if error.kind.is_temporary() && error.host == *host => {
            breaker.note_failure(error.kind.to_string(), counted);
        }
        Err(_) => breaker.note_response(),
    }
}

/// By GET with user and password, as distribution's token service has it; by POST with a refresh token, as OAuth 2
/// has it.
fn token_request(
    service: &TokenService,
    scope: Option<&str>,
    credential: &Credential,
) -> Result<HttpRequest, UpstreamErrorKind> {
    let parameters = [("service", service.service.as_deref()), ("scope", scope)];
    let parameters = parameters.into_iter().filter_map(|(name, value)| Some((name, value?)));
    if let CredentialValue::RefreshToken(token) = &credential.value {
        let mut form = Serializer::new(String::new());
        form.extend_pairs(parameters);
        form.append_pair("grant_type", "refresh_token").append_pair("client_id", CLIENT_ID);
        form.append_pair("refresh_token", token.reveal());
        return Ok(post_form(service.realm.clone(), form.finish()));
    }
    let mut request = HttpRequest::get(service.realm.clone());
    request.url.query_pairs_mut().extend_pairs(parameters);
    request.authorization = basic(credential)?;
    Ok(request)
}

/// A form by POST.
pub(crate) fn post_form(url: Url, form: String) -> HttpRequest {
    let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
    HttpRequest {
        method: Method::POST,
        url,
        headers: HeaderMap::from_iter([(CONTENT_TYPE, kind)]),
        authorization: None,
        body: Some(form),
        response_max: Duration::MAX,
    }
}

fn cached(document: &TokenDocument) -> Result<CachedToken, UpstreamErrorKind> {
    let text = document.token.as_ref().or(document.access_token.as_ref());
    let text = text.filter(|text| !text.is_empty());
    let text =
        text.ok_or_else(|| UpstreamErrorKind::protocol("the token service gives no token"))?;
    let lifetime = document.expires_in.filter(|seconds| *seconds > 0);
    let lifetime = lifetime.map_or(LIFETIME, Duration::from_secs).min(LIFETIME_MAX);
    if text.len() > TOKEN_TEXT_BYTES_MAX {
        return Err(UpstreamErrorKind::protocol(format!(
            "the token of the token service is longer than {TOKEN_TEXT_BYTES_MAX} bytes"
        )));
    }
    let since = Instant::now();
    let until = since + lifetime - SKEW_MAX.min(lifetime / 10);
    Ok(CachedToken { header: bearer(&Secret::new(text.as_str()))?, since, until })
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
