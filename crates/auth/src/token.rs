//! [`TokenClaims`]: what our own tokens say.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::{Named, ScopeEntry};

/// What a token is for. A token of one kind is never taken for the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// For requests to the registry.
    Access,
    /// For getting access tokens.
    Refresh,
}

impl Kind {
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
    /// The service that the token is for.
    pub aud: String,
    /// Who holds it; empty for nobody.
    pub sub: String,
    /// From when.
    pub nbf: u64,
    /// When it was issued.
    pub iat: u64,
    /// Until when, exclusively.
    pub exp: u64,
    /// Its own name.
    pub jti: String,
    /// What it is good for; of an access token.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub access: Vec<ScopeEntry>,
    /// Who holds it, in full; `None`: nobody.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "jreg_identity")]
    pub identity: Option<Named>,
    /// The fingerprint of the password that the holder gave, so that another one ends it.
    #[serde(default, skip_serializing_if = "Option::is_none", rename = "jreg_password")]
    pub password: Option<String>,
}

/// The issuer of our own tokens.
pub(crate) const OURSELVES: &str = "jreg";

impl TokenClaims {
    /// Claims from `now` on, for so long.
    pub fn new(
        service: &str,
        identity: Option<Named>,
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
        }
    }
}

/// Whole seconds since the Unix epoch.
pub(crate) fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
