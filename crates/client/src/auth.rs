//! [`Authenticator`]: the `Authorization` header for the requests to one URL.
//!
//! - Credentials and tokens are sent only after a challenge: before the first request with credentials, `/v2/` is
//!   asked for one.
//! - A token service is on the upstream's own host, or on one that is listed: else a challenge could send the
//!   password anywhere.
//! - A request that is refused with a token from the cache is sent once more, with a new one.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use jreg_auth::Secret;
use jreg_oci::RepositoryName;
use reqwest::Url;
use reqwest::header::HeaderValue;
use tokio::time::Instant;

use crate::breaker::CountedFailures;
use crate::challenge::{BearerChallenge, Challenge};
use crate::credentials::{Credential, CredentialProvider, CredentialValue};
use crate::endpoint::{Counters, outcome};
use crate::token::{TokenCache, TokenKey, TokenService};
use crate::transport::{HttpRequest, Transport};
use crate::url::host_of;
use crate::{
    UpstreamEndpoint, UpstreamError, UpstreamErrorKind, UpstreamOptions, UpstreamRequestKind,
    UpstreamUrl,
};

/// The longest scope of a challenge that is used.
const SCOPE_BYTES_MAX: usize = 1024;
/// Maximum repositories whose scope is remembered because it is not the usual one.
const SCOPES_MAX: usize = 1024;
/// How long it is remembered whether the credentials are accepted.
const ACCEPTED_AGE_MAX: Duration = Duration::from_secs(60);

/// Token services of public registries that are on another host.
const KNOWN_TOKEN_HOSTS: [(&str, &str); 3] = [
    ("registry-1.docker.io", "auth.docker.io"),
    ("registry.gitlab.com", "gitlab.com"),
    ("docker.elastic.co", "docker-auth.elastic.co"),
];

/// What a request needs a token for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Scope {
    None,
    Catalog,
    Repository(RepositoryName),
}

/// How the registry wants to be authenticated to.
#[derive(Clone, Debug)]
enum Scheme {
    Open,
    Basic,
    Bearer(Arc<TokenService>),
}

/// The header, and what it was made of.
#[derive(Clone, Debug)]
pub(crate) struct Authorization {
    pub(crate) header: HeaderValue,
    key: AuthorizationKey,
    /// Not from the cache: another one would be refused, too.
    is_fresh: bool,
}

impl Authorization {
    /// The generation of the credential.
    fn generation(&self) -> u64 {
        match &self.key {
            AuthorizationKey::Credential(generation) => *generation,
            AuthorizationKey::Token(key) => key.generation,
        }
    }
}

#[derive(Clone, Debug)]
enum AuthorizationKey {
    Credential(u64),
    Token(TokenKey),
}

/// Authenticates requests to one URL.
#[derive(Debug)]
pub(crate) struct Authenticator {
    url: UpstreamUrl,
    host: Arc<str>,
    token_hosts: Vec<String>,
    transport: Arc<Transport>,
    counters: Arc<Counters>,
    credentials: Arc<CredentialProvider>,
    tokens: TokenCache,
    scheme: Mutex<Option<Scheme>>,
    scopes: Mutex<HashMap<RepositoryName, String>>,
    /// Whether `/v2/` accepted a credential.
    accepted: Mutex<Option<(Instant, u64, bool)>>,
}

impl Authenticator {
    pub(crate) fn new(
        options: &UpstreamOptions,
        endpoint: &UpstreamEndpoint,
        transport: Arc<Transport>,
        counters: Arc<Counters>,
    ) -> Self {
        let credentials =
            Arc::new(CredentialProvider::new(options, endpoint, Arc::clone(&transport)));
        let tokens = TokenCache::new(
            Arc::clone(&transport),
            Arc::clone(&counters),
            Arc::clone(&credentials),
        );
        Self {
            url: endpoint.url.clone(),
            host: endpoint.url.shared_host(),
            token_hosts: options.token_hosts.clone(),
            transport,
            counters,
            credentials,
            tokens,
            scheme: Mutex::default(),
            scopes: Mutex::default(),
            accepted: Mutex::default(),
        }
    }

    /// Whether a challenge should be asked for before the first request.
    pub(crate) fn is_unknown(&self) -> bool {
        !self.credentials.is_anonymous() && lock(&self.scheme).is_none()
    }

