//! [`Keyring`]: the signing keys of the registry's tokens, as one record that all instances share.
//!
//! A new key signs only after [`Keyring::LEAD`], so that every instance has read it before it receives
//! a token of it; only the very first key signs at once. An old key is removed when all tokens that it
//! signed have expired.

use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ring::hkdf;
use ring::rand::SystemRandom;
use ring::signature::{Ed25519KeyPair, KeyPair};
use serde::{Deserialize, Serialize};

use crate::identity::NamedIdentity;
use crate::jws::{JwsError, UnverifiedToken, VerifyingKey, sign_ed25519};
use crate::random::random_hex;
use crate::token::{OURSELVES, TokenClaims, TokenKind, seconds};

/// Maximum keys of a ring; a record with more is damaged.
const KEYS_MAX: usize = 4096;
/// Maximum clock difference of two instances.
const LEEWAY_S: u64 = 60;

/// The signing keys of the registry's tokens.
#[derive(Clone, Serialize, Deserialize)]
pub struct Keyring {
    nonce: String,
    v: u32,
    keys: Vec<StoredKey>,
}

#[derive(Clone, Serialize, Deserialize)]
struct StoredKey {
    kid: String,
    /// The creation time, in seconds of the Unix epoch.
    created: u64,
    /// The time from which it signs.
    signs_from: u64,
    /// The private key, PKCS#8 in base64.
    pkcs8: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyringError {
    #[error("it is no record of signing keys")]
    Damaged,
    #[error("the operating system provides no random numbers")]
    Random,
}

/// A key that signs.
pub struct SigningKey {
    kid: String,
    pair: Ed25519KeyPair,
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| &key.kid)).finish()
    }
}

impl fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "SigningKey({})", self.kid)
    }
}

impl Keyring {
    /// The time before a new key signs.
    pub const LEAD: Duration = Duration::from_secs(5 * 60);

    /// A ring with one new key, which signs at once.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Random`].
    pub fn new(now: SystemTime) -> Result<Self, KeyringError> {
        let key = StoredKey::new(seconds(now), seconds(now))?;
        Ok(Self { nonce: nonce()?, v: 1, keys: vec![key] })
    }

    /// Parses the record.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Damaged`].
    pub fn of_bytes(bytes: &[u8]) -> Result<Self, KeyringError> {
        let ring: Self = serde_json::from_slice(bytes).map_err(|_| KeyringError::Damaged)?;
        let is_sound = ring.v == 1
            && (1..=KEYS_MAX).contains(&ring.keys.len())
            && ring.keys.iter().all(|key| key.pair().is_some());
        is_sound.then_some(ring).ok_or(KeyringError::Damaged)
    }

    /// Serializes the record.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// The next ring, if it is due: with a new key if the newest is
    /// older than `rotation`, without keys whose last token (of `lifetime`) has expired.
    ///
    /// # Errors
    ///
    /// [`KeyringError::Random`].
    pub fn rotated(
        &self,
        now: SystemTime,
        rotation: Duration,
        lifetime: Duration,
    ) -> Result<Option<Self>, KeyringError> {
        let now = seconds(now);
        let newest = self.keys.iter().map(|key| key.created).max().unwrap_or_default();
        if now < newest.saturating_add(rotation.as_secs()) {
            return Ok(None);
        }
        let mut next = self.clone();
        next.nonce = nonce()?;
        next.keys.push(StoredKey::new(now, now.saturating_add(Self::LEAD.as_secs()))?);
        next.keys.sort_by_key(|key| key.signs_from);
        let grace = lifetime.as_secs().saturating_add(2 * LEEWAY_S);
        // A key signs until the one after it does.
        let ends: Vec<u64> = next.keys.iter().skip(1).map(|key| key.signs_from).collect();
        let mut ends = ends.into_iter().map(Some).chain([None]);
        next.keys.retain(|_| match ends.next().flatten() {
            Some(end) => now < end.saturating_add(grace),
            None => true,
        });
        Ok(Some(next))
    }

    /// The key that signs now.
    pub fn signing_key(&self, now: SystemTime) -> Option<SigningKey> {
        let now = seconds(now);
        let newest_first = |key: &&StoredKey| key.signs_from;
        let ready = self.keys.iter().filter(|key| key.signs_from <= now).max_by_key(newest_first);
        // With a clock that is behind there is none: all instances know the oldest.
        let key = ready.or_else(|| self.keys.iter().min_by_key(newest_first))?;
        Some(SigningKey { kid: key.kid.clone(), pair: key.pair()? })
    }

