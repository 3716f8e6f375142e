//! The token exchange of OAuth 2.0 (RFC 8693) at `/token`, and attacks on it.

use http::StatusCode;
use jreg_auth::TOKEN_BYTES_MAX;
use jreg_storage::Clock;
use serde_json::{Value, json};

use super::guarded::{ReceivedResponse, Registry, basic, bearer, claims, seconds};

const GRANT: &str = "urn:ietf:params:oauth:grant-type:token-exchange";
const TYPE: &str = "urn:ietf:params:oauth:token-type:";
const MANIFEST: &str = "/v2/open/app/manifests/latest";
const SCOPE: &str = "repository:open/app:pull,push";

async fn registry() -> Registry {
    let rule = "[[rule]]\nname = 'ci'\nsubjects = ['issuer:ci', 'user:alice']\n\
                repositories = ['open/**']\nactions = ['pull']\n";
    Registry::with_policy(&(Registry::issuers() + rule)).await
}

/// A form with these parameters besides the grant type; those without a value are omitted.
fn form(parameters: &[(&str, &str)]) -> String {
    let mut form = form_urlencoded::Serializer::new(String::new());
    form.append_pair("grant_type", GRANT);
    for (name, value) in parameters {
        form.append_pair(name, value);
    }
    form.finish()
}

/// A valid request with further parameters.
fn right(token: &str, more: &[(&str, &str)]) -> String {
    let kind = format!("{TYPE}id_token");
    let mut all = vec![("subject_token", token), ("subject_token_type", &kind), ("scope", SCOPE)];
    all.extend(more);
    form(&all)
}

/// Refused with an RFC 6749 section 5.2 error and a distribution error.
fn refused(response: &ReceivedResponse, error: &str, why: &str) {
    assert_eq!(response.status, StatusCode::BAD_REQUEST, "{why}: {}", response.text());
    assert_eq!(response.headers["cache-control"], "no-store", "{why}");
    assert_eq!(response.headers["content-type"], "application/json", "{why}");
    let body = response.json();
    assert_eq!(body["error"], error, "{why}: {body}");
    let description = body["error_description"].as_str().unwrap();
    let is_allowed = |byte: u8| matches!(byte, 0x20 | 0x21 | 0x23..=0x5b | 0x5d..=0x7e);
    assert!(!description.is_empty() && description.bytes().all(is_allowed), "{description}");
    assert_eq!(body["errors"][0]["message"], description, "{why}");
    assert_eq!(body["access_token"], Value::Null, "{why}");
}

#[tokio::test]
async fn a_token_of_an_issuer_becomes_one_of_ours() {
    let registry = registry().await;
    for (instance, kind) in ["jwt", "id_token", "access_token"].into_iter().enumerate() {
        let (kind, requested) = (format!("{TYPE}{kind}"), format!("{TYPE}access_token"));
        let form = form(&[
            ("subject_token", &registry.workload),
            ("subject_token_type", &kind),
            ("requested_token_type", &requested),
            ("audience", "jreg"),
            ("service", "jreg"),
            ("client_id", "curl"),
            ("actor_token", ""),
            ("scope", SCOPE),
        ]);
        let response = registry.post(instance, &form).await;
        assert_eq!(response.status, StatusCode::OK, "{}", response.text());
        assert_eq!(response.headers["cache-control"], "no-store");
        let body = response.json();
        assert_eq!(body["issued_token_type"], requested);
        assert_eq!(body["token_type"], "Bearer");
        assert_eq!(body["expires_in"], 300);
        assert_eq!(body["scope"], "repository:open/app:pull", "narrowed to what the rules allow");
        assert_eq!(body["token"], body["access_token"], "as docker calls it");
        assert_eq!(body["refresh_token"], Value::Null);
        let token = bearer(body["access_token"].as_str().unwrap());
        assert_eq!(registry.send("GET", MANIFEST, Some(&token)).await.status, 200);
        let push = registry.send("POST", "/v2/open/app/blobs/uploads/", Some(&token)).await;
        assert_eq!(push.status, 403, "no more than the rules allow");
    }
}

#[tokio::test]
async fn a_token_is_not_good_for_longer_than_the_one_that_it_is_for() {
    let registry = registry().await;
    let more = json!({ "repository": "acme/app", "exp": seconds(registry.clock.now()) + 30 });
    let token = registry.forge.sign(&claims("ci", &*registry.clock, &more));
    let body = registry.post(0, &right(&token, &[])).await.json();
    let left = body["expires_in"].as_u64().unwrap();
    assert!(left < 300, "{left}");
}

