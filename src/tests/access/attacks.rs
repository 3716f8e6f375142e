//! Attacks on authentication and authorization.

use std::sync::atomic::Ordering;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jreg_access::{JWKS_AGE_MAX, JWKS_OUTAGE_MAX, JWKS_RETRY_MIN};
use jreg_auth::{AccessToken, parse_permissions};
use jreg_config::Settings;
use jreg_storage::Clock;
use serde_json::{Value, json};

use super::guarded::{Registry, basic, bearer, claims, seconds};

const MANIFEST: &str = "/v2/open/app/manifests/latest";

fn rules() -> String {
    Registry::issuers()
        + "[[rule]]\nname = 'all'\nsubjects = ['user:alice', 'issuer:ci']\nrepositories = ['**']\n\
           actions = ['pull', 'push', 'delete', 'list']\n"
}

async fn registry() -> Registry {
    Registry::with_policy(&rules()).await
}

async fn status(registry: &Registry, header: &str) -> u16 {
    registry.send("GET", MANIFEST, Some(header)).await.status.as_u16()
}

#[tokio::test]
async fn malformed_credentials_are_401_and_never_more() {
    let registry = registry().await;
    let huge = basic("alice", &"x".repeat(1024 * 1024));
    for header in [
        "",
        "Basic",
        "Basic ",
        "Basic !",
        "Basic YWxpY2U=",
        "Basic YWxpY2U6c2VjcmV0AA==",
        "Basic YWxpY2UAOnNlY3JldA==",
        "Basic /w==",
        "Digest x",
        "Bearer",
        "Bearer ",
        "Bearer a b",
        "Bearer ..",
        "Bearer a.b.c",
        "Bearer jreg_x_y",
        &huge,
        // alice:wrong, alice:, :secret, ALICE:secret, "alice :secret"
        "Basic YWxpY2U6d3Jvbmc=",
        "Basic YWxpY2U6",
        "Basic OnNlY3JldA==",
        "Basic QUxJQ0U6c2VjcmV0",
        "Basic YWxpY2UgOnNlY3JldA==",
    ] {
        assert_eq!(status(&registry, header).await, 401, "{header:.40}");
        let token = registry.token(Some(header), "repository:open/app:pull").await;
        assert_eq!(token, Err(401), "{header:.40}");
    }
    assert_eq!(status(&registry, &basic("alice", "secret")).await, 200);
}

#[tokio::test]
async fn two_headers_are_none() {
    let registry = registry().await;
    let request = http::Request::builder().uri(MANIFEST).header("Host", "test");
    let request = request
        .header("Authorization", basic("alice", "secret"))
        .header("Authorization", basic("alice", "secret"));
    let request = request.body(jreg_net::server::Body::empty()).unwrap();
    let response = super::guarded::send(&registry.apps[0], request).await;
    assert_eq!(response.status, 401);
}

/// Counted, not timed: both compare one password with one hash of the same kind.
#[tokio::test]
async fn an_unknown_user_costs_what_a_known_one_does() {
    let registry = registry().await;
    let guard = registry.apps[0].guard().unwrap();
    let mut responses = Vec::new();
    for (count, user) in (1..).zip(["alice", "nobody", "", "ALICE"]) {
        let response = registry.send("GET", MANIFEST, Some(&basic(user, "wrong"))).await;
        assert_eq!(guard.compared(), count, "{user}");
        let mut body = response.json();
        body["errors"][0].as_object_mut().unwrap().remove("detail");
        responses.push((response.status, response.challenge().to_owned(), body));
    }
    responses.dedup();
    assert_eq!(responses.len(), 1, "all responses are the same: {responses:?}");
}

#[tokio::test]
async fn what_was_verified_is_not_hashed_again_for_a_minute() {
    let registry = registry().await;
    let guard = registry.apps[0].guard().unwrap();
    for _ in 0..5 {
        assert_eq!(status(&registry, &basic("alice", "secret")).await, 200);
    }
    assert_eq!(guard.compared(), 1);
    registry.clock.advance(jreg_access::TRUST_MAX);
    assert_eq!(status(&registry, &basic("alice", "secret")).await, 200);
    assert_eq!(guard.compared(), 2);
    let hash = bcrypt::hash("other", 4).unwrap();
    registry.write("users", &format!("alice:{hash}\n"));
    assert_eq!(status(&registry, &basic("alice", "secret")).await, 401, "at once");
    assert_eq!(status(&registry, &basic("alice", "other")).await, 200);
}

