//! [`Issuer`]: somebody else whose signed tokens are believed: a CI system, a cluster, a token
//! service (OpenID Connect Core section 3.1.3.7, distribution token specification).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;

use crate::jws::{Jwk, JwsError, Unverified, VerifyingKey};
use crate::token::seconds;
use crate::{Claims, Identity, Named, Scope, ScopeEntry, Source};

/// How far the issuer's clock may be from ours.
const LEEWAY_S: u64 = 60;
/// The largest set of keys, in bytes, and the most keys of one.
const JWKS_BYTES_MAX: usize = 256 * 1024;
const JWKS_KEYS_MAX: usize = 64;
/// The most bytes of claims of one token: they go on into a token of ours.
const CLAIMS_BYTES_MAX: usize = 6 * 1024;
/// The longest name that claims may make, in bytes.
const NAME_BYTES_MAX: usize = 500;
/// The most groups of one token.
const GROUPS_MAX: usize = 128;

/// An issuer, as the policy file says.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct IssuerSpec {
    /// What rules call it.
    pub name: String,
    /// The `iss` of its tokens.
    issuer: String,
    /// The `aud` that one of its tokens must have for us.
    audience: String,
    /// Where its keys are.
    jwks_url: Option<String>,
    /// The same as a file.
    jwks_file: Option<PathBuf>,
    /// What makes an identity: a text with claims in braces.
    #[serde(default = "subject")]
    identity: String,
    /// The claim that lists groups.
    groups: Option<String>,
    /// What its tokens are for.
    #[serde(default)]
    access: Access,
}

fn subject() -> String {
    "{sub}".to_owned()
}

/// What an issuer's tokens are for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Access {
    /// They say who it is; rules say what they may do.
    #[default]
    Rules,
    /// They say themselves what they are good for, in the claim `access`: tokens of another token
    /// service. Rules that deny hold nevertheless.
    Claim,
}

/// Where the keys of an issuer are.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeySource {
    /// At this address.
    Url(String),
    /// In this file.
    File(PathBuf),
}

/// Somebody whose tokens are believed.
#[derive(Clone, Debug)]
pub struct Issuer {
    spec: IssuerSpec,
    source: KeySource,
    template: Vec<Piece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Text(String),
    Claim(String),
}

/// Why a token of an issuer is not taken. Nothing of the token is repeated.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TokenRefused {
    /// It is no token, or not by these keys.
    #[error(transparent)]
    Jws(#[from] JwsError),
    /// No key of this id is known.
    #[error("the token was signed by a key that its issuer does not publish")]
    UnknownKey,
    /// It is by somebody else.
    #[error("the token's issuer is not trusted")]
    Issuer,
    /// It is for somebody else.
    #[error("the token is for another audience")]
    Audience,
    /// Its time is over.
    #[error("the token has expired")]
    Expired,
    /// Its time has not come.
    #[error("the token is not valid yet")]
    NotYet,
    /// It lacks what makes an identity.
    #[error("the token lacks the claims that make an identity, or they are too long")]
    Claims,
}

/// Why a set of keys cannot be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    /// It is too large.
    #[error(
        "the key set is larger than {JWKS_BYTES_MAX} bytes or has more than {JWKS_KEYS_MAX} keys"
    )]
    TooLarge,
    /// It is not a JSON object with a list of keys.
    #[error("the key set is malformed")]
    Malformed,
    /// It has no key that could be used.
    #[error("the key set has no key for ES256, ES384, EdDSA or RS256")]
    Empty,
}

/// The keys of an issuer (RFC 7517 section 5).
#[derive(Clone, Debug, Default)]
pub struct JwkSet {
    keys: Vec<(Option<String>, VerifyingKey)>,
}

impl JwkSet {
    /// The most bytes of a set.
    pub const BYTES_MAX: usize = JWKS_BYTES_MAX;

