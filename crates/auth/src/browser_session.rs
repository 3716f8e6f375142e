//! [`BrowserSession`]: who is logged in in a browser, as a value that the registry signs.
//!
//! Two kinds of tokens contain it: the cookie of the browser, which is read below `/ui/` only, and a
//! token for `docker login` that acts as the same identity. Each has its own type and audience, so that
//! neither is accepted as the other, nor as a token of the token service.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::jws::{JwsError, UnverifiedToken};
use crate::keyring::{Keyring, SigningKey};
use crate::random::random_hex;
use crate::token::{OURSELVES, seconds};
use crate::{IdentitySource, NamedIdentity};

/// Maximum length of a signed session, in bytes: browsers keep cookies of 4 KiB, with name and attributes.
pub const SESSION_BYTES_MAX: usize = 3 * 1024;

/// Where a signed session is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionUse {
    /// A cookie of a browser.
    Cookie,
    /// A password for clients of the API.
    Login,
}

impl SessionUse {
    /// The type in the token's header.
    fn kind(self) -> &'static str {
        match self {
            Self::Cookie => "session+jwt",
            Self::Login => "login+jwt",
        }
    }

    fn audience(self, service: &str) -> String {
        match self {
            Self::Cookie => format!("{service}/ui"),
            Self::Login => format!("{service}/login"),
        }
    }
}

/// A login in a browser.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BrowserSession {
    /// Differs from that of every other login.
    pub id: String,
    /// With the claims and groups alone that the policy tests.
    pub identity: NamedIdentity,
    /// When the identity was authenticated, in milliseconds of the Unix epoch.
    pub began_ms: u64,
    /// The same, or later than all sessions of the identity that were ended: by another instance, whose
    /// clock may be ahead.
    pub auth_time_ms: u64,
    /// The fingerprint of the line of the htpasswd file.
    pub password: Option<String>,
    /// [`crate::Policy::decisive_claims`] at that time, of identities of issuers.
    pub decisive: Option<String>,
}

/// A verified session, with its times in seconds of the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SignedSession {
    pub session: BrowserSession,
    pub issued: u64,
    pub expires: u64,
}

/// Why a session cannot be signed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SessionError {
    #[error(
        "the claims and groups that the policy tests make a session of more than \
         {SESSION_BYTES_MAX} bytes: let the issuer send fewer groups, or test fewer of them"
    )]
    TooLarge,
    #[error("the session cannot be signed")]
    Unsigned,
}

#[derive(Serialize, Deserialize)]
struct SessionClaims {
    iss: String,
    aud: String,
    iat: u64,
    /// Exclusive.
    exp: u64,
    sid: String,
    #[serde(rename = "jreg_began_ms")]
    began_ms: u64,
    #[serde(rename = "jreg_auth_time_ms")]
    auth_time_ms: u64,
    #[serde(rename = "jreg_identity")]
    identity: NamedIdentity,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "jreg_password")]
    password: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "jreg_decisive")]
    decisive: Option<String>,
}

impl BrowserSession {
    /// A new session; `None`: the operating system provides no random numbers.
    pub fn new(identity: NamedIdentity, now: SystemTime) -> Option<Self> {
        let (password, decisive) = (None, None);
        Some(Self {
            id: random_hex::<16>()?,
            identity,
            began_ms: milliseconds(now),
            auth_time_ms: milliseconds(now),
            password,
            decisive,
        })
    }

    /// When the identity was authenticated.
    pub fn auth_time(&self) -> SystemTime {
        UNIX_EPOCH + Duration::from_millis(self.began_ms)
    }

    /// The issuer that authenticated the identity, if one did.
    pub fn issuer(&self) -> Option<&str> {
        match &self.identity.source {
            IdentitySource::Issuer(issuer) => Some(issuer),
            IdentitySource::Htpasswd
            | IdentitySource::AccessToken(_)
            | IdentitySource::Certificate
            | IdentitySource::Operator => None,
        }
    }
}

