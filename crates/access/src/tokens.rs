//! The token service: credentials in, a short-lived token with narrowed scope out (distribution
//! token specification, "Token Authentication Specification" and "OAuth2").

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use jreg_auth::{
    Credentials, Identity, IdentitySource, NamedIdentity, Secret, TokenClaims, TokenKind,
    TokenScope, UnverifiedToken, random_hex,
};

use super::guard::{AccessGuard, VerifiedIdentity};
use super::{AuthContext, AuthError, CredentialState, Principal, RefusedAccess, RequestInfo};

/// Credentials of a token request.
#[derive(Clone, Debug)]
pub enum TokenProof {
    Nothing,
    /// A name and a password, or another registry token.
    Credentials(Credentials),
    Refresh(Secret),
    /// An issuer's token (RFC 8693 `subject_token`); no other kind is accepted.
    Subject(Credentials),
}

impl TokenProof {
    /// The claimed user name, not verified.
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

/// A request to the token service.
#[derive(Debug)]
pub struct TokenRequest {
    pub proof: TokenProof,
    /// The requested scope.
    pub scope: TokenScope,
    /// Whether the request had a `scope`, even one that is not understood.
    pub scoped: bool,
    /// Whether a refresh token is requested.
    pub offline: bool,
    pub request_info: RequestInfo,
}

/// A token with the fields of its response.
#[derive(Clone, Debug)]
pub struct IssuedToken {
    pub identity: Identity,
    pub access: Secret,
    /// The granted scope.
    pub scope: TokenScope,
    pub refresh: Option<Secret>,
    pub lifetime: Duration,
    pub issued: SystemTime,
}

/// The authenticated principal of a token request, with its expiry.
struct ProvedIdentity {
    principal: Arc<Principal>,
    expires: Option<SystemTime>,
}

impl AccessGuard {
    /// Whether this registry issues tokens.
    pub fn issues_tokens(&self) -> bool {
        self.signing_keys.is_some()
    }

    /// The audience of tokens for this registry.
    pub fn service(&self) -> &str {
        &self.service
    }

    /// Issues a token.
    ///
    /// # Errors
    ///
    /// [`AuthError`].
    pub async fn exchange(&self, exchange: TokenRequest) -> Result<IssuedToken, AuthError> {
        let TokenRequest { proof, scope, scoped, offline, request_info } = exchange;
        let is_subject = matches!(proof, TokenProof::Subject(_));
        let proved = self.prove(proof, &request_info).await;
        let (found, refresh) = proved
            .map_err(|error| error.needed_for(|reason| AuthError::invalid_for(reason, &scope)))?;
        let nothing = !found.principal.shown;
        let now = self.clock.now();
        let auth = AuthContext::new(found.principal, request_info);
        let narrow = self.narrowed(&auth, &scope).await;
        if nothing && !self.is_open_to_anonymous(&narrow, scoped) {
            let reason =
                "no credentials, and anonymous clients may do nothing of the scope".to_owned();
            let access = RefusedAccess::of_scope(CredentialState::No, &scope);
            return Err(AuthError::Unauthenticated { challenge: None, access, reason });
        }
        if is_subject && scoped && narrow.is_empty() {
            return Err(AuthError::ScopeNotGranted);
        }
        let left = found.expires.map_or(self.lifetime, |expires| {
            expires.duration_since(now).unwrap_or_default().min(self.lifetime)
        });
        let access = self.sign(TokenKind::Access, &auth.principal, &narrow, now, left)?;
        let refresh = match refresh {
            Some(old) => Some(old),
            None if offline && is_refreshable(&auth.principal) => Some(self.sign(
                TokenKind::Refresh,
                &auth.principal,
                &TokenScope::default(),
                now,
                self.refresh_lifetime,
            )?),
            None => None,
        };
        let identity = auth.principal.identity.clone();
        Ok(IssuedToken { identity, access, scope: narrow, refresh, lifetime: left, issued: now })
    }

