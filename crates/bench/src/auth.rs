//! The identity of the client: anonymous, a name and a password, or the holder of tokens that a server gives
//! for these (the token flow of the distribution specification, as docker and containerd do it).

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;
use thiserror::Error;

/// How many tokens are remembered; with more all are forgotten.
const TOKENS_MAX: usize = 4096;

/// A name and a password.
#[derive(Clone, Eq, PartialEq)]
pub struct BenchCredentials {
    name: String,
    password: String,
}

/// A text that is no name and password.
#[derive(Clone, Copy, Debug, Error, Eq, PartialEq)]
#[error("it must be NAME:PASSWORD")]
pub struct InvalidCredentials;

impl FromStr for BenchCredentials {
    type Err = InvalidCredentials;

    fn from_str(text: &str) -> Result<Self, InvalidCredentials> {
        match text.split_once(':') {
            Some((name, password)) if !name.is_empty() => {
                Ok(Self { name: name.to_owned(), password: password.to_owned() })
            }
            _ => Err(InvalidCredentials),
        }
    }
}

impl fmt::Debug for BenchCredentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credentials").field("name", &self.name).finish_non_exhaustive()
    }
}

impl BenchCredentials {
    /// The value of the header `Authorization`.
    pub(crate) fn basic(&self) -> String {
        format!("Basic {}", STANDARD.encode(format!("{}:{}", self.name, self.password)))
    }
}

/// What a request needs the right to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum RequestedAccess<'a> {
    /// To read a repository.
    Pull(&'a str),
    /// To write to it.
    Push(&'a str),
    /// To list repositories.
    Catalog,
}

impl RequestedAccess<'_> {
    /// The scope of a token for it.
    pub(crate) fn scope(self) -> String {
        match self {
            Self::Pull(repository) => format!("repository:{repository}:pull"),
            Self::Push(repository) => format!("repository:{repository}:pull,push"),
            Self::Catalog => "registry:catalog:*".to_owned(),
        }
    }
}

/// What a 401 asks for.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(crate) enum AuthChallenge {
    Basic,
    Bearer { realm: String, service: Option<String>, scope: Option<String> },
}

impl AuthChallenge {
    pub(crate) fn read(header: &str) -> Option<Self> {
        let (scheme, rest) = header.trim().split_once(' ').unwrap_or((header.trim(), ""));
        if scheme.eq_ignore_ascii_case("basic") {
            return Some(Self::Basic);
        }
        if !scheme.eq_ignore_ascii_case("bearer") {
            return None;
        }
        let mut parameters = parameters(rest);
        let realm = parameters.remove("realm")?;
        Some(Self::Bearer {
            realm,
            service: parameters.remove("service"),
            scope: parameters.remove("scope"),
        })
    }
}

/// `name="value"` or `name=value`, with commas between them, but also within quotes.
fn parameters(text: &str) -> HashMap<String, String> {
    let mut found = HashMap::new();
    let mut rest = text;
    while let Some((name, after)) = rest.split_once('=') {
        let value;
        (value, rest) = match after.strip_prefix('"') {
            Some(quoted) => quoted.split_once('"').unwrap_or((quoted, "")),
            None => after.split_once(',').unwrap_or((after, "")),
        };
        let name = name.trim_matches([' ', ',', '\t']).to_ascii_lowercase();
        found.insert(name, value.trim().to_owned());
    }
    found
}

/// What is asked of the server of tokens, after the realm's path.
pub(crate) fn token_target(target: &str, service: Option<&str>, scope: &str) -> String {
    let mut query = form_urlencoded::Serializer::new(String::new());
    if let Some(service) = service {
        query.append_pair("service", service);
    }
    query.append_pair("scope", scope);
    let joint = if target.contains('?') { '&' } else { '?' };
    format!("{target}{joint}{}", query.finish())
}

