//! Logins at an OpenID provider, honest and misbehaving ones.

use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jreg_access::{JWKS_AGE_MAX, PROVIDER_SESSION_MAX, SESSION_RENEWED_AFTER, TRUST_MAX};
use jreg_auth::PENDING_LOGIN_AGE_MAX;
use serde_json::{Value, json};

use super::browser::{Browser, ORIGIN, location};
use super::guarded::{ReceivedResponse, Registry, basic, seconds};
use super::provider::{CLIENT_ID, client, issuer};

const MANIFEST: &str = "/v2/open/app/manifests/latest";
const BEGIN: &str = "/ui/-/login/oidc/idp";
const NAMES_ISSUER: &str = "authorization_response_iss_parameter_supported";

const RULES: &str = "
[[rule]]
name = 'developers read'
subjects = ['group:idp:developers']
repositories = ['open/**']
actions = ['pull']
";

fn policy(rules: &str) -> String {
    format!("{}{}{rules}", issuer("idp"), issuer("other"))
}

/// With two providers.
async fn registry(rules: &str) -> Registry {
    let policy = policy(rules);
    Box::pin(Registry::with(Some(&policy), |settings| {
        settings.public_url = Some(jreg_config::Value::parse(ORIGIN).unwrap());
        settings.login_clients = vec![client("idp"), client("other")];
    }))
    .await
}

fn carol() -> Value {
    json!({ "login": "carol", "groups": ["developers", "people"], "email": "c@example.com" })
}

/// Logs in at the provider, up to where it sends the browser back.
async fn authorized(browser: &mut Browser<'_>, begin: &str, user: Value) -> String {
    let response = browser.get(begin).await;
    let url = location(&response).to_owned();
    assert!(
        url.starts_with("https://idp/authorize?") || url.starts_with("https://other/"),
        "{url}"
    );
    let registry = browser.registry();
    let now = seconds(jreg_storage::Clock::now(&*registry.clock));
    registry.forge.provider.now.store(now, Ordering::SeqCst);
    let query = registry.forge.provider.authorize(&url, user);
    format!("{}/callback?{query}", begin.split('?').next().unwrap())
}

async fn log_in(browser: &mut Browser<'_>) -> ReceivedResponse {
    let callback = authorized(browser, BEGIN, carol()).await;
    browser.get(&callback).await
}

#[tokio::test]
async fn a_login_at_a_provider_begins_at_one_instance_and_ends_at_another() {
    let registry = registry(RULES).await;
    let mut browser = Browser::new(&registry);
    let page = browser.get("/ui/-/login?next=/ui/open/app").await.text();
    let link = format!("href=\"{ORIGIN}{BEGIN}?next=/ui/open/app\"");
    assert!(page.contains(&link) && page.contains("Log in with <bdi>Provider idp"), "{page}");
    let callback = authorized(&mut browser, &format!("{BEGIN}?next=/ui/open/app"), carol()).await;
    assert!(browser.cookies.keys().any(|name| name.starts_with("__Host-jreg-login-")));
    browser.instance = 1;
    assert_eq!(location(&browser.get(&callback).await), "/ui/open/app");
    assert_eq!(browser.cookies.keys().collect::<Vec<_>>(), ["__Host-jreg"]);
    browser.instance = 2;
    assert_eq!(browser.identity().await.as_deref(), Some("idp:carol"));
    let account = browser.get("/ui/-/account").await.text();
    assert!(account.contains("idp:developers"), "{account}");
    assert!(!account.contains("idp:people"), "no rule tests it");
    let page = browser.post("/ui/-/account", &[]).await.text();
    let token = page.split("<code tabindex=\"0\">").nth(1).unwrap().split('<').next().unwrap();
    let header = basic("login", token);
    assert_eq!(registry.send("GET", MANIFEST, Some(&header)).await.status, 200);
    let push = "/v2/open/app/blobs/uploads/";
    assert_eq!(registry.send("POST", push, Some(&header)).await.status, 403);
    registry.write("policy.toml", &policy(""));
    assert_eq!(registry.send("GET", MANIFEST, Some(&header)).await.status, 404, "policy at use");
}

