//! Tokens of others: what makes an identity, and what is refused.
#![allow(clippy::unwrap_used)]

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use super::*;

/// An issuer with a P-256 key.
struct TestIssuer {
    pair: EcdsaKeyPair,
}

impl TestIssuer {
    fn new() -> Self {
        let random = SystemRandom::new();
        let algorithm = &ECDSA_P256_SHA256_FIXED_SIGNING;
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        Self { pair }
    }

    fn jwk(&self, kid: &str) -> Value {
        let point = self.pair.public_key().as_ref();
        let (x, y) = (URL_SAFE_NO_PAD.encode(&point[1..33]), URL_SAFE_NO_PAD.encode(&point[33..]));
        json!({ "kty": "EC", "crv": "P-256", "use": "sig", "alg": "ES256", "kid": kid, "x": x, "y": y })
    }

    fn sign(&self, kid: &str, claims: &Value) -> String {
        let header = json!({ "alg": "ES256", "kid": kid, "typ": "JWT" });
        let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", part(&header), part(claims));
        let signature = self.pair.sign(&SystemRandom::new(), signed.as_bytes()).unwrap();
        format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature))
    }
}

fn set(keys: &[Value]) -> JwkSet {
    JwkSet::parse(json!({ "keys": keys }).to_string().as_bytes()).unwrap()
}

const NOW_S: u64 = 1_720_000_000;

fn now() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(NOW_S)
}

fn github(extra: &str) -> Issuer {
    let text = format!(
        "name = 'github'\nissuer = 'https://ci'\naudience = 'us'\njwks-url = 'https://ci/keys'\n\
         identity = '{{repository}}'\ngroups = 'teams'\n{extra}"
    );
    Issuer::new(toml::from_str(&text).unwrap()).unwrap()
}

fn claims() -> Value {
    json!({
        "iss": "https://ci", "aud": ["them", "us"], "exp": NOW_S + 600, "nbf": NOW_S, "iat": NOW_S,
        "sub": "repo:acme/app", "repository": "acme/app", "ref": "refs/heads/main",
        "teams": ["core"],
    })
}

fn changed(name: &str, value: Value) -> Value {
    let mut claims = claims();
    claims[name] = value;
    claims
}

fn verify(
    issuer: &TestIssuer,
    keys: &JwkSet,
    claims: &Value,
) -> Result<VerifiedIssuerToken, IssuerTokenError> {
    let token = issuer.sign("k1", claims);
    github("").verify(&UnverifiedToken::parse(&token)?, keys, now())
}

#[test]
fn claims_make_an_identity() {
    let issuer = TestIssuer::new();
    let (identity, access, until) = verify(&issuer, &set(&[issuer.jwk("k1")]), &claims()).unwrap();
    let Identity::Named(named) = identity else { panic!() };
    assert_eq!(named.name, "github:acme/app");
    assert_eq!(named.groups, ["github:core".to_owned()].into());
    assert_eq!(named.claims["ref"], "refs/heads/main");
    assert!(!named.claims.contains_key("exp"));
    assert_eq!(named.source, IdentitySource::Issuer("github".to_owned()));
    assert!(access.is_none());
    assert!((NOW_S..=NOW_S + 600).contains(&until));
}

#[test]
fn tokens_of_a_token_service_carry_their_permissions() {
    let issuer = TestIssuer::new();
    let access = json!([{ "type": "repository", "name": "a", "actions": ["pull"] }]);
    let token = issuer.sign("k1", &changed("access", access));
    let token = UnverifiedToken::parse(&token).unwrap();
    let keys = set(&[issuer.jwk("k1")]);
    let (_, access, _) = github("access = 'claim'").verify(&token, &keys, now()).unwrap();
    assert_eq!(access, Some(TokenScope::parse(["repository:a:pull"])));
    let (_, access, _) = github("").verify(&token, &keys, now()).unwrap();
    assert_eq!(access, None, "only where the policy says so");
}

#[test]
fn invalid_tokens_are_rejected() {
    let issuer = TestIssuer::new();
    let keys = set(&[issuer.jwk("k1")]);
    for (claims, refusal) in [
        (changed("iss", json!("https://evil")), IssuerTokenError::Issuer),
        (changed("iss", json!("https://ci/")), IssuerTokenError::Issuer),
        (changed("aud", json!("them")), IssuerTokenError::Audience),
        (changed("aud", json!([])), IssuerTokenError::Audience),
        (changed("exp", json!(NOW_S - 60)), IssuerTokenError::Expired),
        (changed("exp", json!(-1)), IssuerTokenError::Expired),
        (changed("nbf", json!(NOW_S + 61)), IssuerTokenError::NotYet),
        (changed("exp", json!("soon")), IssuerTokenError::Jws(JwsError::Malformed)),
        (changed("exp", Value::Null), IssuerTokenError::Jws(JwsError::Malformed)),
        (changed("repository", json!("")), IssuerTokenError::Claims),
        (changed("repository", json!({ "a": 1 })), IssuerTokenError::Claims),
        (changed("repository", json!("a\nb")), IssuerTokenError::Claims),
        (changed("repository", json!("x".repeat(NAME_BYTES_MAX))), IssuerTokenError::Claims),
        (changed("blob", json!("x".repeat(CLAIMS_BYTES_MAX))), IssuerTokenError::Claims),
        (changed("teams", json!({ "a": 1 })), IssuerTokenError::Claims),
    ] {
        assert_eq!(verify(&issuer, &keys, &claims).unwrap_err(), refusal, "{claims}");
    }
    assert!(verify(&issuer, &keys, &changed("nbf", json!(NOW_S + 60))).is_ok());
    assert!(verify(&issuer, &keys, &changed("exp", json!(NOW_S - 59))).is_ok());
}

