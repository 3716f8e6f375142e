//! [`Authenticator`]: the `Authorization` header for the requests to one URL.
//!
//! - Credentials and tokens are sent only after a challenge: before the first request with credentials, `/v2/` is
//!   asked for one.
//! - A token service is on the upstream's own host, or on one that is listed: else a challenge could send the
//!   password anywhere.
//! - A request that is refused with a token from the cache is sent once more, with a new one.
//! - A challenge concerns the scope that got it. One that led to an accepted request is what other scopes begin
//!   with, too. One that leads to no token is forgotten: what the registry says next counts.

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
/// Maximum scopes whose challenges are remembered.
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
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Scope {
    None,
    Catalog,
    Repository(RepositoryName),
}

/// How the registry wants to be authenticated to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Scheme {
    Open,
    Basic,
    Bearer(Arc<TokenService>),
}

/// A challenge, as it is answered for one scope.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ScopeChallenge {
    scheme: Scheme,
    /// The scope of the token.
    token_scope: Option<String>,
}

/// The challenges that are remembered.
#[derive(Debug, Default)]
struct KnownChallenges {
    /// What `/v2/` said, or the last challenge that led to an accepted request: scopes without a challenge of their
    /// own begin with it.
    usual: Option<Scheme>,
    /// Those that led to a token or a password.
    by_scope: HashMap<Scope, ScopeChallenge>,
}

/// The header, and what it was made of.
#[derive(Clone, Debug)]
pub(crate) struct Authorization {
    pub(crate) header: HeaderValue,
    key: AuthorizationKey,
    /// When the token was requested.
    since: Option<Instant>,
    /// Not from the cache: another one would be refused, too.
    is_fresh: bool,
}

