//! The token service: credentials in, a short-lived token with narrowed scope out (distribution
//! token specification, "Token Authentication Specification" and "OAuth2").

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_auth::{
    Credentials, Identity, Kind, Named, Scope, Secret, Source, TokenClaims, Unverified, random_hex,
};

use super::guard::{Found, Guard, Refusal};
use super::{Asker, Bearer, Credentialed, RefusedAccess, Session};

/// What a client brings to get a token.
#[derive(Clone, Debug)]
pub enum Proof {
    /// Nothing.
    Nothing,
    /// A name and a password, or a token of somebody else.
    Credentials(Credentials),
    /// A refresh token.
    Refresh(Secret),
    /// A token of an issuer, and of nobody else.
    Subject(Credentials),
}

impl Proof {
    /// The name that comes with a password, which anybody can say.
    pub fn user(&self) -> Option<&str> {
        match self {
            Self::Credentials(Credentials::Basic { user, .. }) => Some(user),
            Self::Credentials(Credentials::Bearer(_))
            | Self::Nothing
            | Self::Refresh(_)
            | Self::Subject(_) => None,
        }
    }
}

/// What a client asks of the token service.
#[derive(Debug)]
pub struct Exchange {
    /// What it brings.
    pub proof: Proof,
    /// What the token is to be good for.
    pub scope: Scope,
    /// Whether scopes were asked for at all, understood or not.
    pub scoped: bool,
    /// Whether it wants a refresh token.
    pub offline: bool,
    /// What the request shows.
    pub asker: Asker,
}

/// A token, with what the client is told of it.
#[derive(Clone, Debug)]
pub struct Token {
    /// Who got it.
    pub identity: Identity,
    /// The token.
    pub access: Secret,
    /// What it is good for.
    pub scope: Scope,
    /// For getting the next.
    pub refresh: Option<Secret>,
    /// How long it is good.
    pub lifetime: Duration,
    /// When it was issued.
    pub issued: SystemTime,
}

/// Why there is no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenError {
    /// The credentials are missing or wrong.
    #[error("{access}")]
    Unauthenticated {
        /// What the token was wanted for.
        access: RefusedAccess,
        /// Why, for the log.
        reason: String,
    },
    /// The request is not one.
    #[error("{0}")]
    BadRequest(String),
    /// Nothing of what was asked for is granted.
    #[error("nothing of the scope is granted")]
    Scope,
    /// Too many passwords are being verified.
    #[error("too many logins at the same time, try again")]
    Busy,
    /// Too many logins have failed.
    #[error("too many failed logins: try again in {} s", super::whole_seconds(*.wait))]
    Delayed {
        /// How long to wait.
        wait: Duration,
    },
    /// It cannot be found out now.
    #[error("the token service is unavailable, try again later")]
    Unavailable {
        /// Why, for the log.
        reason: String,
    },
}

impl TokenError {
    /// Credentials are not valid.
    pub fn invalid(reason: String, scope: &Scope) -> Self {
        let access = RefusedAccess::of_scope(Credentialed::Invalid, scope);
        Self::Unauthenticated { access, reason }
    }

    fn of(refusal: Refusal, scope: &Scope) -> Self {
        match refusal {
            Refusal::Invalid(reason) => Self::invalid(reason, scope),
            Refusal::Busy => Self::Busy,
            Refusal::Delayed(wait) => Self::Delayed { wait },
            Refusal::Unavailable(reason) => Self::Unavailable { reason },
        }
    }
}

/// Who was found to ask for a token, and until when they may.
struct Proved {
    bearer: Arc<Bearer>,
    expires: Option<SystemTime>,
}

impl Guard {
    /// Whether tokens are issued here.
    pub fn issues_tokens(&self) -> bool {
        self.signing.is_some()
    }

    /// The name by which tokens mean this registry.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Issues a token.
    ///
    /// # Errors
    ///
    /// [`TokenError`].
    pub async fn exchange(&self, exchange: Exchange) -> Result<Token, TokenError> {
        let Exchange { proof, scope, scoped, offline, asker } = exchange;
        let is_subject = matches!(proof, Proof::Subject(_));
        let proved = self.prove(proof, &asker).await;
        let (found, refresh) = proved.map_err(|refusal| TokenError::of(refusal, &scope))?;
        let nothing = !found.bearer.shown;
        let now = self.clock.now();
        let session = Session::new(found.bearer, asker);
        let narrow = self.narrowed(&session, &scope).await;
        if nothing && !self.is_open_to_nobody(&narrow, scoped) {
            let reason = "no credentials, and nothing of it is open to everybody".to_owned();
            let access = RefusedAccess::of_scope(Credentialed::No, &scope);
            return Err(TokenError::Unauthenticated { access, reason });
        }
        if is_subject && scoped && narrow.is_empty() {
            return Err(TokenError::Scope);
        }
        let left = found.expires.map_or(self.lifetime, |expires| {
            expires.duration_since(now).unwrap_or_default().min(self.lifetime)
        });
        let access = self.sign(Kind::Access, &session.bearer, &narrow, now, left)?;
        let refresh = match refresh {
            Some(old) => Some(old),
            None if offline && is_refreshable(&session.bearer.identity) => Some(self.sign(
                Kind::Refresh,
                &session.bearer,
                &Scope::default(),
                now,
                self.refresh_lifetime,
            )?),
            None => None,
        };
        let identity = session.bearer.identity.clone();
        Ok(Token { identity, access, scope: narrow, refresh, lifetime: left, issued: now })
    }

