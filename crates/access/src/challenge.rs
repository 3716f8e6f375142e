//! The `WWW-Authenticate` challenge of a 401 (RFC 7235 section 4.1, RFC 6750 section 3,
//! distribution token specification).
//!
//! A challenge names one scheme. Given both Basic and Bearer, clients ask for a password where an
//! anonymous token would do (docker), or use whichever comes first.

use jreg_auth::is_host;
use jreg_oci::{MirrorRoute, RepositoryName};

use super::{AccessGuardOptions, RequestInfo, Right};

/// Maximum length of `error_description` in a challenge.
const DESCRIPTION_CHARS_MAX: usize = 500;

/// The authentication scheme that clients are told to use.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// A name and a password in each request.
    Basic,
    /// A token from `realm`.
    Bearer {
        realm: TokenRealm,
        /// The audience of tokens for this registry.
        service: String,
    },
}

/// Where clients get tokens.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum TokenRealm {
    /// At `/token` of the host of the request.
    OwnHost,
    /// At `/token` below this URL of the registry.
    OwnUrl(String),
    /// At this URL of another token service.
    External(String),
}

impl TokenRealm {
    /// The URL, and the route by which this registry's own token service understands names.
    fn resolve<'a>(&self, request_info: &'a RequestInfo) -> (String, Option<&'a MirrorRoute>) {
        let base = match self {
            Self::External(url) => return (url.clone(), None),
            Self::OwnUrl(url) => url.clone(),
            Self::OwnHost => own_origin(request_info),
        };
        let route = request_info.route.as_deref();
        let path = route.map_or_else(|| "/token".to_owned(), MirrorRoute::token_path);
        (base + &path, route)
    }
}

/// Why a bearer token was not sufficient.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenFault {
    /// The request had no token.
    Missing,
    /// The token is invalid or has expired.
    Invalid,
    /// The token's scope does not cover the request.
    Scope,
}

impl Scheme {
    /// The scheme by the settings.
    pub(super) fn of(options: &AccessGuardOptions) -> Self {
        let service = options.token_audience.clone();
        let realm = match (&options.token_realm, &options.public_url) {
            (Some(realm), _) => TokenRealm::External(realm.clone()),
            (None, _) if !options.token_service => return Self::Basic,
            (None, Some(url)) => TokenRealm::OwnUrl(url.clone()),
            (None, None) => TokenRealm::OwnHost,
        };
        Self::Bearer { realm, service }
    }

    /// The value of `WWW-Authenticate`. For a rejected token, `why` becomes `error_description`.
    pub(super) fn challenge(
        &self,
        request_info: &RequestInfo,
        right: &Right,
        fault: TokenFault,
        why: &str,
    ) -> String {
        match self {
            Self::Basic => BASIC.to_owned(),
            Self::Bearer { realm, service } => {
                let (realm, route) = realm.resolve(request_info);
                let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
                if let Some(scope) = scope_of(right, route) {
                    challenge += &format!(",scope=\"{scope}\"");
                }
                challenge += match fault {
                    TokenFault::Missing => "",
                    TokenFault::Invalid => ",error=\"invalid_token\"",
                    TokenFault::Scope => ",error=\"insufficient_scope\"",
                };
                if fault != TokenFault::Missing {
                    challenge += &format!(",error_description=\"{}\"", described(why));
                }
                challenge
            }
        }
    }
}

/// The challenge of the Basic scheme.
pub const BASIC: &str = "Basic realm=\"jreg\", charset=\"UTF-8\"";

/// `text` as an `error_description` (RFC 6750 section 3), without commas: some clients split there.
fn described(text: &str) -> String {
    let fits = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | ',');
    text.chars().take(DESCRIPTION_CHARS_MAX).map(|c| if fits(c) { c } else { ' ' }).collect()
}

fn own_origin(request_info: &RequestInfo) -> String {
    let host = request_info.host.as_deref().filter(|host| is_host(host)).unwrap_or("localhost");
    format!("{}://{host}", if request_info.secure { "https" } else { "http" })
}

