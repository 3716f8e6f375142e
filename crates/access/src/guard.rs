//! [`Guard`]: finds out who asks, and what the policy says of it.

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use http::header;
use jreg_auth::{
    AccessAction, AccessToken, AccessTokenText, CONDITIONS_EVALUATED_MAX, CredentialGrants,
    Credentials, DecisionReason, Fingerprints, Htpasswd, Identity, IdentitySource, IssuerAccess,
    NamedIdentity, Network, Policy, PolicyDecision, PolicyEvaluation, PolicyQuery, QueryTag,
    Secret, TokenClaims, TokenKind, TokenScope, UnverifiedToken,
};
use jreg_oci::{RepositoryName, Tag};
use jreg_reload::{FileError, ReloadOutcome, ReloadedFiles};
use jreg_storage::{Clock, Store, error_chain};
use jreg_telemetry::metrics::Metrics;

use super::access_tokens::AccessTokenStore;
use super::challenge::{Scheme, TokenFault};
use super::credential_cache::{CachedCredentials, CredentialCache, TRUST_MAX};
use super::cursor::CatalogCursors;
use super::failures::{Early, Failures, Guess};
use super::hasher::PasswordHasher;
use super::issuers::{Fetch, Issuers};
use super::signing::{Signing, SigningError};
use super::{
    Asker, AuthContext, AuthError, Authorizer, Bearer, Credentialed, OwnGrants, RefusedAccess,
    Right,
};

/// How often the files are looked at.
pub const RELOAD_INTERVAL: Duration = Duration::from_secs(2);
/// How many decisions of a listing are made before others get a turn.
const DECISIONS_PER_TURN: usize = 8;
/// What stands for the name in the count of invented access tokens. No user can have it.
const UNKNOWN_TOKENS: &str = "\0access token";
/// The issuer of our own tokens.
const OURSELVES: &str = "jreg";

/// What an operator can set about authentication and authorization.
#[derive(Clone, Debug)]
pub struct GuardOptions {
    /// The file of users and their passwords.
    pub htpasswd: Option<PathBuf>,
    /// The file of rules.
    pub policy: Option<PathBuf>,
    /// Whether anonymous clients may pull.
    pub anonymous_pull: bool,
    /// Whether clients log in for tokens.
    pub token_service: bool,
    /// The token service, if it is another one.
    pub token_realm: Option<String>,
    /// The name of this registry in tokens.
    pub token_audience: String,
    /// How long a token is good.
    pub token_lifetime: Duration,
    /// How long a refresh token is.
    pub refresh_lifetime: Duration,
    /// How often there is another key for tokens.
    pub key_rotation: Duration,
    /// The address by which clients reach the registry.
    pub public_url: Option<String>,
    /// How many logins may fail before the next are delayed.
    pub login_failures_free: u32,
    /// The longest delay.
    pub login_delay_max: Duration,
}

/// Who keeps a registry whose clients are asked who they are.
#[derive(Debug)]
pub struct Guard {
    pub(super) scheme: Scheme,
    pub(super) service: String,
    pub(super) lifetime: Duration,
    pub(super) refresh_lifetime: Duration,
    users: Option<ReloadedFiles<Htpasswd>>,
    policy: PolicySource,
    access_tokens: Arc<AccessTokenStore>,
    pub(super) signing: Option<Arc<Signing>>,
    cursors: CatalogCursors,
    issuers: Issuers,
    credentials: CredentialCache,
    hasher: PasswordHasher,
    failures: Failures,
    pub(super) clock: Arc<dyn Clock>,
    pub(super) metrics: Arc<Metrics>,
}

#[derive(Debug)]
enum PolicySource {
    File(ReloadedFiles<Policy>),
    Fixed(Arc<Policy>),
}