impl Authorization {
    /// How long ago the token was requested; `None`: it is no token.
    pub(crate) fn token_age(&self) -> Option<Duration> {
        self.since.map(|since| since.elapsed())
    }

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
    known: Mutex<KnownChallenges>,
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
            known: Mutex::default(),
            accepted: Mutex::default(),
        }
    }

    /// Whether a challenge should be asked for before the first request.
    pub(crate) fn is_unknown(&self) -> bool {
        !self.credentials.is_anonymous() && lock(&self.known).usual.is_none()
    }

    /// Learns how to authenticate, from the challenges of a response; no challenge is none.
    pub(crate) fn learn(&self, challenges: &[Challenge]) -> Result<(), UpstreamError> {
        let scheme = self.scheme(challenges)?.unwrap_or(Scheme::Open);
        lock(&self.known).usual = Some(scheme);
        Ok(())
    }

    /// The challenge that a request is expected to get, before it is sent.
    pub(crate) fn known(&self, scope: &Scope) -> Option<ScopeChallenge> {
        let known = lock(&self.known);
        match (known.by_scope.get(scope), &known.usual) {
            (Some(challenge), _) => Some(challenge.clone()),
            (None, Some(scheme)) => Some(scope_challenge(scheme.clone(), scope, None)),
            (None, None) => None,
        }
    }

    /// Forgets the challenge of a scope, and does not begin with it in other scopes either.
    pub(crate) fn forget(&self, scope: &Scope, challenge: &ScopeChallenge) {
        self.forget_of_scope(scope, challenge);
        let mut known = lock(&self.known);
        if known.usual.as_ref() == Some(&challenge.scheme) {
            known.usual = None;
        }
    }

    /// Forgets the challenge of a scope.
    pub(crate) fn forget_of_scope(&self, scope: &Scope, challenge: &ScopeChallenge) {
        let mut known = lock(&self.known);
        if known.by_scope.get(scope) == Some(challenge) {
            known.by_scope.remove(scope);
        }
    }

    /// Whether a request for which there was no token may be sent without one. Credentials that do not work now are
    /// no reason to: the registry would show as absent what others may not see.
    pub(crate) fn may_go_without(&self, kind: &UpstreamErrorKind) -> bool {
        self.credentials.is_anonymous() && !kind.is_temporary()
    }

    /// The best of the challenges of a 401; `None` if none can be answered.
    pub(crate) fn challenged(
        &self,
        challenges: &[Challenge],
        scope: &Scope,
    ) -> Result<Option<ScopeChallenge>, UpstreamError> {
        let Some(scheme) = self.scheme(challenges)? else { return Ok(None) };
        let token_scope = challenges.iter().find_map(|challenge| match challenge {
            Challenge::Bearer(bearer) => bearer.scope.clone(),
            Challenge::Basic => None,
        });
        Ok(Some(scope_challenge(scheme, scope, token_scope)))
    }

    /// What a challenge leads to; `None` if nothing else can be sent than was.
    pub(crate) async fn renew(
        &self,
        challenge: &ScopeChallenge,
        scope: &Scope,
        refused: Option<&Authorization>,
        counted: &CountedFailures,
    ) -> Result<Option<Authorization>, UpstreamError> {
        let mut refused_credential = None;
        match refused.map(|refused| (&refused.key, refused)) {
            None => {}
            Some((AuthorizationKey::Credential(generation), _)) => {
                self.credentials.invalidate(*generation).await;
                refused_credential = Some(*generation);
            }
            Some((AuthorizationKey::Token(key), refused)) => {
                if refused.is_fresh && is_of(key, challenge) {
                    return Ok(None);
                }
                self.tokens.invalidate(key, &refused.header);
            }
        }
        let renewed = self.authorize(challenge, counted).await?;
        let is_same = |it: &Authorization| matches!(it.key, AuthorizationKey::Credential(found) if Some(found) == refused_credential);
        let renewed = renewed.filter(|renewed| !is_same(renewed));
        if renewed.is_some() {
            let mut known = lock(&self.known);
            if known.by_scope.len() >= SCOPES_MAX {
                known.by_scope.clear();
            }
            known.by_scope.insert(scope.clone(), challenge.clone());
        }
        Ok(renewed)
    }

    /// A challenge led to a request that the registry accepted: other scopes begin with it.
    pub(crate) fn note_accepted(&self, challenge: &ScopeChallenge) {
        lock(&self.known).usual = Some(challenge.scheme.clone());
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

    /// The header that answers a challenge; `None` if there is nothing to answer it with.
    pub(crate) async fn authorize(
        &self,
        challenge: &ScopeChallenge,
        counted: &CountedFailures,
    ) -> Result<Option<Authorization>, UpstreamError> {
        match &challenge.scheme {
            Scheme::Open => Ok(None),
            Scheme::Basic => {
                let failed = |kind: UpstreamErrorKind| kind.of(&self.host);
                let credential = self.credentials.current().await.map_err(failed)?;
                let Some(header) = basic(&credential).map_err(failed)? else { return Ok(None) };
                let key = AuthorizationKey::Credential(credential.generation);
                Ok(Some(Authorization { header, key, since: None, is_fresh: false }))
            }
            Scheme::Bearer(service) => {
                let token =
                    self.tokens.get(service, challenge.token_scope.clone(), counted).await?;
                let (key, since) = (AuthorizationKey::Token(token.key), Some(token.since));
                let (header, is_fresh) = (token.header, token.is_fresh);
                Ok(Some(Authorization { header, key, since, is_fresh }))
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
}

/// A challenge for a scope, whose token has the scope that was challenged for or the usual one.
fn scope_challenge(scheme: Scheme, scope: &Scope, challenged: Option<String>) -> ScopeChallenge {
    let token_scope = match (&scheme, scope) {
        (Scheme::Open | Scheme::Basic, _) | (_, Scope::None) => None,
        (_, Scope::Catalog) => Some("registry:catalog:*".to_owned()),
        (_, Scope::Repository(repository)) => {
            let challenged = challenged.filter(|scope| scope.len() <= SCOPE_BYTES_MAX);
            Some(challenged.unwrap_or_else(|| format!("repository:{repository}:pull")))
        }
    };
    ScopeChallenge { scheme, token_scope }
}

/// Whether a challenge asks for the token that a key is of.
fn is_of(key: &TokenKey, challenge: &ScopeChallenge) -> bool {
    match &challenge.scheme {
        Scheme::Bearer(service) => key.is_of(service, challenge.token_scope.as_deref()),
        Scheme::Open | Scheme::Basic => false,
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