/// The scope that the right needs, by the name of the repository that the client uses.
fn scope_of(right: &Right, route: Option<&MirrorRoute>) -> Option<String> {
    let repository = |name: &RepositoryName, actions: &str| {
        let name = route.map_or(name.as_str(), |route| route.client_name(name));
        Some(format!("repository:{name}:{actions}"))
    };
    match right {
        // No token is for administering.
        Right::Enter | Right::Admin => None,
        Right::List => Some("registry:catalog:*".to_owned()),
        Right::See(name) | Right::Pull(name) | Right::Mount(name) | Right::Fetch(name) => {
            repository(name, "pull")
        }
        Right::Push(name) => repository(name, "pull,push"),
        Right::Delete(name) => repository(name, "delete"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn challenge(host: Option<&str>, right: &Right, fault: TokenFault) -> String {
        let scheme = Scheme::Bearer { realm: TokenRealm::OwnHost, service: "jreg".to_owned() };
        let request_info = RequestInfo { host: host.map(str::to_owned), ..RequestInfo::default() };
        scheme.challenge(&request_info, right, fault, "alice may not \"push\", to")
    }

    #[test]
    fn c11_the_challenge_names_what_is_missing() {
        let push = Right::Push("team/app".parse().unwrap());
        assert_eq!(
            challenge(Some("registry:5000"), &push, TokenFault::Scope),
            "Bearer realm=\"http://registry:5000/token\",service=\"jreg\",\
             scope=\"repository:team/app:pull,push\",error=\"insufficient_scope\",\
             error_description=\"alice may not  push   to\""
        );
        assert_eq!(
            challenge(Some("[::1]:5000"), &Right::Enter, TokenFault::Missing),
            "Bearer realm=\"http://[::1]:5000/token\",service=\"jreg\""
        );
    }

    #[test]
    fn an_https_client_gets_an_https_realm() {
        let scheme = Scheme::Bearer { realm: TokenRealm::OwnHost, service: "jreg".to_owned() };
        let host = Some("registry.test".to_owned());
        let request_info = RequestInfo { host, secure: true, ..RequestInfo::default() };
        assert_eq!(
            scheme.challenge(&request_info, &Right::Enter, TokenFault::Missing, ""),
            "Bearer realm=\"https://registry.test/token\",service=\"jreg\""
        );
    }

    #[test]
    fn a_client_of_a_mirror_is_sent_to_the_realm_of_its_names() {
        let route = MirrorRoute {
            by: jreg_oci::NamedBy::Namespace,
            namespace: "docker.io".to_owned(),
            prefix: "docker.io".parse().unwrap(),
        };
        let pull = Right::Pull("docker.io/library/nginx".parse().unwrap());
        let request_info = RequestInfo {
            host: Some("registry:5000".to_owned()),
            route: Some(route.into()),
            ..RequestInfo::default()
        };
        let own = "scope=\"repository:library/nginx:pull\"";
        for (realm, expected, scope) in [
            (TokenRealm::OwnHost, "http://registry:5000/docker.io/token", own),
            (TokenRealm::OwnUrl("https://r".to_owned()), "https://r/docker.io/token", own),
            (
                TokenRealm::External("https://t/".to_owned()),
                "https://t/",
                "scope=\"repository:docker.io/library/nginx:pull\"",
            ),
        ] {
            let scheme = Scheme::Bearer { realm, service: "jreg".to_owned() };
            let challenge = scheme.challenge(&request_info, &pull, TokenFault::Missing, "");
            assert_eq!(challenge, format!("Bearer realm=\"{expected}\",service=\"jreg\",{scope}"));
        }
    }

    #[test]
    fn only_a_valid_host_is_used_in_the_realm() {
        let long = "h".repeat(300);
        for host in
            [None, Some(""), Some("a\"b"), Some("a/b"), Some("a b"), Some("a,b"), Some(&long)]
        {
            let challenge = challenge(host, &Right::Enter, TokenFault::Missing);
            assert!(
                challenge.starts_with("Bearer realm=\"http://localhost/token\","),
                "{challenge}"
            );
        }
    }
}