/// The token in the response of its server.
pub(crate) fn token(response: &[u8]) -> Option<String> {
    #[derive(Deserialize)]
    struct TokenResponse {
        token: Option<String>,
        access_token: Option<String>,
    }
    let TokenResponse { token, access_token } = serde_json::from_slice(response).ok()?;
    token.or(access_token).filter(|token| !token.is_empty())
}

/// The values of `Authorization` that were good before, shared by all connections.
#[derive(Debug, Default)]
pub(crate) struct TokenCache {
    needed: AtomicBool,
    by_scope: Mutex<HashMap<String, Arc<str>>>,
}

impl TokenCache {
    /// What was good for this, if anything was ever needed.
    pub(crate) fn get(&self, access: RequestedAccess<'_>) -> Option<Arc<str>> {
        if !self.needed.load(Ordering::Relaxed) {
            return None;
        }
        let tokens = self.by_scope.lock().unwrap_or_else(PoisonError::into_inner);
        tokens.get(&access.scope()).cloned()
    }

    pub(crate) fn put(&self, access: RequestedAccess<'_>, authorization: Arc<str>) {
        let mut tokens = self.by_scope.lock().unwrap_or_else(PoisonError::into_inner);
        if tokens.len() >= TOKENS_MAX {
            tokens.clear();
        }
        tokens.insert(access.scope(), authorization);
        self.needed.store(true, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    #[test]
    fn challenges_are_read() {
        let header = r#"Bearer realm="http://auth/token?x=y",service="reg, the", scope="repository:a:pull,push""#;
        let expected = AuthChallenge::Bearer {
            realm: "http://auth/token?x=y".to_owned(),
            service: Some("reg, the".to_owned()),
            scope: Some("repository:a:pull,push".to_owned()),
        };
        assert_eq!(AuthChallenge::read(header), Some(expected));
        assert_eq!(AuthChallenge::read("basic"), Some(AuthChallenge::Basic));
        assert_eq!(AuthChallenge::read(r#"Basic realm="x""#), Some(AuthChallenge::Basic));
        let bare = AuthChallenge::Bearer { realm: "x".to_owned(), service: None, scope: None };
        assert_eq!(AuthChallenge::read("bearer realm=x"), Some(bare));
        for unknown in ["Bearer service=x", "Negotiate", ""] {
            assert_eq!(AuthChallenge::read(unknown), None, "{unknown}");
        }
    }

    #[test]
    fn a_token_is_asked_for_by_service_and_scope() {
        let scope = RequestedAccess::Push("a/b").scope();
        let target = token_target("/token", Some("r s"), &scope);
        assert_eq!(target, "/token?service=r+s&scope=repository%3Aa%2Fb%3Apull%2Cpush");
        assert_eq!(token_target("/t?x=y", None, "s"), "/t?x=y&scope=s");
    }

    #[test]
    fn a_token_has_two_names() {
        assert_eq!(token(br#"{"token":"t","expires_in":60}"#).unwrap(), "t");
        assert_eq!(token(br#"{"access_token":"a"}"#).unwrap(), "a");
        assert_eq!(token(br#"{"token":""}"#), None);
        assert_eq!(token(b"no"), None);
    }

    #[test]
    fn credentials_are_a_name_and_a_password_and_not_shown() {
        let credentials: BenchCredentials = "me:a:b".parse().unwrap();
        assert_eq!(credentials.basic(), "Basic bWU6YTpi");
        assert!(!format!("{credentials:?}").contains("a:b"));
        for wrong in ["me", ":x", ""] {
            assert_eq!(wrong.parse::<BenchCredentials>(), Err(InvalidCredentials));
        }
    }

    #[test]
    fn the_token_cache_is_bounded() {
        let tokens = TokenCache::default();
        for number in 0..=TOKENS_MAX {
            tokens.put(RequestedAccess::Pull(&number.to_string()), "x".into());
        }
        assert_eq!(tokens.by_scope.lock().unwrap().len(), 1);
    }
}
