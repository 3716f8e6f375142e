//! [`Issuer`]: an external issuer of trusted tokens: a CI system, a cluster, a token
//! service (OpenID Connect Core section 3.1.3.7, distribution token specification).

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::SystemTime;

use serde::Deserialize;
use serde_json::Value;

use crate::jws::{Jwk, JwsError, UnverifiedToken, VerifyingKey};
use crate::outbound::checked_url;
use crate::random::same;
use crate::token::seconds;
use crate::{Identity, IdentityClaims, IdentitySource, NamedIdentity, ScopeEntry, TokenScope};

/// Maximum clock difference to the issuer.
const LEEWAY_S: u64 = 60;
/// Maximum size of a key set, in bytes, and maximum number of its keys.
const JWKS_BYTES_MAX: usize = 256 * 1024;
const JWKS_KEYS_MAX: usize = 64;
/// Maximum bytes of claims of a token: they are copied into tokens of the registry.
const CLAIMS_BYTES_MAX: usize = 6 * 1024;
/// Maximum length of an identity name, in bytes.
const NAME_BYTES_MAX: usize = 500;
/// Maximum age of the ID token of a login, which is fetched as soon as the issuer makes it.
const ID_TOKEN_AGE_MAX_S: u64 = 10 * 60;
const EMAIL: &str = "email";
/// Prefixes of other identities: of the registry's own (`jreg:retention`) and of its operators (`machine:root`), too.
const RESERVED_NAMES: [&str; 5] = ["access-token", "certificate", "jreg", "machine", "user"];
/// Maximum groups of a token.
const GROUPS_MAX: usize = 128;

/// An issuer in the policy file.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct IssuerSpec {
    /// The name in rules.
    pub name: String,
    /// The `iss` of its tokens.
    issuer: String,
    /// The required `aud` of its tokens.
    audience: String,
    /// The URL of its key set.
    jwks_url: Option<String>,
    /// The file of its key set.
    jwks_file: Option<PathBuf>,
    /// The template of the identity: a text with claims in braces.
    #[serde(default = "subject")]
    identity: String,
    /// The claim that lists groups.
    groups: Option<String>,
    /// Where the permissions of its tokens come from.
    #[serde(default)]
    access: IssuerAccess,
}

fn subject() -> String {
    "{sub}".to_owned()
}

/// Where the permissions of an issuer's tokens come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum IssuerAccess {
    /// Rules of the policy.
    #[default]
    Rules,
    /// The claim `access`: tokens of another token service. Deny rules apply nevertheless.
    Claim,
}

/// The location of an issuer's key set.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum KeySource {
    Url(String),
    File(PathBuf),
}

/// A trusted issuer.
#[derive(Clone, Debug)]
pub struct Issuer {
    spec: IssuerSpec,
    source: KeySource,
    template: Vec<TemplatePiece>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum TemplatePiece {
    Text(String),
    Claim(String),
}

/// Error of a token of an issuer. Messages contain nothing of the token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IssuerTokenError {
    #[error(transparent)]
    Jws(#[from] JwsError),
    #[error("the token was signed by a key that its issuer does not publish")]
    UnknownKey,
    #[error("the token's issuer is not trusted")]
    Issuer,
    #[error("the token is for another audience")]
    Audience,
    #[error("the token has expired")]
    Expired,
    #[error("the token is not valid yet")]
    NotYet,
    #[error("the token was issued for another login")]
    Nonce,
    #[error("the token's e-mail address, which would make an identity, is not verified")]
    UnverifiedEmail,
    #[error("the token lacks the claims that make an identity, or they are too long")]
    Claims,
}

impl IssuerTokenError {
    /// Whether other keys of the issuer may verify the token.
    pub fn is_by_other_key(&self) -> bool {
        matches!(self, Self::UnknownKey | Self::Jws(JwsError::Signature | JwsError::Algorithm))
    }
}

/// Error of an invalid key set.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JwksError {
    #[error(
        "the key set is larger than {JWKS_BYTES_MAX} bytes or has more than {JWKS_KEYS_MAX} keys"
    )]
    TooLarge,
    #[error("the key set is malformed")]
    Malformed,
    #[error("the key set has no key for ES256, ES384, EdDSA or RS256")]
    Empty,
}

