//! [`TokenClaims`]: the claims of the registry's own tokens.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{NamedIdentity, ScopeEntry};

/// The kind of a token. A token of one kind is never accepted as the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// For requests to the registry.
    Access,
    /// For requesting access tokens.
    Refresh,
}

impl TokenKind {
    /// The type in the token's header (RFC 9068 section 2.1 has the first).
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Access => "at+jwt",
            Self::Refresh => "rt+jwt",
        }
    }
}

/// The claims of a token (RFC 7519 section 4.1), in seconds of the Unix epoch.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenClaims {
    /// The issuer: always the registry itself.
    pub iss: String,
    /// The service.
    pub aud: String,
    /// The name of the identity; empty for anonymous clients.
    pub sub: String,
    pub nbf: u64,
    pub iat: u64,
    /// Exclusive.
    pub exp: u64,
    pub jti: String,
    /// The permissions of an access token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<ScopeEntry>,
    /// The identity; `None` for anonymous clients.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "jreg_identity")]
    pub identity: Option<NamedIdentity>,
    /// The fingerprint of the password, so that a changed password invalidates the token.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "jreg_password")]
    pub password: Option<String>,
    /// When the login in a browser took place that the token comes from, in milliseconds of the Unix epoch.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "jreg_session_ms")]
    pub session_ms: Option<u64>,
    /// [`crate::Policy::decisive_claims`] at that time, of identities of issuers.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "jreg_decisive")]
    pub decisive: Option<String>,
}

/// The issuer of the registry's own tokens.
pub(crate) const OURSELVES: &str = "jreg";

impl TokenClaims {
    /// IdentityClaims from `now` on, for so long.
    pub fn new(
        service: &str,
        identity: Option<NamedIdentity>,
        now: SystemTime,
        lifetime: Duration,
        id: String,
    ) -> Self {
        let now = seconds(now);
        Self {
            iss: OURSELVES.to_owned(),
            aud: service.to_owned(),
            sub: identity.as_ref().map(|named| named.name.clone()).unwrap_or_default(),
            nbf: now,
            iat: now,
            exp: now.saturating_add(lifetime.as_secs()),
            jti: id,
            access: Vec::new(),
            identity,
            password: None,
            session_ms: None,
            decisive: None,
        }
    }
}

/// Whole seconds since the Unix epoch.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