/// Why there can be no guard.
#[derive(Debug, thiserror::Error)]
pub enum GuardError {
    /// A file cannot be used.
    #[error(transparent)]
    File(#[from] FileError),
    /// The keys for tokens cannot be read or made.
    #[error("cannot read the token signing keys from the store")]
    Signing(#[from] SigningError),
    /// The operating system gives no random numbers.
    #[error("the operating system provides no random numbers")]
    Random,
    /// Nothing could be fetched.
    #[error("cannot set up the HTTP client for the keys of issuers")]
    Fetch(#[from] super::FetchError),
    /// A task ended.
    #[error("cannot read the files")]
    Task(#[source] io::Error),
}

/// What credentials turned out to be, and how long that is good.
#[derive(Clone, Debug)]
pub(super) struct VerifiedIdentity {
    pub(super) bearer: Bearer,
    pub(super) until: Duration,
    pub(super) expires: Option<SystemTime>,
}

impl From<Early> for AuthError {
    fn from(early: Early) -> Self {
        Self::Throttled { wait: early.wait }
    }
}

impl Guard {
    /// A guard as the options say, with what is kept in `store`.
    ///
    /// # Errors
    ///
    /// [`GuardError`].
    pub async fn open(
        options: GuardOptions,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        metrics: Arc<Metrics>,
        fetch: Arc<dyn Fetch>,
        access_tokens: Arc<AccessTokenStore>,
    ) -> Result<Self, GuardError> {
        let files = options.clone();
        let opening = tokio::task::spawn_blocking(move || (users(&files), policy(&files)));
        let (users, policy) = opening.await.map_err(|error| GuardError::Task(error.into()))?;
        let issues = options.token_service && options.token_realm.is_none();
        let lifetime = options.token_lifetime.max(options.refresh_lifetime);
        let signing = match issues {
            true => {
                let (store, clock) = (Arc::clone(&store), Arc::clone(&clock));
                Some(Arc::new(Signing::open(store, clock, options.key_rotation, lifetime).await?))
            }
            false => None,
        };
        let cursors = CatalogCursors::new(
            signing.clone(),
            Arc::clone(&store),
            Arc::clone(&clock),
            options.key_rotation,
            lifetime,
        );
        Ok(Self {
            cursors,
            scheme: scheme(&options),
            service: options.token_audience.clone(),
            lifetime: options.token_lifetime,
            refresh_lifetime: options.refresh_lifetime,
            users: users?,
            policy: policy?,
            access_tokens,
            signing,
            issuers: Issuers::new(fetch, Arc::clone(&clock), Arc::clone(&metrics)),
            credentials: CredentialCache::new(Fingerprints::new().ok_or(GuardError::Random)?),
            hasher: PasswordHasher::new(),
            failures: Failures::new(
                options.login_failures_free,
                options.login_delay_max,
                Arc::clone(&clock),
            ),
            clock,
            metrics,
        })
    }

    /// Looks whether the files have changed. Blocks as a disk does.
    pub fn reload(&self) {
        if let Some(users) = &self.users {
            self.count_reload("htpasswd", users.reload());
        }
        if let PolicySource::File(policy) = &self.policy {
            self.count_reload("policy", policy.reload());
        }
    }

    fn count_reload(&self, file: &'static str, reload: ReloadOutcome) {
        match reload {
            ReloadOutcome::Unchanged => {}
            ReloadOutcome::Done => self.metrics.count_auth_reload(file, "ok"),
            ReloadOutcome::Failed => self.metrics.count_auth_reload(file, "failed"),
        }
    }

    /// Reads the keys for tokens and cursors of the catalog again, and replaces the one that signs if
    /// it is time.
    pub async fn refresh_keys(&self) {
        // The token service and the cursors have the same keys.
        if let Err(error) = self.cursors.refresh_keys().await {
            let error = error_chain(&error);
            tracing::warn!(error, "cannot read the token signing keys; retrying later");
        }
    }

    /// How many times a password was compared with a hash.
    pub fn compared(&self) -> u64 {
        self.hasher.compared()
    }

    /// How the time for hashing passwords is used.
    pub fn hashing(&self) -> jreg_registry::BudgetUsage {
        self.hasher.usage()
    }

    /// The policy that holds now.
    pub(super) fn policy(&self) -> Arc<Policy> {
        match &self.policy {
            PolicySource::File(policy) => policy.get(),
            PolicySource::Fixed(policy) => Arc::clone(policy),
        }
    }

    /// Counts the changes of the files together.
    fn generation(&self) -> u64 {
        let users = self.users.as_ref().map_or(0, ReloadedFiles::generation);
        let policy = match &self.policy {
            PolicySource::File(policy) => policy.generation(),
            PolicySource::Fixed(_) => 0,
        };
        users.wrapping_add(policy)
    }

    /// What a header says.
    async fn verified(
        &self,
        header: &[u8],
        from: Option<Network>,
    ) -> Result<Arc<Bearer>, AuthError> {
        let credentials = Credentials::parse(header);
        let credentials = credentials.map_err(|error| {
            self.metrics.count_auth("none", "malformed");
            AuthError::invalid(error.to_string())
        })?;
        self.recognise(&credentials, from).await.map(|remembered| remembered.bearer)
    }

    /// Whose credentials these are, from memory if that was found out a moment ago. Who asks from
    /// where too many guesses came has to wait.
    pub(super) async fn recognise(
        &self,
        credentials: &Credentials,
        from: Option<Network>,
    ) -> Result<CachedCredentials, AuthError> {
        let found = self.recognise_in_time(credentials, from).await;
        if matches!(found, Err(AuthError::Throttled { .. })) {
            self.metrics.count_auth(kind_of(credentials), "throttled");
        }
        found
    }

    async fn recognise_in_time(
        &self,
        credentials: &Credentials,
        from: Option<Network>,
    ) -> Result<CachedCredentials, AuthError> {
        let guessed = guessed_name(credentials, &self.policy());
        if let Some(name) = guessed {
            self.failures.check(from, name)?;
        }
        let fingerprint = self.credentials.fingerprint(credentials);
        let remembered = || {
            let (monotonic, now) = (self.clock.monotonic(), self.clock.now());
            self.credentials.get(&fingerprint, self.generation(), monotonic, now)
        };
        if let Some(remembered) = remembered() {
            self.metrics.count_auth(kind_of(credentials), "cached");
            return Ok(remembered);
        }
        // Before the files are looked into: what changes meanwhile is not missed.
        let generation = self.generation();
        let attempt = match guessed {
            Some(name) => {
                self.failures.begin(from, name, Guess { fingerprint, generation }).await?
            }
            None => None,
        };
        if let Some(attempt) = attempt.as_ref()
            && attempt.is_known_to_fail()
        {
            self.metrics.count_auth(kind_of(credentials), "refused");
            return Err(wrong_password());
        }
        let known = || remembered().is_some();
        let found = self.find(credentials, from, fingerprint, known).await;
        match (attempt, &found) {
            (Some(attempt), Ok(_)) => attempt.succeeded(),
            (Some(attempt), Err(AuthError::Busy | AuthError::Unavailable { .. })) => {
                attempt.given_up()
            }
            (attempt, _) => drop(attempt),
        }
        let found = found?;
        if let Some(remembered) = remembered() {
            return Ok(remembered);
        }
        let VerifiedIdentity { bearer, until, expires } = found;
        let remembered = CachedCredentials { bearer: Arc::new(bearer), generation, until, expires };
        self.credentials.remember(fingerprint, remembered.clone());
        Ok(remembered)
    }

    /// Finds out whose credentials these are.
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
        let verified = self.hasher.verify(comparison, password.clone(), known).await;
        if !verified.map_err(|_| AuthError::Busy)? {
            return Err(wrong_password());
        }
        let identity = Identity::named(user, IdentitySource::Htpasswd);
        let bearer = Bearer { password: password_fingerprint, ..Bearer::of(identity) };
        Ok(VerifiedIdentity { bearer, until: self.trusted_until(), expires: None })
    }

    /// The identity of an access token. One that is not remembered costs a read of the store, so
    /// clients that invent them are throttled; those that are remembered are not.
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
                self.failures.check(from, UNKNOWN_TOKENS)?;
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
            let guess = Guess { fingerprint, generation: 0 };
            self.failures.count(from, UNKNOWN_TOKENS, guess);
            return Err(invalid("unknown access token"));
        };
        if !access_token.is_valid(self.clock.now()) {
            return Err(invalid("the access token has expired or was revoked"));
        }
        let identity = access_token.identity(&token.id);
        let expires = access_token.expires.and_then(moment);
        let bearer =
            Bearer { grants: OwnGrants::AccessToken(access_token), ..Bearer::of(identity) };
        Ok(VerifiedIdentity { bearer, until: known.until, expires })
    }

    async fn of_token(&self, token: &Secret) -> Result<VerifiedIdentity, AuthError> {
        let parsed = UnverifiedToken::parse(token.reveal());
        let parsed = parsed.map_err(|error| AuthError::invalid(error.to_string()))?;
        if self.signing.is_none() || parsed.issuer().is_none_or(|issuer| issuer != OURSELVES) {
            return self.of_issuer(token).await;
        }
        let claims = self.own_claims(&parsed, TokenKind::Access).await?;
        let scope = TokenScope::of_entries(&claims.access);
        let expires = moment(claims.exp);
        let found = self.standing(claims).await?;
        let bearer = Bearer { scope: Some(scope), ..found.bearer };
        Ok(VerifiedIdentity { bearer, expires, ..found })
    }

    /// What a token of ours says.
    pub(super) async fn own_claims(
        &self,
        token: &UnverifiedToken<'_>,
        kind: TokenKind,
    ) -> Result<TokenClaims, AuthError> {
        let Some(signing) = &self.signing else {
            return Err(AuthError::invalid("no tokens are issued here"));
        };
        let keys =
            signing.with(token.kid()).await.map_err(|error| AuthError::unavailable(&error))?;
        let claims = keys.verify(token, kind, &self.service, self.clock.now());
        claims.map_err(|error| AuthError::invalid(error.to_string()))
    }

    /// Whether whoever got a token of ours would still be let in.
    pub(super) async fn standing(
        &self,
        claims: TokenClaims,
    ) -> Result<VerifiedIdentity, AuthError> {
        let gone = || AuthError::invalid("the identity of the token is not allowed any more");
        let until = self.trusted_until();
        let Some(named) = claims.identity else {
            let bearer = Bearer { shown: true, ..Bearer::nobody() };
            return Ok(VerifiedIdentity { bearer, until, expires: None });
        };
        let NamedIdentity { source, name, .. } = &named;
        let mut found = VerifiedIdentity { bearer: Bearer::nobody(), until, expires: None };
        match source {
            IdentitySource::Htpasswd => {
                let users = self.users.as_ref().map(ReloadedFiles::get).unwrap_or_default();
                let now = users.get(name).map(jreg_auth::HtpasswdEntry::fingerprint);
                if now.is_none() || now != claims.password {
                    return Err(gone());
                }
            }
            IdentitySource::AccessToken(id) => {
                let id = id.parse().map_err(|_| gone())?;
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
                found.bearer.grants = OwnGrants::AccessToken(access_token.ok_or_else(gone)?);
                found.until = known.until;
            }
            IdentitySource::Issuer(issuer) => {
                if !self.policy().issuers().iter().any(|of| of.name() == issuer) {
                    return Err(gone());
                }
            }
            IdentitySource::Certificate => {}
        }
        let password = claims.password;
        let identity = Identity::Named(Box::new(named));
        found.bearer = Bearer { identity, shown: true, password, ..found.bearer };
        Ok(found)
    }

    async fn of_issuer(&self, token: &Secret) -> Result<VerifiedIdentity, AuthError> {
        let parsed = UnverifiedToken::parse(token.reveal());
        let parsed = parsed.map_err(|error| AuthError::invalid(error.to_string()))?;
        let policy = self.policy();
        let issuer = policy.issuers().iter().find(|issuer| issuer.is_issuer_of(&parsed));
        let issuer =
            issuer.ok_or_else(|| AuthError::invalid("the token's issuer is not trusted"))?;
        let keys = self
            .issuers
            .keys(issuer, &parsed)
            .await
            .map_err(|error| AuthError::unavailable(&error))?;
        let verified = issuer.verify(&parsed, &keys, self.clock.now());
        let (identity, access, until) =
            verified.map_err(|error| AuthError::invalid(error.to_string()))?;
        let grants = access.map_or(OwnGrants::Nothing, OwnGrants::Access);
        let bearer = Bearer { grants, ..Bearer::of(identity) };
        let expires = moment(until);
        Ok(VerifiedIdentity { bearer, until: self.trusted_until(), expires })
    }

    fn trusted_until(&self) -> Duration {
        self.clock.monotonic() + TRUST_MAX
    }

    /// What the policy is asked of somebody.
    fn query<'a>(
        &self,
        auth: &'a AuthContext,
        action: AccessAction,
        repository: Option<&'a RepositoryName>,
        tag: QueryTag<'a>,
    ) -> PolicyQuery<'a> {
        let AuthContext { bearer, asker } = auth;
        PolicyQuery {
            identity: &bearer.identity,
            certificate: asker.certificate.as_deref(),
            action,
            repository,
            tag,
            address: asker.peer.map(|peer| peer.ip().to_canonical()),
            now: self.clock.now(),
        }
    }

    /// What a policy says of somebody, with what their credentials grant.
    fn evaluation<'a>(&self, policy: &'a Policy, auth: &'a AuthContext) -> PolicyEvaluation<'a> {
        let grants = match &auth.bearer.grants {
            OwnGrants::Nothing => CredentialGrants::None,
            OwnGrants::AccessToken(access_token) => CredentialGrants::AccessToken(access_token),
            OwnGrants::Access(scope) => CredentialGrants::Access(scope),
        };
        let query = self.query(auth, AccessAction::Pull, None, QueryTag::No);
        PolicyEvaluation::new(policy, query, grants)
    }

    fn decide(
        &self,
        auth: &AuthContext,
        action: AccessAction,
        repository: Option<&RepositoryName>,
        tag: QueryTag<'_>,
    ) -> PolicyDecision {
        self.evaluation(&self.policy(), auth).decide(action, repository, tag)
    }

    /// The same for every tag that the request names: all must be allowed.
    fn decide_all(
        &self,
        auth: &AuthContext,
        action: AccessAction,
        repository: Option<&RepositoryName>,
    ) -> PolicyDecision {
        let policy = self.policy();
        let mut evaluation = self.evaluation(&policy, auth);
        let mut last = None;
        for tag in &auth.asker.tags {
            let decision = evaluation.decide(action, repository, QueryTag::Is(tag.as_str()));
            if !decision.allowed {
                return decision;
            }
            last = Some(decision);
        }
        last.unwrap_or_else(|| evaluation.decide(action, repository, QueryTag::No))
    }

    /// What of a scope the policy allows, whatever the tags. Others get a turn between any two
    /// decisions.
    pub(super) async fn narrowed(&self, auth: &AuthContext, scope: &TokenScope) -> TokenScope {
        let policy = self.policy();
        let mut evaluation = self.evaluation(&policy, auth);
        let mut narrow = TokenScope::default();
        for (action, repository) in scope.wanted() {
            if evaluation.allows(action, repository, QueryTag::Unknown) {
                narrow.grant(action, repository);
            }
            tokio::task::yield_now().await;
        }
        narrow
    }

    fn deny(&self, auth: &AuthContext, right: &Right, reason: &DecisionReason) -> AuthError {
        let reason = reason.to_string();
        let Bearer { identity, shown, .. } = &*auth.bearer;
        if *identity == Identity::Anonymous {
            let (fault, by) = match shown {
                true => (TokenFault::Scope, Credentialed::as_identity(identity)),
                false => (TokenFault::Missing, Credentialed::No),
            };
            return self.challenged(&auth.asker, right, fault, by, reason);
        }
        let access = RefusedAccess::new(Credentialed::as_identity(identity), right);
        match right {
            Right::Pull(name) | Right::See(name) | Right::Mount(name) => {
                AuthError::Hidden { name: name.clone(), access, reason }
            }
            Right::Enter | Right::List | Right::Push(_) | Right::Delete(_) => {
                AuthError::Forbidden { access, reason }
            }
        }
    }

    /// Asks for credentials, or for others.
    fn challenged(
        &self,
        asker: &Asker,
        right: &Right,
        fault: TokenFault,
        by: Credentialed,
        reason: String,
    ) -> AuthError {
        let access = RefusedAccess::new(by, right);
        let challenge = self.scheme.challenge(asker, right, fault, &access.to_string());
        AuthError::Unauthenticated { challenge: Some(challenge), access, reason }
    }
}

