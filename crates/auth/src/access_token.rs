//! [`AccessToken`]: an access token for a program, with what it may do and until when.
//!
//! The text of a token is `jreg_<id>_<secret>`: 64 random bits that name it and 256 that prove it.
//! Of the secret only the SHA-256 is kept: what is that random needs no slow hash.

use std::fmt;
use std::str::FromStr;
use std::time::{Duration, SystemTime};

use jreg_oci::RepositoryName;
use serde::{Deserialize, Serialize};

use crate::random::{random_hex, same, sha256_hex};
use crate::scope::Actions;
use crate::token::seconds;
use crate::{Action, Identity, Pattern, Secret, Source};

const PREFIX: &str = "jreg_";
const ID_CHARS: usize = 16;
const SECRET_CHARS: usize = 64;
/// The most permissions of one token.
const PERMISSIONS_MAX: usize = 64;
/// The longest name, in characters.
const NAME_CHARS_MAX: usize = 64;

/// The id of an access token.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AccessTokenId(String);

/// The text of an access token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AccessTokenText {
    /// Which.
    pub id: AccessTokenId,
    secret: Secret,
}

/// What is kept of an access token.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessToken {
    nonce: String,
    v: u32,
    /// The name that people gave it.
    pub name: String,
    /// The SHA-256 of the secret.
    hash: String,
    /// What it may do.
    pub permissions: Vec<AccessTokenPermission>,
    /// When it was made, in seconds of the Unix epoch.
    pub created: u64,
    /// From when on it is good for nothing.
    pub expires: Option<u64>,
    /// When it was revoked.
    pub revoked: Option<u64>,
}

/// Actions in the repositories of a pattern.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AccessTokenPermission {
    /// Which actions.
    pub actions: Actions,
    /// In which repositories.
    pub repositories: Pattern,
}

/// Why there can be no such access token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AccessTokenError {
    /// The text is not one of ours.
    #[error("an access token is jreg_, 16 hex digits, _ and 64 hex digits")]
    Token,
    /// The id is not one.
    #[error("the id of an access token is 16 hex digits")]
    Id,
    /// The name cannot be used.
    #[error("the name of an access token is 1 to {NAME_CHARS_MAX} letters, digits and . _ -")]
    Name,
    /// The permissions cannot be used.
    #[error("{0}")]
    Permissions(String),
    /// The operating system gives no random numbers.
    #[error("the operating system provides no random numbers")]
    Random,
    /// The record cannot be understood.
    #[error("the record of the access token is damaged")]
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
    /// Whether a password looks like one of ours: then it is nothing else.
    pub fn is_like(password: &str) -> bool {
        password.starts_with(PREFIX)
    }

    /// Reads the text of a token.
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

    /// The text, to be shown once to whoever made it.
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
    /// A new token with what is to be kept of it.
    ///
    /// # Errors
    ///
    /// [`AccessTokenError::Name`], [`AccessTokenError::Permissions`], [`AccessTokenError::Random`].
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

    /// Reads a record.
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

    /// Writes the record.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The record once the token is revoked.
    ///
    /// # Errors
    ///
    /// [`AccessTokenError::Random`].
    pub fn revoked(&self, now: SystemTime) -> Result<Self, AccessTokenError> {
        let nonce = random_hex::<8>().ok_or(AccessTokenError::Random)?;
        let revoked = self.revoked.or(Some(seconds(now)));
        Ok(Self { nonce, revoked, ..self.clone() })
    }

    /// Whether this is the token of the record.
    pub fn is_token(&self, token: &AccessTokenText) -> bool {
        same(&sha256_hex(token.secret.reveal().as_bytes()), &self.hash)
    }

    /// Whether it is neither revoked nor over.
    pub fn is_good(&self, now: SystemTime) -> bool {
        self.revoked.is_none() && self.expires.is_none_or(|expires| seconds(now) < expires)
    }

    /// Who presents it.
    pub fn identity(&self, id: &AccessTokenId) -> Identity {
        Identity::named(format!("access-token:{}", self.name), Source::AccessToken(id.to_string()))
    }

    /// Whether it may do this. What may be pulled may be mounted from, and whoever may pull
    /// anything may list what it may pull.
    pub fn allows(&self, action: Action, repository: Option<&RepositoryName>) -> bool {
        self.permissions.iter().any(|permission| match (action, repository) {
            (Action::Mount | Action::Pull, Some(name)) => {
                permission.actions.contains(Action::Pull) && permission.repositories.matches(name)
            }
            (Action::List, _) => permission.actions.contains(Action::Pull),
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

/// Reads `pull,push:team/**`: actions, a colon and a pattern. Several are separated by spaces.
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
    let mut actions = Actions::default();
    for word in words.split(',') {
        let action = Action::named(word).filter(|action| Actions::REPOSITORY.contains(*action));
        let action = action.ok_or_else(|| format!("{word:?} is none of pull, push, delete"))?;
        actions = actions.with(action);
    }
    let repositories = pattern.parse().map_err(|error: crate::InvalidPattern| error.to_string())?;
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
    fn a_token_proves_itself_until_it_is_revoked_or_over() {
        let (token, access_token) = access_token();
        let read = AccessTokenText::parse(&token.reveal()).unwrap();
        assert_eq!(read, token);
        assert!(access_token.is_token(&read) && access_token.is_good(start()));
        assert!(!access_token.is_good(start() + 90 * DAY));
        assert!(!access_token.revoked(start()).unwrap().is_good(start()));
        let (other, _) = self::access_token();
        assert!(!access_token.is_token(&other));
        assert_eq!(access_token.identity(&token.id).name(), Some("access-token:ci"));
    }

    #[test]
    fn a_scope_is_kept() {
        let (_, access_token) = access_token();
        let may = |action, name: &str| access_token.allows(action, name.parse().ok().as_ref());
        assert!(may(Action::Push, "team/app") && may(Action::Pull, "base/x"));
        assert!(may(Action::Mount, "base/x") && may(Action::List, ""));
        assert!(!may(Action::Push, "base/x") && !may(Action::Delete, "team/app"));
        assert!(!may(Action::Pull, "other") && !may(Action::Admin, ""));
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
    fn what_is_no_token_is_refused() {
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
    fn what_is_wrong_with_permissions_is_said() {
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
    }
}