#[tokio::test]
async fn several_logins_of_one_browser_do_not_disturb_each_other() {
    let registry = registry(RULES).await;
    let mut browser = Browser::new(&registry);
    let one = authorized(&mut browser, &format!("{BEGIN}?next=/ui/one"), carol()).await;
    let two = authorized(&mut browser, &format!("{BEGIN}?next=/ui/two"), carol()).await;
    assert_eq!(location(&browser.get(&one).await), "/ui/one");
    assert_eq!(location(&browser.get(&two).await), "/ui/two");
    for _ in 0..20 {
        browser.get(BEGIN).await;
        assert!(browser.cookies.len() <= 6, "{}", browser.cookies.len());
    }
}

/// Asserts that a callback begins no session.
async fn refused(browser: &mut Browser<'_>, callback: &str, status: u16, part: &str) {
    let before = browser.session().cloned();
    let page = browser.get(callback).await;
    assert_eq!(page.status.as_u16(), status, "{callback}: {}", page.text());
    assert!(page.text().contains(part), "{part}: {}", page.text());
    assert_eq!(browser.session(), before.as_ref(), "{callback}");
}

fn with(callback: &str, name: &str, value: Option<&str>) -> String {
    let (path, query) = callback.split_once('?').unwrap();
    let pairs = form_urlencoded::parse(query.as_bytes()).into_owned();
    let mut changed = form_urlencoded::Serializer::new(String::new());
    changed.extend_pairs(pairs.filter(|(of, _)| of != name));
    if let Some(value) = value {
        changed.append_pair(name, value);
    }
    format!("{path}?{}", changed.finish())
}

#[tokio::test]
async fn a_response_to_another_login_is_refused() {
    let registry = registry(RULES).await;
    let over = "this login was begun in another browser, took too long, or is over already";
    let mut victim = Browser::new(&registry);
    let mut attacker = Browser::new(&registry);
    // Login CSRF: the victim's browser is sent the response to the attacker's login.
    let forged = authorized(&mut attacker, BEGIN, carol()).await;
    refused(&mut victim, &forged, 403, over).await;
    let own = authorized(&mut victim, BEGIN, carol()).await;
    refused(&mut victim, &forged, 403, over).await;
    // The attacker's code with the victim's state, and the other way round.
    let code = |callback: &str| {
        super::provider::parameters(callback.split_once('?').unwrap().1)["code"].clone()
    };
    let state = |callback: &str| {
        super::provider::parameters(callback.split_once('?').unwrap().1)["state"].clone()
    };
    let mixed = with(&own, "code", Some(&code(&forged)));
    refused(&mut victim.clone(), &mixed, 403, "the provider refused the login: invalid_grant")
        .await;
    for other in [Some(&*state(&forged)), Some(""), Some("x"), None] {
        refused(&mut victim.clone(), &with(&own, "state", other), 403, "").await;
    }
    // The beginning of the state names the cookie; the rest must be the cookie's, too.
    let mut similar = state(&own);
    similar.truncate(8);
    similar.push_str(&"A".repeat(35));
    let page = "belongs to another login";
    refused(&mut victim.clone(), &with(&own, "state", Some(&similar)), 403, page).await;
    for repeated in ["state=x", "code=x"] {
        refused(&mut victim.clone(), &format!("{own}&{repeated}"), 403, "malformed").await;
    }
    let denied = with(&with(&own, "code", None), "error", Some("access_denied"));
    refused(&mut victim.clone(), &denied, 403, "the provider refused the login: access_denied")
        .await;
    let script = with(&own, "error", Some("<script>"));
    refused(&mut victim.clone(), &script, 403, "unknown error").await;
    refused(&mut victim.clone(), &with(&own, "code", None), 403, "no code").await;
    let mut late = victim.clone();
    assert_eq!(victim.get(&own).await.status, 303);
    refused(&mut victim, &own, 403, over).await;
    let again = authorized(&mut late, BEGIN, carol()).await;
    registry.clock.advance(PENDING_LOGIN_AGE_MAX);
    refused(&mut late, &again, 403, over).await;
}

#[tokio::test]
async fn a_code_is_exchanged_once() {
    let registry = registry(RULES).await;
    let provider = &registry.forge.provider;
    let mut browser = Browser::new(&registry);
    let callback = authorized(&mut browser, BEGIN, carol()).await;
    let replayed = browser.clone();
    assert_eq!(browser.get(&callback).await.status, 303);
    assert_eq!(provider.exchanges.load(Ordering::SeqCst), 1);
    // With the cookies of before: only the provider knows that the code is used.
    refused(&mut replayed.clone(), &callback, 403, "invalid_grant").await;
    assert_eq!(provider.exchanges.load(Ordering::SeqCst), 2);
    // The cookie of a login is worth nothing elsewhere.
    let mut other = Browser::new(&registry);
    for value in replayed.cookies.values() {
        other.cookies.insert("__Host-jreg".to_owned(), value.clone());
    }
    assert_eq!(other.identity().await, None);
}