#[tokio::test]
async fn tokens_of_issuers_must_fit() {
    let registry = registry().await;
    let now = seconds(registry.clock.now());
    let sign = |name: &str, value: Value| {
        let mut claims = claims("ci", &*registry.clock, &json!({ "repository": "acme/app" }));
        claims[name] = value;
        registry.forge.sign(&claims)
    };
    for (token, due) in [
        (sign("x", json!(1)), 200),
        (sign("iss", json!("https://evil")), 401),
        (sign("iss", json!("jreg")), 401),
        (sign("aud", json!("them")), 401),
        (sign("exp", json!(now - 61)), 401),
        (sign("nbf", json!(now + 61)), 401),
        (sign("repository", json!("")), 401),
        (sign("big", json!("x".repeat(20_000))), 401),
    ] {
        assert_eq!(status(&registry, &bearer(&token)).await, due);
        assert_eq!(status(&registry, &basic("oidc", &token)).await, due, "as a password");
        let header = basic("oidc", &token);
        let exchanged = registry.token(Some(&header), "repository:open/app:pull").await;
        assert_eq!(exchanged.err().unwrap_or(200), due, "exchanged");
    }
}

#[tokio::test]
async fn a_token_with_another_header_is_none() {
    let registry = registry().await;
    let own = registry.token(Some(&basic("alice", "secret")), "repository:open/app:pull").await;
    for token in [own.unwrap(), registry.workload.clone()] {
        assert_eq!(status(&registry, &bearer(&token)).await, 200);
        let (head, rest) = token.split_once('.').unwrap();
        let head: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(head).unwrap()).unwrap();
        for (name, value) in [
            ("alg", "none"),
            ("alg", "None"),
            ("alg", "HS256"),
            ("alg", "RS256"),
            ("kid", "unknown"),
            ("kid", "../../../auth/keys"),
            ("kid", "k0\u{0}"),
            ("kid", ""),
        ] {
            let mut forged = head.clone();
            forged[name] = value.into();
            let forged = format!("{}.{rest}", URL_SAFE_NO_PAD.encode(forged.to_string()));
            assert_eq!(status(&registry, &bearer(&forged)).await, 401, "{name} {value}");
        }
        let unsigned = token.rsplit_once('.').unwrap().0;
        assert_eq!(status(&registry, &bearer(&format!("{unsigned}."))).await, 401);
    }
}

#[tokio::test]
async fn the_keys_of_an_issuer_rotate_and_outlive_its_outage() {
    let registry = registry().await;
    let token = || {
        let claims = claims("ci", &*registry.clock, &json!({ "repository": "acme/app" }));
        bearer(&registry.forge.sign(&claims))
    };
    let fetches = || registry.forge.fetches.load(Ordering::SeqCst);
    assert_eq!(status(&registry, &token()).await, 200);
    registry.forge.rotate();
    registry.clock.advance(JWKS_RETRY_MIN);
    assert_eq!(status(&registry, &token()).await, 200, "an unknown key is looked for");
    assert_eq!(fetches(), 2);
    *registry.forge.outage.lock().unwrap() = Some(503);
    registry.clock.advance(JWKS_AGE_MAX);
    assert_eq!(status(&registry, &token()).await, 200, "the old keys hold");
    assert_eq!(fetches(), 3);
    registry.forge.rotate();
    for _ in 0..10 {
        assert_eq!(status(&registry, &token()).await, 401, "an unknown key");
    }
    assert_eq!(fetches(), 3, "invented keys do not make it ask all the time");
    registry.clock.advance(JWKS_OUTAGE_MAX);
    assert_eq!(status(&registry, &token()).await, 503, "too long: it cannot be said");
    *registry.forge.outage.lock().unwrap() = None;
    registry.clock.advance(JWKS_RETRY_MIN);
    assert_eq!(status(&registry, &token()).await, 200);
}

