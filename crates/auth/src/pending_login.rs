//! [`PendingLogin`]: what a browser carries while its user is at an OpenID provider. It is a cookie,
//! encrypted, so that every instance can complete the login and none keeps anything.

use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::digest::{SHA256, digest};
use serde::{Deserialize, Serialize};

use crate::Keyring;
use crate::random::{random_bytes, same};
use crate::sealed::{seal, unseal};
use crate::token::seconds;

/// How long a user may take at the provider.
pub const PENDING_LOGIN_AGE_MAX: Duration = Duration::from_secs(10 * 60);
/// Maximum length of the path that a login returns to, in bytes.
pub const RETURN_BYTES_MAX: usize = 1024;
/// Maximum length of an encrypted login, in bytes.
const SEALED_BYTES_MAX: usize = 3 * 1024;
const PURPOSE: &str = "pending login 1";

/// A login in progress at an OpenID provider.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PendingLogin {
    /// The issuer's name in the policy.
    pub issuer: String,
    /// `state` of the authorization request (RFC 6749 section 10.12).
    pub state: String,
    /// `nonce` of the ID token (OpenID Connect Core section 3.1.2.1).
    pub nonce: String,
    /// The code verifier (RFC 7636 section 4.1).
    pub verifier: String,
    /// The path below `/ui/` to return to.
    pub return_to: String,
    /// When it began, in seconds of the Unix epoch.
    began: u64,
}

impl std::fmt::Debug for PendingLogin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { issuer, return_to, .. } = self;
        write!(f, "PendingLogin({issuer:?}, {return_to:?})")
    }
}

impl PendingLogin {
    /// A new login; `None`: the operating system provides no random numbers.
    pub fn new(issuer: &str, return_to: &str, now: SystemTime) -> Option<Self> {
        let random = || random_bytes::<32>().map(|bytes| URL_SAFE_NO_PAD.encode(bytes));
        Some(Self {
            issuer: issuer.to_owned(),
            state: random()?,
            nonce: random()?,
            verifier: random()?,
            return_to: return_to.to_owned(),
            began: seconds(now),
        })
    }

    /// The code challenge: `S256` (RFC 7636 section 4.2).
    pub fn challenge(&self) -> String {
        URL_SAFE_NO_PAD.encode(digest(&SHA256, self.verifier.as_bytes()))
    }

    /// Whether this is its `state`.
    pub fn has_state(&self, state: &str) -> bool {
        same(&self.state, state)
    }

    /// The encrypted login; `None`: it is too long, or there are no random numbers.
    pub fn sealed(&self, keyring: &Keyring) -> Option<String> {
        let (kid, sealed) = seal(keyring, PURPOSE, &serde_json::to_vec(self).ok()?)?;
        Some(format!("{kid}.{sealed}")).filter(|text| text.len() <= SEALED_BYTES_MAX)
    }

    /// The id of the key of an encrypted login; `None`: it is none.
    pub fn key_id(sealed: &str) -> Option<&str> {
        let (kid, _) = sealed.split_once('.').filter(|_| sealed.len() <= SEALED_BYTES_MAX)?;
        Some(kid)
    }

    /// Decrypts a login that is not over; `None`: it is none of this keyring's, or it is too old.
    pub fn unseal(keyring: &Keyring, sealed: &str, now: SystemTime) -> Option<Self> {
        let (kid, sealed) = sealed.split_once('.').filter(|_| sealed.len() <= SEALED_BYTES_MAX)?;
        let bytes = unseal(keyring, PURPOSE, kid, sealed)?;
        let login: Self = serde_json::from_slice(&bytes).ok()?;
        let end = login.began.saturating_add(PENDING_LOGIN_AGE_MAX.as_secs());
        Keyring::is_current(login.began, end, now).then_some(login)
    }
}

