//! The token service, over three instances.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures::StreamExt;
use http::Request;
use jreg_access::{AccessTokenStore, TRUST_MAX};
use jreg_auth::{Identity, IdentitySource, TokenClaims, TokenKind};
use jreg_config::Settings;
use jreg_net::server::Body;
use jreg_registry::signing_keys;
use jreg_storage::Clock;
use serde_json::Value;

use super::guarded::{Registry, basic, bearer, send, token_target};
use crate::app::App;

const MANIFEST: &str = "/v2/open/app/manifests/latest";
const DAY: Duration = Duration::from_secs(24 * 3600);

async fn without_policy() -> Registry {
    Registry::with(None, |_| {}).await
}

fn alice() -> String {
    basic("alice", "secret")
}

fn claims_of(token: &str) -> Value {
    let payload = token.split('.').nth(1).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(payload).unwrap()).unwrap()
}

#[tokio::test]
async fn c11_a_client_is_led_from_the_challenge_to_the_token() {
    let registry = without_policy().await;
    let ping = registry.send("GET", "/v2/", None).await;
    assert_eq!(ping.status, 401);
    assert_eq!(ping.challenge(), r#"Bearer realm="http://test/token",service="jreg""#);
    let pull = registry.send("GET", MANIFEST, None).await;
    assert_eq!(
        pull.challenge(),
        r#"Bearer realm="http://test/token",service="jreg",scope="repository:open/app:pull""#
    );
    let token = registry.token(Some(&alice()), "repository:open/app:pull").await.unwrap();
    assert_eq!(registry.send("GET", MANIFEST, Some(&bearer(&token))).await.status, 200);
    assert_eq!(registry.send("GET", "/v2/", Some(&bearer(&token))).await.status, 200);
    let push = registry.send("POST", "/v2/open/app/blobs/uploads/", Some(&bearer(&token))).await;
    assert_eq!(push.status, 401);
    assert_eq!(
        push.challenge(),
        concat!(
            r#"Bearer realm="http://test/token",service="jreg","#,
            r#"scope="repository:open/app:pull,push",error="insufficient_scope","#,
            r#"error_description="the token of alice was not issued to push to open/app""#
        )
    );
    let wrong = registry.send("GET", MANIFEST, Some(&bearer(&format!("{token}x")))).await;
    assert!(wrong.challenge().contains(r#",error="invalid_token","#), "{}", wrong.challenge());
}

#[tokio::test]
async fn a_token_says_what_it_is_for_and_no_more() {
    let registry = without_policy().await;
    let response = registry
        .send("GET", "/token?service=jreg&scope=repository:a:pull,push+repository:b:pull&scope=registry:catalog:*&account=alice&client_id=docker&offline_token=true", Some(&alice()))
        .await;
    assert_eq!(response.status, 200);
    assert_eq!(response.headers["cache-control"], "no-store");
    let body = response.json();
    assert_eq!(body["token"], body["access_token"]);
    assert_eq!(body["expires_in"], 300);
    assert_eq!(body["issued_at"], "2024-07-03T09:46:40Z");
    let claims = claims_of(body["token"].as_str().unwrap());
    assert_eq!((claims["sub"].as_str(), claims["aud"].as_str()), (Some("alice"), Some("jreg")));
    assert_eq!(claims["access"].as_array().unwrap().len(), 3);
    assert!(claims_of(body["refresh_token"].as_str().unwrap())["access"].is_null());
    for target in ["/token?service=other", "/token?service=jreg%22"] {
        assert_eq!(registry.send("GET", target, Some(&alice())).await.status, 400);
    }
    assert_eq!(registry.send("GET", "/token", None).await.status, 401, "a login needs credentials");
    assert!(registry.send("GET", "/token", None).await.challenge().starts_with("Basic "));
}

#[tokio::test]
async fn forms_take_passwords_and_refresh_tokens() {
    let registry = without_policy().await;
    let form = "grant_type=password&service=jreg&client_id=containerd&username=alice&password=secret&access_type=offline&scope=repository%3Aopen%2Fapp%3Apull";
    let body = registry.post(0, form).await.json();
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(registry.send("GET", MANIFEST, Some(&bearer(token))).await.status, 200);
    let refresh = body["refresh_token"].as_str().unwrap();
    assert_eq!(
        registry.send("GET", MANIFEST, Some(&bearer(refresh))).await.status,
        401,
        "for /token only"
    );
    let again = |token: &str| {
        format!(
            "grant_type=refresh_token&service=jreg&refresh_token={token}&scope=repository:open/app:pull"
        )
    };
    let body = registry.post(1, &again(refresh)).await.json();
    assert_eq!(body["refresh_token"], refresh);
    let new = bearer(body["access_token"].as_str().unwrap());
    assert_eq!(registry.send_to(2, "GET", MANIFEST, Some(&new)).await.status, 200);
    for (form, due) in [
        ("", 400),
        ("grant_type=client_credentials", 400),
        ("grant_type=password&username=alice", 400),
        ("grant_type=password&username=alice&password=wrong", 401),
        ("grant_type=password&username=a%00&password=x", 401),
        (&again("x"), 401),
        (&again(token), 401),
        (&again(&"x".repeat(70_000)), 413),
    ] {
        assert_eq!(registry.post(0, form).await.status, due, "{form:.60}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_form_that_does_not_come_is_not_waited_for() {
    let registry = without_policy().await;
    let parts = futures::stream::iter([Ok::<_, std::io::Error>("grant_type=".into())]);
    let body = Body::from_stream(parts.chain(futures::stream::pending()));
    let request = Request::builder().method("POST").uri("/token").header("Host", "test");
    let request = request.header("Content-Type", "application/x-www-form-urlencoded");
    let response = send(&registry.apps[0], request.body(body).unwrap()).await;
    assert_eq!(response.status, 408);
}

#[tokio::test]
async fn a_changed_password_and_a_removed_user_end_their_tokens_at_once() {
    let registry = without_policy().await;
    let form = "grant_type=password&username=alice&password=secret&access_type=offline&scope=repository:open/app:pull";
    let body = registry.post(0, form).await.json();
    let access = bearer(body["access_token"].as_str().unwrap());
    let refresh = format!(
        "grant_type=refresh_token&refresh_token={}",
        body["refresh_token"].as_str().unwrap()
    );
    assert_eq!(registry.send("GET", MANIFEST, Some(&access)).await.status, 200);
    assert_eq!(registry.post(1, &refresh).await.status, 200);
    for users in [format!("alice:{}\n", bcrypt::hash("new", 4).unwrap()), "# no users\n".to_owned()]
    {
        registry.write("users", &users);
        for instance in 0..3 {
            let response = registry.send_to(instance, "GET", MANIFEST, Some(&access)).await;
            assert_eq!(response.status, 401, "{users}");
            assert_eq!(registry.post(instance, &refresh).await.status, 401);
        }
    }
}

#[tokio::test]
async fn a_revoked_access_token_is_refused_everywhere_within_the_stated_time() {
    let registry = without_policy().await;
    let access_tokens = AccessTokenStore::new(registry.store.clone(), registry.clock.clone());
    let basic = basic("any", &registry.access_token);
    let token = registry.token(Some(&basic), "repository:open/app:pull").await.unwrap();
    for header in [&basic, &bearer(&token), &bearer(&registry.access_token)] {
        for instance in 0..3 {
            let response = registry.send_to(instance, "GET", MANIFEST, Some(header)).await;
            assert_eq!(response.status, 200);
        }
    }
    let (id, _) =
        access_tokens.list().await.unwrap().into_iter().find(|(_, r)| r.name == "ci").unwrap();
    access_tokens.revoke(&id).await.unwrap();
    registry.clock.advance(TRUST_MAX);
    for header in [&basic, &bearer(&token), &bearer(&registry.access_token)] {
        for instance in 0..3 {
            let response = registry.send_to(instance, "GET", MANIFEST, Some(header)).await;
            assert_eq!(response.status, 401, "{header:.12} {instance}");
        }
    }
    assert_eq!(registry.token(Some(&basic), "repository:open/app:pull").await, Err(401));
}

/// The signing keys can sign any token, but a name stays bound to its source.
#[tokio::test]
async fn a_signed_token_with_a_name_that_its_source_does_not_give_is_refused() {
    let registry = without_policy().await;
    let access_tokens = AccessTokenStore::new(registry.store.clone(), registry.clock.clone());
    let (id, _) =
        access_tokens.list().await.unwrap().into_iter().find(|(_, r)| r.name == "ci").unwrap();
    let record = registry.store.get(&signing_keys()).await.unwrap();
    let now = registry.clock.now();
    let key = jreg_auth::Keyring::of_bytes(&record.bytes).unwrap().signing_key(now).unwrap();
    let status = async |name: &str, source: IdentitySource| {
        let Identity::Named(named) = Identity::named(name, source) else { panic!() };
        let mut claims =
            TokenClaims::new("jreg", Some(*named), now, Duration::from_secs(60), "1".to_owned());
        claims.access = jreg_auth::TokenScope::parse(["repository:open/app:pull"]).entries();
        let header = bearer(&key.sign(TokenKind::Access, &claims).unwrap());
        registry.send("GET", MANIFEST, Some(&header)).await.status.as_u16()
    };
    let access_token = || IdentitySource::AccessToken(id.to_string());
    assert_eq!(status("access-token:ci", access_token()).await, 200);
    assert_eq!(
        status("access-token:other", access_token()).await,
        401,
        "the name of another access token"
    );
    assert_eq!(status("alice", access_token()).await, 401);
    assert_eq!(status("alice", IdentitySource::Certificate).await, 401);
    assert_eq!(status("alice", IdentitySource::Htpasswd).await, 401, "without the password");
}

#[tokio::test]
async fn an_access_token_stays_within_its_scope_and_time() {
    let registry = without_policy().await;
    let access_tokens = AccessTokenStore::new(registry.store.clone(), registry.clock.clone());
    let allow = jreg_auth::parse_permissions("pull:open/*").unwrap();
    let (text, _, _) = access_tokens.create("r", allow, Some(DAY)).await.unwrap();
    let header = basic("r", &text);
    let status = async |method: &str, target: &str| {
        registry.send(method, target, Some(&header)).await.status.as_u16()
    };
    assert_eq!(status("GET", MANIFEST).await, 200);
    assert_eq!(status("GET", "/v2/closed/app/manifests/latest").await, 404);
    assert_eq!(status("POST", "/v2/open/app/blobs/uploads/").await, 403);
    let catalog = registry.send("GET", "/v2/_catalog", Some(&header)).await;
    assert_eq!(catalog.json()["repositories"], serde_json::json!(["open/app"]));
    registry.clock.advance(DAY);
    assert_eq!(status("GET", MANIFEST).await, 401);
}

fn without_checksum(record: &[u8]) -> String {
    let text = std::str::from_utf8(record).unwrap();
    format!("{}}}", text.rsplit_once(",\"check\":").unwrap().0)
}

/// Nothing but the rights differs: the record parses, and is believed if it has no checksum, as those
/// of earlier versions.
#[tokio::test]
async fn an_access_token_whose_record_rotted_grants_nothing() {
    let registry = without_policy().await;
    let access_tokens = AccessTokenStore::new(registry.store.clone(), registry.clock.clone());
    let allow = jreg_auth::parse_permissions("pull:open/*").unwrap();
    let (text, id, _) = access_tokens.create("r", allow, None).await.unwrap();
    let key = jreg_registry::access_token_key(&id.to_string()).unwrap();
    let record = registry.store.get(&key).await.unwrap().bytes;
    let rotted = String::from_utf8(record.to_vec()).unwrap().replace("open/*", "clos/*");
    let status = async |record: String| {
        let mode = jreg_storage::PutMode::Overwrite;
        registry.store.put(&key, record.into(), mode).await.unwrap();
        registry.clock.advance(TRUST_MAX * 2);
        let header = basic("r", &text);
        registry.send("GET", MANIFEST, Some(&header)).await.status.as_u16()
    };
    assert_eq!(status(without_checksum(&record)).await, 200);
    assert_eq!(status(without_checksum(rotted.as_bytes())).await, 404);
    assert_eq!(status(rotted).await, 503);
    for refused in
        [access_tokens.list().await.map(|_| ()), access_tokens.revoke(&id).await.map(|_| ())]
    {
        let error = refused.unwrap_err().to_string();
        assert!(error.contains(key.as_str()) && error.contains("checksum"), "{error}");
    }
    let record = String::from_utf8(record.to_vec()).unwrap();
    assert_eq!(status(record).await, 200);
}

#[tokio::test]
async fn signing_keys_that_rotted_are_not_used() {
    let registry = without_policy().await;
    let record = registry.store.get(&signing_keys()).await.unwrap().bytes;
    let text = String::from_utf8(record.to_vec()).unwrap();
    let rotted = text.replacen("\"created\":1", "\"created\":2", 1);
    assert_ne!(rotted, text);
    let put = async |record: String| {
        let mode = jreg_storage::PutMode::Overwrite;
        registry.store.put(&signing_keys(), record.into(), mode).await.unwrap();
    };
    put(rotted).await;
    // Those that run keep what they have read, and do not replace the record.
    registry.apps[0].guard().unwrap().refresh_keys().await;
    let scope = "repository:open/app:pull";
    let token = registry.token(Some(&alice()), scope).await.unwrap();
    assert_eq!(registry.send("GET", MANIFEST, Some(&bearer(&token))).await.status, 200);
    let error = registry.start_instance().await.unwrap_err();
    let error = jreg_storage::error_chain(&error);
    assert!(error.contains("auth/keys is damaged: its checksum"), "{error}");
    put(without_checksum(&record)).await;
    registry.start_instance().await.unwrap();
}

/// Every instance accepts tokens of all others before, during and after a key rotation.
#[tokio::test]
async fn keys_rotate_without_a_failed_request() {
    let registry = without_policy().await;
    let scope = "/token?scope=repository:open/app:pull";
    let mut kids = std::collections::BTreeSet::new();
    for step in 0..48 {
        let issuer = step % 3;
        let body = registry.send_to(issuer, "GET", scope, Some(&alice())).await.json();
        let token = body["token"].as_str().unwrap().to_owned();
        let header: Value = serde_json::from_slice(
            &URL_SAFE_NO_PAD.decode(token.split('.').next().unwrap()).unwrap(),
        )
        .unwrap();
        kids.insert(header["kid"].as_str().unwrap().to_owned());
        // Only one instance rotates the key; the others read it from the store.
        if step % 8 == 0 {
            registry.apps[step % 3].guard().unwrap().refresh_keys().await;
        }
        for instance in 0..3 {
            let response = registry.send_to(instance, "GET", MANIFEST, Some(&bearer(&token))).await;
            assert_eq!(response.status, 200, "step {step}, issued by {issuer}, read by {instance}");
        }
        registry.clock.advance(Duration::from_secs(3 * 3600));
    }
    assert!(kids.len() >= 4, "{kids:?}");
    let record = registry.store.get(&signing_keys()).await.unwrap();
    assert!(jreg_auth::Keyring::of_bytes(&record.bytes).unwrap().len() <= 40);
}

#[tokio::test]
async fn invented_keys_do_not_make_it_read_all_the_time() {
    let registry = without_policy().await;
    let token = registry.token(Some(&alice()), "repository:open/app:pull").await.unwrap();
    let reads = async || {
        let metrics = registry.send("GET", "/metrics", None).await.text();
        let line = r#"jreg_store_requests_total{operation="get",outcome="ok"} "#;
        let line = metrics.lines().find_map(|found| found.strip_prefix(line).map(str::to_owned));
        line.unwrap().parse::<u64>().unwrap()
    };
    let before = reads().await;
    for number in 0..50 {
        let (head, rest) = token.split_once('.').unwrap();
        let mut head: Value =
            serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).unwrap()).unwrap();
        head["kid"] = format!("{number:016x}").into();
        let forged = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(head.to_string()));
        assert_eq!(registry.send("GET", "/v2/", Some(&bearer(&forged))).await.status, 401);
    }
    assert_eq!(reads().await, before, "within a second of the last read");
    registry.clock.advance(Duration::from_secs(1));
}

#[tokio::test]
async fn c11_anonymous_pull_goes_through_an_anonymous_token_and_without_one() {
    let registry = Registry::with(None, |settings| settings.anonymous_pull = true).await;
    assert_eq!(registry.send("GET", "/v2/", None).await.status, 401, "or docker never logs in");
    assert_eq!(registry.send("GET", MANIFEST, None).await.status, 200);
    let token = registry.token(None, "repository:open/app:pull,push").await.unwrap();
    let access = claims_of(&token)["access"].clone();
    assert_eq!(access[0]["actions"], serde_json::json!(["pull"]));
    let token = bearer(&token);
    assert_eq!(registry.send("GET", "/v2/", Some(&token)).await.status, 200);
    assert_eq!(registry.send("GET", MANIFEST, Some(&token)).await.status, 200);
    let push = registry.send("POST", "/v2/open/app/blobs/uploads/", Some(&token)).await;
    assert_eq!(push.status, 401);
    let denied = registry.token(None, "repository:open/app:push").await;
    assert_eq!(denied, Err(401), "no part of it is public");
    assert_eq!(
        registry.token(Some(&basic("alice", "wrong")), "repository:open/app:pull").await,
        Err(401)
    );
}

#[tokio::test]
async fn without_the_token_service_passwords_go_with_each_request() {
    let registry = Registry::with(None, |settings| settings.token_service = false).await;
    let ping = registry.send("GET", "/v2/", None).await;
    assert!(ping.challenge().starts_with("Basic realm="), "{}", ping.challenge());
    assert_eq!(registry.send("GET", "/v2/", Some(&alice())).await.status, 200);
    assert_eq!(registry.send("GET", MANIFEST, Some(&alice())).await.status, 200);
    assert_eq!(registry.send("GET", "/token", Some(&alice())).await.status, 404);
}

#[tokio::test]
async fn another_token_service_is_named_and_its_tokens_are_accepted() {
    let rules = Registry::issuers();
    let registry = Registry::with(Some(&rules), |settings| {
        settings.token_realm =
            <Option<jreg_config::PublicUrl> as jreg_config::Value>::parse("https://hub/token")
                .unwrap();
        settings.token_audience = "us".to_owned();
    })
    .await;
    let ping = registry.send("GET", "/v2/", None).await;
    assert_eq!(ping.challenge(), r#"Bearer realm="https://hub/token",service="us""#);
    let pull = bearer(&registry.access("open/app", &["pull".to_owned()]));
    assert_eq!(registry.send("GET", MANIFEST, Some(&pull)).await.status, 200);
    let push = registry.send("POST", "/v2/open/app/blobs/uploads/", Some(&pull)).await;
    assert_eq!(push.status, 403);
    assert_eq!(registry.send("GET", "/token", Some(&pull)).await.status, 404);
}

/// Secrets that are sent in every supported way appear in no output.
#[tokio::test]
async fn no_secret_is_shown() {
    let registry = without_policy().await;
    let secret = registry.access_token.rsplit('_').next().unwrap().to_owned();
    let body = registry.send("GET", "/token?offline_token=true", Some(&alice())).await.json();
    let tokens =
        [&body["token"], &body["refresh_token"]].map(|token| token.as_str().unwrap().to_owned());
    let marks = ["MARKED-PASSWORD", &secret, &tokens[0], &tokens[1]];
    let mut seen = Vec::new();
    for header in [
        basic("alice", "MARKED-PASSWORD"),
        "Basic MARKED-PASSWORD".to_owned(),
        "MARKED-PASSWORD".to_owned(),
        basic("x", &format!("{}0", registry.access_token)),
        bearer(&registry.access_token),
        bearer(&tokens[0]),
        bearer(&format!("{}x", tokens[1])),
    ] {
        for target in ["/v2/", MANIFEST, "/v2/x/manifests/y"] {
            let response = registry.send("GET", target, Some(&header)).await;
            seen.push(format!("{:?} {}", response.headers, response.text()));
        }
        let refused = registry.token(Some(&basic("alice", "MARKED-PASSWORD")), "").await;
        seen.push(format!("{refused:?}"));
    }
    let form = "grant_type=password&username=alice&password=MARKED-PASSWORD";
    seen.push(registry.post(0, form).await.text());
    seen.push(registry.send("GET", "/metrics", None).await.text());
    seen.push(format!("{:?} {:?}", registry.apps[0], registry.apps[0].guard()));
    for text in &seen {
        for mark in marks {
            assert!(!text.contains(mark), "{mark:.12} in {text}");
        }
    }
}

/// A client: gets a token from one instance and uses it at all. Returns the id of the signing key.
async fn log_in_and_pull(registry: Arc<Registry>, issuer: usize) -> String {
    let scope = "/token?scope=repository:open/app:pull";
    let body = registry.send_to(issuer, "GET", scope, Some(&alice())).await.json();
    let token = body["token"].as_str().unwrap().to_owned();
    for instance in 0..3 {
        let response = registry.send_to(instance, "GET", MANIFEST, Some(&bearer(&token))).await;
        assert_eq!(response.status, 200, "issued by {issuer}, read by {instance}");
    }
    token.split('.').next().unwrap().to_owned()
}

/// Clients get and use tokens while keys are created, start to sign and expire.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn keys_rotate_under_load_without_a_failed_request() {
    const ROUNDS: usize = 30;
    const CLIENTS: usize = 12;
    const MINUTE: Duration = Duration::from_secs(60);
    let registry = Arc::new(without_policy().await);
    let mut keys = BTreeSet::new();
    for round in 0..ROUNDS {
        let clients: Vec<_> = (0..CLIENTS)
            .map(|client| tokio::spawn(log_in_and_pull(registry.clone(), client % 3)))
            .collect();
        // Meanwhile; for less time in all than a token lives.
        for step in 0..3 {
            registry.clock.advance(MINUTE);
            registry.apps[(round + step) % 3].guard().unwrap().refresh_keys().await;
        }
        for client in clients {
            keys.insert(client.await.unwrap());
        }
        registry.clock.advance(Duration::from_secs(3 * 3600));
    }
    assert!(keys.len() >= 4, "{keys:?}");
}

/// docker shows the message, and stops at once because there is a `detail`.
#[tokio::test]
async fn c23_a_refusal_names_the_identity_the_action_and_the_repository() {
    let rules = "[[rule]]\nsubjects = ['user:alice']\nrepositories = ['open/**']\n\
                 actions = ['pull', 'push']\n";
    let registry = Registry::with_policy(rules).await;
    let (alice, wrong) = (basic("alice", "secret"), basic("alice", "wrong"));
    let uploads = "/v2/other/app/blobs/uploads/";
    let token = token_target("repository:other/app:pull,push");
    let both = "pull from other/app, push to other/app";
    for (method, target, header, status, message) in [
        ("POST", uploads, Some(&alice), 403, "alice may not push to other/app".to_owned()),
        ("POST", uploads, None, 401, "authentication required to push to other/app".to_owned()),
        (
            "POST",
            uploads,
            Some(&wrong),
            401,
            "authentication required to push to other/app: the credentials are not valid"
                .to_owned(),
        ),
        (
            "GET",
            "/v2/other/app/manifests/latest",
            Some(&alice),
            404,
            "repository other/app is not known, or alice may not pull from other/app".to_owned(),
        ),
        ("GET", &token, None, 401, format!("authentication required to {both}")),
        (
            "GET",
            &token,
            Some(&wrong),
            401,
            format!("authentication required to {both}: the credentials are not valid"),
        ),
    ] {
        let response = registry.send(method, target, header.map(String::as_str)).await;
        assert_eq!(response.status.as_u16(), status, "{method} {target}");
        let error = &response.json()["errors"][0];
        assert_eq!(error["message"], message, "{method} {target}");
        assert_eq!(error["detail"][0]["Name"], "other/app", "{method} {target}");
    }
}

/// Counts how often other tasks run during an operation on the single thread of a test.
pub(super) async fn turns_during<T>(work: impl Future<Output = T>) -> (T, usize) {
    let turns = Arc::new(AtomicUsize::new(0));
    let counting = tokio::spawn({
        let turns = Arc::clone(&turns);
        async move {
            loop {
                turns.fetch_add(1, Ordering::Relaxed);
                tokio::task::yield_now().await;
            }
        }
    });
    let done = work.await;
    counting.abort();
    (done, turns.load(Ordering::Relaxed))
}

/// A policy with conditions in every rule, so that each decision costs CPU time.
fn conditioned_rules() -> String {
    let rule = |number: usize| {
        format!(
            "[[rule]]\neffect = 'deny'\nsubjects = ['everyone']\nrepositories = ['**']\n\
             actions = ['pull', 'push', 'delete']\ncondition = \"repository == 'x{number}'\"\n"
        )
    };
    "[[rule]]\nsubjects = ['everyone']\nrepositories = ['**']\n\
     actions = ['pull', 'push', 'list']\n"
        .to_owned()
        + &(0..20).map(rule).collect::<String>()
}

#[tokio::test]
async fn fixed_decisions_for_many_repositories_leave_turns_to_others() {
    let registry = Registry::with_policy(&conditioned_rules()).await;
    let scopes: Vec<String> = (0..64).map(|i| format!("repository:r{i}:pull,push")).collect();
    let (token, turns) = Box::pin(turns_during(registry.token(None, &scopes.join(" ")))).await;
    assert_eq!(claims_of(&token.unwrap())["access"].as_array().unwrap().len(), 64);
    assert!(turns >= 64, "{turns}");
    let index = registry.send("GET", MANIFEST, None).await.body;
    let app = App::build(Settings::default(), Arc::clone(&registry.store)).await.unwrap();
    for number in 0..64 {
        let target = format!("/v2/r{number}/manifests/latest");
        let request = Request::builder().method("PUT").uri(target).header("Host", "test");
        let pushed = send(&app, request.body(Body::from(index.clone())).unwrap()).await;
        assert_eq!(pushed.status, 201);
    }
    let (catalog, turns) = Box::pin(turns_during(registry.send("GET", "/v2/_catalog", None))).await;
    assert_eq!(catalog.json()["repositories"].as_array().unwrap().len(), 64 + 3);
    assert!(turns >= 8, "{turns}");
}

/// A shared cache must not serve private content to other clients.
#[tokio::test]
async fn c22_responses_are_private_where_rights_apply() {
    let registry = without_policy().await;
    for (target, control) in [
        (MANIFEST, "private, no-cache"),
        ("/v2/open/app/tags/list", "private, no-cache"),
        ("/v2/open/app/manifests/none", "private, no-cache"),
        ("/token?scope=repository:open/app:pull", "no-store"),
    ] {
        let response = registry.send("GET", target, Some(&alice())).await;
        assert_eq!(response.headers["cache-control"], control, "{target}");
    }
    let digest = super::guarded::hash_of(b"x");
    let blob = format!("/v2/open/app/blobs/{digest}");
    let response = registry.send("GET", &blob, Some(&alice())).await;
    assert_eq!(response.headers["cache-control"], "private, max-age=31536000, immutable");
    let open = App::build(Settings::default(), Arc::clone(&registry.store)).await.unwrap();
    let request = Request::get(&blob).header("Host", "test").body(Body::empty()).unwrap();
    let response = send(&open, request).await;
    assert_eq!(response.headers["cache-control"], "max-age=31536000, immutable");
}