/// Issuers also replace a key under its id, and some use none: such tokens were refused for an hour.
#[tokio::test]
async fn fixed_a_key_that_is_replaced_without_another_id_is_fetched() {
    let registry = registry().await;
    let token = || {
        let claims = claims("ci", &*registry.clock, &json!({ "repository": "acme/app" }));
        bearer(&registry.forge.sign(&claims))
    };
    let fetches = || registry.forge.fetches.load(Ordering::SeqCst);
    assert_eq!(status(&registry, &token()).await, 200);
    for (kid, expected) in [(Some("k0"), 2), (None, 3), (None, 4)] {
        registry.forge.rotate_to(kid);
        registry.clock.advance(JWKS_RETRY_MIN);
        assert_eq!(status(&registry, &token()).await, 200, "{kid:?}");
        assert_eq!(fetches(), expected, "{kid:?}");
    }
    let good = token();
    let (signed, _) = good.rsplit_once('.').unwrap();
    let forged = |n: u8| format!("{signed}.{}", URL_SAFE_NO_PAD.encode([n; 64]));
    for n in 0..10 {
        assert_eq!(status(&registry, &forged(n)).await, 401);
    }
    assert_eq!(fetches(), 4, "wrong signatures do not cause a fetch each");
    registry.clock.advance(JWKS_RETRY_MIN);
    let held = registry.forge.slow.write().await;
    let (one, other) = (forged(10), forged(11));
    let stalled = async { futures::join!(status(&registry, &one), status(&registry, &other)) };
    let others = async {
        tokio::task::yield_now().await;
        assert_eq!(fetches(), 5);
        assert_eq!(status(&registry, &token()).await, 200, "known keys do not wait");
        drop(held);
    };
    assert_eq!(futures::join!(stalled, others), ((401, 401), ()));
    assert_eq!(fetches(), 5, "one fetch for all");
    *registry.forge.outage.lock().unwrap() = Some(503);
    registry.clock.advance(JWKS_RETRY_MIN);
    assert_eq!(status(&registry, &forged(12)).await, 401, "not 503");
    assert_eq!(status(&registry, &token()).await, 200);
}

/// Tokens with invented key ids cause a fetch of the issuer's keys, which may be slow. Tokens whose
/// keys are cached do not wait for it.
#[tokio::test]
async fn fixed_invented_key_ids_do_not_stall_known_ones() {
    let registry = registry().await;
    let token = || {
        let claims = claims("ci", &*registry.clock, &json!({ "repository": "acme/app" }));
        bearer(&registry.forge.sign(&claims))
    };
    assert_eq!(status(&registry, &token()).await, 200);
    for age in [JWKS_RETRY_MIN, JWKS_AGE_MAX] {
        registry.clock.advance(age);
        let header = json!({ "alg": "ES256", "kid": "invented" }).to_string();
        let (token_of, fresh) = (token(), token());
        let rest = token_of.split_once('.').unwrap().1;
        let invented = format!("Bearer {}.{rest}", URL_SAFE_NO_PAD.encode(header));
        let held = registry.forge.slow.write().await;
        let before = registry.forge.fetches.load(Ordering::SeqCst);
        let stalled =
            async { futures::join!(status(&registry, &invented), status(&registry, &invented)) };
        let others = async {
            tokio::task::yield_now().await;
            assert_eq!(registry.forge.fetches.load(Ordering::SeqCst), before + 1);
            assert_eq!(status(&registry, &fresh).await, 200);
            drop(held);
        };
        let (stalled, ()) = futures::join!(stalled, others);
        assert_eq!(stalled, (401, 401));
        assert_eq!(registry.forge.fetches.load(Ordering::SeqCst), before + 1, "one fetch for all");
    }
}

/// A cancelled request (`RST_STREAM`) drops its future. The fetch that it started continues: otherwise an
/// anonymous client could cancel each fetch, and no request in the next ten seconds may start another.
#[tokio::test]
async fn fixed_cancelled_request_does_not_stop_the_fetch_of_keys() {
    let registry = registry().await;
    let fetches = || registry.forge.fetches.load(Ordering::SeqCst);
    let claims = claims("ci", &*registry.clock, &json!({ "repository": "acme/app" }));
    let token = bearer(&registry.forge.sign(&claims));
    let held = registry.forge.slow.write().await;
    {
        let mut cancelled = std::pin::pin!(status(&registry, &token));
        for _ in 0..1000 {
            assert!(futures::poll!(cancelled.as_mut()).is_pending());
            tokio::task::yield_now().await;
        }
        assert_eq!(fetches(), 1);
    }
    drop(held);
    assert_eq!(status(&registry, &token).await, 200);
    assert_eq!(fetches(), 1);
}

