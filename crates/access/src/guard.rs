//! [`AccessGuard`]: authenticates requests and evaluates the policy.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, SystemTime};

use jreg_auth::{
    AccessToken, AccessTokenText, Credentials, Fingerprints, Htpasswd, Identity, IdentitySource,
    IssuerAccess, LoginClient, NamedIdentity, Network, Policy, Secret, TokenClaims, TokenKind,
    TokenScope, UnverifiedToken, is_login_token,
};
use jreg_oci::RepositoryName;
use jreg_reload::{FileError, FileReload, ReloadedFiles};
use jreg_storage::{Clock, Store, error_chain};
use jreg_telemetry::metrics::Metrics;

use super::access_tokens::AccessTokenStore;
use super::browser::{BrowserLogins, LOGIN_TOKEN_LIFETIME_MAX};
use super::challenge::Scheme;
use super::credential_cache::{
    CacheGeneration, CachedPrincipal, ConnectionEntry, CredentialCache, TRUST_MAX,
};
use super::credential_kind::{is_like_jwt, kind_of, throttled_name};
use super::cursor::CatalogCursors;
use super::issuer_keys::{IssuerKeys, JwksFetcher};
use super::login_throttle::{FailedLogin, LoginThrottle, LoginThrottled};
use super::password_hasher::PasswordHasher;
use super::session_store::SessionStore;
use super::signing_keys::{SharedSigningKeys, SigningError, SigningKeys};
use super::{AuthError, Principal, PrincipalGrants, RequestInfo};

/// Interval between checks for changed files.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(2);
/// The name under which unknown access tokens are counted. No user can have it.
const UNKNOWN_TOKENS: &str = "\0access token";
/// The issuer of this registry's own tokens.
const OURSELVES: &str = "jreg";

/// Options of authentication and authorization.
#[derive(Clone, Debug)]
pub struct AccessGuardOptions {
    /// The htpasswd file.
    pub htpasswd: Option<PathBuf>,
    /// The policy file.
    pub policy: Option<PathBuf>,
    /// Whether anonymous clients may pull.
    pub anonymous_pull: bool,
    /// Identities that may administer the registry, besides those that the policy names.
    pub admins: Vec<String>,
    /// OpenID providers that users of a browser can log in at.
    pub login_clients: Vec<LoginClient>,
    /// Whether this registry issues tokens.
    pub token_service: bool,
    /// URL of an external token service.
    pub token_realm: Option<String>,
    /// The audience of tokens for this registry.
    pub token_audience: String,
    pub token_lifetime: Duration,
    /// Lifetime of a refresh token.
    pub refresh_lifetime: Duration,
    /// Interval between rotations of the signing key.
    pub key_rotation: Duration,
    /// The URL by which clients reach the registry.
    pub public_url: Option<String>,
    /// Number of failed logins before throttling begins.
    pub login_failures_free: u32,
    /// Maximum delay of a throttled login.
    pub login_delay_max: Duration,
}