    /// Reads a set. Keys of other kinds, and for other uses, are left out.
    ///
    /// # Errors
    ///
    /// [`JwksError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, JwksError> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Value>,
        }
        if bytes.len() > JWKS_BYTES_MAX {
            return Err(JwksError::TooLarge);
        }
        let set: Set = serde_json::from_slice(bytes).map_err(|_| JwksError::Malformed)?;
        if set.keys.len() > JWKS_KEYS_MAX {
            return Err(JwksError::TooLarge);
        }
        let key = |value| {
            let jwk: Jwk = serde_json::from_value(value).ok()?;
            let key = VerifyingKey::of_jwk(&jwk)?;
            Some((jwk.kid, key))
        };
        let keys: Vec<_> = set.keys.into_iter().filter_map(key).collect();
        if keys.is_empty() { Err(JwksError::Empty) } else { Ok(Self { keys }) }
    }

    /// Whether there is a key that may have signed a token.
    pub fn has(&self, token: &Unverified<'_>) -> bool {
        self.candidates(token).next().is_some()
    }

    /// The keys of the token's key id; without one, all of them (RFC 7515 section 4.1.4).
    fn candidates(&self, token: &Unverified<'_>) -> impl Iterator<Item = &VerifyingKey> {
        let kid = token.kid().map(str::to_owned);
        let is_named = move |of: &Option<String>| kid.is_none() || *of == kid;
        self.keys.iter().filter(move |(of, _)| is_named(of)).map(|(_, key)| key)
    }

    fn verify<'t>(&self, token: &'t Unverified<'_>) -> Result<&'t [u8], TokenRefused> {
        let mut refused = TokenRefused::UnknownKey;
        for key in self.candidates(token) {
            match token.verify(key) {
                Ok(payload) => return Ok(payload),
                Err(error) => refused = error.into(),
            }
        }
        Err(refused)
    }
}

#[derive(Deserialize)]
struct Registered {
    iss: String,
    aud: Audience,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    #[serde(default)]
    access: Vec<ScopeEntry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum Audience {
    One(String),
    Several(Vec<String>),
}

/// Seconds before or after a time, without the loss that matters.
fn is_before(now: u64, limit: f64) -> bool {
    u32::try_from(now).map_or(u32::MAX.into(), f64::from) < limit
}

/// A verified token of an issuer.
pub(crate) type Verified = (Identity, Option<Scope>, u64);

impl Issuer {
    /// Checks what the file says of an issuer.
    pub(crate) fn new(spec: IssuerSpec) -> Result<Self, String> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let name = &spec.name;
        if name.is_empty() || name.len() > 32 || !name.bytes().all(is_word) {
            return Err("its name must be 1 to 32 letters, digits and dashes".to_owned());
        }
        // Names of these could be taken for those of others.
        if ["access-token", "certificate", "user"].contains(&name.as_str()) {
            return Err("its name must not be access-token, certificate or user".to_owned());
        }
        if spec.issuer.is_empty() || spec.audience.is_empty() {
            return Err("its issuer and audience must not be empty".to_owned());
        }
        let source = match (&spec.jwks_url, &spec.jwks_file) {
            (Some(url), None) => KeySource::Url(checked_url(url)?),
            (None, Some(file)) => KeySource::File(file.clone()),
            _ => return Err("it must have either jwks-url or jwks-file".to_owned()),
        };
        let template = template(&spec.identity)?;
        Ok(Self { spec, source, template })
    }

    /// What rules call it.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// Where its keys are.
    pub fn source(&self) -> &KeySource {
        &self.source
    }

    /// What its tokens are for.
    pub fn access(&self) -> Access {
        self.spec.access
    }

    /// Whether a token says that it is by this issuer.
    pub fn is_issuer_of(&self, token: &Unverified<'_>) -> bool {
        token.issuer().is_some_and(|issuer| issuer == self.spec.issuer)
    }

