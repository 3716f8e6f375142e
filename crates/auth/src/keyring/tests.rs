//! Our own tokens: what they must withstand, and how their keys change.
#![allow(clippy::unwrap_used)]

use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

use super::*;
use crate::{Identity, IdentitySource, TOKEN_BYTES_MAX};

const SERVICE: &str = "registry.example.com";
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_720_000_000)
}

fn claims(now: SystemTime) -> TokenClaims {
    let Identity::Named(alice) = Identity::named("alice", IdentitySource::Htpasswd) else {
        panic!()
    };
    TokenClaims::new(SERVICE, Some(*alice), now, 5 * MINUTE, "1".to_owned())
}

fn token(ring: &Keyring, now: SystemTime) -> String {
    ring.signing_key(now).unwrap().sign(TokenKind::Access, &claims(now)).unwrap()
}

fn verify(ring: &Keyring, token: &str, now: SystemTime) -> Result<TokenClaims, JwsError> {
    ring.verify(&UnverifiedToken::parse(token)?, TokenKind::Access, SERVICE, now)
}

/// A token with its header changed, and the old signature.
fn with_header(token: &str, change: impl FnOnce(&mut Value)) -> String {
    let (header, rest) = token.split_once('.').unwrap();
    let mut header: Value =
        serde_json::from_slice(&URL_SAFE_NO_PAD.decode(header).unwrap()).unwrap();
    change(&mut header);
    format!("{}.{rest}", URL_SAFE_NO_PAD.encode(header.to_string()))
}

#[test]
fn a_token_is_valid_until_it_expires() {
    let ring = Keyring::new(start()).unwrap();
    let token = token(&ring, start());
    assert_eq!(verify(&ring, &token, start()).unwrap(), claims(start()));
    assert!(verify(&ring, &token, start() + 5 * MINUTE - Duration::from_secs(1)).is_ok());
    assert_eq!(verify(&ring, &token, start() + 5 * MINUTE), Err(JwsError::Signature), "expired");
    assert!(verify(&ring, &token, start() - MINUTE).is_ok(), "clocks may differ by a minute");
    let early = start() - MINUTE - Duration::from_secs(1);
    assert_eq!(verify(&ring, &token, early), Err(JwsError::Signature), "not yet valid");
}

#[test]
fn a_token_for_another_service_or_purpose_is_rejected() {
    let ring = Keyring::new(start()).unwrap();
    let key = ring.signing_key(start()).unwrap();
    let mut other = claims(start());
    other.aud = "other".to_owned();
    let wrong_audience = key.sign(TokenKind::Access, &other).unwrap();
    assert_eq!(verify(&ring, &wrong_audience, start()), Err(JwsError::Malformed));
    let mut other = claims(start());
    other.iss = "other".to_owned();
    let wrong_issuer = key.sign(TokenKind::Access, &other).unwrap();
    assert_eq!(verify(&ring, &wrong_issuer, start()), Err(JwsError::Malformed));
    let refresh = key.sign(TokenKind::Refresh, &claims(start())).unwrap();
    assert_eq!(verify(&ring, &refresh, start()), Err(JwsError::Malformed));
}

