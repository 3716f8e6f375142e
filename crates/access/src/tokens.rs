//! The token service: credentials in, a short-lived token with narrowed scope out (distribution
//! token specification, "Token Authentication Specification" and "OAuth2").

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_auth::{
    Credentials, Identity, IdentitySource, NamedIdentity, Secret, TokenClaims, TokenKind,
    TokenScope, UnverifiedToken, random_hex,
};

use super::guard::{Guard, VerifiedIdentity};
use super::{Asker, AuthContext, AuthError, Bearer, Credentialed, RefusedAccess};

/// What a client brings to get a token.
#[derive(Clone, Debug)]
pub enum TokenProof {
    /// Nothing.
    Nothing,
    /// A name and a password, or a token of somebody else.
    Credentials(Credentials),
    /// A refresh token.
    Refresh(Secret),
    /// A token of an issuer, and of nobody else.
    Subject(Credentials),
}

impl TokenProof {
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
pub struct TokenRequest {
    /// What it brings.
    pub proof: TokenProof,
    /// What the token is to be good for.
    pub scope: TokenScope,
    /// Whether scopes were asked for at all, understood or not.
    pub scoped: bool,
    /// Whether it wants a refresh token.
    pub offline: bool,
    /// What the request shows.
    pub asker: Asker,
}

/// A token, with what the client is told of it.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    /// Who got it.
    pub identity: Identity,
    /// The token.
    pub access: Secret,
    /// What it is good for.
    pub scope: TokenScope,
    /// For getting the next.
    pub refresh: Option<Secret>,
    /// How long it is good.
    pub lifetime: Duration,
    /// When it was issued.
    pub issued: SystemTime,
}

/// Who was found to ask for a token, and until when they may.
struct ProvedIdentity {
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
    /// [`AuthError`].
    pub async fn exchange(&self, exchange: TokenRequest) -> Result<IssuedToken, AuthError> {
        let TokenRequest { proof, scope, scoped, offline, asker } = exchange;
        let is_subject = matches!(proof, TokenProof::Subject(_));
        let proved = self.prove(proof, &asker).await;
        let (found, refresh) = proved
            .map_err(|error| error.needed_for(|reason| AuthError::invalid_for(reason, &scope)))?;
        let nothing = !found.bearer.shown;
        let now = self.clock.now();
        let auth = AuthContext::new(found.bearer, asker);
        let narrow = self.narrowed(&auth, &scope).await;
        if nothing && !self.is_open_to_nobody(&narrow, scoped) {
            let reason =
                "no credentials, and anonymous clients may do nothing of the scope".to_owned();
            let access = RefusedAccess::of_scope(Credentialed::No, &scope);
            return Err(AuthError::Unauthenticated { challenge: None, access, reason });
        }
        if is_subject && scoped && narrow.is_empty() {
            return Err(AuthError::ScopeNotGranted);
        }
        let left = found.expires.map_or(self.lifetime, |expires| {
            expires.duration_since(now).unwrap_or_default().min(self.lifetime)
        });
        let access = self.sign(TokenKind::Access, &auth.bearer, &narrow, now, left)?;
        let refresh = match refresh {
            Some(old) => Some(old),
            None if offline && is_refreshable(&auth.bearer.identity) => Some(self.sign(
                TokenKind::Refresh,
                &auth.bearer,
                &TokenScope::default(),
                now,
                self.refresh_lifetime,
            )?),
            None => None,
        };
        let identity = auth.bearer.identity.clone();
        Ok(IssuedToken { identity, access, scope: narrow, refresh, lifetime: left, issued: now })
    }

    /// Who asks; and the refresh token, if that was what they brought.
    async fn prove(
        &self,
        proof: TokenProof,
        asker: &Asker,
    ) -> Result<(ProvedIdentity, Option<Secret>), AuthError> {
        match proof {
            TokenProof::Nothing => {
                let identity = asker.certificate.as_ref().and_then(|of| of.identity());
                let bearer = identity.map_or_else(Bearer::nobody, Bearer::of);
                Ok((ProvedIdentity { bearer: Arc::new(bearer), expires: None }, None))
            }
            TokenProof::Credentials(credentials) => {
                let found = self.recognise(&credentials, asker.network()).await?;
                if !Self::is_exchangeable(&found.bearer) || found.bearer.scope.is_some() {
                    return Err(AuthError::invalid(
                        "tokens of this kind are used directly, not exchanged",
                    ));
                }
                Ok((ProvedIdentity { bearer: found.bearer, expires: found.expires }, None))
            }
            TokenProof::Subject(credentials) => {
                let found = self.recognise(&credentials, asker.network()).await?;
                let is_issuers = matches!(&found.bearer.identity,
                    Identity::Named(named) if matches!(named.source, IdentitySource::Issuer(_)));
                let is_ours = found.bearer.scope.is_some();
                if !is_issuers || is_ours || !Self::is_exchangeable(&found.bearer) {
                    let reason = "only tokens of issuers with an identity are exchanged";
                    return Err(AuthError::invalid(reason));
                }
                Ok((ProvedIdentity { bearer: found.bearer, expires: found.expires }, None))
            }
            TokenProof::Refresh(token) => {
                let found = self.refreshed(&token).await;
                let outcome = if found.is_ok() { "ok" } else { "refused" };
                self.metrics.count_auth("refresh_token", outcome);
                let VerifiedIdentity { bearer, expires, .. } = found?;
                Ok((ProvedIdentity { bearer: Arc::new(bearer), expires }, Some(token)))
            }
        }
    }

    async fn refreshed(&self, token: &Secret) -> Result<VerifiedIdentity, AuthError> {
        let parsed = UnverifiedToken::parse(token.reveal());
        let parsed = parsed.map_err(|error| AuthError::invalid(error.to_string()))?;
        let claims = self.own_claims(&parsed, TokenKind::Refresh).await?;
        self.standing(claims).await
    }

    /// Whether somebody without credentials gets a token: for a log-in they do not, nor for what
    /// is not open to everybody.
    fn is_open_to_nobody(&self, narrow: &TokenScope, scoped: bool) -> bool {
        self.policy().has_anonymous() && (!scoped || !narrow.is_empty())
    }

    fn sign(
        &self,
        kind: TokenKind,
        bearer: &Bearer,
        scope: &TokenScope,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Secret, AuthError> {
        let unavailable = |reason: &str| AuthError::Unavailable { reason: reason.to_owned() };
        let signing = self.signing.as_ref().ok_or_else(|| unavailable("no tokens are issued"))?;
        let id = random_hex::<16>().ok_or_else(|| unavailable("no random numbers"))?;
        let named: Option<NamedIdentity> = match &bearer.identity {
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
            TokenKind::Access => "access",
            TokenKind::Refresh => "refresh",
        });
        Ok(Secret::new(token))
    }
}

/// Users and access tokens can be looked up again; what an issuer said of somebody cannot.
fn is_refreshable(identity: &Identity) -> bool {
    match identity {
        Identity::Named(named) => {
            matches!(named.source, IdentitySource::Htpasswd | IdentitySource::AccessToken(_))
        }
        Identity::Anonymous => false,
    }
}