/// Whether a login may return to a path: one of the pages of this registry, in a form that no browser
/// reads as another host.
pub fn is_return_path(path: &str) -> bool {
    let (only_path, _) = path.split_once(['?', '#']).unwrap_or((path, ""));
    path.len() <= RETURN_BYTES_MAX
        && (path == "/ui" || path.starts_with("/ui/"))
        && path.bytes().all(|b| b.is_ascii_graphic() && b != b'\\' && b != b'"' && b != b'<')
        && !only_path.contains("//")
        && !only_path.split('/').any(is_dots)
}

/// Whether browsers resolve a part of a path as `.` or `..` (URL standard, "single-dot URL path segment").
fn is_dots(part: &str) -> bool {
    let plain = part.to_ascii_lowercase().replace("%2e", ".");
    plain == "." || plain == ".."
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_720_000_000)
    }

    #[test]
    fn a_login_is_read_back_until_it_is_too_old() {
        let ring = Keyring::new(start()).unwrap();
        let login = PendingLogin::new("idp", "/ui/team/app", start()).unwrap();
        let sealed = login.sealed(&ring).unwrap();
        assert!(!sealed.contains(&login.state) && !format!("{login:?}").contains(&login.verifier));
        assert!(ring.has(PendingLogin::key_id(&sealed).unwrap()));
        let second = Duration::from_secs(1);
        let last = start() + PENDING_LOGIN_AGE_MAX - second;
        assert_eq!(PendingLogin::unseal(&ring, &sealed, last), Some(login.clone()));
        assert_eq!(PendingLogin::unseal(&ring, &sealed, last + second), None, "too old");
        let other = Keyring::new(start()).unwrap();
        assert_eq!(PendingLogin::unseal(&other, &sealed, start()), None);
        for rubbish in [
            "",
            ".",
            "a.b",
            &sealed.replace('.', ""),
            sealed.trim_start_matches(|c| c != '.'),
            &"a.".repeat(3000),
        ] {
            assert_eq!(PendingLogin::unseal(&ring, rubbish, start()), None, "{rubbish:.20}");
        }
        let again = PendingLogin::new("idp", "/ui/", start()).unwrap();
        assert!(!again.has_state(&login.state) && login.has_state(&login.state));
        assert!(again.nonce != login.nonce && again.verifier != login.verifier);
    }

    /// The example of RFC 7636, appendix B.
    #[test]
    fn the_challenge_is_the_hash_of_the_verifier() {
        let mut login = PendingLogin::new("idp", "/ui/", start()).unwrap();
        assert_eq!(login.verifier.len(), 43);
        login.verifier = "dBjftJeZ4CVP-mB92K27uhbUJU1p1r_wW1gFWFOEjXk".to_owned();
        assert_eq!(login.challenge(), "E9Melhoa2OwvFrEMTJguCHaoeK1t8URWbuGJSstw-cM");
    }

    #[test]
    fn a_login_returns_to_pages_of_this_registry_only() {
        for path in ["/ui", "/ui/", "/ui/team/app:v1", "/ui/a/-/tags?after=x//y", "/ui/-/token"] {
            assert!(is_return_path(path), "{path}");
        }
        for path in [
            "",
            "/",
            "/v2/",
            "/uix",
            "ui/",
            "//evil.example/ui/",
            "https://evil.example/ui/",
            "/\\evil.example",
            "/ui/\\..\\..\\evil.example",
            "/ui/../v2/",
            "/ui/..//evil.example",
            "/ui/%2e%2E//evil.example",
            "/ui/.%2e/v2",
            "/ui//evil.example",
            "/ui/\r\nSet-Cookie: a=b",
            "/ui/\tx",
            "/ui/ x",
            "/ui/\u{e9}",
            "javascript:alert(1)//ui/",
        ] {
            assert!(!is_return_path(path), "{path:?}");
        }
        assert!(!is_return_path(&format!("/ui/{}", "x".repeat(RETURN_BYTES_MAX))));
    }
}