#[test]
fn only_published_keys_count() {
    let (issuer, other) = (TestIssuer::new(), TestIssuer::new());
    let refused = |keys: &[Value]| verify(&issuer, &set(keys), &claims()).unwrap_err();
    assert_eq!(refused(&[other.jwk("k2")]), IssuerTokenError::UnknownKey);
    assert_eq!(refused(&[other.jwk("k1")]), IssuerTokenError::Jws(JwsError::Signature));
    assert!(verify(&issuer, &set(&[other.jwk("k2"), issuer.jwk("k1")]), &claims()).is_ok());
}

/// A key that is published for one algorithm is taken for no other, nor is a symmetric one.
#[test]
fn keys_are_used_for_their_own_algorithm_only() {
    let issuer = TestIssuer::new();
    let mut jwk = issuer.jwk("k1");
    for (field, value) in
        [("alg", "RS256"), ("alg", "HS256"), ("use", "enc"), ("crv", "P-384"), ("kty", "oct")]
    {
        let mut jwk = jwk.clone();
        jwk[field] = value.into();
        let parsed = JwkSet::parse(json!({ "keys": [jwk] }).to_string().as_bytes());
        assert_eq!(parsed.unwrap_err(), JwksError::Empty, "{field} {value}");
    }
    jwk["k"] = "c2VjcmV0".into();
    assert!(verify(&issuer, &set(&[jwk]), &claims()).is_ok(), "what else it has is ignored");
}