    /// Who asks; and the refresh token, if that was what they brought.
    async fn prove(
        &self,
        proof: Proof,
        asker: &Asker,
    ) -> Result<(Proved, Option<Secret>), Refusal> {
        match proof {
            Proof::Nothing => {
                let identity = asker.certificate.as_ref().and_then(|of| of.identity());
                let bearer = identity.map_or_else(Bearer::nobody, Bearer::of);
                Ok((Proved { bearer: Arc::new(bearer), expires: None }, None))
            }
            Proof::Credentials(credentials) => {
                let found = self.recognise(&credentials, asker.network()).await?;
                if !Self::is_exchangeable(&found.bearer) || found.bearer.scope.is_some() {
                    return Err(Refusal::Invalid("such a token is used as it is".to_owned()));
                }
                Ok((Proved { bearer: found.bearer, expires: found.expires }, None))
            }
            Proof::Subject(credentials) => {
                let found = self.recognise(&credentials, asker.network()).await?;
                let is_issuers = matches!(&found.bearer.identity,
                    Identity::Named(named) if matches!(named.source, Source::Issuer(_)));
                let is_ours = found.bearer.scope.is_some();
                if !is_issuers || is_ours || !Self::is_exchangeable(&found.bearer) {
                    let reason = "only tokens of issuers that say who it is are exchanged";
                    return Err(Refusal::Invalid(reason.to_owned()));
                }
                Ok((Proved { bearer: found.bearer, expires: found.expires }, None))
            }
            Proof::Refresh(token) => {
                let found = self.refreshed(&token).await;
                let outcome = if found.is_ok() { "ok" } else { "refused" };
                self.metrics.count_auth("refresh_token", outcome);
                let Found { bearer, expires, .. } = found?;
                Ok((Proved { bearer: Arc::new(bearer), expires }, Some(token)))
            }
        }
    }

    async fn refreshed(&self, token: &Secret) -> Result<Found, Refusal> {
        let parsed = Unverified::parse(token.reveal());
        let parsed = parsed.map_err(|error| Refusal::Invalid(error.to_string()))?;
        let claims = self.own_claims(&parsed, Kind::Refresh).await?;
        self.standing(claims).await
    }

    /// Whether somebody without credentials gets a token: for a log-in they do not, nor for what
    /// is not open to everybody.
    fn is_open_to_nobody(&self, narrow: &Scope, scoped: bool) -> bool {
        self.policy().has_anonymous() && (!scoped || !narrow.is_empty())
    }

    fn sign(
        &self,
        kind: Kind,
        bearer: &Bearer,
        scope: &Scope,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Secret, TokenError> {
        let unavailable = |reason: &str| TokenError::Unavailable { reason: reason.to_owned() };
        let signing = self.signing.as_ref().ok_or_else(|| unavailable("no tokens are issued"))?;
        let id = random_hex::<16>().ok_or_else(|| unavailable("no random numbers"))?;
        let named: Option<Named> = match &bearer.identity {
            Identity::Anonymous => None,
            Identity::Named(named) => Some((**named).clone()),
        };
        let mut claims = TokenClaims::new(&self.service, named, now, lifetime, id);
        claims.access = scope.entries();
        claims.password = bearer.password.clone();
        let key = signing.current().signing_key(now);
        let token = key.and_then(|key| key.sign(kind, &claims));
        let token = token.ok_or_else(|| unavailable("the signing key cannot be used"))?;
        self.metrics.count_token(match kind {
            Kind::Access => "access",
            Kind::Refresh => "refresh",
        });
        Ok(Secret::new(token))
    }
}

/// Users and access tokens can be looked up again; what an issuer said of somebody cannot.
fn is_refreshable(identity: &Identity) -> bool {
    match identity {
        Identity::Named(named) => matches!(named.source, Source::Htpasswd | Source::AccessToken(_)),
        Identity::Anonymous => false,
    }
}