/// A provider that gets a person to log in at it may want to use the response at another one.
#[tokio::test]
async fn a_response_of_another_provider_is_refused() {
    let registry = registry(RULES).await;
    let provider = &registry.forge.provider;
    for names_issuer in [false, true] {
        provider.set(|faults| faults.description = json!({ NAMES_ISSUER: names_issuer }));
        registry.clock.advance(JWKS_AGE_MAX);
        let mut browser = Browser::new(&registry);
        let callback = authorized(&mut browser, BEGIN, carol()).await;
        let before = provider.exchanges.load(Ordering::SeqCst);
        let elsewhere = callback.replace("/oidc/idp/", "/oidc/other/");
        refused(&mut browser.clone(), &elsewhere, 403, "begun in another browser").await;
        for iss in ["https://other", "https://idp/", "HTTPS://IDP", ""] {
            let wrong = with(&callback, "iss", Some(iss));
            refused(&mut browser.clone(), &wrong, 403, "comes from another issuer").await;
        }
        if names_issuer {
            let without = with(&callback, "iss", None);
            refused(&mut browser.clone(), &without, 403, "comes from another issuer").await;
        }
        assert_eq!(provider.exchanges.load(Ordering::SeqCst), before, "no code left the registry");
        let good = with(&callback, "iss", Some("https://idp"));
        assert_eq!(browser.get(&good).await.status, 303);
    }
    for unknown in ["/ui/-/login/oidc/nobody", "/ui/-/login/oidc/nobody/callback?state=abcdefghi"] {
        let status = Browser::new(&registry).get(unknown).await.status.as_u16();
        assert!([403, 404].contains(&status), "{unknown}: {status}");
    }
}

#[tokio::test]
async fn an_id_token_that_is_not_for_this_login_is_refused() {
    let registry = registry(RULES).await;
    let provider = &registry.forge.provider;
    let now = 1_720_000_000;
    for (claims, part) in [
        (json!({ "nonce": "x" }), "issued for another login"),
        (json!({ "nonce": null }), "issued for another login"),
        (json!({ "aud": "us" }), "another audience"),
        (json!({ "aud": "other-client" }), "another audience"),
        (json!({ "aud": [CLIENT_ID, "other"] }), "another audience"),
        (json!({ "azp": "other" }), "another audience"),
        (json!({ "iss": "https://other" }), "issuer is not trusted"),
        (json!({ "iss": null }), "malformed"),
        (json!({ "exp": now - 61 }), "has expired"),
        (json!({ "exp": null }), "malformed"),
        (json!({ "iat": now - 700 }), "has expired"),
        (json!({ "iat": now + 100 }), "not valid yet"),
        (json!({ "nbf": now + 100 }), "not valid yet"),
        (json!({ "login": null }), "lacks the claims"),
        (json!({ "login": { "a": 1 } }), "lacks the claims"),
        (json!({ "login": "a\nb" }), "lacks the claims"),
        (json!({ "groups": { "a": 1 } }), "lacks the claims"),
        (json!({ "x": "x".repeat(7000) }), "lacks the claims"),
    ] {
        provider.set(|faults| faults.claims = claims.clone());
        let mut browser = Browser::new(&registry);
        let callback = authorized(&mut browser, BEGIN, carol()).await;
        refused(&mut browser, &callback, 403, part).await;
        assert_eq!(browser.identity().await, None, "{claims}");
    }
}

#[tokio::test]
async fn an_id_token_without_the_issuers_signature_is_refused() {
    let registry = registry(RULES).await;
    let provider = &registry.forge.provider;
    let part = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let claims = json!({
        "iss": "https://idp", "aud": CLIENT_ID, "sub": "u", "login": "root", "iat": 1_720_000_000,
        "exp": 4_000_000_000_u32,
    });
    let unsigned = |header: Value| format!("{}.{}.", part(&header), part(&claims));
    let signed = registry.forge.sign(&claims);
    let tampered =
        format!("{}.{}.{}", part(&json!({ "alg": "ES256", "kid": "k0" })), part(&claims), "AAAA");
    for token in [
        unsigned(json!({ "alg": "none" })),
        unsigned(json!({ "alg": "None", "kid": "k0" })),
        unsigned(json!({ "alg": "HS256", "kid": "k0" })),
        unsigned(json!({ "alg": "ES256", "kid": "../keys" })),
        unsigned(json!({ "alg": "ES256", "kid": "k0", "crit": ["x"] })),
        tampered,
        format!("{signed}x"),
        "not a token".to_owned(),
        String::new(),
        "a.".repeat(20_000),
    ] {
        provider.set(|faults| faults.id_token = Some(token.clone()));
        let mut browser = Browser::new(&registry);
        let callback = authorized(&mut browser, BEGIN, carol()).await;
        refused(&mut browser, &callback, 403, "The login failed: ").await;
        // Each is a refusal that throttles nobody, as no code was refused.
    }
}