#[tokio::test]
async fn what_is_wrong_with_a_form_is_said_and_no_token_is_given() {
    let registry = registry().await;
    let token = registry.workload.as_str();
    let jwt = format!("{TYPE}jwt");
    let kind = ("subject_token_type", jwt.as_str());
    let saml = format!("{TYPE}saml2");
    let refresh = format!("{TYPE}refresh_token");
    let long = "x".repeat(TOKEN_BYTES_MAX + 1);
    let longer = "x".repeat(2 * TOKEN_BYTES_MAX);
    for (why, form, error) in [
        ("no token", form(&[kind]), "invalid_request"),
        ("an empty token", form(&[kind, ("subject_token", "")]), "invalid_request"),
        ("no type", form(&[("subject_token", token)]), "invalid_request"),
        (
            "another type",
            form(&[("subject_token", token), ("subject_token_type", &saml)]),
            "invalid_request",
        ),
        (
            "a type that is almost right",
            form(&[("subject_token", token), ("subject_token_type", &jwt.to_uppercase())]),
            "invalid_request",
        ),
        ("wanted: refresh", right(token, &[("requested_token_type", &refresh)]), "invalid_request"),
        ("wanted: jwt", right(token, &[("requested_token_type", &jwt)]), "invalid_request"),
        ("an actor", right(token, &[("actor_token", token)]), "invalid_request"),
        ("an actor's type", right(token, &[("actor_token_type", &jwt)]), "invalid_request"),
        ("two tokens", right(token, &[("subject_token", token)]), "invalid_request"),
        ("two types", right(token, &[kind]), "invalid_request"),
        ("two scopes", right(token, &[("scope", "repository:a:pull")]), "invalid_request"),
        ("two grants", right(token, &[("grant_type", "password")]), "invalid_request"),
        ("two audiences", right(token, &[("audience", "jreg"); 2]), "invalid_request"),
        ("empty and not", right(token, &[("audience", ""), ("audience", "x")]), "invalid_request"),
        ("another audience", right(token, &[("audience", "other")]), "invalid_target"),
        ("another service", right(token, &[("service", "other")]), "invalid_target"),
        ("a resource", right(token, &[("resource", "https://test/")]), "invalid_target"),
        ("not ASCII", right("e\u{301}", &[]), "invalid_request"),
        ("a NUL", right("alice\0secret", &[]), "invalid_request"),
        ("not a token", right("x", &[]), "invalid_request"),
        ("too long", right(&long, &[]), "invalid_request"),
        ("much too long", right(&longer, &[]), "invalid_request"),
        ("another grant", "grant_type=client_credentials".to_owned(), "unsupported_grant_type"),
    ] {
        refused(&registry.post(0, &form).await, error, why);
    }
    let huge = right(&"x".repeat(70_000), &[]);
    assert_eq!(registry.post(0, &huge).await.status, StatusCode::PAYLOAD_TOO_LARGE);
    let query = format!("/token?{}", right(token, &[]));
    assert_eq!(registry.send("GET", &query, None).await.status, 401, "tokens stand in no address");
}

#[tokio::test]
async fn only_good_tokens_of_issuers_are_exchanged() {
    let registry = registry().await;
    let now = seconds(registry.clock.now());
    let sign = |name: &str, value: Value| {
        let mut claims = claims("ci", &*registry.clock, &json!({ "repository": "acme/app" }));
        claims[name] = value;
        registry.forge.sign(&claims)
    };
    let ours = registry.post(0, &right(&registry.workload, &[])).await.json();
    let ours = ours["access_token"].as_str().unwrap().to_owned();
    let users = registry.token(Some(&basic("alice", "secret")), SCOPE).await.unwrap();
    for (why, token) in [
        ("over", sign("exp", json!(now - 120))),
        ("not yet", sign("nbf", json!(now + 120))),
        ("for others", sign("aud", json!("other"))),
        ("of others", sign("iss", json!("https://other"))),
        ("tampered with", format!("{}x", registry.workload)),
        ("an access token", registry.access_token.clone()),
        ("a revoked one", registry.revoked.clone()),
        ("one of ours", ours),
        ("a user's", users),
        ("one that says what it is for", registry.access("open/app", &["pull".to_owned()])),
    ] {
        refused(&registry.post(0, &right(&token, &[])).await, "invalid_request", why);
    }
    let elsewhere = "repository:closed/app:pull";
    for scope in [elsewhere, "registry:catalog:*", "nonsense"] {
        let kind = format!("{TYPE}jwt");
        let form = form(&[
            ("subject_token", registry.workload.as_str()),
            ("subject_token_type", &kind),
            ("scope", scope),
        ]);
        refused(&registry.post(0, &form).await, "invalid_scope", scope);
    }
}
