//! Logins with a password in a browser, sessions, and tokens that are made in them.

use std::sync::Arc;
use std::time::Duration;

use jreg_access::{
    PASSWORD_SESSION_MAX, SESSION_LIFETIME, SESSION_RENEWED_AFTER, SessionStore, TRUST_MAX,
};
use jreg_config::Settings;

use super::browser::{Browser, ORIGIN, location};
use super::guarded::{Registry, basic, bearer, token_target};

const MANIFEST: &str = "/v2/open/app/manifests/latest";
const SECOND: Duration = Duration::from_secs(1);

fn settings(settings: &mut Settings) {
    settings.public_url = Some(jreg_config::Value::parse(ORIGIN).unwrap());
}

/// With the user alice, and bob, who administers.
async fn registry() -> Registry {
    let registry = Registry::with(None, |all| {
        settings(all);
        all.admins = vec!["bob".to_owned()];
    });
    let registry = Box::pin(registry).await;
    let hash = |password| bcrypt::hash(password, 4).unwrap();
    registry.write("users", &format!("alice:{}\nbob:{}\n", hash("secret"), hash("other")));
    registry
}

async fn logged_in<'r>(registry: &'r Registry, user: &str, password: &str) -> Browser<'r> {
    let mut browser = Browser::new(registry);
    let response = browser.log_in(user, password).await;
    assert_eq!(location(&response), "/ui/");
    assert_eq!(browser.identity().await.as_deref(), Some(user));
    browser
}

