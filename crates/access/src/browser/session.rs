//! Sessions: how they begin, are verified and renewed, and end.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_auth::{
    AccessTokenText, BrowserSession, Credentials, Identity, IdentitySource, NamedIdentity, Network,
    Secret, SessionUse, SignedSession, UnverifiedToken,
};

use super::login::LoginError;
use super::{
    LOGIN_TOKEN_LIFETIME_MAX, LoginChoice, PASSWORD_SESSION_MAX, PROVIDER_SESSION_MAX,
    SESSION_LIFETIME, SESSION_RENEWED_AFTER,
};
use crate::credential_kind::is_like_jwt;
use crate::guard::{AccessGuard, VerifiedIdentity, moment};
use crate::{AuthError, Principal};

/// The session of a request, which an [`AccessGuard`] has verified.
#[derive(Clone, Debug)]
pub struct VerifiedSession {
    session: BrowserSession,
    pub(crate) principal: Arc<Principal>,
}

/// What a cookie is worth.
#[derive(Clone, Debug)]
pub enum SessionState {
    Active {
        session: Box<VerifiedSession>,
        /// The cookie that replaces it, if it is due.
        renewed: Option<SessionCookie>,
    },
    /// This issuer has to authenticate the identity again.
    Stale { issuer: String },
    /// It is not valid, or not any more.
    Ended,
}

/// The value of a cookie, and how long the browser keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SessionCookie {
    pub value: Secret,
    pub lifetime: Duration,
}

/// A session that begins.
#[derive(Clone, Debug)]
pub struct NewSession {
    pub identity: Identity,
    pub cookie: SessionCookie,
}

/// A token for `docker login`.
#[derive(Clone, Debug)]
pub struct LoginToken {
    pub token: Secret,
    pub expires: SystemTime,
}

/// Why a session is not used.
enum Refusal {
    Ended,
    Stale(String),
}

impl VerifiedSession {
    /// The same for all requests of one login, and known to its browser alone.
    pub fn id(&self) -> &str {
        &self.session.id
    }

    pub fn identity(&self) -> &Identity {
        &self.principal.identity
    }

    /// When the identity was authenticated.
    pub fn auth_time(&self) -> SystemTime {
        self.session.auth_time()
    }
}

impl AccessGuard {
    /// Whether there are users who can log in with a password.
    pub fn has_users(&self) -> bool {
        self.users.is_some()
    }

    /// The providers that users can log in at: those that the policy trusts.
    pub fn login_choices(&self) -> Vec<LoginChoice> {
        let policy = self.policy();
        let is_trusted = |name: &str| policy.issuers().iter().any(|issuer| issuer.name() == name);
        let clients = self.browser.providers.iter().map(|provider| provider.client());
        let choice = |client: &jreg_auth::LoginClient| {
            let (issuer, label) = (client.issuer.clone(), client.label.clone());
            let url = self.browser.url(&issuer, "")?;
            Some(LoginChoice { issuer, label, url })
        };
        clients.filter(|client| is_trusted(&client.issuer)).filter_map(choice).collect()
    }

    /// Begins a session of a user of the htpasswd file, with the throttling of the API.
    ///
    /// # Errors
    ///
    /// [`AuthError`].
    pub async fn log_in(
        &self,
        user: &str,
        password: &str,
        from: Option<Network>,
    ) -> Result<NewSession, AuthError> {
        if AccessTokenText::is_like(password) || is_like_jwt(password) {
            return Err(AuthError::invalid("a token is no password for a login in a browser"));
        }
        let credentials = Credentials::basic(user, password);
        let credentials = credentials.map_err(|error| AuthError::invalid(error.to_string()))?;
        let found = self.authenticate(&credentials, from).await?;
        let principal = &found.principal;
        let Identity::Named(named) = &principal.identity else {
            return Err(AuthError::invalid("no identity"));
        };
        if named.source != IdentitySource::Htpasswd {
            return Err(AuthError::invalid("only users of the htpasswd file have passwords"));
        }
        let password = principal.password.clone();
        let begun = self.begin_session((**named).clone(), password, None).await;
        begun.map_err(|error| match error {
            LoginError::Auth(error) => error,
            other => AuthError::Unavailable { reason: other.to_string() },
        })
    }

