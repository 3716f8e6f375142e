//! What a 401 tells the client to bring (RFC 7235 section 4.1, RFC 6750 section 3, distribution
//! token specification).
//!
//! It names one scheme. With two, clients that are told Basic and Bearer at once ask for a password
//! even where an anonymous token would do (docker), or take the first they find.

use jreg_auth::is_host;
use jreg_oci::RepositoryName;

use super::{Asker, Right};

/// The longest description of a fault in a challenge.
const DESCRIPTION_CHARS_MAX: usize = 500;

/// How clients get in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Scheme {
    /// With a password in each request.
    Basic,
    /// With a token from this address; `None`: from `/token` of whatever host they came to.
    Bearer {
        /// The address.
        realm: Option<String>,
        /// The name of this registry in tokens.
        service: String,
    },
}

/// What was wrong with a token.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TokenFault {
    /// There was none.
    Missing,
    /// It is not good, or not any more.
    Invalid,
    /// It is good for something else.
    Scope,
}

impl Scheme {
    /// The value of `WWW-Authenticate`. With a token that was refused it says `why`.
    pub(super) fn challenge(
        &self,
        asker: &Asker,
        right: &Right,
        fault: TokenFault,
        why: &str,
    ) -> String {
        match self {
            Self::Basic => BASIC.to_owned(),
            Self::Bearer { realm, service } => {
                let realm = realm.clone().unwrap_or_else(|| own_realm(asker));
                let mut challenge = format!("Bearer realm=\"{realm}\",service=\"{service}\"");
                if let Some(scope) = scope_of(right) {
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

/// What asks for a password.
pub const BASIC: &str = "Basic realm=\"jreg\", charset=\"UTF-8\"";

/// A text as an `error_description` (RFC 6750 section 3), without commas: some clients split there.
fn described(text: &str) -> String {
    let fits = |c: char| matches!(c, ' '..='~') && !matches!(c, '"' | '\\' | ',');
    text.chars().take(DESCRIPTION_CHARS_MAX).map(|c| if fits(c) { c } else { ' ' }).collect()
}

fn own_realm(asker: &Asker) -> String {
    let host = asker.host.as_deref().filter(|host| is_host(host)).unwrap_or("localhost");
    format!("{}://{host}/token", if asker.secure { "https" } else { "http" })
}

fn scope_of(right: &Right) -> Option<String> {
    let repository =
        |name: &RepositoryName, actions: &str| Some(format!("repository:{name}:{actions}"));
    match right {
        Right::Enter => None,
        Right::List => Some("registry:catalog:*".to_owned()),
        Right::See(name) | Right::Pull(name) | Right::Mount(name) => repository(name, "pull"),
        Right::Push(name) => repository(name, "pull,push"),
        Right::Delete(name) => repository(name, "delete"),
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    fn challenge(host: Option<&str>, right: &Right, fault: TokenFault) -> String {
        let scheme = Scheme::Bearer { realm: None, service: "jreg".to_owned() };
        let asker = Asker { host: host.map(str::to_owned), ..Asker::default() };
        scheme.challenge(&asker, right, fault, "alice may not \"push\", to")
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
    fn who_came_by_https_is_sent_on_by_https() {
        let scheme = Scheme::Bearer { realm: None, service: "jreg".to_owned() };
        let host = Some("registry.test".to_owned());
        let asker = Asker { host, secure: true, ..Asker::default() };
        assert_eq!(
            scheme.challenge(&asker, &Right::Enter, TokenFault::Missing, ""),
            "Bearer realm=\"https://registry.test/token\",service=\"jreg\""
        );
    }

    #[test]
    fn a_host_is_repeated_only_if_it_is_one() {
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