impl SigningKey {
    /// Signs a session.
    ///
    /// # Errors
    ///
    /// [`SessionError`].
    pub fn sign_session(
        &self,
        session: &BrowserSession,
        used: SessionUse,
        service: &str,
        now: SystemTime,
        lifetime: Duration,
    ) -> Result<String, SessionError> {
        let BrowserSession { id, identity, began_ms, auth_time_ms, password, decisive } =
            session.clone();
        let claims = SessionClaims {
            iss: OURSELVES.to_owned(),
            aud: used.audience(service),
            iat: seconds(now),
            exp: seconds(now).saturating_add(lifetime.as_secs()),
            sid: id,
            began_ms,
            auth_time_ms,
            identity,
            password,
            decisive,
        };
        let signed = self.sign_claims(used.kind(), &claims).ok_or(SessionError::Unsigned)?;
        if signed.len() > SESSION_BYTES_MAX {
            return Err(SessionError::TooLarge);
        }
        Ok(signed)
    }
}

impl Keyring {
    /// Verifies a session, as [`Keyring::verify`] does a token. It has times of the future only
    /// within what clocks may differ.
    ///
    /// # Errors
    ///
    /// As [`Keyring::verify`].
    pub fn verify_session(
        &self,
        token: &UnverifiedToken<'_>,
        used: SessionUse,
        service: &str,
        now: SystemTime,
    ) -> Result<SignedSession, JwsError> {
        let payload = self.verified_payload(token, used.kind())?;
        let claims: SessionClaims =
            serde_json::from_slice(payload).map_err(|_| JwsError::Malformed)?;
        let is_ours = claims.iss == OURSELVES
            && claims.aud == used.audience(service)
            && claims.identity.fits_source();
        if !is_ours {
            return Err(JwsError::Malformed);
        }
        if !Self::is_current(claims.iat, claims.exp, now) {
            return Err(JwsError::Signature);
        }
        let SessionClaims {
            iat,
            exp,
            sid,
            began_ms,
            auth_time_ms,
            identity,
            password,
            decisive,
            ..
        } = claims;
        let session =
            BrowserSession { id: sid, identity, began_ms, auth_time_ms, password, decisive };
        Ok(SignedSession { session, issued: iat, expires: exp })
    }
}

/// Whether a text has the form of a session for clients of the API. It is verified as such then, and as
/// nothing else.
pub fn is_login_token(text: &str) -> bool {
    // "eyJ" is base64url of the beginning of a JSON object.
    let is_like = text.starts_with("eyJ") && text.len() <= SESSION_BYTES_MAX;
    is_like
        && UnverifiedToken::parse(text)
            .is_ok_and(|token| token.kind() == Some(SessionUse::Login.kind()))
}