    /// Begins a session, later than all sessions of the identity that were ended.
    pub(super) async fn begin_session(
        &self,
        identity: NamedIdentity,
        password: Option<String>,
        decisive: Option<String>,
    ) -> Result<NewSession, LoginError> {
        let now = self.clock.now();
        let ended = self.browser.sessions.current_end_of(&identity.name).await;
        let ended = ended.map_err(|error| AuthError::unavailable(&error))?;
        let no_random = || AuthError::Unavailable { reason: "no random numbers".to_owned() };
        let session = BrowserSession::new(identity, now).ok_or_else(no_random)?;
        let session = BrowserSession {
            // Another instance, whose clock is ahead, may have ended them.
            auth_time_ms: session.auth_time_ms.max(ended.not_before_ms.saturating_add(1)),
            password,
            decisive,
            ..session
        };
        let identity = Identity::Named(Box::new(session.identity.clone()));
        let value = self.sign_session(&session, SessionUse::Cookie, SESSION_LIFETIME).await?;
        Ok(NewSession { identity, cookie: SessionCookie { value, lifetime: SESSION_LIFETIME } })
    }

    async fn sign_session(
        &self,
        session: &BrowserSession,
        used: SessionUse,
        lifetime: Duration,
    ) -> Result<Secret, LoginError> {
        let (keys, now) = (self.browser.keys.keyring(None).await?, self.clock.now());
        let unusable = || AuthError::Unavailable { reason: "no signing key".to_owned() };
        let key = keys.signing_key(now).ok_or_else(unusable)?;
        let signed = key.sign_session(session, used, &self.service, now, lifetime)?;
        Ok(Secret::new(signed))
    }

    /// Verifies a cookie, and renews it if it is due.
    ///
    /// # Errors
    ///
    /// [`AuthError::Unavailable`] if that cannot be known now.
    pub async fn browser_session(&self, cookie: &str) -> Result<SessionState, AuthError> {
        let state = self.session_state(cookie).await;
        self.metrics.count_auth(
            "browser_session",
            match &state {
                Ok(SessionState::Active { .. }) => "ok",
                Ok(SessionState::Stale { .. } | SessionState::Ended) => "refused",
                Err(_) => "unavailable",
            },
        );
        state
    }

    async fn session_state(&self, cookie: &str) -> Result<SessionState, AuthError> {
        let Some(signed) = self.signed_session(cookie, SessionUse::Cookie).await? else {
            return Ok(SessionState::Ended);
        };
        let SignedSession { session, issued, .. } = signed;
        let now = self.clock.now();
        match self.check_session(&session).await? {
            Ok(_) => {}
            Err(Refusal::Ended) => return Ok(SessionState::Ended),
            Err(Refusal::Stale(issuer)) => return Ok(SessionState::Stale { issuer }),
        }
        let age_max = match session.issuer() {
            Some(_) => PROVIDER_SESSION_MAX,
            None => PASSWORD_SESSION_MAX,
        };
        let age = now.duration_since(session.auth_time()).unwrap_or_default();
        let left = age_max.saturating_sub(age);
        if left.is_zero() {
            return Ok(match session.issuer() {
                Some(issuer) => SessionState::Stale { issuer: issuer.to_owned() },
                None => SessionState::Ended,
            });
        }
        let is_due = moment(issued).is_none_or(|issued| issued + SESSION_RENEWED_AFTER <= now);
        let renewed = match is_due {
            false => None,
            true => {
                let lifetime = match session.issuer() {
                    // Longer than what is left: with it the browser goes back to the provider.
                    Some(_) => SESSION_LIFETIME,
                    None => SESSION_LIFETIME.min(left),
                };
                let value = self.sign_session(&session, SessionUse::Cookie, lifetime).await;
                // The claims are those of the cookie that it replaces, so it has room.
                value.ok().map(|value| SessionCookie { value, lifetime })
            }
        };
        let principal = Arc::new(principal_of(&session));
        let session = Box::new(VerifiedSession { session, principal });
        Ok(SessionState::Active { session, renewed })
    }

    /// The verified session of a token; `None`: it is none.
    async fn signed_session(
        &self,
        token: &str,
        used: SessionUse,
    ) -> Result<Option<SignedSession>, AuthError> {
        let Ok(parsed) = UnverifiedToken::parse(token) else { return Ok(None) };
        let keys = self.browser.keys.keyring(parsed.kid()).await?;
        Ok(keys.verify_session(&parsed, used, &self.service, self.clock.now()).ok())
    }