    /// Learns how to authenticate, from the challenges of a response; no challenge is none.
    pub(crate) fn learn(&self, challenges: &[Challenge]) -> Result<(), UpstreamError> {
        let scheme = self.scheme(challenges)?.unwrap_or(Scheme::Open);
        *lock(&self.scheme) = Some(scheme);
        Ok(())
    }

    /// What is known before a request.
    pub(crate) async fn authorization(
        &self,
        scope: &Scope,
        counted: &CountedFailures,
    ) -> Result<Option<Authorization>, UpstreamError> {
        let scheme = lock(&self.scheme).clone();
        match scheme {
            Some(scheme) => self.authorize(&scheme, scope, counted).await,
            None => Ok(None),
        }
    }

    /// What a 401 challenges to; `None` if nothing else can be sent than was.
    pub(crate) async fn renew(
        &self,
        challenges: &[Challenge],
        scope: &Scope,
        refused: Option<&Authorization>,
        counted: &CountedFailures,
    ) -> Result<Option<Authorization>, UpstreamError> {
        let Some(scheme) = self.scheme(challenges)? else { return Ok(None) };
        let is_new_scope = self.note_scope(challenges, scope);
        *lock(&self.scheme) = Some(scheme.clone());
        match refused.map(|refused| (&refused.key, refused.is_fresh)) {
            None => {}
            Some((AuthorizationKey::Credential(generation), _)) => {
                self.credentials.invalidate(*generation).await;
                let again = self.authorize(&scheme, scope, counted).await?;
                let is_same = |it: &Authorization| matches!(it.key, AuthorizationKey::Credential(found) if found == *generation);
                return Ok(again.filter(|again| !is_same(again)));
            }
            Some((AuthorizationKey::Token(_), true)) if !is_new_scope => return Ok(None),
            Some((AuthorizationKey::Token(key), _)) => {
                if let Some(refused) = refused {
                    self.tokens.invalidate(key, &refused.header);
                }
            }
        }
        self.authorize(&scheme, scope, counted).await
    }

    /// Whether a 401 or 403 is about the credentials or about the repository: whether `/v2/` accepts them.
    pub(crate) async fn refusal(
        &self,
        status: u16,
        authorization: Option<&Authorization>,
    ) -> UpstreamError {
        let repository = UpstreamErrorKind::RepositoryRefused { status }.of(&self.host);
        let Some(authorization) = authorization.filter(|_| !self.credentials.is_anonymous()) else {
            return repository;
        };
        let generation = authorization.generation();
        let is_usable = |(since, known, _): &(Instant, u64, bool)| {
            since.elapsed() < ACCEPTED_AGE_MAX && *known == generation
        };
        let known = lock(&self.accepted).filter(is_usable);
        let is_accepted = match known {
            Some((.., is_accepted)) => is_accepted,
            None => match self.ping(authorization).await {
                Ok(is_accepted) => {
                    *lock(&self.accepted) = Some((Instant::now(), generation, is_accepted));
                    is_accepted
                }
                Err(error) => return error,
            },
        };
        match is_accepted {
            true => repository,
            false => UpstreamErrorKind::CredentialsRefused { status }.of(&self.host),
        }
    }

    async fn ping(&self, authorization: &Authorization) -> Result<bool, UpstreamError> {
        let mut request = HttpRequest::get(self.url.join("/v2/", None));
        request.authorization = Some(authorization.header.clone());
        let response = self.transport.send(request).await;
        self.counters.count(UpstreamRequestKind::Ping, outcome(&response));
        let response = response?;
        match response.status().as_u16() {
            401 | 403 => Ok(false),
            429 => {
                let retry_after = response.retry_after();
                Err(UpstreamErrorKind::TooManyRequests { retry_after }.of(&self.host))
            }
            status @ 500.. => {
                Err(UpstreamErrorKind::unavailable(format!("status {status}")).of(&self.host))
            }
            _ => Ok(true),
        }
    }

    async fn authorize(
        &self,
        scheme: &Scheme,
        scope: &Scope,
        counted: &CountedFailures,
    ) -> Result<Option<Authorization>, UpstreamError> {
        match scheme {
            Scheme::Open => Ok(None),
            Scheme::Basic => {
                let failed = |kind: UpstreamErrorKind| kind.of(&self.host);
                let credential = self.credentials.current().await.map_err(failed)?;
                let Some(header) = basic(&credential).map_err(failed)? else { return Ok(None) };
                let key = AuthorizationKey::Credential(credential.generation);
                Ok(Some(Authorization { header, key, is_fresh: false }))
            }
            Scheme::Bearer(service) => {
                let scope = self.scope(scope);
                let token = self.tokens.get(service, scope, counted).await?;
                let key = AuthorizationKey::Token(token.key);
                Ok(Some(Authorization { header: token.header, key, is_fresh: token.is_fresh }))
            }
        }
    }