#[async_trait]
impl Authorizer for Guard {
    async fn identify(&self, asker: Asker, right: &Right) -> Result<AuthContext, AuthError> {
        let mut headers = asker.headers.get_all(header::AUTHORIZATION).iter();
        let verified = match (headers.next(), headers.next()) {
            (None, _) => {
                let identity = asker.certificate.as_ref().and_then(|of| of.identity());
                Ok(Arc::new(identity.map_or_else(Bearer::nobody, Bearer::of)))
            }
            (Some(header), None) => self.verified(header.as_bytes(), asker.network()).await,
            (Some(_), Some(_)) => {
                Err(AuthError::invalid("there are several Authorization headers"))
            }
        };
        match verified.and_then(|bearer| with_certificate(bearer, &asker)) {
            Ok(bearer) => Ok(AuthContext::new(bearer, asker)),
            Err(error) => Err(error.needed_for(|reason| {
                let (fault, by) = (TokenFault::Invalid, Credentialed::Invalid);
                self.challenged(&asker, right, fault, by, reason)
            })),
        }
    }

    async fn catalog_cursor(&self, name: &RepositoryName) -> Result<String, AuthError> {
        self.cursors.encrypt(name).await
    }

    async fn catalog_place(&self, cursor: &str) -> Result<Option<RepositoryName>, AuthError> {
        self.cursors.decrypt(cursor).await
    }