/// Authorization servers without OpenID Connect, such as GitHub's for applications, and broken ones.
#[tokio::test]
async fn a_token_endpoint_that_sends_no_id_token_logs_nobody_in() {
    let registry = registry(RULES).await;
    let provider = &registry.forge.provider;
    let oauth = "access_token=gho_x&scope=user&token_type=bearer";
    let json = r#"{"access_token":"gho_x","token_type":"bearer"}"#;
    let no_token = "it must support OpenID Connect";
    let broken = "The provider does not work now.";
    for (status, body, due, part) in [
        (200, oauth, 403, no_token),
        (200, json, 403, no_token),
        (200, "", 403, no_token),
        (200, "<html>", 403, no_token),
        (200, r#"{"error":"incorrect_client_credentials"}"#, 403, no_token),
        (400, r#"{"error":"invalid_client"}"#, 503, broken),
        (401, "", 503, broken),
        (302, "", 503, broken),
        (500, r#"{"error":"invalid_grant"}"#, 503, broken),
    ] {
        provider.set(|faults| faults.response = Some((status, body.to_owned())));
        let mut browser = Browser::new(&registry);
        let callback = authorized(&mut browser, BEGIN, carol()).await;
        refused(&mut browser, &callback, due, part).await;
    }
}

#[tokio::test]
async fn invented_codes_are_throttled() {
    let registry = registry(RULES).await;
    let provider = &registry.forge.provider;
    for attempt in 0..10 {
        let mut browser = Browser::new(&registry);
        let callback = authorized(&mut browser, BEGIN, carol()).await;
        let invented = with(&callback, "code", Some(&format!("invented {attempt}")));
        browser.get(&invented).await;
    }
    let asked = provider.exchanges.load(Ordering::SeqCst);
    assert!(asked < 8, "{asked} requests to the provider");
    let mut browser = Browser::new(&registry);
    let callback = authorized(&mut browser, BEGIN, carol()).await;
    let page = browser.clone().get(&callback).await;
    assert_eq!(page.status, 429);
    assert!(page.headers.contains_key("retry-after"));
    let mut elsewhere = browser.clone();
    elsewhere.peer = "192.0.2.1:1";
    assert_eq!(elsewhere.get(&callback).await.status, 303);
}

#[tokio::test]
async fn a_description_that_is_wrong_sends_nobody_anywhere() {
    let registry = registry(RULES).await;
    let provider = &registry.forge.provider;
    for (number, description) in [
        json!({ "issuer": "https://other" }),
        json!({ "issuer": "https://idp/" }),
        json!({ "authorization_endpoint": "http://idp/authorize" }),
        json!({ "authorization_endpoint": "javascript:alert(1)" }),
        json!({ "authorization_endpoint": "https://idp/\r\nSet-Cookie: x=y" }),
        json!({ "token_endpoint": "http://169.254.169.254/latest" }),
        json!({ "token_endpoint": "file:///etc/passwd" }),
        json!({ "token_endpoint": null }),
    ]
    .into_iter()
    .enumerate()
    {
        provider.set(|faults| faults.description = description.clone());
        let page = Browser::new(&registry).get(BEGIN).await;
        assert_eq!(page.status, 503, "{number}: {description}");
        assert!(page.text().contains("The provider does not work now."));
        registry.clock.advance(Duration::from_secs(11));
    }
    let fetches = registry.forge.fetches.load(Ordering::SeqCst);
    for _ in 0..5 {
        Browser::new(&registry).get(BEGIN).await;
    }
    assert!(registry.forge.fetches.load(Ordering::SeqCst) <= fetches + 1, "not with each request");
}

#[tokio::test]
async fn a_session_goes_back_to_its_provider_every_hour() {
    let registry = registry(RULES).await;
    let mut browser = Browser::new(&registry);
    log_in(&mut browser).await;
    let mut left = PROVIDER_SESSION_MAX;
    while left > SESSION_RENEWED_AFTER {
        registry.clock.advance(SESSION_RENEWED_AFTER);
        left -= SESSION_RENEWED_AFTER;
        assert_eq!(browser.identity().await.as_deref(), Some("idp:carol"));
    }
    let mut idle = browser.clone();
    registry.clock.advance(left);
    assert_eq!(idle.identity().await, None);
    let back = location(&idle.get("/ui/open/app").await).to_owned();
    assert_eq!(back, format!("{ORIGIN}{BEGIN}?next=/ui/open/app"), "without a question");
    let mut browser = Browser::new(&registry);
    log_in(&mut browser).await;
    // A rule that denies by a claim which the session does not have: it is asked for again.
    let rule = "[[rule]]\neffect = 'deny'\nsubjects = ['issuer:idp']\nclaims = { banned = 'yes' }\n\
                repositories = ['**']\nactions = ['pull']\n";
    browser.identity().await;
    let page = browser.post("/ui/-/account", &[]).await.text();
    let token = page.split("<code tabindex=\"0\">").nth(1).unwrap().split('<').next().unwrap();
    let login = basic("login", token);
    let exchanged = registry.token(Some(&login), "repository:open/app:pull").await.unwrap();
    let exchanged = super::guarded::bearer(&exchanged);
    for header in [&login, &exchanged] {
        assert_eq!(registry.send("GET", MANIFEST, Some(header)).await.status, 200);
    }
    registry.write("policy.toml", &policy(&format!("{RULES}{rule}")));
    for header in [&login, &exchanged] {
        assert_eq!(registry.send("GET", MANIFEST, Some(header)).await.status, 401);
    }
    let response = browser.get("/ui/open/app?x=1").await;
    assert_eq!(location(&response), format!("{ORIGIN}{BEGIN}?next=/ui/open/app%3Fx%3D1"));
    let form = browser.clone().post("/ui/-/account", &[]).await;
    assert_eq!(form.status, 403, "a form is not lost silently");
    let callback =
        authorized(&mut browser, &format!("{BEGIN}?next=/ui/open/app%3Fx%3D1"), carol()).await;
    assert_eq!(location(&browser.get(&callback).await), "/ui/open/app?x=1");
    assert_eq!(browser.identity().await.as_deref(), Some("idp:carol"));
    // An issuer that the policy does not trust any more.
    registry.write(
        "policy.toml",
        &format!("{}{RULES}", issuer("other")).replace("group:idp", "group:other"),
    );
    assert_eq!(browser.identity().await, None);
    assert_eq!(Browser::new(&registry).get(BEGIN).await.status, 404);
}

#[tokio::test]
async fn a_provider_that_does_not_work_locks_nobody_out_of_public_pages() {
    let registry = registry(RULES).await;
    let mut browser = Browser::new(&registry);
    log_in(&mut browser).await;
    let rule = "[[rule]]\neffect = 'deny'\nsubjects = ['group:idp:banned']\nrepositories = ['**']\n\
                actions = ['pull']\n";
    registry.write("policy.toml", &policy(&format!("{RULES}{rule}")));
    *registry.forge.outage.lock().unwrap() = Some(500);
    registry.clock.advance(JWKS_AGE_MAX * 25);
    let mut browser = Browser::new(&registry);
    browser.cookies.clear();
    let page = browser.get(BEGIN).await;
    assert_eq!(page.status, 503);
    *registry.forge.outage.lock().unwrap() = None;
    registry.clock.advance(Duration::from_secs(11));
    log_in(&mut browser).await;
    registry.write("policy.toml", &policy(RULES));
    *registry.forge.outage.lock().unwrap() = Some(500);
    registry.clock.advance(Duration::from_secs(60));
    let begin = location(&browser.get("/ui/").await).to_owned();
    let begin = begin.strip_prefix(ORIGIN).unwrap();
    // The description of before serves meanwhile.
    assert_eq!(browser.clone().get(begin).await.status, 303);
    assert!(browser.session().is_some());
    browser.get(begin).await;
    assert_eq!(browser.session(), None, "the person goes on as anonymous");
}

#[tokio::test]
async fn an_address_that_is_not_verified_is_no_identity() {
    let registry = registry(RULES).await;
    let provider = &registry.forge.provider;
    registry.write("policy.toml", &policy(RULES).replace("{login}", "{email}"));
    for (verified, is_in) in [
        (json!(true), true),
        (json!("true"), true),
        (json!(false), false),
        (json!("false"), false),
        (json!(null), false),
        (json!(1), false),
    ] {
        provider.set(|faults| faults.claims = json!({ "email_verified": verified }));
        let mut browser = Browser::new(&registry);
        let callback = authorized(&mut browser, BEGIN, carol()).await;
        match is_in {
            true => {
                assert_eq!(browser.get(&callback).await.status, 303, "{verified}");
                assert_eq!(browser.identity().await.as_deref(), Some("idp:c@example.com"));
            }
            false => refused(&mut browser, &callback, 403, "is not verified").await,
        }
    }
}

#[tokio::test]
async fn groups_that_no_cookie_can_hold_are_refused_with_the_reason() {
    let rule = "[[rule]]\nsubjects = ['issuer:idp']\nrepositories = ['**']\nactions = ['pull']\n\
                condition = \"identity.groups.exists(g, g == 'idp:' + repository)\"\n";
    let registry = registry(rule).await;
    let groups: Vec<String> = (0..100).map(|n| format!("group-{n}-{}", "x".repeat(30))).collect();
    let mut browser = Browser::new(&registry);
    let user = json!({ "login": "carol", "groups": groups });
    let callback = authorized(&mut browser, BEGIN, user).await;
    refused(&mut browser, &callback, 403, "let the issuer send fewer groups").await;
}

#[tokio::test]
async fn a_logout_ends_a_session_of_a_provider_everywhere() {
    let registry = registry(RULES).await;
    let mut browser = Browser::new(&registry);
    log_in(&mut browser).await;
    let mut there = browser.clone().at(1);
    assert_eq!(there.identity().await.as_deref(), Some("idp:carol"));
    browser.identity().await;
    browser.post("/ui/-/logout", &[]).await;
    registry.clock.advance(TRUST_MAX);
    assert_eq!(there.identity().await, None);
}

/// Where a provider sends a browser back to does not depend on what the client says of the host.
#[tokio::test]
async fn the_redirect_never_comes_from_the_host() {
    let registry = registry(RULES).await;
    let mut browser = Browser::new(&registry);
    browser.origin = "https://evil.example".to_owned();
    browser.headers.push(("X-Forwarded-Host", "evil.example".to_owned()));
    browser.headers.push(("Forwarded", "host=evil.example".to_owned()));
    // The provider asserts the redirect URI.
    authorized(&mut browser, BEGIN, carol()).await;
    let page = browser.get("/ui/-/login").await.text();
    assert!(page.contains(&format!("href=\"{ORIGIN}{BEGIN}")), "{page}");
}

/// Answers each connection with these bytes, again and again if it is asked to, and keeps it open.
async fn misbehaving(head: &'static str, repeats: bool) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut request = [0; 4096];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(head.as_bytes()).await;
                while repeats && stream.write_all(&[b'x'; 65_536]).await.is_ok() {}
                // Open, but silent.
                let _ = stream.read_to_end(&mut Vec::new()).await;
            });
        }
    });
    format!("http://{address}/token")
}

