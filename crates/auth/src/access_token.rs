//! [`AccessToken`]: a token for automation, with permissions and an expiry.
//!
//! The text of a token is `jreg_<id>_<secret>`: an id of 64 random bits and a secret of 256.
//! Only the SHA-256 of the secret is stored: a random secret needs no slow hash.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jreg_oci::{InvalidRepositoryPattern, RepositoryName, RepositoryPattern};
use serde::{Deserialize, Serialize};

use crate::random::{random_hex, same, sha256_hex};
use crate::scope::AccessActions;
use crate::token::seconds;
use crate::{AccessAction, Identity, IdentitySource, Secret};

const PREFIX: &str = "jreg_";
const ID_CHARS: usize = 16;
const SECRET_CHARS: usize = 64;
/// Maximum permissions of a token.
const PERMISSIONS_MAX: usize = 64;
/// A token that has expired when it is shown is a mistake.
const LIFETIME_MIN: Duration = Duration::from_secs(1);
/// Maximum length of a name, in characters.
const NAME_CHARS_MAX: usize = 64;

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccessTokenId(String);

/// The text of an access token, with its secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessTokenText {
    pub id: AccessTokenId,
    secret: Secret,
}

/// The record of an access token, without its secret.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    nonce: String,
    v: u32,
    pub name: String,
    /// The SHA-256 of the secret.
    hash: String,
    pub permissions: Vec<AccessTokenPermission>,
    /// The creation time, in seconds of the Unix epoch.
    pub created: u64,
    /// The expiry, in seconds of the Unix epoch.
    pub expires: Option<u64>,
    /// The revocation time, in seconds of the Unix epoch.
    pub revoked: Option<u64>,
}

/// AccessActions in the repositories of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTokenPermission {
    pub actions: AccessActions,
    pub repositories: RepositoryPattern,
}

/// Error of an invalid access token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessTokenError {
    #[error("an access token is jreg_, 16 hex digits, _ and 64 hex digits")]
    Token,
    #[error("the id of an access token is 16 hex digits")]
    Id,
    #[error("the name of an access token is 1 to {NAME_CHARS_MAX} letters, digits and . _ -")]
    Name,
    #[error("{0}")]
    Permissions(String),
    #[error("the lifetime of an access token is at least {} s; without one it is valid until it is revoked", LIFETIME_MIN.as_secs())]
    Lifetime,
    #[error("the operating system provides no random numbers")]
    Random,
    #[error("it is no record of an access token")]
    Damaged,
}

fn is_hex(text: &str, chars: usize) -> bool {
    text.len() == chars && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))
}

impl FromStr for AccessTokenId {
    type Err = AccessTokenError;

    fn from_str(text: &str) -> Result<Self, AccessTokenError> {
        is_hex(text, ID_CHARS).then(|| Self(text.to_owned())).ok_or(AccessTokenError::Id)
    }
}

impl TryFrom<String> for AccessTokenId {
    type Error = AccessTokenError;

    fn try_from(text: String) -> Result<Self, AccessTokenError> {
        text.parse()
    }
}

impl From<AccessTokenId> for String {
    fn from(id: AccessTokenId) -> Self {
        id.0
    }
}

impl fmt::Display for AccessTokenId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl AccessTokenText {
    /// Whether a password has the form of an access token; it is then treated as nothing else.
    pub fn is_like(password: &str) -> bool {
        password.starts_with(PREFIX)
    }

    /// Parses the text of a token.
    ///
    /// # Errors
    ///
    /// [`AccessTokenError::Token`].
    pub fn parse(text: &str) -> Result<Self, AccessTokenError> {
        let rest = text.strip_prefix(PREFIX).ok_or(AccessTokenError::Token)?;
        let (id, secret) = rest.split_once('_').ok_or(AccessTokenError::Token)?;
        let id = id.parse().map_err(|_| AccessTokenError::Token)?;
        is_hex(secret, SECRET_CHARS)
            .then(|| Self { id, secret: Secret::new(secret) })
            .ok_or(AccessTokenError::Token)
    }

    /// The text, to be shown once, when the token is created.
    pub fn reveal(&self) -> String {
        format!("{PREFIX}{}_{}", self.id, self.secret.reveal())
    }
}

impl fmt::Debug for AccessToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AccessToken")
            .field("name", &self.name)
            .field("permissions", &self.permissions)
            .field("expires", &self.expires)
            .field("revoked", &self.revoked)
            .finish_non_exhaustive()
    }
}

