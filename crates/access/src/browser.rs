//! Logins in a browser: with a password, or at an OpenID provider; and the sessions that they begin.
//!
//! A session is a signed value in a cookie ([`jreg_auth::BrowserSession`]). No instance keeps anything of
//! it, so any instance can verify it. It is verified as of now with each request: whether its user is
//! still the one of the htpasswd file, its issuer is still trusted, and its identity has not logged out
//! since, which takes a store read a minute.

mod login;
mod provider;
mod session;

use std::sync::Arc;
use std::time::Duration;

use jreg_auth::LoginClient;
use jreg_storage::Clock;
use tokio::sync::Semaphore;

pub use login::{LoginError, LoginRedirect, pending_login_id};
pub use session::{LoginToken, NewSession, SessionCookie, SessionState, VerifiedSession};

use super::issuer_keys::JwksFetcher;
use super::session_store::SessionStore;
use super::signing_keys::SharedSigningKeys;
use provider::LoginProvider;

/// Lifetime of a cookie; it is renewed while it is used.
pub const SESSION_LIFETIME: Duration = Duration::from_secs(15 * 60);
/// Age at which a cookie is renewed.
pub const SESSION_RENEWED_AFTER: Duration = Duration::from_secs(5 * 60);
/// Maximum time between a login with a password and the next one.
pub const PASSWORD_SESSION_MAX: Duration = Duration::from_secs(12 * 3600);
/// Maximum time between a login at an OpenID provider and the next one, which usually needs nothing of
/// its user.
pub const PROVIDER_SESSION_MAX: Duration = Duration::from_secs(3600);
/// Maximum lifetime of a token for `docker login`.
pub const LOGIN_TOKEN_LIFETIME_MAX: Duration = Duration::from_secs(24 * 3600);
/// Maximum number of codes that are exchanged at the same time.
const EXCHANGES_MAX: usize = 16;

/// What logins in a browser need.
#[derive(Debug)]
pub(super) struct BrowserLogins {
    keys: Arc<SharedSigningKeys>,
    sessions: Arc<SessionStore>,
    providers: Vec<LoginProvider>,
    fetch: Arc<dyn JwksFetcher>,
    exchanges: Semaphore,
    clock: Arc<dyn Clock>,
    /// Where providers send browsers back to.
    public_url: Option<String>,
}

/// A provider that users can log in at.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginChoice {
    /// The name of the issuer in the policy.
    pub issuer: String,
    pub label: String,
    /// The URL at which the login begins.
    pub url: String,
}

impl BrowserLogins {
    pub(super) fn new(
        keys: Arc<SharedSigningKeys>,
        sessions: Arc<SessionStore>,
        clients: Vec<LoginClient>,
        fetch: Arc<dyn JwksFetcher>,
        clock: Arc<dyn Clock>,
        public_url: Option<String>,
    ) -> Self {
        let providers = clients.into_iter().map(LoginProvider::new).collect();
        let exchanges = Semaphore::new(EXCHANGES_MAX);
        Self { keys, sessions, providers, fetch, exchanges, clock, public_url }
    }

    fn provider(&self, issuer: &str) -> Option<&LoginProvider> {
        self.providers.iter().find(|provider| provider.client().issuer == issuer)
    }

    /// The URL of a page of the login at a provider. Never of the request's `Host`.
    fn url(&self, issuer: &str, page: &str) -> Option<String> {
        self.public_url.as_ref().map(|url| format!("{url}/ui/-/login/oidc/{issuer}{page}"))
    }
}
