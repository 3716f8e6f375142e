//! [`Issuers`]: the keys of those whose tokens are believed, fetched and kept.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use jreg_auth::{Issuer, JwkSet, JwksError, KeySource, UnverifiedToken};
use jreg_storage::{Clock, error_chain};
use jreg_telemetry::metrics::Metrics;
use tokio::sync::OwnedMutexGuard;
use tokio::task::JoinError;
use tracing::Instrument;

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
    #[error("cannot fetch the keys")]
    Http(#[from] reqwest::Error),
    /// Another answer than 200. A redirect is one: keys come from where the policy says, or not
    /// at all.
    #[error("the URL of the keys returned status {0}; it must return 200 without a redirect")]
    Status(u16),
    /// The file cannot be read.
    #[error("cannot read the key file")]
    File(#[from] std::io::Error),
    /// What came is no set of keys.
    #[error(transparent)]
    Jwks(#[from] JwksError),
    /// It was tried a moment ago.
    #[error("fetching the keys failed a moment ago")]
    TooSoon,
    /// The task that fetched them ended early.
    #[error("the fetch of the keys was stopped")]
    Task(#[from] JoinError),
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
#[derive(Clone, Debug)]
pub(super) struct Issuers {
    fetch: Arc<dyn Fetch>,
    clock: Arc<dyn Clock>,
    metrics: Arc<Metrics>,
    sets: Arc<Mutex<HashMap<KeySource, Arc<Source>>>>,
}

/// The keys of one source.
#[derive(Debug, Default)]
struct Source {
    kept: Mutex<Kept>,
    /// Whoever has it fetches; others that need what is fetched wait for it.
    turn: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone, Debug, Default)]
struct Kept {
    set: Option<(Arc<JwkSet>, Duration)>,
    tried: Option<Duration>,
}

impl Source {
    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Kept {
    /// The keys, if they are this young.
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

impl Issuers {
    pub(super) fn new(fetch: Arc<dyn Fetch>, clock: Arc<dyn Clock>, metrics: Arc<Metrics>) -> Self {
        Self { fetch, clock, metrics, sets: Arc::default() }
    }

    /// The keys for a token of an issuer: fetched if they are old or lack the one that signed it.
    ///
    /// A token whose key is known never waits for a fetch that another one made: an issuer that is
    /// slow, and tokens with invented key ids, delay only those whose keys are not known.
    pub(super) async fn keys(
        &self,
        issuer: &Issuer,
        token: &UnverifiedToken<'_>,
    ) -> Result<Arc<JwkSet>, FetchError> {
        let source = {
            let mut sets = self.sets.lock().unwrap_or_else(PoisonError::into_inner);
            Arc::clone(sets.entry(issuer.source().clone()).or_default())
        };
        let has = |set: &Arc<JwkSet>| set.has(token);
        if let Some(set) = self.fresh(&source, has) {
            return Ok(set);
        }
        let turn = match Arc::clone(&source.turn).try_lock_owned() {
            Ok(turn) => turn,
            Err(_) => match self.believed(&source).filter(has) {
                Some(set) => return Ok(set),
                None => Arc::clone(&source.turn).lock_owned().await,
            },
        };
        // Who had the turn may have fetched it.
        if let Some(set) = self.fresh(&source, has) {
            return Ok(set);
        }
        match self.fetch_in_task(issuer, &source, turn).await {
            Ok(set) => Ok(set),
            Err(error) => self.believed(&source).ok_or(error),
        }
    }

    fn fresh(&self, source: &Source, has: impl Fn(&Arc<JwkSet>) -> bool) -> Option<Arc<JwkSet>> {
        source.kept().younger_than(JWKS_AGE_MAX, self.clock.monotonic()).filter(has)
    }

    /// The keys that hold as long as others cannot be fetched.
    fn believed(&self, source: &Source) -> Option<Arc<JwkSet>> {
        source.kept().younger_than(JWKS_OUTAGE_MAX, self.clock.monotonic())
    }

    /// Fetches in a task that owns the turn: it continues when the request is cancelled. Otherwise a
    /// client that cancels its requests could stop every fetch, and each stopped one counts as an attempt.
    async fn fetch_in_task(
        &self,
        issuer: &Issuer,
        source: &Arc<Source>,
        turn: OwnedMutexGuard<()>,
    ) -> Result<Arc<JwkSet>, FetchError> {
        let (issuers, issuer, source) = (self.clone(), issuer.clone(), Arc::clone(source));
        let fetching = async move {
            let fetched = issuers.fetch_if_due(&issuer, &source).await;
            drop(turn);
            fetched
        };
        tokio::spawn(fetching.in_current_span()).await?
    }

    async fn fetch_if_due(
        &self,
        issuer: &Issuer,
        source: &Source,
    ) -> Result<Arc<JwkSet>, FetchError> {
        let now = self.clock.monotonic();
        {
            let mut kept = source.kept();
            if !kept.is_due(now) {
                return Err(FetchError::TooSoon);
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

    async fn fetch_set(&self, source: &KeySource) -> Result<JwkSet, FetchError> {
        let bytes = match source {
            KeySource::Url(url) => self.fetch.fetch(url).await?,
            KeySource::File(path) => tokio::fs::read(path).await?,
        };
        Ok(JwkSet::parse(&bytes)?)
    }
}