    /// Who holds a token, what it is good for by itself, and until when (seconds of the epoch).
    ///
    /// # Errors
    ///
    /// [`TokenRefused`].
    pub fn verify(
        &self,
        token: &Unverified<'_>,
        keys: &JwkSet,
        now: SystemTime,
    ) -> Result<Verified, TokenRefused> {
        let payload = keys.verify(token)?;
        let malformed = |_| TokenRefused::Jws(JwsError::Malformed);
        let registered: Registered = serde_json::from_slice(payload).map_err(malformed)?;
        if registered.iss != self.spec.issuer {
            return Err(TokenRefused::Issuer);
        }
        let is_ours = match &registered.aud {
            Audience::One(audience) => *audience == self.spec.audience,
            Audience::Several(audiences) => audiences.contains(&self.spec.audience),
        };
        if !is_ours {
            return Err(TokenRefused::Audience);
        }
        let now = seconds(now);
        if !is_before(now.saturating_sub(LEEWAY_S), registered.exp) {
            return Err(TokenRefused::Expired);
        }
        if registered.nbf.is_some_and(|nbf| is_before(now.saturating_add(LEEWAY_S), nbf)) {
            return Err(TokenRefused::NotYet);
        }
        let claims: Claims = serde_json::from_slice(payload).map_err(malformed)?;
        let identity = self.identity(claims)?;
        let access = match self.spec.access {
            Access::Rules => None,
            Access::Claim => Some(Scope::of_entries(&registered.access)),
        };
        // Beyond the next hour nothing is remembered of a token anyway.
        let left = (0..=60_u64).rev().map(|minutes| minutes * 60);
        let mut left = left.filter(|left| is_before(now.saturating_add(*left), registered.exp));
        Ok((identity, access, now.saturating_add(left.next().unwrap_or_default())))
    }

    fn identity(&self, mut claims: Claims) -> Result<Identity, TokenRefused> {
        for passing in ["exp", "iat", "nbf", "jti", "access"] {
            claims.remove(passing);
        }
        let bytes = serde_json::to_vec(&claims).map_err(|_| TokenRefused::Claims)?;
        if bytes.len() > CLAIMS_BYTES_MAX {
            return Err(TokenRefused::Claims);
        }
        let mut name = format!("{}:", self.spec.name);
        for piece in &self.template {
            match piece {
                Piece::Text(text) => name.push_str(text),
                Piece::Claim(claim) => match claims.get(claim) {
                    Some(Value::String(text)) if !text.is_empty() => name.push_str(text),
                    Some(Value::Number(number)) => name.push_str(&number.to_string()),
                    _ => return Err(TokenRefused::Claims),
                },
            }
        }
        if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(TokenRefused::Claims);
        }
        let groups = self.groups(&claims)?;
        let source = Source::Issuer(self.spec.name.clone());
        Ok(Identity::Named(Box::new(Named { name, groups, claims, source })))
    }

    fn groups(&self, claims: &BTreeMap<String, Value>) -> Result<BTreeSet<String>, TokenRefused> {
        let listed = match self.spec.groups.as_ref().and_then(|claim| claims.get(claim)) {
            None => return Ok(BTreeSet::new()),
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(items)) => {
                items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
            }
            Some(_) => return Err(TokenRefused::Claims),
        };
        if listed.len() > GROUPS_MAX {
            return Err(TokenRefused::Claims);
        }
        Ok(listed.into_iter().map(|group| format!("{}:{group}", self.spec.name)).collect())
    }
}

/// `https`, or `http` to this machine only: whoever can change the keys on their way is believed
/// whatever they say.
fn checked_url(url: &str) -> Result<String, String> {
    let (scheme, rest) = url.split_once("://").unwrap_or_default();
    let authority = rest.split(['/', '?', '#']).next().unwrap_or_default();
    let host = match authority.strip_prefix('[') {
        Some(v6) => v6.split(']').next().unwrap_or_default(),
        None => authority.split(':').next().unwrap_or_default(),
    };
    let is_fit = match scheme {
        "https" => !host.is_empty(),
        "http" => ["127.0.0.1", "::1", "localhost"].contains(&host),
        _ => false,
    };
    if is_fit && !authority.contains('@') {
        return Ok(url.to_owned());
    }
    Err("its jwks-url must be https:// (http:// only to 127.0.0.1, [::1] or localhost), without a \
         user"
        .to_owned())
}

fn template(text: &str) -> Result<Vec<Piece>, String> {
    let wrong = || {
        "its identity must be a text with at least one claim in braces, for example {sub}"
            .to_owned()
    };
    let mut pieces = Vec::new();
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        let (claim, after) = after.split_once('}').ok_or_else(wrong)?;
        if claim.is_empty() || claim.contains('{') || before.contains('}') {
            return Err(wrong());
        }
        if !before.is_empty() {
            pieces.push(Piece::Text(before.to_owned()));
        }
        pieces.push(Piece::Claim(claim.to_owned()));
        rest = after;
    }
    if rest.contains('}') || pieces.is_empty() {
        return Err(wrong());
    }
    if !rest.is_empty() {
        pieces.push(Piece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests;
