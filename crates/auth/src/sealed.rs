//! Encryption of short texts that clients carry and may not read, by a key that is derived from one of
//! a [`Keyring`].

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::aead::{Aad, CHACHA20_POLY1305, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom, SystemRandom};

use crate::Keyring;

/// Bytes that are added to a text: the nonce and the tag.
pub(crate) const ADDED_BYTES: usize = NONCE_LEN + 16;

fn key(keyring: &Keyring, kid: Option<&str>, purpose: &str) -> Option<(String, LessSafeKey)> {
    let (kid, secret) = keyring.derived(kid, purpose)?;
    Some((kid, LessSafeKey::new(UnboundKey::new(&CHACHA20_POLY1305, &secret).ok()?)))
}

/// The id of the newest key, and the encrypted bytes as base64url. `None`: there are no random numbers.
pub(crate) fn seal(keyring: &Keyring, purpose: &str, text: &[u8]) -> Option<(String, String)> {
    let (kid, key) = key(keyring, None, purpose)?;
    let mut nonce = [0; NONCE_LEN];
    SystemRandom::new().fill(&mut nonce).ok()?;
    let mut bytes = text.to_vec();
    let aad = Aad::from(kid.as_bytes());
    key.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut bytes).ok()?;
    Some((kid, URL_SAFE_NO_PAD.encode([&nonce[..], &bytes].concat())))
}

/// The bytes that were encrypted for this purpose with the key of this id.
pub(crate) fn unseal(keyring: &Keyring, purpose: &str, kid: &str, sealed: &str) -> Option<Vec<u8>> {
    let (kid, key) = key(keyring, Some(kid), purpose)?;
    let sealed = URL_SAFE_NO_PAD.decode(sealed).ok()?;
    let (nonce, bytes) = sealed.split_first_chunk::<NONCE_LEN>()?;
    let mut bytes = bytes.to_vec();
    let aad = Aad::from(kid.as_bytes());
    let opened = key.open_in_place(Nonce::assume_unique_for_key(*nonce), aad, &mut bytes).ok()?;
    Some(opened.to_vec())
}