#[tokio::test]
async fn slow_huge_and_redirecting_providers_are_bounded() {
    use jreg_access::{HttpJwksFetcher, JwksFetchError, JwksFetcher};
    use jreg_auth::{CodeRequest, JwksError, Secret};
    let fetch = HttpJwksFetcher::new().unwrap();
    let post = async |url: String| {
        let authorization = Some(Secret::new("Basic x"));
        let request = CodeRequest { url, authorization, form: Secret::new("code=x") };
        fetch.post_form(&request).await
    };
    let huge = misbehaving("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n", true).await;
    // At the limit, and not by the timeout.
    let too_large =
        |error: JwksFetchError| matches!(error, JwksFetchError::Jwks(JwksError::TooLarge));
    assert!(too_large(post(huge.clone()).await.unwrap_err()), "more than 64 KiB");
    assert!(too_large(fetch.fetch(&huge).await.unwrap_err()), "more than 256 KiB");
    let elsewhere = "HTTP/1.1 307 Go\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n";
    let (status, body) = post(misbehaving(elsewhere, false).await).await.unwrap();
    assert_eq!((status, body.len()), (307, 0), "the code goes nowhere else");
    let slow = misbehaving("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\n{", false).await;
    let error = tokio::time::timeout(Duration::from_secs(120), post(slow)).await;
    let error = error.expect("it is given up").unwrap_err().to_string();
    assert!(!error.contains("code=x"), "{error}");
}