    fn grant(&self, auth: &AuthContext, right: &Right) -> Result<DecisionReason, AuthError> {
        let Some((action, name)) = action_of(right) else {
            // Even where anybody may pull: clients learn only here that they can log in.
            return match auth.bearer.shown {
                true => Ok(DecisionReason::Credentials("credentials were shown".to_owned())),
                false => Err(self.deny(auth, right, &DecisionReason::NoRule)),
            };
        };
        let decision = match right {
            // The tags of the request are not about another repository.
            Right::See(_) | Right::Mount(_) => self.decide(auth, action, name, QueryTag::No),
            _ => self.decide_all(auth, action, name),
        };
        self.settle(auth, right, decision)
    }

    fn grant_tag(
        &self,
        auth: &AuthContext,
        right: &Right,
        tag: &Tag,
    ) -> Result<DecisionReason, AuthError> {
        let Some((action, name)) = action_of(right) else { return self.grant(auth, right) };
        let decision = self.decide(auth, action, name, QueryTag::Is(tag.as_str()));
        self.settle(auth, right, decision)
    }

    async fn denied_tags(
        &self,
        auth: &AuthContext,
        right: &Right,
        tags: Vec<Tag>,
    ) -> Option<Vec<Tag>> {
        let (Some((action, name)), true) = (action_of(right), is_within_scope(auth, right)) else {
            return Some(tags);
        };
        let policy = self.policy();
        let mut evaluation = self.evaluation(&policy, auth);
        let mut allowed = Vec::with_capacity(tags.len());
        for (index, tag) in tags.iter().enumerate() {
            allowed.push(evaluation.allows(action, name, QueryTag::Is(tag.as_str())));
            if evaluation.evaluated() >= CONDITIONS_EVALUATED_MAX {
                return None;
            }
            if index % DECISIONS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        Some(tags.into_iter().zip(allowed).filter_map(|(tag, may)| (!may).then_some(tag)).collect())
    }

    async fn visible(&self, auth: &AuthContext, names: Vec<RepositoryName>) -> Vec<RepositoryName> {
        // A token for the catalog shows whatever its holder may pull.
        let scope = auth.bearer.scope.as_ref();
        if scope.is_some_and(|scope| !scope.allows(AccessAction::List, None)) {
            return Vec::new();
        }
        let policy = self.policy();
        let mut evaluation = self.evaluation(&policy, auth);
        let mut visible = Vec::with_capacity(names.len());
        for (index, name) in names.iter().enumerate() {
            evaluation.renew_budget();
            visible.push(evaluation.allows(AccessAction::Pull, Some(name), QueryTag::No));
            if index % DECISIONS_PER_TURN == 0 {
                tokio::task::yield_now().await;
            }
        }
        names.into_iter().zip(visible).filter_map(|(name, seen)| seen.then_some(name)).collect()
    }

    fn depends_on_tag(&self, auth: &AuthContext, right: &Right) -> bool {
        action_of(right).is_some_and(|(action, name)| {
            self.policy().depends_on_tag(&self.query(auth, action, name, QueryTag::No))
        })
    }
}

impl Guard {
    /// What a decision of the policy comes to with what the credentials are narrowed to.
    fn settle(
        &self,
        auth: &AuthContext,
        right: &Right,
        decision: PolicyDecision,
    ) -> Result<DecisionReason, AuthError> {
        if !decision.allowed {
            return Err(self.deny(auth, right, &decision.reason));
        }
        if is_within_scope(auth, right) {
            return Ok(decision.reason);
        }
        let by = Credentialed::Narrowed(auth.bearer.identity.to_string());
        let reason = DecisionReason::TokenScope.to_string();
        Err(self.challenged(&auth.asker, right, TokenFault::Scope, by, reason))
    }
}

/// Whether what the credentials are narrowed to has a right.
fn is_within_scope(auth: &AuthContext, right: &Right) -> bool {
    match (&auth.bearer.scope, right) {
        (None, _) => true,
        // A token for the catalog shows whatever its holder may pull.
        (Some(scope), Right::See(_)) => scope.allows(AccessAction::List, None),
        (Some(scope), _) => {
            action_of(right).is_some_and(|(action, name)| scope.allows(action, name))
        }
    }
}

/// What a right is in the words of the policy; `None`: to enter, for which no rule is asked.
fn action_of(right: &Right) -> Option<(AccessAction, Option<&RepositoryName>)> {
    match right {
        Right::Enter => None,
        Right::List => Some((AccessAction::List, None)),
        Right::See(name) | Right::Pull(name) => Some((AccessAction::Pull, Some(name))),
        Right::Mount(name) => Some((AccessAction::Mount, Some(name))),
        Right::Push(name) => Some((AccessAction::Push, Some(name))),
        Right::Delete(name) => Some((AccessAction::Delete, Some(name))),
    }
}

fn users(options: &GuardOptions) -> Result<Option<ReloadedFiles<Htpasswd>>, FileError> {
    let parse = |text: &str| Htpasswd::parse(text).map_err(|error| error.to_string());
    let open = |path: &PathBuf| ReloadedFiles::open(path, jreg_auth::FILE_BYTES_MAX, parse);
    options.htpasswd.as_ref().map(open).transpose()
}

fn policy(options: &GuardOptions) -> Result<PolicySource, FileError> {
    let anonymous = options.anonymous_pull;
    let completed = move |policy: Policy| match anonymous {
        true => policy.with_anonymous_pull(),
        false => policy,
    };
    let Some(path) = &options.policy else {
        return Ok(PolicySource::Fixed(Arc::new(completed(Policy::of_users()))));
    };
    let parse =
        move |text: &str| Policy::parse(text).map(completed).map_err(|error| error.to_string());
    Ok(PolicySource::File(ReloadedFiles::open(path, jreg_auth::POLICY_BYTES_MAX, parse)?))
}

fn scheme(options: &GuardOptions) -> Scheme {
    let service = options.token_audience.clone();
    let own = options.public_url.as_ref().map(|url| format!("{url}/token"));
    match &options.token_realm {
        Some(realm) => Scheme::Bearer { realm: Some(realm.clone()), service },
        None if options.token_service => Scheme::Bearer { realm: own, service },
        None => Scheme::Basic,
    }
}

/// A moment; `None`: so late that nothing reaches it.
fn moment(seconds: u64) -> Option<SystemTime> {
    SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(seconds))
}