/// Authorizer backed by htpasswd, access tokens, issuers and the policy file.
#[derive(Debug)]
pub struct AccessGuard {
    pub(super) scheme: Scheme,
    pub(super) service: String,
    pub(super) lifetime: Duration,
    pub(super) refresh_lifetime: Duration,
    pub(super) users: Option<ReloadedFiles<Htpasswd>>,
    policy: PolicySource,
    pub(super) access_tokens: Arc<AccessTokenStore>,
    pub(super) signing_keys: Option<Arc<SigningKeys>>,
    shared_keys: Arc<SharedSigningKeys>,
    pub(super) cursors: CatalogCursors,
    pub(super) browser: BrowserLogins,
    pub(super) issuer_keys: IssuerKeys,
    pub(super) credentials: CredentialCache,
    /// Number of logouts and revocations of this instance.
    revocations: AtomicU64,
    password_hasher: PasswordHasher,
    pub(super) login_throttle: LoginThrottle,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum PolicySource {
    File(ReloadedFiles<Policy>),
    Fixed(Arc<Policy>),
}

/// Why an [`AccessGuard`] cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum AccessGuardError {
    #[error(transparent)]
    File(#[from] FileError),
    #[error("cannot read the token signing keys from the store")]
    SigningKeys(#[from] SigningError),
    #[error("the operating system provides no random numbers")]
    Random,
    #[error("cannot set up the HTTP client for the keys of issuers")]
    JwksFetcher(#[from] super::JwksFetchError),
    /// A blocking task panicked.
    #[error("cannot read the files")]
    Task(#[source] io::Error),
}

/// The principal that credentials belong to, and how long that may be cached.
#[derive(Clone, Debug)]
pub(super) struct VerifiedIdentity {
    pub(super) principal: Principal,
    pub(super) until: Duration,
    pub(super) expires: Option<SystemTime>,
}

impl From<LoginThrottled> for AuthError {
    fn from(early: LoginThrottled) -> Self {
        Self::Throttled { wait: early.wait }
    }
}

impl AccessGuard {
    /// Opens the authorizer. Access tokens and signing keys are in `store`.
    ///
    /// # Errors
    ///
    /// [`AccessGuardError`].
    pub async fn open(
        options: AccessGuardOptions,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        fetch: Arc<dyn JwksFetcher>,
        access_tokens: Arc<AccessTokenStore>,
        sessions: Arc<SessionStore>,
    ) -> Result<Self, AccessGuardError> {
        let files = options.clone();
        let opening = tokio::task::spawn_blocking(move || (users(&files), policy(&files)));
        let (users, policy) =
            opening.await.map_err(|error| AccessGuardError::Task(error.into()))?;
        let issues = options.token_service && options.token_realm.is_none();
        let lifetime = options.token_lifetime.max(options.refresh_lifetime);
        let lifetime = lifetime.max(LOGIN_TOKEN_LIFETIME_MAX);
        let signing_keys = match issues {
            true => {
                let (store, clock) = (Arc::clone(&store), Arc::clone(&clock));
                Some(Arc::new(
                    SigningKeys::open(store, clock, options.key_rotation, lifetime).await?,
                ))
            }
            false => None,
        };
        let shared_keys = Arc::new(SharedSigningKeys::new(
            signing_keys.clone(),
            Arc::clone(&store),
            Arc::clone(&clock),
            options.key_rotation,
            lifetime,
        ));
        let browser = BrowserLogins::new(
            Arc::clone(&shared_keys),
            sessions,
            options.login_clients.clone(),
            Arc::clone(&fetch),
            Arc::clone(&clock),
            options.public_url.clone(),
        );
        Ok(Self {
            cursors: CatalogCursors(Arc::clone(&shared_keys)),
            shared_keys,
            browser,
            scheme: Scheme::of(&options),
            service: options.token_audience.clone(),
            lifetime: options.token_lifetime,
            refresh_lifetime: options.refresh_lifetime,
            users: users?,
            policy: policy?,
            access_tokens,
            signing_keys,
            issuer_keys: IssuerKeys::new(fetch, Arc::clone(&clock), Arc::clone(&metrics)),
            credentials: CredentialCache::new(Fingerprints::new().ok_or(AccessGuardError::Random)?),
            revocations: AtomicU64::new(0),
            password_hasher: PasswordHasher::new(),
            login_throttle: LoginThrottle::new(
                options.login_failures_free,
                options.login_delay_max,
                Arc::clone(&clock),
            ),
            clock,
            metrics,
        })
    }

    /// Whether anonymous clients may pull something below a prefix, as far as the rules say.
    pub fn may_anonymous_pull_below(&self, prefix: &RepositoryName) -> bool {
        self.policy().may_anonymous_pull_below(prefix)
    }

    /// Reloads the files that have changed. Blocks on disk I/O.
    pub fn reload(&self) -> Vec<FileReload> {
        let users = self.users.as_ref().map(|users| ("htpasswd", users.reload()));
        let policy = match &self.policy {
            PolicySource::File(policy) => Some(("policy", policy.reload())),
            _ => None,
        };
        let reloads = users.into_iter().chain(policy);
        let reloads = reloads.filter_map(|(file, outcome)| FileReload::new(file, outcome));
        reloads.inspect(|reload| self.count_reload(*reload)).collect()
    }

    fn count_reload(&self, reload: FileReload) {
        let outcome = if reload.is_done { "ok" } else { "failed" };
        self.metrics.count_auth_reload(reload.file, outcome);
    }

    /// Reloads the keys of tokens, sessions and catalog cursors, and rotates the signing key when due.
    pub async fn refresh_keys(&self) {
        if let Err(error) = self.shared_keys.refresh().await {
            let error = error_chain(&error);
            tracing::warn!(error, "cannot read the token signing keys; retrying later");
        }
    }

    /// Number of passwords compared with a hash.
    pub fn compared(&self) -> u64 {
        self.password_hasher.compared()
    }

    /// Number of credentials that were parsed, hashed and looked up in the cache.
    pub fn looked_up(&self) -> u64 {
        self.credentials.lookups()
    }

    /// Use of the password hashing budget.
    pub fn hashing(&self) -> jreg_registry::BudgetUsage {
        self.password_hasher.usage()
    }

    /// The current policy.
    pub(super) fn policy(&self) -> Arc<Policy> {
        match &self.policy {
            PolicySource::File(policy) => policy.get(),
            PolicySource::Fixed(policy) => Arc::clone(policy),
        }
    }

    /// Sum of the generations of all files.
    fn generation(&self) -> CacheGeneration {
        let users = self.users.as_ref().map_or(0, ReloadedFiles::generation);
        let policy = match &self.policy {
            PolicySource::File(policy) => policy.generation(),
            PolicySource::Fixed(_) => 0,
        };
        let files = users.wrapping_add(policy);
        CacheGeneration { files, revocations: self.revocations.load(Ordering::Acquire) }
    }

    /// Has credentials that can be revoked verified again: some just were, by this instance.
    pub(super) fn note_revocation(&self) {
        self.revocations.fetch_add(1, Ordering::AcqRel);
    }

    /// Authenticates an `Authorization` header. The connection remembers the last one.
    pub(super) async fn verified(
        &self,
        header: &[u8],
        request_info: &RequestInfo,
    ) -> Result<Arc<Principal>, AuthError> {
        let from = request_info.network();
        let Some(connection) = &request_info.connection else {
            return self
                .looked_up_principal(header, from)
                .await
                .map(|(cached, _)| cached.principal);
        };
        // Read before throttling is checked, so that a concurrent failure is noticed next time.
        let failed = self.login_throttle.failed_logins();
        let (generation, clock) = (self.generation(), &*self.clock);
        if let Some(principal) = connection.get(header, from, generation, failed, clock) {
            return Ok(principal);
        }
        let (cached, credentials) = self.looked_up_principal(header, from).await?;
        let principal = Arc::clone(&cached.principal);
        let failed = throttled_name(&credentials, &self.policy()).map(|_| failed);
        let hits = self.metrics.auth_counter(kind_of(&credentials), "cached");
        connection.set(ConnectionEntry::new(header, from, cached, failed, hits));
        Ok(principal)
    }

    async fn looked_up_principal(
        &self,
        header: &[u8],
        from: Option<Network>,
    ) -> Result<(CachedPrincipal, Credentials), AuthError> {
        let credentials = Credentials::parse(header);
        let credentials = credentials.map_err(|error| {
            self.metrics.count_auth("none", "malformed");
            AuthError::invalid(error.to_string())
        })?;
        let cached = self.authenticate(&credentials, from).await?;
        Ok((cached, credentials))
    }

    /// The principal of these credentials, from the cache where possible. Throttles addresses with
    /// too many failed logins.
    pub(super) async fn authenticate(
        &self,
        credentials: &Credentials,
        from: Option<Network>,
    ) -> Result<CachedPrincipal, AuthError> {
        let found = self.authenticate_throttled(credentials, from).await;
        if matches!(found, Err(AuthError::Throttled { .. })) {
            self.metrics.count_auth(kind_of(credentials), "throttled");
        }
        found
    }

    async fn authenticate_throttled(
        &self,
        credentials: &Credentials,
        from: Option<Network>,
    ) -> Result<CachedPrincipal, AuthError> {
        let throttled = throttled_name(credentials, &self.policy());
        if let Some(name) = throttled {
            self.login_throttle.check(from, name)?;
        }
        let fingerprint = self.credentials.fingerprint(credentials);
        let cached = || self.credentials.get(&fingerprint, self.generation(), &*self.clock);
        if let Some(cached) = cached() {
            self.metrics.count_auth(kind_of(credentials), "cached");
            return Ok(cached);
        }
        // Read before the files, so that a concurrent change invalidates the cached result.
        let generation = self.generation();
        let attempt = match throttled {
            Some(name) => {
                self.login_throttle
                    .begin(from, name, FailedLogin { fingerprint, generation: generation.files })
                    .await?
            }
            None => None,
        };
        if let Some(attempt) = attempt.as_ref()
            && attempt.is_known_to_fail()
        {
            self.metrics.count_auth(kind_of(credentials), "refused");
            return Err(wrong_password());
        }
        let known = || cached().is_some();
        let found = self.find(credentials, from, fingerprint, known).await;
        match (attempt, &found) {
            (Some(attempt), Ok(_)) => attempt.record_success(),
            (Some(attempt), Err(AuthError::Busy | AuthError::Unavailable { .. })) => {
                attempt.cancel()
            }
            (attempt, _) => drop(attempt),
        }
        let found = found?;
        if let Some(cached) = cached() {
            return Ok(cached);
        }
        let VerifiedIdentity { principal, until, expires } = found;
        let cached = CachedPrincipal { principal: Arc::new(principal), generation, until, expires };
        self.credentials.insert(fingerprint, cached.clone());
        Ok(cached)
    }

    /// Verifies credentials.
    async fn find(
        &self,
        credentials: &Credentials,
        from: Option<Network>,
        fingerprint: [u8; 32],
        known: impl Fn() -> bool + Send,
    ) -> Result<VerifiedIdentity, AuthError> {
        let secret = match credentials {
            Credentials::Basic { password: secret, .. } | Credentials::Bearer(secret) => secret,
        };
        let found = match credentials {
            _ if AccessTokenText::is_like(secret.reveal()) => {
                self.of_access_token(secret, from, fingerprint).await
            }
            _ if is_login_token(secret.reveal()) => self.of_login_token(secret).await,
            Credentials::Basic { user, password } => self.of_password(user, password, known).await,
            Credentials::Bearer(token) => self.of_token(token).await,
        };
        self.metrics.count_auth(kind_of(credentials), outcome(&found));
        found
    }

    async fn of_password(
        &self,
        user: &str,
        password: &Secret,
        known: impl Fn() -> bool + Send,
    ) -> Result<VerifiedIdentity, AuthError> {
        if is_like_jwt(password.reveal()) && !self.policy().issuers().is_empty() {
            return self.of_issuer(password).await;
        }
        let users = self.users.as_ref().map(ReloadedFiles::get).unwrap_or_default();
        let comparison = users.to_compare(user);
        let password_fingerprint = comparison.fingerprint();
        let verified = self.password_hasher.verify(comparison, password.clone(), known).await;
        if !verified.map_err(|_| AuthError::Busy)? {
            return Err(wrong_password());
        }
        let identity = Identity::named(user, IdentitySource::Htpasswd);
        let principal =
            Principal { password: password_fingerprint, ..Principal::from_identity(identity) };
        Ok(VerifiedIdentity { principal, until: self.trusted_until(), expires: None })
    }

    /// Verifies an access token. One that is not cached costs a store read, so unknown tokens are
    /// throttled; cached tokens are not.
    async fn of_access_token(
        &self,
        token: &Secret,
        from: Option<Network>,
        fingerprint: [u8; 32],
    ) -> Result<VerifiedIdentity, AuthError> {
        let token = AccessTokenText::parse(token.reveal());
        let token = token.map_err(|error| AuthError::invalid(error.to_string()))?;
        let known = match self.access_tokens.cached(&token.id) {
            Some(known) => known,
            None => {
                self.login_throttle.check(from, UNKNOWN_TOKENS)?;
                self.access_tokens
                    .get(&token.id)
                    .await
                    .map_err(|error| AuthError::unavailable(&error))?
            }
        };
        let invalid = |why: &str| AuthError::invalid(why);
        let Some(access_token) =
            known.access_token.filter(|access_token| access_token.is_token(&token))
        else {
            let failed = FailedLogin { fingerprint, generation: 0 };
            self.login_throttle.count(from, UNKNOWN_TOKENS, failed);
            return Err(invalid("unknown access token"));
        };
        if !access_token.is_valid(self.clock.now()) {
            return Err(invalid("the access token has expired or was revoked"));
        }
        let identity = access_token.identity(&token.id);
        let expires = access_token.expires.and_then(moment);
        let principal = Principal {
            grants: PrincipalGrants::AccessToken(access_token),
            ..Principal::from_identity(identity)
        };
        Ok(VerifiedIdentity { principal, until: known.until, expires })
    }

    async fn of_token(&self, token: &Secret) -> Result<VerifiedIdentity, AuthError> {
        let parsed = UnverifiedToken::parse(token.reveal());
        let parsed = parsed.map_err(|error| AuthError::invalid(error.to_string()))?;
        if self.signing_keys.is_none() || parsed.issuer().is_none_or(|issuer| issuer != OURSELVES) {
            return self.of_issuer(token).await;
        }
        let claims = self.own_claims(&parsed, TokenKind::Access).await?;
        let scope = TokenScope::of_entries(&claims.access);
        let expires = moment(claims.exp);
        let found = self.current_identity(claims).await?;
        let principal = Principal { scope: Some(scope), ..found.principal };
        Ok(VerifiedIdentity { principal, expires, ..found })
    }

    /// The verified claims of one of this registry's own tokens.
    pub(super) async fn own_claims(
        &self,
        token: &UnverifiedToken<'_>,
        kind: TokenKind,
    ) -> Result<TokenClaims, AuthError> {
        let Some(signing_keys) = &self.signing_keys else {
            return Err(AuthError::invalid("no tokens are issued here"));
        };
        let keys =
            signing_keys.with(token.kid()).await.map_err(|error| AuthError::unavailable(&error))?;
        let claims = keys.verify(token, kind, &self.service, self.clock.now());
        claims.map_err(|error| AuthError::invalid(error.to_string()))
    }

    /// The principal of an own token as of now: whether its user or access token is still allowed.
    pub(super) async fn current_identity(
        &self,
        claims: TokenClaims,
    ) -> Result<VerifiedIdentity, AuthError> {
        let not_allowed =
            || AuthError::invalid("the identity of the token is not allowed any more");
        let until = self.trusted_until();
        let Some(named) = claims.identity else {
            let principal = Principal { shown: true, ..Principal::anonymous() };
            return Ok(VerifiedIdentity { principal, until, expires: None });
        };
        let NamedIdentity { source, name, .. } = &named;
        let mut found =
            VerifiedIdentity { principal: Principal::anonymous(), until, expires: None };
        match source {
            // No token has it.
            IdentitySource::Operator => return Err(not_allowed()),
            IdentitySource::Htpasswd => {
                if !self.is_current_password(name, claims.password.as_deref()) {
                    return Err(not_allowed());
                }
            }
            IdentitySource::AccessToken(id) => {
                let id = id.parse().map_err(|_| not_allowed())?;
                let known = self
                    .access_tokens
                    .get(&id)
                    .await
                    .map_err(|error| AuthError::unavailable(&error))?;
                let is_same = |access_token: &AccessToken| {
                    access_token.identity(&id).name() == Some(name.as_str())
                };
                let access_token = known
                    .access_token
                    .filter(|access_token| access_token.is_valid(self.clock.now()));
                let access_token = access_token.filter(|access_token| is_same(access_token));
                found.principal.grants =
                    PrincipalGrants::AccessToken(access_token.ok_or_else(not_allowed)?);
                found.until = known.until;
            }
            IdentitySource::Issuer(issuer) => {
                let policy = self.policy();
                // The claims of a login are those that the policy tested at that time.
                let is_complete = claims.session_ms.is_none()
                    || claims.decisive == Some(policy.decisive_claims());
                if !is_complete || !policy.issuers().iter().any(|of| of.name() == issuer) {
                    return Err(not_allowed());
                }
            }
            IdentitySource::Certificate => {}
        }
        if let Some(auth_time_ms) = claims.session_ms {
            let until = self.session_until(name, auth_time_ms).await?;
            found.until = found.until.min(until.ok_or_else(not_allowed)?);
        }
        let (password, session_ms, decisive) =
            (claims.password, claims.session_ms, claims.decisive);
        let identity = Identity::Named(Box::new(named));
        found.principal =
            Principal { identity, shown: true, password, session_ms, decisive, ..found.principal };
        Ok(found)
    }

    /// Whether a user has the password with this fingerprint.
    pub(super) fn is_current_password(&self, user: &str, fingerprint: Option<&str>) -> bool {
        let users = self.users.as_ref().map(ReloadedFiles::get).unwrap_or_default();
        let now = users.get(user).map(jreg_auth::HtpasswdEntry::fingerprint);
        now.is_some() && now.as_deref() == fingerprint
    }

    async fn of_issuer(&self, token: &Secret) -> Result<VerifiedIdentity, AuthError> {
        let parsed = UnverifiedToken::parse(token.reveal());
        let parsed = parsed.map_err(|error| AuthError::invalid(error.to_string()))?;
        let policy = self.policy();
        let issuer = policy.issuers().iter().find(|issuer| issuer.is_issuer_of(&parsed));
        let issuer =
            issuer.ok_or_else(|| AuthError::invalid("the token's issuer is not trusted"))?;
        let verify = |keys: &_| issuer.verify(&parsed, keys, self.clock.now());
        let verified = self.issuer_keys.verified(issuer, &parsed, verify).await;
        let verified = verified.map_err(|error| AuthError::unavailable(&error))?;
        let (identity, access, until) =
            verified.map_err(|error| AuthError::invalid(error.to_string()))?;
        let grants = access.map_or(PrincipalGrants::Nothing, PrincipalGrants::Access);
        let principal = Principal { grants, ..Principal::from_identity(identity) };
        let expires = moment(until);
        Ok(VerifiedIdentity { principal, until: self.trusted_until(), expires })
    }

    fn trusted_until(&self) -> Duration {
        self.clock.monotonic() + TRUST_MAX
    }
}

fn users(options: &AccessGuardOptions) -> Result<Option<ReloadedFiles<Htpasswd>>, FileError> {
    let parse = |text: &str| Htpasswd::parse(text).map_err(|error| error.to_string());
    let open = |path: &PathBuf| ReloadedFiles::open(path, jreg_auth::FILE_BYTES_MAX, parse);
    options.htpasswd.as_ref().map(open).transpose()
}

fn policy(options: &AccessGuardOptions) -> Result<PolicySource, FileError> {
    let (anonymous, admins) = (options.anonymous_pull, options.admins.clone());
    let completed = move |policy: Policy| match anonymous {
        true => policy.with_anonymous_pull().with_admins(&admins),
        false => policy.with_admins(&admins),
    };
    let Some(path) = &options.policy else {
        return Ok(PolicySource::Fixed(Arc::new(completed(Policy::of_users()))));
    };
    let parse =
        move |text: &str| Policy::parse(text).map(&completed).map_err(|error| error.to_string());
    Ok(PolicySource::File(ReloadedFiles::open(path, jreg_auth::POLICY_BYTES_MAX, parse)?))
}

/// A point in time; `None`: beyond the representable range.
pub(super) fn moment(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

fn wrong_password() -> AuthError {
    AuthError::invalid("unknown user or wrong password")
}

fn outcome(found: &Result<VerifiedIdentity, AuthError>) -> &'static str {
    match found {
        Ok(_) => "ok",
        Err(AuthError::Busy) => "busy",
        Err(AuthError::Throttled { .. }) => "throttled",
        Err(AuthError::Unavailable { .. }) => "unavailable",
        Err(
            AuthError::Invalid { .. }
            | AuthError::Unauthenticated { .. }
            | AuthError::Forbidden { .. }
            | AuthError::Hidden { .. }
            | AuthError::ScopeNotGranted,
        ) => "refused",
    }
}

impl AccessGuard {
    /// Whether the principal may get own tokens: a token of an external token service is used
    /// directly.
    pub(super) fn is_exchangeable(principal: &Principal) -> bool {
        !matches!(principal.grants, PrincipalGrants::Access(_))
    }

    /// Whether an issuer of the policy is an external token service, whose tokens carry their own
    /// grants.
    pub fn trusts_access_tokens(&self) -> bool {
        self.policy().issuers().iter().any(|issuer| issuer.access() == IssuerAccess::Claim)
    }
}