#[test]
fn sets_are_bounded() {
    assert_eq!(JwkSet::parse(b"[]").unwrap_err(), JwksError::Malformed);
    assert_eq!(JwkSet::parse(br#"{"keys":[]}"#).unwrap_err(), JwksError::Empty);
    let many = json!({ "keys": vec![json!({}); JWKS_KEYS_MAX + 1] }).to_string();
    assert_eq!(JwkSet::parse(many.as_bytes()).unwrap_err(), JwksError::TooLarge);
    let huge = vec![b' '; JWKS_BYTES_MAX + 1];
    assert_eq!(JwkSet::parse(&huge).unwrap_err(), JwksError::TooLarge);
}

/// From RFC 7515 appendix A.2, and RFC 8037 appendix A.4.
#[test]
fn the_examples_of_the_specifications_verify() {
    let rsa = json!({ "kty": "RSA", "e": "AQAB", "n":
        "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ" });
    let token = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
    let token = UnverifiedToken::parse(token).unwrap();
    assert!(set(&[rsa]).verify(&token).is_ok());
    assert_eq!(token.issuer().as_deref(), Some("joe"));
    let ed = json!({ "kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo" });
    let token = "eyJhbGciOiJFZERTQSJ9.RXhhbXBsZSBvZiBFZDI1NTE5IHNpZ25pbmc.hgyY0il_MGCjP0JzlnLWG1PPOt7-09PGcvMg3AIbQR6dWbhijcNR4ki4iylGjg5BhVsPt9g7sVvpAr_MuM0KAg";
    assert!(set(&[ed]).verify(&UnverifiedToken::parse(token).unwrap()).is_ok());
}

#[test]
fn errors_of_an_issuer_name_the_problem() {
    let base = "name = 'x'\nissuer = 'i'\naudience = 'a'\n";
    let wrong = |text: &str| Issuer::new(toml::from_str(text).unwrap()).unwrap_err();
    for (lines, part) in [
        ("", "either jwks-url or jwks-file"),
        ("jwks-url = 'https://h/k'\njwks-file = 'f'", "either jwks-url or jwks-file"),
        ("jwks-url = 'http://h/k'", "must be https://"),
        ("jwks-url = 'http://127.0.0.1.evil/k'", "must be https://"),
        ("jwks-url = 'http://localhost@evil/k'", "must be https://"),
        ("jwks-url = 'file:///etc/passwd'", "must be https://"),
        ("jwks-url = 'https://h/k'\nidentity = 'all'", "at least one claim"),
        ("jwks-url = 'https://h/k'\nidentity = '{a'", "at least one claim"),
        ("jwks-url = 'https://h/k'\nidentity = '{}'", "at least one claim"),
        ("jwks-url = 'https://h/k'\nidentity = 'a}{b}'", "at least one claim"),
    ] {
        let error = wrong(&format!("{base}{lines}"));
        assert!(error.contains(part), "{lines}: {error}");
    }
    // Its identities would be those that the registry itself and its operators have in events and the audit log.
    for reserved in ["access-token", "certificate", "jreg", "machine", "user"] {
        let named = base.replace("'x'", &format!("'{reserved}'")) + "jwks-url = 'https://h/k'";
        assert!(wrong(&named).contains("must not be one of"), "{reserved}");
    }
}

fn login_claims(change: impl FnOnce(&mut Value)) -> Value {
    let mut claims = json!({
        "iss": "https://ci", "aud": "client", "exp": NOW_S + 300, "iat": NOW_S, "sub": "u-1",
        "nonce": "n", "repository": "alice", "teams": ["core"],
    });
    change(&mut claims);
    claims
}

fn verify_login(claims: &Value) -> Result<Identity, IssuerTokenError> {
    let issuer = TestIssuer::new();
    let token = issuer.sign("k1", claims);
    let login = IdTokenRequest { client_id: "client", nonce: "n" };
    github("").verify_id_token(
        &UnverifiedToken::parse(&token)?,
        &set(&[issuer.jwk("k1")]),
        login,
        now(),
    )
}

#[test]
fn an_id_token_makes_the_identity_of_a_login() {
    let identity = verify_login(&login_claims(|_| {})).unwrap();
    assert_eq!(identity.name(), Some("github:alice"));
    for change in [
        |claims: &mut Value| claims["azp"] = "client".into(),
        |claims: &mut Value| claims["aud"] = json!(["client"]),
        |claims: &mut Value| {
            claims["aud"] = json!(["client", "other"]);
            claims["azp"] = "client".into();
        },
        |claims: &mut Value| claims["iat"] = json!(NOW_S + 60),
        |claims: &mut Value| claims["iat"] = json!(NOW_S as f64 - 599.5),
    ] {
        assert!(verify_login(&login_claims(change)).is_ok());
    }
}

#[test]
fn an_id_token_of_another_login_client_or_time_is_rejected() {
    use IssuerTokenError as E;
    type Change = fn(&mut Value);
    let rows: [(Change, E); 17] = [
        (|claims| claims["nonce"] = "m".into(), E::Nonce),
        (|claims| claims["nonce"] = "".into(), E::Nonce),
        (|claims| claims["nonce"] = json!(["n"]), E::Nonce),
        (|claims| claims["nonce"] = Value::Null, E::Nonce),
        (|claims| claims["aud"] = "us".into(), E::Audience),
        (|claims| claims["aud"] = "other".into(), E::Audience),
        (|claims| claims["aud"] = json!([]), E::Audience),
        (|claims| claims["aud"] = json!(["client", "other"]), E::Audience),
        (|claims| claims["azp"] = "other".into(), E::Audience),
        (|claims| claims["azp"] = json!(5), E::Audience),
        (|claims| claims["iss"] = "https://ci/".into(), E::Issuer),
        (|claims| claims["exp"] = json!(NOW_S - 60), E::Expired),
        (|claims| claims["iat"] = json!(NOW_S - 601), E::Expired),
        (|claims| claims["iat"] = json!(NOW_S + 61), E::NotYet),
        (|claims| claims["iat"] = Value::Null, E::Claims),
        (|claims| claims["iat"] = "now".into(), E::Claims),
        (|claims| claims["repository"] = "".into(), E::Claims),
    ];
    for (number, (change, refusal)) in rows.into_iter().enumerate() {
        assert_eq!(verify_login(&login_claims(change)), Err(refusal), "row {number}");
    }
}

/// Anyone can register with an address of another at many providers.
#[test]
fn an_address_that_is_not_verified_is_no_identity_and_no_claim() {
    let issuer = TestIssuer::new();
    let keys = set(&[issuer.jwk("k1")]);
    let text = |identity: &str| {
        format!(
            "name = 'google'\nissuer = 'https://ci'\naudience = 'us'\njwks-file = '/keys'\n\
             identity = '{identity}'\n"
        )
    };
    let named = |identity: &str, verified: &Value| {
        let by = Issuer::new(toml::from_str(&text(identity)).unwrap()).unwrap();
        let mut claims = claims();
        claims["email"] = "alice@example.com".into();
        if !verified.is_null() {
            claims["email_verified"] = verified.clone();
        }
        let token = issuer.sign("k1", &claims);
        let verified = by.verify(&UnverifiedToken::parse(&token).unwrap(), &keys, now());
        verified.map(|(identity, _, _)| match identity {
            Identity::Named(named) => *named,
            Identity::Anonymous => panic!(),
        })
    };
    for verified in [json!(true), json!("true")] {
        let alice = named("{email}", &verified).unwrap();
        assert_eq!(alice.name, "google:alice@example.com");
        assert!(alice.claims.contains_key("email"));
    }
    for verified in
        [json!(null), json!(false), json!("false"), json!(1), json!("True"), json!([true])]
    {
        assert_eq!(named("{email}", &verified), Err(IssuerTokenError::UnverifiedEmail));
        assert_eq!(named("x-{email}", &verified), Err(IssuerTokenError::UnverifiedEmail));
        let other = named("{sub}", &verified).unwrap();
        assert!(!other.claims.contains_key("email"), "{verified}");
    }
}