/// A token that was issued for a client certificate is good only on connections with one of the same
/// name, whatever the rules are about.
fn with_certificate(bearer: Arc<Bearer>, asker: &Asker) -> Result<Arc<Bearer>, AuthError> {
    let is_certificates = matches!(&bearer.identity,
        Identity::Named(named) if named.source == IdentitySource::Certificate);
    let shown = asker.certificate.as_ref().and_then(|of| of.identity());
    if is_certificates && shown.as_ref().and_then(Identity::name) != bearer.identity.name() {
        let reason = "the token was issued for a client certificate that the connection lacks";
        return Err(AuthError::invalid(reason));
    }
    Ok(bearer)
}

fn wrong_password() -> AuthError {
    AuthError::invalid("unknown user or wrong password")
}

/// Three parts of base64url of which the first begins like a JSON object.
fn is_like_jwt(password: &str) -> bool {
    password.starts_with("eyJ") && password.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// The name whose password somebody may be guessing with these.
fn guessed_name<'a>(credentials: &'a Credentials, policy: &Policy) -> Option<&'a str> {
    match credentials {
        Credentials::Basic { user, password } => {
            let password = password.reveal();
            let is_token = AccessTokenText::is_like(password)
                || (is_like_jwt(password) && !policy.issuers().is_empty());
            (!is_token).then_some(user)
        }
        Credentials::Bearer(_) => None,
    }
}

/// What kind of credentials these are, for the metrics.
fn kind_of(credentials: &Credentials) -> &'static str {
    match credentials {
        Credentials::Basic { password: secret, .. } | Credentials::Bearer(secret)
            if AccessTokenText::is_like(secret.reveal()) =>
        {
            "access_token"
        }
        Credentials::Basic { password, .. } if is_like_jwt(password.reveal()) => "issuer_token",
        Credentials::Basic { .. } => "password",
        Credentials::Bearer(_) => "token",
    }
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

impl Guard {
    /// Whether tokens of another service are what grants; such are not exchanged for ours.
    pub(super) fn is_exchangeable(bearer: &Bearer) -> bool {
        !matches!(bearer.grants, OwnGrants::Access(_))
    }

    /// Whether an issuer of the policy has tokens that grant by themselves.
    pub fn believes_access(&self) -> bool {
        self.policy().issuers().iter().any(|issuer| issuer.access() == IssuerAccess::Claim)
    }
}