#[test]
fn a_name_that_its_source_cannot_issue_is_rejected() {
    let ring = Keyring::new(start()).unwrap();
    let key = ring.signing_key(start()).unwrap();
    let result = |kind: TokenKind, name: &str, source: IdentitySource, groups: &[&str]| {
        let groups = groups.iter().map(|group| (*group).to_owned()).collect();
        let named =
            NamedIdentity { name: name.to_owned(), groups, claims: Default::default(), source };
        let claims = TokenClaims { identity: Some(named), ..claims(start()) };
        let token = key.sign(kind, &claims).unwrap();
        ring.verify(&UnverifiedToken::parse(&token).unwrap(), kind, SERVICE, start()).map(|_| ())
    };
    let access_token = || IdentitySource::AccessToken("0123456789abcdef".to_owned());
    let issuer = || IdentitySource::Issuer("github".to_owned());
    for kind in [TokenKind::Access, TokenKind::Refresh] {
        for (name, source, groups) in [
            ("alice", IdentitySource::Certificate, &[][..]),
            ("alice", access_token(), &[]),
            ("alice", issuer(), &[]),
            ("access-token:ci", IdentitySource::Htpasswd, &[]),
            ("certificate:alice", IdentitySource::Htpasswd, &[]),
            ("access-token:ci", IdentitySource::Certificate, &[]),
            ("certificate:alice", access_token(), &[]),
            ("gitlab:a/b", issuer(), &[]),
            ("githubs:a/b", issuer(), &[]),
            ("alice", IdentitySource::Htpasswd, &["github:owners"]),
            ("certificate:alice", IdentitySource::Certificate, &["github:owners"]),
            ("access-token:ci", access_token(), &["github:owners"]),
            ("github:a/b", issuer(), &["gitlab:owners"]),
        ] {
            let refused = result(kind, name, source.clone(), groups);
            assert_eq!(refused, Err(JwsError::Malformed), "{name} of {source:?}");
        }
        for (name, source, groups) in [
            ("alice", IdentitySource::Htpasswd, &[][..]),
            ("access-token:ci", access_token(), &[]),
            ("certificate:alice", IdentitySource::Certificate, &[]),
            ("certificate:spiffe://a/b", IdentitySource::Certificate, &[]),
            ("github:a/b", issuer(), &["github:owners"]),
        ] {
            assert_eq!(result(kind, name, source, groups), Ok(()), "{name}");
        }
    }
}

#[test]
fn only_the_algorithm_of_the_key_is_accepted() {
    let ring = Keyring::new(start()).unwrap();
    let token = token(&ring, start());
    let payload = token.split('.').nth(1).unwrap();
    let none = URL_SAFE_NO_PAD.encode(r#"{"alg":"none","typ":"at+jwt"}"#);
    for forged in [format!("{none}.{payload}."), format!("{none}.{payload}")] {
        assert!(verify(&ring, &forged, start()).is_err(), "{forged}");
    }
    for alg in ["none", "None", "NONE", "HS256", "HS384", "HS512", "RS512", "PS256", "", "eddsa"] {
        let forged = with_header(&token, |header| header["alg"] = alg.into());
        assert_eq!(verify(&ring, &forged, start()), Err(JwsError::Algorithm), "{alg}");
    }
    for alg in ["RS256", "ES256", "ES384"] {
        let forged = with_header(&token, |header| header["alg"] = alg.into());
        assert_eq!(verify(&ring, &forged, start()), Err(JwsError::Algorithm), "{alg}");
    }
}

/// The public key as the secret of an HMAC: the classic confusion.
#[test]
fn the_public_key_is_no_hmac_secret() {
    let ring = Keyring::new(start()).unwrap();
    let public = ring.keys[0].pair().unwrap().public_key().as_ref().to_vec();
    let header = json!({ "alg": "HS256", "kid": ring.keys[0].kid, "typ": "at+jwt" });
    let payload = serde_json::to_vec(&claims(start())).unwrap();
    let signed = format!(
        "{}.{}",
        URL_SAFE_NO_PAD.encode(header.to_string()),
        URL_SAFE_NO_PAD.encode(payload)
    );
    let key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, &public);
    let signature = URL_SAFE_NO_PAD.encode(ring::hmac::sign(&key, signed.as_bytes()));
    let forged = format!("{signed}.{signature}");
    assert_eq!(verify(&ring, &forged, start()), Err(JwsError::Algorithm));
    let renamed = with_header(&forged, |header| header["alg"] = "EdDSA".into());
    assert_eq!(verify(&ring, &renamed, start()), Err(JwsError::Signature));
}

#[test]
fn a_key_id_is_no_path_and_must_be_known() {
    let ring = Keyring::new(start()).unwrap();
    let token = token(&ring, start());
    for kid in ["../../etc/passwd", "a/b", "..", "a b", "", "x\0", "'; drop", &"k".repeat(KEYS_MAX)]
    {
        let forged = with_header(&token, |header| header["kid"] = kid.into());
        assert_eq!(verify(&ring, &forged, start()), Err(JwsError::KeyId), "{kid}");
    }
    let unknown = with_header(&token, |header| header["kid"] = "0123456789abcdef".into());
    assert_eq!(verify(&ring, &unknown, start()), Err(JwsError::KeyId));
    let without = with_header(&token, |header| {
        header.as_object_mut().unwrap().remove("kid");
    });
    assert_eq!(verify(&ring, &without, start()), Err(JwsError::KeyId));
    let other = Keyring::new(start()).unwrap();
    let borrowed = with_header(&token, |header| header["kid"] = other.keys[0].kid.clone().into());
    assert_eq!(verify(&other, &borrowed, start()), Err(JwsError::Signature));
}