/// Each would cost a read of the store.
#[tokio::test]
async fn fixed_invented_access_tokens_have_to_wait() {
    let registry = registry().await;
    let known = bearer(&registry.access_token);
    let status = async |from: &str, header: &str| {
        registry.send_from(from, MANIFEST, Some(header)).await.status.as_u16()
    };
    assert_eq!(status("10.0.0.1", &known).await, 200);
    let mut made = Vec::new();
    for _ in 0..8 {
        let permissions = parse_permissions("pull:open/**").unwrap();
        let (token, _) = AccessToken::create("x", permissions, registry.clock.now(), None).unwrap();
        made.push(bearer(&token.reveal()));
    }
    let mut statuses = Vec::new();
    for token in &made {
        statuses.push(status("10.0.0.1", token).await);
    }
    assert_eq!(statuses, [401, 401, 401, 401, 401, 429, 429, 429]);
    assert_eq!(status("10.0.0.1", &made[0]).await, 401, "known to be absent");
    assert_eq!(status("10.0.0.1", &known).await, 200, "those that are remembered go on");
    assert_eq!(status("10.0.0.2", &made[7]).await, 401, "and other addresses");
    let alice = basic("alice", "secret");
    assert_eq!(status("10.0.0.1", &alice).await, 200, "and users");
    registry.clock.advance(Duration::from_secs(1));
    assert_eq!(status("10.0.0.1", &bearer(&registry.revoked)).await, 401);
}

/// A token obtained with a client certificate is valid only with that certificate, whatever the
/// policy says.
#[tokio::test]
async fn fixed_the_token_of_a_certificate_is_good_only_with_it() {
    for subject in [
        "authenticated",
        "group:builders",
        "user:certificate:builder",
        "certificate:cn=builder",
        "everyone",
    ] {
        let registry = Registry::with_policy(&format!(
            "[groups]\nbuilders = ['certificate:builder']\n[[rule]]\nsubjects = ['{subject}']\n\
             repositories = ['open/**']\nactions = ['pull']\n"
        ))
        .await;
        let target = super::guarded::token_target("repository:open/app:pull");
        let response = registry.send_as("builder", "GET", &target, None).await;
        let token = bearer(response.json()["token"].as_str().unwrap());
        let with = async |name: &str| {
            registry.send_as(name, "GET", MANIFEST, Some(&token)).await.status.as_u16()
        };
        assert_eq!(with("builder").await, 200, "{subject}");
        assert_eq!(with("other").await, 401, "{subject}");
        assert_eq!(status(&registry, &token).await, 401, "{subject}");
    }
}

/// The real JWKS client, on loopback: a redirect is not followed.
#[tokio::test]
async fn keys_come_from_where_the_policy_says_and_from_nowhere_else() {
    use jreg_access::{HttpJwksFetcher, JwksFetchError, JwksFetcher};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let serving = tokio::spawn(async move {
        let mut asked = Vec::new();
        for response in [
            "HTTP/1.1 302 Found\r\nLocation: http://169.254.169.254/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_owned(),
            format!("HTTP/1.1 301 Moved\r\nLocation: http://{address}/else\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"),
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n{}", "x".repeat(300 * 1024)),
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\n{}".to_owned(),
        ] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut head = vec![0; 4096];
            let read = stream.read(&mut head).await.unwrap();
            asked.push(String::from_utf8_lossy(&head[..read]).lines().next().unwrap().to_owned());
            // The client may have closed the connection.
            stream.write_all(response.as_bytes()).await.ok();
            stream.shutdown().await.ok();
        }
        asked
    });
    let fetch = HttpJwksFetcher::new().unwrap();
    let url = format!("http://{address}/keys");
    assert!(matches!(fetch.fetch(&url).await, Err(JwksFetchError::Status(302))));
    assert!(matches!(fetch.fetch(&url).await, Err(JwksFetchError::Status(301))));
    assert!(matches!(fetch.fetch(&url).await, Err(JwksFetchError::Jwks(_))), "too large");
    assert_eq!(fetch.fetch(&url).await.unwrap(), b"{}");
    assert_eq!(serving.await.unwrap(), vec!["GET /keys HTTP/1.1"; 4]);
}