impl AccessToken {
    /// Creates a token and its record.
    ///
    /// # Errors
    ///
    /// [`AccessTokenError::Name`], [`AccessTokenError::Permissions`], [`AccessTokenError::Lifetime`],
    /// [`AccessTokenError::Random`].
    pub fn create(
        name: &str,
        permissions: Vec<AccessTokenPermission>,
        now: SystemTime,
        lifetime: Option<Duration>,
    ) -> Result<(AccessTokenText, Self), AccessTokenError> {
        if !is_name(name) {
            return Err(AccessTokenError::Name);
        }
        if permissions.is_empty() || permissions.len() > PERMISSIONS_MAX {
            let why = format!("an access token has 1 to {PERMISSIONS_MAX} permissions");
            return Err(AccessTokenError::Permissions(why));
        }
        if lifetime.is_some_and(|lifetime| lifetime < LIFETIME_MIN) {
            return Err(AccessTokenError::Lifetime);
        }
        let random = || random_hex::<8>().ok_or(AccessTokenError::Random);
        let secret = random_hex::<32>().ok_or(AccessTokenError::Random)?;
        let token = AccessTokenText { id: AccessTokenId(random()?), secret: Secret::new(&secret) };
        let created = seconds(now);
        let access_token = Self {
            nonce: random()?,
            v: 1,
            name: name.to_owned(),
            hash: sha256_hex(secret.as_bytes()),
            permissions,
            created,
            expires: lifetime.map(|lifetime| created.saturating_add(lifetime.as_secs())),
            revoked: None,
        };
        Ok((token, access_token))
    }

    /// Parses a record.
    ///
    /// # Errors
    ///
    /// [`AccessTokenError::Damaged`].
    pub fn of_bytes(bytes: &[u8]) -> Result<Self, AccessTokenError> {
        let access_token: Self =
            serde_json::from_slice(bytes).map_err(|_| AccessTokenError::Damaged)?;
        let is_sound =
            access_token.v == 1 && is_hex(&access_token.hash, 64) && is_name(&access_token.name);
        is_sound.then_some(access_token).ok_or(AccessTokenError::Damaged)
    }

    /// Serializes the record.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The record of the revoked token.
    ///
    /// # Errors
    ///
    /// [`AccessTokenError::Random`].
    pub fn revoked(&self, now: SystemTime) -> Result<Self, AccessTokenError> {
        let nonce = random_hex::<8>().ok_or(AccessTokenError::Random)?;
        let revoked = self.revoked.or(Some(seconds(now)));
        Ok(Self { nonce, revoked, ..self.clone() })
    }

    /// Whether the secret of `token` is that of the record.
    pub fn is_token(&self, token: &AccessTokenText) -> bool {
        same(&sha256_hex(token.secret.reveal().as_bytes()), &self.hash)
    }

    /// The permissions as text: `pull,push:team/**`, separated by spaces.
    pub fn allowed(&self) -> String {
        let text = |of: &AccessTokenPermission| format!("{}:{}", of.actions, of.repositories);
        self.permissions.iter().map(text).collect::<Vec<_>>().join(" ")
    }

    /// Whether it is neither revoked nor expired.
    pub fn is_valid(&self, now: SystemTime) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| seconds(now) < expires)
    }

    /// The identity of a client with this token.
    pub fn identity(&self, id: &AccessTokenId) -> Identity {
        Identity::named(
            format!("access-token:{}", self.name),
            IdentitySource::AccessToken(id.to_string()),
        )
    }

    /// Whether it allows an action. Pull includes mounting from the repository and fetching, and any pull permission
    /// includes listing the repositories that may be pulled.
    pub fn allows(&self, action: AccessAction, repository: Option<&RepositoryName>) -> bool {
        self.permissions.iter().any(|permission| match (action, repository) {
            (AccessAction::Mount | AccessAction::Pull | AccessAction::Fetch, Some(name)) => {
                permission.actions.contains(AccessAction::Pull)
                    && permission.repositories.matches(name)
            }
            (AccessAction::List, _) => permission.actions.contains(AccessAction::Pull),
            (_, Some(name)) => {
                permission.actions.contains(action) && permission.repositories.matches(name)
            }
            (_, None) => false,
        })
    }
}

fn is_name(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || b"._-".contains(&b);
    !name.is_empty() && name.len() <= NAME_CHARS_MAX && name.bytes().all(is_allowed)
}

