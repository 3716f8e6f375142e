//! [`BrowserState`]: who is logged in in the browser that sent a request, and the cookies of the response.

use std::sync::{Mutex, PoisonError};

use http::request::Parts;
use http::{HeaderMap, HeaderValue, header};
use jreg_access::{SessionCookie, SessionState, VerifiedSession};

use crate::context::ApiContext;
use crate::cookies::{CookieName, CookieScheme};
use crate::error::ApiError;
use crate::observed::ObservedRequest;

/// What a browser's cookies say.
#[derive(Debug)]
pub(crate) struct BrowserState {
    /// `None`: there are no cookies on this connection, so a login is not possible.
    scheme: Option<CookieScheme>,
    session: Option<VerifiedSession>,
    /// The issuer that must authenticate the identity again.
    stale: Option<String>,
    set: Mutex<Vec<HeaderValue>>,
}

impl BrowserState {
    /// Reads and verifies the cookie of a session.
    ///
    /// # Errors
    ///
    /// 503 if it cannot be verified now.
    pub(crate) async fn read(
        context: &ApiContext,
        observed: &ObservedRequest,
        parts: &Parts,
    ) -> Result<Self, ApiError> {
        let host = observed.request_info(parts).host;
        let scheme = CookieScheme::of(&context.options, observed.client(), host.as_deref());
        let mut state = Self { scheme, session: None, stale: None, set: Mutex::default() };
        let (Some(scheme), Some(guard)) = (scheme, &context.guard) else { return Ok(state) };
        let Some(cookie) = scheme.get(&parts.headers, CookieName::Session) else {
            return Ok(state);
        };
        match guard.browser_session(cookie).await? {
            SessionState::Active { session, renewed } => {
                state.session = Some(*session);
                renewed.iter().for_each(|cookie| state.keep(cookie));
            }
            SessionState::Stale { issuer } => state.stale = Some(issuer),
            SessionState::Ended => state.forget(CookieName::Session),
        }
        Ok(state)
    }

    /// The scheme, if there can be cookies.
    pub(crate) fn scheme(&self) -> Option<CookieScheme> {
        self.scheme
    }

    pub(crate) fn session(&self) -> Option<&VerifiedSession> {
        self.session.as_ref()
    }

    pub(crate) fn stale(&self) -> Option<&str> {
        self.stale.as_deref()
    }

    /// Sets the cookie of a session.
    pub(crate) fn keep(&self, cookie: &SessionCookie) {
        if let Some(scheme) = self.scheme {
            self.push(scheme.set(CookieName::Session, cookie.value.reveal(), cookie.lifetime));
        }
    }

    /// Removes a cookie.
    pub(crate) fn forget(&self, name: CookieName<'_>) {
        if let Some(scheme) = self.scheme {
            self.push(scheme.clear(name));
        }
    }

    /// Sets a cookie. One of the same name that was to be set before is not.
    pub(crate) fn push(&self, cookie: HeaderValue) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        set.retain(|other| name_of(other) != name_of(&cookie));
        set.push(cookie);
    }

    /// Adds the cookies to a response.
    pub(crate) fn add_to(&self, headers: &mut HeaderMap) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        for cookie in set.drain(..) {
            headers.append(header::SET_COOKIE, cookie);
        }
    }
}

fn name_of(cookie: &HeaderValue) -> &[u8] {
    cookie.as_bytes().split(|byte| *byte == b'=').next().unwrap_or_default()
}