#[tokio::test]
async fn a_password_begins_a_session_that_all_instances_accept() {
    let registry = registry().await;
    let mut browser = Browser::new(&registry);
    assert_eq!(browser.identity().await, None);
    let page = browser.get("/ui/-/login?next=/ui/open/app").await;
    assert!(page.text().contains("autocomplete=\"current-password\""));
    let form = [("user", "alice"), ("password", "secret"), ("next", "/ui/open/app")];
    let response = browser.post("/ui/-/login", &form).await;
    assert_eq!(location(&response), "/ui/open/app");
    assert_eq!(browser.cookies.keys().collect::<Vec<_>>(), ["__Host-jreg"]);
    assert!(browser.session().unwrap().len() < 1024);
    for instance in 0..3 {
        let mut browser = browser.clone().at(instance);
        assert_eq!(browser.identity().await.as_deref(), Some("alice"));
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_without_saying_what_is_wrong() {
    let registry = registry().await;
    let mut pages = Vec::new();
    for (user, password) in [("alice", "wrong"), ("nobody", "secret"), ("", ""), ("a:b", "x")] {
        let mut browser = Browser::new(&registry);
        let page = browser.log_in(user, password).await;
        assert_eq!(page.status, 403, "{user}");
        assert!(page.text().contains("The user name or the password is wrong."), "{user}");
        assert_eq!(browser.session(), None);
        let token = &browser.token;
        pages.push(page.text().replace(token, "").replace(&format!("value=\"{user}\""), ""));
    }
    assert_eq!(pages[0], pages[1]);
    // What is a password of the API only.
    for password in [&registry.access_token, &registry.workload] {
        let mut browser = Browser::new(&registry);
        assert_eq!(browser.log_in("alice", password).await.status, 403);
    }
}

#[tokio::test]
async fn guesses_are_throttled_together_with_those_at_the_api() {
    let registry = registry().await;
    for attempt in 0..3 {
        let mut browser = Browser::new(&registry);
        assert_eq!(browser.log_in("alice", &format!("wrong {attempt}")).await.status, 403);
    }
    for attempt in 3..6 {
        let guess = basic("alice", &format!("wrong {attempt}"));
        registry.send_from("127.0.0.1", "/v2/", Some(&guess)).await;
    }
    let mut browser = Browser::new(&registry);
    let page = browser.log_in("alice", "secret").await;
    assert_eq!(page.status, 429);
    assert!(page.headers.contains_key("retry-after"));
    assert_eq!(browser.session(), None);
    browser.peer = "192.0.2.1:1";
    assert_eq!(
        browser.log_in("alice", "secret").await.status,
        303,
        "elsewhere she is not locked out"
    );
}

#[tokio::test]
async fn a_session_ends_when_it_is_not_used_and_is_renewed_when_it_is() {
    let registry = registry().await;
    let mut browser = logged_in(&registry, "alice", "secret").await;
    let first = browser.session().unwrap().clone();
    registry.clock.advance(SESSION_RENEWED_AFTER - SECOND);
    browser.identity().await;
    assert_eq!(browser.session(), Some(&first));
    registry.clock.advance(SECOND);
    assert_eq!(browser.identity().await.as_deref(), Some("alice"));
    assert_ne!(browser.session(), Some(&first), "renewed");
    let mut idle = browser.clone();
    let mut used = PASSWORD_SESSION_MAX - SESSION_RENEWED_AFTER;
    while used > SESSION_RENEWED_AFTER {
        registry.clock.advance(SESSION_RENEWED_AFTER);
        used -= SESSION_RENEWED_AFTER;
        assert_eq!(browser.identity().await.as_deref(), Some("alice"));
    }
    registry.clock.advance(used);
    assert_eq!(browser.identity().await, None, "after twelve hours");
    assert_eq!(browser.session(), None, "the cookie is removed");
    assert_eq!(idle.identity().await, None);
    let mut browser = logged_in(&registry, "alice", "secret").await;
    registry.clock.advance(SESSION_LIFETIME);
    assert_eq!(browser.identity().await, None, "after a quarter of an hour");
}

#[tokio::test]
async fn a_changed_password_and_a_removed_user_end_their_sessions_at_once() {
    let registry = registry().await;
    let mut alice = logged_in(&registry, "alice", "secret").await;
    let mut bob = logged_in(&registry, "bob", "other").await.at(2);
    registry.write("users", &format!("alice:{}\n", bcrypt::hash("new", 4).unwrap()));
    assert_eq!(alice.identity().await, None);
    assert_eq!(bob.identity().await, None);
}

#[tokio::test]
async fn a_logout_ends_all_sessions_of_the_identity_everywhere_within_a_minute() {
    let registry = registry().await;
    let mut here = logged_in(&registry, "alice", "secret").await;
    let mut there = logged_in(&registry, "alice", "secret").await.at(1);
    let mut bob = logged_in(&registry, "bob", "other").await.at(1);
    assert_eq!(there.identity().await.as_deref(), Some("alice"));
    let stolen = here.clone();
    assert_eq!(location(&here.post("/ui/-/logout", &[]).await), "/ui/");
    assert_eq!(here.session(), None);
    assert_eq!(stolen.clone().identity().await, None, "at once, where it was done");
    assert_eq!(stolen.clone().at(2).identity().await, None, "nothing was known of it");
    registry.clock.advance(TRUST_MAX);
    assert_eq!(there.identity().await, None);
    assert_eq!(bob.identity().await.as_deref(), Some("bob"));
    let mut again = logged_in(&registry, "alice", "secret").await.at(1);
    assert_eq!(again.identity().await.as_deref(), Some("alice"));
}

/// What `jreg session revoke` does, with clocks that differ.
#[tokio::test]
async fn sessions_are_revoked_and_the_next_login_works_at_once() {
    let registry = registry().await;
    let mut browser = logged_in(&registry, "alice", "secret").await;
    let sessions = SessionStore::new(Arc::clone(&registry.store), registry.clock.clone());
    let now = jreg_auth::milliseconds(jreg_storage::Clock::now(&*registry.clock));
    sessions.end("alice", now + 30_000).await.unwrap();
    registry.clock.advance(TRUST_MAX / 4);
    let mut other = Browser::new(&registry);
    other.log_in("alice", "secret").await;
    assert_eq!(other.identity().await.as_deref(), Some("alice"), "a clock that is behind");
    assert_eq!(browser.identity().await, None, "the login read that the others are over");
}

/// An instance whose clock is far ahead ended the sessions of an identity: its next sessions last as long
/// as others.
#[tokio::test]
async fn a_session_lasts_no_longer_because_a_clock_was_wrong() {
    let registry = registry().await;
    let sessions = SessionStore::new(Arc::clone(&registry.store), registry.clock.clone());
    sessions.end("alice", 4_000_000_000_000).await.unwrap();
    let mut browser = logged_in(&registry, "alice", "secret").await;
    let mut used = PASSWORD_SESSION_MAX;
    while used > SESSION_RENEWED_AFTER {
        registry.clock.advance(SESSION_RENEWED_AFTER);
        used -= SESSION_RENEWED_AFTER;
        assert_eq!(browser.identity().await.as_deref(), Some("alice"));
    }
    registry.clock.advance(used);
    assert_eq!(browser.identity().await, None);
}

#[tokio::test]
async fn a_session_that_cannot_be_verified_is_not_trusted() {
    let registry = registry().await;
    let browser = logged_in(&registry, "alice", "secret").await;
    let key = jreg_registry::session_key("alice");
    let mode = jreg_storage::PutMode::Overwrite;
    registry.store.put(&key, "{\"not_before\":0}".into(), mode).await.unwrap();
    registry.clock.advance(TRUST_MAX);
    let page = browser.clone().get("/ui/-/account").await;
    assert_eq!(page.status, 503, "a record that is damaged may have ended it");
    assert!(!page.text().contains("sessions"), "{}", page.text());
    for forged in ["", "x", "a.b.c", "eyJhbGciOiJub25lIn0.e30.", &"x".repeat(9000)] {
        let mut browser = browser.clone();
        browser.cookies.insert("__Host-jreg".to_owned(), forged.to_owned());
        assert_eq!(browser.identity().await, None, "{forged:.20}");
    }
    let mut changed = browser.session().unwrap().clone();
    changed.insert(changed.len() / 2, 'A');
    let mut browser = browser.clone();
    browser.cookies.insert("__Host-jreg".to_owned(), changed);
    assert_eq!(browser.identity().await, None);
}

#[tokio::test]
async fn a_session_is_no_credential_of_the_api_and_the_other_way_round() {
    let registry = registry().await;
    let browser = logged_in(&registry, "alice", "secret").await;
    let cookie = browser.session().unwrap().clone();
    for header in [bearer(&cookie), basic("alice", &cookie), basic("", &cookie)] {
        for target in ["/v2/", MANIFEST, &token_target("repository:open/app:pull")] {
            assert_eq!(registry.send("GET", target, Some(&header)).await.status, 401, "{target}");
        }
    }
    for target in ["/v2/", MANIFEST, "/v2/_catalog", &token_target("repository:open/app:pull")] {
        let request = http::Request::get(target).header("Host", "registry.example");
        let request = request.header("Cookie", format!("__Host-jreg={cookie}"));
        let request = request.extension(jreg_net::server::Secured { certificate: None });
        let request = request.body(jreg_net::server::Body::empty()).unwrap();
        let response = super::guarded::send(&registry.apps[0], request).await;
        assert_eq!(response.status, 401, "{target} ignores the cookie");
        assert!(!response.headers.contains_key("set-cookie"));
    }
    let token =
        registry.token(Some(&basic("alice", "secret")), "registry:catalog:*").await.unwrap();
    for header in [basic("alice", "secret"), bearer(&token), basic("x", &registry.access_token)] {
        let mut browser = Browser::new(&registry);
        browser.headers.push(("Authorization", header));
        assert_eq!(browser.identity().await, None, "pages ignore the header");
        browser.cookies.insert("__Host-jreg".to_owned(), token.clone());
        assert_eq!(browser.identity().await, None, "a token is no session");
    }
}

/// Everything that a page of another origin can make a browser send.
#[tokio::test]
async fn forms_of_other_origins_do_nothing() {
    let registry = registry().await;
    let mut fresh = Browser::new(&registry);
    fresh.get("/ui/-/login").await;
    let login = [("user", "alice"), ("password", "secret")];
    let alice = logged_in(&registry, "alice", "secret").await;
    let bob = logged_in(&registry, "bob", "other").await;
    let token = [("name", "ci"), ("allow", "pull:**"), ("days", "1")];
    type Form<'a> = (&'a Browser<'a>, &'a str, &'a [(&'a str, &'a str)]);
    let forms: [Form<'_>; 4] = [
        (&fresh, "/ui/-/login", &login),
        (&alice, "/ui/-/account", &[("hours", "1")]),
        (&bob, "/ui/-/admin", &token),
        // It ends all sessions of alice.
        (&alice, "/ui/-/logout", &[]),
    ];
    for (browser, target, fields) in forms {
        let good = browser.token.clone();
        let other = if target == "/ui/-/login" { &alice.token } else { &fresh.token };
        for (token, origin) in [
            (&*good, None),
            (&good, Some("null")),
            (&good, Some("https://evil.example")),
            (&good, Some("http://registry.example")),
            (&good, Some("https://registry.example:8443")),
            (&good, Some("https://registry.example.evil.example")),
            ("", Some(ORIGIN)),
            ("0", Some(ORIGIN)),
            (other, Some(ORIGIN)),
        ] {
            let mut browser = browser.clone();
            let before = browser.session().cloned();
            let response = browser.post_with(target, fields, token, origin).await;
            assert_eq!(response.status, 403, "{target} {origin:?} {token}");
            assert_eq!(browser.session(), before.as_ref(), "{target}");
        }
        let mut cross = browser.clone();
        cross.headers.push(("Sec-Fetch-Site", "cross-site".to_owned()));
        assert_eq!(cross.post(target, fields).await.status, 403, "{target}");
        let mut get = browser.clone();
        let response = get.get(&format!("{target}?token={good}&user=alice&password=secret")).await;
        assert_eq!(get.session(), browser.session(), "{target}: GET changes nothing");
        assert!(response.status != 303 || target != "/ui/-/logout", "{target}");
        let mut browser = browser.clone();
        let status = browser.post(target, fields).await.status;
        assert!(status == 200 || status == 303, "{target}: {status}");
    }
}

#[tokio::test]
async fn a_login_takes_nothing_over_from_before_it() {
    let registry = registry().await;
    let mut victim = Browser::new(&registry);
    victim.get("/ui/-/login").await;
    // What an attacker planted, and knows.
    let planted = victim.clone();
    let mut attacker = logged_in(&registry, "bob", "other").await;
    victim.cookies.insert("__Host-jreg".to_owned(), attacker.session().unwrap().clone());
    victim.log_in("alice", "secret").await;
    assert_eq!(victim.identity().await.as_deref(), Some("alice"));
    assert_ne!(victim.session(), attacker.session());
    assert_ne!(victim.token, planted.token);
    assert_eq!(attacker.identity().await.as_deref(), Some("bob"));
    let token = planted.token.clone();
    let refused = victim.post_with("/ui/-/account", &[], &token, Some(ORIGIN)).await;
    assert_eq!(refused.status, 403, "the token of the form before the login");
    let (one, two) = (
        logged_in(&registry, "alice", "secret").await,
        logged_in(&registry, "alice", "secret").await,
    );
    assert_ne!(one.session(), two.session());
    assert_ne!(one.token, two.token);
    // Two cookies of the name: which of them is the browser's own is not known.
    let mut tossed = one.clone();
    tossed.headers.push(("Cookie", format!("__Host-jreg={}", two.session().unwrap())));
    assert_eq!(tossed.identity().await, None);
}

#[tokio::test]
async fn a_login_returns_to_pages_of_this_registry_only() {
    let registry = registry().await;
    for next in [
        "https://evil.example/",
        "//evil.example/ui/",
        "/\\evil.example",
        "/ui/../v2/",
        "/ui/..//evil.example",
        "/ui/%2e%2e//evil.example",
        "/v2/",
        "javascript:alert(1)",
        "/ui/\r\nSet-Cookie: x=y",
        "",
    ] {
        let mut browser = Browser::new(&registry);
        let encoded: String = form_urlencoded::byte_serialize(next.as_bytes()).collect();
        let page = browser.get(&format!("/ui/-/login?next={encoded}")).await;
        assert!(page.text().contains("name=\"next\" value=\"/ui/\""), "{next}");
        let form = [("user", "alice"), ("password", "secret"), ("next", next)];
        assert_eq!(location(&browser.post("/ui/-/login", &form).await), "/ui/", "{next}");
    }
}

#[tokio::test]
async fn a_login_needs_tls_except_on_the_machine_itself() {
    let open = Registry::with(None, |all| all.listen = "0.0.0.0:5000".parse().unwrap()).await;
    let here = Registry::with(None, |_| {}).await;
    for (registry, origin, peer) in [
        (&open, "http://registry.example", "192.0.2.1:1"),
        (&open, "http://localhost:5000", "127.0.0.1:1"),
        (&here, "http://registry.example", "127.0.0.1:1"),
        (&here, "http://localhost.evil.example:5000", "127.0.0.1:1"),
        (&here, "http://localhost:5000", "192.0.2.1:1"),
    ] {
        let mut browser = Browser::new(registry);
        (browser.origin, browser.peer) = (origin.to_owned(), peer);
        let page = browser.get("/ui/-/login").await.text();
        assert!(
            page.contains("A login needs TLS") && !page.contains("type=\"password\""),
            "{origin}"
        );
        let form = [("user", "alice"), ("password", "secret")];
        let response = browser.post("/ui/-/login", &form).await;
        assert_eq!(response.status, 403, "{origin}");
        assert!(browser.cookies.keys().all(|name| name.contains("form")), "{origin}");
    }
    let mut browser = Browser::new(&here);
    browser.origin = "http://localhost:5000".to_owned();
    assert_eq!(browser.log_in("alice", "secret").await.status, 303);
    assert!(browser.cookies.contains_key("jreg-5000"));
    assert_eq!(browser.identity().await.as_deref(), Some("alice"));
    let other = browser.cookies.clone();
    browser.origin = "http://localhost:5001".to_owned();
    browser.cookies = other;
    assert_eq!(browser.identity().await, None, "the cookie of another port");
}

#[tokio::test]
async fn a_token_for_docker_login_acts_as_the_identity_until_the_logout() {
    let registry = registry().await;
    let mut browser = logged_in(&registry, "alice", "secret").await;
    let page = browser.post("/ui/-/account", &[("hours", "8")]).await.text();
    let token = page.split("<code tabindex=\"0\">").nth(1).unwrap().split('<').next().unwrap();
    let login = basic("login", token);
    assert!(page.contains("docker login registry.example -u login"));
    for header in [&login, &bearer(token)] {
        for instance in 0..3 {
            assert_eq!(registry.send_to(instance, "GET", MANIFEST, Some(header)).await.status, 200);
        }
    }
    let response = registry
        .send(
            "GET",
            "/token?service=jreg&scope=repository:open/app:pull&offline_token=true",
            Some(&login),
        )
        .await;
    let body = response.json();
    assert!(body["refresh_token"].is_null(), "it would last longer than the login");
    let exchanged = bearer(body["token"].as_str().unwrap());
    assert_eq!(registry.send("GET", MANIFEST, Some(&exchanged)).await.status, 200);
    let mut planted = Browser::new(&registry);
    planted.cookies.insert("__Host-jreg".to_owned(), token.to_owned());
    assert_eq!(planted.identity().await, None, "it is no cookie");
    browser.post("/ui/-/logout", &[]).await;
    for header in [&login, &exchanged] {
        let status = registry.send("GET", MANIFEST, Some(header)).await.status;
        assert_eq!(status, 401, "at once, where it was done");
    }
    registry.clock.advance(TRUST_MAX);
    for header in [&login, &exchanged] {
        for instance in 0..3 {
            let status = registry.send_to(instance, "GET", MANIFEST, Some(header)).await.status;
            assert_eq!(status, 401, "{instance}");
        }
    }
}

#[tokio::test]
async fn a_token_for_docker_login_ends_in_time_and_with_the_password() {
    let registry = registry().await;
    let mut browser = logged_in(&registry, "alice", "secret").await;
    let mut token = async |hours: &str| {
        let page = browser.post("/ui/-/account", &[("hours", hours)]).await.text();
        let code = page.split("<code tabindex=\"0\">").nth(1).unwrap().split('<').next().unwrap();
        basic("login", code)
    };
    let hour = token("1").await;
    let longest = token("9999").await;
    let password = token("24").await;
    let status = async |header: &str| registry.send("GET", MANIFEST, Some(header)).await.status;
    registry.clock.advance(3600 * SECOND - SECOND);
    assert_eq!(status(&hour).await, 200);
    registry.clock.advance(SECOND);
    assert_eq!(status(&hour).await, 401);
    registry.clock.advance(23 * 3600 * SECOND - SECOND);
    assert_eq!(status(&longest).await, 200);
    registry.clock.advance(SECOND);
    assert_eq!(status(&longest).await, 401, "a day at the most");
    assert_eq!(status(&password).await, 401);
    let mut browser = logged_in(&registry, "alice", "secret").await;
    let page = browser.post("/ui/-/account", &[]).await.text();
    let code = page.split("<code tabindex=\"0\">").nth(1).unwrap().split('<').next().unwrap();
    let header = basic("login", code);
    assert_eq!(status(&header).await, 200);
    registry.write("users", &format!("alice:{}\n", bcrypt::hash("new", 4).unwrap()));
    assert_eq!(status(&header).await, 401);
}

const ADMIN_PAGES: [&str; 3] = [
    "/ui/-/admin",
    "/ui/-/admin/policy",
    "/ui/-/admin/policy?test=1&identity=alice&action=push&repository=team/app&tag=v1",
];

/// Pages for administrators, for each kind of person.
#[tokio::test]
async fn pages_for_administrators_need_the_action_admin() {
    let registry = registry().await;
    let alice = logged_in(&registry, "alice", "secret").await;
    let bob = logged_in(&registry, "bob", "other").await;
    for target in ADMIN_PAGES {
        assert_eq!(Browser::new(&registry).get(target).await.status, 403, "{target}");
        let page = alice.clone().get(target).await;
        assert_eq!(page.status, 403, "{target}");
        assert!(page.text().contains("alice may not administer the registry"), "{}", page.text());
        assert_eq!(bob.clone().get(target).await.status, 200, "{target}");
    }
    let create = [("name", "mine"), ("allow", "pull,push:**"), ("days", "0")];
    let id = "0123456789abcdef";
    for (target, fields) in [("/ui/-/admin", &create[..]), ("/ui/-/admin/revoke", &[("id", id)])] {
        assert_eq!(alice.clone().post(target, fields).await.status, 403, "{target}");
    }
    assert!(!bob.clone().get("/ui/-/admin").await.text().contains("mine"));
    let home = alice.clone().get("/ui/").await.text();
    assert!(!home.contains("/ui/-/admin"), "nothing leads there");
    assert!(bob.clone().get("/ui/").await.text().contains("/ui/-/admin"));
}

#[tokio::test]
async fn an_administrator_creates_lists_and_revokes_access_tokens() {
    let registry = registry().await;
    let mut bob = logged_in(&registry, "bob", "other").await;
    let create = [("name", "build"), ("allow", "pull:open/**\npush:x"), ("days", "30")];
    let page = bob.post("/ui/-/admin", &create).await;
    assert_eq!(page.status, 200);
    let page = page.text();
    let token = page.split("<code tabindex=\"0\">").nth(1).unwrap().split('<').next().unwrap();
    let header = basic("any", token);
    assert_eq!(registry.send_to(1, "GET", MANIFEST, Some(&header)).await.status, 200);
    let list = bob.get("/ui/-/admin").await.text();
    assert!(list.contains("build") && list.contains("pull:open/** push:x"), "{list}");
    assert!(!list.contains(token), "it is shown once");
    let id = token.split('_').nth(1).unwrap().to_owned();
    let response = bob.post("/ui/-/admin/revoke", &[("id", &id)]).await;
    assert_eq!(location(&response), "/ui/-/admin");
    assert!(bob.get("/ui/-/admin").await.text().contains("revoked"));
    let status = registry.send("GET", MANIFEST, Some(&header)).await.status;
    assert_eq!(status, 401, "at once, where it was done");
    registry.clock.advance(TRUST_MAX);
    assert_eq!(registry.send_to(1, "GET", MANIFEST, Some(&header)).await.status, 401);
    for (name, allow, error) in [
        ("", "pull:**", "the name of an access token"),
        ("a b", "pull:**", "the name of an access token"),
        ("a", "", "1 to 64 permissions"),
        ("a", "admin:**", "none of pull, push, delete"),
        ("a", "pull", "must be ACTIONS:REPOSITORIES"),
        ("a", "pull:<script>", "invalid repository pattern"),
    ] {
        let page = bob.post("/ui/-/admin", &[("name", name), ("allow", allow)]).await.text();
        assert!(page.contains(error) && !page.contains("<script>"), "{name} {allow}: {page}");
    }
    for id in ["", "x", "0000000000000000"] {
        assert_eq!(bob.post("/ui/-/admin/revoke", &[("id", id)]).await.status, 404, "{id}");
    }
}

#[tokio::test]
async fn the_policy_is_tested_with_the_rule_that_decides() {
    let registry = registry().await;
    let mut bob = logged_in(&registry, "bob", "other").await;
    for (query, parts) in [
        (
            "identity=alice&action=push&repository=team/app&tag=v1",
            &["allowed", "no policy file"][..],
        ),
        ("identity=alice&action=admin", &["denied", "no rule allows it"]),
        ("identity=bob&action=admin", &["allowed", ">admins<"]),
        ("action=pull&repository=team/app", &["denied", "no rule allows it"]),
        ("identity=alice", &["mount", "delete"]),
        ("identity=alice&repository=TEAM", &["is no repository"]),
        ("address=x", &["is no address"]),
        ("action=%3Cscript%3E", &["is no action"]),
        ("claims=%3Cscript%3E", &["must be NAME=VALUE"]),
    ] {
        let page = bob.get(&format!("/ui/-/admin/policy?test=1&{query}")).await.text();
        assert!(parts.iter().all(|part| page.contains(part)), "{query}: {page}");
        assert!(!page.contains("<script>"), "{query}");
    }
}

/// Store requests of a login, of pages with a session, and of what is done in them.
#[tokio::test]
async fn a_session_costs_a_read_a_minute() {
    let registry = registry().await;
    let costs = || registry.recorded.take().into_iter().map(|call| call.operation.to_string());
    let costs = || costs().collect::<Vec<_>>();
    let mut browser = Browser::new(&registry);
    browser.get("/ui/-/login").await;
    costs();
    browser.post("/ui/-/login", &[("user", "bob"), ("password", "other")]).await;
    assert_eq!(costs(), ["get"], "whether sessions were ended");
    for _ in 0..3 {
        browser.identity().await;
    }
    assert_eq!(costs(), [""; 0], "the login has read it");
    browser.instance = 1;
    for _ in 0..3 {
        browser.identity().await;
    }
    assert_eq!(costs(), ["get"]);
    registry.clock.advance(TRUST_MAX);
    browser.identity().await;
    browser.post("/ui/-/account", &[]).await;
    assert_eq!(costs(), ["get"]);
    let mut guest = Browser::new(&registry);
    guest.cookies.insert("__Host-jreg".to_owned(), "a.b.c".to_owned());
    guest.log_in("alice", "wrong").await;
    assert_eq!(costs(), [""; 0], "what is no session costs nothing");
    let create = [("name", "build"), ("allow", "pull:open/**")];
    browser.post("/ui/-/admin", &create).await;
    assert_eq!(costs(), ["put", "list", "get", "get", "get"], "a write, and the list of three");
    browser.post("/ui/-/logout", &[]).await;
    assert_eq!(costs(), ["get", "put"]);
}