/// Milliseconds since the Unix epoch.
pub fn milliseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use crate::{Identity, TokenClaims, TokenKind};

    const SERVICE: &str = "jreg";
    const MINUTES: Duration = Duration::from_secs(15 * 60);

    fn start() -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_720_000_000)
    }

    fn alice() -> NamedIdentity {
        match Identity::named("alice", IdentitySource::Htpasswd) {
            Identity::Named(named) => *named,
            Identity::Anonymous => panic!(),
        }
    }

    fn session() -> BrowserSession {
        let session = BrowserSession::new(alice(), start()).unwrap();
        BrowserSession { password: Some("f".repeat(32)), ..session }
    }

    fn signed(ring: &Keyring, session: &BrowserSession, used: SessionUse) -> String {
        let key = ring.signing_key(start()).unwrap();
        key.sign_session(session, used, SERVICE, start(), MINUTES).unwrap()
    }

    fn verify(
        ring: &Keyring,
        token: &str,
        used: SessionUse,
        now: SystemTime,
    ) -> Result<SignedSession, JwsError> {
        ring.verify_session(&UnverifiedToken::parse(token)?, used, SERVICE, now)
    }

    #[test]
    fn a_session_is_valid_until_it_expires() {
        let ring = Keyring::new(start()).unwrap();
        let session = session();
        for used in [SessionUse::Cookie, SessionUse::Login] {
            let token = signed(&ring, &session, used);
            let found = verify(&ring, &token, used, start() + MINUTES - Duration::from_secs(1));
            assert_eq!(found.unwrap().session, session);
            assert_eq!(verify(&ring, &token, used, start() + MINUTES), Err(JwsError::Signature));
            let early = start() - Duration::from_secs(61);
            assert_eq!(verify(&ring, &token, used, early), Err(JwsError::Signature));
        }
        assert_ne!(session.id, super::tests::session().id);
    }

    #[test]
    fn a_session_is_accepted_as_nothing_else() {
        let ring = Keyring::new(start()).unwrap();
        let (cookie, login) = (
            signed(&ring, &session(), SessionUse::Cookie),
            signed(&ring, &session(), SessionUse::Login),
        );
        let malformed = Err(JwsError::Malformed);
        assert_eq!(verify(&ring, &cookie, SessionUse::Login, start()), malformed);
        assert_eq!(verify(&ring, &login, SessionUse::Cookie, start()), malformed);
        for token in [&cookie, &login] {
            for kind in [TokenKind::Access, TokenKind::Refresh] {
                let parsed = UnverifiedToken::parse(token).unwrap();
                assert!(ring.verify(&parsed, kind, SERVICE, start()).is_err());
            }
            let parsed = UnverifiedToken::parse(token).unwrap();
            for service in ["other", "jreg/ui", "jreg/login", ""] {
                let found = ring.verify_session(&parsed, SessionUse::Cookie, service, start());
                assert!(found.is_err(), "{service}");
            }
            let other = Keyring::new(start()).unwrap();
            assert!(other.verify_session(&parsed, SessionUse::Cookie, SERVICE, start()).is_err());
        }
        let claims = TokenClaims::new("jreg/ui", Some(alice()), start(), MINUTES, "1".to_owned());
        let key = ring.signing_key(start()).unwrap();
        for kind in [TokenKind::Access, TokenKind::Refresh] {
            let token = key.sign(kind, &claims).unwrap();
            assert_eq!(verify(&ring, &token, SessionUse::Cookie, start()), malformed);
            assert!(!is_login_token(&token));
        }
        assert!(is_login_token(&login));
        assert!(!is_login_token(&cookie));
        for text in ["", "secret", "eyJ", "eyJ.eyJ.x", &"eyJ".repeat(5000)] {
            assert!(!is_login_token(text));
        }
    }

    #[test]
    fn a_name_that_its_source_cannot_issue_is_rejected() {
        let ring = Keyring::new(start()).unwrap();
        for name in ["certificate:x", "github:acme/app", "access-token:ci"] {
            let identity = NamedIdentity { name: name.to_owned(), ..alice() };
            let forged = BrowserSession { identity, ..session() };
            let token = signed(&ring, &forged, SessionUse::Cookie);
            let found = verify(&ring, &token, SessionUse::Cookie, start());
            assert_eq!(found, Err(JwsError::Malformed), "{name}");
        }
    }

    #[test]
    fn a_session_that_is_no_cookie_is_not_signed() {
        let ring = Keyring::new(start()).unwrap();
        let mut session = session();
        session.identity.source = IdentitySource::Issuer("idp".to_owned());
        session.identity.name = "idp:alice".to_owned();
        session.identity.groups = (0..400).map(|n| format!("idp:group-{n}")).collect();
        let key = ring.signing_key(start()).unwrap();
        let refused = key.sign_session(&session, SessionUse::Cookie, SERVICE, start(), MINUTES);
        assert_eq!(refused, Err(SessionError::TooLarge));
    }
}
