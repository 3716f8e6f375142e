//! Login throttling.

use std::time::Duration;

use super::guarded::{Registry, basic, bearer};

const MANIFEST: &str = "/v2/open/app/manifests/latest";
const FREE: usize = 5;

async fn guess(registry: &Registry, from: &str, times: usize) {
    for number in 0..times {
        let header = basic("alice", &format!("guess {number}"));
        let response = registry.send_from(from, MANIFEST, Some(&header)).await;
        assert_eq!(response.status, 401, "{number}");
    }
}

async fn status(registry: &Registry, from: &str, header: &str) -> u16 {
    registry.send_from(from, MANIFEST, Some(header)).await.status.as_u16()
}

#[tokio::test]
async fn guesses_are_told_to_wait_and_the_right_password_elsewhere_is_not() {
    let registry = Registry::with(None, |_| {}).await;
    let alice = basic("alice", "secret");
    // Cached credentials must not reveal that a password is correct.
    assert_eq!(status(&registry, "10.0.0.1", &alice).await, 200);
    guess(&registry, "10.0.0.1", FREE).await;
    for (target, header) in [
        (MANIFEST, basic("alice", "another guess")),
        (MANIFEST, alice.clone()),
        ("/v2/", alice.clone()),
        ("/token?scope=repository:open/app:pull", alice.clone()),
    ] {
        let response = registry.send_from("10.0.0.1", target, Some(&header)).await;
        assert_eq!(response.status, 429, "{target}");
        assert_eq!(response.headers["retry-after"], "1");
        assert_eq!(response.json()["errors"][0]["code"], "TOOMANYREQUESTS");
    }
    assert_eq!(
        status(&registry, "10.0.0.2", &alice).await,
        200,
        "other addresses are not throttled"
    );
    let access_token = bearer(&registry.access_token);
    assert_eq!(status(&registry, "10.0.0.1", &access_token).await, 200, "nor with a token here");
    let access_token = basic("alice", &registry.access_token);
    assert_eq!(status(&registry, "10.0.0.1", &access_token).await, 200, "in whatever name");
    registry.clock.advance(Duration::from_secs(1));
    assert_eq!(status(&registry, "10.0.0.1", &alice).await, 200);
}

#[tokio::test]
async fn the_right_password_forgives() {
    let registry = Registry::with(None, |_| {}).await;
    for _ in 0..3 {
        guess(&registry, "10.0.0.1", FREE - 1).await;
        // A login served from the cache is not verified and resets no count.
        registry.clock.advance(jreg_access::TRUST_MAX);
        assert_eq!(status(&registry, "10.0.0.1", &basic("alice", "secret")).await, 200);
    }
}

#[tokio::test]
async fn a_wide_address_counts_as_one() {
    let registry = Registry::with(None, |_| {}).await;
    for number in 0..FREE {
        let from = format!("2001:db8::{number:x}");
        let header = basic("alice", &format!("guess {number}"));
        assert_eq!(status(&registry, &from, &header).await, 401);
    }
    let alice = basic("alice", "secret");
    assert_eq!(status(&registry, "2001:db8::ffff", &alice).await, 429);
    assert_eq!(status(&registry, "2001:db8:0:1::1", &alice).await, 200);
}

/// Unknown and known names get the same response.
#[tokio::test]
async fn names_that_do_not_exist_have_to_wait_the_same() {
    let registry = Registry::with(None, |_| {}).await;
    let mut responses = Vec::new();
    for name in ["alice", "nobody"] {
        let mut statuses = Vec::new();
        for number in 0..FREE + 3 {
            let header = basic(name, &format!("guess {number}"));
            let response = registry.send_from("10.0.0.1", MANIFEST, Some(&header)).await;
            statuses.push((response.status, response.headers.get("retry-after").cloned()));
        }
        responses.push(statuses);
    }
    assert_eq!(responses[0], responses[1]);
}

#[tokio::test]
async fn it_can_be_switched_off_and_is_counted() {
    let registry = Registry::with(None, |settings| settings.login_failures_free = 0).await;
    guess(&registry, "10.0.0.1", FREE * 3).await;
    let registry = Registry::with(None, |_| {}).await;
    guess(&registry, "10.0.0.1", FREE).await;
    assert_eq!(status(&registry, "10.0.0.1", &basic("alice", "secret")).await, 429);
    let metrics = registry.send("GET", "/metrics", None).await.text();
    let line = r#"jreg_auth_attempts_total{kind="password",outcome="throttled"} 1"#;
    assert!(metrics.contains(line), "{metrics}");
}

/// One push with a stale password sends it many times.
#[tokio::test]
async fn c27_a_stale_password_counts_once_and_is_hashed_once() {
    let registry = Registry::with(None, |_| {}).await;
    let guard = registry.apps[0].guard().unwrap();
    let (stale, alice) = (basic("alice", "new"), basic("alice", "secret"));
    for _ in 0..FREE * 4 {
        assert_eq!(status(&registry, "10.0.0.1", &stale).await, 401);
    }
    assert_eq!(guard.compared(), 1);
    assert_eq!(status(&registry, "10.0.0.1", &alice).await, 200);
    let hash = bcrypt::hash("new", 4).unwrap();
    assert_eq!(status(&registry, "10.0.0.1", &stale).await, 401);
    registry.write("users", &format!("alice:{hash}\n"));
    assert_eq!(status(&registry, "10.0.0.1", &stale).await, 200, "it holds once it is right");
}