/// A name reaches the policy only if it is valid, decoded once.
#[tokio::test]
async fn no_spelling_of_a_name_gets_around_a_rule() {
    let rules = "[[rule]]\nsubjects = ['everyone']\nrepositories = ['**']\nactions = ['pull']\n\
                 [[rule]]\neffect = 'deny'\nsubjects = ['everyone']\nrepositories = ['closed/**']\n\
                 actions = ['pull']\n";
    let registry = Registry::with_policy(rules).await;
    let header = basic("alice", "secret");
    for name in [
        "closed/app",
        "closed%2fapp",
        "closed%2Fapp",
        "%63losed/app",
        "open/../closed/app",
        "open/%2e%2e/closed/app",
        "Closed/app",
        "CLOSED/APP",
        "closed//app",
        "./closed/app",
        "closed/./app",
        "closed/app%00",
        "clo%C5%BFed/app",
        "%EF%BD%83losed/app",
        "closed%5Capp",
        "closed/app%20",
        "//closed/app",
        "%2563losed/app",
    ] {
        for path in [format!("/v2/{name}/manifests/latest"), format!("/v2/{name}/tags/list")] {
            let response = registry.send("GET", &path, Some(&header)).await;
            assert!([400, 404].contains(&response.status.as_u16()), "{path}: {}", response.status);
            assert!(!response.text().contains("schemaVersion"), "{path}");
        }
    }
    assert_eq!(registry.send("GET", MANIFEST, Some(&header)).await.status, 200);
    let blob = super::guarded::hash_of(b"x");
    for from in ["closed/app", "closed%2Fapp", "Closed/app", "open/..%2Fclosed/app"] {
        let target = format!("/v2/open/mine/blobs/uploads/?mount={blob}&from={from}");
        let response = registry.send("POST", &target, Some(&header)).await;
        assert_eq!(response.status, 403, "{from}: not even a push is allowed");
    }
}

/// The policy is reloaded under load: each request is decided by the old or the new one as a whole.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_change_during_requests() {
    let registry = std::sync::Arc::new(registry().await);
    let header = basic("alice", "secret");
    assert_eq!(status(&registry, &header).await, 200);
    let asking = {
        let registry = std::sync::Arc::clone(&registry);
        tokio::spawn(async move {
            let mut seen = std::collections::BTreeMap::<u16, usize>::new();
            for _ in 0..200 {
                *seen.entry(status(&registry, &header).await).or_default() += 1;
                tokio::task::yield_now().await;
            }
            seen
        })
    };
    for round in 0..20 {
        let closed = format!("# {round}\n");
        registry.write("policy.toml", if round % 2 == 0 { &closed } else { "not = 'a policy'" });
        registry.write("policy.toml", &format!("{}# {round}\n", rules()));
        tokio::task::yield_now().await;
    }
    let seen = asking.await.unwrap();
    assert!(seen.keys().all(|status| [200, 404].contains(status)), "{seen:?}");
    assert_eq!(status(&registry, &basic("alice", "secret")).await, 200);
}