/// The keys of an issuer (RFC 7517 section 5).
#[derive(Clone, Debug, Default)]
pub struct JwkSet {
    keys: Vec<(Option<String>, VerifyingKey)>,
}

impl JwkSet {
    /// Maximum bytes of a set.
    pub const BYTES_MAX: usize = JWKS_BYTES_MAX;

    /// Parses a set. Keys of other kinds, and for other uses, are ignored.
    ///
    /// # Errors
    ///
    /// [`JwksError`].
    pub fn parse(bytes: &[u8]) -> Result<Self, JwksError> {
        #[derive(Deserialize)]
        struct RawJwkSet {
            keys: Vec<Value>,
        }
        if bytes.len() > JWKS_BYTES_MAX {
            return Err(JwksError::TooLarge);
        }
        let set: RawJwkSet = serde_json::from_slice(bytes).map_err(|_| JwksError::Malformed)?;
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
    pub fn has(&self, token: &UnverifiedToken<'_>) -> bool {
        self.candidates(token).next().is_some()
    }

    /// The keys of the token's key id; without one, all of them (RFC 7515 section 4.1.4).
    fn candidates(&self, token: &UnverifiedToken<'_>) -> impl Iterator<Item = &VerifyingKey> {
        let kid = token.kid().map(str::to_owned);
        let is_named = move |of: &Option<String>| kid.is_none() || *of == kid;
        self.keys.iter().filter(move |(of, _)| is_named(of)).map(|(_, key)| key)
    }

    fn verify<'t>(&self, token: &'t UnverifiedToken<'_>) -> Result<&'t [u8], IssuerTokenError> {
        let mut refused = IssuerTokenError::UnknownKey;
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
struct RegisteredClaims {
    iss: String,
    aud: AudienceClaim,
    exp: f64,
    #[serde(default)]
    nbf: Option<f64>,
    // Of any type, as only ID tokens need to have them.
    #[serde(default)]
    iat: Value,
    #[serde(default)]
    nonce: Value,
    #[serde(default)]
    azp: Option<Value>,
    #[serde(default)]
    access: Vec<ScopeEntry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AudienceClaim {
    One(String),
    Several(Vec<String>),
}

impl AudienceClaim {
    fn contains(&self, audience: &str) -> bool {
        match self {
            Self::One(one) => one == audience,
            Self::Several(several) => several.iter().any(|one| one == audience),
        }
    }

    fn is_single(&self) -> bool {
        match self {
            Self::One(_) => true,
            Self::Several(several) => several.len() == 1,
        }
    }
}

/// Whether a time is before a limit with a fraction.
fn is_before(now: u64, limit: f64) -> bool {
    u32::try_from(now).map_or(u32::MAX.into(), f64::from) < limit
}

/// What the ID token of a login must be for.
#[derive(Clone, Copy, Debug)]
pub struct IdTokenRequest<'a> {
    pub client_id: &'a str,
    pub nonce: &'a str,
}

/// A verified token of an issuer.
pub(crate) type VerifiedIssuerToken = (Identity, Option<TokenScope>, u64);

impl Issuer {
    /// Validates an issuer of the policy file.
    pub(crate) fn new(spec: IssuerSpec) -> Result<Self, String> {
        let is_word = |b: u8| b.is_ascii_alphanumeric() || b == b'-';
        let name = &spec.name;
        if name.is_empty() || name.len() > 32 || !name.bytes().all(is_word) {
            return Err("its name must be 1 to 32 letters, digits and dashes".to_owned());
        }
        if RESERVED_NAMES.contains(&name.as_str()) {
            return Err(format!("its name must not be one of {}", RESERVED_NAMES.join(", ")));
        }
        if spec.issuer.is_empty() || spec.audience.is_empty() {
            return Err("its issuer and audience must not be empty".to_owned());
        }
        let source = match (&spec.jwks_url, &spec.jwks_file) {
            (Some(url), None) => {
                KeySource::Url(checked_url(url).map_err(|error| format!("its jwks-url {error}"))?)
            }
            (None, Some(file)) => KeySource::File(file.clone()),
            _ => return Err("it must have either jwks-url or jwks-file".to_owned()),
        };
        let template = template(&spec.identity)?;
        Ok(Self { spec, source, template })
    }

    /// The name in rules.
    pub fn name(&self) -> &str {
        &self.spec.name
    }

    /// The location of its keys.
    pub fn source(&self) -> &KeySource {
        &self.source
    }

    /// Where the permissions of its tokens come from.
    pub fn access(&self) -> IssuerAccess {
        self.spec.access
    }

    /// The `iss` of its tokens, which is a URL of an OpenID provider.
    pub fn url(&self) -> &str {
        &self.spec.issuer
    }

    /// Whether a token claims to be from this issuer.
    pub fn is_issuer_of(&self, token: &UnverifiedToken<'_>) -> bool {
        token.issuer().is_some_and(|issuer| issuer == self.spec.issuer)
    }

    /// Verifies a token: its identity, its own scope, and its expiry (seconds of the epoch).
    ///
    /// # Errors
    ///
    /// [`IssuerTokenError`].
    pub fn verify(
        &self,
        token: &UnverifiedToken<'_>,
        keys: &JwkSet,
        now: SystemTime,
    ) -> Result<VerifiedIssuerToken, IssuerTokenError> {
        let (payload, registered) = self.registered(token, keys, &self.spec.audience, now)?;
        let now = seconds(now);
        let identity = self.identity(claims_of(payload)?)?;
        let access = match self.spec.access {
            IssuerAccess::Rules => None,
            IssuerAccess::Claim => Some(TokenScope::of_entries(&registered.access)),
        };
        // Nothing is cached for more than an hour anyway.
        let left = (0..=60_u64).rev().map(|minutes| minutes * 60);
        let mut left = left.filter(|left| is_before(now.saturating_add(*left), registered.exp));
        Ok((identity, access, now.saturating_add(left.next().unwrap_or_default())))
    }

    /// Verifies the ID token of a login (OpenID Connect Core section 3.1.3.7).
    ///
    /// # Errors
    ///
    /// [`IssuerTokenError`].
    pub fn verify_id_token(
        &self,
        token: &UnverifiedToken<'_>,
        keys: &JwkSet,
        login: IdTokenRequest<'_>,
        now: SystemTime,
    ) -> Result<Identity, IssuerTokenError> {
        let IdTokenRequest { client_id, nonce } = login;
        let (payload, registered) = self.registered(token, keys, client_id, now)?;
        // A token for several clients says which of them it was issued to.
        let is_party = match &registered.azp {
            Some(party) => party.as_str() == Some(client_id),
            None => registered.aud.is_single(),
        };
        if !is_party {
            return Err(IssuerTokenError::Audience);
        }
        if !registered.nonce.as_str().is_some_and(|found| same(found, nonce)) {
            return Err(IssuerTokenError::Nonce);
        }
        let now = seconds(now);
        let issued = registered.iat.as_f64().ok_or(IssuerTokenError::Claims)?;
        if is_before(now.saturating_add(LEEWAY_S), issued) {
            return Err(IssuerTokenError::NotYet);
        }
        if !is_before(now.saturating_sub(ID_TOKEN_AGE_MAX_S), issued) {
            return Err(IssuerTokenError::Expired);
        }
        self.identity(claims_of(payload)?)
    }

    /// The payload of a token that this issuer signed for an audience, within its times.
    fn registered<'t>(
        &self,
        token: &'t UnverifiedToken<'_>,
        keys: &JwkSet,
        audience: &str,
        now: SystemTime,
    ) -> Result<(&'t [u8], RegisteredClaims), IssuerTokenError> {
        let payload = keys.verify(token)?;
        let registered: RegisteredClaims = serde_json::from_slice(payload).map_err(malformed)?;
        if registered.iss != self.spec.issuer {
            return Err(IssuerTokenError::Issuer);
        }
        if !registered.aud.contains(audience) {
            return Err(IssuerTokenError::Audience);
        }
        let now = seconds(now);
        if !is_before(now.saturating_sub(LEEWAY_S), registered.exp) {
            return Err(IssuerTokenError::Expired);
        }
        if registered.nbf.is_some_and(|nbf| is_before(now.saturating_add(LEEWAY_S), nbf)) {
            return Err(IssuerTokenError::NotYet);
        }
        Ok((payload, registered))
    }

    fn identity(&self, mut claims: IdentityClaims) -> Result<Identity, IssuerTokenError> {
        for passing in ["exp", "iat", "nbf", "jti", "access"] {
            claims.remove(passing);
        }
        let bytes = serde_json::to_vec(&claims).map_err(|_| IssuerTokenError::Claims)?;
        if bytes.len() > CLAIMS_BYTES_MAX {
            return Err(IssuerTokenError::Claims);
        }
        // An address that the issuer has not verified may belong to another user.
        if !is_email_verified(&claims) && claims.remove(EMAIL).is_some() && self.names_by(EMAIL) {
            return Err(IssuerTokenError::UnverifiedEmail);
        }
        let mut name = format!("{}:", self.spec.name);
        for piece in &self.template {
            match piece {
                TemplatePiece::Text(text) => name.push_str(text),
                TemplatePiece::Claim(claim) => match claims.get(claim) {
                    Some(Value::String(text)) if !text.is_empty() => name.push_str(text),
                    Some(Value::Number(number)) => name.push_str(&number.to_string()),
                    _ => return Err(IssuerTokenError::Claims),
                },
            }
        }
        if name.len() > NAME_BYTES_MAX || name.chars().any(char::is_control) {
            return Err(IssuerTokenError::Claims);
        }
        let groups = self.groups(&claims)?;
        let source = IdentitySource::Issuer(self.spec.name.clone());
        Ok(Identity::Named(Box::new(NamedIdentity { name, groups, claims, source })))
    }

    /// Whether the identity is made of a claim.
    fn names_by(&self, claim: &str) -> bool {
        self.template.iter().any(|piece| matches!(piece, TemplatePiece::Claim(of) if of == claim))
    }

    fn groups(
        &self,
        claims: &BTreeMap<String, Value>,
    ) -> Result<BTreeSet<String>, IssuerTokenError> {
        let listed = match self.spec.groups.as_ref().and_then(|claim| claims.get(claim)) {
            None => return Ok(BTreeSet::new()),
            Some(Value::String(one)) => vec![one.clone()],
            Some(Value::Array(items)) => {
                items.iter().filter_map(|item| item.as_str().map(str::to_owned)).collect()
            }
            Some(_) => return Err(IssuerTokenError::Claims),
        };
        if listed.len() > GROUPS_MAX {
            return Err(IssuerTokenError::Claims);
        }
        Ok(listed.into_iter().map(|group| format!("{}:{group}", self.spec.name)).collect())
    }
}

fn malformed(_: serde_json::Error) -> IssuerTokenError {
    IssuerTokenError::Jws(JwsError::Malformed)
}

fn claims_of(payload: &[u8]) -> Result<IdentityClaims, IssuerTokenError> {
    serde_json::from_slice(payload).map_err(malformed)
}

/// A boolean by OpenID Connect Core section 5.1; some providers send it as a text.
fn is_email_verified(claims: &IdentityClaims) -> bool {
    match claims.get("email_verified") {
        Some(Value::Bool(is_verified)) => *is_verified,
        Some(Value::String(text)) => text == "true",
        _ => false,
    }
}

fn template(text: &str) -> Result<Vec<TemplatePiece>, String> {
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
            pieces.push(TemplatePiece::Text(before.to_owned()));
        }
        pieces.push(TemplatePiece::Claim(claim.to_owned()));
        rest = after;
    }
    if rest.contains('}') || pieces.is_empty() {
        return Err(wrong());
    }
    if !rest.is_empty() {
        pieces.push(TemplatePiece::Text(rest.to_owned()));
    }
    Ok(pieces)
}

#[cfg(test)]
mod tests;