    /// Whether a session is valid as of now, and how long that may be relied on, in monotonic time.
    async fn check_session(
        &self,
        session: &BrowserSession,
    ) -> Result<Result<Duration, Refusal>, AuthError> {
        let ended = self.browser.sessions.end_of(&session.identity.name).await;
        let ended = ended.map_err(|error| AuthError::unavailable(&error))?;
        if session.auth_time_ms <= ended.not_before_ms {
            return Ok(Err(Refusal::Ended));
        }
        let is_valid = match &session.identity.source {
            IdentitySource::Htpasswd => {
                self.is_current_password(&session.identity.name, session.password.as_deref())
            }
            IdentitySource::Issuer(issuer) => {
                let policy = self.policy();
                let is_trusted = policy.issuers().iter().any(|of| of.name() == issuer)
                    && self.browser.provider(issuer).is_some();
                if is_trusted && session.decisive != Some(policy.decisive_claims()) {
                    return Ok(Err(Refusal::Stale(issuer.clone())));
                }
                is_trusted
            }
            IdentitySource::AccessToken(_)
            | IdentitySource::Certificate
            | IdentitySource::Operator => false,
        };
        Ok(if is_valid { Ok(ended.until) } else { Err(Refusal::Ended) })
    }

    /// Ends all sessions of the identity, and the tokens that were made in them.
    ///
    /// # Errors
    ///
    /// [`AuthError::Unavailable`].
    pub async fn log_out(&self, session: &VerifiedSession) -> Result<(), AuthError> {
        let BrowserSession { identity, auth_time_ms, .. } = &session.session;
        let ended = self.browser.sessions.end(&identity.name, *auth_time_ms).await;
        self.note_revocation();
        ended.map(|_| ()).map_err(|error| AuthError::unavailable(&error))
    }

    /// Makes a token for `docker login` that acts as the identity of a session.
    ///
    /// # Errors
    ///
    /// [`LoginError`].
    pub async fn login_token(
        &self,
        session: &VerifiedSession,
        lifetime: Duration,
    ) -> Result<LoginToken, LoginError> {
        let lifetime = lifetime.min(LOGIN_TOKEN_LIFETIME_MAX);
        let now = self.clock.now();
        let no_random = || AuthError::Unavailable { reason: "no random numbers".to_owned() };
        // With an id of its own: that of the browser is what its forms are protected by.
        let other = BrowserSession::new(session.session.identity.clone(), now);
        let BrowserSession { id, .. } = other.ok_or_else(no_random)?;
        let session = BrowserSession { id, ..session.session.clone() };
        let expires = now + lifetime;
        let token = self.sign_session(&session, SessionUse::Login, lifetime).await?;
        self.metrics.count_token("login");
        Ok(LoginToken { token, expires })
    }

    /// Verifies a token for `docker login`.
    pub(crate) async fn of_login_token(
        &self,
        token: &Secret,
    ) -> Result<VerifiedIdentity, AuthError> {
        let signed = self.signed_session(token.reveal(), SessionUse::Login).await?;
        let SignedSession { session, expires, .. } = signed
            .ok_or_else(|| AuthError::invalid("the login token is not valid, or has expired"))?;
        let until = self.check_session(&session).await?;
        let over = || AuthError::invalid("the login of this token is over: make another one");
        let until = until.map_err(|_| over())?;
        Ok(VerifiedIdentity { principal: principal_of(&session), until, expires: moment(expires) })
    }

    /// Whether the sessions of an identity that began at a time are not over, and until when that may be
    /// relied on.
    pub(crate) async fn session_until(
        &self,
        identity: &str,
        auth_time_ms: u64,
    ) -> Result<Option<Duration>, AuthError> {
        let ended = self.browser.sessions.end_of(identity).await;
        let ended = ended.map_err(|error| AuthError::unavailable(&error))?;
        Ok((auth_time_ms > ended.not_before_ms).then_some(ended.until))
    }
}

fn principal_of(session: &BrowserSession) -> Principal {
    let identity = Identity::Named(Box::new(session.identity.clone()));
    Principal {
        password: session.password.clone(),
        session_ms: Some(session.auth_time_ms),
        decisive: session.decisive.clone(),
        ..Principal::from_identity(identity)
    }
}
