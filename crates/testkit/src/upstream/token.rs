//! [`UpstreamAuth`]: how clients of a scripted upstream must authenticate, and its token service.

use std::collections::HashMap;

use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde_json::{Value, json};

use super::request::UpstreamPath;

/// How clients must authenticate.
#[derive(Clone, Debug, Default)]
pub enum UpstreamAuth {
    /// Not at all.
    #[default]
    Open,
    /// By user and password with each request.
    Basic { user: String, password: String },
    /// By a token.
    Bearer(TokenService),
}

/// A token service, and what the registry does with its tokens.
#[derive(Clone, Debug, Default)]
pub struct TokenService {
    /// The realm of challenges; its own `/token` by default.
    pub realm: Option<String>,
    /// The user and password that it accepts; `None` accepts clients without any, and refuses every password.
    pub user: Option<(String, String)>,
    /// The refresh token that it accepts.
    pub refresh_token: Option<String>,
    /// Clients without credentials get tokens, too.
    pub is_anonymous_allowed: bool,
    pub expires_in: Option<u64>,
    /// The scope of challenges, instead of the usual one.
    pub scope: Option<String>,
    /// Repositories for which it refuses tokens with 403.
    pub refused: Vec<String>,
    /// Repositories for which it gives tokens that the registry refuses with 401.
    pub without_access: Vec<String>,
    /// Repositories to which the registry responds with 403.
    pub forbidden: Vec<String>,
    /// The token is in `access_token` instead of `token`.
    pub is_access_token: bool,
}

impl TokenService {
    /// One that accepts clients without credentials.
    pub fn anonymous() -> Self {
        Self { is_anonymous_allowed: true, ..Self::default() }
    }

    /// One that accepts only this user.
    pub fn of_user(user: &str, password: &str) -> Self {
        Self { user: Some((user.to_owned(), password.to_owned())), ..Self::default() }
    }
}

/// The tokens that were issued, each with its scope.
#[derive(Debug, Default)]
pub(super) struct TokenState {
    issued: HashMap<String, String>,
}

/// Tokens differ through all of a process, so that one of another server is not accepted.
static NUMBER: std::sync::atomic::AtomicUsize = std::sync::atomic::AtomicUsize::new(1);

/// What the registry says to a request: its status, and the challenge.
pub(super) type Refusal = (u16, Option<String>);

impl UpstreamAuth {
    pub(super) fn challenge(&self, base: &str, path: &UpstreamPath) -> Option<String> {
        match self {
            Self::Open => None,
            Self::Basic { .. } => Some("Basic realm=\"registry\"".to_owned()),
            Self::Bearer(service) => {
                let realm = service.realm.clone().unwrap_or_else(|| format!("{base}/token"));
                let scope = match (&service.scope, path, path.repository()) {
                    (Some(scope), ..) => format!(",scope=\"{scope}\""),
                    (None, UpstreamPath::Catalog, _) => ",scope=\"registry:catalog:*\"".to_owned(),
                    (None, _, Some(repository)) => {
                        format!(",scope=\"repository:{repository}:pull\"")
                    }
                    (None, _, None) => String::new(),
                };
                Some(format!("Bearer realm=\"{realm}\",service=\"registry.test\"{scope}"))
            }
        }
    }

    /// Whether a request may be served.
    pub(super) fn check(
        &self,
        tokens: &TokenState,
        base: &str,
        path: &UpstreamPath,
        authorization: Option<&str>,
    ) -> Result<(), Refusal> {
        let unauthorized = || Err((401, self.challenge(base, path)));
        match self {
            Self::Open => Ok(()),
            Self::Basic { user, password } => match authorization {
                Some(given) if given == basic(user, password) => Ok(()),
                _ => unauthorized(),
            },
            Self::Bearer(service) => {
                let repository = path.repository().unwrap_or_default();
                let token = authorization.and_then(|given| given.strip_prefix("Bearer "));
                let Some(scope) = token.and_then(|token| tokens.issued.get(token)) else {
                    return unauthorized();
                };
                let is_wanted = match path {
                    UpstreamPath::Catalog => scope.contains("registry:catalog:*"),
                    _ if repository.is_empty() => true,
                    _ => match &service.scope {
                        Some(wanted) => scope == wanted,
                        None => scope.contains(&format!("repository:{repository}:")),
                    },
                };
                let is_listed = |list: &[String]| list.iter().any(|name| name == repository);
                if is_listed(&service.forbidden) {
                    return Err((403, None));
                }
                match is_wanted && !is_listed(&service.without_access) {
                    true => Ok(()),
                    false => unauthorized(),
                }
            }
        }
    }

    /// The response of the token service: its status and document.
    pub(super) fn issue(
        &self,
        tokens: &mut TokenState,
        query: &str,
        form: &str,
        authorization: Option<&str>,
    ) -> (u16, Value) {
        let Self::Bearer(service) = self else {
            return (404, json!({"details": "no tokens here"}));
        };
        let parameters: Vec<_> = form_urlencoded::parse(query.as_bytes())
            .chain(form_urlencoded::parse(form.as_bytes()))
            .map(|(name, value)| (name.into_owned(), value.into_owned()))
            .collect();
        let value = |name: &str| {
            parameters.iter().find(|(known, _)| known == name).map(|(_, value)| value.clone())
        };
        let is_accepted = match (value("refresh_token"), authorization) {
            (Some(given), _) => service.refresh_token == Some(given),
            (None, Some(given)) => {
                service.user.as_ref().is_some_and(|(user, password)| given == basic(user, password))
            }
            (None, None) => service.is_anonymous_allowed,
        };
        if !is_accepted {
            return (401, json!({"details": "incorrect username or password"}));
        }
        let scopes =
            parameters.iter().filter(|(name, _)| name == "scope").map(|(_, scope)| scope.as_str());
        let scope = scopes.collect::<Vec<_>>().join(" ");
        if service.refused.iter().any(|name| scope.contains(&format!("repository:{name}:"))) {
            return (403, json!({"errors": [{"code": "DENIED", "message": "denied"}]}));
        }
        let number = NUMBER.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let token = format!("token-{number}");
        tokens.issued.insert(token.clone(), scope);
        let mut document = json!({});
        document[if service.is_access_token { "access_token" } else { "token" }] = token.into();
        if let Some(expires_in) = service.expires_in {
            document["expires_in"] = expires_in.into();
        }
        (200, document)
    }
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64.encode(format!("{user}:{password}")))
}