    /// The authenticated principal, and the refresh token if the request had one.
    async fn prove(
        &self,
        proof: TokenProof,
        request_info: &RequestInfo,
    ) -> Result<(ProvedIdentity, Option<Secret>), AuthError> {
        match proof {
            TokenProof::Nothing => {
                let identity = request_info.certificate.as_ref().and_then(|of| of.identity());
                let principal =
                    identity.map_or_else(Principal::anonymous, Principal::from_identity);
                Ok((ProvedIdentity { principal: Arc::new(principal), expires: None }, None))
            }
            TokenProof::Credentials(credentials) => {
                let found = self.authenticate(&credentials, request_info.network()).await?;
                if !Self::is_exchangeable(&found.principal) || found.principal.scope.is_some() {
                    return Err(AuthError::invalid(
                        "tokens of this kind are used directly, not exchanged",
                    ));
                }
                Ok((ProvedIdentity { principal: found.principal, expires: found.expires }, None))
            }
            TokenProof::Subject(credentials) => {
                let found = self.authenticate(&credentials, request_info.network()).await?;
                let is_issuers = matches!(&found.principal.identity,
                    Identity::Named(named) if matches!(named.source, IdentitySource::Issuer(_)));
                let is_ours = found.principal.scope.is_some();
                if !is_issuers || is_ours || !Self::is_exchangeable(&found.principal) {
                    let reason = "only tokens of issuers with an identity are exchanged";
                    return Err(AuthError::invalid(reason));
                }
                Ok((ProvedIdentity { principal: found.principal, expires: found.expires }, None))
            }
            TokenProof::Refresh(token) => {
                let found = self.refreshed(&token).await;
                let outcome = if found.is_ok() { "ok" } else { "refused" };
                self.metrics.count_auth("refresh_token", outcome);
                let VerifiedIdentity { principal, expires, .. } = found?;
                Ok((ProvedIdentity { principal: Arc::new(principal), expires }, Some(token)))
            }
        }
    }

    async fn refreshed(&self, token: &Secret) -> Result<VerifiedIdentity, AuthError> {
        let parsed = UnverifiedToken::parse(token.reveal());
        let parsed = parsed.map_err(|error| AuthError::invalid(error.to_string()))?;
        let claims = self.own_claims(&parsed, TokenKind::Refresh).await?;
        self.current_identity(claims).await
    }

    /// Whether an anonymous client gets a token: not for a login, nor for a scope that requires
    /// authentication.
    fn is_open_to_anonymous(&self, narrow: &TokenScope, scoped: bool) -> bool {
        self.policy().has_anonymous() && (!scoped || !narrow.is_empty())
    }

    fn sign(
        &self,
        kind: TokenKind,
        principal: &Principal,
        scope: &TokenScope,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<Secret, AuthError> {
        let unavailable = |reason: &str| AuthError::Unavailable { reason: reason.to_owned() };
        let signing_keys =
            self.signing_keys.as_ref().ok_or_else(|| unavailable("no tokens are issued"))?;
        let id = random_hex::<16>().ok_or_else(|| unavailable("no random numbers"))?;
        let named: Option<NamedIdentity> = match &principal.identity {
            Identity::Anonymous => None,
            Identity::Named(named) => Some((**named).clone()),
        };
        let mut claims = TokenClaims::new(&self.service, named, now, lifetime, id);
        claims.access = scope.entries();
        claims.password = principal.password.clone();
        claims.session_ms = principal.session_ms;
        claims.decisive = principal.decisive.clone();
        let key = signing_keys.current().signing_key(now);
        let token = key.and_then(|key| key.sign(kind, &claims));
        let token = token.ok_or_else(|| unavailable("the signing key cannot be used"))?;
        self.metrics.count_token(match kind {
            TokenKind::Access => "access",
            TokenKind::Refresh => "refresh",
        });
        Ok(Secret::new(token))
    }
}

/// Users and access tokens can be verified again later; an issuer's token cannot, and the token of a login
/// in a browser is not to last longer than it does.
fn is_refreshable(principal: &Principal) -> bool {
    match &principal.identity {
        Identity::Named(named) if principal.session_ms.is_none() => {
            matches!(named.source, IdentitySource::Htpasswd | IdentitySource::AccessToken(_))
        }
        Identity::Named(_) | Identity::Anonymous => false,
    }
}