    /// The best of the challenges that can be answered.
    fn scheme(&self, challenges: &[Challenge]) -> Result<Option<Scheme>, UpstreamError> {
        let bearer = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer(bearer) => Some(bearer),
            Challenge::Basic => None,
        });
        match bearer {
            Some(bearer) => Ok(Some(Scheme::Bearer(Arc::new(self.token_service(bearer)?)))),
            None => Ok(challenges.contains(&Challenge::Basic).then_some(Scheme::Basic)),
        }
    }

    /// The token service of a challenge, if a request may be sent to it.
    fn token_service(&self, challenge: &BearerChallenge) -> Result<TokenService, UpstreamError> {
        let wrong = |why: String| UpstreamErrorKind::protocol(why).of(&self.host);
        let realm: Url = challenge
            .realm
            .parse()
            .map_err(|_| wrong("the realm of the token service is not a URL".to_owned()))?;
        let is_secure =
            realm.scheme() == "https" || (realm.scheme() == "http" && self.url.is_plain());
        if !is_secure || !realm.username().is_empty() || realm.password().is_some() {
            return Err(wrong("the realm of the token service is not an https URL".to_owned()));
        }
        let host = host_of(&realm);
        let is_known = KNOWN_TOKEN_HOSTS.contains(&(&*self.host, &*host));
        let is_listed = self.token_hosts.iter().any(|listed| **listed == *host);
        if host != self.host && !is_known && !is_listed {
            return Err(wrong(format!(
                "its token service is on another host, {host}: list it in token-hosts to send it credentials"
            )));
        }
        Ok(TokenService { realm, host, service: challenge.service.clone() })
    }

    /// Remembers the scope of a challenge if it is not the usual one. Returns whether it is news.
    fn note_scope(&self, challenges: &[Challenge], scope: &Scope) -> bool {
        let Scope::Repository(repository) = scope else { return false };
        let challenged = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer(bearer) => bearer.scope.as_deref(),
            Challenge::Basic => None,
        });
        let Some(challenged) = challenged.filter(|scope| scope.len() <= SCOPE_BYTES_MAX) else {
            return false;
        };
        let is_news = self.scope(scope).as_deref() != Some(challenged);
        if is_news {
            let mut scopes = lock(&self.scopes);
            if scopes.len() >= SCOPES_MAX {
                scopes.clear();
            }
            scopes.insert(repository.clone(), challenged.to_owned());
        }
        is_news
    }

    /// The scope of a token for a request.
    fn scope(&self, scope: &Scope) -> Option<String> {
        match scope {
            Scope::None => None,
            Scope::Catalog => Some("registry:catalog:*".to_owned()),
            Scope::Repository(repository) => {
                let known = lock(&self.scopes).get(repository).cloned();
                Some(known.unwrap_or_else(|| format!("repository:{repository}:pull")))
            }
        }
    }
}

/// The header with user and password.
pub(crate) fn basic(credential: &Credential) -> Result<Option<HeaderValue>, UpstreamErrorKind> {
    match &credential.value {
        CredentialValue::Anonymous => Ok(None),
        CredentialValue::RefreshToken(_) => Err(UpstreamErrorKind::no_credentials(
            "the registry wants a user and a password, but there is only a refresh token",
        )),
        CredentialValue::Password { user, password } => {
            let text = BASE64.encode(format!("{user}:{}", password.reveal()));
            sensitive(&format!("Basic {text}")).map(Some)
        }
    }
}

/// The header with a token.
pub(crate) fn bearer(token: &Secret) -> Result<HeaderValue, UpstreamErrorKind> {
    sensitive(&format!("Bearer {}", token.reveal()))
}

fn sensitive(text: &str) -> Result<HeaderValue, UpstreamErrorKind> {
    let mut header = HeaderValue::from_str(text)
        .map_err(|_| UpstreamErrorKind::protocol("a token with characters that no header has"))?;
    header.set_sensitive(true);
    Ok(header)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