/// Parses `pull,push:team/**`: actions, a colon and a pattern. Several are separated by spaces.
///
/// # Errors
///
/// [`AccessTokenError::Permissions`].
pub fn parse_permissions(text: &str) -> Result<Vec<AccessTokenPermission>, AccessTokenError> {
    text.split_whitespace()
        .map(permission)
        .collect::<Result<_, _>>()
        .map_err(AccessTokenError::Permissions)
}

fn permission(text: &str) -> Result<AccessTokenPermission, String> {
    let (words, pattern) = text.split_once(':').ok_or_else(|| {
        format!("{text:?} must be ACTIONS:REPOSITORIES, for example pull,push:team/**")
    })?;
    let mut actions = AccessActions::default();
    for word in words.split(',') {
        let action =
            AccessAction::named(word).filter(|action| AccessActions::REPOSITORY.contains(*action));
        let action = action.ok_or_else(|| format!("{word:?} is none of pull, push, delete"))?;
        actions = actions.with(action);
    }
    let repositories =
        pattern.parse().map_err(|error: InvalidRepositoryPattern| error.to_string())?;
    Ok(AccessTokenPermission { actions, repositories })
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;

    const DAY: Duration = Duration::from_secs(86_400);

    fn start() -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_720_000_000)
    }

    fn access_token() -> (AccessTokenText, AccessToken) {
        let permissions = parse_permissions("pull,push:team/** pull:base/*").unwrap();
        AccessToken::create("ci", permissions, start(), Some(90 * DAY)).unwrap()
    }

    #[test]
    fn a_token_is_valid_until_it_is_revoked_or_expired() {
        let (token, access_token) = access_token();
        let read = AccessTokenText::parse(&token.reveal()).unwrap();
        assert_eq!(read, token);
        assert!(access_token.is_token(&read) && access_token.is_valid(start()));
        assert!(!access_token.is_valid(start() + 90 * DAY));
        assert!(!access_token.revoked(start()).unwrap().is_valid(start()));
        let (other, _) = self::access_token();
        assert!(!access_token.is_token(&other));
        assert_eq!(access_token.identity(&token.id).name(), Some("access-token:ci"));
    }

    #[test]
    fn permissions_are_enforced() {
        let (_, access_token) = access_token();
        let may = |action, name: &str| access_token.allows(action, name.parse().ok().as_ref());
        assert!(may(AccessAction::Push, "team/app") && may(AccessAction::Pull, "base/x"));
        assert!(may(AccessAction::Mount, "base/x") && may(AccessAction::List, ""));
        assert!(!may(AccessAction::Push, "base/x") && !may(AccessAction::Delete, "team/app"));
        assert!(!may(AccessAction::Pull, "other") && !may(AccessAction::Admin, ""));
    }

    #[test]
    fn the_record_holds_and_prints_no_secret() {
        let (token, access_token) = access_token();
        let bytes = access_token.to_bytes();
        assert_eq!(AccessToken::of_bytes(&bytes).unwrap(), access_token);
        let secret = token.secret.reveal();
        let printed = format!("{access_token:?} {token:?} {}", String::from_utf8(bytes).unwrap());
        assert!(!printed.contains(secret), "{printed}");
        assert!(AccessToken::of_bytes(b"{}").is_err());
    }

    #[test]
    fn malformed_tokens_are_rejected() {
        let (token, _) = access_token();
        let text = token.reveal();
        for bad in [
            "",
            "jreg_",
            "jreg_x_y",
            &text.to_uppercase(),
            text.trim_start_matches('j'),
            &format!("{text}0"),
            &text.replace("jreg_", "jreg-"),
            "jreg_../../x_y",
        ] {
            assert!(AccessTokenText::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn errors_of_permissions_name_the_problem() {
        for (text, part) in [
            ("pull", "must be ACTIONS:REPOSITORIES"),
            ("list:a", "is none of pull, push, delete"),
            ("pull:../a", "no repository name can match it"),
            (":a", "is none of"),
        ] {
            let error = parse_permissions(text).unwrap_err().to_string();
            assert!(error.contains(part), "{error}");
        }
        assert!(
            AccessToken::create("a b", parse_permissions("pull:a").unwrap(), start(), None)
                .is_err()
        );
        assert!(AccessToken::create("a", Vec::new(), start(), None).is_err());
        for lifetime in [Duration::ZERO, Duration::from_millis(999)] {
            let permissions = parse_permissions("pull:a").unwrap();
            let refused = AccessToken::create("a", permissions, start(), Some(lifetime));
            assert_eq!(refused.unwrap_err(), AccessTokenError::Lifetime, "it would have expired");
        }
    }
}