#[test]
fn malformed_tokens_are_rejected() {
    let ring = Keyring::new(start()).unwrap();
    let token = token(&ring, start());
    let (head, signature) = token.rsplit_once('.').unwrap();
    let tampered = format!("{}.{signature}", head.replace("eyJhdWQ", "eyJhdWE"));
    for forged in [
        "",
        ".",
        "..",
        "a.b",
        "a.b.c",
        &format!("{token}."),
        &format!(".{token}"),
        &format!("{token}.x"),
        &format!("{token}="),
        &format!("{head}."),
        &tampered,
    ] {
        assert!(verify(&ring, forged, start()).is_err() || forged == token, "{forged}");
    }
    let huge = format!("{token}{}", "A".repeat(TOKEN_BYTES_MAX));
    assert_eq!(verify(&ring, &huge, start()), Err(JwsError::TooLong));
    let critical = with_header(&token, |header| header["crit"] = json!(["exp"]));
    assert_eq!(verify(&ring, &critical, start()), Err(JwsError::Critical));
}

#[test]
fn keys_rotate_without_a_gap() {
    let mut ring = Keyring::new(start()).unwrap();
    assert!(ring.rotated(start() + DAY - MINUTE, DAY, 5 * MINUTE).unwrap().is_none());
    let mut now = start() + DAY;
    for _ in 0..10 {
        let before = token(&ring, now);
        let next = ring.rotated(now, DAY, 5 * MINUTE).unwrap().unwrap();
        assert!(verify(&next, &before, now).is_ok(), "an old token is good with the new keys");
        let after = token(&next, now);
        assert!(verify(&ring, &after, now).is_ok(), "the new key does not sign yet");
        let lead = now + Keyring::LEAD;
        let later = token(&next, lead);
        assert_eq!(verify(&ring, &later, lead), Err(JwsError::KeyId), "now it does");
        ring = next;
        assert!(ring.keys.len() <= 3, "{ring:?}");
        now += DAY;
    }
}

#[test]
fn a_key_stays_as_long_as_its_tokens() {
    let month = 30 * DAY;
    let mut ring = Keyring::new(start()).unwrap();
    let mut now = start() + DAY;
    let refresh = TokenClaims::new(SERVICE, None, now, month, "r".to_owned());
    let refresh = ring.signing_key(now).unwrap().sign(TokenKind::Refresh, &refresh).unwrap();
    for _ in 0..29 {
        ring = ring.rotated(now, DAY, month).unwrap().unwrap();
        now += DAY;
        let parsed = UnverifiedToken::parse(&refresh).unwrap();
        assert!(ring.verify(&parsed, TokenKind::Refresh, SERVICE, now).is_ok());
    }
    for _ in 0..30 {
        ring = ring.rotated(now, DAY, month).unwrap().unwrap();
        now += DAY;
    }
    assert!(ring.keys.len() <= 33, "{}", ring.keys.len());
}

#[test]
fn the_record_is_read_back_and_prints_no_key() {
    let ring = Keyring::new(start()).unwrap();
    let read = Keyring::of_bytes(&ring.to_bytes()).unwrap();
    assert!(verify(&read, &token(&ring, start()), start()).is_ok());
    for bytes in
        [&b""[..], b"{}", br#"{"nonce":"a","v":1,"keys":[]}"#, br#"{"nonce":"a","v":2,"keys":[]}"#]
    {
        assert!(Keyring::of_bytes(bytes).is_err());
    }
    assert!(!format!("{ring:?}").contains(&ring.keys[0].pkcs8));
    let key = ring.signing_key(start()).unwrap();
    assert!(!format!("{key:?}").contains(&ring.keys[0].pkcs8));
}
