//! [`LoginProvider`]: an OpenID provider, whose description is fetched and cached.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use jreg_auth::{ClientSecret, LoginClient, OpenIdProvider, Secret};
use jreg_reload::read_regular;
use jreg_storage::{Clock, error_chain};
use tokio::sync::Mutex;
use tokio::task::spawn_blocking;

use crate::issuer_keys::{JWKS_AGE_MAX, JWKS_OUTAGE_MAX, JWKS_RETRY_MIN, JwksFetcher};

/// Maximum length of the file of a secret, in bytes.
const SECRET_BYTES_MAX: usize = 4096;

#[derive(Debug)]
pub(super) struct LoginProvider {
    client: LoginClient,
    /// Held while fetching: concurrent logins wait for the same fetch.
    described: Mutex<CachedDescription>,
}

#[derive(Debug, Default)]
struct CachedDescription {
    provider: Option<(Arc<OpenIdProvider>, Duration)>,
    tried: Option<Duration>,
}

impl LoginProvider {
    pub(super) fn new(client: LoginClient) -> Self {
        Self { client, described: Mutex::default() }
    }

    pub(super) fn client(&self) -> &LoginClient {
        &self.client
    }

    /// The endpoints of the provider with this `iss`, fetched once an hour. While fetching fails, those of
    /// the last day are used; it is tried again after a few seconds.
    pub(super) async fn endpoints(
        &self,
        issuer: &str,
        fetch: &dyn JwksFetcher,
        clock: &dyn Clock,
    ) -> Result<Arc<OpenIdProvider>, String> {
        let mut described = self.described.lock().await;
        let now = clock.monotonic();
        let younger_than = |described: &CachedDescription, age: Duration| {
            let found = described.provider.as_ref().filter(|(_, since)| now < *since + age);
            found.map(|(provider, _)| Arc::clone(provider))
        };
        if let Some(provider) = younger_than(&described, JWKS_AGE_MAX) {
            return Ok(provider);
        }
        let is_due = described.tried.is_none_or(|tried| now >= tried + JWKS_RETRY_MIN);
        if !is_due {
            let failed = || "its description could not be fetched a moment ago".to_owned();
            return younger_than(&described, JWKS_OUTAGE_MAX).ok_or_else(failed);
        }
        // Before the fetch, as a request that is cancelled is an attempt, too.
        described.tried = Some(now);
        match fetch_description(issuer, fetch).await {
            Ok(provider) => {
                let provider = Arc::new(provider);
                described.provider = Some((Arc::clone(&provider), now));
                Ok(provider)
            }
            Err(error) => {
                let issuer = &self.client.issuer;
                tracing::warn!(
                    issuer,
                    error,
                    "cannot fetch the description of the OpenID provider"
                );
                younger_than(&described, JWKS_OUTAGE_MAX).ok_or(error)
            }
        }
    }

    /// The secret of the client.
    pub(super) async fn secret(&self) -> Result<Option<Secret>, String> {
        match &self.client.secret {
            None => Ok(None),
            Some(ClientSecret::Value(secret)) => Ok(Some(secret.clone())),
            Some(ClientSecret::File(path)) => {
                let cannot = |error: std::io::Error| {
                    format!("cannot read the client secret of {}: {error}", self.client.issuer)
                };
                let path = path.clone();
                let reading = spawn_blocking(move || read_regular(&path, SECRET_BYTES_MAX));
                let text = reading.await.map_err(io::Error::other).and_then(|read| read);
                let text = text.map_err(cannot)?;
                Ok(Some(Secret::new(text.trim_end_matches(['\n', '\r']))))
            }
        }
    }
}

async fn fetch_description(
    issuer: &str,
    fetch: &dyn JwksFetcher,
) -> Result<OpenIdProvider, String> {
    let url = OpenIdProvider::discovery_url(issuer).map_err(|error| error.to_string())?;
    let bytes = fetch.fetch(&url).await.map_err(|error| error_chain(&error))?;
    OpenIdProvider::parse(issuer, &bytes).map_err(|error| error.to_string())
}