#[tokio::test]
async fn rules_that_are_wrong_never_replace_those_that_were_right() {
    let registry = registry().await;
    let header = basic("alice", "secret");
    for wrong in ["x = 1", "[[rule]]", "not toml", "\u{0}"] {
        registry.write("policy.toml", wrong);
        assert_eq!(status(&registry, &header).await, 200, "{wrong}");
    }
    registry.write("users", "alice:plain\n");
    assert_eq!(status(&registry, &header).await, 200);
    let metrics = registry.send("GET", "/metrics", None).await.text();
    assert!(
        metrics.contains(r#"jreg_auth_reloads_total{file="policy",outcome="failed"} 4"#),
        "{metrics}"
    );
    assert!(metrics.contains(r#"jreg_auth_reloads_total{file="htpasswd",outcome="failed"} 1"#));
    registry.write("policy.toml", "");
    assert_eq!(status(&registry, &header).await, 404, "nothing is allowed any more");
    registry.clock.advance(Duration::from_secs(1));
}

/// A registry whose catalog lists `open/**` and `tail/**` for everyone, with many other
/// repositories.
async fn registry_with_hidden(hidden: usize, change: impl FnOnce(&mut Settings)) -> Registry {
    let rules = "[[rule]]\nsubjects = ['everyone']\nrepositories = ['open/**', 'tail/**']\n\
                 actions = ['pull', 'list']\n";
    let registry = Registry::with(Some(rules), change).await;
    for number in 0..hidden {
        let key = format!("catalog/private.secret{number:05}").parse().unwrap();
        let mark = format!(r#"{{"nonce":"{number:032}"}}"#).into();
        registry.store.put(&key, mark, jreg_storage::PutMode::Create).await.unwrap();
    }
    registry
}

/// However many repositories are hidden from a client, a catalog page examines a bounded number of
/// names. The next page begins at a hidden name, and its `Link` does not reveal it: another
/// instance can decrypt it.
#[tokio::test]
async fn no_cursor_of_the_catalog_names_what_may_not_be_seen() {
    const HIDDEN: usize = 2 * jreg_access::CATALOG_NAMES_EXAMINED_MAX + 10;
    for token_service in [true, false] {
        let registry = Box::pin(registry_with_hidden(HIDDEN, |settings| {
            settings.token_service = token_service;
        }))
        .await;
        let tail = "catalog/tail.app".parse().unwrap();
        let mark = r#"{"nonce":"0"}"#.into();
        registry.store.put(&tail, mark, jreg_storage::PutMode::Create).await.unwrap();
        let (mut target, mut names, mut cursor) = ("/v2/_catalog?n=1".to_owned(), vec![], None);
        for page in 0..10 {
            let response = registry.send_to(page % 3, "GET", &target, None).await;
            assert_eq!(response.status, 200, "{target}: {}", response.text());
            let listed = response.json()["repositories"].as_array().unwrap().clone();
            names.extend(listed.iter().map(|name| name.as_str().unwrap().to_owned()));
            let Some(link) = response.headers.get("link") else { break };
            let link = link.to_str().unwrap();
            assert!(!link.contains("private") && !link.contains("secret"), "{link}");
            target = link.trim_start_matches('<').split_once('>').unwrap().0.to_owned();
            cursor = cursor.or(listed.is_empty().then(|| target.clone()));
        }
        assert_eq!(names, ["open/app", "tail/app"]);
        // A cursor of another registry, or a modified one, is refused.
        let cursor = cursor.unwrap();
        let (start, sealed) = cursor.rsplit_once('.').unwrap();
        let changed = format!("{start}.{}", sealed.chars().rev().collect::<String>());
        assert_eq!(registry.send("GET", &changed, None).await.status, 400, "{changed}");
    }
}

/// An instance that read the keys before a rotation makes cursors that an instance with the newest
/// keys can decrypt, with and without the token service.
#[tokio::test]
async fn fixed_cursors_of_the_catalog_follow_the_rotation_of_keys() {
    const HOUR: Duration = Duration::from_secs(3600);
    for token_service in [true, false] {
        let hidden = jreg_access::CATALOG_NAMES_EXAMINED_MAX + 10;
        let registry = Box::pin(registry_with_hidden(hidden, |settings| {
            settings.token_service = token_service;
            (settings.refresh_lifetime, settings.key_rotation) = (HOUR, HOUR);
        }))
        .await;
        let next_page = async |instance: usize| {
            let page = registry.send_to(instance, "GET", "/v2/_catalog?last=open/app", None).await;
            let link = page.headers["link"].to_str().unwrap();
            link.trim_start_matches('<').split_once('>').unwrap().0.to_owned()
        };
        // Each instance reads the keys later than the one before it.
        for instance in 0..3 {
            next_page(instance).await;
            for _ in 0..4 {
                registry.clock.advance(HOUR);
                for app in &registry.apps[..=instance] {
                    app.guard().unwrap().refresh_keys().await;
                }
            }
        }
        for (encrypts, decrypts) in [(0, 1), (0, 2), (1, 2), (2, 0)] {
            let target = next_page(encrypts).await;
            let page = registry.send_to(decrypts, "GET", &target, None).await;
            assert_eq!(page.status, 200, "from {encrypts} to {decrypts}, {token_service}");
        }
    }
}
