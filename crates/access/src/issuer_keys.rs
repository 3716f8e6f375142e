//! [`IssuerKeys`]: fetches and caches the keys (JWKS) of trusted issuers.

use std::collections::HashMap;
use std::fmt::Debug;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use http::HeaderValue;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE};
use jreg_auth::{
    CodeRequest, Issuer, IssuerTokenError, JwkSet, JwksError, KeySource, UnverifiedToken,
};
use jreg_reload::read_regular;
use jreg_storage::{Clock, error_chain};
use jreg_telemetry::metrics::Metrics;
use tokio::sync::OwnedMutexGuard;
use tokio::task::{JoinError, spawn_blocking};
use tracing::Instrument;

/// Maximum age of keys before they are fetched again.
pub const JWKS_AGE_MAX: Duration = Duration::from_secs(3600);
/// Maximum age of keys that are used while fetching fails.
pub const JWKS_OUTAGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// Minimum time between two fetches: tokens with invented key ids or signatures must not cause a fetch each.
pub const JWKS_RETRY_MIN: Duration = Duration::from_secs(10);
/// Maximum bytes of a response of a token endpoint.
pub const TOKEN_RESPONSE_BYTES_MAX: usize = 64 * 1024;
/// Timeout of a fetch.
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
pub enum JwksFetchError {
    /// No response, or an incomplete one.
    #[error("cannot fetch the keys")]
    Http(#[from] reqwest::Error),
    /// A status other than 200. Redirects are not followed: keys come only from the configured URL.
    #[error("the URL of the keys returned status {0}; it must return 200 without a redirect")]
    Status(u16),
    #[error("cannot read the key file")]
    File(#[from] std::io::Error),
    /// The response is not a JWK set.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// A recent attempt failed.
    #[error("fetching the keys failed a moment ago")]
    TooSoon,
    /// This fetcher sends no forms.
    #[error("the request cannot be sent")]
    Unsupported,
    /// The fetch task was cancelled.
    #[error("the fetch of the keys was stopped")]
    Task(#[from] JoinError),
}

/// Fetches a JWK set.
#[async_trait]
pub trait JwksFetcher: Debug + Send + Sync + 'static {
    /// At most [`JwkSet::BYTES_MAX`] bytes from a URL.
    async fn fetch(&self, url: &str) -> Result<Vec<u8>, JwksFetchError>;

    /// Exchanges the code of a login: the status code and the body of the response, of at most
    /// [`TOKEN_RESPONSE_BYTES_MAX`] bytes.
    async fn post_form(&self, _request: &CodeRequest) -> Result<(u16, Vec<u8>), JwksFetchError> {
        Err(JwksFetchError::Unsupported)
    }
}

/// Fetches over HTTP without following redirects.
#[derive(Debug)]
pub struct HttpJwksFetcher(reqwest::Client);

impl HttpJwksFetcher {
    /// Trusts the system's root certificates.
    ///
    /// # Errors
    ///
    /// [`JwksFetchError::Http`] if there are no root certificates.
    pub fn new() -> Result<Self, JwksFetchError> {
        // Fails if a provider is already installed; then that one is used.
        rustls::crypto::ring::default_provider().install_default().ok();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .timeout(FETCH_TIME_MAX)
            .no_proxy()
            .build()?;
        Ok(Self(client))
    }
}

#[async_trait]
impl JwksFetcher for HttpJwksFetcher {
    async fn fetch(&self, url: &str) -> Result<Vec<u8>, JwksFetchError> {
        let response = self.0.get(url).send().await?;
        if response.status() != reqwest::StatusCode::OK {
            return Err(JwksFetchError::Status(response.status().as_u16()));
        }
        body_of(response, JwkSet::BYTES_MAX).await
    }

    async fn post_form(&self, request: &CodeRequest) -> Result<(u16, Vec<u8>), JwksFetchError> {
        let mut post = self.0.post(&request.url);
        if let Some(authorization) = &request.authorization {
            let mut value = HeaderValue::from_str(authorization.reveal())
                .map_err(|_| JwksFetchError::Unsupported)?;
            value.set_sensitive(true);
            post = post.header(AUTHORIZATION, value);
        }
        let post = post
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .header(ACCEPT, "application/json");
        let response = post.body(request.form.reveal().to_owned()).send().await;
        // The URL may have a query of the provider's own.
        let response = response.map_err(reqwest::Error::without_url)?;
        let status = response.status().as_u16();
        Ok((status, body_of(response, TOKEN_RESPONSE_BYTES_MAX).await?))
    }
}

/// Why a key file cannot be read.
fn unreadable(error: io::Error) -> JwksFetchError {
    match error.kind() {
        io::ErrorKind::FileTooLarge => JwksError::TooLarge.into(),
        _ => error.into(),
    }
}

async fn body_of(mut response: reqwest::Response, max: usize) -> Result<Vec<u8>, JwksFetchError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await? {
        if bytes.len() + chunk.len() > max {
            return Err(JwksError::TooLarge.into());
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

/// JWK sets by source.
#[derive(Clone, Debug)]
pub(super) struct IssuerKeys {
    fetch: Arc<dyn JwksFetcher>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    sets: Arc<Mutex<HashMap<KeySource, Arc<JwksSource>>>>,
}

#[derive(Debug, Default)]
struct JwksSource {
    kept: Mutex<CachedJwks>,
    /// Held while fetching; other requests for the same keys wait for it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Debug, Default)]
struct CachedJwks {
    set: Option<(Arc<JwkSet>, Duration)>,
    tried: Option<Duration>,
}

impl JwksSource {
    fn kept(&self) -> MutexGuard<'_, CachedJwks> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl CachedJwks {
    /// The keys, if they are at most this old.
    fn younger_than(&self, age_max: Duration, now: Duration) -> Option<Arc<JwkSet>> {
        self.set
            .as_ref()
            .filter(|(_, since)| now < *since + age_max)
            .map(|(set, _)| Arc::clone(set))
    }

    fn is_due(&self, now: Duration) -> bool {
        self.tried.is_none_or(|tried| now >= tried + JWKS_RETRY_MIN)
    }
}

impl IssuerKeys {
    pub(super) fn new(
        fetch: Arc<dyn JwksFetcher>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
    ) -> Self {
        Self { fetch, clock, metrics, sets: Arc::default() }
    }

    /// What `verify` finds out about a token by the keys of its issuer.
    ///
    /// If no cached key fits, they may be outdated, although one has the token's key id, or the token has none:
    /// issuers also replace keys without other ids. Then they are fetched, and the token is verified by newer keys.
    pub(super) async fn verified<T>(
        &self,
        issuer: &Issuer,
        token: &UnverifiedToken<'_>,
        verify: impl Fn(&JwkSet) -> Result<T, IssuerTokenError>,
    ) -> Result<Result<T, IssuerTokenError>, JwksFetchError> {
        let set = self.keys(issuer, token).await?;
        let found = verify(&set);
        if !matches!(&found, Err(error) if error.is_by_other_key()) {
            return Ok(found);
        }
        Ok(match self.newer_than(&set, issuer).await {
            Some(newer) => verify(&newer),
            None => found,
        })
    }

    fn source(&self, issuer: &Issuer) -> Arc<JwksSource> {
        let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(sets.entry(issuer.source().clone()).or_default())
    }

    /// The keys for a token of an issuer, fetched if they are too old or lack the signing key.
    ///
    /// A token whose key is cached never waits for another request's fetch: a slow issuer, and
    /// tokens with invented key ids, delay only requests whose keys are not cached.
    async fn keys(
        &self,
        issuer: &Issuer,
        token: &UnverifiedToken<'_>,
    ) -> Result<Arc<JwkSet>, JwksFetchError> {
        let source = self.source(issuer);
        let has = |set: &Arc<JwkSet>| set.has(token);
        if let Some(set) = self.fresh(&source, has) {
            return Ok(set);
        }
        let turn = match Arc::clone(&source.turn).try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => match self.cached_during_outage(&source).filter(has) {
                Some(set) => return Ok(set),
                None => Arc::clone(&source.turn).lock_owned().await,
            },
        };
        // Another request may have fetched it meanwhile.
        if let Some(set) = self.fresh(&source, has) {
            return Ok(set);
        }
        match self.fetch_in_task(issuer, &source, turn).await {
            Ok(set) => Ok(set),
            Err(error) => self.cached_during_outage(&source).ok_or(error),
        }
    }

    /// Keys that were fetched after `set`; `None` if there are none now.
    async fn newer_than(&self, set: &Arc<JwkSet>, issuer: &Issuer) -> Option<Arc<JwkSet>> {
        let source = self.source(issuer);
        let turn = Arc::clone(&source.turn).lock_owned().await;
        // Another request may have fetched them meanwhile.
        let kept = self.cached_during_outage(&source).filter(|kept| !Arc::ptr_eq(kept, set));
        match kept {
            Some(newer) => Some(newer),
            None => self.fetch_in_task(issuer, &source, turn).await.ok(),
        }
    }

    fn fresh(
        &self,
        source: &JwksSource,
        has: impl Fn(&Arc<JwkSet>) -> bool,
    ) -> Option<Arc<JwkSet>> {
        source.kept().younger_than(JWKS_AGE_MAX, self.clock.monotonic()).filter(has)
    }

    /// Cached keys that may be used while fetching fails.
    fn cached_during_outage(&self, source: &JwksSource) -> Option<Arc<JwkSet>> {
        source.kept().younger_than(JWKS_OUTAGE_MAX, self.clock.monotonic())
    }

    /// Fetches in a task that owns the lock, so that it continues when the request is cancelled.
    /// Otherwise a client that cancels its requests could stop every fetch, and each would count as
    /// an attempt.
    async fn fetch_in_task(
        &self,
        issuer: &Issuer,
        source: &Arc<JwksSource>,
        turn: OwnedMutexGuard<()>,
    ) -> Result<Arc<JwkSet>, JwksFetchError> {
        let (issuer_keys, issuer, source) = (self.clone(), issuer.clone(), Arc::clone(source));
        let fetching = async move {
            let fetched = issuer_keys.fetch_if_due(&issuer, &source).await;
            drop(turn);
            fetched
        };
        tokio::spawn(fetching.in_current_span()).await?
    }

    async fn fetch_if_due(
        &self,
        issuer: &Issuer,
        source: &JwksSource,
    ) -> Result<Arc<JwkSet>, JwksFetchError> {
        let now = self.clock.monotonic();
        {
            let mut kept = source.kept();
            if !kept.is_due(now) {
                return Err(JwksFetchError::TooSoon);
            }
            kept.tried = Some(now);
        }
        match self.fetch_set(issuer.source()).await {
            Ok(set) => {
                let set = Arc::new(set);
                source.kept().set = Some((Arc::clone(&set), now));
                self.metrics.count_auth_reload("jwks", "ok");
                Ok(set)
            }
            Err(error) => {
                self.metrics.count_auth_reload("jwks", "failed");
                let text = error_chain(&error);
                tracing::warn!(
                    issuer = issuer.name(),
                    error = text,
                    "cannot load the keys of the issuer"
                );
                Err(error)
            }
        }
    }

    async fn fetch_set(&self, source: &KeySource) -> Result<JwkSet, JwksFetchError> {
        let bytes = match source {
            KeySource::Url(url) => self.fetch.fetch(url).await?,
            KeySource::File(path) => {
                let path = path.clone();
                let reading = spawn_blocking(move || read_regular(&path, JwkSet::BYTES_MAX));
                reading.await?.map_err(unreadable)?.into_bytes()
            }
        };
        Ok(JwkSet::parse(&bytes)?)
    }
}
