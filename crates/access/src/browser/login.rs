//! Logins at an OpenID provider: the authorization code flow with PKCE, `state`, `nonce` and `iss`.

use jreg_auth::{
    AuthorizationError, AuthorizationResponse, CodeRequest, Credentials, IdTokenRequest, Identity,
    Issuer, IssuerAccess, IssuerTokenError, Network, OpenIdProvider, PendingLogin, Secret,
    SessionError, UnverifiedToken, id_token_of, is_return_path, token_error_of,
};
use jreg_storage::error_chain;

use super::NewSession;
use super::provider::LoginProvider;
use crate::AuthError;
use crate::guard::AccessGuard;
use crate::login_throttle::FailedLogin;

/// The name under which refused codes are counted. No user can have it.
const REFUSED_CODES: &str = "\0code";
/// Where a login returns to if it does not say.
const HOME: &str = "/ui/";

/// Why a login at a provider failed. Messages contain nothing that the provider or the browser sent.
#[derive(Debug, thiserror::Error)]
pub enum LoginError {
    #[error("no login at this provider is set up")]
    Unknown,
    /// The browser has no cookie of this login.
    #[error("this login was begun in another browser, took too long, or is over already")]
    NotPending,
    #[error(transparent)]
    Response(#[from] AuthorizationError),
    /// For the log: the page says that the provider does not work.
    #[error("the provider does not work: {reason}")]
    Provider { reason: String },
    /// The provider did not accept the code.
    #[error("the provider refused the login: {0}")]
    CodeRefused(String),
    #[error("the provider sent no ID token: it must support OpenID Connect")]
    NoIdToken,
    #[error(transparent)]
    IdToken(#[from] IssuerTokenError),
    #[error(transparent)]
    Session(#[from] SessionError),
    #[error(transparent)]
    Auth(#[from] AuthError),
}

/// The beginning of a login: where the browser goes, and what it keeps meanwhile.
#[derive(Clone, Debug)]
pub struct LoginRedirect {
    pub url: String,
    /// What distinguishes its cookie from those of other logins of the browser.
    pub id: String,
    pub cookie: Secret,
}

/// Length of the id of a pending login, which is the beginning of its `state`.
const ID_CHARS: usize = 8;

/// The id of the pending login that an authorization response belongs to; `None`: it has no valid `state`.
pub fn pending_login_id(state: &str) -> Option<&str> {
    let id = state.get(..ID_CHARS)?;
    id.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_').then_some(id)
}

impl AccessGuard {
    /// Begins a login at a provider. `return_to` is a path below `/ui/`; others are ignored.
    ///
    /// # Errors
    ///
    /// [`LoginError`].
    pub async fn begin_login(
        &self,
        issuer: &str,
        return_to: &str,
    ) -> Result<LoginRedirect, LoginError> {
        let (provider, endpoints, _) = self.login_provider(issuer).await?;
        let return_to = if is_return_path(return_to) { return_to } else { HOME };
        let redirect_url = self.redirect_url(issuer)?;
        let unavailable = || AuthError::Unavailable { reason: "no random numbers".to_owned() };
        let login = PendingLogin::new(issuer, return_to, self.clock.now());
        let login = login.ok_or_else(unavailable)?;
        let keys = self.browser.keys.keyring(None).await?;
        let sealed = login.sealed(&keys).ok_or_else(unavailable)?;
        let id = pending_login_id(&login.state).ok_or_else(unavailable)?.to_owned();
        let url = endpoints.authorization_request(provider.client(), &login, &redirect_url);
        Ok(LoginRedirect { url, id, cookie: Secret::new(sealed) })
    }

    /// Completes a login: the response of the provider's authorization endpoint, and the cookie of the
    /// login. Returns the session and the path to return to.
    ///
    /// # Errors
    ///
    /// [`LoginError`].
    pub async fn complete_login(
        &self,
        issuer: &str,
        pending: Option<&str>,
        response: &AuthorizationResponse,
        from: Option<Network>,
    ) -> Result<(NewSession, String), LoginError> {
        let done = self.completed(issuer, pending, response, from).await;
        let outcome = match &done {
            Ok(_) => "ok",
            Err(LoginError::Provider { .. } | LoginError::Auth(AuthError::Unavailable { .. })) => {
                "unavailable"
            }
            Err(LoginError::Auth(AuthError::Throttled { .. })) => "throttled",
            Err(LoginError::Auth(AuthError::Busy)) => "busy",
            Err(_) => "refused",
        };
        self.metrics.count_auth("provider_login", outcome);
        done
    }

    async fn completed(
        &self,
        issuer: &str,
        pending: Option<&str>,
        response: &AuthorizationResponse,
        from: Option<Network>,
    ) -> Result<(NewSession, String), LoginError> {
        let login = self.pending(issuer, pending).await?;
        let (provider, endpoints, trusted) = self.login_provider(issuer).await?;
        let code = endpoints.code(&login, response)?;
        let secret = provider.secret().await.map_err(|reason| LoginError::Provider { reason })?;
        let redirect_url = self.redirect_url(issuer)?;
        let request =
            endpoints.code_request(provider.client(), secret.as_ref(), code, &login, &redirect_url);
        let id_token = self.exchange_code(&request, code, from).await?;
        let token = UnverifiedToken::parse(id_token.reveal()).map_err(IssuerTokenError::from)?;
        let client_id = &provider.client().client_id;
        let expected = IdTokenRequest { client_id, nonce: &login.nonce };
        let verify = |keys: &_| trusted.verify_id_token(&token, keys, expected, self.clock.now());
        let verified = self.issuer_keys.verified(&trusted, &token, verify).await;
        let identity =
            verified.map_err(|error| LoginError::Provider { reason: error_chain(&error) })??;
        let Identity::Named(named) = identity else { return Err(LoginError::NoIdToken) };
        let policy = self.policy();
        let named = policy.tested_claims().narrowed(*named);
        let session = self.begin_session(named, None, Some(policy.decisive_claims())).await?;
        Ok((session, login.return_to))
    }

    /// The login of a cookie, if it was begun at this issuer.
    async fn pending(
        &self,
        issuer: &str,
        sealed: Option<&str>,
    ) -> Result<PendingLogin, LoginError> {
        let sealed = sealed.ok_or(LoginError::NotPending)?;
        let kid = PendingLogin::key_id(sealed).ok_or(LoginError::NotPending)?;
        let keys = self.browser.keys.keyring(Some(kid)).await?;
        let login = PendingLogin::unseal(&keys, sealed, self.clock.now());
        login.filter(|login| login.issuer == issuer).ok_or(LoginError::NotPending)
    }

    /// The provider of an issuer, its endpoints, and the issuer as the policy has it.
    async fn login_provider(
        &self,
        issuer: &str,
    ) -> Result<(&LoginProvider, std::sync::Arc<OpenIdProvider>, Issuer), LoginError> {
        let provider = self.browser.provider(issuer).ok_or(LoginError::Unknown)?;
        let policy = self.policy();
        // The tokens of an external token service are no logins.
        let is_named = |of: &&Issuer| of.name() == issuer && of.access() == IssuerAccess::Rules;
        let trusted = policy.issuers().iter().find(is_named).cloned();
        let trusted = trusted.ok_or(LoginError::Unknown)?;
        let (fetch, clock) = (&*self.browser.fetch, &*self.browser.clock);
        let endpoints = provider.endpoints(trusted.url(), fetch, clock).await;
        let endpoints = endpoints.map_err(|reason| LoginError::Provider { reason })?;
        Ok((provider, endpoints, trusted))
    }

    fn redirect_url(&self, issuer: &str) -> Result<String, LoginError> {
        self.browser.url(issuer, "/callback").ok_or(LoginError::Unknown)
    }

    /// Exchanges a code for an ID token. Codes that the provider refuses are throttled, as anyone can
    /// invent them.
    async fn exchange_code(
        &self,
        request: &CodeRequest,
        code: &Secret,
        from: Option<Network>,
    ) -> Result<Secret, LoginError> {
        self.login_throttle.check(from, REFUSED_CODES).map_err(AuthError::from)?;
        let _slot = self.browser.exchanges.try_acquire().map_err(|_| AuthError::Busy)?;
        let response = self.browser.fetch.post_form(request).await;
        let (status, bytes) =
            response.map_err(|error| LoginError::Provider { reason: error_chain(&error) })?;
        if status == 200 {
            return id_token_of(&bytes).ok_or(LoginError::NoIdToken);
        }
        let error = token_error_of(&bytes).filter(|_| (400..500).contains(&status));
        match error {
            // The secret or the settings are wrong, not the user.
            Some(error) if error != "invalid_client" && error != "unauthorized_client" => {
                let code = Credentials::Bearer(code.clone());
                let fingerprint = self.credentials.fingerprint(&code);
                let failed = FailedLogin { fingerprint, generation: 0 };
                self.login_throttle.count(from, REFUSED_CODES, failed);
                Err(LoginError::CodeRefused(error))
            }
            error => {
                let error = error.map_or_else(String::new, |error| format!(": {error}"));
                let reason = format!("its token endpoint returned status {status}{error}");
                Err(LoginError::Provider { reason })
            }
        }
    }
}
