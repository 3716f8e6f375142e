//! [`LoginClient`]: how this registry is known to an OpenID provider, for logins in a browser.

use std::path::PathBuf;

use crate::Secret;

/// Maximum number of providers.
pub const LOGIN_CLIENTS_MAX: usize = 16;
/// Maximum number of scopes.
const SCOPES_MAX: usize = 16;
/// Maximum length of an id, a scope or a label, in characters.
const TEXT_CHARS_MAX: usize = 255;

/// A client of an OpenID provider, which is an `[[issuer]]` of the policy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LoginClient {
    /// The name of the issuer in the policy.
    pub issuer: String,
    pub client_id: String,
    pub secret: Option<ClientSecret>,
    /// What the link of the login page says.
    pub label: String,
    /// `openid` is always requested.
    pub scopes: Vec<String>,
}

/// Where the secret of a client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClientSecret {
    Value(Secret),
    /// Read with each login, so that it can be replaced.
    File(PathBuf),
}

impl LoginClient {
    /// What is wrong with it, and with which key.
    ///
    /// # Errors
    ///
    /// The key, and what is wrong with it.
    pub fn check(&self) -> Result<(), (&'static str, String)> {
        let is_text = |text: &str| {
            (1..=TEXT_CHARS_MAX).contains(&text.chars().count())
                && !text.chars().any(char::is_control)
        };
        // RFC 6749 section 3.3.
        let is_scope = |scope: &String| {
            let is_allowed = |b: u8| b.is_ascii_graphic() && b != b'"' && b != b'\\';
            (1..=TEXT_CHARS_MAX).contains(&scope.len()) && scope.bytes().all(is_allowed)
        };
        let text =
            format!("it must be 1 to {TEXT_CHARS_MAX} characters without control characters");
        for (key, value) in
            [("issuer", &self.issuer), ("client-id", &self.client_id), ("label", &self.label)]
        {
            if !is_text(value) {
                return Err((key, text));
            }
        }
        if self.scopes.len() > SCOPES_MAX || !self.scopes.iter().all(is_scope) {
            let why = format!("it must be at most {SCOPES_MAX} texts without spaces and quotes");
            return Err(("scopes", why));
        }
        Ok(())
    }

    /// The `scope` of an authorization request.
    pub fn scope(&self) -> String {
        let others = self.scopes.iter().map(String::as_str).filter(|scope| *scope != "openid");
        ["openid"].into_iter().chain(others).collect::<Vec<_>>().join(" ")
    }
}
