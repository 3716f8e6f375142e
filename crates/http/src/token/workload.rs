//! OAuth 2.0 token exchange (RFC 8693): exchanges an issuer's token for one of this registry's.
//!
//! The token is verified as if it were sent as a password. Delegation (`actor_token`) is not
//! supported, and the only audience is this registry, given by `audience` or `service`.

use jreg_access::{AccessGuard, AuthError, IssuedToken, TokenProof};
use jreg_auth::{Credentials, ScopeEntry, TOKEN_BYTES_MAX};
use jreg_oci::ErrorCode;
use serde_json::Value;

use super::{FormParameters, TokenParameters};
use crate::error::{ApiError, OauthError};

/// The grant type (RFC 8693 section 2.1).
pub(super) const GRANT_TYPE: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const ACCESS_TOKEN: &str = "urn:ietf:params:oauth:token-type:access_token";
/// Accepted token types of an issuer's token (RFC 8693 section 3). It is a JWT in any case.
const SUBJECT_TOKEN_TYPES: [&str; 3] = [
    "urn:ietf:params:oauth:token-type:jwt",
    "urn:ietf:params:oauth:token-type:id_token",
    ACCESS_TOKEN,
];
/// The supported parameters. None may be repeated (RFC 6749 section 3.2).
const KNOWN: [&str; 11] = [
    "grant_type",
    "subject_token",
    "subject_token_type",
    "requested_token_type",
    "actor_token",
    "actor_token_type",
    "audience",
    "resource",
    "service",
    "scope",
    "client_id",
];

/// The request in a form.
pub(super) fn parameters(
    parameters: &FormParameters<'_>,
    guard: &AccessGuard,
) -> Result<TokenParameters, ApiError> {
    if let Some(twice) = KNOWN.into_iter().find(|name| parameters.all(name).nth(1).is_some()) {
        return Err(invalid(format!("the parameter {twice} must not be repeated")));
    }
    // An empty value counts as absent (RFC 6749 section 3.2).
    let get = |name| parameters.get(name).filter(|value| !value.is_empty());
    if ["actor_token", "actor_token_type"].into_iter().any(|name| get(name).is_some()) {
        return Err(invalid("actor_token is not supported"));
    }
    if get("requested_token_type").is_some_and(|kind| kind != ACCESS_TOKEN) {
        return Err(invalid(format!("requested_token_type must be {ACCESS_TOKEN}, or absent")));
    }
    let need = |name| get(name).ok_or_else(|| invalid(format!("the parameter {name} is missing")));
    if !SUBJECT_TOKEN_TYPES.contains(&need("subject_token_type")?) {
        let types = SUBJECT_TOKEN_TYPES.join(", ");
        return Err(invalid(format!("subject_token_type must be one of {types}")));
    }
    let is_us = |name| get(name).is_none_or(|value| value == guard.service());
    if !is_us("audience") || !is_us("service") || get("resource").is_some() {
        let us = guard.service();
        let message = format!("tokens are for audience {us} only; resource is not supported");
        return Err(oauth(OauthError::InvalidTarget, message));
    }
    let credentials = Credentials::bearer(need("subject_token")?).map_err(|_| {
        let fit = format!("at most {TOKEN_BYTES_MAX} bytes of printable ASCII without spaces");
        invalid(format!("subject_token must be {fit}"))
    })?;
    Ok(TokenParameters {
        proof: TokenProof::Subject(credentials),
        scopes: parameters.scopes(),
        offline: false,
        is_workload: true,
    })
}

/// Adds the fields of this grant to a response (RFC 8693 section 2.2.1).
pub(super) fn complete(response: &mut Value, token: &IssuedToken) {
    response["issued_token_type"] = ACCESS_TOKEN.into();
    let scopes = token.scope.entries();
    if !scopes.is_empty() {
        let text = |entry: &ScopeEntry| {
            format!("{}:{}:{}", entry.kind, entry.name, entry.actions.join(","))
        };
        response["scope"] = scopes.iter().map(text).collect::<Vec<_>>().join(" ").into();
    }
}

/// The OAuth error. An invalid subject token is `invalid_request` (RFC 8693 section 2.2.2).
pub(super) fn refused(error: AuthError) -> ApiError {
    match error {
        AuthError::Invalid { reason } | AuthError::Unauthenticated { reason, .. } => {
            let message = "subject_token must be one that an issuer of the policy signed, for its \
                           audience, and not over; the log says what is wrong with it";
            invalid(message).with_denied(reason)
        }
        other => other.into(),
    }
}

fn invalid(message: impl Into<String>) -> ApiError {
    oauth(OauthError::InvalidRequest, message)
}

fn oauth(error: OauthError, message: impl Into<String>) -> ApiError {
    ApiError::bad_request(ErrorCode::Unsupported, message).with_oauth(error)
}