    /// A secret for another purpose than signing, derived from the key of this id, or from
    /// the newest; with the id. `None` if there is no such key.
    pub fn derived(&self, kid: Option<&str>, purpose: &str) -> Option<(String, [u8; 32])> {
        let key = match kid {
            Some(kid) => self.keys.iter().find(|key| key.kid == kid)?,
            None => self.keys.iter().max_by_key(|key| key.signs_from)?,
        };
        let salt = hkdf::Salt::new(hkdf::HKDF_SHA256, OURSELVES.as_bytes());
        let secret = salt.extract(&STANDARD.decode(&key.pkcs8).ok()?);
        let purpose = [purpose.as_bytes()];
        let mut derived = [0; 32];
        secret.expand(&purpose, hkdf::HKDF_SHA256).ok()?.fill(&mut derived).ok()?;
        Some((key.kid.clone(), derived))
    }

    /// Whether there is a key of this id.
    pub fn has(&self, kid: &str) -> bool {
        self.keys.iter().any(|key| key.kid == kid)
    }

    /// The number of keys.
    pub fn len(&self) -> usize {
        self.keys.len()
    }

    /// Whether there is none; there always is one.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty()
    }

    /// Verifies a token: one of these keys signed it, it is of this kind, for this
    /// service, and neither expired nor not yet valid.
    ///
    /// # Errors
    ///
    /// [`JwsError`]; a claim that does not match is [`JwsError::Malformed`], an expired token
    /// [`JwsError::Signature`], like every error that only a new token resolves.
    pub fn verify(
        &self,
        token: &UnverifiedToken<'_>,
        kind: TokenKind,
        service: &str,
        now: SystemTime,
    ) -> Result<TokenClaims, JwsError> {
        let payload = self.verified_payload(token, kind.as_str())?;
        let claims: TokenClaims =
            serde_json::from_slice(payload).map_err(|_| JwsError::Malformed)?;
        // No source can impersonate another, even with a stolen or confused key.
        let is_possible = claims.identity.as_ref().is_none_or(NamedIdentity::fits_source);
        if claims.iss != OURSELVES || claims.aud != service || !is_possible {
            return Err(JwsError::Malformed);
        }
        Self::is_current(claims.nbf, claims.exp, now).then_some(claims).ok_or(JwsError::Signature)
    }

    /// The payload of a token of this type in its header that one of these keys signed.
    pub(crate) fn verified_payload<'t>(
        &self,
        token: &'t UnverifiedToken<'_>,
        kind: &str,
    ) -> Result<&'t [u8], JwsError> {
        if token.kind() != Some(kind) {
            return Err(JwsError::Malformed);
        }
        let key = self.keys.iter().find(|key| Some(key.kid.as_str()) == token.kid());
        let key = key.and_then(StoredKey::verifying_key).ok_or(JwsError::KeyId)?;
        token.verify(&key)
    }

    /// Whether a time is from `begin` on, as far as clocks may differ, and before `end`.
    pub(crate) fn is_current(begin: u64, end: u64, now: SystemTime) -> bool {
        let now = seconds(now);
        begin <= now.saturating_add(LEEWAY_S) && now < end
    }
}

impl StoredKey {
    fn new(created: u64, signs_from: u64) -> Result<Self, KeyringError> {
        let pkcs8 = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new());
        let pkcs8 = STANDARD.encode(pkcs8.map_err(|_| KeyringError::Random)?);
        Ok(Self { kid: nonce()?, created, signs_from, pkcs8 })
    }

    fn pair(&self) -> Option<Ed25519KeyPair> {
        Ed25519KeyPair::from_pkcs8(&STANDARD.decode(&self.pkcs8).ok()?).ok()
    }

    fn verifying_key(&self) -> Option<VerifyingKey> {
        self.pair().map(|pair| VerifyingKey::ed25519(pair.public_key().as_ref()))
    }
}

fn nonce() -> Result<String, KeyringError> {
    random_hex::<8>().ok_or(KeyringError::Random)
}

impl SigningKey {
    /// A token of this kind; `None` only if the claims cannot be written.
    pub fn sign(&self, kind: TokenKind, claims: &TokenClaims) -> Option<String> {
        self.sign_claims(kind.as_str(), claims)
    }

    /// A token with this type in its header.
    pub(crate) fn sign_claims(&self, kind: &str, claims: &impl Serialize) -> Option<String> {
        sign_ed25519(&self.pair, &self.kid, kind, claims)
    }
}

#[cfg(test)]
mod tests;
