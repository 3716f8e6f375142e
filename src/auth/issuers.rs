//! [`Issuers`]: the keys of those whose tokens are believed, fetched and kept.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jreg_auth::{Issuer, JwkSet, JwksError, KeySource, Unverified};
use jreg_storage::Clock;

use crate::logging::chain;
use crate::metrics::Metrics;

/// How old keys are before they are fetched again.
pub const JWKS_AGE_MAX: Duration = Duration::from_secs(3600);
/// How long keys are believed that cannot be fetched again.
pub const JWKS_OUTAGE_MAX: Duration = Duration::from_secs(24 * 3600);
/// The shortest time between two attempts: whoever sends tokens with invented key ids must not make
/// the registry ask the issuer all the time.
pub const JWKS_RETRY_MIN: Duration = Duration::from_secs(10);
/// How long fetching keys may take.
const FETCH_TIME_MAX: Duration = Duration::from_secs(5);

/// Why keys were not fetched.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// No answer, or one that breaks off.
    #[error("cannot get the keys")]
    Http(#[from] reqwest::Error),
    /// Another answer than 200. A redirect is one: keys come from where the policy says, or not
    /// at all.
    #[error("the address of the keys answers {0}, it must answer 200 itself")]
    Status(u16),
    /// The file cannot be read.
    #[error("cannot read the file of keys")]
    File(#[from] std::io::Error),
    /// What came is no set of keys.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// It was tried a moment ago.
    #[error("the keys could not be got a moment ago")]
    TooSoon,
}

/// Gets the bytes of a set of keys.
#[async_trait]
pub trait Fetch: Debug + Send + Sync + 'static {
    /// At most [`JwkSet::BYTES_MAX`] bytes from an address.
    async fn fetch(&self, url: &str) -> Result<Vec<u8>, FetchError>;
}

/// Gets them over HTTP, and follows no redirect.
#[derive(Debug)]
pub struct HttpFetch(reqwest::Client);

impl HttpFetch {
    /// With the roots of trust of this machine.
    ///
    /// # Errors
    ///
    /// [`FetchError::Http`] if there are none.
    pub fn new() -> Result<Self, FetchError> {
        // Fails if the process has chosen already; then that choice stands.
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
impl Fetch for HttpFetch {
    async fn fetch(&self, url: &str) -> Result<Vec<u8>, FetchError> {
        let mut answer = self.0.get(url).send().await?;
        if answer.status() != reqwest::StatusCode::OK {
            return Err(FetchError::Status(answer.status().as_u16()));
        }
        let mut bytes = Vec::new();
        while let Some(chunk) = answer.chunk().await? {
            if bytes.len() + chunk.len() > JwkSet::BYTES_MAX {
                return Err(JwksError::TooLarge.into());
            }
            bytes.extend_from_slice(&chunk);
        }
        Ok(bytes)
    }
}

/// The keys of issuers.
#[derive(Debug)]
pub(super) struct Issuers {
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    sets: Mutex<HashMap<KeySource, Arc<tokio::sync::Mutex<Kept>>>>,
}

#[derive(Debug, Default)]
struct Kept {
    set: Option<(Arc<JwkSet>, Duration)>,
    tried: Option<Duration>,
}

impl Issuers {
    pub(super) fn new(fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self { fetch, clock, metrics, sets: Mutex::default() }
    }

    /// The keys for a token of an issuer: fetched if they are old or lack the one that signed it.
    pub(super) async fn keys(
        &self,
        issuer: &Issuer,
        token: &Unverified<'_>,
    ) -> Result<Arc<JwkSet>, FetchError> {
        let kept = {
            let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(sets.entry(issuer.source().clone()).or_default())
        };
        // Who comes meanwhile waits for the same answer.
        let mut kept = kept.lock().await;
        let now = self.clock.monotonic();
        if let Some((set, since)) = &kept.set
            && now < *since + JWKS_AGE_MAX
            && set.has(token)
        {
            return Ok(Arc::clone(set));
        }
        let is_due = kept.tried.is_none_or(|tried| now >= tried + JWKS_RETRY_MIN);
        let error = if is_due {
            kept.tried = Some(now);
            match self.fetch_set(issuer.source()).await {
                Ok(set) => {
                    let set = Arc::new(set);
                    kept.set = Some((Arc::clone(&set), now));
                    self.metrics.count_auth_reload("jwks", "ok");
                    return Ok(set);
                }
                Err(error) => {
                    self.metrics.count_auth_reload("jwks", "failed");
                    let text = chain(&error);
                    tracing::warn!(issuer = issuer.name(), error = text, "no keys of the issuer");
                    error
                }
            }
        } else {
            FetchError::TooSoon
        };
        match &kept.set {
            Some((set, since)) if now < *since + JWKS_OUTAGE_MAX => Ok(Arc::clone(set)),
            _ => Err(error),
        }
    }

    async fn fetch_set(&self, source: &KeySource) -> Result<JwkSet, FetchError> {
        let bytes = match source {
            KeySource::Url(url) => self.fetch.fetch(url).await?,
            KeySource::File(path) => tokio::fs::read(path).await?,
        };
        Ok(JwkSet::parse(&bytes)?)
    }
}
