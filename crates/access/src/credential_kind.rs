//! What credentials look like before they are verified.

use jreg_auth::{AccessTokenText, Credentials, Policy, is_login_token};

/// Whether it has three parts, of which the first is base64url of the beginning of a JSON object.
pub(super) fn is_like_jwt(password: &str) -> bool {
    password.starts_with("eyJ") && password.bytes().filter(|byte| *byte == b'.').count() == 2
}

/// The name under which failed logins with these credentials are counted.
pub(super) fn throttled_name<'a>(credentials: &'a Credentials, policy: &Policy) -> Option<&'a str> {
    match credentials {
        Credentials::Basic { user, password } => {
            let password = password.reveal();
            let is_token = AccessTokenText::is_like(password)
                || is_login_token(password)
                || (is_like_jwt(password) && !policy.issuers().is_empty());
            (!is_token).then_some(user)
        }
        Credentials::Bearer(_) => None,
    }
}

/// The kind of credentials, for the metrics.
pub(super) fn kind_of(credentials: &Credentials) -> &'static str {
    match credentials {
        Credentials::Basic { password: secret, .. } | Credentials::Bearer(secret)
            if AccessTokenText::is_like(secret.reveal()) =>
        {
            "access_token"
        }
        Credentials::Basic { password: secret, .. } | Credentials::Bearer(secret)
            if is_login_token(secret.reveal()) =>
        {
            "login_token"
        }
        Credentials::Basic { password, .. } if is_like_jwt(password.reveal()) => "issuer_token",
        Credentials::Basic { .. } => "password",
        Credentials::Bearer(_) => "token",
    }
}
